"""All similarities of queries and gallery, passed by in blocks and forgotten."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from aelm.retrieval.blocks import Array, Features, GalleryBlocks, as_tensor, check_features
from aelm.retrieval.labels import IntArray
from aelm.retrieval.parallel import ALONE, CACHED, Crew, Share, each_rows, spans
from aelm.retrieval.product import Metric, finish, gallery_weights, multiply

# Gallery pictures multiplied at once.
COLUMNS = 4096

Visit = Callable[[int, int, int, Any], None]


def sweep(
    query: Tensor,
    gallery: GalleryBlocks,
    metric: Metric,
    visit: Visit,
    memory: float,
    team: Crew,
    share: Share = ALONE,
) -> None:
    """Calls ``visit(begin, end, first, values)`` for every block of similarities.

    ``values`` are those of queries ``begin`` to ``end`` with the gallery from ``first`` on; an array, which may be
    overwritten, in several threads at once on a CPU, and a tensor on a GPU. Each query meets the gallery in order.

    Args:
        query: ``(Q, D)`` prepared queries.
        gallery: The gallery; its blocks are made as wide as suits the memory.
        metric: Which similarity.
        visit: What to do with a block.
        memory: Megabytes for one block and its similarities.
        team: Who does it.
        share: Of several processes, each visits its own gallery blocks; all of them look for broken rows.
    """
    room = int(memory * 2**20) // query.element_size()
    rows = max(1, min(len(query), room // COLUMNS))
    width = max(COLUMNS, min(room // rows, room // query.shape[1] // 2, 4 * COLUMNS))
    buffer = query.new_empty(0)
    for number, (first, row_numbers, block) in enumerate(gallery.blocks(width)):
        if number % share.size != share.rank:
            gallery_weights(block, metric, rows=row_numbers)
            continue
        # The first block is the widest.
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
    query: Tensor, block: Tensor, rows: IntArray, metric: Metric, values: Tensor, team: Crew
) -> Tensor:
    """Fills ``values`` with products and returns the block's weights; a thread takes some columns at a time."""
    weights = block.new_empty(len(block))

    def fill(span: tuple[int, int]) -> None:
        columns = slice(*span)
        weights[columns] = gallery_weights(block[columns], metric, rows=rows[columns])
        multiply(query, block[columns], values[:, columns])

    # For few queries, what the cache holds, so that memory is read once; for many, as wide as high, or they would be
    # read over and over.
    tile = max(len(query), CACHED // block[:1].nbytes) if block.device.type == "cpu" else len(block)
    team.each(fill, spans(len(block), min(tile, -(-len(block) // team.threads))))
    return weights


def query_tensor(features: Array, gallery: Features, name: str = "query_features") -> Tensor:
    """Queries in the type that both sides are compared in: at least float32.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If there is no row, or not two axes.
    """
    check_features(name, features)
    if len(features) == 0:
        raise ValueError(f"`{name}` has no rows, so there is nothing to rank")
    query = as_tensor(features)
    dtype = torch.promote_types(query.dtype, torch.float32)
    if isinstance(gallery, (Tensor, np.ndarray)):
        check_features("gallery_features", gallery)
        dtype = torch.promote_types(dtype, as_tensor(gallery[:0]).dtype)
    return query.to(dtype)
