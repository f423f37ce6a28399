"""A disk that is full, and one that is read-only: told at once, nothing lost, and gone on when there is room."""

import pytest

from tests.faults import jobs
from tests.faults.apart import apart, error_of, read_only_disk, small_disk
from tests.pictures_on_disk import save_model, write_people

pytestmark = pytest.mark.faults
FULL, READ_ONLY = "No space left on device", "Read-only file system"


def fill(folder):
    """Leaves no room; gives the file that takes it."""
    path = folder / ".filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return path


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "disk").mkdir()
    return tmp_path / "disk"


def train_on_a_small_disk(people, disk):
    """One checkpoint of 60 MB fits, and no second beside it."""
    small_disk(disk, 90)
    every = ["checkpoint_every_n_steps=1", "resume=auto"]
    told = error_of(jobs.trains, people, disk / "run", *every)
    held = sorted(path.name for path in (disk / "run" / "checkpoints").iterdir())
    small_disk(disk, 400)
    return told, held, jobs.trains(people, disk / "run", *every)


def test_a_training_whose_disk_is_full_goes_on_when_there_is_room(people, tmp_path, disk):
    told, held, scores = apart(train_on_a_small_disk, people, disk)
    assert f"the checkpoint {disk}/run/checkpoints/last.ckpt could not be written, the earlier one" in told
    assert "Make room" in told
    assert "go on with `resume=auto`" in told
    assert held == ["last.ckpt"]
    assert scores == apart(jobs.trains, people, tmp_path / "whole")


def evaluate_on_a_full_disk(model, people, disk):
    on = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", f"data_dir={people}", "dataset.workers=0"]
    small_disk(disk, 1)
    jobs.evaluates(model, disk, *on, "bootstrap=0")
    before, filler = jobs.contents(disk), fill(disk)
    told = error_of(jobs.evaluates, model, disk, *on, "bootstrap=0", "flip=true")
    kept = jobs.contents(disk) == before
    filler.unlink()
    jobs.evaluates(model, disk, *on, "bootstrap=0", "flip=true")
    return told, kept, jobs.contents(disk) != before


def test_an_evaluation_keeps_its_earlier_results(people, tmp_path, disk):
    told, kept, replaced = apart(evaluate_on_a_full_disk, save_model(tmp_path / "model.ckpt"), people, disk)
    assert f"{disk}/metrics.json could not be written, the earlier one there is still good; 0 MiB" in told
    assert FULL in told
    assert kept
    assert replaced


def embed_on_a_full_disk(model, few, many, disk):
    small_disk(disk, 1)
    jobs.embeds(model, few, disk / "out")
    before, filler = jobs.contents(disk / "out"), fill(disk)
    told = error_of(jobs.embeds, model, many, disk / "out")
    kept = jobs.contents(disk / "out") == before
    filler.unlink()
    jobs.embeds(model, many, disk / "out")
    return told, kept, jobs.contents(disk / "out")


def test_embeddings_keep_their_earlier_files(tmp_path, disk):
    model, few, many = save_model(tmp_path / "model.ckpt"), tmp_path / "few", tmp_path / "many"
    write_people(few, 3), write_people(many, 6)
    told, kept, after = apart(embed_on_a_full_disk, model, few, many, disk)
    assert "could not be written" in told
    assert FULL in told
    assert kept
    apart(jobs.embeds, model, many, tmp_path / "undisturbed")
    assert after == jobs.contents(tmp_path / "undisturbed")


def draw_on_a_small_disk(disk, workers):
    small_disk(disk, 1)
    told = error_of(jobs.draws, disk, workers)
    left = [path.name for path in disk.iterdir() if path.is_dir()]
    small_disk(disk, 64)
    return told, left, jobs.draws(disk, workers)


@pytest.mark.parametrize("workers", [0, 2])
def test_of_synthetic_people_nothing_is_left_that_is_not_whole(disk, workers):
    told, left, drawn = apart(draw_on_a_small_disk, disk, workers)
    assert f"cannot write the synthetic pictures to {disk}/synthetic-tiny" in told
    assert "free some space there, or name another folder (`data_dir=...` or $AELM_DATA)" in told
    assert FULL in told
    assert left == []
    assert drawn == 72


def on_a_read_only_disk(disk, job, *arguments):
    read_only_disk(disk)
    return error_of(job, *arguments)


def test_a_new_run_is_refused_where_nothing_can_be_written(people, disk):
    told = apart(on_a_read_only_disk, disk, jobs.trains, people, disk / "run")
    assert f"`run_dir`: {disk}/run/checkpoints cannot be written" in told


def test_a_run_is_not_gone_on_with_where_nothing_can_be_written(people, disk):
    """Before training, and not when the first checkpoint is due."""
    run = disk / "run"
    apart(jobs.trains, people, run)
    before = jobs.contents(run)
    told = apart(on_a_read_only_disk, disk, jobs.trains, people, run, "resume=auto")
    assert f"`run_dir`: {run}/checkpoints cannot be written" in told
    assert jobs.contents(run) == before


def test_results_are_refused_where_nothing_can_be_written(people, tmp_path, disk):
    model = save_model(tmp_path / "model.ckpt")
    write_people(tmp_path / "crops", 2)
    on = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", f"data_dir={people}", "dataset.workers=0"]
    for job, arguments in (
        (jobs.evaluates, (model, disk / "new", *on, "bootstrap=0")),
        (jobs.embeds, (model, tmp_path / "crops", disk / "new")),
        (jobs.draws, (disk / "new", 0)),
    ):
        told = apart(on_a_read_only_disk, disk, job, *arguments)
        assert READ_ONLY in told or "cannot be written" in told, told
        assert f"{disk}/new" in told, told
