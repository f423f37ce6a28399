"""The one entry for models: checkpoints of aelm and other people's ONNX files."""

import json
import sys
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from torch._subclasses import FakeTensorMode

from aelm import checkpoint
from aelm.checkpoint import build, describe
from aelm.embed.batches import embed_files
from aelm.embed.embedder import load_embedder
from aelm.models.onnx import OnnxBackbone, load_onnx
from aelm.types import IMAGENET_MEAN, IMAGENET_STD
from tests.pictures_on_disk import save_model, write_people
from tests.tiny import write_checkpoint

HEIGHT, WIDTH = 24, 16
REAL = onnxruntime.InferenceSession
PREPROCESSING = {
    "height": 64, "width": 32, "interpolation": "bilinear", "mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]
}  # fmt: skip
NETWORK = {
    "_target_": "aelm.models.ReIDNetwork",
    "_partial_": True,
    "backbone": {"_target_": "aelm.models.TimmBackbone", "name": "resnet10t", "pretrained": False},
    "coam": {"_target_": "torch.nn.Identity", "_partial_": True},
    "aelm": {"_target_": "aelm.models.AELM", "_partial_": True, "embed_dim": 6},
}


def write_onnx(path, batch="N", kind=TensorProto.FLOAT, height=HEIGHT, width=WIDTH, output=("N", 12), mean=0.0):
    """The means of four quarters of each colour, less ``mean``: embeddings that can be computed by hand."""
    nodes = [
        helper.make_node("Constant", [], ["mean"], value_float=mean),
        helper.make_node("Cast", ["images"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Sub", ["real", "mean"], ["centred"]),
        helper.make_node("AveragePool", ["centred"], ["pooled"], kernel_shape=[12, 8], strides=[12, 8]),
        helper.make_node("Flatten", ["pooled"], ["output0"]) if len(output) == 2
        else helper.make_node("Identity", ["pooled"], ["output0"]),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes,
        "quarters",
        [helper.make_tensor_value_info("images", kind, [batch, 3, height, width])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, output)],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def by_hand(images, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)):
    """What ``write_onnx``'s model makes of uint8 pictures (B, 3, H, W), unit length."""
    ready = (images.double() / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    quarters = ready.reshape(len(images), 3, 2, 12, 2, 8).mean((3, 5)).flatten(1)
    return torch.nn.functional.normalize(quarters, dim=1).float()


@pytest.fixture
def images():
    return torch.randint(256, (5, 3, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("batch", ["N", 1, 2, 8])
def test_an_onnx_file_embeds_as_its_contract_says(tmp_path, images, batch):
    model = load_embedder(write_onnx(tmp_path / "other.onnx", batch, output=(batch, 12)))
    assert (model.height, model.width, model.dim, model.name) == (HEIGHT, WIDTH, 12, "other.onnx")
    torch.testing.assert_close(model.embed(images), by_hand(images))
    torch.testing.assert_close(model.embed(images[3:4]), by_hand(images)[3:4])
    assert not model.has_maps


@pytest.mark.parametrize(("kind", "tolerance"), [(TensorProto.UINT8, 1e-6), (TensorProto.FLOAT16, 1e-3)])
def test_half_precision_and_models_that_normalise_themselves(tmp_path, images, kind, tolerance):
    model = load_embedder(write_onnx(tmp_path / "other.onnx", kind=kind))
    own = {} if kind == TensorProto.FLOAT16 else {"mean": (0, 0, 0), "std": (1, 1, 1)}
    torch.testing.assert_close(model.embed(images), by_hand(images, **own), atol=tolerance, rtol=0)


def test_the_sidecar_says_size_and_normalisation_where_the_file_does_not(tmp_path, images):
    path = write_onnx(tmp_path / "other.onnx", height="H", width="W")
    with pytest.raises(ValueError, match=r"any size.*other\.onnx\.metadata\.json does not say which"):
        load_embedder(path)
    told = {"img_size": [HEIGHT, WIDTH], "mean": [0.5, 0.5, 0.5], "std": [0.25, 0.5, 0.5]}
    (tmp_path / "other.onnx.metadata.json").write_text(json.dumps(told))
    model = load_embedder(path)
    assert (model.height, model.width) == (HEIGHT, WIDTH)
    torch.testing.assert_close(model.embed(images), by_hand(images, told["mean"], told["std"]))


ZERO, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
PIXELS = (1 / 255, 1 / 255, 1 / 255)


@pytest.mark.parametrize(
    ("told", "mean", "std"),
    [
        ({"range": 255}, ZERO, PIXELS),  # fast-reid: normalised inside
        ({"normalised": "inside", "range": 255, "mean": [9, 9, 9]}, ZERO, PIXELS),
        ({"normalised": "inside"}, ZERO, ONE),
        ({"range": 255, "mean": [51, 102, 0], "std": [51, 51, 102]}, (0.2, 0.4, 0), (0.2, 0.2, 0.4)),
        ({"range": 255, "colour": "BGR"}, ZERO, PIXELS),  # OpenVINO's networks
        ({"colour": "BGR"}, IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_the_sidecar_says_what_numbers_a_network_of_others_takes(tmp_path, images, told, mean, std):
    path = write_onnx(tmp_path / "other.onnx")
    usual = load_embedder(path)
    (tmp_path / "other.onnx.json").write_text(json.dumps(told))
    model = load_embedder(path)
    assert (model.mean, model.std) == (pytest.approx(mean), pytest.approx(std))
    expected = by_hand(images, mean, std)
    if told.get("colour") == "BGR":  # the first four numbers are those of the first colour that the network gets
        expected = expected.unflatten(1, (3, 4)).flip(1).flatten(1)
    torch.testing.assert_close(model.embed(images), expected)
    numbers = model.network.features(images)[0].flatten(1)  # before lengths become 1
    torch.testing.assert_close(numbers / numbers.norm(dim=1, keepdim=True), expected)
    assert numbers.abs().max() > 10 if "std" not in told and std == PIXELS else numbers.abs().max() < 10
    assert model.sha256 != usual.sha256


def test_a_network_of_uint8_takes_pixels_whatever_is_told_of_its_inside(tmp_path, images):
    path = write_onnx(tmp_path / "other.onnx", kind=TensorProto.UINT8)
    plain = load_embedder(path)
    (tmp_path / "other.onnx.json").write_text('{"mean": [9, 9, 9], "std": [9, 9, 9], "normalised": "inside"}')
    told = load_embedder(path)
    assert (told.std, told.sha256) == (PIXELS, plain.sha256)
    assert torch.equal(told.embed(images), plain.embed(images))
    (tmp_path / "other.onnx.json").write_text('{"colour": "BGR"}')
    assert torch.equal(load_embedder(path).embed(images), plain.embed(images.flip(1)))


def test_a_description_without_colours_has_those_of_its_network(tmp_path):
    network = write_checkpoint(tmp_path / "own.ckpt")
    content = torch.load(tmp_path / "own.ckpt", weights_only=True)
    for key in ("mean", "std"):
        del content["aelm"]["preprocessing"][key]
    torch.save(content, tmp_path / "own.ckpt")
    found = load_embedder(tmp_path / "own.ckpt")
    assert (found.mean, found.std) == network.normalised == (IMAGENET_MEAN, IMAGENET_STD)


def test_the_size_is_a_key_where_the_graph_leaves_it_open(tmp_path, images):
    open_to_any = write_onnx(tmp_path / "any.onnx", height="H", width="W")
    model = load_embedder(open_to_any, size=[HEIGHT, WIDTH])
    torch.testing.assert_close(model.embed(images), by_hand(images))
    # Features of two sizes must not meet in a gallery.
    assert load_embedder(open_to_any, size=[2 * HEIGHT, WIDTH]).sha256 != model.sha256
    with pytest.raises(ValueError, match=r"`size`: other\.onnx says itself how large pictures are, 24 x 16; leave it"):
        load_embedder(write_onnx(tmp_path / "other.onnx"), size=[48, 32])


@pytest.mark.parametrize(
    ("mean", "told", "warned"),
    [
        (0.0, {}, None),
        (0.0, {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, None),
        (120.0, {}, 255),  # normalised inside, as fast-reid's: numbers around 0 are one black picture to it
        (120.0, {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}, 255),
        (120.0, {"range": 255}, None),
        (120.0, {"range": 255, "colour": "BGR"}, None),
        (0.0, {"range": 255, "mean": [-2000, -2000, -2000]}, 1),
        (120.0, {"model_name": "aelm", "schema_version": 1}, None),  # what aelm exported was compared then
    ],
)
def test_a_network_of_the_other_range_is_warned_of(tmp_path, caplog, mean, told, warned):
    path = write_onnx(tmp_path / "other.onnx", mean=mean)
    (tmp_path / "other.onnx.metadata.json").write_text(json.dumps(told))
    load_embedder(path)
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == (warned is not None)
    if warned:
        assert f"if colours run from 0 to {warned}: is that what it was trained with?" in messages[0]
        assert messages[0].endswith(f'"range": {warned} in other.onnx.metadata.json says so')


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ('{"preprocess": "letterbox"}', "`preprocess` resize or resize_pad; got .*'letterbox'"),
        ("{", "is not JSON"),
        ("[1]", "found list"),
        (
            '{"color": "BGR"}',
            r"onnx\.metadata\.json: unknown key `color`, did you mean `colour`\?",
        ),
        ('{"zzz": 1}', r"unknown key `zzz`, there are img_size, mean, std, range, "),
        ('{"range": 256}', r"`range` 1 or 255, .*; got \{'img_size': \[24, 16\], 'range': 256\}"),
        ('{"range": "255"}', "`range` 1 or 255"),
        ('{"normalised": "within"}', "`normalised` inside or outside, .*'within'"),
        ('{"colour": "BRG"}', "`colour` RGB or BGR"),
        ('{"std": [0, 1, 1]}', "`std` of three numbers each"),
        ('{"img_size": 256}', r"`img_size` must be \[height, width\], got 256"),
        ('{"img_size": [256, 128, 3]}', r"`img_size` must be \[height, width\], got \[256, 128, 3\]"),
    ],
)
def test_a_sidecar_that_asks_for_more_is_named(tmp_path, told, message):
    path = write_onnx(tmp_path / "other.onnx")
    (tmp_path / "other.onnx.metadata.json").write_text(told)
    with pytest.raises(ValueError, match=message):
        load_embedder(path)


def test_files_of_another_contract_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="no ONNX file"):
        load_embedder(tmp_path / "gone.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="is no ONNX model"):
        load_embedder(tmp_path / "text.onnx")
    with pytest.raises(ValueError, match=r"takes images tensor\(double\).*expected one input"):
        OnnxBackbone(write_onnx(tmp_path / "double.onnx", kind=TensorProto.DOUBLE))
    with pytest.raises(ValueError, match=r"gives \(1, 3, 2, 2\) for 1 pictures; expected \(N, D\)"):
        load_embedder(write_onnx(tmp_path / "maps.onnx", output=("N", 3, 2, 2)))


def test_pictures_of_another_size_or_type_are_named(tmp_path, images):
    model = load_embedder(write_onnx(tmp_path / "other.onnx"))
    for wrong in (images.float(), images[:, :, :12]):
        with pytest.raises(ValueError, match=r"other.onnx takes a tensor of uint8 pictures \(B, 3, 24, 16\), got"):
            model.embed(wrong)
    with pytest.raises(ValueError, match=r"got str \(\); `aelm.embed` reads picture files"):
        model.embed("person.jpg")


def test_without_onnxruntime_the_command_that_installs_it_is_named(tmp_path, monkeypatch):
    path = write_onnx(tmp_path / "other.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aelm\[export\]'"):
        load_onnx(path)


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    description = describe(NETWORK, 5, PREPROCESSING, [f"x:{i}" for i in range(5)])
    network = build(NETWORK)(num_ids=5, mean=PREPROCESSING["mean"], std=PREPROCESSING["std"]).eval()
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, checkpoint.KEY: description}, tmp_path / "best.ckpt")
    return network, tmp_path / "best.ckpt"


def test_a_checkpoint_embeds_with_its_own_preprocessing(saved):
    network, path = saved
    model = load_embedder(path)
    assert (model.height, model.width, model.dim, model.interpolation) == (64, 32, 12, "bilinear")
    assert (model.mean, model.std) == ((0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    images = torch.randint(256, (3, 3, 64, 32), dtype=torch.uint8)
    torch.testing.assert_close(model.to("cpu").embed(images), network.embed(images))
    assert model.has_maps
    assert np.allclose(model.embed(images).norm(dim=1), 1)


def test_a_checkpoint_that_does_not_tell_its_preprocessing_is_named(saved):
    content = torch.load(saved[1], weights_only=True)
    del content[checkpoint.KEY]["preprocessing"]["width"]
    torch.save(content, saved[1])
    with pytest.raises(ValueError, match=r"`preprocessing` lacks \['width'\]"):
        load_embedder(saved[1])


class Session:
    """Stands for onnxruntime's, and notes what it was asked to run on."""

    asked: ClassVar[list] = []
    built_for_cuda = True

    def __init__(self, path, options, providers):
        self.asked.append(providers)
        self.real = REAL(path, options, ["CPUExecutionProvider"])
        self.get_inputs, self.get_outputs, self.run = self.real.get_inputs, self.real.get_outputs, self.real.run

    def get_providers(self):
        return ["CUDAExecutionProvider"] if self.built_for_cuda else ["CPUExecutionProvider"]


def session_on(monkeypatch, tmp_path, device, built_for_cuda=True):
    """An ONNX backbone that was given pictures of a make-believe device; the providers that were asked for."""
    found = ["CUDAExecutionProvider", "CPUExecutionProvider"] if built_for_cuda else ["CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "InferenceSession", Session)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: found)
    monkeypatch.setattr(Session, "asked", [])
    monkeypatch.setattr(Session, "built_for_cuda", built_for_cuda)
    backbone = OnnxBackbone(write_onnx(tmp_path / "other.onnx"))
    with FakeTensorMode():
        pictures = torch.zeros(2, 3, HEIGHT, WIDTH, device=device)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda self: torch.zeros(self.shape))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self)
    for _ in range(2):
        backbone(pictures)
    return Session.asked


def test_an_onnx_file_runs_on_the_device_of_the_pictures(tmp_path, monkeypatch, caplog):
    first, *more = session_on(monkeypatch, tmp_path, "cuda:1")
    assert first == ["CPUExecutionProvider"]  # it is read before anybody says where it shall run
    assert more == [[("CUDAExecutionProvider", {"device_id": 1, "use_tf32": 0}), "CPUExecutionProvider"]]
    assert not caplog.records


def test_an_onnx_file_on_the_cpu_leaves_gpus_alone(tmp_path, monkeypatch):
    assert session_on(monkeypatch, tmp_path, "cpu") == [["CPUExecutionProvider"]]


def test_an_onnxruntime_without_cuda_says_once_that_it_runs_on_the_cpu(tmp_path, monkeypatch, caplog):
    assert session_on(monkeypatch, tmp_path, "cuda:1", built_for_cuda=False)[1:] == [["CPUExecutionProvider"]]
    (record,) = caplog.records
    assert record.getMessage().startswith("other.onnx runs on the CPU: this onnxruntime cannot use cuda:1")


def test_one_path_is_not_its_letters_and_paths_are_taken(tmp_path):
    write_people(str(tmp_path / "crops"), 2)
    embedder = load_embedder(save_model(tmp_path / "model.ckpt"))
    files = sorted((tmp_path / "crops").iterdir())
    whole = embed_files(embedder, [str(file) for file in files])
    assert np.array_equal(embed_files(embedder, files), whole)
    assert np.allclose(embed_files(embedder, files[0]), whole[:1], atol=1e-6)
    assert np.allclose(embed_files(embedder, str(files[0])), whole[:1], atol=1e-6)
    with pytest.raises(TypeError, match="expected a list, got NoneType"):
        embed_files(embedder, None)
