"""A sweep's table and plot: each job adds its row to ``sweep.csv`` as it ends, and draws the plot anew."""

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

from aelm.figures.sweep import SweepPoint, sweep_chart
from aelm.files import hold_file
from aelm.report.metrics import write_text

Row = Mapping[str, str]

NO_SETTING = r"job$|status$|error$|(train|test|val)\w*/"  # columns of sweep.csv that the command line did not ask for


class Job(NamedTuple):
    """One job of a sweep: where the sweep lies, the number of the job, what it was started with."""

    folder: Path
    number: int
    settings: dict[str, str]


def this_job() -> Job | None:
    """The job that runs here; None outside of a Hydra multirun."""
    if not HydraConfig.initialized() or HydraConfig.get().mode != RunMode.MULTIRUN:
        return None
    hydra = HydraConfig.get()
    return Job(Path(hydra.runtime.cwd, hydra.sweep.dir), int(hydra.job.num), override_values(overrides()))


def overrides() -> list[str]:
    """What the command line said, in a sweep for this job; nothing where no command runs."""
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
    """Notes a job of a sweep when the block ends, however it ends; outside of a sweep it does nothing.

    The block puts scores by name into what it is given. The plot shows ``monitor``, or where nothing was validated the
    same score of the test set.
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
    """Adds the row of ``job`` to ``sweep.csv``, in place of an earlier one of this number, and draws ``sweep.png``."""
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
    """Draws the monitored metric of all rows that a sweep has so far."""
    metric = monitor if any(row.get(monitor) for row in rows) else monitor.replace("val/", "test/", 1)
    points = []
    for row in rows:
        settings = {key: value for key, value in row.items() if value and not is_result(key)}
        points.append(SweepPoint(settings, float(row[metric]) if row.get(metric) else None))
    sweep_chart(points, path, metric=metric)


def is_result(column: str) -> bool:
    """Whether a column of ``sweep.csv`` holds what came out, and not what the command line asked for.

    >>> is_result("test/mAP"), is_result("train/unreadable"), is_result("seed")
    (True, True, False)
    """
    return re.match(NO_SETTING, column) is not None


def read(path: Path) -> list[Row]:
    """The rows of a ``sweep.csv``; none where there is no such file."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
