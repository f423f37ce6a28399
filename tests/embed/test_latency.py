"""Milliseconds a picture: against a clock that only the model moves."""

import json
import re

import pytest
import torch

from aelm.embed import embedder as measured
from aelm.embed.embedder import Embedder, load_embedder
from aelm.evaluate import task as evaluate
from tests.embed.test_embedder import write_onnx
from tests.test_trained_files import SIZE, write
from tests.tiny import write_checkpoint

TINY = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", "dataset.workers=0", "bootstrap=0"]


def test_the_median_behind_the_warm_up_is_what_counts(tmp_path, monkeypatch):
    model = load_embedder(write_onnx(tmp_path / "other.onnx"))
    now, runs = [0.0], []

    def embed(self, images):
        runs.append(tuple(images.shape))
        slow = len(runs) <= 3 or len(runs) % 5 == 0  # while it warms up, and now and then
        now[0] += 9.0 if slow else 0.004 * len(images)
        return torch.zeros(len(images), 12)

    monkeypatch.setattr(measured.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(Embedder, "embed", embed)
    assert measured.latency(model, [8]) == {8: pytest.approx(4.0)}
    assert len(runs) == 3 + 7
    assert set(runs) == {(8, 3, 24, 16)}


@pytest.mark.parametrize("kind", ["checkpoint", "onnx", "trained"])
def test_evaluate_tells_it_of_every_kind_of_model(kind, tmp_path, people, tested, capsys, monkeypatch):
    monkeypatch.setattr(measured, "SECONDS", 0.0)
    path = tmp_path / "best.ckpt"
    if kind == "checkpoint":
        write_checkpoint(path)
    else:
        path = write_onnx(tmp_path / "other.onnx") if kind == "onnx" else write(tmp_path, "osnet.pth.tar")
    size = [SIZE] if kind == "trained" else []
    plain = tested(path, *TINY, *size, f"data_dir={people}")
    scores = tested(path, *TINY, *size, f"data_dir={people}", f"output={tmp_path}/out", "latency=true")
    names = {"latency/cpu_batch_1_ms", "latency/cpu_batch_32_ms"}
    assert scores.keys() - plain.keys() == names
    assert all(0 < scores[name] < 5000 for name in names)
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == scores
    told = re.search(r"^milliseconds a picture on cpu, \d+ threads?: ([\d.]+) at batch 1, ([\d.]+) at batch 32$",
                     capsys.readouterr().out, re.MULTILINE)  # fmt: skip
    assert [float(told[1]), float(told[2])] == pytest.approx([scores[name] for name in sorted(names)], abs=0.006)


def test_ready_features_have_none(composed, tmp_path):
    with pytest.raises(ValueError, match="`latency`: no part in ready features"):
        evaluate.run(composed("evaluate", f"query={tmp_path}", f"gallery={tmp_path}", "latency=true"))
