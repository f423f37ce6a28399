"""Which positions make two pictures similar: the score, decomposed over the feature maps that it was pooled from."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from aelm.models.network import ReIDNetwork
from aelm.types import InputError

Maps = tuple[tuple[Tensor, ...], ...]


class SimilarityMaps(NamedTuple):
    """A score and its parts.

    Attributes:
        score: ``(B,)`` cosine similarity of the embeddings of each pair.
        on_a: ``on_a[stage][head]`` is ``(B, H, W)``: the contribution of each position of the first picture. Summed
            over stages, heads and positions they equal ``score``; contributions may be negative.
        on_b: The same score, split over the second picture.
        first: Number, from 1, of the shallowest stage that is part of the embedding.
    """

    score: Tensor
    on_a: Maps
    on_b: Maps
    first: int


@torch.no_grad()
def similarity_maps(network: ReIDNetwork, images_a: Tensor, images_b: Tensor) -> SimilarityMaps:
    """Splits the similarity of pairs of pictures over their positions, exactly.

    An embedding concatenates one part per classifier, each the mean of a map over its positions. The score is bilinear
    in the parts, so position p of the first picture contributes ``<map[:, p], part of the second> / (H W)``, up to the
    factors that scale the parts and the embedding to unit length. The receptive field of a position is larger than its
    own pixels. Nothing is erased, as in ``embed``.

    Args:
        network: In evaluation mode, on the device of the pictures.
        images_a: ``(B, 3, H, W)``, as ``network.embed`` takes them; one picture stands for all of ``images_b``.
        images_b: ``(B, 3, H, W)``, or one picture for all of ``images_a``.

    Raises:
        ValueError: If the network is in training mode, has no feature maps, or the numbers of pictures differ.

    >>> from aelm.models import AELM, CoAM
    >>> network = ReIDNetwork(torch.nn.Conv2d(3, 16, 8, stride=8), num_ids=5, coam=CoAM, aelm=AELM).eval()
    >>> one, other = torch.rand(2, 4, 3, 64, 32)
    >>> maps = similarity_maps(network, one, other)
    >>> torch.allclose(sum(part.sum((1, 2)) for stage in maps.on_a for part in stage), maps.score, atol=1e-5)
    True
    """
    if network.training:
        raise InputError("`network` is in training mode, where batch norms mix pictures: call network.eval() first")
    if len(images_a) != len(images_b) and 1 not in (len(images_a), len(images_b)):
        raise InputError(f"pairs need as many pictures on both sides, got {len(images_a)} and {len(images_b)}")
    maps_a, maps_b = position_maps(network, images_a), position_maps(network, images_b)
    pooled_a, pooled_b = pooled(maps_a), pooled(maps_b)
    products = [(p * q).sum(1) for ps, qs in zip(pooled_a, pooled_b, strict=True) for p, q in zip(ps, qs, strict=True)]
    first = len(network.heads) - len(maps_a) + 1
    return SimilarityMaps(torch.stack(products).sum(0), split(maps_a, pooled_b), split(maps_b, pooled_a), first)


def position_maps(network: ReIDNetwork, images: Tensor) -> Maps:
    """The embedding, position by position: ``maps[stage][head]`` is ``(B, E, H, W)`` float32.

    The spatial means of all maps, side by side, are ``network.embed(images)``.

    Raises:
        ValueError: If the network has no feature maps.
    """
    stages = []
    for features, attention, head in network.in_use(images):
        attended = attention(features)
        heads: list[Any] = [part for part in head.modules() if hasattr(part, "embedding_maps")]
        if not heads:
            raise InputError(f"a {type(head).__name__} gives no feature maps: its embedding cannot be split")
        stages.append([part.embedding_maps(attended).float() for part in heads])
    lengths = [[part.mean((2, 3)).norm(dim=1).clamp_min(1e-12) for part in stage] for stage in stages]  # (B,) a head
    units = [
        [part / length[:, None, None, None] for part, length in zip(parts, sizes, strict=True)]
        for parts, sizes in zip(stages, lengths, strict=True)
    ]
    joined = torch.cat([part.mean((2, 3)) for stage in units for part in stage], 1)  # (B, D)
    whole = joined.norm(dim=1).clamp_min(1e-12)[:, None, None, None]
    return tuple(tuple(part / whole for part in stage) for stage in units)


def pooled(maps: Maps) -> Maps:
    """The means of the maps over their positions, ``(B, E)`` a stage and head."""
    return tuple(tuple(part.mean((2, 3)) for part in stage) for stage in maps)


def split(maps: Maps, others: Maps) -> Maps:
    """Contribution of each position of ``maps`` (B, E, H, W) to the product with ``others`` (B, E): ``(B, H, W)``."""

    def products(part: Tensor, other: Tensor) -> Tensor:
        count, positions = max(len(part), len(other)), part.shape[2] * part.shape[3]
        return torch.einsum("behw,be->bhw", part.expand(count, -1, -1, -1), other.expand(count, -1)) / positions

    return tuple(
        tuple(products(part, other) for part, other in zip(stage, others_here, strict=True))
        for stage, others_here in zip(maps, others, strict=True)
    )


def merged(maps: Maps) -> Tensor:
    """The sum of the maps of all stages and heads, ``(B, H, W)`` at the size of the largest; the total is unchanged.

    The value of a coarse position is spread evenly over the fine positions that it covers.
    """
    parts = [part for stage in maps for part in stage]
    height, width = max(part.shape[1] for part in parts), max(part.shape[2] for part in parts)
    total = parts[0].new_zeros(parts[0].shape[0], height, width)
    for part in parts:
        rows = overlaps(part.shape[1], height).to(part)
        columns = overlaps(part.shape[2], width).to(part)
        total += torch.einsum("yh,bhw,xw->byx", rows, part, columns)
    return total


def overlaps(coarse: int, fine: int) -> Tensor:
    """Share of each of ``coarse`` equal intervals within each of ``fine``: ``(fine, coarse)``, columns sum to 1.

    >>> overlaps(2, 3)
    tensor([[0.6667, 0.0000],
            [0.3333, 0.3333],
            [0.0000, 0.6667]])
    """
    starts, stops = torch.arange(coarse) / coarse, torch.arange(1, coarse + 1) / coarse
    left, right = torch.arange(fine) / fine, torch.arange(1, fine + 1) / fine
    shared = torch.minimum(stops, right[:, None]) - torch.maximum(starts, left[:, None])
    return F.relu(shared) * coarse
