"""What the heat maps of one picture cover of the person, measured against the same maps put anywhere.

Everything is counted on the grid of the heat map, whose cells know which share of them shows which part of the body.
*By chance* is the mean over all shifts of the map around its grid: of one map's own, or of B's while A stays in place.
For a share of heat that is what a uniform map would give.
"""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from aelm.data.synthetic import BodyPart
from aelm.figures.heatmaps import normalised
from aelm.models.aelm import discriminative_region

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
T = TypeVar("T", bound=np.generic)

PARTS = tuple(BodyPart)[1:]
AREAS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the map: the hottest regions that coverage is averaged over
SMALLEST = 0.005  # of the picture: below that a part is not counted as visible
COVERED = 0.5  # of a part's visible area
THRESHOLD = 0.7  # of AELM's default, for every network alike: what is compared must not depend on what was trained


class Measured(NamedTuple):
    """A measure of one picture, and what it would be by chance; a lift is the ratio of their means."""

    value: float
    chance: float


def cells(parts: NDArray[np.uint8], visible: Bools, shape: tuple[int, int]) -> Floats:
    """Which share of each cell of a heat map shows which part of the body.

    Args:
        parts: ``(h, w)`` ``BodyPart`` of each pixel.
        visible: ``(h, w)``, False where something stands in front.
        shape: (H, W) of the heat map.

    Returns:
        ``(K, H, W)`` in 0 .. 1, the parts in the order of ``PARTS``; cells are exact also where pixels are cut.
    """
    return np.stack([shrunk((parts == part) & visible, shape) for part in PARTS])


def shrunk(mask: Bools, shape: tuple[int, int]) -> Floats:
    """Which share of each cell of a map of a shape (H, W) a mask ``(h, w)`` fills -> ``(H, W)``.

    >>> shrunk(np.array([[True, True, False, False, True, False]]), (1, 2))
    array([[0.66666669, 0.33333334]])
    """
    area = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(area, np.float64)


def hottest(heat: Floats, area: float) -> Bools:
    """The hottest positions of a map ``(H, W)``, as many as ``area`` of it holds, one at least.

    >>> hottest(np.array([[0.1, 0.9, 0.5, 0.0]]), 0.5).astype(int)
    array([[0, 1, 1, 0]])
    """
    region = np.zeros(heat.size, bool)
    region[np.argsort(-heat, axis=None, kind="stable")[: max(round(area * heat.size), 1)]] = True
    return region.reshape(heat.shape)


def shifts(region: NDArray[T]) -> NDArray[T]:
    """Every shift of maps ``(..., H, W)`` around their grid, ``(H * W, ..., H, W)``; the first is no shift.

    >>> shifts(np.array([[1, 2, 3]])).tolist()
    [[[1, 2, 3]], [[3, 1, 2]], [[2, 3, 1]]]
    """
    H, W = region.shape[-2:]
    moves = [(down, right) for down in range(H) for right in range(W)]
    return np.stack([np.roll(region, move, (-2, -1)) for move in moves])


def covered(regions: Bools, parts: Floats) -> Bools:
    """Whether regions ``(..., H, W)`` hold at least half of each part ``(K, H, W)`` -> ``(..., K)``."""
    flat = np.asarray(regions, np.float64).reshape(*regions.shape[:-2], -1)
    held: Floats = flat @ parts.reshape(len(parts), -1).T
    found: Bools = held >= COVERED * parts.sum((1, 2)) - 1e-9
    return found


