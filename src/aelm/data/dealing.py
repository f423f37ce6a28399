"""Deals out the pictures of one identity, so that its cameras take turns."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


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
