"""Occluding objects, each drawn at canvas size; ``occluders`` moves and crops them."""

import cv2
import numpy as np

from aelm.data.synthetic.body import Pose, View
from aelm.data.synthetic.dress import draw_person
from aelm.data.synthetic.head import darker
from aelm.data.synthetic.paint import Bytes, Cloth, Floats, Layer, Light, tube
from aelm.data.synthetic.people import Colour, between, person, pick
from aelm.data.synthetic.scenes import Rng, clouds

STRANGERS = 1_000_000  # identities from here on are only used as occluders


def _fill(layer: Layer, top: np.ndarray, colour: np.ndarray) -> None:
    """Draws ``colour`` ``(h, w, 3)`` below the row ``top`` ``(w,)`` of every column."""
    solid = np.arange(layer.part.shape[0])[:, None] >= top[None, :]
    layer.colour[:] = np.clip(colour, 0, 255).astype(np.uint8) * solid[:, :, None].astype(np.uint8)
    layer.part[:] = solid


def wall(layer: Layer, generator: Rng, light: Light) -> None:
    """Large concrete blocks under a coping stone."""
    height, width = layer.part.shape
    stone = np.asarray(pick(generator, ((168, 164, 156), (146, 140, 132), (176, 158, 134))), np.float32)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    shifted = columns + 44 * np.mod(np.floor(rows / 46), 2) + between(generator, 0, 88)
    joint = (np.mod(rows, 46) < 3) | (np.mod(shifted, 88) < 3)
    tone = generator.random((32, 32), dtype=np.float32) * 0.16 + 0.88
    shade = tone[(rows / 46).astype(np.intp) % 32, (shifted / 88).astype(np.intp) % 32] * np.where(joint, 0.78, 1.0)
    shade[:20] = 1.12
    shade[20:26] = 0.66
    _fill(layer, np.zeros(width), stone * shade[:, :, None] + 7 * clouds(generator, 60, (height, width)))


def pillar(layer: Layer, generator: Rng, light: Light) -> None:
    """A round column or a tree trunk."""
    height, width = layer.part.shape
    bark: Colour = pick(generator, ((112, 92, 72), (150, 146, 140), (96, 84, 74), (176, 168, 152)))
    radius = width * between(generator, 0.2, 0.32)
    groove = between(generator, 0.2, 0.4)

    def grooves(along: Floats, angle: Floats) -> Bytes:
        bend = 0.12 * np.sin(along * 23.0) + 0.07 * np.sin(along * 57.0 + 1.0)
        return np.asarray(np.mod(angle + bend, groove) < 0.3 * groove, np.uint8)

    cloth = Cloth((bark, darker(bark, 0.78)), grooves, creases=0.7)
    start, end = np.array([width / 2, -30], np.float32), np.array([width / 2, height + 30], np.float32)
    tube(layer, start, end, [radius, radius, radius * 1.06], cloth, light, 1, (False, False))


def car(layer: Layer, generator: Rng, light: Light) -> None:
    """The side of a parked car: roof, windows, doors, wheels."""
    height, width = layer.part.shape
    paint = np.asarray(
        pick(generator, ((172, 40, 44), (58, 84, 130), (206, 206, 204), (52, 54, 60), (120, 126, 132))), np.float32
    )
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    lean = between(generator, -0.25, 0.45) * width
    roof = np.maximum((np.arange(width) - width * 0.5) * np.sign(lean) * 0.9 - width * 0.2, 0) * abs(lean) / width * 2.2
    depth = rows - roof[None, :]
    colour = np.broadcast_to(paint, (height, width, 3)) * np.clip(1.2 - np.abs(depth - 130) / 420, 0.6, 1.2)[:, :, None]
    colour = np.where(((depth < 16) & (depth > 7))[:, :, None], paint * 0.75, colour)
    glass = (depth > 18) & (depth < 104) & (np.mod(columns + between(generator, 0, 150), 168) > 14)
    pane = np.array((74, 88, 98), np.float32) + 46 * np.clip(np.sin((columns + rows) / 34), 0, 1)[:, :, None]
    colour = np.where(glass[:, :, None], pane, colour)
    seam = (np.abs(depth - 128) < 3) | (np.mod(columns + 40, 168) < 3) & (depth > 104)
    colour = np.where(seam[:, :, None], colour * 0.66, colour)
    colour = np.where((depth > 262)[:, :, None], np.array((44, 44, 48), np.float32), colour)
    wheel = np.hypot(columns - width * between(generator, 0.1, 0.9), depth - 258)
    colour = np.where((wheel < 66)[:, :, None], np.array((30, 30, 33), np.float32), colour)
    colour = np.where((wheel < 38)[:, :, None], np.array((150, 152, 156), np.float32), colour)
    _fill(layer, roof, colour)


