"""Files from strangers are data: nothing that they hold runs, and nothing that they name is called."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from scipy.io import savemat

from aelm import checkpoint, embed, evaluate, explain, export, search
from aelm.data.benchmarks import cuhk03
from aelm.embedder import load_embedder
from aelm.feature_files import read_features
from aelm.models import TimmBackbone
from tests.data import trees
from tests.pictures_on_disk import save_model, write_people
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


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (open, (self.trace, "w"))


@pytest.fixture
def trace(tmp_path):
    """The file that appears when a bomb goes off; checked behind each test."""
    yield tmp_path / "exploded"
    assert not (tmp_path / "exploded").exists()


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


def test_a_pickle_as_backbone_weights_does_not_run(tmp_path, trace):
    for name in ("w.pth", "w.pt", "w.bin", "w.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Bomb(trace)}))
        with pytest.raises(ValueError, match="does not load as data"):
            TimmBackbone("resnet10t", weights=tmp_path / name)
    torch.save({"w": torch.ones(1), "more": Bomb(trace)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not load as data"):
        TimmBackbone("resnet10t", weights=tmp_path / "w.pth")


def test_a_run_does_not_go_on_from_a_pickle(trained, trace):
    run_dir, _ = trained("figures=false", "trainer.max_epochs=1")
    last = f"{run_dir}/checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    torch.save({**content, "callbacks": Bomb(trace)}, last)
    with pytest.raises(pickle.UnpicklingError, match=r"[Ww]eights.only"):
        trained("figures=false", "trainer.max_epochs=1", "resume=auto")


@pytest.fixture
def gallery(commanded, tmp_path):
    """A folder of embeddings."""
    commanded("embed", save_model(tmp_path / "model.ckpt"))
    return tmp_path / "out"


def test_a_pickle_as_embeddings_does_not_run(composed, gallery, tmp_path, trace):
    np.save(gallery / "features.npy", np.array([Bomb(trace)] * 3, object), allow_pickle=True)
    paths = [f"query={tmp_path}/crops", f"gallery={gallery}", f"checkpoint={tmp_path}/model.ckpt"]
    with pytest.raises(ValueError, match=r"features\.npy is not an array that loads as data"):
        search.run(composed("search", *paths, *FAST))
    for key in ("query", "gallery"):
        both = {"query": tmp_path / "good.npy", "gallery": tmp_path / "good.npy", key: gallery}
        np.save(tmp_path / "good.npy", np.eye(3, dtype=np.float32))
        shutil.copy(gallery / "items.csv", tmp_path / "good.csv")
        with pytest.raises(ValueError, match="is not an array that loads as data"):
            evaluate.run(composed("evaluate", *(f"{name}={path}" for name, path in both.items())))
    np.savez(tmp_path / "many.npz", features=np.array([Bomb(trace)], object))
    (tmp_path / "many.npz").rename(tmp_path / "many.npy")
    shutil.copy(tmp_path / "good.csv", tmp_path / "many.csv")
    with pytest.raises(ValueError, match="must hold floats"):
        read_features(tmp_path / "many.npy")


def test_a_pickle_as_distances_does_not_run(composed, tmp_path, trace):
    np.save(tmp_path / "q.npy", np.eye(2))
    (tmp_path / "q.csv").write_text("pid,camid\n0,0\n1,1\n")
    np.save(tmp_path / "d.npy", np.array([[Bomb(trace)]], object), allow_pickle=True)
    files = [f"query={tmp_path}/q.npy", f"gallery={tmp_path}/q.npy", f"distances={tmp_path}/d.npy"]
    with pytest.raises(ValueError, match=r"d\.npy is not an array that loads as data"):
        evaluate.run(composed("evaluate", *files))


def test_the_model_that_embeddings_name_is_data_too(composed, gallery, tmp_path, trace):
    """Without `checkpoint`, search takes the one that meta.json names."""
    (tmp_path / "bomb.ckpt").write_bytes(pickle.dumps(Bomb(trace)))
    meta = json.loads((gallery / "meta.json").read_text())
    meta["model"]["checkpoint"] = str(tmp_path / "bomb.ckpt")
    (gallery / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(ValueError, match=r"bomb\.ckpt does not load as data"):
        search.run(composed("search", f"query={tmp_path}/crops", f"gallery={gallery}", *FAST))


def with_weights_at(location, path):
    """An ONNX embedder whose only weight lies in another file."""
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[12], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "48")):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    nodes = [
        helper.make_node("AveragePool", ["images"], ["pooled"], kernel_shape=[12, 8], strides=[12, 8]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Add", ["flat", "w"], ["output0"]),
    ]
    graph = helper.make_graph(
        nodes,
        "quarters",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 24, 16])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["N", 12])],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    path.write_bytes(model.SerializeToString())
    return path


def test_an_onnx_file_reads_weights_from_its_own_folder_alone(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (folder / "inside.bin", tmp_path / "secret.bin"):
        place.write_bytes(np.arange(12, dtype=np.float32).tobytes())
    os.symlink(tmp_path / "secret.bin", folder / "link.bin")
    assert load_embedder(with_weights_at("inside.bin", folder / "x.onnx")).dim == 12
    for outside in ("../secret.bin", str(tmp_path / "secret.bin"), "link.bin"):
        with pytest.raises(ValueError, match=r"is no ONNX model that onnxruntime can run: .*External data path"):
            load_embedder(with_weights_at(outside, folder / "x.onnx"))


def test_pickles_in_the_place_of_cuhk03s_files_do_not_run(tmp_path, trace):
    root = tmp_path / "cuhk03"
    root.mkdir()
    config = "cuhk03_new_protocol_config_detected.mat"
    (root / "cuhk-03.mat").write_bytes(pickle.dumps(Bomb(trace)))
    savemat(root / config, {"filelist": np.zeros(0)})
    with pytest.raises(ValueError, match="expected an HDF5 file"):
        cuhk03(tmp_path)
    (root / "images_detected").mkdir()
    trees.fill(root / "images_detected", ["1_001_1_01.png"])
    (root / config).write_bytes(pickle.dumps(Bomb(trace)))
    with pytest.raises(ValueError, match="expected a Matlab file"):
        cuhk03(tmp_path)
