"""Backbones: any timm network that gives maps, and what any other module must give to stand in its place."""

import itertools
import logging
import pickle
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.layers import AvgPool2dSame
from torch import Tensor, nn

from aelm.types import InputError, RunError

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
        raise InputError(f"`weights_at_least` must lie in (0, 1], got {at_least}")
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
        raise InputError(
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
        raise InputError(f"{path} does not load as data: {type(error).__name__}: {str(error)[:200]}") from error


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
        raise InputError(f"{path} holds no tensors by name: expected a state dict, found {type(content).__name__}")
    return state


def _plain(key: str) -> str:
    """A key without the prefixes of other projects, and with one separator (timm flattens `stages.0` to `stages_0`)."""
    while key.startswith(PREFIXES):
        key = key.partition(".")[2]
    return key.replace(".", "_")


class TimmBackbone(nn.Module):
    """The last stages of a timm network as feature maps, shallow to deep.

    Args:
        name: A timm model that offers ``features_only``, such as ``resnet50``.
        stages: How many stages to return, counted from the deepest: 2 is the last two.
        last_stride: Stride of the last stage: 1 sets the strides there to 1 and dilates nothing, which keeps maps large
            (Sun et al. 2018); 2 leaves the network as it is.
        output_stride: timm's own way to keep maps large, such as 8: strides beyond it become dilations, another network
            for the same weights. None leaves it alone; together with it ``last_stride`` must be 2.
        dilate: Whether ``output_stride`` dilates. Without, positions of the maps see less far, and ``output_stride=16``
            is ``last_stride=1`` by another name.
        pretrained: Whether to load timm's ImageNet weights; needs a network or a filled cache.
        weights: A local ``.pth``, ``.bin`` or ``.safetensors`` file to load instead.
        weights_at_least: Share of the network's tensors that this file must hold.
        options: Further arguments of ``timm.create_model``, such as ``{"channels": [32, 64, 128, 256]}``.

    Shape:
        images ``(B, 3, H, W)``, normalised -> ``stages`` maps ``(B, C_i, H_i, W_i)``.

    Raises:
        ValueError: If timm does not know ``name``, the network gives no maps, or an option does not fit it.
        RuntimeError: If pretrained weights cannot be had.
    """

    def __init__(
        self,
        name: str = "resnet50",
        stages: int = 2,
        *,
        last_stride: int = 1,
        output_stride: int | None = None,
        dilate: bool = True,
        pretrained: bool = True,
        weights: str | Path | None = None,
        weights_at_least: float = 0.95,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if stages < 1:
            raise InputError(f"`stages` must be at least 1, got {stages}")
        if last_stride not in (1, 2):
            raise InputError(f"`last_stride` must be 1 or 2, got {last_stride}")
        if output_stride is not None and last_stride == 1:
            raise InputError(
                f"`output_stride`={output_stride} dilates the last stage and `last_stride`=1 changes its stride: "
                "choose one, with `last_stride=2` for the dilated network"
            )
        if "checkpoint_path" in (options or {}):
            raise InputError(
                "`options.checkpoint_path`: timm may run what such a file holds; `weights` loads it as data"
            )
        given = dict(options or {}) | ({} if output_stride is None else {"output_stride": output_stride})
        self.network = create(name, stages, given, pretrained=pretrained and weights is None)
        if not dilate:
            undilate(self.network)
        if last_stride == 1:
            remove_last_stride(self.network, name)
        if weights is not None:
            load_weights(self.network, weights, at_least=weights_at_least)

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(images)
        return maps


def create(name: str, stages: int, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    """timm's ``features_only`` network with the last ``stages`` maps; errors say what does not fit and what to do."""
    if not timm.is_model(name):
        near = ", ".join(timm.list_models(f"*{name[:6]}*")[:5]) or "see timm.list_models()"
        raise InputError(f"timm has no model `{name}` (close: {near}); for a module of your own set `_target_` instead")
    try:
        network: nn.Module = timm.create_model(
            name, features_only=True, out_indices=tuple(range(-stages, 0)), pretrained=pretrained, **options
        )
    except (OSError, RuntimeError) as error:
        if not pretrained or "state_dict" in str(error):
            raise InputError(f"timm's `{name}` does not work as a backbone: {error}") from error
        raise RunError(
            f"the pretrained weights of `{name}` cannot be had ({type(error).__name__}: {str(error)[:200]}). "
            "Give a local file with `model.backbone.weights=FILE`, or start from scratch with "
            "`model.backbone.pretrained=false`"
        ) from error
    except (AssertionError, AttributeError, IndexError, NotImplementedError, TypeError, ValueError) as error:
        raise InputError(
            f"timm's `{name}` does not work as a backbone with {stages} stages"
            f"{''.join(f' and {key}={value}' for key, value in options.items())} "
            f"({type(error).__name__}: {error}); use one that gives feature maps, such as resnet50, or fewer stages"
        ) from error
    return network


def undilate(network: nn.Module) -> None:
    """Brings the kernels of a network with ``output_stride`` together again, in place; its maps keep their size."""
    for key, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1) and not isinstance(module.padding, str):
            module.padding = tuple(p // d for p, d in zip(module.padding, module.dilation, strict=True))
            module.dilation = (1, 1)
        elif isinstance(module, AvgPool2dSame) and tuple(module.stride) == (1, 1):  # the shortcut of ResNet-D
            parent, _, child = key.rpartition(".")
            setattr(network.get_submodule(parent), child, nn.Identity())


def remove_last_stride(network: nn.Module, name: str) -> None:
    """Sets the strides behind the last map but one to 1, in place, and checks that the last map doubles.

    Raises:
        ValueError: If the network does not keep its size that way.
    """
    before = map_shapes(network)[-1][1:]
    info: list[dict[str, Any]] = getattr(network.feature_info, "info", [])  # timm's own table of its stages
    shallow = [stage["module"] for stage in info if stage["reduction"] * 2 == info[-1]["reduction"]]
    keys = list(dict(network.named_modules()))
    # FeatureListNet flattens `stages.2` into `stages_2`; what is defined behind it belongs to the last stage.
    start = [i for i, key in enumerate(keys) if shallow and key.replace(".", "_") == shallow[-1].replace(".", "_")]
    for key in keys[start[0] + 1 :] if start else []:
        module = network.get_submodule(key)
        if key.startswith(f"{keys[start[0]]}."):
            continue
        if isinstance(module, nn.AvgPool2d) and module.stride == 2:
            parent, _, child = key.rpartition(".")  # the shortcut of ResNet-D: timm too builds nothing at stride 1
            setattr(network.get_submodule(parent), child, nn.Identity())
        elif isinstance(module, nn.Conv2d) and module.stride == (2, 2):
            module.stride = (1, 1)
    way_out = "use `last_stride=2`, or a network such as resnet50"
    try:
        after = map_shapes(network)[-1][1:]
    except ValueError as error:
        raise InputError(f"`last_stride=1` does not fit `{name}` ({error}); {way_out}") from error
    if after != (2 * before[0], 2 * before[1]):
        raise InputError(
            f"`last_stride=1` does not fit `{name}`: its last map went from {before} to {after} instead of doubling; "
            f"{way_out}"
        )


def map_shapes(backbone: nn.Module) -> list[tuple[int, int, int]]:
    """(C, H, W) of each map that ``backbone`` gives for a picture of 256 x 128; a dry run in eval mode.

    The picture is of the backbone's own type, and on its device.

    A backbone that takes one size only says which as its attribute ``size``, (height, width).

    Raises:
        ValueError: If it cannot take such a picture, or gives anything but maps with channels first.
    """
    training = backbone.training
    size: tuple[int, int] = tuple(getattr(backbone, "size", (256, 128)))
    tensors = itertools.chain(backbone.parameters(), backbone.buffers())
    own = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    picture = torch.zeros(1, 3, *size, dtype=own.dtype, device=own.device)
    backbone.eval()
    try:
        with torch.no_grad():
            maps = as_maps(backbone(picture))
    except (AssertionError, RuntimeError) as error:
        kind = f"{str(picture.dtype).removeprefix('torch.')} on {picture.device}"
        why = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"the backbone cannot take a picture of {size[0]} x {size[1]} ({kind}): {type(error).__name__}: {why}"
        ) from error
    finally:
        backbone.train(training)
    shapes = [tuple(m.shape) for m in maps]
    tall = size[0] > size[1]
    if not shapes or any(len(s) != 4 or (tall and s[2] < s[3]) for s in shapes):
        raise InputError(f"a backbone must return maps (B, C, H, W), channels first; got {shapes or 'nothing'}")
    return [(s[1], s[2], s[3]) for s in shapes]


def as_maps(output: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """What a backbone returned, as a sequence of maps: one map counts as one stage."""
    return (output,) if isinstance(output, Tensor) else output
