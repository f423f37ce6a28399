"""Verification: same person or not, by a threshold on the similarity.

A genuine pair is a query and one of its matches, an impostor pair a query and a negative. The shares of both that a
threshold accepts are the true-accept rate (TAR) and the false-accept rate (FAR).
"""

from collections.abc import Sequence
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.devices import block_memory, full_precision
from aelm.retrieval.blocks import Array, Features, GalleryBlocks, query_tensor, threads, visit_blocks
from aelm.retrieval.counting import AT_ONCE, Values, mask
from aelm.retrieval.labels import JUNK, FloatArray, IntArray, PidPairs, check_labels, pid_pairs, require_matches
from aelm.retrieval.product import Metric, check_metric
from aelm.retrieval.score import Scores, first_bound
from aelm.types import InputError

# Points of the curve, at equal steps of the true-accept rate.
POINTS = 513


class Verification(NamedTuple):
    """Operating points and the ROC curve.

    Genuine pairs have their defined score (:mod:`aelm.retrieval.score`); impostor pairs are counted by their product,
    which is within a bound of it, about 1e-6 in float32. A pair within the bound of a threshold counts as equal to it,
    so rates and thresholds are exact up to that bound.

    Attributes:
        far: ``(F,)`` the requested false-accept rates.
        far_reached: ``(F,)`` the largest reachable rate not above it.
        tar: ``(F,)`` the true-accept rate at that point.
        threshold: ``(F,)`` accept cosines at or above it, or Euclidean distances at or below it.
        roc_far: ``(P,)`` the full curve, from strict to lenient.
        roc_tar: ``(P,)``.
        roc_threshold: ``(P,)``.
        num_genuine: Genuine pairs.
        num_impostor: Impostor pairs.
        is_supported: ``(F,)`` whether there are enough pairs for a rate: at least one impostor pair is accepted at it.
            Otherwise rate and threshold are those at which none is accepted.
    """

    far: FloatArray
    far_reached: FloatArray
    tar: FloatArray
    threshold: FloatArray
    roc_far: FloatArray
    roc_tar: FloatArray
    roc_threshold: FloatArray
    num_genuine: int
    num_impostor: int
    is_supported: NDArray[np.bool_]


def verification(
    query_features: Array,
    gallery_features: Features,
    query_pids: Any,
    gallery_pids: Any,
    query_camids: Any,
    gallery_camids: Any,
    *,
    metric: Metric = "cosine",
    far: float | Sequence[float] = (1e-2, 1e-3, 1e-4),
    memory: float | None = None,
) -> Verification:
    """Measures how well one threshold separates genuine from impostor pairs.

    Other arguments, junk and camera rules, and errors are those of :func:`rank_metrics`.

    Args:
        far: False-accept rates, between 0 and 1. For a rate below one impostor pair, none is accepted.

    Raises:
        ValueError: If a rate is out of range, or there is no impostor pair.
    """
    check_metric(metric)
    try:
        wanted = np.atleast_1d(np.asarray(far, dtype=np.float64))
    except (TypeError, ValueError):
        wanted = np.zeros(1)
    if wanted.ndim != 1 or not len(wanted) or not ((wanted > 0) & (wanted < 1)).all():
        raise InputError(f"`far` must list rates between 0 and 1, got {far}")
    labels = check_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    pairs = pid_pairs(labels)
    require_matches(labels, pairs)
    taking_part = labels.gallery_pids != JUNK
    num_impostor = len(labels.query_pids) * int(taking_part.sum()) - len(pairs.query)
    if not num_impostor:
        raise InputError("there is no impostor pair: the gallery holds no picture of another person")
    pairs = pairs._replace(gallery=(np.cumsum(taking_part) - 1)[pairs.gallery])
    query = query_tensor(query_features, gallery_features)
    if len(query) != len(labels.query_pids):
        raise InputError(f"`query_features` has {len(query)} rows but `query_pids` {len(labels.query_pids)} entries")
    with torch.no_grad(), full_precision(), threads(query.device) as team:
        room = block_memory(query.device) if memory is None else memory
        gallery = GalleryBlocks(gallery_features, query, taking_part, room)
        scores = Scores(query, gallery, metric)
        match = np.flatnonzero(pairs.is_match)
        genuine = np.sort(scores.of(pairs.query[match], pairs.gallery[match]))
        curve = np.unique(np.quantile(genuine, np.linspace(0, 1, POINTS), method="lower"))[::-1]
        # Full squared distances are needed to compare different queries. Entries within `near` of a threshold count as
        # equal to it.
        size, growth = first_bound(scores)
        near = size * max(1.0, growth) * float(scores.scale.max())
        impostors = _Impostors(pairs, scores, curve - near, int(wanted.max() * num_impostor) + 1)
        visit_blocks(scores.prepared, gallery, metric, impostors.visit, room, team)
    # Strictly above the first impostor that must be rejected.
    limit = impostors.highest()[(wanted * num_impostor).astype(np.int64)].astype(np.float64) + near
    threshold = np.nextafter(limit, np.inf)
    return Verification(
        far=wanted,
        far_reached=_number_above(impostors.highest()[::-1], limit) / num_impostor,
        tar=_number_above(genuine, limit) / len(genuine),
        threshold=_readable(threshold, metric),
        roc_far=impostors.accepted / num_impostor,
        roc_tar=1 - np.searchsorted(genuine, curve, side="left") / len(genuine),
        roc_threshold=_readable(curve, metric),
        num_genuine=len(genuine),
        num_impostor=num_impostor,
        is_supported=wanted * num_impostor >= 1,
    )


