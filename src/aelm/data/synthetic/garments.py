"""Garments: prints, seams and straps as textures on the surface of a tube.

A texture maps a position along the tube and an angle around it to a palette index.
Angles are relative to the person's front: 0 the chest, pi/2 the left side, pi the back.
"""

import numpy as np

from aelm.data.synthetic.head import darker
from aelm.data.synthetic.paint import Bytes, Floats, Texture
from aelm.data.synthetic.people import Colour, Person

# Indices in the palette of the trunk.
MAIN, SECOND, LOGO, INNER, BAG, SEAM = range(6)
Palette = tuple[Colour, ...]


def palette(person: Person) -> Palette:
    """Colours of the upper garment, in the order of the constants above."""
    seam = darker(person.top, 0.62) if sum(person.top) > 150 else (64, 67, 76)
    return (person.top, person.second, person.logo_colour, person.inner, person.bag_colour, seam)


def pattern(kind: str, down: Floats, around: Floats) -> Bytes:
    """Positions where a garment has its second colour.

    Args:
        kind: One of ``people.PATTERNS``, or ``blobs``, ``halves`` and ``broad`` from ``varied``.
        down: Distance from the top, in body heights.
        around: Angle in radians.
    """
    arc = around * 0.1
    if kind == "hoops":
        shown = np.mod(down, 0.055) < 0.025
    elif kind == "pinstripes":
        shown = np.mod(arc, 0.036) < 0.011
    elif kind == "check":
        shown = (np.mod(down, 0.058) < 0.02) ^ (np.mod(arc, 0.058) < 0.02)
    elif kind == "dots":
        row = np.floor(down / 0.032)
        shown = np.hypot(np.mod(down, 0.032) - 0.016, np.mod(arc + 0.016 * np.mod(row, 2), 0.032) - 0.016) < 0.0105
    elif kind == "chest_band":
        shown = (down > 0.13) & (down < 0.2)
    elif kind == "yoke":
        shown = down < 0.105
    elif kind == "blobs":
        shown = np.sin(down * 97.0 + 2.0 * np.sin(arc * 61.0)) + np.sin(arc * 83.0 + 1.7 * np.sin(down * 71.0)) > 0.7
    elif kind == "halves":
        shown = (around > 0.0) & (down > -1.0)
    elif kind == "broad":
        shown = np.mod(down + 0.03, 0.16) < 0.07
    else:
        shown = np.zeros(np.broadcast_shapes(down.shape, around.shape), bool)
    return np.asarray(shown, np.uint8)


def logo(kind: str, down: Floats, around: Floats) -> Bytes:
    """Positions of a print on the chest; the same coordinates as ``pattern``."""
    x, y = around * 0.1, down - 0.135
    if kind == "disc":
        shown = np.hypot(x, y) < 0.04
    elif kind == "ring":
        shown = np.abs(np.hypot(x, y) - 0.033) < 0.011
    elif kind == "bar":
        shown = (np.abs(x) < 0.055) & (np.abs(y) < 0.017)
    elif kind == "square":
        shown = (np.abs(x) < 0.034) & (np.abs(y) < 0.034)
    elif kind == "cross":
        shown = (np.minimum(np.abs(x), np.abs(y)) < 0.012) & (np.maximum(np.abs(x), np.abs(y)) < 0.042)
    else:
        shown = np.zeros(x.shape, bool)
    return np.asarray(shown, np.uint8)


def trunk_texture(person: Person, yaw: float, length: float) -> Texture:
    """The upper garment with its print, seams, opening and the straps of a bag.

    Args:
        person: Attributes of the person.
        yaw: Direction of the chest, as in ``body.View``.
        length: From the neck to the hem, in body heights.
    """

    def texture(along: Floats, angle: Floats) -> Bytes:
        down = along * np.float32(length)
        around = np.mod(angle - np.float32(yaw) + np.float32(np.pi), np.float32(2 * np.pi)) - np.float32(np.pi)
        index = pattern(person.pattern, down, around)
        side = np.abs(around)
        if person.pattern == "plain" and not person.is_open:
            index[logo(person.logo, down, around) > 0] = LOGO
        if person.is_open:
            index[side < 0.2 + 0.5 * along] = INNER
            index[np.abs(side - 0.22 - 0.5 * along) < 0.05] = SEAM
        elif person.garment in ("jacket", "coat", "shirt"):
            index[side < 0.05] = SEAM
        if person.garment in ("sweater", "hoodie", "jacket"):
            index[down > length - 0.028] = SEAM
        if person.garment in ("hoodie", "jacket", "coat"):
            index[(np.abs(side - 0.62) < 0.06) & (np.abs(down - 0.26) < 0.035)] = SEAM  # pockets
        if person.garment in ("shirt", "coat"):
            index[(down < 0.05) & (side < 1.2)] = SEAM if person.garment == "coat" else INNER
        if person.garment == "tee":
            index[(down < 0.03) & (side < 1.0)] = SEAM
        if person.bag == "backpack":
            index[(np.abs(side - 0.66) < 0.13) & (down < 0.2)] = BAG
        if person.bag == "messenger":
            index[np.abs(down - 0.2 - 0.17 * np.sin(around)) < 0.015] = BAG
        return index

    return texture


def sleeve_texture(person: Person, length: float, worn: float) -> Texture:
    """A part of a sleeve: the continued pattern of the garment, and the cuff.

    Args:
        person: Attributes of the person.
        length: Of this part, in body heights.
        worn: Start of this part, in body heights below the shoulder.
    """
    kind = person.pattern if person.pattern in ("hoops", "pinstripes", "check", "dots", "blobs", "broad") else "plain"

    def texture(along: Floats, angle: Floats) -> Bytes:
        index = pattern(kind, along * np.float32(length) + np.float32(worn), angle * np.float32(0.5))
        if person.pattern == "yoke":
            index[:] = SECOND
        if person.pattern == "chest_band" and worn == 0.0:
            index[(along > 0.5) & (along < 0.85)] = SECOND
        if worn > 0.0 and person.garment in ("sweater", "hoodie", "jacket"):
            index[along > 0.85] = SEAM
        return index

    return texture


def leg_texture(yaw: float, side: int) -> Texture:
    """Trousers with a stripe along the outer seam; the palette is cloth and stripe."""

    def texture(along: Floats, angle: Floats) -> Bytes:
        around = np.mod(angle - np.float32(yaw + side * np.pi / 2 - np.pi), np.float32(2 * np.pi)) - np.float32(np.pi)
        return np.asarray(np.abs(around) < 0.32, np.uint8)

    return texture
