"""Exact mAP, CMC and mINP at the speed of the matrix product. The idea is in counting.py; here it meets features."""

from typing import Any

import numpy as np
from torch import Tensor

from aelm.retrieval.blocks import Array, Features, GalleryBlocks, as_tensor, check_features
from aelm.retrieval.counting import rank_rows
from aelm.retrieval.labels import (
    JUNK,
    IntArray,
    Labels,
    OwnPairs,
    check_labels,
    first_few,
    own_pairs,
    require_matches,
    some_queries,
)
from aelm.retrieval.parallel import ALONE, CACHED, Crew, Share, crew, each_rows, spans
from aelm.retrieval.product import (
    Metric,
    check_metric,
    finish,
    full_precision,
    gallery_weights,
    multiply,
    prepare_queries,
)
from aelm.retrieval.result import RankResult, score_ranks
from aelm.retrieval.streaming import rank_streamed
from aelm.retrieval.sweep import COLUMNS, query_tensor

# Queries ranked at once: fewer leave the matrix product short of work; more take memory and leave less to share out.
ROWS = 1728


def rank_metrics(
    query_features: Array | None,
    gallery_features: Features | None,
    query_pids: Any,
    gallery_pids: Any,
    query_camids: Any,
    gallery_camids: Any,
    *,
    metric: Metric = "cosine",
    distances: Features | None = None,
    max_rank: int = 50,
    memory: float = 256,
) -> RankResult:
    """Ranks the gallery for every query and scores the ranking, exactly.

    Gallery pictures of pid -1 (junk) take no part, nor, for each query, those of its own pid and camera. Ties resolve
    as a stable sort by gallery order would. Queries without a match are skipped and counted.

    Args:
        query_features: ``(Q, D)`` tensor or array of any floating-point type; what lies below float32 is widened to
            it. The work happens on the device of this tensor.
        gallery_features: ``(G, D)`` tensor, array or memory map, or an iterable of ``(b, D)`` blocks in gallery order.
        query_pids: ``(Q,)`` identities, 0 or above.
        gallery_pids: ``(G,)`` identities, -1 for junk.
        query_camids: ``(Q,)`` cameras.
        gallery_camids: ``(G,)`` cameras.
        metric: ``cosine`` or ``euclidean``.
        distances: Instead of both features (then None): ``(Q, G)`` distances, smaller is closer, from :func:`rerank`
            or elsewhere; or an iterable of ``(b, G)`` blocks in query order.
        max_rank: Length of the CMC curve; may exceed the gallery.
        memory: Megabytes for similarities; results do not depend on it, beyond the rounding of float32.

    Raises:
        TypeError: If ids are not whole numbers or features not floating-point.
        ValueError: If shapes disagree, a side is empty, an id is below -1, a query is junk, a value is NaN or infinite,
            a row is zero under ``cosine``, or no query at all has a match. The message says which rows and what to do.

    >>> features = np.eye(3)
    >>> rank_metrics(features, features, [0, 1, 2], [0, 1, 2], [1, 1, 1], [2, 2, 2]).mAP
    1.0
    """
    labels = check_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    if max_rank < 1:
        raise ValueError(f"`max_rank` must be at least 1, got {max_rank}")
    pairs = own_pairs(labels)
    require_matches(labels, pairs)
    if distances is not None:
        if query_features is not None or gallery_features is not None:
            raise ValueError("give either features or `distances`, not both: pass None for both features")
        rank = _rank_distances(distances, labels, pairs)
    elif query_features is None or gallery_features is None:
        raise ValueError("`query_features` and `gallery_features` are needed unless `distances` are given")
    else:
        rank = rank_pairs(query_features, gallery_features, labels, pairs, metric, memory)
    return score_ranks(labels, pairs, rank, max_rank)


