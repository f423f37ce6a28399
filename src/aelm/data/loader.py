"""How pictures are loaded."""

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

SOCKET_PATH = 103 if sys.platform == "darwin" else 107  # characters that the address of a Unix socket may have


class TrainLoader(DataLoader[Any]):
    """A loader of training that can say where it stands, and go on from there: with a :class:`TrainSampler`.

    A pass starts with its first batch and not when the iterator is asked for. Lightning asks first and tells the
    sampler the epoch afterwards: by then the workers would be at work on another one.
    """

    _epoch = 0  # of the current pass, and how many of its batches were handed out
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
            except (RuntimeError, OSError, EOFError) as error:  # what the death of a loading process looks like
                if isinstance(self.dataset, ReIDDataset) and (told := self.dataset.deaths()):
                    raise RunError(told) from error
                raise
            self._handed_out += 1
            yield batch

    def train_sampler(self) -> TrainSampler:
        """The sampler, which must be one of aelm's."""
        if not isinstance(self.sampler, TrainSampler):
            raise InputTypeError(f"a TrainLoader takes a TrainSampler, got {type(self.sampler).__name__}")
        return self.sampler

    def state_dict(self) -> dict[str, int]:
        """Where the current pass stands, in batches; the same on every process."""
        return {"epoch": self._epoch, "batches": self._handed_out, "processes": self.train_sampler().world_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Makes the next pass begin where :meth:`state_dict` was taken.

        Raises:
            ValueError: If another number of processes shared the steps.
        """
        sampler = self.train_sampler()
        if state["processes"] != sampler.world_size:
            raise InputError(
                f"the run that stopped had {state['processes']} processes, this one has {sampler.world_size}: a step "
                "would mean another batch. Start as many processes, or choose another `name`"
            )
        if state["batches"] >= len(self):
            sampler.go_on(state["epoch"] + 1, 0)
        else:
            sampler.go_on(state["epoch"], state["batches"] * sampler.batch_size)


class Loader(NamedTuple):
    """How pictures are loaded; the same pictures come out whatever is set here.

    Attributes:
        workers: Processes that load, for each process that trains; None: one a core, at most 8 (those that train on
            one machine share its cores); 0: none, loading and training wait for each other.
        test_batch_size: Pictures a batch in validation and test.
        cache: ``"ram"`` keeps the encoded files of training and validation in memory; tests read each file but once.
        on_bad_image: ``"error"`` stops at a picture that cannot be read. ``"skip"`` lists it and goes on: tests leave
            it out, and training takes another picture, of the same identity where there is one, in its place.
        persistent_workers: Whether workers of training and validation live on from epoch to epoch.
        pin_memory: Whether batches lie in page-locked memory, in a process that uses a CUDA device by the time the
            loader is built.
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
            dataset: Where pictures come from.
            sampler: Yields indices, or pairs of epoch and index.
            batch_size: Pictures a batch.
            lives_on: Whether the loader is gone through more than once.
            processes: Processes on this machine that each have such a loader.

        Raises:
            OSError: If loading processes could not hand over what they load.
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
            # Of its own, or each pass would take a number from the global stream, also a pass that goes on.
            generator=torch.Generator(),
            multiprocessing_context=self.multiprocessing_context if workers else None,
            prefetch_factor=self.prefetch_factor if workers else None,
            persistent_workers=self.persistent_workers and lives_on and workers > 0,
        )
        return loader


def cuda_is_used() -> bool:
    """Whether this process has started CUDA: what would start it is left alone by a process that runs on the CPU."""
    asked: Callable[[], bool] = torch.cuda.is_initialized  # torch gives it no types
    return asked()


def check_sockets(workers: int) -> None:
    """Looks whether loading processes can hand over batches, through sockets in the folder for temporary files.

    Where that folder lies too deep they cannot: their error goes astray, and who waits for a batch waits for ever.

    Raises:
        OSError: If there are ``workers`` and the path of such a socket would be too long.
    """
    if not workers or sys.platform == "win32":
        return
    address = os.fsencode(os.path.join(get_temp_dir(), "listener-12345678"))  # as multiprocessing names them
    if len(address) > SOCKET_PATH:
        raise OSError(
            f"loading processes hand over pictures through sockets, whose path may have {SOCKET_PATH} characters and "
            f"here has {len(address)}: {os.fsdecode(address)}; set TMPDIR to a shorter folder, or `workers` to 0"
        )


def default_workers(processes: int) -> int:
    """Loading processes for each of some processes on this machine: one a core, at least 1 and at most 8."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(max(cores // processes, 1), 8)
