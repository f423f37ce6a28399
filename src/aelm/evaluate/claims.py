"""How much of the visible person the heat maps of a picture cover, compared with randomly shifted maps.

Everything is measured on the grid of the heat map; each cell stores its share of each body part. *Chance* is the mean
over all cyclic shifts of the map; for measures of both maps only B is shifted. For a share of heat, chance equals the
value of a uniform map.
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
AREAS = (0.1, 0.2, 0.3, 0.4, 0.5)  # of the map: sizes of the hottest region; coverage is averaged over them
SMALLEST = 0.005  # of the picture: smaller parts do not count as visible
COVERED = 0.5  # share of a part's visible area that counts as covered
THRESHOLD = 0.7  # AELM's default, used for every network, so that networks are comparable


class Measured(NamedTuple):
    """A measure of one picture, and its value by chance; a lift is the ratio of their means."""

    value: float
    chance: float


def cells(parts: NDArray[np.uint8], visible: Bools, shape: tuple[int, int]) -> Floats:
    """The share of each heat-map cell that shows each body part.

    Args:
        parts: ``(h, w)`` ``BodyPart`` of each pixel.
        visible: ``(h, w)``, False where occluded.
        shape: (H, W) of the heat map.

    Returns:
        ``(K, H, W)`` in 0 .. 1, in the order of ``PARTS``; exact also where cell borders cut pixels.
    """
    return np.stack([shrunk((parts == part) & visible, shape) for part in PARTS])


def shrunk(mask: Bools, shape: tuple[int, int]) -> Floats:
    """The share of each cell of an (H, W) grid that a mask ``(h, w)`` fills -> ``(H, W)``.

    >>> shrunk(np.array([[True, True, False, False, True, False]]), (1, 2))
    array([[0.66666669, 0.33333334]])
    """
    area = cv2.resize(mask.astype(np.float32), shape[::-1], interpolation=cv2.INTER_AREA)
    return np.asarray(area, np.float64)


def hottest(heat: Floats, area: float) -> Bools:
    """Mask of the hottest positions of a map ``(H, W)``: a share ``area`` of them, at least one.

    >>> hottest(np.array([[0.1, 0.9, 0.5, 0.0]]), 0.5).astype(int)
    array([[0, 1, 1, 0]])
    """
    region = np.zeros(heat.size, bool)
    region[np.argsort(-heat, axis=None, kind="stable")[: max(round(area * heat.size), 1)]] = True
    return region.reshape(heat.shape)


def shifts(region: NDArray[T]) -> NDArray[T]:
    """All cyclic shifts of maps ``(..., H, W)``: ``(H * W, ..., H, W)``; the first is unshifted.

    >>> shifts(np.array([[1, 2, 3]])).tolist()
    [[[1, 2, 3]], [[3, 1, 2]], [[2, 3, 1]]]
    """
    H, W = region.shape[-2:]
    moves = [(down, right) for down in range(H) for right in range(W)]
    return np.stack([np.roll(region, move, (-2, -1)) for move in moves])


def covered(regions: Bools, parts: Floats) -> Bools:
    """Whether regions ``(..., H, W)`` cover at least half of each part ``(K, H, W)`` -> ``(..., K)``."""
    flat = np.asarray(regions, np.float64).reshape(*regions.shape[:-2], -1)
    held: Floats = flat @ parts.reshape(len(parts), -1).T
    found: Bools = held >= COVERED * parts.sum((1, 2)) - 1e-9
    return found


def measure(heats: Sequence[Floats], parts: Floats, hidden: Floats) -> dict[str, Measured] | None:
    """All measures of one picture at one stage.

    Args:
        heats: The heat maps ``(H, W)`` of A, or of A and B, of the picture's own identity.
        parts: ``(K, H, W)``, from :func:`cells`.
        hidden: ``(H, W)``, occluded share of each cell.

    Returns:
        By name: ``a/...`` and ``b/...`` for one head (``body``, ``occluder``, ``parts``, ``part_<name>``), and for
        both together ``both``, ``either``, ``only_b``, ``overlap``, ``correlation``, ``correlation_body``,
        ``b_on_region_of_a``. Undefined measures are left out. None if a map is constant or nothing of the person is
        visible.
    """
    if any(np.ptp(normalised(heat)) == 0 for heat in heats):
        return None
    scaled = [normalised(heat).astype(np.float64) for heat in heats]
    seen = parts.mean((1, 2)) >= SMALLEST
    if not seen.any():
        return None
    counted, names = parts[seen], [part.name.lower() for part, one in zip(PARTS, seen, strict=True) if one]
    regions = [np.stack([hottest(heat, area) for area in AREAS]) for heat in scaled]  # (areas, H, W) per head
    everywhere = [covered(shifts(one), counted) for one in regions]  # (S, areas, K) per head; shift 0 is unshifted
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
    """Share of the heat ``(H, W)`` on a target ``(H, W)``, which gives a share of each cell."""
    return Measured(float((heat * target).sum() / heat.sum()), float(target.mean()))


def together(a: Bools, b: Bools) -> Mapping[str, Measured]:
    """Share of the visible parts covered by both, by at least one, and only by B.

    Args:
        a: ``(areas, K)``, parts that A covers.
        b: ``(S, areas, K)``, parts that B covers at each shift; the first is unshifted.
    """
    found = {"both": a & b, "either": a | b, "only_b": ~a & b}
    return {name: Measured(float(hits[0].mean()), float(hits.mean())) for name, hits in found.items()}


def apart(a: Floats, b: Floats, regions: Sequence[Bools], body: Floats) -> Mapping[str, Measured]:
    """How different the maps of A and B are.

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
    if region.any():  # empty if the whole map would be erased
        found["b_on_region_of_a"] = share(b, region.astype(np.float64))
    return {name: one for name, one in found.items() if np.isfinite(one.value)}


