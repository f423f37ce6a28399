"""Writing and running exported files: ONNX and torch.export, in float32, float16 or int8.

Of files of lower precision, inputs and outputs are unchanged; int8 is calibrated on pictures.
"""

import hashlib
import importlib
import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from aelm.devices import full_precision
from aelm.embed.embedder import Embedder
from aelm.files import hold_file, write_file
from aelm.models.layouts import sidecar_path
from aelm.models.onnx import OnnxBackbone, disable_telemetry, open_session
from aelm.types import InputError, MissingPackageError

Precision = Literal["fp32", "fp16", "int8"]
FEWEST, MOST, BATCH = 8, 256, 16  # numbers of calibration pictures, and their batch size


def halve(path: Path) -> None:
    """Converts weights and computation to float16, in place; embeddings are still normalised in float32."""
    disable_telemetry()
    import onnx
    from onnxruntime.transformers import float16

    kept = [*float16.DEFAULT_OP_BLOCK_LIST, "ReduceL2", "Clip", "Div"]
    model = float16.convert_float_to_float16(onnx.load(path), keep_io_types=True, op_block_list=kept)
    onnx.save(model, path)


def quantise(path: Path, images: Tensor, name: str) -> None:
    """Quantises convolutions and matrix products to int8, in place: QDQ, per-channel scales, ranges from ``images``.

    Weights have 7 bits: with 8, processors without VNNI overflow when they add two products in 16 bits, and the file
    would give different results there.

    Args:
        path: The file.
        images: ``(n, 3, height, width)``, as the file's input.
        name: Of that input.
    """
    disable_telemetry()
    from onnxruntime import quantization as quant

    class Reader(quant.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.parts: Iterator[Tensor] = (images[i : i + BATCH] for i in range(0, len(images), BATCH))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {name: part.numpy()}

    beside = path.with_name(f"{path.stem}.int8{path.suffix}")
    try:
        quant.quantize_static(
            path,
            beside,
            Reader(),
            quant_format=quant.QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Gemm", "MatMul"],
            per_channel=True,
            reduce_range=True,
            activation_type=quant.QuantType.QUInt8,
            weight_type=quant.QuantType.QInt8,
        )
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def check_precision(precision: Precision, format: str, calibration: Tensor | None) -> None:
    """Raises ValueError if the precision does not fit the format, or its calibration is missing or not needed."""
    if precision != "fp32" and format != "onnx":
        raise InputError(f"`precision` {precision} needs format onnx, got {format}")
    if (precision == "int8") != (calibration is not None):
        raise InputError(
            "`precision` int8 needs `calibrate`, a folder of a few hundred pictures of people as the model will see "
            f"them, and no other takes it; got precision {precision} and {'none' if calibration is None else 'some'}"
        )
    if calibration is not None and len(calibration) < FEWEST:
        raise InputError(
            f"`calibrate` needs {FEWEST} pictures or more, better a few hundred; {len(calibration)} could be read"
        )


INPUT, OUTPUT = "images", "output0"  # names that trackers expect
NEWEST_IR = 10  # common runtimes do not read newer versions
LIBRARIES = ("aelm", "torch", "timm")


def write_onnx(graph: nn.Module, example: Tensor, path: Path, opset: int) -> dict[str, Any]:
    """Writes an ONNX file and returns its format and versions for the metadata."""
    disable_telemetry()
    import onnx

    with quiet():
        torch.onnx.export(
            graph,
            (example,),
            path,
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    model = onnx.load(path)
    model.ir_version = min(model.ir_version, NEWEST_IR)
    for part in (model.graph, *model.graph.node, *model.graph.value_info):
        part.ClearField("metadata_props")  # the exporter's notes, half of a small network's file
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"format": "onnx", "opset": written, "ir_version": model.ir_version, "versions": versions("onnx")}


def write_torch(graph: nn.Module, example: Tensor, path: Path) -> dict[str, Any]:
    """Writes a file for ``torch.export.load`` and returns its format and versions for the metadata."""
    with quiet(), torch.no_grad():
        program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, path)
    return {"format": "torch_export", "opset": None, "versions": versions()}


