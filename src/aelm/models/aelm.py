"""AELM: the most discriminative region is erased from the map, and a second classifier learns from the rest."""

from collections.abc import Callable
from typing import Literal, get_args

import torch
import torch.distributed as dist
from torch import Tensor, nn

from aelm.models.ifcn import IFCN, Pooling
from aelm.types import HeadOutput, InputError

Fill = Literal["swap", "drop", "zero"]
Erase = Literal["raw", "attended"]


class TwoHeads(nn.Module):
    """Classifiers A and B on the same map, with nothing erased: the control for the width that a second head adds.

    Args:
        channels: Depth C of the incoming map.
        num_ids: Number N of identities.
        embed_dim: Depth E of each classifier's embedding map.
        neck: Whether each classifier has a BNNeck (see :class:`aelm.models.IFCN`).
        pooling: ``mean`` or ``gem`` (see :class:`aelm.models.IFCN`).

    Shape:
        features ``(B, C, H, W)``, pids ``(B,)`` -> the outputs of A and of B.
    """

    def __init__(
        self, channels: int, num_ids: int, embed_dim: int = 512, *, neck: bool = False, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        self.a = IFCN(channels, num_ids, embed_dim, neck=neck, pooling=pooling)
        self.b = IFCN(channels, num_ids, embed_dim, neck=neck, pooling=pooling)

    def forward(
        self, features: Tensor, pids: Tensor | None = None, *, explain: bool = False
    ) -> tuple[HeadOutput, HeadOutput]:
        """Scores a batch; ``pids`` (or ``explain``, for A's best identity) requests heat maps."""
        a = self.a(features, pids, explain=explain)
        return a, self.b(features, heatmap_pids(a, pids) if explain else pids)


class AELM(TwoHeads):
    """Adversarially erased learning: B sees the map without the region that convinced A.

    A's heat map of the picture's identity is min-max normalised; positions at or above ``threshold`` are erased from
    B's input, so B must find other body regions. No gradient flows through the mask. In evaluation nothing is erased,
    since the label is unknown: the embeddings of both classifiers describe the whole picture.

    The paper states the two classifiers, the heat map from the forward pass and the erased map. Chosen here: the
    normalisation, its threshold (ACoL, Zhang et al. 2018, uses 0.6), and what replaces erased positions (``fill``).

    Args:
        channels: Depth C of the incoming map.
        num_ids: Number N of identities.
        embed_dim: Depth E of each classifier's embedding map.
        threshold: Normalised heat at or above which a position is erased, in (0, 1].
        fill: ``swap``: erased positions get the features of another picture in the batch, like an occluder. That
            picture is of another identity; if the batch has none, nothing is erased.
            ``drop``: B embeds every position and pools over the kept ones. ``zero``: the features of erased positions
            become 0 before B embeds them, as in ACoL; B's batch norm then sees erased maps in training only.
        erase: ``attended``: attention reads the whole map, and its output is erased. ``raw``: the map before attention
            is erased (with 0 for ``drop``), and attention reads it again for B, so attention too learns to do without
            the region. No effect without attention.
        neck: Whether each classifier has a BNNeck (see :class:`aelm.models.IFCN`).
        pooling: ``mean`` or ``gem`` (see :class:`aelm.models.IFCN`).

    Shape:
        features ``(B, C, H, W)``, pids ``(B,)`` -> the outputs of A and of B; B's ``mask`` is what was erased.

    Raises:
        ValueError: If ``threshold`` lies outside (0, 1], or ``fill`` or ``erase`` is unknown.

    >>> aelm = AELM(channels=8, num_ids=5, embed_dim=4, threshold=0.7)
    >>> a, b = aelm(torch.rand(2, 8, 6, 3), pids=torch.tensor([0, 4]))
    >>> b.mask.shape, b.mask.dtype
    (torch.Size([2, 6, 3]), torch.bool)
    """

    level: Tensor

    def __init__(
        self,
        channels: int,
        num_ids: int,
        embed_dim: int = 512,
        *,
        threshold: float = 0.7,
        fill: Fill = "swap",
        erase: Erase = "raw",
        neck: bool = False,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__(channels, num_ids, embed_dim, neck=neck, pooling=pooling)
        if not 0 < threshold <= 1:
            raise InputError(f"`threshold` must lie in (0, 1], got {threshold}")
        if fill not in get_args(Fill):
            raise InputError(f"`fill` must be one of {', '.join(get_args(Fill))}, got {fill!r}")
        if erase not in get_args(Erase):
            raise InputError(f"`erase` must be one of {', '.join(get_args(Erase))}, got {erase!r}")
        self.threshold = threshold
        # Current threshold in training; a tensor, so that a change does not recompile the model.
        self.register_buffer("level", torch.tensor(threshold), persistent=False)
        self.fill = fill
        self.erase = erase

    def forward(
        self,
        features: Tensor,
        pids: Tensor | None = None,
        *,
        explain: bool = False,
        attention: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[HeadOutput, HeadOutput]:
        """Scores a batch.

        In training B sees the erased map. In evaluation it sees the whole map; if ``pids`` or ``explain`` request heat
        maps, ``mask`` holds what training would erase.

        Args:
            features: ``(B, C, H, W)``.
            pids: ``(B,)`` labels in 0 .. N-1 that choose the heat maps; None for A's best identity if one is needed.
            explain: Whether to return heat maps and mask also without ``pids``.
            attention: Applied before both classifiers; None if it was already applied to ``features``.
        """
        attended = features if attention is None else attention(features)
        a = self.a(attended, pids, explain=explain or self.training)
        if a.heatmap is None:
            return a, self.b(attended)
        mask = self.mask(a.heatmap)
        if not self.training:
            return a, masked(self.b(attended, heatmap_pids(a, pids)), mask)
        others, mask = self.others(pids, mask)
        if self.erase == "raw" and attention is not None:
            seen = attention(self.filled(features, mask, others))
        else:
            seen = attended if self.fill == "drop" else self.filled(attended, mask, others)
        if self.fill == "drop":
            return a, self.b(seen, erased=mask)
        return a, masked(self.b(seen), mask)

    def others(self, pids: Tensor | None, mask: Tensor) -> tuple[Tensor | None, Tensor]:
        """Indices ``(B,)`` of the pictures to swap in, and ``mask`` (B, H, W) without pictures that have none."""
        if self.fill != "swap":
            return None, mask
        # Without labels each picture counts as a different person.
        others, found = of_another(torch.arange(len(mask), device=mask.device) if pids is None else pids)
        return others, mask & found[:, None, None]

    def filled(self, features: Tensor, mask: Tensor, others: Tensor | None = None) -> Tensor:
        """``features`` (B, C, H, W), where ``mask`` (B, H, W) is True those of ``others`` (B,), or 0 without others."""
        return features * ~mask[:, None] if others is None else swapped(features, mask, others)

    def set_strength(self, strength: float) -> None:
        """Sets how much training erases: 1 erases at or above ``threshold``, less raises the threshold, 0 disables."""
        # Normalised heat never reaches 2; the level at strength 1 equals the threshold exactly.
        self.level.fill_(2.0 if strength <= 0 else self.threshold + (1 - strength) * (1 - self.threshold))

    def mask(self, heatmap: Tensor) -> Tensor:
        """Positions to erase, ``(B, H, W)`` bool, given A's heat maps ``(B, H, W)``."""
        return discriminative_region(heatmap, self.level if self.training else self.threshold)


class RandomAELM(AELM):
    """AELM with its mask shifted randomly (with wrap-around): same area and shape, another position.

    The control for *where* AELM erases. Arguments and shapes as :class:`AELM`. The shifts come from a counter that is
    saved with the weights and starts from torch's seed, not from the global generator; each process draws its own.
    """

    draws: Tensor

    def __init__(
        self,
        channels: int,
        num_ids: int,
        embed_dim: int = 512,
        *,
        threshold: float = 0.7,
        fill: Fill = "swap",
        erase: Erase = "raw",
        neck: bool = False,
        pooling: Pooling = "mean",
    ) -> None:
        super().__init__(
            channels, num_ids, embed_dim, threshold=threshold, fill=fill, erase=erase, neck=neck, pooling=pooling
        )
        self.register_buffer("draws", torch.randint(2**31, ()))

    def mask(self, heatmap: Tensor) -> Tensor:
        B, H, W = heatmap.shape
        # Processes share a seed: the rank gives each its own range of the counter.
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        numbers = hashed(self.draws + rank * 0x9E3779B1 + torch.arange(B, device=heatmap.device))  # (B,)
        if self.training:
            self.draws += B
        return shifted(super().mask(heatmap), numbers % H, (numbers // H) % W)


def swapped(features: Tensor, mask: Tensor, others: Tensor) -> Tensor:
    """``features`` (B, C, H, W) with those of another picture where ``mask`` (B, H, W) is True, without gradient there.

    ``others`` (B,) are the indices of the other pictures. The memory format is kept.
    """
    foreign = features.detach()[others]  # unlike `roll`, indexing keeps channels_last
    return torch.where(mask[:, None], foreign, features)


def of_another(pids: Tensor) -> tuple[Tensor, Tensor]:
    """For each picture of a batch with labels ``(B,)`` the index of one of another identity, and whether there is one.

    Tries the picture half a batch away first, since pictures of an identity are adjacent, then the ones before it. If
    there is none, the picture itself.

    >>> of_another(torch.tensor([7, 7, 3, 7]))
    (tensor([2, 2, 0, 2]), tensor([True, True, True, True]))
    """
    B = len(pids)
    order = away(B, pids.device)  # (B, B)
    rank = torch.arange(B, device=pids.device)
    first = torch.where(pids[order] != pids[:, None], rank, B).amin(1)  # (B,)
    found = first < B
    return torch.where(found, order[rank, first.clamp(max=B - 1)], rank), found


def away(B: int, device: torch.device) -> Tensor:
    """For each picture of a batch, the order to try others in, ``(B, B)``: backwards from half a batch away."""
    place = torch.arange(B, device=device)
    return (place[:, None] - B // 2 - place) % B


def masked(b: HeadOutput, mask: Tensor) -> HeadOutput:
    """B's output with the erased mask; torch 2.11 cannot compile ``_replace``."""
    return HeadOutput(b.pooled, b.embedding, b.logits, b.heatmap, mask)


def heatmap_pids(a: HeadOutput, pids: Tensor | None) -> Tensor:
    """Identities of the heat maps, ``(B,)``: ``pids`` if given, else A's best identity."""
    return a.logits.argmax(1) if pids is None else pids


def discriminative_region(heatmap: Tensor, threshold: float | Tensor) -> Tensor:
    """Positions whose heat, min-max normalised within its map, is at least ``threshold``.

    The maximum is always marked; a higher threshold never marks more. A constant map marks nothing, and neither does a
    map that would be marked completely.

    Args:
        heatmap: ``(B, H, W)``, any float type; compared in float32 at least, without gradient.
        threshold: In (0, 1], or above 1 to mark nothing; a number or a tensor with one value.

    Returns:
        ``(B, H, W)`` bool.

    >>> discriminative_region(torch.tensor([[[0.0, 1.0, 2.0, 10.0]], [[3.0, 3.0, 3.0, 3.0]]]), 0.5).int()
    tensor([[[0, 0, 0, 1]],
    <BLANKLINE>
            [[0, 0, 0, 0]]], dtype=torch.int32)
    """
    heat = heatmap.detach().to(torch.promote_types(heatmap.dtype, torch.float32))
    low = heat.amin((1, 2), keepdim=True)
    span = heat.amax((1, 2), keepdim=True) - low
    mask = heat - low >= threshold * span
    return mask & ~mask.flatten(1).all(1)[:, None, None]


def shifted(mask: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """``mask`` (B, H, W), each rolled by ``rows`` (B,) down and ``columns`` (B,) to the right, with wrap-around."""
    B, H, W = mask.shape
    batch = torch.arange(B, device=mask.device)[:, None, None]
    row = (torch.arange(H, device=mask.device) - rows[:, None]) % H
    column = (torch.arange(W, device=mask.device) - columns[:, None]) % W
    return mask[batch, row[:, :, None], column[:, None, :]]


def hashed(counter: Tensor) -> Tensor:
    """Hashes integers ``(B,)`` to 0 .. 2^31 - 1 (Wang's 32-bit mix), the same on any device."""
    x = counter & 0xFFFFFFFF
    x = ((x ^ 61) ^ (x >> 16)) * 9 & 0xFFFFFFFF
    x = (x ^ (x >> 4)) * 0x27D4EB2D & 0xFFFFFFFF
    return (x ^ (x >> 15)) & 0x7FFFFFFF
