"""Ranks of the matches by counting what stands above them, without ranking anything else.

A match at similarity s, the k-th best of its query, has rank k + (negatives above s). Only the matches are put in
order; of the negatives, just the number above each match is needed, and numbers add up over blocks of the gallery.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.retrieval.labels import IntArray, OwnPairs, order_matches, place_within

Values = NDArray[Any]

# Where a sample says that less than this share of a row can stand above any match, the rest is dropped before sorting.
SPARSE = 0.2
SAMPLE = 256
# Entries that a GPU compares at once; each takes a few bytes for a moment.
AT_ONCE = 2**25


def rank_rows(values: Values | Tensor, pairs: OwnPairs) -> IntArray:
    """Ranks the matches of some queries, given whole rows of similarities.

    Args:
        values: ``(Q, G)`` similarities; what takes no part is ``-inf``. Overwritten where no negative stands.
        pairs: All pairs of one identity in these rows.

    Returns:
        ``(K,)`` int64, the rank of every match from 1; 0 for the other pairs.
    """
    own = take_and_mask(values, pairs.query, pairs.gallery)
    order = order_matches(pairs, own)
    rank = np.zeros(len(own), dtype=np.int64)
    above = count_above(values, pairs.query[order], pairs.gallery[order], own[order])
    rank[order] = above + place_within(pairs.query[order])
    return rank


def take_and_mask(values: Values | Tensor, row: IntArray, column: IntArray) -> Values:
    """Reads some entries and puts ``-inf`` in their place."""
    if isinstance(values, Tensor):
        at = (torch.from_numpy(row).to(values.device), torch.from_numpy(column).to(values.device))
        own: Values = values[at].cpu().numpy()
        values[at] = -torch.inf
    else:
        own = values[row, column]
        values[row, column] = -np.inf
    return own


def count_above(values: Values | Tensor, row: IntArray, column: IntArray, threshold: Values) -> IntArray:
    """Counts, for each threshold, the entries of its row that stand above it in a stable ranking.

    An entry stands above when it is larger, or equal and in an earlier column.

    Args:
        values: ``(R, N)`` similarities; what takes no part is ``-inf``.
        row: ``(T,)`` ascending, the row of each threshold.
        column: ``(T,)`` where the threshold itself stands; before 0 or beyond N when that is in another block.
        threshold: ``(T,)`` finite similarities.

    Returns:
        ``(T,)`` int64.

    >>> values = np.array([[3.0, 5.0, 3.0, 1.0]])
    >>> count_above(values, np.array([0, 0]), np.array([0, 2]), np.array([3.0, 3.0])).tolist()
    [1, 2]
    """
    if not len(row):
        return np.zeros(0, dtype=np.int64)
    if isinstance(values, Tensor):
        return _count_by_comparing(values, row, column, threshold)
    return _count_by_sorting(values, row, column, threshold)


def _count_by_sorting(values: Values, row: IntArray, column: IntArray, threshold: Values) -> IntArray:
    # On a CPU, sorting a row with vector instructions costs less than comparing it with some ten thresholds.
    above = np.zeros(len(row), dtype=np.int64)
    rows, begin = np.unique(row, return_index=True)
    end = np.append(begin[1:], len(row))
    lowest = np.minimum.reduceat(threshold, begin)
    sampled = np.count_nonzero(values[rows, :SAMPLE] >= lowest[:, None], axis=1)
    sparse = sampled < SPARSE * min(SAMPLE, values.shape[1])
    for i, (r, first, last) in enumerate(zip(rows.tolist(), begin.tolist(), end.tolist(), strict=True)):
        line, wanted = values[r], threshold[first:last]
        ordered = np.sort(line[line >= lowest[i]] if sparse[i] else line)
        place = ordered.searchsorted(wanted, side="right")
        above[first:last] = len(ordered) - place
        # What stands just below equals the threshold only in a tie; ties are rare and looked up one by one.
        tied = np.flatnonzero(ordered[place - 1] == wanted) if len(ordered) else ()
        for t in tied:
            if place[t]:
                above[first + t] += np.count_nonzero(line[: max(column[first + t], 0)] == wanted[t])
    return above


def _count_by_comparing(values: Tensor, row: IntArray, column: IntArray, threshold: Values) -> IntArray:
    R, N = values.shape
    place = place_within(row) - 1
    width = int(place.max()) + 1
    # One line of thresholds for each row, filled up with +inf, which nothing exceeds.
    limit, own = np.full((width, R), np.inf, dtype=threshold.dtype), np.zeros((width, R), dtype=np.int64)
    limit[place, row], own[place, row] = threshold, column
    limits = torch.from_numpy(limit).to(values.device)[:, :, None]
    columns = torch.from_numpy(own).to(values.device)[:, :, None]
    position = torch.arange(N, device=values.device)
    above = torch.zeros(width, R, dtype=torch.int64, device=values.device)
    step = max(1, AT_ONCE // N)
    for begin in range(0, R, step):
        part = slice(begin, begin + step)
        for k in range(width):
            level = (values[part] == limits[k, part]) & (position < columns[k, part])
            above[k, part] = (level | (values[part] > limits[k, part])).sum(dim=1)
    counted: IntArray = above.cpu().numpy()[place, row]
    return counted
