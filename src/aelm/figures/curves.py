"""The common style of all charts; matching, occlusion and training curves, and bars of body parts."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aelm.figures.page import DPI, INK, LABEL, MUTED, PAPER, RULE, SMALL, TITLE, drawable, families, font, save
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


Values = NDArray[np.float64]
History = Mapping[str, Sequence[tuple[int, float]]]

# Title and pattern of metric names. The first matching pattern is used; other names are not drawn.
PANELS = (
    ("Loss", r"(train|val)\w*/(.*[/_])?loss.*"),
    ("Erased fraction of the map", r"(train|val)\w*/erased_fraction.*"),
    ("Training accuracy", r"train/(rank\d+|acc\w*)(/.*)?"),
    ("Validation", r"val\w*/(mAP|mINP|rank\d+).*"),
    ("Learning rate", r"lr-(?!.*(momentum|weight_decay)$).*"),
)
ORDER = ("Loss", "Training accuracy", "Validation", "Learning rate", "Erased fraction of the map")
FRACTIONS = {"Training accuracy", "Validation", "Erased fraction of the map"}

MANY = 150  # with this many points or more, a running mean is drawn over the faint raw line
FEW = 30  # with at most this many points, each is marked
ENOUGH = 3000  # points; longer series are subsampled


def read_history(metrics_csv: str | Path) -> dict[str, list[tuple[int, float]]]:
    """Reads the ``metrics.csv`` of Lightning's CSVLogger: metric name -> (step, value), as logged.

    Empty cells are metrics not logged at that step. A truncated last line is read as far as possible.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it has no ``step`` column, or a cell is not a number.
    """
    path = Path(metrics_csv)
    if not path.is_file():
        raise FileNotFoundError(f"no metrics at {str(path)!r}; the CSV logger writes them with the first logged values")
    history: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        columns = list(reader.fieldnames or [])
        if "step" not in columns:
            raise InputError(f"{str(path)!r} must have a `step` column, got {columns}; is it CSVLogger's metrics.csv?")
        for row in reader:
            for name in columns:
                if name in ("step", "epoch") or not row[name]:
                    continue
                try:
                    history.setdefault(name, []).append((int(row["step"]), float(row[name])))
                except ValueError:
                    raise InputError(
                        f"line {reader.line_num} of {str(path)!r} must hold numbers, "
                        f"got step {row['step']!r} and {name} {row[name]!r}"
                    ) from None
    return history


def panel_of(name: str) -> str | None:
    """The panel of a metric, or None.

    >>> panel_of("train/loss"), panel_of("lr-SGD/pg1"), panel_of("test/mAP")
    ('Loss', 'Learning rate', None)
    """
    return next((title for title, pattern in PANELS if re.fullmatch(pattern, name)), None)


def training_curves(history: History, path: str | Path, *, title: str = "") -> Path:
    """Draws the logged metrics of a run: losses, accuracy, validation, learning rate, erased fraction.

    Metrics that were not logged have no panel. Long series are drawn faint, under their running mean. Values that are
    not finite leave gaps; a series without finite values is labelled as such.

    Args:
        history: Metric -> (step, value), as from :func:`read_history`.
        path: The PNG to write; an existing file is replaced.
        title: Title above all panels.

    Raises:
        ValueError: If no metric belongs to a panel, or ``path`` is not a PNG.
    """
    panels: dict[str, History] = {
        panel: {name: history[name] for name in sorted(history) if panel_of(name) == panel and history[name]}
        for panel in ORDER
    }
    panels = {panel: series for panel, series in panels.items() if series}
    if not panels:
        raise InputError(f"nothing to draw: no training metric among {sorted(history)}; expected such as 'train/loss'")

    # Rows fill the full width: five panels are three above two wider ones.
    lines = 1 if len(panels) <= 3 else -(-len(panels) // 3)
    counts = [len(part) for part in np.array_split(np.arange(len(panels)), lines)]
    figure = chart(300 * max(counts), 215 * lines)
    if title:
        figure.suptitle(
            drawable(title), color=INK, fontproperties=font(TITLE, bold=True), parse_math=False, x=0.01, ha="left"
        )
    grid = figure.add_gridspec(lines, math.lcm(*counts))
    slots = [(line, place, count) for line, count in enumerate(counts) for place in range(count)]
    for (name, series), (line, place, count) in zip(panels.items(), slots, strict=True):
        span = math.lcm(*counts) // count
        axes = figure.add_subplot(grid[line, place * span : (place + 1) * span])
        _draw_panel(axes, name, series)
    return save(figure, path)


def _draw_panel(axes: Axes, title: str, series: History) -> None:
    dress(axes, f"{title} (%)" if title in FRACTIONS else title, "step")
    lines, names = [], []
    for index, (name, points) in enumerate(series.items()):
        steps, values = np.array(points, dtype=np.float64).T
        values = np.where(np.isfinite(values), values, np.nan) * (100 if title in FRACTIONS else 1)
        colour, dashes = line_style(index)
        shown = slice(None, None, -(-len(values) // ENOUGH))
        if len(values) >= MANY and title != "Learning rate":
            axes.plot(steps[shown], values[shown], color=colour, alpha=0.25, linewidth=0.7)
            reach = len(values) // 40
            # The ends are cut: with few neighbours the mean shows noise as a trend.
            steps, values = (part[reach // 2 : -(reach // 2)] for part in (steps, running_mean(values, reach)))
        steps, values = steps[shown], values[shown]
        marker = "o" if len(values) <= FEW else ""
        lines += axes.plot(steps, values, color=colour, linestyle=dashes, linewidth=1.5, marker=marker, markersize=3)
        names.append(name if np.isfinite(values).any() else f"{name} (never finite)")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter("{x:g}")  # no common factor above the axis, which would shift the title
    axes.margins(x=0.03, y=0.08)
    if axes.dataLim.ymin >= 0:  # heights are comparable only from zero
        axes.set_ylim(bottom=0)
    key(axes, lines, names)


def running_mean(values: Values, reach: int) -> Values:
    """The mean over up to ``reach`` neighbours on each side (equally many), so a straight line is unchanged.

    NaN values are skipped and stay NaN.

    >>> running_mean(np.array([0.0, 3.0, 6.0, 0.0]), 1).tolist()
    [0.0, 3.0, 3.0, 0.0]
    """
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    place = np.arange(len(values))
    near = np.minimum(reach, np.minimum(place, place[::-1]))
    first, last = place - near, place + near + 1
    return np.where(known, (sums[last] - sums[first]) / np.maximum(counts[last] - counts[first], 1), np.nan)