class _Impostors:
    """Counts impostor pairs above given thresholds, and keeps the most similar ones."""

    def __init__(self, pairs: PidPairs, scores: Scores, curve: FloatArray, most: int) -> None:
        self.pairs, self.shift, self.most = pairs, scores.shift, most
        # Rounded up to the dtype of the products, which changes no count.
        dtype = scores.prepared.new_empty(0).cpu().numpy().dtype
        self.curve = curve.astype(dtype)
        self.curve = np.where(self.curve < curve, np.nextafter(self.curve, np.inf, dtype=dtype), self.curve)
        self.accepted = np.zeros(len(curve), dtype=np.int64)
        self.kept: list[Values] = []
        self.size, self.bar = 0, -np.inf
        self.lock = Lock()

    def visit(self, begin: int, end: int, first: int, values: Values | Tensor) -> None:
        """Merges one block of similarities."""
        own = slice(self.pairs.start[begin], self.pairs.start[end])
        row, column = self.pairs.query[own] - begin, self.pairs.gallery[own] - first
        inside = (column >= 0) & (column < values.shape[1])
        mask(values, row[inside], column[inside])
        shift = self.shift[begin:end, None].astype(self.curve.dtype)
        if isinstance(values, Tensor):
            shifts, curve = (torch.from_numpy(part).to(values.device) for part in (shift, self.curve))
            step = max(1, AT_ONCE // values.shape[1])
            for low in range(0, len(values), step):
                part = slice(low, low + step)
                on_device = (values[part] - shifts[part]).flatten().sort().values
                above = len(on_device) - torch.searchsorted(on_device, curve).cpu().numpy()
                self._merge(above, on_device[-self.most :].cpu().numpy())
        else:
            ordered = np.sort((values - shift).reshape(-1))
            self._merge(len(ordered) - np.searchsorted(ordered, self.curve), ordered[-self.most :])

    def _merge(self, above: IntArray, tail: Values) -> None:
        with self.lock:
            self.accepted += above
            tail = tail[np.searchsorted(tail, self.bar) :].copy()
            self.kept.append(tail)
            self.size += len(tail)
            if self.size > 2 * self.most:
                self.highest()

    def highest(self) -> Values:
        """The most similar impostors, best first."""
        together = np.concatenate(self.kept)
        together = np.sort(together)[::-1][: self.most]
        self.kept, self.size = [together], len(together)
        if len(together) == self.most:
            self.bar = together[-1]
        return together


def _number_above(ascending: Values, limit: Values) -> FloatArray:
    number: FloatArray = len(ascending) - np.searchsorted(ascending, limit, side="right").astype(np.float64)
    return number


def _readable(similarity: Values, metric: Metric) -> FloatArray:
    if metric == "euclidean":
        similarity = np.sqrt(np.maximum(-similarity, 0))
    return similarity.astype(np.float64)
