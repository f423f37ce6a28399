"""Pictures to draw, and what was drawn, as numbers."""

import cv2
import numpy as np


def noise(height=276, width=138, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def read_png(path):
    return cv2.imread(str(path), cv2.IMREAD_COLOR)[:, :, ::-1]


def legend(axes):
    """The names beside the lines of a chart."""
    return [text.get_text() for text in axes.get_legend().get_texts()]
