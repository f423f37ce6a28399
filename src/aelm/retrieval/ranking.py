"""Exact mAP, CMC and mINP at the speed of the matrix product. The idea is in counting.py; here it meets features."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.retrieval.counting import Values, rank_rows
from aelm.retrieval.labels import JUNK, IntArray, Labels, check_labels, own_pairs
from aelm.retrieval.product import Metric, full_precision, multiply, row_lengths
from aelm.retrieval.result import RankResult, score_ranks

Features = Tensor | NDArray[np.floating]


def rank_metrics(
    query_features: Features,
    gallery_features: Features,
    query_pids: Tensor | NDArray[np.integer],
    gallery_pids: Tensor | NDArray[np.integer],
    query_camids: Tensor | NDArray[np.integer],
    gallery_camids: Tensor | NDArray[np.integer],
    *,
    metric: Metric = "cosine",
    max_rank: int = 50,
) -> RankResult:
    """first version"""
    labels = check_labels(query_pids, gallery_pids, query_camids, gallery_camids)
    query, gallery = _tensor(query_features), _tensor(gallery_features)
    dtype = torch.promote_types(torch.promote_types(query.dtype, gallery.dtype), torch.float32)
    query, gallery = query.to(dtype), gallery.to(dtype)
    with full_precision(query.device):
        q_len = row_lengths(query, "query_features", metric)
        g_len = row_lengths(gallery, "gallery_features", metric)
        S = torch.empty(len(query), len(gallery), dtype=dtype)
        if metric == "cosine":
            query = query / q_len[:, None]
        else:
            query = query * 2
        multiply(query, gallery, S)
        if metric == "cosine":
            S /= g_len
        else:
            S -= g_len.square()
        pairs = own_pairs(labels)
        junk = np.flatnonzero(labels.gallery_pids == JUNK)
        order, rank = rank_rows(S.numpy(), pairs.query, pairs.gallery, pairs.is_match, junk)
    return score_ranks(labels, pairs.query[order], pairs.gallery[order], rank, max_rank)


def _tensor(x):
    return x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.asarray(x))
