"""From measures of single pictures to means with standard errors, a table and a CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.evidence.claims import PARTS, Measured

Floats = NDArray[np.float64]


class Found(NamedTuple):
    """What one stage showed of one picture.

    Attributes:
        name: Of the picture, such as ``"12 camera 3"``.
        identity: Who is on it; pictures of one person are not independent.
        stage: From 1.
        hits: Whether each head took the picture for who it is.
        measures: By name; None where the maps told nothing.
    """

    name: str
    identity: int
    stage: int
    hits: tuple[bool, ...]
    measures: Mapping[str, Measured] | None


class Mean(NamedTuple):
    """A measure over all pictures that have it.

    Attributes:
        value: The mean.
        error: Its standard error.
        chance: The mean by chance.
        lift: ``value / chance``; NaN where chance is 0.
        lift_error: Its standard error.
    """

    value: float
    error: float
    chance: float
    lift: float
    lift_error: float


def ratio(above: Floats, below: Floats, people: NDArray[np.int64]) -> tuple[float, float]:
    """``sum(above) / sum(below)`` and its standard error, people being what is drawn at random.

    The error is that of a ratio of totals over clusters (linearised): the pictures of one person succeed or fail
    together, so that counting them as independent would make it too small.

    Args:
        above: ``(n,)``.
        below: ``(n,)``; ones for a plain mean.
        people: ``(n,)``, whose each is.

    Returns:
        NaN for what cannot be told: the ratio if ``below`` adds up to 0, the error of fewer than two people.

    >>> ratio(np.array([1.0, 2.0, 3.0]), np.ones(3), np.array([0, 1, 2]))[0]
    2.0
    """
    total = float(below.sum())
    if abs(total) < 1e-12:
        return math.nan, math.nan
    value = float(above.sum()) / total
    _, cluster = np.unique(people, return_inverse=True)
    residuals = np.bincount(cluster, above - value * below)
    count = len(residuals)
    if count < 2:
        return value, math.nan
    return value, math.sqrt(count / (count - 1) * float((residuals**2).sum())) / abs(total)


def means(found: Sequence[Found]) -> dict[str, Mean]:
    """The means of every measure that some picture has, with ``a/accuracy`` first."""
    people = np.array([one.identity for one in found])
    heads = len(found[0].hits)
    result = {}
    for head in range(heads):
        hits = np.array([one.hits[head] for one in found], np.float64)
        result[f"{'ab'[head]}/accuracy"] = Mean(*ratio(hits, np.ones(len(hits)), people), *[math.nan] * 3)
    names = list(dict.fromkeys(name for one in found for name in one.measures or ()))
    for name in names:
        rows = [(one.measures[name], one.identity) for one in found if one.measures and name in one.measures]
        value, chance = (np.array([measured[i] for measured, _ in rows]) for i in (0, 1))
        whose = np.array([identity for _, identity in rows])
        result[name] = Mean(
            *ratio(value, np.ones(len(rows)), whose), float(chance.mean()), *ratio(value, chance, whose)
        )
    return result


def by_stage(found: Sequence[Found]) -> dict[int, dict[str, Mean]]:
    """The means of each stage."""
    stages = sorted({one.stage for one in found})
    return {stage: means([one for one in found if one.stage == stage]) for stage in stages}


def scores(prefix: str, stages: Mapping[int, Mapping[str, Mean]]) -> dict[str, float]:
    """The means by flat names, such as ``claims/stage2/a/body``, with ``_se``, ``_chance``, ``_lift``, ``_lift_se``.

    Single parts of the body are left to the CSV.
    """
    named: dict[str, float] = {}
    for stage, found in stages.items():
        for name, mean in found.items():
            if "/part_" in name:
                continue
            start = f"{prefix}/stage{stage}/{name}"
            ends = ("", "_se", "_chance", "_lift", "_lift_se")
            named |= {start + end: value for end, value in zip(ends, mean, strict=True) if math.isfinite(value)}
    return named


MEANINGS = {
    "accuracy": "right identity",
    "body": "heat on the visible body",
    "occluder": "heat on the occluder",
    "parts": "visible parts covered",
    "both": "parts covered by both",
    "either": "parts covered by either",
    "only_b": "parts covered by B alone",
    "overlap": "overlap of the hottest regions",
    "correlation": "correlation of A and B (x 100)",
    "correlation_body": "the same on the visible body",
    "b_on_region_of_a": "B's heat where A would be erased",
}


def table(prefix: str, stages: Mapping[int, Mapping[str, Mean]]) -> str:
    """The means in per cent, a line a measure."""
    rows = [[f"{prefix}, per cent", "value", "± se", "by chance", "lift", "± se"]]
    for stage, found in stages.items():
        for name, mean in found.items():
            head, _, measure = name.rpartition("/")
            if measure.startswith("part_"):
                continue
            who = f"stage {stage}" + (f", {head.upper()}" if head else "")
            numbers = [f"{100 * value:.1f}" if math.isfinite(value) else "" for value in mean[:3]]
            lifts = [f"{value:.2f}" if math.isfinite(value) else "" for value in mean[3:]]
            rows.append([f"{who}: {MEANINGS[measure]}", *numbers, *lifts])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]).rstrip()
        for row in rows
    )


def pictures_csv(found: Mapping[str, Sequence[Found]]) -> str:
    """A CSV with a line for each picture and stage: set, picture, identity, stage, and every measure by its name."""
    names = list(dict.fromkeys(n for rows in found.values() for one in rows for n in one.measures or ()))
    heads = max(len(one.hits) for rows in found.values() for one in rows)
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["set", "picture", "identity", "stage", *(f"{'ab'[h]}/accuracy" for h in range(heads)), *names])
    for prefix, rows in found.items():
        for one in rows:
            told = one.measures or {}
            values = [f"{told[name].value:.6f}" if name in told else "" for name in names]
            lines.writerow([prefix, one.name, one.identity, one.stage, *(int(hit) for hit in one.hits), *values])
    return text.getvalue()


def parts_csv(found: Mapping[str, Mapping[int, Mapping[str, Mean]]]) -> str:
    """A CSV with a line for each set, stage, head and part of the body: how often it is covered, and by chance."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["set", "stage", "head", "part", "covered", "covered_se", "chance", "lift", "lift_se"])
    for prefix, stages in found.items():
        for stage, rows in stages.items():
            for head in "ab":
                for part in (one.name.lower() for one in PARTS):
                    if (mean := rows.get(f"{head}/part_{part}")) is not None:
                        numbers = [f"{value:.6f}" if math.isfinite(value) else "" for value in mean]
                        lines.writerow([prefix, stage, head, part, *numbers])
    return text.getvalue()
