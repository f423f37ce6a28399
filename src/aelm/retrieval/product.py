"""Similarities of query and gallery features, block by block, the same to the last bit in every process."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from aelm.retrieval.labels import IntArray, first_few

Metric = Literal["cosine", "euclidean"]

# Longer sums are cut into runs of this many dimensions: within one run, BLAS (Intel's MKL was tried) adds in one order
# whatever the shape of the block and the number of threads; beyond it, it may split the sum, and the last bit changes.
RUN = {torch.float32: 512, torch.float64: 128}
# For products of very few rows it takes another path, with other last bits: they are filled up to this many.
FEWEST = 16
# Rows squared at once.
CHUNK = 1024


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


def multiply(query: Tensor, gallery: Tensor, out: Tensor, *, onto: bool = False) -> Tensor:
    """Writes ``query @ gallery.T`` into ``out``; what one pair gives does not depend on the others.

    Args:
        query: ``(Q, D)``.
        gallery: ``(G, D)``.
        out: ``(Q, G)``.
        onto: Add to what stands in ``out``.
    """
    rows, columns = len(query), len(gallery)
    if min(rows, columns) < FEWEST:
        query, gallery = _fill_up(query), _fill_up(gallery)
        full = out.new_zeros(len(query), len(gallery))
        full[:rows, :columns] = out
        return out.copy_(multiply(query, gallery, full, onto=onto)[:rows, :columns])
    run = RUN[query.dtype]
    for begin in range(0, query.shape[1], run):
        part = gallery[:, begin : begin + run].T
        torch.addmm(out, query[:, begin : begin + run], part, beta=int(onto or begin > 0), out=out)
    return out


def minus_squared_distances(
    left: Tensor, right: Tensor, left_squared: Tensor, right_squared: Tensor, out: Tensor
) -> Tensor:
    """Writes ``-|l - r|^2`` of all rows of two tables into ``out``, the same to the bit when the tables change places.

    Args:
        left: ``(L, D)``.
        right: ``(R, D)``.
        left_squared: ``(L,)`` squared lengths.
        right_squared: ``(R,)`` squared lengths.
        out: ``(L, R)``.
    """
    torch.add(left_squared[:, None], right_squared, out=out).neg_()
    return multiply(left * 2, right, out, onto=True)


def prepare_queries(query: Tensor, metric: Metric) -> Tensor:
    """Queries such that ``finish(query @ gallery.T)`` is the similarity: of unit length, or doubled.

    Raises:
        ValueError: As :func:`gallery_weights`.
    """
    weights = gallery_weights(query, metric, "query_features")
    return query / weights[:, None] if metric == "cosine" else query * 2


def finish(values: Any, weights: Tensor, metric: Metric) -> None:
    """Turns products into similarities, in place: the cosine, or minus the squared distance plus ``|q|^2``.

    The term of the query moves its whole row alike and so leaves the ranking as it is.

    Args:
        values: ``(Q, G)`` products of prepared queries and gallery, a tensor or an array.
        weights: ``(G,)``, on the same device, from :func:`gallery_weights`.
        metric: Which similarity.
    """
    aligned = weights if isinstance(values, Tensor) else weights.numpy()
    if metric == "cosine":
        values /= aligned
    else:
        values -= aligned


def gallery_weights(
    features: Tensor, metric: Metric, name: str = "gallery_features", rows: IntArray | None = None
) -> Tensor:
    """Length (cosine) or squared length (euclidean) of every row, which finds unusable rows on the way.

    Args:
        features: ``(N, D)``.
        metric: Zero rows have no direction, so ``cosine`` refuses them.
        name: What to call the features in an error.
        rows: ``(N,)`` row numbers to name in an error; 0 .. N-1 when None.

    Raises:
        ValueError: If a row holds NaN or infinity, is too long for its type, or is zero under ``cosine``.
    """
    weights = torch.linalg.vector_norm(features, dim=1) if metric == "cosine" else squared_lengths(features)
    finite = torch.isfinite(weights)
    if not finite.all():
        broken = ~torch.isfinite(features).all(dim=1)
        if broken.any():
            raise ValueError(f"{_rows(name, broken, rows)} hold NaN or infinite values; has the model diverged?")
        raise ValueError(f"{_rows(name, ~finite, rows)} are too long for {features.dtype}; rescale or pass float64")
    if metric == "cosine" and not weights.all():
        raise ValueError(
            f"{_rows(name, weights == 0, rows)} are zero vectors, which have no cosine; "
            "drop them or use metric='euclidean'"
        )
    return weights


def squared_lengths(features: Tensor) -> Tensor:
    """Squared length of every row; not by way of the root, which rounds and would break exact ties."""
    return torch.cat([(part * part).sum(dim=1) for part in torch.split(features, CHUNK)])


def check_metric(metric: str) -> None:
    """Refuses a metric that does not exist."""
    if metric not in get_args(Metric):
        raise ValueError(f"`metric` must be one of {', '.join(get_args(Metric))}, got {metric!r}")


def _rows(name: str, bad: Tensor, rows: IntArray | None) -> str:
    found = torch.nonzero(bad).flatten().cpu().numpy()
    found = found if rows is None else rows[found]
    return f"{len(found)} of the `{name}` (rows {first_few(found)})"


def _fill_up(features: Tensor) -> Tensor:
    missing = FEWEST - len(features)
    if missing <= 0:
        return features
    return torch.cat([features, features.new_zeros(missing, features.shape[1])])
