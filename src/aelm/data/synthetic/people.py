"""Identity of synthetic pedestrians: the attributes that are the same in every camera.

The palettes are small on purpose: several people have the same colours of clothes and differ only in cut, pattern,
logo, bag, hair or build, so that a colour histogram cannot distinguish them.
"""

from enum import IntEnum
from typing import NamedTuple, TypeVar

import numpy as np

T = TypeVar("T")

Colour = tuple[int, int, int]

SKINS: tuple[Colour, ...] = ((240, 206, 180), (224, 180, 146), (196, 148, 110), (152, 104, 74), (104, 70, 50))
HAIRS: tuple[Colour, ...] = ((28, 24, 24), (60, 40, 28), (104, 70, 40), (176, 132, 72), (128, 58, 34), (164, 162, 160))
TOPS: tuple[Colour, ...] = (
    (34, 37, 46),  # ink
    (92, 97, 106),  # slate
    (224, 220, 210),  # chalk
    (148, 46, 46),  # brick red
    (48, 80, 138),  # blue
    (66, 98, 74),  # pine
    (196, 160, 86),  # ochre
)
BOTTOMS: tuple[Colour, ...] = ((32, 34, 42), (50, 68, 104), (104, 104, 108), (166, 146, 116))
ACCENTS: tuple[Colour, ...] = (
    (226, 222, 212),
    (40, 42, 52),
    (202, 84, 62),
    (72, 124, 170),
    (222, 180, 84),
    (96, 144, 104),
)
SHOES: tuple[Colour, ...] = ((30, 30, 34), (214, 212, 206), (104, 70, 48), (150, 52, 52))

HAIRCUTS = ("bald", "short", "short", "quiff", "curly", "bob", "long", "ponytail", "bun")
HATS = ("none", "none", "none", "none", "cap", "beanie", "brim")
GARMENTS = ("tee", "shirt", "sweater", "hoodie", "jacket", "coat")
PATTERNS = ("plain", "plain", "plain", "hoops", "pinstripes", "check", "dots", "chest_band", "yoke")
LOGOS = ("none", "none", "disc", "bar", "square", "ring", "cross")
LEGWEAR = ("slim", "slim", "wide", "shorts", "skirt", "long_skirt")
BAGS = ("none", "none", "backpack", "backpack", "messenger", "tote", "scarf")

# The first number of every random stream is its purpose, so that no two purposes share a stream.
PEOPLE, CAMERAS, SHOTS, OCCLUSIONS, PLANS = range(1, 6)


class BodyPart(IntEnum):
    """Values of the lower seven bits of a truth mask; left and right from the person's view."""

    BACKGROUND = 0
    HEAD = 1
    HAIR = 2  # and hat
    TORSO = 3  # and skirts, and the coat down to its hem
    LEFT_ARM = 4
    RIGHT_ARM = 5
    LEFT_LEG = 6
    RIGHT_LEG = 7
    SHOES = 8
    BAG = 9  # and scarf


class Person(NamedTuple):
    """The attributes of one identity; colours are RGB, sizes are factors around 1."""

    skin: Colour
    hair: Colour
    haircut: str
    beard: bool
    glasses: bool
    hat: str
    hat_colour: Colour
    garment: str
    top: Colour
    second: Colour
    pattern: str
    logo: str
    logo_colour: Colour
    is_open: bool
    inner: Colour
    legwear: str
    bottom: Colour
    side_stripe: bool
    bag: str
    bag_colour: Colour
    shoes: Colour
    height: float
    girth: float
    shoulders: float


def stream(*words: int) -> np.random.Generator:
    """An independent generator for each tuple of non-negative numbers, the same on every machine and process."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(words)))


def pick(generator: np.random.Generator, options: tuple[T, ...]) -> T:
    """A random option, all equally likely.

    >>> pick(stream(0), ("only",))
    'only'
    """
    return options[int(generator.random() * len(options))]


def between(generator: np.random.Generator, low: float, high: float) -> float:
    """A random number between two bounds."""
    return low + (high - low) * float(generator.random())


def person(seed: int, identity: int) -> Person:
    """Draws the attributes of one identity.

    >>> person(0, 7) == person(0, 7), person(0, 7) == person(0, 8)
    (True, False)
    """
    draw = stream(PEOPLE, seed, identity)
    is_female = draw.random() < 0.5
    top = pick(draw, TOPS)
    garment = pick(draw, GARMENTS)
    pattern = pick(draw, PATTERNS)
    # A coat hides the waist and most of a skirt; patterned coats and jackets are rare.
    if garment in ("jacket", "coat") and pattern not in ("check", "yoke"):
        pattern = "plain"
    haircut = pick(draw, HAIRCUTS)
    if is_female and haircut == "bald":
        haircut = "long"
    if not is_female and haircut in ("bob", "bun"):
        haircut = "short"
    legwear = pick(draw, LEGWEAR)
    if not is_female and legwear in ("skirt", "long_skirt"):
        legwear = "slim"
    return Person(
        skin=pick(draw, SKINS),
        hair=pick(draw, HAIRS),
        haircut=haircut,
        beard=not is_female and draw.random() < 0.4,
        glasses=draw.random() < 0.25,
        hat=pick(draw, HATS),
        hat_colour=pick(draw, ACCENTS),
        garment=garment,
        top=top,
        second=pick(draw, tuple(colour for colour in ACCENTS if _distance(colour, top) > 90)),
        pattern=pattern,
        logo=pick(draw, LOGOS),
        logo_colour=pick(draw, tuple(colour for colour in ACCENTS if _distance(colour, top) > 90)),
        is_open=garment in ("jacket", "coat", "shirt") and draw.random() < 0.5,
        inner=pick(draw, tuple(colour for colour in ACCENTS if _distance(colour, top) > 60)),
        legwear=legwear,
        bottom=pick(draw, BOTTOMS),
        side_stripe=draw.random() < 0.2,
        bag=pick(draw, BAGS),
        bag_colour=pick(draw, ACCENTS),
        shoes=pick(draw, SHOES),
        height=between(draw, 0.9, 1.02) + (0.0 if is_female else 0.05),
        girth=between(draw, 0.86, 1.22),
        shoulders=between(draw, 0.92, 1.04) + (0.0 if is_female else 0.07),
    )


def _distance(one: Colour, other: Colour) -> float:
    return float(sum(abs(a - b) for a, b in zip(one, other, strict=True)))
