"""Which file each loading process has in hand, so that when one dies it is known on which."""

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.utils.data import get_worker_info

SLOTS = 1024  # loading processes that one data set can tell apart


class Reading:
    """Which picture each loading process has in hand, in memory that all of them share.

    >>> reading = Reading()
    >>> with reading.batch():
    ...     reading.note(7)
    ...     reading.in_hand(os.getpid())
    7
    """

    def __init__(self) -> None:
        self._slots = torch.full((SLOTS, 2), -1, dtype=torch.int64)  # process id, index
        self._slots.untyped_storage().share_memory_()

    def note(self, index: int) -> None:
        """This process now reads picture ``index``; -1 for none."""
        worker = get_worker_info()
        slot = self._slots.numpy()[0 if worker is None else worker.id % SLOTS]
        slot[0], slot[1] = os.getpid(), index

    @contextmanager
    def batch(self) -> Iterator[None]:
        """Around the making of a batch: whoever leaves it has nothing in hand any more."""
        try:
            yield
        finally:
            self.note(-1)

    def in_hand(self, process: int) -> int | None:
        """What the process with this id reads; None if nothing, or if it is not known here."""
        found = self._slots[(self._slots[:, 0] == process) & (self._slots[:, 1] >= 0), 1]
        return int(found[0]) if len(found) else None

    def dropped(self) -> dict[int, int]:
        """What processes that are gone still have in hand: they died of it, or over it. By process id."""
        alive = {process.pid for process in multiprocessing.active_children()} | {os.getpid()}
        return {int(process): int(index) for process, index in self._slots if index >= 0 and int(process) not in alive}
