"""Where a run ran and how long it took: the parts of a stopped run add up, and the test is left out."""

import json
from importlib.metadata import version

import pytest

from aelm.report.runs import device_name
from aelm.train import task as train

FEW = ["figures=false", "trainer.max_epochs=2"]


@pytest.fixture
def facts(trained, monkeypatch):
    def run(*overrides, name="run"):
        monkeypatch.setattr(train.runs, "overrides", lambda: ["arm=a b", "seed=0"])
        run_dir, _ = trained(*FEW, *overrides, name=name)
        with open(f"{run_dir}/run.json", encoding="utf-8") as file:
            return json.load(file)

    return run


def test_a_run_says_where_it_ran(facts):
    found = facts()
    assert json.loads(found.pop("overrides")) == ["arm=a b", "seed=0"]
    assert (found["processes"], found["threads"], found["torch"]) == (1, 1, version("torch"))
    assert found["device"] == device_name(train.torch.device("cpu")) != ""
    assert 0 < found["train/seconds"] < 600


def test_the_test_is_not_counted_and_the_parts_of_a_stopped_run_are(facts, monkeypatch):
    step, test, clock, stopped = train.ReIDModule.training_step, train.ReIDModule.test_step, [0.0], []
    monkeypatch.setattr("pytorch_lightning.callbacks.timer.time.monotonic", lambda: clock[0])

    def slow(self, batch, batch_idx):
        if self.global_step == 4 and not stopped:
            stopped.append(True)
            raise KeyError("stopped")
        clock[0] += 10
        return step(self, batch, batch_idx)

    def slow_test(self, *arguments):
        clock[0] += 1000
        return test(self, *arguments)

    monkeypatch.setattr(train.ReIDModule, "training_step", slow)
    monkeypatch.setattr(train.ReIDModule, "test_step", slow_test)
    with pytest.raises(KeyError, match="stopped"):
        facts()
    clock[0] += 500  # while nothing ran
    # Six steps count; the one after the last checkpoint, which was lost, does not.
    assert facts("resume=auto")["train/seconds"] == 60
