"""Exported files say what PyTorch says, and are used as other programs use them."""

import hashlib
import inspect
import json
import os
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from absl import logging as absl_logging
from hydra.errors import ConfigCompositionException
from onnx import TensorProto

from aelm.command.schema import check_keys
from aelm.data.decoding import decode, read_bytes
from aelm.data.sources import Item
from aelm.data.synthetic import synthetic
from aelm.data.transforms import recipe
from aelm.embed.embedder import load_embedder
from aelm.export import onnx as exporting
from aelm.export import task as export
from aelm.retrieval import rank_metrics
from tests.tiny import description, write_checkpoint

# OpenVINO brings absl, whose log handler closes the stream that it found, here pytest's, when logging is set up anew.
absl_logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("export") / "best.ckpt"
    write_checkpoint(path, description("AELM", "aelm.models.CoAM", neck=True))
    return path


# OpenCV 4 (tried by hand: 4.10 and 4.12) cannot read these, which newer versions can.
BEYOND_OPENCV_4 = {"Shape", "Expand", "Unsqueeze", "Loop", "If"}


def kinds(path):
    return {node.op_type for node in onnx.load(path).graph.node}


def test_gem_is_exported_and_opencv_reads_it(tmp_path):
    """With another normalisation, which travels with the file."""
    how = {"height": 64, "width": 32, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    options = {"neck": True, "pooling": "gem", "preprocessing": how}
    write_checkpoint(tmp_path / "gem.ckpt", description("AELM", "aelm.models.CoAM", **options))
    embedder = load_embedder(tmp_path / "gem.ckpt")
    path = exporting.export_model(embedder, tmp_path / "gem.onnx", preprocessing="outside").path
    images = torch.randn(3, 3, 64, 32)
    expected = embedder.network.embed(images).numpy()
    np.testing.assert_allclose(run(path, images.numpy()), expected, atol=1e-5)
    net = cv2.dnn.readNetFromONNX(str(path))
    for image, row in zip(images.numpy(), expected, strict=True):
        net.setInput(image[None])
        np.testing.assert_allclose(net.forward()[0], row, atol=1e-4)
    assert not kinds(path) & BEYOND_OPENCV_4
    pictures = exporting.sample_pictures(embedder, 3, "inside")
    torch.testing.assert_close(load_embedder(path).embed(pictures), embedder.embed(pictures), atol=2e-6, rtol=0)


@pytest.fixture(scope="module")
def exported(checkpoint):
    """The same model with preprocessing outside and inside."""
    embedder = load_embedder(checkpoint)
    return {
        where: exporting.export_model(embedder, checkpoint.with_name(f"{where}.onnx"), preprocessing=where)
        for where in ("outside", "inside")
    }


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Pictures of people-like colours in odd sizes, as a detector cuts them out."""
    folder = tmp_path_factory.mktemp("crops")
    random = np.random.default_rng(0)
    paths = []
    for i, (height, width) in enumerate([(128, 64), (211, 87), (97, 41), (260, 110), (64, 32), (50, 20)]):
        coarse = random.integers(0, 256, (6, 3, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        image = np.clip(image + random.normal(0, 12, image.shape), 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{i}.png"))
        cv2.imwrite(paths[-1], image)
    return paths


def own_embeddings(embedder, paths):
    """As aelm embeds: decoded and resized by its own evaluation transform."""
    resize = recipe(embedder.height, embedder.width).test
    images = np.stack([resize(decode(read_bytes(path), path)) for path in paths])
    return embedder.embed(torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()).numpy()


def tracker_batch(paths, height, width, *, swap=True):
    """As BoxMOT prepares crops: OpenCV's bilinear resize, BGR to RGB, / 255, mean and std, channels first."""
    ready = []
    for path in paths:
        crop = cv2.resize(cv2.imread(path), (width, height), interpolation=cv2.INTER_LINEAR)
        crop = (cv2.cvtColor(crop, cv2.COLOR_BGR2RGB) if swap else crop).astype(np.float32) / 255
        ready.append(((crop - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]).transpose(2, 0, 1))
    return np.stack(ready).astype(np.float32)


def run(path, images):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(["output0"], {"images": images})[0]


def test_a_tracker_gets_aelms_own_embeddings(checkpoint, exported, crops):
    embedder = load_embedder(checkpoint)
    own = own_embeddings(embedder, crops)
    theirs = run(exported["outside"].path, tracker_batch(crops, embedder.height, embedder.width))
    cosine = (own * theirs / np.linalg.norm(theirs, axis=1, keepdims=True)).sum(1)
    assert cosine.min() > 0.999
    # The bound means something: other pictures, and the same ones in BGR, are farther away.
    assert (own @ own.T)[~np.eye(len(own), dtype=bool)].max() < 0.99
    swapped = run(exported["outside"].path, tracker_batch(crops, embedder.height, embedder.width, swap=False))
    assert (own * swapped).sum(1).max() < 0.999


def test_the_file_keeps_the_contract(exported):
    model = onnx.load(exported["outside"].path)
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert set(shapes) == {"images", "output0"}
    assert shapes["images"][1:] == [3, 64, 32]
    assert shapes["output0"][1:] == [12]
    assert isinstance(shapes["images"][0], str)
    assert shapes["images"][0] == shapes["output0"][0]
    assert model.ir_version <= 10
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    onnx.checker.check_model(model, full_check=True)
    assert not any(node.metadata_props for file in exported.values() for node in onnx.load(file.path).graph.node)


def test_the_sidecar_tells_the_facts(checkpoint, exported):
    told = json.loads((checkpoint.parent / "outside.onnx.metadata.json").read_text())
    facts = {"schema_version", "model_name", "model_kwargs", "num_classes", "preprocess", "img_size", "batch_contract",
             "input_name", "output_names", "input_shape", "precision", "dynamic_batch", "opset",
             "artifact_sha256"}  # fmt: skip
    assert facts <= told.keys()
    assert (told["img_size"], told["input_name"], told["output_names"]) == ([64, 32], "images", ["output0"])
    assert (told["num_classes"], told["preprocess"], told["dynamic_batch"]) == (5, "resize", True)
    assert told["artifact_sha256"] == hashlib.sha256(exported["outside"].path.read_bytes()).hexdigest()
    assert told["source_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    model = onnx.load(exported["outside"].path)
    assert told["opset"] == next(entry.version for entry in model.opset_import if not entry.domain)
    assert told["ir_version"] == model.ir_version


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16])
@pytest.mark.parametrize("where", ["outside", "inside"])
def test_any_batch_equals_pytorch(checkpoint, exported, count, where):
    embedder = load_embedder(checkpoint)
    images = exporting.sample_pictures(embedder, count, "inside", seed=99)
    ready = (
        images
        if where == "inside"
        else (images / 255 - torch.tensor(embedder.mean)[:, None, None]) / torch.tensor(embedder.std)[:, None, None]
    )
    found = run(exported[where].path, ready.numpy())
    np.testing.assert_allclose(found, embedder.embed(images).numpy(), atol=2e-6)
    assert exported[where].difference < 1e-5


