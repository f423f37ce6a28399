"""The head: an ellipsoid with skull coordinates for every pixel, so that face, hair and hat turn with it."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.data.synthetic.paint import AMBIENT, DIFFUSE, Bytes, Cloth, Floats, Layer, Light, flat, put, region, tube
from aelm.data.synthetic.people import BodyPart, Colour, Person

WIDTH, TALL, DEEP = 0.061, 0.081, 0.068  # half axes of the skull
# Haircuts: thickness, lower end at the nape and at the temples (1 is the crown, -1 the chin).
CUTS: dict[str, tuple[float, float, float]] = {
    "bald": (1.0, 2.0, 2.0),
    "short": (1.07, -0.35, 0.2),
    "quiff": (1.14, -0.2, 0.3),
    "curly": (1.27, -0.5, 0.0),
    "bob": (1.2, -0.95, -0.8),
    "long": (1.14, -1.0, -0.75),
    "ponytail": (1.08, -0.45, 0.0),
    "bun": (1.08, -0.45, 0.0),
}


class Skull(NamedTuple):
    """The projected skull: canvas position, half axes on the canvas, direction, and the light."""

    centre: Floats
    half: tuple[float, float]
    yaw: float
    pitch: float
    light: Light

    def at(self, left: float, up: float, front: float) -> Floats:
        """Canvas position of a point in units of the skull's half axes."""
        right = left * np.cos(self.yaw) + front * np.sin(self.yaw)
        out = front * np.cos(self.yaw) - left * np.sin(self.yaw)
        down = out * np.sin(self.pitch) - up * np.cos(self.pitch)
        return self.centre + np.array([right * self.half[0], down * self.half[1]], np.float32)


class Globe(NamedTuple):
    """Pixels of an ellipsoid: box, mask, brightness, and their directions in the skull's frame."""

    box: tuple[slice, slice]
    mask: Bytes
    shade: Floats
    left: Floats
    up: Floats
    front: Floats


def darker(colour: Colour, factor: float) -> Colour:
    """The colour times a factor.

    >>> darker((100, 200, 50), 0.5)
    (50, 100, 25)
    """
    red, green, blue = (min(int(value * factor), 255) for value in colour)
    return red, green, blue


def globe(layer: Layer, skull: Skull, centre: Floats, size: tuple[float, float]) -> Globe | None:
    """An ellipsoid around ``centre``, ``size`` times the skull's width and height; None off the canvas."""
    half_x, half_y = skull.half[0] * size[0], skull.half[1] * size[1]
    angles = np.linspace(0, 2 * np.pi, 40, endpoint=False, dtype=np.float32)
    outline = np.stack([centre[0] + half_x * np.cos(angles), centre[1] + half_y * np.sin(angles)], axis=1)
    found = region(layer, outline)
    if found is None:
        return None
    box, mask, x, y = found
    right = np.broadcast_to((x - centre[0]) / np.float32(half_x), mask.shape)
    down = np.broadcast_to((y - centre[1]) / np.float32(half_y), mask.shape)
    near = np.sqrt(np.maximum(1.0 - right * right - down * down, 0.0))
    light = skull.light
    shade = AMBIENT + DIFFUSE * np.maximum(right * light.x + down * light.y + near * light.z, 0.0)
    tilt_cos, tilt_sin = np.float32(np.cos(skull.pitch)), np.float32(np.sin(skull.pitch))
    cos, sin = np.float32(np.cos(skull.yaw)), np.float32(np.sin(skull.yaw))
    up = near * tilt_sin - down * tilt_cos
    out = near * tilt_cos + down * tilt_sin
    return Globe(box, mask, shade, right * cos - out * sin, up, right * sin + out * cos)


