"""The two commands, run in this process on the smallest synthetic people; a sweep as a process of its own."""

import csv
import glob
import json
import os
import shutil
import subprocess
import sys

import cv2
import pytest
import torch

from aelm.checkpoint import read_checkpoint
from aelm.command.cli import quote
from aelm.evaluate import task as evaluate
from aelm.models import TimmBackbone
from aelm.train import task as train
from aelm.train.trainer import StepTimer
from tests.runs import P_X_K, SCORES, SMALL


def weights(run_dir, name="last"):
    return read_checkpoint(f"{run_dir}/checkpoints/{name}.ckpt")["state_dict"]


def test_a_run_leaves_what_it_promises(trained):
    run_dir, scores = trained()
    with open(f"{run_dir}/metrics.json") as file:
        assert json.load(file) == scores
    assert set(scores) == {f"{name}/{key}" for name in ("test", "test_occluded") for key in SCORES}
    assert all(0 <= value <= 1 for value in scores.values())
    names = set(os.listdir(run_dir))
    kinds = {f"ranked_{name}_{kind}.png" for name in ("test", "test_occluded") for kind in ("best", "worst", "random")}
    pictures = {"cmc.png", "training.png", "heatmaps_test.png", "heatmaps_test_occluded.png", *kinds}
    assert names == {"config.yaml", "metrics.json", "run.json", "csv", "checkpoints", *pictures}
    assert all(cv2.imread(f"{run_dir}/{name}").std() > 5 for name in pictures)
    assert set(os.listdir(f"{run_dir}/checkpoints")) == {"best.ckpt", "last.ckpt"}
    with open(f"{run_dir}/csv/version_0/metrics.csv") as file:
        columns = set(file.readline().strip().split(","))
    assert {"epoch", "step", "train/loss", "val/mAP"} <= columns
    assert {"train/erased_fraction/stage1", "train/erased_fraction/stage2"} <= columns


def test_a_checkpoint_evaluates_to_the_numbers_of_its_run(trained, tested, tmp_path):
    run_dir, scores = trained("figures=false")
    best = f"{run_dir}/checkpoints/best.ckpt"
    again = tested(best)
    assert {name: again[name] for name in scores} == scores
    # Another batch size may change sums in the last bit, not more.
    other = tested(best, "dataset.test_batch_size=7")
    assert {name: other[name] for name in scores} == pytest.approx(scores, abs=1e-6)
    content = torch.load(best, weights_only=True)
    content["state_dict"]["network.backbone.network.conv1.0.weight"][0] += 1
    torch.save(content, tmp_path / "other.ckpt")
    changed = tested(tmp_path / "other.ckpt")
    assert {name: changed[name] for name in scores} != scores


def test_evaluate_writes_only_where_told(trained, composed, people, tmp_path, monkeypatch):
    run_dir, scores = trained("figures=false")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    moved = shutil.copytree(people, tmp_path / "moved")
    best = f"{run_dir}/checkpoints/best.ckpt"
    overrides = [
        f"checkpoint={best}",
        f"output={tmp_path}/out",
        f"data_dir={moved}",
        "trainer.enable_progress_bar=false",
    ]
    assert evaluate.run(composed("evaluate", *overrides)).items() >= scores.items()
    assert os.listdir(tmp_path / "elsewhere") == []
    out = set(os.listdir(tmp_path / "out"))
    assert {"metrics.json", "queries_test.csv", "queries_test_occluded.csv", "cmc.png"} <= out
    lines = (tmp_path / "out" / "queries_test.csv").read_text().splitlines()
    assert lines[0] == "path,pid,camid,average_precision,inverse_negative_penalty,first_rank"
    precision = [float(line.split(",")[3]) for line in lines[1:] if line.split(",")[3]]
    assert sum(precision) / len(precision) == pytest.approx(scores["test/mAP"], abs=1e-5)


