"""Trained files of transformers: names and shapes of tensors by hand; `other_files` has the rule of their values."""

from tests.models.other_files import classifier, norm, resnet


def layer(name, out, channels, *, bias=True):
    """A linear layer, or with ``channels`` as a tuple a convolution."""
    return {f"{name}.weight": (out, *((channels,) if isinstance(channels, int) else channels))} | (
        {f"{name}.bias": (out,)} if bias else {}
    )


def layer_norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def block(at, width, inner, *, bias=True, names=("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")):
    """A block of a transformer under the names that a project gives its parts."""
    norm1, qkv, proj, norm2, fc1, fc2 = (f"{at}.{name}" for name in names)
    shapes = layer_norm(norm1, width) | layer(qkv, 3 * width, width, bias=bias) | layer(proj, width, width)
    return shapes | layer_norm(norm2, width) | layer(fc1, inner, width) | layer(fc2, width, inner)


def transreid(width, depth, mlp, patches, *, cameras=0, jigsaw=False, bias=True):
    """TransReID's ViT for so many patches, with SIE and JPM where asked for."""
    shapes = {"base.cls_token": (1, 1, width), "base.pos_embed": (1, 1 + patches, width)}
    shapes |= {"base.sie_embed": (cameras, 1, width)} if cameras else {}
    shapes |= layer("base.patch_embed.proj", width, (3, 16, 16)) | layer_norm("base.norm", width)
    for i in range(depth):
        shapes |= block(f"base.blocks.{i}", width, int(mlp * width), bias=bias)
    for name in ("b1", "b2") if jigsaw else ():
        shapes |= block(f"{name}.0", width, int(mlp * width), bias=bias) | layer_norm(f"{name}.1", width)
    shapes |= layer("base.fc", 1000, width)
    for end in ("", *(f"_{i}" for i in range(1, 5) if jigsaw)):
        shapes |= norm(f"bottleneck{end}", width) | {f"classifier{end}.weight": (11, width)}
    return shapes


CLIP_NAMES = ("ln_1", "attn.in_proj", "attn.out_proj", "ln_2", "mlp.c_fc", "mlp.c_proj")


def clipreid(width, depth, projected, patches, cameras=0):
    """CLIP-ReID's ViT, with some of its text encoder, and a camera's embedding on the class token where asked for."""
    at = "image_encoder"
    shapes = {f"{at}.class_embedding": (width,), f"{at}.positional_embedding": (1 + patches, width)}
    shapes |= {f"{at}.proj": (width, projected), f"{at}.conv1.weight": (width, 3, 16, 16)}
    shapes |= layer_norm(f"{at}.ln_pre", width) | layer_norm(f"{at}.ln_post", width)
    for i in range(depth):
        one = block(f"{at}.transformer.resblocks.{i}", width, 4 * width, names=CLIP_NAMES)
        shapes |= {key.replace("in_proj.", "in_proj_"): shape for key, shape in one.items()}
    shapes |= {"cv_embed": (cameras, width)} if cameras else {}
    return shapes | clip_ends(width, projected)


def clip_ends(width, projected):
    shapes = {"prompt_learner.cls_ctx": (11, 4, 8), "text_encoder.text_projection": (8, projected)}
    shapes |= norm("bottleneck", width) | norm("bottleneck_proj", projected)
    return shapes | classifier(width, bias=False) | {"classifier_proj.weight": (11, projected)}


def clipreid_resnet(positions):
    """CLIP-ReID's RN50: three convolutions first, and attention over so many positions last."""
    trunk = resnet("image_encoder.")
    shapes = {
        key: shape for key, shape in trunk.items() if not key.startswith(("image_encoder.conv1", "image_encoder.bn1"))
    }
    for i, (out, channels) in enumerate(((32, 3), (32, 32), (64, 32)), 1):
        shapes |= {f"image_encoder.conv{i}.weight": (out, channels, 3, 3)} | norm(f"image_encoder.bn{i}", out)
    pool = "image_encoder.attnpool"
    shapes[f"{pool}.positional_embedding"] = (1 + positions, 2048)
    for name in "kqv":
        shapes |= layer(f"{pool}.{name}_proj", 2048, 2048)
    return shapes | layer(f"{pool}.c_proj", 1024, 2048) | clip_ends(2048, 1024)


SWIN_NAMES = ("norm1", "attn.w_msa.qkv", "attn.w_msa.proj", "norm2", "ffn.layers.0.0", "ffn.layers.1")


def solider(width=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24)):
    """SOLIDER's Swin."""
    shapes = layer("base.patch_embed.projection", width, (3, 4, 4)) | layer_norm("base.patch_embed.norm", width)
    for i, (depth, count) in enumerate(zip(depths, heads, strict=True)):
        at, channels = f"base.stages.{i}", width * 2**i
        for j in range(depth):
            shapes |= block(f"{at}.blocks.{j}", channels, 4 * channels, names=SWIN_NAMES)
            shapes[f"{at}.blocks.{j}.attn.w_msa.relative_position_bias_table"] = (169, count)
        if i < 3:
            merging = f"{at}.downsample"
            shapes |= layer_norm(f"{merging}.norm", 4 * channels)
            shapes |= layer(f"{merging}.reduction", 2 * channels, 4 * channels, bias=False)
        shapes |= layer_norm(f"base.norm{i}", channels)
        for name in "wb":
            shapes |= layer(f"base.semantic_embed_{name}.{i}", width * 2 ** min(i + 1, 3), 2)
    return shapes | norm("bottleneck", 8 * width) | classifier(8 * width, bias=False)


# For pictures of 64 x 32: 4 x 2 patches, or 5 x 2 where they are 12 pixels apart.
TRANSFORMERS = {
    "transreid_deit_small": transreid(384, 12, 4, 10, cameras=6),
    "transreid_vit_small_jpm": transreid(768, 8, 3, 8, jigsaw=True, bias=False),
    "clipreid_vit": clipreid(128, 2, 64, 10, cameras=6),
    "clipreid_resnet50": clipreid_resnet(8),
    "solider_swin_tiny": solider(),
}
