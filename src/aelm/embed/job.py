"""A large job in parts, on one device or several: each part written whole, so a stopped job goes on."""

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

WORK, BAD = ".aelm-embedding", "bad.csv"  # hidden, so that nobody takes the parts for pictures or results


@dataclass(frozen=True)
class Shards:
    """How a job is cut, and where its parts lie.

    Attributes:
        paths: All pictures.
        folder: Where the parts lie.
        batch_size: Pictures a batch; each shard starts with a new one, so a shard comes out the same at any time.
        rows: Pictures a shard, a multiple of ``batch_size``; the last one may be shorter.
    """

    paths: Sequence[str]
    folder: Path
    batch_size: int
    rows: int

    def __len__(self) -> int:
        return -(-len(self.paths) // self.rows)

    def file(self, number: int) -> Path:
        """Where shard ``number`` lies once it is done."""
        return self.folder / f"{number:06}.npz"

    def span(self, number: int) -> range:
        """Which of the paths belong to shard ``number``."""
        return range(number * self.rows, min((number + 1) * self.rows, len(self.paths)))

    def missing(self) -> list[int]:
        """The shards that are still to be done."""
        return [number for number in range(len(self)) if not self.file(number).is_file()]


def open_shards(
    paths: Sequence[str], output: Path, meta: Mapping[str, Any], batch_size: int, shard_size: int
) -> Shards:
    """The shards of a job, with those that an earlier, stopped run of the same job has left.

    A job is known by its model, its batches, and the names and sizes of its pictures, wherever all of it lies. What a
    run left of another job is removed, and said so.

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
    """Writes a shard: which of its pictures could be read, their embeddings, and what is wrong with the others."""
    span = shards.span(number)
    bad = np.setdiff1d(np.arange(len(span)), kept)
    reasons = [decoding_error(shards.paths[span[i]]) for i in bad]
    # Encoded, since a reason names a file, and file names need not be text.
    told = np.frombuffer(json.dumps(reasons).encode(), np.uint8)

    def save(file: BinaryIO) -> None:
        np.savez(file, kept=kept, features=features, bad=bad, reasons=told)

    write_file(shards.file(number), save)


class EmbedCounts(NamedTuple):
    """How many pictures were embedded, and how many could not be read."""

    embedded: int
    bad: int


def join_batches(
    shards: Shards, items: Sequence[Item], output: Path, meta: Mapping[str, Any], *, tracks: bool
) -> EmbedCounts:
    """Makes the result out of all shards: features, items, meta, and the list of bad pictures; removes the shards.

    Where ``tracks`` are pooled, the single pictures go into the folder ``track_pictures`` beneath.

    Raises:
        ValueError: If no picture could be read, or the tracks are none.
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
    """How a large job runs; but for ``precision`` the embeddings are the same up to the last bits.

    Attributes:
        device: ``auto`` is every CUDA device, else Apple's, else the CPU; or a name, or several.
        batch_size: Pictures a batch; None: 64 on a CPU, 256 elsewhere.
        shard_size: Pictures between two points from which a stopped job can go on.
        workers: Processes that load, for each device; None: as many as suit it.
        progress: Whether a bar shows how far it is, and how fast.
        precision: See :class:`aelm.embed.embedder.Embedder`.
        size: See :func:`aelm.embed.embedder.load_embedder`.
        camera: Likewise.
        tracks: Whether the pictures of a track become one row, where items have tracks.
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
    """Embeds pictures into ``output``: ``features.npy``, ``items.csv``, ``meta.json``, and ``bad.csv`` where needed.

    A run of the same job that was stopped is gone on with, shard by shard.

    Args:
        checkpoint: What :func:`aelm.embed.embedder.load_embedder` takes.
        items: The pictures.
        output: The folder; what earlier, finished runs left there is replaced when this one is done.
        settings: How it runs.
        allow: Dotted names, beyond aelm's own parts, that the checkpoint may build.

    Raises:
        RunError: If another process embeds into ``output``.
        ValueError: If no picture can be read, a setting is out of range, the model is no model, or only some pictures
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
    meta = embeddings_meta(embedder, str(file), versions)
    with hold_folder(output):
        shards = open_shards([item.path for item in items], output, meta, batch_size, settings.shard_size)
        todo = shards.missing()
        if len(places) == 1 or len(todo) <= 1:
            embed_shards(embedder.to(places[0]), shards, todo, settings)
        else:
            start: Any = spawn  # torch gives it no types
            start(_process, (places, str(file), tuple(allow), shards, todo, settings), nprocs=len(places))
        return join_batches(shards, items, output, meta, tracks=tracks)


def load(checkpoint: str | Path, allow: Sequence[str], settings: Settings) -> Embedder:
    """The embedder as the job wants it, on the CPU."""
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
    """One of several processes: its own device, and its share of the shards."""
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
    """Embeds some of the shards, one after the other, and writes each.

    Args:
        embedder: On the device where it shall run.
        shards: The job.
        numbers: Which shards.
        settings: Of which ``workers`` and ``progress`` count here.
        bar: On which line progress is shown, where several processes show it.
        processes: Processes on this machine that each embed a part, and share its cores.
    """
    wanted = [i for number in numbers for i in shards.span(number)]
    paths = [shards.paths[i] for i in wanted]
    batches = embedded(embedder, paths, shards.batch_size, workers=settings.workers, processes=processes)
    # Page-locked memory belongs to the current device: were that another one, it would be started for nothing else.
    current = torch.cuda.device(embedder.device) if embedder.device.type == "cuda" else nullcontext()
    progress = tqdm(total=len(wanted), unit=" pictures", disable=not settings.progress, position=bar, desc="embed")
    with current, progress as shown:
        first = 0  # of the shard, among the wanted
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
