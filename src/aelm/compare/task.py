"""The task of ``python -m aelm.compare``: an ablation's tables and plots, with paired differences and errors."""

import csv
import difflib
import io
import math
import re
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf

from aelm.compare.arms import (
    POINT,
    Arm,
    CurvePoint,
    Difference,
    Summary,
    arm_of,
    occlusion_curves,
    paired_difference,
    sort_into_arms,
    summarise,
)
from aelm.compare.runs import Run, read_runs
from aelm.figures.comparison import ArmRow, Interval, Line, comparison_chart, occlusion_chart
from aelm.files import hold_folder
from aelm.report.metrics import write_text
from aelm.types import InputError


class Entry(NamedTuple):
    """One arm and metric; ``difference`` is None for the baseline."""

    arm: str
    metric: str
    summary: Summary
    difference: Difference | None


class Comparison(NamedTuple):
    """Content of the tables: arms, baseline, metrics, and an entry for each arm and metric.

    Attributes:
        arms: In order of appearance.
        baseline: One of ``arms``.
        metrics: Names, in order.
        confidence: Of the intervals.
        entries: By arm and metric.
    """

    arms: Sequence[Arm]
    baseline: Arm
    metrics: Sequence[str]
    confidence: float
    entries: dict[tuple[str, str], Entry]


SCORE = r"(mAP|mAP_trapezoid|mINP|rank\d+)(_low|_high)?"  # last parts of names shown in per cent
MEANS, DIFFERENCES = 6, 3  # metrics per table
NOTHING = "\N{EN DASH}"


def run(config: DictConfig) -> Comparison:
    """Compares as ``config`` says, prints the tables, and writes to ``output`` if given."""
    asked: Any = OmegaConf.to_container(config)
    places = [asked["runs"]] if isinstance(asked["runs"], str) else list(asked["runs"])
    runs = read_runs(places, asked["files"])
    arms = sort_into_arms(runs, asked["ignore"])
    comparison = compare(arms, asked["metrics"], asked["baseline"], asked["confidence"])
    title = f"# {len(runs)} runs in {len(arms)} arms: {', '.join(places)}"
    text = f"{title}\n\n{markdown(comparison, runs)}"
    print(text)
    if asked["output"] is not None:
        output = Path(asked["output"])
        with hold_folder(output):
            write_text(output / "comparison.md", text)
            write_text(output / "comparison.csv", as_csv(comparison))
            write_text(output / "runs.csv", runs_csv(comparison, runs))
            draw_comparison(comparison, output)
    return comparison


def draw_comparison(comparison: Comparison, output: Path) -> None:
    """Draws ``comparison.png``, and ``occlusion.png`` if the runs have occlusion curves."""
    base, interval = comparison.baseline.name, f"{100 * comparison.confidence:g} % t-interval"
    # Points of occlusion curves go to occlusion.png.
    metrics = [name for name in comparison.metrics if not re.fullmatch(POINT, name)]
    panels = {heading(metric): [arm_row(comparison, arm.name, metric) for arm in comparison.arms] for metric in metrics}
    if panels:
        comparison_chart(panels, output / "comparison.png", baseline=base, interval=interval)
    curves = occlusion_curves(comparison.arms, comparison.baseline, comparison.confidence)
    lines = {
        kind: (
            [curve_line(one.arm, one.values) for one in found if one.values],
            [curve_line(one.arm, one.differences) for one in found if one.differences],
        )
        for kind, found in curves.items()
    }
    if lines:
        occlusion_chart(lines, output / "occlusion.png", baseline=base, interval=interval)


def arm_row(comparison: Comparison, arm: str, metric: str) -> ArmRow:
    """An arm's row for the figure, scores in per cent."""
    scale = 100.0 if is_score(metric) else 1.0
    (one,) = (found for found in comparison.arms if found.name == arm)
    _, _, (_, mean, deviation), apart = comparison.entries[arm, metric]
    spread = Interval(*(scale * value for value in (mean, mean - deviation, mean + deviation)))
    difference = None
    if apart is not None and apart.seeds:
        difference = Interval(*(scale * value for value in (apart.mean, apart.low, apart.high)))
    return ArmRow(arm, [scale * value for value in one.values(metric).values()], spread, difference)


def curve_line(arm: str, points: Sequence[CurvePoint]) -> Line:
    """A curve for the figure, in per cent."""
    band = [Interval(*(100 * value for value in point[1:])) for point in points]
    return Line(arm, [point.percent for point in points], band)


