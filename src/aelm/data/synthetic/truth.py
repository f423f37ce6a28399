"""Ground truth of every picture: the body part of each pixel, and which pixels are hidden.

``masks/<folder>/<name>.png`` has one byte per pixel: the ``BodyPart`` in the lower seven bits, also for hidden pixels,
plus 128 for hidden pixels.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from aelm.types import InputError

HIDDEN = 128


class Truth(NamedTuple):
    """Ground truth of a synthetic picture.

    Attributes:
        parts: ``(h, w)`` uint8, ``BodyPart`` values, as if there were no occluder.
        visible: ``(h, w)`` bool, False where an occluder hides the pixel.
    """

    parts: NDArray[np.uint8]
    visible: NDArray[np.bool_]

    @property
    def body(self) -> NDArray[np.bool_]:
        """``(h, w)`` bool: the visible pixels of the person."""
        return self.visible & (self.parts > 0)


def mask_path(picture: str | Path) -> Path:
    """Path of a picture's mask.

    >>> mask_path("set/query/0002_c1s1_000200_01.jpg").as_posix()
    'set/masks/query/0002_c1s1_000200_01.png'
    """
    path = Path(picture)
    return path.parent.parent / "masks" / path.parent.name / f"{path.stem}.png"


def encode(parts: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Packs parts and hidden pixels into one byte each."""
    return parts | (hidden.astype(np.uint8) * np.uint8(HIDDEN))


def truth(picture: str | Path) -> Truth:
    """Reads the ground truth of a synthetic picture.

    Args:
        picture: Path of the picture, as in ``Picture.path``.

    Raises:
        FileNotFoundError: If the picture has no mask, so it is not synthetic.
        ValueError: If the mask is not a readable single-channel PNG.
    """
    path = mask_path(picture)
    if not path.is_file():
        raise FileNotFoundError(f"no mask of {picture}: looked for {path}; only synthetic pictures come with one")
    coded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if coded is None or coded.ndim != 2 or coded.dtype != np.uint8:
        raise InputError(f"{path} is not a readable single-channel PNG; delete the folder and generate it again")
    return Truth(coded & np.uint8(HIDDEN - 1), coded < HIDDEN)
