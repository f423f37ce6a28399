"""Ranks of the matches by counting what stands above them, without ranking anything else.

A match at similarity s, the k-th best of its query, has rank k + (negatives above s). Only the matches are put in
order; of the negatives, just the number above each match is needed, and numbers add up over blocks of the gallery.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aelm.retrieval.labels import IntArray

Values = NDArray[Any]

# Where a sample says that fewer than this share of a row can stand above any match, the rest is filtered out first.
SPARSE = 0.2
SAMPLE = 256


def count_above(values: Values, row: IntArray, column: IntArray, threshold: Values) -> IntArray:
    """Counts, for each threshold, the entries of its row that stand above it in a stable ranking.

    An entry stands above when it is larger, or equal and in an earlier column.

    Args:
        values: ``(R, N)`` similarities; what takes no part is ``-inf``.
        row: ``(T,)`` ascending, the row of each threshold.
        column: ``(T,)`` where the threshold itself stands; may lie before 0 or beyond N when that is another block.
        threshold: ``(T,)`` finite similarities.

    Returns:
        ``(T,)`` int64.

    >>> values = np.array([[3.0, 5.0, 3.0, 1.0]])
    >>> count_above(values, np.array([0, 0]), np.array([0, 2]), np.array([3.0, 3.0])).tolist()
    [1, 2]
    """
    above = np.zeros(len(row), dtype=np.int64)
    rows, begin = np.unique(row, return_index=True)
    end = np.append(begin[1:], len(row))
    lowest = np.minimum.reduceat(threshold, begin) if len(row) else threshold
    sampled = np.count_nonzero(values[rows, :SAMPLE] >= lowest[:, None], axis=1)
    sparse = sampled < SPARSE * min(SAMPLE, values.shape[1])
    for i, (r, first, last) in enumerate(zip(rows.tolist(), begin.tolist(), end.tolist(), strict=True)):
        line = values[r]
        ordered = np.sort(line[line >= lowest[i]] if sparse[i] else line)
        wanted = threshold[first:last]
        place = np.searchsorted(ordered, wanted, side="right")
        above[first:last] = len(ordered) - place
        # The entry just below the gap equals the threshold only in a tie; ties are rare, so they are looked up one by one.
        tied = np.flatnonzero((place > 0) & (ordered[place - 1] == wanted)) if len(ordered) else place[:0]
        for t in tied + first:
            above[t] += np.count_nonzero(line[: max(column[t], 0)] == threshold[t])
    return above


def rank_rows(
    values: Values, row: IntArray, column: IntArray, is_match: NDArray[np.bool_], ignored: IntArray
) -> tuple[IntArray, IntArray]:
    """Ranks the matches of some queries, given whole rows of similarities.

    Args:
        values: ``(R, N)`` similarities; overwritten with ``-inf`` where no negative stands.
        row: ``(K,)`` ascending: the rows of all pairs of one identity.
        column: ``(K,)`` their columns, ascending within a row.
        is_match: ``(K,)`` False for pairs of one camera, which take no part.
        ignored: Columns that take no part for any query.

    Returns:
        The order, positions in ``row`` of the matches, best first within a row; and their ranks.
    """
    own = values[row, column]
    values[row, column] = -np.inf
    values[:, ignored] = -np.inf
    match = np.flatnonzero(is_match)
    order = match[np.lexsort((column[match], -own[match], row[match]))]
    above = count_above(values, row[order], column[order], own[order])
    return order, above + place_within(row[order])


def place_within(row: IntArray) -> IntArray:
    """Numbers the entries of each row from 1, for an ascending list of rows.

    >>> place_within(np.array([0, 0, 2])).tolist()
    [1, 2, 1]
    """
    _, begin, size = np.unique(row, return_index=True, return_counts=True)
    return np.arange(1, len(row) + 1) - np.repeat(begin, size)
