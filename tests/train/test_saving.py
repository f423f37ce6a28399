"""Checkpoints are whole or not there, whatever happens to the disk or the process."""

import os
import resource
import signal
import stat
import time

import pytest
import torch

from aelm.train import trainer as saving
from aelm.train.trainer import AtomicCheckpointIO, LastCheckpoint, save_atomically


def content(version, size=500_000):
    return {"version": version, "weights": torch.full((size,), float(version))}


def forked(function):
    """Runs ``function`` in a process of its own; gives its id."""
    process = os.fork()
    if process:
        return process
    try:
        function()
    except BaseException as error:
        os.write(2, f"{error}\n".encode())
        os._exit(1)
    os._exit(0)


def whole(path):
    """The version in a file, all of which must be of that version."""
    found = torch.load(path, weights_only=True)
    assert torch.equal(found["weights"], content(found["version"])["weights"])
    return found["version"]


def test_a_file_is_written_and_replaced(tmp_path):
    path = tmp_path / "new" / "last.ckpt"
    for version in (1, 2):
        save_atomically(content(version), path)
        assert whole(path) == version
        assert os.listdir(path.parent) == ["last.ckpt"]


def test_it_is_on_the_disk_before_it_has_its_name_and_then_the_name_is(tmp_path, monkeypatch):
    """Else a machine that loses power keeps the name of a checkpoint, and nothing in it."""
    done, sync, rename = [], os.fsync, os.replace

    def synced(descriptor):
        done.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", lambda *paths: (done.append("named"), rename(*paths)))
    save_atomically(content(1), tmp_path / "last.ckpt")
    assert done == ["file", "named", "folder"]


def test_a_process_killed_while_writing_leaves_the_earlier_or_the_new_one(tmp_path):
    path, inside, version = tmp_path / "last.ckpt", 0, 0
    save_atomically(content(0), path)

    def write_for_ever():
        for number in range(version + 1, version + 10_000):
            save_atomically(content(number), path)

    for attempt in range(12):
        process = forked(write_for_ever)
        time.sleep(0.05 + 0.007 * attempt)
        os.kill(process, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(process, 0)[1])
        inside += (tmp_path / ".last.ckpt.partial").exists()
        assert whole(path) >= version
        version = whole(path)
    assert version > 0
    assert inside > 0, "no kill came while a file was written"
    save_atomically(content(version + 1), path)
    assert os.listdir(tmp_path) == ["last.ckpt"]  # what a killed process left is written over


def test_on_a_full_disk_the_earlier_one_stays_good(tmp_path, capfd):
    path = tmp_path / "last.ckpt"
    save_atomically(content(1), path)

    def with_little_room():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))
        save_atomically(content(2), path)

    status = os.waitpid(forked(with_little_room), 0)[1]
    assert os.waitstatus_to_exitcode(status) == 1
    message = capfd.readouterr().err
    assert f"the checkpoint {path} could not be written, the earlier one there is still good" in message
    assert "`resume=auto`" in message
    assert whole(path) == 1
    assert os.listdir(tmp_path) == ["last.ckpt"]


def test_a_first_write_that_fails_says_that_there_was_none(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving.torch, "save", full)
    with pytest.raises(OSError, match=r"there was none before; .* MiB are free.*No space left"):
        save_atomically({}, tmp_path / "x.ckpt")
    assert os.listdir(tmp_path) == []


def test_a_run_writes_that_way_and_stops_when_it_cannot(trained, monkeypatch):
    written, plain = [], torch.save

    def third_is_one_too_many(found, file, *arguments):
        written.append(file.name)
        if len(written) == 3:
            raise OSError(28, "No space left on device")
        plain(found, file, *arguments)

    monkeypatch.setattr(saving.torch, "save", third_is_one_too_many)
    with pytest.raises(OSError, match="there was none before"):
        trained("figures=false", "checkpoint_every_n_steps=1")
    # Steps 1 and 2 of the first epoch, and at its end the first validation.
    assert [os.path.basename(name) for name in written] == [f".{n}.ckpt.partial" for n in ("last", "last", "best")]
    monkeypatch.undo()
    run_dir, scores = trained("figures=false", "checkpoint_every_n_steps=1", "resume=auto")
    assert set(os.listdir(f"{run_dir}/checkpoints")) == {"best.ckpt", "last.ckpt"}
    assert scores == trained("figures=false", name="undisturbed")[1]


def test_only_local_files():
    with pytest.raises(ValueError, match="written to local files, got s3://bucket/x"):
        AtomicCheckpointIO().save_checkpoint({}, "s3://bucket/x")


def test_the_interval_must_be_a_number_of_steps(tmp_path):
    with pytest.raises(ValueError, match="`checkpoint_every_n_steps` must be at least 1, or null; got 0"):
        LastCheckpoint(tmp_path / "x", 0)


def test_steps_are_counted_and_accumulated_ones_waited_for(trained, monkeypatch):
    saved = []

    def note(self, path, weights_only=None):
        assert path.name == "last.ckpt"
        saved.append((self.current_epoch, self.global_step, self.fit_loop.epoch_loop.batch_idx))

    kept = LastCheckpoint.on_train_batch_end

    def through(self, trainer, *rest):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(type(trainer), "save_checkpoint", note)
            kept(self, trainer, *rest)

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", through)
    steps = ["sampler.steps_per_epoch=8", "trainer.accumulate_grad_batches=2", "checkpoint_every_n_steps=1"]
    trained("figures=false", "trainer.max_epochs=2", *steps)
    # Four steps an epoch, each after its second batch; the fourth is left to the end of the epoch.
    assert saved == [(0, 1, 1), (0, 2, 3), (0, 3, 5), (1, 5, 1), (1, 6, 3), (1, 7, 5)]


@pytest.mark.parametrize(
    ("raised", "words"), [(KeyboardInterrupt(), ""), (OSError(5, "Input/output error"), "Look at that disk")]
)
def test_a_write_that_was_interrupted_is_no_full_disk(tmp_path, raised, words, monkeypatch):
    """torch calls both a RuntimeError."""

    def broken(self, data):
        self.error = raised
        raise raised

    monkeypatch.setattr(saving._ErrorRecorder, "write", broken)
    with pytest.raises(type(raised), match=words) as caught:
        save_atomically(content(1), tmp_path / "x.ckpt")
    assert "Make room" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_why_torch_could_not_write_is_kept(tmp_path):
    class Full:
        name = "x"
        flush = staticmethod(lambda: None)

        def write(self, data):
            raise OSError(28, "No space left on device")

    watched = saving._ErrorRecorder(Full())
    with pytest.raises((RuntimeError, OSError)):
        torch.save({"a": torch.ones(3)}, watched)
    assert watched.error.errno == 28