@pytest.mark.parametrize("where", ["outside", "inside"])
def test_an_exported_file_is_a_model_for_aelm_again(checkpoint, exported, where):
    first, again = load_embedder(checkpoint), load_embedder(exported[where].path)
    assert (again.height, again.width, again.dim) == (first.height, first.width, first.dim)
    images = exporting.sample_pictures(first, 5, "inside", seed=3)
    torch.testing.assert_close(again.embed(images), first.embed(images), atol=2e-6, rtol=0)


def test_opencv_reads_the_file(checkpoint, exported):
    embedder, net = load_embedder(checkpoint), cv2.dnn.readNetFromONNX(str(exported["outside"].path))
    for count in (1, 2, 7):
        images = exporting.sample_pictures(embedder, count, "outside", seed=count)
        net.setInput(images.numpy(), "images")
        np.testing.assert_allclose(net.forward("output0"), embedder.network.embed(images).detach(), atol=5e-6)
    assert not kinds(exported["outside"].path) & BEYOND_OPENCV_4


def test_torch_export_too_and_without_output_the_file_lies_in_the_current_folder(
    checkpoint, composed, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(checkpoint, "mine.ckpt")
    done = export.run(composed("export", "checkpoint=mine.ckpt", "format=torch_export"))
    assert done.path == Path("mine.pt2")
    assert sorted(os.listdir()) == ["mine.ckpt", "mine.pt2", "mine.pt2.metadata.json"]
    assert Path("mine.ckpt").read_bytes() == checkpoint.read_bytes()
    embedder = load_embedder(checkpoint)
    module = torch.export.load(done.path).module()
    for count in (1, 5):
        images = exporting.sample_pictures(embedder, count, "outside", seed=4)
        torch.testing.assert_close(module(images), embedder.network.embed(images), atol=1e-6, rtol=0)
    assert done.difference < 1e-5
    assert "the largest difference to PyTorch is" in capsys.readouterr().out
    assert json.loads(done.sidecar.read_text())["format"] == "torch_export"


def test_the_command_writes_two_files_and_no_more(checkpoint, composed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export.run(composed("export", f"checkpoint={checkpoint}", "output=out/model.onnx", "preprocessing=inside"))
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["model.onnx", "model.onnx.metadata.json", "out"]
    told = json.loads((tmp_path / "out" / "model.onnx.metadata.json").read_text())
    assert (told["input_type"], told["num_classes"]) == ("uint8", 5)


@pytest.mark.parametrize(
    ("given", "name"),
    [
        (["checkpoint=osnet_x1_0_msmt17.pth"], "osnet_x1_0_msmt17.onnx"),
        (["checkpoint=w/model.pth.tar-60"], "model.onnx"),
        (["checkpoint=w/v1.5.safetensors", "format=torch_export"], "v1.5.pt2"),
        (["checkpoint=w.pt2", "format=torch_export"], "w.pt2.pt2"),
        (["checkpoint=runs/demo"], "demo.onnx"),
        (["checkpoint=runs/demo/checkpoints/best.ckpt", "precision=fp16"], "demo_fp16.onnx"),
        (["checkpoint=runs/demo/checkpoints/last.ckpt", "precision=int8"], "last_int8.onnx"),
        (["checkpoint=runs/best.ckpt", "preprocessing=inside"], "runs_uint8.onnx"),
    ],
)
def test_a_file_is_named_after_its_checkpoint_or_run(composed, tmp_path, monkeypatch, given, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "demo" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "checkpoints" / "best.ckpt").touch()
    assert export.default_output(composed("export", *given)) == name


@pytest.fixture(scope="module")
def reduced(checkpoint, crops):
    """The same model in fewer bits, int8 with preprocessing inside too."""
    embedder = load_embedder(checkpoint)
    resize = recipe(embedder.height, embedder.width).test
    seen = np.stack([resize(decode(read_bytes(path), path)) for path in crops * 2])
    seen = torch.from_numpy(seen).permute(0, 3, 1, 2).contiguous()
    seen = torch.cat([seen, exporting.sample_pictures(embedder, 20, "inside")])
    ways = {"fp16": {}, "int8": {"calibration": seen}, "int8 inside": {"calibration": seen, "preprocessing": "inside"}}
    return {
        name: exporting.export_model(
            embedder, checkpoint.with_name(f"{name}.onnx"), precision=name.split()[0], **options
        )
        for name, options in ways.items()
    }


@pytest.mark.parametrize(
    ("name", "share", "bound"), [("fp16", 0.55, 5e-3), ("int8", 0.35, 0.15), ("int8 inside", 0.35, 0.15)]
)
def test_fewer_bits_are_smaller_and_say_nearly_the_same(checkpoint, exported, reduced, crops, name, share, bound):
    file = reduced[name]
    assert file.path.stat().st_size < share * exported["outside"].path.stat().st_size
    assert 0 < file.difference < bound
    told = json.loads(file.sidecar.read_text())
    assert told["precision"] == name.split()[0]
    assert told["artifact_sha256"] == hashlib.sha256(file.path.read_bytes()).hexdigest()
    model = onnx.load(file.path)
    (entry,), (result,) = model.graph.input, model.graph.output
    kinds = TensorProto.UINT8 if "inside" in name else TensorProto.FLOAT, TensorProto.FLOAT
    assert tuple(value.type.tensor_type.elem_type for value in (entry, result)) == kinds
    first, again = load_embedder(checkpoint), load_embedder(file.path)
    own, theirs = own_embeddings(first, crops), own_embeddings(again, crops)
    assert np.allclose(np.linalg.norm(theirs, axis=1), 1)
    assert (own * theirs).sum(1).min() > 0.98
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    assert convolutions
    types = {tensor.name: tensor for tensor in model.graph.initializer}
    if name == "fp16":
        assert all(types[node.input[1]].data_type == TensorProto.FLOAT16 for node in convolutions)
        return
    makers = {node.output[0]: node for node in model.graph.node}
    for node in convolutions:
        weight, scale = (types[place] for place in makers[node.input[1]].input[:2])
        numbers = onnx.numpy_helper.to_array(weight)
        assert (numbers.dtype, scale.dims[0]) == (np.int8, numbers.shape[0])
        assert numbers.min() >= -64
        assert numbers.max() <= 64


def test_openvino_says_what_onnxruntime_says(checkpoint, exported, reduced):
    embedder, core = load_embedder(checkpoint), openvino.Core()
    for file, bound in ((exported["outside"], 1e-4), (reduced["int8"], 0.1)):
        model = core.compile_model(file.path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        for count in (1, 3):
            images = exporting.sample_pictures(embedder, count, "outside", seed=count).numpy()
            np.testing.assert_allclose(model(images)["output0"], run(file.path, images), atol=bound)


@pytest.mark.parametrize(("there", "taken"), [(5, 5), (256, 256), (257, 256), (900, 256)])
def test_calibration_takes_256_pictures_from_the_first_to_the_last(monkeypatch, there, taken):
    seen = []
    monkeypatch.setattr(export, "find_items", lambda *_, **__: [Item(f"{i}.jpg") for i in range(there)])
    monkeypatch.setattr(export, "preparation", lambda embedder: None)
    monkeypatch.setattr(export, "ReIDDataset", lambda kept, *_, **__: seen.extend(int(p.path[:-4]) for p in kept))
    monkeypatch.setattr(export, "loaded", lambda *_: iter([SimpleNamespace(image=None)]))
    export.calibration(None, "crops")
    assert len(set(seen)) == taken
    assert (seen[0], seen[-1]) == (0, there - 1)


def test_int8_from_a_folder_with_what_it_costs(checkpoint, people, composed, tmp_path, capsys):
    benchmark = synthetic(people, "tiny", progress=False)
    (tmp_path / "crops").mkdir()
    for picture in benchmark.train[:12]:
        shutil.copy(picture.path, tmp_path / "crops")
    (tmp_path / "crops" / "broken.jpg").write_text("no picture")
    options = ["precision=int8", f"calibrate={tmp_path}/crops", f"output={tmp_path}/model.onnx", "tolerance=1"]
    data = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", "dataset.workers=0", f"data_dir={people}"]
    done = export.run(composed("export", f"checkpoint={checkpoint}", *options, *data))
    times = r"on test; milliseconds a picture on cpu, \d+ threads?: [\d.]+ at batch 1, [\d.]+ at batch 32"
    told = capsys.readouterr().out
    torchs = re.search(rf"^PyTorch: mAP ([\d.]+) {times}$", told, re.MULTILINE)
    files = re.search(rf"^model\.onnx: mAP ([\d.]+) \(([+-][\d.]+)\) {times}$", told, re.MULTILINE)
    assert float(files[2]) == pytest.approx(float(files[1]) - float(torchs[1]), abs=0.011)
    embedder = load_embedder(done.path)
    sides = [own_embeddings(embedder, [p.path for p in side]) for side in (benchmark.query, benchmark.gallery)]
    labels = [[getattr(p, k) for p in s] for k in ("pid", "camid") for s in (benchmark.query, benchmark.gallery)]
    assert float(files[1]) == pytest.approx(100 * rank_metrics(*sides, *labels).mAP, abs=0.006)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["precision=int8"],
            "int8 needs `calibrate`, a folder of a few hundred pictures.*precision int8 and none",
        ),
        (["precision=fp16", "calibrate={}"], "no other takes it; got precision fp16 and some"),
        (
            ["precision=int8", "calibrate={}"],
            "`calibrate` needs 8 pictures or more, .*; 6 could be read",
        ),
        (["precision=int8", "calibrate={}/gone"], "gone"),
        (["precision=int4"], "`precision` must be one of fp32, fp16, int8, got 'int4'"),
        (
            ["precision=fp16", "format=torch_export", "output=m.pt2"],
            "`precision` fp16 needs format onnx, got torch_export",
        ),
        (["format=torch_export", "output=m.pt2", "data_dir={}"], "test an ONNX file, and `format` is torch_export"),
    ],
)
def test_what_fewer_bits_need_is_named(checkpoint, crops, composed, tmp_path, overrides, message):
    given = [one.format(Path(crops[0]).parent) for one in overrides]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        export.run(composed("export", f"checkpoint={checkpoint}", f"output={tmp_path}/m.onnx", *given))
    assert not list(tmp_path.iterdir())


