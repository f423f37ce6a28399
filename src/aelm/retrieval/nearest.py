"""Exact nearest neighbours, block by block over the gallery; ties are broken by gallery order."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.devices import block_memory, full_precision
from aelm.retrieval.blocks import COLUMNS, Array, Features, GalleryBlocks, Threads, query_tensor, threads, visit_blocks
from aelm.retrieval.labels import JUNK, FloatArray, IntArray, check_labels
from aelm.retrieval.product import Metric, check_metric, finish, gallery_weights, multiply
from aelm.retrieval.score import Certified, Scores, certify
from aelm.types import InputError

Values = NDArray[Any]
IGNORED, MISS, MATCH = -1, 0, 1

# Entries used for the first estimate of the k-th best.
SAMPLE = 2048
# Entries kept beyond the k best; usually enough for those too close to the k-th.
SPARE = 12


class Nearest(NamedTuple):
    """The nearest gallery pictures of each query, best first.

    Attributes:
        scores: ``(Q, k)``: cosines, descending; or Euclidean distances, ascending.
        indices: ``(Q, k)`` int64, gallery rows.
    """

    scores: Values
    indices: IntArray


class RankedRows(NamedTuple):
    """The nearest gallery pictures of each query and whether each is a match, for drawing.

    Attributes:
        scores: As in :class:`Nearest`.
        indices: As in :class:`Nearest`.
        verdict: ``(Q, k)`` int8: 1 match, 0 miss, -1 ignored (junk, or the query's own identity and camera).
    """

    scores: Values
    indices: IntArray
    verdict: NDArray[np.int8]


def nearest(
    query: Array, gallery: Features, k: int, *, metric: Metric = "cosine", memory: float | None = None
) -> Nearest:
    """Finds the k most similar gallery rows of each query, identical on every machine (see :func:`rank_metrics`).

    Args:
        query: ``(Q, D)`` features; a tensor's device is used for the computation.
        gallery: ``(G, D)`` features: tensor, array, memory map, or an iterable of blocks.
        k: Number of neighbours; all G if there are fewer.
        metric: ``cosine`` or ``euclidean``.
        memory: Megabytes for one block and its similarities; None for the device's default.

    Returns:
        Scores in the dtype of the features, rounded from float64.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If k is below 1, a side is empty, dimensions differ, a value is NaN or infinite, or a row is zero
            under ``cosine``.

    >>> nearest(np.eye(3)[:1], np.eye(3), k=2).indices.tolist()
    [[0, 1]]
    """
    check_metric(metric)
    if k < 1:
        raise InputError(f"`k` must be at least 1, got {k}")
    features = query_tensor(query, gallery)
    room = block_memory(features.device) if memory is None else memory
    with torch.no_grad(), full_precision(), threads(features.device) as team:
        blocks = GalleryBlocks(gallery, features, memory=room)
        if not len(blocks):
            raise InputError("`gallery` has no rows, so there is nothing to find")
        k = min(k, len(blocks))

        def attempt(certified: Certified) -> tuple[FloatArray, IntArray]:
            return _nearest(certified, k, room, team)

        score, index = certify(Scores(features, blocks, metric), attempt)
    shown = np.sqrt(np.maximum(-score, 0)) if metric == "euclidean" else score
    return Nearest(shown.astype(features.new_empty(0).cpu().numpy().dtype), index)


def _nearest(certified: Certified, k: int, memory: float, team: Threads) -> tuple[FloatArray, IntArray]:
    scores = certified.scores
    prepared, gallery = scores.prepared, scores.gallery
    kept = min(k + SPARE, len(gallery))
    best = BestOfRows(len(prepared), kept, prepared)
    visit_blocks(prepared, gallery, scores.metric, best.visit, memory, team)
    best.fetch()
    score, index = best.in_order(certified, everything=True)
    for row in best.undecided(certified, k):
        found, columns = _one_by_one(certified, int(row), k, float(best.value[row, k - 1]))
        score[row, : len(found)], index[row, : len(found)] = found, columns
        if len(found) < k:  # the products of the same rows differed by more than the bound
            certified.bound.saw(2 * certified.bound.size)
    return score[:, :k], index[:, :k]


def _one_by_one(certified: Certified, row: int, k: int, kth: float) -> tuple[FloatArray, IntArray]:
    """The k best of one query, if too many gallery rows are within the bound of the k-th best product."""
    scores = certified.scores
    limit = kth - 2 * certified.width(np.array([row]), kth)[0]
    score, index = np.empty(0), np.empty(0, dtype=np.int64)
    for first, numbers, block in scores.gallery.blocks(COLUMNS):
        values = multiply(scores.prepared[row : row + 1], block, block.new_empty(1, len(block)))
        finish(values, gallery_weights(block, scores.metric, rows=numbers), scores.metric)
        product = values[0].cpu().numpy()
        column = np.flatnonzero(product >= limit)
        found = certified.check(np.full(len(column), row), column + first, product[column])
        score, index = np.concatenate([score, found]), np.concatenate([index, column + first])
        order = np.lexsort((index, -score))[:k]
        score, index = score[order], index[order]
    return score, index


class BestOfRows:
    """Keeps the best entries of each row by product, best first.

    Args:
        rows: Number of rows.
        kept: Number of entries to keep.
        like: A tensor with the dtype and device of the entries.

    Attributes:
        value: ``(rows, kept)``, ``-inf`` where there is no entry yet.
        index: ``(rows, kept)`` int64 column numbers, -1 where there is no entry yet.

    On a GPU both are kept there until :meth:`fetch`.
    """

    def __init__(self, rows: int, kept: int, like: Tensor) -> None:
        self.value: Values = like.new_full((rows, kept), -np.inf, device="cpu").numpy()
        self.index: IntArray = np.full((rows, kept), -1, dtype=np.int64)
        # On a CPU these share the memory of the arrays.
        self._value, self._index = (torch.from_numpy(part).to(like.device) for part in (self.value, self.index))

    def fetch(self) -> None:
        """Copies the entries from the GPU, after the last visit."""
        self.value[:], self.index[:] = self._value.cpu().numpy(), self._index.cpu().numpy()

    def visit(self, begin: int, end: int, first: int, values: Values | Tensor) -> None:
        """Merges a block: rows ``begin`` to ``end``, columns from ``first`` on. Blocks come in column order."""
        if isinstance(values, Tensor):
            self._merge_on_device(begin, end, first, values)
            return
        kept = self.value.shape[1]
        bar = self.value[begin:end, -1:]
        if values.shape[1] > kept and (bar == -np.inf).any():
            # At least `kept` entries of this block reach the `kept`-th best of its beginning; smaller ones are dropped.
            sample = values[:, : max(SAMPLE, kept)]
            guess = np.partition(sample, sample.shape[1] - kept, axis=1)[:, -kept, None]
            hits = np.flatnonzero(values >= np.maximum(bar, guess))
        else:
            # Strictly larger: of equal entries the earlier ones are kept.
            hits = np.flatnonzero(values > bar)
        if len(hits):
            self._merge(begin, end, first, values, hits)

    def _merge(self, begin: int, end: int, first: int, values: Values, hits: IntArray) -> None:
        kept = self.value.shape[1]
        row, column = np.divmod(hits, values.shape[1])
        count = np.bincount(row, minlength=end - begin)
        place = kept + np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
        value = np.full((end - begin, kept + int(count.max())), np.inf, dtype=values.dtype)
        index = np.full(value.shape, -1, dtype=np.int64)
        # Negated, since only an ascending sort is stable.
        value[:, :kept], index[:, :kept] = -self.value[begin:end], self.index[begin:end]
        value[row, place], index[row, place] = -values.reshape(-1)[hits], column + first
        order = np.argsort(value, axis=1, kind="stable")[:, :kept]
        self.value[begin:end] = -np.take_along_axis(value, order, axis=1)
        self.index[begin:end] = np.take_along_axis(index, order, axis=1)

    def _merge_on_device(self, begin: int, end: int, first: int, values: Tensor) -> None:
        kept = self.value.shape[1]
        top = values.topk(min(kept, values.shape[1]), dim=1)
        value, order = torch.cat([self._value[begin:end], top.values], dim=1).sort(dim=1, descending=True, stable=True)
        index = torch.cat([self._index[begin:end], top.indices + first], dim=1)
        self._value[begin:end] = value[:, :kept]
        self._index[begin:end] = index.gather(1, order[:, :kept])

    def undecided(self, certified: Certified, k: int) -> IntArray:
        """Rows in which entries that were not kept may belong to the k best."""
        rows, kept = self.value.shape
        if kept == len(certified.scores.gallery):
            return np.empty(0, dtype=np.int64)
        width = certified.width(np.arange(rows), self.value[:, k - 1])
        found: IntArray = np.flatnonzero(self.value[:, -1] >= self.value[:, k - 1] - 2 * width)
        return found

    def in_order(self, certified: Certified, *, everything: bool) -> tuple[FloatArray, IntArray]:
        """The kept entries; those too close in product are sorted by score.

        Args:
            certified: The bound and the scores.
            everything: Whether to compute all scores, also those that do not affect the order.

        Returns:
            ``(rows, kept)`` scores, or products minus their shift where no score was needed; and columns.
        """
        rows, kept = self.value.shape
        score, index = np.empty((rows, kept)), self.index.copy()
        for begin, end in _runs(rows):
            value = self.value[begin:end].astype(np.float64)
            numbers = np.arange(begin, end)
            apart = value[:, :-1] - value[:, 1:] > 2 * certified.width(numbers[:, None], value[:, :-1])
            ends = np.ones((end - begin, 1), dtype=bool)
            # Runs of entries in which each is within the bound of the next.
            run = np.cumsum(np.concatenate([ends, apart], axis=1), axis=1)
            close = ~(np.concatenate([ends, apart], axis=1) & np.concatenate([apart, ends], axis=1)) | everything
            value -= certified.scores.shift[numbers][:, None]
            row, place = np.nonzero(close & (index[begin:end] >= 0))
            value[row, place] = certified.check(row + begin, index[begin + row, place], self.value[begin + row, place])
            if everything:
                run[:] = 0
            columns = index[begin:end]
            order = np.lexsort((columns.ravel(), -value.ravel(), run.ravel(), np.repeat(numbers, kept)))
            order = order.reshape(-1, kept) - (numbers - begin)[:, None] * kept
            score[begin:end] = np.take_along_axis(value, order, axis=1)
            index[begin:end] = np.take_along_axis(columns, order, axis=1)
        return score, index


def _runs(rows: int, size: int = 1024) -> Iterator[tuple[int, int]]:
    for begin in range(0, rows, size):
        yield begin, min(begin + size, rows)


def ranked_rows(
    query_features: Array,
    gallery_features: Features,
    query_pids: Any,
    gallery_pids: Any,
    query_camids: Any,
    gallery_camids: Any,
    k: int,
    *,
    metric: Metric = "cosine",
) -> RankedRows:
    """Finds the k nearest gallery pictures of each query, including ignored ones, and whether each is a match.

    Args and errors are those of :func:`rank_metrics` and :func:`nearest`.

    >>> features = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> ranked_rows(features[:1], features, [0], [0, 0, 1], [1], [1, 2, 2], k=3).verdict.tolist()
    [[-1, 1, 0]]
    """
    labels = check_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    found = nearest(query_features, gallery_features, k, metric=metric)
    pids, camids = labels.gallery_pids[found.indices], labels.gallery_camids[found.indices]
    own = pids == labels.query_pids[:, None]
    ignored = (pids == JUNK) | (own & (camids == labels.query_camids[:, None]))
    verdict = np.where(ignored, IGNORED, np.where(own, MATCH, MISS)).astype(np.int8)
    return RankedRows(found.scores, found.indices, verdict)
