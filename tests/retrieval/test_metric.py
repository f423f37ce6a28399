"""RankMetrics against rank_metrics, on one, two and three processes."""

import json
import multiprocessing
import socket

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from aelm.retrieval import RankMetrics, blocks, rank_metrics, ranking
from tests.retrieval.noise import NoisyProduct, users
from tests.retrieval.worlds import random_world


def dataset(Q=70, G=301, D=600, seed=0):
    """Features long enough that a careless product would change its last bit with the number of threads."""
    r = np.random.default_rng(seed)
    is_query = torch.arange(Q + G) < Q
    pids = torch.from_numpy(r.integers(-1, 20, Q + G)).where(~is_query, torch.from_numpy(r.integers(0, 22, Q + G)))
    camids = torch.from_numpy(r.integers(0, 3, Q + G))
    features = torch.from_numpy(r.standard_normal((Q + G, D)).astype(np.float32))
    index = torch.cat([torch.arange(Q), torch.arange(G)])
    return features, pids, camids, is_query, index


def flatten(result):
    return {
        name: value.tolist() if isinstance(value, np.ndarray) else value for name, value in result._asdict().items()
    }


def feed(metric, data, rows):
    for part in rows.split(23):
        metric.update(*(column[part] for column in data))


def small_blocks():
    ranking.ROWS, ranking.COLUMNS, blocks.COLUMNS = 16, 64, 64


@pytest.mark.parametrize("memory", [256.0, 0.01])
def test_threads_rank_in_inference_mode_as_outside_of_it(monkeypatch, memory):
    """As Lightning tests."""
    monkeypatch.setattr(ranking, "ROWS", 16)
    monkeypatch.setattr(ranking, "COLUMNS", 64)
    monkeypatch.setattr(blocks, "COLUMNS", 64)
    results, threads = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for mode in (False, True):
            with torch.inference_mode(mode):
                metric = RankMetrics(memory=memory)
                data = dataset()
                feed(metric, data, torch.arange(len(data[0])))
                results.append(json.dumps(flatten(metric.compute())))  # where NaN is NaN
    finally:
        torch.set_num_threads(threads)
    assert results[0] == results[1]


# Whole rows; streamed blocks; and a last process that never saw a picture.
CASES = [(256.0, 0), (0.01, 0), (None, 0), (256.0, 1), (0.01, 1)]


def run_process(rank, size, port, folder):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=size)
    torch.set_num_threads(1 + rank)
    small_blocks()
    # As on GPUs of which more or less is free.
    ranking.block_memory = lambda device: 0.02 / (1 + rank)
    for module in users():  # as processors of several makes would: each errs in its own way
        module.multiply = NoisyProduct(1e-6 * rank, seed=rank)
    data = dataset()
    rows = torch.arange(len(data[0]))
    results = []
    for memory, idle in CASES:
        metric = RankMetrics(memory=memory)
        busy = size - idle
        if rank < busy:
            # As a distributed sampler does it: each takes every n-th picture, and the last round starts over.
            padded = torch.cat([rows, rows[: -len(rows) % busy]])
            feed(metric, data, padded[rank::busy])
        results.append(flatten(metric.compute()))
    (folder / f"{rank}.json").write_text(json.dumps(results))
    dist.destroy_process_group()


@pytest.mark.parametrize("size", [2, 3])
def test_any_number_of_processes_gives_the_same_to_the_last_bit(size, monkeypatch, tmp_path):
    for name in ("ROWS", "COLUMNS"):
        monkeypatch.setattr(ranking, name, getattr(ranking, name))
    monkeypatch.setattr(blocks, "COLUMNS", blocks.COLUMNS)
    small_blocks()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # The processes are forked from one that has loaded torch and done nothing yet.
    multiprocessing.get_context("forkserver").set_forkserver_preload([__name__])
    mp.start_processes(run_process, (size, port, tmp_path), nprocs=size, start_method="forkserver")
    alone = []
    for memory, _ in CASES:
        metric = RankMetrics(memory=memory)
        feed(metric, dataset(), torch.arange(371))
        alone.append(flatten(metric.compute()))
    for rank in range(size):
        results = json.loads((tmp_path / f"{rank}.json").read_text())
        for case, result, expected in zip(CASES, results, alone, strict=True):
            # As text, floats are told apart to the last bit, and NaN equals NaN.
            assert str(result) == str(expected), f"process {rank} of {size}, memory and idle {case}"


def test_equals_the_function_whatever_the_batches_and_their_order():
    for seed in range(10):
        world = random_world(seed)
        expected = rank_metrics(*world, metric="euclidean")
        Q, G = len(world.query), len(world.gallery)
        data = (
            torch.from_numpy(np.concatenate([world.query, world.gallery])),
            torch.from_numpy(np.concatenate([world.query_pids, world.gallery_pids])),
            torch.from_numpy(np.concatenate([world.query_camids, world.gallery_camids])),
            torch.arange(Q + G) < Q,
            torch.cat([torch.arange(Q), torch.arange(G)]),
        )
        metric = RankMetrics(metric="euclidean")
        shuffled = torch.from_numpy(np.random.default_rng(seed).permutation(Q + G))
        feed(metric, data, torch.cat([shuffled, shuffled[:5]]))
        assert str(flatten(metric.compute())) == str(flatten(expected))


def test_half_precision_is_widened_and_reset_forgets():
    metric = RankMetrics()
    data = dataset(Q=10, G=40, D=8)
    feed(metric, (data[0].bfloat16(), *data[1:]), torch.arange(50))
    assert metric.compute().num_queries == 10
    metric.reset()
    with pytest.raises(ValueError, match="seen no picture"), pytest.warns(UserWarning, match="before the"):
        metric.compute()


def test_bad_batches_are_named():
    with pytest.raises(ValueError, match=r"`features` must have shape \(B, D\)"):
        RankMetrics().update(torch.ones(2, 3), *[torch.zeros(3, dtype=torch.int64)] * 4)
    with pytest.raises(ValueError, match="`metric` must be one of"):
        RankMetrics(metric="l2")
