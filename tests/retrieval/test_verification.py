"""Operating points against counting every pair."""

import sys

import numpy as np
import pytest
import torch

from aelm.retrieval import blocks, verification
from tests.reference import similarity, verification_pairs
from tests.retrieval.worlds import random_world


def accepted(scores, threshold, metric):
    return (
        np.mean(np.asarray(scores) <= threshold) if metric == "euclidean" else np.mean(np.asarray(scores) >= threshold)
    )


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_every_point_is_exact_and_the_best_that_can_be_reached(metric, monkeypatch):
    monkeypatch.setattr(blocks, "COLUMNS", 7)
    far = (0.5, 0.2, 0.03)
    for seed in range(60):
        world = random_world(seed, metric)
        table = [[similarity(q, g, metric) for g in world.gallery] for q in world.query]
        if metric == "euclidean":
            table = np.sqrt(-np.array(table)).tolist()
        genuine, impostor = verification_pairs(table, *world.labels)
        if not impostor:
            with pytest.raises(ValueError, match="no impostor pair"):
                verification(*world, metric=metric, far=far)
            continue
        result = verification(*world, metric=metric, far=far, memory=1e-3)
        assert (result.num_genuine, result.num_impostor) == (len(genuine), len(impostor))
        slack = 1e-9 if metric == "euclidean" else -1e-9
        for wanted, reached, tar, threshold in zip(*result[:4], strict=True):
            allowed = int(wanted * len(impostor))
            ordered = sorted(impostor, reverse=metric == "cosine")
            # The strictest impostor that may not pass: the best threshold lies just beyond it.
            bound = ordered[allowed] - slack
            better = [g for g in genuine if (g < bound - 1e-6 if metric == "euclidean" else g > bound + 1e-6)]
            passing = [i for i in impostor if (i < bound - 1e-6 if metric == "euclidean" else i > bound + 1e-6)]
            assert reached == pytest.approx(len(passing) / len(impostor))
            assert reached <= wanted
            assert tar == pytest.approx(len(better) / len(genuine))
            assert abs(threshold - ordered[allowed]) < 1e-6
        for point in zip(result.roc_far, result.roc_tar, result.roc_threshold, strict=True):
            assert point[0] == pytest.approx(accepted(impostor, point[2] + slack, metric))
            assert point[1] == pytest.approx(accepted(genuine, point[2] + slack, metric))
        assert (np.diff(result.roc_tar) > 0).all()
        assert result.roc_tar[-1] == 1


def test_many_pairs_agree_with_sorting_them_all():
    r = np.random.default_rng(0)
    pids = r.integers(0, 30, 900)
    features = torch.from_numpy(r.standard_normal((30, 16))[pids] + 2 * r.standard_normal((900, 16)))
    labels = pids[:200], pids[200:], np.zeros(200, int), np.ones(700, int)
    result = verification(features[:200], features[200:], *labels)
    table = torch.nn.functional.normalize(features[:200]) @ torch.nn.functional.normalize(features[200:]).T
    own_pair = torch.from_numpy(labels[0])[:, None] == torch.from_numpy(labels[1])
    impostor = table[~own_pair].sort(descending=True).values
    for far, tar, threshold in zip(result.far, result.tar, result.threshold, strict=True):
        bound = impostor[int(far * len(impostor))]
        assert abs(threshold - bound) < 1e-12
        assert tar == pytest.approx((table[own_pair] > bound + 1e-12).double().mean().item())


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
def test_a_gpu_counts_as_a_cpu_does(metric, monkeypatch):
    """What runs on a GPU, run on a CPU; thresholds lie between two float32 numbers."""
    r = np.random.default_rng(1)
    pids = r.integers(0, 30, 1200)
    features = torch.from_numpy(r.standard_normal((1200, 16)).astype(np.float32))
    world = features[:400], features[400:], pids[:400], pids[400:], np.zeros(400, int), np.ones(800, int)
    results = [verification(*world, metric=metric)]
    monkeypatch.setattr(blocks, "each_rows", lambda table, work: work(0, len(table), table))
    monkeypatch.setattr(sys.modules["aelm.retrieval.verification"], "AT_ONCE", 9000)
    results.append(verification(*world, metric=metric))
    for by_array, by_tensor in zip(*results, strict=True):
        np.testing.assert_array_equal(by_array, by_tensor)


def test_one_rate_needs_no_list():
    world = random_world(0, "cosine")
    assert verification(*world, far=0.1).threshold == verification(*world, far=[0.1]).threshold


@pytest.mark.parametrize("far", [(), (0.0,), (1.0,), (0.1, 2.0), "one in ten", 0])
def test_rates_out_of_range_are_named(far):
    with pytest.raises(ValueError, match="`far` must list rates between 0 and 1"):
        verification(*random_world(0), far=far)
