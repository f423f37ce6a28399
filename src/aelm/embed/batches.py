"""From files to embeddings, with loading and the model running at the same time."""

import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy, deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import SequentialSampler

from aelm.data import Augment, BadImageError, Loader, ReIDDataset, recipe
from aelm.data.decoding import decoding_error
from aelm.data.sources import several
from aelm.devices import async_copy
from aelm.embed.embedder import Embedder
from aelm.types import Batch, InputError, Picture, RunError

Features = NDArray[np.float32]
Positions = NDArray[np.int64]
BATCH_ON_CPU, BATCH_ELSEWHERE = 64, 256


def devices(wanted: str | Sequence[str]) -> tuple[str, ...]:
    """Devices to run on: ``auto`` is every CUDA device, else Apple's, else the CPU; or names such as ``cuda:1``.

    Raises:
        ValueError: If torch has no such device on this machine.

    >>> devices("cpu"), devices(["cpu", "cpu"])
    (('cpu',), ('cpu', 'cpu'))
    """
    if wanted == "auto":
        if torch.cuda.is_available():
            return tuple(f"cuda:{i}" for i in range(torch.cuda.device_count()))
        return ("mps",) if torch.backends.mps.is_available() else ("cpu",)
    names = (wanted,) if isinstance(wanted, str) else tuple(wanted)
    for name in names:
        try:
            check_number(torch.device(name))
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            first = (str(error).splitlines() or ["no reason given"])[0]
            raise InputError(f"`device`: {name!r} cannot be used here: {first}; try auto or cpu") from error
    if not names:
        raise InputError("`device` must name at least one device, got an empty list; try auto")
    return names


def check_number(device: torch.device) -> None:
    """Raises RuntimeError if the machine has CUDA devices, but not this one."""
    count = torch.cuda.device_count() if device.type == "cuda" else 0
    if count and (device.index or 0) >= count:
        last = f", the last is cuda:{count - 1}" if count > 1 else ": cuda:0"
        raise RunError(f"torch finds {count} CUDA device{'s' if count > 1 else ''}{last}")


def default_batch_size(device: str) -> int:
    """Batch size that keeps a device busy without filling its memory.

    >>> default_batch_size("cpu"), default_batch_size("cuda:0")
    (64, 256)
    """
    return BATCH_ON_CPU if device.startswith("cpu") else BATCH_ELSEWHERE


def embedded(
    embedder: Embedder, paths: Sequence[str], batch_size: int, *, workers: int | None = None, processes: int = 1
) -> Iterator[tuple[Positions, Features]]:
    """Embeds pictures batch by batch, in order.

    Args:
        embedder: On the device to run on.
        paths: The files.
        batch_size: Pictures per batch.
        workers: Worker processes that load pictures; None: one per core, at most 8, or none for a model on the CPU;
            0: none; then as many threads as torch uses load each batch, between two runs of the model.
        processes: Processes on this machine that each embed a part, and share its cores.

    Yields:
        For each ``batch_size`` paths: indices ``(b,)`` of the readable ones, and their embeddings ``(b, D)``.

    Raises:
        ValueError: If the model returns values that are not finite, or needs another interpolation.
    """
    dataset = ReIDDataset([Picture(path, -1, 0) for path in paths], preparation(embedder), on_bad_image="skip")
    batches: Iterable[Batch]
    # A worker process would take a core from one thread of the model, and all other threads wait for that one.
    if workers == 0 or (workers is None and embedder.device.type == "cpu"):
        batches = loaded(dataset, batch_size, torch.get_num_threads())
    else:
        loader = Loader(workers=workers, pin_memory=embedder.device.type == "cuda")
        batches = loader.build(dataset, SequentialSampler(dataset), batch_size, lives_on=False, processes=processes)
    waiting: Pending | None = None
    for batch in batches:
        # Results are fetched from a GPU only after it has received the next batch.
        ready, waiting = waiting, pending(embedder, batch)
        if ready is not None:
            yield _fetched(embedder, ready)
    if waiting is not None:
        yield _fetched(embedder, waiting)