@pytest.mark.parametrize("aelm", ["adversarial", "random"])
def test_two_runs_with_one_seed_have_identical_weights(trained, aelm):
    first, second, other = (
        weights(trained("figures=false", f"model/aelm={aelm}", f"seed={seed}", name=name)[0])
        for name, seed in (("a", 3), ("b", 3), ("c", 4))
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_steps_may_be_what_ends_a_training(trained):
    run_dir, _ = trained("trainer.max_epochs=null", "+trainer.max_steps=2", "figures=false")
    assert torch.load(f"{run_dir}/checkpoints/last.ckpt", weights_only=True)["global_step"] == 2


def test_checkpoints_come_each_epoch_where_nobody_is_held_out_and_validation_is_rare(trained):
    run_dir, _ = trained("dataset.val_fraction=0", "trainer.check_val_every_n_epoch=5", "figures=false")
    assert torch.load(f"{run_dir}/checkpoints/best.ckpt", weights_only=True)["epoch"] == 1
    assert torch.load(f"{run_dir}/checkpoints/last.ckpt", weights_only=True)["epoch"] == 1


def test_a_training_ends_when_its_time_is_up_and_is_tested(trained):
    """Without an end of its own, and with the bar that tells how much time is left."""
    endless = ["trainer.max_epochs=-1", "trainer.max_time=00:00:00:03", "trainer.enable_progress_bar=true"]
    run_dir, scores = trained(*endless, "figures=false", "trainer.check_val_every_n_epoch=1000")
    assert set(os.listdir(f"{run_dir}/checkpoints")) == {"last.ckpt"}
    assert 0 <= scores["test/mAP"] <= 1
    with open(f"{run_dir}/run.json") as file:
        assert 3 <= json.load(file)["train/seconds"] < 60


def test_without_held_out_identities_best_is_the_last(trained):
    run_dir, _ = trained("figures=false", "dataset.val_fraction=0")
    best, last = weights(run_dir, "best"), weights(run_dir, "last")
    assert all(torch.equal(best[key], last[key]) for key in best)


def test_resume_goes_on_where_a_run_stopped(trained, monkeypatch):
    whole, _ = trained("figures=false", name="whole")
    stopped, killed = [], train.ReIDModule.training_step

    def die_in_the_second_epoch(self, batch, batch_idx):
        if self.global_step == 4 and not stopped:
            stopped.append(True)
            raise KeyError("killed")
        return killed(self, batch, batch_idx)

    monkeypatch.setattr(train.ReIDModule, "training_step", die_in_the_second_epoch)
    with pytest.raises(KeyError, match="killed"):
        trained("figures=false", name="parts")
    parts, _ = trained("figures=false", "resume=auto", name="parts")
    first, second = weights(whole), weights(parts)
    assert all(torch.equal(first[key], second[key]) for key in first)


def killed_at(step, monkeypatch, first=0):
    """Lets the next training die once after an optimizer step, at a batch of this or a later number."""
    died, plain = [], train.ReIDModule.training_step

    def die(self, batch, batch_idx):
        if self.global_step == step and batch_idx >= first and not died:
            died.append(True)
            raise KeyError("killed")
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(train.ReIDModule, "training_step", die)


def test_a_resumed_run_needs_no_weights_to_start_from(trained, monkeypatch, tmp_path):
    torch.save(TimmBackbone("resnet10t", pretrained=False).network.state_dict(), tmp_path / "start.pth")
    options = ["figures=false", f"model.backbone.weights={tmp_path}/start.pth"]
    killed_at(4, monkeypatch)
    with pytest.raises(KeyError, match="killed"):
        trained(*options)
    (tmp_path / "start.pth").unlink()
    trained(*options, "resume=auto")


EIGHT = ["figures=false", "sampler.steps_per_epoch=4", "schedule=cosine", "erasing=ramp", "erasing.stop=1.0"]


def all_equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("held_out", [0.4, 0])
@pytest.mark.parametrize("batches", [1, 2])
def test_a_run_that_time_stopped_within_an_epoch_goes_on_there(trained, monkeypatch, batches, held_out):
    """It takes no step less than one that was not stopped, also if gradients are accumulated."""
    steps = 4 // batches
    options = [*EIGHT, f"trainer.accumulate_grad_batches={batches}", f"dataset.val_fraction={held_out}"]
    whole, scores = trained(*options, name="whole")
    stopped = []

    def run_out(self, trainer):
        if trainer.global_step == steps + 1 and not stopped:
            stopped.append(trainer.fit_loop.epoch_loop.batch_idx)
            trainer.should_stop = True

    monkeypatch.setattr(StepTimer, "_check_time_remaining", run_out)
    parts, _ = trained(*options, "trainer.max_time=00:01:00:00", name="parts")
    assert stopped == [batches - 1]
    assert not all_equal(weights(whole), weights(parts))
    resumed, again = trained(*options, "resume=auto", "trainer.max_time=00:02:00:00", name="parts")
    assert all_equal(weights(whole), weights(resumed))
    assert held_out or again == scores


@pytest.mark.parametrize("ends", [["+trainer.max_steps=7"], ["+trainer.max_steps=100"]])
def test_a_run_that_counts_steps_goes_on_with_the_next_epoch(trained, monkeypatch, ends):
    whole, _ = trained(*EIGHT, *ends, name="whole")
    killed_at(5, monkeypatch)
    with pytest.raises(KeyError, match="killed"):
        trained(*EIGHT, *ends, name="parts")
    parts, _ = trained(*EIGHT, *ends, "resume=auto", name="parts")
    steps = [torch.load(f"{one}/checkpoints/last.ckpt", weights_only=True)["global_step"] for one in (whole, parts)]
    assert steps == [min(8, int(ends[0].rpartition("=")[2]))] * 2
    assert all_equal(weights(whole), weights(parts))


@pytest.mark.parametrize(
    ("often", "step", "batch"),
    [
        (["checkpoint_every_n_steps=3"], 10, 0),
        (["checkpoint_every_n_steps=1", "trainer.accumulate_grad_batches=2"], 4, 3),
    ],
)
def test_a_kill_after_a_validation_within_an_epoch_forgets_no_score(trained, monkeypatch, often, step, batch):
    """Nor a gradient, where the validation comes between the batches of a step."""
    options = [*EIGHT, "sampler.steps_per_epoch=6", "+trainer.val_check_interval=0.5", *often, "optimizer.lr=0.1"]
    whole, _ = trained(*options, name="whole")
    killed_at(step, monkeypatch, batch)
    with pytest.raises(KeyError, match="killed"):
        trained(*options, name="parts")
    parts, _ = trained(*options, "resume=auto", name="parts")
    histories = [
        torch.load(f"{one}/checkpoints/last.ckpt", weights_only=True)["callbacks"]["History"] for one in (whole, parts)
    ]
    assert len(histories[0]["values"]["val/mAP"]) == 4
    assert histories[0] == histories[1]
    assert all_equal(weights(whole, "best"), weights(parts, "best"))


def test_a_run_directory_in_use_is_refused_before_training(trained, monkeypatch):
    run_dir, _ = trained("figures=false")
    before = weights(run_dir)
    monkeypatch.setattr(train.pl.Trainer, "fit", lambda *_: pytest.fail("training began"))
    with pytest.raises(FileExistsError, match=r"another configuration: model\.aelm\.threshold: 0\.7 -> 0\.5"):
        trained("figures=false", "model.aelm.threshold=0.5")
    assert all(torch.equal(before[key], after) for key, after in weights(run_dir).items())


def test_the_backbone_stays_as_it_was_while_frozen(trained):
    def backbone(run_dir):
        return {k: v for k, v in weights(run_dir).items() if k.startswith("network.backbone.")}

    one = ["figures=false", "trainer.max_epochs=1"]
    start = backbone(trained(*one, "optimizer.lr=0", "frozen_epochs=1", name="start")[0])
    frozen = backbone(trained(*one, "optimizer.lr=0.01", "frozen_epochs=1", name="frozen")[0])
    free = backbone(trained(*one, "optimizer.lr=0.01", name="free")[0])
    assert all(torch.equal(start[key], frozen[key]) for key in start)
    assert not all(torch.equal(start[key], free[key]) for key in start)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model/aelm=none", "model/coam=none", "loss=identity_triplet", "schedule=cosine"],
        ["model/aelm=two_heads", "sampler=shuffle", "sampler.batch_size=4", "optimizer=sgd", "new_lr_factor=10"],
        ["model/aelm=random", "model.aelm.neck=true", "logger=none", "optimizer=adamw", "schedule=none"],
        ["model.aelm.fill=zero", "model.coam.mode=parallel", "model.backbone.stages=1", "logger=tensorboard"],
    ],
)
def test_variants_train_and_test(trained, overrides):
    _, scores = trained("figures=false", "trainer.max_epochs=1", *overrides)
    assert 0 <= scores["test_occluded/mAP"] <= 1


