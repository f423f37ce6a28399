"""`rank_metrics` under Lightning: collects features step by step, on any number of processes."""

import torch
from torch import Tensor
from torchmetrics import Metric as TorchMetric
from torchmetrics.utilities import dim_zero_cat

from aelm.retrieval.product import Metric
from aelm.retrieval.ranking import rank_metrics
from aelm.retrieval.result import RankResult


class RankMetrics(TorchMetric):
    """Collects features of queries and gallery, and ranks them when asked.

    Pictures that a sampler repeated to fill the last batch are recognised by their data set index and count once.
    The gallery is ordered by index, so neither the batches nor the processes change the result.
    """

    full_state_update = False
    higher_is_better = True
    is_differentiable = False
    features: list[Tensor]
    pids: list[Tensor]
    camids: list[Tensor]
    is_query: list[Tensor]
    index: list[Tensor]

    def __init__(self, metric: Metric = "cosine", max_rank: int = 50) -> None:
        super().__init__()
        self.metric = metric
        self.max_rank = max_rank
        for name in ("features", "pids", "camids", "is_query", "index"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(self, features: Tensor, pids: Tensor, camids: Tensor, is_query: Tensor, index: Tensor) -> None:
        """Takes one batch: ``(B, D)`` features and ``(B,)`` labels, flags and data set positions."""
        self.features.append(features.detach().float() if features.dtype.itemsize < 4 else features.detach())
        self.pids.append(pids)
        self.camids.append(camids)
        self.is_query.append(is_query)
        self.index.append(index)

    def compute(self) -> RankResult:
        """Ranks everything seen since the last reset."""
        features, pids, camids = dim_zero_cat(self.features), dim_zero_cat(self.pids), dim_zero_cat(self.camids)
        is_query, index = dim_zero_cat(self.is_query), dim_zero_cat(self.index)
        query, gallery = (_once(index, is_query == side) for side in (True, False))
        return rank_metrics(
            features[query],
            features[gallery],
            pids[query],
            pids[gallery],
            camids[query],
            camids[gallery],
            metric=self.metric,
            max_rank=self.max_rank,
        )


def _once(index: Tensor, chosen: Tensor) -> Tensor:
    rows = torch.nonzero(chosen).flatten()
    rows = rows[torch.argsort(index[rows], stable=True)]
    ordered = index[rows]
    first = torch.ones_like(ordered, dtype=torch.bool)
    first[1:] = ordered[1:] != ordered[:-1]
    return rows[first]
