"""Occlusion curves of arms: mAP over the hidden share of a query."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from aelm.comparison.arms import Arm
from aelm.comparison.paired import paired_difference, summarise

POINT = r"occlusion/(.+)_(\d+)/mAP"


class CurvePoint(NamedTuple):
    """One arm at one share hidden; middle of a band and its ends, NaN where there are too few seeds."""

    percent: int
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
    """The curves that the runs hold, by kind of occluder, the mean over kinds (``all``) first; empty without any."""
    names = {name for arm in arms for run in arm.runs.values() for name in run.scores}
    points = sorted((found[1], int(found[2])) for name in names if (found := re.fullmatch(POINT, name)))
    kinds = sorted({kind for kind, _ in points}, key=lambda kind: (kind != "all", kind))
    return {
        kind: [arm_curve(arm, baseline, [p for k, p in points if k == kind], kind, confidence) for arm in arms]
        for kind in kinds
    }


def arm_curve(arm: Arm, baseline: Arm, percents: Sequence[int], kind: str, confidence: float) -> ArmCurve:
    """One arm's curve for one kind of occluder."""
    values, differences = [], []
    for percent in percents:
        found = arm.values(f"occlusion/{kind}_{percent}/mAP")
        count, mean, deviation = summarise(list(found.values()))
        if count:
            values.append(CurvePoint(percent, mean, mean - deviation, mean + deviation))
        apart = paired_difference(found, baseline.values(f"occlusion/{kind}_{percent}/mAP"), confidence)
        if arm is not baseline and apart.seeds:
            differences.append(CurvePoint(percent, apart.mean, apart.low, apart.high))
    return ArmCurve(arm.name, values, differences)
