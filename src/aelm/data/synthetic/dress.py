"""A whole pedestrian: pieces hung on the skeleton, and drawn from far to near."""

from collections.abc import Callable

import numpy as np

from aelm.data.synthetic.body import HAND, Limb, Pose, Skeleton, View, skeleton
from aelm.data.synthetic.garments import Palette, leg_texture, palette, sleeve_texture, trunk_texture
from aelm.data.synthetic.head import DEEP, TALL, WIDTH, Skull, darker, draw_hair_drop, draw_head
from aelm.data.synthetic.paint import Cloth, Floats, Layer, Light, dim, tube, tube_outline
from aelm.data.synthetic.people import BodyPart, Person

# Half widths of the trunk at some heights: (height, to the side, to the front).
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
HEMS = {"tee": 0.475, "shirt": 0.465, "sweater": 0.485, "hoodie": 0.475, "jacket": 0.46, "coat": 0.33}
LOOSE = {"tee": 1.0, "shirt": 1.02, "sweater": 1.05, "hoodie": 1.1, "jacket": 1.12, "coat": 1.12}
LEFT, RIGHT = 1, -1
Piece = tuple[float, Callable[[], None]]


def draw_person(layer: Layer, person: Person, pose: Pose, view: View, light: Light) -> None:
    """Draws a pedestrian into a layer.

    Args:
        layer: Drawn over; keeps what it showed elsewhere.
        person: Who.
        pose: In which moment of the walk.
        view: Where on the canvas, how large, from which side.
        light: From where.
    """
    bones = skeleton(person, pose)
    skull = Skull(
        centre=view.project(bones.head),
        half=(
            view.scale * float(np.hypot(WIDTH * np.cos(view.yaw + pose.turn), DEEP * np.sin(view.yaw + pose.turn))),
            view.scale * TALL,
        ),
        yaw=view.yaw + pose.turn,
        pitch=view.pitch,
        light=light,
    )
    cloth = palette(person)
    facing = float(np.cos(view.yaw))
    pieces: list[Piece] = [
        (0.0, lambda: _trunk(layer, bones, person, view, light, cloth)),
        (0.01, lambda: draw_head(layer, skull, person)),
        (-0.07 * float(np.cos(skull.yaw)), lambda: draw_hair_drop(layer, skull, person)),
        (-0.11 * facing, lambda: _bag(layer, bones, person, view, light)),
    ]
    for side, arm in ((LEFT, bones.arms[0]), (RIGHT, bones.arms[1])):
        depth = view.depth(arm.end) * 0.6 + view.depth(arm.root) + (0.05 if facing > 0.2 else 0.0)
        pieces.append((depth, lambda side=side, arm=arm: _arm(layer, arm, side, person, view, light, cloth)))
    legs = sorted(zip((LEFT, RIGHT), bones.legs, strict=True), key=lambda item: view.depth(item[1].end))
    for side, leg in legs:
        _leg(layer, leg, side, person, view, light)
    if person.legwear in ("skirt", "long_skirt"):
        _skirt(layer, bones, person, view, light)
    for _, draw in sorted(pieces, key=lambda piece: piece[0]):
        draw()


def _leg(layer: Layer, leg: Limb, side: int, person: Person, view: View, light: Light) -> None:
    part = BodyPart.LEFT_LEG if side == LEFT else BodyPart.RIGHT_LEG
    hip, knee, ankle, toes = (view.project(joint) for joint in leg)
    thick = view.scale * person.girth
    bare = person.legwear in ("shorts", "skirt", "long_skirt")
    skin = Cloth((person.skin,), creases=0.2)
    texture = leg_texture(view.yaw, side) if person.side_stripe and not bare else None
    cloth = Cloth((person.bottom, (214, 210, 202)), texture, creases=1.3, phase=17 * side + 40)
    widths = {"wide": (0.074, 0.062, 0.058), "slim": (0.068, 0.046, 0.034)}.get(person.legwear, (0.06, 0.04, 0.025))
    upper, middle, lower = (thick * width for width in widths)
    _shoe(layer, ankle, toes, person, view, light)
    tube(layer, knee, ankle, [middle, middle * 0.98, (middle + lower) * 0.5, lower], skin if bare else cloth, light, part, (True, False))
    tube(layer, hip, knee, [upper, (upper + middle) * 0.52, middle], skin if bare else cloth, light, part)
    if person.legwear == "shorts":
        tube(layer, hip, knee + 0.1 * (hip - knee), [thick * 0.074, thick * 0.068, thick * 0.066], cloth, light, part, (True, False))


