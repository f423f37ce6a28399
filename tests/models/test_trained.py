"""Trained files of other projects: what the originals make of them, and files that are not as they should be."""

import json
import logging
import pickle
import sys
import types
from functools import partial

import pytest
import torch
from torch import nn

from aelm.models import AELM, IFCN, CoAM, ReIDNetwork, TimmBackbone, TwoHeads
from aelm.models.similarity import similarity_maps
from aelm.models.trained import load_neck, load_trained
from aelm.models.weights import load_weights, read_data
from tests.models.other_files import LAYOUTS, SMALL, osnet, pictures, state
from tests.models.other_transformers import TRANSFORMERS

# The first numbers, of unit length, that each project's own code gives for the second of two pictures of 64 x 32, with
# values by the rule of `other_files`. Made with torchreid (deep-person-reid), LightMBN, fast-reid, reid-strong-baseline
# and ReID-Survey as they stood in 2026.
FEATURES = {
    "osnet_x1_0": [0.0145252, 0.0, 0.0362028, 0.0186702, 0.0, 0.0, 0.0160486, 0.0],
    "osnet_x0_25": [0.0665316, 0.0153204, 0.0120974, 0.0, 0.0, 0.0, 0.0, 0.0376613],
    "osnet_ibn_x1_0": [0.0510529, 0.0001801, 0.0144578, 0.0160363, 0.0, 0.0, 0.0, 0.0001005],
    "osnet_ain_x1_0": [0.0307927, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0133392, 0.0],
    "lmbn_n": [0.0017964, -0.0450992, -0.0161935, -0.0068829, -0.0028012, 2.96e-05, 1.87e-05, 0.0332436],
    "torchreid_resnet50": [0.0, 0.0203035, 0.0, 0.0135398, 0.0280978, 0.0008408, 0.004609, 0.0181894],
    "torchreid_resnet50_fc512": [0.0, 0.0, 0.0, 0.0220074, 0.0, 0.002009, 0.0, 0.0314233],
    "torchreid_resnet18": [0.0030539, 0.0542119, 0.0133335, 0.0048945, 0.0184644, 0.0901052, 0.0037566, 0.0205284],
    "fastreid_bot": [0.0043199, 0.0063391, 0.0001533, 0.0027459, 0.0103775, 0.0075243, 0.0006665, 0.0077426],
    "fastreid_agw": [0.0119178, 0.0164583, -0.0012505, 0.0043802, 0.0143141, 0.0109961, 0.0011779, 0.0031236],
    "fastreid_sbs_ibn": [0.0134302, 0.0191783, -0.0021086, 0.0033013, 0.0167799, 0.0127845, 0.0020897, 0.0036065],
    "fastreid_bot_r18": [0.0219957, 0.0239082, 0.0967773, 0.0384452, 0.0202888, 0.0456482, 0.0662612, 0.0259567],
    "fastreid_sbs_r18_ibn": [0.0235636, 0.0303348, 0.0614115, 0.0292824, 0.0167469, 0.0962258, 0.0831397, 0.0278023],
    "bot": [0.0021649, 0.001921, 0.0012349, 0.0367925, 0.0011045, 0.0073104, 0.01554, 0.0146372],
    "bot_ibn": [0.0045361, 0.0017827, 0.0003972, 0.0456903, 0.0009705, 0.0074681, 0.0121297, 0.0139618],
    "bot_r18": [0.0339939, 0.1325729, 0.0011538, 0.0109416, 0.0058172, 0.0124777, -0.0001498, 0.0507037],
    "agw": [0.0037979, 0.0037565, 0.0020921, 0.0378411, 0.0020042, 0.0071701, 0.0187036, 0.0151054],
}  # fmt: skip
SIZE = (64, 32)


@pytest.fixture(scope="module")
def small():
    return state(osnet(0.25))


@pytest.mark.parametrize("layout", FEATURES)
def test_features_are_those_of_the_original(layout):
    network = load_trained("w.pth", state((LAYOUTS | SMALL)[layout]), SIZE).network
    images = pictures(*SIZE)
    embedding = network.embed(images)
    assert embedding[1, :8].tolist() == pytest.approx(FEATURES[layout], rel=1e-4, abs=1e-6)
    maps = similarity_maps(network, images[:1], images[1:])
    assert float(maps.score[0]) == pytest.approx(float(embedding[0] @ embedding[1]), abs=1e-5)
    for side in (maps.on_a, maps.on_b):
        assert float(side[0][0].sum()) == pytest.approx(float(maps.score[0]), abs=1e-5)


