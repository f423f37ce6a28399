"""The nearest neighbours of every item among all items, from half of the matrix product."""

from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from aelm.retrieval.best import BestOfRows
from aelm.retrieval.counting import Values
from aelm.retrieval.labels import IntArray
from aelm.retrieval.parallel import Crew, each_rows, spans
from aelm.retrieval.product import minus_squared_distances, squared_lengths

# Items multiplied with one another at once.
TILE = 4096
# Columns of a tile turned into rows at once.
TURNED = 256
SQUARE = 64


class Neighbours(NamedTuple):
    """What re-ranking needs of the N x N squared distances.

    Attributes:
        item: ``(N, k)`` int64, nearest first, ties by item.
        distance: ``(N, k)`` squared Euclidean distances.
        largest: ``(N,)`` the largest squared distance of each item.
    """

    item: IntArray
    distance: Values
    largest: Values


def all_neighbours(items: Tensor, k: int, team: Crew) -> Neighbours:
    """Finds the k nearest of all items for each item, itself included.

    The product is symmetric, so each tile above the diagonal serves its rows, and, turned, its columns.

    Args:
        items: ``(N, D)``; squared Euclidean distances are taken between them as they are.
        k: How many; N at most.
        team: Who does it.
    """
    N = len(items)
    squared = squared_lengths(items)
    dtype = items.new_empty(0).cpu().numpy().dtype
    best, largest = BestOfRows(N, k, dtype), np.zeros(N, dtype=dtype)

    def visit(rows: Tensor, begin: int, first: int) -> None:
        """Takes in minus squared distances of items from ``begin`` on to items from ``first`` on."""

        def work(low: int, high: int, values: Any) -> None:
            low, high = begin + low, begin + high
            farthest = -values.min(axis=1) if isinstance(values, np.ndarray) else -values.amin(dim=1).cpu().numpy()
            largest[low:high] = np.maximum(largest[low:high], farthest)
            best.visit(low, high, first, values)

        each_rows(rows, work)

    tile = items.new_empty(min(N, TILE), min(N, TILE))
    for number, (low, high) in enumerate(spans(N, TILE)):
        for first, last in spans(N, TILE)[number:]:
            values = tile[: high - low, : last - first]

            def piece(
                span: tuple[int, int], low: int = low, first: int = first, last: int = last, values: Tensor = values
            ) -> None:
                rows = slice(low + span[0], low + span[1])
                part = values[span[0] : span[1]]
                minus_squared_distances(items[rows], items[first:last], squared[rows], squared[first:last], part)
                visit(part, low + span[0], first)

            def turned(span: tuple[int, int], low: int = low, first: int = first, values: Tensor = values) -> None:
                visit(_turn(values[:, span[0] : span[1]]), first + span[0], low)

            team.each(piece, spans(high - low, -(-(high - low) // team.threads)))
            if first > low:
                team.each(turned, spans(last - first, TURNED))
    return Neighbours(best.index, -best.value, largest)


def _turn(part: Tensor) -> Tensor:
    """The transpose, row after row in memory; in small squares, which a cache holds, it takes a tenth of the time."""
    if part.device.type != "cpu":
        return part.T.contiguous()
    table, turned = part.numpy(), part.new_empty(part.shape[::-1])
    for begin in range(0, len(table), SQUARE):
        turned.numpy()[:, begin : begin + SQUARE] = table[begin : begin + SQUARE].T
    return turned