def rank_pairs(
    query_features: Array,
    gallery_features: Features,
    labels: Labels,
    pairs: OwnPairs,
    metric: Metric,
    memory: float = 256,
    share: Share = ALONE,
) -> IntArray:
    """Ranks every match; each process does its share of the work and has the whole result.

    Args are those of :func:`rank_metrics`, with the labels checked and the pairs listed.

    Returns:
        ``(K,)`` int64 for the K pairs: ranks from 1, and 0 where the pair is no match.
    """
    check_metric(metric)
    query = query_tensor(query_features, gallery_features)
    if len(query) != len(labels.query_pids):
        raise ValueError(f"`query_features` has {len(query)} rows but `query_pids` {len(labels.query_pids)} entries")
    taking_part = labels.gallery_pids != JUNK
    # Junk is dropped, so columns are counted among what is left.
    pairs = pairs._replace(gallery=(np.cumsum(taking_part) - 1)[pairs.gallery])
    G = int(taking_part.sum())
    room = int(memory * 2**20) // query.element_size()
    with full_precision(query.device), crew() as team:
        query = prepare_queries(query, metric)
        gallery = GalleryBlocks(gallery_features, query, taking_part)
        rows, is_array = room // G, isinstance(gallery_features, (Tensor, np.ndarray))
        if rows < len(query) and (rows < ROWS or not is_array):
            return rank_streamed(query, gallery, pairs, labels, metric, memory, team, share)
        groups = spans(len(query), min(rows, ROWS) if is_array else len(query))
        return _rank_whole_rows(query, gallery, pairs, metric, groups, G, team, share)


def _rank_whole_rows(
    query: Tensor,
    gallery: GalleryBlocks,
    pairs: OwnPairs,
    metric: Metric,
    groups: list[tuple[int, int]],
    columns: int,
    team: Crew,
    share: Share,
) -> IntArray:
    """Ranks by full rows of similarities, some queries at a time."""
    rank = np.zeros(len(pairs.query), dtype=np.int64)
    buffer = query.new_empty(max(end - begin for begin, end in groups), columns)
    weights = query.new_empty(columns)
    # A process without a group still looks for broken rows, so that all of them stop at the same error.
    mine = share.deal(groups) or [(0, 0)]
    for begin, end in mine:
        values = buffer[: end - begin]

        def piece(
            item: tuple[int, IntArray, Tensor], begin: int = begin, end: int = end, values: Tensor = values
        ) -> None:
            first, row_numbers, block = item
            columns = slice(first, first + len(block))
            multiply(query[begin:end], block, values[:, columns])
            if begin == mine[0][0]:
                weights[columns] = gallery_weights(block, metric, rows=row_numbers)

        team.each(piece, gallery.blocks(COLUMNS))
        if end > begin:
            own = slice(pairs.start[begin], pairs.start[end])
            _rank_group(values, weights, some_queries(pairs, begin, end), metric, rank[own], team)
    return share.sum(rank)


def _rank_group(values: Tensor, weights: Tensor, pairs: OwnPairs, metric: Metric, out: IntArray, team: Crew) -> None:
    def piece(span: tuple[int, int]) -> None:
        def work(begin: int, end: int, rows: Any) -> None:
            begin, end = span[0] + begin, span[0] + end
            finish(rows, weights, metric)
            out[pairs.start[begin] : pairs.start[end]] = rank_rows(rows, some_queries(pairs, begin, end))

        each_rows(values[span[0] : span[1]], work)

    # Several pieces for each thread, since some queries cost more than others.
    on_cpu = values.device.type == "cpu"
    team.each(piece, spans(len(values), -(-len(values) // (8 * team.threads)) if on_cpu else len(values)))


def _rank_distances(distances: Features, labels: Labels, pairs: OwnPairs) -> IntArray:
    """Ranks every match by ready distances, some rows at a time."""
    rank = np.zeros(len(pairs.query), dtype=np.int64)
    junk = np.flatnonzero(labels.gallery_pids == JUNK)
    done = 0
    for block in [distances] if isinstance(distances, (Tensor, np.ndarray)) else distances:
        check_features("distances", block)
        first, done = done, done + len(block)
        if block.shape[1] != len(labels.gallery_pids) or done > len(labels.query_pids):
            break

        def piece(span: tuple[int, int], first: int = first, block: Array = block) -> None:
            values = -as_tensor(block[span[0] : span[1]]).cpu().numpy()
            values = values.astype(np.promote_types(values.dtype, np.float32), copy=False)
            begin, end = first + span[0], first + span[1]
            if not np.isfinite(values).all():
                bad = np.flatnonzero(~np.isfinite(values).all(axis=1)) + begin
                raise ValueError(f"`distances` holds NaN or infinite values in rows {first_few(bad)}")
            values[:, junk] = -np.inf
            rank[pairs.start[begin] : pairs.start[end]] = rank_rows(values, some_queries(pairs, begin, end))

        with crew() as team:
            team.each(piece, spans(len(block), max(1, CACHED // (block.shape[1] * 4))))
    if done != len(labels.query_pids) or block.shape[1] != len(labels.gallery_pids):
        raise ValueError(
            f"`distances` must have shape {len(labels.query_pids), len(labels.gallery_pids)} to fit the ids, "
            f"got {done} rows of {block.shape[1]} entries"
        )
    return rank