def correlation(a: Floats, b: Floats, weight: Floats) -> float:
    """Weighted Pearson correlation of two maps; NaN if one is constant where the weight is positive.

    >>> round(correlation(np.array([0.0, 1, 2]), np.array([3.0, 2, 1]), np.ones(3)), 6)
    -1.0
    """
    a, b = (one - (one * weight).sum() / weight.sum() for one in (a, b))
    spread = (weight * a * a).sum() * (weight * b * b).sum()
    return float((weight * a * b).sum() / np.sqrt(spread)) if spread > 1e-24 else float("nan")


class PictureMeasures(NamedTuple):
    """The measures of one picture at one stage.

    Attributes:
        name: Name of the picture, such as ``"12 camera 3"``.
        identity: Identity number; pictures of one person are not independent.
        stage: From 1.
        hits: Whether each head classified the picture correctly.
        measures: Measures by name; None if there are none.
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
    """``sum(above) / sum(below)`` and its standard error, clustered by person.

    The error is the linearised one of a ratio of cluster totals: pictures of one person are correlated, and treating
    them as independent would underestimate it.

    Args:
        above: ``(n,)``.
        below: ``(n,)``; ones for a plain mean.
        people: ``(n,)``, person of each value.

    Returns:
        The ratio is NaN if ``below`` sums to 0; the error is NaN for fewer than two people.

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
    """The means of all measures, with ``a/accuracy`` first."""
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
    """The means by flat name, such as ``claims/stage2/a/body``, with ``_se``, ``_chance``, ``_lift``, ``_lift_se``.

    Single body parts are only in the CSV.
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
    """The means in per cent, one line per measure."""
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
    """A CSV with one line per picture and stage: set, picture, identity, stage, and all measures by name."""
    names = list(dict.fromkeys(n for rows in found.values() for one in rows for n in one.measures or ()))
    heads = max(len(one.hits) for rows in found.values() for one in rows)
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["set", "picture", "identity", "stage", *(f"{'ab'[h]}/accuracy" for h in range(heads)), *names])
    for prefix, rows in found.items():
        for one in rows:
            measures = one.measures or {}
            values = [f"{measures[name].value:.6f}" if name in measures else "" for name in names]
            lines.writerow([prefix, one.name, one.identity, one.stage, *(int(hit) for hit in one.hits), *values])
    return text.getvalue()


def parts_csv(found: Mapping[str, Mapping[int, Mapping[str, Mean]]]) -> str:
    """A CSV with one line per set, stage, head and body part: how often it is covered, and by chance."""
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
