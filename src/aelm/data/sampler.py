"""Samplers: P identities with K pictures each, or all pictures in random order, split over processes."""

from abc import abstractmethod
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Sampler

from aelm.types import InputError


class Dealer:
    """Draws the pictures of one identity, with a shuffled deck per camera.

    Args:
        cameras: Indices of the pictures, one list per camera.
        rng: The random generator.

    >>> sorted(Dealer([[0, 1, 2], [7]], np.random.default_rng(0)).draw(4))
    [0, 1, 2, 7]
    """

    def __init__(self, cameras: Sequence[Sequence[int]], rng: np.random.Generator) -> None:
        self._cameras = cameras
        self._rng = rng
        self._decks: list[list[int]] = [[] for _ in cameras]

    def draw(self, count: int) -> list[int]:
        """Draws ``count`` indices: distinct and from different cameras as far as possible.

        A camera's deck is only reshuffled when it is empty, also across draws.
        """
        group: list[int] = []
        while len(group) < count:
            # One round deals every picture at most once; the next round starts when all have been dealt.
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
            # `pop` takes from the end; pictures already dealt in this round come last.
            self._decks[camera] = sorted(shuffled, key=lambda index: index not in dealt)
        return self._decks[camera].pop()


def by_camera(indices: NDArray[np.int64], camids: NDArray[np.int64]) -> list[list[int]]:
    """Splits the pictures of one identity by camera.

    >>> by_camera(np.array([0, 2, 3]), np.array([5, 5, 4, 5]))
    [[2], [0, 3]]
    """
    return [indices[camids[indices] == camera].tolist() for camera in np.unique(camids[indices])]


class TrainSampler(Sampler[tuple[int, int]]):
    """Base of training samplers: the epoch, rank and number of processes.

    It yields ``(epoch, index)`` pairs, as :class:`aelm.data.ReIDDataset` takes them. Each pass advances the epoch, so a
    plain loop does not repeat one epoch; :meth:`set_epoch`, which Lightning calls, sets the epoch of the next pass.

    Args:
        labels: Identity of each picture.
        camids: Camera of each picture.
        batch_size: Pictures per step in this process.
        seed: The order depends only on this and the epoch.
        rank: Rank of this process, 0 .. world_size - 1.
        world_size: Number of processes.

    Raises:
        ValueError: If there are no pictures, or a value is out of range.
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
        """Sets the epoch of the next pass."""
        self.epoch = epoch

    def go_on(self, epoch: int, shown: int) -> None:
        """Resumes ``epoch`` in the next pass, without its first ``shown`` pictures, which the stopped run has used."""
        self.epoch = epoch
        self._shown = (epoch, shown)

    def shown(self, epoch: int) -> int:
        """Number of pictures that a pass of ``epoch`` skips at its start."""
        return self._shown[1] if self._shown[0] == epoch else 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        return ((epoch, index) for index in islice(self.plan(epoch), self.shown(epoch), None))

    @abstractmethod
    def __len__(self) -> int:
        """Exact number of pictures of one pass in this process."""

    @abstractmethod
    def plan(self, epoch: int) -> Iterator[int]:
        """Indices of this process in ``epoch``, step by step with ``batch_size`` each."""

    @abstractmethod
    def describe(self) -> str:
        """Description of a batch as text."""

    def step_labels(self, epoch: int = 0, most: int = 20) -> list[list[int]]:
        """Labels of this process's first steps in ``epoch``, and of the last one if it is smaller."""
        plan, left = self.plan(epoch), len(self) % self.batch_size
        first = list(islice(plan, most * self.batch_size))
        last = deque(plan, maxlen=left) if left else ()
        labels = [self.labels[index] for index in (*first, *last)]
        return [labels[i : i + self.batch_size] for i in range(0, len(labels), self.batch_size)]


class IdentitySampler(TrainSampler):
    """Steps of P identities with K pictures each, for losses that compare pictures.

    It yields ``(epoch, index)`` pairs: give :class:`aelm.data.ReIDDataset` to the loader, with ``collate_fn=collate``.

    Identities take turns: each appears once before any appears twice, in a new random order each time, and no identity
    appears twice in a step over all processes. The epoch length is BoT's: an identity counts once for every K pictures
    (at least once), and an epoch has as many steps as these appearances fill. So 120 epochs of a published recipe have
    the same number of steps here, but identities with many pictures do not appear more often than others.

    The K pictures are distinct and from K different cameras if the identity has enough; an identity with fewer than K
    pictures repeats some. All pictures of a camera are used before one is repeated in the epoch.

    Args:
        labels: Identity of each picture.
        camids: Camera of each picture.
        identities: P, identities per step in each process.
        images: K, pictures of each identity.
        steps_per_epoch: Steps of an epoch; None for the count above.
        seed: The order depends only on this and the epoch.
        rank: Rank of this process, 0 .. world_size - 1.
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
                # Identities left from the last turn come late in the next one, so none is twice in a step.
                waiting = set(queue)
                queue += sorted(rng.permutation(len(pictures)).tolist(), key=waiting.__contains__)
            step, queue = queue[:together], queue[together:]
            # Every process draws for all identities, to keep the generators in sync.
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
    """Every picture once per epoch, in random order, as ``(epoch, index)`` pairs.

    Args:
        labels: Identity of each picture.
        camids: Camera of each picture.
        batch_size: Pictures per step in each process.
        seed: The order depends only on this and the epoch.
        rank: Rank of this process, 0 .. world_size - 1.
        world_size: Number of processes.
        drop_last: Whether to drop the last, incomplete step. Otherwise the processes share it as evenly as possible; if
            it has fewer pictures than processes it is dropped, since a process without a batch would block the others.

    Raises:
        ValueError: If ``batch_size`` is less than 1, or there are no steps.

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
        # This process's share of the last, smaller step: start and end after the full steps.
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
    """A process's share of an evaluation, in complete batches.

    Batches are the same for any number of processes, since the last bits of an embedding can depend on the batch size.
    Every picture is on one process, and shares differ by at most one batch. A process without a batch repeats the first
    one, since all processes must take part in collective operations; metrics identify duplicates by position.

    Args:
        length: Number of pictures.
        rank: Rank of this process, 0 .. world_size - 1.
        world_size: Number of processes.
        batch_size: Pictures per batch.

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
