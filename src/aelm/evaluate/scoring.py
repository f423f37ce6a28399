"""All scores of a test: plain, re-ranked, with pooled or expanded queries; intervals, cameras, thresholds."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from aelm.report.metrics import Test
from aelm.retrieval import (
    RankResult,
    bootstrap,
    centralise,
    expand_queries,
    pool_people,
    rank_metrics,
    rerank_blocks,
    verification,
)
from aelm.retrieval.result import MIN_PEOPLE
from aelm.types import InputError

log = logging.getLogger(__name__)


class Ways(NamedTuple):
    """Further scorings to compute.

    Attributes:
        rerank: Whether to re-rank by k-reciprocal encoding.
        k1: See :func:`aelm.retrieval.rerank`.
        k2: Likewise.
        lambda_value: Likewise.
        multi_query: Whether to average the queries of one identity and camera.
        expand_queries: Number of gallery neighbours averaged with each query; 0 for none.
        centralise: Number of gallery neighbours averaged with each query and gallery item; 0 for none.
    """

    rerank: bool = False
    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3
    multi_query: bool = False
    expand_queries: int = 0
    centralise: int = 0

    def check(self) -> None:
        """Raises ValueError if a number is out of range; called before pictures are embedded."""
        if self.k1 < 1 or self.k2 < 1 or not 0 <= self.lambda_value <= 1:
            raise InputError(
                f"`k1` and `k2` must be at least 1 and `lambda_value` in [0, 1], got {self.k1}, {self.k2} and "
                f"{self.lambda_value}"
            )
        for name, number in (("expand_queries", self.expand_queries), ("centralise", self.centralise)):
            if number < 0:
                raise InputError(f"`{name}` must be 0 for none, or how many; got {number}")


def labels_of(test: Test) -> tuple[list[int], list[int], list[int], list[int]]:
    """Pids of queries and gallery, then camids, in the order of :func:`aelm.retrieval.rank_metrics`."""
    pids = [picture.pid for picture in test.query], [picture.pid for picture in test.gallery]
    return *pids, [picture.camid for picture in test.query], [picture.camid for picture in test.gallery]


def further(name: str, test: Test, ways: Ways) -> dict[str, RankResult]:
    """Computes the requested scorings: ``<name>_reranked``, ``_multi_query``, ``_expanded``, ``_centralised``."""
    query, gallery = test.query_features, test.gallery_features
    labels = query_pids, gallery_pids, query_camids, gallery_camids = labels_of(test)
    results = {}
    if ways.rerank:
        blocks = rerank_blocks(query, gallery, k1=ways.k1, k2=ways.k2, lambda_value=ways.lambda_value)
        results[f"{name}_reranked"] = rank_metrics(None, None, *labels, distances=blocks)
    if ways.multi_query:
        pooled = pool_people(query, query_pids, query_camids)
        pooled_labels = pooled.pids, gallery_pids, pooled.camids, gallery_camids
        results[f"{name}_multi_query"] = rank_metrics(pooled.features, gallery, *pooled_labels)
    if ways.expand_queries:
        expanded = expand_queries(query, gallery, ways.expand_queries)
        results[f"{name}_expanded"] = rank_metrics(expanded, gallery, *labels)
    if ways.centralise:
        results[f"{name}_centralised"] = rank_metrics(*centralise(query, gallery, ways.centralise), *labels)
    return results


def intervals(results: Mapping[str, RankResult], samples: int) -> dict[str, float]:
    """95 % bootstrap intervals by name, ``test/mAP_low`` and ``test/mAP_high``; none for 0 samples.

    Intervals with too few people or samples are left out with a message.
    """
    found: dict[str, float] = {}
    without: list[str] = []
    for name, result in results.items() if samples else ():
        ends = {
            f"{name}/{score}_{end}": value
            for score, interval in bootstrap(result, samples=samples).items()
            for end, value in zip(("low", "high"), interval, strict=True)
            if not math.isnan(value)
        }
        found |= ends
        people = len(np.unique(result.query_pids[result.first_rank > 0]))
        without += [] if ends else [f"{name} ({people} people)"]
    if without:
        log.warning(
            "95 %% intervals are left out for %s: they need queries of at least %d people, and 40 draws (`bootstrap`)",
            ", ".join(without), MIN_PEOPLE,
        )  # fmt: skip
    return found


def thresholds(name: str, test: Test, far: Sequence[float]) -> dict[str, float]:
    """True-accept rate and threshold at each false-accept rate: ``test/TAR@FAR=0.001``, ``test/threshold@FAR=0.001``.

    The threshold is a cosine: pairs at or above it are treated as the same person. Rates with too few pairs are left
    out with a message.
    """
    if not far:
        return {}
    found = verification(test.query_features, test.gallery_features, *labels_of(test), far=far)
    if not found.is_supported.all():
        few = [f"{rate:g}" for rate, known in zip(far, found.is_supported, strict=True) if not known]
        log.warning(
            "%s: thresholds at FAR %s are left out: %d impostor pairs (and %d genuine ones) cannot tell such rates",
            name, ", ".join(few), found.num_impostor, found.num_genuine,
        )  # fmt: skip
    points = [(f"{rate:g}", float(tar), float(threshold)) for rate, tar, threshold, known in
            zip(far, found.tar, found.threshold, found.is_supported, strict=True) if known]  # fmt: skip
    rates = {f"{name}/TAR@FAR={rate}": tar for rate, tar, _ in points}
    return rates | {f"{name}/threshold@FAR={rate}": threshold for rate, _, threshold in points}
