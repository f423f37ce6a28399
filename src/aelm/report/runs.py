"""The run directory: its files, whether a run can resume there, and the table and chart of a sweep's runs."""

import csv
import io
import json
import platform
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.utilities import rank_zero_only
from yaml import YAMLError

from aelm.checkpoint import KEY, read_checkpoint
from aelm.figures.comparison import SweepPoint, sweep_chart
from aelm.files import check_folder, hold_file
from aelm.report.metrics import write_text
from aelm.types import InputError

# Keys, or patterns of keys, that do not affect the weights: paths, loading and logging. Data is compared by content
# (see `changed_people`), not by path.
FREE = {
    "resume", "run_dir", "name", "figures", "checkpoint_every_n_steps", "dataset.workers", "dataset.cache", "data_dir",
    "dataset.benchmarks.*.root", "dataset.benchmarks.*.csv", "logger", "logger.*", "trainer.log_every_n_steps",
    "trainer.enable_progress_bar", "trainer.profiler", "trainer.max_time", "trainer.default_root_dir",
}  # fmt: skip
# Further keys that may change when a run resumes.
TESTS = {"dataset.test", "dataset.test_batch_size"}
FILES = {"model.backbone.weights", "neck_weights"}  # compared by file name


def claim(
    run_dir: Path, config: DictConfig, description: Mapping[str, Any] | None = None, *, first: bool = True
) -> Path | None:
    """Writes ``config.yaml`` to a new run directory, or finds the checkpoint to resume from.

    Args:
        run_dir: The directory, which may not exist yet.
        config: The full, resolved configuration; ``resume`` says whether to resume from checkpoints there.
        description: The description in this training's checkpoints, of which ``labels`` and ``people`` are compared;
            None to skip this.
        first: Whether this is rank 0: other processes neither check nor create the directory.

    Returns:
        The checkpoint to resume from; None for a new run.

    Raises:
        FileExistsError: If checkpoints there, of this or another configuration, would be overwritten.
        ValueError: If a file there is unreadable, or the run was trained on other people or pictures.
        OSError: If the directory is not writable.
    """
    folder = run_dir / "checkpoints"
    held = sorted(p.name for p in folder.glob("*.ckpt"))
    # A run killed before its first last.ckpt may have a best.ckpt, from which it can also resume.
    last = next((folder / name for name in ("last.ckpt", "best.ckpt") if name in held), None)
    if not first:
        return last if config.resume == "auto" else None
    if held:
        before = run_dir / "config.yaml"
        changed = differences(read_config(before), config) if before.is_file() else ["config.yaml is gone"]
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
    if last is not None and description is not None:
        changes = changed_people(read_checkpoint(last)[KEY], description)
        if changes:
            raise InputError(
                f"{run_dir} cannot go on: its weights were trained on other data; {changes}. Bring the data back as it "
                "was, or choose another `name`"
            )
    check_folder(folder, "run_dir")
    write_text(run_dir / "config.yaml", OmegaConf.to_yaml(config))
    return last


def read_config(path: Path) -> DictConfig:
    """The configuration of a run.

    Raises:
        ValueError: If the file is not a configuration.
    """
    try:
        found = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError, OmegaConfBaseException) as error:
        told = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is not the configuration of a run: {told}. Was it cut off, or changed?") from error
    if not isinstance(found, DictConfig):
        raise InputError(f"{path} is not the configuration of a run: it holds no keys. Was it cut off, or changed?")
    return found


def differences(before: Any, after: Any) -> list[str]:
    """Differences between two configurations that affect the weights, as ``key: old -> new``."""
    old = dict(dotted_values(OmegaConf.to_container(before)))
    new = dict(dotted_values(OmegaConf.to_container(after)))
    for one in (old, new):
        one.update({key: Path(one[key]).name for key in FILES & one.keys() if isinstance(one[key], str)})
    keys = sorted(key for key in old.keys() | new.keys() if not matches(key, FREE | TESTS))
    return [f"{key}: {old.get(key)} -> {new.get(key)}" for key in keys if old.get(key) != new.get(key)]


def matches(key: str, patterns: Collection[str]) -> bool:
    """Whether a dotted key matches one of some keys or patterns.

    >>> matches("dataset.benchmarks.duke.root", FREE), matches("seed", FREE)
    (True, False)
    """
    return any(fnmatchcase(key, pattern) for pattern in patterns)


