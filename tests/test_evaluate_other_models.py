"""Models of other projects are evaluated like aelm's own checkpoints."""

import numpy as np
import pytest
import torch

from aelm.data.decoding import decode, read_bytes
from aelm.data.synthetic import synthetic
from aelm.data.transforms import recipe
from aelm.embed.embedder import load_embedder
from aelm.export.onnx import export_model
from aelm.retrieval import rank_metrics
from tests.embed.test_embedder import by_hand, write_onnx
from tests.tiny import write_checkpoint

TINY = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", "dataset.workers=0"]


def test_an_onnx_file_is_evaluated_to_what_its_embeddings_score(tmp_path, people, tested):
    scores = tested(write_onnx(tmp_path / "other.onnx"), *TINY, f"data_dir={people}")
    benchmark = synthetic(people, "tiny", progress=False)
    resize = recipe(24, 16).test
    sides = []
    for pictures in (benchmark.query, benchmark.gallery):
        images = np.stack([resize(decode(read_bytes(p.path), p.path)) for p in pictures])
        sides.append(by_hand(torch.from_numpy(images).permute(0, 3, 1, 2)))
    labels = [
        [getattr(p, what) for p in side] for what in ("pid", "camid") for side in (benchmark.query, benchmark.gallery)
    ]
    expected = rank_metrics(*sides, *labels)
    assert scores["test/mAP"] == pytest.approx(expected.mAP, abs=1e-6)
    assert scores["test/rank1"] == pytest.approx(float(expected.cmc[0]), abs=1e-6)
    assert 0 < expected.mAP < 1


def test_an_exported_file_scores_as_its_checkpoint(tmp_path, people, tested):
    write_checkpoint(tmp_path / "best.ckpt")
    path = export_model(load_embedder(tmp_path / "best.ckpt"), tmp_path / "best.onnx").path
    first, again = (tested(file, *TINY, f"data_dir={people}") for file in (tmp_path / "best.ckpt", path))
    assert first.keys() == again.keys()
    assert all(again[key] == pytest.approx(first[key], abs=1e-6) for key in first if key.startswith("test"))


def test_pictures_are_drawn_without_heat_maps(tmp_path, people, tested, monkeypatch):
    path = write_onnx(tmp_path / "other.onnx")
    monkeypatch.setattr("aelm.report.metrics.draw_rankings", lambda *_: [])  # they take long, and know no model
    tested(path, *TINY, f"data_dir={people}", f"output={tmp_path}/out", "figures=true")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert {"metrics.json", "cmc.png"} <= names
    assert not any(name.startswith("heatmaps") for name in names)


def test_what_to_test_on_must_be_said(tmp_path, tested):
    with pytest.raises(ValueError, match=r"other\.onnx does not say what to test on: choose it, such as dataset="):
        tested(write_onnx(tmp_path / "other.onnx"))