def test_a_file_that_differs_is_not_kept(checkpoint, tmp_path, monkeypatch):
    embedder, path = load_embedder(checkpoint), tmp_path / "model.pt2"
    path.write_text("the old one")
    right = exporting.torch_runner

    def wrong(path):
        run = right(path)
        return lambda images: run(images) + (0.01 if len(images) == 7 else 0.0)

    for runner, message in [
        (wrong, r"differs from PyTorch by 0\.01, more than `tolerance` 0\.0001; it was not kept"),
        (lambda path: lambda images: torch.full((len(images), 12), torch.nan), "differs from PyTorch by nan"),
        (lambda path: lambda images: torch.zeros(1, 12), r"gives \(1, 12\) for a batch of 2, PyTorch \(2, 12\)"),
    ]:
        monkeypatch.setattr(exporting, "torch_runner", runner)
        with pytest.raises(ValueError, match=message):
            exporting.export_model(embedder, path, "torch_export")
        assert [p.name for p in tmp_path.iterdir()] == ["model.pt2"]
        assert path.read_text() == "the old one"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["output=model.pt2"], r"`output` of format onnx must end in \.onnx, got 'model\.pt2'"),
        (["output=model.onnx", "format=torchscript"], "`format` must be one of onnx, torch_export, got 'torchscript'"),
        (["output=model.onnx", "preprocessing=within"], "`preprocessing` must be one of outside, inside, got 'within'"),
    ],
)
def test_options_that_are_wrong_are_named(checkpoint, composed, overrides, message):
    with pytest.raises(ValueError, match=message):
        export.run(composed("export", f"checkpoint={checkpoint}", *overrides))
    with pytest.raises(ConfigCompositionException):
        composed("export", "opste=17")


