"""Precision and memory limits, for every device."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import torch
from torch import Tensor

# Megabytes for one block on a CPU; on a GPU it is a share of the free memory, and at least GPU_LEAST.
CPU_MEMORY = 256.0
GPU_SHARE = 0.25
GPU_LEAST = 32.0

# The settings from before `full_precision`, once for each thread that is in it.
_saved: list[list[str]] = []
_lock = RLock()  # an iterator left behind may end here while its own thread holds it


@contextmanager
def full_precision() -> Iterator[None]:
    """Computes float32 products and convolutions in full float32, regardless of the training's settings.

    Turns off TF32 (CUDA, cuDNN) and bfloat16 (oneDNN on a CPU) in torch's settings per backend, which can be read after
    either of torch's two interfaces was used. The settings are those of the process: the first thread that enters sets
    them, the last one that leaves restores them.
    """
    cuda, cudnn, mkldnn = (getattr(torch.backends, name) for name in ("cuda", "cudnn", "mkldnn"))
    # One by one: torch cannot read a library's common setting if its parts differ.
    backends: list[Any] = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    with _lock:
        _saved.append(_saved[0] if _saved else [backend.fp32_precision for backend in backends])
        for backend in backends:
            backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        with _lock:
            before = _saved.pop()
            if not _saved:
                for backend, precision in zip(backends, before, strict=True):
                    backend.fp32_precision = precision


def block_memory(device: torch.device) -> float:
    """Megabytes that a block of similarities may take: 256 on a CPU, a quarter of the free memory on a CUDA device.

    Memory that torch holds without using it is free.

    >>> block_memory(torch.device("cpu"))
    256.0
    """
    if device.type != "cuda":
        return CPU_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return max(GPU_LEAST, free * GPU_SHARE / 2**20)


def async_copy(values: Tensor) -> tuple[Tensor, Any]:
    """Starts a copy of values to the CPU; returns the copy, and the CUDA event after which it is valid.

    Does not block: a CUDA tensor is copied to pinned memory, in the order of the current stream. For tensors on other
    devices the event is None, and the values are returned as they are.

    >>> async_copy(torch.tensor(2.0))
    (tensor(2.), None)
    """
    if values.device.type != "cuda":
        return values, None
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    event: Any = torch.cuda.Event  # untyped in torch
    arrived = event(blocking=True)  # waiting threads sleep and leave the core to data loading
    arrived.record(torch.cuda.current_stream(values.device))
    return copy, arrived
