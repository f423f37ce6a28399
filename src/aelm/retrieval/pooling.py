"""Averages of features: pictures of a person, of a track, and neighbours of a query."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from aelm.retrieval.blocks import Array, as_tensor, check_features
from aelm.retrieval.labels import IntArray, first_few, whole_numbers
from aelm.retrieval.nearest import nearest
from aelm.retrieval.product import gallery_weights
from aelm.types import InputError


class Pooled(NamedTuple):
    """One feature for each group.

    Attributes:
        features: ``(N, D)`` of unit length.
        pids: ``(N,)`` int64.
        camids: ``(N,)`` int64.
        group: ``(B,)`` int64, row in ``features`` of each picture.
    """

    features: Tensor
    pids: IntArray
    camids: IntArray
    group: IntArray


def pool_people(features: Array, pids: Any, camids: Any) -> Pooled:
    """Averages all pictures of one identity and camera, for multi-query evaluation.

    Market-1501 averages the pictures of ``gt_bbox/`` that are of a query's identity and camera; its queries themselves
    are one for each identity and camera.

    Args:
        features: ``(B, D)``; normalised to unit length before averaging.
        pids: ``(B,)``.
        camids: ``(B,)``.

    Raises:
        TypeError: If ids are not integers or features not floating-point.
        ValueError: If lengths differ, or a row is zero, NaN or infinite.

    >>> pool_people(torch.eye(3), [7, 7, 8], [1, 1, 1]).features.shape
    torch.Size([2, 3])
    """
    people, cameras = whole_numbers("pids", pids), whole_numbers("camids", camids)
    _check_lengths(features, {"pids": people, "camids": cameras})
    kinds, group = np.unique(np.stack([people, cameras]), axis=1, return_inverse=True)
    return Pooled(mean_directions(features, group), kinds[0], kinds[1], group)


def pool_tracks(features: Array, tracks: Any, pids: Any, camids: Any) -> Pooled:
    """Averages all pictures of each track, in the order of track numbers.

    Args:
        features: ``(B, D)``; normalised to unit length before averaging.
        tracks: ``(B,)`` track number of each picture.
        pids: ``(B,)``; the same within a track.
        camids: ``(B,)``; the same within a track.

    Raises:
        TypeError: If ids are not integers or features not floating-point.
        ValueError: If lengths differ, a track has two identities or cameras, or a row is zero, NaN or infinite.
    """
    numbers, people, cameras = (
        whole_numbers(name, ids) for name, ids in (("tracks", tracks), ("pids", pids), ("camids", camids))
    )
    _check_lengths(features, {"tracks": numbers, "pids": people, "camids": cameras})
    kinds, first, group = np.unique(numbers, return_index=True, return_inverse=True)
    for name, ids in (("pid", people), ("camid", cameras)):
        mixed = np.unique(group[ids != ids[first][group]])
        if len(mixed):
            raise InputError(
                f"a track must have one {name}, but tracks {first_few(kinds[mixed])} have several; "
                f"number tracks apart for each {name}"
            )
    return Pooled(mean_directions(features, group), people[first], cameras[first], group)


def expand_queries(query_features: Array, gallery_features: Array, k: int = 5, *, alpha: float = 0.0) -> Tensor:
    """Average query expansion: each query is averaged with its k nearest gallery features, by cosine.

    If a query's own picture is also in the gallery, it is one of the k: the query counts twice, with k - 1 others. Take
    k + 1 where query and gallery are one list of pictures.

    Args:
        query_features: ``(Q, D)``.
        gallery_features: ``(G, D)``.
        k: Number of neighbours; a good value is below the number of pictures per person.
        alpha: Weight of a neighbour is its cosine (0 if negative) to this power; with 0 all weigh as much as the query.

    Returns:
        ``(Q, D)`` of unit length.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If k is below 1 or alpha below 0, dimensions differ, or a row is zero, NaN or infinite.
    """
    if alpha < 0:
        raise InputError(f"`alpha` must be at least 0, got {alpha}")
    found = nearest(query_features, gallery_features, k)
    query, gallery = _directions(query_features), as_tensor(gallery_features)
    neighbours = gallery[torch.from_numpy(found.indices).to(gallery.device)].to(query.device, query.dtype)
    weights = torch.from_numpy(np.maximum(found.scores, 0) ** alpha).to(query.device, query.dtype)
    total = query + (torch.nn.functional.normalize(neighbours, dim=2) * weights[:, :, None]).sum(dim=1)
    return _directions(total)


def centralise(query_features: Array, gallery_features: Array, k: int = 2) -> tuple[Tensor, Tensor]:
    """Neighbour centralisation: averages each query and gallery item with its k nearest gallery features, by cosine.

    Queries are not used as neighbours, so each query's result does not depend on the others. A query whose own picture
    is in the gallery counts twice, with k - 1 others, as in :func:`expand_queries`; gallery items count once, with k.

    Args:
        query_features: ``(Q, D)``.
        gallery_features: ``(G, D)``.
        k: Number of neighbours besides the feature itself; a good value is below the number of pictures per person.

    Returns:
        ``(Q, D)`` and ``(G, D)``, of unit length.

    Raises:
        TypeError: If features are not floating-point tensors or arrays.
        ValueError: If k is below 1, dimensions differ, or a row is zero, NaN or infinite.

    Reference: Yuan et al. 2025 (Pose2ID), who also use queries as neighbours, and only mutual neighbours.
    """
    queries = expand_queries(query_features, gallery_features, k)
    # Each item is its own nearest neighbour, or an identical one comes first.
    found = nearest(gallery_features, gallery_features, min(k + 1, len(gallery_features)))
    gallery = _directions(gallery_features, "gallery_features")
    total = torch.zeros_like(gallery)
    for column in torch.from_numpy(found.indices).to(gallery.device).T:
        total += gallery[column]
    return queries, _directions(total, "the mean features")


def mean_directions(features: Array, group: IntArray) -> Tensor:
    """The unit-length mean of each group's normalised rows: ``(number of groups, D)``.

    Args:
        features: ``(B, D)``.
        group: ``(B,)`` from 0.

    Raises:
        ValueError: If a row, or a mean, is zero, or a value is not finite.
    """
    directions = _directions(features)
    total = directions.new_zeros(int(group.max()) + 1, directions.shape[1])
    # Added in a fixed order: index_add_ on a GPU adds in any order.
    order = np.argsort(group.reshape(-1), kind="stable")
    starts = np.searchsorted(group.reshape(-1)[order], np.arange(len(total) + 1))
    place = 0
    while len(still := np.flatnonzero(starts[:-1] + place < starts[1:])):
        members = torch.from_numpy(order[starts[:-1][still] + place]).to(directions.device)
        total[torch.from_numpy(still).to(directions.device)] += directions[members]
        place += 1
    return _directions(total, "the mean features")


def _directions(features: Array, name: str = "features") -> Tensor:
    check_features(name, features)
    tensor = as_tensor(features)
    tensor = tensor.to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor / gallery_weights(tensor, "cosine", name)[:, None]


def _check_lengths(features: Array, ids: dict[str, IntArray]) -> None:
    for name, values in ids.items():
        if len(values) != len(features) or not len(values):
            raise InputError(
                f"`{name}` must have one entry for each of the {len(features)} features, got {len(values)}"
            )
