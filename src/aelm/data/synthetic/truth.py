"""The truth beside every picture: which pixels are which part of the body, and which are hidden.

``masks/<folder>/<name>.png`` holds one byte a pixel: the ``BodyPart`` in the lower seven bits, also where something
stands in front, and 128 on top where it does.
"""

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from aelm.types import InputError

HIDDEN = 128


class Truth(NamedTuple):
    """What a synthetic picture knows about itself.

    Attributes:
        parts: ``(h, w)`` uint8, ``BodyPart`` values, as if nothing stood in front.
        visible: ``(h, w)`` bool, False where something stands in front.
    """

    parts: NDArray[np.uint8]
    visible: NDArray[np.bool_]

    @property
    def body(self) -> NDArray[np.bool_]:
        """``(h, w)`` bool: the visible pixels of the person."""
        return self.visible & (self.parts > 0)


def mask_path(picture: str | Path) -> Path:
    """Where the mask of a picture lies.

    >>> mask_path("set/query/0002_c1s1_000200_01.jpg").as_posix()
    'set/masks/query/0002_c1s1_000200_01.png'
    """
    path = Path(picture)
    return path.parent.parent / "masks" / path.parent.name / f"{path.stem}.png"


def encode(parts: NDArray[np.uint8], hidden: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Packs parts and hidden pixels into one byte each."""
    return parts | (hidden.astype(np.uint8) * np.uint8(HIDDEN))


def truth(picture: str | Path) -> Truth:
    """Reads the truth about a synthetic picture.

    Args:
        picture: Path of the picture, as in ``Picture.path``.

    Raises:
        FileNotFoundError: If no mask lies where one is expected: the picture is not a synthetic one.
        ValueError: If the mask is not a readable single-channel PNG.
    """
    path = mask_path(picture)
    if not path.is_file():
        raise FileNotFoundError(f"no mask of {picture}: looked for {path}; only synthetic pictures come with one")
    coded = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if coded is None or coded.ndim != 2 or coded.dtype != np.uint8:
        raise InputError(f"{path} is not a readable single-channel PNG; delete the folder and generate it again")
    return Truth(coded & np.uint8(HIDDEN - 1), coded < HIDDEN)
