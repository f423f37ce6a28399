"""Occluders between camera and person, in two disjoint families: one for training, one for evaluation."""

from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from aelm.data.synthetic import objects
from aelm.data.synthetic.paint import Bytes, Layer, Light, blank
from aelm.data.synthetic.scenes import Rng
from aelm.types import InputError

Bools = NDArray[np.bool_]


class Kind(StrEnum):
    """Kinds of occluders."""

    WALL = "wall"
    PILLAR = "pillar"
    CAR = "car"
    BUSH = "bush"
    BOARD = "board"
    CRATES = "crates"
    PERSON = "person"


TRAINING = (Kind.WALL, Kind.PILLAR, Kind.CAR)
EVALUATION = (Kind.BUSH, Kind.BOARD, Kind.CRATES, Kind.PERSON)
FROM_BELOW = (Kind.WALL, Kind.CAR, Kind.BUSH, Kind.CRATES)  # the others enter from a side


def sheet(kind: Kind, generator: Rng, height: int, width: int, light: Light) -> Layer:
    """Draws an occluder at canvas size; kinds from below fill the canvas except above their ragged upper edge."""
    draw: dict[Kind, Callable[[Layer, Rng, Light], None]] = {
        Kind.WALL: objects.wall,
        Kind.PILLAR: objects.pillar,
        Kind.CAR: objects.car,
        Kind.BUSH: objects.bush,
        Kind.BOARD: objects.board,
        Kind.CRATES: objects.crates,
        Kind.PERSON: objects.stranger,
    }
    layer = blank(height, width)
    draw[kind](layer, generator, light)
    return layer


def moved(layer: Layer, down: int, right: int) -> Layer:
    """The layer shifted on its canvas; parts outside are cut off."""
    height, width = layer.part.shape
    result = blank(height, width)
    y0, y1 = max(down, 0), min(height + down, height)
    x0, x1 = max(right, 0), min(width + right, width)
    if y0 < y1 and x0 < x1:
        for target, source in zip(result, layer, strict=True):
            target[y0:y1, x0:x1] = source[y0 - down : y1 - down, x0 - right : x1 - right]
    return result


def place(layer: Layer, moves: list[tuple[int, int]], target: Bools, share: float) -> tuple[tuple[int, int], float]:
    """The move (down, right) of the layer that hides a share of the target closest to ``share``.

    Args:
        layer: The layer to move.
        moves: Candidates in canvas pixels; of equally good ones the first is chosen.
        target: ``(h, w)`` bool, the region to hide.
        share: Desired share of the target's pixels.

    Returns:
        The move, and the share that it hides.
    """
    step = 4  # every fourth pixel is accurate enough for counting
    solid, wanted = layer.part[::step, ::step] > 0, target[::step, ::step]
    height, width = solid.shape
    total = max(int(np.count_nonzero(wanted)), 1)
    best, best_share = moves[0], -1.0
    for move in moves:
        down, right = move[0] // step, move[1] // step
        y0, y1 = max(down, 0), min(height + down, height)
        x0, x1 = max(right, 0), min(width + right, width)
        hit = 0
        if y0 < y1 and x0 < x1:
            over = solid[y0 - down : y1 - down, x0 - right : x1 - right] & wanted[y0:y1, x0:x1]
            hit = int(np.count_nonzero(over))
        if abs(hit / total - share) < abs(best_share - share) - 1e-9:
            best, best_share = move, hit / total
    return best, best_share


def cover(target: Bools, share: float, kind: Kind, generator: Rng, light: Light) -> Layer:
    """Places an occluder that hides about this share of a target, as closely as its shape allows.

    Args:
        target: ``(h, w)`` bool on the canvas, such as the body.
        share: Of the target's pixels, 0..1.
        kind: Of occluder.
        generator: Draws its look and its side.
        light: For its shading.
    """
    height, width = target.shape
    layer = sheet(kind, generator, height, width, light)
    if kind in FROM_BELOW:
        moves = [(down, 0) for down in range(height, -1, -4)]
    else:
        side = 1 if generator.random() < 0.5 else -1
        moves = [(0, side * right) for right in range(width, -1, -4)]
    (down, right), _ = place(layer, moves, target, share)
    return moved(layer, down, right)


Manner = Literal["below", "side", "object", "person"]
MANNERS: tuple[Manner, ...] = ("below", "side", "object", "person")
NOON = Light(-0.42, -0.52, 0.74)


