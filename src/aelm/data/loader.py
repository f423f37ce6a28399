"""Data loaders and their options."""

import os
import sys
from collections.abc import Callable, Iterator
from multiprocessing.util import get_temp_dir
from typing import Any, Literal, NamedTuple

import torch
from torch.utils.data import DataLoader, Sampler

from aelm.data.dataset import ReIDDataset, collate, one_thread
from aelm.data.sampler import TrainSampler
from aelm.types import Batch, InputError, InputTypeError, RunError

SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # maximum length of a Unix socket path


class TrainLoader(DataLoader[Any]):
    """A training loader whose position can be saved and resumed; needs a :class:`TrainSampler`.

    A pass starts at its first batch, not when the iterator is created: Lightning creates it before it sets the
    sampler's epoch, so workers would already load another epoch.
    """

    _epoch = 0  # epoch of the current pass, and number of its batches yielded
    _handed_out = 0

    def __iter__(self) -> Any:
        return self._pass()

    def _pass(self) -> Iterator[Any]:
        sampler = self.train_sampler()
        self._epoch = sampler.epoch
        self._handed_out = sampler.shown(sampler.epoch) // sampler.batch_size
        batches = super().__iter__()
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                return
            except (RuntimeError, OSError, EOFError) as error:  # raised when a worker process dies
                if isinstance(self.dataset, ReIDDataset) and (told := self.dataset.deaths()):
                    raise RunError(told) from error
                raise
            self._handed_out += 1
            yield batch

    def train_sampler(self) -> TrainSampler:
        """The sampler, which must be one of aelm."""
        if not isinstance(self.sampler, TrainSampler):
            raise InputTypeError(f"a TrainLoader takes a TrainSampler, got {type(self.sampler).__name__}")
        return self.sampler

    def state_dict(self) -> dict[str, int]:
        """Position of the current pass, in batches; the same on every process."""
        return {"epoch": self._epoch, "batches": self._handed_out, "processes": self.train_sampler().world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Lets the next pass start at the position of :meth:`state_dict`.

        Raises:
            ValueError: If the number of processes differs.
        """
        sampler = self.train_sampler()
        if state["processes"] != sampler.world_size:
            raise InputError(
                f"the stopped run had {state['processes']} processes, this one has {sampler.world_size}: its batches "
                "would differ. Start as many processes, or choose another `name`"
            )
        if state["batches"] >= len(self):
            sampler.go_on(state["epoch"] + 1, 0)
        else:
            sampler.go_on(state["epoch"], state["batches"] * sampler.batch_size)


class Loader(NamedTuple):
    """Loading options; they do not affect the pictures.

    Attributes:
        workers: Worker processes per training process; None for one per core, at most 8 (cores are split over the
            training processes of a machine); 0 loads in the training process.
        test_batch_size: Pictures per batch in validation and test.
        cache: ``"ram"`` keeps the encoded files of training and validation in memory; tests read each file only once.
        on_bad_image: ``"error"`` raises at an unreadable picture. ``"skip"`` lists it and continues: tests leave it
            out, and training replaces it by another picture, of the same identity if there is one.
        persistent_workers: Whether workers of training and validation are kept between epochs.
        pin_memory: Whether to use pinned memory, if the process uses CUDA when the loader is built.
        multiprocessing_context: Start method of workers: ``fork``, ``spawn``, ``forkserver``; None for the system's
            default.
        prefetch_factor: Batches that each worker loads in advance.
    """

    workers: int | None = None
    test_batch_size: int = 128
    cache: Literal["none", "ram"] = "none"
    on_bad_image: Literal["error", "skip"] = "error"
    persistent_workers: bool = True
    pin_memory: bool = True
    multiprocessing_context: str | None = None
    prefetch_factor: int = 2

    def check(self) -> None:
        """Raises ValueError if an option is out of range."""
        for name, value, known in (("cache", self.cache, ("none", "ram")),
                                   ("on_bad_image", self.on_bad_image, ("error", "skip"))):  # fmt: skip
            if value not in known:
                raise InputError(f"`dataset.{name}` must be '{known[0]}' or '{known[1]}', got {value!r}")
        for name, number, least in (("workers", self.workers, 0), ("test_batch_size", self.test_batch_size, 1)):
            if number is not None and number < least:
                raise InputError(f"`dataset.{name}` must be at least {least}, got {number}")

    def build(
        self, dataset: ReIDDataset, sampler: Sampler[Any], batch_size: int, *, lives_on: bool, processes: int = 1
    ) -> DataLoader[Batch]:
        """A loader of :class:`aelm.types.Batch`.

        Args:
            dataset: The data set.
            sampler: Yields indices, or pairs of epoch and index.
            batch_size: Pictures per batch.
            lives_on: Whether the loader is used for more than one pass.
            processes: Number of processes on this machine with such a loader.

        Raises:
            OSError: If workers could not send their batches.
        """
        workers = default_workers(processes) if self.workers is None else self.workers
        check_sockets(workers)
        made_already: Callable[[Any], Batch] = collate
        kind = TrainLoader if isinstance(sampler, TrainSampler) else DataLoader
        loader: DataLoader[Any] = kind(
            dataset,
            batch_size=batch_size,
            sampler=sampler,
            num_workers=workers,
            collate_fn=made_already,
            pin_memory=self.pin_memory and cuda_is_used(),
            worker_init_fn=one_thread,
            # A separate generator: otherwise each pass, also a resumed one, draws from the global one.
            generator=torch.Generator(),
            multiprocessing_context=self.multiprocessing_context if workers else None,
            prefetch_factor=self.prefetch_factor if workers else None,
            persistent_workers=self.persistent_workers and lives_on and workers > 0,
        )
        return loader


def cuda_is_used() -> bool:
    """Whether this process has initialised CUDA; CPU processes must not initialise it."""
    asked: Callable[[], bool] = torch.cuda.is_initialized  # untyped in torch
    return asked()


def check_sockets(workers: int) -> None:
    """Checks that workers can send batches, through sockets in the temporary folder.

    If the folder's path is too long they cannot: their error is lost, and the training process waits forever.

    Raises:
        OSError: If there are ``workers`` and the socket path would be too long.
    """
    if not workers or sys.platform == "win32":
        return
    address = os.fsencode(os.path.join(get_temp_dir(), "listener-12345678"))  # multiprocessing's naming
    if len(address) > SOCKET_PATH:
        raise OSError(
            f"worker processes send pictures through sockets, whose path may have {SOCKET_PATH} characters and "
            f"here has {len(address)}: {os.fsdecode(address)}; set TMPDIR to a shorter folder, or `workers` to 0"
        )


def default_workers(processes: int) -> int:
    """Workers for each of some processes on this machine: one per core, at least 1 and at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // processes, 1), 8)
