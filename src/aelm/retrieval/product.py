"""The fast product of query and gallery features, used as a filter; its rounding does not matter.

The exact score of a pair is defined in :mod:`aelm.retrieval.score`. BLAS approximates it here.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from aelm.retrieval.labels import IntArray, first_few
from aelm.types import InputError

Metric = Literal["cosine", "euclidean"]

# Rows squared at once.
CHUNK = 1024


def multiply(query: Tensor, gallery: Tensor, out: Tensor, *, onto: bool = False) -> Tensor:
    """Writes ``query @ gallery.T`` into ``out``.

    Args:
        query: ``(Q, D)``.
        gallery: ``(G, D)``.
        out: ``(Q, G)``.
        onto: Whether to add to ``out``.
    """
    return torch.addmm(out, query, gallery.T, beta=int(onto), out=out)


def minus_squared_distances(
    left: Tensor, right: Tensor, left_squared: Tensor, right_squared: Tensor, out: Tensor
) -> Tensor:
    """Writes ``-|l - r|^2`` of all rows of two tables into ``out``.

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
    """Scales queries so that ``finish(query @ gallery.T)`` is the similarity: to unit length, or doubled.

    Raises:
        ValueError: As :func:`gallery_weights`.
    """
    weights = gallery_weights(query, metric, "query_features")
    return query / weights[:, None] if metric == "cosine" else query * 2


def finish(values: Any, weights: Tensor, metric: Metric) -> None:
    """Turns products into similarities, in place: the cosine, or minus the squared distance plus ``|q|^2``.

    ``|q|^2`` is constant in a row, so it does not change the ranking.

    Args:
        values: ``(Q, G)`` products of prepared queries and gallery, a tensor or an array.
        weights: ``(G,)``, on the same device, from :func:`gallery_weights`.
        metric: The similarity.
    """
    aligned = weights if isinstance(values, Tensor) else weights.numpy()
    if metric == "cosine":
        values /= aligned
    else:
        values -= aligned


def gallery_weights(
    features: Tensor, metric: Metric, name: str = "gallery_features", rows: IntArray | None = None
) -> Tensor:
    """Length (cosine) or squared length (euclidean) of every row; also finds invalid rows.

    Args:
        features: ``(N, D)``.
        metric: ``cosine`` rejects zero rows, which have no direction.
        name: Name of the features in errors.
        rows: ``(N,)`` row numbers for errors; None for 0 .. N-1.

    Raises:
        ValueError: If a row holds NaN or infinity, overflows its dtype, or under ``cosine`` is zero or nearly so.
    """
    weights = unchecked_weights(features, metric)
    finite = torch.isfinite(weights)
    info = torch.finfo(features.dtype)
    least = math.sqrt(info.tiny / info.eps)  # squares of shorter rows lose digits
    # One question, since a GPU is waited for at each.
    if (finite & (weights >= least) if metric == "cosine" else finite).all():
        return weights
    if finite.all():
        zero = ~features.any(dim=1)
        if zero.any():
            raise InputError(
                f"{_rows(name, zero, rows)} are zero vectors, which have no cosine; drop them or use metric='euclidean'"
            )
        short = _rows(name, weights < least, rows)
        raise InputError(f"{short} are too short for {features.dtype}; rescale or pass float64")
    broken = ~torch.isfinite(features).all(dim=1)
    if broken.any():
        raise InputError(f"{_rows(name, broken, rows)} hold NaN or infinite values; has the model diverged?")
    raise InputError(f"{_rows(name, ~finite, rows)} are too long for {features.dtype}; rescale or pass float64")


def unchecked_weights(features: Tensor, metric: Metric) -> Tensor:
    """Like :func:`gallery_weights`, without checks."""
    return torch.linalg.vector_norm(features, dim=1) if metric == "cosine" else squared_lengths(features)


def squared_lengths(features: Tensor) -> Tensor:
    """Squared length of every row, computed in chunks."""
    return torch.cat([(part * part).sum(dim=1) for part in torch.split(features, CHUNK)])


def check_metric(metric: str) -> None:
    """Raises ValueError for an unknown metric."""
    if metric not in get_args(Metric):
        raise InputError(f"`metric` must be one of {', '.join(get_args(Metric))}, got {metric!r}")


def _rows(name: str, bad: Tensor, rows: IntArray | None) -> str:
    found = torch.nonzero(bad).flatten().cpu().numpy()
    found = found if rows is None else rows[found]
    return f"{len(found)} of the `{name}` (rows {first_few(found)})"
