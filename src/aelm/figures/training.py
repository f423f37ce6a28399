"""Training curves, and the reader of Lightning's CSV log."""

import csv
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from aelm.figures.curves import chart, dress, key, line_style
from aelm.figures.page import INK, TITLE, drawable, font, save
from aelm.types import InputError

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