def compare(arms: Sequence[Arm], patterns: Sequence[str], baseline: str | None, confidence: float) -> Comparison:
    """Computes the entry of every arm and metric.

    Args:
        arms: At least one.
        patterns: Names of metrics, or patterns such as ``claims/*``.
        baseline: Name of the arm to compare with; None for the first.
        confidence: Confidence of the intervals, in (0, 1).

    Raises:
        ValueError: If no arm has that name, or no run has a requested metric.
    """
    if not 0 < confidence < 1:
        raise InputError(f"`confidence` must lie in (0, 1), got {confidence}")
    names = [arm.name for arm in arms]
    if baseline is not None and baseline not in names:
        raise InputError(f"no arm is called `{baseline}`; there are: {'; '.join(names)}. Choose `baseline` among them")
    base = arms[0] if baseline is None else arms[names.index(baseline)]
    known = {name for arm in arms for run in arm.runs.values() for name in run.scores}
    metrics = matching_metrics(patterns, known)
    entries = {}
    for arm in arms:
        for metric in metrics:
            values = arm.values(metric)
            apart = None if arm is base else paired_difference(values, base.values(metric), confidence)
            entries[arm.name, metric] = Entry(arm.name, metric, summarise(list(values.values())), apart)
    return Comparison(arms, base, metrics, confidence, entries)


def matching_metrics(patterns: Sequence[str], known: set[str]) -> list[str]:
    """The names that match the patterns, in the order of the patterns, with numbers in numeric order.

    Raises:
        ValueError: If a name without wildcard is unknown, or nothing matches.

    >>> matching_metrics(["test/mAP", "x_*"], {"x_10", "x_9", "test/mAP", "y"})
    ['test/mAP', 'x_9', 'x_10']
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [name for name in known if fnmatchcase(name, pattern)]
        if not matches and not set(pattern) & set("*?["):
            near = difflib.get_close_matches(pattern, known, 3) or sorted(known)[:12]
            raise InputError(f"no run has the metric `{pattern}`; there are {', '.join(near)}")
        found |= dict.fromkeys(sorted(matches, key=by_numbers))
    if not found:
        raise InputError(f"no run has any of {', '.join(patterns)}; there are {', '.join(sorted(known)[:12])}")
    return list(found)


def by_numbers(name: str) -> list[tuple[int, str]]:
    """Sort key of names with numbers in numeric order."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def markdown(comparison: Comparison, runs: Sequence[Run]) -> str:
    """The full report; ``runs`` are all runs, also those without scores."""
    metrics = comparison.metrics
    means = [means_table(comparison, metrics[i : i + MEANS]) for i in range(0, len(metrics), MEANS)]
    differences = [
        differences_table(comparison, metrics[i : i + DIFFERENCES]) for i in range(0, len(metrics), DIFFERENCES)
    ]
    base, level = comparison.baseline.name, f"{100 * comparison.confidence:g} %"
    parts = ["## Arms", arms_table(comparison), "## Mean ± standard deviation over seeds", *means]
    if len(comparison.arms) > 1:
        parts += [
            f"## Difference to *{base}*, paired by seed: mean ± standard error [{level} t-interval]",
            "Each interval is that of one comparison, not widened for their number.",
            *differences,
        ]
    left = omissions(comparison, runs)
    parts += ["## Left out", "\n".join(f"- {line}" for line in left) or "Nothing."]
    parts += ["## Where the runs ran", where_table([run for arm in comparison.arms for run in arm.runs.values()])]
    return "\n\n".join(parts) + "\n"


def arms_table(comparison: Comparison) -> str:
    """Each arm's seeds, differing configuration values, and command-line settings common to all runs."""
    rows = [["arm", "seeds", "what differs in config.yaml"]]
    for arm in comparison.arms:
        differs = ", ".join(f"{key}={value}" for key, value in arm.differs.items())
        rows.append([arm.name, ", ".join(map(str, arm.runs)), differs or NOTHING])
    told = [run.settings.items() for arm in comparison.arms for run in arm.runs.values()]
    common = [f"{key}={value}" for key, value in told[0] if all((key, value) in one for one in told)]
    return markdown_table(rows) + (f"\n\nCommand-line settings of all runs: `{' '.join(common)}`." if common else "")


def means_table(comparison: Comparison, metrics: Sequence[str]) -> str:
    """One row per arm, one column per metric."""
    rows = [["arm", "runs", *map(heading, metrics)]]
    for arm in comparison.arms:
        cells = []
        for metric in metrics:
            count, mean, deviation = comparison.entries[arm.name, metric].summary
            places = decimals(metric, mean)
            cell = f"{formatted(metric, mean, places)} ± {formatted(metric, deviation, places)}"
            cells.append(NOTHING if not count else cell + sample_note(count, len(arm.runs)))
        rows.append([arm.name, str(len(arm.runs)), *cells])
    return markdown_table(rows)


def differences_table(comparison: Comparison, metrics: Sequence[str]) -> str:
    """One row per arm except the baseline, one column per metric."""
    rows = [["arm", "pairs", *map(heading, metrics)]]
    for arm in comparison.arms:
        if arm is comparison.baseline:
            continue
        pairs = len(arm.runs.keys() & comparison.baseline.runs.keys())
        cells = []
        for metric in metrics:
            apart = comparison.entries[arm.name, metric].difference
            if apart is None or not apart.seeds:
                cells.append(NOTHING)
                continue
            places = decimals(metric, comparison.entries[arm.name, metric].summary.mean)
            mean, low, high = (f"{formatted(metric, x, places, '+')}" for x in (apart.mean, apart.low, apart.high))
            cell = f"{mean} ± {formatted(metric, apart.error, places)} [{low}, {high}]"
            cells.append(cell + sample_note(len(apart.seeds), pairs))
        rows.append([arm.name, str(pairs), *cells])
    return markdown_table(rows)


