"""AELM: the most discriminative region is erased from the map, and a second classifier learns the rest."""

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
    """Classifiers A and B on the same map, with nothing erased: the control for the second head's width.

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
        """Scores a batch; ``pids`` (or ``explain``, for A's best identity) asks for heat maps."""
        a = self.a(features, pids, explain=explain)
        return a, self.b(features, heatmap_pids(a, pids) if explain else pids)


class AELM(TwoHeads):
    """Adversarially erased learning: B sees the map without the region that convinced A.

    A's heat map of the picture's identity is min-max normalised; positions at or above ``threshold`` are erased from
    what B sees, so that B must find other body regions. No gradient runs through the mask. In evaluation nothing is
    erased, since no label is known: ``embedding`` of both classifiers describes the whole picture.

    The paper states the two classifiers, the heat map out of the forward pass and the erased map. Chosen here: the
    normalisation and its threshold (ACoL, Zhang et al. 2018, uses 0.6), and what erased means (``fill``).

    Args:
        channels: Depth C of the incoming map.
        num_ids: Number N of identities.
        embed_dim: Depth E of each classifier's embedding map.
        threshold: Share of the heat map's range from which on a position is erased, in (0, 1].
        fill: ``swap``: at erased positions B sees what another picture of the batch has there: something foreign, as an
            occluder is. The other picture is of another identity; where a batch has none, nothing is erased.
            ``drop``: B embeds every position and pools over those kept. ``zero``: the features of erased positions
            become 0 before B embeds them, as in ACoL; its batch norm then sees erased maps in training only.
        erase: ``attended``: attention reads the whole map, and what it gives is erased. ``raw``: the map in front of
            attention is erased (with 0 for ``drop``), and attention reads it once more, for B: so it too learns to do
            without the region. Only matters where there is attention.
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
        # What training erases from now; a tensor, so that nothing is compiled anew when it moves.
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

        In training B sees the erased map. In evaluation it sees the whole one; where ``pids`` or ``explain`` ask for
        heat maps, ``mask`` tells what training would have erased.

        Args:
            features: ``(B, C, H, W)``.
            pids: ``(B,)`` labels in 0 .. N-1 that choose the heat maps; None for A's best identity where one is needed.
            explain: Whether heat maps and mask are wanted also without ``pids``.
            attention: What is put in front of both classifiers; None where ``features`` have been attended to.
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
        """Which pictures ``(B,)`` are swapped in, and the part of ``mask`` (B, H, W) for which there is one."""
        if self.fill != "swap":
            return None, mask
        # Without labels each picture counts as another person.
        others, found = of_another(torch.arange(len(mask), device=mask.device) if pids is None else pids)
        return others, mask & found[:, None, None]

    def filled(self, features: Tensor, mask: Tensor, others: Tensor | None = None) -> Tensor:
        """``features`` (B, C, H, W) with the filling where ``mask`` (B, H, W) says; ``others`` as in `swapped`."""
        return swapped(features, mask, others) if self.fill == "swap" else features * ~mask[:, None]

    def set_strength(self, strength: float) -> None:
        """How much training erases from now on: 1 from ``threshold`` on, less from a higher one on, 0 nothing."""
        # Nothing lies as high as 2; the level at strength 1 is the threshold to the last bit.
        self.level.fill_(2.0 if strength <= 0 else self.threshold + (1 - strength) * (1 - self.threshold))

    def mask(self, heatmap: Tensor) -> Tensor:
        """What to erase, ``(B, H, W)`` bool, given A's heat maps ``(B, H, W)``."""
        return discriminative_region(heatmap, self.level if self.training else self.threshold)


class RandomAELM(AELM):
    """AELM whose mask is shifted at random around the map: same area and shape, another place.

    The control for *where* AELM erases. Arguments and shapes as :class:`AELM`. The shifts come from a counter that is
    saved with the weights and starts from torch's seed, not from the global stream; each process draws its own.
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
        # Processes share a seed: the rank sends each to a stretch of the counter of its own.
        rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
        numbers = hashed(self.draws + rank * 0x9E3779B1 + torch.arange(B, device=heatmap.device))  # (B,)
        if self.training:
            self.draws += B
        return shifted(super().mask(heatmap), numbers % H, (numbers // H) % W)


def swapped(features: Tensor, mask: Tensor, others: Tensor | None = None) -> Tensor:
    """``features`` (B, C, H, W) with another picture's where ``mask`` (B, H, W) says, which get no gradient from that.

    ``others`` (B,) tells whose; None for those half a batch away. The memory format stays.
    """
    if others is None:
        others = away(len(features), features.device)[:, 0]
    foreign = features.detach()[others]  # unlike `roll`, an index keeps channels_last
    return torch.where(mask[:, None], foreign, features)


def of_another(pids: Tensor) -> tuple[Tensor, Tensor]:
    """For each picture of a batch with labels ``(B,)`` one of another identity ``(B,)``, and whether there is one.

    That is the picture half a batch away, since pictures of an identity stand together, or else the next one in front
    of it; where there is none, the picture itself.

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
    """The pictures of a batch as each of them asks for them, ``(B, B)``: from half a batch away on, backwards."""
    place = torch.arange(B, device=device)
    return (place[:, None] - max(B // 2, 1) - place) % B


def masked(b: HeadOutput, mask: Tensor) -> HeadOutput:
    """What B said, with what was erased; torch 2.11 compiles no ``_replace``."""
    return HeadOutput(b.pooled, b.embedding, b.logits, b.heatmap, mask)


def heatmap_pids(a: HeadOutput, pids: Tensor | None) -> Tensor:
    """Whose heat maps are shown, ``(B,)``: ``pids`` where given, else A's best identity."""
    return a.logits.argmax(1) if pids is None else pids


def discriminative_region(heatmap: Tensor, threshold: float | Tensor) -> Tensor:
    """Positions whose heat, min-max normalised within its map, is at least ``threshold``.

    The maximum is always marked; a higher threshold marks no more. A constant map has no range and marks nothing, nor
    does one that would be marked whole.

    Args:
        heatmap: ``(B, H, W)``, any float type; compared in float32 at least, without gradient.
        threshold: In (0, 1], or above 1 for nothing; a number or a tensor of one.

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
    """``mask`` (B, H, W), each rolled around its map by ``rows`` (B,) down and ``columns`` (B,) to the right."""
    B, H, W = mask.shape
    batch = torch.arange(B, device=mask.device)[:, None, None]
    row = (torch.arange(H, device=mask.device) - rows[:, None]) % H
    column = (torch.arange(W, device=mask.device) - columns[:, None]) % W
    return mask[batch, row[:, :, None], column[:, None, :]]


def hashed(counter: Tensor) -> Tensor:
    """Spreads whole numbers ``(B,)`` over 0 .. 2^31 - 1 as if drawn at random (Wang's 32-bit mix), on any device."""
    x = counter & 0xFFFFFFFF
    x = ((x ^ 61) ^ (x >> 16)) * 9 & 0xFFFFFFFF
    x = (x ^ (x >> 4)) * 0x27D4EB2D & 0xFFFFFFFF
    return (x ^ (x >> 15)) & 0x7FFFFFFF
