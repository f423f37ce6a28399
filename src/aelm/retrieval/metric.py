"""`rank_metrics` as a torchmetrics metric: collects features batch by batch, on any number of processes."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric as TorchMetric
from torchmetrics.utilities import dim_zero_cat
from torchmetrics.utilities.distributed import gather_all_tensors

from aelm.retrieval.blocks import ALONE, Share
from aelm.retrieval.labels import check_labels, pid_pairs, require_matches
from aelm.retrieval.pooling import mean_directions
from aelm.retrieval.product import Metric, check_metric
from aelm.retrieval.ranking import rank_pairs
from aelm.retrieval.result import RankResult, score_ranks
from aelm.types import InputError


class RankMetrics(TorchMetric):
    """Collects features of queries and gallery, and ranks them in ``compute``.

    Pictures that a sampler repeats to fill the last batch have the same data set index and count once; query and
    gallery are indexed separately. The gallery is sorted by index, and ranks do not depend on rounding (see
    :func:`rank_metrics`), so the result is bit-identical for any batch size and number of processes.

    Args:
        metric: ``cosine`` or ``euclidean``.
        max_rank: Length of the CMC curve.
        memory: Megabytes for similarities; None for the device's default.
        tracks: To rank tracks: for each index, the index of its track's first picture on the same side. Features of a
            track are averaged, and its first picture gives identity and camera. None to rank pictures.

    >>> metric = RankMetrics()
    >>> first = torch.tensor([True, True, False, False])
    >>> ids = torch.tensor([0, 1, 0, 1])
    >>> metric.update(torch.eye(2).repeat(2, 1), ids, first.long(), first, torch.tensor([0, 1, 0, 1]))
    >>> metric.compute().mAP
    1.0
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    features: list[Tensor]
    pids: list[Tensor]
    camids: list[Tensor]
    is_query: list[Tensor]
    index: list[Tensor]

    def __init__(
        self,
        metric: Metric = "cosine",
        max_rank: int = 50,
        memory: float | None = None,
        tracks: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        check_metric(metric)
        self.metric = metric
        self.max_rank = max_rank
        self.memory = memory
        self.tracks = None if tracks is None else torch.tensor(tracks, dtype=torch.int64)
        for name in ("features", "pids", "camids", "is_query", "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, pids: Tensor, camids: Tensor, is_query: Tensor, index: Tensor) -> None:
        """Adds one batch.

        Args:
            features: ``(B, D)``; lower precision is converted to float32.
            pids: ``(B,)`` identities.
            camids: ``(B,)`` cameras.
            is_query: ``(B,)`` bool, False for the gallery.
            index: ``(B,)`` positions in the data set; the same side and position is the same picture.

        Raises:
            ValueError: If the lengths differ.
        """
        sizes = {len(part) for part in (features, pids, camids, is_query, index)}
        if features.ndim != 2 or len(sizes) != 1:
            shapes = ", ".join(str(tuple(part.shape)) for part in (features, pids, camids, is_query, index))
            raise InputError(
                f"`features` must have shape (B, D), `pids`, `camids`, `is_query` and `index` (B,), got {shapes}"
            )
        self.features.append(features.detach().to(torch.promote_types(features.dtype, torch.float32)))
        self.pids.append(pids.long())
        self.camids.append(camids.long())
        self.is_query.append(is_query.bool())
        self.index.append(index.long())

    def add_gallery(self, other: "RankMetrics", shift: int = 0) -> None:
        """Copies this process's gallery from ``other``, with indices shifted by ``shift``."""
        parts = zip(other.features, other.pids, other.camids, other.is_query, other.index, strict=True)
        for features, pids, camids, is_query, index in parts:
            rows = ~is_query
            self.update(features[rows], pids[rows], camids[rows], is_query[rows], index[rows] + shift)

    def compute(self) -> RankResult:
        """Ranks everything added since the last reset.

        Raises:
            ValueError: As :func:`rank_metrics`, also if no query has a match, as in a sanity check of two batches.
        """
        if not len(self.features):
            raise InputError("RankMetrics has seen no picture: `update` was not called, or none could be read")
        is_query, pids, camids = (dim_zero_cat(part) for part in (self.is_query, self.pids, self.camids))
        (query_features, query), (gallery_features, gallery) = self.items(is_query), self.items(~is_query)
        labels = check_labels(pids[query], pids[gallery], camids[query], camids[gallery])
        pairs = pid_pairs(labels)
        require_matches(labels, pairs)
        share = self._share()
        rank = rank_pairs(query_features, gallery_features, labels, pairs, self.metric, self.memory, share)
        return score_ranks(labels, pairs, rank, self.max_rank)

    def items(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """The items to rank among the ``chosen`` collected rows, each once, by index.

        Returns:
            Features ``(n, D)``, and their rows ``(n,)``, which hold identity and camera.
        """
        features, index = dim_zero_cat(self.features), dim_zero_cat(self.index)
        rows = _rows(index, chosen)
        if self.tracks is None or not len(rows):
            return features[rows], rows
        track = self.tracks.to(index.device)[index[rows]].cpu().numpy()
        _, first, group = np.unique(track, return_index=True, return_inverse=True)
        return mean_directions(features[rows], group), rows[torch.from_numpy(first).to(rows.device)]

    def _share(self) -> Share:
        if not self._is_synced:
            return ALONE
        group = self.process_group
        return Share(dist.get_rank(group), dist.get_world_size(group), self.device, group)

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any | None = None
    ) -> None:
        # A process without pictures must also take part, with empty tensors of the others' width and dtype.
        group = process_group or self.process_group
        kinds: list[tuple[int, torch.dtype] | None] = [None] * dist.get_world_size(group)
        mine = (self.features[0].shape[1], self.features[0].dtype) if len(self.features) else None
        dist.all_gather_object(kinds, mine, group=group)
        known = next((kind for kind in kinds if kind is not None), None)
        if mine is None and known is not None:
            nothing = torch.empty(0, dtype=torch.int64, device=self.device)
            empty = torch.empty(0, known[0], dtype=known[1], device=self.device)
            self.update(empty, nothing, nothing, nothing, nothing)
        super()._sync_dist(dist_sync_fn, process_group)


def _rows(index: Tensor, chosen: Tensor) -> Tensor:
    """Rows of one side sorted by index, each index once."""
    rows = torch.nonzero(chosen).flatten()
    rows = rows[torch.argsort(index[rows], stable=True)]
    ordered = index[rows]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return rows[first]
