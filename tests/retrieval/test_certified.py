"""Ranks that no product's rounding can change: a product that errs, in many ways, in the place of BLAS."""

import logging
import sys

import numpy as np
import pytest
import torch

from aelm.retrieval import RankMetrics, blocks, nearest, rank_metrics, ranking, rerank, verification
from aelm.retrieval.counting import count_above
from aelm.retrieval.product import multiply
from aelm.retrieval.score import STRIP, Bound, Scores, cosine, first_bound, pair_sums, products, squared_gaps
from tests.reference import rank_scores
from tests.retrieval.noise import NoisyProduct, users
from tests.retrieval.worlds import World, random_world

NEAREST, RERANK = (sys.modules[f"aelm.retrieval.{name}"] for name in ("nearest", "rerank"))
METRICS = ("cosine", "euclidean")


def near_ties(seed, metric, dtype):
    """A random world whose rows repeat, some of them moved by a last bit or by a few times what products err."""
    world = random_world(seed, metric, dtype)
    r = np.random.default_rng(1000 + seed)
    gallery = world.gallery[r.integers(0, len(world.gallery), len(world.gallery))]
    step = np.finfo(dtype).eps * r.choice([0, 1, 8, 64], (len(gallery), 1))
    gallery = (gallery * (1 + step * r.standard_normal(gallery.shape))).astype(dtype)
    return World(world.query, gallery, *world.labels)


def pair_scores(left, right, metric):
    """The score of each pair of rows by its definition."""
    left, right = left.double(), right.double()
    if metric == "euclidean":
        return -pair_sums(left, right, squared_gaps)
    squares = pair_sums(left, left, products), pair_sums(right, right, products)
    return cosine(pair_sums(left, right, products), *squares)


def exact_scores(world, metric):
    query, gallery = torch.from_numpy(world.query), torch.from_numpy(world.gallery)
    return [pair_scores(query[q : q + 1].expand_as(gallery), gallery, metric).tolist() for q in range(len(query))]


@pytest.fixture
def noisy(monkeypatch):
    """Puts a product in the place of BLAS, everywhere."""

    def put(product):
        for module in users():
            monkeypatch.setattr(module, "multiply", product)
        return product

    return put


