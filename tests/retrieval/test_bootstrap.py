"""Bootstrap intervals: laws, and a slow twin."""

import numpy as np
import pytest

from aelm.retrieval import bootstrap, rank_metrics


def ranked(people, shots, seed=0):
    r = np.random.default_rng(seed)
    pids = np.repeat(np.arange(people), shots)
    centres = r.standard_normal((people, 8))[pids]
    # Whole people are easy or hard, so their queries rise and fall together.
    spread = r.uniform(0.1, 2.5, people)[pids][:, None]
    query, gallery = (centres + spread * r.standard_normal(centres.shape) for _ in range(2))
    return rank_metrics(query, gallery, pids, pids, np.zeros(len(pids), int), np.ones(len(pids), int))


def test_equals_drawing_people_one_by_one():
    result = ranked(12, 5)
    drawn = np.random.default_rng(3).multinomial(12, np.full(12, 1 / 12), size=50)
    means = []
    for counts in drawn:
        chosen = [
            ap
            for person, times in enumerate(counts)
            for ap in [*result.average_precision[result.query_pids == person]] * times
        ]
        means.append(np.mean(chosen))
    interval = bootstrap(result, samples=50, confidence=0.8, seed=3)["mAP"]
    np.testing.assert_allclose(interval, np.quantile(means, [0.1, 0.9]), atol=1e-12)


def test_intervals_hold_the_score_and_shrink_with_more_people():
    few, many = ranked(20, 4), ranked(320, 4)
    for result in (few, many):
        intervals = bootstrap(result)
        assert intervals.keys() == result.scalars().keys()
        for name, score in result.scalars().items():
            assert intervals[name].low <= score <= intervals[name].high
    width = {result.num_queries: np.diff(bootstrap(result)["mAP"])[0] for result in (few, many)}
    assert 2.5 < width[80] / width[1280] < 6.5


def test_people_not_queries_are_drawn():
    result = ranked(40, 30)
    width = np.diff(bootstrap(result)["mAP"])[0]
    naive = 2 * 1.96 * result.average_precision.std() / np.sqrt(result.num_queries)
    assert width > 2 * naive


def test_skipped_queries_do_not_count_and_seeds_repeat():
    features = np.eye(6)
    result = rank_metrics(features, features[:5], [0, 1, 2, 3, 4, 9], range(5), [0] * 6, [1] * 5)
    assert bootstrap(result)["mAP"] == (1.0, 1.0)
    world = ranked(10, 3)
    assert bootstrap(world, seed=1) == bootstrap(world, seed=1) != bootstrap(world, seed=2)


@pytest.mark.parametrize("change", [{"samples": 0}, {"confidence": 1.0}])
def test_bad_options_are_named(change):
    with pytest.raises(ValueError, match="`samples` must be at least 1"):
        bootstrap(ranked(3, 2), **change)
