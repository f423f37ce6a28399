"""Sidecars: facts about a model of another project in a file beside it, ``<file>.metadata.json`` or ``<file>.json``.

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
from pathlib import Path
from typing import Any, NamedTuple

from aelm.models.layouts import Facts, Told
from aelm.models.network import ReIDNetwork
from aelm.types import InputError

PICTURES = ("img_size", "mean", "std", "range", "normalised", "colour", "preprocess")
KEYS = (*PICTURES, "feature", "camera", "camera_weight", "semantic_weight")


class Trained(NamedTuple):
    """A model of another project in evaluation mode, how its pictures are prepared, and the facts in its sidecar."""

    network: ReIDNetwork
    facts: Facts
    told: Told


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
        told = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{beside} is not JSON: {error}") from error
    if not isinstance(told, dict):
        raise InputError(f"{beside} must hold a JSON object, found {type(told).__name__}")
    unknown = [] if "schema_version" in told else [key for key in told if key not in KEYS]
    if unknown:
        near = difflib.get_close_matches(unknown[0], KEYS, 1)
        way_out = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(KEYS)}"
        raise InputError(f"{beside}: unknown key `{unknown[0]}`, {way_out}")
    return told


def facts_of(usual: Facts, told: Told, path: Path) -> Facts:
    """The default facts, overridden by those given.

    Raises:
        ValueError: If a given fact is invalid.
    """
    top, inside = told.get("range", 1), told.get("normalised", "outside") == "inside"
    plain = usual._replace(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)) if inside or top == 255 else usual
    numbers = {} if inside else told
    try:
        mean, std = (tuple(float(v) / top for v in numbers.get(key, getattr(plain, key))) for key in ("mean", "std"))
        height, width = map(int, told.get("img_size", usual.size))
        how = (told.get(key, getattr(usual, key)) for key in ("colour", "preprocess"))
        found = Facts((height, width), mean, std, *how)
        right = min(height, width) > 0 and min(std) > 0 and {len(mean), len(std)} == {3}
    except (TypeError, ValueError, ZeroDivisionError):
        right = False
    known = {
        "normalised": ("inside", "outside"), "range": (1, 255), "colour": ("RGB", "BGR"),
        "preprocess": ("resize", "resize_pad"),
    }  # fmt: skip
    if not right or any(told.get(key, values[0]) not in values for key, values in known.items()):
        raise InputError(
            f"what is told about {path} must be `img_size` [height, width], `mean` and `std` of three numbers each, "
            "`colour` RGB or BGR, `range` 1 or 255, `normalised` inside or outside, `preprocess` resize or resize_pad; "
            f"got { {key: told[key] for key in PICTURES if key in told} }"
        )
    return found
