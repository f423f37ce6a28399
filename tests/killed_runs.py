"""Trains once in peace, and once killed five times at random moments: python -m tests.killed_runs DATA OUT OVERRIDES...

Each run is a process of its own, forked from this one before any training, so that what is imported is imported once.
Prints, as JSON, how many optimizer steps each of the two took in all, and how often it was killed.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from hydra import compose, initialize_config_module

from aelm.command import schema
from aelm.train import task as train

KILLS = 5


def run_once(overrides, run_dir, steps):
    """Trains, in a process that is gone afterwards; notes each step in the file ``steps``."""
    plain = train.ReIDModule.training_step

    def noted(self, batch, batch_idx):
        with open(steps, "a") as file:
            file.write(f"{self.global_step}\n")
        # What a network with dropout, or a third party's part, would draw.
        return plain(self, batch, batch_idx) * (1 + torch.rand(()) + random.random() + np.random.rand())

    train.ReIDModule.training_step = noted
    try:
        with initialize_config_module("aelm.conf", version_base="1.3"):
            config = compose("train", [*overrides, f"run_dir={run_dir}", "name=test"])
        train.run(config)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def taken(steps):
    return len(steps.read_text().splitlines()) if steps.exists() else 0


def started(overrides, run_dir, steps):
    process = os.fork()
    if process == 0:
        run_once(overrides, run_dir, steps)
    return process


def killed(process, steps, draws):
    """Kills at a random moment after some random number of further steps; whether it came before the end."""
    enough = taken(steps) + draws.randrange(1, 6)
    alive = os.WEXITED | os.WNOHANG | os.WNOWAIT  # looks without collecting
    while taken(steps) < enough and os.waitid(os.P_PID, process, alive) is None:
        time.sleep(0.002)
    time.sleep(draws.uniform(0, 0.1))
    os.kill(process, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def main():
    data, out, *overrides = sys.argv[1:]
    torch.set_num_threads(1)
    schema.register()
    out, overrides = Path(out), [f"data_dir={data}", *overrides]
    peace = started([*overrides, "dataset.workers=0"], out / "peace", out / "peace.steps")
    if os.waitpid(peace, 0)[1]:
        sys.exit("the undisturbed run failed")
    draws, kills = random.Random(int(time.time())), 0
    for _ in range(KILLS):
        process = started([*overrides, "resume=auto", "dataset.workers=1"], out / "war", out / "war.steps")
        kills += killed(process, out / "war.steps", draws)
    last = started([*overrides, "resume=auto", "dataset.workers=1"], out / "war", out / "war.steps")
    if os.waitpid(last, 0)[1]:
        sys.exit("the last run failed")
    print(json.dumps({"kills": kills, "peace": taken(out / "peace.steps"), "war": taken(out / "war.steps")}))


if __name__ == "__main__":
    main()
