"""Table and plot of a sweep: each job adds its row to ``sweep.csv`` when it ends, and redraws the plot."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from pytorch_lightning.utilities import rank_zero_only

from aelm.figures.comparison import SweepPoint, sweep_chart
from aelm.files import hold_file
from aelm.report.metrics import write_text

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
    """Writes the row of ``job`` to ``sweep.csv``, replacing an earlier row of that number, and draws ``sweep.png``."""
    path = job.folder / "sweep.csv"
    row = {
        "job": str(job.number), "status": "failed" if failure else "done", **job.settings,
        **{name: repr(float(value)) for name, value in results.items()}, "error": failure[:500],
    }  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with hold_file(path, wait=True):
        rows = sorted([*(old for old in read(path) if old["job"] != row["job"]), row], key=lambda one: int(one["job"]))
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


def read(path: Path) -> list[Row]:
    """The rows of a ``sweep.csv``; empty if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
