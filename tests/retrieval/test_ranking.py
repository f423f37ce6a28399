"""rank_metrics against a slow loop, tiny worlds with known answers, and laws."""

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from aelm.retrieval import blocks, rank_metrics, ranking
from aelm.retrieval.counting import count_above
from tests.reference import rank_scores, similarity
from tests.retrieval.worlds import World, random_world


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
    for module in (ranking, blocks):
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


def test_distances_that_were_read_before_are_called_so():
    with pytest.raises(ValueError, match="`distances` is an iterable without blocks; has an iterator been used up"):
        rank_metrics(None, None, [0], [0], [0], [1], distances=iter(()))


def test_a_gpu_ranks_as_a_cpu_does(monkeypatch):
    """What runs on a GPU, run on a CPU."""
    monkeypatch.setattr(ranking, "each_rows", lambda table, work: work(0, len(table), table))
    monkeypatch.setattr(blocks, "each_rows", lambda table, work: work(0, len(table), table))
    monkeypatch.setattr("aelm.retrieval.counting.AT_ONCE", 50)
    for seed in range(40):
        for metric in ("euclidean", "cosine"):
            world = random_world(seed, metric)
            for memory in (256, 1e-4):
                result = rank_metrics(*map(torch.from_numpy, world), metric=metric, memory=memory)
                assert_equals_reference(result, world, metric)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("at_once", [1, 100, 2**24])
def test_a_gpu_counts_and_scores_as_a_cpu_does(monkeypatch, dtype, at_once):
    """Rows without and with many thresholds, ignored entries, bands that overlap, thresholds of other blocks."""
    monkeypatch.setattr("aelm.retrieval.counting.AT_ONCE", at_once)
    num_scored = 0
    for seed in range(100):
        r = np.random.default_rng(seed)
        R, N, T = (int(n) for n in r.integers(1, (7, 60, 30)))
        values = r.integers(-9, 9, (R, N + 3)).astype(dtype)[:, :N]  # as the last block lies in its buffer
        values[r.random((R, N)) < 0.2] = -np.inf
        values[r.integers(0, R, 3), r.integers(0, N, 3)] = 4
        row = np.sort(r.integers(0, R, T))
        column = (values[row] == 4).argmax(axis=1)
        inside = values[row, column] == 4
        threshold = np.where(inside, 4, r.integers(-9, 9, T)).astype(dtype)
        width, known = r.choice([0, 1.5, 30], T), threshold + r.standard_normal(T)
        results = []
        for kind in (np.asarray, torch.from_numpy):

            def score(*close, results=results):
                results.append([part.tolist() for part in close])
                return close[2] + np.sin(close[0] + 7 * close[1])

            counted = count_above(kind(values), row, np.where(inside, column, -1), threshold, width, score, known)
            results.append(counted.tolist())
        half = len(results) // 2
        assert results[:half] == results[half:]
        num_scored += half - 1
    assert num_scored > 50


def test_a_gallery_that_fits_is_copied_to_the_gpu_once():
    array = np.ones((64, 1024), np.float16)
    with FakeTensorMode(allow_non_fake_inputs=True):
        query = torch.empty(2, 1024, device="cuda")
        for source in (array, torch.from_numpy(array)):
            gallery = blocks.GalleryBlocks(source, query, memory=0.25)
            assert gallery.is_on_gpu
            assert (gallery.source.dtype, gallery.source.device) == (query.dtype, query.device)
        assert not blocks.GalleryBlocks(array, query, memory=0.24).is_on_gpu
    assert blocks.GalleryBlocks(array, torch.empty(2, 1024), memory=256).source is array


def test_open_reid_case_has_its_known_cmc():
    distances = np.array([[0, 1, 2, 3, 4], [1, 0, 2, 3, 4], [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 2, 3, 4, 0]], float)
    ids = np.arange(5)
    result = rank_metrics(None, None, ids, ids, ids, ids + 5, distances=distances, max_rank=5)
    np.testing.assert_allclose(result.cmc, [0.6, 0.6, 0.8, 1, 1])


