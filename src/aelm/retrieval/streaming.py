"""Ranking against a gallery that is read block by block and never held.

The similarities of the matches are needed before anything can be counted, so they come first, from small products of
each identity with itself. Then every block is multiplied with all queries, and counted.
"""

import numpy as np
from torch import Tensor

from aelm.retrieval.blocks import GalleryBlocks
from aelm.retrieval.counting import Values, count_above, take_and_mask
from aelm.retrieval.labels import IntArray, Labels, OwnPairs, order_matches, place_within
from aelm.retrieval.own import own_similarities
from aelm.retrieval.parallel import Crew, Share
from aelm.retrieval.product import Metric
from aelm.retrieval.sweep import sweep


def rank_streamed(
    query: Tensor,
    gallery: GalleryBlocks,
    pairs: OwnPairs,
    labels: Labels,
    metric: Metric,
    memory: float,
    team: Crew,
    share: Share,
) -> IntArray:
    """Ranks every match against a gallery of any size.

    Args:
        query: ``(Q, D)`` prepared queries.
        gallery: The gallery; iterated twice.
        pairs: All pairs of one identity; ``gallery`` counts among the rows that take part.
        labels: Checked labels.
        metric: Which similarity.
        memory: Megabytes for one block and its similarities.
        team: Who does it.
        share: This process's part.

    Returns:
        ``(K,)`` int64: ranks from 1, and 0 where the pair is no match.
    """
    gallery.keep()
    by_gallery = np.argsort(pairs.gallery, kind="stable")
    similarity = own_similarities(query, gallery, pairs, labels, metric, team, share)
    for _ in range(2):
        order = order_matches(pairs, similarity)
        counter = _Counter(pairs, by_gallery, order, similarity[order])
        sweep(query, gallery, metric, counter.visit, memory, team, share)
        seen = share.sum(counter.seen)
        if (seen[order] == similarity[order]).all():
            break
        # This BLAS rounds small products unlike large ones; the large ones decide, or ties would break at random.
        similarity = seen
    rank = np.zeros(len(pairs.query), dtype=np.int64)
    rank[order] = share.sum(counter.above) + place_within(pairs.query[order])
    return rank


class _Counter:
    """Adds up, block by block, what stands above each match."""

    def __init__(self, pairs: OwnPairs, by_gallery: IntArray, order: IntArray, threshold: Values) -> None:
        self.pairs, self.by_gallery, self.threshold = pairs, by_gallery, threshold
        self.by_gallery_column = pairs.gallery[by_gallery]
        self.row, self.column = pairs.query[order], pairs.gallery[order]
        self.above = np.zeros(len(order), dtype=np.int64)
        # What its own block says of each pair: the test of the thresholds.
        self.seen: Values = np.zeros(len(pairs.query), dtype=threshold.dtype)

    def visit(self, begin: int, end: int, first: int, values: Values | Tensor) -> None:
        """Counts one block."""
        low, high = np.searchsorted(self.by_gallery_column, [first, first + values.shape[1]])
        own = self.by_gallery[low:high]
        own = np.sort(own[(self.pairs.query[own] >= begin) & (self.pairs.query[own] < end)])
        self.seen[own] = take_and_mask(values, self.pairs.query[own] - begin, self.pairs.gallery[own] - first)
        part = slice(*np.searchsorted(self.row, [begin, end]))
        row, column = self.row[part] - begin, self.column[part] - first
        self.above[part] += count_above(values, row, column, self.threshold[part])