def face_index(left: Floats, up: Floats, front: Floats, person: Person) -> Bytes:
    """Palette indices of the face: 0 skin, 1 eye, 2 eyeball, 3 brow/beard, 4 lip, 5 cheek, 6 glasses, 7 below nose."""
    index = np.zeros(left.shape, np.uint8)
    ahead = front > 0
    side = np.abs(left)
    index[ahead & (np.hypot(side - 0.5, (up + 0.28) * 1.2) < 0.22)] = 5
    if person.beard:
        index[(front > -0.1) & (up < -0.36)] = 3
        index[ahead & (up < 0.0) & (side > 0.82)] = 3
    index[ahead & (side < 0.13) & (np.abs(up + 0.2) < 0.05)] = 7
    index[ahead & (side < 0.26) & (np.abs(up + 0.48) < 0.06)] = 4
    index[ahead & (np.hypot(side - 0.36, (up - 0.05) * 1.3) < 0.19)] = 2
    index[ahead & (np.hypot(side - 0.35, up - 0.04) < 0.13)] = 1
    index[ahead & (np.abs(side - 0.37) < 0.17) & (np.abs(up - 0.31 + 0.25 * np.abs(side - 0.3)) < 0.04)] = 3
    if person.glasses:
        ring = np.hypot(side - 0.37, up - 0.06)
        index[ahead & (ring < 0.3) & (ring > 0.2)] = 6
        index[(front > -0.1) & (side > 0.64) & (np.abs(up - 0.08) < 0.05)] = 6
    return index


def hair_mask(left: Floats, up: Floats, front: Floats, haircut: str) -> NDArray[np.bool_]:
    """Positions of hair: above a line from the forehead over the temples to the nape."""
    _, nape, temple = CUTS[haircut]
    forehead = 0.62 - 0.1 * np.abs(left)
    ahead = np.clip(front, 0.0, 1.0)
    rim = np.where(front > 0, temple + (forehead - temple) * np.sqrt(ahead), temple + (temple - nape) * front)
    return up > rim


def draw_head(layer: Layer, skull: Skull, person: Person) -> None:
    """Draws face, ears, hair and hat."""
    found = globe(layer, skull, skull.centre, (1.0, 1.0))
    if found is None:
        return
    skin = person.skin
    palette = np.array(
        [
            skin,
            (40, 32, 30),
            (216, 210, 204),
            darker(person.hair, 0.9),
            (int(skin[0] * 0.84), int(skin[1] * 0.6), int(skin[2] * 0.58)),
            (min(int(skin[0] * 1.02), 255), int(skin[1] * 0.91), int(skin[2] * 0.88)),
            (34, 34, 40),
            darker(skin, 0.78),
        ],
        np.float32,
    )
    _nose(layer, skull, person)
    index = face_index(found.left, found.up, found.front, person)
    put(layer, found.box, found.mask, palette[index] * found.shade[:, :, None], BodyPart.HEAD)
    _ears(layer, skull, person)
    if person.haircut != "bald":
        _hair(layer, skull, person)
    if person.hat != "none":
        _hat(layer, skull, person)


def _nose(layer: Layer, skull: Skull, person: Person) -> None:
    if abs(np.sin(skull.yaw)) < 0.3:
        return
    bridge, tip = skull.at(0.0, 0.05, 0.95), skull.at(0.0, -0.2, 1.14)
    radius = skull.half[0] * 0.11
    tube(layer, bridge, tip, [radius * 0.6, radius], Cloth((person.skin,), creases=0), skull.light, BodyPart.HEAD)


def _ears(layer: Layer, skull: Skull, person: Person) -> None:
    for side in (1.0, -1.0):
        if side * np.sin(skull.yaw) < 0.4:  # else it is behind the head
            top, lobe = skull.at(side, 0.12, -0.08), skull.at(side * 0.96, -0.16, -0.04)
            cloth = Cloth((darker(person.skin, 0.92),), creases=0)
            tube(layer, top, lobe, [skull.half[0] * 0.16, skull.half[0] * 0.1], cloth, skull.light, BodyPart.HEAD)


