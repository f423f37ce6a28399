"""Checkpoints: the description stored beside the weights, and building a model from it."""

import importlib
import logging
import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from aelm.files import on_disk
from aelm.models import ReIDNetwork, TimmBackbone
from aelm.models.weights import read_data
from aelm.types import InputError, UserError

log = logging.getLogger(__name__)

STARTER = "starter"  # as a checkpoint: the model that comes with aelm
STARTER_FILE = Path(__file__).parent / "models" / "starter.ckpt"
KEY = "aelm"  # where the description lies in a Lightning checkpoint
# Names that a description may always build: the public names of these modules, and some more.
OWN = ("aelm.models", "aelm.data.benchmarks")
ALLOWED = ("torch.nn.Identity", "aelm.data.recipe", "aelm.data.synthetic.synthetic")
LIBRARIES = ("aelm", "torch", "timm", "pytorch-lightning")


def describe(
    network: Mapping[str, Any],
    num_ids: int,
    preprocessing: Mapping[str, Any],
    labels: Sequence[str],
    config: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Plain data from which :func:`load_model` rebuilds the network, without the training data.

    Args:
        network: ``_target_`` description of the network, as in the configs.
        num_ids: Number of training identities.
        preprocessing: Height, width, mean, std and interpolation that pictures need.
        labels: Identity of each label, ``"market1501:2"``.
        config: The configuration of the run; ``evaluate`` reads the data set from it.
    """
    return {
        "network": without_weights(network),
        "num_ids": num_ids,
        "preprocessing": dict(preprocessing),
        "labels": list(labels),
        "config": dict(config or {}),
        "versions": {name: version(name) for name in LIBRARIES},
    }


def without_weights(network: Mapping[str, Any]) -> dict[str, Any]:
    """The description without initial backbone weights: the checkpoint's own weights are loaded instead."""
    backbone = _without(network.get("backbone", {}))
    backbone.update({key: empty for key, empty in NOTHING.items() if key in backbone})
    return {**network, "backbone": backbone}


NOTHING = {"pretrained": False, "weights": None}


def _without(node: Any) -> Any:
    """A description in which no timm backbone loads weights, which is its default."""
    if isinstance(node, (list, tuple)):
        return [_without(part) for part in node]
    if not isinstance(node, Mapping):
        return node
    is_timm = str(node.get("_target_", "")).rpartition(".")[2] == TimmBackbone.__name__
    return {key: _without(value) for key, value in node.items()} | (NOTHING if is_timm else {})


def checkpoint_file(path: str | Path) -> Path:
    """The checkpoint file: ``path``, or ``best.ckpt`` of a run directory or its ``checkpoints`` folder.

    The text ``starter`` is the model that comes with aelm; ``./starter`` and ``Path("starter")`` are a file.

    Raises:
        FileNotFoundError: If it is a folder without ``best.ckpt``.
    """
    if path == STARTER:
        log.info("Using `starter`, the built-in small model, trained on drawn people only (docs/starter.md)")
        if Path(path).exists():
            log.warning("`starter` is not the file or folder of that name here; for that one give `./starter`")
        return STARTER_FILE
    path = on_disk(path)
    if not path.is_dir():
        return path
    inside = (path / "checkpoints" / "best.ckpt", path / "best.ckpt")
    found = next((file for file in inside if file.is_file()), None)
    if found is None:
        held = sorted(str(file) for file in [*path.glob("*.ckpt"), *path.glob("checkpoints/*.ckpt")])[:5]
        raise FileNotFoundError(f"no checkpoint {inside[0]}: {path} is a folder; in it: {', '.join(held) or 'none'}")
    return found


def read_file(path: str | Path) -> Any:
    """Reads a checkpoint, or a file of another project, as data on the CPU; nothing in it is executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not load as data.
    """
    path = checkpoint_file(path)
    if not path.is_file():
        near = sorted(str(p) for p in path.parent.glob("*.ckpt"))[:5] if path.parent.is_dir() else []
        raise FileNotFoundError(
            f"no checkpoint {path}; beside it: {', '.join(near) or 'none'}; `{STARTER}` is aelm's own"
        )
    return read_data(path)


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Reads a checkpoint of aelm as data on the CPU; nothing in it is executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of aelm.
    """
    path = checkpoint_file(path)
    content = read_file(path)
    if not isinstance(content, dict) or KEY not in content or "state_dict" not in content:
        found = ", ".join(map(str, list(content)[:5])) if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{path} is not a checkpoint of `python -m aelm.train`: expected `state_dict` and `{KEY}`, found {found}; "
            "weights of a backbone alone go to `model.backbone.weights`"
        )
    return content


def load_model(path: str | Path, allow: Sequence[str] = ()) -> ReIDNetwork:
    """The network of a checkpoint, in evaluation mode on the CPU; ``model.embed(images)`` gives embeddings.

    Args:
        path: A checkpoint that ``aelm.train`` wrote, or a run directory, for its ``best.ckpt``; ``starter`` for the
            model that comes with aelm.
        allow: Dotted names, beyond aelm's own parts, that its description may build, such as ``mine.Backbone``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a checkpoint of aelm, or its description uses a name that is not allowed.
    """
    return network_of(read_checkpoint(path), path, allow)


def network_of(content: Mapping[str, Any], path: str | Path, allow: Sequence[str] = ()) -> ReIDNetwork:
    """The network in the output of :func:`read_checkpoint`; ``path`` is for error messages only.

    Raises:
        ValueError: If it does not describe a network, or uses a name that is not allowed.
    """
    description = content[KEY]
    if not description:
        raise InputError(f"{path} holds no description of its network: pass `description=describe(...)` to ReIDModule")
    normalised = {
        key: description["preprocessing"][key] for key in ("mean", "std") if key in description["preprocessing"]
    }
    network = build(without_weights(description["network"]), allow)(num_ids=description["num_ids"], **normalised)
    if not isinstance(network, ReIDNetwork):
        raise InputError(f"{path} describes a {type(network).__name__}, expected a ReIDNetwork")
    try:
        network.load_state_dict(network_state(content["state_dict"]))
    except RuntimeError as error:
        raise InputError(
            f"{path} holds weights of another network than it describes, or not all of them: {str(error)[:300]}. "
            "Take a checkpoint as `python -m aelm.train` wrote it"
        ) from error
    return network.eval()


def network_state(state: Mapping[str, Any]) -> dict[str, Any]:
    """The network's part of a module's state dict."""
    return {key.removeprefix("network."): value for key, value in state.items() if key.startswith("network.")}


def build(node: Any, allow: Sequence[str] | None = ()) -> Any:
    """Builds a plain ``_target_`` description, for configurations as well as checkpoints.

    As in Hydra, ``_partial_`` gives a ``functools.partial``, and nested descriptions are built first. Other keys of
    Hydra's, such as ``_args_``, are refused.

    Args:
        node: Plain data, without unresolved interpolations.
        allow: Dotted names that may be built besides aelm's own models, data set readers and ``recipe``, since an
            untrusted file must not call arbitrary functions. None: every name, for the user's own configuration.

    Raises:
        ValueError: If a name is not allowed, a key such as ``_args_`` is unknown, or a part rejects its values.
        Exception: Errors of aelm's parts or of the system, unchanged.

    >>> build({"_target_": "aelm.models.CoAM", "_partial_": True, "reduction": 2})(channels=8).mode
    'rezero'
    >>> build({"_target_": "os.dup", "fd": 1})
    Traceback (most recent call last):
    ...
    aelm.types.InputError: the checkpoint asks for `os.dup`, not one of aelm's models; if you trust it: allow=['os.dup']
    """
    allow = (allow,) if isinstance(allow, str) else allow
    if isinstance(node, (list, tuple)):
        return [build(value, allow) for value in node]
    if not isinstance(node, Mapping):
        return node
    values = {key: build(value, allow) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" not in node:
        return values
    name = str(node["_target_"])
    if unknown := [key for key in values if re.fullmatch("_[a-z]+_", str(key))]:
        raise InputError(f"{name}: unknown key `{unknown[0]}`; there are `_target_`, `_partial_` and named arguments")
    target = _allowed(name, allow)
    if node.get("_partial_"):
        return partial(target, **values)
    try:
        return target(**values)
    except (UserError, OSError):
        raise
    except Exception as error:  # any error of a library's part; of aelm's parts only those of wrong values, not bugs
        if name.startswith("aelm.") and not isinstance(error, (TypeError, ValueError)):
            raise
        raise InputError(f"{name} cannot be built as configured: {type(error).__name__}: {error}") from error


def _allowed(name: str, allow: Sequence[str] | None) -> Any:
    module, _, attribute = name.rpartition(".")
    own = module in OWN and attribute in importlib.import_module(module).__all__
    if allow is not None and not own and name not in ALLOWED and name not in allow:
        raise InputError(
            f"the checkpoint asks for `{name}`, not one of aelm's models; if you trust it: allow=['{name}']"
        )
    return locate(name)


def locate(name: str) -> Any:
    """The object of a dotted name, such as a class, or a method of a class.

    Raises:
        ImportError: If there is no such module.
        AttributeError: If it has no such attribute.
    """
    module, _, attribute = name.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except ModuleNotFoundError as error:
        if error.name != module or "." not in module:
            raise
        return getattr(locate(module), attribute)  # of a class
