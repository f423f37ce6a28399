"""Sparse re-ranking against the dense procedure."""

import sys

import numpy as np
import pytest

from aelm.retrieval import rank_metrics, rerank, rerank_blocks
from tests.reference import rerank_dense


def people(seed, Q, G, D=16, ids=12, spread=0.7):
    """Features of unit length that gather around identities."""
    r = np.random.default_rng(seed)
    centres = r.standard_normal((ids, D))
    features = centres[r.integers(0, ids, Q + G)] + spread * r.standard_normal((Q + G, D))
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features[:Q], features[Q:]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"), [(20, 6, 0.3), (7, 1, 0.0), (5, 3, 1.0), (50, 9, 0.5), (1, 10, 0.3)]
)
def test_equals_the_dense_procedure(seed, k1, k2, lambda_value):
    query, gallery = people(seed, 5 + seed, 40 + 7 * seed)
    fast = rerank(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    slow = rerank_dense(query, gallery, k1, k2, lambda_value)
    np.testing.assert_allclose(fast, slow, atol=1e-9)


@pytest.mark.parametrize(("dtype", "spread"), [(np.float32, 1.0), (np.float64, 5.0)])
def test_equals_the_dense_procedure_at_1500_items(dtype, spread, monkeypatch):
    monkeypatch.setattr(sys.modules["aelm.retrieval.rerank"], "TILE", 400)
    query, gallery = people(1, 300, 1200, D=64, ids=80, spread=spread)
    query, gallery = query.astype(dtype), gallery.astype(dtype)
    np.testing.assert_allclose(rerank(query, gallery, metric="euclidean"), rerank_dense(query, gallery), atol=1e-6)


def test_whole_numbers_with_ties_and_duplicates_agree():
    for seed in range(20):
        r = np.random.default_rng(seed)
        query, gallery = (r.integers(0, 3, (n, 3)).astype(np.float64) for n in (6, 30))
        fast = rerank(query, gallery, k1=6, k2=3, metric="euclidean")
        np.testing.assert_allclose(fast, rerank_dense(query, gallery, 6, 3), atol=1e-9)


def test_fewer_items_than_neighbours():
    query, gallery = people(0, 1, 3)
    np.testing.assert_allclose(rerank(query, gallery), rerank_dense(query, gallery), atol=1e-9)


def test_items_that_are_all_the_same_have_no_distance():
    assert np.isfinite(rerank(np.ones((2, 3)), np.ones((9, 3)), k1=3)).all()


def test_cosine_means_unit_length():
    query, gallery = people(2, 8, 40)
    scaled = gallery * np.linspace(0.1, 9, 40)[:, None]
    np.testing.assert_allclose(rerank(3 * query, scaled), rerank(query, gallery, metric="euclidean"), atol=1e-9)


def test_blocks_feed_the_ranking(monkeypatch):
    monkeypatch.setattr(sys.modules["aelm.retrieval.rerank"], "ROWS", 3)
    query, gallery = people(4, 11, 50)
    labels = np.arange(11) % 5, np.arange(50) % 5, np.zeros(11, int), np.ones(50, int)
    whole = rank_metrics(None, None, *labels, distances=rerank(query, gallery))
    streamed = rank_metrics(None, None, *labels, distances=rerank_blocks(query, gallery))
    assert whole.scalars() == streamed.scalars()


def test_it_helps_where_identities_form_groups():
    r = np.random.default_rng(0)
    pids = np.arange(400) % 40
    features = r.standard_normal((40, 32))[pids] + 1.4 * r.standard_normal((400, 32))
    labels = pids[:80], pids[80:], np.zeros(80, int), np.ones(320, int)
    plain = rank_metrics(features[:80], features[80:], *labels)
    again = rank_metrics(None, None, *labels, distances=rerank(features[:80], features[80:]))
    assert again.mAP > plain.mAP + 0.02


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k1": 0}, "`k1` and `k2` must be at least 1"),
        ({"lambda_value": 1.5}, "`lambda_value` in"),
        ({"metric": "hamming"}, "`metric` must be one of cosine, euclidean, got 'hamming'"),
        ({"gallery_features": np.ones((4, 5))}, "rows of 3 dimensions"),
        ({"gallery_features": np.ones((0, 3))}, "rows of 3 dimensions"),
        ({"gallery_features": np.full((4, 3), np.nan)}, "NaN or infinite"),
        ({"query_features": np.zeros((2, 3))}, "zero vectors"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"query_features": np.ones((2, 3)), "gallery_features": np.ones((4, 3)), **change}
    with pytest.raises(ValueError, match=message):
        rerank(**arguments)
