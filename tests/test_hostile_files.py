"""Checkpoints from strangers are data: nothing that they hold runs, and nothing that they name is called."""

import pickle

import pytest
import torch

from aelm import checkpoint
from aelm.embed import task as embed
from aelm.embed.embedder import load_embedder
from aelm.evaluate import task as evaluate
from aelm.explain import task as explain
from aelm.export import task as export
from aelm.search import task as search
from tests.bomb import Bomb
from tests.pictures_on_disk import write_people
from tests.tiny import description, write_checkpoint

FAST = ["device=cpu", "workers=0", "progress=false"]
COMMANDS = {
    "evaluate": (evaluate, ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "figures=false"]),
    "embed": (embed, ["images={0}/crops", "output={0}/out", *FAST]),
    "search": (search, ["query={0}/crops", "gallery={0}/crops", *FAST]),
    "explain": (explain, ["images={0}/crops", "output={0}/out", "device=cpu"]),
    "export": (export, ["output={0}/out.onnx"]),
}
SYNTHETIC = {"_target_": "aelm.data.synthetic.synthetic", "_partial_": True, "root": "${data_dir}", "size": "tiny"}
CONFIG = {
    "dataset": {"benchmarks": {"synthetic": SYNTHETIC}, "train": None, "test": None, "val_fraction": 0.4,
                "cache": "none", "on_bad_image": "error", "workers": 0, "test_batch_size": 8},
    "transform": {"_target_": "aelm.data.recipe", "height": 64, "width": 32, "extra": []},
    "sampler": {"_target_": "aelm.data.IdentitySampler", "_partial_": True, "identities": 2, "images": 2},
    "seed": 0,
    "monitor": "val/mAP",
}  # fmt: skip


def test_the_bomb_works(tmp_path):
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))
    assert (tmp_path / "exploded").exists()


@pytest.fixture
def commanded(composed, tmp_path):
    """Runs a command on a checkpoint, with pictures beside it."""
    write_people(tmp_path / "crops", 3)

    def run(command, file, *overrides):
        module, options = COMMANDS[command]
        chosen = [option.format(tmp_path) for option in options]
        return module.run(composed(command, f"checkpoint={file}", *chosen, *overrides))

    return run


@pytest.mark.parametrize("command", COMMANDS)
def test_a_pickle_in_a_checkpoint_does_not_run(commanded, command, tmp_path, trace):
    torch.save({"state_dict": Bomb(trace), checkpoint.KEY: description()}, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"x\.ckpt does not load as data"):
        commanded(command, tmp_path / "x.ckpt")
    (tmp_path / "plain.ckpt").write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ValueError, match=r"plain\.ckpt does not load as data"):
        commanded(command, tmp_path / "plain.ckpt")


@pytest.mark.parametrize("command", COMMANDS)
def test_a_network_that_names_a_function_is_not_built(commanded, command, tmp_path, trace):
    write_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    content[checkpoint.KEY]["network"]["coam"] = {"_target_": "os.system", "command": f"touch {trace}"}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"asks for `os\.system`"):
        commanded(command, tmp_path / "x.ckpt")


def with_config(path, told):
    write_checkpoint(path, {**description(), "config": {**CONFIG, "data_dir": str(path.parent / "data"), **told}})
    return path


def test_evaluate_takes_what_an_honest_checkpoint_says(commanded, people, tmp_path):
    extra = [{"_target_": "albumentations.InvertImg", "p": 1.0}]  # of the training alone
    file = with_config(tmp_path / "x.ckpt", {"transform": {**CONFIG["transform"], "extra": extra}})
    scores = commanded("evaluate", file, f"data_dir={people}", "bootstrap=0")
    assert 0 < scores["test/mAP"] < 1


def write_trace(trace):
    """A call that Hydra's own list of refused targets lets through."""
    return {"_target_": "torch.save", "obj": "x", "f": str(trace)}


def as_text(call):
    """The call as an interpolation that makes it when it is resolved."""
    return "${oc.create:{" + ",".join(f"{key}:'{value}'" for key, value in call.items()) + "}}"


@pytest.mark.parametrize(
    "hidden",
    [
        lambda call: {"transform": call},
        lambda call: {"transform": {"_target_": "aelm.data.recipe", "flip": call}},
        lambda call: {"dataset": {**CONFIG["dataset"], "benchmarks": {"x": call}}},
        lambda call: {"dataset": {**CONFIG["dataset"], "benchmarks": "${dataset.cache}", "cache": {"x": call}}},
        lambda call: {"dataset": {**CONFIG["dataset"], "benchmarks": as_text(call)}},
        lambda call: {"transform": {**CONFIG["transform"], "flip": as_text(call)}},
    ],
    ids=["transform", "within", "reader", "elsewhere", "made of text", "text in transform"],
)
def test_a_data_set_that_names_a_function_is_not_built(commanded, tmp_path, trace, hidden):
    file = with_config(tmp_path / "x.ckpt", hidden(write_trace(trace)))
    with pytest.raises((ValueError, TypeError)):
        commanded("evaluate", file)


def test_what_the_user_allows_is_built(commanded, tmp_path):
    file = with_config(tmp_path / "x.ckpt", {"transform": {"_target_": "pathlib.PurePath"}})
    with pytest.raises(ValueError, match=r"asks for `pathlib\.PurePath`.*allow=\['pathlib\.PurePath'\]"):
        commanded("evaluate", file)
    with pytest.raises(AttributeError, match="PurePosixPath"):  # built, and no recipe
        commanded("evaluate", file, "allow=[pathlib.PurePath]", f"data_dir={tmp_path}")


def test_a_checkpoint_does_not_ask_for_weights_from_elsewhere(tmp_path, trace):
    write_checkpoint(tmp_path / "x.ckpt")
    content = torch.load(tmp_path / "x.ckpt", weights_only=True)
    (tmp_path / "other.pth").write_bytes(pickle.dumps(Bomb(trace)))
    backbone = content[checkpoint.KEY]["network"]["backbone"]
    backbone |= {"pretrained": True, "weights": str(tmp_path / "other.pth")}
    torch.save(content, tmp_path / "x.ckpt")
    load_embedder(tmp_path / "x.ckpt")  # neither is looked at
    backbone["options"] = {"checkpoint_path": str(tmp_path / "other.pth")}
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(ValueError, match=r"`options\.checkpoint_path`.*`weights` loads it as data"):
        load_embedder(tmp_path / "x.ckpt")


def test_a_run_does_not_go_on_from_a_pickle(trained, trace):
    run_dir, _ = trained("figures=false", "trainer.max_epochs=1")
    last = f"{run_dir}/checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    torch.save({**content, "callbacks": Bomb(trace)}, last)
    with pytest.raises(ValueError, match=r"last\.ckpt does not load as data"):
        trained("figures=false", "trainer.max_epochs=1", "resume=auto")
