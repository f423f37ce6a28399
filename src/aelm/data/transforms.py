"""Augmentation with albumentations; the only file that knows it."""

import importlib.metadata
import math
import os
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

# Importing albumentations asks the network for a newer version unless this is set.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from aelm.data.decoding import Pixels
from aelm.data.pasting import Occluder, Pasting
from aelm.types import InputError


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
            raise InputError(f"`probability` must lie in [0, 1], got {probability}")
        if not 0 < area[0] <= area[1] < 1:
            raise InputError(f"`area` must be two rising shares between 0 and 1, got {tuple(area)}")
        if not 0 < aspect <= 1:
            raise InputError(f"`aspect` must lie in (0, 1], got {aspect}")
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


def warn_of_successor() -> None:
    """Warns where AlbumentationsX is installed, which has the import name of albumentations and another licence."""
    try:
        version = importlib.metadata.version("albumentationsx")
    except importlib.metadata.PackageNotFoundError:
        return
    warnings.warn(
        f"AlbumentationsX {version} is installed, under AGPL-3.0, and answers to `import albumentations`. aelm is made "
        "for albumentations 2.0.8 (MIT): pip uninstall albumentationsx, then "
        "pip install --force-reinstall albumentations==2.0.8",
        stacklevel=2,
    )


warn_of_successor()


CleanView = Literal["none", "target", "batch"]
Preprocess = Literal["resize", "resize_pad"]
FILL = (124, 116, 104)  # ImageNet's mean, RGB


