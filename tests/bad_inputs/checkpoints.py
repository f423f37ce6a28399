"""Rows: checkpoints, weights, embeddings and other people's models."""

import json
import pickle

import numpy as np
import torch

from tests.bad_inputs.world import Row, World
from tests.tiny import description


class Bomb:
    def __reduce__(self):
        return print, ("the bomb went off",)


def saved(content):
    """Writes ``bad.ckpt``, with ``torch.save``."""

    def prepare(world: World):
        torch.save(content(world) if callable(content) else content, world.root / "bad.ckpt")

    return prepare


def written(content, name="bad.ckpt"):
    """Writes a file of bytes."""
    return lambda world: (world.root / name).write_bytes(content(world) if callable(content) else content)


def changed(**network):
    """The good checkpoint, which says that its network is another one."""

    def content(world):
        good = torch.load(world.model, weights_only=True)
        good["aelm"]["network"].update(network)
        return good

    return content


def undescribed(world):
    return torch.load(world.model, weights_only=True) | {"aelm": {}}


def embeddings(features=(2, 24), meta=None, items="path,pid,camid\r\na.jpg,1,1\r\nb.jpg,2,1\r\n"):
    """Writes a folder of embeddings that does not fit together."""

    def prepare(world: World):
        folder = world.root / "gallery"
        folder.mkdir()
        np.save(folder / "features.npy", np.zeros(features, np.float32))
        (folder / "items.csv").write_text(items)
        told = {"format": 1, "model": {"name": "m", "checkpoint": "gone.ckpt", "dim": 24, "sha256": "0" * 64}}
        (folder / "meta.json").write_text(meta if meta is not None else json.dumps(told))

    return prepare


def ready(spoil):
    """Features of queries and gallery for evaluate; ``spoil`` gets the folder."""

    def prepare(world: World):
        for name in ("q", "g"):
            np.save(world.root / f"{name}.npy", np.eye(3, dtype=np.float32))
            (world.root / f"{name}.csv").write_text("pid,camid\n" + "".join(f"{i},{name == 'g':d}\n" for i in range(3)))
        spoil(world.root)

    return prepare


BAD = ["checkpoint={root}/bad.ckpt"]
IN_PICTURES = ["dataset", "data_dir"]  # what ready features have no part in
READY = ["checkpoint=null", "query={root}/q.npy", "gallery={root}/g.npy"]
HOSTILE = description() | {"network": {"_target_": "os.system", "command": "true"}}

