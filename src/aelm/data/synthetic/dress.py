"""A whole pedestrian: body parts and clothes on the skeleton, drawn from far to near."""

from collections.abc import Callable
from functools import partial

import numpy as np

from aelm.data.synthetic.bags import bag_depth, draw_bag, draw_scarf
from aelm.data.synthetic.body import HIP, NECK, Limb, Pose, Skeleton, View, skeleton
from aelm.data.synthetic.brush import CUT, CUT_END, Brush
from aelm.data.synthetic.garments import Palette, palette, sleeve_texture, trunk_texture
from aelm.data.synthetic.head import DEEP, TALL, WIDTH, Skull, darker, draw_hair_drop, draw_head
from aelm.data.synthetic.lower import draw_legs
from aelm.data.synthetic.paint import Cloth, Layer, Light
from aelm.data.synthetic.people import BodyPart, Person

# Half widths of the trunk by height: (height, sideways, front).
TRUNK = np.array(
    [
        (0.86, 0.030, 0.034),
        (0.845, 0.042, 0.044),
        (0.833, 0.068, 0.050),
        (0.818, 0.092, 0.056),
        (0.79, 0.112, 0.066),
        (0.72, 0.110, 0.075),
        (0.64, 0.093, 0.067),
        (0.56, 0.095, 0.069),
        (0.50, 0.101, 0.075),
        (0.34, 0.116, 0.096),
    ]
)
COLLAR = 0.86
HEMS = {"tee": 0.475, "shirt": 0.465, "sweater": 0.485, "hoodie": 0.475, "jacket": 0.46, "coat": 0.33}
# Looseness of upper garments: a factor for the trunk, body heights for the sleeves.
LOOSE = {"tee": 1.0, "shirt": 1.02, "sweater": 1.05, "hoodie": 1.1, "jacket": 1.12, "coat": 1.12}
SLEEVES = {"tee": 0.0, "shirt": 0.004, "sweater": 0.007, "hoodie": 0.011, "jacket": 0.011, "coat": 0.011}


def draw_person(layer: Layer, person: Person, pose: Pose, view: View, light: Light) -> None:
    """Draws a pedestrian into a layer.

    Args:
        layer: The layer to draw into, in place.
        person: Attributes of the person.
        pose: Moment of the walk.
        view: Position on the canvas, size and viewing side.
        light: Direction of the light.
    """
    bones = skeleton(person, pose)
    brush = Brush(layer, view, light)
    skull = _skull(bones, pose, brush)
    cloth = palette(person)
    pieces: list[tuple[float, Callable[[], None]]] = [
        (0.0, partial(_trunk, brush, bones, person, cloth)),
        (0.01, partial(draw_head, layer, skull, person)),
        (-0.07 * float(np.cos(skull.yaw)), partial(draw_hair_drop, layer, skull, person)),
        (bag_depth(brush, bones, person), partial(draw_bag, brush, bones, person)),
    ]
    # In frontal views, arms swing in front of the trunk.
    before = 0.05 if np.cos(view.yaw) > 0.2 else 0.0
    for side, arm in zip((1, -1), bones.arms, strict=True):
        depth = view.depth(arm.end) * 0.6 + view.depth(arm.root) + before
        pieces.append((depth, partial(_arm, brush, arm, side, person, cloth)))
    draw_legs(brush, bones, person)
    for _, draw in sorted(pieces, key=lambda piece: piece[0]):
        draw()


def _skull(bones: Skeleton, pose: Pose, brush: Brush) -> Skull:
    view = brush.view
    yaw = view.yaw + pose.turn
    wide = view.scale * float(np.hypot(WIDTH * np.cos(yaw), DEEP * np.sin(yaw)))
    return Skull(view.project(bones.head), (wide, view.scale * TALL), yaw, view.pitch, brush.light)


def _trunk(brush: Brush, bones: Skeleton, person: Person, cloth: Palette) -> None:
    view = brush.view
    if person.garment == "hoodie":
        hood, radius = brush.at(bones.neck, y=-0.004, z=-0.045), view.scale * 0.058
        aside = np.array([radius * 0.8, 0.0], np.float32)
        shape = [radius * 0.6, radius * 0.75, radius * 0.6]
        brush.tube(hood - aside, hood + aside, shape, Cloth((darker(person.top, 0.85),)), BodyPart.TORSO)
    throat = Cloth((darker(person.skin, 0.8),), creases=0)
    neck, chin = brush.at(bones.neck, y=-0.03), brush.at(bones.head, y=-0.03, z=-0.01)
    brush.tube(neck, chin, [view.scale * 0.034, view.scale * 0.032], throat, BodyPart.HEAD)
    hem = HEMS[person.garment]
    heights = np.linspace(COLLAR, hem, 24)
    side = np.interp(-heights, -TRUNK[:, 0], TRUNK[:, 1]) * LOOSE[person.garment] * person.shoulders
    front = np.interp(-heights, -TRUNK[:, 0], TRUNK[:, 2]) * LOOSE[person.garment]
    # Girth affects the belly, but hardly the shoulders.
    girth = 1.0 + (person.girth - 1.0) * np.clip((0.85 - heights) / 0.2, 0.2, 1.0)
    radii = [view.girth(a, b) for a, b in zip(side * girth, front * girth, strict=True)]
    top = view.project(bones.neck + (COLLAR - NECK) / (NECK - HIP) * (bones.neck - bones.pelvis))
    bottom = brush.at(bones.pelvis, y=(hem - HIP) * person.height)
    texture = trunk_texture(person, view.yaw, COLLAR - hem)
    brush.tube(top, bottom, radii, Cloth(cloth, texture), BodyPart.TORSO, CUT)
    if person.bag == "scarf":
        draw_scarf(brush, bones, person)


def _arm(brush: Brush, arm: Limb, side: int, person: Person, cloth: Palette) -> None:
    part = BodyPart.LEFT_ARM if side > 0 else BodyPart.RIGHT_ARM
    shoulder, elbow, wrist, fingers = (brush.view.project(joint) for joint in arm)
    thick = brush.view.scale * (0.35 + 0.65 * person.girth)
    loose = SLEEVES[person.garment] * brush.view.scale
    radii = [factor * thick + loose for factor in (0.036, 0.032, 0.028, 0.022)]
    brush.shade(shoulder, elbow, radii[:2])
    brush.shade(elbow, wrist, radii[2:])
    skin = Cloth((person.skin,), creases=0.2)
    palm = wrist + (fingers - wrist) * np.float32(0.8)
    brush.tube(wrist, palm, [0.02 * thick, 0.022 * thick, 0.016 * thick], skin, part)
    upper = Cloth(cloth, sleeve_texture(person, 0.165, 0.0), phase=29 * side + 31)
    lower = Cloth(cloth, sleeve_texture(person, 0.14, 0.165), phase=29 * side + 60)
    if person.garment == "tee":
        brush.tube(elbow, wrist, [0.029 * thick, 0.031 * thick, 0.02 * thick], skin, part)
        brush.tube(shoulder, elbow, [0.034 * thick, 0.03 * thick], skin, part)
        cuff = shoulder + np.float32(0.72) * (elbow - shoulder)
        brush.tube(shoulder, cuff, [0.037 * thick, 0.041 * thick, 0.043 * thick], upper, part, CUT_END)
    else:
        brush.tube(elbow, wrist, [radii[2], radii[2] * 1.02, radii[3]], lower, part, CUT_END)
        brush.tube(shoulder, elbow, radii[:2], upper, part)
