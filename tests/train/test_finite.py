"""A training whose numbers are no longer finite ends at once, says where, and keeps its last good checkpoint."""

import os

import pytest
import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from aelm.devices import async_copy
from aelm.train import task as train
from aelm.train.callbacks import FiniteTraining, not_finite
from tests.test_module import QUIET, batches, module

SHORT = ["figures=false", "sampler.steps_per_epoch=4", "checkpoint_every_n_steps=1"]


def spoiling(step, spoil, seen):
    """A training step that spoils the loss, or the weights' gradient, of one step; notes the files of each."""
    plain = train.ReIDModule.training_step

    def training_step(self, batch, batch_idx):
        dataset = self.trainer.train_dataloader.dataset
        seen.append([os.path.basename(dataset.path(position)) for position in batch.position.tolist()])
        loss = plain(self, batch, batch_idx)
        return spoil(loss) if self.global_step == step else loss

    return training_step


class BadGradient(torch.autograd.Function):
    """The identity, through which no gradient comes that is a number."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, gradient):
        return gradient * torch.nan


def saved(run):
    content = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert not_finite(content["state_dict"]) == ""
    return content["global_step"]


@pytest.mark.parametrize("value", ["nan", "inf"])
def test_a_loss_that_is_no_number_ends_the_training_with_all_that_is_needed(trained, monkeypatch, tmp_path, value):
    seen = []
    monkeypatch.setattr(train.ReIDModule, "training_step", spoiling(6, lambda loss: loss * float(value), seen))
    with pytest.raises(FloatingPointError) as error:
        trained(*SHORT)
    told = str(error.value)
    assert f"the loss of step 6 (epoch 1) is {value}" in told
    assert len(seen) == 7
    assert all(name in told for name in seen[-1])
    assert "the step before" not in told  # the weights were sound
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert f"The last good checkpoint is {last}, after step 6" in told
    assert saved(tmp_path / "run") == 6


def test_before_the_first_checkpoint_that_is_told(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(train.ReIDModule, "training_step", spoiling(0, lambda loss: loss * torch.nan, []))
    with pytest.raises(FloatingPointError, match=r"step 0 \(epoch 0\) is nan.*No checkpoint had been written yet"):
        trained(*SHORT)
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("validation", ["dataset.val_fraction=0.4", "dataset.val_fraction=0"])
def test_weights_that_a_gradient_spoiled_are_never_saved(trained, monkeypatch, tmp_path, validation):
    seen = []
    monkeypatch.setattr(train.ReIDModule, "training_step", spoiling(7, BadGradient.apply, seen))
    with pytest.raises(FloatingPointError, match=r"`network\..*` is not finite after step 7 \(epoch 1\)") as error:
        trained(*SHORT, validation)
    assert all(name in str(error.value) for name in seen[-1])
    assert saved(tmp_path / "run") == 7
    best = torch.load(tmp_path / "run" / "checkpoints" / "best.ckpt", weights_only=True)
    assert not_finite(best["state_dict"]) == ""


def test_without_a_checkpoint_between_the_next_loss_names_both_batches(trained, monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(train.ReIDModule, "training_step", spoiling(5, BadGradient.apply, seen))
    with pytest.raises(FloatingPointError, match=r"step 6 .* is nan.*the gradient of the step before") as error:
        trained("figures=false", "sampler.steps_per_epoch=4")
    assert all(name in str(error.value) for name in seen[-1] + seen[-2])
    assert saved(tmp_path / "run") == 4


class Late:
    """An event that has come once somebody waited for it, as a loss on its way over from a GPU."""

    def __init__(self, loss, value):
        self.loss, self.value = loss, value

    def synchronize(self):
        self.loss.fill_(self.value)


@pytest.mark.parametrize(("late", "step"), [(3, 3), (5, 5)])
def test_a_loss_that_arrives_later_is_looked_at_a_step_later_and_in_the_end(monkeypatch, tmp_path, late, step):
    """As on a GPU: step 5 is the last one, after which no other comes."""
    count, losses = [], []

    def travelling(loss):
        count.append(0)
        losses.append(torch.zeros(()))
        return losses[-1], Late(losses[-1], torch.nan if len(count) == late + 1 else loss.item())

    monkeypatch.setattr("aelm.train.callbacks.async_copy", travelling)
    parts = [FiniteTraining(tmp_path / "last.ckpt")]
    trainer = pl.Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, callbacks=parts, **QUIET)
    with pytest.raises(FloatingPointError, match=rf"step {step} \(epoch 1\) is nan, over the positions \[\d"):
        trainer.fit(module(), DataLoader(batches(junk=None), batch_size=None))
    assert len(count) == min(late + 2, 6) - (late < 5)


@pytest.mark.gpu
def test_a_loss_on_a_gpu_comes_over_without_waiting():
    loss = torch.tensor(2.5, device="cuda")
    copy, arrived = async_copy(loss)
    arrived.synchronize()
    assert copy.device.type == "cpu"
    assert copy.item() == 2.5
