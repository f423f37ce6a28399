"""The occlusion curve: from rankings behind each kind of thing to scores, a table and a CSV."""

import csv
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aelm.evidence.occlusion import Point
from aelm.retrieval import RankResult, resamples

SCORES = ("mAP", "rank1")
MEAN = "mean"


class Row(NamedTuple):
    """A point of the curve in numbers; fractions in 0 .. 1.

    Attributes:
        kind: What hides the queries; ``mean`` is the mean over kinds.
        fraction: Wanted.
        hidden: Share of the queries' pixels that is hidden.
        values: mAP and rank-1, each with the ends of its 95 % interval (all three equal where none was asked for).
    """

    kind: str
    fraction: float
    hidden: float
    values: dict[str, tuple[float, float, float]]


def rows(points: Sequence[Point], samples: int) -> list[Row]:
    """The curve of the mean over kinds, then of each kind, fractions ascending.

    Args:
        points: From :func:`aelm.evidence.occlusion.sweep`: the same fractions for each kind.
        samples: Draws of the intervals, identities resampled; 0: none.
    """
    fractions = sorted({point.fraction for point in points})
    found = []
    for kind in (MEAN, *dict.fromkeys(point.kind for point in points)):
        for fraction in fractions:
            here = [p for p in points if p.fraction == fraction and kind in (p.kind, MEAN)]
            hidden = float(np.mean([point.hidden for point in here]))
            found.append(Row(kind, fraction, hidden, scored([point.result for point in here], samples)))
    return found


def scored(results: Sequence[RankResult], samples: int) -> dict[str, tuple[float, float, float]]:
    """Mean mAP and rank-1 over some rankings of the same queries, with their 95 % intervals.

    An identity is drawn with all its queries, in all rankings: they succeed or fail together.
    """
    valid = results[0].first_rank > 0
    people = results[0].query_pids[valid]
    each = {
        "mAP": np.mean([result.average_precision[valid] for result in results], 0),
        "rank1": np.mean([result.first_rank[valid] == 1 for result in results], 0),
    }
    if not samples:
        return {name: (float(score.mean()),) * 3 for name, score in each.items()}
    drawn, identity = resamples(people, samples)
    size = np.bincount(identity)
    found = {}
    for name, score in each.items():
        means = drawn @ np.bincount(identity, score) / (drawn @ size)
        low, high = np.quantile(means, [0.025, 0.975])
        found[name] = (float(score.mean()), float(low), float(high))
    return found


def scores(curve: Sequence[Row], samples: int) -> dict[str, float]:
    """Flat names: ``occlusion/below_30/mAP``, with ``_low`` and ``_high``, and ``occlusion/mAP`` over all above 0 %."""
    named: dict[str, float] = {}
    for row in curve:
        for name, values in row.values.items():
            start = f"occlusion/{row.kind}_{100 * row.fraction:02g}/{name}"
            ends = ("", "_low", "_high") if samples else ("",)
            named |= {start + end: value for end, value in zip(ends, values, strict=False)}
    for name in SCORES:
        hidden = [row.values[name][0] for row in curve if row.kind == MEAN and row.fraction > 0]
        named[f"occlusion/{name}"] = float(np.mean(hidden))
    return named


def table(curve: Sequence[Row]) -> str:
    """mAP and rank-1 in per cent, a line a kind, a column a fraction."""
    fractions = sorted({row.fraction for row in curve})
    lines = []
    for name in SCORES:
        lines.append(["occlusion, " + name, *(f"{100 * fraction:g} %" for fraction in fractions)])
        for kind in dict.fromkeys(row.kind for row in curve):
            found = [row.values[name][0] for row in curve if row.kind == kind]
            lines.append([kind, *(f"{100 * value:.2f}" for value in found)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def curve_csv(curve: Sequence[Row]) -> str:
    """A CSV with a line a point: kind, fraction wanted and hidden, mAP and rank-1 with their intervals."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(
        ["kind", "fraction", "hidden", *(f"{name}{end}" for name in SCORES for end in ("", "_low", "_high"))]
    )
    for row in curve:
        numbers = [value for name in SCORES for value in row.values[name]]
        lines.writerow([row.kind, f"{row.fraction:g}", f"{row.hidden:.4f}", *(f"{value:.6f}" for value in numbers)])
    return text.getvalue()
