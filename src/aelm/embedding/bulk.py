"""Embeds any number of pictures into a folder, on one device or several, going on where it was stopped."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch.multiprocessing.spawn import spawn
from tqdm import tqdm

from aelm.data.sources import Item
from aelm.embedding.embedder import Embedder, load_embedder
from aelm.embedding.feed import default_batch_size, devices, embedded
from aelm.embedding.folder import describe
from aelm.embedding.shards import Outcome, Shards, join, open_shards, write_shard

log = logging.getLogger(__name__)

LIBRARIES = ("aelm", "torch", "timm", "numpy")


class Settings(NamedTuple):
    """How a large job runs; the embeddings are the same whatever is set here, but for the last bits.

    Attributes:
        device: ``auto`` is every CUDA device, else Apple's, else the CPU; or a name, or several.
        batch_size: Pictures a batch; None: 64 on a CPU, 256 elsewhere.
        shard_size: Pictures between two points from which a stopped job can go on.
        workers: Processes that load, for each device; None: as many as suit it.
        progress: Whether a bar shows how far it is, and how fast.
    """

    device: str | tuple[str, ...] = "auto"
    batch_size: int | None = None
    shard_size: int = 8192
    workers: int | None = None
    progress: bool = True


USUAL = Settings()


def embed_items(
    checkpoint: str, items: Sequence[Item], output: Path, settings: Settings = USUAL, allow: Sequence[str] = ()
) -> Outcome:
    """Embeds pictures into ``output``: ``features.npy``, ``items.csv``, ``meta.json``, and ``bad.csv`` where needed.

    A run of the same job that was stopped is gone on with, shard by shard.

    Args:
        checkpoint: What :func:`aelm.embedding.embedder.load_embedder` takes.
        items: The pictures.
        output: The folder; what earlier, finished runs left there is replaced when this one is done.
        settings: How it runs.
        allow: Dotted names, beyond aelm's own parts, that the checkpoint may build.

    Raises:
        ValueError: If no picture can be read, a setting is out of range, or the model is no model.
    """
    places = devices(settings.device)
    batch_size = default_batch_size(places[0]) if settings.batch_size is None else settings.batch_size
    embedder = load_embedder(checkpoint, allow)
    versions = {**{name: version(name) for name in LIBRARIES}, "opencv": cv2.__version__}
    meta = describe(embedder, checkpoint, versions)
    output.mkdir(parents=True, exist_ok=True)
    shards = open_shards([item.path for item in items], output, meta, batch_size, settings.shard_size)
    todo = shards.missing()
    if len(places) == 1 or len(todo) <= 1:
        embed_shards(embedder.to(places[0]), shards, todo, settings)
    else:
        start: Any = spawn  # torch gives it no types
        start(_process, (places, checkpoint, tuple(allow), shards, todo, settings), nprocs=len(places))
    return join(shards, items, output, meta)


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
    embedder = load_embedder(checkpoint, allow).to(places[rank])
    embed_shards(embedder, shards, todo[rank :: len(places)], settings, bar=rank)


def embed_shards(
    embedder: Embedder, shards: Shards, numbers: Sequence[int], settings: Settings = USUAL, bar: int = 0
) -> None:
    """Embeds some of the shards, one after the other, and writes each.

    Args:
        embedder: On the device where it shall run.
        shards: The job.
        numbers: Which shards.
        settings: Of which ``workers`` and ``progress`` count here.
        bar: On which line progress is shown, where several processes show it.
    """
    wanted = [i for number in numbers for i in shards.span(number)]
    batches = embedded(embedder, [shards.paths[i] for i in wanted], shards.batch_size, workers=settings.workers)
    with tqdm(total=len(wanted), unit=" pictures", disable=not settings.progress, position=bar, desc="embed") as shown:
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
