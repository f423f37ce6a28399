"""Trained files of other projects: names and shapes of their tensors by hand, their values by a rule."""

import zlib

import numpy as np
import torch

BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3)}


def norm(name, channels, *, instance=False):
    """A batch norm, or an instance norm, which keeps no statistics."""
    keys = ("weight", "bias") if instance else ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{key}": (channels,) for key in keys}


def conv_norm(name, out, channels, kernel=1, *, instance=False):
    return {f"{name}.conv.weight": (out, channels, kernel, kernel)} | norm(f"{name}.bn", out, instance=instance)


def osnet(width=1.0, kind="plain"):
    """torchreid's OSNet; kind is plain, ibn or ain."""
    stem, *channels = (int(width * depth) for depth in (64, 256, 384, 512))
    shapes = conv_norm("conv1", stem, 3, 7, instance=kind != "plain")
    instance = {"plain": "00 00 00", "ibn": "11 00 00", "ain": "11 01 10"}[kind].split()
    before = stem
    for stage, (out, which) in enumerate(zip(channels, instance, strict=True), 2):
        for block, has in enumerate(which):
            at, middle = f"conv{stage}.{block}", out // 4
            shapes |= conv_norm(f"{at}.conv1", middle, before)
            for depth in range(1, 5):
                for i in range(depth):
                    plain = f"{at}.conv2a" if depth == 1 else f"{at}.conv2{'abcd'[depth - 1]}.{i}"
                    light = f"{at}.conv2.{depth - 1}.layers.{i}" if kind == "ain" else plain
                    shapes |= {f"{light}.conv1.weight": (middle, middle, 1, 1)}
                    shapes |= {f"{light}.conv2.weight": (middle, 1, 3, 3)} | norm(f"{light}.bn", middle)
            for name, (a, b) in {"fc1": (middle // 16, middle), "fc2": (middle, middle // 16)}.items():
                shapes |= {f"{at}.gate.{name}.weight": (a, b, 1, 1), f"{at}.gate.{name}.bias": (a,)}
            shapes |= {f"{at}.conv3.conv.weight": (out, middle, 1, 1)}
            if not (kind == "ain" and has == "1"):
                shapes |= norm(f"{at}.conv3.bn", out)
            if before != out:
                shapes |= conv_norm(f"{at}.downsample", out, before)
            if has == "1":
                shapes |= norm(f"{at}.IN", out, instance=True)
            before = out
        if stage < 4:
            shapes |= conv_norm(f"pool{stage}.0" if kind == "ain" else f"conv{stage}.2.0", out, out)
    shapes |= conv_norm("conv5", before, before)
    return shapes | fully_connected(before) | classifier(512)


def lmbn():
    """LightMBN, whose trunk (spelt so) and branches are pieces of OSNet."""
    whole, shapes = osnet(), {}
    pieces = {"conv1.": "backone.0.", "conv2.": "backone.2.", "conv3.0.": "backone.3."}
    for branch in ("global_branch", "partial_branch", "channel_branch"):
        pieces |= {f"{branch} conv3.{i}.": f"{branch}.0.{i}." for i in (1, 2)}
        pieces |= {f"{branch} conv{stage}.": f"{branch}.{stage - 3}." for stage in (4, 5)}
    pieces["block conv4.1."] = "batch_drop_block.drop_batch_bottleneck."
    for piece, place in pieces.items():
        old = piece.split()[-1]
        shapes |= {key.replace(old, place, 1): shape for key, shape in whole.items() if key.startswith(old)}
    for name in ("0", "1", "2", "3", "4", "ch_0", "ch_1"):
        at = f"reduction_{name}"
        shapes |= {} if "ch" in name else {f"{at}.reduction.weight": (512, 512, 1, 1)}
        shapes |= norm(f"{at}.bn", 512) | {f"{at}.classifier.weight": (11, 512)}
    return shapes | {"shared.0.weight": (512, 256, 1, 1)} | norm("shared.1", 512)


def fully_connected(channels):
    return {"fc.0.weight": (512, channels), "fc.0.bias": (512,)} | norm("fc.1", 512)


def classifier(channels, *, bias=True):
    return {"classifier.weight": (11, channels)} | ({"classifier.bias": (11,)} if bias else {})


def resnet(prefix="", depth=50, *, ibn=False, non_local=()):
    """The trunk of a ResNet as torchvision names it, with IBN-a and non-local blocks as fast-reid and AGW do."""
    shapes = {f"{prefix}conv1.weight": (64, 3, 7, 7)} | norm(f"{prefix}bn1", 64)
    before, wide = 64, 4 if depth >= 50 else 1
    for stage, count in enumerate(BLOCKS[depth], 1):
        inner = 64 * 2 ** (stage - 1)
        for block in range(count):
            at = f"{prefix}layer{stage}.{block}"
            sizes = [(inner, before, 1), (inner, inner, 3), (inner * 4, inner, 1)]
            for i, (out, channels, kernel) in enumerate(sizes if wide == 4 else [(inner, before, 3), sizes[1]], 1):
                shapes[f"{at}.conv{i}.weight"] = (out, channels, kernel, kernel)
                if ibn and i == 1 and stage < 4:
                    shapes |= norm(f"{at}.bn1.IN", out // 2, instance=True) | norm(f"{at}.bn1.BN", out // 2)
                else:
                    shapes |= norm(f"{at}.bn{i}", out)
            if block == 0 and before != inner * wide:
                shapes[f"{at}.downsample.0.weight"] = (inner * wide, before, 1, 1)
                shapes |= norm(f"{at}.downsample.1", inner * wide)
            before = inner * wide
        for i in range(non_local[stage - 1] if non_local else 0):
            at = f"{prefix}NL_{stage}.{i}"
            for name, (out, channels) in {"g": (1, before), "theta": (1, before), "phi": (1, before),
                                          "W.0": (before, 1)}.items():  # fmt: skip
                shapes |= {f"{at}.{name}.weight": (out, channels, 1, 1), f"{at}.{name}.bias": (out,)}
            shapes |= norm(f"{at}.W.1", before)
    return shapes


def fastreid(depth=50, *, neck="bottleneck.0", power=False, **options):
    channels = 2048 if depth >= 50 else 512
    shapes = resnet("backbone.", depth, **options) | {"heads.weight": (11, channels)}
    return shapes | norm(f"heads.{neck}", channels) | ({"heads.pool_layer.p": (1,)} if power else {})


def bot(depth=50, *, power=False, **options):
    channels = 2048 if depth >= 50 else 512
    shapes = resnet("base.", depth, **options) | norm("bottleneck", channels) | classifier(channels, bias=False)
    return shapes | ({"global_pool.p": (1,)} if power else {})


LAYOUTS = {
    "osnet_x1_0": osnet(),
    "osnet_x0_25": osnet(0.25),
    "osnet_ibn_x1_0": osnet(kind="ibn"),
    "osnet_ain_x1_0": osnet(kind="ain"),
    "lmbn_n": lmbn(),
    "torchreid_resnet50": resnet() | classifier(2048),
    "torchreid_resnet50_fc512": resnet() | fully_connected(2048) | classifier(512),
    "fastreid_bot": fastreid(neck="bnneck"),
    "fastreid_agw": fastreid(non_local=(0, 2, 3, 0)),
    "fastreid_sbs_ibn": fastreid(ibn=True, non_local=(0, 2, 3, 0), power=True),
    "bot": bot(),
    "bot_ibn": bot(ibn=True),
    "agw": bot(non_local=(0, 2, 3, 0), power=True),
}
# Smaller networks of the same projects, for what has to be written to disk.
SMALL = {
    "torchreid_resnet18": resnet(depth=18) | classifier(512),
    "fastreid_bot_r18": fastreid(18),
    "fastreid_sbs_r18_ibn": fastreid(18, ibn=True, power=True),
    "bot_r18": bot(18),
}


def numbers(name, count):
    """Numbers within -0.5 .. 0.5 that only name and place decide."""
    places = np.arange(count, dtype=np.uint32) * np.uint32(2654435761) + np.uint32(zlib.crc32(name.encode()))
    mixed = (places ^ (places >> np.uint32(15))) * np.uint32(2246822519)
    return (mixed ^ (mixed >> np.uint32(13))).astype(np.float64) / 2**32 - 0.5


def tensor(name, shape):
    """The value of a tensor: weights of convolutions keep the size of activations, statistics are those of no data."""
    values = numbers(name, int(np.prod(shape))).reshape(shape)
    if name.endswith(".p"):
        values = values * 0 + 2.5
    elif len(shape) > 1:
        values *= (18 / np.prod(shape[1:])) ** 0.5 * (0.2 if ".NL_" in name else 1)
    elif name.endswith("running_var") or name.endswith("weight"):
        values = (values + 1) * (0.02 if "W.1.weight" in name else 0.3 if ".bn3.weight" in name else 1)
    return torch.from_numpy((values * (0.4 if name.endswith(("bias", "mean")) else 1)).astype(np.float32))


def state(shapes):
    return {name: tensor(name, shape) for name, shape in shapes.items()}


def pictures(height, width):
    """Two pictures ``(2, 3, height, width)`` uint8, made by the same rule."""
    values = 255 * (numbers("pictures", 2 * 3 * height * width) + 0.5)
    return torch.from_numpy(values.astype(np.uint8)).view(2, 3, height, width)
