"""rank_metrics against a slow loop, tiny worlds with known answers, laws, and bad input."""

import numpy as np
import pytest
import torch

from aelm.retrieval import rank_metrics, ranking, sweep
from tests.reference import rank_scores, similarity
from tests.retrieval.worlds import random_world


def assert_equals_reference(result, world, metric, max_rank=50):
    scores = [[similarity(q, g, metric) for g in world.gallery] for q in world.query]
    assert_equals_scores(result, scores, world.labels, max_rank)


def assert_equals_scores(result, scores, labels, max_rank=50):
    slow = rank_scores(scores, *labels, max_rank=max_rank)
    assert abs(result.mAP - slow["mAP"]) < 1e-9
    assert abs(result.mAP_trapezoid - slow["mAP_trapezoid"]) < 1e-9
    assert abs(result.mINP - slow["mINP"]) < 1e-9
    assert result.num_skipped == slow["num_skipped"]
    np.testing.assert_allclose(result.cmc, slow["cmc"], atol=1e-12)
    for q, expected in enumerate(slow["per_query"]):
        mine = result.match_query == q
        if expected is None:
            assert np.isnan(result.average_precision[q])
            assert result.first_rank[q] == 0
            assert not mine.any()
            continue
        assert result.match_rank[mine].tolist() == expected[3]
        assert result.match_gallery[mine].tolist() == expected[4]
        assert abs(result.average_precision[q] - expected[0]) < 1e-9
        assert abs(result.inverse_negative_penalty[q] - expected[2]) < 1e-9


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Blocks of three pictures and two queries, so that small worlds cross many borders."""
    monkeypatch.setattr(ranking, "ROWS", 2)
    for module in (ranking, sweep, ranking.streaming):
        monkeypatch.setattr(module, "COLUMNS", 3)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("start", range(0, 200, 50))
def test_equals_the_slow_loop(metric, start):
    for seed in range(start, start + 50):
        world = random_world(seed, metric)
        max_rank = 1 + seed % 60
        result = rank_metrics(*world, metric=metric, max_rank=max_rank)
        assert_equals_reference(result, world, metric, max_rank)
