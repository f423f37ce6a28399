"""One of two training processes is killed: all end within a minute, and the next start goes on."""

import json

import pytest
import torch

from tests.faults.program import Program
from tests.runs import P_X_K, SMALL
from tests.test_processes import TORCHRUN, TWO, free_port
from tests.test_resume import differences

pytestmark = pytest.mark.faults
WAYS = {"lightning": [], "torchrun": TORCHRUN}
RUN = [
    *SMALL,
    *P_X_K,
    *TWO,
    "sampler.steps_per_epoch=20",
    "trainer.max_epochs=2",
    "checkpoint_every_n_steps=4",
    "figures=false",
    "name=run",
    "resume=auto",
]


@pytest.fixture
def started(people):
    """Starts, or goes on with, the same run of two processes; whatever is left of it is killed in the end."""
    programs = []

    def start(way, folder):
        port = free_port()
        launcher = [*WAYS[way], f"--master_port={port}", f"--log-dir={folder}/logs"] if WAYS[way] else []
        arguments = [*launcher, "-m", "aelm.train", f"data_dir={people}", *RUN]
        programs.append(Program(arguments, folder, MASTER_PORT=str(port)))
        return programs[-1]

    yield start
    for program in programs:
        program.stop()


def last(folder):
    return torch.load(folder / "runs" / "run" / "checkpoints" / "last.ckpt", weights_only=True)


def outcome(folder):
    """Weights, optimizers, schedules, random states and scores, all but where files lie and how long it took."""
    content = last(folder)
    content["callbacks"] = {key: content["callbacks"][key] for key in ("RandomStates", "History")}
    return content, json.loads((folder / "runs" / "run" / "metrics.json").read_text())


def written(folder):
    """A number that changes with each checkpoint."""
    path = folder / "runs" / "run" / "checkpoints" / "last.ckpt"
    return path.stat().st_mtime_ns if path.exists() else 0


def kill_while_training(program, folder, rank):
    """Kills the process of this rank after one more checkpoint; gives the step that the file then stands at."""
    before = written(folder)
    program.wait_for(lambda: written(folder) != before)
    victims = program.processes(LOCAL_RANK=rank) or [program.first.pid]  # Lightning's first has no number
    program.kill(victims[0])
    assert program.all_ended(60), f"after rank {rank} was killed: {program.said[-3000:]}"
    assert program.first.returncode != 0
    return last(folder)["global_step"]


def goes_through(program):
    assert program.all_ended(600), program.said[-3000:]
    assert program.first.returncode == 0, program.said[-3000:]
    return program.said


def test_all_end_within_a_minute_and_the_next_start_ends_where_it_would_have_undisturbed(started, tmp_path):
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    killed.mkdir(), undisturbed.mkdir()
    steps = [kill_while_training(started("lightning", killed), killed, rank) for rank in (1, 0)]
    assert 0 < steps[0] < steps[1] < 40
    assert "last.ckpt" in goes_through(started("lightning", killed))  # which it says it restores
    goes_through(started("lightning", undisturbed))
    assert differences(outcome(killed), outcome(undisturbed)) == []


def test_all_that_torchrun_started_end_within_a_minute_and_the_next_start_goes_on(started, tmp_path):
    """It ends them itself, whichever died."""
    assert 0 < kill_while_training(started("torchrun", tmp_path), tmp_path, 1) < 40
    assert "last.ckpt" in goes_through(started("torchrun", tmp_path))
    assert last(tmp_path)["global_step"] == 40


def test_a_process_that_waits_for_a_first_one_that_is_gone_ends(started, tmp_path):
    """Before they have met no connection breaks, and the second would wait for half an hour."""
    program = started("lightning", tmp_path)
    second = program.wait_for(lambda: program.processes(LOCAL_RANK=1))
    program.kill()
    assert program.all_ended(60), program.said[-3000:]
    assert f"process {program.first.pid}, which started process {second[0]}, is gone" in program.said
