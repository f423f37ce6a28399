"""Layouts of transformers: TransReID, CLIP-ReID, SOLIDER; and heads on class tokens, without pooling."""

import logging
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from timm.layers import AttentionPool2d
from torch import Tensor, nn

from aelm.models.backbone import TimmBackbone
from aelm.models.ifcn import precise
from aelm.models.layouts import Facts, Given, Layout, Parts, PooledHead
from aelm.models.transformers import NETWORKS, ReIDTransformer, checkpoint_filter_fn, renamed
from aelm.models.weights import State
from aelm.types import HeadOutput, InputError

log = logging.getLogger(__name__)

HALF = (0.5, 0.5, 0.5)


class Tokens(nn.Module):
    """All tokens of a ViT as a map with one column; the class token is its first row.

    Args:
        network: The ViT.
        whole: Whether to return the tokens after the last block and norm, or before them.

    Shape: images ``(B, 3, H, W)`` -> one map ``(B, C, 1 + patches, 1)``.
    """

    def __init__(self, network: ReIDTransformer, *, whole: bool = True) -> None:
        super().__init__()
        self.network = network
        self.size: tuple[int, int] = network.patch_embed.img_size
        self.whole = whole

    def forward(self, images: Tensor) -> list[Tensor]:
        network = self.network
        tokens: Tensor = network.norm_pre(network._pos_embed(network.patch_embed(images)))  # (B, 1 + patches, C)
        for block in network.blocks if self.whole else network.blocks[:-1]:
            tokens = block(tokens)
        return [(network.norm(tokens) if self.whole else tokens).transpose(1, 2).unsqueeze(3)]


class JoinedHead(nn.Module, ABC):
    """Concatenated features, before or after a batch norm on each.

    Args:
        sizes: Dimension of each feature.
        behind: Whether to apply the batch norms.
        weights: Factor of each feature, applied last.
    """

    def __init__(self, sizes: Sequence[int], *, behind: bool, weights: Sequence[float] = (1.0, 1.0)) -> None:
        super().__init__()
        self.necks = nn.ModuleList(nn.BatchNorm1d(size) for size in sizes)
        self.behind = behind
        self.weights = weights

    def forward(self, features: Tensor, pids: Tensor | None = None, *, explain: bool = False) -> HeadOutput:
        with precise(features.device):
            parts = self.parts(features.float())
            necked = [neck(part) for neck, part in zip(self.necks, parts, strict=True)] if self.behind else parts
            pooled, embedding = (
                torch.cat([weight * part for weight, part in zip(self.weights, some, strict=False)], 1)
                for some in (parts, necked)
            )
        return HeadOutput(pooled, embedding, embedding[:, :0], None)

    @abstractmethod
    def parts(self, features: Tensor) -> list[Tensor]:
        """The features ``(B, D_i)`` of a map ``(B, C, H, W)``."""


class ClassToken(JoinedHead):
    """The class token, and CLIP's projection of it if there is one."""

    def __init__(self, dim: int, projected: int = 0, *, behind: bool) -> None:
        super().__init__([dim, projected] if projected else [dim], behind=behind)
        self.proj = nn.Parameter(torch.zeros(dim, projected)) if projected else None

    def parts(self, features: Tensor) -> list[Tensor]:
        token = features[:, :, 0, 0]
        return [token] if self.proj is None else [token, token @ self.proj]


