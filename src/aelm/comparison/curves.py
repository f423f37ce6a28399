"""Occlusion curves of arms: mAP over the hidden share of a query."""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from aelm.comparison.arms import Arm
from aelm.comparison.paired import paired_difference, summarise

POINT = r"occlusion/(.+)_(\d+(?:\.\d+)?)/(mAP|rank1)"
MEAN = "mean"  # of all kinds of occluders


class CurvePoint(NamedTuple):
    """One arm at one share hidden; middle of a band and its ends, NaN where there are too few seeds."""

    percent: float
    mean: float
    low: float
    high: float


class ArmCurve(NamedTuple):
    """An arm's curve for one kind of occluder: mean -+ standard deviation over seeds, and the paired difference to the
    baseline with its t-interval (empty for the baseline)."""

    arm: str
    values: Sequence[CurvePoint]
    differences: Sequence[CurvePoint]


def occlusion_curves(arms: Sequence[Arm], baseline: Arm, confidence: float) -> dict[str, list[ArmCurve]]:
    """mAP over the hidden share, by kind of occluder, the mean over kinds first; empty where the runs hold no curve."""
    names = {name for arm in arms for run in arm.runs.values() for name in run.scores}
    kinds: dict[str, dict[float, str]] = {}
    for name in names:
        if (point := re.fullmatch(POINT, name)) and point[3] == "mAP":
            kinds.setdefault(point[1], {})[float(point[2])] = name
    return {
        kind: [arm_curve(arm, baseline, dict(sorted(kinds[kind].items())), confidence) for arm in arms]
        for kind in sorted(kinds, key=lambda kind: (kind != MEAN, kind))
    }


def arm_curve(arm: Arm, baseline: Arm, metrics: Mapping[float, str], confidence: float) -> ArmCurve:
    """One arm's curve for one kind of occluder; ``metrics`` are names by the per cent that are hidden."""
    values, differences = [], []
    for percent, metric in metrics.items():
        found = arm.values(metric)
        count, mean, deviation = summarise(list(found.values()))
        if count:
            values.append(CurvePoint(percent, mean, mean - deviation, mean + deviation))
        apart = paired_difference(found, baseline.values(metric), confidence)
        if arm is not baseline and apart.seeds:
            differences.append(CurvePoint(percent, apart.mean, apart.low, apart.high))
    return ArmCurve(arm.name, values, differences)
