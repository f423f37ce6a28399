"""LightMBN: OSNet with three branches, whose maps are pooled in seven ways; for embedding, not for training.

Reference: Herzog et al. 2021, Lightweight Multi-Branch Network for Person Re-Identification. The authors' code is under
the MIT licence; BoxMOT, which publishes such files as ``lmbn_n``, ranks by all seven features, concatenated.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from aelm.models.ifcn import precise
from aelm.models.layouts import Facts, Layout, Parts, Told, through
from aelm.models.network import unit
from aelm.models.osnet import OmniScaleBlock, OSNet
from aelm.models.weights import State
from aelm.types import HeadOutput

WIDTH = 512  # of each map, and of each of the seven features
BRANCHES = ("global", "partial", "channel")


class LightMBN(nn.Module):
    """The network up to the maps of its branches, concatenated by channel.

    Shape: images ``(B, 3, H, W)`` -> one map ``(B, 1536, H / 16, W / 16)``.
    """

    def __init__(self) -> None:
        super().__init__()
        osnet: Any = OSNet()
        self.trunk = nn.Sequential(osnet.conv1, osnet.maxpool, osnet.conv2, osnet.conv3[0])
        branch = nn.Sequential(osnet.conv3[1:], osnet.conv4, osnet.conv5)
        self.branches = nn.ModuleList(deepcopy(branch) for _ in BRANCHES)
        self.block = OmniScaleBlock(WIDTH, WIDTH, "plain", instance=False)  # behind the global branch

    def forward(self, images: Tensor) -> list[Tensor]:
        maps = self.trunk(images)
        whole, *others = (branch(maps) for branch in self.branches)
        return [torch.cat([self.block(whole), *others], 1)]


class LightHead(nn.Module):
    """Pools the three maps in seven ways; each feature has a batch norm, most with a linear layer before it.

    The features are: mean and maximum of the global branch; maximum, mean of the upper half and mean of the lower half
    of the partial branch; and the means of the channel branch's two halves of channels, which share a layer.

    Shape: features ``(B, 1536, H, W)`` -> :class:`aelm.types.HeadOutput` with an embedding ``(B, 3584)``, no logits.
    """

    def __init__(self) -> None:
        super().__init__()
        reduction = nn.Sequential(nn.Linear(WIDTH, WIDTH, bias=False), nn.BatchNorm1d(WIDTH))
        self.necks = nn.ModuleList(deepcopy(reduction) for _ in range(5))
        self.shared = nn.Sequential(nn.Linear(WIDTH // 2, WIDTH, bias=False), nn.BatchNorm1d(WIDTH), nn.ReLU())
        self.channel_necks = nn.ModuleList(nn.BatchNorm1d(WIDTH) for _ in range(2))

    def forward(self, features: Tensor, pids: Tensor | None = None, *, explain: bool = False) -> HeadOutput:
        with precise(features.device):
            maps = features.float()
            whole, part, channel = maps.chunk(3, 1)
            middle = part.shape[2] / 2  # the middle row of an odd number belongs to both halves
            halves = part[:, :, : int(middle + 0.5)], part[:, :, int(middle) :]
            means = [each.mean((2, 3)) for each in (whole, *halves, channel)]
            pooled = [means[0], whole.amax((2, 3)), part.amax((2, 3)), *means[1:3], *means[3].chunk(2, 1)]
            embedding = torch.stack([neck(p) for neck, p in zip(self.chains(), pooled, strict=True)], 2).flatten(1)
            heatmap = torch.einsum("behw,be->bhw", self.embedding_maps(maps), unit(embedding)) if explain else None
        return HeadOutput(torch.cat(pooled, 1), embedding, embedding[:, :0], heatmap)

    def chains(self) -> list[nn.Sequential]:
        """The layers of each feature, in order."""
        reductions = [nn.Sequential(*self.necks[i].children()) for i in (0, 4, 1, 2, 3)]
        return reductions + [nn.Sequential(*self.shared, neck) for neck in self.channel_necks]

    def embedding_maps(self, features: Tensor) -> Tensor:
        """Maps ``(B, 3584, H, W)`` whose spatial mean is the embedding; a maximum is placed at its position."""
        whole, part, channel = features.float().chunk(3, 1)
        height = part.shape[2]
        rows = torch.arange(height, device=part.device)[:, None]
        upper, lower = rows < (height + 1) // 2, rows >= height // 2
        pooled = [whole, peaks(whole), peaks(part), *(part * (half * height / half.sum()) for half in (upper, lower))]
        parts = [through(neck, maps) for neck, maps in zip(self.chains(), [*pooled, *channel.chunk(2, 1)], strict=True)]
        return torch.stack(parts, 2).flatten(1, 2)


def peaks(maps: Tensor) -> Tensor:
    """Maps ``(B, C, H, W)`` that are 0 except at the first maximum of ``maps``, with that maximum as their mean."""
    flat = maps.flatten(2)
    places = flat.argmax(2, keepdim=True)
    return torch.zeros_like(flat).scatter(2, places, flat.gather(2, places) * flat.shape[2]).view_as(maps)


def build_lmbn(state: State, told: Told) -> Parts:
    """LightMBN on OSNet x1_0, the only variant."""
    return Parts("lmbn_n", LightMBN(), LightHead())


ROW = Layout(
    "LightMBN",
    (r"backb?one\.0\.conv\.weight", r"channel_branch\.", r"reduction_ch_0\.bn\.weight"),
    (
        (r"backb?one\.", "backbone.trunk."),
        *((rf"{name}_branch\.", f"backbone.branches.{i}.") for i, name in enumerate(BRANCHES)),
        (r"batch_drop_block\.drop_batch_bottleneck\.", "backbone.block."),
        (r"reduction_(\d)\.reduction\.", r"head.necks.\1.0."),
        (r"reduction_(\d)\.bn\.", r"head.necks.\1.1."),
        (r"reduction_ch_(\d)\.bn\.", r"head.channel_necks.\1."),
        (r"shared\.", "head.shared."),
    ),
    build_lmbn,
    facts=Facts((384, 128)),
    unused=r"reduction_(ch_)?\d\.classifier\.",
)
