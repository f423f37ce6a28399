"""Layouts: how other projects store trained models; the head that most of them end with; and sidecars.

A sidecar holds facts about a model of another project in a file beside it, ``<file>.metadata.json`` or ``<file>.json``:

- ``img_size``: height and width; ``preprocess``: ``resize`` (default), or ``resize_pad``: keeps the aspect ratio.
- ``mean``, ``std``: three numbers each, of RGB in the unit of ``range``.
- ``range``: 1 (default): colours are numbers from 0 to 1. 255: from 0 to 255, and not normalised unless ``mean`` and
  ``std`` are given, too.
- ``normalised``: ``outside`` (default), or ``inside``: the network normalises, so ``mean`` and ``std`` are not used.
- ``colour``: channel order of the network's input, ``RGB`` (default) or ``BGR``.
- ``feature``, ``camera``, ``camera_weight``, ``semantic_weight``: read by some layouts of trained files.

A file with ``schema_version``, as exporters write it, may contain other keys.
"""

import difflib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from aelm.models.ifcn import gem_maps, precise
from aelm.models.network import ReIDNetwork, unit
from aelm.models.weights import State
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, HeadOutput, InputError

Given = Mapping[str, Any]
PICTURES = ("img_size", "mean", "std", "range", "normalised", "colour", "preprocess")
KEYS = (*PICTURES, "feature", "camera", "camera_weight", "semantic_weight")


class Facts(NamedTuple):
    """How pictures are prepared.

    Attributes:
        size: Height and width in pixels.
        mean: Of RGB / 255.
        std: Likewise.
        colour: Channel order of the network's input, ``RGB`` or ``BGR``; mean and std are given as RGB in both cases.
        preprocess: ``resize``, or ``resize_pad``: keep the aspect ratio and pad with the ImageNet mean.
    """

    size: tuple[int, int] = (256, 128)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    colour: str = "RGB"
    preprocess: Literal["resize", "resize_pad"] = "resize"


class Parts(NamedTuple):
    """Modules that a layout builds, before weights are loaded.

    Attributes:
        name: Name of the network, for people.
        backbone: Returns one map, which ``head`` pools.
        head: Turns the map into the embedding that the original project ranks by.
    """

    name: str
    backbone: nn.Module
    head: nn.Module


class Layout(NamedTuple):
    """How a project stores trained models; the first row whose ``keys`` all match is used for a file.

    Attributes:
        name: Name in the log.
        keys: Patterns (``re.match``), each of which must match a key of the file. Keys come without ``module.``,
            ``_orig_mod.`` and the counters of batch norms.
        rename: Pairs for ``re.sub``, the first match is used: from keys of the file to keys of the parts, under
            ``backbone.`` and ``head.``. Keys without a match are dropped.
        build: Builds the parts from the tensors, under the file's names, and from the facts given by file, sidecar and
            user (``img_size``, ``mean``, ``std``, ``colour``, ``feature``, and any further key that the layout reads).
        convert: Converts tensors renamed to ``backbone.network.`` to the names and shapes of ``backbone.network``, like
            timm's ``checkpoint_filter_fn``; None if no conversion is needed.
        facts: How pictures are prepared by default.
        unused: Pattern of keys that an embedding does not need; a warning lists all other dropped keys.
    """

    name: str
    keys: tuple[str, ...]
    rename: tuple[tuple[str, str], ...]
    build: Callable[[State, Given], Parts]
    convert: Callable[[State, nn.Module], State] | None = None
    facts: Facts = Facts()
    unused: str = r"classifier|heads\.(weight|classifier)|pixel_(mean|std)|base\.fc\.|centers"


