"""``run.json``: where a run ran and how long it took, beside ``metrics.json``, which another run gives again."""

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer

from aelm.report import write_whole

LIBRARIES = ("aelm", "torch", "timm", "pytorch-lightning", "albumentations", "numpy")


def run_facts(trainer: pl.Trainer, overrides: Sequence[str]) -> dict[str, str | float]:
    """What is to be told of a training beside its scores.

    Args:
        trainer: Has trained, with a :class:`~pytorch_lightning.callbacks.Timer` among its callbacks.
        overrides: What the command line said, such as ``["arm=ifcn", "seed=0"]``.

    Returns:
        Flat: ``train/seconds`` (validation during the training included, the test not; the parts of a run that was
        stopped and went on add up), device, number of processes, threads of each, versions, command line.
    """
    attached: Any = trainer  # Lightning gives `callbacks` no type
    (timer,) = (callback for callback in attached.callbacks if isinstance(callback, Timer))
    return {
        "train/seconds": timer.time_elapsed("train"),
        "device": device_name(trainer.strategy.root_device),
        "processes": trainer.world_size,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in LIBRARIES},
        "overrides": json.dumps(list(overrides), ensure_ascii=False),
    }


def device_name(device: torch.device) -> str:
    """The maker's name of a device, as far as the system tells it.

    >>> device_name(torch.device("cpu")) != ""
    True
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    told = Path("/proc/cpuinfo")
    lines = told.read_text(encoding="utf-8", errors="replace").splitlines() if told.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next((name for name in names if name), platform.processor() or platform.machine() or "cpu")


def write_facts(facts: Mapping[str, str | float], path: Path) -> None:
    """Writes ``run.json``."""
    write_whole(path, json.dumps(dict(facts), indent=2, ensure_ascii=False) + "\n")
