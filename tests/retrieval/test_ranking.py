"""rank_metrics against a slow loop, tiny worlds with known answers, laws, and bad input."""

import numpy as np
import pytest
import torch

from aelm.retrieval import rank_metrics, ranking, streaming, sweep
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
    for module in (ranking, sweep, streaming):
        monkeypatch.setattr(module, "COLUMNS", 3)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("start", range(0, 200, 50))
def test_equals_the_slow_loop(metric, start):
    for seed in range(start, start + 50):
        world = random_world(seed, metric)
        max_rank = 1 + seed % 60
        result = rank_metrics(*world, metric=metric, max_rank=max_rank)
        assert_equals_reference(result, world, metric, max_rank)


def as_is(gallery):
    return gallery


def in_pieces(gallery):
    return [gallery[:2], gallery[2:2], gallery[2:9], gallery[9:]]


def generator(gallery):
    return (torch.from_numpy(piece) for piece in in_pieces(gallery))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("memory", [256, 1e-4])
@pytest.mark.parametrize("form", [as_is, in_pieces, generator])
def test_blocks_of_any_size_and_form_rank_alike(tiny_blocks, metric, memory, form):
    for seed in range(40):
        world = random_world(seed, metric)
        result = rank_metrics(world.query, form(world.gallery), *world.labels, metric=metric, memory=memory)
        assert_equals_reference(result, world, metric)


def test_a_memory_map_ranks_as_the_array(tmp_path, tiny_blocks):
    world = random_world(3)
    np.save(tmp_path / "gallery.npy", world.gallery)
    mapped = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    for memory in (256, 1e-4):
        assert_equals_reference(
            rank_metrics(world.query, mapped, *world.labels, metric="euclidean", memory=memory), world, "euclidean"
        )


@pytest.mark.parametrize("form", [as_is, in_pieces])
def test_ready_distances_rank_as_their_table(form):
    for seed in range(40):
        world = random_world(seed)
        scores = np.random.default_rng(seed).integers(0, 9, (len(world.query), len(world.gallery)))
        result = rank_metrics(None, None, *world.labels, distances=form(9.0 - scores.astype(np.float32)))
        assert_equals_scores(result, scores.tolist(), world.labels)


def test_comparing_counts_as_sorting_does(monkeypatch):
    """What runs on a GPU, run on a CPU."""
    monkeypatch.setattr(ranking, "each_rows", lambda table, work: work(0, len(table), table))
    monkeypatch.setattr(sweep, "each_rows", lambda table, work: work(0, len(table), table))
    monkeypatch.setattr("aelm.retrieval.counting.AT_ONCE", 50)
    for seed in range(40):
        for metric in ("euclidean", "cosine"):
            world = random_world(seed, metric)
            for memory in (256, 1e-4):
                result = rank_metrics(*map(torch.from_numpy, world), metric=metric, memory=memory)
                assert_equals_reference(result, world, metric)
