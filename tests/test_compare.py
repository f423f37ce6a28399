"""The command, on runs written by hand and on a real sweep of the smallest training."""

import csv
import os
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from aelm.compare import __main__ as compare
from aelm.train import __main__ as train
from tests.compare.disk import ARMS, write_run, write_sweep
from tests.runs import P_X_K, SMALL


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path):
    """Runs a command as typed in ``tmp_path``; gives what it printed."""

    def run(command, *arguments):
        GlobalHydra.instance().clear()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", [command.__name__, *arguments])
        capsys.readouterr()
        command.main()
        return capsys.readouterr().out

    return run


def test_tables_csvs_and_plots_are_written_where_told_and_nowhere_else(typed, tmp_path):
    write_sweep(tmp_path / "it's a sweep", {"ifcn": {0: 0.1, 1: 0.2}, "aelm": {0: 0.2, 1: 0.4, 2: None}})
    for arm in ARMS:
        points = {f"occlusion/mean_{p}/mAP": 0.4 - p / 100 for p in (0, 10)}
        write_run(tmp_path / "more" / arm, ARMS[arm], 7, {"test/mAP": 0.3}, evidence=points)
    said = typed(compare, "runs=[it's a sweep,more]", "output=the tables", "baseline=ifcn",
                 "files=[metrics.json,evidence/metrics.json]")  # fmt: skip
    assert "| aelm | 3     | +10.00 ± 5.77 [-14.84, +34.84] |" in said
    assert sorted(os.listdir(tmp_path)) == ["it's a sweep", "more", "the tables"]
    written = ["comparison.csv", "comparison.md", "comparison.png", "occlusion.png", "runs.csv"]
    assert sorted(os.listdir("the tables")) == written
    with open("the tables/comparison.md", encoding="utf-8") as file:
        assert file.read() in said
    with open("the tables/runs.csv", newline="") as file:
        assert [row["status"] for row in csv.DictReader(file)] == ["done"] * 4 + ["failed"] + ["done"] * 2


def test_without_an_output_tables_are_printed_alone(typed, tmp_path):
    write_sweep(tmp_path / "s", {"ifcn": {0: 0.1}})
    said = typed(compare, "runs=s")
    assert "| arm" in said
    assert "## Difference" not in said  # there is nothing to compare with
    assert os.listdir(tmp_path) == ["s"]


@pytest.mark.slow
def test_a_real_sweep_is_compared_by_arm_and_seed(typed, people, tmp_path):
    fast = [
        *SMALL,
        *P_X_K,
        "trainer.max_epochs=1",
        "sampler.steps_per_epoch=1",
        "figures=false",
        "dataset.val_fraction=0",
    ]
    typed(train, "-m", f"data_dir={people}", *fast, "arm=ifcn,two_heads", "seed=0", "name=sweep", "logger=none")
    typed(train, f"data_dir={people}", *fast, "arm=ifcn", "seed=2", "name=later")
    said = typed(compare, "runs=runs", "metrics=[test/mAP,train/seconds]", "output=tables")
    rows = list(csv.DictReader((tmp_path / "tables" / "runs.csv").open()))
    assert [(row["arm"], row["seed"]) for row in rows] == [
        ("ifcn", "2"), ("ifcn", "0"), ("two_heads", "0")
    ]  # fmt: skip
    assert all(float(row["train/seconds"]) > 0 for row in rows)
    assert "| two_heads | 1     |" in said
    assert "seed 2: in ifcn, not in two_heads" in said
    assert "| torch" in said
    assert (tmp_path / "tables" / "comparison.png").stat().st_size > 1000
