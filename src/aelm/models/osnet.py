"""OSNet: a small network with multi-scale blocks, with and without instance norms (IBN, AIN).

References: Zhou et al. 2019, Omni-Scale Feature Learning for Person Re-Identification; Zhou et al. 2021, Learning
Generalisable Omni-Scale Representations. Tensors have torchreid's names, so its trained files load unchanged.
"""

from collections import OrderedDict
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Position of instance norms: none; after the sums of the first stage (IBN); within some branches (AIN).
Kind = Literal["plain", "ibn", "ain"]
AIN = ((True, True), (False, True), (True, False))  # blocks with instance norm, by stage, from the paper's search


def conv_norm(
    channels: int, out: int, kernel: int = 1, stride: int = 1, *, norm: bool = True, instance: bool = False,
    relu: bool = True,
) -> nn.Sequential:  # fmt: skip
    """Convolution, optional norm and optional ReLU."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    layers["conv"] = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    if norm:
        layers["bn"] = nn.InstanceNorm2d(out, affine=True) if instance else nn.BatchNorm2d(out)
    if relu:
        layers["relu"] = nn.ReLU()
    return nn.Sequential(layers)


def light_conv(channels: int) -> nn.Sequential:
    """A 3x3 convolution in two cheap steps: pointwise, then depthwise."""
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(channels, channels, 1, bias=False),
            conv2=nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            bn=nn.BatchNorm2d(channels),
            relu=nn.ReLU(),
        )
    )


class ScaleGate(nn.Module):
    """Weights the channels of a stream by its own content; the streams of all scales share one gate."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // reduction, 1)
        self.fc2 = nn.Conv2d(channels // reduction, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        return maps * torch.sigmoid(self.fc2(F.relu(self.fc1(maps.mean((2, 3), keepdim=True)))))


class OmniScaleBlock(nn.Module):
    """A residual block of four streams, one to four light convolutions deep, which are weighted and added.

    Args:
        channels: Depth of the incoming map.
        out: Depth of the outgoing map.
        kind: Of the network; tensor names differ, too.
        instance: Whether this block has an instance norm.
    """

    def __init__(self, channels: int, out: int, kind: Kind, *, instance: bool) -> None:
        super().__init__()
        middle = out // 4
        self.conv1 = conv_norm(channels, middle)
        streams = [nn.Sequential(*(light_conv(middle) for _ in range(depth))) for depth in range(1, 5)]
        if kind == "ain":
            self.conv2 = nn.ModuleList(nn.Sequential(OrderedDict(layers=stream)) for stream in streams)
        else:
            self.conv2a, self.conv2b, self.conv2c, self.conv2d = streams[0][0], *streams[1:]
        self.gate = ScaleGate(middle)
        self.within = kind == "ain" and instance
        self.conv3 = conv_norm(middle, out, norm=not self.within, relu=False)
        self.downsample = conv_norm(channels, out, relu=False) if channels != out else nn.Identity()
        self.IN = nn.InstanceNorm2d(out, affine=True) if instance else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        narrow = self.conv1(maps)
        streams = self.conv2 if hasattr(self, "conv2") else (self.conv2a, self.conv2b, self.conv2c, self.conv2d)
        first, *more = (self.gate(stream(narrow)) for stream in streams)
        branch, shortcut = self.conv3(sum(more, start=first)), self.downsample(maps)
        return F.relu(self.IN(branch) + shortcut if self.within else self.IN(branch + shortcut))


class OSNet(nn.Sequential):
    """The trunk of OSNet; ``feature_info`` lists the children that return maps, as in timm.

    Maps are 1/8, 1/16 and 1/16 of the picture: the last stage has stride 1, as usual in re-ID.

    Args:
        width: Channel multiplier; 1 gives 64, 256, 384 and 512 channels.
        kind: Position of instance norms.
    """

    def __init__(self, width: float = 1, kind: Kind = "plain") -> None:
        stem, *channels = (round(width * depth) for depth in (64, 256, 384, 512))
        blocks = {"plain": ((False,) * 2,) * 3, "ibn": ((True,) * 2, *((False,) * 2,) * 2), "ain": AIN}[kind]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        layers["conv1"] = conv_norm(3, stem, 7, 2, instance=kind != "plain")
        layers["maxpool"] = nn.MaxPool2d(3, 2, 1)
        for stage, (before, out, norms) in enumerate(zip((stem, *channels), channels, blocks, strict=False), 2):
            parts: list[nn.Module] = [
                OmniScaleBlock(before if i == 0 else out, out, kind, instance=instance)
                for i, instance in enumerate(norms)
            ]
            halving = nn.Sequential(conv_norm(out, out), nn.AvgPool2d(2, 2))
            if stage < 4 and kind != "ain":
                parts.append(halving)
            layers[f"conv{stage}"] = nn.Sequential(*parts)
            if stage < 4 and kind == "ain":
                layers[f"pool{stage}"] = halving
        layers["conv5"] = conv_norm(channels[-1], channels[-1])
        super().__init__(layers)
        names = ("conv1", *(f"{'pool' if kind == 'ain' else 'conv'}{stage}" for stage in (2, 3)), "conv5")
        self.feature_info = [
            {"module": name, "num_chs": depth, "reduction": reduction}
            for name, depth, reduction in zip(names, (stem, *channels), (2, 8, 16, 16), strict=True)
        ]
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)


WIDTHS = {"x1_0": 1.0, "x0_75": 0.75, "x0_5": 0.5, "x0_25": 0.25}
NETWORKS = {
    **{f"osnet_{name}": partial(OSNet, width) for name, width in WIDTHS.items()},
    "osnet_ibn_x1_0": partial(OSNet, kind="ibn"),
    **{f"osnet_ain_{name}": partial(OSNet, width, "ain") for name, width in WIDTHS.items()},
}
