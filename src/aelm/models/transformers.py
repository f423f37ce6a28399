"""Transformers of re-ID projects, based on timm's: TransReID's and CLIP-ReID's ViT, SOLIDER's Swin."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from timm.layers import PatchEmbed, QuickGELU, to_2tuple
from timm.models import swin_transformer, vision_transformer
from timm.models.swin_transformer import PatchMerging, SwinTransformer, SwinTransformerBlock
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from aelm.models.weights import State
from aelm.types import InputError

# Normalisation of RGB / 255 that these projects train with; and a single picture size.
PREPARED = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "fixed_input_size": True}


class OverlappingPatches(PatchEmbed):  # type: ignore[misc]
    """Patches ``stride`` pixels apart; they overlap if ``stride`` is below ``patch_size``."""

    def __init__(self, *arguments: Any, stride: int = 16, **options: Any) -> None:
        self.step = to_2tuple(stride)
        super().__init__(*arguments, **options)
        self.proj.stride = self.step

    def dynamic_feat_size(self, img_size: Sequence[int]) -> tuple[int, ...]:
        return tuple((s - p) // d + 1 for s, p, d in zip(img_size, self.patch_size, self.step, strict=True))

    def _init_img_size(self, img_size: Any) -> tuple[Any, ...]:
        grid = self.dynamic_feat_size(to_2tuple(img_size))
        return to_2tuple(img_size), grid, grid[0] * grid[1]


class ReIDTransformer(VisionTransformer):  # type: ignore[misc]
    """timm's ViT with overlapping patches and side information (SIE): an embedding of the camera on the tokens.

    Args:
        img_size: Height and width of the pictures.
        stride: Pixels from one patch of 16 x 16 to the next.
        cameras: Number of cameras (times views) with an embedding; 0 for none.
        camera: Camera whose embedding is used, from 0; None for the mean of all.
        camera_weight: Factor of the embedding.
        camera_on: Tokens that it is added to: ``all``, as in TransReID, or ``class``, as in CLIP-ReID.
        scale: Factor of the attention's dot products; None for timm's default.
        options: Of timm's network.

    Reference: He et al. 2021, TransReID: Transformer-based Object Re-Identification.
    """

    def __init__(
        self,
        img_size: Sequence[int] = (256, 128),
        *,
        stride: int = 16,
        cameras: int = 0,
        camera: int | None = None,
        camera_weight: float = 3.0,
        camera_on: Literal["all", "class"] = "all",
        scale: float | None = None,
        **options: Any,
    ) -> None:
        if cameras and camera is not None and not 0 <= camera < cameras:
            raise InputError(f"`camera` must be one of 0 to {cameras - 1}, got {camera}")
        patches = partial(OverlappingPatches, stride=stride)
        super().__init__(tuple(img_size), num_classes=0, global_pool="token", embed_layer=patches, **options)
        self.sie_embed = nn.Parameter(0.02 * torch.randn(cameras, 1, self.embed_dim)) if cameras else None
        self.camera, self.camera_weight, self.camera_on = camera, camera_weight, camera_on
        self.pretrained_cfg = PREPARED
        for block in self.blocks if scale is not None else ():
            block.attn.scale, block.attn.fused_attn = scale, False

    def _pos_embed(self, x: Tensor) -> Tensor:
        tokens: Tensor = super()._pos_embed(x)  # (B, 1 + patches, C)
        if self.sie_embed is None:
            return tokens
        camera = self.sie_embed.mean(0) if self.camera is None else self.sie_embed[self.camera]  # (1, C)
        if self.camera_on == "all":
            return tokens + self.camera_weight * camera
        return torch.cat([tokens[:, :1] + self.camera_weight * camera, tokens[:, 1:]], 1)


class ModulatedMerging(PatchMerging):  # type: ignore[misc]
    """timm's patch merging between stages, followed by ``x * softplus(w) + b``.

    w and b are linear in ``semantic_weight``, which shifts features from appearance to semantics; both are frozen.
    """

    def __init__(self, dim: int, out_dim: int, semantic_weight: float) -> None:
        super().__init__(dim, out_dim)
        self.semantic_w, self.semantic_b = (nn.Linear(2, out_dim).requires_grad_(False) for _ in range(2))
        self.share = semantic_weight
        for layer in (self.semantic_w, self.semantic_b):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        w, b = (
            self.share * layer.weight[:, 0] + (1 - self.share) * layer.weight[:, 1] + layer.bias
            for layer in (self.semantic_w, self.semantic_b)
        )
        merged: Tensor = super().forward(x)
        return merged * F.softplus(w) + b


class PaddedBlock(SwinTransformerBlock):  # type: ignore[misc]
    """timm's block, which pads the map to whole windows before shifting it, as mmdetection does; timm shifts first."""

    def _attn(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]  # (B, H, W, C)
        down, right = (-side % window for side, window in zip((height, width), self.window_size, strict=True))
        attended: Tensor = super()._attn(F.pad(x, (0, 0, 0, right, 0, down)))
        return attended[:, :height, :width]


