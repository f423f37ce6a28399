"""Loaders: what they ask of the machine."""

import os

import pytest
import torch
from torch.utils.data import SequentialSampler

from aelm.data import Loader, ReIDDataset, recipe
from aelm.data.loader import default_workers
from aelm.types import Picture


@pytest.mark.parametrize(("started", "pins"), [(False, False), (True, True)])
def test_memory_is_locked_only_where_cuda_is_in_use(monkeypatch, started, pins):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    data = ReIDDataset([Picture("a.jpg", 0, 0)], recipe(32, 16).test)
    assert Loader(workers=0).build(data, SequentialSampler(data), 1, lives_on=False).pin_memory == pins
    assert not Loader(0, pin_memory=False).build(data, SequentialSampler(data), 1, lives_on=False).pin_memory


@pytest.mark.parametrize(("cores", "processes", "workers"), [(64, 1, 8), (64, 16, 4), (4, 1, 4), (4, 8, 1), (3, 2, 1)])
def test_processes_share_the_cores_that_they_may_use(monkeypatch, cores, processes, workers):
    monkeypatch.setattr(os, "cpu_count", lambda: 999)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(cores)), raising=False)
    assert default_workers(processes) == workers
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert default_workers(processes) == workers
