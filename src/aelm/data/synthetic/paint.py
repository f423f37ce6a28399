"""Drawing: anti-aliased layers, and tubes with the shading and texture of cylinders.

Everything is drawn on a canvas of fixed size, several times larger than the picture, and downscaled once at the end.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Texture = Callable[[Floats, Floats], Bytes]

CANVAS_HEIGHT, CANVAS_WIDTH = 512, 256
AMBIENT, DIFFUSE = 0.5, 0.62
STEPS = np.arange(64) / 63  # positions along a tube at which its radius is given
CAP_ANGLES = np.arange(1, 8, dtype=np.float32)[:, None] * np.float32(np.pi / 8)
CAP_COS, CAP_SIN = np.cos(CAP_ANGLES), np.sin(CAP_ANGLES)


class Layer(NamedTuple):
    """A transparent canvas: colours, and part labels (0 where it is empty).

    Attributes:
        colour: ``(h, w, 3)`` uint8, RGB.
        part: ``(h, w)`` uint8, a ``BodyPart`` or any non-zero mark.
    """

    colour: Bytes
    part: Bytes


class Light(NamedTuple):
    """Direction of the light in camera coordinates: right, down, towards the camera; of unit length."""

    x: float
    y: float
    z: float


def blank(height: int = CANVAS_HEIGHT, width: int = CANVAS_WIDTH) -> Layer:
    """An empty layer."""
    return Layer(np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8))


def _wrinkles() -> Floats:
    """A fixed tile of soft noise around 1, stretched horizontally: creases run across a limb."""
    generator = np.random.Generator(np.random.PCG64(20190714))
    tile = np.zeros((128, 128), np.float32)
    for cells, weight in ((6, 0.5), (14, 0.35), (30, 0.2)):
        rough = generator.random((cells, cells // 2), dtype=np.float32) - 0.5
        tile += weight * cv2.resize(np.pad(rough, ((0, 1), (0, 1)), mode="wrap"), (128, 128))
    return 1.0 + 0.5 * tile


WRINKLES = _wrinkles()


def region(layer: Layer, outline: Floats) -> tuple[tuple[slice, slice], Bytes, Floats, Floats] | None:
    """The bounding box of a polygon, its mask and coordinates there; None if it is outside the canvas."""
    height, width = layer.part.shape
    x0, y0 = np.floor(np.minimum.reduce(outline)).astype(int).tolist()
    x1, y1 = np.ceil(np.maximum.reduce(outline)).astype(int).tolist()
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1 + 1, width), min(y1 + 1, height)
    if x0 >= x1 or y0 >= y1:
        return None
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    # Sixteenths of a pixel: rounding removes platform differences in the last bits of sin and cos.
    corners = np.rint((outline - (x0, y0)) * 16).astype(np.int32)
    cv2.fillPoly(mask, [corners], 1, shift=4)
    x = np.arange(x0, x1, dtype=np.float32)[None, :]
    y = np.arange(y0, y1, dtype=np.float32)[:, None]
    return (slice(y0, y1), slice(x0, x1)), mask, x, y


def put(layer: Layer, box: tuple[slice, slice], mask: Bytes, colour: Floats, part: int) -> None:
    """Sets colours (0..255, float) and the part in the layer where the mask, of 0 and 1, is 1."""
    cv2.copyTo(np.clip(colour, 0, 255).astype(np.uint8), mask, layer.colour[box])
    np.copyto(layer.part[box], np.uint8(part), where=mask.view(bool))


def flat(layer: Layer, outline: Floats, colour: Sequence[float], part: int, fade: float = 1.0) -> None:
    """Fills a polygon with one colour, darkened towards the bottom by up to ``fade``."""
    found = region(layer, outline)
    if found is None:
        return
    box, mask, _, y = found
    shade = 1.0 + (fade - 1.0) * (y - y[0]) / max(len(y) - 1, 1)
    tint = np.asarray(colour, np.float32) * shade[:, :, None]
    put(layer, box, mask, np.broadcast_to(tint, (*mask.shape, 3)), part)


def dim(layer: Layer, outline: Floats, factor: float) -> None:
    """Darkens the drawn pixels inside a polygon: a shadow of one part on another."""
    found = region(layer, outline)
    if found is None:
        return
    box, mask, _, _ = found
    here = layer.colour[box]
    cv2.copyTo(cv2.convertScaleAbs(here, alpha=factor), mask, here)


def tube_outline(start: Floats, end: Floats, radii: Floats, round_start: bool, round_end: bool) -> Floats:
    """The outline of a straight tube with radii at evenly spaced positions; round or flat ends."""
    axis = end - start
    length = max(float(np.hypot(*axis)), 1e-3)
    along = axis / length
    across = np.array([-along[1], along[0]], np.float32)
    stations = start + np.arange(len(radii), dtype=np.float32)[:, None] / np.float32(len(radii) - 1) * axis
    aside = radii[:, None] * across
    left, right = stations + aside, stations - aside
    cap = CAP_COS * across + CAP_SIN * along
    cap_end, cap_start = end + radii[-1] * cap, start - radii[0] * cap
    pieces = [left, *([cap_end] if round_end else []), right[::-1], *([cap_start] if round_start else [])]
    return np.concatenate(pieces, dtype=np.float32)


class Cloth(NamedTuple):
    """Material of a tube.

    Attributes:
        palette: Colours of the texture; without texture the first one is used.
        texture: Maps (position along 0..1, angle on screen in radians) to a palette index.
        creases: Strength of wrinkles; 0 for skin.
        phase: Offset of the wrinkles, so that limbs differ.
    """

    palette: tuple[tuple[int, int, int], ...]
    texture: Texture | None = None
    creases: float = 1.0
    phase: int = 0


def tube(
    layer: Layer,
    start: Floats,
    end: Floats,
    radii: Sequence[float],
    cloth: Cloth,
    light: Light,
    part: int,
    ends: tuple[bool, bool] = (True, True),
) -> None:
    """Draws a limb, a torso or a skirt: a tube from ``start`` to ``end`` (canvas pixels), lit as a cylinder."""
    profile = np.asarray(radii, np.float32)
    found = region(layer, tube_outline(start, end, profile, *ends))
    if found is None:
        return
    box, mask, x, y = found
    axis = end - start
    length = max(float(np.hypot(*axis)), 1e-3)
    ax, ay = (axis / length).tolist()
    dx, dy = x - float(start[0]), y - float(start[1])
    along = np.clip((dx * ax + dy * ay) / length, 0.0, 1.0)  # (h, w)
    table = np.interp(STEPS, np.arange(len(profile)) / (len(profile) - 1), profile).astype(np.float32)
    radius = np.maximum(table, 1e-3).take((along * 63).astype(np.int32))
    sine = np.clip((dx * -ay + dy * ax) / radius, -0.995, 0.995)
    facing = np.sqrt(1.0 - sine * sine)
    shade = AMBIENT + DIFFUSE * np.maximum(sine * (-ay * light.x + ax * light.y) + facing * light.z, 0.0)
    if cloth.creases:
        row = (along * (length * 0.5) + cloth.phase).astype(np.int32) & 127
        column = ((sine + 1.0) * 30 + cloth.phase * 3).astype(np.int32) & 127
        shade *= 1.0 + cloth.creases * (WRINKLES.take(row * 128 + column) - 1.0)
    palette = np.asarray(cloth.palette, np.float32)
    # The angle around the tube: 0 faces the camera, +pi/2 is the right edge of a tube that points down.
    index = None if cloth.texture is None else cloth.texture(along, -np.arcsin(sine))
    colour = cv2.merge([shade * (tints[0] if index is None else tints.take(index)) for tints in palette.T])
    put(layer, box, mask, colour, part)
