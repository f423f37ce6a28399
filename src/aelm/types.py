"""Types shared by all parts of aelm: named tuples with their axes, errors, and ImageNet's normalisation.

Axes: B images, N identities, C x H x W feature maps, E embedding of one head, D embedding of a picture,
Q queries, G gallery.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # commands check their keys before loading torch
    from torch import Tensor

# For RGB / 255, as ImageNet backbones were trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class UserError(Exception):
    """Base of all errors meant for the user. The message names the thing, what was expected, what was found, and
    what to do. The commands print it in one line; any other exception is a bug and shows its traceback.

    Errors of the operating system (``OSError``: a missing file, a full disk) are treated the same way.
    """


class InputError(UserError, ValueError):
    """A value, a file's content or a combination of them that aelm cannot work with."""


class InputTypeError(UserError, TypeError):
    """An argument has the wrong type."""


class RunError(UserError, RuntimeError):
    """Something needed is not available: a device, a download, data that has not been set up."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package is not installed."""


class NotFiniteError(UserError, FloatingPointError):
    """A computation gave NaN or infinity."""


class Picture(NamedTuple):
    """One picture of a data set.

    Attributes:
        path: Path of the file.
        pid: Identity number in the data set; -1 is junk, and an identity without a query is a distractor.
        camid: Camera number in the data set; any integer.
    """

    path: str
    pid: int
    camid: int


class Names(NamedTuple):
    """Names of identities and cameras that are not integers: number -> text as it was read."""

    pids: Mapping[int, str] = MappingProxyType({})
    camids: Mapping[int, str] = MappingProxyType({})

    def pid(self, number: int) -> str:
        """Name of an identity.

        >>> Names({3: "alice"}).pid(3), Names().pid(3)
        ('alice', '3')
        """
        return self.pids.get(number, str(number))

    def camid(self, number: int) -> str:
        """Name of a camera."""
        return self.camids.get(number, str(number))


NO_NAMES = Names()


class Benchmark(NamedTuple):
    """A data set as its reader found it on disk; every list is sorted by file name.

    Attributes:
        name: The name used in keys, tables and metric names, such as ``market1501``.
        train: Training pictures; empty if the benchmark has none.
        query: Test queries; empty if there is nothing to test on.
        gallery: Pictures that queries are ranked against, including junk (pid -1) and distractors.
        more_queries: Further query sets against the same gallery, such as ``{"occluded": ...}``.
        official: Published counts, such as ``{"train images": 12936}``; empty if there are none.
        tracks: Track number of each test picture by its path, if tracks are ranked instead of pictures.
        names: Names of identities and cameras.
        doubts: Warnings of the reader about input that it left out or may have misread.
    """

    name: str
    train: tuple[Picture, ...]
    query: tuple[Picture, ...] = ()
    gallery: tuple[Picture, ...] = ()
    more_queries: Mapping[str, tuple[Picture, ...]] = MappingProxyType({})
    official: Mapping[str, int] = MappingProxyType({})
    tracks: Mapping[str, int] = MappingProxyType({})
    names: Names = NO_NAMES
    doubts: tuple[str, ...] = ()


class Batch(NamedTuple):
    """A batch of pictures for a model.

    Attributes:
        image: ``(B, 3, H, W)`` uint8, RGB; the model normalises it on its device.
        pid: ``(B,)`` int64: labels 0 .. N-1 in training, pids of the data set in evaluation.
        camid: ``(B,)`` int64.
        position: ``(B,)`` int64, index of each picture in the data set: identifies padded duplicates.
        is_query: ``(B,)`` bool; always False in training.
        clean: ``(B, 3, H, W)`` uint8, the pictures without pasting and erasing; None if not requested.
    """

    image: "Tensor"
    pid: "Tensor"
    camid: "Tensor"
    position: "Tensor"
    is_query: "Tensor"
    clean: "Tensor | None" = None


class HeadOutput(NamedTuple):
    """Outputs of one classifier for a batch.

    Attributes:
        pooled: ``(B, E)`` embedding map pooled over the positions this head saw; used by metric losses.
        embedding: ``(B, E)`` the embedding that is ranked: ``pooled``, after the BNNeck if there is one.
        logits: ``(B, N)`` identity scores.
        heatmap: ``(B, H, W)`` class map of the requested identity, without gradient; None if none was requested.
        mask: ``(B, H, W)`` bool, True where the map was erased before this head saw it; None if nothing was.
    """

    pooled: "Tensor"
    embedding: "Tensor"
    logits: "Tensor"
    heatmap: "Tensor | None" = None
    mask: "Tensor | None" = None
