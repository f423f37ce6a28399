"""Which pictures make a batch: P identities with K pictures each, or all in turn, dealt to processes."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from aelm.types import InputError


class Dealer:
    """The pictures of one identity as a deck of cards for each camera.

    Args:
        cameras: Indices of the pictures, one list a camera.
        rng: Where the order comes from.

    >>> sorted(Dealer([[0, 1, 2], [7]], np.random.default_rng(0)).draw(4))
    [0, 1, 2, 7]
    """

    def __init__(self, cameras: Sequence[Sequence[int]], rng: np.random.Generator) -> None:
        self._cameras = cameras
        self._rng = rng
        self._decks: list[list[int]] = [[] for _ in cameras]

    def draw(self, count: int) -> list[int]:
        """``count`` indices: distinct, and from different cameras in turn, as far as there are as many.

        A camera's deck is shuffled anew only when it is used up, also from draw to draw.
        """
        group: list[int] = []
        while len(group) < count:
            # One round deals every picture at most once; a second one begins only when all have been dealt.
            dealt: list[int] = []
            depth = 0
            while len(group) + len(dealt) < count and any(len(camera) > depth for camera in self._cameras):
                order = self._rng.permutation(len(self._cameras)).tolist()
                turn = [camera for camera in order if len(self._cameras[camera]) > depth]
                dealt += [self._deal(camera, dealt) for camera in turn[: count - len(group) - len(dealt)]]
                depth += 1
            group += dealt
        return group

    def _deal(self, camera: int, dealt: Sequence[int]) -> int:
        if not self._decks[camera]:
            shuffled = self._rng.permutation(self._cameras[camera]).tolist()
            # Cards are taken from the end: what this round has dealt already comes last.
            self._decks[camera] = sorted(shuffled, key=lambda index: index not in dealt)
        return self._decks[camera].pop()


def by_camera(indices: NDArray[np.int64], camids: NDArray[np.int64]) -> list[list[int]]:
    """Splits the pictures of one identity by camera.

    >>> by_camera(np.array([0, 2, 3]), np.array([5, 5, 4, 5]))
    [[2], [0, 3]]
    """
    return [indices[camids[indices] == camera].tolist() for camera in np.unique(camids[indices])]


class TrainSampler(Sampler[tuple[int, int]]):
    """What samplers of training share: the epoch, and this process's place among all.

    Each pass moves on to the next epoch by itself, so that a plain loop does not repeat one epoch for ever;
    :meth:`set_epoch` says which one the next pass is, and Lightning calls it.

    Args:
        labels: Identity of each picture.
        camids: Camera of each picture.
        batch_size: Pictures a step in this process.
        seed: The plan depends on this and the epoch alone.
        rank: This process, 0 .. world_size - 1.
        world_size: Number of processes.

    Raises:
        ValueError: If there are no pictures, or a value lies outside its range.
    """

    def __init__(
        self, labels: Sequence[int], camids: Sequence[int], *, batch_size: int, seed: int, rank: int, world_size: int
    ) -> None:
        if len(labels) != len(camids) or len(labels) == 0:
            raise InputError(
                f"`labels` and `camids` must hold one number a picture, got {len(labels)} and {len(camids)} numbers"
            )
        check_rank(rank, world_size)
        self.labels = labels
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0  # of the next pass
        self._shown = (0, 0)

    def set_epoch(self, epoch: int) -> None:
        """Makes the next pass that of ``epoch``."""
        self.epoch = epoch

    def go_on(self, epoch: int, shown: int) -> None:
        """Makes the next pass that of ``epoch`` without its first ``shown`` pictures: a stopped run has seen them."""
        self.epoch = epoch
        self._shown = (epoch, shown)

    def shown(self, epoch: int) -> int:
        """How many pictures a pass of ``epoch`` leaves out at its start."""
        return self._shown[1] if self._shown[0] == epoch else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return ((epoch, index) for index in islice(self.plan(epoch), self.shown(epoch), None))

    @abstractmethod
    def __len__(self) -> int:
        """Pictures of one pass in this process, exactly."""

    @abstractmethod
    def plan(self, epoch: int) -> Iterator[int]:
        """Indices of this process in ``epoch``, one step's ``batch_size`` after the other."""

    @abstractmethod
    def describe(self) -> str:
        """The meaning of a batch, in words."""

    def some_steps(self, epoch: int = 0, most: int = 20) -> list[list[int]]:
        """The labels of this process's first steps in ``epoch``, and of the last one, which may be smaller."""
        labels = [self.labels[index] for index in self.plan(epoch)]
        steps = [labels[i : i + self.batch_size] for i in range(0, len(labels), self.batch_size)]
        return steps[:most] + steps[most:][-1:]