def _hair(layer: Layer, skull: Skull, person: Person) -> None:
    size = CUTS[person.haircut][0]
    lift = np.array([0.0, -skull.half[1] * 0.05], np.float32)
    found = globe(layer, skull, skull.centre + lift, (size, size))
    if found is None:
        return
    mask = found.mask & hair_mask(found.left, found.up, found.front, person.haircut)
    # A band of sheen around the crown, broken into strands.
    strands = np.sin(np.arctan2(found.left, found.front) * 11.0) * 0.06
    sheen = 0.5 * np.exp(-(((found.up - 0.6) / 0.16) ** 2)) * found.shade
    colour = np.asarray(person.hair, np.float32) * (found.shade * (0.92 + strands) + 0.6 * sheen)[:, :, None]
    put(layer, found.box, mask.astype(np.uint8), colour, BodyPart.HAIR)


def draw_hair_drop(layer: Layer, skull: Skull, person: Person) -> None:
    """Draws hair at the back of the head: long hair, a ponytail or a bun."""
    cloth = Cloth((darker(person.hair, 0.9),), creases=1.6)
    width = skull.half[0]
    if person.haircut == "long":
        start, end = skull.at(0, 0.1, -0.35), skull.at(0, -2.35, -0.75)
        tube(
            layer,
            start,
            end,
            [width * 1.05, width * 1.2, width * 1.15, width * 0.75],
            cloth,
            skull.light,
            BodyPart.HAIR,
        )
    elif person.haircut == "bob":
        start, end = skull.at(0, 0.1, -0.25), skull.at(0, -1.15, -0.3)
        tube(layer, start, end, [width * 1.1, width * 1.22, width * 1.1], cloth, skull.light, BodyPart.HAIR)
    elif person.haircut == "ponytail":
        radii = [width * 0.28, width * 0.42, width * 0.36, width * 0.12]
        tube(layer, skull.at(0, 0.3, -1.05), skull.at(0, -1.5, -1.35), radii, cloth, skull.light, BodyPart.HAIR)
    elif person.haircut == "bun":
        radii = [width * 0.3, width * 0.46, width * 0.3]
        tube(layer, skull.at(0, 0.8, -0.95), skull.at(0, 0.35, -0.95), radii, cloth, skull.light, BodyPart.HAIR)


def _hat(layer: Layer, skull: Skull, person: Person) -> None:
    colour = person.hat_colour
    rim = {"cap": 0.34, "beanie": 0.22, "brim": 0.36}[person.hat]
    if person.hat == "brim":
        angles = np.linspace(0, 2 * np.pi, 36, endpoint=False)
        edge = [skull.at(1.85 * float(np.cos(angle)), rim - 0.06, 1.75 * float(np.sin(angle))) for angle in angles]
        flat(layer, np.stack(edge), darker(colour, 0.86), BodyPart.HAIR, fade=0.8)
    lift = np.array([0.0, -skull.half[1] * 0.12], np.float32)
    found = globe(layer, skull, skull.centre + lift, (1.15, 1.16 if person.hat == "beanie" else 1.08))
    if found is None:
        return
    mask = (found.mask > 0) & (found.up > rim)
    tint = np.ones(mask.shape, np.float32)
    if person.hat == "beanie":
        tint = np.where(found.up < rim + 0.22, 0.8, 1.0 + 0.07 * np.sin(np.arctan2(found.left, found.front) * 20.0))
    elif person.hat == "brim":
        tint = np.where(found.up < rim + 0.16, 0.45, 1.0)
    painted = np.asarray(colour, np.float32) * (found.shade * tint)[:, :, None]
    put(layer, found.box, mask.astype(np.uint8), painted, BodyPart.HAIR)
    if person.hat == "cap" and np.cos(skull.yaw) > -0.6:
        angles = np.linspace(-0.5 * np.pi, 0.5 * np.pi, 14)
        visor = [
            skull.at(
                0.85 * float(np.sin(angle)), rim + 0.02 - 0.1 * float(np.cos(angle)), 0.75 + 0.95 * float(np.cos(angle))
            )
            for angle in angles
        ]
        flat(layer, np.stack(visor), darker(colour, 0.72), BodyPart.HAIR, fade=0.85)
