"""Draws a share of a data set; also the program that ``generate`` starts as worker processes.

A separate program instead of ``multiprocessing``: it works from scripts without a main guard, from notebooks, from
standard input and on Windows, and inherits no threads from its parent.
"""

import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from aelm.data.synthetic import varied
from aelm.data.synthetic.plan import SIZES, Task, plan
from aelm.data.synthetic.shot import Shot, shoot
from aelm.data.synthetic.truth import encode, mask_path

JPEG_QUALITY = 92
CANNOT_WRITE = 74  # exit status EX_IOERR of sysexits.h


class Order(NamedTuple):
    """What to draw, and where; the pictures depend on every field except ``target``."""

    target: str
    size: str
    seed: int
    height: int
    train_occluded: float

    def tasks(self) -> list[Task]:
        """All pictures of the set."""
        return plan(SIZES[self.size], self.seed, self.train_occluded)


def _write(path: Path, picture: NDArray[np.uint8], options: list[int]) -> None:
    # Unlike Python, OpenCV cannot open non-Latin paths on Windows.
    done, data = cv2.imencode(path.suffix, picture, options)
    if not done:
        raise OSError(f"OpenCV could not encode {path}")
    path.write_bytes(data.tobytes())


def drawer(size: str) -> Callable[..., Shot]:
    """The function that draws a picture of a set of this size."""
    return varied.shoot if size == "varied" else shoot


def work(order: Order, part: int = 0, parts: int = 1) -> Iterator[Task]:
    """Draws every ``parts``-th picture of a set, starting with number ``part``; yields each after writing it."""
    take = drawer(order.size)
    for task in order.tasks()[part::parts]:
        shot = take(
            order.seed,
            task.identity,
            task.camera,
            task.shot,
            occluder=task.occluder,
            loose=task.loose,
            height=order.height,
        )
        picture = Path(order.target) / task.folder / task.name
        _write(picture, shot.image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        _write(mask_path(picture), encode(shot.parts, shot.hidden), [cv2.IMWRITE_PNG_COMPRESSION, 4])
        yield task


def main(arguments: list[str]) -> None:
    """Arguments: an order as JSON, the part and the number of parts; prints one dot for each picture."""
    cv2.setNumThreads(1)
    try:
        for _ in work(Order(*json.loads(arguments[0])), int(arguments[1]), int(arguments[2])):
            os.write(sys.stdout.fileno(), b".")
    except OSError as error:
        os.write(sys.stderr.fileno(), f"{error}\n".encode())
        sys.exit(CANNOT_WRITE)


if __name__ == "__main__":
    main(sys.argv[1:])
