"""Similarities of the pairs of one identity, from small products, before anything else is known."""

import numpy as np
import torch
from torch import Tensor

from aelm.retrieval.blocks import GalleryBlocks
from aelm.retrieval.counting import Values
from aelm.retrieval.labels import IntArray, Labels, OwnPairs
from aelm.retrieval.parallel import Crew, Share, spans
from aelm.retrieval.product import Metric, finish, gallery_weights, multiply
from aelm.retrieval.sweep import COLUMNS

# Pairs of one identity that are multiplied at once, all queries with all pictures among them.
PAIRS = 512


def own_similarities(
    query: Tensor, gallery: GalleryBlocks, pairs: OwnPairs, labels: Labels, metric: Metric, team: Crew, share: Share
) -> Values:
    """Similarities of all pairs of one identity, without touching the rest of the gallery.

    Args:
        query: ``(Q, D)`` prepared queries.
        gallery: The gallery.
        pairs: All pairs of one identity; ``gallery`` counts among the rows that take part.
        labels: Checked labels.
        metric: Which similarity.
        team: Who does it.
        share: This process's part.

    Returns:
        ``(K,)`` similarities.
    """
    similarity: Values = np.zeros(len(pairs.query), dtype=query.new_empty(0).cpu().numpy().dtype)
    by_gallery = np.argsort(pairs.gallery, kind="stable")
    _, position = np.unique(pairs.gallery, return_inverse=True)
    own = GalleryBlocks(gallery.source, query, np.isin(labels.gallery_pids, labels.query_pids))
    for first, row_numbers, block in own.blocks(COLUMNS):
        weights = gallery_weights(block, metric, rows=row_numbers)
        low, high = np.searchsorted(position[by_gallery], [first, first + len(block)])
        inside = by_gallery[low:high]
        inside = inside[np.argsort(labels.query_pids[pairs.query[inside]], kind="stable")]

        def piece(
            span: tuple[int, int],
            first: int = first,
            block: Tensor = block,
            weights: Tensor = weights,
            inside: IntArray = inside,
        ) -> None:
            part = inside[span[0] : span[1]]
            similarity[part] = _few_by_few(query, block, weights, pairs.query[part], position[part] - first, metric)

        team.each(piece, share.deal(spans(len(inside), PAIRS)))
    return share.sum(similarity)


def _few_by_few(
    query: Tensor, block: Tensor, weights: Tensor, row: IntArray, column: IntArray, metric: Metric
) -> Values:
    chosen, r = np.unique(row, return_inverse=True)
    rows = torch.from_numpy(chosen).to(block.device)
    chosen, c = np.unique(column, return_inverse=True)
    columns = torch.from_numpy(chosen).to(block.device)
    values = multiply(query[rows], block[columns], block.new_empty(len(rows), len(columns)))
    finish(values, weights[columns], metric)
    picked: Values = values.cpu().numpy()[r, c]
    return picked
