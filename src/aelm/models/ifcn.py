"""IFCN: the identity classifier as a fully convolutional head, whose class maps are heat maps."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal, get_args

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from aelm.types import HeadOutput, InputError

Pooling = Literal["mean", "gem"]


class IFCN(nn.Module):
    """Classifies identities by convolution alone, so that each identity has a class map.

    A 1x1 convolution, batch norm and ReLU turn features into the embedding map ``E``; a second 1x1 convolution ``W``
    (no bias) would turn it into one map per identity, ``M = W * E``, with logits ``mean(M)``. Mean and 1x1 convolution
    commute, so the logits are ``W mean(E)`` and the heat map of identity y is ``W[y] . E``: the N maps are never built,
    and the cost of a heat map does not grow with N. :meth:`class_maps` builds them if needed.

    The paper states that the identity model is fully convolutional and that the map of the picture's own identity is
    selected; the embedding layer before the classifier, the BNNeck and the pooling are choices of this project.

    With ``pooling="gem"`` every map uses shares ``S`` in place of ``E`` (see :func:`gem_maps`). As with the mean,
    ``mean(S)`` is the pooled embedding, so class maps average to the logits and embedding maps to the embedding. Unlike
    with the mean, a value does not depend on its own position alone: a share also depends on how strong its channel is
    elsewhere. It is the position's contribution to first order (value x gradient x number of positions); erasing the
    position lowers the score by a different amount.

    Args:
        channels: Depth C of the incoming map.
        num_ids: Number N of identities.
        embed_dim: Depth E of the embedding map.
        neck: Whether a batch norm without shift (BNNeck, Luo et al. 2019) follows pooling, before the classifier.
            Ranking then uses the features after it, metric losses those before it, and class maps include its scale.
        pooling: ``mean`` over positions; or ``gem``, the generalised mean ``mean(x^p)^(1/p)`` of Radenović et al. 2018,
            with one learned ``p`` that starts at 3.

    Shape:
        features ``(B, C, H, W)``, pids ``(B,)`` -> :class:`aelm.types.HeadOutput`.

    Raises:
        ValueError: If a size is below 1, or ``pooling`` is unknown.

    >>> head = IFCN(channels=8, num_ids=5, embed_dim=4)
    >>> output = head(torch.rand(2, 8, 6, 3), pids=torch.tensor([0, 4]))
    >>> output.logits.shape, output.heatmap.shape
    (torch.Size([2, 5]), torch.Size([2, 6, 3]))
    """

    def __init__(
        self, channels: int, num_ids: int, embed_dim: int = 512, *, neck: bool = False, pooling: Pooling = "mean"
    ) -> None:
        super().__init__()
        if pooling not in get_args(Pooling):
            raise InputError(f"`pooling` must be one of {', '.join(get_args(Pooling))}, got {pooling!r}")
        for name, value in (("channels", channels), ("num_ids", num_ids), ("embed_dim", embed_dim)):
            if value < 1:
                raise InputError(f"`{name}` must be at least 1, got {value}")
        self.num_ids = num_ids
        self.embed_dim = embed_dim
        convolution = nn.Conv2d(channels, embed_dim, 1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, mode="fan_out")
        self.embed = nn.Sequential(convolution, nn.BatchNorm2d(embed_dim), nn.ReLU())
        self.power = nn.Parameter(torch.tensor([3.0])) if pooling == "gem" else None
        self.neck = nn.BatchNorm1d(embed_dim) if neck else None
        self.weight = nn.Parameter(torch.empty(num_ids, embed_dim))
        nn.init.normal_(self.weight, std=0.001 if neck else 0.01)
        if self.neck is not None:
            self.neck.bias.requires_grad_(False)

    def forward(
        self, features: Tensor, pids: Tensor | None = None, *, erased: Tensor | None = None, explain: bool = False
    ) -> HeadOutput:
        """Scores a batch; with ``pids`` or ``explain`` it also returns heat maps.

        Args:
            features: ``(B, C, H, W)``.
            pids: ``(B,)`` labels in 0 .. N-1 of the heat maps.
            erased: ``(B, H, W)`` bool; True positions are excluded from pooling.
            explain: Whether to return heat maps also without ``pids``: those of the best-scored identity.
        """
        maps = self.embed(features)  # (B, E, H, W)
        wide = torch.promote_types(maps.dtype, torch.float32)
        with precise(maps.device):  # inputs of the losses: in float32 also under mixed precision
            maps = self.shares(maps, erased)
            pooled = mean_over_kept(maps, erased)  # (B, E)
            embedding = pooled if self.neck is None else self.neck(pooled.to(self.neck.weight.dtype)).to(wide)
            logits = F.linear(embedding, self.weight.to(wide))  # (B, N)
        if explain and pids is None:
            pids = logits.argmax(1)
        heatmap = None if pids is None else self.heatmaps(maps, pooled, pids)
        return HeadOutput(pooled, embedding, logits, heatmap, erased)

    def shares(self, maps: Tensor, erased: Tensor | None = None) -> Tensor:
        """``maps`` (B, E, H, W) whose mean over the kept positions is the pooled embedding: for GeM its shares."""
        return maps if self.power is None else gem_maps(maps, self.power, erased)

    @torch.no_grad()
    def heatmaps(self, maps: Tensor, pooled: Tensor, pids: Tensor) -> Tensor:
        """Class maps ``(B, H, W)`` of ``pids`` (B,), from `shares` ``maps`` (B, E, H, W) and ``pooled`` (B, E)."""
        check_label_range(pids, self.num_ids)
        wide = torch.promote_types(maps.dtype, torch.float32)
        with precise(maps.device):
            scale, shift = self._neck_affine(pooled)
            rows = self.weight[pids].to(wide)  # (B, E)
            heat = torch.einsum("behw,be->bhw", maps.to(wide), rows * scale)
            return heat + (rows @ shift)[:, None, None]

    def embedding_maps(self, features: Tensor) -> Tensor:
        """Maps ``(B, E, H, W)`` whose spatial mean is the ``embedding`` of a whole picture."""
        maps = self.shares(self.embed(features))
        scale, shift = self._neck_affine(maps.mean((2, 3)))
        return maps * scale[:, None, None] + shift[:, None, None]

    def class_maps(self, features: Tensor) -> Tensor:
        """All class maps ``(B, N, H, W)``, whose spatial mean is the logits; grows with N, unlike ``forward``."""
        maps = self.shares(self.embed(features))
        maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
        scale, shift = self._neck_affine(maps.mean((2, 3)))
        weight = self.weight.to(maps.dtype)
        return F.conv2d(maps, (weight * scale)[:, :, None, None], weight @ shift)

    def _neck_affine(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift ``(E,)`` by which the neck turns ``pooled`` into the embedding; 1 and 0 without one.

        In float32 at least.
        """
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        if self.neck is None:
            ones = self.weight.new_ones(self.embed_dim, dtype=wide)
            return ones, torch.zeros_like(ones)
        variance, mean = self.neck.running_var, self.neck.running_mean
        if self.training or variance is None or mean is None:  # the neck used the statistics of this batch
            variance, mean = batch_statistics(pooled.detach().to(wide), self.neck)
        scale = self.neck.weight.to(wide) * torch.rsqrt(variance.to(wide) + self.neck.eps)
        return scale, self.neck.bias.to(wide) - mean.to(wide) * scale


