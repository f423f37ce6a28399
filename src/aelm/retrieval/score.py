"""The score of a pair of features, bit-identical on every machine, and a bound on the error of the fast product.

The rounding of a matrix product depends on library, processor, device and block shape. So the score of a pair is
*defined*: in float64, with elementwise products and sums in a fixed order. Every machine with IEEE 754 floats gives the
same bits. The fast product is a filter: it is within a bound of the score, and pairs that are too close are compared by
score.
"""

import logging
import math
from collections.abc import Callable
from threading import Lock
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.retrieval.blocks import ALONE, GalleryBlocks, Share
from aelm.retrieval.labels import FloatArray, IntArray
from aelm.retrieval.product import Metric, finish, multiply, prepare_queries, unchecked_weights
from aelm.types import InputError, NotFiniteError

T = TypeVar("T")
Combine = Callable[[Any, Any], Any]
log = logging.getLogger(__name__)

# Columns summed at once, and pairs scored at once on a CPU: a strip fits the cache. With fewer, threads would wait for
# Python's global lock.
STRIP, PAIRS = 256, 192
PAIRS_ON_GPU = 4096
# Number of pairs above which searching for duplicates pays off.
MANY = 20_000
# The bound is MARGIN times the largest error of the first sample, and at least ROUNDINGS roundings of the dtype.
MARGIN = 5
ROUNDINGS = 2
# An error above this share of the bound widens the bound and repeats the work.
FULL = 0.9
# Queries and gallery rows of the first sample.
SAMPLED_QUERIES, SAMPLED_ROWS = 64, 256
# Products of at most this many entries are checked completely.
ALL_SAMPLED = 512


def pair_sums(left: Any, right: Any, combine: Combine) -> FloatArray:
    """Sums ``(n,)`` over the columns of ``combine(left, right)``, ``(n, D)``, in a fixed order.

    Strips of ``STRIP`` columns are added one after another; then the second half to the first, until one is left.

    >>> pair_sums(torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([[1.0, 1.0, 2.0]]), products)
    array([11.])
    """
    if left.device.type == "cpu":  # numpy's operations start faster
        left, right = np.asarray(left), np.asarray(right)
    with np.errstate(invalid="ignore", over="ignore"):  # invalid rows are reported elsewhere
        total = combine(left[:, :STRIP], right[:, :STRIP])
        for begin in range(STRIP, left.shape[1], STRIP):
            strip = combine(left[:, begin : begin + STRIP], right[:, begin : begin + STRIP])
            total[:, : strip.shape[1]] += strip
        width = total.shape[1]
        while width > 1:
            half = (width + 1) // 2
            total[:, : width - half] += total[:, half:width]
            width = half
    sums: FloatArray = total[:, 0].cpu().numpy() if isinstance(total, Tensor) else total[:, 0]
    return sums


def products(left: Any, right: Any) -> Any:
    """Float64 products of two tensors or arrays."""
    if isinstance(left, Tensor):
        return left.double() * right.double()
    return np.multiply(left, right, dtype=np.float64)


def squared_gaps(left: Any, right: Any) -> Any:
    """Float64 squared differences of two tensors or arrays."""
    gap = left.double() - right.double() if isinstance(left, Tensor) else np.subtract(left, right, dtype=np.float64)
    gap *= gap
    return gap


def cosine(product: FloatArray, mine: FloatArray, theirs: FloatArray) -> FloatArray:
    """Cosines from sums of products and of squares, ``(n,)`` each."""
    # numpy uses the processor's exact square root; torch may use a library's, whose last bit can differ.
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        found: FloatArray = product / (np.sqrt(mine) * np.sqrt(theirs))
    return found


def lengths(features: Tensor) -> FloatArray:
    """Lengths ``(n,)`` of all rows in float64, summed in a fixed order.

    >>> lengths(torch.tensor([[3.0, 4.0]]))
    array([5.])
    """
    parts = (part.double() for part in torch.split(features, _pairs_at_once(features)))
    length: FloatArray = np.sqrt(np.concatenate([pair_sums(part, part, products) for part in parts]))
    return length


def _pairs_at_once(features: Tensor) -> int:
    return PAIRS if features.device.type == "cpu" else PAIRS_ON_GPU