def omissions(comparison: Comparison, runs: Sequence[Run]) -> list[str]:
    """Data that is left out: runs without scores, missing files, unpaired seeds."""
    lines = []
    for run in runs:
        if not run.scores:
            settings = {"arm": arm_of(run, comparison.arms), "seed": run.seed} if run.config else run.settings
            asked = ", ".join(f"{key}={value}" for key, value in settings.items() if value != "")
            why = f"failed: {run.failure}" if run.failure else "no scores: still running, or stopped"
            lines.append(f"{run.folder} ({asked}): {why}")
    lacking: dict[str, list[str]] = {}
    for run in runs:
        for file in run.absent if run.scores else ():
            lacking.setdefault(file, []).append(str(run.folder))
    lines += [f"no {file}, and so not under its metrics: {', '.join(folders)}" for file, folders in lacking.items()]
    base = comparison.baseline
    for arm in comparison.arms:
        for one, other in ((arm, base), (base, arm)):
            if alone := sorted(one.runs.keys() - other.runs.keys()):
                seeds = ", ".join(map(str, alone))
                lines.append(f"seed {seeds}: in {one.name}, not in {other.name}, and so not in their difference")
    return lines


def where_table(runs: Sequence[Run]) -> str:
    """Devices and versions with their number of runs; times on different devices are not comparable."""
    names = list(dict.fromkeys(name for run in runs for name in run.facts))
    if not names:
        return "No run tells (older runs have no run.json)."
    rows = [["", "of how many runs"]]
    for name in names:
        counts = Counter(run.facts.get(name, "not told") for run in runs)
        rows.append([name, "; ".join(f"{value}: {count}" for value, count in counts.most_common())])
    return markdown_table(rows)


def as_csv(comparison: Comparison) -> str:
    """One line per arm and metric, with plain numbers (scores are fractions); empty if there are too few seeds."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(
        ["arm", "metric", "runs", "mean", "standard_deviation", "baseline", "pairs", "difference", "standard_error",
         "low", "high", "paired_seeds", "unpaired_seeds"]
    )  # fmt: skip
    for name, metric, (count, mean, deviation), apart in comparison.entries.values():
        row = [name, metric, count, number(mean), number(deviation)]
        if apart is None:
            lines.writerow([*row, *[""] * 8])
            continue
        values = (apart.mean, apart.error, apart.low, apart.high)
        seeds = [" ".join(map(str, part)) for part in (apart.seeds, apart.unpaired)]
        lines.writerow([*row, comparison.baseline.name, len(apart.seeds), *map(number, values), *seeds])
    return text.getvalue()


def runs_csv(comparison: Comparison, runs: Sequence[Run]) -> str:
    """One line per run: arm, seed, state and all requested metrics."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["run", "arm", "seed", "status", *comparison.metrics, "error"])
    for run in runs:
        status = "done" if run.scores else "failed" if run.failure else "unfinished"
        values = [number(run.scores.get(metric, math.nan)) for metric in comparison.metrics]
        seed = run.seed if run.config else ""
        lines.writerow([run.folder, arm_of(run, comparison.arms), seed, status, *values, run.failure])
    return text.getvalue()


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with aligned columns; the first row is the header.

    >>> print(markdown_table([["a", "b"], ["long|er", "1"]]))
    | a        | b |
    |----------|---|
    | long\\|er | 1 |
    """
    cells = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in cells
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def heading(metric: str) -> str:
    """A metric with its unit.

    >>> heading("test/mAP"), heading("train/seconds")
    ('test/mAP (%)', 'train/seconds')
    """
    return f"{metric} (%)" if is_score(metric) else metric


def is_score(metric: str) -> bool:
    """Whether a metric is a fraction that is usually reported in per cent."""
    return re.fullmatch(SCORE, metric.rpartition("/")[2]) is not None


def decimals(metric: str, mean: float) -> int:
    """Number of decimals: two for per cent, otherwise four significant digits."""
    if is_score(metric):
        return 2
    return 3 if not abs(mean) >= 10 else 2 if abs(mean) < 100 else 1 if abs(mean) < 1000 else 0


def formatted(metric: str, value: float, places: int, sign: str = "") -> str:
    """A value as text for tables, scores in per cent; ``sign="+"`` writes a plus.

    >>> formatted("test/mAP", 0.12345, 2, "+"), formatted("train/seconds", 412.34, 1)
    ('+12.35', '412.3')
    """
    return NOTHING if math.isnan(value) else f"{value * (100 if is_score(metric) else 1):{sign}.{places}f}"


def sample_note(count: int, usual: int) -> str:
    """The number of values of a cell, if it differs from the row's."""
    return "" if count == usual else f" (n={count})"


def number(value: float) -> str:
    """A number for a CSV; empty for NaN."""
    return "" if math.isnan(value) else repr(value)
