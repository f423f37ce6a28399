"""Backgrounds: one wide scene for each camera, from which every shot takes a random crop."""

from collections.abc import Callable
from functools import lru_cache

import cv2
import numpy as np

from aelm.data.synthetic.paint import Bytes, Floats
from aelm.data.synthetic.people import CAMERAS, Colour, between, pick, stream

SCENE_HEIGHT, SCENE_WIDTH = 256, 640
Rng = np.random.Generator


def clouds(generator: Rng, cells: int, shape: tuple[int, int] = (SCENE_HEIGHT, SCENE_WIDTH)) -> Floats:
    """Smooth noise in -1..1 with ``cells`` bumps per height; ``(h, w, 1)``."""
    rough = generator.random((cells, max(cells * shape[1] // shape[0], 2)), dtype=np.float32) * 2 - 1
    smooth: Floats = cv2.resize(rough, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return smooth[:, :, None]


def grain(generator: Rng, scene: Floats, amount: float) -> Floats:
    """Adds dirt: noise of several sizes, in grey levels."""
    for cells, weight in ((5, 1.0), (20, 0.7), (90, 0.6), (SCENE_HEIGHT, 0.5)):
        scene = scene + amount * weight * clouds(generator, cells)
    return scene


def ground(generator: Rng, scene: Floats, horizon: float, top: int, tile: float, colour: Colour, joint: float) -> None:
    """Draws paving in perspective from row ``top`` to the bottom.

    Args:
        generator: Varies the shade of the tiles.
        scene: The picture to draw into, in place.
        horizon: Row of the vanishing point; above ``top``.
        top: The first row of the ground.
        tile: Length of a tile, relative to the distance of the lowest row.
        colour: Mean colour of the tiles.
        joint: Brightness of the joints relative to the tiles; 1 for no joints.
    """
    rows = np.arange(top, SCENE_HEIGHT, dtype=np.float32)[:, None]
    columns = np.arange(SCENE_WIDTH, dtype=np.float32)[None, :]
    far = (SCENE_HEIGHT - horizon) / np.maximum(rows - horizon, 4.0)  # 1 at the bottom
    across = (columns - SCENE_WIDTH * 0.45) * far / SCENE_HEIGHT / tile
    away = np.broadcast_to(far * 1.2 / tile, across.shape)
    shades = generator.random((64, 64), dtype=np.float32) * 0.14 + 0.93
    shade = shades[np.floor(across).astype(np.intp) % 64, np.floor(away).astype(np.intp) % 64]
    width = 0.02 / tile
    edge = np.minimum(np.mod(across, 1.0) / width, np.mod(away, 1.0) / width)
    shade = shade * np.where(edge < 1.0, joint, 1.0)
    fall = 1.0 - 0.25 * (far - 1.0) / np.maximum(far, 1.0)
    scene[top:] = np.asarray(colour, np.float32) * (shade * fall)[:, :, None]


def box(scene: Floats, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
    """Fills a rectangle."""
    scene[max(int(top), 0) : max(int(bottom), 0), max(int(left), 0) : max(int(right), 0)] = colour


def _empty(colour: Colour) -> Floats:
    return np.full((SCENE_HEIGHT, SCENE_WIDTH, 3), colour, np.float32)


def street(generator: Rng, base: int) -> Floats:
    """Houses with windows behind a pavement, a kerb and a road."""
    scene = _empty((150, 160, 172))
    left = -20.0
    while left < SCENE_WIDTH:
        width = between(generator, 70, 130)
        front = pick(generator, ((168, 150, 130), (150, 112, 92), (176, 172, 160), (126, 130, 136), (186, 166, 122)))
        box(scene, left, 0, left + width, base, front)
        for row in range(int(base) - 62, -60, -52):
            for column in np.arange(left + 10, left + width - 20, 30):
                box(scene, column - 2, row - 2, column + 18, row + 36, (206, 200, 190))
                box(
                    scene,
                    column,
                    row,
                    column + 16,
                    row + 34,
                    pick(generator, ((62, 72, 84), (84, 98, 110), (48, 54, 62))),
                )
        box(scene, left + width - 3, 0, left + width, base, (84, 80, 78))
        left += width
    box(scene, 0, base - 14, SCENE_WIDTH, base, (104, 98, 94))
    ground(generator, scene, base - 70, base, 0.34, (164, 160, 154), 0.82)
    kerb = base + int(0.42 * (SCENE_HEIGHT - base))
    scene[kerb:] = grain(generator, _empty((92, 93, 97)), 7)[kerb:]
    box(scene, 0, kerb - 5, SCENE_WIDTH, kerb, (196, 192, 186))
    box(scene, 0, kerb, SCENE_WIDTH, kerb + 4, (66, 66, 68))
    return grain(generator, scene, 4)


def brick(generator: Rng, base: int) -> Floats:
    """A brick wall along a slabbed path."""
    clay = np.asarray(pick(generator, ((148, 88, 70), (164, 112, 84), (132, 96, 88))), np.float32)
    rows, columns = np.mgrid[0:SCENE_HEIGHT, 0:SCENE_WIDTH].astype(np.float32)
    course = np.floor(rows / 11)
    shifted = columns + 13 * np.mod(course, 2)
    tint = generator.random((64, 64), dtype=np.float32) * 0.36 + 0.8
    shade = tint[course.astype(np.intp) % 64, np.floor(shifted / 26).astype(np.intp) % 64]
    mortar = (np.mod(rows, 11) < 1.6) | (np.mod(shifted, 26) < 1.6)
    scene = np.where(mortar[:, :, None], np.array((170, 160, 150), np.float32), clay * shade[:, :, None]).astype(
        np.float32
    )
    for column in np.arange(between(generator, 0, 150), SCENE_WIDTH, between(generator, 150, 260)):
        box(scene, column, -1, column + 26, base, pick(generator, ((110, 104, 100), (92, 64, 54))))
        box(scene, column + 22, -1, column + 26, base, (70, 62, 58))
    scene[max(base - 40, 0) : base] *= np.linspace(1, 0.62, min(base, 40), dtype=np.float32)[:, None, None]
    ground(generator, scene, base - 90, base, 0.5, (158, 150, 138), 0.7)
    return grain(generator, scene, 5)


def park(generator: Rng, base: int) -> Floats:
    """Trees and hedges behind a lawn, with a gravel path."""
    scene = _empty((186, 204, 214))
    scene += np.linspace(-14, 20, SCENE_HEIGHT, dtype=np.float32)[:, None, None]
    for _ in range(70):
        x, y = between(generator, -20, SCENE_WIDTH + 20), between(generator, -30, base - 18)
        leaf = pick(generator, ((74, 104, 58), (58, 86, 50), (96, 124, 68), (48, 72, 46)))
        radius = int(between(generator, 14, 34))
        cv2.circle(scene, (int(x), int(y)), radius, leaf, -1)
        cv2.circle(
            scene, (int(x - radius * 0.3), int(y - radius * 0.3)), radius // 2, [value * 1.18 for value in leaf], -1
        )
    for column in np.arange(between(generator, 0, 60), SCENE_WIDTH, between(generator, 80, 140)):
        box(scene, column, base - 110, column + between(generator, 8, 14), base, (84, 66, 50))
    scene = cv2.GaussianBlur(scene, (0, 0), 2.2)
    grass = grain(generator, _empty((104, 134, 70)), 8) + 10 * clouds(generator, 120)
    scene[base:] = grass[base:] * np.linspace(0.8, 1.05, SCENE_HEIGHT - base, dtype=np.float32)[:, None, None]
    path = np.array([[-10, 250], [SCENE_WIDTH, base + 26], [SCENE_WIDTH, base + 74], [160, 270], [-10, 270]], np.int32)
    cv2.fillPoly(scene, [path], (186, 172, 148))
    return grain(generator, scene, 6)


def plaza(generator: Rng, base: int) -> Floats:
    """Large paving seen from above, with a few planters far away."""
    scene = _empty((168, 170, 172))
    stone = pick(generator, ((178, 172, 160), (160, 164, 170), (186, 170, 146)))
    ground(generator, scene, -60, 0, 0.3, stone, 0.8)
    for column in np.arange(between(generator, -40, 60), SCENE_WIDTH, between(generator, 130, 190)):
        box(scene, column, base - 96, column + 64, base - 62, (116, 112, 108))
        box(scene, column, base - 66, column + 64, base - 60, (84, 80, 78))
        for _ in range(14):
            x, y = column + between(generator, 2, 62), base - 96 - between(generator, 0, 22)
            cv2.circle(
                scene,
                (int(x), int(y)),
                int(between(generator, 6, 13)),
                pick(generator, ((74, 108, 62), (92, 126, 74))),
                -1,
            )
    return grain(generator, scene, 5)


def shop(generator: Rng, base: int) -> Floats:
    """Lit shop windows under an awning, and the pavement in front."""
    scene = _empty(pick(generator, ((72, 70, 74), (96, 84, 72), (64, 80, 84))))
    for column in np.arange(-between(generator, 0, 60), SCENE_WIDTH, 124):
        warm = pick(generator, ((214, 190, 142), (196, 198, 190), (222, 206, 170)))
        box(scene, column + 8, 26, column + 116, base - 20, warm)
        box(scene, column + 8, base - 76, column + 116, base - 70, (120, 100, 78))
        for step in range(6):
            x = column + 14 + step * 17
            goods = pick(generator, ((160, 64, 56), (66, 96, 140), (206, 176, 90), (70, 120, 92), (210, 204, 196)))
            box(scene, x, base - 76 - between(generator, 14, 40), x + 11, base - 76, goods)
            box(scene, x + 2, base - 20 - between(generator, 12, 34), x + 13, base - 20, goods)
        box(scene, column + 60, 26, column + 64, base - 20, (70, 66, 64))
        awning = pick(generator, ((150, 58, 52), (56, 96, 86), (58, 80, 120)))
        for stripe in range(10):
            box(
                scene,
                column + 2 + stripe * 12,
                12,
                column + 14 + stripe * 12,
                40,
                awning if stripe % 2 else (222, 216, 204),
            )
    box(scene, 0, base - 8, SCENE_WIDTH, base, (54, 52, 54))
    ground(generator, scene, base - 80, base, 0.24, (150, 148, 148), 0.84)
    return grain(generator, scene, 4)


def crossing(generator: Rng, base: int) -> Floats:
    """A zebra crossing on asphalt, seen from above, with the far kerb and a lawn."""
    scene = grain(generator, _empty((100, 101, 106)), 6)
    start = between(generator, 30, 120)
    for stripe in range(9):
        left = start + stripe * 54
        corners = [
            [left, base + 4],
            [left + 24, base + 4],
            [left * 1.2 - 70, SCENE_HEIGHT],
            [left * 1.2 - 40, SCENE_HEIGHT],
        ]
        cv2.fillPoly(scene, [np.array([corners[0], corners[1], corners[3], corners[2]], np.int32)], (206, 206, 200))
    box(scene, 0, base - 60, SCENE_WIDTH, base - 40, (170, 166, 160))
    box(scene, 0, base - 42, SCENE_WIDTH, base - 37, (128, 124, 120))
    lawn = grain(generator, _empty((108, 132, 84)), 8)
    scene[: max(base - 60, 0)] = lawn[: max(base - 60, 0)]
    for column in np.arange(between(generator, 0, 90), SCENE_WIDTH, between(generator, 110, 170)):
        box(scene, column, 0, column + 7, base - 52, (92, 96, 98))
    return grain(generator, scene, 5)


SCENES: tuple[Callable[[Rng, int], Floats], ...] = (street, park, shop, plaza, brick, crossing)


@lru_cache(maxsize=32)
def scene(seed: int, camera: int) -> Bytes:
    """The background of a camera: ``(256, 640, 3)`` uint8, RGB; cached, do not change it."""
    generator = stream(CAMERAS, seed, camera, 1)
    paint = SCENES[(seed + camera) % len(SCENES)]
    picture = paint(generator, int(between(generator, 0.5, 0.66) * SCENE_HEIGHT))
    place: Bytes = cv2.GaussianBlur(np.clip(picture, 0, 255), (0, 0), 0.9).astype(np.uint8)
    place.setflags(write=False)
    return place