def test_the_layout_says_how_pictures_are_prepared(small, caplog):
    shapes = SMALL["fastreid_sbs_r18_ibn"]
    with caplog.at_level(logging.INFO):
        sbs = load_trained("sbs.pth", {"model": state(shapes)}).facts
        inside = {"pixel_mean": torch.tensor([127.5] * 3).view(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1) * 51}
        own = load_trained("sbs.pth", {"model": state(shapes) | inside}).facts
        plain = load_trained("o.pth", small).facts
    assert sbs.size == (384, 128)
    assert own.mean == pytest.approx((0.5,) * 3)
    assert own.std == pytest.approx((0.2,) * 3)
    assert (plain.size, plain.mean) == ((256, 128), (0.485, 0.456, 0.406))
    assert "o.pth: torchreid's OSNet, osnet_x0_25; pictures 256 x 128 RGB, mean 0.485 0.456 0.406" in caplog.text


def test_facts_beside_the_file_take_the_place_of_the_layouts(small, tmp_path):
    images = pictures(*SIZE)
    usual = load_trained(tmp_path / "w.pth", small).network.embed(images)
    told = {"img_size": [64, 32], "colour": "BGR", "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
    (tmp_path / "w.pth.json").write_text(json.dumps(told))
    trained = load_trained(tmp_path / "w.pth", small)
    assert trained.facts == ((64, 32), (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "BGR", "resize")
    mean, std = (torch.tensor(told[key]).view(1, 3, 1, 1) for key in ("mean", "std"))
    by_hand = load_trained(tmp_path / "other.pth", small).network.embed(((images / 255 - mean) / std).flip(1))
    assert torch.allclose(trained.network.embed(images), by_hand, atol=1e-5)
    assert not torch.allclose(usual, by_hand, atol=1e-3)
    assert load_trained(tmp_path / "w.pth", small, [80, 40]).facts.size == (80, 40)


def test_boxmot_tells_its_facts_inside(small):
    content = {"model_name": "osnet_x0_25", "num_classes": 11, "state_dict": small, "preprocess": "resize",
               "model_kwargs": {"img_size": [128, 64]}}  # fmt: skip
    assert load_trained("w.pt", content).facts.size == (128, 64)
    assert load_trained("w.pt", content | {"img_size": (96, 48)}).facts.size == (96, 48)
    assert load_trained("w.pt", content).facts.preprocess == "resize"
    assert load_trained("w.pt", content | {"preprocess": "resize_pad"}).facts.preprocess == "resize_pad"
    with pytest.raises(ValueError, match=r"`preprocess` resize or resize_pad; got .*'preprocess': 'letterbox'"):
        load_trained("w.pt", content | {"preprocess": "letterbox"})


def test_the_feature_before_the_neck_is_to_be_had(tmp_path):
    values = state(SMALL["bot_r18"])
    (tmp_path / "w.pth.json").write_text('{"feature": "before"}')
    images = pictures(*SIZE)
    before, behind = (load_trained(tmp_path / name, values).network for name in ("w.pth", "v.pth"))
    pooled = before.heads[0](before.features(images)[0]).embedding
    neck = nn.functional.batch_norm(
        pooled, *(values[f"bottleneck.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    )
    assert torch.allclose(behind.heads[0](behind.features(images)[0]).embedding, neck, atol=1e-5)


def without(*keys):
    return lambda values: {key: value for key, value in values.items() if not key.startswith(keys)}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (without("conv5.conv", "fc.1.bias"), "that aelm knows.*torchreid's OSNet, has keys such as conv5"),
        (without("fc.1.bias"), r"looks like torchreid's OSNet, but lacks 1 of \d+ tensors: head.neck.1.bias"),
        (without("conv4"), r"lacks \d+ of \d+ tensors: backbone.network.conv4.0.conv1.conv.weight"),
        (lambda v: v | {"conv3.0.gate.fc1.bias": torch.zeros(9)},
         r"another shape 1 of \d+ tensors: backbone.network.conv3.0.gate.fc1.bias \(9,\) instead of \(1,\)"),
        (lambda v: v | {"conv3.0.se.weight": torch.zeros(9)}, r"holds what the network has not, 1 .*conv3.0.se.weight"),
        (lambda v: {k: x[:7] if k.startswith("conv1.") else x for k, x in v.items()}, "no OSNet of kind 'plain'"),
        (lambda v: {"a.b": torch.zeros(2)}, "1 tensors such as a.b; none of them is named as in a layout"),
        (lambda v: {"rpn.head.conv.weight": torch.zeros(2)}, "looks like a detector"),
        (lambda v: {"model.0.conv.weight": torch.zeros(2)}, "looks like a detector"),
        (lambda v: resnet_with("fc.weight"), "looks like an ImageNet classifier.*model.backbone.weights"),
        (lambda v: {}, "holds no tensors by name"),
    ],
)  # fmt: skip
def test_what_is_not_as_it_should_be_is_named(small, spoil, message):
    with pytest.raises(ValueError, match=message):
        load_trained("w.pth", spoil(small))


def resnet_with(key):
    return {"conv1.weight": torch.zeros(2), "layer4.1.conv2.weight": torch.zeros(2), key: torch.zeros(2)}


def test_a_tensor_too_many_beside_the_network_is_a_warning(small, caplog):
    with caplog.at_level(logging.WARNING):
        load_trained("w.pth", small)
        assert not caplog.text, "the classifier is no surprise"
        load_trained("w.pth", small | {"attention.weight": torch.zeros(2)})
    assert "w.pth: 1 tensors have no part in embeddings here: attention.weight" in caplog.text


@pytest.mark.parametrize(
    "told",
    [{"img_size": 256}, {"img_size": [256]}, {"mean": 0.5}, {"std": [1, 2]}, {"colour": "BRG"}, {"img_size": [0, 9]}],
)
def test_facts_that_are_none_are_refused(small, tmp_path, told):
    (tmp_path / "w.pth.metadata.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"must be `img_size` \[height, width\], `mean` and `std`"):
        load_trained(tmp_path / "w.pth", small)


def test_pickled_code_does_not_run_and_the_way_out_is_told(tmp_path, monkeypatch):
    for module, message in (
        ("modeling.baseline", r"holds pickled code \(modeling\.baseline\.Net\).*torch\.save\(model\.state_dict\(\)"),
        ("ultralytics.nn.tasks", r"is a pickled detector \(ultralytics\.nn\.tasks\.Net\)"),
    ):
        net = type("Net", (nn.Linear,), {"__module__": module})
        parts = module.split(".")
        for count in range(1, len(parts) + 1):
            monkeypatch.setitem(sys.modules, ".".join(parts[:count]), types.ModuleType(parts[count - 1]))
        monkeypatch.setattr(sys.modules[module], "Net", net, raising=False)
        torch.save(net(1, 1), tmp_path / "w.pth")
        with pytest.raises(ValueError, match=message):
            read_data(tmp_path / "w.pth")


def test_a_truncated_file_says_so(small, tmp_path):
    torch.save(small, tmp_path / "w.pth")
    (tmp_path / "half.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:200_000])
    with pytest.raises(ValueError, match=r"half.pth does not load as data: .*is it whole\?"):
        read_data(tmp_path / "half.pth")
    (tmp_path / "old.pth").write_bytes(pickle.dumps({"a": 1})[:5])
    with pytest.raises(ValueError, match=r"old\.pth does not load as data"):
        read_data(tmp_path / "old.pth")


@pytest.mark.parametrize("kind", ["osnet_x0_25", "osnet_ain_x0_25"])
def test_osnet_trains_under_coam_and_aelm(kind):
    network = ReIDNetwork(TimmBackbone(kind, 2, pretrained=False), 5, CoAM, AELM)
    images = pictures(*SIZE)
    outputs = network(images, torch.tensor([0, 4]))
    assert [tuple(stage[0].heatmap.shape) for stage in outputs] == [(2, 4, 2), (2, 4, 2)]
    sum(head.logits.square().sum() for stage in outputs for head in stage).backward()
    assert all(p.grad is not None for p in network.parameters())
    assert tuple(network.eval().embed(images).shape) == (2, 1024)


def test_a_training_starts_from_the_backbones_of_such_files(small, tmp_path, caplog):
    torch.save({"state_dict": {f"module.{key}": value for key, value in small.items()}}, tmp_path / "o.pth.tar")
    torch.save(state(LAYOUTS["agw"]), tmp_path / "agw.pth")
    with caplog.at_level(logging.WARNING):
        backbone = TimmBackbone("osnet_x0_25", weights=tmp_path / "o.pth.tar", weights_at_least=1.0)
        assert torch.equal(backbone.network["conv5"].conv.weight, small["conv5.conv.weight"])
        TimmBackbone(
            "reid_resnet50", weights=tmp_path / "agw.pth", weights_at_least=1.0,
            options={"non_local": True, "stem": "bot"},
        )  # fmt: skip
        assert not caplog.text
        TimmBackbone("reid_resnet50", weights=tmp_path / "agw.pth", options={"stem": "bot"})
    assert "NL_2.0.W.0.bias" in caplog.text, "without non-local blocks theirs are left over, and that is told"
    with pytest.raises(RuntimeError, match=r"no pretrained weights of `osnet_x0_25` to download"):
        TimmBackbone("osnet_x0_25")
    with pytest.raises(ValueError, match=r"timm has no model `osnet_x2_0`.*close: osnet_x1_0"):
        TimmBackbone("osnet_x2_0")


def test_mobile_networks_load_by_the_names_of_lukemelas_and_torchvision(tmp_path, caplog):
    """Blocks are numbered through there; the tables of names are written down here once more."""
    for name, first, rest, stem, block in (
        ("tf_efficientnet_lite0", "_depthwise_conv _bn1 _project_conv _bn2",
         "_expand_conv _bn0 _depthwise_conv _bn1 _project_conv _bn2", ("_conv_stem", "_bn0"), "_blocks.{}."),
        ("mobilenetv2_100", "0.0 0.1 1 2",
         "0.0 0.1 1.0 1.1 2 3", ("features.0.0", "features.0.1"), "features.{}.conv."),
    ):  # fmt: skip
        network = TimmBackbone(name, 1, last_stride=2, pretrained=False).network
        own = {key: torch.rand_like(v) for key, v in network.state_dict().items() if not key.endswith("tracked")}
        places = list(dict.fromkeys(key.rsplit(".", 2)[0] for key in own if key.startswith("blocks.")))
        theirs, table = {}, {}
        for number, place in enumerate(places):
            parts = list(dict.fromkeys(key.split(".")[3] for key in own if key.startswith(f"{place}.")))
            labels = (first if number == 0 else rest).split()
            start = block.format(number + (name != "tf_efficientnet_lite0"))
            table |= {f"{place}.{part}": f"{start}{label}" for part, label in zip(parts, labels, strict=True)}
        table |= dict(zip(("conv_stem", "bn1"), stem, strict=True))
        theirs = {f"{table[key.rpartition('.')[0]]}.{key.rpartition('.')[2]}": value for key, value in own.items()}
        torch.save(theirs, tmp_path / "w.pth")
        with caplog.at_level(logging.WARNING):
            report = load_weights(network, tmp_path / "w.pth", at_least=1.0)
        assert not caplog.text
        assert len(report.matched) == len(own)
        assert all(torch.equal(network.state_dict()[key], value) for key, value in own.items())


def test_position_tables_of_another_picture_size_are_resized(tmp_path):
    options = {"feature_cls": "getter", "img_size": (48, 48)}
    small = TimmBackbone("vit_tiny_patch16_224", 1, last_stride=2, pretrained=False, options=options).network
    values = {key: torch.rand_like(value) for key, value in small.model.state_dict().items()}
    torch.save(values, tmp_path / "w.pth")
    wide = options | {"img_size": (128, 64)}
    large = TimmBackbone("vit_tiny_patch16_224", 1, last_stride=2, weights=tmp_path / "w.pth", options=wide).network
    assert large.model.pos_embed.shape[1] > values["pos_embed"].shape[1]
    assert torch.equal(large.model.pos_embed[:, 0], values["pos_embed"][:, 0])
    assert torch.equal(large.model.blocks[0].mlp.fc1.weight, values["blocks.0.mlp.fc1.weight"])


def started(network, file, **options):
    """A network of which backbone and neck start from a file; CoAM starts as the identity."""
    torch.manual_seed(0)
    backbone = TimmBackbone(network, weights=file, weights_at_least=1.0, last_stride=1, options=options.pop("backbone"))
    made = ReIDNetwork(backbone, 5, CoAM, partial(options.pop("head", AELM), **options))
    load_neck(made, file)
    return made.eval()


@pytest.mark.parametrize(
    ("layout", "head", "backbone", "pooling"),
    [
        ("bot_r18", AELM, ("reid_resnet18", {"stem": "bot"}), "mean"),
        ("fastreid_bot_r18", IFCN, ("reid_resnet18", {"stem": "fastreid"}), "mean"),
        ("fastreid_sbs_r18_ibn", TwoHeads, ("resnet18_ibn_a", {"stem": "fastreid"}), "gem"),
    ],
)
def test_with_a_batch_norm_for_a_neck_a_training_starts_at_the_originals_feature(
    layout, head, backbone, pooling, tmp_path
):
    torch.save({"model": {f"module.{key}": v for key, v in state(SMALL[layout]).items()}}, tmp_path / "w.pth")
    network = started(
        backbone[0], tmp_path / "w.pth", head=head, backbone=backbone[1], embed_dim=512, neck=True, pooling=pooling
    )
    images = pictures(*SIZE)
    expected = load_trained("w.pth", state(SMALL[layout]), SIZE).network.embed(images)
    assert expected.min() < 0, "a shift of the neck is part of it"
    for part in network.embed(images).split(512, 1):  # A and B side by side
        assert torch.allclose(nn.functional.normalize(part), expected, atol=1e-5)
    neck = getattr(network.heads[-1], "b", network.heads[-1]).neck
    assert not neck.bias.requires_grad


def test_with_a_linear_layer_the_embedding_layer_is_the_originals(small, tmp_path):
    torch.save(small, tmp_path / "w.pth")
    network = started("osnet_x0_25", tmp_path / "w.pth", backbone=None, embed_dim=512)
    original = load_trained("w.pth", small, SIZE).network
    map_ = 3 * torch.rand(4, 128, 1, 1, generator=torch.Generator().manual_seed(1))  # one position: pooling is nothing
    expected = original.heads[0](map_).embedding
    assert (expected == 0).any()
    for part in (network.heads[-1].a, network.heads[-1].b):
        assert torch.equal(part.embed[0].weight[:, :, 0, 0], small["fc.0.weight"])
        assert torch.equal(part.embed[1].running_mean, small["fc.1.running_mean"] - small["fc.0.bias"])
        assert torch.allclose(part(map_).embedding, expected, atol=1e-5)
    assert not torch.equal(network.heads[0].a.embed[1].running_mean, network.heads[1].a.embed[1].running_mean)


@pytest.mark.parametrize(
    ("layout", "head", "message"),
    [
        (osnet(0.25), partial(IFCN, embed_dim=512), "reads a map of 128 channels, .* has 16: `model.backbone.name`"),
        (osnet(0.25), partial(IFCN, embed_dim=64), r"gives 512 values, .* embed in 64: set model\.aelm\.embed_dim=512"),
        (SMALL["bot_r18"], partial(AELM, embed_dim=64, neck=True), r"set model\.aelm\.embed_dim=512"),
        (SMALL["bot_r18"], partial(AELM, embed_dim=512), r"batch norm alone \(BNNeck\).*set model\.aelm\.neck=true"),
        (SMALL["torchreid_resnet18"], AELM, "torchreid's ResNet and holds no neck behind a pooled map"),
        (TRANSFORMERS["transreid_deit_small"], AELM, "TransReID and holds no neck behind a pooled map"),
        ({k: (3,) if k == "fc.1.running_var" else v for k, v in osnet(0.25).items()}, AELM, "OSNet and holds no neck"),
        (SMALL["bot_r18"], lambda c, n: nn.Identity(), "starts classifiers of aelm"),
    ],
)  # fmt: skip
def test_a_neck_that_is_not_there_or_does_not_fit_is_named(layout, head, message, tmp_path):
    torch.save(state(layout), tmp_path / "w.pth")
    channels = 16 if "16:" in message else 128 if "conv5.conv.weight" in layout else 512
    network = ReIDNetwork(nn.Conv2d(3, channels, 16, 16), 5, lambda c: nn.Identity(), head)
    with pytest.raises(ValueError, match=message):
        load_neck(network, tmp_path / "w.pth")
