"""Parallel work: pieces for the threads of one process, blocks for processes."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from aelm.devices import issuing_threads

T = TypeVar("T")

# Bytes that one thread processes at a time, about the size of its cache.
CACHED = 2**21


class Threads:
    """A pool of threads, each of which multiplies and counts on one core.

    Torch's own threads spin for a while after each product and occupy the cores that the next operation needs. Threads
    that do products and counting themselves avoid this.

    Args:
        threads: Number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Calls ``work`` for every item and waits for all; few items are fetched ahead, since they may be large."""
        if self.threads == 1:
            for item in items:
                work(item)
            return
        running: deque[Future[None]] = deque()
        # New threads do not inherit inference mode, and its tensors can only be written in that mode.
        mode = torch.is_inference_mode_enabled()

        def alike(item: T) -> None:
            with torch.inference_mode(mode):
                work(item)

        try:
            for item in items:
                running.append(self.pool.submit(alike, item))
                if len(running) > 2 * self.threads:
                    running.popleft().result()
            while running:
                running.popleft().result()
        finally:
            # After an error, no thread may still write to arrays that the caller frees.
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()


@contextmanager
def threads(device: torch.device) -> Iterator[Threads]:
    """As many threads as torch uses, one for a GPU; meanwhile torch itself uses one."""
    before = torch.get_num_threads()
    count = issuing_threads(device)
    # New threads inherit this setting.
    torch.set_num_threads(1)
    team = Threads(count)
    try:
        yield team
    finally:
        team.pool.shutdown()
        torch.set_num_threads(before)


class Share(NamedTuple):
    """This process's share of work split over processes.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
        device: Device for exchanging arrays; a GPU under NCCL.
        group: The process group; None for all processes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    group: dist.ProcessGroup | None = None

    def deal(self, items: list[T]) -> list[T]:
        """Every ``size``-th item, starting at ``rank``."""
        return items[self.rank :: self.size]

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums the arrays of all processes; exact for integers, and for floats that are zero on all but one process."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(values).to(self.device)
        dist.all_reduce(tensor, group=self.group)
        total: NDArray[Any] = tensor.cpu().numpy()
        return total

    def largest(self, value: float) -> float:
        """The maximum of a number over all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return float(tensor)


ALONE = Share()


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """Splits ``0 .. length`` into runs of at most ``size`` and nearly equal length.

    >>> spans(10, 4)
    [(0, 4), (4, 7), (7, 10)]
    """
    edges = np.linspace(0, length, -(-length // size) + 1)
    return list(pairwise(np.ceil(edges).astype(int).tolist()))


def each_rows(table: Tensor, work: Callable[[int, int, Any], None]) -> None:
    """Calls ``work(begin, end, rows)`` for runs of rows: a few cache sizes on a CPU, the whole tensor on a GPU.

    With smaller runs, threads would wait for Python's global lock.
    """
    if table.device.type != "cpu":
        work(0, len(table), table)
        return
    array = table.numpy()
    for begin, end in spans(len(array), max(1, 4 * CACHED // array[:1].nbytes)):
        work(begin, end, array[begin:end])
