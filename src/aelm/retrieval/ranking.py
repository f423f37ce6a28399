"""Exact mAP, CMC and mINP at the speed of the matrix product, the same on every machine.

The rank of a match is 1 + the number of entries above it: only counts are needed, no full sort. Entries are counted by
their products, which are within a bound of their scores. Entries within the bound of a match are compared with it by
score, and by gallery order if scores are equal. Counts are summed over gallery blocks, so the gallery can be streamed.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from aelm.devices import block_memory, full_precision
from aelm.retrieval.blocks import (
    ALONE,
    CACHED,
    COLUMNS,
    Array,
    Features,
    GalleryBlocks,
    Share,
    Threads,
    as_tensor,
    check_features,
    each_rows,
    query_tensor,
    spans,
    threads,
    visit_blocks,
)
from aelm.retrieval.counting import Values, count_above, mask, take
from aelm.retrieval.labels import (
    JUNK,
    FloatArray,
    IntArray,
    Labels,
    PidPairs,
    check_labels,
    first_few,
    pid_pairs,
    require_matches,
    some_queries,
)
from aelm.retrieval.product import Metric, check_metric, finish, gallery_weights, multiply
from aelm.retrieval.result import RankResult, score_ranks
from aelm.retrieval.score import Certified, Scores, certify
from aelm.types import InputError

CPU = torch.device("cpu")

# Matches per group of queries whose products are checked, besides those near other entries.
CHECKED = 64
# Queries ranked at once: fewer make the matrix product slow; more need memory and leave fewer groups to share.
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
    memory: float | None = None,
) -> RankResult:
    """Ranks the gallery for every query and computes exact scores.

    Gallery pictures of pid -1 (junk) are ignored, and for each query those of its own pid and camera. Ties are broken
    by gallery order, as in a stable sort. Queries without a match are skipped and counted.

    Ranks are identical on every processor and device, independent of the rounding of its matrix product: pairs whose
    products are too close are compared by a float64 score with a fixed order of operations
    (:mod:`aelm.retrieval.score`). What is too close is measured on a sample and checked while ranking, not proved.

    Args:
        query_features: ``(Q, D)`` tensor or array of any floating-point dtype; lower precision is converted to float32.
            The computation runs on this tensor's device.
        gallery_features: ``(G, D)`` tensor, array or memory map, or an iterable of ``(b, D)`` blocks in gallery order.
        query_pids: ``(Q,)`` identities, 0 or above.
        gallery_pids: ``(G,)`` identities, -1 for junk.
        query_camids: ``(Q,)`` cameras.
        gallery_camids: ``(G,)`` cameras.
        metric: ``cosine`` or ``euclidean``.
        distances: Replaces both features (then None): ``(Q, G)`` distances, smaller is closer, for example from
            :func:`rerank`; or an iterable of ``(b, G)`` blocks in query order.
        max_rank: Length of the CMC curve; may exceed the gallery.
        memory: Megabytes for similarities; None for the device's default. Results do not depend on it. On a GPU a
            gallery that fits takes as much again, and sorting 0.5 GB.

    Raises:
        TypeError: If ids are not integers or features not floating-point.
        ValueError: If shapes or devices disagree, a side is empty, an id is below -1, a query is junk, a value is NaN
            or infinite, a row is zero under ``cosine``, or no query has a match. The message names the rows and what to
            do.

    >>> features = np.eye(3)
    >>> rank_metrics(features, features, [0, 1, 2], [0, 1, 2], [1, 1, 1], [2, 2, 2]).mAP
    1.0
    """
    labels = check_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    if max_rank < 1:
        raise InputError(f"`max_rank` must be at least 1, got {max_rank}")
    pairs = pid_pairs(labels)
    require_matches(labels, pairs)
    if distances is not None:
        if query_features is not None or gallery_features is not None:
            raise InputError("give either features or `distances`, not both: pass None for both features")
        rank = _rank_distances(distances, labels, pairs)
    elif query_features is None or gallery_features is None:
        raise InputError("`query_features` and `gallery_features` are needed unless `distances` are given")
    else:
        rank = rank_pairs(query_features, gallery_features, labels, pairs, metric, memory)
    return score_ranks(labels, pairs, rank, max_rank)


def rank_pairs(
    query_features: Array,
    gallery_features: Features,
    labels: Labels,
    pairs: PidPairs,
    metric: Metric,
    memory: float | None = None,
    share: Share = ALONE,
) -> IntArray:
    """Ranks every match; each process does its share of the work and gets the full result.

    Args are those of :func:`rank_metrics`, with checked labels and their pairs.

    Returns:
        ``(K,)`` int64 for the K pairs: ranks from 1, and 0 if the pair is not a match.
    """
    check_metric(metric)
    query = query_tensor(query_features, gallery_features)
    if len(query) != len(labels.query_pids):
        raise InputError(f"`query_features` has {len(query)} rows but `query_pids` {len(labels.query_pids)} entries")
    taking_part = labels.gallery_pids != JUNK
    # Junk is dropped, so columns are renumbered.
    pairs = pairs._replace(gallery=(np.cumsum(taking_part) - 1)[pairs.gallery])
    # Processes share blocks, so all must be of one size.
    room = -share.largest(-block_memory(query.device)) if memory is None else memory
    with torch.no_grad(), full_precision(), threads(query.device) as team:
        gallery = GalleryBlocks(gallery_features, query, taking_part, room)
        rows = int(room * 2**20) // (query.element_size() * len(gallery))

        def attempt(certified: Certified) -> IntArray:
            if rows < min(len(query), ROWS):
                return _rank_streamed(certified, pairs, room, team, share)
            return _rank_whole_rows(certified, pairs, spans(len(query), min(rows, ROWS)), team, share)

        return certify(Scores(query, gallery, metric), attempt, share)


def _rank_whole_rows(
    certified: Certified, pairs: PidPairs, groups: list[tuple[int, int]], team: Threads, share: Share
) -> IntArray:
    """Ranks with full rows of similarities, some queries at a time; thresholds are the products of the matches."""
    scores = certified.scores
    query, gallery, metric = scores.prepared, scores.gallery, scores.metric
    rank = np.zeros(len(pairs.query), dtype=np.int64)
    buffer = query.new_empty(max(end - begin for begin, end in groups), len(gallery))
    weights = query.new_empty(len(gallery))
    # A process without a group still checks the rows, so all processes raise the same error.
    mine = share.deal(groups) or [(0, 0)]
    for begin, end in mine:
        values = buffer[: end - begin]

        def piece(
            item: tuple[int, IntArray, Tensor], begin: int = begin, end: int = end, values: Tensor = values
        ) -> None:
            first, numbers, block = item
            columns = slice(first, first + len(block))
            if begin == mine[0][0]:
                weights[columns] = gallery_weights(block, metric, rows=numbers)
            multiply(query[begin:end], block, values[:, columns])

        team.each(piece, gallery.blocks(COLUMNS))
        _check_some(certified, values, weights, pairs, begin, end)

        def rank_part(span: tuple[int, int], begin: int = begin, values: Tensor = values) -> None:
            def work(low: int, high: int, part: Any) -> None:
                finish(part, weights, metric)
                low, high = begin + span[0] + low, begin + span[0] + high
                rank[pairs.start[low] : pairs.start[high]] = _rank_features(certified, part, pairs, low, high)

            each_rows(values[span[0] : span[1]], work)

        # Several parts per thread, since some queries take longer than others.
        parts = 8 * team.threads if values.device.type == "cpu" else 1
        team.each(rank_part, spans(len(values), max(1, -(-len(values) // parts))))
    return share.sum(rank)


def _check_some(certified: Certified, values: Tensor, weights: Tensor, pairs: PidPairs, begin: int, end: int) -> None:
    """Checks the products of some matches of queries ``begin`` to ``end``, evenly spread."""
    match = pairs.start[begin] + np.flatnonzero(pairs.is_match[pairs.start[begin] : pairs.start[end]])
    some = match[:: max(1, len(match) // CHECKED)]
    row, column = pairs.query[some], pairs.gallery[some]
    product = take(values, row - begin, column)
    finish(product[None], weights[torch.from_numpy(column).to(weights.device)].cpu(), certified.scores.metric)
    certified.check(row, column, product)


def _rank_features(certified: Certified, values: Values | Tensor, pairs: PidPairs, begin: int, end: int) -> IntArray:
    """Ranks the matches of queries ``begin`` to ``end`` with full rows of similarities."""
    own = some_queries(pairs, begin, end)
    match = np.flatnonzero(own.is_match)
    row, column = own.query[match] + begin, own.gallery[match]

    def score(rows: IntArray, columns: IntArray, products: Values) -> FloatArray:
        return certified.check(rows + begin, columns, products)

    mask(values, own.query[~own.is_match], own.gallery[~own.is_match])
    threshold = take(values, own.query[match], column)
    rank = np.zeros(len(own.query), dtype=np.int64)
    width = 2 * certified.width(row, threshold)
    rank[match] = 1 + count_above(values, own.query[match], column, threshold, width, score)
    return rank


def _rank_streamed(certified: Certified, pairs: PidPairs, memory: float, team: Threads, share: Share) -> IntArray:
    """Ranks against a gallery of any size, block by block; thresholds are the scores of the matches."""
    scores = certified.scores
    match = np.flatnonzero(pairs.is_match)
    score = np.zeros(len(match))

    def piece(span: tuple[int, int]) -> None:
        part = match[span[0] : span[1]]
        score[span[0] : span[1]] = scores.of(pairs.query[part], pairs.gallery[part])

    team.each(piece, share.deal(spans(len(match), 4096)))
    row, column, score = pairs.query[match], pairs.gallery[match], share.sum(score)
    threshold, width = score + scores.shift[row], certified.width(row, score)
    by_gallery = np.argsort(pairs.gallery, kind="stable")
    ordered = pairs.gallery[by_gallery]
    above = np.zeros(len(match), dtype=np.int64)

    def visit(begin: int, end: int, first: int, values: Values | Tensor) -> None:
        """Counts the entries above each match in a block."""
        low, high = np.searchsorted(ordered, [first, first + values.shape[1]])
        own = by_gallery[low:high]
        own = own[(pairs.query[own] >= begin) & (pairs.query[own] < end) & ~pairs.is_match[own]]
        mask(values, pairs.query[own] - begin, pairs.gallery[own] - first)
        part = slice(*np.searchsorted(row, [begin, end]))
        rows, columns = row[part], column[part]
        # The product of each match is checked in the block that holds it.
        here = (columns >= first) & (columns < first + values.shape[1])
        product = take(values, rows[here] - begin, columns[here] - first)
        certified.note(rows[here], product, score[part][here])

        def score_close(near: IntArray, entry: IntArray, products: Values) -> FloatArray:
            return certified.check(near + begin, entry + first, products)

        limits = threshold[part], width[part]
        above[part] += count_above(values, rows - begin, columns - first, *limits, score_close, score[part])

    visit_blocks(scores.prepared, scores.gallery, scores.metric, visit, memory, team, share)
    rank = np.zeros(len(pairs.query), dtype=np.int64)
    rank[match] = 1 + share.sum(above)
    return rank


def _rank_distances(distances: Features, labels: Labels, pairs: PidPairs) -> IntArray:
    """Ranks every match by given distances, some rows at a time."""
    rank = np.zeros(len(pairs.query), dtype=np.int64)
    junk = np.flatnonzero(labels.gallery_pids == JUNK)
    done, block = 0, None
    for block in [distances] if isinstance(distances, (Tensor, np.ndarray)) else distances:
        check_features("distances", block)
        first, done = done, done + len(block)
        if block.shape[1] != len(labels.gallery_pids) or done > len(labels.query_pids):
            break

        def piece(span: tuple[int, int], first: int = first, block: Array = block) -> None:
            given = as_tensor(block[span[0] : span[1]])
            values = given.to("cpu", torch.promote_types(given.dtype, torch.float32)).neg().numpy()
            begin, end = first + span[0], first + span[1]
            if not np.isfinite(values).all():
                bad = np.flatnonzero(~np.isfinite(values).all(axis=1)) + begin
                raise InputError(f"`distances` holds NaN or infinite values in rows {first_few(bad)}")
            values[:, junk] = -np.inf
            rank[pairs.start[begin] : pairs.start[end]] = _rank_as_given(values, some_queries(pairs, begin, end))

        with threads(CPU) as team:
            team.each(piece, spans(len(block), max(1, CACHED // (block.shape[1] * 4))))
    if block is None:
        raise InputError("`distances` is an iterable without blocks; has an iterator been used up before?")
    if done != len(labels.query_pids) or block.shape[1] != len(labels.gallery_pids):
        raise InputError(
            f"`distances` must have shape {len(labels.query_pids), len(labels.gallery_pids)} to fit the ids, "
            f"got {done} rows of {block.shape[1]} entries"
        )
    return rank


def _rank_as_given(values: Values, pairs: PidPairs) -> IntArray:
    """Ranks the matches of some queries by given similarities, without scores."""
    match = np.flatnonzero(pairs.is_match)
    mask(values, pairs.query[~pairs.is_match], pairs.gallery[~pairs.is_match])
    row, column = pairs.query[match], pairs.gallery[match]

    def as_they_are(rows: IntArray, columns: IntArray, similarities: Values) -> FloatArray:
        return similarities.astype(np.float64)

    rank = np.zeros(len(pairs.query), dtype=np.int64)
    rank[match] = 1 + count_above(values, row, column, values[row, column], np.zeros(len(match)), as_they_are)
    return rank
