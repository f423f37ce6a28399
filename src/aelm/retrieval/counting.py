"""Counts entries of a row above a threshold, and finds entries too close to it for the product's precision."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.retrieval.labels import FloatArray, IntArray, place_within

Values = NDArray[Any]
# Computes scores of entries from their rows, columns and products.
Score = Callable[[IntArray, IntArray, Values], FloatArray]

# If a sample shows that less than this share of a row can be above any match, the rest is dropped before sorting.
SPARSE = 0.2
SAMPLE = 256
# Entries that a GPU sorts at once; each needs about 12 bytes for the result, and as many while sorting.
AT_ONCE = 2**24


class Close(NamedTuple):
    """Entries whose product is too close to a threshold of their row.

    Attributes:
        row: ``(n,)`` int64, ascending.
        column: ``(n,)`` int64.
        value: ``(n,)`` their products.
    """

    row: IntArray
    column: IntArray
    value: Values


def mask(values: Values | Tensor, row: IntArray, column: IntArray) -> None:
    """Replaces some entries by ``-inf``, so that they are ignored."""
    if isinstance(values, Tensor):
        values[torch.from_numpy(row).to(values.device), torch.from_numpy(column).to(values.device)] = -torch.inf
    else:
        values[row, column] = -np.inf


def take(values: Values | Tensor, row: IntArray, column: IntArray) -> Values:
    if isinstance(values, Tensor):
        rows, columns = (torch.from_numpy(place).to(values.device) for place in (row, column))
        own: Values = values[rows, columns].cpu().numpy()
        return own
    own = values[row, column]
    return own


def count_above(
    values: Values | Tensor,
    row: IntArray,
    column: IntArray,
    threshold: Values,
    width: FloatArray,
    score: Score,
    known: FloatArray | None = None,
) -> IntArray:
    """Counts, for each threshold, the other entries of its row that are above it.

    Entries clearly larger than the threshold are above it. Entries near it are compared by score, and by column if
    scores are equal.

    Args:
        values: ``(R, N)`` similarities; ignored entries are ``-inf``.
        row: ``(T,)`` ascending, the row of each threshold.
        column: ``(T,)`` column of the threshold itself; below 0 or at least N if it is in another block.
        threshold: ``(T,)`` finite similarities.
        width: ``(T,)`` entries within this distance of the threshold are near it.
        score: Computes the scores of near entries.
        known: ``(T,)`` scores of the thresholds; None if all are in ``values`` and are scored with the other entries.

    Returns:
        ``(T,)`` int64.

    >>> values = np.array([[3.0, 5.0, 3.0, 1.0]])
    >>> row, column, threshold = np.array([0, 0]), np.array([0, 2]), np.array([3.0, 3.0])
    >>> count_above(values, row, column, threshold, np.zeros(2), lambda row, column, value: value)
    array([1, 2])
    """
    if not len(row):
        return np.zeros(0, dtype=np.int64)
    # Rounded outward, to the dtype of the entries.
    dtype = np.dtype(str(values.dtype).removeprefix("torch."))
    wide = threshold.astype(np.float64)
    low, high = (wide - width).astype(dtype), (wide + width).astype(dtype)
    low = np.where(low > wide - width, np.nextafter(low, -np.inf, dtype=dtype), low)
    high = np.where(high < wide + width, np.nextafter(high, np.inf, dtype=dtype), high)
    if isinstance(values, Tensor):
        above, near, close = _count_on_device(values, row, column, low, high)
    else:
        above, near, close = _count_on_cpu(values, row, column, low, high)
    if not len(near):
        return above
    scores = score(*close)
    if known is None:
        place = np.searchsorted(close.row * values.shape[1] + close.column, row[near] * values.shape[1] + column[near])
        asked = scores[place]
    else:
        asked = known[near]
    # Entries with a score are counted by it instead of by their product.
    by_score = _before(row[near], (-asked, column[near]), close.row, (-scores, close.column))
    above[near] += by_score - _before(row[near], (-high[near],), close.row, (-close.value,))
    return above


def _before(row: IntArray, keys: tuple[Values, ...], other_row: IntArray, other_keys: tuple[Values, ...]) -> IntArray:
    """Counts, for each key, the other keys of its row that come strictly before it."""
    is_other = np.repeat([False, True], [len(row), len(other_row)])
    rows = np.concatenate([row, other_row])
    columns = [np.concatenate(pair) for pair in zip(keys, other_keys, strict=True)]
    order = np.lexsort((is_other, *reversed(columns), rows))
    before = np.empty(len(rows), dtype=np.int64)
    before[order] = np.cumsum(is_other[order])
    counted: IntArray = before[: len(row)] - np.searchsorted(np.sort(other_row), row)
    return counted


def _count_on_cpu(
    values: Values, row: IntArray, column: IntArray, low: Values, high: Values
) -> tuple[IntArray, IntArray, Close]:
    # Sorting a row with vector instructions is faster than comparing it with about ten thresholds.
    rows, begin = np.unique(row, return_index=True)
    end = np.append(begin[1:], len(row))
    lowest = np.minimum.reduceat(low, begin)
    # Near entries: at or above the first edge, at or below the second.
    before = np.zeros((2, len(row)), dtype=np.int64)
    for i, ordered in _ordered_rows(values, rows, lowest):
        part = slice(begin[i], end[i])
        before[0, part] = ordered.searchsorted(low[part]) - len(ordered)
        before[1, part] = ordered.searchsorted(high[part], side="right") - len(ordered)
    itself = (column >= 0) & (column < values.shape[1])
    near = np.flatnonzero(before[1] - before[0] > itself)
    found = [np.empty((2, 0), dtype=np.int64)]
    some, first = np.unique(row[near], return_index=True)
    for r, own in zip(some.tolist(), np.split(near, first[1:]), strict=False):
        line = values[r]
        # All thresholds at once: threads with small pieces of work wait for each other.
        columns = np.flatnonzero(((line >= low[own, None]) & (line <= high[own, None])).any(axis=0))
        found.append(np.stack([np.full(len(columns), r), columns]))
    where, entry = np.concatenate(found, axis=1)
    return -before[1], near, Close(where, entry, values[where, entry])


def _ordered_rows(values: Values, rows: IntArray, lowest: Values) -> Iterator[tuple[int, Values]]:
    """Yields the index of each row and its entries in ascending order, at least those from ``lowest`` on."""
    sampled = np.count_nonzero(values[rows, :SAMPLE] >= lowest[:, None], axis=1)
    sparse = sampled < SPARSE * min(SAMPLE, values.shape[1])
    dense = np.flatnonzero(~sparse)
    yield from zip(dense.tolist(), np.sort(values[rows[dense]], axis=1), strict=True)
    numbers = np.flatnonzero(sparse)
    if len(numbers):
        part = values if len(numbers) == len(values) else values[rows[numbers]]
        kept = np.flatnonzero(part >= lowest[numbers, None])
        entries = part.reshape(-1)[kept]
        starts = np.searchsorted(kept, np.arange(1, len(part)) * part.shape[1])
        for r, line in zip(numbers.tolist(), np.split(entries, starts), strict=True):
            line.sort()
            yield r, line


def _count_on_device(
    values: Tensor, row: IntArray, column: IntArray, low: Values, high: Values
) -> tuple[IntArray, IntArray, Close]:
    R, N = values.shape
    place = place_within(row) - 1
    # One line of thresholds for each row. No entry is near the padding, which counts itself N times.
    limits = np.full((2, R, int(place.max()) + 1), np.inf, dtype=low.dtype)
    own = np.full(limits.shape[1:], N, dtype=np.int64)
    limits[:, row, place] = low, high
    own[row, place] = (column >= 0) & (column < N)
    lows, highs = torch.from_numpy(limits).to(values.device)
    itself = torch.from_numpy(own).to(values.device)
    counts, found = [], []
    step = max(1, AT_ONCE // N)
    for begin in range(0, R, step):
        part = slice(begin, begin + step)
        ordered, order = values[part].sort(dim=1)
        first, end = torch.searchsorted(ordered, lows[part]), torch.searchsorted(ordered, highs[part], right=True)
        near = end - first > itself[part]
        counts.append(torch.stack([N - end, near]))
        # In order, the near entries of a threshold are a run: 1 more where it begins, 1 less where it ends.
        some = torch.nonzero(near.any(dim=1))[:, 0]
        change = near[some].to(torch.int32)
        runs = change.new_zeros(len(some), N + 1)
        runs.scatter_add_(1, first[some], change).scatter_add_(1, end[some], -change)
        rows, places = torch.nonzero(runs.cumsum(dim=1, dtype=torch.int32), as_tuple=True)
        found.append((begin + some[rows]) * N + order[some[rows], places])
    where, entry = np.divmod(torch.cat(found).sort().values.cpu().numpy(), N)
    above, is_near = torch.cat(counts, dim=1).cpu().numpy()[:, row, place]
    return above, np.flatnonzero(is_near), Close(where, entry, take(values, where, entry))
