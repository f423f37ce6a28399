"""A program with all that it starts: found by a mark in their environment, killed singly, waited for together."""

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

MARK = "AELM_TEST_PROGRAM"


class Program:
    """``python ARGUMENTS`` in the background; what it and its descendants say is in :attr:`said`.

    Args:
        arguments: After ``python``.
        cwd: Where it runs; what it says is kept there, in ``said.txt``.
        environment: Beyond this process's own.
    """

    def __init__(self, arguments, cwd, **environment):
        self.log = Path(cwd) / "said.txt"
        self.mark = uuid.uuid4().hex
        whole = {**os.environ, "OMP_NUM_THREADS": "1", MARK: self.mark, **environment}
        with self.log.open("w") as log:
            self.first = subprocess.Popen([sys.executable, *arguments], cwd=cwd, env=whole, stdout=log, stderr=log)

    @property
    def said(self):
        return self.log.read_text(errors="replace")

    def processes(self, **variables):
        """Ids of the living ones whose environment holds these variables, oldest first.

        A process that was forked and has not yet become another program shows its parent's environment.
        """
        wanted = [f"{name}={value}".encode() for name, value in {MARK: self.mark, **variables}.items()]
        return sorted(found for found in map(int, filter(str.isdigit, os.listdir("/proc"))) if holds(found, wanted))

    def wait_for(self, condition, seconds=600):
        """Waits until ``condition()`` is something, and gives it."""
        end = time.monotonic() + seconds
        while not (found := condition()):
            if self.first.poll() is not None or time.monotonic() > end:
                self.stop()
                raise AssertionError(f"ended with {self.first.returncode}, or waited {seconds} s:\n{self.said[-3000:]}")
            time.sleep(0.01)
        return found

    def kill(self, process=None):
        """Kills one process, the first one if none is named, as ``kill -9`` does."""
        os.kill(process or self.first.pid, signal.SIGKILL)

    def all_ended(self, seconds=60):
        """Whether they all end by themselves in time; if not, they are killed.

        What they wait for a CPU on a busy machine is not counted: only one that hangs is late.
        """
        start, first, waited = time.monotonic(), {}, {}
        while self.first.poll() is None or self.processes():
            for process in [self.first.pid, *self.processes()]:
                waited |= waits(process)
            first = waited | first
            if time.monotonic() - start > seconds + sum(waited.values()) - sum(first.values()):
                self.stop()
                return False
            time.sleep(0.3)
        return True

    def stop(self):
        """Kills whatever is left."""
        for process in self.processes():
            self.kill(process)
        self.first.wait()


def holds(process, variables):
    """Whether a process is alive and has all these in its environment."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
        environment = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
    except OSError:  # gone meanwhile, or somebody else's
        return False
    return state != "Z" and all(variable in environment for variable in variables)


def waits(process):
    """Seconds that each thread of a process has been ready and had no CPU, by its id."""
    found = {}
    for thread in Path(f"/proc/{process}/task").glob("*/schedstat"):
        try:
            found[thread] = int(thread.read_text().split()[1]) / 1e9
        except OSError:  # gone meanwhile
            continue
    return found