def fitted(image: Pixels, height: int, width: int, preprocess: Preprocess, fill: Sequence[int] = FILL) -> Pixels:
    """A picture ``(h, w, 3)`` at the size of a network, bilinear without antialiasing.

    Args:
        image: uint8.
        height: Of the result, in pixels.
        width: Likewise.
        preprocess: ``resize``; or ``resize_pad``: the picture keeps its shape and lies in the middle (letterbox), as
            BoxMOT has it, down to the rounding.
        fill: The colour around it.
    """
    if preprocess == "resize":
        return np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = (max(int(side * scale), 1) for side in (image.shape[1], image.shape[0]))
    result = np.full((height, width, 3), fill, np.uint8)
    top, left = (height - h) // 2, (width - w) // 2
    result[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    return result


class ResizePad(A.ImageOnlyTransform):  # type: ignore[misc]
    """:func:`fitted` with ``resize_pad`` as one of albumentations."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(p=1)
        self.height, self.width = height, width

    def apply(self, img: Pixels, **_: object) -> Pixels:
        return fitted(img, self.height, self.width, "resize_pad")


class Augment:
    """A list of albumentations, then pasting and random erasing, on one uint8 picture; every draw comes from one seed.

    Args:
        transforms: What ``A.Compose`` takes. The last of them that changes the size must leave all pictures the same.
        erasing: Applied last; None for none.
        pasting: Applied in front of it; None for none.
        clean_view: What a data set does with each picture as it is in front of pasting and erasing: nothing (``none``),
            it goes into ``Batch.clean`` (``target``), or into the batch as one more picture (``batch``).

    Raises:
        ValueError: If a transform was given an argument that it does not know, or ``clean_view`` is unknown.

    >>> Augment([A.Resize(4, 2)])(np.zeros((9, 9, 3), np.uint8)).shape
    (4, 2, 3)
    """

    def __init__(
        self,
        transforms: Sequence[A.BasicTransform],
        erasing: RandomErasing | None = None,
        pasting: Pasting | None = None,
        clean_view: CleanView = "none",
    ) -> None:
        if clean_view not in get_args(CleanView):
            raise InputError(f"`clean_view` must be one of {', '.join(get_args(CleanView))}, got {clean_view!r}")
        # There is one array to check, so comparing its shape with others is only time.
        self.compose = A.Compose(list(transforms), strict=True, is_check_shapes=False)
        self.erasing = erasing
        self.pasting = pasting
        self.clean_view: CleanView = clean_view
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Restarts all draws.

        One generator serves all transforms. ``set_random_seed`` would give each its own copy of the same stream (a
        picture would be erased exactly when it is flipped) and takes five times as long.
        """
        self._random = random.Random(seed)
        self.compose.set_random_state(np.random.default_rng(seed), self._random)

    def __call__(self, image: Pixels) -> Pixels:
        """``(h, w, 3)`` uint8 RGB to ``(H, W, 3)``."""
        return self.views(image)[0]

    def views(self, image: Pixels, others: Sequence[Pixels] = ()) -> tuple[Pixels, Pixels]:
        """The picture behind all steps and the one in front of pasting and erasing, each ``(H, W, 3)``.

        Args:
            image: ``(h, w, 3)`` uint8 RGB; left as it is.
            others: Pictures of other people, for pasting.
        """
        clean: Pixels = self.compose(image=image)["image"]
        if self.pasting is None and self.erasing is None:
            return clean, clean
        # Where no transform had to do anything, what came out is the caller's own picture.
        shared = self.clean_view != "none" or np.may_share_memory(clean, image)
        result = clean.copy() if shared else clean
        if self.pasting is not None:
            self.pasting(result, others, self._random)
        if self.erasing is not None:
            self.erasing(result, self._random)
        return result, clean


@dataclass(frozen=True)
class Transforms:
    """What happens to pictures in training and in use, with the facts that a checkpoint must tell.

    Attributes:
        train: Random, for training.
        test: The same each time: a plain resize.
        height: Of the picture that the model sees, in pixels.
        width: Likewise.
        interpolation: How ``test`` resizes. ``"bilinear"`` is OpenCV's, without antialiasing, as trackers do it.
        preprocess: Whether pictures are stretched to that size (``resize``), or padded to it (``resize_pad``).
    """

    train: Augment
    test: Augment
    height: int
    width: int
    interpolation: Literal["bilinear"] = "bilinear"
    preprocess: Preprocess = "resize"


def recipe(
    height: int = 256,
    width: int = 128,
    *,
    flip: float = 0.5,
    pad: int = 10,
    erasing: float = 0.5,
    erasing_area: tuple[float, float] = (0.02, 0.4),
    pasting: float = 0.0,
    pasting_area: tuple[float, float] = (0.1, 0.5),
    pasting_kinds: Sequence[Occluder] = ("person", "object", "patch"),
    clean_view: CleanView = "none",
    preprocess: Preprocess = "resize",
    extra: Sequence[A.BasicTransform] = (),
) -> Transforms:
    """BoT's augmentation: resize, flip, pad and crop, erase; where asked for, something is pasted in front.

    Both resizes are bilinear without antialiasing, as trackers do it with OpenCV.

    Args:
        height: Of the result, in pixels.
        width: Likewise.
        flip: Share of pictures that are mirrored; 0 for none.
        pad: Black pixels added on each side before a random crop to ``height`` x ``width``; 0 for neither.
        erasing: Share of pictures with a rectangle of the ImageNet mean; 0 for none.
        erasing_area: Smallest and largest share of a picture that is erased.
        pasting: Share of pictures that something stands in front of; 0 for none (see :mod:`aelm.data.pasting`).
        pasting_area: Smallest and largest share of a picture that is then covered, about.
        pasting_kinds: What is pasted: ``person``, ``object``, ``patch``.
        clean_view: Where each picture without pasting and erasing goes: ``none``, ``target`` (what the average of the
            weights sees, for distillation) or ``batch`` (one more picture of the batch).
        preprocess: ``resize``, or ``resize_pad``: the picture keeps its shape, with the ImageNet mean around it.
        extra: Further albumentations, on uint8 between crop and pasting, such as ``[A.ColorJitter(p=0.2)]``.

    Raises:
        ValueError: If a value lies outside its range, or a transform does not know an argument.

    Reference: Luo et al. 2019, Bag of Tricks and a Strong Baseline for Deep Person Re-identification.

    >>> recipe(64, 32, erasing=0).train(np.zeros((128, 64, 3), np.uint8)).shape
    (64, 32, 3)
    """
    if height < 1 or width < 1:
        raise InputError(f"`height` and `width` must be at least 1 pixel, got {height} x {width}")
    if not 0 <= flip <= 1:
        raise InputError(f"`flip` must lie in [0, 1], got {flip}")
    if pad < 0:
        raise InputError(f"`pad` must be 0 or more pixels, got {pad}")
    if preprocess not in get_args(Preprocess):
        raise InputError(f"`preprocess` must be one of {', '.join(get_args(Preprocess))}, got {preprocess!r}")
    padded = preprocess == "resize_pad"
    resize = ResizePad(height, width) if padded else A.Resize(height, width, interpolation=cv2.INTER_LINEAR)
    train = [resize]
    if flip:
        train.append(A.HorizontalFlip(p=flip))
    if pad:
        train += [A.Pad(pad), A.RandomCrop(height, width)]
    eraser = RandomErasing(erasing, erasing_area) if erasing else None
    paster = Pasting(pasting, pasting_area, pasting_kinds) if pasting else None
    train_on = Augment([*train, *extra], eraser, paster, clean_view)
    return Transforms(train_on, Augment([resize]), height, width, preprocess=preprocess)
