"""Ranking, re-ranking and search: exact, deterministic, in memory that does not depend on Q x G."""

from aelm.retrieval.metric import RankMetrics
from aelm.retrieval.nearest import Nearest, RankedRows, nearest, ranked_rows
from aelm.retrieval.ranking import rank_metrics
from aelm.retrieval.rerank import rerank, rerank_blocks
from aelm.retrieval.result import RankResult

__all__ = [
    "Nearest",
    "RankMetrics",
    "RankResult",
    "RankedRows",
    "nearest",
    "rank_metrics",
    "ranked_rows",
    "rerank",
    "rerank_blocks",
]
