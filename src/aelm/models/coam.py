"""CoAM: attention over feature types (channels) and positions."""

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from aelm.types import InputError

Mode = Literal["rezero", "sequential", "parallel", "residual"]


class ChannelGate(nn.Module):
    """Weights feature types: one factor in (0, 1) per channel, from its mean and its maximum.

    Shape: ``(B, C, H, W)`` -> ``(B, C, 1, 1)``.
    """

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = max(channels // reduction, 1)
        self.mlp = nn.Sequential(nn.Linear(channels, inner), nn.ReLU(), nn.Linear(inner, channels))

    def forward(self, features: Tensor) -> Tensor:
        gate: Tensor = torch.sigmoid(self.mlp(features.mean((2, 3))) + self.mlp(features.amax((2, 3))))
        return gate.view(-1, gate.shape[1], 1, 1)  # OpenCV 4 cannot read `unsqueeze` of two axes from ONNX


class SpatialGate(nn.Module):
    """Weights positions: one factor in (0, 1) per position, from the mean and maximum over channels.

    Shape: ``(B, C, H, W)`` -> ``(B, 1, H, W)``.
    """

    def __init__(self, kernel_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)
        self.norm = nn.BatchNorm2d(1)

    def forward(self, features: Tensor) -> Tensor:
        pooled = torch.cat([features.mean(1, keepdim=True), features.amax(1, keepdim=True)], 1)  # (B, 2, H, W)
        return torch.sigmoid(self.norm(self.conv(pooled)))


class CoAM(nn.Module):
    """Reweights a feature map by channel and by position.

    Args:
        channels: Depth C of the incoming map.
        reduction: Bottleneck factor of the channel gate; the bottleneck has at least one channel.
        kernel_size: Side of the spatial gate's convolution; odd.
        mode: ``rezero``: both gates, in (-1, 1), read the incoming map, and each multiplies it by 1 + strength x gate;
            the strength is learned and starts at 0, so attention starts as the identity (Bachlechner et al. 2020).
            ``sequential``: CBAM's gates in (0, 1), by channel and then, on the result, by position. ``parallel``: both
            gates read the incoming map and multiply. ``residual``: sequential, plus the incoming map.

    Shape:
        features ``(B, C, H, W)`` -> ``(B, C, H, W)``.

    Raises:
        ValueError: If ``reduction`` is below 1, ``kernel_size`` is even, or ``mode`` is unknown.

    Reference: Liu et al. 2019 name the two parts; the gates follow Woo et al. 2018 (CBAM), a choice of this project.

    >>> CoAM(channels=8, reduction=2)(torch.zeros(2, 8, 4, 2)).shape
    torch.Size([2, 8, 4, 2])
    """

    def __init__(self, channels: int, reduction: int = 16, kernel_size: int = 7, mode: Mode = "rezero") -> None:
        super().__init__()
        if reduction < 1:
            raise InputError(f"`reduction` must be at least 1, got {reduction}")
        if kernel_size % 2 == 0:
            raise InputError(f"`kernel_size` must be odd, got {kernel_size}")
        if mode not in get_args(Mode):
            raise InputError(f"`mode` must be one of {', '.join(get_args(Mode))}, got {mode!r}")
        self.channel = ChannelGate(channels, reduction)
        self.spatial = SpatialGate(kernel_size)
        self.mode = mode
        if mode == "rezero":
            self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, features: Tensor) -> Tensor:
        if self.mode == "rezero":
            by_type, by_position = 2 * self.channel(features) - 1, 2 * self.spatial(features) - 1
            attended: Tensor = features * (1 + self.strength * by_type) * (1 + self.strength * by_position)
            return attended
        by_channel: Tensor = features * self.channel(features)
        gated: Tensor = by_channel * self.spatial(features if self.mode == "parallel" else by_channel)
        return features + gated if self.mode == "residual" else gated
