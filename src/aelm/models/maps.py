"""The interface of a backbone: any module that returns one or several feature maps."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from aelm.types import InputError


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for the block; then each part is in the mode it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def channels_of(backbone: nn.Module) -> list[int]:
    """Channels of each map: the backbone's list ``channels`` if it has one, else from :func:`map_shapes`."""
    told = getattr(backbone, "channels", None)
    return list(told) if isinstance(told, (list, tuple)) else [depth for depth, _, _ in map_shapes(backbone)]


def map_shapes(backbone: nn.Module) -> list[tuple[int, int, int]]:
    """(C, H, W) of each map that ``backbone`` returns for a 256 x 128 picture; a dry run in eval mode.

    The picture has the backbone's dtype and device.

    A backbone that takes a single size states it in its attribute ``size``, (height, width).

    Raises:
        ValueError: If it does not accept such a picture, or returns anything but maps with channels first.
    """
    size: tuple[int, int] = tuple(getattr(backbone, "size", (256, 128)))
    tensors = itertools.chain(backbone.parameters(), backbone.buffers())
    own = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.empty(0))
    picture = torch.zeros(1, 3, *size, dtype=own.dtype, device=own.device)
    try:
        with torch.no_grad(), evaluation(backbone):
            maps = as_maps(backbone(picture))
    except (AssertionError, RuntimeError) as error:
        kind = f"{str(picture.dtype).removeprefix('torch.')} on {picture.device}"
        why = (str(error).splitlines() or ["no reason given"])[0]
        raise InputError(
            f"the backbone cannot take a picture of {size[0]} x {size[1]} ({kind}): {type(error).__name__}: {why}"
        ) from error
    shapes = [tuple(m.shape) for m in maps]
    tall = size[0] > size[1]
    if not shapes or any(len(s) != 4 or (tall and s[2] < s[3]) for s in shapes):
        raise InputError(f"a backbone must return maps (B, C, H, W), channels first; got {shapes or 'nothing'}")
    return [(s[1], s[2], s[3]) for s in shapes]


def as_maps(output: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    """A backbone's output as a sequence of maps: a single map counts as one stage."""
    return (output,) if isinstance(output, Tensor) else output
