"""What crosses borders between the parts of aelm: named tuples, errors, the letters of their axes, one normalisation.

Axes: B images, N identities, C x H x W feature maps, E embedding of one head, D embedding of a picture,
Q queries, G gallery.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:  # commands check their keys before they load torch
    from torch import Tensor

# Of RGB / 255, as every ImageNet backbone was trained.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class UserError(Exception):
    """The base of all errors that aelm raises for its user: the message names the thing, what was expected, what was
    found and the way out. The commands print it in one line; any other exception is a bug and shows its traceback.

    Errors of the operating system (``OSError``: a missing file, a full disk) are treated the same way.
    """


class InputError(UserError, ValueError):
    """A value, a file's content or a combination of them that aelm cannot work with."""


class InputTypeError(UserError, TypeError):
    """An argument of another type than the function takes."""


class RunError(UserError, RuntimeError):
    """What is needed is not there now: a device, a download, data that has not been set up."""


class MissingPackageError(UserError, ModuleNotFoundError):
    """An optional package is not installed."""


class NotFiniteError(UserError, FloatingPointError):
    """A computation gave NaN or infinity."""


class Picture(NamedTuple):
    """One picture of a data set.

    Attributes:
        path: Where the file lies.
        pid: Identity as the data set numbers it; -1 is junk, and an id that no query has is a distractor.
        camid: Camera as the data set numbers it; any whole number.
    """

    path: str
    pid: int
    camid: int


class Names(NamedTuple):
    """What identities and cameras are called where they are not whole numbers: number -> text as it was read."""

    pids: Mapping[int, str] = MappingProxyType({})
    camids: Mapping[int, str] = MappingProxyType({})

    def pid(self, number: int) -> str:
        """What an identity is called.

        >>> Names({3: "alice"}).pid(3), Names().pid(3)
        ('alice', '3')
        """
        return self.pids.get(number, str(number))

    def camid(self, number: int) -> str:
        """What a camera is called."""
        return self.camids.get(number, str(number))


NO_NAMES = Names()


class Benchmark(NamedTuple):
    """A data set as its reader found it on disk; every list sorted by file name.

    Attributes:
        name: The name used in keys, tables and metric names, such as ``market1501``.
        train: Training pictures; empty where the benchmark has none.
        query: Test queries; empty where there is nothing to test on.
        gallery: What queries are ranked against, junk (pid -1) and distractors included.
        more_queries: Further query sets against the same gallery, such as ``{"occluded": ...}``.
        official: Counts as published, such as ``{"train images": 12936}``; empty where there are none.
        tracks: Number of the track of each test picture by its path, where tracks are ranked and not pictures.
        names: What identities and cameras are called.
        doubts: Sentences about what its reader took in another way than it may be meant, or left out.
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
    """Pictures on their way into a model.

    Attributes:
        image: ``(B, 3, H, W)`` uint8, RGB; the model normalises it, on the device it runs on.
        pid: ``(B,)`` int64: in training the label 0 .. N-1, in evaluation the pid of the data set.
        camid: ``(B,)`` int64.
        position: ``(B,)`` int64, where in the data set each picture stands: tells padded duplicates apart.
        is_query: ``(B,)`` bool; False throughout in training.
        clean: ``(B, 3, H, W)`` uint8, the pictures without pasting and erasing; None where nobody asked for them.
    """

    image: "Tensor"
    pid: "Tensor"
    camid: "Tensor"
    position: "Tensor"
    is_query: "Tensor"
    clean: "Tensor | None" = None


class HeadOutput(NamedTuple):
    """What one classifier says of a batch.

    Attributes:
        pooled: ``(B, E)`` embedding map pooled over the positions this head saw; metric losses act here.
        embedding: ``(B, E)`` what ranking compares: ``pooled``, behind the BNNeck where there is one.
        logits: ``(B, N)`` identity scores.
        heatmap: ``(B, H, W)`` class map of the wanted identity, without gradient; None when none was asked for.
        mask: ``(B, H, W)`` bool, True where the map was erased before this head saw it; None when nothing was.
    """

    pooled: "Tensor"
    embedding: "Tensor"
    logits: "Tensor"
    heatmap: "Tensor | None" = None
    mask: "Tensor | None" = None
