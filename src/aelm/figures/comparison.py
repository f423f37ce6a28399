"""Charts of an ablation's arms: each metric over seeds, paired differences, and occlusion curves."""

import math
from collections.abc import Mapping, Sequence
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
