"""Scores over how much of each query is hidden."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.lines import Line2D

from aelm.figures.curves import chart, dress, key, line_style
from aelm.figures.page import INK
from aelm.figures.writing import save

Point = tuple[float, float, float]


def occlusion_chart(
    panels: Mapping[str, Mapping[str, Sequence[Point]]], fractions: Sequence[float], path: str | Path
) -> Path:
    """Draws a panel for each score: a strong line with its interval for the first curve, thin ones for the others.

    Args:
        panels: Score -> curve -> for each fraction the value and the ends of its interval, all fractions in 0 .. 1.
        fractions: Of the queries hidden, ascending.
        path: The PNG to write; an old one is replaced.

    Raises:
        ValueError: If there is no panel, a curve has not one point a fraction, or ``path`` is no PNG.
    """
    if not panels:
        raise ValueError("nothing to draw: `panels` is empty; give at least one score")
    for score, curves in panels.items():
        for name, points in curves.items():
            if len(points) != len(fractions):
                raise ValueError(f"{score}, {name}: expected {len(fractions)} points, got {len(points)}")
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
