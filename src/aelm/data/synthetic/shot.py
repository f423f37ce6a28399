"""One shot: an identity, seen by a camera, at one moment, with or without an occluder."""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from aelm.data.synthetic.body import Pose, View
from aelm.data.synthetic.camera import Camera, backdrop, camera, expose, shadow
from aelm.data.synthetic.dress import draw_person
from aelm.data.synthetic.occluders import Kind, cover
from aelm.data.synthetic.paint import CANVAS_HEIGHT, CANVAS_WIDTH, Bytes, Floats, Layer, blank
from aelm.data.synthetic.people import OCCLUSIONS, SHOTS, between, person, stream
from aelm.types import InputError


class Shot(NamedTuple):
    """A picture and its ground truth.

    Attributes:
        image: ``(h, w, 3)`` uint8, RGB.
        parts: ``(h, w)`` uint8, the ``BodyPart`` of every pixel, also where it is occluded.
        hidden: ``(h, w)`` bool, True where it is occluded.
    """

    image: Bytes
    parts: Bytes
    hidden: NDArray[np.bool_]


def moment(eye: Camera, generator: np.random.Generator, loose: float = 1.0) -> tuple[Pose, View]:
    """Draws a random pose and view of one shot; ``loose`` scales the errors of the box around the person."""
    pose = Pose(
        phase=between(generator, 0.0, 2 * np.pi),
        stride=between(generator, 0.12, 0.46),
        swing=between(generator, 0.1, 0.5),
        elbow=between(generator, 0.15, 0.7),
        lean=between(generator, 0.0, 0.09),
        turn=between(generator, -0.45, 0.45),
    )
    # The sum of two numbers: most people are seen from the camera's usual side, some from other sides.
    offset = between(generator, -1.0, 1.0) + between(generator, -1.0, 1.0)
    aside = between(generator, -np.pi, np.pi) if generator.random() < 0.15 else 0.0
    scale = CANVAS_HEIGHT * between(generator, 0.86 - 0.04 * loose, 0.89 + 0.02 * loose)
    foot = (
        CANVAS_WIDTH * (0.5 + 0.05 * loose * between(generator, -1.0, 1.0)),
        CANVAS_HEIGHT * (0.945 + 0.025 * loose * between(generator, -1.0, 1.0)),
    )
    pitch = eye.pitch + between(generator, -0.04, 0.04)
    return pose, View(eye.yaw + eye.yaw_spread * offset + aside, pitch, scale, foot)


def shoot(
    seed: int,
    identity: int,
    number: int,
    index: int,
    *,
    occluder: Kind | None = None,
    covered: tuple[float, float] = (0.35, 0.6),
    loose: float = 1.0,
    height: int = 128,
) -> Shot:
    """Draws one picture; the same arguments give the same picture, in any order and process.

    Args:
        seed: Of the world.
        identity: Number of the person.
        number: The camera, from 1.
        index: Number of the shot of this person by this camera.
        occluder: Kind of the occluder; the rest of the picture does not depend on it.
        covered: Bounds of the share of the body that the occluder hides.
        loose: Scale of the errors of the box around the person; 1 is a good detector, 4 a bad detection.
        height: Of the picture in pixels; the width is half the height.

    Raises:
        ValueError: If ``height`` is odd or not positive.
    """
    if height < 2 or height % 2:
        raise InputError(f"`height` must be even and positive, got {height}")
    generator = stream(SHOTS, seed, identity, number, index)
    eye = camera(seed, number)
    who = person(seed, identity)
    pose, view = moment(eye, generator, loose)
    layer = blank()
    draw_person(layer, who, pose, view, eye.light)
    feet = (view.foot[0] / CANVAS_HEIGHT, (view.foot[1] - 6) / CANVAS_HEIGHT)
    picture = backdrop(eye, generator, height) * shadow(eye, feet, who.girth, height)
    picture = over(picture, layer)
    front = None
    if occluder is not None:
        chance = stream(OCCLUSIONS, seed, identity, number, index)
        front = cover(layer.part > 0, between(chance, *covered), occluder, chance, eye.light)
        picture = over(picture, front)
    hidden = np.zeros((height, height // 2), bool) if front is None else shrink_labels(front.part, height) > 0
    return Shot(expose(eye, picture, generator), shrink_labels(layer.part, height), hidden)


def over(picture: Floats, layer: Layer) -> Floats:
    """Blends a canvas layer over a picture of another size; downscaling softens its edges."""
    size = (picture.shape[1], picture.shape[0])
    alpha = cv2.resize((layer.part > 0).astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    colour = cv2.resize(layer.colour, size, interpolation=cv2.INTER_AREA)
    # The canvas is black where it is empty, so the downscaled colour is already weighted by the coverage.
    result: Floats = picture * (1.0 - alpha[:, :, None].astype(np.float32) / 255.0) + colour
    return result


def shrink_labels(part: Bytes, height: int) -> Bytes:
    """Downscales labels: each pixel gets the label at its centre."""
    rows = ((np.arange(height) + 0.5) * part.shape[0] / height).astype(np.intp)
    columns = ((np.arange(height // 2) + 0.5) * part.shape[1] / (height // 2)).astype(np.intp)
    labels: Bytes = part[rows[:, None], columns[None, :]]
    return labels
