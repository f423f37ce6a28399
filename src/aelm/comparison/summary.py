"""Every arm under every metric: what its seeds gave, and how far it is from the baseline."""

import difflib
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from aelm.comparison.arms import Arm
from aelm.comparison.paired import Difference, Summary, paired_difference, summarise


class Entry(NamedTuple):
    """One arm under one metric; ``difference`` is None for the baseline itself."""

    arm: str
    metric: str
    summary: Summary
    difference: Difference | None


class Comparison(NamedTuple):
    """What is shown: arms in order, the one that others are compared with, metrics, and each pair of them.

    Attributes:
        arms: In order of appearance.
        baseline: One of ``arms``.
        metrics: Names, in order.
        confidence: Of the intervals.
        entries: By arm and metric.
    """

    arms: Sequence[Arm]
    baseline: Arm
    metrics: Sequence[str]
    confidence: float
    entries: dict[tuple[str, str], Entry]


def compare(arms: Sequence[Arm], patterns: Sequence[str], baseline: str | None, confidence: float) -> Comparison:
    """Sums up every arm under every metric.

    Args:
        arms: At least one.
        patterns: Names of metrics, or patterns such as ``claims/*``.
        baseline: Name of the arm that others are compared with; None: the first.
        confidence: Of the intervals, in (0, 1).

    Raises:
        ValueError: If no arm has that name, or no run has a metric that was asked for.
    """
    names = [arm.name for arm in arms]
    if baseline is not None and baseline not in names:
        raise ValueError(f"no arm is called `{baseline}`; there are: {'; '.join(names)}. Choose `baseline` among them")
    base = arms[0] if baseline is None else arms[names.index(baseline)]
    known = {name for arm in arms for run in arm.runs.values() for name in run.scores}
    metrics = chosen(patterns, known)
    entries = {}
    for arm in arms:
        for metric in metrics:
            values = arm.values(metric)
            apart = None if arm is base else paired_difference(values, base.values(metric), confidence)
            entries[arm.name, metric] = Entry(arm.name, metric, summarise(list(values.values())), apart)
    return Comparison(arms, base, metrics, confidence, entries)


def chosen(patterns: Sequence[str], known: set[str]) -> list[str]:
    """The names that patterns ask for, in the order of the patterns, numbers in names as numbers.

    Raises:
        ValueError: If a name without wildcard is not known, or nothing at all is found.

    >>> chosen(["test/mAP", "x_*"], {"x_10", "x_9", "test/mAP", "y"})
    ['test/mAP', 'x_9', 'x_10']
    """
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = [name for name in known if fnmatchcase(name, pattern)]
        if not matches and not set(pattern) & set("*?["):
            near = difflib.get_close_matches(pattern, known, 3) or sorted(known)[:12]
            raise ValueError(f"no run has the metric `{pattern}`; there are {', '.join(near)}")
        found |= dict.fromkeys(sorted(matches, key=by_numbers))
    if not found:
        raise ValueError(f"no run has any of {', '.join(patterns)}; there are {', '.join(sorted(known)[:12])}")
    return list(found)


def by_numbers(name: str) -> list[tuple[int, str]]:
    """Sorts names with the numbers in them as numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]
