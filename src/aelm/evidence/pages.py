"""What the evidence looks like: heat maps over the drawn truth, coverage by part, hidden queries, the curve."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from aelm import figures
from aelm.data import ReIDDataset
from aelm.data.dataset import ImageTransform
from aelm.evidence.claims import PARTS
from aelm.evidence.curve import SCORES, Row
from aelm.evidence.occlusion import Occluded, Plan
from aelm.evidence.shots import FurtherShots
from aelm.evidence.summary import Mean
from aelm.figures.claims import part_bars
from aelm.figures.occlusion import occlusion_chart
from aelm.models import ReIDNetwork
from aelm.types import Picture

ROWS, QUERIES = 8, 3
TITLE = "Where A and B look, on shots that were not trained on; lines: visible parts of the body"
NEVER = (math.nan, math.nan, math.nan)


def draw_claims(
    directory: Path, prefix: str, network: ReIDNetwork, shots: FurtherShots, stages: Mapping[int, Mapping[str, Mean]]
) -> list[Path]:
    """Heat maps of A and B on some shots with the outlines of the parts, and bars of coverage by part.

    Args:
        directory: Where ``<prefix>_heatmaps.png`` and ``<prefix>_parts.png`` go.
        prefix: Such as ``claims``.
        network: On the device where it shall run.
        shots: What was looked at.
        stages: The means of each stage.
    """
    rows = []
    for place in np.linspace(0, len(shots) - 1, min(ROWS, len(shots))).round().astype(int).tolist():
        shot = shots[place]
        label = torch.tensor([shot.label], device=network.mean.device)
        outputs = network.explain(shot.image[None].to(network.mean.device), label)
        labels = np.where(shot.hidden, 0, shot.parts).astype(np.uint8)
        panels = [
            figures.Panel(f"{letter}, stage {stage}", head.heatmap[0].cpu().numpy(), labels=labels)
            for stage, heads in enumerate(outputs, 1)
            for letter, head in zip("AB", heads, strict=False)
            if head.heatmap is not None
        ]
        image = shot.image.permute(1, 2, 0).numpy()
        rows.append(figures.HeatmapRow(image, panels, f"id {shot.identity}, cam {shot.camera}"))
    bars = {
        f"stage {stage}": {
            head.upper(): [bar(found.get(f"{head}/part_{part.name.lower()}")) for part in PARTS]
            for head in "ab"
            if f"{head}/parts" in found
        }
        for stage, found in stages.items()
    }
    names = [part.name.lower().replace("_", " ") for part in PARTS]
    title = "How often each visible part of the body is covered"
    return [
        figures.heatmap_rows(rows, directory / f"{prefix}_heatmaps.png", title=TITLE),
        part_bars(bars, names, directory / f"{prefix}_parts.png", title=title),
    ]


def bar(mean: Mean | None) -> tuple[float, float, float]:
    """How often a part is covered, the standard error, and how often by chance."""
    return NEVER if mean is None else (mean.value, mean.error, mean.chance)


def draw_occlusion(
    directory: Path, queries: Sequence[Picture], plan: Plan, transform: ImageTransform, curve: Sequence[Row]
) -> list[Path]:
    """The curve, and some queries behind every kind of thing at every fraction.

    Args:
        directory: Where ``occlusion.png`` and ``occlusion_queries.png`` go.
        queries: All of them.
        plan: What hides them.
        transform: How pictures are prepared.
        curve: The points in numbers.
    """
    some = [queries[i] for i in np.linspace(0, len(queries) - 1, min(QUERIES, len(queries))).round().astype(int)]
    hidden, plain = Occluded(some, plan, transform), ReIDDataset(some, transform)
    images = []
    captions: list[str] = []
    for kind in plan.kinds:
        for q in range(len(some)):
            images.append(plain.read(q))
            captions.append(kind)
            for i, (one, fraction) in enumerate(hidden.points):
                if one == kind:
                    images.append(hidden.read(q * len(hidden.points) + i))
                    captions.append(f"{100 * fraction:g} %")
    columns = len(some) * (1 + len(plan.hiding))
    sheet = figures.contact_sheet(
        images, directory / "occlusion_queries.png", columns, height=64, captions=captions,
        title="Queries as they were hidden",
    )  # fmt: skip
    fractions = sorted({row.fraction for row in curve})
    panels = {
        name: {
            kind: [row.values[name] for row in curve if row.kind == kind]
            for kind in dict.fromkeys(r.kind for r in curve)
        }
        for name in SCORES
    }
    return [occlusion_chart(panels, fractions, directory / "occlusion.png"), sheet]