ROWS = [
    Row("no checkpoint", "evaluate", ["checkpoint={root}/bset.ckpt"], ["no checkpoint", "bset.ckpt; beside it: none"]),
    Row("a checkpoint beside which others lie", "embed", ["checkpoint={root}/bset.ckpt"], ["beside it:", "bad.ckpt"],
        written(b"")),
    Row("an empty checkpoint", "evaluate", BAD, ["bad.ckpt does not load as data"], written(b"")),
    Row("text for a checkpoint", "embed", BAD, ["bad.ckpt does not load as data"], written(b"hello\nworld\n")),
    Row("half a checkpoint", "explain", BAD, ["bad.ckpt does not load as data"],
        written(lambda world: world.model.read_bytes()[:100_000])),
    Row("a checkpoint that runs code", "search", BAD, ["bad.ckpt does not load as data"], saved(Bomb())),
    Row("a pickle of no torch", "export", BAD, ["does not load as data"], written(pickle.dumps(Bomb()))),
    Row("a checkpoint that names os.system", "evaluate", BAD, ["asks for `os.system`", "allow=['os.system']"],
        saved({"state_dict": {}, "aelm": HOSTILE})),
    Row("weights alone", "export", BAD, ["no trained model that aelm knows", "nearest layout", "backbone.weights"],
        saved({"conv1.weight": torch.zeros(1)})),
    Row("a checkpoint that says nothing of its network", "embed", BAD, ["holds no description of its network"],
        saved(undescribed)),
    Row("weights of another network than described", "embed", BAD, ["weights of another network than it describes"],
        saved(changed(coam={"_target_": "torch.nn.Identity", "_partial_": True}))),
    Row("a model that is no ONNX", "embed", ["checkpoint={root}/m.onnx"], ["m.onnx is no ONNX model"],
        written(b"hello", "m.onnx")),
    Row("no ONNX file", "search", ["checkpoint={root}/m.onnx"], ["no ONNX file"]),
    Row("a camera for a network that knows none", "embed", ["camera=1"],
        ["`camera`", "has no embeddings of cameras", "leave it out"]),
    Row("backbone weights that are not there", "train", ["model.backbone.weights={root}/w.pth"],
        ["no weights file", "w.pth", ".safetensors"]),
    Row("backbone weights of something else", "train", ["model.backbone.weights={root}/bad.ckpt"],
        ["holds 0 of the backbone's", "model.backbone.name"], saved({"a": torch.zeros(2)})),
    Row("broken safetensors", "train", ["model.backbone.weights={root}/w.safetensors"], ["does not load as data"],
        written(b"\x08" + bytes(7) + b"{broken}", "w.safetensors")),
    Row("embeddings of another model", "search", ["gallery={root}/gallery"],
        ["holds embeddings of m (24 values", "their scores mean nothing", "checkpoint=gone.ckpt"], embeddings()),
    Row("embeddings whose model is gone", "search", ["gallery={root}/gallery", "checkpoint=null"],
        ["was made with gone.ckpt, which is gone: give `checkpoint`"], embeddings()),
    Row("embeddings of two runs", "search", ["gallery={root}/gallery"], ["expected (2, 24) float32", "embed again"],
        embeddings(features=(5, 7))),
    Row("embeddings that were never finished", "search", ["gallery={root}/gallery"],
        ["holds no finished embeddings", "meta.json"],
        lambda world: (embeddings()(world), (world.root / "gallery" / "meta.json").unlink())),
    Row("embeddings with broken facts", "search", ["gallery={root}/gallery"], ["meta.json", "embed again"],
        embeddings(meta="{broken")),
    Row("embeddings with other facts", "search", ["gallery={root}/gallery"], ["expected format 1, found 99"],
        embeddings(meta='{"format": 99}')),
    Row("a store that is not there", "search", ["gallery.uri={root}/people.db"], ["no gallery store", "people.db"],
        without=["gallery"]),
    Row("a store without a model", "search", ["gallery.uri=http://127.0.0.1:9", "checkpoint=null"],
        ["a gallery store may serve several models: give `checkpoint`"], without=["gallery"]),
    Row("ready features without their table", "evaluate", READY, ["no file", "q.csv", "pid and camid"],
        ready(lambda root: (root / "q.csv").unlink()), without=IN_PICTURES),
    Row("ready features that are objects", "evaluate", READY, ["q.npy is not an array that loads as data"],
        ready(lambda root: np.save(root / "q.npy", np.array([Bomb()], object))), without=IN_PICTURES),
    Row("ready features of two widths", "evaluate", READY, ["dimensions"],
        ready(lambda root: np.save(root / "g.npy", np.eye(3, 5, dtype=np.float32))), without=IN_PICTURES),
    Row("ready features of other length than their table", "evaluate", READY, ["holds 4 rows", "3"],
        ready(lambda root: np.save(root / "g.npy", np.eye(4, 3, dtype=np.float32))), without=IN_PICTURES),
    Row("ready features of nobody", "evaluate", READY, ["q.csv: expected an identity", "1 of 3 have none: line 2"],
        ready(lambda root: (root / "q.csv").write_text("pid,camid\n,x\n2,0\n3,0\n")), without=IN_PICTURES),
    Row("ready features that are not finite", "evaluate", READY, ["finite"],
        ready(lambda root: np.save(root / "q.npy", np.full((3, 3), np.nan, np.float32))), without=IN_PICTURES),
]  # fmt: skip
