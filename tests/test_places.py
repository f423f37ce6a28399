"""A place has one writer: who comes second is refused before anything is touched, and nobody clears a lock by hand."""

import errno
import fcntl
import logging
import os
import platform
import signal
import subprocess
import sys
import threading
from importlib import import_module

import numpy as np
import pytest
from hydra.core.global_hydra import GlobalHydra
from pytorch_lightning.utilities import rank_zero_only

from aelm.data import matlab
from aelm.data.sources import Item
from aelm.embed.embedder import load_embedder
from aelm.embed.job import Settings, embed_items
from aelm.export.onnx import export_model
from aelm.files import LOCK, hold_file, hold_folder
from aelm.types import RunError
from tests.compare.disk import write_sweep
from tests.data import trees
from tests.pictures_on_disk import save_model, write_people

HOLDER = """
import os, sys, time
from aelm.files import hold_folder
with hold_folder(sys.argv[1]):
    os.fork()  # a loading process
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds ``tmp_path / "place"``, with a process that it has forked; gives the first."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path / "place")], stdout=subprocess.PIPE,
                               text=True, start_new_session=True)  # fmt: skip
    process.stdout.readline()
    yield process
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_the_holder_is_named_and_when_it_is_killed_the_place_is_free_at_once(holder, tmp_path):
    told = rf"`output`: .*place is in use by process {holder.pid} on {platform.node()} since 20.*change `output`"
    with pytest.raises(RunError, match=told) as caught, hold_folder(tmp_path / "place"):
        pass
    assert "\n" not in str(caught.value)
    holder.kill()  # but not what it has forked
    holder.wait()
    assert (tmp_path / "place" / LOCK).is_file()
    with hold_folder(tmp_path / "place") as is_held:
        assert is_held
    assert os.listdir(tmp_path / "place") == []


def test_a_lock_of_another_user_can_be_taken_over(tmp_path):
    umask = os.umask(0o077)
    try:
        with hold_folder(tmp_path):
            assert (tmp_path / LOCK).stat().st_mode & 0o777 == 0o666
    finally:
        os.umask(umask)


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_file_system_without_locks_is_written_to_with_a_warning(tmp_path, monkeypatch, caplog, code):
    def flock(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", flock)
    with caplog.at_level(logging.WARNING), hold_folder(tmp_path / "place") as is_held:
        assert not is_held
    assert "place lies on a file system without locks: nothing keeps other processes" in caplog.text
    assert os.listdir(tmp_path) == []


def test_what_was_written_stays_and_only_empty_folders_that_were_made_go(tmp_path):
    (tmp_path / "old").mkdir()
    with hold_folder(tmp_path / "old" / "new" / "place"), hold_file(tmp_path / "more" / "x.html"):
        (tmp_path / "more" / "x.html").write_text("page")
    assert os.listdir(tmp_path / "old") == []
    assert os.listdir(tmp_path / "more") == ["x.html"]


def test_who_waits_gets_the_place_after_the_other(tmp_path):
    order = []

    def second():
        with hold_file(tmp_path / "x", wait=True):
            order.append("second")

    thread = threading.Thread(target=second)
    with hold_file(tmp_path / "x", wait=True):
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Everything that a command may be given, in the folder that it runs in."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model.ckpt")
    write_people(tmp_path / "crops", 4)
    write_sweep(tmp_path / "sweep", {"ifcn": {0: 0.1}})
    np.save("features.npy", np.eye(4, dtype=np.float32))
    (tmp_path / "features.csv").write_text("pid,camid\n1,1\n1,2\n2,1\n2,2\n")
    return tmp_path


LINES = {
    "train": ("name=place", "runs/place"),
    "evaluate": ("query=features.npy gallery=features.npy output=place bootstrap=0 far=[]", "place"),
    "embed": ("checkpoint=model.ckpt images=crops output=place device=cpu workers=0 progress=false", "place"),
    "search": ("checkpoint=model.ckpt query=crops gallery=crops device=cpu workers=0 output=place.json", "place.json"),
    "explain": ("checkpoint=model.ckpt images=crops output=place device=cpu", "place"),
    "explain ": ("checkpoint=model.ckpt pair=[crops,crops] output=place.png device=cpu", "place.png"),
    "export": ("checkpoint=model.ckpt output=place.onnx", "place.onnx"),
    "compare": ("runs=sweep output=place", "place"),
}


@pytest.mark.parametrize("command", LINES)
def test_every_command_is_refused_where_another_writes(command, world, monkeypatch):
    line, place = LINES[command]
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", [f"aelm.{command.strip()}", *line.split()])
    hold = hold_file if "." in place else hold_folder
    with hold(world / place):
        before = sorted(world.rglob("*"))
        with pytest.raises(SystemExit, match=rf"error: `(name|output)`: .*{place} is in use by process {os.getpid()}"):
            import_module(f"aelm.{command.strip()}.__main__").main()
        assert sorted(world.rglob("*")) == before


def test_the_python_interface_is_refused_too(world):
    embedder = load_embedder("model.ckpt")
    with hold_folder(world / "place"), pytest.raises(RunError, match="place is in use"):
        embed_items("model.ckpt", [Item("crops")], world / "place", Settings("cpu"))
    with hold_file(world / "x.onnx"), pytest.raises(RunError, match=r"x\.onnx is in use"):
        export_model(embedder, "x.onnx")


def test_a_second_sweep_leaves_the_table_of_the_first_alone(world, monkeypatch):
    kept = (world / "sweep" / "sweep.csv").read_bytes()
    GlobalHydra.instance().clear()
    monkeypatch.setattr(sys, "argv", ["aelm.train", "-m", "name=x", "hydra.sweep.dir=sweep", "seed=0"])
    with hold_folder(world / "sweep" / "0"), pytest.raises((SystemExit, RunError), match="0 is in use"):
        import_module("aelm.train.__main__").main()
    assert (world / "sweep" / "sweep.csv").read_bytes() == kept


def test_the_processes_of_one_evaluation_are_one_holder(world, monkeypatch, composed):
    config = composed("evaluate", *LINES["evaluate"][0].split())
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with hold_folder(world / "place"):
        assert import_module("aelm.evaluate.task").run(config)["test/rank5"] == 1


def test_who_waits_for_pictures_of_cuhk03_does_not_write_them_again(tmp_path, monkeypatch):
    root = trees.cuhk03_raw(tmp_path) / "cuhk03_release"
    (root / ".images_detected.partial-killed").mkdir()
    target = matlab.extract(root / "cuhk-03.mat", "detected")
    assert sorted(path.name for path in root.iterdir() if path.name.startswith(".")) == []
    target.rename(root / "done by another")
    written = []
    monkeypatch.setattr(matlab, "_pictures_of", lambda *_: written.append(1) or [])
    thread = threading.Thread(target=matlab.extract, args=(root / "cuhk-03.mat", "detected"))
    with hold_file(target, wait=True):
        thread.start()
        thread.join(0.3)
        (root / "done by another").rename(target)
    thread.join(10)
    assert not written
    assert sorted(path.name for path in target.iterdir()) == sorted(trees.cuhk03_shots())
