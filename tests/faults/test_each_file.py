"""Whatever a command writes: killed in the middle of any file, or out of room there, it loses nothing."""

import itertools
import shutil

import pytest
import torch

from tests.faults import jobs
from tests.faults.apart import apart
from tests.pictures_on_disk import save_model, write_people

pytestmark = pytest.mark.faults


def disturbances(folder, fault, function, *arguments):
    """Runs a job again and again, with the fault in its first file, its second, and so on, until it writes no more.

    Yields:
        What the job told of the fault; None for a kill.
    """
    for number in itertools.count():
        told = apart(jobs.disturbed, folder, number, fault, function, *arguments)
        if isinstance(told, int):
            assert told == number
            return
        assert fault == "kill" or "No space left on device" in told
        yield told


def no_halves(folder, fault):
    """A process that is killed may leave a hidden half, one that fails may not."""
    return fault == "kill" or not list(folder.rglob("*.partial"))


@pytest.fixture
def model(tmp_path):
    return save_model(tmp_path / "model.ckpt")


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_an_evaluation(people, model, tmp_path, fault):
    out = tmp_path / "out"
    on = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", f"data_dir={people}", "dataset.workers=0"]
    apart(jobs.evaluates, model, out, *on, "bootstrap=0")
    before = jobs.contents(out)
    again = model, *[tmp_path / "again", *on, "bootstrap=10", "flip=true"]
    apart(jobs.evaluates, *again)
    after = jobs.contents(tmp_path / "again")
    files = 0
    for told in disturbances(out, fault, jobs.evaluates, model, out, *again[2:]):
        files += 1
        found = jobs.contents(out)
        assert found.keys() == before.keys()
        assert all(content in (before[name], after[name]) for name, content in found.items())
        assert no_halves(out, fault)
        assert fault == "kill" or "could not be written, the earlier one there is still good" in told
    assert files == len(before) >= 5
    assert jobs.contents(out) == after != before


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_an_embedding_job(model, tmp_path, fault):
    out, crops = tmp_path / "out", tmp_path / "crops"
    write_people(crops, 6)
    apart(jobs.embeds, model, crops, tmp_path / "earlier")
    earlier = jobs.contents(tmp_path / "earlier")
    write_people(crops, 10)
    apart(jobs.embeds, model, crops, tmp_path / "undisturbed")
    shutil.copytree(tmp_path / "earlier", out)
    files = 0
    for _ in disturbances(out, fault, jobs.embeds, model, crops, out):
        files += 1
        assert jobs.contents(out) == earlier
        assert no_halves(out, fault)
        apart(jobs.embeds, model, crops, out)
        assert jobs.contents(out) == jobs.contents(tmp_path / "undisturbed")
        shutil.rmtree(out)
        shutil.copytree(tmp_path / "earlier", out)
    assert files == 7  # the job, three shards, features, items and meta


@pytest.mark.parametrize("fault", ["kill", "full"])
def test_the_checkpoints_of_a_training(people, tmp_path, fault):
    scores = apart(jobs.trains, people, tmp_path / "whole")
    run, files = tmp_path / "run", 0
    for told in disturbances(run / "checkpoints", fault, jobs.trains, people, run, "resume=auto"):
        files += 1
        for path in (run / "checkpoints").glob("*.ckpt"):
            torch.load(path, weights_only=True)
        assert no_halves(run, fault)
        assert fault == "kill" or "then go on with `resume=auto`" in told
        if list((run / "checkpoints").glob("*.ckpt")):
            assert apart(jobs.trains, people, run, "resume=auto") == scores
            shutil.rmtree(run)
    assert files >= 3
    assert apart(jobs.trains, people, run, "resume=auto") == scores
