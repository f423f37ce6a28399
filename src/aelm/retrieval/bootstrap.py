"""How far the scores would move with other people: bootstrap intervals, identities resampled."""

from typing import NamedTuple

import numpy as np

from aelm.retrieval.labels import IntArray
from aelm.retrieval.result import RankResult


class Interval(NamedTuple):
    """A confidence interval; both ends are fractions in 0 .. 1."""

    low: float
    high: float


def bootstrap(
    result: RankResult, *, samples: int = 1000, confidence: float = 0.95, seed: int = 0
) -> dict[str, Interval]:
    """Percentile intervals of the scores, by the names of :meth:`RankResult.scalars`.

    Queries of one identity share their gallery pictures and so succeed or fail together. Resampling queries would
    take them for independent and give intervals that are too narrow; so whole identities are drawn, with replacement.

    Args:
        result: What :func:`rank_metrics` returned.
        samples: Draws.
        confidence: Share of the draws that the interval spans.
        seed: Of the draws; the same seed gives the same intervals.

    Raises:
        ValueError: If ``samples`` is below 1 or ``confidence`` not between 0 and 1.
    """
    if samples < 1 or not 0 < confidence < 1:
        raise ValueError(
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
    tail = (1 - confidence) / 2
    intervals = {}
    for name, score in scores.items():
        means = drawn @ np.bincount(identity, score) / (drawn @ size)
        low, high = np.quantile(means, [tail, 1 - tail])
        intervals[name] = Interval(float(low), float(high))
    return intervals


def resamples(pids: IntArray, samples: int, seed: int = 0) -> tuple[IntArray, IntArray]:
    """How often each identity is drawn, with replacement, in each of some draws of as many identities as there are.

    Args:
        pids: ``(n,)``, whose each value is.
        samples: Draws.
        seed: Of the draws.

    Returns:
        ``(samples, I)`` times that each of the I identities is drawn, and ``(n,)`` which of them each value belongs to.
    """
    people, identity = np.unique(pids, return_inverse=True)
    count = len(people)
    return np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples), identity