@pytest.fixture
def tiny_blocks(monkeypatch):
    monkeypatch.setattr(ranking, "ROWS", 3)
    for module in (ranking, blocks, NEAREST):
        monkeypatch.setattr(module, "COLUMNS", 5)
    monkeypatch.setattr(NEAREST, "SPARE", 2)
    monkeypatch.setattr(NEAREST, "SAMPLE", 4)
    monkeypatch.setattr(RERANK, "TILE", 7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("size", [0, 1, 30, 1e5])
def test_a_noisy_product_changes_no_rank_and_no_neighbour(noisy, tiny_blocks, dtype, metric, size):
    """Noise of a rounding, of thirty, and of what TF32 does, at 50 worlds each: 800 worlds in all."""
    product = noisy(NoisyProduct(size * np.finfo(dtype).eps, seed=int(size)))
    for seed in range(50):
        world = near_ties(seed, metric, dtype)
        scores = exact_scores(world, metric)
        slow = rank_scores(scores, *world.labels)
        for memory in (None, 1e-4):
            for gallery in (world.gallery, iter([world.gallery[:3], world.gallery[3:]])):
                if len(world.gallery) < 4 and gallery is not world.gallery:
                    continue
                result = rank_metrics(world.query, gallery, *world.labels, metric=metric, memory=memory)
                for q, expected in enumerate(slow["per_query"]):
                    mine = result.match_query == q
                    assert result.match_rank[mine].tolist() == ([] if expected is None else expected[3])
                    assert result.match_gallery[mine].tolist() == ([] if expected is None else expected[4])
        k = 1 + seed % 9
        found = nearest(world.query, world.gallery, k, metric=metric, memory=1e-3)
        for q, line in enumerate(scores):
            assert found.indices[q].tolist() == sorted(range(len(line)), key=lambda g: (-line[g], g))[:k]
            value = np.array(line)[found.indices[q]]
            shown = np.sqrt(-value) if metric == "euclidean" else value
            np.testing.assert_array_equal(found.scores[q], shown.astype(dtype))
    assert product.calls > 0


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("metric", METRICS)
def test_a_noisy_product_changes_no_neighbour_list_of_reranking(noisy, tiny_blocks, monkeypatch, dtype, metric):
    lists = []
    encode = RERANK._encode

    def spy(items, near, k1):
        lists.append((items.numpy().copy(), near.item))
        return encode(items, near, k1)

    monkeypatch.setattr(RERANK, "_encode", spy)
    for seed in range(50):
        world = near_ties(seed, metric, dtype)
        for size in (0, 1, 30):
            noisy(NoisyProduct(size * np.finfo(dtype).eps, seed))
            rerank(world.query, world.gallery, k1=3, k2=2, metric=metric)
        items, expected = lists[-3]
        table = exact_scores(World(items, items, *world.labels), "euclidean")
        k = expected.shape[1]
        order = [sorted(range(len(line)), key=lambda g, line=line: (-line[g], g))[:k] for line in table]
        assert expected.tolist() == order
        for other, found in lists[-2:]:
            np.testing.assert_array_equal(items, other)
            np.testing.assert_array_equal(expected, found)


def test_the_metric_of_lightning_is_as_certain(noisy, tiny_blocks):
    world = near_ties(3, "cosine", np.float32)
    Q, G = len(world.query), len(world.gallery)
    results = []
    for size in (0.0, 1e-6, 1e-3):
        noisy(NoisyProduct(size))
        metric = RankMetrics()
        metric.update(
            torch.from_numpy(np.concatenate([world.query, world.gallery])),
            torch.from_numpy(np.concatenate([world.query_pids, world.gallery_pids])),
            torch.from_numpy(np.concatenate([world.query_camids, world.gallery_camids])),
            torch.arange(Q + G) < Q,
            torch.cat([torch.arange(Q), torch.arange(G)]),
        )
        results.append(str([part.tolist() for part in metric.compute() if isinstance(part, np.ndarray)]))
    assert len(set(results)) == 1


def larger_world(seed=0, Q=60, G=900, D=64):
    r = np.random.default_rng(seed)
    query, gallery = (torch.from_numpy(r.standard_normal((n, D)).astype(np.float32)) for n in (Q, G))
    return query, gallery, r.integers(0, 9, Q), r.integers(-1, 12, G), r.integers(0, 3, Q), r.integers(0, 3, G)


@pytest.mark.parametrize("memory", [None, 0.01])
def test_a_bound_that_does_not_hold_is_noticed_and_widened(noisy, monkeypatch, caplog, memory):
    """A product that is right in the first sample and wrong afterwards, by more than the bound."""
    monkeypatch.setattr(ranking, "ROWS", 20)
    world = larger_world()
    expected = rank_metrics(*world)
    honest, wrong = NoisyProduct(0), NoisyProduct(3e-3)
    noisy(lambda query, gallery, out, *, onto=False: (honest if len(gallery) <= 256 else wrong)(query, gallery, out))
    with caplog.at_level(logging.WARNING, "aelm"):
        result = rank_metrics(*world, memory=memory)
    assert "ranking again with the bound" in caplog.text
    assert result.match_rank.tolist() == expected.match_rank.tolist()
    assert result.match_gallery.tolist() == expected.match_gallery.tolist()


def test_a_product_without_sense_leaves_everything_to_the_scores(noisy):
    world = larger_world(Q=10, G=100)
    expected = rank_metrics(*world)
    noisy(NoisyProduct(30.0))
    assert rank_metrics(*world).match_rank.tolist() == expected.match_rank.tolist()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_product_that_is_no_number_is_an_error(noisy):
    noisy(lambda query, gallery, out, *, onto=False: out.fill_(torch.nan))
    with pytest.raises(FloatingPointError, match="the matrix product on cpu gives NaN or infinite values"):
        rank_metrics(*larger_world(Q=10, G=100))


def test_the_first_bound_follows_what_products_err(noisy):
    query, gallery, *_ = larger_world()
    scores = Scores(query, blocks.GalleryBlocks(gallery, query), "cosine")
    size, growth = first_bound(scores)
    assert 2e-7 < size < 1e-5
    assert 1 <= growth < 50
    noisy(NoisyProduct(1e-3))
    size, growth = first_bound(scores)
    assert 3e-3 < size < 2e-2
    assert 1 <= growth < 2


def test_scores_are_sums_of_one_order():
    r = np.random.default_rng(0)
    for width in (1, 2, 3, 7, 64, 100, 256, 257, 1000):
        left, right = r.standard_normal((2, 4, width))
        summed = pair_sums(torch.from_numpy(left), torch.from_numpy(right), products).tolist()
        for terms, total in zip((left * right).tolist(), summed, strict=True):
            line = terms[:STRIP]
            for i in range(STRIP, width):
                line[i % STRIP] += terms[i]
            while len(line) > 1:
                half = (len(line) + 1) // 2
                line = [line[i] + line[half + i] if half + i < len(line) else line[i] for i in range(half)]
            assert line[0] == total


@pytest.mark.parametrize("metric", METRICS)
def test_arrays_and_tensors_have_the_same_scores(monkeypatch, metric):
    """A CPU sums arrays, a GPU tensors: the same operations in the same order."""
    r = np.random.default_rng(2)
    left, right = (torch.from_numpy(r.standard_normal((50, 700)).astype(np.float32)) for _ in range(2))
    by_array = pair_scores(left, right, metric)
    monkeypatch.setattr("aelm.retrieval.score.np.asarray", lambda tensor: tensor)
    assert np.array_equal(by_array, pair_scores(left, right, metric))


def test_scores_do_not_depend_on_their_company():
    r = np.random.default_rng(1)
    left, right = (torch.from_numpy(r.standard_normal((300, 130)).astype(np.float32)) for _ in range(2))
    for metric in METRICS:
        whole = pair_scores(left, right, metric)
        alone = np.concatenate([pair_scores(left[i : i + 1], right[i : i + 1], metric) for i in range(300)])
        assert np.array_equal(whole, alone)
        assert np.array_equal(whole, pair_scores(right, left, metric))


def test_limits_are_rounded_outward():
    """A threshold between two float32 numbers: what lies within its width is left to be compared."""
    third = np.float64(1) / 3
    values = np.nextafter(np.float32(third), np.array([-1, -1, 1, 1], np.float32))[None]
    values[0, 1], values[0, 3] = np.float32(third), 2
    asked = []

    def score(row, column, value):
        asked.extend(column.tolist())
        return np.full(len(column), 9.0)

    for kind in (np.asarray, torch.from_numpy):
        asked.clear()
        counted = count_above(
            kind(values), np.array([0]), np.array([-1]), np.array([third]), np.array([1.5e-8]), score, np.array([third])
        )
        assert counted.tolist() == [1 + len(asked)]
        assert 1 in asked
        assert 3 not in asked


@pytest.mark.parametrize("metric", METRICS)
def test_pictures_that_repeat_are_scored_once(monkeypatch, metric):
    monkeypatch.setattr("aelm.retrieval.score.MANY", 10)
    query, gallery, *labels = larger_world(Q=30, G=400, D=8)
    gallery[::2] = gallery[0]
    gallery[1::6] = 3 * gallery[1]
    scores = exact_scores(World(query.numpy(), gallery.numpy(), *labels), metric)
    slow = rank_scores(scores, *labels)
    counted = []

    def counting(left, right, combine):
        if left is not right:  # not the squares of a row
            counted.append(len(left))
        return pair_sums(left, right, combine)

    monkeypatch.setattr("aelm.retrieval.score.pair_sums", counting)
    result = rank_metrics(query, gallery, *labels, metric=metric)
    for q, expected in enumerate(slow["per_query"]):
        assert result.match_rank[result.match_query == q].tolist() == ([] if expected is None else expected[3])
    assert 0 < sum(counted) < 30 * 10


def test_tf32_set_through_either_interface_of_torch_does_not_stop_ranking():
    world = larger_world()
    expected = rank_metrics(*world)
    before = torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        result = rank_metrics(*world)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"
        assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
    finally:
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before
    assert result.match_rank.tolist() == expected.match_rank.tolist()


@pytest.mark.gpu
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("memory", [None, 1])
def test_a_gpu_gives_the_same_to_the_last_bit(metric, memory):
    query, gallery, *labels = larger_world(Q=300, G=5000, D=700)
    gallery[::7] = gallery[0]
    slow = rank_metrics(query, gallery, *labels, metric=metric)
    fast = rank_metrics(query.cuda(), gallery.cuda(), *labels, metric=metric, memory=memory)
    assert fast.match_rank.tolist() == slow.match_rank.tolist()
    assert fast.match_gallery.tolist() == slow.match_gallery.tolist()
    near, far = nearest(query.cuda(), gallery.cuda(), 30, metric=metric), nearest(query, gallery, 30, metric=metric)
    np.testing.assert_array_equal(near.indices, far.indices)
    np.testing.assert_array_equal(near.scores, far.scores)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", [None, 1])
def test_the_metric_of_lightning_gives_the_same_on_a_gpu(memory):
    query, gallery, query_pids, gallery_pids, query_camids, gallery_camids = larger_world(Q=300, G=5000, D=700)
    gallery[::7] = gallery[0]
    batch = (
        torch.cat([query, gallery]),
        torch.from_numpy(np.concatenate([query_pids, gallery_pids])),
        torch.from_numpy(np.concatenate([query_camids, gallery_camids])),
        torch.arange(5300) < 300,
        torch.cat([torch.arange(300), torch.arange(5000)]),
    )
    results = []
    for device in ("cpu", "cuda"):
        metric = RankMetrics(memory=memory).to(device)
        metric.update(*(part.to(device) for part in batch))
        results.append(metric.compute())
    for by_cpu, by_gpu in zip(*results, strict=True):
        np.testing.assert_array_equal(by_cpu, by_gpu)


def whole_numbers(Q=300, G=5000, D=16, seed=0):
    """Features whose products have no rounding, so that all that is computed from them is the same to the last bit."""
    r = np.random.default_rng(seed)
    centres = r.integers(-9, 9, (200, D))
    pids = r.integers(0, 200, Q + G)
    features = torch.from_numpy(centres[pids] + r.integers(-2, 3, (Q + G, D))).float()
    return features[:Q], features[Q:], pids[:Q], pids[Q:], r.integers(0, 3, Q), r.integers(0, 3, G)


@pytest.mark.gpu
@pytest.mark.parametrize("memory", [None, 1])
@pytest.mark.parametrize("place", [torch.Tensor.cuda, torch.Tensor.numpy])
def test_a_gpu_verifies_to_the_last_bit(monkeypatch, memory, place):
    monkeypatch.setattr(sys.modules["aelm.retrieval.verification"], "AT_ONCE", 100_000)
    query, gallery, *labels = whole_numbers()
    slow = verification(query, gallery, *labels, metric="euclidean")
    fast = verification(query.cuda(), place(gallery), *labels, metric="euclidean", memory=memory)
    for by_cpu, by_gpu in zip(slow, fast, strict=True):
        np.testing.assert_array_equal(by_cpu, by_gpu)
    # Cosines are rounded; impostor pairs are counted by products, within the bound.
    slow, fast = (verification(part, gallery, *labels) for part in (query, query.cuda()))
    np.testing.assert_allclose(fast.threshold, slow.threshold, atol=1e-5)
    np.testing.assert_allclose(fast.tar, slow.tar, atol=0.02)


@pytest.mark.gpu
def test_a_gpu_reranks_to_the_last_bit(monkeypatch):
    monkeypatch.setattr(RERANK, "TILE", 2000)
    monkeypatch.setattr(RERANK, "ROWS", 128)
    query, gallery, *_ = whole_numbers()
    slow, fast = (rerank(part, gallery, metric="euclidean") for part in (query, query.cuda()))
    np.testing.assert_array_equal(slow, fast)
    slow, fast = (rerank(part, gallery) for part in (query, query.cuda()))
    np.testing.assert_allclose(fast, slow, atol=1e-5)


def positive_rows(r, count, like, spread=0.05):
    """Rows near ``like``, all of positive numbers: their partial sums, and the errors of their products, are large."""
    return (like + spread * r.standard_normal((count, like.shape[-1]))).astype(np.float32)


def test_a_bound_that_misses_a_query_in_search_is_widened_too(noisy, caplog):
    """More equal rows than are kept, whose products at two calls are farther apart than the bound."""
    r = np.random.default_rng(0)
    query, gallery = (r.standard_normal((n, 64)).astype(np.float32) for n in (4, 600))
    for number in range(4):
        gallery[100 * number + 100 : 100 * number + 200] = query[number] * 2
    expected = nearest(query, gallery, 5)
    honest = NoisyProduct(0)

    def lower_for_one(left, right, out, *, onto=False):
        found = honest(left, right, out, onto=onto)
        return found.sub_(3e-3 * right.norm(dim=1)) if len(left) == 1 else found

    noisy(lower_for_one)
    with caplog.at_level(logging.WARNING, "aelm"):
        found = nearest(query, gallery, 5)
    assert "ranking again with the bound" in caplog.text
    assert found.indices.tolist() == expected.indices.tolist()
    assert found.indices[0].tolist() == [100, 101, 102, 103, 104]


def test_the_bound_grows_with_the_cosine():
    """A sample of dissimilar rows says nothing of the errors of similar ones."""
    r = np.random.default_rng(0)
    query, gallery = (torch.from_numpy(r.standard_normal((n, 2048)).astype(np.float32)) for n in (64, 300))
    scores = Scores(query, blocks.GalleryBlocks(gallery, query), "cosine")
    bound = Bound(*first_bound(scores))
    like = 1 + 0.3 * r.random(2048)
    left, right = (torch.from_numpy(positive_rows(r, 400, like)) for _ in range(2))
    product = (left / left.norm(dim=1, keepdim=True)) @ right.T / right.norm(dim=1)
    exact = pair_scores(left, right[:1].expand_as(left), "cosine")
    bound.check(product[:, 0].numpy().astype(np.float64), exact, np.ones(400))
    assert bound.seen < bound.size
    assert bound.growth > 3
    assert Bound(*first_bound(Scores(query, blocks.GalleryBlocks(gallery, query), "euclidean"))).growth == 0


@pytest.mark.parametrize("layout", ["columns first", "every second", "half"])
def test_collapsed_features_may_lie_in_memory_as_they_like(layout):
    r = np.random.default_rng(0)
    row = r.standard_normal((1, 16)).astype(np.float16 if layout == "half" else np.float32)
    query, gallery = np.repeat(row, 60, 0), np.repeat(row, 1500, 0)
    labels = np.arange(60) % 5, np.arange(1500) % 5, np.ones(60, int), np.full(1500, 2)
    expected = rank_metrics(query, gallery, *labels).mAP
    odd = np.repeat(gallery, 2, 1)[:, ::2] if layout == "every second" else np.asfortranarray(gallery)
    assert rank_metrics(query, odd, *labels).mAP == expected


def test_a_processor_that_flushes_denormals_ranks_alike():
    labels = [0], [0, 1, 2], [1], [2] * 3
    try:
        flushes = torch.set_flush_denormal(True)
        found = rank_metrics(None, None, *labels, distances=np.zeros((1, 3), np.float32))
        zeros = rank_metrics(np.zeros((1, 3), np.float32), np.zeros((3, 3), np.float32), *labels, metric="euclidean")
    finally:
        torch.set_flush_denormal(False)
    assert flushes in (True, False)  # not every processor can
    assert found.match_rank.tolist() == zeros.match_rank.tolist() == [1]


def test_blocks_are_not_rounded_to_the_queries():
    query, gallery = np.ones((2, 3), np.float32), np.ones((4, 3))
    labels = [0, 1], [0, 1, 0, 1], [1, 1], [2] * 4
    with pytest.raises(ValueError, match=r"blocks of float64 and `query_features` are torch\.float32: blocks are"):
        rank_metrics(query, [gallery], *labels)
    with pytest.raises(ValueError, match="blocks are not rounded"):
        nearest(query, [gallery], 2)
    assert rank_metrics(query, [gallery.astype(np.float16)], *labels).num_queries == 2


def test_rows_whose_squares_overflow_or_vanish_are_errors():
    labels = [0, 1], [0, 1], [1, 1], [2, 2]
    long = np.array([[1.5e19, 0], [-1.5e19, 1]], np.float32)
    for ranked in (
        lambda: rank_metrics(long, long, *labels, metric="euclidean"),
        lambda: nearest(long, long, 2, metric="euclidean"),
        lambda: rerank(long, long, k1=2, k2=1, metric="euclidean"),
    ):
        with pytest.raises(ValueError, match=r"too long for squared distances in torch\.float32"):
            ranked()
    infinite = np.array([[1, 0], [np.inf, 1]], np.float32)
    with pytest.raises(ValueError, match=r"`gallery_features` \(rows 1\) hold NaN or infinite values"):
        rank_metrics(np.eye(2, dtype=np.float32), infinite, *labels, metric="euclidean")
    with pytest.raises(ValueError, match=r"`gallery_features` \(rows 1\) are too short for torch\.float32"):
        rank_metrics(np.eye(2, dtype=np.float32), np.diag([1, 1e-22]).astype(np.float32), *labels)
    assert rank_metrics(np.eye(2), np.diag([1, 1e-22]), *labels).mAP == 1


def test_other_numbers_and_devices_by_default_are_taken_or_refused_by_name():
    labels = [0, 1], [0, 1], [1, 1], [2, 2]
    assert rank_metrics(None, None, *labels, distances=(1 - torch.eye(2)).bfloat16()).mAP == 1
    for wrong in (np.eye(2, dtype=np.longdouble), torch.eye(2).to(torch.float8_e4m3fn)):
        with pytest.raises(TypeError, match="must hold floating-point numbers, got"):
            rank_metrics(wrong, wrong, *labels)
    packed = np.zeros(2, dtype=[("id", "u1"), ("feature", "f4", 2)])
    packed["feature"] = np.eye(2)
    assert rank_metrics(np.eye(2, dtype=np.float32), [packed["feature"]], *labels).mAP == 1
    before = torch.get_default_device()
    try:
        torch.set_default_device("meta")
        features = np.eye(2, dtype=np.float32)
        assert rank_metrics(features, [features], *labels).mAP == 1
        assert rerank(features, features, k1=1, k2=1).shape == (2, 2)
    finally:
        torch.set_default_device(before)


def test_lists_after_re_ranking_do_not_depend_on_the_number_of_threads(noisy):
    noisy(lambda query, gallery, out, onto=False: multiply(query, gallery, out, onto=onto).mul_(1 + len(query) / 1e9))
    r = np.random.default_rng(0)
    query, gallery = (r.standard_normal((n, 512)).astype(np.float32) for n in (33, 501))
    threads = torch.get_num_threads()
    try:
        found = []
        for count in (1, 3):
            torch.set_num_threads(count)
            found.append(rerank(query, gallery))
    finally:
        torch.set_num_threads(threads)
    assert np.array_equal(*found)