def test_matches_at_ranks_two_and_four():
    distances = np.array([[1.0, 2, 3, 4]])
    result = rank_metrics(None, None, [0], [1, 0, 1, 0], [0], [1, 1, 1, 1], distances=distances)
    assert result.mAP == pytest.approx(0.5)
    assert result.mAP_trapezoid == pytest.approx(1 / 3)
    assert result.mINP == pytest.approx(0.5)
    assert result.scalars()["rank1"] == 0
    assert result.scalars()["rank5"] == 1


def test_the_trapezoid_is_never_larger():
    for seed in range(50):
        result = rank_metrics(*random_world(seed), metric="euclidean")
        assert result.mAP_trapezoid <= result.mAP + 1e-12


def test_counts_name_junk_distractors_and_skipped_queries():
    result = rank_metrics(np.eye(3), np.eye(3)[[0, 1, 2, 0, 1]], [0, 1, 5], [0, -1, 7, 1, -1], [1, 1, 1], [2] * 5)
    assert (result.num_queries, result.num_skipped, result.num_junk, result.num_distractors) == (3, 1, 2, 1)
    assert np.isnan(result.average_precision).tolist() == [False, False, True]


def test_cameras_split_the_queries():
    for seed in range(20):
        world = random_world(seed)
        result = rank_metrics(*world, metric="euclidean")
        split = result.by_camera()
        assert sum(scores["num_queries"] for scores in split.values()) == len(world.query)
        for camid, scores in split.items():
            chosen = world.query_camids == camid
            part = World(
                world.query[chosen],
                world.gallery,
                world.query_pids[chosen],
                world.gallery_pids,
                world.query_camids[chosen],
                world.gallery_camids,
            )
            if scores["num_skipped"] == scores["num_queries"]:
                assert np.isnan(scores["mAP"])
                continue
            alone = rank_metrics(*part, metric="euclidean").scalars()
            assert {name: scores[name] for name in alone} == pytest.approx(alone)


def test_gallery_order_does_not_matter_without_ties():
    r = np.random.default_rng(5)
    Q, G, D = 40, 3000, 600
    query, gallery = r.standard_normal((Q, D)).astype(np.float32), r.standard_normal((G, D)).astype(np.float32)
    query_pids, gallery_pids = r.integers(0, 30, Q), r.integers(-1, 40, G)
    query_camids, gallery_camids = r.integers(0, 3, Q), r.integers(0, 3, G)
    order = r.permutation(G)
    for memory in (256, 0.05):
        first, second = (
            rank_metrics(query, gallery[o], query_pids, gallery_pids[o], query_camids, gallery_camids[o], memory=memory)
            for o in (np.arange(G), order)
        )
        assert first.scalars() == second.scalars()
        assert first.match_rank.tolist() == second.match_rank.tolist()
        assert order[second.match_gallery].tolist() == first.match_gallery.tolist()


def test_a_matrix_product_in_another_precision_does_not_leak_in():
    r = np.random.default_rng(0)
    features, pids = torch.from_numpy(r.standard_normal((300, 64)).astype(np.float32)), r.integers(0, 20, 300)
    labels = pids[:100], pids[100:], np.zeros(100, int), np.ones(200, int)
    expected = rank_metrics(features[:100], features[100:], *labels)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            result = rank_metrics(features[:100], features[100:], *labels)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert result.match_rank.tolist() == expected.match_rank.tolist()


def test_inputs_are_left_as_they_are():
    world = random_world(1, dtype=np.float32)
    distances = np.ones((len(world.query), len(world.gallery)), np.float32)
    copies = [part.copy() for part in (*world, distances)]
    rank_metrics(*world)
    rank_metrics(None, None, *world.labels, distances=distances)
    for part, copy in zip((*world, distances), copies, strict=True):
        np.testing.assert_array_equal(part, copy)


def test_collapsed_features_rank_by_gallery_order():
    """A model that gives every picture the same feature."""
    ids = np.arange(60) % 6
    result = rank_metrics(np.ones((6, 3)), np.ones((60, 3)), np.arange(6), ids, np.zeros(6, int), np.ones(60, int))
    for q in range(6):
        assert result.match_rank[result.match_query == q].tolist() == list(range(q + 1, 61, 6))
