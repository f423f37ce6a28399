"""Parts for training under occlusion, in whole trainings: distillation, frozen stages, the schedule of erasing."""

import csv
from functools import partial

import pytest
import torch

from aelm.module import ReIDModule
from aelm.schedules import ramp
from aelm.train.callbacks import ErasingSchedule

ONE = ["figures=false", "trainer.max_epochs=1"]
DISTILLED = ["loss=distilled", "ema=0.8", "transform.pasting=1.0", "transform.clean_view=target", "optimizer.lr=0.01"]


def weights(run_dir):
    return torch.load(f"{run_dir}/checkpoints/last.ckpt", weights_only=True)["state_dict"]


def test_the_average_sees_the_clean_picture_and_nothing_erased(trained, monkeypatch):
    seen, plain = [], ReIDModule.targets

    def watched(self, batch):
        modes = [module.training for module in self.modules()]
        targets = plain(self, batch)
        assert [module.training for module in self.modules()] == modes
        (average,) = (c._average_model for c in self.trainer.callbacks if hasattr(c, "_average_model"))
        expected = average.module.network.eval()(batch.clean)
        for own, theirs in zip(expected, targets, strict=True):
            for head, target in zip(own, theirs, strict=True):
                assert torch.equal(head.embedding, target.embedding)
                assert not target.embedding.requires_grad
                assert target.mask is None
        differs = not torch.equal(average.module.network.heads[0].a.weight, self.network.heads[0].a.weight)
        seen.append((differs, bool((batch.image != batch.clean).any())))
        return targets

    monkeypatch.setattr(ReIDModule, "targets", watched)
    run_dir, scores = trained(*ONE, *DISTILLED)
    # The average starts as the weights after the first step.
    assert seen == [(False, True), (False, True), (True, True)]
    assert 0 <= scores["test/mAP"] <= 1
    with open(f"{run_dir}/csv/version_0/metrics.csv") as file:
        told = [float(row["train/loss_distillation"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert len(told) == 3
    assert all(0 < value < 2 for value in told)


def test_what_the_average_says_teaches_the_network(trained):
    with_it, _ = trained(*ONE, *DISTILLED, name="with")
    without, _ = trained(*ONE, *DISTILLED, "loss.distillation.weight=0", name="without")
    assert not torch.equal(weights(with_it)["network.heads.0.b.weight"], weights(without)["network.heads.0.b.weight"])


def test_both_views_of_a_picture_are_trained_on(trained, monkeypatch):
    batches, plain = [], ReIDModule.training_step

    def watched(self, batch, number):
        batches.append(batch)
        return plain(self, batch, number)

    monkeypatch.setattr(ReIDModule, "training_step", watched)
    trained(*ONE, "transform.pasting=1.0", "transform.clean_view=batch")
    assert len(batches) == 3
    for batch in batches:
        assert batch.image.shape[0] == 2 * 2 * 2
        assert torch.equal(batch.pid[:4], batch.pid[4:])
        assert not torch.equal(batch.image[:4], batch.image[4:])


def test_frozen_stages_and_their_norms_stay_as_they_are(trained):
    start = weights(trained(*ONE, "optimizer.lr=0", "frozen_stages=2", name="start")[0])
    moved = weights(trained(*ONE, "optimizer.lr=0.01", "frozen_stages=2", name="moved")[0])
    still = ("conv1", "bn1", "layer1")
    for key, value in start.items():
        frozen = key.removeprefix("network.backbone.network.").startswith(still)
        if frozen:
            assert torch.equal(value, moved[key]), key
        if key.endswith("num_batches_tracked") and "backbone" in key:
            assert moved[key] == (0 if frozen else 3), key
    for key in ("layer2.0.conv1.weight", "layer3.0.bn1.running_var"):
        assert not torch.equal(start[f"network.backbone.network.{key}"], moved[f"network.backbone.network.{key}"])


def test_erasing_is_ramped_up_and_stopped(trained):
    shares = ["erasing=ramp", "erasing.start=0.2", "erasing.full=0.8", "erasing.stop=0.8"]
    run_dir, _ = trained("figures=false", "trainer.max_epochs=5", "model.aelm.fill=drop", *shares)
    with open(f"{run_dir}/csv/version_0/metrics.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["train/erased_fraction/stage2"]]
    erased = [[float(r["train/erased_fraction/stage2"]) for r in rows if r["epoch"] == str(e)] for e in range(5)]
    assert [any(epoch) for epoch in erased] == [False, False, True, True, False]


def test_a_schedule_that_never_erases_is_refused():
    with pytest.raises(ValueError, match="`erasing` erases in none of 3 epochs"):
        ErasingSchedule(partial(ramp, start=0.7, full=0.8, stop=0.9), 3)
    with pytest.raises(ValueError, match="known number of epochs"):
        ErasingSchedule(ramp, None)
