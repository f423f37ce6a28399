"""Random erasing on uint8 pictures, by the rule of its paper and of BoT."""

import math
import random

import cv2

from aelm.data.decoding import Pixels


class RandomErasing:
    """Covers a random rectangle of a picture with one colour.

    The usual rule: area and aspect are drawn uniformly until the rectangle fits, at most a hundred times. The transform
    of albumentations that offers this instead lowers the largest area until every aspect fits, which on a 256 x 128
    picture caps the erased share at 0.15, whatever was asked for.

    Args:
        probability: Share of pictures that are touched.
        area: Smallest and largest share of the picture that is covered, within 0 .. 1.
        fill: The colour, RGB 0 .. 255.
        aspect: Smallest ratio of height to width; the largest is its inverse.

    Raises:
        ValueError: If a value lies outside its range.

    Reference: Zhong et al. 2020, Random Erasing Data Augmentation; values of Luo et al. 2019 (BoT).
    """

    def __init__(
        self,
        probability: float = 0.5,
        area: tuple[float, float] = (0.02, 0.4),
        fill: tuple[int, int, int] = (124, 116, 104),
        aspect: float = 0.3,
    ) -> None:
        if not 0 <= probability <= 1:
            raise ValueError(f"`probability` must lie in [0, 1], got {probability}")
        if not 0 < area[0] <= area[1] < 1:
            raise ValueError(f"`area` must be two rising shares between 0 and 1, got {tuple(area)}")
        if not 0 < aspect <= 1:
            raise ValueError(f"`aspect` must lie in (0, 1], got {aspect}")
        self.probability = probability
        self.area = (area[0], area[1])
        self.fill = fill
        self.aspect = aspect

    def draw(self, height: int, width: int, rng: random.Random) -> tuple[int, int, int, int] | None:
        """Top, left, height and width of a rectangle inside the picture; None where nothing is to be covered."""
        if rng.random() >= self.probability:
            return None
        for _ in range(100):
            area = rng.uniform(*self.area) * height * width
            aspect = rng.uniform(self.aspect, 1 / self.aspect)
            h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < h < height and 0 < w < width:
                return rng.randint(0, height - h), rng.randint(0, width - w), h, w
        return None

    def __call__(self, image: Pixels, rng: random.Random) -> Pixels:
        """Covers a rectangle of ``image`` ``(H, W, 3)`` in place; the draws come from ``rng``."""
        if (drawn := self.draw(image.shape[0], image.shape[1], rng)) is not None:
            top, left, h, w = drawn
            cv2.rectangle(image, (left, top, w, h), self.fill, cv2.FILLED)
        return image
