"""From a training to everything that is done with its checkpoint, as typed, from another folder."""

import json
import os
import shutil
import sys
from importlib import import_module

import cv2
import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra

from aelm.data.synthetic import synthetic
from aelm.embed.embedder import load_embedder
from aelm.search.store import GalleryStore
from tests.runs import P_X_K, SMALL

FAST = ["trainer.max_epochs=1", "figures=false", "name=it's one"]


@pytest.fixture
def typed(monkeypatch, capsys):
    """Runs a command with the arguments as a shell hands them over; gives what it printed."""

    def run(command, *arguments):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", [f"aelm.{command}", *arguments])
        capsys.readouterr()
        import_module(f"aelm.{command}.__main__").main()
        return capsys.readouterr().out

    return run


@pytest.mark.slow
def test_a_run_and_all_that_is_done_with_it(typed, people, tmp_path, monkeypatch):
    home, elsewhere = tmp_path / "home", tmp_path / "else, where"
    crops = elsewhere / "it's (crops) 人"
    for folder in (home, crops):
        folder.mkdir(parents=True)
    for picture in synthetic(people, "tiny", progress=False).query[:12]:
        shutil.copy(picture.path, crops)
    names = sorted(os.listdir(crops))
    first, second = (f"{crops.name}/{name}" for name in names[:2])

    monkeypatch.chdir(home)
    typed("train", f"data_dir={people}", *SMALL, *P_X_K, *FAST)
    assert os.listdir(home) == ["runs"]
    best = f"checkpoint={home}/runs/it's one/checkpoints/best.ckpt"
    trained = json.loads((home / "runs" / "it's one" / "metrics.json").read_text())

    monkeypatch.chdir(elsewhere)
    quiet = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "figures=false", "dataset.workers=0"]
    typed("evaluate", best, "output=scores, all", *quiet)
    scores = json.loads((elsewhere / "scores, all" / "metrics.json").read_text())
    assert scores["test/mAP"] == pytest.approx(trained["test/mAP"], abs=1e-6)

    on_cpu = ["device=cpu", "workers=0", "progress=false"]
    typed("embed", best, f"images={crops.name}", "output=embeddings", *on_cpu)
    features = np.load(elsewhere / "embeddings" / "features.npy")
    assert len(features) == len(names)

    typed("search", best, f"query={first}", "gallery=embeddings", "output=found.json", "top_k=3", *on_cpu)
    typed("search", best, f"query={first}", "gallery=embeddings", "output=found.html", "top_k=3", *on_cpu)
    (found,) = json.loads((elsewhere / "found.json").read_text())["queries"]
    scores = [hit["score"] for hit in found["results"]]
    assert scores == pytest.approx(np.sort(features[1:] @ features[0])[::-1][:3], abs=1e-5)
    places = [names.index(os.path.basename(hit["path"])) for hit in found["results"]]
    assert features[places] @ features[0] == pytest.approx(scores, abs=1e-5)
    assert "<html" in (elsewhere / "found.html").read_text(encoding="utf-8").lower()

    typed("explain", best, f"images={crops.name}", "output=heat maps", "rows=6", "device=cpu")
    assert sorted(os.listdir("heat maps")) == ["page_0001.png", "page_0002.png"]
    said = typed("explain", best, f"pair=[{first},{second}]", "output=pair's.png", "device=cpu")
    assert float(said.split()[1]) == pytest.approx(float(features[0] @ features[1]), abs=1e-3)
    assert cv2.imread("pair's.png").std() > 5

    typed("export", best, "output=model.onnx")
    typed("embed", "checkpoint=model.onnx", f"images={crops.name}", "output=again", *on_cpu)
    np.testing.assert_allclose(np.load(elsewhere / "again" / "features.npy"), features, atol=1e-5)
    typed("evaluate", "checkpoint=model.onnx", "dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny",
          f"data_dir={people}", "output=onnx", *quiet)  # fmt: skip
    onnx = json.loads((elsewhere / "onnx" / "metrics.json").read_text())
    assert onnx["test/mAP"] == pytest.approx(trained["test/mAP"], abs=1e-5)
    assert load_embedder("model.onnx").height == 64

    left = {"scores, all", "embeddings", "found.json", "found.html", "heat maps", "pair's.png", "model.onnx",
            "model.onnx.metadata.json", "again", "onnx", crops.name}  # fmt: skip
    assert set(os.listdir(elsewhere)) == left

    pytest.importorskip("pymilvus", reason="the extra `gallery` is not installed")
    people_store = GalleryStore("people's.db", load_embedder(best.removeprefix("checkpoint=")))
    people_store.add_folder("embeddings")
    people_store.close()
    typed("search", best, f"query={first}", "gallery.uri=people's.db", "output=stored.json", "top_k=3", *on_cpu)
    (stored,) = json.loads((elsewhere / "stored.json").read_text())["queries"]
    assert [os.path.basename(hit["path"]) for hit in stored["results"]] == [names[place] for place in places]
    assert [hit["score"] for hit in stored["results"]] == pytest.approx(scores, abs=1e-5)
