"""ONNX models of other projects, as a backbone whose map has one position."""

import logging
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aelm.models.layouts import Facts, Given, Trained, facts_of, sidecar, sidecar_path
from aelm.models.network import ReIDNetwork
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, HeadOutput, InputError, MissingPackageError

log = logging.getLogger(__name__)
CPU = torch.device("cpu")
CUDA_PROVIDER = "CUDAExecutionProvider"


def disable_telemetry() -> None:
    """Disables onnxruntime's telemetry; must run before anything imports it, including torch's exporters.

    Version 1.32 would store a machine identifier in the home directory and send reports; ``ORT_DISABLE_TELEMETRY=0``
    allows it.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


# Types of numbers that an ONNX file may take.
INPUT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16, "tensor(uint8)": np.uint8}
ERRORS = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoSuchFile", "NotImplemented",
          "RuntimeException")  # fmt: skip


class OnnxBackbone(nn.Module):
    """An ONNX embedder as a backbone: its embedding of a picture is a map with one position.

    BoxMOT's contract, unless the sidecar says otherwise: one input ``(N, 3, H, W)``, float RGB / 255 and
    ImageNet-normalised, or uint8 RGB; the first output ``(N, D)``. With a fixed N, batches are split into parts of that
    size. Runs on the CUDA device of the pictures if onnxruntime-gpu is installed, else on the CPU; results are returned
    on the device of the pictures.

    Args:
        path: The ``.onnx`` file; a sidecar file beside it may state size, normalisation and colours.
        size: Height and width of pictures, if the graph leaves them open.

    Attributes:
        facts: How pictures are prepared for it.
        usual: How they would be prepared if only their size were known.
        is_fixed: Whether the graph itself fixes their size.
        size: Height and width of its input pictures, in pixels.

    Shape:
        images ``(B, 3, H, W)`` -> ``(B, D, 1, 1)``.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If onnxruntime is not installed.
        ValueError: If it is not an ONNX model, or has another contract.
    """

    def __init__(self, path: str | Path, size: Sequence[int] | None = None) -> None:
        super().__init__()
        self.path = Path(path)
        self.session = open_session(self.path)
        self.device = CPU  # of the session
        entry, *more = self.session.get_inputs()
        if more or len(entry.shape) != 4 or entry.shape[1] != 3 or entry.type not in INPUT_TYPES:
            found = ", ".join(f"{i.name} {i.type} {i.shape}" for i in (entry, *more))
            raise InputError(f"{path} takes {found}; expected one input (N, 3, H, W), float or uint8")
        self.entry, self.numbers = entry.name, INPUT_TYPES[entry.type]
        self.exit = self.session.get_outputs()[0].name
        self.batch = entry.shape[0] if isinstance(entry.shape[0], int) else None
        given = dict(sidecar(self.path))
        given["img_size"] = picture_size(self.path, entry.shape, given, size)
        normalised = (IMAGENET_MEAN, IMAGENET_STD)
        if self.numbers is np.uint8:  # always raw pixels; the other facts describe what the graph does itself
            given = {key: given[key] for key in ("img_size", "colour", "preprocess") if key in given}
            normalised = ((0.0, 0.0, 0.0), (1 / 255, 1 / 255, 1 / 255))
        self.is_fixed = all(isinstance(side, int) for side in entry.shape[2:])
        self.usual = Facts((given["img_size"][0], given["img_size"][1]), *normalised)
        self.facts = facts_of(self.usual, given, self.path)
        self.size = self.facts.size

    def forward(self, images: Tensor) -> Tensor:
        if images.device != self.device:
            self.session, self.device = open_session(self.path, images.device), images.device
        values = images.detach().cpu().numpy()
        if self.facts.colour == "BGR":
            values = values[:, ::-1]
        ready = np.rint(values) if self.numbers is np.uint8 else values
        ready = ready.astype(self.numbers, copy=False)
        step = self.batch or max(len(ready), 1)
        parts = [self._run(ready[i : i + step]) for i in range(0, len(ready), step)]
        return torch.from_numpy(np.concatenate(parts)).to(images.device)[:, :, None, None]

    def _run(self, part: NDArray[Any]) -> NDArray[np.float32]:
        """At most one batch, ``(b, 3, H, W)`` -> ``(b, D)``; for a larger fixed batch the last picture is repeated."""
        missing = (self.batch or len(part)) - len(part)
        whole = np.concatenate([part, *[part[-1:]] * missing]) if missing else part
        try:
            output = self.session.run([self.exit], {self.entry: np.ascontiguousarray(whole)})[0]
        except errors() as error:
            raise InputError(
                f"{self.path} does not run on pictures {tuple(whole.shape)}: {str(error)[:300]}"
            ) from error
        if output.ndim < 2 or len(output) != len(whole) or output[0].size != output.shape[1]:
            raise InputError(f"{self.path} gives {output.shape} for {len(whole)} pictures; expected (N, D)")
        features: NDArray[np.float32] = np.asarray(output, np.float32).reshape(len(whole), -1)[: len(part)]
        return features


class Passed(nn.Module):
    """Takes the place of the classifiers and returns embeddings unchanged, without identities or heat maps."""

    def forward(self, features: Tensor, pids: Tensor | None = None, *, explain: bool = False) -> HeadOutput:
        pooled = features.mean((2, 3))
        return HeadOutput(pooled, pooled, pooled.new_zeros(len(pooled), 0))


def load_onnx(path: str | Path, size: Sequence[int] | None = None) -> Trained:
    """An ONNX embedder as a network: ``embed``, evaluation and search work; heat maps do not.

    Args:
        path: The file; a sidecar may state size, normalisation and colours (:mod:`aelm.models.onnx`).
        size: Height and width of pictures, if the file leaves them open.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If onnxruntime is not installed.
        ValueError: If it is not an ONNX model, has another contract, or the sidecar is invalid.
    """
    backbone = OnnxBackbone(path, size)
    facts = backbone.facts
    network = ReIDNetwork(
        backbone, 0, lambda channels: nn.Identity(), lambda channels, num_ids: Passed(), facts.mean, facts.std
    ).eval()
    return Trained(network, facts, {} if facts == backbone.usual and backbone.is_fixed else facts._asdict())


def picture_size(path: Path, shape: list[int | str | None], given: Given, wanted: Sequence[int] | None) -> list[int]:
    """Height and width that the file's graph fixes; if it leaves them open, as requested, or as in the sidecar.

    Raises:
        ValueError: If none of them states it, or the graph differs from the requested size.
    """
    size = wanted or given.get("img_size") or [None, None]
    if not isinstance(size, Sequence) or len(size) != 2:
        raise InputError(f"what is given about {path}: `img_size` must be [height, width], got {size!r}")
    height, width = (own if isinstance(own, int) else given for own, given in zip(shape[2:], size, strict=True))
    if not isinstance(height, int) or not isinstance(width, int):
        raise InputError(
            f"{path} takes pictures of any size ({shape}), and {sidecar_path(path).name} does not say which: "
            'write {"img_size": [256, 128]} there (height, width), or give `size=[256,128]`'
        )
    if wanted is not None and list(wanted) != [height, width]:
        raise InputError(f"`size`: {path.name} says itself how large pictures are, {height} x {width}; leave it out")
    return [height, width]


def providers(device: torch.device, available: Collection[str]) -> list[Any]:
    """onnxruntime's providers for a device: float32 without TF32 on that CUDA device, else the CPU.

    >>> providers(torch.device("cuda:1"), ["CUDAExecutionProvider", "CPUExecutionProvider"])
    [('CUDAExecutionProvider', {'device_id': 1, 'use_tf32': 0}), 'CPUExecutionProvider']
    >>> providers(torch.device("cpu"), ["CUDAExecutionProvider", "CPUExecutionProvider"])
    ['CPUExecutionProvider']
    """
    on_cuda = device.type == "cuda" and CUDA_PROVIDER in available
    first = [(CUDA_PROVIDER, {"device_id": device.index or 0, "use_tf32": 0})] if on_cuda else []
    return [*first, "CPUExecutionProvider"]


def open_session(path: Path, device: torch.device = CPU) -> Any:
    """An onnxruntime session over a file, with as many threads as torch uses.

    Args:
        path: The file.
        device: Where to run; a CUDA device that onnxruntime cannot use gives a warning.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If onnxruntime is not installed.
        ValueError: If the file is not an ONNX model.
    """
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.onnx"))[:5] if path.parent.is_dir() else []
        raise FileNotFoundError(f"no ONNX file {path}; beside it: {', '.join(near) or 'none'}")
    runtime = onnxruntime()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors; warnings about node placement are of no use here
    try:
        session = runtime.InferenceSession(str(path), options, providers(device, runtime.get_available_providers()))
    except errors() as error:
        raise InputError(f"{path} is no ONNX model that onnxruntime can run: {str(error)[:300]}") from error
    # A runtime built for CUDA falls back to the CPU if it does not find the CUDA libraries.
    if device.type == "cuda" and CUDA_PROVIDER not in session.get_providers():
        log.warning(
            "%s runs on the CPU: this onnxruntime cannot use %s; pip install onnxruntime-gpu", path.name, device
        )
    return session


def onnxruntime() -> Any:
    """Imports the module, which only ONNX files need.

    Raises:
        ModuleNotFoundError: If it is not installed; the message names the command that installs it.
    """
    disable_telemetry()
    try:
        import onnxruntime as runtime
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "ONNX models need onnxruntime, which is not installed: pip install 'aelm[export]'"
        ) from error
    return runtime


def errors() -> tuple[type[Exception], ...]:
    """onnxruntime's exceptions; they have no common base class."""
    state = onnxruntime().capi.onnxruntime_pybind11_state
    return tuple(getattr(state, name) for name in ERRORS)
