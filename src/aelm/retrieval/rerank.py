"""Re-ranking with k-reciprocal encoding, sparse. Reference: Zhong et al., CVPR 2017, and their dense Python code.

Two pictures of one person are usually among each other's nearest neighbours, and share neighbours. Each item is encoded
by its reciprocal neighbours, weighted by similarity; the Jaccard distance of two encodings corrects the original
distance. Each encoding has some hundred entries for any N: no dense N x N table is needed.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from aelm.devices import full_precision
from aelm.retrieval.blocks import (
    Array,
    GalleryBlocks,
    Threads,
    as_tensor,
    check_features,
    each_rows,
    query_tensor,
    spans,
    threads,
)
from aelm.retrieval.counting import Values
from aelm.retrieval.labels import IntArray
from aelm.retrieval.nearest import SPARE, BestOfRows, nearest
from aelm.retrieval.product import Metric, check_metric, gallery_weights, minus_squared_distances, squared_lengths
from aelm.retrieval.score import Certified, Scores, certify, lengths
from aelm.types import InputError

CPU = torch.device("cpu")

# Queries whose distances are computed at once.
ROWS = 1152
# Queries whose codes one thread compares at once.
AT_ONCE = 8
# Queries whose distances to the gallery one product computes.
TOGETHER = 256
# Pairs whose distances are computed at once.
PAIRS = 4096
# Stored neighbours as a multiple of k1 + 1: they include most distances that the encoding needs.
REMEMBERED = 3
# Rows and columns of one tile of the product of all items.
TILE = 4096
# Columns of a tile transposed at once.
TURNED = 256
SQUARE = 64


def rerank(
    query_features: Array,
    gallery_features: Array,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "cosine",
) -> Values:
    """Distances of queries to gallery, corrected by common neighbours.

    Args:
        query_features: ``(Q, D)``.
        gallery_features: ``(G, D)``.
        k1: Number of neighbours for the reciprocity test, besides the item itself.
        k2: Number of neighbours, including the item itself, over which encodings are averaged; 1 for none.
        lambda_value: Weight of the original distance.
        metric: ``cosine`` normalises features to unit length first, ``euclidean`` does not.

    Returns:
        ``(Q, G)`` distances, smaller is closer; for ``rank_metrics(..., distances=...)``. The neighbours are the same
        on every machine. The distances hold the rounding of a float32 product: near-ties may be ordered differently.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If k1, k2 or lambda_value are out of range, dimensions differ, a side is empty, a value is NaN or
            infinite, or a row is zero under ``cosine``.

    >>> features = torch.eye(4)
    >>> rerank(features[:1], features, k1=2, k2=1).argmin()
    np.int64(0)
    """
    blocks = rerank_blocks(query_features, gallery_features, k1=k1, k2=k2, lambda_value=lambda_value, metric=metric)
    first = next(blocks)
    distances = np.empty((len(query_features), first.shape[1]), dtype=first.dtype)
    begin = 0
    for block in chain([first], blocks):
        distances[begin : begin + len(block)] = block
        begin += len(block)
    return distances


def rerank_blocks(
    query_features: Array,
    gallery_features: Array,
    *,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    metric: Metric = "cosine",
) -> Iterator[Values]:
    """Like :func:`rerank`, but yields blocks ``(b, G)`` for ``rank_metrics``, without a full Q x G table.

    >>> next(rerank_blocks(torch.eye(4)[:1], torch.eye(4), k1=2, k2=1)).shape
    (1, 4)
    """
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise InputError(
            f"`k1` and `k2` must be at least 1 and `lambda_value` in [0, 1], got {k1}, {k2} and {lambda_value}"
        )
    items = _all_items(query_features, gallery_features, metric)
    with torch.no_grad(), full_precision(), threads(items.device) as team:
        near = all_neighbours(items, min(len(items), max(REMEMBERED * (k1 + 1), k2)), team)
        codes = _average(_encode(items, near, k1), near, k2)
    return _distances(items, len(query_features), near, codes, lambda_value)


def _all_items(query_features: Array, gallery_features: Array, metric: Metric) -> Tensor:
    check_metric(metric)
    query = query_tensor(query_features, gallery_features)
    check_features("gallery_features", gallery_features)
    gallery = as_tensor(gallery_features).to(query.device, query.dtype)
    if query.shape[1] != gallery.shape[1] or not len(gallery):
        raise InputError(
            f"`gallery_features` must have rows of {query.shape[1]} dimensions, as `query_features` have, "
            f"got shape {tuple(gallery.shape)}"
        )
    gallery_weights(query, metric, "query_features")
    gallery_weights(gallery, metric)
    items = torch.cat([query, gallery])
    if metric == "cosine":
        _to_unit(items)
    return items


def _to_unit(items: Tensor) -> None:
    """Normalises rows in place, with bit-identical lengths on every machine."""
    length = torch.from_numpy(lengths(items)).to(items.device)
    for part, divisor in zip(torch.split(items, TURNED), torch.split(length, TURNED), strict=True):
        part.copy_(part.double() / divisor[:, None])


def neighbour_graph(features: Array, k: int, *, rerank: bool = False, k1: int = 20, k2: int = 6) -> sparse.csr_array:
    """Similarity graph of N items: ``(N, N)``, symmetric, with the k nearest of each item and an empty diagonal.

    Args:
        features: ``(N, D)``; normalised to unit length.
        k: Number of neighbours at most.
        rerank: Whether entries are the overlap of k-reciprocal neighbours (1 minus the Jaccard distance, as in
            re-ranking with ``lambda_value=0``) instead of cosines.
        k1: See :func:`rerank`.
        k2: Likewise.

    Raises:
        TypeError: If features are not a floating-point tensor or array.
        ValueError: If a number is below 1, a value is not finite or a row is zero.

    >>> graph = neighbour_graph(torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]]), k=1)
    >>> [[round(float(value), 2) for value in row] for row in graph.toarray()]
    [[0.0, 0.8, 0.0], [0.8, 0.0, 0.6], [0.0, 0.6, 0.0]]
    """
    if min(k, k1, k2) < 1:
        raise InputError(f"`k`, `k1` and `k2` must be at least 1, got {k}, {k1} and {k2}")
    items = query_tensor(features, features, "features").clone()
    gallery_weights(items, "cosine", "features")
    _to_unit(items)
    N, k = len(items), min(k, len(items) - 1)
    kept = min(N, max(k + 1, REMEMBERED * (k1 + 1), k2) if rerank else k + 1)
    with torch.no_grad(), full_precision(), threads(items.device) as team:
        near = all_neighbours(items, kept, team)
    if rerank:
        codes = _average(_encode(items, near, k1), near, k2)
        by_neighbour = sparse.csc_array(codes)
        blocks = [
            _largest(1 - _jaccard(sparse.csr_array(codes[low:high]), by_neighbour), low, k + 1)
            for low, high in spans(N, TURNED)
        ]
        column, value = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    else:
        column, value = near.item[:, : k + 1], 1 - near.distance[:, : k + 1] / 2
    row = np.repeat(np.arange(N), column.shape[1])
    graph = sparse.coo_array((value.ravel().astype(np.float32), (row, column.ravel())), shape=(N, N))
    apart = graph.row != graph.col
    graph = sparse.coo_array((graph.data[apart], (graph.row[apart], graph.col[apart])), shape=(N, N))
    return sparse.csr_array(graph.maximum(graph.T))


def _largest(values: Values, first: int, count: int) -> tuple[IntArray, Values]:
    """Columns and values of the ``count`` largest entries of some rows; of equal ones the first."""
    column = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return column, np.take_along_axis(values, column, axis=1)


class Neighbours(NamedTuple):
    """The part of the N x N squared distances that re-ranking needs.

    Attributes:
        item: ``(N, k)`` int64, nearest first, ties by item.
        distance: ``(N, k)`` squared Euclidean distances.
        largest: ``(N,)`` the largest squared distance of each item.
    """

    item: IntArray
    distance: Values
    largest: Values


def all_neighbours(items: Tensor, k: int, team: Threads) -> Neighbours:
    """Finds the k nearest of all items for each item, itself included.

    The product is symmetric: each tile above the diagonal is used for its rows and, transposed, for its columns.

    Args:
        items: ``(N, D)``, not normalised; distances are squared Euclidean.
        k: Number of neighbours; N at most.
        team: The threads.
    """
    N = len(items)
    scores = Scores(items, GalleryBlocks(items, items), "euclidean")
    squared = squared_lengths(items)
    best, largest = BestOfRows(N, min(k + SPARE, N), items), items.new_zeros(N)

    def visit(rows: Tensor, begin: int, first: int) -> None:
        """Merges minus squared distances of items from ``begin`` on to items from ``first`` on."""

        def work(low: int, high: int, values: Any) -> None:
            low, high = begin + low, begin + high
            table = values if isinstance(values, Tensor) else torch.from_numpy(values)
            largest[low:high] = torch.maximum(largest[low:high], -table.amin(dim=1))
            best.visit(low, high, first, values)

        each_rows(rows, work)

    on_cpu = items.device.type == "cpu"
    tile = items.new_empty(min(N, TILE), min(N, TILE))
    for number, (low, high) in enumerate(spans(N, TILE)):
        for first, last in spans(N, TILE)[number:]:
            values = tile[: high - low, : last - first]

            def piece(
                span: tuple[int, int], low: int = low, first: int = first, last: int = last, values: Tensor = values
            ) -> None:
                rows = slice(low + span[0], low + span[1])
                part = values[span[0] : span[1]]
                minus_squared_distances(items[rows], items[first:last], squared[rows], squared[first:last], part)
                visit(part, low + span[0], first)

            def turned(span: tuple[int, int], low: int = low, first: int = first, values: Tensor = values) -> None:
                visit(_turn(values[:, span[0] : span[1]]), first + span[0], low)

            team.each(piece, spans(high - low, TOGETHER if on_cpu else TILE))  # not by the threads, as below
            if first > low:
                team.each(turned, spans(last - first, TURNED if on_cpu else TILE))

    def attempt(certified: Certified) -> Neighbours:
        score, index = best.in_order(certified, everything=False)
        rows = best.undecided(certified, k)
        if len(rows):
            found = nearest(items[torch.from_numpy(rows).to(items.device)], items, k, metric="euclidean")
            score[rows, :k], index[rows, :k] = -(found.scores.astype(np.float64) ** 2), found.indices
        distance = np.maximum(-score[:, :k], 0).astype(best.value.dtype)
        return Neighbours(index[:, :k], distance, largest.cpu().numpy())

    best.fetch()
    best.value += scores.shift[:, None].astype(best.value.dtype)  # stored values are products minus their shift
    return certify(scores, attempt)


def _turn(part: Tensor) -> Tensor:
    """The contiguous transpose; in small squares that fit in the cache it is ten times faster."""
    if part.device.type != "cpu":
        return part.T.contiguous()
    table, turned = part.numpy(), part.new_empty(part.shape[::-1])
    for begin in range(0, len(table), SQUARE):
        turned.numpy()[:, begin : begin + SQUARE] = table[begin : begin + SQUARE].T
    return turned


def _encode(items: Tensor, near: Neighbours, k1: int) -> sparse.csr_array:
    """``(N, N)`` weights of each item's reciprocal neighbours, and of their neighbours if the two sets mostly agree."""
    mutual, half = _reciprocal(near.item[:, : k1 + 1]), _reciprocal(near.item[:, : round(k1 / 2) + 1])
    common = sparse.csr_array((mutual @ half.T).multiply(mutual))
    common.data = (common.data > 2 / 3 * np.diff(half.indptr)[common.indices]).astype(np.int32)
    common.eliminate_zeros()
    expanded = sparse.csr_array(mutual + common @ half)
    column = expanded.indices.astype(np.int64)
    row = np.repeat(np.arange(len(items)), np.diff(expanded.indptr))
    # All items may be identical.
    largest = np.where(near.largest > 0, near.largest, 1)
    weight = np.exp(-_look_up(items, near, row, column) / largest[row])
    weight /= np.bincount(row, weight, len(items))[row]
    return sparse.csr_array((weight, expanded.indices, expanded.indptr), shape=expanded.shape)


