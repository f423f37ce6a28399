"""Exact neighbours against sorting everything."""

import sys
import threading
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

from aelm.retrieval import blocks, nearest, ranked_rows
from aelm.retrieval.blocks import as_tensor
from aelm.retrieval.nearest import BestOfRows
from tests.reference import similarity
from tests.retrieval.worlds import random_world


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("on_device", [False, True])
def test_equals_a_stable_sort(metric, on_device, monkeypatch):
    monkeypatch.setattr(sys.modules["aelm.retrieval.nearest"], "SAMPLE", 4)
    monkeypatch.setattr(blocks, "COLUMNS", 9)
    if on_device:
        monkeypatch.setattr(blocks, "each_rows", lambda table, work: work(0, len(table), table))
    for seed in range(60):
        world = random_world(seed, metric)
        k = 1 + seed % 13
        pieces = [world.gallery[:5], world.gallery[5:]] if seed % 2 else world.gallery
        found = nearest(world.query, pieces, k, metric=metric, memory=1e-3)
        for q, query in enumerate(world.query):
            scores = [similarity(query, g, metric) for g in world.gallery]
            order = sorted(range(len(scores)), key=lambda g: (-scores[g], g))[:k]
            assert found.indices[q].tolist() == order
            expected = [np.sqrt(-scores[g]) if metric == "euclidean" else scores[g] for g in order]
            np.testing.assert_allclose(found.scores[q], expected, atol=1e-7)


def test_many_rows_in_many_blocks():
    r = np.random.default_rng(0)
    table = r.integers(0, 4000, (50, 9000)).astype(np.float32)
    best, on_device = (BestOfRows(50, 30, torch.from_numpy(table)) for _ in range(2))
    for first in range(0, 9000, 2500):
        block = table[:, first : first + 2500].copy()
        on_device.visit(0, 50, first, torch.from_numpy(block))
        best.visit(0, 50, first, block)
    np.testing.assert_array_equal(best.index, np.argsort(-table, axis=1, kind="stable")[:, :30])
    np.testing.assert_array_equal(best.value, on_device.value)


def test_a_gpu_keeps_the_best_and_reads_nothing_back():
    best = BestOfRows(50, 30, torch.empty(0))
    with FakeTensorMode():
        best._value = torch.empty(50, 30, device="cuda")
        best._index = torch.empty(50, 30, dtype=torch.int64, device="cuda")
        best.visit(10, 50, 900, torch.empty(40, 100, device="cuda"))


def test_scores_are_the_same_bits_however_the_work_is_cut(tmp_path, monkeypatch):
    r = np.random.default_rng(0)
    np.save(tmp_path / "gallery.npy", r.standard_normal((3000, 512), dtype=np.float32))
    gallery, query = np.load(tmp_path / "gallery.npy", mmap_mode="r"), r.standard_normal((32, 512), dtype=np.float32)
    whole = nearest(query, np.array(gallery), 20)
    for threads, columns, cached in ((1, 4096, 2**21), (2, 700, 2**16), (3, 257, 2**18), (2, 3000, 2**14)):
        monkeypatch.setattr(blocks, "COLUMNS", columns)
        monkeypatch.setattr(blocks, "CACHED", cached)
        with torch_threads(threads):
            for rows in (slice(None), slice(7, 8), slice(3, 22)):
                found = nearest(query[rows], gallery, 20, memory=1)
                np.testing.assert_array_equal(found.scores, whole.scores[rows])
                np.testing.assert_array_equal(found.indices, whole.indices[rows])


def test_teams_at_once_are_as_large_as_alone_and_leave_torchs_threads_as_they_were():
    def team():
        with blocks.threads(torch.device("cpu")) as found:
            inside.wait()
            sizes.append(found.threads)
            inside.wait()
        after.append(torch.get_num_threads())

    inside, sizes, after = threading.Barrier(2), [], []
    with torch_threads(2):
        helpers = [threading.Thread(target=team) for _ in range(2)]
        for helper in helpers:
            helper.start()
        for helper in helpers:
            helper.join()
        assert torch.get_num_threads() == 2
    assert (sizes, after) == ([2, 2], [2, 2])


@contextmanager
def torch_threads(count):
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def test_a_memory_map_is_read_in_place(tmp_path):
    np.save(tmp_path / "gallery.npy", np.eye(4, dtype=np.float32))
    gallery = np.load(tmp_path / "gallery.npy", mmap_mode="r")
    assert as_tensor(gallery[1:3]).data_ptr() == gallery[1:3].ctypes.data
    for unusual in (gallery[::-1], gallery.astype(">f4"), gallery[:, ::-1]):
        np.testing.assert_array_equal(as_tensor(unusual).numpy(), unusual)
    backwards = nearest(np.eye(4, dtype=np.float32)[:1], gallery[::-1], 1)
    assert backwards.indices.tolist() == [[3]]


def test_a_broken_row_is_named_wherever_it_lies(monkeypatch):
    monkeypatch.setattr(blocks, "CACHED", 2**10)
    gallery = np.ones((500, 8), np.float32)
    gallery[477, 3] = np.nan
    with pytest.raises(ValueError, match=r"rows 477\) hold NaN"):
        nearest(np.ones((20, 8), np.float32), gallery, 3)


def test_verdicts_name_match_miss_and_ignored():
    for seed in range(30):
        world = random_world(seed)
        rows = ranked_rows(*world, k=9, metric="euclidean")
        for q in range(len(world.query)):
            for g, verdict in zip(rows.indices[q], rows.verdict[q], strict=True):
                same = world.gallery_pids[g] == world.query_pids[q]
                seen = same and world.gallery_camids[g] == world.query_camids[q]
                assert verdict == (-1 if world.gallery_pids[g] == -1 or seen else int(same))


@pytest.mark.parametrize(
    ("query", "gallery", "k", "message"),
    [
        (np.ones((2, 3)), np.ones((4, 3)), 0, "`k` must be at least 1"),
        (np.ones((0, 3)), np.ones((4, 3)), 1, "`query_features` has no rows"),
        (np.ones((2, 3)), np.ones((0, 3)), 1, "`gallery` has no rows"),
        (np.ones((2, 3)), iter(()), 1, "`gallery_features` has no rows"),
        (np.ones((2, 3)), np.ones((4, 2)), 1, "3 dimensions but `gallery_features` 2"),
        (np.ones(3), np.ones((4, 3)), 1, "must have shape"),
    ],
)
def test_bad_input_is_named(query, gallery, k, message):
    with pytest.raises(ValueError, match=message):
        nearest(query, gallery, k)


def test_tensors_half_precision_and_gradients_are_taken():
    features = torch.eye(5, dtype=torch.bfloat16).requires_grad_()
    assert nearest(features, features.detach(), 1).indices.ravel().tolist() == [0, 1, 2, 3, 4]
