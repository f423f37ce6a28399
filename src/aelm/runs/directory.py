"""A run's directory: who may write there, and whether a run goes on in it."""

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Timer

from aelm.files import check_folder
from aelm.report.metrics import write_whole

# What may differ between a run and its continuation: nothing that weights depend on.
FREE = {
    "resume", "run_dir", "name", "figures", "checkpoint_every_n_steps", "dataset.workers", "dataset.cache",
    "trainer.enable_progress_bar", "trainer.profiler", "trainer.max_time",
}  # fmt: skip


def claim(run_dir: Path, config: DictConfig, *, first: bool = True) -> Path | None:
    """Writes ``config.yaml`` into a fresh run directory, or finds where the run there stopped.

    Args:
        run_dir: The directory, which may not exist yet.
        config: The whole configuration, resolved; ``resume`` says whether checkpoints there are gone on from.
        first: Whether this is the first of several processes: the others neither look after the directory nor make one.

    Returns:
        The checkpoint to go on from; None for a fresh start.

    Raises:
        FileExistsError: If there are checkpoints there, of this or another configuration, that would be lost.
        OSError: If nothing can be written there.
    """
    last = run_dir / "checkpoints" / "last.ckpt"
    held = sorted(p.name for p in last.parent.glob("*.ckpt"))
    if not first:
        return last if last.is_file() and config.resume == "auto" else None
    if held:
        before = run_dir / "config.yaml"
        changed = differences(OmegaConf.load(before), config) if before.is_file() else ["config.yaml is gone"]
        if changed:
            raise FileExistsError(
                f"{run_dir} holds checkpoints ({', '.join(held)}) of another configuration: {'; '.join(changed[:5])}. "
                "Choose another `name`, or remove the directory"
            )
        if config.resume != "auto":
            raise FileExistsError(
                f"{run_dir} holds checkpoints ({', '.join(held)}) of this configuration. Go on with `resume=auto`, "
                "choose another `name`, or remove the directory"
            )
    check_folder(last.parent, "run_dir")
    run_dir.mkdir(parents=True, exist_ok=True)
    if not held:
        OmegaConf.save(config, run_dir / "config.yaml")
    return last if last.is_file() and config.resume == "auto" else None


def differences(before: Any, after: Any) -> list[str]:
    """What changed between two configurations, as ``key: old -> new``."""
    old = dict(flat(OmegaConf.to_container(before)))
    new = dict(flat(OmegaConf.to_container(after)))
    keys = sorted(key for key in old.keys() | new.keys() if key not in FREE)
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def flat(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested configuration, with dotted names."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from flat(value, f"{place}.{key}".lstrip("."))
    else:
        yield place, node


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
