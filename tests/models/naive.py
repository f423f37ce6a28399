"""The paper's way, slow and obvious: build every identity's map, then pool it or pick it."""

import torch
from torch import Tensor

from aelm.models import IFCN


def class_maps(head: IFCN, features: Tensor) -> Tensor:
    """(B, N, H, W): the embedding map through a 1x1 convolution with one filter an identity."""
    maps = head.embed(features)
    if head.neck is not None:
        scale = head.neck.weight / torch.sqrt(head.neck.running_var + head.neck.eps)
        shift = head.neck.bias - head.neck.running_mean * scale
        maps = maps * scale[:, None, None] + shift[:, None, None]
    return torch.nn.functional.conv2d(maps, head.weight[:, :, None, None])


def region(heatmap: Tensor, threshold: float) -> Tensor:
    """What to erase, one position after the other."""
    mask = torch.zeros_like(heatmap, dtype=torch.bool)
    for b, heat in enumerate(heatmap.double()):
        low, high = heat.min().item(), heat.max().item()
        if high == low:
            continue
        for y in range(heat.shape[0]):
            for x in range(heat.shape[1]):
                mask[b, y, x] = (heat[y, x].item() - low) / (high - low) >= threshold
        if mask[b].all():
            mask[b] = False
    return mask


def mean_over_kept(maps: Tensor, erased: Tensor) -> Tensor:
    """(B, E): the average over the positions that are left."""
    rows = []
    for picture, gone in zip(maps, erased, strict=True):
        kept = [picture[:, y, x] for y in range(gone.shape[0]) for x in range(gone.shape[1]) if not gone[y, x]]
        rows.append(torch.stack(kept).mean(0) if kept else picture.mean((1, 2)))
    return torch.stack(rows)


def generalised_mean(maps: Tensor, power: float, erased: Tensor) -> Tensor:
    """(B, E): the mean of powers over the positions that are left, and its root."""
    return mean_over_kept(maps.clamp(min=1e-6) ** power, erased) ** (1 / power)
