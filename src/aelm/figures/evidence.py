"""Charts of the body parts that classifiers cover, compared with chance, and of scores over the hidden share."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from aelm.figures.curves import COLOURS, chart, dress, key, line_style
from aelm.figures.page import INK, MUTED, PAPER, SMALL, drawable, font, save
from aelm.types import InputError

HATCHES = ("", "///")
Bar = tuple[float, float, float]


def part_bars(
    panels: Mapping[str, Mapping[str, Sequence[Bar]]], parts: Sequence[str], path: str | Path, *, title: str = ""
) -> Path:
    """Draws how often each body part is covered.

    Args:
        panels: Panel title -> classifier name -> for each part how often it is covered, the standard error (NaN for
            none), and the chance value; fractions in 0 .. 1, NaN if the part was never visible.
        parts: Part names, from left to right.
        path: The PNG to write; an existing file is replaced.
        title: Title above all panels.

    Raises:
        ValueError: If there are no panels, a classifier does not have one bar per part, or ``path`` is not a PNG.
    """
    if not panels:
        raise InputError("nothing to draw: `panels` is empty; give at least one stage")
    for name, heads in panels.items():
        for head, bars in heads.items():
            if len(bars) != len(parts):
                raise InputError(f"{name}, {head}: expected {len(parts)} bars, one a part, got {len(bars)}")
    figure = chart(480, 40 + 190 * len(panels))
    if title:
        figure.suptitle(drawable(title), color=INK, fontproperties=font(12, bold=True), parse_math=False)
    for row, (name, heads) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(len(panels), 1, row)
        dress(axes, name, "", "covered (%)")
        width = 0.8 / len(heads)
        for index, (head, bars) in enumerate(heads.items()):
            value, error, chance = (100 * np.array(column, np.float64) for column in zip(*bars, strict=True))
            x = np.arange(len(parts)) + (index - (len(heads) - 1) / 2) * width
            axes.bar(
                x, np.nan_to_num(value), 0.92 * width, color=COLOURS[index], hatch=HATCHES[index % 2],
                edgecolor=PAPER, linewidth=0, label=drawable(head),
            )  # fmt: skip
            axes.errorbar(x, value, error, fmt="none", ecolor=INK, elinewidth=0.8)
            dash = axes.hlines(chance, x - 0.46 * width, x + 0.46 * width, colors=INK, linestyles="--", linewidth=1.2)
            if index == len(heads) - 1:
                dash.set_label("by chance")
        axes.set_xticks(range(len(parts)), [drawable(part) for part in parts], parse_math=False)
        axes.set_ylim(0, 105)
        if row == 1:
            axes.legend(prop=font(SMALL), frameon=False, labelcolor=MUTED, ncols=3, loc="lower right",
                        bbox_to_anchor=(1.0, 1.0))  # fmt: skip
    return save(figure, path)


Point = tuple[float, float, float]


def occlusion_chart(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], fractions: Sequence[float], path: str | Path
) -> Path:
    """Draws a panel for each score: a thick line with its interval for the first curve, thin lines for the others.

    Args:
        panels: Score -> curve -> for each fraction the value and the ends of its interval, all fractions in 0 .. 1.
        fractions: Hidden fractions of the queries, ascending.
        path: The PNG to write; an existing file is replaced.

    Raises:
        ValueError: If there are no panels, a curve does not have one point per fraction, or ``path`` is not a PNG.
    """
    if not panels:
        raise InputError("nothing to draw: `panels` is empty; give at least one score")
    for score, curves in panels.items():
        for name, points in curves.items():
            if len(points) != len(fractions):
                raise InputError(f"{score}, {name}: expected {len(fractions)} points, got {len(points)}")
    figure = chart(320 * len(panels), 300)
    hidden = 100 * np.array(fractions, np.float64)
    for column, (score, curves) in enumerate(panels.items(), 1):
        axes = figure.add_subplot(1, len(panels), column)
        dress(axes, score, "hidden share of each query (%)", f"{score} (%)")
        lines: list[Line2D] = []
        for index, points in enumerate(curves.values()):
            value, low, high = (100 * np.array(part, np.float64) for part in zip(*points, strict=True))
            colour, dashes = (INK, "-") if index == 0 else line_style(index - 1)
            thick, large = (2.2, 4.0) if index == 0 else (1.1, 2.5)
            lines += axes.plot(
                hidden, value, color=colour, linestyle=dashes, linewidth=thick, marker="o", markersize=large
            )
            if index == 0:
                axes.fill_between(hidden, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.set_ylim(bottom=0)
        axes.set_xticks(hidden)
        key(axes, lines, list(curves))
    return save(figure, path)
