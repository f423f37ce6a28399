"""Ranking, re-ranking and search: exact, deterministic, in memory that does not depend on Q x G."""

from aelm.retrieval.metric import RankMetrics
from aelm.retrieval.nearest import Nearest, RankedRows, nearest, ranked_rows
from aelm.retrieval.pooling import Pooled, centralise, expand_queries, pool_people, pool_tracks
from aelm.retrieval.ranking import rank_metrics
from aelm.retrieval.rerank import neighbour_graph, rerank, rerank_blocks
from aelm.retrieval.result import Interval, RankResult, bootstrap, resamples
from aelm.retrieval.verification import Verification, verification

__all__ = [
    "Interval",
    "Nearest",
    "Pooled",
    "RankMetrics",
    "RankResult",
    "RankedRows",
    "Verification",
    "bootstrap",
    "centralise",
    "expand_queries",
    "nearest",
    "neighbour_graph",
    "pool_people",
    "pool_tracks",
    "rank_metrics",
    "ranked_rows",
    "rerank",
    "rerank_blocks",
    "resamples",
    "verification",
]
