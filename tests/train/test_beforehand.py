"""What the last batch, the last line or the end of a training would break is said before its first step."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
import wandb

from aelm.compare.task import compare
from aelm.data.sampler import Dealer, IdentitySampler, ShuffleSampler
from aelm.embed.embedder import load_embedder
from aelm.embed.job import Settings, embed_items
from aelm.evaluate import task as evaluate
from aelm.export.onnx import export_model
from aelm.losses import TripletLoss
from aelm.module import ReIDModule
from aelm.schedules import constant
from aelm.search import task as search
from aelm.train import task as train
from aelm.train.callbacks import History
from aelm.types import InputError, RunError
from tests.pictures_on_disk import save_model
from tests.runs import SMALL


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("seed=-1", r"`seed` must lie in 0 \.\. 4294967295, got -1"),
        ("seed=99999999999", r"`seed` must lie in 0 \.\. 4294967295"),
        ("resume=true", r"`resume` must be auto, or null"),
        ("trainer.accumulate_grad_batches=0", r"accumulate_grad_batches` must be at least 1, got 0"),
        ("trainer.check_val_every_n_epoch=0", r"must be at least 1, got 0; to validate never.*dataset\.val_fraction=0"),
        ("+trainer.val_check_interval=0.0", r"val_check_interval` must be above 0"),
        ("trainer.gradient_clip_val=-1", r"gradient_clip_val` must be at least 0"),
        ("trainer.max_epochs=0", r"max_epochs=0` trains nothing"),
        ("+trainer.max_steps=0", r"max_steps=0` trains nothing"),
        ("trainer.limit_train_batches=0", r"limit_train_batches=0` trains nothing"),
        ("trainer.max_time=00:00:00:00", r"max_time` leaves no time"),
    ],
)
def test_a_number_out_of_range_is_said_before_anything_is_read(composed, override, told, monkeypatch, tmp_path):
    monkeypatch.setattr(train, "build_data", lambda *_: pytest.fail("data was read"))
    with pytest.raises(InputError, match=told) as caught:
        train.run(composed("train", "logger=none", override))
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_zero_means_never_for_the_log(trained):
    run, scores = trained("figures=false", "trainer.log_every_n_steps=0", "trainer.max_epochs=1")
    assert scores["test/mAP"] > 0
    history = torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["callbacks"]["History"]["values"]
    assert not [name for name in history if name.startswith("train/")]
    assert History(0).every_n_steps == 0


def test_a_schedule_refuses_a_negative_warm_up():
    with pytest.raises(InputError, match="`warmup_epochs` and `warmup_factor` must not be negative, got -1"):
        constant(0, 10, warmup_epochs=-1)


@pytest.fixture
def alone(people, tmp_path):
    """The synthetic people's training pictures as one's own folder, without queries."""
    benchmark = next(Path(people).glob("synthetic-tiny*"))
    shutil.copytree(benchmark / "bounding_box_train", tmp_path / "own" / "train")
    return ["dataset=folder", f"data_dir={tmp_path / 'own'}", "trainer.max_epochs=1"]


def test_a_training_without_a_test_set_validates_and_writes_what_there_is(trained, alone, caplog, capsys, monkeypatch):
    monkeypatch.setattr("tests.conftest.SMALL", [part for part in SMALL if "synthetic" not in part])
    with caplog.at_level(logging.WARNING):
        run, scores = trained(*alone)
    assert "nothing will be tested: no queries in folder" in caplog.text
    written = json.loads((Path(run) / "metrics.json").read_text())
    assert written == scores
    assert set(scores) == {f"val/{name}" for name in ("mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10")}
    assert "not tested; val/mAP" in capsys.readouterr().out
    assert (Path(run) / "run.json").is_file()
    assert (Path(run) / "training.png").is_file()


def test_the_best_validation_is_told_where_nothing_is_tested():
    history = History()
    history.values = {"val/mAP": [(1, 0.2), (2, 0.4), (3, 0.3)], "val/rank1": [(1, 0.9), (2, 0.5), (3, 0.7)]}
    assert train.best_validation(history, "val/mAP") == {"val/mAP": 0.4, "val/rank1": 0.5}
    assert train.best_validation(history, "val/rank1") == {"val/mAP": 0.2, "val/rank1": 0.9}
    assert train.best_validation(History(), "val/mAP") == {}


def module(steps, caplog, loss=None):
    """What a module says of some steps."""
    found = ReIDModule(torch.nn.Identity(), {"triplet": loss or TripletLoss()}, torch.optim.SGD)
    found._trainer = type("Trainer", (), {"is_global_zero": True})()
    caplog.clear()
    found.check_steps(steps)
    return caplog.text


def test_a_loss_that_never_finds_a_pair_is_warned_of(caplog):
    labels, camids = [0, 0, 1, 1, 2, 2, 3, 3], [0, 1] * 4

    def steps(identities, images):
        return IdentitySampler(labels, camids, identities=identities, images=images).step_labels()

    assert "steps hold no positive or no negative pair" in module(steps(4, 1), caplog)
    assert "no positive or no negative pair" in module(steps(1, 2), caplog)
    assert module(steps(2, 2), caplog) == ""
    assert module(steps(4, 1), caplog, loss=lambda outputs, pids: 0) == ""


def test_the_last_smaller_step_is_among_those_that_are_looked_at():
    sampler = ShuffleSampler(list(range(101)), [0] * 101, batch_size=4, drop_last=False)
    assert [len(step) for step in sampler.step_labels(most=3)] == [4, 4, 4, 1]
    assert [len(step) for step in ShuffleSampler([0] * 8, [0] * 8, batch_size=4).step_labels(most=3)] == [4, 4]


def test_no_more_of_an_epoch_is_planned_than_is_looked_at(monkeypatch):
    sampler = IdentitySampler([0, 0, 1, 1] * 100, [0, 1] * 200, identities=2, images=2)
    planned = []
    draw = Dealer.draw
    monkeypatch.setattr(Dealer, "draw", lambda self, count: planned.append(count) or draw(self, count))
    assert [sorted(step) for step in sampler.step_labels(most=3)] == [[0, 0, 1, 1]] * 3
    assert len(planned) == 6


def test_a_last_step_of_one_picture_is_refused_before_the_first(trained, monkeypatch):
    monkeypatch.setattr(ReIDModule, "training_step", lambda *_: pytest.fail("a step was taken"))
    options = ["figures=false", "sampler=shuffle", "sampler.drop_last=false", "dataset.val_fraction=0"]
    sizes = []

    def look(self, steps):
        sizes.append(sum(map(len, steps)))
        raise KeyError

    with monkeypatch.context() as patch:
        patch.setattr(ReIDModule, "check_steps", look)
        with pytest.raises(KeyError):
            trained(*options, "sampler.batch_size=48", name="look")
    told = r"a step of the sampler holds one picture, which the network cannot train on .*`sampler\.drop_last=true`"
    with pytest.raises(InputError, match=told):
        trained(*options, f"sampler.batch_size={sizes[0] - 1}", "model.aelm.neck=true")


def test_wandb_without_a_key_is_said_before_the_work(composed, monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_API_KEY", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(train, "build_data", lambda *_: pytest.fail("data was read"))
    monkeypatch.setattr("wandb.login", nobody)
    told = r"`logger=wandb`: No API key configured\. Log in first \(`wandb login`.*`logger\.mode=offline`"
    with pytest.raises(RunError, match=told):
        train.run(composed("train", "logger=wandb", "logger.mode=online"))


def nobody():
    raise wandb.errors.UsageError("No API key configured.")


def test_other_commands_ask_first_too(composed, tmp_path):
    for override, told in (
        ("+trainer.limit_test_batches=0", "limit_test_batches=0` tests nothing"),
        ("+trainer.limit_test_batches=3", "limit_test_batches` would rank against a part of a gallery"),
        ("+trainer.fast_dev_run=true", "fast_dev_run` would rank against a part"),
    ):
        with pytest.raises(InputError, match=told):
            evaluate.run(composed("evaluate", "checkpoint=x", override))
    for score in ("nan", "2"):
        with pytest.raises(InputError, match="`min_score` is a cosine"):
            search.run(composed("search", "query=x", "gallery=y", f"min_score={score}"))
    with pytest.raises(InputError, match="`workers` must be 0 or more, or null; got -1"):
        embed_items("gone.ckpt", [], tmp_path / "out", Settings(workers=-1))
    with pytest.raises(InputError, match=r"`confidence` must lie in \(0, 1\), got 2"):
        compare([], [], None, 2)


def test_an_export_asks_for_its_tolerance_first(tmp_path):
    embedder = load_embedder(save_model(tmp_path / "model.ckpt"))
    for tolerance in (-1, float("nan")):
        with pytest.raises(InputError, match="`tolerance` must be 0 or more"):
            export_model(embedder, tmp_path / "x.onnx", tolerance=tolerance)
