"""Legs, shoes and skirts."""

import numpy as np

from aelm.data.synthetic.body import Limb, Skeleton
from aelm.data.synthetic.brush import CUT, CUT_END, Brush
from aelm.data.synthetic.garments import leg_texture
from aelm.data.synthetic.head import darker
from aelm.data.synthetic.paint import Cloth, Floats
from aelm.data.synthetic.people import BodyPart, Person

# Radii of hip, knee and ankle by legwear, in body heights; others use the radii of bare legs.
WIDTHS = {"wide": (0.074, 0.062, 0.058), "slim": (0.068, 0.046, 0.034)}
BARE = (0.06, 0.04, 0.025)
STRIPE = (214, 210, 202)


def draw_legs(brush: Brush, bones: Skeleton, person: Person) -> None:
    """Draws both legs, the farther one first, and then the skirt."""
    sides = zip((1, -1), bones.legs, strict=True)
    for side, leg in sorted(sides, key=lambda item: brush.view.depth(item[1].end)):
        _leg(brush, leg, side, person)
    if person.legwear in ("skirt", "long_skirt"):
        _skirt(brush, bones, person)


def _leg(brush: Brush, leg: Limb, side: int, person: Person) -> None:
    part = BodyPart.LEFT_LEG if side > 0 else BodyPart.RIGHT_LEG
    hip, knee, ankle, toes = (brush.view.project(joint) for joint in leg)
    thick = brush.view.scale * person.girth
    upper, middle, lower = (thick * width for width in WIDTHS.get(person.legwear, BARE))
    trousers = Cloth((person.bottom,), creases=1.3, phase=17 * side + 40)
    if person.side_stripe:
        trousers = trousers._replace(palette=(person.bottom, STRIPE), texture=leg_texture(brush.view.yaw, side))
    cover = trousers if person.legwear in WIDTHS else Cloth((person.skin,), creases=0.2)
    thigh, shin = [upper, (upper + middle) * 0.52, middle], [middle, middle * 0.98, (middle + lower) * 0.5, lower]
    brush.shade(hip + 0.4 * (knee - hip), knee, thigh[1:])
    brush.shade(knee, ankle, shin)
    _shoe(brush, ankle, toes, person)
    brush.tube(knee, ankle, shin, cover, part, CUT_END)
    brush.tube(hip, knee, thigh, cover, part)
    if person.legwear == "shorts":
        radii = [thick * 0.074, thick * 0.068, thick * 0.066]
        brush.tube(hip, knee + 0.1 * (hip - knee), radii, trousers, part, CUT_END)


def _shoe(brush: Brush, ankle: Floats, toes: Floats, person: Person) -> None:
    size = brush.view.scale * 0.028
    down = np.array([0.0, size], np.float32)
    heel = ankle - 0.22 * (toes - ankle) + 0.55 * down
    leather = Cloth((person.shoes,), creases=0.3)
    sole = Cloth((darker(person.shoes, 0.55) if sum(person.shoes) > 300 else (150, 148, 142),), creases=0)
    under = [size * 0.8, size * 0.85, size * 0.72]
    brush.tube(heel + 0.36 * down, toes + 0.36 * down, under, sole, BodyPart.SHOES)
    brush.tube(heel, toes, [size * 0.88, size * 0.95, size * 0.74], leather, BodyPart.SHOES)
    brush.tube(ankle - 0.8 * down, ankle + 0.4 * down, [size * 0.8, size * 0.9], leather, BodyPart.SHOES)


def _skirt(brush: Brush, bones: Skeleton, person: Person) -> None:
    length, flare = (0.24, 1.32) if person.legwear == "skirt" else (0.4, 1.45)
    view, thick = brush.view, person.girth
    # The hem is as wide as the current step.
    middle = float(view.project(bones.pelvis)[0])
    step = max(abs(float(view.project(leg.middle)[0]) - middle) for leg in bones.legs)
    hem = max(view.girth(0.1 * thick * flare, 0.09 * thick * flare), step + view.scale * 0.045)
    radii = [view.girth(0.094 * thick, 0.07 * thick), view.girth(0.108 * thick, 0.09 * thick), hem]
    cloth = Cloth((person.bottom,), creases=1.6, phase=9)
    waist, end = brush.at(bones.pelvis, y=0.06), brush.at(bones.pelvis, y=0.06 - length)
    brush.tube(waist, end, radii, cloth, BodyPart.TORSO, CUT)