def bush(layer: Layer, generator: Rng, light: Light) -> None:
    """A hedge of leaves in three shades."""
    height, width = layer.part.shape
    green: Colour = pick(generator, ((70, 100, 54), (88, 112, 58), (58, 88, 62)))
    top = 26 + 20 * clouds(generator, 10, (width * 2, width))[0, :, 0]
    _fill(layer, top, np.broadcast_to(np.array(darker(green, 0.72), np.float32), (height, width, 3)))
    for number in range(420):
        x = generator.random() * width
        y = top[int(x)] + (generator.random() ** 1.3) * height * 0.9
        size = between(generator, 7, 14)
        turn = between(generator, 0, 180)
        tone = darker(green, pick(generator, (0.62, 0.8, 0.95, 1.12, 1.3)) * (1.0 - 0.25 * y / height))
        axes = (int(size), int(size * 0.6))
        for canvas, value in ((layer.colour, tone), (layer.part, 1)):
            cv2.ellipse(canvas, (int(x), int(y)), axes, turn, 0, 360, value, -1)
        if number % 90 == 0:
            cv2.circle(layer.colour, (int(x), int(y)), 5, (216, 190, 200), -1)


def board(layer: Layer, generator: Rng, light: Light) -> None:
    """A poster in a frame, as tall as the picture."""
    height, width = layer.part.shape
    paper = np.asarray(
        pick(generator, ((206, 196, 170), (62, 92, 110), (178, 84, 66), (220, 216, 208), (96, 124, 98))), np.float32
    )
    half = width * between(generator, 0.3, 0.42)
    left, right = int(width / 2 - half), int(width / 2 + half)
    layer.part[:, left:right] = 1
    layer.colour[:, left:right] = (70, 72, 78)
    poster = layer.colour[:, left + 10 : right - 10]
    poster[:] = np.clip(paper * np.linspace(1.06, 0.86, height)[:, None, None], 0, 255)
    tall, wide = poster.shape[:2]
    ink: Colour = pick(generator, ((210, 84, 60), (236, 196, 84), (48, 66, 92), (244, 240, 230)))
    cv2.circle(
        poster,
        (int(wide * between(generator, 0.2, 0.8)), int(tall * between(generator, 0.15, 0.5))),
        int(wide * 0.36),
        ink,
        -1,
    )
    other: Colour = pick(generator, ((48, 56, 70), (240, 236, 226), (150, 60, 70)))
    base = int(tall * between(generator, 0.55, 0.8))
    slope = int(wide * between(generator, -0.5, 0.5))
    corners = [[0, base], [wide, base + slope], [wide, base + slope + 90], [0, base + 90]]
    cv2.fillPoly(poster, [np.array(corners, np.int32)], other)
    for line in range(3):
        y = 26 + line * 20
        cv2.rectangle(poster, (12, y), (12 + int((wide - 24) * between(generator, 0.4, 1.0)), y + 8), other, -1)


def crates(layer: Layer, generator: Rng, light: Light) -> None:
    """A stack of cardboard boxes and crates."""
    height, width = layer.part.shape
    y = float(height) + 20
    while y > 30:
        tall = between(generator, 70, 110)
        x = -between(generator, 0, 80)
        while x < width:
            wide = between(generator, 80, 140)
            board: Colour = pick(
                generator, ((176, 138, 94), (160, 122, 82), (190, 156, 112), (140, 112, 84), (96, 120, 132))
            )
            up = max(y - tall + (between(generator, -24, 16) if y - tall < 60 else 0), 0)
            corner, opposite = (int(x), int(up)), (int(x + wide) - 1, int(y))
            cv2.rectangle(layer.part, corner, opposite, 1, -1)
            cv2.rectangle(layer.colour, corner, opposite, darker(board, between(generator, 0.86, 1.06)), -1)
            cv2.rectangle(layer.colour, corner, opposite, darker(board, 0.58), 4)
            for slat in (0.36, 0.68) if generator.random() < 0.5 else ():
                row = int(up + slat * (y - up))
                cv2.rectangle(layer.colour, (int(x) + 4, row), (int(x + wide) - 4, row + 5), darker(board, 0.66), -1)
            tape = int(x + wide * 0.45)
            cv2.rectangle(layer.colour, (tape, int(up) + 3), (tape + 10, int(up) + 22), (214, 198, 160), -1)
            x += wide
        y -= tall


def stranger(layer: Layer, generator: Rng, light: Light, size: float = 1.2) -> None:
    """Another person, nearer to the camera, ``size`` canvases tall."""
    height, width = layer.part.shape
    somebody = person(int(generator.random() * 2**31), STRANGERS)
    pose = Pose(
        between(generator, 0, 6.28), 0.25, 0.25, between(generator, 0.2, 0.6), 0.03, between(generator, -0.4, 0.4)
    )
    scale = height * size * between(generator, 0.95, 1.05)
    # The nearer the person, the more of the head is above the picture: the trunk hides most.
    foot = (width / 2, height * (0.12 - 0.2 * (size - 1.2)) + scale * 0.96)
    draw_person(layer, somebody, pose, View(between(generator, -np.pi, np.pi), 0.15, scale, foot), light)
