"""Embedders: models that turn pictures into embeddings, from aelm's checkpoints or files of other projects.

And how long one takes for a picture.
"""

import hashlib
import json
import logging
import os
import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from aelm.checkpoint import KEY, STARTER, checkpoint_file, network_of, read_file
from aelm.data import recipe
from aelm.data.synthetic import shoot
from aelm.data.transforms import Preprocess
from aelm.devices import full_precision
from aelm.models import ReIDNetwork
from aelm.models.layouts import Facts, sidecar, sidecar_path
from aelm.models.onnx import load_onnx
from aelm.models.trained import load_trained
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, InputError

log = logging.getLogger(__name__)

Precision = Literal["32", "bf16", "16"]
HALVES = {"bf16": torch.bfloat16, "16": torch.float16}


@dataclass(frozen=True)
class Embedder:
    """A network in evaluation mode, and how to prepare pictures for it.

    Attributes:
        network: The network itself, for heat maps and evaluation.
        height: Of the input pictures, in pixels.
        width: Likewise.
        mean: Of RGB / 255; ``embed`` normalises with it, on the network's device.
        std: Likewise.
        interpolation: How pictures are resized; ``bilinear`` is OpenCV's, without antialiasing.
        dim: Dimension D of the embeddings.
        name: The file's name, without the folder.
        sha256: Of the file's content and its sidecar; identifies the model that made embeddings.
        labels: The training identity of each label, ``"market1501:2"``; empty if the file does not contain them.
        precision: Of the computation: ``32``: float32, without TF32; ``bf16`` or ``16``: torch's autocast to bfloat16
            or float16. Embeddings are always float32.
        config: The configuration of the training; empty if the file does not contain it.
        preprocess: Whether pictures are stretched to that size (``resize``), or padded to it (``resize_pad``).
        given: The ``size`` and ``camera`` that :func:`load_embedder` was given; with them the same model loads again.
        file: Where the file lies; empty if the network came from none.
    """

    network: ReIDNetwork
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    dim: int
    name: str
    sha256: str
    labels: tuple[str, ...] = ()
    precision: Precision = "32"
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Preprocess = "resize"
    given: Mapping[str, Any] = field(default_factory=dict)
    file: str = ""

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return self.network.mean.device

    @property
    def pictures(self) -> dict[str, Any]:
        """Arguments of :func:`aelm.data.recipe` for preparing pictures."""
        return {"height": self.height, "width": self.width, "preprocess": self.preprocess}

    @property
    def has_maps(self) -> bool:
        """Whether heat maps are available; ONNX files of other projects do not expose feature maps."""
        return any(hasattr(module, "embedding_maps") for module in self.network.modules())

    def to(self, device: torch.device | str) -> "Embedder":
        """Moves the network to ``device``; returns the embedder itself."""
        self.network.to(device)
        if torch.device(device).type == "cuda" and self.precision in HALVES:  # tensor cores want channels last
            self.network.to(memory_format=torch.channels_last)
        return self

    @torch.inference_mode()
    def embed(self, images: Tensor) -> Tensor:
        """Embeddings ``(B, D)`` float32 of unit length, on the network's device.

        Args:
            images: ``(B, 3, height, width)`` uint8 RGB, on any device.

        Raises:
            ValueError: If the pictures have another size or type.
        """
        wanted = (3, self.height, self.width)
        if (
            not isinstance(images, Tensor)
            or images.dtype != torch.uint8
            or images.ndim != 4
            or tuple(images.shape[1:]) != wanted
        ):
            kind, shape = getattr(images, "dtype", type(images).__name__), getattr(images, "shape", ())
            raise InputError(
                f"{self.name} takes a tensor of uint8 pictures (B, {wanted[0]}, {wanted[1]}, {wanted[2]}), "
                f"got {kind} {tuple(shape)}; `aelm.embed` reads picture files"
            )
        images = images.to(self.device, non_blocking=True)
        with ExitStack() as stack:
            stack.enter_context(full_precision())
            if self.precision in HALVES:
                stack.enter_context(torch.autocast(self.device.type, HALVES[self.precision]))
            # The network normalises in float32.
            return self.network.embed(images).float()


