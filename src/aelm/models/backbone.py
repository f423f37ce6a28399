"""Backbones: any timm network that gives maps, and what any other module must give to stand in its place."""

import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch
from timm.layers import AvgPool2dSame
from timm.models import FeatureListNet, model_entrypoint
from torch import Tensor, nn

from aelm.models import osnet, resnet
from aelm.models.weights import State, load_weights
from aelm.types import InputError, RunError

# Networks that timm lacks, by name: each builds a module whose `feature_info` says which children give maps.
OWN: Mapping[str, partial[Any]] = {**osnet.NETWORKS, **resnet.NETWORKS}


class TimmBackbone(nn.Module):
    """The last stages of a timm network, or of one of ours that timm lacks, as feature maps, shallow to deep.

    Args:
        name: A timm model that offers ``features_only``, such as ``resnet50``; or a name in ``OWN``, ``osnet_x1_0``.
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
            load_weights(self.network, weights, at_least=weights_at_least, convert=converter(name))

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(images)
        return maps


def create(name: str, stages: int, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    """timm's ``features_only`` network with the last ``stages`` maps; errors say what does not fit and what to do."""
    if name in OWN and pretrained:
        raise RunError(
            f"there are no pretrained weights of `{name}` to download. Give a local file with "
            "`model.backbone.weights=FILE`, or start from scratch with `model.backbone.pretrained=false`"
        )
    if name not in OWN and not timm.is_model(name):
        known = [*(own for own in OWN if name[:5] in own), *timm.list_models(f"*{name[:6]}*")]
        near = ", ".join(known[:5]) or "see timm.list_models()"
        raise InputError(f"timm has no model `{name}` (close: {near}); for a module of your own set `_target_` instead")
    last = tuple(range(-stages, 0))
    try:
        if name in OWN:
            network: nn.Module = FeatureListNet(OWN[name](**options), last)
        else:
            network = timm.create_model(name, features_only=True, out_indices=last, pretrained=pretrained, **options)
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


def converter(name: str) -> Callable[[State, nn.Module], State] | None:
    """What timm's file of a network, or ours, has to read tensors of others with; None for nothing."""
    module = OWN[name].func.__module__ if name in OWN else model_entrypoint(name).__module__
    convert: Callable[[State, nn.Module], State] | None = getattr(sys.modules[module], "checkpoint_filter_fn", None)
    return convert


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
    if name in OWN and info[-2]["reduction"] == info[-1]["reduction"]:
        return  # OSNet's last stage has stride 1 as it is
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


def freeze_stages(backbone: nn.Module, stages: int) -> None:
    """Makes the first stages of a timm network, and what stands in front of them, constant: no gradients, in place.

    Stages are those of timm's table, as many as it has maps: of a ResNet the first is the stem. Their batch norms keep
    their statistics if whoever trains leaves modules without trainable parameters in evaluation mode, as
    :class:`aelm.module.ReIDModule` does.

    Args:
        backbone: Such as :class:`TimmBackbone`.
        stages: How many; 0 for none.

    Raises:
        ValueError: If the backbone has not more stages than that, or is none of timm's.
    """
    if stages == 0:
        return
    network = next((module for module in backbone.modules() if hasattr(module, "feature_info")), backbone)
    table: list[dict[str, Any]] = getattr(getattr(network, "feature_info", None), "info", [])
    names: list[str] = [stage["module"] for stage in table]
    if not 0 < stages < len(names):
        raise InputError(
            f"`frozen_stages` must lie in 0 .. {max(len(names) - 1, 0)} for this backbone, got {stages}"
            + ("" if names else ": only backbones of timm tell their stages")
        )
    # FeatureListNet flattens `stages.2` into `stages_2`.
    last = names[stages - 1].replace(".", "_")
    keys = [key.replace(".", "_") for key, _ in network.named_modules()]
    end = max(i for i, key in enumerate(keys) if key == last or key.startswith(f"{last}_"))
    for module in list(network.modules())[: end + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


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
