"""One policy for every device: what is computed in full precision, by how many threads, in how much memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

# Megabytes for one block on a CPU, where it should leave room for the cache; a GPU gives a share of what is free.
CPU_MEMORY = 256.0
GPU_SHARE = 0.25


@contextmanager
def full_precision() -> Iterator[None]:
    """Computes float32 products and convolutions in float32, whatever has been set for training.

    Keeps TF32 (CUDA, cuDNN) and bfloat16 (oneDNN on a CPU) out, through torch's settings a backend: reading them works
    after either of torch's two interfaces was used, and what was set is set again afterwards.
    """
    cuda, cudnn, mkldnn = (getattr(torch.backends, name) for name in ("cuda", "cudnn", "mkldnn"))
    # All of a library's: torch refuses to tell one setting for several that differ.
    backends: list[Any] = [cuda.matmul, cudnn.conv, cudnn.rnn, mkldnn.matmul, mkldnn.conv, mkldnn.rnn]
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def issuing_threads(device: torch.device) -> int:
    """Python threads that share work on a device: torch's own number on a CPU, one elsewhere.

    A GPU runs what it is given in order, and more threads would only cut the work into smaller pieces.

    >>> issuing_threads(torch.device("cuda"))
    1
    """
    return torch.get_num_threads() if device.type == "cpu" else 1


def block_memory(device: torch.device) -> float:
    """Megabytes that a block of similarities may take: 256 on a CPU, a quarter of what is free on a CUDA device.

    >>> block_memory(torch.device("cpu"))
    256.0
    """
    if device.type != "cuda":
        return CPU_MEMORY
    free, _ = torch.cuda.mem_get_info(device)
    return float(free * GPU_SHARE / 2**20)


def on_its_way(values: Tensor) -> tuple[Tensor, Any]:
    """Values as they will be in the memory of the CPU, and the event from which on they are there.

    Nobody waits: from a CUDA device they go to page-locked memory, queued before whatever the device is given next. The
    event is None, and the values are as given, for tensors on other devices.

    >>> on_its_way(torch.tensor(2.0))
    (tensor(2.), None)
    """
    if values.device.type != "cuda":
        return values, None
    copy = torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True)
    event: Any = torch.cuda.Event  # torch gives it no types
    arrived = event(blocking=True)  # the thread that waits sleeps: loading needs the core
    arrived.record(torch.cuda.current_stream(values.device))
    return copy, arrived