def test_an_onnx_file_is_not_exported_again(exported, composed, tmp_path):
    with pytest.raises(ValueError, match=r"outside\.onnx is an ONNX file already"):
        export.run(composed("export", f"checkpoint={exported['outside'].path}", f"output={tmp_path}/model.onnx"))


def test_what_is_not_installed_is_named_with_the_command(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ModuleNotFoundError, match=r"the export needs onnxscript: pip install 'aelm\[export\]'"):
        exporting.export_model(load_embedder(checkpoint), tmp_path / "model.onnx")


def test_the_lines_of_the_document_run(checkpoint, exported, crops, tmp_path, monkeypatch, capsys):
    """Every Python block of docs/export.md, with the files that it names, against aelm's own embeddings."""
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    for where, name in (("outside", "model"), ("inside", "uint8")):
        shutil.copy(exported[where].path, f"{name}.onnx")
        shutil.copy(exported[where].sidecar, f"{name}.onnx.metadata.json")
    embedder = load_embedder(checkpoint)
    exporting.export_model(embedder, "model.pt2", "torch_export")
    for path, name in zip(crops, "ab", strict=False):
        cv2.imwrite(f"{name}.jpg", cv2.imread(path))
    own = own_embeddings(embedder, ["a.jpg", "b.jpg"])
    seen = []
    for block in blocks:
        names = {"model_size": (embedder.height, embedder.width)}
        exec(compile(block, "docs/export.md", "exec"), names)
        result = names.get("embeddings", names.get("embedding"))
        if result is not None and len(result) <= 2:
            assert (own[: len(result)] * result).sum(1).min() > 0.9999
            seen.append(len(result))
    assert seen == [2, 1, 2, 2]
    assert "torch.Size([8, 12])" in capsys.readouterr().out


def test_the_commands_of_the_document_compose(composed):
    text = (Path(__file__).parents[1] / "docs" / "export.md").read_text(encoding="utf-8")
    commands = re.findall(r"^python -m aelm\.(\w+) (.*)$", text, re.MULTILINE)
    assert len(commands) >= 5
    for name, arguments in commands:
        check_keys(composed(name, *arguments.split()))


def test_yaml_and_signature_agree(composed):
    config = composed("export")
    parameters = inspect.signature(exporting.export_model).parameters
    shared = config.keys() & parameters.keys()
    assert shared == {"format", "preprocessing", "precision", "opset", "tolerance"}
    assert all(config[key] == parameters[key].default for key in shared)


def test_pytorch_is_compared_without_tf32(checkpoint):
    embedder, found = load_embedder(checkpoint), []

    def graph(images):
        found.append(torch.backends.cudnn.conv.fp32_precision)
        return torch.zeros(len(images), 2)

    assert exporting.largest_difference(graph, graph, embedder, "outside") == 0
    assert set(found) == {"ieee"}
