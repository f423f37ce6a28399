import math

import numpy as np
import pytest
from scipy import stats

from aelm.compare.arms import paired_difference, summarise


@pytest.mark.parametrize("n", [2, 3, 5, 12])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_is_that_of_scipys_paired_test(n, confidence):
    draws = np.random.default_rng(n)
    one, other = draws.normal(0.4, 0.1, n), draws.normal(0.3, 0.1, n)
    found = paired_difference(dict(enumerate(one)), dict(enumerate(other)), confidence)
    test = stats.ttest_rel(one, other)
    interval = test.confidence_interval(confidence)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-12)
    assert found.mean / found.error == pytest.approx(test.statistic, rel=1e-12)
    assert found.error == pytest.approx(stats.sem(one - other), rel=1e-12)


def test_a_table_worked_by_hand():
    """Differences 2, 3 and 4: mean 3, deviation 1, error 1/sqrt(3), t(2) = 4.3027."""
    found = paired_difference({0: 12.0, 1: 23.0, 2: 34.0}, {2: 30.0, 1: 20.0, 0: 10.0})
    assert found[:2] == ((0, 1, 2), ())
    assert found.mean == 3
    assert found.error == pytest.approx(1 / math.sqrt(3))
    assert (found.low, found.high) == pytest.approx((3 - 4.302653 / math.sqrt(3), 3 + 4.302653 / math.sqrt(3)))


def test_pairs_are_by_seed_and_what_has_no_partner_takes_no_part():
    arm, base = {0: 1.0, 1: 2.0, 8: 99.0}, {1: 1.0, 0: 0.5, 9: -99.0}
    found = paired_difference(arm, base)
    assert (found.seeds, found.unpaired, found.mean) == ((0, 1), (8, 9), 0.75)
    assert paired_difference(base, arm)[2:] == pytest.approx((-found.mean, found.error, -found.high, -found.low))


def test_what_all_seeds_share_drops_out():
    shift = {seed: 10.0 * seed for seed in range(5)}
    found = paired_difference({s: v + 1 + 0.1 * (s % 2) for s, v in shift.items()}, shift)
    assert found.error < 0.05 < summarise(list(shift.values())).deviation


def test_too_few_pairs_have_no_error_and_none_no_mean():
    one, none = paired_difference({0: 2.0}, {0: 1.5}), paired_difference({0: 2.0}, {1: 1.5})
    assert (one.seeds, one.mean) == ((0,), 0.5)
    assert all(math.isnan(value) for value in (one.error, one.low, one.high, *none[2:]))
    assert none[:2] == ((), (0, 1))
    assert summarise([])[0] == 0
    assert math.isnan(summarise([]).mean)
    assert summarise([3.0])[:2] == (1, 3.0)


@pytest.mark.parametrize("confidence", [0, 1, 95])
def test_a_confidence_out_of_range_is_refused(confidence):
    with pytest.raises(ValueError, match=r"`confidence` must lie in \(0, 1\), got"):
        paired_difference({0: 1.0}, {0: 1.0}, confidence)