class Jigsaw(JoinedHead):
    """TransReID's JPM: the class token of all patches, and those of four groups of shuffled patches, weighted 1/4.

    Args:
        options: Of the network; this module holds two copies of its last block.
        behind: As in :class:`JoinedHead`.
    """

    def __init__(self, options: Mapping[str, Any], *, behind: bool) -> None:
        dim = options["embed_dim"]
        super().__init__([dim] * 5, behind=behind, weights=(1.0, *[0.25] * 4))
        shapes = ReIDTransformer(**{**options, "depth": 2})
        self.b1, self.b2 = (nn.Sequential(block, nn.LayerNorm(dim, eps=1e-6)) for block in shapes.blocks)

    def parts(self, features: Tensor) -> list[Tensor]:
        tokens = features.squeeze(3).transpose(1, 2)  # (B, 1 + patches, C)
        first, patches = tokens[:, :1], torch.cat([tokens[:, 5:], tokens[:, 1:5]], 1)
        groups = torch.split(shuffled(patches), (tokens.shape[1] - 1) // 4, 1)[:4]
        whole: Tensor = self.b1(tokens)[:, 0]
        return [whole, *(self.b2(torch.cat([first, group], 1))[:, 0] for group in groups)]


def shuffled(patches: Tensor) -> Tensor:
    """The patches ``(B, P, C)`` of both halves, alternating.

    >>> shuffled(torch.arange(6).view(1, 6, 1)).flatten().tolist()
    [0, 3, 1, 4, 2, 5]
    """
    if patches.shape[1] % 2:
        patches = torch.cat([patches, patches[:, -2:-1]], 1)
    return patches.reshape(patches.shape[0], 2, -1, patches.shape[2]).transpose(1, 2).flatten(1, 2)


class ClipPool(JoinedHead):
    """CLIP-ReID's ResNet: the mean of the map, and CLIP's attention pooling of it."""

    def __init__(self, channels: int, projected: int, size: tuple[int, int], *, behind: bool) -> None:
        super().__init__([channels, projected], behind=behind)
        self.attnpool = AttentionPool2d(channels, size, projected, head_dim=64, qkv_separate=True)

    def parts(self, features: Tensor) -> list[Tensor]:
        return [features.mean((2, 3)), self.attnpool(features)]


def given_size(given: Given, usual: Sequence[int] = (256, 128)) -> tuple[int, int]:
    """Height and width of the pictures."""
    height, width = map(int, given.get("img_size", usual))
    return height, width


def numeric_keys(given: Given, **kinds: type[int] | type[float]) -> dict[str, Any]:
    """The facts with the given keys, converted to these number types.

    Raises:
        ValueError: If one is not a number.
    """
    try:
        return {key: kind(given[key]) for key, kind in kinds.items() if given.get(key) is not None}
    except (TypeError, ValueError) as error:
        raise InputError(f"{' and '.join(f'`{key}`' for key in kinds)} beside it must be numbers: {error}") from error


def stride_of(patches: int, size: tuple[int, int], patch: int = 16) -> int:
    """Stride in pixels at which a picture has this number of patches.

    Raises:
        ValueError: If there is no such stride.
    """
    for stride in range(patch, 1, -1):
        if ((size[0] - patch) // stride + 1) * ((size[1] - patch) // stride + 1) == patches:
            return stride
    raise InputError(
        f"its table of positions has {patches}, which do not fit pictures of {size[0]} x {size[1]}: give their "
        "`size`, such as size=[384,128]"
    )


def build_vit(
    state: State, given: Given, positions: str, block: str, camera: str, projection: str = ""
) -> tuple[dict[str, Any], int]:
    """The options of :class:`ReIDTransformer` and the size of the projection, from a ViT's file.

    Args:
        state: By the file's names.
        given: Facts given beside the file.
        positions: Key of the position embeddings.
        block: Pattern of a block's keys, with its number.
        camera: Key of the camera embeddings.
        projection: Key of CLIP's projection.
    """
    table, size = state[positions], given_size(given)
    cameras = len(state[camera]) if camera in state else 0
    options = {
        "img_size": size,
        "stride": stride_of(table.shape[-2] - 1, size),
        "embed_dim": table.shape[-1],
        "depth": 1 + max(int(found[1]) for key in state if (found := re.match(block, key))),
        "cameras": cameras,
        **numeric_keys(given, camera=int, camera_weight=float),
    }
    if cameras and "camera" not in options:
        log.warning(
            "the file has embeddings of %d cameras, and which one took the pictures is not told: the mean of all is "
            "used. `camera=` (0 to %d), or a sidecar, says it", cameras, cameras - 1,
        )  # fmt: skip
    return options, state[projection].shape[1] if projection else 0


def build_transreid(state: State, given: Given) -> Parts:
    """TransReID with or without JPM; features before the batch norm, unless ``feature`` is ``after``."""
    options, _ = build_vit(state, given, "base.pos_embed", r"base\.blocks\.(\d+)\.", "base.sie_embed")
    names = [name for name in NETWORKS if name.startswith("transreid_")]
    name = next((n for n in names if all(NETWORKS[n].keywords[k] == options[k] for k in ("embed_dim", "depth"))), None)
    if name is None:
        raise InputError(f"there is no network of width {options['embed_dim']} and {options['depth']} blocks")
    behind, jpm = given.get("feature") == "after", "b1.0.norm1.weight" in state
    known = {**NETWORKS[name].keywords, **options}
    words = f"{name}, stride {options['stride']}{', SIE' if options['cameras'] else ''}{', JPM' if jpm else ''}"
    head = Jigsaw(known, behind=behind) if jpm else ClassToken(options["embed_dim"], behind=behind)
    return Parts(words, Tokens(ReIDTransformer(**known), whole=not jpm), head)


def build_clipreid(state: State, given: Given) -> Parts:
    """CLIP-ReID's ViT-B/16; features before the batch norms, unless ``feature`` is ``after``."""
    keys = [f"image_encoder.{key}" for key in ("positional_embedding", r"transformer\.resblocks\.(\d+)\.", "proj")]
    options, projected = build_vit(state, given, keys[0], keys[1], "cv_embed", keys[2])
    width, known = options["embed_dim"], NETWORKS["clipreid_vit_base"].keywords
    network = ReIDTransformer(**{**known, **options, "num_heads": width // 64})
    words = f"clipreid_vit_base, stride {options['stride']}{', SIE' if options['cameras'] else ''}"
    return Parts(words, Tokens(network), ClassToken(width, projected, behind=given.get("feature") == "after"))


def build_clipreid_resnet(state: State, given: Given) -> Parts:
    """CLIP-ReID's RN50, with last stride 1."""
    size = given_size(given)
    projected, channels = state["image_encoder.attnpool.c_proj.weight"].shape
    backbone = TimmBackbone("resnet50_clip", 1, last_stride=1, size=size, pretrained=False)
    head = ClipPool(channels, projected, (size[0] // 16, size[1] // 16), behind=given.get("feature") == "after")
    return Parts("resnet50_clip", backbone, head)


def build_solider(state: State, given: Given) -> Parts:
    """SOLIDER's Swin; the feature is the mean of the map, after the batch norm only if ``feature`` is ``after``."""
    keys = [key.split(".") for key in state if key.startswith("base.stages.")]
    depths = tuple(len({key[4] for key in keys if key[2:4] == [stage, "blocks"]}) for stage in "0123")
    width = len(state["base.patch_embed.projection.weight"])
    wanted = {"depths": depths, "embed_dim": width}
    name = next((name for name, made in NETWORKS.items() if wanted.items() <= made.keywords.items()), None)
    if name is None:
        raise InputError(f"there is no Swin of width {width} and {depths} blocks")
    options = numeric_keys(given, semantic_weight=float)
    backbone = TimmBackbone(name, 1, size=given_size(given, (384, 128)), pretrained=False, options=options)
    reduced = state.get("fcneck.weight")
    neck: list[nn.Module] = [nn.Identity()]
    if reduced is not None:
        neck = [nn.Linear(reduced.shape[1], reduced.shape[0], bias=False)]
    if given.get("feature") == "after":
        neck.append(nn.BatchNorm1d(8 * width if reduced is None else reduced.shape[0]))
    return Parts(name, backbone, PooledHead(*neck))


def solider_names(state: State, network: nn.Module) -> State:
    """SOLIDER's tensors under the names of timm's network."""
    inner: Any = network.model
    return {f"model.{key}": value for key, value in checkpoint_filter_fn(state, inner).items()}


# Pairs for `re.sub`, all of which are applied, from CLIP's names to timm's.
CLIP_BLOCKS = (
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^conv1\.", "patch_embed.proj."),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
)
CLIP_STAGES = (
    (r"^(conv|bn)(\d)\.", r"stem_conv\2.\1."),
    (r"^layer1\.", "stages_0."),
    (r"^layer2\.", "stages_1."),
    (r"^layer3\.", "stages_2."),
    (r"^layer4\.", "stages_3."),
    (r"\.downsample\.0\.", ".shortcut.conv.conv."),
    (r"\.downsample\.1\.", ".shortcut.conv.bn."),
    (r"^(stages_\d\.\d+)\.(conv|bn)([13])\.", r"\1.conv\3_1x1.\2."),
    (r"^(stages_\d\.\d+)\.(conv|bn)2\.", r"\1.conv2_kxk.\2."),
)


def clip_names(state: State, network: nn.Module) -> State:
    """CLIP's tensors under the names of timm's networks."""
    pairs = CLIP_STAGES if "layer1.0.conv1.weight" in state else CLIP_BLOCKS
    return {renamed(key, pairs): value for key, value in state.items()}


NO_PART = r"classifier|prompt_learner|text_encoder|base\.(fc|norm[0-2]|semantic_embed_[wb]\.3)\.|head\.neck\.1\."
NECKS = ((r"bottleneck\.", "head.necks.0."), (r"bottleneck_proj\.", "head.necks.1."))
FACTS = Facts((256, 128), HALF, HALF)
ROWS: tuple[Layout, ...] = (
    Layout(
        "TransReID",
        (r"base\.cls_token", r"base\.pos_embed", r"base\.blocks\.0\.attn\.qkv\.weight"),
        (
            (r"base\.(?!fc\.)", "backbone.network."),
            (r"(b[12]\.)", r"head.\1"),
            (r"bottleneck\.", "head.necks.0."),
            (r"bottleneck_(\d)\.", r"head.necks.\1."),
        ),
        build_transreid,
        facts=FACTS,
        unused=NO_PART,
    ),
    Layout(
        "CLIP-ReID's ViT",
        (r"image_encoder\.class_embedding", r"image_encoder\.transformer\.resblocks\.0\.", r"bottleneck_proj\."),
        (
            (r"image_encoder\.proj$", "head.proj"),
            (r"image_encoder\.", "backbone.network."),
            (r"cv_embed$", "backbone.network.sie_embed"),
            *NECKS,
        ),
        build_clipreid,
        clip_names,
        FACTS,
        NO_PART,
    ),
    Layout(
        "CLIP-ReID's ResNet",
        (r"image_encoder\.attnpool\.", r"image_encoder\.layer4\.", r"bottleneck_proj\."),
        (
            (r"image_encoder\.attnpool\.positional_embedding", "head.attnpool.pos_embed"),
            (r"image_encoder\.attnpool\.([qkv])_proj\.", r"head.attnpool.\1."),
            (r"image_encoder\.attnpool\.c_proj\.", "head.attnpool.proj."),
            (r"image_encoder\.", "backbone.network."),
            *NECKS,
        ),
        build_clipreid_resnet,
        clip_names,
        FACTS,
        NO_PART,
    ),
    Layout(
        "SOLIDER",
        (r"base\.patch_embed\.projection\.", r"base\.stages\.0\.blocks\.0\.attn\.w_msa\.", r"base\.semantic_embed_w\."),
        (
            (r"base\.(?!fc\.|norm[0-2]\.|semantic_embed_[wb]\.3\.)", "backbone.network."),
            (r"fcneck\.", "head.neck.0."),
            (r"bottleneck\.", "head.neck.1."),
        ),
        build_solider,
        solider_names,
        Facts((384, 128), HALF, HALF),
        NO_PART,
    ),
)
