"""Sharing work out: rows among the threads of one process, blocks among processes."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

T = TypeVar("T")

# Bytes that one thread works on at a time, about what its cache holds.
CACHED = 2**20


class Share(NamedTuple):
    """This process's part of work that all processes do together.

    Attributes:
        rank: Number of this process.
        size: Processes in all.
        device: Where the processes exchange arrays; a GPU under NCCL.
        group: The processes; None for all.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    group: dist.ProcessGroup | None = None

    def deal(self, items: list[T]) -> list[T]:
        """Every ``size``-th item, starting at ``rank``."""
        return items[self.rank :: self.size]

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Adds the arrays of all processes; exact for whole numbers, and for floats of which all but one are zero."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(values).to(self.device)
        dist.all_reduce(tensor, group=self.group)
        total: NDArray[Any] = tensor.cpu().numpy()
        return total


ALONE = Share()


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """Cuts ``0 .. length`` into runs of at most ``size``, all but equal in length.

    >>> spans(10, 4)
    [(0, 4), (4, 7), (7, 10)]
    """
    edges = np.linspace(0, length, -(-length // size) + 1)
    return list(pairwise(np.ceil(edges).astype(int).tolist()))


def each_span(work: Callable[[int, int], None], length: int, size: int) -> None:
    """Calls ``work(begin, end)`` for runs of rows, on as many threads as torch uses; numpy frees the lock meanwhile."""
    parts = spans(length, size)
    threads = min(torch.get_num_threads(), len(parts))
    if threads <= 1:
        for begin, end in parts:
            work(begin, end)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda part: work(*part), parts):
            pass


def each_rows(table: Tensor, work: Callable[[int, int, Any], None]) -> None:
    """Calls ``work(begin, end, rows)`` for runs of rows: arrays in threads on a CPU, the whole tensor on a GPU."""
    if table.device.type != "cpu":
        work(0, len(table), table)
        return
    array = table.numpy()
    each_span(lambda begin, end: work(begin, end, array[begin:end]), len(array), max(1, CACHED // array[0].nbytes))
