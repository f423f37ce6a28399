"""A large job in shards, on one device or several: shards are written atomically, so a stopped job can be resumed."""

import json
import logging
import os
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from zipfile import BadZipFile

import cv2
import numpy as np
import torch
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from aelm.checkpoint import checkpoint_file
from aelm.data.decoding import decoding_error
from aelm.data.listing import first_few
from aelm.data.sources import Item
from aelm.embed.batches import Features, Positions, default_batch_size, devices, embedded
from aelm.embed.embedder import Embedder, Precision, load_embedder
from aelm.embed.folder import csv_bytes, embeddings_meta, relative, write_embeddings
from aelm.embed.tracks import PICTURES, pool, tracks_of
from aelm.files import digest, hold_folder, write_file
from aelm.types import InputError

log = logging.getLogger(__name__)

WORK, BAD = ".aelm-embedding", "bad.csv"  # hidden, so the shards are not mistaken for pictures or results


@dataclass(frozen=True)
class Shards:
    """How a job is split into shards, and where they are.

    Attributes:
        paths: All pictures.
        folder: Folder of the shards.
        batch_size: Pictures per batch; each shard starts a new batch, so its result does not depend on the run.
        rows: Pictures per shard, a multiple of ``batch_size``; the last one may be smaller.
    """

    paths: Sequence[str]
    folder: Path
    batch_size: int
    rows: int

    def __len__(self) -> int:
        return -(-len(self.paths) // self.rows)

    def file(self, number: int) -> Path:
        """Path of the finished shard ``number``."""
        return self.folder / f"{number:06}.npz"

    def span(self, number: int) -> range:
        """Indices of the paths in shard ``number``."""
        return range(number * self.rows, min((number + 1) * self.rows, len(self.paths)))

    def missing(self) -> list[int]:
        """The unfinished shards."""
        return [number for number in range(len(self)) if not self.file(number).is_file()]


def open_shards(
    paths: Sequence[str], output: Path, meta: Mapping[str, Any], batch_size: int, shard_size: int
) -> Shards:
    """The shards of a job, including finished ones of an earlier, stopped run of the same job.

    A job is identified by its model, its batches, and the names and sizes of its pictures, not by their location.
    Shards of another job are removed, with a log message.

    Raises:
        ValueError: If a size is below 1.
    """
    for name, value in (("batch_size", batch_size), ("shard_size", shard_size)):
        if value < 1:
            raise InputError(f"`{name}` must be at least 1, got {value}")
    shards = Shards(paths, output / WORK, batch_size, -(-shard_size // batch_size) * batch_size)
    whole = [os.path.abspath(path) for path in paths]
    home = len(os.path.commonpath([os.path.dirname(path) for path in whole])) if whole else 0
    model = {key: value for key, value in meta.get("model", {}).items() if key not in ("checkpoint", "name")}
    pictures = digest((path[home:], path) for path in whole)
    told = {"meta": {**meta, "model": model}, "pictures": pictures, "batch_size": batch_size, "rows": shards.rows}
    job = json.dumps(told, sort_keys=True).encode()
    described = shards.folder / "job.json"
    if shards.folder.is_dir() and not (described.is_file() and described.read_bytes() == job):
        log.info("%s was left by a job with other pictures, model, precision or batches: starting anew", shards.folder)
        shutil.rmtree(shards.folder)
    shards.folder.mkdir(parents=True, exist_ok=True)
    write_file(described, lambda file: file.write(job))
    done = len(shards) - len(shards.missing())
    if done:
        log.info("going on: %d of %d shards are done already", done, len(shards))
    return shards


def write_shard(shards: Shards, number: int, kept: Positions, features: Features) -> None:
    """Writes a shard: indices of its readable pictures, their embeddings, and the errors of the others."""
    span = shards.span(number)
    bad = np.setdiff1d(np.arange(len(span)), kept)
    reasons = [decoding_error(shards.paths[span[i]]) for i in bad]
    # Encoded, since errors contain file names, which may not be valid text.
    told = np.frombuffer(json.dumps(reasons).encode(), np.uint8)

    def save(file: BinaryIO) -> None:
        np.savez(file, kept=kept, features=features, bad=bad, reasons=told)

    write_file(shards.file(number), save)


class EmbedCounts(NamedTuple):
    """Number of embedded and of unreadable pictures."""

    embedded: int
    bad: int


def join_batches(
    shards: Shards, items: Sequence[Item], output: Path, meta: Mapping[str, Any], *, tracks: bool
) -> EmbedCounts:
    """Joins all shards into the result: features, items, meta, and the list of bad pictures; removes the shards.

    With ``tracks``, embeddings are pooled; those of single pictures are written to the subfolder ``track_pictures``.

    Raises:
        ValueError: If no picture could be read, or the tracks are invalid.
    """
    kept, bad = [], []
    for number in range(len(shards)):
        span = shards.span(number)
        part = _part(shards, number, "kept", "bad", "reasons")
        kept += [span[i] for i in part["kept"]]
        reasons = json.loads(part["reasons"].tobytes())
        bad += [(relative(shards.paths[span[i]], output), why) for i, why in zip(part["bad"], reasons, strict=True)]
    if not kept:
        shutil.rmtree(shards.folder)
        raise InputError(f"none of the {len(bad)} pictures can be read: {first_few([why for _, why in bad], most=3)}")
    named = [items[i]._replace(path=relative(items[i].path, output)) for i in kept]
    meta, parts = {**meta, "bad": len(bad)}, partial(_parts, shards)
    pooled = pool(named, parts) if tracks else None
    if pooled is None:
        write_embeddings(output, parts(), named, meta, shards.folder)
    else:
        home = output / PICTURES
        home.mkdir(exist_ok=True)
        beneath = [one._replace(path=one.path if os.path.isabs(one.path) else f"../{one.path}") for one in named]
        write_embeddings(home, parts(), beneath, meta, shards.folder)
        write_embeddings(output, [pooled.features], pooled.items, {**meta, "tracks": len(pooled.items)}, shards.folder)
        log.info("pooled into %d tracks; the single pictures' embeddings are in %s", len(pooled.items), home)
    if bad:
        write_file(output / BAD, lambda file: file.write(csv_bytes(["path", "reason"], bad)), shards.folder / BAD)
    else:
        (output / BAD).unlink(missing_ok=True)
    shutil.rmtree(shards.folder)
    return EmbedCounts(len(kept), len(bad))


def _parts(shards: Shards) -> Iterator[Features]:
    for number in range(len(shards)):
        yield _part(shards, number, "features")["features"]


def _part(shards: Shards, number: int, *names: str) -> dict[str, Any]:
    """Some arrays of a shard.

    Raises:
        ValueError: If its file is damaged.
    """
    try:
        with np.load(shards.file(number), allow_pickle=False) as part:
            return {name: part[name] for name in names}
    except (ValueError, EOFError, LookupError, BadZipFile, zlib.error) as error:
        raise InputError(
            f"{shards.file(number)}, which an earlier run left, is damaged ({error}). Remove this file and start the "
            "same job again: the other parts are kept"
        ) from error


LIBRARIES = ("aelm", "torch", "timm", "numpy")


class Settings(NamedTuple):
    """How a large job runs; except for ``precision``, settings change embeddings only by rounding errors.

    Attributes:
        device: ``auto`` is every CUDA device, else Apple's, else the CPU; or a name, or several.
        batch_size: Pictures per batch; None: 64 on a CPU, 256 on other devices.
        shard_size: Pictures between two points at which a stopped job can be resumed.
        workers: Worker processes that load pictures, per device; None: the default of the device.
        progress: Whether to show a progress bar with the speed.
        precision: See :class:`aelm.embed.embedder.Embedder`.
        size: See :func:`aelm.embed.embedder.load_embedder`.
        camera: Likewise.
        tracks: Whether to pool the pictures of a track into one row, if items have tracks.
    """

    device: str | tuple[str, ...] = "auto"
    batch_size: int | None = None
    shard_size: int = 8192
    workers: int | None = None
    progress: bool = True
    precision: Precision = "32"
    size: Sequence[int] | None = None
    camera: int | None = None
    tracks: bool = True


USUAL = Settings()


def embed_items(
    checkpoint: str, items: Sequence[Item], output: Path, settings: Settings = USUAL, allow: Sequence[str] = ()
) -> EmbedCounts:
    """Embeds pictures into ``output``: ``features.npy``, ``items.csv``, ``meta.json``, and ``bad.csv`` if needed.

    If an earlier run of the same job was stopped, it is resumed, shard by shard.

    Args:
        checkpoint: As for :func:`aelm.embed.embedder.load_embedder`.
        items: The pictures.
        output: The folder; results of earlier, finished runs are replaced at the end.
        settings: How it runs.
        allow: Dotted names, beyond aelm's own parts, that the checkpoint may build.

    Raises:
        RunError: If another process embeds into ``output``.
        ValueError: If no picture can be read, a setting is out of range, the model is invalid, or only some pictures
            have a track.
    """
    tracks = settings.tracks and any(item.track for item in items)
    if tracks:
        tracks_of(items)
    if settings.workers is not None and settings.workers < 0:
        raise InputError(f"`workers` must be 0 or more, or null; got {settings.workers}")
    places = devices(settings.device)
    batch_size = default_batch_size(places[0]) if settings.batch_size is None else settings.batch_size
    file = checkpoint_file(checkpoint)
    embedder = load(file, allow, settings)
    versions = {**{name: version(name) for name in LIBRARIES}, "opencv": cv2.__version__}
    meta = embeddings_meta(embedder, versions)
    with hold_folder(output):
        shards = open_shards([item.path for item in items], output, meta, batch_size, settings.shard_size)
        todo = shards.missing()
        if len(places) == 1 or len(todo) <= 1:
            embed_shards(embedder.to(places[0]), shards, todo, settings)
        else:
            start: Any = spawn  # torch does not annotate it
            start(_process, (places, str(file), tuple(allow), shards, todo, settings), nprocs=len(places))
        return join_batches(shards, items, output, meta, tracks=tracks)


def load(checkpoint: str | Path, allow: Sequence[str], settings: Settings) -> Embedder:
    """The embedder with the job's settings, on the CPU."""
    told = {key: getattr(settings, key) for key in ("precision", "size", "camera")}
    return load_embedder(checkpoint, allow, **told)


def _process(
    rank: int,
    places: Sequence[str],
    checkpoint: str,
    allow: Sequence[str],
    shards: Shards,
    todo: Sequence[int],
    settings: Settings,
) -> None:
    """One of several processes, with its own device and its share of the shards."""
    if places[rank].startswith("cpu"):
        torch.set_num_threads(max(1, torch.get_num_threads() // len(places)))
    embedder = load(checkpoint, allow, settings).to(places[rank])
    embed_shards(embedder, shards, todo[rank :: len(places)], settings, bar=rank, processes=len(places))


def embed_shards(
    embedder: Embedder,
    shards: Shards,
    numbers: Sequence[int],
    settings: Settings = USUAL,
    bar: int = 0,
    processes: int = 1,
) -> None:
    """Embeds and writes some of the shards, one after the other.

    Args:
        embedder: On the device to run on.
        shards: The job.
        numbers: Numbers of the shards.
        settings: Only ``workers`` and ``progress`` are used here.
        bar: Line of the progress bar, if several processes show one.
        processes: Processes on this machine that each embed a part, and share its cores.
    """
    wanted = [i for number in numbers for i in shards.span(number)]
    paths = [shards.paths[i] for i in wanted]
    batches = embedded(embedder, paths, shards.batch_size, workers=settings.workers, processes=processes)
    # Page-locked memory belongs to the current device: another device would be initialised only for this.
    current = torch.cuda.device(embedder.device) if embedder.device.type == "cuda" else nullcontext()
    progress = tqdm(total=len(wanted), unit=" pictures", disable=not settings.progress, position=bar, desc="embed")
    with current, progress as shown:
        first = 0  # index of the shard's first picture in `wanted`
        for number in numbers:
            span = shards.span(number)
            kept, features = [], []
            for begin in range(0, len(span), shards.batch_size):
                where, part = next(batches)
                kept.append(where - first)
                features.append(part)
                shown.update(min(shards.batch_size, len(span) - begin))
            first += len(span)
            write_shard(shards, number, np.concatenate(kept), np.concatenate(features))