def load_embedder(
    path: str | Path = STARTER,
    allow: Sequence[str] = (),
    *,
    precision: Precision = "32",
    size: Sequence[int] | None = None,
    camera: int | None = None,
) -> Embedder:
    """Loads an embedder from a file, on the CPU.

    Args:
        path: A checkpoint that ``aelm.train`` wrote, its run directory (for ``best.ckpt``), an ONNX file with BoxMOT's
            contract (``.onnx``), or a file that another project trained (``docs/trained_weights.md``); ``starter``
            for the model that comes with aelm.
        allow: Dotted names, beyond aelm's own parts, that a checkpoint may build.
        precision: See :class:`Embedder`.
        size: Height and width of pictures, for files of other projects that do not state it; None: from file, sidecar
            or layout.
        camera: Camera that took the pictures, from 0, for networks with camera embeddings (SIE); None: from the
            sidecar, else the mean of all.

    Raises:
        FileNotFoundError: If there is no such file.
        ModuleNotFoundError: If an ONNX file is given and onnxruntime is not installed.
        ValueError: If it is not a model, uses a name that is not allowed, or ``precision`` is unknown or does not fit.
    """
    if precision not in get_args(Precision):
        raise InputError(f"`precision` must be one of {', '.join(get_args(Precision))}, got {precision!r}")
    path, labels, config = checkpoint_file(path), tuple[str, ...](), dict[str, Any]()
    given: dict[str, Any] = {} if size is None else {"size": list(size)}
    given |= {} if camera is None else {"camera": camera}
    told: Mapping[str, Any] = {}
    interpolation, preprocess = "bilinear", "resize"
    if path.suffix.lower() == ".onnx":
        if precision != "32":
            raise InputError(f"`precision` must be 32 for {path.name}, got {precision}: an ONNX file has its own types")
        network, facts, told = load_onnx(path, size)
        (height, width), mean, std, _, preprocess = facts
        size = None
        if sidecar(path).get("model_name") != "aelm":
            warn_of_range(network, facts, path)
    elif isinstance(content := read_file(path), dict) and {KEY, "state_dict"} <= content.keys():
        network, says = network_of(content, path, allow), content[KEY]["preprocessing"]
        lacking = [key for key in ("height", "width", "interpolation") if key not in says]
        if lacking:
            raise InputError(f"{path} does not say how pictures are prepared: `preprocessing` lacks {lacking}")
        height, width, interpolation = int(says["height"]), int(says["width"]), str(says["interpolation"])
        preprocess = says.get("preprocess", "resize")
        mean, std = network.normalised
        labels, config = tuple(content[KEY]["labels"]), content[KEY]["config"]
    else:
        network, ((height, width), mean, std, _, preprocess), told = load_trained(path, content, size, camera)
        size = camera = None
    if size is not None:
        raise InputError(f"`size`: {path.name} says itself how large pictures are, {height} x {width}; leave it out")
    if camera is not None:
        raise InputError(f"`camera`: {path.name} has no embeddings of cameras (SIE) to choose from; leave it out")
    with torch.inference_mode():
        dim = network.embed(torch.zeros(1, 3, height, width, dtype=torch.uint8)).shape[1]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if told:
        digest = hashlib.sha256((digest + json.dumps(told, sort_keys=True, default=str)).encode()).hexdigest()
    return Embedder(
        network, height, width, mean, std, interpolation, dim, path.name, digest, labels, precision, config, preprocess,
        given, os.path.abspath(path),
    )  # fmt: skip


@torch.inference_mode()
def warn_of_range(network: ReIDNetwork, facts: Facts, path: Path) -> None:
    """Warns if a network separates six synthetic people much better with the other colour range (255 or 1).

    A network that normalises inside sees numbers around 0 as a black picture: all features are nearly the same. A wrong
    mean of 0..1 or a wrong colour order cannot be detected this way: see ``docs/export.md``.
    """
    prepare = recipe(*facts.size, preprocess=facts.preprocess).test
    people = np.stack([prepare(shoot(0, identity, 1 + identity % 4, 0).image) for identity in range(6)])
    images = torch.from_numpy(people).permute(0, 3, 1, 2) / 255
    takes_pixels = max(facts.std) < 1 / 25
    other = (IMAGENET_MEAN, IMAGENET_STD) if takes_pixels else ((0.0,) * 3, (1 / 255,) * 3)
    spreads = []
    for mean, std in ((facts.mean, facts.std), other):
        found = network.embed((images - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None])
        spreads.append(1 - float((found @ found.T).fill_diagonal_(0).sum()) / (len(found) * (len(found) - 1)))
    if spreads[1] > 4 * spreads[0]:
        log.warning(
            "%s: features of different people differ by %.2g (1 minus cosine), and by %.2g if colours run from 0 to "
            "%d: is that what it was trained with? \"range\": %d in %s says so",
            path.name, *spreads, *(1 if takes_pixels else 255,) * 2, sidecar_path(path).name,
        )  # fmt: skip


WARM_UP, FEWEST, SECONDS = 3, 7, 1.0


def latency(embedder: Embedder, batches: Sequence[int] = (1, 32)) -> dict[int, float]:
    """Milliseconds per picture by batch size, from uint8 pictures in CPU memory to embeddings in CPU memory.

    The median of at least seven runs and one second, after three warm-up runs; without decoding and resizing.

    Args:
        embedder: On the device to run on.
        batches: Batch sizes.

    >>> from aelm.models import AELM, ReIDNetwork
    >>> network = ReIDNetwork(torch.nn.Conv2d(3, 16, 8, stride=8), 5, lambda c: torch.nn.Identity(), AELM).eval()
    >>> sorted(latency(Embedder(network, 64, 32, (0,) * 3, (1,) * 3, "bilinear", 1024, "x", "")))
    [1, 32]
    """
    found = {}
    for count in batches:
        generator = torch.Generator().manual_seed(count)
        shape = (count, 3, embedder.height, embedder.width)
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        taken: list[float] = []
        while len(taken) < WARM_UP + FEWEST or sum(taken[WARM_UP:]) < SECONDS:
            start = time.perf_counter()
            embedder.embed(images).cpu()  # waits for the device
            taken.append(time.perf_counter() - start)
        found[count] = 1000 * statistics.median(taken[WARM_UP:]) / count
    return found


def device_and_threads(device: torch.device) -> str:
    """The device that a time was measured on: a GPU's name, or the CPU and its threads."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
