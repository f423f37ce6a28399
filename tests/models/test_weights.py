"""Local weights under the names that other projects save them by, with what they save beside them."""

import logging
import pickle

import numpy as np
import pytest
import safetensors.torch
import timm
import torch

from aelm.models import TimmBackbone
from aelm.models.weights import load_weights, read_state


@pytest.fixture(scope="module")
def resnet():
    """Random weights of a ResNet-18 by torchvision's names, which torchreid and fast-reid use too."""
    torch.manual_seed(0)
    state = TimmBackbone("resnet18", pretrained=False).network.state_dict()
    return {key: torch.rand_like(v) if v.is_floating_point() else v for key, v in state.items()}


def torchreid(state):
    """As ``torchreid.utils.save_checkpoint`` writes them: DataParallel's prefix, counters, the best rank-1 by numpy."""
    named = {f"module.{key}": value for key, value in state.items()}
    named |= {"module.classifier.weight": torch.zeros(751, 512), "module.classifier.bias": torch.zeros(751)}
    optimizer = {"state": {0: {"step": 7, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 3e-4, "params": [0]}]}
    return {"state_dict": named, "epoch": 60, "rank1": np.float32(0.873), "optimizer": optimizer}


def fastreid(state):
    """As fast-reid's checkpointer writes them: everything under ``model``, the trunk under ``backbone``."""
    named = {f"backbone.{key}": value for key, value in state.items()}
    named |= {"pixel_mean": torch.zeros(1, 3, 1, 1), "pixel_std": torch.ones(1, 3, 1, 1)}
    named |= {f"heads.bottleneck.0.{key}": torch.zeros(512) for key in ("weight", "bias", "running_mean")}
    return {"model": named | {"heads.weight": torch.zeros(751, 512)}, "iteration": 17999}


def strong_baseline(state):
    """As BoT's repository writes them: the trunk under ``base``."""
    named = {f"base.{key}": value for key, value in state.items()}
    return named | {"bottleneck.weight": torch.zeros(512), "classifier.weight": torch.zeros(751, 512)}


def torchvision(state):
    return dict(state) | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize(
    ("project", "unused"),
    [
        (torchreid, ["module.classifier.bias", "module.classifier.weight"]),
        (fastreid, ["heads.bottleneck.0.bias", "heads.bottleneck.0.running_mean", "heads.bottleneck.0.weight",
                    "heads.weight", "pixel_mean", "pixel_std"]),
        (strong_baseline, ["bottleneck.weight", "classifier.weight"]),
        (torchvision, ["fc.bias", "fc.weight"]),
    ],
)  # fmt: skip
def test_every_tensor_of_the_trunk_is_found_and_the_heads_are_reported(resnet, tmp_path, caplog, project, unused):
    torch.save(project(resnet), tmp_path / "w.pth")
    network = TimmBackbone("resnet18", pretrained=False).network
    with caplog.at_level(logging.INFO):
        report = load_weights(network, tmp_path / "w.pth")
    for key, value in network.state_dict().items():
        assert key.endswith("num_batches_tracked") or torch.equal(value, resnet[key]), key
    assert report.missing == []
    assert len(report.matched) == sum(not key.endswith("num_batches_tracked") for key in resnet)
    assert report.unused == unused
    assert f"{len(report.matched)} tensors loaded, 0 missing (none), {len(report.unused)} unused" in caplog.text


def test_less_than_the_share_is_an_error_unless_allowed(resnet, tmp_path):
    some = {key: value for key, value in resnet.items() if not key.startswith("layer4")}
    torch.save(fastreid(some), tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"holds 75 of the backbone's 100 tensors, 95% are needed.*weights_at_least"):
        TimmBackbone("resnet18", weights=tmp_path / "w.pth")
    partly = TimmBackbone("resnet18", weights=tmp_path / "w.pth", weights_at_least=0.75).network.state_dict()
    assert torch.equal(partly["layer3.1.conv2.weight"], resnet["layer3.1.conv2.weight"])
    assert not torch.equal(partly["layer4.1.conv2.weight"], resnet["layer4.1.conv2.weight"])
    report = load_weights(TimmBackbone("resnet18", pretrained=False).network, tmp_path / "w.pth", at_least=0.5)
    assert len(report.missing) == 25
    assert all(key.startswith("layer4.") for key in report.missing)
    for wrong in (0, 1.5):
        with pytest.raises(ValueError, match=r"`weights_at_least` must lie in \(0, 1\], got"):
            TimmBackbone("resnet18", weights=tmp_path / "w.pth", weights_at_least=wrong)


