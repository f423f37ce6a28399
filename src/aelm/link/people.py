"""Links tracks to people, with similarities, confidence, and scores against known identities."""

import logging
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix, pair_confusion_matrix

from aelm.data.listing import first_few
from aelm.data.sources import Item
from aelm.embed.tracks import name
from aelm.link.clustering import Constraints, Correction, Rows, Similarities, Values, cluster
from aelm.retrieval import neighbour_graph
from aelm.types import InputError

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
BLOCK = 1024  # tracks compared with all others at once
BINS = 2000  # thresholds tried for the baseline
LEAST_CERTAIN = 0.1  # share of links marked as uncertain


class Settings(NamedTuple):
    """Settings of linking.

    Attributes:
        threshold: Mean similarity at or above which two groups of tracks are one person.
        neighbours: Number of nearest tracks of each to consider.
        rerank: Whether similarity is the share of common neighbours instead of the cosine.
        k1: See :func:`aelm.retrieval.neighbour_graph`.
        k2: Likewise.
    """

    threshold: float
    neighbours: int = 50
    rerank: bool = False
    k1: int = 20
    k2: int = 6

    def check(self) -> None:
        """Raises ValueError if a number is out of range."""
        if not -1 <= self.threshold <= 1:
            raise InputError(f"`threshold` is a similarity in -1 .. 1, got {self.threshold:g}")
        if self.neighbours < 1:
            raise InputError(f"`neighbours` must be at least 1, got {self.neighbours}")


class People(NamedTuple):
    """The people of N tracks.

    Attributes:
        person: ``(N,)`` person number from 0, in the order of first appearance.
        fellow: ``(N,)`` the most similar track of the same person, -1 if there is none.
        score: ``(N,)`` the similarity to it, NaN if there is none.
        fit: ``(N,)`` the mean similarity to all other tracks of the person, NaN likewise.
        uncertain: ``(N,)`` whether the track is in the tenth with the lowest ``fit``.
    """

    person: Rows
    fellow: Rows
    score: Floats
    fit: Floats
    uncertain: NDArray[np.bool_]


def link(
    features: Values, tracks: Sequence[Item], settings: Settings, corrections: Sequence[Correction] = ()
) -> People:
    """Decides which tracks are the same person.

    Args:
        features: ``(N, D)`` of unit length.
        tracks: N tracks; if they have times, overlapping tracks of one camera are never one person.
        settings: Settings of linking.
        corrections: User corrections, which take precedence.

    Raises:
        ValueError: If a setting is out of range, or corrections contradict each other.
    """
    settings.check()
    constraints = Constraints(tracks, corrections)
    if overruled := constraints.overruled():
        pairs = first_few([f"{name(tracks[a])} = {name(tracks[b])}" for a, b in overruled])
        log.warning("corrections say `same` of tracks that overlap in one camera, and are followed: %s", pairs)
    near = neighbour_graph(features, settings.neighbours, rerank=settings.rerank, k1=settings.k1, k2=settings.k2)
    similarities = Similarities(near, None if settings.rerank else features)
    label = cluster(similarities, settings.threshold, constraints)
    first = np.full(int(label.max()) + 1, np.inf)
    np.minimum.at(first, label, [math.inf if item.start is None else item.start for item in tracks])
    rank = np.argsort(np.argsort(first, kind="stable"), kind="stable")
    return explained_pairs(similarities, rank[label].astype(np.int64))


