"""Means over seeds, and differences of paired seeds with their errors."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Summary(NamedTuple):
    """What several seeds of one arm gave; NaN where there are too few.

    Attributes:
        values: How many.
        mean: Their mean.
        deviation: Their standard deviation, with ``values - 1``.
    """

    values: int
    mean: float
    deviation: float


class Difference(NamedTuple):
    """An arm less the baseline, seed by seed; NaN where there are too few pairs.

    Attributes:
        seeds: Those that both have.
        unpaired: Those that only one of the two has; they take no part.
        mean: Of the differences.
        error: Standard error of ``mean``.
        low: Lower end of the t-interval.
        high: Upper end.
    """

    seeds: tuple[int, ...]
    unpaired: tuple[int, ...]
    mean: float
    error: float
    low: float
    high: float


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(values=3, mean=2.0, deviation=1.0)
    """
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean()) if len(found) else math.nan
    return Summary(len(found), mean, float(found.std(ddof=1)) if len(found) > 1 else math.nan)


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """The mean difference of pairs d_1 .. d_n, its standard error sd(d) / sqrt(n), and Student's t-interval.

    The interval is that of the paired t-test: mean -+ t(n - 1) x standard error. It takes the differences as drawn from
    one normal distribution; seeds differ in weights and order of pictures, not in the pictures that are tested on.

    Args:
        arm: Seed -> value.
        baseline: Seed -> value.
        confidence: Of the interval, in (0, 1).

    Raises:
        ValueError: If ``confidence`` is out of range.

    >>> paired_difference({0: 3.0, 1: 5.0, 2: 0.0}, {0: 1.0, 1: 2.0, 7: 0.0})[:4]
    ((0, 1), (2, 7), 2.5, 0.5)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie in (0, 1), got {confidence}")
    seeds = sorted(arm.keys() & baseline.keys())
    differences = summarise([arm[seed] - baseline[seed] for seed in seeds])
    error = differences.deviation / math.sqrt(len(seeds)) if seeds else math.nan
    # Of one pair scipy's t with no degree of freedom is NaN, as it should be.
    reach = float(stats.t.ppf((1 + confidence) / 2, len(seeds) - 1)) * error
    unpaired = sorted(arm.keys() ^ baseline.keys())
    mean = differences.mean
    return Difference(tuple(seeds), tuple(unpaired), mean, error, mean - reach, mean + reach)
