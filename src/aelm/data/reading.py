"""Which file each loading process has in hand, so that when one dies it is known on which."""

import os
import re

import torch
from torch.utils.data import get_worker_info

SLOTS = 1024  # loading processes that one data set can tell apart


class Reading:
    """Which picture each loading process took last, in memory that all of them share.

    >>> reading = Reading()
    >>> reading.note(7)
    >>> reading.last(os.getpid())
    7
    """

    def __init__(self) -> None:
        self._slots = torch.full((SLOTS, 2), -1, dtype=torch.int64)  # process id, index
        self._slots.untyped_storage().share_memory_()

    def note(self, index: int) -> None:
        """This process now reads picture ``index``."""
        worker = get_worker_info()
        slot = self._slots.numpy()[0 if worker is None else worker.id % SLOTS]
        slot[0], slot[1] = os.getpid(), index

    def last(self, process: int) -> int | None:
        """What the process with this id read last; None if it is not known here."""
        found = self._slots[self._slots[:, 0] == process, 1]
        return int(found[0]) if len(found) else None


def dead_workers(error: BaseException) -> list[int]:
    """The ids of the loading processes of whose death torch complains; empty for any other error.

    >>> dead_workers(RuntimeError("DataLoader worker (pid 12) is killed by signal: Killed. "))
    [12]
    >>> dead_workers(RuntimeError("DataLoader worker (pid(s) 12, 13) exited unexpectedly"))
    [12, 13]
    """
    found = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
    return [int(number) for number in found[1].split(",")] if found else []