class Scores:
    """Defined scores of pairs of a query set and a gallery.

    Args:
        query: ``(Q, D)`` unscaled queries.
        gallery: The gallery.
        metric: The score.

    Attributes:
        prepared: ``(Q, D)`` queries scaled for the product.
        shift: ``(Q,)`` product minus score of each query: ``|q|^2`` under ``euclidean``, else 0.
        scale: ``(Q,)`` unit of the product errors of each query.

    Raises:
        ValueError: If a query is zero under ``cosine``, NaN or infinite, or squared distances overflow the dtype.
    """

    def __init__(self, query: Tensor, gallery: GalleryBlocks, metric: Metric) -> None:
        self.query, self.gallery, self.metric = query, gallery, metric
        self.prepared = prepare_queries(query, metric)
        self.shift = np.zeros(len(query))
        self.scale = np.ones(len(query))
        # Squared lengths of queries and gallery, cached; NaN if not computed yet.
        self._squares = np.full(len(query), np.nan), np.full(len(gallery), np.nan)
        self._at_once = _pairs_at_once(query)
        if metric == "euclidean":
            length = lengths(query)
            # The product omits the query's term, and its error grows with the lengths.
            self.shift = length**2
            self.scale = (length + gallery.largest_length()) ** 2
            largest = float(self.scale.max())
            if torch.finfo(query.dtype).max < largest < math.inf:  # infinite rows are reported by number elsewhere
                raise InputError(
                    f"features are too long for squared distances in {query.dtype}, of up to {largest:.1e}; "
                    "rescale or pass float64"
                )

    def of(self, row: IntArray, column: IntArray) -> FloatArray:
        """Scores ``(n,)`` of queries ``row`` with gallery positions ``column`` (among the used rows)."""
        if len(row) > max(MANY, len(self.gallery)):
            # So many close pairs mean repeated pictures or collapsed features.
            column = self.gallery.representatives()[column]
            pairs, group = np.unique(row * len(self.gallery) + column, return_inverse=True)
            row, column = np.divmod(pairs, len(self.gallery))
            return self._each(row, column)[group]
        return self._each(row, column)

    def _each(self, row: IntArray, column: IntArray) -> FloatArray:
        score = np.empty(len(row))
        combine = products if self.metric == "cosine" else squared_gaps
        # Reads neighbouring memory together.
        order = np.lexsort((row, column))
        for begin in range(0, len(row), self._at_once):
            part = order[begin : begin + self._at_once]
            query, gallery = self._rows(0, row[part]), self._rows(1, column[part])
            score[part] = pair_sums(query, gallery, combine)
        if self.metric == "euclidean":
            return -score
        return cosine(score, self._squared(0, row), self._squared(1, column))

    def _squared(self, side: int, positions: IntArray) -> FloatArray:
        known = self._squares[side]
        missing = np.unique(positions[np.isnan(known[positions])])
        for begin in range(0, len(missing), self._at_once):
            part = missing[begin : begin + self._at_once]
            rows = self._rows(side, part)
            known[part] = pair_sums(rows, rows, products)
        squared: FloatArray = known[positions]
        return squared

    def _rows(self, side: int, positions: IntArray) -> Tensor:
        """Features of queries (0) or gallery (1)."""
        own = torch.from_numpy(positions).to(self.query.device)
        return self.gallery.rows(positions) if side else self.query.index_select(0, own)


class Bound:
    """Bound on the distance of products from scores, in units of the scale, and the largest distance seen.

    Partial sums of similar rows are large, and so are their rounding errors: the bound of a cosine c is ``size``, or
    ``size * growth * |c|`` if that is larger.

    Args:
        size: The bound of dissimilar rows.
        growth: The bound of equal rows under ``cosine``, in units of ``size``; 0 under ``euclidean``.
    """

    def __init__(self, size: float, growth: float = 0.0) -> None:
        self.size, self.growth = size, growth
        self.seen = 0.0
        self._lock = Lock()

    def unit(self, similarity: Any, scale: FloatArray) -> FloatArray:
        """The bound of some similarities in units of ``size``."""
        return scale * np.maximum(1.0, self.growth * np.abs(similarity)) if self.growth else scale

    def check(self, similarity: FloatArray, score: FloatArray, scale: FloatArray) -> None:
        """Records the errors of some products, with their shift subtracted."""
        if len(score):
            unit = self.unit(score, scale)
            with np.errstate(invalid="ignore"):
                error = np.abs(similarity - score) / np.where(unit > 0, unit, 1)
            self.saw(float(np.max(np.nan_to_num(error, nan=np.inf))))

    def saw(self, error: float) -> None:
        """Records an error, in the units of ``size``."""
        with self._lock:
            self.seen = max(self.seen, error)


