"""Losses as a configuration names them: they train, what they learn is kept, and what they lack is said first."""

import importlib.util
import logging

import pytest
import torch

from aelm.command.build import built
from aelm.command.schema import check_keys
from aelm.losses import IdentityLoss, TripletLoss
from aelm.module import ReIDModule
from aelm.train.task import built_losses
from aelm.types import MissingPackageError
from tests.runs import SMALL

LIBRARY = ("circle", "multi_similarity", "supcon", "arcface", "cosface")
LEARNED = {"arcface": "losses.arcface.loss.W", "cosface": "losses.cosface.loss.W", "center": "losses.center.centers"}
QUICK = ("figures=false", "dataset.val_fraction=0", "schedule.warmup_epochs=0")


def needs(loss):
    if loss in LIBRARY:
        pytest.importorskip("pytorch_metric_learning", reason="the extra `losses` is not installed")


def last(run):
    return torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)


@pytest.mark.parametrize("loss", [*LIBRARY, "center", "weighted_triplet"])
def test_each_trains_and_what_it_learns_goes_on_where_it_stood(trained, loss, monkeypatch):
    needs(loss)
    whole, scores = trained(f"loss={loss}", *QUICK, name="whole")
    assert scores["test/mAP"] > 0
    values = last(whole)["callbacks"]["History"]["values"]
    terms = [value for _, value in values[f"train/loss_{loss}"]]
    assert all(value > 0 for value in terms)
    if loss not in LEARNED:
        return
    step = ReIDModule.training_step
    with monkeypatch.context() as patch:
        patch.setattr(ReIDModule, "training_step", lambda *batch: killed_in_the_second_epoch(*batch) or step(*batch))
        with pytest.raises(KeyError, match="killed"):
            trained(f"loss={loss}", *QUICK, name="parts")
    first = last(whole.removesuffix("whole") + "parts")["state_dict"][LEARNED[loss]]
    parts, _ = trained(f"loss={loss}", *QUICK, "resume=auto", name="parts")
    learned = last(parts)["state_dict"][LEARNED[loss]]
    assert not torch.equal(learned, first)
    assert torch.equal(learned, last(whole)["state_dict"][LEARNED[loss]])


def killed_in_the_second_epoch(module, *_):
    if module.current_epoch == 1:
        raise KeyError("killed")


@pytest.mark.parametrize(("arm", "heads"), [("adversarial", 2), ("none", 1)])
def test_identities_and_length_come_from_the_network(composed, arm, heads):
    needs("arcface")
    config = composed("train", *SMALL, "loss=[identity_triplet,arcface,center]", f"model/aelm={arm}")
    losses = built_losses(config.loss, built(config.model)(num_ids=7), (64, 32))
    assert losses["arcface"].loss.W.shape == (2 * heads * 16, 7)
    assert losses["center"].centers.shape == (7, 2 * heads * 16)
    assert (type(losses["identity"]), type(losses["triplet"])) == (IdentityLoss, TripletLoss)


def test_a_size_that_is_given_stays(composed):
    config = composed("train", *SMALL, "loss=center", "loss.center.num_ids=9")
    assert built_losses(config.loss, built(config.model)(num_ids=7), (64, 32))["center"].centers.shape[0] == 9


def test_a_missing_package_is_named_with_the_line_that_installs_it(composed, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r"CircleLoss` needs .* not installed: pip install 'aelm\[losses\]'"):
        check_keys(composed("train", "loss=circle"))
    check_keys(composed("train", "loss=weighted_triplet"))


@pytest.mark.parametrize(("loss", "told"), [("supcon", True), ("weighted_triplet", True), ("arcface", False)])
def test_who_needs_pairs_says_so_before_the_first_step(trained, loss, told, caplog):
    needs(loss)
    with caplog.at_level(logging.WARNING):
        trained(f"loss={loss}", *QUICK, "sampler.images=1", "trainer.max_epochs=1", "trainer.limit_train_batches=1")
    assert (f"`loss.{loss}` compares pictures" in caplog.text) == told
