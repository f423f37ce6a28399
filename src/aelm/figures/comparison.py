"""Charts of an ablation's arms (metrics, paired differences, occlusion curves), and of a sweep's settings."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from aelm.figures.curves import chart, dress, key, line_style
from aelm.figures.page import MUTED, drawable, save
from aelm.types import InputError

LONGEST = 34  # characters of an arm's name


class Interval(NamedTuple):
    """A value and the ends of its interval; the ends may be NaN."""

    mean: float
    low: float
    high: float


class ArmRow(NamedTuple):
    """One arm and metric.

    Attributes:
        name: Name of the arm.
        values: One per seed.
        spread: Their mean, and the mean minus and plus a standard deviation.
        difference: Difference to the baseline; None for the baseline itself, or without pairs.
    """

    name: str
    values: Sequence[float]
    spread: Interval
    difference: Interval | None


class Line(NamedTuple):
    """A line with a band: positions on the axis, and an interval at each."""

    name: str
    along: Sequence[float]
    band: Sequence[Interval]


def comparison_chart(
    metrics: Mapping[str, Sequence[ArmRow]], path: str | Path, *, baseline: str, interval: str
) -> Path:
    """Draws two charts per metric: each arm's seeds, mean and deviation, and its difference to the baseline.

    Args:
        metrics: Heading, such as ``test/mAP (%)`` -> arms from top to bottom.
        path: The PNG to write; an existing file is replaced.
        baseline: Name of the baseline arm.
        interval: Name of the right intervals, such as ``95 % t-interval``.

    Raises:
        ValueError: If there are no metrics, one has no arms, or ``path`` is not a PNG.
    """
    if not metrics or not all(metrics.values()):
        raise InputError("nothing to draw: give at least one metric with one arm")
    most = max(len(rows) for rows in metrics.values())
    figure = chart(640, len(metrics) * (62 + 15 * most))
    for row, (heading, arms) in enumerate(metrics.items()):
        left, right = (figure.add_subplot(len(metrics), 2, 2 * row + side) for side in (1, 2))
        names = [arm.name if len(arm.name) <= LONGEST else arm.name[: LONGEST - 1] + "…" for arm in arms]
        dress(left, heading, "each seed, mean ± standard deviation")
        dress(right, f"difference to {baseline}, paired by seed", interval)
        for place, arm in enumerate(arms):
            colour, _ = line_style(place)
            left.plot(arm.values, [place] * len(arm.values), linestyle="", marker="o", ms=3.5, color=colour, alpha=0.5)
            _whisker(left, place, arm.spread, colour)
            if arm.difference is not None:
                _whisker(right, place, arm.difference, colour)
        right.axvline(0, color=MUTED, linewidth=0.8)
        for axes, labels in ((left, [drawable(name) for name in names]), (right, [""] * len(names))):
            axes.set_yticks(range(len(arms)), labels, parse_math=False)
            axes.set_ylim(len(arms) - 0.4, -0.6)
    return save(figure, path)


def _whisker(axes: Axes, place: int, value: Interval, colour: str) -> None:
    """A mark at the mean, and a line to both ends unless they are NaN."""
    axes.plot([value.mean], [place], linestyle="", marker="|", markersize=9, markeredgewidth=2, color=colour)
    if not math.isnan(value.low):
        axes.plot([value.low, value.high], [place, place], linewidth=1.4, color=colour, solid_capstyle="butt")


def occlusion_chart(
    panels: Mapping[str, tuple[Sequence[Line], Sequence[Line]]], path: str | Path, *, baseline: str, interval: str
) -> Path:
    """Draws two charts per occluder kind: mAP above, the difference to the baseline below.

    Args:
        panels: Kind -> (lines of the arms, lines of their differences), in per cent.
        path: The PNG to write; an existing file is replaced.
        baseline: Name of the baseline arm.
        interval: Name of the lower bands, such as ``95 % t-interval``.

    Raises:
        ValueError: If there are no panels, or ``path`` is not a PNG.
    """
    if not panels:
        raise InputError("nothing to draw: `panels` is empty; give at least one kind of occluder")
    names = list(dict.fromkeys(line.name for lines, _ in panels.values() for line in lines))
    has_differences = any(lines for _, lines in panels.values())
    figure = chart(max(250 * len(panels), 420), 420 if has_differences else 240)
    rows = 2 if has_differences else 1
    first: Axes | None = None
    second: Axes | None = None
    for column, (kind, (lines, differences)) in enumerate(panels.items(), 1):
        above = figure.add_subplot(rows, len(panels), column, sharey=first)
        first = first or above
        dress(above, "mean over kinds" if kind == "mean" else kind, "hidden (%)", "mAP (%)" if column == 1 else "")
        drawn = [_line(above, line, names.index(line.name)) for line in lines]
        if column == 1:
            key(above, drawn, [line.name for line in lines])
        if has_differences:
            below = figure.add_subplot(rows, len(panels), len(panels) + column, sharey=second)
            second = second or below
            dress(below, "", "hidden (%)", f"less {baseline}: points, {interval}" if column == 1 else "")
            below.axhline(0, color=MUTED, linewidth=0.8)
            for line in differences:
                _line(below, line, names.index(line.name))
    return save(figure, path)


def _line(axes: Axes, line: Line, index: int) -> Line2D:
    colour, dashes = line_style(index)
    means, lows, highs = (np.array([getattr(one, end) for one in line.band]) for end in ("mean", "low", "high"))
    if not np.isnan(lows).all():
        axes.fill_between(np.asarray(line.along), lows, highs, color=colour, alpha=0.12, linewidth=0)
    (drawn,) = axes.plot(line.along, means, color=colour, linestyle=dashes, linewidth=1.6, marker="o", markersize=3)
    return drawn


REPEATS = ("seed",)  # keys that only repeat a point
LONGEST_SETTING = 24  # characters along the axis


class SweepPoint(NamedTuple):
    """One job of a sweep: its settings by key, as written, and its result; None if it failed."""

    settings: Mapping[str, str]
    value: float | None


def sweep_chart(points: Sequence[SweepPoint], path: str | Path, *, metric: str) -> Path:
    """Draws the points of a sweep, with a line through the means over seeds.

    The x-axis shows the key with the most values (a numeric one if there is any); each combination of the other keys
    is a line. Failed points are crosses at the bottom.

    Args:
        points: All finished jobs.
        path: The PNG to write; an existing file is replaced.
        metric: Name of the value; fractions in 0..1 are shown in per cent.

    Raises:
        ValueError: If there are no points, or ``path`` is not a PNG.
    """
    if not points:
        raise InputError("nothing to draw: a sweep needs at least one point")
    along, others = arrangement(points)
    ticks = sorted({point.settings.get(along, "") for point in points}, key=_order)
    numeric = all(is_number(tick) for tick in ticks)
    place = {tick: float(tick) if numeric else i for i, tick in enumerate(ticks)}
    rows = [(_name(point, others), place[point.settings.get(along, "")], point.value) for point in points]
    rows.sort(key=lambda row: (row[0], row[1], row[2] is None, row[2]))
    figure = chart(480, 320)
    axes = figure.add_subplot()
    failed = sum(point.value is None for point in points)
    ended = f"{len(points)} points" + (f", {failed} failed" if failed else "")
    dress(axes, f"{metric}: {ended}", along or "sweep", f"{metric} (%)")
    lines: list[Line2D] = []
    names: list[str] = []
    for index, (name, group) in enumerate(groupby(rows, key=lambda row: row[0])):
        found = [(x, 100 * value) for _, x, value in group if value is not None]
        colour, dashes = line_style(index)
        means = [(x, mean([v for _, v in same])) for x, same in groupby(found, key=lambda one: one[0])]
        axes.plot(*_columns(found), linestyle="", marker="o", markersize=4, color=colour, alpha=0.6)
        lines += axes.plot(*_columns(means), linestyle=dashes, linewidth=1.5, color=colour)
        names.append(name or metric)
    for x in sorted({x for _, x, value in rows if value is None}):
        axes.plot([x], [0.03], linestyle="", marker="x", color="#d55e00", transform=axes.get_xaxis_transform())
    labels = [drawable(tick if len(tick) <= LONGEST_SETTING else tick[: LONGEST_SETTING - 1] + "…") for tick in ticks]
    slant = 0 if numeric or len("".join(labels)) < 50 else 30
    axes.set_xticks([place[tick] for tick in ticks], labels, rotation=slant, parse_math=False)
    if others:
        key(axes, lines, names)
    return save(figure, path)


def arrangement(points: Sequence[SweepPoint]) -> tuple[str, list[str]]:
    """The key of the x-axis, and the other varying keys.

    >>> arrangement([SweepPoint({"t": "0.5", "arm": "a"}, 1.0), SweepPoint({"t": "0.7", "arm": "b"}, 1.0)])
    ('t', ['arm'])
    """
    values: dict[str, set[str]] = {}
    for point in points:
        for name, value in point.settings.items():
            values.setdefault(name, set()).add(value)
    varied = [n for n, found in values.items() if n not in REPEATS and (len(found) > 1 or not _everywhere(n, points))]
    if not varied:
        return next((name for name in REPEATS if len(values.get(name, ())) > 1), ""), []
    along = max(varied, key=lambda name: (all(map(is_number, values[name])), len(values[name])))
    return along, [name for name in varied if name != along]


def is_number(text: str) -> bool:
    """Whether a setting, as written, is a number.

    >>> [is_number(text) for text in ("0.7", "1e-3", "coam", "")]
    [True, True, False, False]
    """
    try:
        float(text)
    except ValueError:
        return False
    return True


def mean(values: Sequence[float]) -> float:
    """The average.

    >>> mean([1.0, 2.0])
    1.5
    """
    return sum(values) / len(values)


def _everywhere(name: str, points: Sequence[SweepPoint]) -> bool:
    return all(name in point.settings for point in points)


def _order(tick: str) -> tuple[bool, float, str]:
    return (not is_number(tick), float(tick) if is_number(tick) else 0.0, tick)


def _name(point: SweepPoint, others: Sequence[str]) -> str:
    return ", ".join(f"{name}={point.settings[name]}" for name in others if name in point.settings)


def _columns(pairs: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in pairs], [y for _, y in pairs]
