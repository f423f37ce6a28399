"""More varied people for the starter model: any colour, hundreds of cameras, bad light, bad boxes, crowds.

Drawing works as in ``shot``, but colours are not limited to palettes, and the picture quality is lower. The frozen sets
do not depend on this file.
"""

from functools import lru_cache
from typing import Any

import cv2
import numpy as np

from aelm.data.synthetic.body import View
from aelm.data.synthetic.camera import Camera, backdrop, camera, expose, shadow
from aelm.data.synthetic.dress import draw_person
from aelm.data.synthetic.occluders import Kind, cover
from aelm.data.synthetic.paint import CANVAS_HEIGHT, CANVAS_WIDTH, Bytes, Floats, blank
from aelm.data.synthetic.people import CAMERAS, OCCLUSIONS, PEOPLE, SHOTS, Colour, Person, between, pick, stream
from aelm.data.synthetic.people import person as usual
from aelm.data.synthetic.scenes import Rng, clouds
from aelm.data.synthetic.shot import Shot, moment, over, shrink_labels

NEIGHBOURS = 40  # identities that share their cameras
TWINS = 3  # every third identity differs from the one before only in a few attributes
PASSERS_BY = 2_000_000  # identities from here on are only in the background


def hue(draw: Rng) -> Colour:
    """A random colour of clothes: half of them black, grey or white, the others any colour."""
    if draw.random() < 0.5:
        hsv = (between(draw, 0, 180), between(draw, 0, 40), 235 * between(draw, 0.25, 1.0) ** 2 + 12)
    else:
        hsv = (between(draw, 0, 180), between(draw, 60, 245), between(draw, 40, 240))
    red, green, blue = cv2.cvtColor(np.array([[hsv]], np.uint8), cv2.COLOR_HSV2RGB)[0, 0].tolist()
    return red, green, blue


def person(seed: int, identity: int) -> Person:
    """Draws the attributes of one identity; every third one resembles the one before.

    >>> person(0, 7) == person(0, 7), person(0, 7) == person(0, 8)
    (True, False)
    """
    draw = stream(PEOPLE, seed, identity, 1)
    who = usual(seed, identity)
    dark = pick(draw, ((24, 22, 22), (34, 28, 26), (52, 38, 30)))
    who = who._replace(
        hair=dark if draw.random() < 0.6 else who.hair,
        top=hue(draw),
        second=hue(draw),
        logo_colour=hue(draw),
        inner=hue(draw),
        bottom=hue(draw),
        bag_colour=hue(draw),
        hat_colour=hue(draw),
        shoes=hue(draw),
        pattern=pick(draw, ("plain", "plain", who.pattern, "blobs", "halves", "broad")),
        legwear=pick(draw, (who.legwear, who.legwear, "shorts", "slim")),
        girth=between(draw, 0.78, 1.3),
    )
    if identity % TWINS != 1:
        return who
    other = person(seed, identity - 1)
    changed = [name for name in Person._fields if draw.random() < 0.2] or ["top"]
    return Person._make(getattr(who if name in changed else other, name) for name in Person._fields)


@lru_cache(maxsize=64)
def eye_of(seed: int, world: int, number: int) -> Camera:
    """A camera of a world: like :func:`camera`, with stronger variation of exposure, sharpness and angle."""
    draw = stream(CAMERAS, seed, world, number)
    eye = camera(seed * 10_007 + world, number)
    exposure = between(draw, 0.75, 1.5)
    red, green, blue = (gain * exposure * between(draw, 0.88, 1.12) for gain in eye.gain)
    return eye._replace(
        gain=(red, green, blue),
        yaw_spread=between(draw, 0.4, 1.6),
        pitch=between(draw, 0.02, 0.5),
        gamma=between(draw, 0.6, 1.6),
        haze=between(draw, 0.0, 0.3) * between(draw, 0.0, 1.0),
        blur=between(draw, 0.001, 0.008),
        detail=between(draw, 0.45, 1.0),
        noise=between(draw, 0.5, 7.0),
    )


def leaves(draw: Rng, height: int) -> Floats:
    """A background of overlapping shapes, whose edges are distributed as in photographs; ``(h, h / 2, 3)``.

    Reference: Lee, Mumford and Huang 2001, Occlusion models for natural images (the dead leaves model).
    """
    width = height // 2
    picture = np.empty((height, width, 3), np.float32)
    picture[:] = hue(draw)
    for _ in range(int(between(draw, 15, 120))):
        radius = 2.0 / (1.0 - 0.97 * draw.random()) ** 0.5 * height / 64
        tall, wide = radius * between(draw, 0.5, 3), radius * between(draw, 0.5, 2)
        centre = (int(draw.random() * width), int(draw.random() * height))
        colour = np.asarray(hue(draw), np.float32) * 0.7 + 40
        if draw.random() < 0.5:
            cv2.ellipse(
                picture, centre, (int(wide) + 1, int(tall) + 1), 180 * draw.random(), 0, 360, colour.tolist(), -1
            )
        else:
            corner = (centre[0] + int(2 * wide) + 1, centre[1] + int(2 * tall) + 1)
            cv2.rectangle(picture, centre, corner, colour.tolist(), -1)
    return picture + 18 * clouds(draw, 12, (height, width)) + 12 * clouds(draw, 40, (height, width))


