"""Rows: devices, processes and places to write to."""

import pytest
import torch

from tests.bad_inputs.world import Row, World


def no_gpu(world: World):
    """Only a machine without one can miss it."""
    if torch.accelerator.is_available():
        pytest.skip("there is one")


def file_at(name):
    """Puts a file where a folder should be."""

    def prepare(world: World):
        (world.root / name).write_text("notes")

    return prepare


def folder_at(name):
    """Puts a folder where a file should be."""
    return lambda world: (world.root / name).mkdir()


DEVICES = [
    Row("a GPU where there is none", "train", ["trainer.accelerator=gpu"], ["Trainer cannot be built", "gpu"], no_gpu),
    Row("an accelerator that does not exist", "train", ["trainer.accelerator=abacus"], ["abacus", "cpu"]),
    Row("no device", "train", ["trainer.devices=0"], ["Trainer cannot be built", "devices"]),
    Row("a strategy that does not exist", "train", ["trainer.strategy=dpp"], ["'dpp'", "ddp"]),
    Row("a precision that does not exist", "train", ["trainer.precision=17"], ["`trainer.precision`", "bf16-mixed"]),
    Row("a CUDA device that is not there", "embed", ["device=cuda:77"], ["`device`: 'cuda:77' cannot be used", "cpu"]),
    Row("a device that does not exist", "search", ["device=warp"], ["`device`: 'warp' cannot be used here"]),
    Row("a list without devices", "embed", ["device=[]"], ["`device` must name at least one device"]),
    Row("a GPU that search does not have", "search", ["device=cuda:3"], ["`device`: 'cuda:3' cannot be used here"],
        no_gpu),
    Row("a GPU that evaluate does not have", "evaluate", ["trainer.accelerator=gpu", "trainer.devices=[3]"],
        ["Trainer cannot be built", "gpu"], no_gpu),
    Row("a device that explain does not have", "explain", ["device=cuda:77"], ["'cuda:77' cannot be used"]),
    Row("more processes than identities to share", "train",
        ["trainer.devices=8", "trainer.strategy=ddp", "sampler.identities=4"],
        ["4 x 8 = 32 identities", "use fewer processes"]),
    Row("P x K for more processes than there are pictures", "train",
        ["trainer.devices=8", "trainer.strategy=ddp", "sampler=shuffle", "sampler.batch_size=400"],
        ["8 processes x 400 images", "lower `batch_size`"], without=["sampler."]),
]  # fmt: skip

DISK = [
    Row("a file where embeddings should go", "embed", ["output={root}/notes"],
        ["`output` must be a folder", "notes is a file"], file_at("notes")),
    Row("a file on the way there", "embed", ["output={root}/notes/a/b"], ["`output`", "notes is a file and no folder"],
        file_at("notes")),
    Row("a place that nobody can make", "embed", ["output=/dev/null/x"], ["`output`", "/dev/null is a file"]),
    Row("a file where scores should go", "evaluate", ["output={root}/notes"], ["`output` must be a folder"],
        file_at("notes")),
    Row("a file where maps should go", "explain", ["output={root}/notes"], ["`output` must be a folder"],
        file_at("notes")),
    Row("a folder where a pair's map should go", "explain",
        ["images=null", "pair=[a.jpg,b.jpg]", "output={root}/p.png"],
        ["`output` must be a file", "p.png is a folder"], folder_at("p.png")),
    Row("a folder where the page should go", "search", ["output={root}/page.html"],
        ["`output` must be a file", "page.html is a folder"], folder_at("page.html")),
    Row("a folder where the model should go", "export", ["output={root}/new.onnx"],
        ["`output` must be a file", "new.onnx is a folder"], folder_at("new.onnx")),
    Row("a file on the way to the model", "export", ["output={root}/notes/m.onnx"], ["notes is a file and no folder"],
        file_at("notes")),
    Row("data that shall be drawn into a file", "train", ["data_dir={root}/notes"], ["notes", "another folder"],
        file_at("notes")),
]  # fmt: skip

ROWS = [*DEVICES, *DISK]