def changed_people(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Differences between the people that a checkpoint was trained on and the current ones; empty if there are none.

    Args:
        before: Description in the checkpoint: ``people`` with digests of their pictures, as in
            :attr:`aelm.data.ReIDDataModule.people`; only ``labels`` in earlier releases.
        now: Description for the next checkpoint.

    >>> changed_people({"people": {"a": "1", "b": "2", "c": "3"}}, {"people": {"b": "0", "c": "3", "d": "4"}})
    'people that came: d; people that went: a; people with other pictures: b'
    >>> changed_people({"labels": ["a", "b"]}, {"labels": ["b"], "people": {"b": "0"}})
    'people that went: a'
    """
    knows_pictures = "people" in before
    old, new = (one["people"] if knows_pictures else dict.fromkeys(one["labels"]) for one in (before, now))
    found = {
        "people that came": new.keys() - old.keys(),
        "people that went": old.keys() - new.keys(),
        "people with other pictures": {key for key in new.keys() & old.keys() if old[key] != new[key]},
    }
    return "; ".join(f"{what}: {some(sorted(names))}" for what, names in found.items() if names)


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def dotted_values(node: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of a nested configuration, with dotted keys."""
    if isinstance(node, Mapping) and node:
        for key, value in node.items():
            yield from dotted_values(value, f"{place}.{key}".lstrip("."))
    else:
        yield place, node


LIBRARIES = ("aelm", "torch", "timm", "pytorch-lightning", "albumentations", "numpy")


def run_facts(trainer: pl.Trainer, overrides: Sequence[str]) -> dict[str, str | float]:
    """Facts about a training, beside its scores.

    Args:
        trainer: After training, with a :class:`~pytorch_lightning.callbacks.Timer` among its callbacks.
        overrides: Overrides of the command line, such as ``["arm=ifcn", "seed=0"]``.

    Returns:
        Flat: ``train/seconds`` (with validation, without the test; summed over the parts of a resumed run), device,
        number of processes, threads per process, versions, command line.
    """
    attached: Any = trainer  # `callbacks` is untyped in Lightning
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
    """The product name of a device, if the system knows it.

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
    write_text(path, json.dumps(dict(facts), indent=2, ensure_ascii=False) + "\n")


Row = Mapping[str, str]

NO_SETTING = r"job$|status$|error$|(train|test|val)\w*/"  # columns of sweep.csv that are not command-line settings


class Job(NamedTuple):
    """One job of a sweep: the sweep's folder, the job number, and its overrides."""

    folder: Path
    number: int
    settings: dict[str, str]


def this_job() -> Job | None:
    """The current job; None outside of a Hydra multirun."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    hydra = HydraConfig.get()
    return Job(Path(hydra.runtime.cwd, hydra.sweep.dir), int(hydra.job.num), override_values(overrides()))


def overrides() -> list[str]:
    """The command-line overrides, in a sweep those of this job; empty if no command runs."""
    return [str(override) for override in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


def override_values(overrides: Sequence[str]) -> dict[str, str]:
    """Values by key.

    >>> override_values(["arm=ifcn", "+x.y=a=b"])
    {'arm': 'ifcn', 'x.y': 'a=b'}
    """
    pairs = [override.lstrip("+~").partition("=") for override in overrides]
    return {key: value for key, _, value in pairs}


@contextmanager
def point(monitor: str) -> Iterator[dict[str, float]]:
    """Records a sweep job when the block ends, also after an error; does nothing outside of a sweep.

    The block fills the given mapping with scores. The plot shows ``monitor``, or without validation the same score of
    the test set.
    """
    results: dict[str, float] = {}
    failure = ""
    try:
        yield results
    except BaseException as error:
        failure = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        job = this_job()
        if job is not None:
            note(job, results, failure, monitor)


@rank_zero_only
def note(job: Job, results: Mapping[str, float], failure: str, monitor: str) -> None:
    """Writes the row of ``job`` to ``sweep.csv``, replacing an earlier row of that number, and draws ``sweep.png``.

    Scores stay: a job that was done is not replaced by one that failed, such as the same job once more.
    """
    path = job.folder / "sweep.csv"
    row = {
        "job": str(job.number), "status": "failed" if failure else "done", **job.settings,
        **{name: repr(float(value)) for name, value in results.items()}, "error": failure[:500],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_file(path, wait=True):
        before = read_sweep(path)
        if failure and any(old["job"] == row["job"] and old["status"] == "done" for old in before):
            return
        rows = sorted([*(old for old in before if old["job"] != row["job"]), row], key=lambda one: int(one["job"]))
        names = dict.fromkeys(name for one in rows for name in one if name != "error")
        text = io.StringIO(newline="")
        table = csv.DictWriter(text, [*names, "error"], restval="")
        table.writeheader()
        table.writerows(rows)
        write_text(path, text.getvalue())
        draw_sweep(rows, monitor, job.folder / "sweep.png")


def draw_sweep(rows: Sequence[Row], monitor: str, path: Path) -> None:
    """Draws the monitored metric of all rows of a sweep so far."""
    metric = monitor if any(row.get(monitor) for row in rows) else monitor.replace("val/", "test/", 1)
    points = []
    for row in rows:
        settings = {key: value for key, value in row.items() if value and not is_result(key)}
        points.append(SweepPoint(settings, float(row[metric]) if row.get(metric) else None))
    sweep_chart(points, path, metric=metric)


def is_result(column: str) -> bool:
    """Whether a column of ``sweep.csv`` holds a result, not a command-line setting.

    >>> is_result("test/mAP"), is_result("train/unreadable"), is_result("seed")
    (True, True, False)
    """
    return re.match(NO_SETTING, column) is not None


def read_sweep(path: Path) -> list[Row]:
    """The rows of a ``sweep.csv``; empty if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