def occlude(image: Bytes, fraction: float, kind: Manner, generator: Rng) -> tuple[Bytes, Bools]:
    """Hides a share of any picture behind an occluder of the evaluation family.

    Args:
        image: ``(H, W, 3)`` uint8, RGB; not changed.
        fraction: Of the picture's pixels to hide, 0 .. 0.75.
        kind: ``below`` and ``side`` enter from an edge, ``object`` is anywhere, ``person`` walks past (upright, so a
            person cannot hide large fractions of a landscape picture).
        generator: Draws the object, its look and its position.

    Returns:
        The occluded picture, and the ``(H, W)`` bool mask of the hidden pixels.

    Raises:
        ValueError: If the picture, the fraction or the kind is invalid.

    >>> picture = np.zeros((64, 32, 3), np.uint8)
    >>> covered, hidden = occlude(picture, 0.5, "below", np.random.default_rng(0))
    >>> covered.shape, bool(hidden[-1].all()), bool(hidden[0].any())
    ((64, 32, 3), True, False)
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise InputError(f"`image` must be (H, W, 3) uint8, got {image.shape} {image.dtype}")
    if not 0.0 <= fraction <= 0.75:
        raise InputError(f"`fraction` must lie in 0 .. 0.75, got {fraction}")
    if kind not in MANNERS:
        raise InputError(f"`kind` must be one of {', '.join(MANNERS)}, got {kind!r}")
    height, width = image.shape[:2]
    if fraction == 0.0:
        return image.copy(), np.zeros((height, width), bool)
    canvas = (512, max(round(512 * width / height), 8))
    front = {"below": _below, "side": _side, "object": _standing, "person": _passing}[kind](canvas, fraction, generator)
    size = (width, height)
    shrink = cv2.INTER_AREA if height <= 512 else cv2.INTER_LINEAR
    alpha = cv2.resize(front.part * np.uint8(255), size, interpolation=shrink)
    colour = cv2.resize(front.colour, size, interpolation=shrink)
    kept = image * (1.0 - alpha[:, :, None].astype(np.float32) / 255.0)
    return np.clip(np.rint(kept + colour), 0, 255).astype(np.uint8), alpha > 127


def _below(canvas: tuple[int, int], fraction: float, generator: Rng) -> Layer:
    kind = Kind.BUSH if generator.random() < 0.5 else Kind.CRATES
    layer = sheet(kind, generator, *canvas, NOON)
    (down, _), _ = place(layer, [(down, 0) for down in range(canvas[0], -1, -4)], np.ones(canvas, bool), fraction)
    return moved(layer, down, 0)


def _side(canvas: tuple[int, int], fraction: float, generator: Rng) -> Layer:
    # A board as wide as the canvas, so that only one of its edges is visible.
    wide = sheet(Kind.BOARD, generator, canvas[0], canvas[1] * 3, NOON)
    solid = np.flatnonzero(wide.part[0])
    from_left = generator.random() < 0.5
    shown = round(canvas[1] * fraction)
    layer = blank(*canvas)
    source = slice(solid[-1] + 1 - shown, solid[-1] + 1) if from_left else slice(solid[0], solid[0] + shown)
    target = slice(0, shown) if from_left else slice(canvas[1] - shown, canvas[1])
    for ours, theirs in zip(layer, wide, strict=True):
        ours[:, target] = theirs[:, source]
    return layer


def _standing(canvas: tuple[int, int], fraction: float, generator: Rng) -> Layer:
    height, width = canvas
    kind = (Kind.BUSH, Kind.CRATES, Kind.BOARD)[int(generator.random() * 3)]
    is_round = kind is Kind.BUSH and fraction < 0.6
    area = fraction * height * width * (4 / np.pi if is_round else 1.0)
    # Range of height / width for which the object fits into the picture.
    low, high = area / width**2, height**2 / area
    slim = float(np.clip(np.exp(generator.random() * 1.4 - 0.4), low, high))
    tall, wide = min(round(float(np.sqrt(area * slim))), height), min(round(float(np.sqrt(area / slim))), width)
    top, left = int(generator.random() * (height - tall + 1)), int(generator.random() * (width - wide + 1))
    layer = sheet(kind, generator, *canvas, NOON)
    if kind is Kind.BOARD:
        solid = np.flatnonzero(layer.part[0])
        colour = cv2.resize(layer.colour[:, solid[0] : solid[-1] + 1], (wide, tall), interpolation=cv2.INTER_AREA)
    else:
        # Without the top of the sheet, whose edge is ragged.
        colour = cv2.resize(layer.colour[height // 6 :], (width, height))[:tall, :wide]
    shape = np.zeros(canvas, np.uint8)
    if is_round:
        cv2.ellipse(shape, (left + wide // 2, top + tall // 2), (wide // 2, tall // 2), 0, 0, 360, 1, -1)
    else:
        shape[top : top + tall, left : left + wide] = 1
    result = blank(*canvas)
    result.colour[top : top + tall, left : left + wide] = colour
    result.colour[shape == 0] = 0
    result.part[:] = shape
    return result


def _passing(canvas: tuple[int, int], fraction: float, generator: Rng) -> Layer:
    side = 1 if generator.random() < 0.5 else -1
    start = int(generator.random() * 2**31)
    moves = [(0, side * right) for right in range(canvas[1], -1, -4)]
    whole = np.ones(canvas, bool)
    best, error = blank(*canvas), fraction
    # The same person at increasing sizes, until enough can be hidden.
    for size in (1.1, 1.35, 1.7, 2.1, 2.7, 3.5, 4.6, 6.0, 8.0):
        layer = _stranger(canvas, start, size)
        move, share = place(layer, moves, whole, fraction)
        if abs(share - fraction) < error:
            best, error = moved(layer, *move), abs(share - fraction)
        if error < 0.012:
            break
    return best


@lru_cache(maxsize=16)  # a sweep over fractions reuses the same person at the same sizes
def _stranger(canvas: tuple[int, int], start: int, size: float) -> Layer:
    layer = blank(*canvas)
    objects.stranger(layer, np.random.Generator(np.random.PCG64(start)), NOON, size)
    return layer
