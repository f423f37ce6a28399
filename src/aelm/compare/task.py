"""The task of ``python -m aelm.compare``: an ablation's tables and plots, with paired differences and errors."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from aelm.compare.arms import POINT, CurvePoint, occlusion_curves, sort_into_arms
from aelm.compare.runs import read_runs
from aelm.compare.tables import Comparison, as_csv, compare, heading, is_score, markdown, runs_csv
from aelm.figures.comparison import ArmRow, Interval, Line, comparison_chart, occlusion_chart
from aelm.files import hold_folder
from aelm.report.metrics import write_text


def run(config: DictConfig) -> Comparison:
    """Compares as ``config`` says, prints the tables, and writes to ``output`` if given."""
    asked: Any = OmegaConf.to_container(config)
    places = [asked["runs"]] if isinstance(asked["runs"], str) else list(asked["runs"])
    runs = read_runs(places, asked["files"])
    arms = sort_into_arms(runs, asked["ignore"])
    comparison = compare(arms, asked["metrics"], asked["baseline"], asked["confidence"])
    title = f"# {len(runs)} runs in {len(arms)} arms: {', '.join(places)}"
    text = f"{title}\n\n{markdown(comparison, runs)}"
    print(text)
    if asked["output"] is not None:
        output = Path(asked["output"])
        with hold_folder(output):
            write_text(output / "comparison.md", text)
            write_text(output / "comparison.csv", as_csv(comparison))
            write_text(output / "runs.csv", runs_csv(comparison, runs))
            draw_comparison(comparison, output)
    return comparison


def draw_comparison(comparison: Comparison, output: Path) -> None:
    """Draws ``comparison.png``, and ``occlusion.png`` if the runs have occlusion curves."""
    base, interval = comparison.baseline.name, f"{100 * comparison.confidence:g} % t-interval"
    # Points of occlusion curves go to occlusion.png.
    metrics = [name for name in comparison.metrics if not re.fullmatch(POINT, name)]
    panels = {heading(metric): [arm_row(comparison, arm.name, metric) for arm in comparison.arms] for metric in metrics}
    if panels:
        comparison_chart(panels, output / "comparison.png", baseline=base, interval=interval)
    curves = occlusion_curves(comparison.arms, comparison.baseline, comparison.confidence)
    lines = {
        kind: (
            [line(one.arm, one.values) for one in found if one.values],
            [line(one.arm, one.differences) for one in found if one.differences],
        )
        for kind, found in curves.items()
    }
    if lines:
        occlusion_chart(lines, output / "occlusion.png", baseline=base, interval=interval)


def arm_row(comparison: Comparison, arm: str, metric: str) -> ArmRow:
    """An arm's row for the figure, scores in per cent."""
    scale = 100.0 if is_score(metric) else 1.0
    (one,) = (found for found in comparison.arms if found.name == arm)
    _, _, (_, mean, deviation), apart = comparison.entries[arm, metric]
    spread = Interval(*(scale * value for value in (mean, mean - deviation, mean + deviation)))
    difference = None
    if apart is not None and apart.seeds:
        difference = Interval(*(scale * value for value in (apart.mean, apart.low, apart.high)))
    return ArmRow(arm, [scale * value for value in one.values(metric).values()], spread, difference)


def line(arm: str, points: Sequence[CurvePoint]) -> Line:
    """A curve for the figure, in per cent."""
    band = [Interval(*(100 * value for value in point[1:])) for point in points]
    return Line(arm, [point.percent for point in points], band)
