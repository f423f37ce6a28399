"""Similarities of query and gallery features, block by block, the same to the last bit in every process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor

Metric = Literal["cosine", "euclidean"]

# Longer sums are cut into runs of this many dimensions: within one run, BLAS adds in one order whatever the shape of
# the block and the number of threads; beyond it, it may split the sum, and the last bit changes.
RUN = 512


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Keeps TF32, bfloat16 and autocast out of ranking, whatever the caller has set for training."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False), torch.no_grad():
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def multiply(query: Tensor, gallery: Tensor, out: Tensor) -> Tensor:
    """Writes ``query @ gallery.T`` into ``out``.

    Shape:
        query ``(Q, D)``, gallery ``(G, D)``, out ``(Q, G)``.
    """
    torch.mm(query[:, :RUN], gallery[:, :RUN].T, out=out)
    for begin in range(RUN, query.shape[1], RUN):
        out.addmm_(query[:, begin : begin + RUN], gallery[:, begin : begin + RUN].T)
    return out


def row_lengths(features: Tensor, name: str, metric: Metric, first_row: int = 0) -> Tensor:
    """Euclidean length of every row, checked on the way.

    Args:
        features: ``(N, D)``.
        name: What to call the features in an error.
        metric: Zero rows have no direction, so ``cosine`` refuses them.
        first_row: Row number of ``features[0]`` in the whole, for the error.

    Raises:
        ValueError: If a row holds NaN or infinity, is too long for its type, or is zero under ``cosine``.
    """
    lengths = torch.linalg.vector_norm(features, dim=1)
    if not torch.isfinite(lengths.sum()):
        bad = ~torch.isfinite(features).all(dim=1)
        if bad.any():
            raise ValueError(f"{_rows(name, bad, first_row)} hold NaN or infinite values; look for a diverged model")
        bad = ~torch.isfinite(lengths)
        if bad.any():
            raise ValueError(
                f"{_rows(name, bad, first_row)} are too long for {features.dtype}; pass float64 or rescale"
            )
    if metric == "cosine" and not lengths.all():
        bad = lengths == 0
        raise ValueError(
            f"{_rows(name, bad, first_row)} are zero vectors, which have no cosine; drop them or use metric='euclidean'"
        )
    return lengths


def _rows(name: str, bad: Tensor, first_row: int) -> str:
    rows = torch.nonzero(bad).flatten().add(first_row)
    listed = ", ".join(str(row) for row in rows[:5].tolist()) + (", ..." if len(rows) > 5 else "")
    return f"{len(rows)} of `{name}` (rows {listed})"
