"""Transformers through the commands: a few steps of training, resumed, then evaluated, explained and exported."""

import json
from pathlib import Path

import pytest
import torch

from aelm.explain import task as explain
from aelm.export import task as export
from aelm.train import task as train

RECIPE = ["experiment=transformer", "figures=false", "sampler.steps_per_epoch=2", "transform.height=128",
          "transform.width=64", "model.backbone.layer_decay=0.8", "schedule.warmup_epochs=1"]  # fmt: skip
VIT = "model.backbone.options={embed_dim: 48, depth: 4, num_heads: 2}"
SWIN = "model.backbone.options={embed_dim: 24, depths: [1, 1, 2, 1], num_heads: [1, 2, 2, 2]}"


@pytest.mark.parametrize(
    "backbone",
    [
        ["vit_small_patch16_224", VIT],
        pytest.param(["vit_small_patch16_dinov3", VIT], marks=pytest.mark.slow),
        pytest.param(["swin_tiny_patch4_window7_224", SWIN], marks=pytest.mark.slow),
    ],
    ids=lambda backbone: backbone[0],
)
def test_a_transformer_is_trained_resumed_evaluated_explained_and_exported(
    backbone, trained, tested, composed, tmp_path, people, monkeypatch
):
    pytest.importorskip("onnxruntime")
    options = [*RECIPE, f"model.backbone.name={backbone[0]}", *backbone[1:]]
    step = train.ReIDModule.training_step

    def die(self, batch, batch_idx):
        if self.global_step == 2:
            raise KeyError("killed")
        return step(self, batch, batch_idx)

    with monkeypatch.context() as patch:
        patch.setattr(train.ReIDModule, "training_step", die)
        with pytest.raises(KeyError, match="killed"):
            trained(*options)
    run_dir, scores = trained(*options, "resume=auto")
    best = Path(run_dir, "checkpoints", "best.ckpt")
    again = tested(best)
    assert {name: again[name] for name in scores} == scores
    told = torch.load(best, weights_only=True)["aelm"]["preprocessing"]
    assert (told["height"], told["width"]) == (128, 64)
    assert set(told["mean"]) == ({0.5} if told["mean"][0] == told["mean"][1] else {0.485, 0.456, 0.406})
    crops = sorted(people.rglob("query/*.jpg"))[:1]
    images = tmp_path / "crops"
    images.mkdir()
    (images / "a.jpg").write_bytes(crops[0].read_bytes())
    given = [f"checkpoint={best}"]
    drawn = explain.run(composed("explain", *given, f"images={images}", f"output={tmp_path}/heat", "device=cpu"))
    assert all(file.stat().st_size > 1000 for file in drawn)
    written = export.run(composed("export", *given, f"output={tmp_path}/m.onnx"))
    assert written.difference < 1e-4
    assert json.loads(written.sidecar.read_text())["img_size"] == [128, 64]
