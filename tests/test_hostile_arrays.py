"""Embeddings, distances, weights and annotations from strangers are data: nothing that they hold runs."""

import json
import os
import pickle
import shutil

import numpy as np
import pytest
import torch
from onnx import TensorProto, helper
from scipy.io import savemat

from aelm.data.benchmarks import cuhk03
from aelm.embed import task as embed
from aelm.embed.embedder import load_embedder
from aelm.embed.folder import read_features
from aelm.evaluate import task as evaluate
from aelm.models import TimmBackbone
from aelm.search import task as search
from tests.bomb import Bomb
from tests.data import trees
from tests.pictures_on_disk import save_model, write_people

FAST = ["device=cpu", "workers=0", "progress=false"]


@pytest.fixture
def gallery(composed, tmp_path):
    """A folder of embeddings, made from pictures beside it."""
    write_people(tmp_path / "crops", 3)
    told = [f"checkpoint={save_model(tmp_path / 'model.ckpt')}", f"images={tmp_path}/crops", f"output={tmp_path}/out"]
    embed.run(composed("embed", *told, *FAST))
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


def test_a_pickle_as_backbone_weights_does_not_run(tmp_path, trace):
    for name in ("w.pth", "w.pt", "w.bin", "w.safetensors"):
        (tmp_path / name).write_bytes(pickle.dumps({"state_dict": Bomb(trace)}))
        with pytest.raises(ValueError, match="does not load as data"):
            TimmBackbone("resnet10t", weights=tmp_path / name)
    torch.save({"w": torch.ones(1), "more": Bomb(trace)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="does not load as data"):
        TimmBackbone("resnet10t", weights=tmp_path / "w.pth")
