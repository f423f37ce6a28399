"""Pictures on their way into a figure: read, checked, and fitted into a box without stretching."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]

# Crops of standing people; a set of other pictures gets boxes of its own shape within these bounds.
NARROWEST, WIDEST = 0.4, 1.6


def read_picture(picture: str | Path | Image) -> Image:
    """An RGB picture ``(H, W, 3)`` uint8, from a file or as it is.

    Raises:
        FileNotFoundError: If the file is not there.
        ValueError: If the file is no picture, or the array is not ``(H, W, 3)`` uint8.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise ValueError(f"a picture must be (H, W, 3) uint8 RGB, got {picture.shape} {picture.dtype}")
        return picture
    path = Path(picture)
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {str(path)!r}; was the data set moved since it was read?")
    # Bytes first: OpenCV's own reader cannot open every file name on every system.
    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise ValueError(f"{str(path)!r} is not a picture OpenCV can read ({encoded.size} bytes); replace or remove it")
    return np.ascontiguousarray(image[:, :, ::-1], np.uint8)


def resize(image: Image, width: int, height: int) -> Image:
    """A picture in another size in pixels: area means when it shrinks, cubic when it grows."""
    smaller = width * height < image.shape[0] * image.shape[1]
    return np.asarray(
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC), np.uint8
    )


def fit(image: Image, width: int, height: int) -> Image:
    """The largest copy of a picture that lies within ``width`` x ``height`` pixels, its shape kept.

    >>> fit(np.zeros((10, 20, 3), np.uint8), 40, 40).shape
    (20, 40, 3)
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    # A pixel of rounding is not worth a seam beside the picture.
    return resize(
        image,
        *(max(1, min(side, round(scale * old))) for side, old in ((width, image.shape[1]), (height, image.shape[0]))),
    )


def box_aspect(images: Sequence[Image]) -> float:
    """Width over height of the box that suits most pictures: their median, within sane bounds.

    >>> box_aspect([np.zeros((128, 64, 3), np.uint8)] * 3)
    0.5
    """
    return float(np.clip(np.median([image.shape[1] / image.shape[0] for image in images]), NARROWEST, WIDEST))
