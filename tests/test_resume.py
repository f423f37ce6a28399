"""A run that is killed and goes on ends where it would have ended undisturbed."""

import json
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from aelm.command.build import build_data, built
from aelm.data import ReIDDataModule
from aelm.data.loader import TrainLoader
from aelm.train import task as train
from aelm.train.trainer import random_states, set_random_states
from tests.runs import P_X_K, SMALL

INTERVAL = 3


def differences(one, other, place=""):
    """Places where two nested structures differ."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [place]
    if isinstance(one, dict):
        found = [f"{place}.{key}" for key in one.keys() ^ other.keys()]
        return found + [
            d for key in one.keys() & other.keys() for d in differences(one[key], other[key], f"{place}.{key}")
        ]
    if isinstance(one, (list, tuple)):
        found = [] if len(one) == len(other) else [f"{place}.length"]
        pairs = enumerate(zip(one, other, strict=False))
        return found + [d for i, (a, b) in pairs for d in differences(a, b, f"{place}.{i}")]
    return [] if one == other else [place]


@pytest.mark.faults
def test_five_kills_change_nothing_and_cost_an_interval_each_at_most(people, tmp_path):
    length = ["trainer.max_epochs=4", "sampler.steps_per_epoch=8", f"checkpoint_every_n_steps={INTERVAL}"]
    overrides = [*SMALL, *P_X_K, *length, "figures=false", "ema=0.9", "schedule.warmup_epochs=1"]
    command = [sys.executable, "-m", "tests.killed_runs", str(people), str(tmp_path), *overrides]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["kills"] == 5
    assert counts["peace"] == 32
    assert counts["peace"] <= counts["war"] <= counts["peace"] + 5 * INTERVAL
    peace, war = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("peace", "war")
    )
    # Weights and their average, optimizer, schedule, loops, random states, history: all but where files lie and how
    # long it took.
    for one in (peace, war):
        del one["aelm"]["config"]["dataset"]["workers"]
        one["callbacks"] = {
            key: value for key, value in one["callbacks"].items() if key != "Timer" and "ModelCheckpoint" not in key
        }
    assert {"RandomStates", "History", "Averaging"} <= peace["callbacks"].keys()
    assert differences(peace, war) == []
    peace, war = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("peace", "war"))
    assert peace == war


def test_random_states_come_back_and_as_plain_data(tmp_path):
    def draws():
        return random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(3).tolist()

    random.gauss(0, 1), np.random.randn()  # the second of a pair waits in the state
    torch.save(random_states(), tmp_path / "states")
    first = draws()
    assert draws() != first
    set_random_states(torch.load(tmp_path / "states", weights_only=True))
    assert draws() == first


@pytest.fixture
def loader(composed, people):
    """A loader of training as the commands build it, with some workers."""

    def make(workers=0):
        config = composed("train", f"data_dir={people}", *SMALL, *P_X_K, f"dataset.workers={workers}")
        data: ReIDDataModule = build_data(config.dataset, built(config.transform), built(config.sampler), 0)
        data.setup("fit")
        found = data.train_dataloader()
        assert isinstance(found, TrainLoader)
        return found

    return make


def test_a_loader_goes_on_where_it_stood(loader):
    whole, stopped = loader(), loader(workers=1)
    epochs = [[batch.image for batch in whole] for _ in range(3)]
    passing = iter(stopped)
    assert torch.equal(next(passing).image, epochs[0][0])
    list(passing)
    passing = iter(stopped)
    next(passing)
    state = stopped.state_dict()
    assert state == {"epoch": 1, "batches": 1, "processes": 1}
    for workers in (0, 1):
        again = loader(workers)
        again.load_state_dict(state)
        rest = [batch.image for batch in again]
        assert again.state_dict() == {"epoch": 1, "batches": 3, "processes": 1}
        assert len(rest) == 2
        assert all(torch.equal(a, b) for a, b in zip(rest, epochs[1][1:], strict=True))
        assert all(torch.equal(a.image, b) for a, b in zip(again, epochs[2], strict=True))


def test_a_loader_that_stood_at_an_end_goes_on_with_the_next_epoch(loader):
    whole = loader()
    list(whole)
    state = whole.state_dict()
    again = loader()
    again.load_state_dict(state)
    assert all(torch.equal(a.image, b.image) for a, b in zip(again, whole, strict=True))


def test_the_epoch_may_be_told_after_the_iterator_was_asked_for(loader):
    """As Lightning does when a run goes on; workers begin at once."""
    early, late = loader(), loader(workers=1)
    early.sampler.set_epoch(2)
    passing = iter(late)
    late.sampler.set_epoch(2)
    assert all(torch.equal(a.image, b.image) for a, b in zip(passing, early, strict=True))


def test_another_number_of_processes_is_refused(loader):
    one = loader()
    with pytest.raises(ValueError, match=r"had 2 processes, this one has 1.*Start as many"):
        one.load_state_dict({"epoch": 0, "batches": 1, "processes": 2})


BRIEF = ["figures=false", "checkpoint_every_n_steps=1", "trainer.max_epochs=3"]


@pytest.mark.parametrize("options", [["frozen_epochs=2"], ["erasing=ramp", "erasing.full=0.9", "erasing.stop=1"]])
def test_what_an_epoch_begins_with_holds_also_where_a_run_goes_on_within_it(options, trained, monkeypatch):
    options = [*BRIEF, *options]
    whole, _ = trained(*options, name="whole")
    plain, stopped = train.ReIDModule.training_step, []

    def die(self, batch, batch_idx):
        if self.global_step == 4 and not stopped:
            stopped.append(True)
            raise KeyError("killed")
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(train.ReIDModule, "training_step", die)
    with pytest.raises(KeyError, match="killed"):
        trained(*options, name="parts")
    parts, _ = trained(*options, "resume=auto", name="parts")
    states = [torch.load(f"{run}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (whole, parts)]
    assert differences(*states) == []


def test_a_run_on_the_cpu_leaves_gpus_alone(monkeypatch):
    """Also where there are some: to ask for their states would start CUDA on each of them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: pytest.fail("CUDA was started"))
    assert random_states()["cuda"] == []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [torch.zeros(2)])
    assert len(random_states()["cuda"]) == 1