class PooledHead(nn.Module):
    """Pools a map over its positions and applies a neck, as other projects do; has no identities.

    Args:
        neck: Linear layers, batch norms and ReLUs, from the pooled map to the embedding.
        power: Exponent of generalised-mean pooling (GeM); None for the mean.
        stored: Whether the exponent is one of the file's tensors.

    Shape:
        features ``(B, C, H, W)`` -> :class:`aelm.types.HeadOutput` with an embedding ``(B, D)`` and no logits. The heat
        map shows each position's contribution to the length of the embedding.
    """

    power: Tensor | None

    def __init__(self, *neck: nn.Module, power: float | None = None, stored: bool = False) -> None:
        super().__init__()
        self.neck = nn.Sequential(*neck)
        self.register_buffer("power", None if power is None else torch.tensor([power]), persistent=stored)

    def forward(self, features: Tensor, pids: Tensor | None = None, *, explain: bool = False) -> HeadOutput:
        with precise(features.device):
            pooled = self.pooled(features)
            embedding = self.neck(pooled)
            heatmap = torch.einsum("behw,be->bhw", self.embedding_maps(features), unit(embedding)) if explain else None
        return HeadOutput(pooled, embedding, embedding.new_zeros(embedding.shape[0], 0), heatmap)

    def pooled(self, features: Tensor) -> Tensor:
        """The mean of the pooled maps, ``(B, C)``."""
        return self.pooled_maps(features).mean((2, 3))

    def pooled_maps(self, features: Tensor) -> Tensor:
        """Maps ``(B, C, H, W)`` whose spatial mean is the pooled feature, float32."""
        return features.float() if self.power is None else gem_maps(features.float(), self.power)

    def embedding_maps(self, features: Tensor) -> Tensor:
        """Maps ``(B, D, H, W)`` whose spatial mean is the embedding."""
        return through(self.neck, self.pooled_maps(features))


def through(neck: nn.Sequential, maps: Tensor) -> Tensor:
    """Maps ``(B, D, H, W)`` whose spatial mean is the neck applied to the mean of ``maps`` ``(B, C, H, W)``.

    Linear layers and batch norms act on each position as on the mean; a ReLU keeps the channels that are positive in
    the mean.
    """
    maps = maps.permute(0, 2, 3, 1)  # (B, H, W, C)
    pooled = maps.mean((1, 2))
    for layer in neck:
        if isinstance(layer, nn.ReLU):
            maps = maps * (pooled > 0)[:, None, None]
        else:
            maps = layer(maps.flatten(0, 2)).unflatten(0, maps.shape[:3])
        pooled = layer(pooled)
    return maps.permute(0, 3, 1, 2)


class Trained(NamedTuple):
    """A model of another project in evaluation mode, how its pictures are prepared, and the facts in its sidecar."""

    network: ReIDNetwork
    facts: Facts
    given: Given


def sidecar_path(path: Path) -> Path:
    """Path of an exported model's sidecar: ``model.onnx.metadata.json``."""
    return path.with_name(f"{path.name}.metadata.json")


def sidecar(path: Path) -> dict[str, Any]:
    """The facts in a model's sidecar; empty if there is no such file.

    Raises:
        ValueError: If the file is not a JSON object, or has an unknown key.
    """
    places = (sidecar_path(path), path.with_name(f"{path.name}.json"))
    beside = next((place for place in places if place.is_file()), None)
    if beside is None:
        return {}
    try:
        given = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{beside} is not JSON: {error}") from error
    if not isinstance(given, dict):
        raise InputError(f"{beside} must hold a JSON object, found {type(given).__name__}")
    unknown = [] if "schema_version" in given else [key for key in given if key not in KEYS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], KEYS, 1)
        way_out = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(KEYS)}"
        raise InputError(f"{beside}: unknown key `{unknown[0]}`, {way_out}")
    return given


def facts_of(usual: Facts, given: Given, path: Path) -> Facts:
    """The default facts, overridden by those given.

    Raises:
        ValueError: If a given fact is invalid.
    """
    top, inside = given.get("range", 1), given.get("normalised", "outside") == "inside"
    plain = usual._replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)) if inside or top == 255 else usual
    numbers = {} if inside else given
    try:
        mean, std = (tuple(float(v) / top for v in numbers.get(key, getattr(plain, key))) for key in ("mean", "std"))
        height, width = map(int, given.get("img_size", usual.size))
        how = (given.get(key, getattr(usual, key)) for key in ("colour", "preprocess"))
        found = Facts((height, width), mean, std, *how)
        right = min(height, width) > 0 and min(std) > 0 and {len(mean), len(std)} == {3}
    except (TypeError, ValueError, ZeroDivisionError):
        right = False
    known = {
        "normalised": ("inside", "outside"), "range": (1, 255), "colour": ("RGB", "BGR"),
        "preprocess": ("resize", "resize_pad"),
    }  # fmt: skip
    if not right or any(given.get(key, values[0]) not in values for key, values in known.items()):
        raise InputError(
            f"what is given about {path} must be `img_size` [height, width], `mean` and `std` of three numbers each, "
            "`colour` RGB or BGR, `range` 1 or 255, `normalised` inside or outside, `preprocess` resize or resize_pad; "
            f"got { {key: given[key] for key in PICTURES if key in given} }"
        )
    return found
