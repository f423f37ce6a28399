"""Runs a function in a process of its own, forked from one that has imported everything and done nothing yet.

There it may be killed, write halves of files, or have a disk of its own: a small one, or one that is read-only.
"""

import builtins
import ctypes
import io
import multiprocessing
import os
import signal
import traceback
from pathlib import Path

import pytest

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.faults.jobs"])
NEW_USER, NEW_MOUNTS = 0x10000000, 0x00020000  # of unshare(2)
READ_ONLY, REMOUNT, BIND = 1, 32, 4096  # of mount(2)
NO_NAMESPACE = "this kernel gives no user namespaces, in which a disk of one's own could be mounted"


class Apart:
    """A function that runs in its own process.

    Args:
        function: A function of a module.
        arguments: For it; its result must be picklable.
    """

    def __init__(self, function, *arguments):
        self.ours, theirs = CONTEXT.Pipe(duplex=False)
        self.process = CONTEXT.Process(target=_run, args=(theirs, function, arguments))
        self.process.start()
        theirs.close()

    def result(self):
        """What the function returned; what it raised fails the test, and a death is None."""
        try:
            kind, value = self.ours.recv()
        except EOFError:
            kind, value = "died", None
        self.process.join()
        if kind == "skip":
            pytest.skip(value)
        assert kind != "failed", value
        return value

    def kill(self):
        """As ``kill -9`` does; whether it came before the end."""
        self.process.kill()
        self.process.join()
        return self.process.exitcode == -signal.SIGKILL


def apart(function, *arguments):
    """The result of a function in its own process; None if it died."""
    return Apart(function, *arguments).result()


def _run(pipe, function, arguments):
    try:
        pipe.send(("done", function(*arguments)))
    except pytest.skip.Exception as skip:
        pipe.send(("skip", str(skip)))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))


def error_of(function, *arguments):
    """What the error says that a function must raise."""
    try:
        function(*arguments)
    except Exception as error:
        return str(error)
    raise AssertionError(f"{function.__name__} went through")


def small_disk(folder, megabytes):
    """Puts an empty disk of this size at ``folder``, for this process alone; a second call gives it another size."""
    if not os.path.ismount(folder):
        _own_mounts()
        _mount("tmpfs", folder, "tmpfs", 0, f"size={megabytes}m")
    else:
        _mount("tmpfs", folder, "tmpfs", REMOUNT, f"size={megabytes}m")


def read_only_disk(folder):
    """Makes ``folder`` read-only, for this process alone; for root too."""
    _own_mounts()
    _mount(folder, folder, "", BIND)
    _mount(folder, folder, "", BIND | REMOUNT | READ_ONLY)


def _own_mounts():
    user, group = os.getuid(), os.getgid()
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_USER | NEW_MOUNTS):
        pytest.skip(f"{NO_NAMESPACE}: {os.strerror(ctypes.get_errno())}")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {user} 1")
    Path("/proc/self/gid_map").write_text(f"0 {group} 1")


def _mount(source, target, kind, flags, data=""):
    places = [str(part).encode() for part in (source, target, kind)]
    if ctypes.CDLL(None, use_errno=True).mount(*places, ctypes.c_ulong(flags), data.encode()):
        pytest.skip(f"{NO_NAMESPACE}: {os.strerror(ctypes.get_errno())}")


def fault_in_file(folder, number, fault):
    """From now on the ``number``-th file opened for writing under ``folder`` has this fault half way through a write.

    Args:
        folder: What lies elsewhere is let alone.
        number: Counted from 0.
        fault: ``kill``: this process is killed; ``full``: the disk is full.

    Returns:
        A list of the files opened for writing so far.
    """
    plain, opened = io.open, []

    class Faulty(io.BufferedWriter):
        def write(self, data):
            half = memoryview(data).cast("B")
            super().write(half[: len(half) // 2])
            self.flush()
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(28, "No space left on device")

    def opening(file, mode="r", *rest, **options):
        path = "" if isinstance(file, int) else os.path.abspath(file)
        # Who holds a place is a note for people: a lock works without it.
        if not path.startswith(str(folder)) or path.endswith(".lock") or not set(mode) & set("wxa"):
            return plain(file, mode, *rest, **options)
        opened.append(path)
        if len(opened) != number + 1:
            return plain(file, mode, *rest, **options)
        writer = Faulty(io.FileIO(path, mode.replace("b", "").replace("t", "")))
        return writer if "b" in mode else io.TextIOWrapper(writer, encoding="utf-8", write_through=True)

    io.open = builtins.open = opening
    return opened
