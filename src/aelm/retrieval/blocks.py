"""Gallery features with access to any rows, and their products with queries, block by block.

The work is shared among the threads of one process, and the blocks among processes.
"""

import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from hashlib import blake2b
from itertools import pairwise
from threading import RLock, get_ident
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.dlpack import from_dlpack

from aelm.retrieval.labels import IntArray
from aelm.retrieval.product import Metric, finish, gallery_weights, multiply, squared_lengths
from aelm.types import InputError, InputTypeError

T = TypeVar("T")

# Bytes that one thread processes at a time, about the size of its cache.
CACHED = 2**21

# The teams at work: the Python thread that asked for it, and torch's number of threads before the first one.
_teams: list[tuple[int, int]] = []
_lock = RLock()  # an iterator left behind may end here while its own thread holds it


class Threads:
    """A pool of threads, each of which multiplies and counts on one core.

    Torch's own threads spin for a while after each product and occupy the cores that the next operation needs. Threads
    that do products and counting themselves avoid this.

    Args:
        threads: Number of threads.
    """

    def __init__(self, threads: int) -> None:
        self.threads = threads
        # What a thread does, it does alone, also while another Python thread leaves a team of its own.
        self.pool = ThreadPoolExecutor(threads, initializer=lambda: torch.set_num_threads(1))

    def each(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Calls ``work`` for every item and waits for all; few items are fetched ahead, since they may be large."""
        if self.threads == 1:
            for item in items:
                work(item)
            return
        running: deque[Future[None]] = deque()
        # New threads do not inherit inference mode, and its tensors can only be written in that mode.
        mode = torch.is_inference_mode_enabled()

        def alike(item: T) -> None:
            with torch.inference_mode(mode):
                work(item)

        try:
            for item in items:
                running.append(self.pool.submit(alike, item))
                if len(running) > 2 * self.threads:
                    running.popleft().result()
            while running:
                running.popleft().result()
        finally:
            # After an error, no thread may still write to arrays that the caller frees.
            for future in running:
                future.cancel()
            for future in running:
                if not future.cancelled():
                    future.exception()


@contextmanager
def threads(device: torch.device) -> Iterator[Threads]:
    """As many threads as torch uses, one for a GPU; meanwhile torch itself uses one."""
    own = get_ident()
    with _lock:
        # Of several teams at once, each is as large as if it were alone.
        count = _teams[0][1] if _teams else torch.get_num_threads()
        after = 1 if any(holder == own for holder, _ in _teams) else count
        _teams.append((own, count))
        torch.set_num_threads(1)
    # A GPU runs its work in order; more threads would only split it into smaller pieces.
    team = Threads(count if device.type == "cpu" else 1)
    try:
        yield team
    finally:
        team.pool.shutdown()
        with _lock:
            _teams.remove((own, count))
            torch.set_num_threads(after)


class Share(NamedTuple):
    """This process's share of work split over processes.

    Attributes:
        rank: Rank of this process.
        size: Number of processes.
        device: Device for exchanging arrays; a GPU under NCCL.
        group: The process group; None for all processes.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = torch.device("cpu")
    group: dist.ProcessGroup | None = None

    def deal(self, items: list[T]) -> list[T]:
        """Every ``size``-th item, starting at ``rank``."""
        return items[self.rank :: self.size]

    def sum(self, values: NDArray[Any]) -> NDArray[Any]:
        """Sums the arrays of all processes; exact for integers, and for floats that are zero on all but one process."""
        if self.size == 1:
            return values
        tensor = torch.from_numpy(values).to(self.device)
        dist.all_reduce(tensor, group=self.group)
        total: NDArray[Any] = tensor.cpu().numpy()
        return total

    def largest(self, value: float) -> float:
        """The maximum of a number over all processes."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, dist.ReduceOp.MAX, group=self.group)
        return float(tensor)


ALONE = Share()


def spans(length: int, size: int) -> list[tuple[int, int]]:
    """Splits ``0 .. length`` into runs of at most ``size`` and nearly equal length.

    >>> spans(10, 4)
    [(0, 4), (4, 7), (7, 10)]
    """
    edges = np.linspace(0, length, -(-length // size) + 1)
    return list(pairwise(np.ceil(edges).astype(int).tolist()))


def each_rows(table: Tensor, work: Callable[[int, int, Any], None]) -> None:
    """Calls ``work(begin, end, rows)`` for runs of rows: a few cache sizes on a CPU, the whole tensor on a GPU.

    With smaller runs, threads would wait for Python's global lock.
    """
    if table.device.type != "cpu":
        work(0, len(table), table)
        return
    array = table.numpy()
    for begin, end in spans(len(array), max(1, 4 * CACHED // array[:1].nbytes)):
        work(begin, end, array[begin:end])


Array = Tensor | NDArray[Any]
Features = Array | Iterable[Array]
Visit = Callable[[int, int, int, Any], None]

# Gallery pictures per matrix product.
COLUMNS = 4096


class GalleryBlocks:
    """The used rows of a gallery, on the device and in the dtype of the queries.

    Args:
        source: ``(G, D)`` tensor, array or memory-mapped array; or an iterable of such blocks of any number of rows (a
            list, a data loader, a generator), which is first copied to a temporary file.
        like: ``(Q, D)`` queries; blocks get their device and dtype, and must have their D.
        taking_part: ``(G,)`` bool; other rows are left out. None for all rows.
        memory: A gallery of at most this many megabytes is copied to the queries' GPU once, a larger one in blocks.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If the rows are not G in all, not D wide, or on another GPU than the queries.
    """

    def __init__(
        self, source: Features, like: Tensor, taking_part: NDArray[np.bool_] | None = None, memory: float = 0
    ) -> None:
        self.like = like
        self.source = source if isinstance(source, (Tensor, np.ndarray)) else self._written(source)
        self._check(self.source)
        if taking_part is not None and len(self.source) != len(taking_part):
            raise InputError(
                f"`gallery_features` has {len(self.source)} rows but `gallery_pids` {len(taking_part)} entries"
            )
        if like.device.type != "cpu" and len(self.source) * like[:1].nbytes <= memory * 2**20:
            self.source = self._place(self.source)
        self._representatives: IntArray | None = None
        self._chosen = None if taking_part is None or taking_part.all() else np.flatnonzero(taking_part)

    def __len__(self) -> int:
        return len(self.source) if self._chosen is None else len(self._chosen)

    @property
    def is_on_gpu(self) -> bool:
        """Whether blocks are parts of a table that already lies on the queries' GPU."""
        return isinstance(self.source, Tensor) and self.source.device.type != "cpu"

    def numbers(self, positions: IntArray) -> IntArray:
        """Row numbers in the source of positions among the used rows."""
        return positions if self._chosen is None else self._chosen[positions]

    def rows(self, positions: IntArray) -> Tensor:
        """The features ``(n, D)`` at some positions among the used rows."""
        numbers = self.numbers(positions)
        if isinstance(self.source, Tensor):
            return self._place(self.source.index_select(0, torch.from_numpy(numbers).to(self.source.device)))
        return self._place(self.source.take(numbers, axis=0))

    def blocks(self, width: int) -> Iterator[tuple[int, IntArray, Tensor]]:
        """Yields the first position of each block among the used rows, its row numbers in the source, and its features.

        Args:
            width: Rows in a block; the last one may be shorter.
        """
        for first in range(0, len(self), width):
            numbers = self.numbers(np.arange(first, min(first + width, len(self))))
            is_run = numbers[-1] - numbers[0] == len(numbers) - 1
            part = slice(numbers[0], numbers[-1] + 1) if is_run else numbers
            yield first, numbers, self._place(self.source[part])

    def representatives(self) -> IntArray:
        """The first position with an identical row, for each position: duplicates are scored once."""
        if self._representatives is None:
            digests: list[bytes] = []
            for _, _, block in self.blocks(COLUMNS):
                table = np.ascontiguousarray(block.cpu().numpy())
                digests += [blake2b(row, digest_size=16).digest() for row in table]
            _, first, group = np.unique(np.array(digests, dtype="V16"), return_index=True, return_inverse=True)
            self._representatives = first[group]
        return self._representatives

    def largest_length(self) -> float:
        """Length of the longest row."""
        longest = [squared_lengths(block).double().amax().item() for _, _, block in self.blocks(COLUMNS)]
        return float(np.sqrt(max(longest, default=0.0)))

    def _written(self, pieces: Iterable[Array]) -> NDArray[Any]:
        dtype = self.like.new_empty(0, device="cpu").numpy().dtype
        with tempfile.TemporaryFile(prefix="aelm-gallery-") as file:
            for piece in pieces:
                self._check(piece)
                if torch.promote_types(as_tensor(piece[:0]).dtype, self.like.dtype) != self.like.dtype:
                    raise InputError(
                        f"`gallery_features` gives blocks of {piece.dtype} and `query_features` are {self.like.dtype}: "
                        "blocks are not rounded; give both the same dtype"
                    )
                file.write(self._place(piece).cpu().numpy().tobytes())
            file.flush()
            if not file.tell():
                raise InputError(
                    "`gallery_features` has no rows, an iterable without blocks; has an iterator been used up before?"
                )
            # The memory map keeps the file alive after it is closed.
            return np.memmap(file, dtype=dtype, mode="r+").reshape(-1, self.like.shape[1])

    def _place(self, block: Array) -> Tensor:
        return as_tensor(block).to(self.like.device, self.like.dtype)

    def _check(self, block: Any) -> None:
        check_features("gallery_features", block)
        if block.shape[1] != self.like.shape[1]:
            raise InputError(
                f"`query_features` have {self.like.shape[1]} dimensions but `gallery_features` {block.shape[1]}; "
                "both sides must come from one model"
            )
        if isinstance(block, Tensor) and block.device.type == "cuda" and block.device != self.like.device:
            raise InputError(
                f"`query_features` lie on {self.like.device} but `gallery_features` on {block.device}; "
                "move both to one device"
            )


def visit_blocks(
    query: Tensor,
    gallery: GalleryBlocks,
    metric: Metric,
    visit: Visit,
    memory: float,
    team: Threads,
    share: Share = ALONE,
) -> None:
    """Calls ``visit(begin, end, first, values)`` for every block of similarities.

    ``values`` are those of queries ``begin`` to ``end`` with the gallery from ``first`` on: on a CPU an array, in
    several threads at once; on a GPU a tensor. They may be overwritten. Each query gets the gallery in order.

    Args:
        query: ``(Q, D)`` prepared queries.
        gallery: The gallery; the memory limits the width of its blocks.
        metric: The similarity.
        visit: Called for each block.
        memory: Megabytes for one block and its similarities.
        team: The threads.
        share: With several processes, each visits its own gallery blocks; all check all rows.
    """
    room = int(memory * 2**20) // query.element_size()
    rows = max(1, min(len(query), room // COLUMNS))
    width = max(COLUMNS, min(room // rows, room // query.shape[1] // 2))
    if not gallery.is_on_gpu:
        # Blocks must not fill the main memory, where they may be copied on the way to a GPU.
        width = min(width, 4 * COLUMNS)
    buffer = query.new_empty(0)
    for number, (first, row_numbers, block) in enumerate(gallery.blocks(width)):
        if number % share.size != share.rank:
            gallery_weights(block, metric, rows=row_numbers)
            continue
        # No block is wider than the first.
        buffer = buffer if len(buffer) else query.new_empty(rows, len(block))
        for start, stop in spans(len(query), rows):
            values = buffer[: stop - start, : len(block)]
            weights = _multiply_shared(query[start:stop], block, row_numbers, metric, values, team)

            def look(span: tuple[int, int], start: int, first: int, values: Tensor, weights: Tensor) -> None:
                def work(begin: int, end: int, part: Any) -> None:
                    finish(part, weights, metric)
                    visit(start + span[0] + begin, start + span[0] + end, first, part)

                each_rows(values[span[0] : span[1]], work)

            shares = spans(stop - start, -(-(stop - start) // team.threads))
            team.each(partial(look, start=start, first=first, values=values, weights=weights), shares)


def _multiply_shared(
    query: Tensor, block: Tensor, rows: IntArray, metric: Metric, values: Tensor, team: Threads
) -> Tensor:
    """Fills ``values`` with products and returns the block's weights; each thread computes some columns."""
    weights = block.new_empty(len(block))

    def fill(span: tuple[int, int]) -> None:
        columns = slice(*span)
        weights[columns] = gallery_weights(block[columns], metric, rows=rows[columns])
        multiply(query, block[columns], values[:, columns])

    # For few queries a tile fills the cache, so memory is read once; for many it is square, so queries are not read
    # repeatedly.
    tile = max(len(query), CACHED // block[:1].nbytes) if block.device.type == "cpu" else len(block)
    team.each(fill, spans(len(block), min(tile, -(-len(block) // team.threads))))
    return weights


def query_tensor(features: Array, gallery: Features, name: str = "query_features") -> Tensor:
    """Queries in the common dtype of both sides: at least float32.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If there are no rows, or not two axes.
    """
    check_features(name, features)
    if len(features) == 0:
        raise InputError(f"`{name}` has no rows, so there is nothing to rank")
    query = as_tensor(features)
    dtype = torch.promote_types(query.dtype, torch.float32)
    if isinstance(gallery, (Tensor, np.ndarray)):
        check_features("gallery_features", gallery)
        dtype = torch.promote_types(dtype, as_tensor(gallery[:0]).dtype)
    # Apple's GPUs have no float64, in which scores are defined.
    return query.to("cpu" if query.device.type == "mps" else query.device, dtype)


def as_tensor(block: Array) -> Tensor:
    """A tensor without gradient. Read only: it shares the memory of an array, also of a read-only memory map."""
    if isinstance(block, Tensor):
        return block.detach()
    size = block.dtype.itemsize
    if not block.dtype.isnative or any(stride < 0 or stride % size for stride in block.strides):
        block = np.array(block, dtype=block.dtype.newbyteorder("="))
    # from_numpy warns about read-only arrays, and a copy would cost as much as a product with 32 queries.
    return from_dlpack(block)


def check_features(name: str, features: Any) -> None:
    """Checks that features are a 2D table of floating-point numbers.

    Raises:
        TypeError: If it is not a tensor or array of floating-point numbers.
        ValueError: If it does not have two axes.
    """
    if not isinstance(features, (Tensor, np.ndarray)):
        raise InputTypeError(f"`{name}` must be a tensor or an array, got {type(features).__name__}")
    if isinstance(features, Tensor):
        floating = features.dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16)
    else:
        floating = features.dtype.kind == "f" and features.dtype.itemsize <= 8
    if not floating:
        raise InputTypeError(f"`{name}` must hold floating-point numbers, got {features.dtype}; convert it to float32")
    if features.ndim != 2 or features.shape[1] == 0:
        raise InputError(f"`{name}` must have shape (pictures, dimensions), got {tuple(features.shape)}")
