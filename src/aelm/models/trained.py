"""Files that other projects trained: recognises their layout and builds the model.

To add a layout, write a row (:class:`aelm.models.layouts.Layout`) beside the others (``layouts_cnn``), or in its own
file, and include it in ``LAYOUTS``: patterns of keys that distinguish it from the others, how its tensors are renamed,
and a function that builds the empty backbone and head from the names and shapes of the tensors. The loader does the
rest: prefixes, wrappers, sidecar facts, shapes, missing and unused tensors.
A head is a :class:`aelm.models.layouts.PooledHead`, or a module that takes ``(features, pids=None, *, explain=False)``
and returns a :class:`aelm.types.HeadOutput`; one with a method ``embedding_maps(features)``, whose spatial mean is the
embedding, can be explained.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from aelm.models import layouts_cnn, layouts_vit
from aelm.models.ifcn import IFCN
from aelm.models.layouts import Layout, Trained, facts_of, sidecar
from aelm.models.network import ReIDNetwork
from aelm.models.weights import COUNTER, State, read_state, state_in
from aelm.types import InputError

log = logging.getLogger(__name__)

LAYOUTS: tuple[Layout, ...] = (*layouts_cnn.ROWS, *layouts_vit.ROWS)  # the first match is used
GUIDE = "docs/trained_weights.md lists what can be read"
NORM = ("weight", "bias", "running_mean", "running_var")
PIXEL = ("pixel_mean", "pixel_std")  # fast-reid's, of RGB 0..255
# Tensor names in detectors: torchvision and detectron2, DETR, YOLO's numbered layers.
DETECTOR = re.compile(r"(rpn|roi_heads|bbox_|.*\b(anchor|box_head|bbox_embed|cv2\.\d\.\d)|model\.\d+\.(conv|cv\d|m)\.)")


def load_trained(
    path: str | Path, content: Any, size: Sequence[int] | None = None, camera: int | None = None
) -> Trained:
    """The model of a file that another project trained, on the CPU.

    Args:
        path: The file; a sidecar ``<file>.json`` or ``<file>.metadata.json`` may state ``img_size`` and more.
        content: Its content from :func:`aelm.models.weights.read_data`.
        size: Height and width of pictures, if the file and its layout do not state them correctly.
        camera: Camera that took the pictures, from 0, for networks with camera embeddings.

    Raises:
        ValueError: If the layout is unknown, tensors are missing or have other shapes, or a fact is invalid.
    """
    path = Path(path)
    state = by_layout_names(state_in(content, path))
    keys = {"img_size": None if size is None else list(size), "camera": camera}
    given = {**outer(content), **sidecar(path), **{key: value for key, value in keys.items() if value is not None}}
    layout = recognised(state, path)
    own = {key: tuple((state[key].flatten() / 255).tolist()) for key in PIXEL if key in state}
    mean, std = (own.get(key, usual) for key, usual in zip(PIXEL, layout.facts[1:3], strict=True))
    facts = facts_of(layout.facts._replace(mean=mean, std=std), given, path)
    try:
        name, backbone, head = layout.build(state, given)
    except InputError as error:
        raise InputError(f"{path} looks like {layout.name}, but {error}") from error
    if given.get("camera") is not None and all(getattr(part, "sie_embed", None) is None for part in backbone.modules()):
        raise InputError(f"`camera`: {path.name} has no embeddings of cameras (SIE) to choose from; leave it out")
    fill(nn.ModuleDict({"backbone": backbone, "head": head}), state, layout, path, facts.colour)
    network = ReIDNetwork(backbone, 0, lambda c: nn.Identity(), lambda c, n: head, facts.mean, facts.std).eval()
    log.info(
        "%s: %s, %s; pictures %d x %d %s, mean %s, std %s (of 1)%s",
        path.name, layout.name, name, *facts.size, facts.colour, *(spaced(v) for v in (facts.mean, facts.std)),
        f"; told beside it: {', '.join(given)}" if given else "",
    )  # fmt: skip
    return Trained(network, facts, given)


class Neck(NamedTuple):
    """What a file has between its pooled map and its feature.

    Attributes:
        linear: ``(E, C)``, of a linear layer; None where there is a batch norm alone.
        bias: ``(E,)`` of the linear layer, 0 where it has none.
        norm: The tensors ``(E,)`` of the batch norm behind it, by name.
        power: Exponent of GeM ``(1,)``, where the file holds one.
    """

    linear: Tensor | None
    bias: Tensor
    norm: State
    power: Tensor | None


def read_neck(path: str | Path) -> Neck:
    """The neck in a trained file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If its layout is unknown, or has no neck behind a pooled map.
    """
    path = Path(path)
    state = by_layout_names(read_state(path))
    layout, start, none = recognised(state, path), "head.neck.", torch.zeros(0)
    named = {place: value.float() for key, value in state.items() if (place := placed(key, layout)) is not None}
    found = {place.removeprefix(start): value for place, value in named.items() if place.startswith(start)}
    first = found.get("0.weight", none)
    linear = first.flatten(1) if first.dim() > 1 else None  # fast-reid's is a 1x1 convolution
    norm = {key: found.get(f"{0 if '0.running_mean' in found else 1}.{key}", none) for key in NORM}
    dim = len(norm["weight"].flatten()) if linear is None else len(linear)
    bias = torch.zeros(dim) if linear is None else found.get("0.bias", torch.zeros(dim))
    if not dim or any(value.shape != (dim,) for value in (bias, *norm.values())):
        raise InputError(
            f"`neck_weights`: {path} looks like {layout.name} and holds no neck behind a pooled map (a linear layer "
            "with a batch norm, or a batch norm alone). Leave it out: `model.backbone.weights` takes the backbone"
        )
    return Neck(linear, bias, norm, named.get("head.power"))


def load_neck(network: ReIDNetwork, path: str | Path) -> None:
    """Starts the classifiers of the last stage, A and B or an IFCN alone, from the neck of a trained file, in place.

    A linear layer with a batch norm becomes the embedding layer: the 1x1 convolution, and the batch norm behind it. A
    batch norm alone becomes the BNNeck, and the embedding layer starts as the identity of what is above 0. GeM's
    exponent is taken too, where both have one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If :func:`read_neck` finds none, or the classifiers are of another size or kind.
    """
    linear, bias, norm, power = read_neck(path)
    dim, channels = (len(bias), len(bias)) if linear is None else linear.shape
    heads: list[Any] = [part for part in network.heads[-1].modules() if isinstance(part, IFCN)]
    for head in heads:
        wrong = ""
        if head.embed[0].in_channels != channels:
            wrong = (
                f"reads a map of {channels} channels, and the backbone's last map has {head.embed[0].in_channels}: "
                "`model.backbone.name` must be the file's network"
            )
        elif head.embed_dim != dim:
            wrong = f"gives {dim} values, and the classifiers embed in {head.embed_dim}: set model.aelm.embed_dim={dim}"
        elif linear is None and head.neck is None:
            wrong = "is a batch norm alone (BNNeck), and the classifiers have none: set model.aelm.neck=true"
        if wrong:
            raise InputError(f"`neck_weights`: the neck in {path} {wrong}")
        between = {**norm, "running_mean": norm["running_mean"] - bias}
        if linear is None:
            one, eps = torch.ones(dim), head.embed[1].eps
            between = {"weight": one, "bias": one * 0, "running_mean": one * 0, "running_var": one - eps}
        start = {"embed.0.weight": (torch.eye(dim) if linear is None else linear)[:, :, None, None]}
        start |= {f"embed.1.{key}": value for key, value in between.items()}
        start |= {f"neck.{key}": value for key, value in norm.items() if linear is None}
        start |= {"power": power} if power is not None and head.power is not None else {}
        head.load_state_dict(start, strict=False)
    if not heads:
        raise InputError("`neck_weights` starts classifiers of aelm (`model/aelm`), and this network has none")
    log.info("%s: the classifiers of the last stage start from its neck, %d values", path, dim)


def spaced(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3f}" for value in values)


def outer(content: Any) -> dict[str, Any]:
    """The facts that BoxMOT stores beside the tensors in the file."""
    if not isinstance(content, Mapping) or "model_name" not in content:
        return {}
    inner = content.get("model_kwargs")
    found = {**(inner if isinstance(inner, Mapping) else {}), **content}
    return {key: found[key] for key in ("img_size", "preprocess") if found.get(key) is not None}


def recognised(state: State, path: Path) -> Layout:
    """The layout of a file.

    Raises:
        ValueError: If no layout matches; the message says what the file looks like.
    """
    fits = {layout: [any(re.match(p, key) for key in state) for p in layout.keys] for layout in LAYOUTS}
    for layout, found in fits.items():
        if all(found):
            return layout
    first = ", ".join(list(state)[:4])
    if any(DETECTOR.match(key) for key in state):
        why = "it looks like a detector, which finds people and does not tell them apart"
    elif "fc.weight" in state or "head.weight" in state:
        why = "it looks like an ImageNet classifier"
    elif not any(map(any, fits.values())):
        why = "none of them is named as in a layout that aelm knows"
    else:
        near, found = max(fits.items(), key=lambda item: sum(item[1]) / len(item[1]))
        lacks = [pattern.replace("\\", "") for pattern, there in zip(near.keys, found, strict=True) if not there]
        why = f"the nearest layout, {near.name}, has keys such as {' and '.join(lacks)} too"
    raise InputError(
        f"{path} is no trained model that aelm knows: {len(state)} tensors such as {first}; {why}. {GUIDE}; "
        "weights to start a training from go to `model.backbone.weights`"
    )


def by_layout_names(state: State) -> State:
    """Tensors without the prefixes of wrappers, and without the counters of batch norms."""
    state = {re.sub(r"^((module|_orig_mod)\.)+", "", key): value for key, value in state.items()}
    return {key: value for key, value in state.items() if not key.endswith(COUNTER)}


def placed(key: str, layout: Layout) -> str | None:
    """Where a tensor goes; None where no pattern of the layout fits."""
    return next((re.sub(old, new, key, count=1) for old, new in layout.rename if re.match(old, key)), None)


def fill(parts: nn.Module, state: State, layout: Layout, path: Path, colour: str) -> None:
    """Loads the tensors into the parts, in place.

    Raises:
        ValueError: If one is missing or has another shape, or the file's backbone has additional tensors.
    """
    named, left = State(), []
    for key, value in state.items():
        place = placed(key, layout)
        if place is not None:
            named[place] = value
        elif not re.match(layout.unused, key):
            left.append(key)
    if layout.convert is not None:
        start = "backbone.network."
        inner = {key.removeprefix(start): value for key, value in named.items() if key.startswith(start)}
        inner = layout.convert(inner, parts.get_submodule("backbone.network"))
        rest = {key: value for key, value in named.items() if not key.startswith(start)}
        named = rest | {start + key: value for key, value in inner.items()}
    own = {key: value for key, value in parts.state_dict().items() if not key.endswith(COUNTER)}
    missing = [key for key in own if key not in named]
    shapes = [
        f"{key} {tuple(named[key].shape)} instead of {tuple(value.shape)}"
        for key, value in own.items()
        if key in named and named[key].squeeze().shape != value.squeeze().shape
    ]
    more = [key for key in named if key not in own and key.startswith("backbone.")]
    for keys, what in ((missing, "lacks"), (shapes, "has in another shape"), (more, "holds what the network has not,")):
        if keys:
            raise InputError(
                f"{path} looks like {layout.name}, but {what} {len(keys)} of {len(own)} tensors: "
                f"{', '.join(keys[:4])}. Is it of another network, or was it changed? {GUIDE}"
            )
    left += [key for key in named if key not in own and not re.match(layout.unused, key)]
    if left:
        log.warning(
            "%s: %d tensors have no part in embeddings here: %s. If the original needs them, its features differ",
            path, len(left), ", ".join(left[:8]),
        )  # fmt: skip
    fits = {key: named[key].reshape(value.shape) for key, value in own.items()}
    if colour == "BGR":
        fits = {
            key: value.flip(1) if value.dim() == 4 and value.shape[1] == 3 else value for key, value in fits.items()
        }
    parts.load_state_dict(fits, strict=False)
