"""Backbones: any timm network that returns feature maps."""

import inspect
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.layers import AvgPool2dSame, Format
from timm.models import FeatureListNet, group_parameters, model_entrypoint
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn

from aelm.models import osnet, resnet, transformers
from aelm.models.maps import map_shapes
from aelm.models.weights import State, load_weights
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, InputError, RunError

log = logging.getLogger(__name__)

# Networks not in timm, by name: each builds a module whose `feature_info` lists the children that return maps.
OWN: Mapping[str, partial[Any]] = {**osnet.NETWORKS, **resnet.NETWORKS, **transformers.NETWORKS}


class TimmBackbone(nn.Module):
    """The last stages of a timm network, or of one in ``OWN`` (not in timm), as feature maps, shallow to deep.

    Args:
        name: A timm model that supports ``features_only``, such as ``resnet50``; or a name in ``OWN``, ``osnet_x1_0``.
        stages: Number of maps to return, counted from the deepest: 2 is the last two stages. For a network with one
            map size, such as a ViT, that many evenly spaced blocks: 6 and 12 of 12.
        last_stride: Stride of the last stage: 1 sets its strides to 1 without dilation, which doubles the last map
            (Sun et al. 2018); 2 leaves the network unchanged; ``auto`` is 1 if the network allows it.
        output_stride: timm's way to keep maps large, such as 8: strides beyond it become dilations, a different
            network with the same weights. None: unchanged. If set, ``last_stride`` must not be 1.
        dilate: Whether ``output_stride`` dilates. Without it receptive fields are smaller, and ``output_stride=16``
            equals ``last_stride=1``.
        size: Height and width of the pictures, in pixels, for networks that are built for one size, such as a ViT.
        drop_path: Drop rate of residual branches in training (stochastic depth), rising with depth; 0 for none.
        layer_decay: Learning rate factor from each layer to the one before it, such as 0.75; 1 for none.
        pretrained: Whether to load timm's ImageNet weights; needs internet access or a filled cache.
        weights: A local ``.pth``, ``.bin`` or ``.safetensors`` file to load instead.
        weights_at_least: Minimum share of the network's tensors that this file must contain.
        options: Further arguments of ``timm.create_model``, such as ``{"channels": [32, 64, 128, 256]}``; with
            ``out_indices`` maps are chosen by number, not by ``stages``, and nothing deeper is built.

    ``channels`` are the maps' depths, ``mean`` and ``std`` timm's normalisation of pictures (RGB / 255), and
    ``lr_factors`` learning rate factors by parameter name. Maps of networks without a final norm on them (timm's
    transformers and channels-last networks) each get a layer norm; the last one is the network's own.

    Shape:
        images ``(B, 3, H, W)``, normalised -> ``stages`` maps ``(B, C_i, H_i, W_i)``.

    Raises:
        ValueError: If timm does not know ``name``, the network has no feature maps, or an option does not fit it.
        RuntimeError: If pretrained weights cannot be downloaded.
    """

    def __init__(
        self,
        name: str = "resnet50",
        stages: int = 2,
        *,
        last_stride: int | Literal["auto"] = "auto",
        output_stride: int | None = None,
        dilate: bool = True,
        size: Sequence[int] = (256, 128),
        drop_path: float = 0.0,
        layer_decay: float = 1.0,
        pretrained: bool = True,
        weights: str | Path | None = None,
        weights_at_least: float = 0.95,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if stages < 1:
            raise InputError(f"`stages` must be at least 1, got {stages}")
        if last_stride not in (1, 2, "auto"):
            raise InputError(f"`last_stride` must be 1, 2 or auto, got {last_stride!r}")
        if not 0 < layer_decay <= 1:
            raise InputError(f"`layer_decay` must lie in (0, 1], got {layer_decay}")
        if output_stride is not None and last_stride == 1:
            raise InputError(
                f"`output_stride`={output_stride} dilates the last stage and `last_stride`=1 changes its stride: "
                "choose one, with `last_stride=2` for the dilated network"
            )
        if "checkpoint_path" in (options or {}):
            raise InputError(
                "`options.checkpoint_path`: timm may run what such a file holds; `weights` loads it as data"
            )
        given: dict[str, Any] = {"output_stride": output_stride} if output_stride is not None else {}
        given |= ({"drop_path_rate": drop_path} if drop_path else {}) | dict(options or {})
        self.network = create(name, stages, given, pretrained=pretrained and weights is None, size=size)
        if not dilate:
            undilate(self.network)
        if last_stride == 1 or (last_stride == "auto" and output_stride is None):
            self.network = without_last_stride(self.network, name, optional=last_stride == "auto")
        defaults: Any = self.network.pretrained_cfg
        if defaults.get("fixed_input_size"):
            self.size = tuple(given.get("img_size", size))
        table: Any = self.network.feature_info
        self.channels: list[int] = table.channels()
        self.mean: Sequence[float] = defaults.get("mean", IMAGENET_MEAN)
        self.std: Sequence[float] = defaults.get("std", IMAGENET_STD)
        self.lr_factors = {f"network.{key}": value for key, value in lr_factors(self.network, layer_decay).items()}
        if weights is not None:
            load_weights(self.network, weights, at_least=weights_at_least, convert=converter(name))
            if isinstance(self.network, NormedMaps):
                self.network.copy_norm()

    def forward(self, images: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(images)
        return maps


class NormedMaps(FeatureGetterNet):  # type: ignore[misc]
    """Maps of a timm network that does not normalise them, channels first, each followed by its own layer norm.

    The last map uses the network's final norm, if it has one, with its pretrained weights; timm omits it from
    ``features_only``. Shallower maps of the same depth start with a copy of it.
    """

    def __init__(self, model: nn.Module, out_indices: Sequence[int], **options: Any) -> None:
        super().__init__(model, out_indices, prune=False, **options)
        final: Any = getattr(model, "norm", None)
        depths: list[int] = self.feature_info.channels()
        own = isinstance(final, (nn.LayerNorm, nn.RMSNorm)) and final.normalized_shape == (depths[-1],)
        self.out_indices = model.prune_intermediate_layers(out_indices, prune_norm=not own)  # type: ignore[operator]
        # Created and filled: a deep copy of torch's fake tensors corrupts memory.
        self.norms = nn.ModuleList(
            type(final)(depth, eps=final.eps) if own and depth == depths[-1] else nn.LayerNorm(depth, eps=1e-6)
            for depth in depths[: -1 if own else None]
        )
        self.copy_norm()

    def copy_norm(self) -> None:
        """Copies the final norm to the norms of shallower maps of the same depth, in place."""
        final: Any = getattr(self.model, "norm", None)
        for norm in self.norms:
            if type(norm) is type(final) and norm.normalized_shape == final.normalized_shape:
                norm.load_state_dict(final.state_dict())

    def forward(self, x: Tensor) -> list[Tensor]:
        norms = [*self.norms, getattr(self.model, "norm", None)][: len(self.out_indices)]
        maps = (m.permute(0, 2, 3, 1) for m in super().forward(x))  # (B, H, W, C)
        return [norm(m).permute(0, 3, 1, 2) for norm, m in zip(norms, maps, strict=True)]


def create(name: str, stages: int, options: Mapping[str, Any], *, pretrained: bool, size: Sequence[int]) -> nn.Module:
    """timm's ``features_only`` network with the last ``stages`` maps; errors name the misfit and the remedy."""
    if name in OWN and pretrained:
        raise RunError(
            f"there are no pretrained weights of `{name}` to download. Give a local file with "
            "`model.backbone.weights=FILE`, or start from scratch with `model.backbone.pretrained=false`"
        )
    if name not in OWN and not timm.is_model(name):
        known = [*(own for own in OWN if name[:5] in own), *timm.list_models(f"*{name[:6]}*")]
        near = ", ".join(known[:5]) or "see timm.list_models()"
        raise InputError(f"timm has no model `{name}` (close: {near}); for a module of your own set `_target_` instead")
    given = dict(options)
    chosen = given.pop("out_indices", None)
    if name in OWN:
        build, fixed = partial(own_maps, name), "img_size" in inspect.signature(OWN[name]).parameters
    else:
        build, fixed = partial(timm.create_model, name, features_only=True), fixed_size(name)
    if fixed:
        given.setdefault("img_size", tuple(size))
    try:
        with torch.device("meta"):  # without memory or random numbers: only to see how timm extracts the maps
            plan: Any = build(out_indices=tuple(range(-stages, 0)), pretrained=False, **given)
        given["out_indices"] = tuple(chosen or chosen_maps(plan.feature_info.info, stages))
        if isinstance(plan, FeatureGetterNet) or getattr(plan, "output_fmt", Format.NCHW) == Format.NHWC:
            given["feature_cls"] = NormedMaps
        network: nn.Module = build(pretrained=pretrained, **given)
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
    if chosen and hasattr(network, "_stage_out_idx"):  # timm builds all stages of an EfficientNet; its stem is stage 0
        network.blocks = network.blocks[: max(network._stage_out_idx)]  # type: ignore[index, arg-type]
    return network


def fixed_size(name: str) -> bool:
    """Whether a timm network is built for a single picture size."""
    pretrained = timm.get_pretrained_cfg(name)
    return pretrained is not None and pretrained.fixed_input_size


def own_maps(name: str, out_indices: Sequence[int], *, pretrained: bool, **options: Any) -> nn.Module:
    """A network in ``OWN`` that returns maps, like timm's ``features_only``."""
    model = OWN[name](**{key: value for key, value in options.items() if key != "feature_cls"})
    kind = NormedMaps if hasattr(model, "patch_embed") else FeatureListNet
    network: nn.Module = kind(model, out_indices)
    network.pretrained_cfg = getattr(model, "pretrained_cfg", {})  # type: ignore[assignment]
    return network


def chosen_maps(info: Sequence[Mapping[str, Any]], stages: int) -> tuple[int, ...]:
    """Indices of the maps to use from timm's table: the last ones, or evenly spaced blocks if all maps have one size.

    >>> chosen_maps([{"reduction": 16}] * 12, 2), chosen_maps([{"reduction": r} for r in (4, 8, 16, 32)], 2)
    ((5, 11), (-2, -1))
    """
    if len({stage["reduction"] for stage in info}) == 1:  # neighbouring blocks are too similar
        return tuple(len(info) * (i + 1) // stages - 1 for i in range(stages))
    return tuple(range(-stages, 0))


def converter(name: str) -> Callable[[State, nn.Module], State] | None:
    """The ``checkpoint_filter_fn`` of a network's module, in timm or here; None if it has none."""
    module = OWN[name].func.__module__ if name in OWN else model_entrypoint(name).__module__
    convert: Callable[[State, nn.Module], State] | None = getattr(sys.modules[module], "checkpoint_filter_fn", None)
    return convert


def undilate(network: nn.Module) -> None:
    """Sets the dilations of a network with ``output_stride`` to 1, in place; its maps keep their size."""
    for key, module in list(network.named_modules()):
        if isinstance(module, nn.Conv2d) and module.dilation != (1, 1) and not isinstance(module.padding, str):
            module.padding = tuple(p // d for p, d in zip(module.padding, module.dilation, strict=True))
            module.dilation = (1, 1)
        elif isinstance(module, AvgPool2dSame) and tuple(module.stride) == (1, 1):  # ResNet-D's shortcut
            put(network, key, nn.Identity())


def without_last_stride(network: nn.Module, name: str, *, optional: bool) -> nn.Module:
    """Sets the strides after the second-to-last map to 1, in place, if that doubles the last map.

    Args:
        network: Of timm, or in ``OWN``.
        name: For messages.
        optional: Whether to return a network unchanged that does not allow it; the choice is logged.

    Raises:
        ValueError: If the network does not allow it, and ``optional`` is False.
    """
    info: list[dict[str, Any]] = getattr(network.feature_info, "info", [])  # timm's own table of its stages
    if name in OWN and not hasattr(network, "norms") and info[-2]["reduction"] == info[-1]["reduction"]:
        return network  # OSNet's last stage already has stride 1
    why, strides = "its last stage has no stride that could be set to 1", last_strides(network, info)
    if strides:
        before, own = map_shapes(network)[-1][1:], {key: network.get_submodule(key) for key in strides}
        given = {key: module.stride for key, module in own.items() if isinstance(module, nn.Conv2d)}
        for key, module in own.items():
            if isinstance(module, nn.Conv2d):
                module.stride = (1, 1)
            else:  # ResNet-D's shortcut: timm omits the pooling at stride 1, too
                put(network, key, nn.Identity())
        try:
            after = map_shapes(network)[-1][1:]
            if after == (2 * before[0], 2 * before[1]):
                log.debug("%s: the stride of its last stage is set to 1 (`last_stride`)", name)
                return network
            why = f"its last map went from {before} to {after} instead of doubling"
        except ValueError as error:
            why = str(error)
        for key, module in own.items():
            if isinstance(module, nn.Conv2d):
                module.stride = given[key]
            else:
                put(network, key, module)
    if not optional:
        raise InputError(
            f"`last_stride=1` does not fit `{name}`: {why}; use `last_stride=auto`, or a network such as resnet50"
        )
    log.info("%s: the stride of its last stage stays as it is (`last_stride=auto`): %s", name, why)
    return network


def put(network: nn.Module, key: str, module: nn.Module) -> None:
    """Sets a submodule by its dotted name."""
    parent, _, child = key.rpartition(".")
    setattr(network.get_submodule(parent), child, module)


def last_strides(network: nn.Module, info: Sequence[Mapping[str, Any]]) -> list[str]:
    """Names of the modules after the second-to-last map that halve it, by timm's table of stages."""
    shallow = [stage["module"] for stage in info if stage["reduction"] * 2 == info[-1]["reduction"]]
    modules = dict(network.named_modules())
    keys = list(modules)
    # FeatureListNet flattens `stages.2` into `stages_2`; modules defined after it belong to the last stage.
    start = [i for i, key in enumerate(keys) if shallow and key.replace(".", "_") == shallow[-1].replace(".", "_")]
    return [
        key
        for key in (keys[start[0] + 1 :] if start else [])
        if not key.startswith(f"{keys[start[0]]}.")
        and (getattr(modules[key], "stride", 1) == (2 if isinstance(modules[key], nn.AvgPool2d) else (2, 2)))
        and isinstance(modules[key], (nn.AvgPool2d, nn.Conv2d))
    ]


def lr_factors(network: nn.Module, decay: float) -> dict[str, float]:
    """Learning rate factors by parameter: 1 in the last layer, multiplied by ``decay`` for each layer before it.

    Layers are timm's groups, from the stem on, if the network defines them, else its outermost modules.
    """
    if decay == 1:
        return {}
    inner = network.model if isinstance(network, NormedMaps) else network
    if hasattr(inner, "group_matcher"):
        layers = group_parameters(inner, inner.group_matcher(coarse=False), reverse=True)  # type: ignore[operator]
    else:
        order = [name for name, _ in inner.named_children()]
        layers = {key: order.index(key.partition(".")[0]) for key, _ in inner.named_parameters()}
    prefix, last = "model." if inner is not network else "", max(layers.values())
    return {f"{prefix}{key}": decay ** (last - layer) for key, layer in layers.items()}


def freeze_stages(backbone: nn.Module, stages: int) -> None:
    """Freezes the first stages of a timm network and everything before them: no gradients, in place.

    Stages are the maps in timm's table: in a ResNet the first is the stem. Their batch norms keep their statistics if
    training leaves modules without trainable parameters in evaluation mode, as :class:`aelm.module.ReIDModule` does.

    Args:
        backbone: Such as :class:`TimmBackbone`.
        stages: Number of stages; 0 for none.

    Raises:
        ValueError: If the backbone does not have more stages than that, or is not a timm network.
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
    inner = network.model if isinstance(network, NormedMaps) else network
    # FeatureListNet flattens `stages.2` into `stages_2`.
    last = names[stages - 1].replace(".", "_")
    keys = [key.replace(".", "_") for key, _ in inner.named_modules()]
    end = max((i for i, key in enumerate(keys) if key == last or key.startswith(f"{last}_")), default=-1)
    if end < 0:
        raise InputError(f"`frozen_stages` must be 0 for this backbone: its stages {names} are no modules")
    for module in list(inner.modules())[: end + 1]:
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)
