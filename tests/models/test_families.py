"""Every timm family that gives maps, without tricks: sizes, layouts, norms, strides; small members, random weights."""

import itertools
import logging

import pytest
import timm
import torch

from aelm.models import IFCN, ReIDNetwork, TimmBackbone
from aelm.models.maps import map_shapes
from aelm.types import IMAGENET_MEAN, IMAGENET_STD

NARROW = {"embed_dim": 48, "depth": 4, "num_heads": 2}
DEPTHS = {"depths": (1, 1, 1, 1)}
STRIDE_1, ITS_OWN = 16, 32  # by how much the last map is smaller than the picture
# Of each family a member, what makes it smaller, and what `last_stride=auto` comes to.
FAMILIES = {
    "vit_tiny_patch16_224": (NARROW, 16),
    "vit_small_patch14_dinov2": (NARROW, 14),
    "vit_small_patch16_dinov3": (NARROW, 16),
    "eva02_tiny_patch14_224": (NARROW, 14),
    "swin_tiny_patch4_window7_224": ({"embed_dim": 24, "depths": (1, 1, 2, 2), "num_heads": (1, 2, 2, 2)}, ITS_OWN),
    "convnext_atto": (DEPTHS, ITS_OWN),
    "caformer_s18": ({}, STRIDE_1),
    "fastvit_t8": ({}, STRIDE_1),
    "mobilenetv4_conv_small": ({}, STRIDE_1),
    "efficientnet_b0": ({}, STRIDE_1),
    "resnet10t": ({}, STRIDE_1),
    "resnet18d": ({}, STRIDE_1),
    "regnetx_002": ({}, STRIDE_1),
    "hiera_tiny_224": ({"embed_dim": 24, "stages": (1, 1, 2, 1)}, ITS_OWN),
    "mambaout_femto": ({"depths": (1, 1, 2, 1)}, ITS_OWN),
}


@pytest.mark.parametrize("height", [256, 384])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_gives_two_different_maps_of_any_size(name, height):
    options, reduction = FAMILIES[name]
    backbone = TimmBackbone(name, size=(height, 128), pretrained=False, options=options).eval()
    with torch.no_grad():
        shallow, deep = backbone(torch.rand(1, 3, height, 128))
    assert [shallow.shape[1], deep.shape[1]] == backbone.channels
    assert deep.shape[2:] == (height // reduction, 128 // reduction)
    assert shallow.shape[2:] == (height // min(reduction, 16), 128 // min(reduction, 16))
    assert deep.isfinite().all()
    assert shallow.shape != deep.shape or not torch.equal(shallow, deep)
    assert (backbone.mean, backbone.std) == tuple(
        getattr(timm.get_pretrained_cfg(name), what) for what in ("mean", "std")
    )


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "vit_small_patch16_dinov3", "swin_tiny_patch4_window7_224"])
def test_the_last_map_is_what_the_whole_network_makes_of_each_patch(name):
    backbone = TimmBackbone(name, pretrained=False, options=FAMILIES[name][0]).eval()
    whole = timm.create_model(name, img_size=(256, 128), **FAMILIES[name][0]).eval()
    state = {key.removeprefix("model."): value for key, value in backbone.network.state_dict().items()}
    assert not whole.load_state_dict(state, strict=False)[0] or set(whole.state_dict()) - set(state) <= {
        key for key in whole.state_dict() if key.startswith(("head", "fc_norm"))
    }
    images = torch.rand(2, 3, 256, 128)
    with torch.no_grad():
        expected = whole.forward_features(images)
        maps = backbone(images)
    if expected.dim() == 3:  # tokens of the class and of registers come first
        expected = expected[:, whole.num_prefix_tokens :].unflatten(1, maps[1].shape[2:])
    torch.testing.assert_close(maps[1], expected.permute(0, 3, 1, 2))
    assert all(m.permute(0, 2, 3, 1).std(-1).sub(1).abs().max() < 0.1 for m in maps)  # each behind a norm