class IdentitySampler(TrainSampler):
    """Steps of P identities with K pictures each, for losses that compare pictures.

    Identities take turns: each appears once before any appears twice, in new order every turn, and no identity
    appears twice in a step, on whatever process. An epoch is counted as BoT does it: every K pictures of an identity
    are one appearance, fewer than K are one as well, and there are as many steps as fill up with all these
    appearances. So 120 epochs of a published recipe are as many steps here, but identities with many pictures do not
    take more turns than others.

    The K pictures are distinct, and from K different cameras, where the identity has as many of them; an identity with
    fewer than K pictures repeats some. Pictures of one camera are all shown before any is shown again in the epoch.

    Args:
        labels: Identity of each picture.
        camids: Camera of each picture.
        identities: P, identities a step in each process.
        images: K, pictures of each.
        steps_per_epoch: Steps of an epoch; None: as counted above.
        seed: The plan depends on this and the epoch alone.
        rank: This process, 0 .. world_size - 1.
        world_size: Number of processes.

    Raises:
        ValueError: If P or K is less than 1, or a step needs more identities than there are.

    >>> sampler = IdentitySampler([0, 0, 1, 1, 2, 2], [1, 2, 1, 2, 1, 2], identities=2, images=2)
    >>> len(sampler), sampler.describe()
    (4, '1 process x (2 identities x 2 images) = 4 images a step')
    """

    def __init__(
        self,
        labels: Sequence[int],
        camids: Sequence[int],
        *,
        identities: int = 16,
        images: int = 4,
        steps_per_epoch: int | None = None,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        for name, value in (("identities", identities), ("images", images), ("steps_per_epoch", steps_per_epoch)):
            if value is not None and value < 1:
                raise InputError(f"`{name}` must be at least 1, got {value}")
        batch_size = identities * images
        super().__init__(labels, camids, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self.identities = identities
        self.images = images
        pids, counts = np.unique(labels, return_counts=True)
        together = identities * world_size
        if len(pids) < together:
            raise InputError(
                f"A step needs `identities` x processes = {identities} x {world_size} = {together} identities, "
                f"found {len(pids)}: lower `identities`" + (" or use fewer processes" if world_size > 1 else "")
            )
        self.steps = steps_per_epoch or int(np.maximum(counts // images, 1).sum()) // together
        cameras, by_identity = np.asarray(camids), np.argsort(labels, kind="stable")
        self._cameras = [by_camera(own, cameras) for own in np.split(by_identity, counts.cumsum()[:-1])]

    def __len__(self) -> int:
        return self.steps * self.batch_size

    def plan(self, epoch: int) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, epoch))
        pictures = [Dealer(cameras, rng) for cameras in self._cameras]
        together = self.identities * self.world_size
        first = self.rank * self.identities
        queue: list[int] = []
        for _ in range(self.steps):
            if len(queue) < together:
                # Those who still wait from the last turn come late in the next one: not twice in a step.
                waiting = set(queue)
                queue += sorted(rng.permutation(len(pictures)).tolist(), key=waiting.__contains__)
            step, queue = queue[:together], queue[together:]
            # Every process draws for all identities, or their generators would part.
            groups = [pictures[identity].draw(self.images) for identity in step]
            for group in groups[first : first + self.identities]:
                yield from group

    def describe(self) -> str:
        return (
            f"{_counted(self.world_size, 'process', 'processes')} x "
            f"({_counted(self.identities, 'identity', 'identities')} x {_counted(self.images, 'image', 'images')}) = "
            f"{_counted(self.batch_size * self.world_size, 'image', 'images')} a step"
        )


class ShuffleSampler(TrainSampler):
    """Every picture once an epoch, in random order.

    Args:
        labels: Identity of each picture.
        camids: Camera of each picture.
        batch_size: Pictures a step in each process.
        seed: The plan depends on this and the epoch alone.
        rank: This process, 0 .. world_size - 1.
        world_size: Number of processes.
        drop_last: Leaves out what does not fill a step of all processes. Otherwise the processes share it, as evenly
            as can be; fewer pictures than processes are left out, as a process without a batch would stop the others.

    Raises:
        ValueError: If ``batch_size`` is less than 1, or there is no step.

    >>> sampler = ShuffleSampler([0] * 10, [0] * 10, batch_size=4, drop_last=False)
    >>> sorted(index for epoch, index in sampler) == list(range(10)), sampler.describe()
    (True, '1 process x 4 images = 4 images a step')
    """

    def __init__(
        self,
        labels: Sequence[int],
        camids: Sequence[int],
        *,
        batch_size: int = 64,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = True,
    ) -> None:
        if batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, got {batch_size}")
        super().__init__(labels, camids, batch_size=batch_size, seed=seed, rank=rank, world_size=world_size)
        self._total = len(labels)
        self._full, left = divmod(self._total, batch_size * world_size)
        # The share of the last, smaller step: where it starts behind the full steps, and where it ends.
        shares = [left * r // world_size for r in (rank, rank + 1)]
        self._last = [0, 0] if drop_last or left < world_size else shares
        if len(self) == 0:
            raise InputError(
                f"One step takes {self.describe().split(' = ')[0]}, found {self._total} pictures: lower `batch_size`"
            )

    def __len__(self) -> int:
        return self._full * self.batch_size + self._last[1] - self._last[0]

    def plan(self, epoch: int) -> Iterator[int]:
        order = np.random.default_rng((self.seed, epoch)).permutation(self._total).tolist()
        behind = self._full * self.world_size * self.batch_size
        for first in range(self.rank * self.batch_size, behind, self.batch_size * self.world_size):
            yield from order[first : first + self.batch_size]
        yield from order[behind + self._last[0] : behind + self._last[1]]

    def describe(self) -> str:
        return (
            f"{_counted(self.world_size, 'process', 'processes')} x {_counted(self.batch_size, 'image', 'images')} = "
            f"{_counted(self.batch_size * self.world_size, 'image', 'images')} a step"
        )


def check_rank(rank: int, world_size: int) -> None:
    """Raises ValueError unless ``rank`` is one of ``world_size`` processes."""
    if not 0 <= rank < world_size:
        raise InputError(f"`rank` must lie in 0 .. `world_size` - 1, got rank {rank} of {world_size}")


def _counted(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"


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
            raise InputError(f"`batch_size` must be at least 1, got {batch_size}")
        starts = range(rank * batch_size, length, world_size * batch_size) or range(min(length, 1))
        self._batches = [range(start, min(start + batch_size, length)) for start in starts]

    def __iter__(self) -> Iterator[int]:
        return chain.from_iterable(self._batches)

    def __len__(self) -> int:
        return sum(map(len, self._batches))
