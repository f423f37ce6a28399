"""Exact nearest neighbours, streamed over blocks of the gallery; ties resolve by gallery order."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.retrieval.best import BestOfRows
from aelm.retrieval.blocks import Array, Features, GalleryBlocks
from aelm.retrieval.counting import Values
from aelm.retrieval.labels import JUNK, IntArray, check_labels
from aelm.retrieval.parallel import crew
from aelm.retrieval.product import Metric, check_metric, full_precision, prepare_queries, squared_lengths
from aelm.retrieval.sweep import query_tensor, sweep

IGNORED, MISS, MATCH = -1, 0, 1


class Nearest(NamedTuple):
    """The nearest gallery pictures of each query, best first.

    Attributes:
        scores: ``(Q, k)``: cosines, descending; or Euclidean distances, ascending.
        indices: ``(Q, k)`` int64, gallery rows.
    """

    scores: Values
    indices: IntArray


class RankedRows(NamedTuple):
    """The nearest gallery pictures of each query with what they count as, for drawing.

    Attributes:
        scores: As in :class:`Nearest`.
        indices: As in :class:`Nearest`.
        verdict: ``(Q, k)`` int8: 1 match, 0 miss, -1 ignored (junk, or the query's own identity and camera).
    """

    scores: Values
    indices: IntArray
    verdict: NDArray[np.int8]


def nearest(query: Array, gallery: Features, k: int, *, metric: Metric = "cosine", memory: float = 256) -> Nearest:
    """Finds the k most similar gallery rows of each query.

    Args:
        query: ``(Q, D)`` features; the work happens on the device of a tensor.
        gallery: ``(G, D)`` features: tensor, array, memory map, or an iterable of blocks; read once.
        k: How many; all G when there are fewer.
        metric: ``cosine`` or ``euclidean``.
        memory: Megabytes for one block and its similarities.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If k is below 1, a side is empty, dimensions differ, a value is NaN or infinite, or a row is zero
            under ``cosine``.

    >>> nearest(np.eye(3)[:1], np.eye(3), k=2).indices.tolist()
    [[0, 1]]
    """
    check_metric(metric)
    if k < 1:
        raise ValueError(f"`k` must be at least 1, got {k}")
    query = query_tensor(query, gallery)
    with full_precision(query.device), crew() as team:
        prepared = prepare_queries(query, metric)
        best = BestOfRows(len(query), k, prepared.new_empty(0).cpu().numpy().dtype)
        sweep(prepared, GalleryBlocks(gallery, prepared), metric, best.visit, memory, team)
    found = int((best.index[0] >= 0).sum())
    if not found:
        raise ValueError("`gallery` has no rows, so there is nothing to find")
    scores, indices = best.value[:, :found], best.index[:, :found]
    if metric == "euclidean":
        squared = squared_lengths(query)[:, None].cpu().numpy() - scores
        scores = np.sqrt(np.maximum(squared, 0))
    return Nearest(scores, indices)


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
    """Finds the k nearest gallery pictures of each query, ignored ones included, and says what each counts as.

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
