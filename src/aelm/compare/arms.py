"""Groups runs into arms by their configurations, without seed, name and paths."""

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from aelm.compare.runs import Run
from aelm.report.runs import FREE, matches
from aelm.types import InputError

# Keys that do not define an arm; the seed pairs runs of different arms.
IGNORED_KEYS = {*FREE, "seed"}


class Arm(NamedTuple):
    """Runs that differ only in their seed.

    Attributes:
        name: Shortest name that differs from the others.
        differs: Its values of the configuration keys in which arms differ.
        runs: Runs with scores, by seed.
    """

    name: str
    differs: Mapping[str, str]
    runs: Mapping[int, Run]

    def values(self, metric: str) -> dict[int, float]:
        """Maps seed to value, for runs that have the metric."""
        return {seed: run.scores[metric] for seed, run in self.runs.items() if metric in run.scores}


def sort_into_arms(runs: Sequence[Run], ignore: Collection[str] = ()) -> list[Arm]:
    """Groups runs with scores by configuration, in the given order.

    An arm's name comes from the command line (``arm=both model.aelm.threshold=0.5`` is *both,
    model.aelm.threshold=0.5*); without ``arm``, from the run directories without the seed (``ifcn-s0`` and ``ifcn-s1``
    are *ifcn*). If neither gives a name, or two arms have the same name, the differing configuration values are added.

    Args:
        runs: Runs, also without scores.
        ignore: Further keys of ``config.yaml``, or patterns of keys, to ignore, such as ``trainer.accelerator``.

    Raises:
        ValueError: If no run has scores, or two runs of one arm have the same seed.
    """
    done = [run for run in runs if run.scores]
    if not done:
        raise InputError(f"none of the {len(runs)} runs has scores yet")
    ignored = {*IGNORED_KEYS, *ignore}
    varied = varying([run.config for run in done], ignored)
    setting_keys = varying([run.settings for run in done], ignored)
    groups: dict[str, list[Run]] = {}
    for run in done:
        groups.setdefault(json.dumps(picked(run.config, varied)), []).append(run)
    differs = [picked(group[0].config, varied) for group in groups.values()]
    names = [called(group, setting_keys, varied) for group in groups.values()]
    unclear = [not name or names.count(name) > 1 for name in names]
    shown = [described(one) for one in differs]
    if len(set(shown)) < len(shown):
        shown = [", ".join(f"{key}={value}" for key, value in one.items()) for one in differs]
    full = [
        ", ".join(filter(None, [name, more])) if again else name
        for name, more, again in zip(names, shown, unclear, strict=True)
    ]
    return [
        Arm(name or "all runs", one, by_seed(name, group))
        for name, one, group in zip(full, differs, groups.values(), strict=True)
    ]


def arm_of(run: Run, arms: Sequence[Arm]) -> str:
    """The name of the arm that a run's configuration belongs to, also without scores; empty if there is none."""
    keys = sorted({key for arm in arms for key in arm.differs})
    same = (arm.name for arm in arms if run.config and picked(run.config, keys) == arm.differs)
    return next(same, "")


def varying(tables: Sequence[Mapping[str, object]], ignored: Collection[str]) -> list[str]:
    """Keys whose values differ between tables, or that some tables lack, except those that match ``ignored``.

    >>> varying([{"a": 1, "b": 2, "seed": 0}, {"a": 1, "b": 3, "seed": 1}, {"a": 1, "seed": 2}], {"seed"})
    ['b']
    """
    keys = sorted({key for table in tables for key in table})
    return [
        key
        for key in keys
        if not matches(key, ignored)
        and len({json.dumps(table.get(key, None)) + str(key in table) for table in tables}) > 1
    ]


def picked(config: Mapping[str, object], keys: Sequence[str]) -> dict[str, str]:
    """The given keys of a configuration as text; missing keys are left out."""
    return {key: str(config[key]) for key in keys if key in config}


def called(runs: Sequence[Run], setting_keys: Sequence[str], varied: Sequence[str]) -> str:
    """The name of an arm; empty if it is unknown."""
    folders = {name_by_folder(run) for run in runs}
    if not any("arm" in run.settings for run in runs) and len(folders) == 1 and "" not in folders:
        return folders.pop()
    return min((name_by_settings(run, setting_keys, varied) for run in runs), key=lambda name: (not name, len(name)))


def name_by_folder(run: Run) -> str:
    """The name of a run's directory without its seed; empty for a sweep's job number or a time."""
    name = re.sub(rf"([-_.]|[-_.](s|seed)[-_.]?){run.seed}$", "", run.folder.name)
    return "" if re.fullmatch(r"\d+|\d{4}-\d\d-\d\d_.*", name) else name