def _reciprocal(index: IntArray) -> sparse.csr_array:
    """Ones where two items are neighbours of each other."""
    N, k = index.shape
    ones = np.ones(N * k, dtype=np.int32)
    among = sparse.csr_array((ones, index.ravel(), np.arange(0, N * k + 1, k)), shape=(N, N))
    return sparse.csr_array(among.multiply(among.T))


def _look_up(items: Tensor, near: Neighbours, row: IntArray, column: IntArray) -> Values:
    """Squared distances of some pairs: most are stored, the others are computed."""
    N = len(items)
    order = np.argsort(near.item, axis=1)
    keys = (np.take_along_axis(near.item, order, axis=1) + np.arange(N)[:, None] * N).ravel()
    wanted = row * N + column
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    distance: Values = np.take_along_axis(near.distance, order, axis=1).ravel()[place]
    missing = np.flatnonzero(keys[place] != wanted)
    for begin, end in spans(len(missing), PAIRS):
        some = missing[begin:end]
        left, right = (torch.from_numpy(ids[some]).to(items.device) for ids in (row, column))
        distance[some] = (items[left] - items[right]).square().sum(dim=1).cpu().numpy()
    return distance


def _average(codes: sparse.csr_array, near: Neighbours, k2: int) -> sparse.csr_array:
    """Local query expansion: the mean code of each item's k2 nearest, including itself."""
    if k2 == 1:
        return codes
    index = near.item[:, :k2]
    N, k = index.shape
    mean = np.full(N * k, 1 / k, dtype=codes.dtype)
    near_ones = sparse.csr_array((mean, index.ravel(), np.arange(0, N * k + 1, k)), shape=(N, N))
    return sparse.csr_array(near_ones @ codes)


