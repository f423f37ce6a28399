"""Weights files: read as data only, and loaded into a backbone by name."""

import errno
import logging
import pickle
import re
import struct
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aelm.files import kind_of
from aelm.types import InputError

log = logging.getLogger(__name__)
State = dict[str, Tensor]

WRAPPERS = ("state_dict", "model", "net", "network", "model_state_dict")
# Exceptions from reading other files as pickles or tensors.
NOT_DATA = (
    SafetensorError, pickle.UnpicklingError, struct.error, AttributeError, EOFError, LookupError, MemoryError,
    OverflowError, RuntimeError, TypeError, ValueError,
)  # fmt: skip
# Pickled numpy scalars, under numpy's old and new module names: torchreid stores its best rank-1 as one.
SCALAR: Any = np.float32(0).__reduce__()[0]
NUMBERS: list[Any] = [
    np.dtype,
    *((SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int32, np.int64)),
]
PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.", "base.", "network.", "encoder.")
COUNTER = "num_batches_tracked"
TENSORS = ("a file of torch.save", "a pickle", "a safetensors file", "a tar archive, which must be unpacked")
# Modules of pickled detectors.
DETECTORS = ("ultralytics.", "models.yolo", "models.common", "mmdet.", "yolox.", "detectron2.")
# Keys of heads and other parts in files, which a backbone does not need.
HEADS = re.compile(
    r"(fc|fc_norm|norm|heads?|classifiers?|last_linear|bottleneck|bnneck|global_pool|pixel_(mean|std)|conv_head|bn2)(?![a-z0-9])"
)


class WeightsReport(NamedTuple):
    """Keys: ``matched`` were loaded, ``missing`` keep their random values, ``unused`` are only in the file."""

    matched: list[str]
    missing: list[str]
    unused: list[str]


def load_weights(
    network: nn.Module,
    path: str | Path,
    *,
    at_least: float = 0.95,
    convert: Callable[[State, nn.Module], State] | None = None,
) -> WeightsReport:
    """Loads matching tensors by name from a ``.pth``, ``.pt``, ``.bin`` or ``.safetensors`` file, as data only.

    A warning names the tensors that stay random, and their share.

    Args:
        network: Network to load into, in place.
        path: The file.
        at_least: Minimum share of the network's tensors that the file must contain.
        convert: The network's converter for other files, like timm's ``checkpoint_filter_fn``; used if names or shapes
            differ. It also resizes position embeddings for another picture size.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a weights file, contains too little of the network, or a tensor of another shape; or if
            ``at_least`` is not in (0, 1].
    """
    if not 0 < at_least <= 1:
        raise InputError(f"`weights_at_least` must lie in (0, 1], got {at_least}")
    network = getattr(network, "model", network)  # timm wraps transformers to extract their maps
    content = read_state(path)
    written = {flat_key(bare(key)): key for key in content}  # names in the file, for messages
    own = {key: value for key, value in network.state_dict().items() if not key.endswith(COUNTER)}
    state = staged({bare(key): value for key, value in content.items() if not key.endswith(COUNTER)}, own)
    begin = wrapper_of(list(map(flat_key, own)), set(map(flat_key, state)), path)
    state = {key[len(begin) * flat_key(key).startswith(begin) :]: value for key, value in state.items()}
    found = {flat_key(key): value for key, value in state.items()}
    if convert is not None and any(
        flat_key(k) not in found or found[flat_key(k)].shape != v.shape for k, v in own.items()
    ):
        try:
            found = {flat_key(key): value for key, value in convert(dict(state), network).items()}
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            log.warning("%s cannot be converted to this network: %s: %s", path, type(error).__name__, error)
    fits = {
        k: found[flat_key(k)]
        for k, value in own.items()
        if flat_key(k) in found and found[flat_key(k)].shape == value.shape
    }
    used = {flat_key(key) for key in fits}
    unused = sorted(written.get(key, key) for key in found if key not in used)
    report = WeightsReport(sorted(fits), sorted(own.keys() - fits.keys()), unused)
    others = [
        f"{key} {tuple(found[flat_key(key)].shape)} instead of {tuple(own[key].shape)}"
        for key in report.missing
        if flat_key(key) in found
    ]
    shapes = f"; of another shape: {'; '.join(others[:3])}" if others else ""
    if len(fits) < at_least * len(own):
        raise InputError(
            f"{path} holds {len(fits)} of the backbone's {len(own)} tensors, {at_least:.0%} are needed. "
            f"Missing: {', '.join(report.missing[:3])}; in the file: {', '.join(report.unused[:3])}{shapes}. "
            "Is it the file of another network? `model.backbone.name` must fit it; "
            "`model.backbone.weights_at_least` lowers the share that is needed"
        )
    if others:
        raise InputError(
            f"{path} is of another network, or of another size: {len(others)} of the backbone's {len(own)} tensors are "
            f"{shapes[2:]}. `model.backbone.name` and `model.backbone.options` must fit it"
        )
    network.load_state_dict(fits, strict=False)
    extra = [key for key in report.unused if not HEADS.match(bare(key))]
    log.log(
        logging.WARNING if report.missing or extra else logging.INFO,
        "%s: %d tensors loaded, %d missing (%s), %d unused (%s)%s",
        path, len(fits), len(report.missing), ", ".join(report.missing[:8]) or "none",
        len(report.unused), ", ".join((extra or report.unused)[:8]) or "none",
        f": {len(report.missing) / len(own):.1%} of the backbone start at random" if report.missing else "",
    )  # fmt: skip
    return report


