"""timm's ResNets with the changes of re-ID projects: IBN-a, non-local blocks, and the stems of BoT and fast-reid."""

import re
from functools import partial
from typing import Literal

import torch
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

# BoT's and AGW's ResNets (without IBN) have no ReLU after the first norm; fast-reid's pool without padding.
Stem = Literal["usual", "bot", "fastreid"]
BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
NON_LOCAL = {50: (0, 2, 3, 0), 101: (0, 2, 9, 0)}  # number of blocks at the end of each stage that are followed by one


class IBN(nn.Module):
    """Instance norm on the first half of the channels, batch norm on the rest.

    Reference: Pan et al. 2018, Two at Once: Enhancing Learning and Generalization Capacities via IBN-Net.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = channels // 2
        self.IN = nn.InstanceNorm2d(self.first, affine=True)
        self.BN = nn.BatchNorm2d(channels - self.first)

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([self.IN(maps[:, : self.first]), self.BN(maps[:, self.first :])], 1)


class NonLocal(nn.Module):
    """Adds to each position the features of similar positions; similarities are divided by the number of positions.

    Re-ID projects, and so their files, reduce to one channel (``reduc_ratio // reduc_ratio`` in their code).

    Reference: Wang et al. 2018, Non-local Neural Networks; Ye et al. 2021 (AGW).
    """

    def __init__(self, channels: int, inner: int = 1) -> None:
        super().__init__()
        self.g, self.theta, self.phi = (nn.Conv2d(channels, inner, 1) for _ in range(3))
        norm = nn.BatchNorm2d(channels)
        self.W = nn.Sequential(nn.Conv2d(inner, channels, 1), norm)
        nn.init.zeros_(norm.weight)

    def forward(self, maps: Tensor) -> Tensor:
        value, query, key = (part(maps).flatten(2) for part in (self.g, self.theta, self.phi))  # (B, c, P)
        pairs = query.transpose(1, 2) @ key / query.shape[2]  # (B, P, P)
        gathered = (pairs @ value.transpose(1, 2)).transpose(1, 2).unflatten(2, maps.shape[2:])
        added: Tensor = self.W(gathered)
        return maps + added


def reid_resnet(depth: int, *, ibn: bool = False, non_local: bool = False, stem: Stem = "usual") -> ResNet:
    """timm's ResNet with the changes of re-ID projects.

    Args:
        depth: 18, 34, 50, 101 or 152.
        ibn: Whether the first norm of each block of the first three stages is an :class:`IBN` (IBN-a).
        non_local: Whether non-local blocks follow the last blocks of the second and third stage; 50 and 101 only.
        stem: ``usual``; ``bot``: no ReLU; ``fastreid``: pooling without padding.

    Raises:
        KeyError: If there is no such network.
    """
    network = ResNet(Bottleneck if depth >= 50 else BasicBlock, BLOCKS[depth], num_classes=0)
    if stem == "bot":
        network.act1 = nn.Identity()
    elif stem == "fastreid":
        network.maxpool = nn.MaxPool2d(3, 2, ceil_mode=True)
    stages = [network.layer1, network.layer2, network.layer3, network.layer4]
    for block in (block for stage in stages[:3] for block in stage if ibn):
        block.bn1 = IBN(block.bn1.num_features)
    for stage, count in zip(stages, NON_LOCAL[depth] if non_local else (), strict=False):
        for block in list(stage)[len(stage) - count :]:
            block.act3 = nn.Sequential(block.act3, NonLocal(block.bn3.num_features))
    return network


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Renames tensors as in :func:`reid_resnet`: files number non-local blocks separately, ``NL_2.0``."""
    blocks = {(found[1], int(found[2])) for key in state if (found := re.match(r"layer(\d)\.(\d+)\.", key))}
    others = {(found[1], int(found[2])) for key in state if (found := re.match(r"NL_(\d)\.(\d+)\.", key))}

    def place(found: re.Match[str]) -> str:
        first = sum(s == found[1] for s, _ in blocks) - sum(s == found[1] for s, _ in others)
        return f"layer{found[1]}.{first + int(found[2])}.act3.1."

    return {re.sub(r"^NL_(\d)\.(\d+)\.", place, key): value for key, value in state.items()}


NETWORKS = {
    **{f"reid_resnet{depth}": partial(reid_resnet, depth) for depth in BLOCKS},
    **{f"resnet{depth}_ibn_a": partial(reid_resnet, depth, ibn=True) for depth in BLOCKS},
}
