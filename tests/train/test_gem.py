"""GeM through the commands: trained, tested, explained, exported."""

from pathlib import Path

import torch

from aelm.checkpoint import load_model
from aelm.explain import task as explain
from tests.train.test_configured_losses import QUICK, last


def test_a_run_with_gem_is_trained_tested_and_explained(trained, tested, composed, people, tmp_path):
    run, scores = trained("model.aelm.pooling=gem", "model.aelm.neck=true", *QUICK)
    powers = {key: value.item() for key, value in last(run)["state_dict"].items() if key.endswith(".power")}
    assert len(powers) == 4  # A and B of two stages
    assert 3.0 not in powers.values()
    checkpoint = f"{run}/checkpoints/best.ckpt"
    assert {head.power.item() for stage in load_model(checkpoint).heads for head in (stage.a, stage.b)} == {
        *powers.values()
    }
    assert tested(checkpoint)["test/mAP"] == scores["test/mAP"]
    images = torch.randint(256, (2, 3, 64, 32), dtype=torch.uint8)
    for stage in load_model(checkpoint).explain(images):
        for head in stage:
            best = stage[0].logits.argmax(1)
            torch.testing.assert_close(head.heatmap.mean((1, 2)), head.logits[torch.arange(2), best], atol=1e-4, rtol=0)
    crops = next(Path(people).glob("synthetic-tiny*/query"))
    explain.run(composed("explain", f"checkpoint={checkpoint}", f"images={crops}", f"output={tmp_path / 'maps'}"))
    assert list((tmp_path / "maps").glob("*.png"))
