"""Cameras: viewpoint, light, and the effects of lens and sensor."""

from typing import NamedTuple

import cv2
import numpy as np

from aelm.data.synthetic.paint import Bytes, Floats, Light
from aelm.data.synthetic.people import CAMERAS, between, stream
from aelm.data.synthetic.scenes import SCENE_HEIGHT, SCENE_WIDTH, scene
from aelm.types import InputError


class Camera(NamedTuple):
    """Properties common to all pictures of a camera.

    Attributes:
        number: From 1.
        seed: Of the camera's world.
        yaw: Usual viewing side; 0 is the front of people.
        yaw_spread: Variation of the yaw, in radians.
        pitch: Downward angle, in radians.
        light: Direction of the light.
        gain: Of red, green and blue.
        gamma: Above 1 darkens the middle tones.
        haze: Share of grey haze, 0..1.
        blur: Standard deviation of the lens blur, in picture heights.
        detail: Share of the resolution that is kept.
        noise: Standard deviation of the sensor, in grey levels.
    """

    number: int
    seed: int
    yaw: float
    yaw_spread: float
    pitch: float
    light: Light
    gain: tuple[float, float, float]
    gamma: float
    haze: float
    blur: float
    detail: float
    noise: float


def camera(seed: int, number: int) -> Camera:
    """The camera with this number; consecutive cameras differ strongly in exposure and tint.

    >>> camera(0, 1) == camera(0, 1), camera(0, 1).gain == camera(0, 2).gain
    (True, False)
    """
    if number < 1:
        raise InputError(f"cameras count from 1, got {number}")
    world = stream(CAMERAS, seed, 0, 0)
    start_tint, start_side = world.random(), world.random()
    draw = stream(CAMERAS, seed, number, 0)
    # Golden-ratio steps spread tints and sides evenly for any number of cameras.
    tint = 2 * np.pi * (start_tint + 0.618034 * number)
    exposure = (0.72, 1.05, 0.86, 1.18, 0.78, 0.96)[number % 6] * between(draw, 0.95, 1.05)
    strength = between(draw, 0.09, 0.19)
    # Light sources vary more between warm and cold than between green and magenta.
    red = exposure * (1 + strength * np.cos(tint))
    green = exposure * (1 + 0.4 * strength * np.cos(tint + 2.3))
    blue = exposure * (1 + strength * np.cos(tint + 3.7))
    direction = np.array([between(draw, -0.6, 0.6), -0.5, between(draw, 0.6, 0.9)])
    x, y, z = (direction / np.linalg.norm(direction)).tolist()
    return Camera(
        number=number,
        seed=seed,
        yaw=2 * np.pi * float(start_side + 0.382 * number),
        yaw_spread=between(draw, 0.5, 0.95),
        pitch=between(draw, 0.1, 0.34),
        light=Light(x, y, z),
        gain=(float(red), float(green), float(blue)),
        gamma=between(draw, 0.85, 1.25),
        haze=between(draw, 0.0, 0.1),
        blur=between(draw, 0.0028, 0.0068),
        detail=between(draw, 0.6, 1.0),
        noise=between(draw, 1.0, 4.0),
    )


def backdrop(eye: Camera, generator: np.random.Generator, height: int) -> Floats:
    """A random crop of the camera's background: ``(height, height / 2, 3)``, 0..255."""
    zoom = between(generator, 0.82, 1.0)
    tall = int(SCENE_HEIGHT * zoom)
    wide = tall // 2
    left = int(generator.random() * (SCENE_WIDTH - wide))
    top = int(generator.random() * (SCENE_HEIGHT - tall))
    window = scene(eye.seed, eye.number)[top : top + tall, left : left + wide]
    if generator.random() < 0.5:
        window = np.ascontiguousarray(window[:, ::-1])
    kind = cv2.INTER_AREA if tall > height else cv2.INTER_LINEAR
    resized: Bytes = cv2.resize(window, (height // 2, height), interpolation=kind)
    return resized.astype(np.float32)


def shadow(eye: Camera, feet: tuple[float, float], reach: float, height: int) -> Floats:
    """Brightness factor of the ground around the feet: ``(height, height / 2, 1)``; lengths in picture heights."""
    rows, columns = np.mgrid[0:height, 0 : height // 2].astype(np.float32)
    x, y = columns / height - feet[0], rows / height - feet[1]
    flat = max(float(np.sin(eye.pitch)), 0.2)
    contact = np.exp(-((x / (0.13 * reach)) ** 2) - (y / (0.13 * reach * flat)) ** 2)
    cast_x = x + eye.light.x * 0.16
    cast = np.exp(-((cast_x / (0.2 * reach)) ** 2) - ((y + 0.02) / (0.1 * reach * flat)) ** 2)
    bright: Floats = (1.0 - 0.5 * contact) * (1.0 - 0.25 * cast)
    return bright[:, :, None]


def expose(eye: Camera, picture: Floats, generator: np.random.Generator) -> Bytes:
    """Converts a scene to the camera's picture: blur, lower resolution, exposure and tint, haze and noise.

    Args:
        eye: The camera.
        picture: ``(h, w, 3)``, 0..255.
        generator: Random variation of this shot.
    """
    height, width = picture.shape[:2]
    picture = cv2.GaussianBlur(picture, (0, 0), max(eye.blur * height * between(generator, 0.7, 1.3), 0.2))
    detail = min(eye.detail * between(generator, 0.85, 1.15), 1.0)
    if detail < 0.95:
        small = cv2.resize(picture, (int(width * detail), int(height * detail)), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_LINEAR)
    weather = between(generator, 0.84, 1.18)
    warmth = between(generator, -0.07, 0.07)
    gain = np.array(eye.gain, np.float32) * np.array([1 + warmth, 1.0, 1 - warmth], np.float32) * np.float32(weather)
    light = np.clip(picture / 255.0, 0, None) ** np.float32(eye.gamma) * gain
    light = light / (1 + 0.35 * np.maximum(light - 0.75, 0))  # highlights roll off instead of clipping
    light = light * (1 - eye.haze) + eye.haze * 0.6 * gain
    noise = generator.standard_normal((height, width, 3), dtype=np.float32) * np.float32(eye.noise)
    levels: Bytes = np.clip(np.rint(light * 255.0 + noise), 0, 255).astype(np.uint8)
    return levels