@pytest.mark.parametrize(("stages", "blocks"), [(1, [3]), (2, [1, 3]), (4, [0, 1, 2, 3])])
def test_blocks_of_a_vit_are_far_apart(stages, blocks):
    backbone = TimmBackbone("vit_tiny_patch16_224", stages, pretrained=False, options=NARROW)
    assert list(backbone.network.out_indices) == blocks
    assert len(map_shapes(backbone)) == stages


def test_pictures_are_normalised_as_the_backbone_wants_unless_told_otherwise():
    parts = {"num_ids": 2, "coam": lambda depth: torch.nn.Identity(), "aelm": IFCN}
    own = TimmBackbone("vit_tiny_patch16_224", pretrained=False, options=NARROW)
    assert ReIDNetwork(own, **parts).normalised == ((0.5,) * 3, (0.5,) * 3)
    assert ReIDNetwork(own, **parts, mean=(0.1, 0.2, 0.3)).normalised == ((0.1, 0.2, 0.3), (0.5,) * 3)
    plain = torch.nn.Conv2d(3, 4, 8, stride=8)
    assert ReIDNetwork(plain, **parts).normalised == (IMAGENET_MEAN, IMAGENET_STD)


def test_what_was_chosen_is_logged(caplog):
    with caplog.at_level(logging.DEBUG, "aelm"):
        TimmBackbone("resnet10t", pretrained=False)
        TimmBackbone("convnext_atto", pretrained=False, options=DEPTHS)
    assert "resnet10t: the stride of its last stage is set to 1" in caplog.text
    assert "convnext_atto: the stride of its last stage stays as it is (`last_stride=auto`)" in caplog.text


def test_every_parameter_of_a_vit_gets_a_gradient():
    backbone = TimmBackbone("vit_tiny_patch16_224", pretrained=False, options=NARROW)
    sum(m.square().sum() + m.sum() for m in backbone(torch.rand(2, 3, 256, 128))).backward()
    assert [key for key, p in backbone.named_parameters() if p.grad is None] == []


@pytest.mark.parametrize(
    ("name", "first", "blocks"),
    [
        ("vit_tiny_patch16_224", "network.model.patch_embed.proj.weight", "network.model.blocks.{}.mlp.fc1.weight"),
        ("convnext_atto", "network.stem_0.weight", "network.stages_{}.blocks.0.mlp.fc1.weight"),
    ],
)
def test_layers_learn_slower_the_shallower_they_lie(name, first, blocks):
    options = NARROW if "vit" in name else DEPTHS
    backbone = TimmBackbone(name, pretrained=False, layer_decay=0.5, options=options)
    names = {key for key, _ in backbone.named_parameters()}
    factors = [backbone.lr_factors[first], *(backbone.lr_factors[blocks.format(i)] for i in range(4))]
    ratios = [b / a for a, b in itertools.pairwise(factors)]
    assert ratios[-3:] == [2, 2, 2]
    assert backbone.lr_factors.keys() <= names
    assert max(backbone.lr_factors.values()) == 1
    assert TimmBackbone(name, pretrained=False, options=options).lr_factors == {}


def test_drop_path_leaves_branches_out_in_training_alone():
    backbone = TimmBackbone("vit_tiny_patch16_224", 1, drop_path=0.9, pretrained=False, options=NARROW)
    torch.manual_seed(0)
    images = torch.rand(16, 3, 256, 128)  # branches are drawn for each picture: two passes hardly ever agree
    with torch.no_grad():
        assert not torch.equal(backbone(images)[0], backbone(images)[0])
        backbone.eval()
        assert torch.equal(backbone(images)[0], backbone(images)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "swin_tiny_patch4_window7_224", "last_stride": 1},
            "no stride that could be set to 1; use",
        ),
        ({"name": "resnet10t", "layer_decay": 0.0}, r"`layer_decay` must lie in \(0, 1\], got 0"),
        ({"name": "vgg11", "drop_path": 0.1}, "drop_path_rate=0.1"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**options, pretrained=False)
