"""The common style of all charts, the cumulative matching curve, occlusion curves, and bars of body parts."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from aelm.figures.page import DPI, INK, LABEL, MUTED, PAPER, RULE, SMALL, drawable, families, font, save
from aelm.types import InputError

# Okabe and Ito's colour-blind safe colours; dashes distinguish lines in greyscale.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", "-.", ":")
LONGEST_NAME = 56  # characters in a legend

Place = Literal["best", "lower right"]


def line_style(index: int) -> tuple[str, str]:
    """Colour and dashes of a line by index; the first twelve are all different.

    >>> len({line_style(index) for index in range(12)})
    12
    """
    return COLOURS[index % len(COLOURS)], DASHES[(index + index // len(COLOURS)) % len(DASHES)]


def chart(width: float, height: float) -> Figure:
    """An empty figure, with size in points."""
    return Figure(
        figsize=(width / 72, height / 72),
        dpi=DPI,
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1),
        facecolor=PAPER,
    )


def dress(axes: Axes, title: str, x_label: str, y_label: str = "") -> None:
    """Applies the common style to an axes: no box, a faint grid, small grey numbers."""
    axes.set_facecolor(PAPER)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(RULE)
        spine.set_linewidth(0.8)
    axes.grid(visible=True, axis="y", color=RULE, linewidth=0.6, linestyle="-")
    axes.grid(visible=False, axis="x")
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED, labelsize=SMALL, labelcolor=MUTED, labelfontfamily=list(families()))
    axes.set_title(
        drawable(title), loc="left", color=INK, fontproperties=font(LABEL, bold=True), parse_math=False, pad=8
    )
    axes.set_xlabel(drawable(x_label), color=MUTED, fontproperties=font(SMALL), parse_math=False)
    axes.set_ylabel(drawable(y_label), color=MUTED, fontproperties=font(SMALL), parse_math=False)


def key(axes: Axes, lines: Sequence[Line2D], names: Sequence[str], place: Place = "best") -> None:
    """Adds a legend; names may also start with an underscore or contain a dollar sign."""
    legend = axes.legend(
        lines, ["line"] * len(lines), loc=place, prop=font(SMALL), frameon=True, framealpha=0.85, edgecolor="none",
        facecolor=PAPER, borderpad=0.3, handlelength=2.2, labelcolor=INK,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(drawable(name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"))


def cmc_curve(
    curves: Mapping[str, Sequence[float]],
    path: str | Path,
    *,
    mean_ap: Mapping[str, float] | None = None,
    max_rank: int = 20,
    title: str = "Cumulative matching curve",
) -> Path:
    """Draws, for each test set, the share of queries with a match in the first k results.

    Args:
        curves: Test set -> shares in 0..1 for rank 1, 2, and so on.
        path: The PNG to write; an existing file is replaced.
        mean_ap: Test set -> mAP in 0..1, shown in the legend if given.
        max_rank: Largest rank to draw.
        title: Title of the chart.

    Raises:
        ValueError: If there are no curves, one is empty or leaves 0..1, ``max_rank`` is below 1, or ``path`` is not a
            PNG.
    """
    if not curves:
        raise InputError("nothing to draw: `curves` is empty; give at least one test set")
    if max_rank < 1:
        raise InputError(f"`max_rank` must be at least 1, got {max_rank}")
    shares = {name: np.asarray(values, dtype=np.float64)[:max_rank] for name, values in curves.items()}
    for name, values in shares.items():
        if values.ndim != 1 or values.size == 0 or not ((values >= 0) & (values <= 1)).all():
            raise InputError(f"the curve of {name!r} must be shares in 0..1 for rank 1, 2, ...; got {curves[name]!r}")

    figure = chart(480, 320)
    axes = figure.add_subplot()
    dress(axes, title, "rank k", "queries with a match in the first k (%)")
    lines, names = [], []
    for index, (name, values) in enumerate(shares.items()):
        colour, dashes = line_style(index)
        ranks = np.arange(1, len(values) + 1)
        lines += axes.plot(ranks, 100 * values, color=colour, linestyle=dashes, linewidth=1.8, marker="o", markersize=3)
        mean = "" if mean_ap is None or name not in mean_ap else f", mAP {100 * mean_ap[name]:.1f}"
        names.append(f"{name}: rank-1 {100 * values[0]:.1f}{mean}")
    lowest = 100 * min(float(values.min()) for values in shares.values())
    axes.set_ylim(max(0.0, 10 * np.floor((lowest - 4) / 10)), 101)
    axes.set_xlim(0.6, max(len(values) for values in shares.values()) + 0.4)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    key(axes, lines, names, "lower right")
    return save(figure, path)


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
