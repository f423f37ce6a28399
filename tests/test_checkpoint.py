import os
import unicodedata

import pytest
import torch

from aelm import checkpoint
from aelm.checkpoint import build, checkpoint_file, describe, load_model, read_checkpoint
from aelm.embed.embedder import load_embedder
from aelm.models import AELM, ReIDNetwork
from tests.tiny import write_checkpoint

NETWORK = {
    "_target_": "aelm.models.ReIDNetwork",
    "_partial_": True,
    "backbone": {
        "_target_": "aelm.models.TimmBackbone",
        "name": "resnet10t",
        "pretrained": True,
        "weights": "gone.pth",
    },
    "coam": {"_target_": "torch.nn.Identity", "_partial_": True},
    "aelm": {"_target_": "aelm.models.AELM", "_partial_": True, "embed_dim": 6},
}


@pytest.fixture
def saved(tmp_path):
    """A network, and its checkpoint on disk as Lightning lays it out."""
    torch.manual_seed(0)
    description = describe(NETWORK, 5, {"height": 64, "width": 32}, [f"x:{i}" for i in range(5)])
    network = build(description["network"])(num_ids=5).eval()
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, checkpoint.KEY: description}, tmp_path / "best.ckpt")
    return network, tmp_path / "best.ckpt"


def test_a_model_comes_back_without_pretrained_weights_or_data(saved):
    network, file = saved
    images = torch.randint(256, (2, 3, 64, 32), dtype=torch.uint8)
    again = load_model(file)
    assert isinstance(again, ReIDNetwork)
    assert not again.training
    assert torch.equal(again.embed(images), network.embed(images))


def test_a_description_asks_for_no_weights_wherever_a_backbone_stands():
    timm = {"_target_": "aelm.models.TimmBackbone", "name": "resnet10t"}  # pretrained by default
    inner = {"_target_": "aelm.models.ColourWords", "backbone": {**timm, "pretrained": True, "weights": "/gone.pth"}}
    foreign = {"_target_": "mine.Net", "fusion": {"weights": [0.3, 0.7]}, "parts": [timm]}
    told = describe({**NETWORK, "backbone": foreign}, 5, {}, [])["network"]["backbone"]
    assert told["fusion"] == {"weights": [0.3, 0.7]}
    assert (told["parts"][0]["pretrained"], told["parts"][0]["weights"]) == (False, None)
    for backbone in (timm, inner):
        told = describe({**NETWORK, "backbone": backbone}, 5, {}, [])["network"]["backbone"]
        told = told.get("backbone", told)
        assert (told["pretrained"], told["weights"], told["name"]) == (False, None, "resnet10t")


def test_the_description_tells_labels_preprocessing_and_versions(saved):
    description = read_checkpoint(saved[1])[checkpoint.KEY]
    assert description["labels"][3] == "x:3"
    assert description["preprocessing"]["height"] == 64
    assert set(description["versions"]) == {"aelm", "torch", "timm", "pytorch-lightning"}


def test_parts_build_as_hydra_would():
    part = build(NETWORK["aelm"])(8, 3)
    assert isinstance(part, AELM)
    assert part.a.embed_dim == 6


@pytest.mark.parametrize(
    "target", ["os.system", "aelm.models.backbone.load_file", "aelm.checkpoint.load_model", "builtins.eval"]
)
def test_only_models_are_built(saved, target, monkeypatch):
    content = torch.load(saved[1], weights_only=True)
    content[checkpoint.KEY]["network"]["backbone"] = {"_target_": target, "command": "touch gone"}
    torch.save(content, saved[1])
    monkeypatch.setattr(os, "system", lambda command: pytest.fail("it was run"))
    with pytest.raises(ValueError, match=rf"asks for `{target}`, not one of aelm's models"):
        load_model(saved[1])


def test_what_the_caller_allows_is_built(saved):
    content = torch.load(saved[1], weights_only=True)
    content[checkpoint.KEY]["network"]["coam"]["_target_"] = "torch.nn.modules.Identity"
    torch.save(content, saved[1])
    with pytest.raises(ValueError, match="not one of aelm's models"):
        load_model(saved[1])
    assert load_model(saved[1], allow=["torch.nn.modules.Identity"])


