"""How pictures are loaded."""

import os
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader, Sampler

from aelm.data.dataset import ReIDDataset, collate, one_thread
from aelm.types import Batch


class Loader(NamedTuple):
    """How pictures are loaded; the same pictures come out whatever is set here.

    Attributes:
        workers: Processes that load, for each process that trains; None: one a core, at most 8 (those that train on
            one machine share its cores); 0: none, loading and training wait for each other.
        test_batch_size: Pictures a batch in validation and test.
        cache: ``"ram"`` keeps the encoded files of training and validation in memory; tests read each file but once.
        on_bad_image: ``"skip"`` leaves out and lists pictures that cannot be read; ``"error"`` stops.
        persistent_workers: Whether workers of training and validation live on from epoch to epoch.
        pin_memory: Whether batches lie in page-locked memory, where there is a CUDA device to copy them to.
        multiprocessing_context: How workers start: ``fork``, ``spawn``, ``forkserver``; None: as the system does.
        prefetch_factor: Batches that each worker prepares in advance.
    """

    workers: int | None = None
    test_batch_size: int = 128
    cache: Literal["none", "ram"] = "none"
    on_bad_image: Literal["error", "skip"] = "error"
    persistent_workers: bool = True
    pin_memory: bool = True
    multiprocessing_context: str | None = None
    prefetch_factor: int = 2

    def build(
        self, dataset: ReIDDataset, sampler: Sampler[Any], batch_size: int, *, lives_on: bool, processes: int = 1
    ) -> DataLoader[Batch]:
        """A loader of :class:`aelm.types.Batch`.

        Args:
            dataset: Where pictures come from.
            sampler: Yields indices, or pairs of epoch and index.
            batch_size: Pictures a batch.
            lives_on: Whether the loader is gone through more than once.
            processes: Processes on this machine that each have such a loader.
        """
        workers = default_workers(processes) if self.workers is None else self.workers
        made_already: Callable[[Any], Batch] = collate
        loader: DataLoader[Any] = DataLoader(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=made_already,
            pin_memory=self.pin_memory and torch.cuda.is_available(),
            worker_init_fn=one_thread,
            multiprocessing_context=self.multiprocessing_context if workers else None,
            prefetch_factor=self.prefetch_factor if workers else None,
            persistent_workers=self.persistent_workers and lives_on and workers > 0,
        )
        return loader


def default_workers(processes: int) -> int:
    """Loading processes for each of some processes on this machine: one a core, at least 1 and at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // processes, 1), 8)
