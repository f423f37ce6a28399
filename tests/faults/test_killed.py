"""Processes that are killed while the synthetic set is drawn, and while pictures are loaded."""

import os
import shutil
import signal
import threading
import time
from multiprocessing import active_children
from pathlib import Path

import pytest

from aelm.data import BadImageError
from aelm.train import task as train
from tests.faults import jobs
from tests.faults.apart import Apart, apart
from tests.faults.program import holds

pytestmark = pytest.mark.faults
SET = "synthetic-tiny-s0-h128-o10-v1"


def drawing(root):
    """Ids of the programs that draw below ``root``."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes()
        except OSError:
            continue
        if b"aelm.data.synthetic.worker" in command and str(root).encode() in command and holds(process, []):
            found.append(int(process))
    return found


def wait_for(condition):
    end = time.monotonic() + 300
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return found


def pictures(root):
    return list(root.rglob("*.jpg"))


def drawn_whole(root, people):
    """Whether there is the set, byte by byte as elsewhere, and nothing else."""
    same = jobs.contents(root / SET) == jobs.contents(people / SET)
    return same and os.listdir(root) == [SET]


def test_the_drawing_of_a_set_is_killed_and_done_anew(people, tmp_path):
    for enough in (1, 60):
        drawer = Apart(jobs.draws, tmp_path, 2)
        wait_for(lambda enough=enough: len(pictures(tmp_path)) > enough)
        assert drawer.kill()
        assert not (tmp_path / SET).exists()
        wait_for(lambda: not drawing(tmp_path))  # they end when nobody listens any more
    assert apart(jobs.draws, tmp_path, 2) == 72
    assert drawn_whole(tmp_path, people)


def test_a_killed_drawing_process_fails_the_drawing(tmp_path):
    drawer = Apart(jobs.draws, tmp_path, 2)
    os.kill(wait_for(lambda: drawing(tmp_path))[0], signal.SIGKILL)
    with pytest.raises(AssertionError, match=r"RunError: a drawing process failed, exit status -9"):
        drawer.result()
    assert os.listdir(tmp_path) == []


def test_of_two_that_draw_at_once_one_is_killed(people, tmp_path):
    first = Apart(jobs.draws, tmp_path, 0)
    wait_for(lambda: pictures(tmp_path))
    second = Apart(jobs.draws, tmp_path, 0)
    time.sleep(0.3)
    assert first.kill()
    assert second.result() == 72
    assert drawn_whole(tmp_path, people)


@pytest.fixture
def copied(people, tmp_path):
    """A data directory of its own; gives it and a picture of training."""
    shutil.copytree(people, tmp_path / "data")
    return tmp_path / "data", sorted((tmp_path / "data" / SET / "bounding_box_train").glob("*.jpg"))


EVERY = ["figures=false", "dataset.val_fraction=0", "trainer.max_epochs=3", "checkpoint_every_n_steps=1"]


@pytest.mark.parametrize("workers", [0, 1])
def test_files_that_vanish_during_a_run_are_named_and_back_again_it_goes_on(trained, monkeypatch, copied, workers):
    data, files = copied
    plain, away = train.ReIDModule.training_step, data.parent / "away"
    away.mkdir()

    def training_step(self, batch, batch_idx):
        if self.global_step == 3 and not os.listdir(away):
            for file in files:
                shutil.move(file, away)
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(train.ReIDModule, "training_step", training_step)
    run = [*EVERY, f"data_dir={data}", f"dataset.workers={workers}", "resume=auto"]
    with pytest.raises(BadImageError, match=rf"Cannot read the picture '{files[0].parent}/.*\.jpg': No such file"):
        trained(*run)
    for file in files:
        shutil.move(away / file.name, file)
    _, scores = trained(*run)
    assert scores == trained(*EVERY, name="undisturbed")[1]


def test_of_a_killed_loading_process_the_file_is_named(trained, copied):
    """It waits for a file, as on a network disk that hangs."""
    data, files = copied
    for file in files:
        file.unlink()
        os.mkfifo(file)
    killed = []

    def kill_the_reader():
        while not killed:
            for file in files:
                try:
                    waiting = os.open(file, os.O_WRONLY | os.O_NONBLOCK)  # goes through where somebody reads
                except OSError:
                    continue
                killed.append(file)
                for process in active_children():
                    os.kill(process.pid, signal.SIGKILL)
                os.close(waiting)
                return
            time.sleep(0.01)

    thread = threading.Thread(target=kill_the_reader, daemon=True)
    thread.start()
    with pytest.raises(RuntimeError, match="worker processes died") as error:
        trained(*EVERY, f"data_dir={data}", "dataset.workers=1")
    thread.join()
    assert str(killed[0]) in str(error.value)
