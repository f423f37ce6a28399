import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch._subclasses import FakeTensorMode

from aelm.models import TimmBackbone
from aelm.models import backbone as module
from aelm.models.backbone import freeze_stages
from aelm.models.maps import map_shapes


@pytest.mark.parametrize(
    ("name", "depths"),
    [
        ("resnet18", [256, 512]),
        ("resnet10t", [256, 512]),
        ("mobilenetv2_050", [48, 160]),
        ("densenet121", [1024, 1024]),
    ],
)
def test_last_stride_one_doubles_the_last_map_and_dilates_nothing(name, depths):
    plain = TimmBackbone(name, last_stride=2, pretrained=False)
    large = TimmBackbone(name, pretrained=False)
    assert map_shapes(plain) == [(depths[0], 16, 8), (depths[1], 8, 4)]
    assert map_shapes(large) == [(depths[0], 16, 8), (depths[1], 16, 8)]
    assert plain.state_dict().keys() == large.state_dict().keys()  # the same weights fit both
    assert all(m.dilation == (1, 1) for m in large.modules() if isinstance(m, nn.Conv2d))


def test_output_stride_is_another_network_of_the_same_size():
    dilated = TimmBackbone("resnet18", last_stride=2, output_stride=16, pretrained=False)
    assert map_shapes(dilated)[-1] == (512, 16, 8)
    assert any(m.dilation != (1, 1) for m in dilated.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("stages", [1, 3])
def test_as_many_stages_as_asked_for(stages):
    assert len(map_shapes(TimmBackbone("resnet18", stages, pretrained=False))) == stages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet51"}, "timm has no model `resnet51`"),
        ({"name": "convnext_atto", "last_stride": 1}, "`last_stride=1` does not fit `convnext_atto`"),
        ({"name": "vit_tiny_patch16_224", "last_stride": 1}, "`last_stride=1` does not fit `vit_tiny_patch16_224`"),
        ({"name": "resnet18", "stages": 0}, "`stages` must be at least 1"),
        ({"name": "resnet18", "stages": 9}, "does not work as a backbone with 9 stages"),
        ({"name": "resnet18", "last_stride": 3}, "`last_stride` must be 1, 2 or auto, got 3"),
        ({"name": "resnet18", "last_stride": 1, "output_stride": 16}, "choose one"),
        ({"name": "vgg11", "output_stride": 16, "last_stride": 2}, "vgg11"),
    ],
)
def test_what_does_not_fit_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        TimmBackbone(**options, pretrained=False)


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        (nn.Flatten(), "must return maps"),
        (nn.Linear(4, 4), "cannot take a picture"),
        (nn.Identity(), None),
    ],
)
def test_own_backbones_are_tried_once(backbone, message):
    if message is None:
        assert map_shapes(backbone) == [(3, 256, 128)]
    else:
        with pytest.raises(ValueError, match=message):
            map_shapes(backbone)


def test_pretrained_weights_that_cannot_be_had_are_an_error_with_two_ways_out(monkeypatch):
    def refuse(name, **options):
        raise OSError("We couldn't connect to the hub")

    monkeypatch.setattr(module.timm, "create_model", refuse)
    with pytest.raises(RuntimeError, match=r"model\.backbone\.weights=FILE.*model\.backbone\.pretrained=false"):
        TimmBackbone("resnet18")


@pytest.mark.parametrize("prefix", ["", "module.", "module.backbone.base."])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_weights_load_under_other_projects_names(tmp_path, prefix, suffix):
    source = TimmBackbone("resnet10t", pretrained=False)
    state = {f"{prefix}{key.removeprefix('network.')}": value for key, value in source.state_dict().items()}
    state[f"{prefix}fc.weight"] = torch.zeros(3, 512)
    file = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": state}, file)
    else:
        save_file(state, file)
    loaded = TimmBackbone("resnet10t", weights=file)  # pretrained=True, and no network is asked
    for key, value in source.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key


def test_weights_of_another_network_are_refused(tmp_path):
    torch.save(TimmBackbone("resnet10t", pretrained=False).state_dict(), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"holds \d+ of the backbone's \d+ tensors, 95% are needed"):
        TimmBackbone("resnet18", weights=tmp_path / "w.pth")


@pytest.mark.parametrize(("content", "message"), [(b"no weights", "does not load as data"), (None, "no weights file")])
def test_files_that_are_no_weights_are_named(tmp_path, content, message):
    file = tmp_path / "w.pth"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        TimmBackbone("resnet10t", weights=file)


