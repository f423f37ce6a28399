"""A process's share of an evaluation."""

from collections.abc import Iterator
from itertools import chain

from torch.utils.data import Sampler

from aelm.data.sampler import check_rank


class ShardSampler(Sampler[int]):
    """A process's share of an evaluation, in whole batches.

    The batches are the same ones whatever the number of processes, since what a network computes for a picture may
    depend, in its last bit, on how many pictures came with it. Every picture is on one process, and shares differ by
    one batch at most. A process for which no batch is left repeats the first one: without any it would not take part
    in what all do together, and metrics know pictures by their position.

    Args:
        length: Number of pictures.
        rank: This process, 0 .. world_size - 1.
        world_size: Number of processes.
        batch_size: Pictures a batch.

    Raises:
        ValueError: If ``batch_size`` is less than 1, or ``rank`` is not one of the processes.

    >>> [list(ShardSampler(5, rank, 2, batch_size=2)) for rank in (0, 1)]
    [[0, 1, 4], [2, 3]]
    """

    def __init__(self, length: int, rank: int = 0, world_size: int = 1, batch_size: int = 1) -> None:
        check_rank(rank, world_size)
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be at least 1, got {batch_size}")
        starts = range(rank * batch_size, length, world_size * batch_size) or range(min(length, 1))
        self._batches = [range(start, min(start + batch_size, length)) for start in starts]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._batches)

    def __len__(self) -> int:
        return sum(map(len, self._batches))
