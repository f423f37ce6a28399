"""Carried things: backpacks, shoulder bags, handbags, scarves."""

import numpy as np

from aelm.data.synthetic.body import Skeleton
from aelm.data.synthetic.brush import CUT_END, Brush
from aelm.data.synthetic.head import darker
from aelm.data.synthetic.paint import Bytes, Cloth, Floats
from aelm.data.synthetic.people import BodyPart, Person

BACKPACK = np.array([0.0, -0.06, -0.12], np.float32)  # relative to the neck
MESSENGER = np.array([0.11, -0.4, 0.0], np.float32)


def bag_depth(brush: Brush, bones: Skeleton, person: Person) -> float:
    """Depth of the bag relative to the trunk; positive is nearer to the camera."""
    if person.bag == "backpack":
        return brush.view.depth(BACKPACK)
    if person.bag == "tote":
        return brush.view.depth(bones.arms[1].tip) + 0.03
    return brush.view.depth(MESSENGER)


def _stitched(along: Floats, angle: Floats) -> Bytes:
    """Texture of a horizontal zip, and the edges of a pocket below it."""
    pocket = (along > 0.55) & (np.abs(np.abs(angle) - 0.75) < 0.07)
    return np.asarray((np.abs(along - 0.5) < 0.03) | pocket, np.uint8)


def draw_bag(brush: Brush, bones: Skeleton, person: Person) -> None:
    """Draws the bag; its straps are part of the trunk's texture."""
    cloth = Cloth((person.bag_colour, darker(person.bag_colour, 0.6)), _stitched, creases=0.6)
    view, neck = brush.view, bones.neck
    if person.bag == "backpack":
        wide = view.girth(0.082, 0.05)
        top = neck + BACKPACK
        radii = [wide * 0.8, wide, wide * 1.02, wide, wide * 0.92]
        brush.tube(view.project(top), brush.at(top, y=-0.2), radii, cloth, BodyPart.BAG)
    elif person.bag == "messenger":
        wide = view.girth(0.035, 0.085)
        top = neck + MESSENGER
        radii = [wide * 0.95, wide, wide, wide * 0.95]
        brush.tube(view.project(top), brush.at(top, y=-0.11), radii, cloth, BodyPart.BAG, (False, True))
    elif person.bag == "tote":
        wide = view.girth(0.03, 0.085)
        hand = bones.arms[1].tip
        handle = Cloth((darker(person.bag_colour, 0.6),), creases=0)
        width = view.scale * 0.006
        for side in (-0.6, 0.6):
            corner = brush.at(hand, y=-0.06) + np.array([side * wide, 0.0], np.float32)
            brush.tube(brush.at(hand, y=0.01), corner, [width, width], handle, BodyPart.BAG)
        radii = [wide * 0.92, wide, wide, wide * 0.95]
        brush.tube(brush.at(hand, y=-0.055), brush.at(hand, y=-0.19), radii, cloth, BodyPart.BAG, (False, False))


def draw_scarf(brush: Brush, bones: Skeleton, person: Person) -> None:
    """Draws a scarf around the neck, with one end on the chest."""
    radius = brush.view.scale * 0.05
    knot = brush.at(bones.neck, y=0.006)
    aside, down = np.array([radius * 0.55, 0.0], np.float32), np.array([0.0, radius * 0.2], np.float32)
    wool = Cloth((person.bag_colour,), creases=2.0)
    brush.tube(knot - aside, knot + aside, [radius * 0.55, radius * 0.72, radius * 0.55], wool, BodyPart.BAG)
    if np.cos(brush.view.yaw) > -0.2:
        end = brush.at(bones.neck, x=0.03, y=-0.15, z=0.085)
        brush.tube(knot + down, end, [radius * 0.34, radius * 0.42], wool, BodyPart.BAG, CUT_END)
