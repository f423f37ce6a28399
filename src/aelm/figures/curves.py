"""The cumulative matching curve, and the common style of all charts."""

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