def test_nothing_in_a_weights_file_is_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": Bomb()}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not load as data"):
        TimmBackbone("resnet10t", weights=tmp_path / "w.pth")
    assert not (tmp_path / "exploded").exists()


def test_further_arguments_reach_timm():
    narrow = TimmBackbone(
        "resnet10t", last_stride=2, output_stride=8, pretrained=False, options={"channels": (8, 8, 16, 24)}
    )
    assert map_shapes(narrow) == [(16, 32, 16), (24, 32, 16)]
    with pytest.raises(ValueError, match="chanels="):
        TimmBackbone("resnet10t", pretrained=False, options={"chanels": 1})


@pytest.mark.parametrize("name", ["resnet18", "resnet10t"])
def test_an_undilated_output_stride_is_the_last_stride_by_another_name(name):
    torch.manual_seed(0)
    stride = TimmBackbone(name, pretrained=False).eval()
    bare = TimmBackbone(name, last_stride=2, output_stride=16, dilate=False, pretrained=False).eval()
    bare.load_state_dict(stride.state_dict())
    images = torch.rand(2, 3, 64, 32)
    for ours, other in zip(bare(images), stride(images), strict=True):
        torch.testing.assert_close(ours, other)
    large = TimmBackbone(name, last_stride=2, output_stride=8, dilate=False, pretrained=False)
    assert [shape[1:] for shape in map_shapes(large)] == [(32, 16), (32, 16)]
    assert all(m.dilation == (1, 1) for m in large.modules() if isinstance(m, nn.Conv2d))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_a_backbone_is_probed_in_its_own_type(kind):
    assert map_shapes(TimmBackbone("resnet10t", pretrained=False).to(kind)) == [(256, 16, 8), (512, 16, 8)]


def test_a_backbone_is_probed_on_its_own_device():
    with FakeTensorMode():
        backbone = nn.Conv2d(3, 8, 4, stride=4, dtype=torch.float16, device="cuda")
        assert map_shapes(backbone) == [(8, 64, 32)]
    assert map_shapes(nn.AvgPool2d(4)) == [(3, 64, 32)]  # without parameters: as any picture


def test_what_really_failed_is_told():
    mixed = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4).double(), nn.Conv2d(8, 8, 1))
    with pytest.raises(ValueError, match=r"a picture of 256 x 128 \(float64 on cpu\): RuntimeError: .*type"):
        map_shapes(mixed)


@pytest.mark.parametrize(("name", "stages", "still"), [
    ("resnet10t", 2, ("conv1", "bn1", "layer1")), ("mobilenetv2_100", 2, ("conv_stem", "bn1", "blocks.0", "blocks.1")),
    ("convnext_atto", 1, ("stem", "stages_0")), ("resnet10t", 0, ()),
])  # fmt: skip
def test_first_stages_freeze_with_what_stands_in_front_of_them(name, stages, still):
    backbone = TimmBackbone(name, pretrained=False, last_stride=2)
    freeze_stages(backbone, stages)
    frozen = {key for key, value in backbone.network.named_parameters() if not value.requires_grad}
    assert frozen == {key for key, _ in backbone.network.named_parameters() if key.startswith(still or "-")}


def test_stages_of_a_transformer_are_frozen_with_what_is_before_them():
    backbone = TimmBackbone("vit_tiny_patch16_224", 2, pretrained=False, size=(64, 32), options={"out_indices": [1, 2]})
    freeze_stages(backbone, 1)
    still = {key for key, value in backbone.network.model.named_parameters() if not value.requires_grad}
    assert {"cls_token", "pos_embed", "patch_embed.proj.weight"} <= still
    assert {key.split(".")[1] for key in still if key.startswith("blocks.")} == {"0"}


def test_stages_that_cannot_be_frozen_are_named():
    with pytest.raises(ValueError, match=r"`frozen_stages` must be 0 for this backbone: its stages .*'stage1'"):
        freeze_stages(TimmBackbone("hrnet_w18_small", pretrained=False), 2)
    with pytest.raises(ValueError, match=r"`frozen_stages` must lie in 0 \.\. 4 for this backbone, got 5"):
        freeze_stages(TimmBackbone("resnet10t", pretrained=False), 5)
    with pytest.raises(ValueError, match="only backbones of timm tell their stages"):
        freeze_stages(torch.nn.Conv2d(3, 8, 3), 1)
