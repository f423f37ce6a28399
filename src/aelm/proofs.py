"""The proofs that ``evaluate`` gives on demand: measured, printed, written and drawn; the numbers come back by name."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from aelm.data import ReIDDataModule
from aelm.embedding.embedder import Embedder
from aelm.embedding.feed import preparation
from aelm.evidence import curve, pages, summary
from aelm.evidence.examining import examined
from aelm.evidence.occlusion import Plan, sweep
from aelm.evidence.shots import FurtherShots, World, world_of
from aelm.module import ReIDModule
from aelm.report import write_whole
from aelm.scoring import Test


class Destination(NamedTuple):
    """Where CSVs and pictures go.

    Attributes:
        output: A directory; None for nowhere.
        figures: Whether there are pictures.
    """

    output: Path | None
    figures: bool


def world(embedder: Embedder, told: Mapping[str, Any]) -> World:
    """The synthetic people that a checkpoint was trained on.

    Raises:
        ValueError: If it was trained on others, or keeps its heat maps to itself.
    """
    if not embedder.has_maps:
        raise ValueError(
            f"{embedder.name} gives embeddings and keeps its maps to itself: `claims=true` needs a checkpoint of aelm"
        )
    return world_of(told, embedder.labels)


def claims(
    embedder: Embedder, people: World, count: int | None, workers: int | None, to: Destination
) -> dict[str, float]:
    """Where A and B look on further shots of the training's people, whole (``claims``) and ``claims_occluded``.

    Args:
        embedder: On the device where it shall run.
        people: Whom the training saw.
        count: How many of them are looked at; None for all.
        workers: Processes that draw; None: one a core.
        to: Where things go: ``claims.csv`` with a line for each picture and stage, ``claims_parts.csv``, PNGs.
    """
    found, means, named = {}, {}, dict[str, float]()
    for prefix in ("claims", "claims_occluded"):
        shots = FurtherShots(people, count, preparation(embedder), occluded=prefix != "claims")
        found[prefix] = examined(embedder.network, shots, workers)
        means[prefix] = summary.by_stage(found[prefix])
        named |= summary.scores(prefix, means[prefix])
        print(f"{len(shots)} shots of {len(shots.chosen)} people\n{summary.table(prefix, means[prefix])}")
        if to.output is not None and to.figures:
            pages.draw_claims(to.output, prefix, embedder.network, shots, means[prefix])
    if to.output is not None:
        write_whole(to.output / "claims.csv", summary.pictures_csv(found))
        write_whole(to.output / "claims_parts.csv", summary.parts_csv(means))
    return named


def occlusion(
    test: Test, plan: Plan, embed: Callable[[Tensor], Tensor], data: ReIDDataModule, samples: int, to: Destination
) -> dict[str, float]:
    """Scores of a test set whose queries are hidden step by step.

    Args:
        test: Plain queries and gallery with their features.
        plan: What hides them.
        embed: Turns pictures into embeddings as the test did.
        data: How pictures are prepared and loaded.
        samples: Draws of the intervals; 0: none.
        to: Where things go: ``occlusion.csv`` and PNGs.
    """
    points = sweep(test, plan, embed, data.transform.test, data.loader)
    rows = curve.rows(points, samples)
    print(curve.table(rows))
    if to.output is not None:
        write_whole(to.output / "occlusion.csv", curve.curve_csv(rows))
        if to.figures:
            pages.draw_occlusion(to.output, test.query, plan, data.transform.test, rows)
    return curve.scores(rows, samples)


@torch.inference_mode()
def embedded(module: ReIDModule, context: Callable[[], AbstractContextManager[None]], images: Tensor) -> Tensor:
    """Embeddings ``(B, D)`` as a test of ``module`` computes them, within the trainer's context of its precision."""
    with context():
        features: Tensor = module(images.to(module.device))
    return features
