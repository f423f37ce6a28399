"""Pasting augmentation: occluders in front of people in training pictures, never used in evaluation."""

import math
import random
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from aelm.data.decoding import Pixels
from aelm.data.synthetic.occluders import FROM_BELOW, TRAINING, Kind, sheet
from aelm.data.synthetic.paint import CANVAS_HEIGHT, CANVAS_WIDTH, Light
from aelm.types import InputError

Occluder = Literal["person", "object", "patch"]
NEED_OTHERS = ("person", "patch")
DRAWN = 12  # number of different drawn objects of each kind


class Cutout(NamedTuple):
    """An object to paste.

    Attributes:
        colour: ``(h, w, 3)`` uint8, RGB.
        mask: ``(h, w)`` uint8: 255 where opaque, 0 where transparent, in between at soft edges.
    """

    colour: Pixels
    mask: Pixels


class Pasting:
    """Pastes an occluder on some pictures: from below, from a side, or, less often, anywhere.

    ``person``: another person from the batch, cut out along a drawn outline of head, trunk and legs. ``object``: a
    drawn wall, car or pillar (the family ``TRAINING`` of the synthetic people), or your own objects. ``patch``: a
    rectangle from another picture. The occlusion sweep uses other occluders (``EVALUATION``): hedges, boxes, boards and
    drawn passers-by, at similar places but with different appearance.

    Args:
        probability: Share of pictures that are changed.
        area: Approximate smallest and largest covered share of the picture, within 0 .. 1.
        kinds: Kinds of occluders, equally likely.
        objects: Your own objects instead of the drawn ones, as pairs of ``(h, w, 3)`` uint8 RGB and ``(h, w)`` mask.

    Raises:
        ValueError: If a value is out of range, a kind is unknown, or a mask and its picture differ in size.

    >>> picture, other = np.zeros((64, 32, 3), np.uint8), np.full((64, 32, 3), 200, np.uint8)
    >>> pasted = Pasting(1.0, (0.2, 0.2), kinds=["patch"])(picture, [other], random.Random(0))
    >>> bool(0.15 < (pasted > 0).mean() < 0.25)
    True
    """

    def __init__(
        self,
        probability: float = 0.5,
        area: tuple[float, float] = (0.1, 0.5),
        kinds: Sequence[Occluder] = get_args(Occluder),
        objects: Sequence[tuple[Pixels, Pixels]] | None = None,
    ) -> None:
        if not 0 <= probability <= 1:
            raise InputError(f"`pasting` must lie in [0, 1], got {probability}")
        if not 0 < area[0] <= area[1] < 1:
            raise InputError(f"`pasting_area` must be two rising shares between 0 and 1, got {tuple(area)}")
        if not kinds or set(kinds) - set(get_args(Occluder)):
            raise InputError(f"`pasting_kinds` must be some of {', '.join(get_args(Occluder))}, got {list(kinds)}")
        self.probability = probability
        self.area = (area[0], area[1])
        self.kinds = tuple(kinds)
        self.objects = None if objects is None else [cutout(colour, mask) for colour, mask in objects]

    @property
    def needs_others(self) -> bool:
        """Whether every kind needs another picture."""
        return set(self.kinds) <= set(NEED_OTHERS)

    def __call__(self, image: Pixels, others: Sequence[Pixels], rng: random.Random) -> Pixels:
        """Covers part of ``image`` ``(H, W, 3)`` in place; ``others`` are pictures of other people, of any size."""
        kinds = [kind for kind in self.kinds if others or kind not in NEED_OTHERS]
        if rng.random() >= self.probability or not kinds:
            return image
        kind, share = rng.choice(kinds), rng.uniform(*self.area)
        if kind == "person":
            thing, top, left = passer_by(rng.choice(others), image.shape[:2], share, rng)
        elif kind == "patch":
            top, left, h, w = placed(image.shape[:2], share, rng.choice(EDGES), rng)
            thing = Cutout(patch(rng.choice(others), h, w, rng), np.full((h, w), 255, np.uint8))
        else:
            thing, edge = self.thing(rng)
            top, left, h, w = placed(image.shape[:2], share / max(float(thing.mask.mean()) / 255, 0.2), edge, rng)
            thing = Cutout(*(cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA) for part in thing))
        if rng.random() < 0.5:
            thing = Cutout(*(np.ascontiguousarray(part[:, ::-1]) for part in thing))
        return paste(image, lit(thing, rng.uniform(0.6, 1.25)), top, left)

    def thing(self, rng: random.Random) -> tuple[Cutout, str]:
        """An object, and the edge from which it is placed."""
        if self.objects:
            return rng.choice(self.objects), rng.choice(EDGES)
        kind = rng.choice(TRAINING)
        edge = "below" if kind in FROM_BELOW else rng.choice(("left", "right"))
        return drawn_cutout(kind, rng.randrange(DRAWN)), edge


# Mostly from below and the sides, as real occluders.
EDGES = ("below", "below", "below", "left", "right", "anywhere")


def cutout(colour: Pixels, mask: Pixels) -> Cutout:
    """Builds a cutout from a picture and its mask; bool masks become 0 and 255.

    Raises:
        ValueError: If they differ in size, or the mask is empty.
    """
    if colour.ndim != 3 or colour.shape[2] != 3 or mask.shape != colour.shape[:2]:
        raise InputError(
            f"a pasted object must be (h, w, 3) RGB with a mask (h, w) of its size, got {colour.shape} and {mask.shape}"
        )
    alpha = np.asarray(mask, np.uint8) * np.uint8(255) if mask.dtype == np.bool_ else np.asarray(mask, np.uint8)
    if not alpha.any():
        raise InputError("a pasted object must have something in its mask, got one that is 0 throughout")
    return Cutout(np.asarray(colour, np.uint8), alpha)