def explained_pairs(similarities: Similarities, person: Rows) -> People:
    """People with the similarities of their tracks."""
    fellow, score, fit = np.full(len(person), -1, np.int64), np.full(len(person), np.nan), np.full(len(person), np.nan)
    order = np.argsort(person, kind="stable").astype(np.int64)
    for members in np.split(order, np.flatnonzero(np.diff(person[order])) + 1):
        if len(members) == 1:
            continue
        for part in np.array_split(members, -(-len(members) // BLOCK)):
            rows = similarities_between(similarities, part, members)
            own = np.searchsorted(members, part)
            rows[np.arange(len(part)), own] = 0
            fit[part] = rows.sum(axis=1) / (len(members) - 1)
            rows[np.arange(len(part)), own] = -np.inf
            best = rows.argmax(axis=1)
            fellow[part], score[part] = members[best], rows[np.arange(len(part)), best]
    linked = np.flatnonzero(fellow >= 0)
    uncertain = np.zeros(len(person), bool)
    uncertain[linked[np.argsort(fit[linked], kind="stable")][: math.ceil(LEAST_CERTAIN * len(linked))]] = True
    return People(person, fellow, score, fit, uncertain)


def similarities_between(similarities: Similarities, a: Rows, b: Rows) -> Floats:
    """Similarities ``(len(a), len(b))``."""
    if similarities.features is None:
        return np.asarray(similarities.near[a][:, b].toarray(), np.float64)
    return np.asarray(similarities.features[a].astype(np.float64) @ similarities.features[b].T.astype(np.float64))


def link_scores(person: Rows, pids: Sequence[str]) -> dict[str, float]:
    """Scores of the links, over tracks with known identity; empty if there are fewer than two.

    Pairwise precision, recall and F1 count pairs of tracks; B-cubed (Bagga and Baldwin 1998) averages them over tracks,
    so a person with many tracks does not dominate; the adjusted Rand index is 0 for chance.
    """
    known = known_rows(pids)
    if len(known) < 2:
        return {}
    truth, found = np.unique([pids[i] for i in known], return_inverse=True)[1], person[known]
    (_, false), (missed, right) = pair_confusion_matrix(truth, found).tolist()
    table = sparse.coo_array(contingency_matrix(truth, found, sparse=True, dtype=np.float64))
    in_truth, in_found = np.bincount(truth), np.bincount(np.unique(found, return_inverse=True)[1])
    cubed = np.array([(table.data**2 / size).sum() / len(known) for size in (in_found[table.col], in_truth[table.row])])
    return {
        **rates("pairwise", right, false, missed),
        "bcubed_precision": float(cubed[0]),
        "bcubed_recall": float(cubed[1]),
        "bcubed_f1": float(2 * cubed.prod() / cubed.sum()),
        "adjusted_rand": float(adjusted_rand_score(truth, found)),
        "people": float(len(in_found)),
        "identities": float(len(in_truth)),
        "tracks": float(len(known)),
    }


def single_scores(features: Values, pids: Sequence[str], threshold: float) -> dict[str, float]:
    """Scores of the baseline: each pair of tracks is decided separately, by one threshold on a picture of each.

    ``best_pairwise_f1`` is the best of any threshold, chosen with known identities.

    Args:
        features: ``(N, D)`` of one picture per track, of unit length.
        pids: N identities; empty if unknown.
        threshold: Similarity at or above which two pictures are one person.
    """
    known = known_rows(pids)
    if len(known) < 2:
        return {}
    whose = np.unique([pids[i] for i in known], return_inverse=True)[1]
    some = np.asarray(features, np.float32)[known]
    accepted, counts = np.zeros(2, np.int64), np.zeros((2, BINS), np.int64)
    for first in range(0, len(some), BLOCK):
        rows = some[first : first + BLOCK] @ some.T
        same = whose[first : first + BLOCK, None] == whose
        later = np.arange(len(some)) > np.arange(first, first + len(rows))[:, None]
        for kind in (0, 1):
            values = rows[later & (same == bool(kind))]
            accepted[kind] += (values >= threshold).sum()
            counts[kind] += np.histogram(np.clip(values, -1, 1), BINS, (-1, 1))[0]
    from_there = counts[:, ::-1].cumsum(axis=1)
    matches = int(counts[1].sum())
    best = (2 * from_there[1] / np.maximum(from_there.sum(axis=0) + matches, 1)).max()
    told = rates("pairwise", int(accepted[1]), int(accepted[0]), matches - int(accepted[1]))
    return {**told, "best_pairwise_f1": float(best)}


def known_rows(pids: Sequence[str]) -> Rows:
    """The tracks with known identity; junk (-1) counts as unknown."""
    return np.array([i for i, pid in enumerate(pids) if pid not in ("", "-1")], np.int64)


def rates(kind: str, right: int, false: int, missed: int) -> dict[str, float]:
    """Precision, recall and F1 of pairs; 1 if there was nothing to find and nothing was found.

    >>> rates("pairwise", 1, 1, 3)
    {'pairwise_precision': 0.5, 'pairwise_recall': 0.25, 'pairwise_f1': 0.3333333333333333}
    """
    found, there = right + false, right + missed
    return {
        f"{kind}_precision": right / found if found else 1.0,
        f"{kind}_recall": right / there if there else 1.0,
        f"{kind}_f1": 2 * right / (found + there) if found + there else 1.0,
    }
