"""The files that exporters write, and how they are run: ONNX, and torch.export."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from aelm.foreign import open_session
from aelm.telemetry import keep_to_itself

INPUT, OUTPUT = "images", "output0"  # as trackers look for them
NEWEST_IR = 10  # runtimes in use do not read newer ones
LIBRARIES = ("aelm", "torch", "timm")


def write_onnx(graph: nn.Module, example: Tensor, path: Path, opset: int) -> dict[str, Any]:
    """Writes an ONNX file and returns the facts that only the file knows."""
    keep_to_itself()
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
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    written = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    return {"format": "onnx", "opset": written, "ir_version": model.ir_version, "versions": versions("onnx")}


def write_torch(graph: nn.Module, example: Tensor, path: Path) -> dict[str, Any]:
    """Writes a file for ``torch.export.load`` and returns the facts that only the file knows."""
    with quiet(), torch.no_grad():
        program = torch.export.export(graph, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},))
        torch.export.save(program, path)
    return {"format": "torch_export", "opset": None, "versions": versions()}


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps the exporters' remarks on their own internals to themselves; errors still rise."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
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
    """The file, run by onnxruntime."""
    session = open_session(path)
    return lambda images: torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])


def torch_runner(path: Path) -> Callable[[Tensor], Tensor]:
    """The file, read back and run by PyTorch."""
    return torch.export.load(path).module()


def versions(*more: str) -> dict[str, str]:
    """Versions of what took part."""
    return {name: version(name) for name in (*LIBRARIES, *more)}