def test_a_tensor_of_another_shape_is_an_error_that_names_it(resnet, tmp_path):
    torch.save(resnet | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, tmp_path / "w.pth")
    network = TimmBackbone("resnet18", pretrained=False).network
    before = {key: value.clone() for key, value in network.state_dict().items()}
    with pytest.raises(ValueError, match=r"1 of .*: conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)"):
        load_weights(network, tmp_path / "w.pth")
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


def test_what_stays_random_and_what_is_left_over_is_a_warning_with_names(resnet, tmp_path, caplog):
    less = {key: value for key, value in resnet.items() if key != "layer4.1.bn2.bias"}
    torch.save(less, tmp_path / "less.pth")
    torch.save(resnet | {"layer9.weight": torch.zeros(1), "fc.weight": torch.zeros(1)}, tmp_path / "more.pth")
    for name, told in (("less.pth", r"1 missing (layer4.1.bn2.bias)"), ("more.pth", "2 unused (layer9.weight)")):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            load_weights(TimmBackbone("resnet18", pretrained=False).network, tmp_path / name)
        assert told in caplog.text
    caplog.clear()
    torch.save(torchvision(resnet), tmp_path / "w.pth")
    with caplog.at_level(logging.WARNING):
        load_weights(TimmBackbone("resnet18", pretrained=False).network, tmp_path / "w.pth")
    assert not caplog.text, "a classifier that is left over is as it should be"


def test_numbers_of_numpy_are_data_whatever_numpy_wrote_them(tmp_path):
    torch.save({"w": torch.ones(1), "rank1": np.float64(0.5), "epoch": np.int64(3)}, tmp_path / "new.pth")
    assert torch.equal(read_state(tmp_path / "new.pth")["w"], torch.ones(1))
    old = pickle.dumps({"rank1": np.float32(0.5)}, protocol=2)
    assert b"numpy._core.multiarray" in old  # as numpy 2 names it; numpy 1 had no underscore
    with (tmp_path / "old.pth").open("wb") as file:
        torch.save({"w": torch.ones(1), "rank1": np.float32(0.5)}, file, _use_new_zipfile_serialization=False)
    renamed = (tmp_path / "old.pth").read_bytes().replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
    assert renamed != (tmp_path / "old.pth").read_bytes()
    (tmp_path / "old.pth").write_bytes(renamed)
    assert torch.equal(read_state(tmp_path / "old.pth")["w"], torch.ones(1))


def test_arrays_with_objects_are_still_refused(tmp_path):
    torch.save({"w": torch.ones(1), "more": np.array([print], dtype=object)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not load as data"):
        read_state(tmp_path / "w.pth")


@pytest.mark.parametrize("begin", ["_orig_mod.", "student.backbone.", "module.feature_extractor.net.", "0.", ""])
@pytest.mark.parametrize("outer", [None, "ema_state", "state_dict"])
def test_weights_under_any_wrapper_are_found(tmp_path, begin, outer):
    network = timm.create_model("resnet10t", features_only=True, pretrained=False)
    other = timm.create_model("resnet10t", features_only=True, pretrained=False)
    state = {begin + key: value for key, value in other.state_dict().items()} | {"head.weight": torch.zeros(2)}
    torch.save(state if outer is None else {outer: state, "epoch": 3}, tmp_path / "w.pth")
    report = load_weights(network, tmp_path / "w.pth")
    assert report.missing == []
    assert report.unused == ["head.weight"]
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in network.state_dict().items()
               if "num_batches" not in key)  # fmt: skip


def test_several_state_dicts_are_named(tmp_path):
    plain = TimmBackbone("resnet10t", pretrained=False).network.state_dict()
    both = {f"module.encoder_{part}.{key}": value for part in "qk" for key, value in plain.items()}
    torch.save({"state_dict": both}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"holds several networks of this kind, encoder_k_, encoder_q_\.\.\.: save"):
        TimmBackbone("resnet10t", pretrained=False, weights=tmp_path / "w.pth")
    torch.save({"student": {"a": torch.zeros(1)}, "teacher": {"a": torch.zeros(1)}}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="holds several state dicts, student, teacher: save the one that is meant"):
        read_state(tmp_path / "w.pth")


def test_safetensors_are_read_by_their_content_whatever_their_ending(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "w.pth")
    assert torch.equal(read_state(tmp_path / "w.pth")["a"], torch.ones(2))
