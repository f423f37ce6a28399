"""What the tests of faults run apart: the commands' own functions, on the smallest people."""

import ctypes
import gc
import logging
from pathlib import Path

import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from aelm.command import schema
from aelm.data.synthetic import synthetic
from aelm.embed import task as embed
from aelm.evaluate import task as evaluate
from aelm.train import task as train
from tests.faults.apart import fault_in_file
from tests.runs import P_X_K, SMALL, watched_by

torch.set_num_threads(1)
logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
SHORT = [*SMALL, *P_X_K, "figures=false"]


def composed(command, *overrides):
    GlobalHydra.instance().clear()
    schema.register()
    with initialize_config_module("aelm.conf", version_base="1.3"):
        return compose(command, list(overrides))


def trains(people, run_dir, *overrides):
    return train.run(composed("train", f"data_dir={people}", f"run_dir={run_dir}", "name=x", *SHORT, *overrides))


def evaluates(checkpoint, output, *overrides):
    quiet = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "figures=false"]
    return evaluate.run(composed("evaluate", f"checkpoint={checkpoint}", f"output={output}", *quiet, *overrides))


def embeds(model, images, output, *overrides):
    quiet = ["device=cpu", "workers=0", "progress=false", "batch_size=2", "shard_size=4"]
    given = [f"checkpoint={model}", f"images={images}", f"output={output}"]
    return embed.run(composed("embed", *given, *quiet, *overrides))


def draws(root, workers):
    return len(synthetic(root, "tiny", workers=workers, progress=False).train)


def contents(folder):
    """Bytes by path of all files, without the hidden ones that a killed process may leave half written."""
    files = [path for path in Path(folder).rglob("*") if path.is_file()]
    named = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: path.read_bytes() for name, path in named.items() if "/." not in f"/{name}"}


def disturbed(folder, number, fault, function, *arguments):
    """Runs a job with a fault in one of its files; gives its error, or how many files it wrote where they are fewer."""
    opened = fault_in_file(folder, number, fault)
    if fault == "kill":
        function(*arguments)
        return len(opened)
    try:
        function(*arguments)
    except OSError as error:
        return str(error)
    return len(opened)


def held():
    """Memory that this process alone holds, in MiB, without what the allocator only keeps for later."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def evaluates_often(times, every, *arguments):
    """What is held after every so many of many evaluations."""
    found = []
    for number in range(1, times + 1):
        evaluates(*arguments)
        if number % every == 0:
            found.append(held())
    return found


class Watch(pl.Callback):
    """Notes what is held after each epoch."""

    def __init__(self):
        self.found = []

    def on_train_epoch_end(self, trainer, pl_module):
        self.found.append(held())


def trains_long(people, run_dir, *overrides):
    """What is held after each epoch of a long training."""
    watch = watched_by(Watch())
    trains(people, run_dir, *overrides)
    return watch.found
