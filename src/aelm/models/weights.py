"""Backbone weights from a local file, under the names that timm, torchvision, torchreid or fast-reid give them."""

import logging
import pickle
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

log = logging.getLogger(__name__)

WRAPPERS = ("state_dict", "model", "net", "network", "model_state_dict")
# What reading something else as a pickle or as tensors can raise.
NOT_DATA = (
    SafetensorError, pickle.UnpicklingError, struct.error, AttributeError, EOFError, LookupError, MemoryError,
    OverflowError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
# Plain numbers as numpy writes them: torchreid keeps its best rank-1 that way, under the module's name of then or now.
SCALAR: Any = np.float32(0).__reduce__()[0]
NUMBERS: list[Any] = [
    np.dtype,
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)),
]
PREFIXES = ("module.", "model.", "backbone.", "base.", "network.", "encoder.")


class WeightsReport(NamedTuple):
    """Keys ``matched`` were loaded, ``missing`` keep their random start, ``unused`` stood in the file only."""

    matched: list[str]
    missing: list[str]
    unused: list[str]


def load_weights(network: nn.Module, path: str | Path, *, at_least: float = 0.95) -> WeightsReport:
    """Loads what fits, by name and shape, from a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file, as data only.

    Args:
        network: What to fill, in place.
        path: The file.
        at_least: Share of the network's tensors that the file must hold.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no weights file, or holds too little of the network, or ``at_least`` is no share.
    """
    if not 0 < at_least <= 1:
        raise ValueError(f"`weights_at_least` must lie in (0, 1], got {at_least}")
    found = {_plain(key): (key, value) for key, value in read_state(path).items()}
    own = {key: value for key, value in network.state_dict().items() if not key.endswith("num_batches_tracked")}
    fits = {
        key: found[_plain(key)][1]
        for key, value in own.items()
        if _plain(key) in found and found[_plain(key)][1].shape == value.shape
    }
    used = {found[_plain(key)][0] for key in fits}
    left = (key for key, _ in found.values() if key not in used and not key.endswith("num_batches_tracked"))
    report = WeightsReport(sorted(fits), sorted(own.keys() - fits.keys()), sorted(left))
    if len(fits) < at_least * len(own):
        raise ValueError(
            f"{path} holds {len(fits)} of the backbone's {len(own)} tensors, {at_least:.0%} are needed. "
            f"Missing: {', '.join(report.missing[:3])}; in the file: {', '.join(report.unused[:3])}. "
            "Is it the file of another network? `model.backbone.name` must fit it; "
            "`model.backbone.weights_at_least` lowers the share that is needed"
        )
    network.load_state_dict(fits, strict=False)
    log.info(
        "%s: %d tensors loaded, %d missing (%s), %d unused (%s)",
        path, len(fits), len(report.missing), ", ".join(report.missing[:4]) or "none",
        len(report.unused), ", ".join(report.unused[:4]) or "none",
    )  # fmt: skip
    return report


def read_data(path: str | Path) -> Any:
    """What a ``.safetensors`` file or one of ``torch.save`` holds, on the CPU; nothing in the file is executed.

    Raises:
        ValueError: If it does not load as data.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, "cpu", weights_only=True)
    except NOT_DATA as error:
        raise ValueError(f"{path} does not load as data: {type(error).__name__}: {str(error)[:200]}") from error


def read_state(path: str | Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is no weights file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}: give an existing .pth or .safetensors file")
    content = read_data(path)
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    state = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not state:
        raise ValueError(f"{path} holds no tensors by name: expected a state dict, found {type(content).__name__}")
    return state


def _plain(key: str) -> str:
    """A key without the prefixes of other projects, and with one separator (timm flattens `stages.0` to `stages_0`)."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key.replace(".", "_")
