"""Counts what would make a step wait for a GPU."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class Crossings(TorchDispatchMode):
    """Counts copies from one device to another."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        devices = {t.device for t in (*args, result) if isinstance(t, torch.Tensor) and t.ndim + t.numel() > 0}
        self.count += len(devices) > 1
        return result