def paste(image: Pixels, thing: Cutout, top: int, left: int) -> Pixels:
    """Pastes an object on ``image`` ``(H, W, 3)`` in place; its upper left corner (top, left) may be outside."""
    (height, width), (h, w) = image.shape[:2], thing.mask.shape
    y0, y1, x0, x1 = max(top, 0), min(top + h, height), max(left, 0), min(left + w, width)
    if y0 < y1 and x0 < x1:
        source = slice(y0 - top, y1 - top), slice(x0 - left, x1 - left)
        alpha = thing.mask[source].astype(np.uint16)[:, :, None]
        below = image[y0:y1, x0:x1]
        below[:] = (below * (255 - alpha) + thing.colour[source] * alpha + 127) // 255
    return image


def placed(size: tuple[int, int], share: float, edge: str, rng: random.Random) -> tuple[int, int, int, int]:
    """Top, left, height and width of a rectangle at an edge that covers a share of a picture of ``size``."""
    height, width = size
    area = min(share, 0.95) * height * width
    if edge == "below":
        w = rng.uniform(max(0.6, area / (height * width)), 1.0) * width
        h = area / w
    elif edge == "anywhere":
        h = min(max(math.sqrt(area * rng.uniform(0.7, 2.5)), area / width), height)
        w = area / h
    else:
        h = rng.uniform(max(0.6, area / (height * width)), 1.0) * height
        w = area / h
    h, w = min(max(round(h), 1), height), min(max(round(w), 1), width)
    top = rng.randint(0, height - h) if edge == "anywhere" else height - h
    left = {"left": 0, "right": width - w}.get(edge, rng.randint(0, width - w))
    return top, left, h, w


def passer_by(other: Pixels, size: tuple[int, int], share: float, rng: random.Random) -> tuple[Cutout, int, int]:
    """A person from another picture, nearer to the camera, beside or in front; with top and left."""
    height, width = size
    scale = rng.uniform(0.9, 1.6)
    tall, wide = round(scale * height), round(scale * width)
    thing = Cutout(cv2.resize(other, (wide, tall), interpolation=cv2.INTER_LINEAR), outline(tall, wide, rng))
    solid = thing.mask > 127
    if rng.random() < 0.35:  # head and shoulders, from below
        left = round(rng.uniform(-0.15, 0.15) * width) - (wide - width) // 2
        inside = solid[:, max(-left, 0) : width - left]
        return thing, height - enough(inside.sum(1), share * height * width, height), left
    top = round(rng.uniform(-0.1, 0.1) * height) - max(tall - height, 0) // 4
    inside = solid[max(-top, 0) : height - top]
    shown = enough(inside.sum(0), share * height * width, width)  # the outline is symmetric
    return thing, top, shown - wide if rng.random() < 0.5 else width - shown


def enough(counts: Pixels, area: float, most: int) -> int:
    """Number of first rows or columns that hold ``area`` pixels, given the pixels of each; at most ``most``."""
    return min(int(np.searchsorted(np.cumsum(counts), area)) + 1, most)


def outline(tall: int, wide: int, rng: random.Random) -> Pixels:
    """The mask ``(tall, wide)`` of an upright person in the middle, as in person boxes."""
    mask = np.zeros((tall, wide), np.uint8)
    shoulder, hip = rng.uniform(0.2, 0.27), rng.uniform(0.17, 0.24)
    head = (round(0.5 * wide), round(0.12 * tall)), (round(0.14 * wide), round(0.085 * tall))
    cv2.ellipse(mask, *head, 0, 0, 360, 255, cv2.FILLED)
    right = [(0.08, 0.16), (shoulder, 0.24), (shoulder, 0.5), (hip, 0.62), (hip, 1.0)]
    points = [(0.5 + x, y) for x, y in right] + [(0.5 - x, y) for x, y in reversed(right)]
    cv2.fillPoly(mask, [np.array([(round(x * wide), round(y * tall)) for x, y in points], np.int32)], 255)
    softened: Pixels = cv2.blur(mask, (3, 3))
    return softened


def patch(other: Pixels, h: int, w: int, rng: random.Random) -> Pixels:
    """A piece of another picture, resized to a rectangle."""
    height, width = other.shape[:2]
    tall, wide = (max(round(rng.uniform(0.2, 0.6) * side), 1) for side in (height, width))
    top, left = rng.randint(0, height - tall), rng.randint(0, width - wide)
    piece = other[top : top + tall, left : left + wide]
    resized: Pixels = cv2.resize(piece, (w, h), interpolation=cv2.INTER_LINEAR)
    return resized


def lit(thing: Cutout, factor: float) -> Cutout:
    """An object with changed brightness."""
    return thing._replace(colour=cv2.convertScaleAbs(thing.colour, alpha=factor))


@lru_cache(maxsize=len(TRAINING) * DRAWN)
def drawn_cutout(kind: Kind, number: int) -> Cutout:
    """One of the drawn objects, the same in each process; cached, since drawing takes milliseconds."""
    generator = np.random.Generator(np.random.PCG64([TRAINING.index(kind), number]))
    layer = sheet(kind, generator, CANVAS_HEIGHT, CANVAS_WIDTH, Light(-0.42, -0.52, 0.74))
    rows, columns = np.flatnonzero(layer.part.any(1)), np.flatnonzero(layer.part.any(0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    half = (max((columns[-1] + 1 - columns[0]) // 2, 1), max((rows[-1] + 1 - rows[0]) // 2, 1))
    solid = (layer.part[box] > 0).astype(np.uint8) * np.uint8(255)
    return Cutout(*(cv2.resize(part, half, interpolation=cv2.INTER_AREA) for part in (layer.colour[box], solid)))
