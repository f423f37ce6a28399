"""Embeddings of the people in a frame, for trackers: one unit vector for each box."""

from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from aelm.data.decoding import Pixels, planes
from aelm.data.transforms import FILL, fitted
from aelm.embed.batches import Features, default_batch_size
from aelm.embed.embedder import Embedder
from aelm.types import InputError

Colour = Literal["rgb", "bgr"]


class FrameEmbeddings(NamedTuple):
    """Embeddings of the boxes of a frame, in order.

    Attributes:
        features: ``(n, D)`` float32 of unit length; zeros, with similarity 0 to everything, for boxes without pixels.
        inside: ``(n,)`` float32, the share of each box's area inside the frame; 0 for boxes that are outside, empty,
            upside down, or not numbers.
    """

    features: Features
    inside: NDArray[np.float32]


class FrameEmbedder:
    """Embeds the boxes of video frames, as a tracker's appearance model.

    Args:
        embedder: From :func:`aelm.load_embedder`, on the device to run on.
        colour: Channel order of the frames: OpenCV and most trackers use ``bgr``.
        batch_size: Boxes per run of the model; None: the default of the device.

    Raises:
        ValueError: If ``colour`` is unknown, ``batch_size`` is below 1, or the model needs another interpolation.
    """

    def __init__(self, embedder: Embedder, *, colour: Colour, batch_size: int | None = None) -> None:
        if colour not in get_args(Colour):
            raise InputError(f"`colour` must be 'rgb' or 'bgr', the order of the frames' channels, got {colour!r}")
        if batch_size is not None and batch_size < 1:
            raise InputError(f"`batch_size` must be at least 1, got {batch_size}")
        if embedder.interpolation != "bilinear":
            raise InputError(
                f"{embedder.name} wants `interpolation` {embedder.interpolation!r}; aelm has only bilinear"
            )
        self.embedder = embedder
        self.colour = colour
        self.batch_size = batch_size or default_batch_size(embedder.device.type)

    def __call__(self, frame: Pixels, boxes: Any) -> FrameEmbeddings:
        """Embeds the content of each box; boxes are clipped to the frame.

        Args:
            frame: ``(H, W, 3)`` uint8.
            boxes: ``(n, 4)`` left, top, right, bottom in pixels; or an object with such an array as ``xyxy``, as
                ``supervision.Detections`` and Ultralytics' ``Boxes``. May be empty.

        Raises:
            ValueError: If the frame or the boxes have another shape, or the model returns values that are not finite.
        """
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            got = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
            raise InputError(f"a frame must be an array (H, W, 3) of uint8, got {got}")
        corners = xyxy(boxes)
        height, width = frame.shape[:2]
        # NaN becomes an empty box.
        inner = np.nan_to_num(corners.clip(0, (width, height, width, height)), nan=0.0).round().astype(int)
        whole = (corners[:, 2] - corners[:, 0]).clip(0) * (corners[:, 3] - corners[:, 1]).clip(0)
        there = (inner[:, 2] > inner[:, 0]) & (inner[:, 3] > inner[:, 1]) & np.isfinite(corners).all(1)
        kept = np.flatnonzero(there)
        area = (inner[:, 2] - inner[:, 0]) * (inner[:, 3] - inner[:, 1])
        inside = np.where(there, np.minimum(area / np.maximum(whole, 1e-9), 1.0), 0.0).astype(np.float32)
        features = np.zeros((len(corners), self.embedder.dim), np.float32)
        for first in range(0, len(kept), self.batch_size):
            part = kept[first : first + self.batch_size]
            features[part] = self.embedder.embed(self.crops(frame, inner[part])).cpu().numpy()
        if not np.isfinite(features).all():
            raise InputError(f"{self.embedder.name} gives NaN or infinite values. Has its training diverged?")
        return FrameEmbeddings(features, inside)

    def get_features(self, boxes: Any, frame: Pixels) -> Features:
        """The ``(n, D)`` features only: called by BoxMOT's trackers on their ``reid_model``."""
        return self(frame, boxes).features

    def crops(self, frame: Pixels, boxes: NDArray[np.int64]) -> torch.Tensor:
        """Crops ``(b, 3, height, width)`` uint8 RGB of boxes ``(b, 4)`` inside the frame."""
        size, how = (self.embedder.height, self.embedder.width), self.embedder.preprocess
        fill = FILL if self.colour == "rgb" else FILL[::-1]
        result = np.empty((len(boxes), 3, *size), np.uint8)
        for target, (left, top, right, bottom) in zip(result, boxes.tolist(), strict=True):
            crop = fitted(frame[top:bottom, left:right], *size, how, fill)
            planes(crop, target if self.colour == "rgb" else target[::-1])
        return torch.from_numpy(result)


def xyxy(boxes: Any) -> NDArray[np.float64]:
    """Boxes as an array ``(n, 4)``: left, top, right, bottom.

    Raises:
        ValueError: If they have another shape.

    >>> xyxy([]).shape, xyxy([[1, 2, 3, 4]]).tolist()
    ((0, 4), [[1.0, 2.0, 3.0, 4.0]])
    """
    values = getattr(boxes, "xyxy", boxes)
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
    try:
        corners = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"boxes must be numbers (n, 4) or have them as `xyxy`, got {type(boxes).__name__}") from error
    if corners.size == 0:
        return np.empty((0, 4))
    if corners.ndim != 2 or corners.shape[1] != 4:
        raise InputError(f"boxes must be (n, 4): left, top, right, bottom, got {corners.shape}")
    return corners