@contextmanager
def quiet() -> Iterator[None]:
    """Hides the exporters' warnings and log messages; exceptions still propagate."""
    loggers = [logging.getLogger(name) for name in ("", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def onnx_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Returns a function that runs the file with onnxruntime."""
    session = open_session(path)
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def torch_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """Returns a function that loads the file and runs it with PyTorch."""
    return torch.export.load(path).module()


def versions(*more: str) -> dict[str, str]:
    """Versions of the libraries used, and of ``more``."""
    return {name: version(name) for name in (*LIBRARIES, *more)}


Format = Literal["onnx", "torch_export"]
Preprocessing = Literal["outside", "inside"]
SUFFIXES: Mapping[str, str] = {"onnx": ".onnx", "torch_export": ".pt2"}

BATCHES = (1, 2, 7)
TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.2}


class Exported(NamedTuple):
    """The files of an export.

    Attributes:
        path: The model.
        sidecar: Its metadata, as JSON.
        difference: The largest absolute difference from PyTorch's embeddings, over all checked batches.
    """

    path: Path
    sidecar: Path
    difference: float


class Embedding(nn.Module):
    """The exported graph: pictures to unit embeddings, without the parts used only in training."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.network = embedder.network
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        return self.network.embed(images)


def export_model(
    embedder: Embedder,
    path: str | Path,
    format: Format = "onnx",
    *,
    preprocessing: Preprocessing = "outside",
    precision: Precision = "fp32",
    calibration: Tensor | None = None,
    opset: int = 18,
    tolerance: float | None = None,
) -> Exported:
    """Writes the model and ``<file>.metadata.json``, after comparing it with PyTorch at batch 1, 2 and 7.

    Only the batch size is dynamic: input ``images`` ``(N, 3, height, width)``, output ``output0`` ``(N, D)`` of unit
    length.

    Args:
        embedder: From a checkpoint, or a file of another project, on the CPU.
        path: The file to write; its suffix must fit ``format``. An existing file is replaced after the check.
        format: ``onnx``, or ``torch_export`` for ``torch.export.load``.
        preprocessing: ``outside``: input pictures are float RGB / 255, normalised with mean and std. ``inside``: uint8
            RGB. The caller resizes in both cases.
        precision: Of the computation in ONNX files, also ``fp16`` and ``int8``; input and output types are the same as
            with ``fp32``.
        calibration: For ``int8``: ``(n, 3, height, width)`` uint8 RGB, at least 8 typical pictures.
        opset: Requested from the ONNX exporter; the metadata names the one written.
        tolerance: Largest absolute difference between unit embeddings; None: 1e-4, for ``fp16`` 1e-2, and for ``int8``
            0.2, compared on ``calibration``.

    Raises:
        ModuleNotFoundError: If a package for ONNX is not installed.
        RunError: If another process writes to ``path``.
        ValueError: If an option is unknown, the model is already an ONNX file, or the file's embeddings differ from
            PyTorch's; then nothing is kept.
    """
    path = Path(path)
    _check(embedder, path, format, preprocessing, precision)
    check_precision(precision, format, calibration)
    limit = TOLERANCES[precision] if tolerance is None else tolerance
    if not limit >= 0:
        raise InputError(f"`tolerance` must be 0 or more, got {tolerance}")
    with hold_file(path):
        return _export(embedder, path, format, preprocessing, precision, calibration, opset, limit)


def _export(
    embedder: Embedder,
    path: Path,
    format: Format,
    preprocessing: Preprocessing,
    precision: Precision,
    calibration: Tensor | None,
    opset: int,
    tolerance: float,
) -> Exported:
    beside = path.with_name(f".{os.getpid()}.{path.name}")  # writers recognise the format by its suffix
    graph, example = Embedding(embedder), sample_pictures(embedder, 2, preprocessing)
    seen = None if calibration is None else as_taken(calibration, embedder, preprocessing)
    try:
        if format == "onnx":
            facts = write_onnx(graph, example, beside, opset)
            with quiet():
                if precision == "fp16":
                    halve(beside)
                elif seen is not None:
                    quantise(beside, seen, INPUT)
            run = onnx_runner(beside)
        else:
            facts = write_torch(graph, example, beside)
            run = torch_runner(beside)
        difference = largest_difference(graph, run, embedder, preprocessing, seen)
        if not difference <= tolerance:
            raise InputError(
                f"the {format} file differs from PyTorch by {difference:.2g}, more than `tolerance` {tolerance:g}; "
                "it was not kept"
            )
        content = metadata(embedder, preprocessing) | {"precision": precision} | facts | {"max_difference": difference}
        content["artifact_sha256"] = hashlib.sha256(beside.read_bytes()).hexdigest()
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    text = json.dumps(content, indent=2) + "\n"
    return Exported(path, write_file(sidecar_path(path), lambda file: file.write(text.encode())), difference)


def _check(embedder: Embedder, path: Path, format: str, preprocessing: str, precision: str) -> None:
    for name, value, known in (("format", format, get_args(Format)),
                               ("preprocessing", preprocessing, get_args(Preprocessing)),
                               ("precision", precision, get_args(Precision))):  # fmt: skip
        if value not in known:
            raise InputError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")
    if isinstance(embedder.network.backbone, OnnxBackbone):
        raise InputError(
            f"{embedder.name} is an ONNX file already; export takes a checkpoint, or another project's trained file"
        )
    if path.suffix.lower() != SUFFIXES[format]:
        raise InputError(f"`output` of format {format} must end in {SUFFIXES[format]}, got {str(path)!r}")
    if format == "onnx":
        require("onnx", "onnxscript", "onnxruntime")


def require(*names: str) -> None:
    """Imports the packages that an export needs.

    Raises:
        ModuleNotFoundError: If one is not installed; the message names the command that installs it.
    """
    missing = []
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError:
            missing.append(name)
    if missing:
        raise MissingPackageError(f"the export needs {', '.join(missing)}: pip install 'aelm[export]'")


def sample_pictures(embedder: Embedder, count: int, preprocessing: Preprocessing, seed: int = 0) -> Tensor:
    """Random input pictures ``(count, 3, height, width)`` for the exported file: blocks of colour with noise."""
    generator = torch.Generator().manual_seed(seed)
    blocks = torch.rand(count, 3, 8, 4, generator=generator)
    smooth = nn.functional.interpolate(blocks, (embedder.height, embedder.width), mode="bilinear")
    noise = torch.rand(smooth.shape, generator=generator)
    return as_taken((255 * (0.8 * smooth + 0.2 * noise)).to(torch.uint8), embedder, preprocessing)


def as_taken(images: Tensor, embedder: Embedder, preprocessing: Preprocessing) -> Tensor:
    """Converts pictures ``(n, 3, height, width)`` uint8 to the input of the exported file."""
    if preprocessing == "inside":
        return images
    mean, std = (torch.tensor(values)[:, None, None] for values in (embedder.mean, embedder.std))
    return (images / 255 - mean) / std


def largest_difference(
    graph: nn.Module,
    run: Callable[[Tensor], Tensor],
    embedder: Embedder,
    preprocessing: Preprocessing,
    seen: Tensor | None = None,
) -> float:
    """Largest difference between ``run`` and PyTorch on batches of 1, 2 and 7 pictures: random ones, or ``seen``.

    Raises:
        ValueError: If the shapes differ.
    """
    largest = 0.0
    for count in BATCHES:
        images = sample_pictures(embedder, count, preprocessing, seed=count) if seen is None else seen[:count]
        with torch.inference_mode(), full_precision():
            expected, found = graph(images), run(images)
        if found.shape != expected.shape:
            raise InputError(
                f"the exported file gives {tuple(found.shape)} for a batch of {count}, PyTorch {tuple(expected.shape)}"
            )
        gap = float((found - expected).abs().max())
        largest = gap if gap != gap else max(largest, gap)  # keeps NaN, which every comparison would drop
        if largest != largest:
            break
    return largest


def metadata(embedder: Embedder, preprocessing: Preprocessing) -> dict[str, Any]:
    """Facts that programs need to use the file, under the keys of trackers (BoxMOT's schema 1) and aelm."""
    size = [embedder.height, embedder.width]
    return {
        "schema_version": 1,
        "model_name": "aelm",
        "model_kwargs": {"img_size": size},
        "num_classes": len(embedder.labels),
        "preprocess": embedder.preprocess,
        "img_size": size,
        "batch_contract": "dynamic",
        "dynamic_batch": True,
        "input_name": INPUT,
        "output_names": [OUTPUT],
        "input_shape": ["N", 3, *size],
        "output_shape": ["N", embedder.dim],
        "input_type": "uint8" if preprocessing == "inside" else "float32",
        "colour": "RGB",
        "normalised": preprocessing,
        "mean": list(embedder.mean),
        "std": list(embedder.std),
        "interpolation": embedder.interpolation,
        "source": embedder.name,
        "source_sha256": embedder.sha256,
    }
