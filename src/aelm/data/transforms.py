"""Augmentation; the only file that imports albumentations."""

import importlib.metadata
import math
import os
import random
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

# Otherwise importing albumentations checks for updates over the network.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import albumentations as A
import cv2
import numpy as np

from aelm.data.decoding import Pixels
from aelm.data.pasting import Occluder, Pasting
from aelm.types import InputError


class RandomErasing:
    """Fills a random rectangle of a picture with one colour.

    As in the paper, area and aspect are drawn uniformly until the rectangle fits, at most a hundred times. The
    transform of albumentations instead lowers the largest area until every aspect fits, which limits the erased share
    to 0.15 on a 256 x 128 picture.

    Args:
        probability: Share of pictures that are changed.
        area: Smallest and largest erased share of the picture, within 0 .. 1.
        fill: The colour, RGB 0 .. 255.
        aspect: Smallest ratio of height to width; the largest is its inverse.

    Raises:
        ValueError: If a value is out of range.

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
        """Top, left, height and width of a rectangle inside the picture; None to erase nothing."""
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
        """Erases a rectangle of ``image`` ``(H, W, 3)`` in place, with random draws from ``rng``."""
        if (drawn := self.draw(image.shape[0], image.shape[1], rng)) is not None:
            top, left, h, w = drawn
            cv2.rectangle(image, (left, top, w, h), self.fill, cv2.FILLED)
        return image


def warn_of_successor() -> None:
    """Warns if AlbumentationsX is installed, which has the same import name but another licence."""
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


def place_of(image: Pixels, height: int, width: int, preprocess: Preprocess) -> tuple[slice, slice]:
    """Rows and columns of :func:`fitted`'s result that show the picture.

    >>> place_of(np.zeros((100, 100, 3), np.uint8), 256, 128, "resize_pad")
    (slice(64, 192, None), slice(0, 128, None))
    """
    if preprocess == "resize":
        return slice(0, height), slice(0, width)
    scale = min(width / image.shape[1], height / image.shape[0])
    w, h = (max(int(side * scale), 1) for side in (image.shape[1], image.shape[0]))
    top, left = (height - h) // 2, (width - w) // 2
    return slice(top, top + h), slice(left, left + w)


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
    result = np.full((height, width, 3), fill, np.uint8)
    place = place_of(image, height, width, preprocess)
    size = result[place].shape[1::-1]
    result[place] = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    return result


class ResizePad(A.ImageOnlyTransform):  # type: ignore[misc]
    """:func:`fitted` with ``resize_pad`` as one of albumentations."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__(p=1)
        self.height, self.width = height, width

    def apply(self, img: Pixels, **_: object) -> Pixels:
        return fitted(img, self.height, self.width, "resize_pad")


class Augment:
    """Albumentations transforms, then pasting and random erasing, on one uint8 picture, with a single seed.

    Args:
        transforms: Transforms for ``A.Compose``. They must bring all pictures to the same size.
        erasing: Applied last; None for none.
        pasting: Applied before it; None for none.
        clean_view: Use of each picture without pasting and erasing: none (``none``), as ``Batch.clean`` (``target``),
            or as one more picture of the batch (``batch``).

    Raises:
        ValueError: If a transform got an unknown argument, or ``clean_view`` is unknown.

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
        # There is only one array, so shape checks are not needed.
        self.compose = A.Compose(list(transforms), strict=True, is_check_shapes=False)
        self.erasing = erasing
        self.pasting = pasting
        self.clean_view: CleanView = clean_view
        self.seed(0)

    def seed(self, seed: int) -> None:
        """Seeds all random draws.

        All transforms share one generator. ``set_random_seed`` would give each a copy of the same stream (a picture
        would be erased exactly when it is flipped) and takes five times as long.
        """
        self._random = random.Random(seed)
        self.compose.set_random_state(np.random.default_rng(seed), self._random)

    def __call__(self, image: Pixels) -> Pixels:
        """``(h, w, 3)`` uint8 RGB to ``(H, W, 3)``."""
        return self.views(image)[0]

    def views(self, image: Pixels, others: Sequence[Pixels] = ()) -> tuple[Pixels, Pixels]:
        """The picture after all steps, and the one before pasting and erasing, each ``(H, W, 3)``.

        Args:
            image: ``(h, w, 3)`` uint8 RGB; not changed.
            others: Pictures of other people, for pasting.
        """
        clean: Pixels = self.compose(image=image)["image"]
        if self.pasting is None and self.erasing is None:
            return clean, clean
        # If no transform changed anything, the result is the caller's array.
        shared = self.clean_view != "none" or np.may_share_memory(clean, image)
        result = clean.copy() if shared else clean
        if self.pasting is not None:
            self.pasting(result, others, self._random)
        if self.erasing is not None:
            self.erasing(result, self._random)
        return result, clean


@dataclass(frozen=True)
class Transforms:
    """Transforms of training and evaluation, with the preprocessing facts that a checkpoint stores.

    Attributes:
        train: Random transform for training.
        test: Deterministic transform for evaluation: a plain resize.
        height: Picture height for the model, in pixels.
        width: Likewise.
        interpolation: Interpolation of ``test``. ``"bilinear"`` is OpenCV's, without antialiasing, as in trackers.
        preprocess: Whether pictures are stretched to that size (``resize``) or padded to it (``resize_pad``).
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
    """BoT's augmentation: resize, flip, pad and crop, erase; optionally pasting.

    Both resizes are bilinear without antialiasing, as in OpenCV-based trackers.

    Args:
        height: Height of the result, in pixels.
        width: Likewise.
        flip: Share of mirrored pictures; 0 for none.
        pad: Black pixels added on each side before a random crop to ``height`` x ``width``; 0 to skip both.
        erasing: Share of pictures with an erased rectangle (ImageNet mean); 0 for none.
        erasing_area: Smallest and largest erased share of a picture.
        pasting: Share of pictures with a pasted occluder; 0 for none (see :mod:`aelm.data.pasting`).
        pasting_area: Approximate smallest and largest covered share of a picture.
        pasting_kinds: Kinds of occluders: ``person``, ``object``, ``patch``.
        clean_view: Use of each picture without pasting and erasing: ``none``, ``target`` (input of the weight average,
            for distillation) or ``batch`` (one more picture of the batch).
        preprocess: ``resize``, or ``resize_pad``: the picture keeps its shape, with the ImageNet mean around it.
        extra: Further albumentations transforms on uint8, between crop and pasting, such as ``[A.ColorJitter(p=0.2)]``.

    Raises:
        ValueError: If a value is out of range, or a transform does not know an argument.

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