def solider_swin(img_size: Sequence[int] = (384, 128), semantic_weight: float = 0.2, **options: Any) -> SwinTransformer:
    """SOLIDER's Swin: 7 x 7 windows for every map size, and a modulation after each patch merging.

    Args:
        img_size: Height and width of the pictures.
        semantic_weight: Share of semantics, in [0, 1]; SOLIDER's authors use 0.2 for re-ID.
        options: Of timm's network.

    Reference: Chen et al. 2023, Beyond Appearance: a Semantic Controllable Self-Supervised Learning Framework for
    Human-Centric Visual Tasks.
    """
    network = SwinTransformer(tuple(img_size), num_classes=0, always_partition=True, **options)
    for stage in network.layers:
        if isinstance(stage.downsample, PatchMerging):
            stage.downsample = ModulatedMerging(stage.downsample.dim, stage.downsample.out_dim, semantic_weight)
        for block in stage.blocks:
            block.__class__ = PaddedBlock  # timm's stage has no parameter for the block class
    network.pretrained_cfg = PREPARED
    return network


def checkpoint_filter_fn(state: State, model: nn.Module) -> State:
    """Converts SOLIDER's, CLIP's and timm's tensors to the names, order and sizes of ``model``."""
    if isinstance(model, SwinTransformer):
        if not any(key.startswith("stages.") for key in state):
            converted: State = swin_transformer.checkpoint_filter_fn(state, model)
            return converted
        named = {renamed(key, SOLIDER): value for key, value in state.items() if "relative_position_index" not in key}
        merged = re.compile(r".*\.downsample\.(norm|reduction)\.")
        return {key: reordered(value) if merged.match(key) else value for key, value in named.items()}
    state = {key.replace("image_encoder.", "visual."): value for key, value in state.items()}
    converted = vision_transformer.checkpoint_filter_fn(state, model)
    return converted


# Pairs for `re.sub`, all of which are applied; in mmdetection patch merging belongs to the stage before it.
SOLIDER = (
    (r"^patch_embed\.projection", "patch_embed.proj"),
    (r"^norm3\.", "norm."),
    (r"^stages\.0\.downsample", "layers.1.downsample"),
    (r"^stages\.1\.downsample", "layers.2.downsample"),
    (r"^stages\.2\.downsample", "layers.3.downsample"),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^semantic_embed_([wb])\.0", r"layers.1.downsample.semantic_\1"),
    (r"^semantic_embed_([wb])\.1", r"layers.2.downsample.semantic_\1"),
    (r"^semantic_embed_([wb])\.2", r"layers.3.downsample.semantic_\1"),
)


def renamed(key: str, pairs: Sequence[tuple[str, str]]) -> str:
    """The key after all substitutions.

    >>> renamed("stages.1.downsample.norm.bias", SOLIDER), renamed("stages.1.blocks.0.ffn.layers.1.bias", SOLIDER)
    ('layers.2.downsample.norm.bias', 'layers.1.blocks.0.mlp.fc2.bias')
    """
    for old, new in pairs:
        key = re.sub(old, new, key)
    return key


def reordered(value: Tensor) -> Tensor:
    """Reorders weights over four merged patches from torch's unfolding order (..., C x 4) to timm's (..., 4 x C)."""
    return value.view(*value.shape[:-1], -1, 4)[..., [0, 2, 1, 3]].transpose(-1, -2).flatten(-2)


VIT = partial(ReIDTransformer, norm_layer=partial(nn.LayerNorm, eps=1e-6))
CLIP: dict[str, Any] = {"pre_norm": True, "act_layer": QuickGELU, "norm_layer": nn.LayerNorm, "camera_on": "class"}
NETWORKS = {
    "transreid_vit_base": partial(VIT, embed_dim=768, depth=12, num_heads=12),
    "transreid_vit_small": partial(
        VIT, embed_dim=768, depth=8, num_heads=8, mlp_ratio=3.0, qkv_bias=False, scale=768**-0.5
    ),
    "transreid_deit_small": partial(VIT, embed_dim=384, depth=12, num_heads=6),
    "clipreid_vit_base": partial(ReIDTransformer, embed_dim=768, depth=12, num_heads=12, camera_weight=1.0, **CLIP),
    "solider_swin_tiny": partial(solider_swin, embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "solider_swin_small": partial(solider_swin, embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "solider_swin_base": partial(solider_swin, embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
}
