"""Layouts of convolutional networks: torchreid, fast-reid, BoT (reid-strong-baseline), AGW (ReID-Survey), LightMBN.

LightMBN is OSNet with three branches, whose maps are pooled in seven ways; it is built here for embedding, not for
training. Reference: Herzog et al. 2021, Lightweight Multi-Branch Network for Person Re-Identification. The authors'
code is under the MIT licence; BoxMOT, which publishes such files as ``lmbn_n``, ranks by all seven features.
"""

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from aelm.models.backbone import OWN, TimmBackbone
from aelm.models.ifcn import precise
from aelm.models.layouts import Facts, Given, Layout, Parts, PooledHead, through
from aelm.models.network import unit
from aelm.models.osnet import WIDTHS, OmniScaleBlock, OSNet
from aelm.models.resnet import BLOCKS, Stem, checkpoint_filter_fn
from aelm.models.weights import State
from aelm.types import HeadOutput, InputError

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


def build_lmbn(state: State, given: Given) -> Parts:
    """LightMBN on OSNet x1_0, the only variant."""
    return Parts("lmbn_n", LightMBN(), LightHead())


LMBN = Layout(
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


def fully_connected(state: State) -> list[nn.Module]:
    """torchreid's ``fc``: linear layer, batch norm, ReLU; empty if the file has none."""
    if "fc.0.weight" not in state:
        return []
    out, channels = state["fc.0.weight"].shape
    return [nn.Linear(channels, out), nn.BatchNorm1d(out), nn.ReLU()]


def build_osnet(state: State, given: Given) -> Parts:
    """OSNet; its kind and width follow from the names and shapes of its first layers."""
    kind = (
        "ain_" if "conv2.0.conv2.0.layers.0.conv1.weight" in state else "ibn_" if "conv2.0.IN.weight" in state else ""
    )
    width = state["conv1.conv.weight"].shape[0] / 64
    name = next((f"osnet_{kind}{label}" for label, factor in WIDTHS.items() if factor == width), "")
    if name not in OWN:
        raise InputError(f"there is no OSNet of kind {kind.rstrip('_') or 'plain'!r} and width {width:g}")
    return Parts(name, TimmBackbone(name, 1, pretrained=False), PooledHead(*fully_connected(state)))


def build_resnet(state: State, prefix: str, stem: Stem, last_stride: int) -> tuple[str, nn.Module, int]:
    """The ResNet stored under ``prefix``: its name, the network, and the channels of its last map.

    Args:
        state: By the file's names.
        prefix: Such as ``base.``.
        stem: Of the project's networks without IBN; those with IBN have the usual stem, except in fast-reid.
        last_stride: Stride of the last stage that the project trains with.
    """
    blocks = tuple(
        len({key.split(".")[index] for key in state if key.startswith(f"{prefix}layer{stage}.")})
        for index in [prefix.count(".") + 1]
        for stage in (1, 2, 3, 4)
    )
    deep = f"{prefix}layer1.0.conv3.weight" in state
    depth = next((depth for depth, counts in BLOCKS.items() if counts == blocks and deep == (depth >= 50)), None)
    if depth is None:
        raise InputError(f"there is no ResNet with {blocks} {'bottleneck' if deep else 'basic'} blocks")
    ibn = f"{prefix}layer1.0.bn1.IN.weight" in state
    non_local = any(key.startswith(f"{prefix}NL_") for key in state)
    options = {"ibn": ibn, "non_local": non_local, "stem": "usual" if ibn and stem == "bot" else stem}
    name = f"resnet{depth}{'_ibn_a' if ibn else ''}{' with non-local blocks' if non_local else ''}"
    backbone = TimmBackbone(f"reid_resnet{depth}", 1, last_stride=last_stride, pretrained=False, options=options)
    return name, backbone, 2048 if deep else 512


def build_torchreid_resnet(state: State, given: Given) -> Parts:
    """With ``fc``: last stride 1 and 512 features; without: last stride 2 and the pooled map."""
    neck = fully_connected(state)
    name, backbone, _ = build_resnet(state, "", "usual", 1 if neck else 2)
    return Parts(f"{name}{'_fc512' if neck else ''}", backbone, PooledHead(*neck))


def build_bot(state: State, given: Given) -> Parts:
    """BoT, or AGW with GeM and non-local blocks; features after the BNNeck, unless ``feature`` is ``before``."""
    name, backbone, channels = build_resnet(state, "base.", "bot", 1)
    power = 3.0 if "global_pool.p" in state else None
    before = given.get("feature") == "before" or "bottleneck.weight" not in state
    return Parts(name, backbone, PooledHead(*([] if before else [nn.BatchNorm1d(channels)]), power=power, stored=True))


def build_fastreid(state: State, given: Given) -> Parts:
    """BoT pools by the mean, AGW by a fixed GeM, SBS by a learned GeM; only the learned exponent is in the file."""
    name, backbone, channels = build_resnet(state, "backbone.", "fastreid", 1)
    neck: list[nn.Module] = []
    first = state.get("heads.bottleneck.0.weight")
    if first is not None and first.dim() == 4:  # a 1x1 convolution that reduces the channels
        out, channels = first.shape[0], first.shape[1]
        neck, channels = [nn.Linear(channels, out, bias=False)], out
    stored = "heads.pool_layer.p" in state
    power = 3.0 if stored or "non-local" in name else None
    if given.get("feature") != "before":
        neck.append(nn.BatchNorm1d(channels))
    return Parts(name, backbone, PooledHead(*neck, power=power, stored=stored))


OSNET = ((r"(conv[1-5]|pool[23])\.", r"backbone.network.\g<0>"), (r"fc\.", "head.neck."))
RESNET = r"(conv1|bn1|layer[1-4]|NL_[1-4])\."
FASTREID: dict[str, Any] = {
    "rename": (
        (rf"backbone\.(?={RESNET})", "backbone.network."),
        (r"heads\.bottleneck\.", "head.neck."),
        (r"heads\.bnneck\.", "head.neck.0."),
        (r"heads\.pool_layer\.p$", "head.power"),
    ),
    "build": build_fastreid,
    "convert": checkpoint_filter_fn,
}
TRUNK = r"layer4\.1\.conv2\.weight"
NECK = r"heads\.(bottleneck|bnneck)\."
ROWS: tuple[Layout, ...] = (
    Layout(
        "torchreid's OSNet",
        (r"conv1\.conv\.weight", r"conv2\.0\.conv2a\.conv1\.weight", r"conv5\.conv\.weight"),
        OSNET,
        build_osnet,
    ),
    Layout(
        "torchreid's OSNet-AIN",
        (r"conv1\.conv\.weight", r"conv2\.0\.conv2\.0\.layers\.0\.", r"conv5\.conv\.weight"),
        OSNET,
        build_osnet,
    ),
    Layout(
        "torchreid's ResNet",
        (r"conv1\.weight", TRUNK, r"classifier\.weight"),
        ((RESNET, r"backbone.network.\g<0>"), (r"fc\.", "head.neck.")),
        build_torchreid_resnet,
    ),
    Layout(
        "fast-reid's SBS",
        (rf"backbone\.{TRUNK}", NECK, r"heads\.pool_layer\.p"),
        **FASTREID,
        facts=Facts((384, 128)),
    ),
    Layout("fast-reid's BoT or AGW", (rf"backbone\.{TRUNK}", NECK), **FASTREID),
    Layout(
        "BoT or AGW",
        (rf"base\.{TRUNK}", r"(bottleneck|classifier)\.weight"),
        (
            (rf"base\.(?={RESNET})", "backbone.network."),
            (r"bottleneck\.", "head.neck.0."),
            (r"global_pool\.p$", "head.power"),
        ),
        build_bot,
        checkpoint_filter_fn,
    ),
    LMBN,
)