def name_by_settings(run: Run, setting_keys: Sequence[str], varied: Sequence[str]) -> str:
    """Command-line settings in which a run differs from others, the arm's name first.

    Args:
        run: A run of the arm.
        setting_keys: Keys in which command lines differ.
        varied: Keys in which configurations differ; other keys are left out of the name.
    """
    settings = run.settings
    rest = [
        f"{key}={run.config.get(key, settings[key])}"
        for key in setting_keys
        if key in settings and key != "arm" and (key in varied or key not in run.config)
    ]
    return ", ".join([*([settings["arm"]] if "arm" in settings else []), *rest])


def described(differs: Mapping[str, str]) -> str:
    """The differing configuration values, with each key shortened to its last part where that is clear.

    >>> described({"model.aelm._target_": "aelm.models.AELM", "model.aelm.threshold": "0.5"})
    'aelm=AELM, threshold=0.5'
    """
    parts = []
    for key, value in differs.items():
        place, _, last = key.rpartition(".")
        is_target = last == "_target_"
        short = place.rpartition(".")[2] if is_target else last
        parts.append(f"{short}={value.rpartition('.')[2] if is_target else value}")
    return ", ".join(parts)


def by_seed(name: str, runs: Sequence[Run]) -> dict[int, Run]:
    """The runs of an arm by seed.

    Raises:
        ValueError: If two have the same seed.
    """
    found: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.seed in found:
            raise InputError(
                f"{found[run.seed].folder} and {run.folder} are both seed {run.seed} of {name or 'one arm'}: their "
                "configurations differ in nothing that makes an arm. Leave one of them out of `runs`, or if `ignore` "
                "names what tells them apart, take it out there"
            )
        found[run.seed] = run
    return found


class Summary(NamedTuple):
    """Statistics over the seeds of one arm; NaN if there are too few.

    Attributes:
        values: Number of values.
        mean: Their mean.
        deviation: Their standard deviation, with divisor ``values - 1``.
    """

    values: int
    mean: float
    deviation: float


class Difference(NamedTuple):
    """An arm minus the baseline, paired by seed; NaN if there are too few pairs.

    Attributes:
        seeds: Seeds of both.
        unpaired: Seeds of only one of the two; ignored.
        mean: Mean of the differences.
        error: Standard error of ``mean``.
        low: Lower end of the t-interval.
        high: Upper end.
    """

    seeds: tuple[int, ...]
    unpaired: tuple[int, ...]
    mean: float
    error: float
    low: float
    high: float


def summarise(values: Sequence[float]) -> Summary:
    """Mean and standard deviation.

    >>> summarise([1.0, 2.0, 3.0])
    Summary(values=3, mean=2.0, deviation=1.0)
    """
    found = np.asarray(values, dtype=np.float64)
    mean = float(found.mean()) if len(found) else math.nan
    return Summary(len(found), mean, float(found.std(ddof=1)) if len(found) > 1 else math.nan)


def paired_difference(arm: Mapping[int, float], baseline: Mapping[int, float], confidence: float = 0.95) -> Difference:
    """The mean difference of pairs d_1 .. d_n, its standard error sd(d) / sqrt(n), and Student's t-interval.

    The interval is that of the paired t-test: mean -+ t(n - 1) x standard error. It assumes normally distributed
    differences; seeds change weights and picture order, not the test pictures.

    Args:
        arm: Seed -> value.
        baseline: Seed -> value.
        confidence: Confidence of the interval, in (0, 1).

    Raises:
        ValueError: If ``confidence`` is out of range.

    >>> paired_difference({0: 3.0, 1: 5.0, 2: 0.0}, {0: 1.0, 1: 2.0, 7: 0.0})[:4]
    ((0, 1), (2, 7), 2.5, 0.5)
    """
    if not 0 < confidence < 1:
        raise InputError(f"`confidence` must lie in (0, 1), got {confidence}")
    seeds = sorted(arm.keys() & baseline.keys())
    differences = summarise([arm[seed] - baseline[seed] for seed in seeds])
    error = differences.deviation / math.sqrt(len(seeds)) if seeds else math.nan
    # For one pair, scipy's t with 0 degrees of freedom gives NaN, as intended.
    reach = float(stats.t.ppf((1 + confidence) / 2, len(seeds) - 1)) * error
    unpaired = sorted(arm.keys() ^ baseline.keys())
    mean = differences.mean
    return Difference(tuple(seeds), tuple(unpaired), mean, error, mean - reach, mean + reach)


POINT = r"occlusion/(.+)_(\d+(?:\.\d+)?)/(mAP|rank1)"
MEAN = "mean"  # over all occluder kinds


class CurvePoint(NamedTuple):
    """One arm at one hidden share: middle and ends of a band, NaN if there are too few seeds."""

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
    """mAP over the hidden share by occluder kind, the mean over kinds first; empty if the runs have no curves."""
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
    """One arm's curve for one occluder kind; ``metrics`` maps hidden per cent to metric names."""
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
