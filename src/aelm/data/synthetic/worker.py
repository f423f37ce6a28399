"""Draws a share of a set; also the program that ``generate`` starts several times.

A program of its own instead of ``multiprocessing``: it works from scripts without a main guard, from notebooks, from
standard input and on Windows alike, and takes nothing of its parent's threads with it.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from aelm.data.synthetic import varied
from aelm.data.synthetic.plan import SIZES, Task, plan
from aelm.data.synthetic.shot import shoot
from aelm.data.synthetic.truth import encode, mask_path

JPEG_QUALITY = 92
CANNOT_WRITE = 74  # the exit status, as of sysexits.h: neither the drawing nor the caller is at fault


class Order(NamedTuple):
    """What to draw, and where to; every field but ``target`` decides what the pictures show."""

    target: str
    size: str
    seed: int
    height: int
    train_occluded: float

    def tasks(self) -> list[Task]:
        """Every picture of the set."""
        return plan(SIZES[self.size], self.seed, self.train_occluded)


def _write(path: Path, picture: NDArray[np.uint8], options: list[int]) -> None:
    # OpenCV does not open non-Latin paths on Windows; Python does.
    done, data = cv2.imencode(path.suffix, picture, options)
    if not done:
        raise OSError(f"OpenCV could not encode {path}")
    path.write_bytes(data.tobytes())


def work(order: Order, part: int = 0, parts: int = 1) -> Iterator[Task]:
    """Draws every ``parts``-th picture of a set, beginning with number ``part``; yields each when it is written."""
    take = varied.shoot if order.size == "varied" else shoot
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
    """Takes an order as JSON, the part and the parts; writes one dot to standard output for each picture."""
    cv2.setNumThreads(1)
    try:
        for _ in work(Order(*json.loads(arguments[0])), int(arguments[1]), int(arguments[2])):
            os.write(sys.stdout.fileno(), b".")
    except OSError as error:
        os.write(sys.stderr.fileno(), f"{error}\n".encode())
        sys.exit(CANNOT_WRITE)


if __name__ == "__main__":
    main(sys.argv[1:])