def _shoe(layer: Layer, ankle: Floats, toes: Floats, person: Person, view: View, light: Light) -> None:
    size = view.scale * 0.028
    heel = ankle - 0.22 * (toes - ankle) + (0, size * 0.55)
    leather = Cloth((person.shoes,), creases=0.3)
    sole = Cloth((darker(person.shoes, 0.55) if sum(person.shoes) > 300 else (150, 148, 142),), creases=0)
    below = np.array([0, size * 0.36], np.float32)
    tube(layer, heel + below, toes + below, [size * 0.8, size * 0.85, size * 0.72], sole, light, BodyPart.SHOES)
    tube(layer, heel, toes, [size * 0.88, size * 0.95, size * 0.74], leather, light, BodyPart.SHOES)
    tube(layer, ankle - (0, size * 0.8), ankle + (0, size * 0.4), [size * 0.8, size * 0.9], leather, light, BodyPart.SHOES)


def _skirt(layer: Layer, bones: Skeleton, person: Person, view: View, light: Light) -> None:
    thick = person.girth
    length, flare = (0.24, 1.32) if person.legwear == "skirt" else (0.4, 1.45)
    waist = bones.pelvis + np.array([0, 0.06, 0], np.float32)
    hem = bones.pelvis - np.array([0, length - 0.06, 0], np.float32)
    # The hem is as wide as the step.
    step = max(abs(view.project(leg.middle)[0] - view.project(bones.pelvis)[0]) for leg in bones.legs)
    radii = [view.girth(0.094 * thick, 0.07 * thick), view.girth(0.108 * thick, 0.09 * thick)]
    radii.append(max(view.girth(0.1 * thick * flare, 0.09 * thick * flare), float(step) + view.scale * 0.045))
    cloth = Cloth((person.bottom,), creases=1.6, phase=9)
    tube(layer, view.project(waist), view.project(hem), radii, cloth, light, BodyPart.TORSO, (False, False))


def _trunk(layer: Layer, bones: Skeleton, person: Person, view: View, light: Light, cloth: Palette) -> None:
    neck, chin = view.project(bones.neck - (0, 0.03, 0)), view.project(bones.head - (0, 0.03, 0.01))
    throat = Cloth((darker(person.skin, 0.8),), creases=0)
    if person.garment == "hoodie":
        hood = view.project(bones.neck + np.array([0, -0.004, -0.045], np.float32))
        radius = view.scale * 0.058
        tube(layer, hood - (radius * 0.8, 0), hood + (radius * 0.8, 0), [radius * 0.6, radius * 0.75, radius * 0.6],
             Cloth((darker(person.top, 0.85),)), light, BodyPart.TORSO)
    tube(layer, neck, chin, [view.scale * 0.034, view.scale * 0.032], throat, light, BodyPart.HEAD)
    hem = HEMS[person.garment]
    heights = np.linspace(0.86, hem, 24)
    side = np.interp(-heights, -TRUNK[:, 0], TRUNK[:, 1]) * LOOSE[person.garment] * person.shoulders
    front = np.interp(-heights, -TRUNK[:, 0], TRUNK[:, 2]) * LOOSE[person.garment]
    # Girth acts on the belly, hardly on the shoulders.
    girth = 1.0 + (person.girth - 1.0) * np.clip((0.85 - heights) / 0.2, 0.2, 1.0)
    radii = [view.girth(a, b) for a, b in zip(side * girth, front * girth, strict=True)]
    top = bones.neck + 0.015 * (bones.neck - bones.pelvis) / (0.845 - 0.515)
    bottom = bones.pelvis + np.array([0, (hem - 0.515) * person.height, 0], np.float32)
    texture = trunk_texture(person, view.yaw, 0.86 - hem)
    tube(layer, view.project(top), view.project(bottom), radii, Cloth(cloth, texture), light, BodyPart.TORSO, (False, False))
    if person.bag == "scarf":
        radius = view.scale * 0.05
        knot = view.project(bones.neck + (0, 0.006, 0.0))
        wool = Cloth((person.bag_colour,), creases=2.0)
        tube(layer, knot - (radius * 0.55, 0), knot + (radius * 0.55, 0), [radius * 0.55, radius * 0.72, radius * 0.55], wool, light, BodyPart.BAG)
        if np.cos(view.yaw) > -0.2:
            end = view.project(bones.neck + np.array([0.03, -0.15, 0.085], np.float32))
            tube(layer, knot + (0, radius * 0.2), end, [radius * 0.34, radius * 0.42], wool, light, BodyPart.BAG, (True, False))


