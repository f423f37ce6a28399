"""Ranking, re-ranking and search: exact, deterministic, in memory that does not depend on Q x G."""

from aelm.retrieval.metric import RankMetrics
from aelm.retrieval.ranking import rank_metrics
from aelm.retrieval.result import RankResult

__all__ = ["RankMetrics", "RankResult", "rank_metrics"]
