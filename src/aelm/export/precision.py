"""Lower precision for exported files: float16, and int8 calibrated on pictures; inputs and outputs are unchanged."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from aelm.models.onnx import disable_telemetry
from aelm.types import InputError

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
