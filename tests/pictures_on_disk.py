"""A small model on disk, and pictures of every kind that people have, for the tests of the commands."""

import io
import os
from functools import cache

import cv2
import numpy as np

from tests.tiny import description, write_checkpoint


def save_model(path, **options):
    """Writes the checkpoint of a small network; ``options`` of its AELM make it another one."""
    path.write_bytes(model_bytes(**options))
    return path


@cache
def model_bytes(**options):
    """A checkpoint's content, made once for all tests."""
    content = io.BytesIO()
    write_checkpoint(content, description(coam="aelm.models.CoAM", **options))
    return content.getvalue()


def person(number, height=96, width=48):
    """A picture that no other number has, ``(H, W, 3)``: blobs of colour, smooth as photographs are."""
    colours = np.random.default_rng(number).integers(0, 256, (6, 3, 3), dtype=np.uint8)
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path, image, *options):
    """Encodes by the suffix; Python opens the file, since OpenCV cannot open every name."""
    done, encoded = cv2.imencode(os.path.splitext(path)[1], image, options)
    assert done
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(encoded.tobytes())
    return str(path)


def write_people(folder, count, *, cameras=3):
    """Writes ``count`` pictures with Market-1501's names; gives their paths, in order."""
    return [write(f"{folder}/{i:04}_c{i % cameras + 1}s1_{i:06}_00.jpg", person(i)) for i in range(count)]