class Pending(NamedTuple):
    """A batch that the model is processing.

    Attributes:
        positions: ``(b,)`` indices of the paths.
        features: ``(b, D)``; from a CUDA device: page-locked memory, complete once the event ``arrived`` has occurred.
        arrived: The event; None on other devices.
    """

    positions: Tensor
    features: Tensor
    arrived: Any


def pending(embedder: Embedder, batch: Batch) -> Pending:
    """Starts the model on a batch; on a CUDA device it waits neither for the copies nor for the model."""
    if not len(batch.image):
        return Pending(batch.position, torch.empty(0, embedder.dim), None)
    images = batch.image
    if embedder.device.type == "cuda" and not images.is_pinned():
        images = images.pin_memory()
    return Pending(batch.position, *async_copy(embedder.embed(images)))


def loaded(dataset: ReIDDataset, batch_size: int, threads: int) -> Iterator[Batch]:
    """All batches of a data set in order, loaded in this process; several threads load each batch.

    Args:
        dataset: Its transform must not be random.
        batch_size: Pictures per batch.
        threads: Number of threads that decode and resize in parallel.
    """
    # Each copy has its own transform, since transforms have state; paths and files are shared.
    twins = [copy(dataset) for _ in range(threads)]
    for twin in twins:
        twin.transform = deepcopy(dataset.transform)
    with ThreadPoolExecutor(threads) as pool:
        for first in range(0, len(dataset), batch_size):
            indices = range(first, min(first + batch_size, len(dataset)))
            share = -(-len(indices) // threads)
            shares = [indices[i : i + share] for i in range(0, len(indices), share)]
            parts = list(pool.map(ReIDDataset.__getitems__, twins, shares))
            read = [part for part in parts if len(part.image)]
            yield Batch(*map(torch.cat, zip(*(part[:5] for part in read), strict=True))) if read else parts[0]


def preparation(embedder: Embedder) -> Augment:
    """The preprocessing of pictures before the embedder: the same resize as in evaluation.

    Raises:
        ValueError: If the model needs another interpolation.
    """
    if embedder.interpolation != "bilinear":
        raise InputError(f"{embedder.name} wants `interpolation` {embedder.interpolation!r}; aelm has only bilinear")
    return recipe(**embedder.pictures, flip=0, pad=0, erasing=0).test


def _fetched(embedder: Embedder, batch: Pending) -> tuple[Positions, Features]:
    if batch.arrived is None:
        found = batch.features.float().cpu().numpy()
    else:
        batch.arrived.synchronize()
        found = batch.features.numpy().copy()  # page-locked memory is scarce, and reused for the next batches
    if not np.isfinite(found).all():
        half = " float16 may not hold its values: try precision=bf16." if embedder.precision == "16" else ""
        raise InputError(f"{embedder.name} gives NaN or infinite values.{half} Has its training diverged?")
    return batch.positions.numpy(), found


def embed_files(
    embedder: Embedder, paths: Sequence[str | Path] | str | Path, *, batch_size: int | None = None
) -> Features:
    """Embeddings ``(n, D)`` of files, in order, computed in this process and held in memory.

    Args:
        embedder: On the device to run on.
        paths: The files.
        batch_size: Pictures per batch; None: the default of the device.

    Raises:
        BadImageError: If a file is unreadable; names the first one.
    """
    files = list(map(os.fspath, several(paths)))
    size = batch_size or default_batch_size(embedder.device.type)
    batches = list(embedded(embedder, files, size, workers=0))
    found = np.fromiter(itertools.chain.from_iterable(positions for positions, _ in batches), np.int64)
    missing = np.setdiff1d(np.arange(len(files)), found)
    if len(missing):
        raise BadImageError(decoding_error(files[missing[0]]))
    return np.concatenate([features for _, features in batches] or [np.empty((0, embedder.dim), np.float32)])
