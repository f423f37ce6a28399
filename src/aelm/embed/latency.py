"""Latency: time per picture of a model."""

import statistics
import time
from collections.abc import Sequence

import torch

from aelm.embed.embedder import Embedder

WARM_UP, FEWEST, SECONDS = 3, 7, 1.0


def latency(embedder: Embedder, batches: Sequence[int] = (1, 32)) -> dict[int, float]:
    """Milliseconds per picture by batch size, from uint8 pictures in CPU memory to embeddings in CPU memory.

    The median of at least seven runs and one second, after three warm-up runs; without decoding and resizing.

    Args:
        embedder: On the device to run on.
        batches: Batch sizes.

    >>> from aelm.models import AELM, ReIDNetwork
    >>> network = ReIDNetwork(torch.nn.Conv2d(3, 16, 8, stride=8), 5, lambda c: torch.nn.Identity(), AELM).eval()
    >>> sorted(latency(Embedder(network, 64, 32, (0,) * 3, (1,) * 3, "bilinear", 1024, "x", "")))
    [1, 32]
    """
    found = {}
    for count in batches:
        generator = torch.Generator().manual_seed(count)
        shape = (count, 3, embedder.height, embedder.width)
        images = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
        taken: list[float] = []
        while len(taken) < WARM_UP + FEWEST or sum(taken[WARM_UP:]) < SECONDS:
            start = time.perf_counter()
            embedder.embed(images).cpu()  # waits for the device
            taken.append(time.perf_counter() - start)
        found[count] = 1000 * statistics.median(taken[WARM_UP:]) / count
    return found


def device_name(device: torch.device) -> str:
    """Name of the device that a time was measured on."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    threads = torch.get_num_threads()
    return f"{device.type}, {threads} thread{'s' if threads > 1 else ''}"