def measure(heats: Sequence[Floats], parts: Floats, hidden: Floats) -> dict[str, Measured] | None:
    """All that is measured on one picture at one stage.

    Args:
        heats: The heat maps ``(H, W)`` of A, or of A and B, of the picture's own identity.
        parts: ``(K, H, W)``, from :func:`cells`.
        hidden: ``(H, W)``, share of each cell that something stands in front of.

    Returns:
        By name: ``a/...`` and ``b/...`` for one head (``body``, ``occluder``, ``parts``, ``part_<name>``), and for
        both together ``both``, ``either``, ``only_b``, ``overlap``, ``correlation``, ``correlation_body``,
        ``b_on_region_of_a``. What cannot be told of this picture is left out. None if a map is constant or nothing of
        the person is visible.
    """
    if any(np.ptp(normalised(heat)) == 0 for heat in heats):
        return None
    scaled = [normalised(heat).astype(np.float64) for heat in heats]
    seen = parts.mean((1, 2)) >= SMALLEST
    if not seen.any():
        return None
    counted, names = parts[seen], [part.name.lower() for part, one in zip(PARTS, seen, strict=True) if one]
    regions = [np.stack([hottest(heat, area) for area in AREAS]) for heat in scaled]  # (areas, H, W) a head
    everywhere = [covered(shifts(one), counted) for one in regions]  # (S, areas, K) a head; shift 0 is none
    found: dict[str, Measured] = {}
    for letter, heat, hits in zip("ab", scaled, everywhere, strict=False):
        found[f"{letter}/body"] = share(heat, parts.sum(0))
        if hidden.any():
            found[f"{letter}/occluder"] = share(heat, hidden)
        found[f"{letter}/parts"] = Measured(float(hits[0].mean()), float(hits.mean()))
        for k, name in enumerate(names):
            found[f"{letter}/part_{name}"] = Measured(float(hits[0, :, k].mean()), float(hits[:, :, k].mean()))
    if len(scaled) == 2:
        found |= together(everywhere[0][0], everywhere[1])
        found |= apart(scaled[0], scaled[1], regions, parts.sum(0))
    return found


def share(heat: Floats, target: Floats) -> Measured:
    """Share of the heat ``(H, W)`` that lies on a target ``(H, W)``, which covers a share of each cell."""
    return Measured(float((heat * target).sum() / heat.sum()), float(target.mean()))


def together(a: Bools, b: Bools) -> Mapping[str, Measured]:
    """Share of the visible parts covered by both, by one at least, and by B alone.

    Args:
        a: ``(areas, K)``, what A covers.
        b: ``(S, areas, K)``, what B covers at each shift; the first is no shift.
    """
    found = {"both": a & b, "either": a | b, "only_b": ~a & b}
    return {name: Measured(float(hits[0].mean()), float(hits.mean())) for name, hits in found.items()}


def apart(a: Floats, b: Floats, regions: Sequence[Bools], body: Floats) -> Mapping[str, Measured]:
    """How little A and B look at the same places.

    Args:
        a: ``(H, W)`` A's heat in 0 .. 1.
        b: ``(H, W)`` B's.
        regions: ``(areas, H, W)``, the hottest regions of A and of B.
        body: ``(H, W)`` share of each cell on the visible body.
    """
    moved = shifts(regions[1])
    union = (regions[0] | moved).sum((-2, -1))
    overlap = (regions[0] & moved).sum((-2, -1)) / union  # (S, areas)
    region = discriminative_region(torch.from_numpy(a)[None], THRESHOLD)[0].numpy()
    found = {
        "overlap": Measured(float(overlap[0].mean()), float(overlap.mean())),
        "correlation": Measured(correlation(a, b, np.ones_like(a)), 0.0),
        "correlation_body": Measured(correlation(a, b, body), 0.0),
    }
    if region.any():  # none where all of the map would be erased
        found["b_on_region_of_a"] = share(b, region.astype(np.float64))
    return {name: one for name, one in found.items() if np.isfinite(one.value)}


def correlation(a: Floats, b: Floats, weight: Floats) -> float:
    """Pearson's correlation of two maps over positions that count by their weight; NaN where one is constant there.

    >>> round(correlation(np.array([0.0, 1, 2]), np.array([3.0, 2, 1]), np.ones(3)), 6)
    -1.0
    """
    a, b = (one - (one * weight).sum() / weight.sum() for one in (a, b))
    spread = (weight * a * a).sum() * (weight * b * b).sum()
    return float((weight * a * b).sum() / np.sqrt(spread)) if spread > 1e-24 else float("nan")


class PictureMeasures(NamedTuple):
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


def means(found: Sequence[PictureMeasures]) -> dict[str, Mean]:
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


def by_stage(found: Sequence[PictureMeasures]) -> dict[int, dict[str, Mean]]:
    """The means of each stage."""
    stages = sorted({one.stage for one in found})
    return {stage: means([one for one in found if one.stage == stage]) for stage in stages}


def claim_scores(prefix: str, stages: Mapping[int, Mapping[str, Mean]]) -> dict[str, float]:
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


def claims_table(prefix: str, stages: Mapping[int, Mapping[str, Mean]]) -> str:
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


def pictures_csv(found: Mapping[str, Sequence[PictureMeasures]]) -> str:
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
