"""Embedding on a device: in which precision, with how many loading processes, and what a GPU does meanwhile."""

import json
import os
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from aelm.checkpoint import build
from aelm.embed import batches, job
from aelm.embed import task as embed
from aelm.embed.batches import devices, embed_files
from aelm.embed.batches import embedded as embedded_batches
from aelm.embed.embedder import Embedder, load_embedder
from aelm.embed.folder import read_embeddings
from aelm.search import task as search
from tests.embed.test_embedder import NETWORK, write_onnx
from tests.pictures_on_disk import save_model, write_people

GPU = torch.device("cuda", 1)
OVERRIDES = ["device=cpu", "workers=0", "progress=false", "batch_size=2", "shard_size=4"]


@pytest.fixture
def world(tmp_path):
    return save_model(tmp_path / "model.ckpt"), write_people(tmp_path / "crops", 10)


@pytest.fixture
def embedded(composed, world, tmp_path):
    def run(*overrides, output=tmp_path / "out"):
        paths = [f"checkpoint={world[0]}", f"images={tmp_path}/crops", f"output={output}"]
        return embed.run(composed("embed", *paths, *OVERRIDES, *overrides))

    return run


def images(count=3):
    return torch.randint(256, (count, 3, 64, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def cudnn():
    return torch.backends.cudnn.conv.fp32_precision


def test_embeddings_are_computed_without_tf32(world):
    embedder, found = load_embedder(world[0]), []
    embedder.network.backbone.register_forward_hook(lambda *_: found.append(cudnn()))
    before = cudnn()
    embedder.embed(images())
    assert found == ["ieee"]
    assert cudnn() == before


def test_a_fake_gpu_gives_float32_on_the_gpu():
    """No tensor is on another device than the rest, and nothing is read back."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device("cuda"):
            network = build(NETWORK)(num_ids=5).eval()
        embedder = Embedder(network, 64, 32, (0.5,) * 3, (0.5,) * 3, "bilinear", 12, "fake", "")
        found = embedder.embed(torch.zeros(4, 3, 64, 32, dtype=torch.uint8))  # of the CPU
    assert (found.device.type, found.dtype, found.shape) == ("cuda", torch.float32, (4, 12))


@pytest.mark.parametrize("precision", ["bf16", "16"])
def test_half_precision_is_close_and_gives_float32_of_unit_length(world, precision):
    exact, half = load_embedder(world[0]), load_embedder(world[0], precision=precision)
    types = []
    next(m for m in half.network.modules() if isinstance(m, torch.nn.Conv2d)).register_forward_hook(
        lambda module, given, output: types.append(output.dtype)
    )
    one, two = exact.embed(images()), half.embed(images())
    assert types == [{"bf16": torch.bfloat16, "16": torch.float16}[precision]]
    assert two.dtype == torch.float32
    torch.testing.assert_close(two.norm(dim=1), torch.ones(3))
    assert not torch.equal(one, two)
    torch.testing.assert_close(one, two, atol=0.03, rtol=0)


def test_a_precision_that_does_not_exist_or_fit_is_named(world, tmp_path):
    with pytest.raises(ValueError, match="`precision` must be one of 32, bf16, 16, got 'bf-16'"):
        load_embedder(world[0], precision="bf-16")
    with pytest.raises(ValueError, match=r"`precision` must be 32 for other\.onnx, got bf16"):
        load_embedder(write_onnx(tmp_path / "other.onnx"), precision="bf16")


def test_the_folder_tells_the_precision(embedded, tmp_path):
    for override, told in (("device=cpu", "32"), ("precision=32", "32"), ("precision=bf16", "bf16")):
        embedded(override)
        assert json.loads((tmp_path / "out" / "meta.json").read_text())["precision"] == told


def test_a_job_of_another_precision_is_not_gone_on_with(embedded, tmp_path, monkeypatch, caplog):
    write = job.write_shard
    monkeypatch.setattr(job, "write_shard", lambda shards, number, *rest: write(shards, number, *rest) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embedded()
    monkeypatch.setattr(job, "write_shard", write)
    caplog.set_level("INFO")
    embedded("precision=bf16")
    assert "starting anew" in caplog.text
    embedded("precision=bf16", output=tmp_path / "whole")
    one, two = (read_embeddings(tmp_path / name).features for name in ("out", "whole"))
    np.testing.assert_array_equal(one, two)


def test_a_model_too_large_for_float16_is_told_the_way_out(world):
    embedder = load_embedder(world[0], precision="16")
    next(embedder.network.backbone.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match="try precision=bf16"):
        embed_files(embedder, world[1][:2])


def test_processes_share_the_cores(world, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(6)), raising=False)
    monkeypatch.setattr(Embedder, "device", property(lambda self: GPU))
    asked = []
    monkeypatch.setattr("aelm.data.loader.DataLoader", lambda *a, **options: asked.append(options["num_workers"]) or ())
    for processes in (1, 2, 4, 8):
        assert not list(embedded_batches(load_embedder(world[0]), world[1], 4, processes=processes))
    assert asked == [6, 3, 1, 1]


def test_every_process_of_a_job_knows_of_the_others(world, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(job, "embedded", lambda *a, **options: seen.append(options["processes"]) or iter(()))
    shards = job.open_shards(world[1], tmp_path, {}, 4, 4)
    job._process(1, ("cpu", "cpu", "cpu"), str(world[0]), (), shards, [], job.Settings())
    assert seen == [3]


@pytest.mark.parametrize("started", [False, True])
def test_a_job_on_the_cpu_does_not_use_cuda(embedded, monkeypatch, started):
    """As on a machine with a GPU: to ask whether there is one is free, all else would take its memory."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: started)
    for part in ("_lazy_init", "device", "mem_get_info", "get_rng_state_all"):
        monkeypatch.setattr(torch.cuda, part, lambda *_, **__: pytest.fail("CUDA was started"))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: pytest.fail("memory was locked"))
    assert embedded() == (10, 0)
    assert embedded("workers=1") == (10, 0)


def test_a_job_locks_memory_through_its_own_gpu(world, tmp_path, monkeypatch):
    """Else a job on cuda:1 would start cuda:0 too, for nothing else."""
    current = []
    monkeypatch.setattr(Embedder, "device", property(lambda self: GPU))
    monkeypatch.setattr(torch.cuda, "device", lambda device: current.append(device) or nullcontext())
    monkeypatch.setattr(job, "embedded", lambda *a, **options: iter(()))
    shards = job.open_shards(world[1], tmp_path, {}, 4, 4)
    job.embed_shards(load_embedder(world[0]), shards, [], job.Settings(progress=False))
    assert current == [GPU]


class Event:
    """Stands for an event of CUDA, and notes when it is waited for."""

    def __init__(self, notes, number):
        self.notes, self.number = notes, number

    def synchronize(self):
        self.notes.append(("wait", self.number))


def test_results_are_copied_before_the_next_batch_and_awaited_behind_it(world, monkeypatch):
    """On a make-believe GPU: the order in which things are asked for, and that values go through."""
    embedder = load_embedder(world[0])
    expected = embed_files(embedder, world[1])
    notes, compute = [], embedder.network.embed

    def note(what):
        notes.append((what, sum(name == what for name, _ in notes)))
        return notes[-1][1]

    monkeypatch.setattr(Embedder, "device", property(lambda self: GPU))
    monkeypatch.setattr(Embedder, "embed", lambda self, pictures: (note("embed"), compute(pictures))[1])
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    monkeypatch.setattr(batches, "async_copy", lambda values: (values, Event(notes, note("copy"))))
    found = list(batches.embedded(embedder, world[1], 4, workers=0))
    assert notes == [
        ("embed", 0), ("copy", 0), ("embed", 1), ("copy", 1), ("wait", 0),
        ("embed", 2), ("copy", 2), ("wait", 1), ("wait", 2),
    ]  # fmt: skip
    np.testing.assert_allclose(np.concatenate([features for _, features in found]), expected, atol=1e-6)
    assert np.concatenate([positions for positions, _ in found]).tolist() == list(range(10))


@pytest.mark.parametrize(
    ("count", "device", "told"),
    [
        (1, "cuda:3", "torch finds 1 CUDA device: cuda:0"),
        (2, "cuda:3", "torch finds 2 CUDA devices, the last is cuda:1"),
        (2, ["cpu", "cuda:2"], "torch finds 2 CUDA devices, the last is cuda:1"),
    ],
)
def test_a_gpu_that_is_not_there_is_named(monkeypatch, count, device, told):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    name = device if isinstance(device, str) else device[-1]
    with pytest.raises(ValueError, match=f"^`device`: '{name}' cannot be used here: {told}; try auto or cpu$"):
        devices(device)


@pytest.mark.parametrize("precision", ["32", "bf16"])
def test_search_embeds_in_the_precision_that_is_asked_for(composed, embedded, world, tmp_path, monkeypatch, precision):
    loaded, load = [], search.load_embedder
    monkeypatch.setattr(search, "load_embedder", lambda *a, precision, **_: loaded.append(precision) or load(*a))
    embedded()
    paths = [f"query={world[1][0]}", f"gallery={tmp_path}/out", "device=cpu", "skip_self=false"]
    (found,) = search.run(composed("search", *paths, f"precision={precision}"))
    assert (loaded, found.hits[0].path) == ([precision], world[1][0])


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["32", "bf16", "16"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_embeds_as_the_cpu_does(world, precision, workers):
    expected = embed_files(load_embedder(world[0]), world[1])
    embedder = load_embedder(world[0], precision=precision).to("cuda:0")
    found = np.concatenate([f for _, f in embedded_batches(embedder, world[1], 3, workers=workers)])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4 if precision == "32" else 0.05)
