"""Sharing work out: pieces among the threads of one process, blocks among processes."""

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

# Bytes that one thread works on at a time, about what its cache holds.
CACHED = 2**21


class Threads:
    """Some threads, each of which multiplies and counts on one core.

    Torch's own threads keep spinning for a while after each product, and take their cores from whatever comes next;
    threads that work piece by piece, products included, do not.

    Args:
        threads: How many.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.pool = ThreadPoolExecutor(threads)

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Calls ``work`` for every item and waits for all; few items are drawn ahead, for they may be large."""
        if self.threads == 1:
            for item in items:
                work(item)
            return
        running: deque[Future[None]] = deque()
        # Threads do not take over the mode, in which alone its tensors may be written.
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
            # After an error, nothing may go on writing into what the caller drops.
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()


@contextmanager
def threads(device: torch.device) -> Iterator[Threads]:
    """As many threads as torch uses, which meanwhile works on one; a single one for a GPU."""
    before = torch.get_num_threads()
    count = issuing_threads(device)
    # New threads take over this setting.
    torch.set_num_threads(1)
    team = Threads(count)
    try:
        yield team
    finally:
        team.pool.shutdown()
        torch.set_num_threads(before)


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

    def largest(self, value: float) -> float:
        """The largest of a number that each process has."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return float(tensor)


ALONE = Share()


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """Cuts ``0 .. length`` into runs of at most ``size``, all but equal in length.

    >>> spans(10, 4)
    [(0, 4), (4, 7), (7, 10)]
    """
    edges = np.linspace(0, length, -(-length // size) + 1)
    return list(pairwise(np.ceil(edges).astype(int).tolist()))


def each_rows(table: Tensor, work: Callable[[int, int, Any], None]) -> None:
    """Calls ``work(begin, end, rows)`` for runs of rows: some cache-fulls on a CPU, the whole tensor on a GPU.

    Threads that did less at a time would wait for each other's turn at the interpreter.
    """
    if table.device.type != "cpu":
        work(0, len(table), table)
        return
    array = table.numpy()
    for begin, end in spans(len(array), max(1, 4 * CACHED // array[:1].nbytes)):
        work(begin, end, array[begin:end])