class Certified(NamedTuple):
    """Scores, and the bound on the error of products.

    Attributes:
        scores: Of the pairs.
        bound: Of this attempt.
    """

    scores: Scores
    bound: Bound

    def width(self, row: IntArray, product: Any) -> FloatArray:
        """Bound on the error of products of queries ``row``; both broadcast."""
        return self.bound.size * self.bound.unit(product, self.scores.scale[row])

    def check(self, row: IntArray, column: IntArray, product: NDArray[np.floating]) -> FloatArray:
        """Scores of some pairs; checks their products against them."""
        score = self.scores.of(row, column)
        self.note(row, product, score)
        return score

    def note(self, row: IntArray, product: NDArray[np.floating], score: FloatArray) -> None:
        """Checks some products against their scores."""
        self.bound.check(product.astype(np.float64) - self.scores.shift[row], score, self.scores.scale[row])


def certify(scores: Scores, attempt: Callable[[Certified], T], share: Share = ALONE) -> T:
    """Runs ``attempt`` with an error bound that it checks; repeats it with a wider bound if it did not hold.

    Args:
        scores: Of the pairs.
        attempt: The work; records the errors that it sees.
        share: All processes repeat the work if one of them saw a larger error.

    Raises:
        FloatingPointError: If products are NaN or infinite although features are finite.
    """
    size, growth = first_bound(scores)
    while True:
        bound = Bound(size, growth)
        result = attempt(Certified(scores, bound))
        used = share.largest(bound.seen / size)
        if used <= FULL:
            return result
        if not math.isfinite(used):
            raise NotFiniteError(
                f"the matrix product on {scores.query.device} gives NaN or infinite values for finite features; "
                "rescale the features, or pass float64"
            )
        size *= MARGIN * used
        log.warning(
            "products of features on %s are up to %.1e from their scores, more than a sample had shown; "
            "ranking again with the bound %.1e",
            scores.query.device,
            bound.seen,
            size,
        )


def first_bound(scores: Scores) -> tuple[float, float]:
    """Size and growth of a bound: multiples of the largest errors of a small product, and some roundings at least."""
    query, gallery, metric = scores.query, scores.gallery, scores.metric
    rows = np.unique(np.linspace(0, len(query) - 1, SAMPLED_QUERIES).astype(np.int64))
    columns = np.unique(np.linspace(0, len(gallery) - 1, SAMPLED_ROWS).astype(np.int64))
    some, block = scores.prepared[torch.from_numpy(rows).to(query.device)], gallery.rows(columns)
    values = multiply(some, block, some.new_empty(len(rows), len(columns)))
    finish(values, unchecked_weights(block, metric), metric)
    found = values.cpu().numpy()
    # Some columns of each row: the best one, where partial sums are largest, and others.
    best = found.argmax(axis=1)
    if found.size <= ALL_SAMPLED:
        row, column = (part.ravel() for part in np.indices(found.shape))
    else:
        others = [np.arange(len(rows)) * step % len(columns) for step in (5, 7, 11)]
        row, column = np.tile(np.arange(len(rows)), 4), np.concatenate([best, *others])
    bound = Bound(0.0)
    Certified(scores, bound).check(rows[row], columns[column], found[row, column])
    floor = ROUNDINGS * float(torch.finfo(query.dtype).eps) / 2
    # Invalid rows are reported by the work itself.
    size = max(MARGIN * bound.seen, floor) if math.isfinite(bound.seen) else 1.0
    if metric == "euclidean":  # the error of the squared length, a sum of as large parts, is in the sample
        return size, 0.0
    own = query[torch.from_numpy(rows).to(query.device)]
    values = multiply(some, own, some.new_empty(len(rows), len(rows)))
    finish(values, unchecked_weights(own, metric), metric)
    squared = pair_sums(own, own, products)
    equal = Bound(0.0)
    ones = values.diagonal().cpu().numpy().astype(np.float64)
    equal.check(ones, cosine(squared, squared, squared), np.ones(len(rows)))
    return size, max(1.0, MARGIN * equal.seen / size) if math.isfinite(equal.seen) else 1.0
