"""Computes the usual re-ID scores from the ranks of the matches."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.retrieval.labels import FloatArray, IntArray, Labels, PidPairs
from aelm.types import InputError


class RankResult(NamedTuple):
    """Scores of a ranking, as fractions in 0 .. 1; ranks start at 1, with ignored pictures removed.

    Attributes:
        mAP: Mean of ``(1/R) sum k / r_k``, the formula of torchreid, fast-reid, BoT and TransReID.
        mAP_trapezoid: Mean of ``(1/R) sum 1/2 [k / r_k + (k-1) / (r_k - 1)]``, Market-1501's official code.
        mINP: Mean of ``R / r_R``.
        cmc: ``(max_rank,)`` float64: share of queries whose first match has rank k or better.
        average_precision: ``(Q,)`` float64, NaN for a skipped query, as are the next two.
        average_precision_trapezoid: ``(Q,)`` float64.
        inverse_negative_penalty: ``(Q,)`` float64, ``R / r_R`` of each query.
        first_rank: ``(Q,)`` int64, rank of the first match; 0 for a skipped query.
        match_query: ``(M,)`` int64, the query of every match, ascending.
        match_gallery: ``(M,)`` int64, the gallery row of every match, best first for each query.
        match_rank: ``(M,)`` int64, its rank.
        query_pids: ``(Q,)`` int64, as given.
        query_camids: ``(Q,)`` int64, as given.
        num_queries: Q, including skipped ones.
        num_skipped: Queries without a match, left out of all means.
        num_junk: Gallery pictures of pid -1.
        num_distractors: Gallery pictures of an identity without a query.
    """

    mAP: float
    mAP_trapezoid: float
    mINP: float
    cmc: FloatArray
    average_precision: FloatArray
    average_precision_trapezoid: FloatArray
    inverse_negative_penalty: FloatArray
    first_rank: IntArray
    match_query: IntArray
    match_gallery: IntArray
    match_rank: IntArray
    query_pids: IntArray
    query_camids: IntArray
    num_queries: int
    num_skipped: int
    num_junk: int
    num_distractors: int

    def scalars(self) -> dict[str, float]:
        """The scores by logged name: mAP, mAP_trapezoid, mINP, rank1, rank5, rank10."""
        return _scalars(self, np.ones(self.num_queries, dtype=bool))

    def by_camera(self) -> dict[int, dict[str, float]]:
        """The same scores for the queries of each camera, with ``num_queries`` and ``num_skipped``.

        Scores are NaN for a camera whose queries were all skipped.
        """
        cameras = {}
        for camid in np.unique(self.query_camids).tolist():
            chosen = self.query_camids == camid
            skipped = int((chosen & (self.first_rank == 0)).sum())
            counts = {"num_queries": float(chosen.sum()), "num_skipped": float(skipped)}
            cameras[camid] = {**_scalars(self, chosen), **counts}
        return cameras


def score_ranks(labels: Labels, pairs: PidPairs, rank: IntArray, max_rank: int) -> RankResult:
    """Computes a :class:`RankResult` from the ranks of all matches.

    Args:
        labels: Checked labels.
        pairs: All pairs of the same identity, with at least one match.
        rank: ``(K,)`` int64, the rank of every match from 1.
        max_rank: Length of the CMC curve; may exceed the gallery.
    """
    Q = len(labels.query_pids)
    match = np.flatnonzero(pairs.is_match)
    match = match[np.lexsort((rank[match], pairs.query[match]))]
    match_query, match_rank = pairs.query[match], rank[match]
    matches = np.bincount(match_query, minlength=Q)
    valid = matches > 0
    start = np.cumsum(matches) - matches
    k = np.arange(len(match_query)) - start[match_query] + 1
    precision = k / match_rank
    before = np.where(match_rank == 1, 1.0, (k - 1) / np.maximum(match_rank - 1, 1))
    first, last = np.zeros(Q, dtype=np.int64), np.ones(Q, dtype=np.int64)
    first[valid] = match_rank[start[valid]]
    last[valid] = match_rank[(start + matches - 1)[valid]]
    divisor = np.where(valid, matches, np.nan)
    ap = np.bincount(match_query, precision, Q) / divisor
    trapezoid = np.bincount(match_query, (precision + before) / 2, Q) / divisor
    inp = divisor / last
    reached = np.bincount(np.minimum(first[valid], max_rank + 1), minlength=max_rank + 2)
    return RankResult(
        mAP=float(ap[valid].mean()),
        mAP_trapezoid=float(trapezoid[valid].mean()),
        mINP=float(inp[valid].mean()),
        cmc=np.cumsum(reached[1 : max_rank + 1]) / valid.sum(),
        average_precision=ap,
        average_precision_trapezoid=trapezoid,
        inverse_negative_penalty=inp,
        first_rank=first,
        match_query=match_query,
        match_gallery=pairs.gallery[match],
        match_rank=match_rank,
        query_pids=labels.query_pids,
        query_camids=labels.query_camids,
        num_queries=Q,
        num_skipped=int(Q - valid.sum()),
        num_junk=labels.num_junk,
        num_distractors=labels.num_distractors,
    )


def _scalars(result: RankResult, chosen: NDArray[np.bool_]) -> dict[str, float]:
    chosen = chosen & (result.first_rank > 0)
    first = result.first_rank[chosen]
    if not len(first):
        return dict.fromkeys(("mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10"), float("nan"))
    return {
        "mAP": float(result.average_precision[chosen].mean()),
        "mAP_trapezoid": float(result.average_precision_trapezoid[chosen].mean()),
        "mINP": float(result.inverse_negative_penalty[chosen].mean()),
        "rank1": float((first <= 1).mean()),
        "rank5": float((first <= 5).mean()),
        "rank10": float((first <= 10).mean()),
    }


class Interval(NamedTuple):
    """A confidence interval; both ends are fractions in 0 .. 1, or NaN if the data does not support one."""

    low: float
    high: float


MIN_PEOPLE = 5  # too few people give no meaningful interval: with one, every resample is the same


def percentiles(means: FloatArray, people: int, confidence: float = 0.95) -> Interval:
    """The central percentile interval of bootstrap samples.

    Args:
        means: ``(samples,)``, the score in each sample.
        people: Number of resampled identities.
        confidence: Share of the draws.

    Returns:
        NaN for both ends if there are fewer than ``MIN_PEOPLE`` identities, or no sample lies beyond each end.

    >>> percentiles(np.linspace(0, 1, 101), people=5, confidence=0.5)
    Interval(low=0.25, high=0.75)
    >>> percentiles(np.linspace(0, 1, 101), people=4), percentiles(np.linspace(0, 1, 10), people=5)
    (Interval(low=nan, high=nan), Interval(low=nan, high=nan))
    """
    tail = (1 - confidence) / 2
    if people < MIN_PEOPLE or len(means) * tail < 1:
        return Interval(math.nan, math.nan)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def bootstrap(
    result: RankResult, *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Bootstrap percentile intervals of the scores, by the names of :meth:`RankResult.scalars`.

    Queries of one identity share their gallery pictures and are correlated. Resampling queries as if independent would
    give intervals that are too narrow, so whole identities are resampled with replacement.

    Args:
        result: What :func:`rank_metrics` returned.
        samples: Draws.
        confidence: Share of the samples inside the interval.
        seed: Random seed; the same seed gives the same intervals.

    Returns:
        Both ends of an interval are NaN if there are fewer than five identities, or too few samples.

    Raises:
        ValueError: If ``samples`` is below 1 or ``confidence`` not between 0 and 1.
    """
    if samples < 1 or not 0 < confidence < 1:
        raise InputError(
            f"`samples` must be at least 1 and `confidence` between 0 and 1, got {samples} and {confidence}"
        )
    valid = result.first_rank > 0
    drawn, identity = resamples(result.query_pids[valid], samples, seed)
    first = result.first_rank[valid]
    scores = {
        "mAP": result.average_precision[valid],
        "mAP_trapezoid": result.average_precision_trapezoid[valid],
        "mINP": result.inverse_negative_penalty[valid],
        "rank1": first <= 1,
        "rank5": first <= 5,
        "rank10": first <= 10,
    }
    size = np.bincount(identity)
    intervals = {}
    for name, score in scores.items():
        means = drawn @ np.bincount(identity, score) / (drawn @ size)
        intervals[name] = percentiles(means, len(size), confidence)
    return intervals


def resamples(pids: IntArray, samples: int, seed: int = 0) -> tuple[IntArray, IntArray]:
    """Bootstrap over identities: how often each identity is drawn, with replacement, in each sample.

    Args:
        pids: ``(n,)``, identity of each value.
        samples: Draws.
        seed: Of the draws.

    Returns:
        ``(samples, I)`` counts of each of the I identities, and ``(n,)`` the identity index of each value.
    """
    people, identity = np.unique(pids, return_inverse=True)
    count = len(people)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples), identity