def test_a_pickle_bomb_is_not_executed(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    torch.save({"state_dict": Bomb(), checkpoint.KEY: {}}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match="does not load as data"):
        load_model(tmp_path / "x.ckpt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not load as data"),
        (b"some text", "does not load as data"),
        ({"weight": torch.zeros(1)}, r"not a checkpoint of `python -m aelm.train`.*found weight"),
        ([1, 2], "found list"),
        ({"state_dict": {}, "aelm": {}}, "holds no description"),
    ],
)
def test_a_checkpoint_of_something_else_is_named(tmp_path, content, message):
    file = tmp_path / "x.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    with pytest.raises(ValueError, match=message):
        load_model(file)


def test_a_missing_checkpoint_names_its_neighbours(saved):
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*bset\.ckpt; beside it: .*best\.ckpt"):
        load_model(saved[1].with_name("bset.ckpt"))


def test_embedding_tracks_no_gradients_and_leaves_training_alone(saved):
    network = load_model(saved[1])
    images = torch.randint(256, (2, 3, 64, 32), dtype=torch.uint8)
    assert not network.embed(images).requires_grad
    assert all(parameter.requires_grad for parameter in network.parameters())  # a training may start from it
    assert network(images)[-1][0].logits.requires_grad


def test_a_run_directory_stands_for_its_best_checkpoint(tmp_path):
    file = tmp_path / "rené" / "checkpoints" / "best.ckpt"
    file.parent.mkdir(parents=True)
    write_checkpoint(file)
    (file.parent / "last.ckpt").write_bytes(b"half")
    decomposed = unicodedata.normalize("NFD", str(tmp_path / "rené"))
    for place in (file, file.parent, file.parent.parent, str(file.parent.parent), decomposed):
        assert checkpoint_file(place) == file
        assert load_model(place).num_ids == load_model(file).num_ids
        assert load_embedder(place).sha256 == load_embedder(file).sha256
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"no checkpoint .*best\.ckpt: .* is a folder; in it: .*last\.ckpt"):
        load_embedder(file.parent.parent)


def test_one_name_to_allow_is_not_its_letters():
    with pytest.raises(ValueError, match=r"asks for `os\.system`"):
        build({"_target_": "os.system", "command": "true"}, allow="os.systems")
    assert build({"_target_": "math.gcd"} | {}, allow="math.gcd") == 0


@pytest.mark.parametrize("key", ["_args_", "_convert_", "_recursive_"])
def test_other_keys_of_hydra_are_refused_by_name(key):
    with pytest.raises(ValueError, match=f"builtins.dict: unknown key `{key}`"):
        build({"_target_": "builtins.dict", key: [1]}, allow=None)


def test_a_target_may_be_a_method_of_a_class():
    assert build({"_target_": "datetime.date.fromordinal", "_partial_": True}, allow=None)(1).year == 1
    with pytest.raises(ModuleNotFoundError, match="No module named 'not_there'"):
        build({"_target_": "not_there.Net"}, allow=None)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"MATLAB 5.0 MAT-file" + bytes(200), "it is a Matlab file; expected a file of torch.save or safetensors"),
        (b"<!DOCTYPE html><p>Sign in", "it is a web page, as a failed download leaves it"),
        (b"version https://git-lfs.github.com/spec/v1", "it is a Git LFS pointer: run `git lfs pull`"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), "it is an HDF5 file"),
        (b"", "it is an empty file"),
    ],
)
def test_what_is_no_checkpoint_is_called_by_its_kind(tmp_path, content, words):
    (tmp_path / "x.ckpt").write_bytes(content)
    with pytest.raises(ValueError, match=f"does not load as data: {words}"):
        read_checkpoint(tmp_path / "x.ckpt")


def test_a_whole_model_is_not_advised_to_be_run(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pth")
    with pytest.raises(
        ValueError, match=r"holds pickled code \(torch\.nn.*torch\.save\(model\.state_dict\(\)"
    ) as caught:
        read_checkpoint(tmp_path / "model.pth")
    assert "weights_only" not in str(caught.value)
