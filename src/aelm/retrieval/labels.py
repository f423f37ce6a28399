"""The identity and camera rules of re-ID: which pairs are matches, negatives or ignored.

For a query, a gallery picture of the same identity is a match if another camera took it, and ignored if the same camera
did. Pictures of pid -1 (junk) are always ignored. All others, including distractors, are negatives.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from aelm.types import InputError, InputTypeError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
JUNK = -1


class Labels(NamedTuple):
    """Checked identities and cameras of queries and gallery, all int64.

    Attributes:
        query_pids: ``(Q,)``, all 0 or above.
        gallery_pids: ``(G,)``, -1 is junk.
        query_camids: ``(Q,)``.
        gallery_camids: ``(G,)``.
    """

    query_pids: IntArray
    gallery_pids: IntArray
    query_camids: IntArray
    gallery_camids: IntArray

    @property
    def num_junk(self) -> int:
        """Number of gallery pictures of pid -1."""
        return int((self.gallery_pids == JUNK).sum())

    @property
    def num_distractors(self) -> int:
        """Number of gallery pictures of an identity without a query, without junk."""
        known = np.isin(self.gallery_pids, self.query_pids)
        return int((~known & (self.gallery_pids != JUNK)).sum())


class PidPairs(NamedTuple):
    """All (query, gallery) pairs of the same identity, by query and then in gallery order.

    Attributes:
        query: ``(K,)`` int64, ascending.
        gallery: ``(K,)`` int64.
        is_match: ``(K,)`` bool: True if the cameras differ, False if the pair is ignored.
        start: ``(Q + 1,)`` int64: the pairs of query ``q`` are ``start[q]:start[q + 1]``.
    """

    query: IntArray
    gallery: IntArray
    is_match: NDArray[np.bool_]
    start: IntArray


def check_labels(query_pids: Any, gallery_pids: Any, query_camids: Any, gallery_camids: Any) -> Labels:
    """Turns tensors, arrays or lists into :class:`Labels`.

    Raises:
        TypeError: If ids are not integers.
        ValueError: If a side is empty, lengths differ, a pid is below -1, or a query is junk.

    >>> check_labels([3, 4], [3, -1, 9], [1, 1], [2, 2, 2]).num_distractors
    1
    """
    labels = Labels(
        whole_numbers("query_pids", query_pids),
        whole_numbers("gallery_pids", gallery_pids),
        whole_numbers("query_camids", query_camids),
        whole_numbers("gallery_camids", gallery_camids),
    )
    for side, pids, camids in (("query", labels[0], labels[2]), ("gallery", labels[1], labels[3])):
        if len(pids) == 0:
            raise InputError(f"the {side} is empty: `{side}_pids` has no entry, so there is nothing to rank")
        if len(pids) != len(camids):
            raise InputError(f"`{side}_pids` has {len(pids)} entries but `{side}_camids` has {len(camids)}")
        if (pids < JUNK).any():
            raise InputError(
                f"`{side}_pids` must be -1 (junk) or above, got {pids.min()} at row {int(pids.argmin())}; "
                "number the identities from 0"
            )
    if (labels.query_pids == JUNK).any():
        rows = np.flatnonzero(labels.query_pids == JUNK)
        raise InputError(
            f"pid -1 marks junk, which only the gallery may hold, but {len(rows)} of {len(labels.query_pids)} queries "
            f"have it (rows {first_few(rows)}); drop them from the query set"
        )
    return labels


def pid_pairs(labels: Labels) -> PidPairs:
    """Lists all pairs of the same identity, without a Q x G table.

    >>> pid_pairs(check_labels([3, 4], [3, -1, 4, 3], [1, 1], [2, 2, 1, 1])).gallery.tolist()
    [0, 3, 2]
    """
    order = np.argsort(labels.gallery_pids, kind="stable")
    grouped = labels.gallery_pids[order]
    low = np.searchsorted(grouped, labels.query_pids, side="left")
    size = np.searchsorted(grouped, labels.query_pids, side="right") - low
    start = np.concatenate([[0], np.cumsum(size)])
    query = np.repeat(np.arange(len(size)), size)
    gallery = order[np.arange(start[-1]) + np.repeat(low - start[:-1], size)]
    is_match = labels.query_camids[query] != labels.gallery_camids[gallery]
    return PidPairs(query, gallery, is_match, start)


def some_queries(pairs: PidPairs, begin: int, end: int) -> PidPairs:
    """The pairs of queries ``begin`` to ``end``, with queries renumbered from 0."""
    own = slice(pairs.start[begin], pairs.start[end])
    start = pairs.start[begin : end + 1] - pairs.start[begin]
    return PidPairs(pairs.query[own] - begin, pairs.gallery[own], pairs.is_match[own], start)


def place_within(row: IntArray) -> IntArray:
    """Numbers the entries of each row from 1; row indices must ascend.

    >>> place_within(np.array([0, 0, 2])).tolist()
    [1, 2, 1]
    """
    _, begin, size = np.unique(row, return_index=True, return_counts=True)
    return np.arange(1, len(row) + 1) - np.repeat(begin, size)


def require_matches(labels: Labels, pairs: PidPairs) -> None:
    """Raises an error with the likely cause if no query can be scored.

    Raises:
        ValueError: If no query has a match.
    """
    if pairs.is_match.any():
        return
    shared = np.intersect1d(labels.query_pids, labels.gallery_pids)
    head = f"none of the {len(labels.query_pids)} queries has a match in the gallery: "
    if len(shared) == 0:
        raise InputError(head + "the two sides share no pid; are both numbered by the same label map?")
    cameras = np.union1d(labels.query_camids, labels.gallery_camids)
    raise InputError(
        f"{head}{len(shared)} pids occur on both sides, but only in pictures of the query's own camera (camera ids "
        f"seen: {first_few(cameras)}); give each camera, or each side, its own camid"
    )


def first_few(rows: IntArray, most: int = 5) -> str:
    """Lists the first rows for an error message.

    >>> first_few(np.arange(9), most=3)
    '0, 1, 2, ...'
    """
    return ", ".join(str(row) for row in rows[:most]) + (", ..." if len(rows) > most else "")


def whole_numbers(name: str, values: Any) -> IntArray:
    """Converts ids from a tensor, array or list to int64, one per picture.

    Raises:
        TypeError: If the ids are not integers.
        ValueError: If there is not exactly one axis.
    """
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.ndim != 1:
        raise InputError(f"`{name}` must have one axis, one id for each picture, got shape {array.shape}")
    if array.size and array.dtype.kind in "UO":
        raise InputTypeError(
            f"`{name}` must hold whole numbers, got {type(array[0]).__name__} such as {array[0]!r}; number both sides "
            "together: numpy.unique([*of_queries, *of_gallery], return_inverse=True)"
        )
    if array.size and array.dtype.kind not in "iu":
        raise InputTypeError(f"`{name}` must hold whole numbers, got {array.dtype}; convert with `.astype('int64')`")
    return array.astype(np.int64)
