"""Each job of a sweep notes itself as it ends, also one that fails, also many at once."""

import csv
import os

import cv2
import pytest
from omegaconf import OmegaConf

from aelm.report import runs
from aelm.report.runs import Job, note, point
from aelm.train import task as train


def rows(folder):
    with (folder / "sweep.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def job(tmp_path, monkeypatch):
    """Makes this process a job of a sweep."""

    def start(number, **settings):
        monkeypatch.setattr(runs, "this_job", lambda: Job(tmp_path, number, settings))

    return start


def test_jobs_add_rows_and_the_plot_follows(job, tmp_path):
    pictures = []
    for number, threshold in ((1, "0.7"), (0, "0.5")):
        job(number, **{"model.aelm.threshold": threshold})
        with point("val/mAP") as results:
            results |= {"test/mAP": 0.1 * number, "val/mAP": 0.25}
        pictures.append((tmp_path / "sweep.png").read_bytes())
    found = rows(tmp_path)
    assert [row["job"] for row in found] == ["0", "1"]
    assert found[1] == {
        "job": "1", "status": "done", "model.aelm.threshold": "0.7", "test/mAP": "0.1", "val/mAP": "0.25", "error": "",
    }  # fmt: skip
    assert pictures[0] != pictures[1]
    assert cv2.imread(str(tmp_path / "sweep.png")).std() > 5


def test_a_job_that_fails_has_its_row_and_fails_on(job, tmp_path):
    job(3, seed="0")
    with pytest.raises(KeyError), point("val/mAP"):
        raise KeyError("no such,\nthing")
    assert rows(tmp_path) == [{"job": "3", "status": "failed", "seed": "0", "error": "KeyError: 'no such,\\nthing'"}]
    # Run again, it takes its own row's place.
    with point("val/mAP") as results:
        results["test/mAP"] = 0.5
    assert [(row["status"], row["test/mAP"]) for row in rows(tmp_path)] == [("done", "0.5")]


def test_a_job_that_is_started_once_more_in_vain_keeps_its_scores(job, tmp_path):
    job(3, seed="0")
    with point("val/mAP") as results:
        results["test/mAP"] = 0.5
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FileExistsError), point("val/mAP"):
        raise FileExistsError("holds checkpoints of this configuration")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_jobs_that_end_at_the_same_moment_all_have_their_rows(tmp_path):
    jobs = []
    for number in range(6):
        process = os.fork()
        if process == 0:
            try:
                note(Job(tmp_path, number, {f"key{number % 2}": str(number)}), {"test/mAP": 0.5}, "", "val/mAP")
            except BaseException:
                os._exit(1)
            os._exit(0)
        jobs.append(process)
    assert [os.waitpid(process, 0)[1] for process in jobs] == [0] * 6
    assert [row["job"] for row in rows(tmp_path)] == [str(number) for number in range(6)]


def test_outside_of_a_sweep_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with point("val/mAP") as results:
        results["test/mAP"] = 0.5
    assert os.listdir(tmp_path) == []


def test_wandb_shows_a_run_a_job_in_one_group(job, composed):
    config = composed("train", "logger=wandb", "name=sweep")
    OmegaConf.resolve(config)
    assert train.built_logger(config)._wandb_init["group"] is None
    job(4)
    logger = train.built_logger(config)
    assert (logger._wandb_init["group"], logger._wandb_init["name"]) == ("sweep", "sweep-4")
