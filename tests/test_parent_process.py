"""A training process ends when its parent process is gone."""

import os
import signal
import subprocess
import sys
import time

import pytest

# Like Lightning, starts the same program again with a rank; both then wait forever.
PROGRAM = """
import os, subprocess, sys
from aelm.command.cli import follow
follow(0.05)
if "LOCAL_RANK" not in os.environ:
    command = [sys.executable, *sys.argv]
    print(subprocess.Popen(command, env={**os.environ, "LOCAL_RANK": sys.argv[1]}).pid, flush=True)
else:
    print("here", flush=True)
os.read(0, 1)
"""


def is_there(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{process}/stat") as file:
        return file.read().rsplit(")", 1)[1].split()[0] != "Z"


@pytest.fixture
def pair(tmp_path):
    """Starts a process and a second one of the given rank; kills the first and gives the second."""
    path, ours = tmp_path / "program.py", []
    path.write_text(PROGRAM)
    for name in ("LOCAL_RANK", "TORCHELASTIC_RUN_ID"):
        assert name not in os.environ

    def start(rank):
        waiting, never = os.pipe()
        ours.append(never)
        command = [sys.executable, str(path), rank]
        first = subprocess.Popen(command, stdin=waiting, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        os.close(waiting)
        second = int(first.stdout.readline())
        assert first.stdout.readline() == "here\n"
        assert is_there(second)
        first.send_signal(signal.SIGKILL)
        first.wait()
        return second

    yield start
    for end in ours:
        os.close(end)  # whoever still waits reads the end and goes


def test_it_ends_when_its_starter_is_killed(pair):
    second = pair("1")
    for _ in range(600):
        if not is_there(second):
            return
        time.sleep(0.1)
    pytest.fail("it is still there a minute later")


def test_a_process_of_rank_zero_is_its_own_master(pair):
    """Such as one that a shell started in the background and left."""
    second = pair("0")
    time.sleep(0.5)
    assert is_there(second)
