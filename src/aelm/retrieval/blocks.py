"""Gallery features in blocks of one size, whatever they come as."""

import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from aelm.retrieval.labels import IntArray

Array = Tensor | NDArray[Any]
Features = Array | Iterable[Array]


class GalleryBlocks:
    """The rows of a gallery that take part, in blocks of one width, on the device and in the type of the queries.

    Args:
        source: ``(G, D)`` tensor, array or memory-mapped array, or an iterable of such blocks of rows of any size: a
            list, a data loader, a generator. What can be iterated only once is copied to a temporary file by
            :meth:`keep`.
        like: ``(Q, D)`` queries; blocks follow their D, device and type.
        taking_part: ``(G,)`` bool; the other rows are left out. None for all rows, however many come.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If the rows are not G in all, or not D wide.
    """

    def __init__(self, source: Features, like: Tensor, taking_part: NDArray[np.bool_] | None = None) -> None:
        self.source, self.like, self.taking_part = source, like, taking_part
        if isinstance(source, (Tensor, np.ndarray)):
            self._check(source)
            self._check_length(len(source))

    def blocks(self, width: int) -> Iterator[tuple[int, IntArray, Tensor]]:
        """Yields the position of a block among the rows taking part, its gallery row numbers, and its features.

        Args:
            width: Rows in a block; the last one may be shorter.
        """
        first, held, numbers = 0, list[Tensor](), list[IntArray]()
        for rows, piece in self._pieces(width):
            while len(piece):
                room = width - sum(map(len, held))
                held, piece = [*held, piece[:room]], piece[room:]
                numbers, rows = [*numbers, rows[:room]], rows[room:]
                if sum(map(len, held)) == width:
                    yield first, np.concatenate(numbers), _together(held)
                    first, held, numbers = first + width, [], []
        if held:
            yield first, np.concatenate(numbers), _together(held)

    def keep(self) -> None:
        """Makes a second pass possible: what can be iterated only once is copied to a temporary file."""
        if not isinstance(self.source, Iterator):
            return
        dtype = torch.empty(0, dtype=self.like.dtype).numpy().dtype
        with tempfile.TemporaryFile(prefix="aelm-gallery-") as file:
            for piece in self.source:
                self._check(piece)
                file.write(self._place(piece).cpu().numpy().tobytes())
            file.flush()
            if not file.tell():
                raise ValueError("`gallery_features` is an iterator without blocks; has it been used up before?")
            # The map keeps the file alive after it is closed.
            self.source = np.memmap(file, dtype=dtype, mode="r+").reshape(-1, self.like.shape[1])
        self._check_length(len(self.source))

    def _pieces(self, width: int) -> Iterator[tuple[IntArray, Tensor]]:
        """Row numbers and features of all rows taking part, in pieces of any size."""
        source, seen = self.source, 0
        if isinstance(source, (Tensor, np.ndarray)):
            rows = np.arange(len(source)) if self.taking_part is None else np.flatnonzero(self.taking_part)
            for first in range(0, len(rows), width):
                part = rows[first : first + width]
                is_run = part[-1] - part[0] == len(part) - 1
                yield part, self._place(source[part[0] : part[-1] + 1] if is_run else source[part])
            return
        for piece in source:
            self._check(piece)
            rows, block = np.arange(seen, seen + len(piece)), self._place(piece)
            seen += len(piece)
            if self.taking_part is not None:
                if seen > len(self.taking_part):
                    break
                rows = rows[self.taking_part[rows]]
                block = block if len(rows) == len(block) else block[torch.from_numpy(rows - seen + len(piece))]
            yield rows, block
        self._check_length(seen)

    def _place(self, block: Array) -> Tensor:
        return as_tensor(block).to(self.like.device, self.like.dtype)

    def _check(self, block: Any) -> None:
        check_features("gallery_features", block)
        if block.shape[1] != self.like.shape[1]:
            raise ValueError(
                f"`query_features` have {self.like.shape[1]} dimensions but `gallery_features` {block.shape[1]}; "
                "both sides must come from one model"
            )

    def _check_length(self, length: int) -> None:
        if self.taking_part is not None and length != len(self.taking_part):
            raise ValueError(f"`gallery_features` has {length} rows but `gallery_pids` {len(self.taking_part)} entries")


def _together(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def as_tensor(block: Array) -> Tensor:
    """A tensor without gradient, to be read only: it shares the memory of an array, also of a read-only memory map."""
    if isinstance(block, Tensor):
        return block.detach()
    if not block.dtype.isnative or any(stride < 0 for stride in block.strides):
        block = np.array(block, dtype=block.dtype.newbyteorder("="))
    # from_numpy warns of arrays that may not be written to, and a copy would cost as much as a product with 32 queries.
    return from_dlpack(block)


def check_features(name: str, features: Any) -> None:
    """Refuses what is not a table of floating-point numbers.

    Raises:
        TypeError: If it is no tensor or array, or holds no floating-point numbers.
        ValueError: If it has not two axes.
    """
    if not isinstance(features, (Tensor, np.ndarray)):
        raise TypeError(f"`{name}` must be a tensor or an array, got {type(features).__name__}")
    floating = features.is_floating_point() if isinstance(features, Tensor) else features.dtype.kind == "f"
    if not floating:
        raise TypeError(f"`{name}` must hold floating-point numbers, got {features.dtype}; convert it to float32")
    if features.ndim != 2 or features.shape[1] == 0:
        raise ValueError(f"`{name}` must have shape (pictures, dimensions), got {tuple(features.shape)}")