def read_data(path: str | Path) -> Any:
    """Reads a ``.safetensors`` file or one of ``torch.save``, on the CPU; nothing in the file is executed.

    Raises:
        ValueError: If it does not load as data.
    """
    path = Path(path)
    with path.open("rb") as file:
        kind = kind_of(file.read(512))
    try:
        if kind == "a safetensors file" or path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals(NUMBERS):
            return torch.load(path, "cpu", weights_only=True)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        raise InputError(f"{path} does not load as data: it is cut off, or something else than weights") from error
    except NOT_DATA as error:
        why = (
            loading_error(error)
            if not kind or kind in TENSORS
            else f"it is {kind}; expected a file of torch.save or safetensors"
        )
        raise InputError(f"{path} does not load as data: {why}") from error


def loading_error(error: Exception) -> str:
    """Why a file does not load as data, and the remedy, as far as torch's exception shows it."""
    reason = " ".join(str(error).split())
    pickled = re.search(r"(?:GLOBAL|[Uu]nsupported class|class or function) '?([\w.]+)", reason)
    if pickled and pickled[1].startswith(DETECTORS):
        return f"it is a pickled detector ({pickled[1]}), which finds people and does not tell them apart"
    if pickled:
        return (
            f"it holds pickled code ({pickled[1]}), which loading would run; save its tensors alone, in the project "
            "that made it: torch.save(model.state_dict(), 'weights.pth')"
        )
    cut = any(word in reason for word in ("central directory", "Ran out of input", "not fully covered", "too short"))
    return f"{type(error).__name__}: {reason[:200]}{'; is it whole? Copy or download it again' if cut else ''}"


def read_state(path: str | Path) -> State:
    """The tensors of a weights file by name.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a weights file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights file {path}: give an existing .pth or .safetensors file")
    return state_in(read_data(path), path)


def state_in(content: Any, path: str | Path) -> State:
    """The tensors in the output of :func:`read_data`, without wrappers; ``path`` is for error messages only.

    Raises:
        ValueError: If there are none.
    """
    for wrapper in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
    groups = [key for key, value in content.items() if holds_tensors(value)] if isinstance(content, Mapping) else []
    if groups and not holds_tensors(content):
        if len(groups) > 1:
            raise InputError(
                f"{path} holds several state dicts, {', '.join(map(str, groups))}: save the one that is meant"
            )
        content = content[groups[0]]
    state = (
        {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not state:
        raise InputError(f"{path} holds no tensors by name: expected a state dict, found {type(content).__name__}")
    return state


def holds_tensors(content: Any) -> bool:
    """Whether it is a mapping with tensors by name."""
    return isinstance(content, Mapping) and any(isinstance(value, Tensor) for value in content.values())


def wrapper_of(own: Collection[str], held: Collection[str], path: str | Path = "the file") -> str:
    """The prefix that a wrapper added to each key: the one that matches most of the network's keys.

    >>> wrapper_of(["conv1", "layer1_conv1"], ["student_conv1", "student_layer1_conv1", "head"])
    'student_'

    Raises:
        ValueError: If the file holds several such networks.
    """
    first = next(iter(own), "")
    begins = {"", *(key.removesuffix(first) for key in held if first and key.endswith(first))}
    matches = {begin: sum(begin + key in held for key in own) for begin in sorted(begins, key=lambda b: (len(b), b))}
    best = [begin for begin, count in matches.items() if count == max(matches.values())]
    if len(best) > 1 and best[0] and 2 * matches[best[0]] > len(own):
        raise InputError(
            f"{path} holds several networks of this kind, {', '.join(best)}...: save the weights of the one you mean"
        )
    return best[0]


def bare(key: str) -> str:
    """A key without the prefixes of other projects."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key


def flat_key(key: str) -> str:
    """A key with one separator: timm flattens `stages.0` to `stages_0`."""
    return key.replace(".", "_")


# lukemelas' EfficientNets and torchvision's MobileNetV2 number blocks consecutively; timm numbers them by stage.
STEMS = {
    **{"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2", "_fc": "classifier"},
    **{"features.0.0": "conv_stem", "features.0.1": "bn1", "features.18.0": "conv_head", "features.18.1": "bn2"},
}
BLOCK = re.compile(r"(_blocks\.\d+|features\.\d+\.conv|blocks\.\d+\.\d+)\.([\w.]+)\.(\w+)$")


def staged(state: State, own: Mapping[str, Any]) -> State:
    """Tensors of lukemelas' and torchvision's mobile networks under timm's names; others unchanged.

    Blocks, and the layers of a block, have the same order in both.

    Args:
        state: The file's.
        own: The network's, by timm's names.
    """
    if not any(stem + ".weight" in state for stem in ("_conv_stem", "features.0.0")):
        return state
    theirs, ours = layers_of_blocks(state), layers_of_blocks(own)
    names = dict(STEMS)
    for (block, layers), (place, parts) in zip(theirs.items(), ours.items(), strict=False):
        if len(layers) == len(parts):
            names |= {f"{block}.{layer}": f"{place}.{part}" for layer, part in zip(layers, parts, strict=True)}
    split = {key: key.rpartition(".") for key in state}
    return {f"{names.get(parts[0], parts[0])}.{parts[2]}": state[key] for key, parts in split.items()}


def layers_of_blocks(keys: Iterable[str]) -> dict[str, list[str]]:
    """The layers of each block of a mobile network, in order.

    >>> layers_of_blocks(["_blocks.0._bn1.weight", "_blocks.0._bn1.bias", "_blocks.1._bn0.bias", "_fc.bias"])
    {'_blocks.0': ['_bn1'], '_blocks.1': ['_bn0']}
    """
    found: dict[str, dict[str, None]] = {}
    for match in filter(None, map(BLOCK.match, keys)):
        found.setdefault(match[1], {})[match[2]] = None
    return {block: list(layers) for block, layers in found.items()}