def batch_statistics(values: Tensor, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Variance and mean ``(E,)`` of a batch ``(B, E)`` as ``norm`` uses them: over all processes if synchronised."""
    if not isinstance(norm, nn.SyncBatchNorm) or not (dist.is_available() and dist.is_initialized()):
        variance, mean = torch.var_mean(values, 0, correction=0)
        return variance, mean
    total = torch.cat([values.sum(0), values.new_full((1,), len(values))])
    dist.all_reduce(total, group=norm.process_group)
    mean = total[:-1] / total[-1]
    squares = (values - mean).square().sum(0)
    dist.all_reduce(squares, group=norm.process_group)
    return squares / total[-1], mean


def mean_over_kept(maps: Tensor, erased: Tensor | None) -> Tensor:
    """Average of ``maps`` (B, E, H, W) over the positions that ``erased`` (B, H, W) does not mark -> (B, E).

    If every position of a picture is marked, all are averaged. The average is in float32 at least.
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    if erased is None:
        return maps.mean((2, 3), dtype=wide)
    kept = (~erased | erased.flatten(1).all(1)[:, None, None]).to(wide)  # (B, H, W)
    return torch.einsum("behw,bhw->be", maps.to(wide), kept) / kept.sum((1, 2))[:, None]


def gem_maps(maps: Tensor, power: Tensor, erased: Tensor | None = None) -> Tensor:
    """Contribution of each position to the generalised mean (GeM) of its channel: ``x^p mean(x^p)^(1/p - 1)``.

    The mean of these shares over the kept positions is exactly ``mean(x^p)^(1/p)``. GeM is homogeneous of degree 1, so
    a share is also ``x`` times its gradient times the number of positions (Euler).

    Args:
        maps: ``(B, E, H, W)``; values below 1e-6 are raised to 1e-6, as in the authors' code.
        power: ``(1,)``, the exponent p, above 0.
        erased: ``(B, H, W)`` bool, as in `mean_over_kept`.

    Reference: Radenović et al. 2018, Fine-tuning CNN Image Retrieval with No Human Annotation.

    >>> gem_maps(torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([2.0])).mean() ** 2
    tensor(2.5000)
    """
    wide = torch.promote_types(maps.dtype, torch.float32)
    maps, power = maps.to(wide).clamp(min=1e-6), power.to(wide)
    top = maps.detach().amax((2, 3), keepdim=True)  # powers of numbers up to 1 never overflow
    powered = (maps / top).pow(power)
    # The first form because OpenCV 4 cannot read an exported `unsqueeze`.
    mean = powered.mean((2, 3), keepdim=True) if erased is None else mean_over_kept(powered, erased)[:, :, None, None]
    return top * powered * mean.clamp(min=torch.finfo(wide).tiny).pow(1 / power - 1)


def precise(device: torch.device) -> AbstractContextManager[Any]:
    """Disables autocast if it is active; else does nothing, so exported networks contain no autocast."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()


def check_label_range(pids: Tensor, num_ids: int) -> None:
    """Raises ValueError if a label lies outside 0 .. num_ids - 1; on a GPU the check is left to the kernel.

    Reading a value from a GPU would make every step wait for it, and splits the compiled graph.
    """
    if (
        pids.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and pids.numel()
        and (pids.min() < 0 or pids.max() >= num_ids)
    ):
        bad = sorted({int(p) for p in pids if p < 0 or p >= num_ids})
        raise InputError(
            f"labels must lie in 0 .. {num_ids - 1} ({num_ids} identities), got {bad[:5]}: "
            "number the training identities from 0 (`aelm.data.splits.label_map`)"
        )