def _arm(layer: Layer, arm: Limb, side: int, person: Person, view: View, light: Light, cloth: Palette) -> None:
    part = BodyPart.LEFT_ARM if side == LEFT else BodyPart.RIGHT_ARM
    shoulder, elbow, wrist, fingers = (view.project(joint) for joint in arm)
    thick = view.scale * (0.35 + 0.65 * person.girth)
    skin = Cloth((person.skin,), creases=0.2)
    loose = {"tee": 0.0, "shirt": 0.004, "sweater": 0.007}.get(person.garment, 0.011) * view.scale
    radii = [0.036 * thick + loose, 0.032 * thick + loose, 0.028 * thick + loose, 0.022 * thick + loose]
    shade = np.array([0.012, 0.014], np.float32) * view.scale
    for spread in (1.25, 1.0):
        dim(layer, tube_outline(shoulder + shade, elbow + shade, np.array(radii[:2], np.float32) * spread, True, True), 0.88)
        dim(layer, tube_outline(elbow + shade, wrist + shade, np.array(radii[2:], np.float32) * spread, True, True), 0.88)
    tube(layer, wrist, wrist + (fingers - wrist) * 0.8, [0.02 * thick, 0.022 * thick, 0.016 * thick], skin, light, part)
    upper = Cloth(cloth, sleeve_texture(person, 0.165, 0.0), phase=29 * side + 31)
    lower = Cloth(cloth, sleeve_texture(person, 0.14, 0.165), phase=29 * side + 60)
    if person.garment == "tee":
        tube(layer, elbow, wrist, [0.029 * thick, 0.031 * thick, 0.02 * thick], skin, light, part)
        tube(layer, shoulder, elbow, [0.034 * thick, 0.03 * thick], skin, light, part)
        cuff = shoulder + 0.72 * (elbow - shoulder)
        tube(layer, shoulder, cuff, [0.037 * thick, 0.041 * thick, 0.043 * thick], upper, light, part, (True, False))
    else:
        tube(layer, elbow, wrist, [radii[2], radii[2] * 1.02, radii[3]], lower, light, part, (True, False))
        tube(layer, shoulder, elbow, radii[:2], upper, light, part)


def _bag(layer: Layer, bones: Skeleton, person: Person, view: View, light: Light) -> None:
    offsets = {"backpack": ((0.0, -0.06, -0.12), 0.2, 0.082, 0.05), "messenger": ((0.1, -0.4, 0.0), 0.12, 0.035, 0.085),
               "tote": ((-0.13, -0.36, 0.0), 0.16, 0.03, 0.085)}
    if person.bag not in offsets:
        return
    (x, y, z), length, side, front = offsets[person.bag]
    top = bones.neck + np.array([x, y, z], np.float32)
    bottom = top - np.array([0, length, 0], np.float32)
    wide = view.girth(side, front)
    seam = darker(person.bag_colour, 0.6)

    def texture(along: Floats, angle: Floats):
        return ((np.abs(along - 0.5) < 0.03) | (along > 0.55) & (np.abs(np.abs(angle) - 0.75) < 0.07)).astype(np.uint8)

    cloth = Cloth((person.bag_colour, seam), texture, creases=0.6)
    rounding = [0.8, 1.0, 1.02, 1.0, 0.92] if person.bag == "backpack" else [0.95, 1.0, 1.0, 0.95]
    tube(layer, view.project(top), view.project(bottom), [wide * r for r in rounding], cloth, light, BodyPart.BAG, (person.bag == "backpack", True))
