"""What made pictures similar: the score of a pair, split over the positions of both."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.data import BadImageError
from aelm.data.decoding import Pixels, decode, read_bytes
from aelm.embedding.embedder import Embedder
from aelm.embedding.feed import preparation
from aelm.models.similarity import merged, similarity_maps

BATCH = 32  # pairs at a time


class Heat(NamedTuple):
    """What each position of two pictures brings to their score, ``(h, w)`` each; both sum to the score."""

    on_query: NDArray[np.float32]
    on_result: NDArray[np.float32]


def read_pictures(paths: Iterable[str]) -> list[Pixels | None]:
    """Pictures ``(h, w, 3)`` uint8 RGB; None in the place of one that cannot be read any more."""
    found: list[Pixels | None] = []
    for path in paths:
        try:
            found.append(decode(read_bytes(path), path))
        except BadImageError:
            found.append(None)
    return found


def pair_heat(embedder: Embedder, query: Pixels | None, results: Sequence[Pixels | None]) -> list[Heat | None]:
    """Heat maps of a query with each of its results.

    Args:
        embedder: On the device where it shall run.
        query: ``(h, w, 3)`` uint8 RGB; None gives no heat maps.
        results: Likewise; None in the place of those that are gone.

    Returns:
        One a result; None where a picture is missing, or the model has no feature maps (``embedder.has_maps``).
    """
    heat: list[Heat | None] = [None] * len(results)
    known = [i for i, result in enumerate(results) if result is not None]
    if query is None or not embedder.has_maps:
        return heat
    asked = _prepared(embedder, [query])
    for some in (known[first : first + BATCH] for first in range(0, len(known), BATCH)):
        found = _prepared(embedder, [picture for i in some if (picture := results[i]) is not None])
        maps = similarity_maps(embedder.network, asked, found)
        on_query, on_result = (merged(part).cpu().numpy() for part in (maps.on_a, maps.on_b))
        for place, i in enumerate(some):
            heat[i] = Heat(on_query[place], on_result[place])
    return heat


def _prepared(embedder: Embedder, pictures: Sequence[Pixels]) -> Tensor:
    """Pictures as the network takes them, ``(B, 3, H, W)`` uint8 on its device."""
    prepare = preparation(embedder)
    images = np.stack([prepare(picture) for picture in pictures])  # (B, H, W, 3)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(embedder.device)