def _distances(
    items: Tensor, Q: int, near: Neighbours, codes: sparse.csr_array, lambda_value: float
) -> Iterator[Values]:
    squared = squared_lengths(items)
    by_neighbour = sparse.csc_array(codes[Q:])
    largest = np.where(near.largest > 0, near.largest, 1)
    for begin, end in spans(Q, ROWS):
        values = items.new_empty(end - begin, len(items) - Q)

        def multiply_rows(span: tuple[int, int], begin: int = begin, values: Tensor = values) -> None:
            rows, part = slice(begin + span[0], begin + span[1]), values[span[0] : span[1]]
            minus_squared_distances(items[rows], items[Q:], squared[rows], squared[Q:], part)

        with torch.no_grad(), full_precision(), threads(items.device) as team:
            team.each(multiply_rows, spans(end - begin, TOGETHER))  # not by the number of threads: it must not matter
        distances = values.cpu().numpy()

        def correct(span: tuple[int, int], begin: int = begin, distances: Values = distances) -> None:
            table, queries = distances[span[0] : span[1]], slice(begin + span[0], begin + span[1])
            table *= -lambda_value / largest[queries, None]
            table += (1 - lambda_value) * _jaccard(sparse.csr_array(codes[queries]), by_neighbour)

        with threads(CPU) as team:
            team.each(correct, spans(end - begin, AT_ONCE))
        yield distances


def _jaccard(codes: sparse.csr_array, by_neighbour: sparse.csc_array) -> Values:
    """Jaccard distances of some codes to the gallery's codes, from their common entries."""
    R, G = codes.shape[0], by_neighbour.shape[0]
    start, size = by_neighbour.indptr[codes.indices], np.diff(by_neighbour.indptr)[codes.indices]
    entry = np.arange(size.sum()) + np.repeat(start - (np.cumsum(size) - size), size)
    row = np.repeat(np.repeat(np.arange(R), np.diff(codes.indptr)), size)
    smaller = np.minimum(by_neighbour.data[entry], np.repeat(codes.data, size))
    shared = np.bincount(row * G + by_neighbour.indices[entry], smaller, R * G).reshape(R, G)
    distance: Values = 1 - shared / (2 - shared)
    return distance