def test_wandb_gets_pictures_and_configuration_offline(trained, monkeypatch):
    told, finished = {}, []
    log_hyperparams = train.WandbLogger.log_hyperparams

    def listen(self, params):
        log_hyperparams(self, params)
        told.update(dict(self.experiment.config))
        finish = type(self.experiment).finish

        def note(run, exit_code=None):
            finished.append((run.id, exit_code))
            finish(run, exit_code=exit_code)

        monkeypatch.setattr(type(self.experiment), "finish", note)

    monkeypatch.setattr(train.WandbLogger, "log_hyperparams", listen)
    run_dir, _ = trained("logger=wandb", "logger.mode=offline", "trainer.max_epochs=1")
    assert told["model"]["aelm"]["threshold"] == 0.7
    (kept,) = glob.glob(f"{run_dir}/wandb/offline-run-*")
    assert finished == [(kept.rsplit("-", 1)[-1], 0)]
    sent = {os.path.basename(p).split("_0_")[0] for p in glob.glob(f"{kept}/files/media/images/figures/*.png")}
    assert len(sent) >= 8
    assert os.environ["WANDB_MODE"] == "offline"


def aelm(*arguments, cwd):
    done = subprocess.run([sys.executable, "-m", *arguments], cwd=cwd, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_sweep_as_typed(people, tmp_path, tested, monkeypatch):
    """Two points from an odd folder, then an evaluation of one of them from another folder."""
    home = tmp_path / "it's (here), 人"
    home.mkdir()
    fast = ["trainer.max_epochs=1", "figures=false", "name=sweep one"]
    code, output = aelm(
        "aelm.train", "-m", "model.aelm.threshold=0.5,0.7", f"data_dir={people}", *SMALL, *P_X_K, *fast, cwd=home
    )
    assert code == 0, output
    assert "mAP_trapezoid" in output
    assert os.listdir(home) == ["runs"]
    points = [home / "runs" / "sweep one" / str(i) for i in (0, 1)]
    with (home / "runs" / "sweep one" / "sweep.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["model.aelm.threshold"], row["status"]) for row in rows] == [("0.5", "done"), ("0.7", "done")]
    assert all(0 <= float(row["val/mAP"]) <= 1 and row["test/mAP"] for row in rows)
    assert cv2.imread(str(home / "runs" / "sweep one" / "sweep.png")).std() > 5
    scores = [json.loads((point / "metrics.json").read_text()) for point in points]
    best = points[0] / "checkpoints" / "best.ckpt"
    monkeypatch.chdir(tmp_path)
    tested(quote(str(best)), "output=out")
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()).items() >= scores[0].items()