def place(eye: Camera, draw: Rng, height: int) -> Floats:
    """The background: the camera's scene in other colours, or shapes."""
    if draw.random() < 0.4:
        return leaves(draw, height)
    window = backdrop(eye, draw, height)
    grey = window.mean(axis=2, keepdims=True)
    tinted = grey + (window - grey) * between(draw, 0.1, 1.2)
    result: Floats = tinted * np.array([between(draw, 0.8, 1.2) for _ in range(3)], np.float32)
    return result


def degrade(picture: Bytes, draw: Rng) -> Bytes:
    """Adds motion blur, low resolution and compression artefacts."""
    height, width = picture.shape[:2]
    if draw.random() < 0.3:
        length = int(between(draw, 2, 9) * height / 128) | 1
        kernel = np.zeros((length, length), np.float32)
        kernel[length // 2] = 1.0 / length
        turn = cv2.getRotationMatrix2D((length / 2 - 0.5, length / 2 - 0.5), between(draw, -30, 30), 1.0)
        kernel = cv2.warpAffine(kernel, turn, (length, length))
        picture = cv2.filter2D(picture, -1, kernel / max(float(kernel.sum()), 1e-3))
    if draw.random() < 0.4:
        detail = between(draw, 0.2, 0.8)
        small = cv2.resize(picture, (int(width * detail), int(height * detail)), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(between(draw, 25, 95))])
    result: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
    return np.asarray(result, np.uint8)


def boxed(picture: Bytes, draw: Rng) -> tuple[int, int, int, int]:
    """The box of an inaccurate detector: top, bottom, left, right."""
    height, width = picture.shape[:2]
    if draw.random() < 0.6:
        return 0, height, 0, width
    cut = [between(draw, 0.0, share) for share in (0.08, 0.2, 0.14, 0.14)]
    return int(cut[0] * height), height - int(cut[1] * height), int(cut[2] * width), width - int(cut[3] * width)


def shoot(
    seed: int,
    identity: int,
    number: int,
    index: int,
    *,
    occluder: Kind | None = None,
    loose: float = 1.0,
    height: int = 128,
) -> Shot:
    """Draws one picture, with the arguments and the result of :func:`aelm.data.synthetic.shot.shoot`."""
    draw = stream(SHOTS, seed, identity, number, index, 1)
    eye = eye_of(seed, identity // NEIGHBOURS, number)
    pose, view = moment(eye, draw, loose * between(draw, 0.5, 2.5))
    layer = blank()
    draw_person(layer, person(seed, identity), pose, view, eye.light)
    picture = place(eye, draw, height)
    for _ in range(int(draw.random() * 1.6)):  # people in the background
        there, seen = moment(eye, draw)
        at = (CANVAS_WIDTH * between(draw, -0.2, 1.2), CANVAS_HEIGHT * between(draw, 0.6, 0.95))
        behind = blank()
        other = person(seed, PASSERS_BY + int(draw.random() * 10_000))
        draw_person(
            behind, other, there, View(seen.yaw, seen.pitch, seen.scale * between(draw, 0.4, 0.9), at), eye.light
        )
        picture = over(picture, behind)
    feet = (view.foot[0] / CANVAS_HEIGHT, (view.foot[1] - 6) / CANVAS_HEIGHT)
    picture = over(picture * shadow(eye, feet, 1.0, height), layer)
    # Soft shadows over the whole picture.
    shape = (height, height // 2)
    folds = 1 + between(draw, 0.0, 0.25) * clouds(draw, 28, shape) + between(draw, 0.0, 0.4) * clouds(draw, 4, shape)
    picture = np.clip(picture * folds, 0, 255)
    hidden = np.zeros(shape, bool)
    if occluder is not None:
        chance = stream(OCCLUSIONS, seed, identity, number, index, 1)
        front = cover(layer.part > 0, between(chance, 0.1, 0.5), occluder, chance, eye.light)
        picture = over(picture, front)
        hidden = shrink_labels(front.part, height) > 0
    image = degrade(expose(eye, picture, draw), draw)
    top, bottom, left, right = boxed(image, draw)

    def cut(plane: Bytes, kind: int) -> Bytes:
        part: Bytes = cv2.resize(plane[top:bottom, left:right], (height // 2, height), interpolation=kind)
        return part

    hidden = cut(hidden.astype(np.uint8), cv2.INTER_NEAREST) > 0
    return Shot(cut(image, cv2.INTER_LINEAR), cut(shrink_labels(layer.part, height), cv2.INTER_NEAREST), hidden)
