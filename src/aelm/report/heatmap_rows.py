"""Rows of heat-map figures that explain a network's output, for single pictures and pairs."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.figures import HeatmapRow, Panel
from aelm.models import ReIDNetwork
from aelm.models.network import StageOutputs
from aelm.models.similarity import SimilarityMaps, merged, similarity_maps
from aelm.types import InputError

LETTERS = "ABCDEFGH"


def panels(outputs: StageOutputs, index: int) -> list[Panel]:
    """The views of one picture of a batch: at each stage A's heat map, what is erased, what B sees, and B's heat map.

    Args:
        outputs: Result of ``network.explain``.
        index: Index of the picture.
    """
    shown = []
    for s, heads in enumerate(outputs, 1):
        mask = next((array(head.mask[index]) for head in heads if head.mask is not None), None)
        for letter, head in zip(LETTERS, heads, strict=False):
            heat = None if head.heatmap is None else array(head.heatmap[index])
            if letter == "B" and mask is not None:
                shown.append(Panel(f"B sees, {s}", mask=mask))
            if heat is not None:
                shown.append(Panel(f"{letter}, stage {s}", heat))
            if letter == "A" and heat is not None and mask is not None:
                shown.append(Panel(f"erased, {s}", heat, mask))
    return shown


def model_rows(
    network: ReIDNetwork,
    images: Tensor,
    labels: Sequence[str],
    pids: Sequence[int | None] = (),
    captions: Sequence[str] = (),
) -> list[HeatmapRow]:
    """A row of panels for each picture, with its predicted identity below.

    Args:
        network: On any device.
        images: ``(B, 3, H, W)`` uint8.
        labels: Name of each label of the network.
        pids: Label of each picture, whose heat maps are shown; None if unknown: then the identity that A predicts at
            each stage is used. Empty if all are unknown.
        captions: Name of each picture; empty for no names.

    Raises:
        ValueError: If the numbers of pictures, labels and captions differ.
    """
    known = list(pids) or [None] * len(images)
    names = list(captions) or [""] * len(images)
    if not len(known) == len(names) == len(images):
        raise InputError(f"got {len(images)} pictures, {len(known)} labels and {len(names)} captions")
    rows: dict[int, HeatmapRow] = {}
    for is_known in (True, False):
        chosen = [i for i, pid in enumerate(known) if (pid is not None) == is_known]
        if not chosen:
            continue
        wanted = torch.tensor([known[i] for i in chosen], device=network.mean.device) if is_known else None
        outputs = network.explain(images[chosen].to(network.mean.device), wanted)
        for place, i in enumerate(chosen):
            pid = known[i]
            who = prediction(outputs, place, labels) if pid is None else f"as {labels[pid]}"
            caption = ": ".join(part for part in (names[i], who) if part)
            rows[i] = HeatmapRow(images[i].permute(1, 2, 0).cpu().numpy(), panels(outputs, place), caption)
    return [rows[i] for i in range(len(images))]


def prediction(outputs: StageOutputs, index: int, labels: Sequence[str]) -> str:
    """The identity that A predicts at each stage, and its probability; empty without an identity classifier."""
    if not outputs[-1][0].logits.shape[1]:
        return ""
    said = []
    for s, heads in enumerate(outputs, 1):
        sure, label = heads[0].logits[index].float().softmax(0).max(0)
        said.append(f"{labels[int(label)]} ({float(sure):.0%} at stage {s})")
    return "like " + ", ".join(said)


def paired(
    network: ReIDNetwork, image_a: Tensor, image_b: Tensor, captions: tuple[str, str] = ("", "")
) -> tuple[SimilarityMaps, list[HeatmapRow]]:
    """Explains the similarity of two pictures: the score split by position, and two rows to draw.

    Args:
        network: In evaluation mode, on any device.
        image_a: ``(3, H, W)`` uint8.
        image_b: ``(3, H, W)`` uint8.
        captions: Names of the two pictures.
    """
    pair = torch.stack([image_a, image_b]).to(network.mean.device)
    maps = similarity_maps(network, pair[:1], pair[1:])
    rows = []
    for image, side, name in zip((image_a, image_b), (maps.on_a, maps.on_b), captions, strict=True):
        views = [Panel("all", array(merged(side)[0]))]
        for s, stage in enumerate(side, maps.first):
            views += [
                Panel(f"{letter}, stage {s}", array(part[0])) for letter, part in zip(LETTERS, stage, strict=False)
            ]
        rows.append(HeatmapRow(image.permute(1, 2, 0).cpu().numpy(), views, name))
    return maps, rows


def shares(maps: SimilarityMaps, index: int = 0) -> dict[str, float]:
    """Contribution of each classifier to the score, by name such as ``A, stage 1``; they sum to the score."""
    return {
        f"{letter}, stage {s}": float(part[index].sum())
        for s, stage in enumerate(maps.on_a, maps.first)
        for letter, part in zip(LETTERS, stage, strict=False)
    }


def array(tensor: Tensor) -> NDArray[Any]:
    """A tensor as a numpy array for figures."""
    values: NDArray[Any] = np.asarray(tensor.cpu())
    return values
