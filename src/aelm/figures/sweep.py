"""Chart of a sweep: the monitored metric over the varied settings."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from matplotlib.lines import Line2D

from aelm.figures.curves import chart, dress, key, line_style
from aelm.figures.page import drawable, save
from aelm.types import InputError

REPEATS = ("seed",)  # keys that only repeat a point
LONGEST = 24  # characters of a setting along the axis


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
    labels = [drawable(tick if len(tick) <= LONGEST else tick[: LONGEST - 1] + "…") for tick in ticks]
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
