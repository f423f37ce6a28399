"""Average-linkage clustering with constraints, for ten to a hundred thousand tracks.

Groups of tracks are joined, most similar first, while the mean similarity of their pairs reaches the threshold; groups
with a pair that cannot be one person (cannot-link) are never joined. A mean reaches the threshold only if a pair does,
so each connected component of the graph of such pairs is clustered separately. With a good model components are small,
and scikit-learn clusters them from their distance matrix. There, cannot-link pairs get a distance so large that no mean
with one of them passes the threshold, and must-link pairs a distance below all others.

With a weak model or a low threshold, one component may hold most tracks: its matrix does not fit in memory, and
scikit-learn's clustering of sparse graphs supports no constraints and omits pairs from its means. Then the same linkage
runs on the graph: the mean cosine of two groups is the product of their mean embeddings, so no matrix is needed. A test
checks that both give the same result.
"""

import csv
import heapq
import io
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components, shortest_path
from sklearn.cluster import AgglomerativeClustering

from aelm.data.listing import first_few
from aelm.data.sources import Item
from aelm.embed.tracks import name
from aelm.types import InputError

log = logging.getLogger(__name__)

Rows = NDArray[np.int64]
COLUMNS = ("answer", "a", "b")
SAME, DIFFERENT = ANSWERS = ("same", "different")


class Correction(NamedTuple):
    """A user's decision about two tracks.

    Attributes:
        answer: ``same`` or ``different``.
        a: A track, by its name in the table of people: ``door:7``.
        b: Another track.
    """

    answer: str
    a: str
    b: str


def read_corrections(path: str | Path) -> tuple[Correction, ...]:
    """Reads a table with the columns ``answer``, ``a`` and ``b``; the last answer for a pair counts.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a column is missing or a row is malformed, with its line.
    """
    with Path(path).open(encoding="utf-8-sig", newline="", errors="surrogateescape") as stream:
        rows = csv.DictReader(stream)
        if missing := set(COLUMNS) - set(rows.fieldnames or ()):
            raise InputError(f"{path}: expected the columns {', '.join(COLUMNS)}, {', '.join(sorted(missing))} missing")
        found = []
        for row in rows:
            one = Correction(*((row[column] or "").strip() for column in COLUMNS))
            if one.answer not in ANSWERS or not one.a or not one.b or one.a == one.b:
                raise InputError(
                    f"{path}, line {rows.line_num}: expected same or different and two tracks, such as "
                    f"same,door:7,gate:3; got {','.join(one)}"
                )
            found.append(one)
    return merged_corrections(found)


def merged_corrections(corrections: Iterable[Correction]) -> tuple[Correction, ...]:
    """One answer per pair: the last."""
    return tuple({frozenset((one.a, one.b)): one for one in corrections}.values())


def as_table(corrections: Iterable[Correction]) -> str:
    """The corrections in the format of :func:`read_corrections`."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerows([COLUMNS, *corrections])
    return text.getvalue()


class Constraints:
    """Constraints on pairs of N tracks.

    Two tracks of one camera that overlap in time are two people; tracks without start or end are not constrained.
    Corrections take precedence, since a tracker may follow one person twice.

    Args:
        tracks: N tracks.
        corrections: One answer per pair.

    Attributes:
        group: ``(N,)`` int64, equal for tracks that must be one person.

    Raises:
        ValueError: If two tracks have the same name, a correction names an unknown track, or corrections contradict
            each other.
    """

    def __init__(self, tracks: Sequence[Item], corrections: Sequence[Correction] = ()) -> None:
        places: dict[str, int] = {}
        for place, item in enumerate(tracks):
            if places.setdefault(name(item), place) != place:
                raise InputError(f"two tracks are called {name(item)}: number the tracks of a camera apart")
        if unknown := [track for one in corrections for track in one[1:] if track not in places]:
            raise InputError(
                f"corrections name tracks that are not there: {first_few(unknown)}; there is {next(iter(places))}"
            )
        cameras = {camid: number for number, camid in enumerate(dict.fromkeys(item.camid for item in tracks))}
        self.camera = np.array([cameras[item.camid] for item in tracks], np.int64)
        self.start, self.end = (
            np.array([np.nan if time is None else time for time in times], np.float64)
            for times in ([item.start for item in tracks], [item.end for item in tracks])
        )
        pairs: Mapping[str, Rows] = {
            answer: np.array(
                [(places[one.a], places[one.b]) for one in corrections if one.answer == answer], np.int64
            ).reshape(-1, 2)
            for answer in ANSWERS
        }
        self.same = pairs[SAME]
        size = (len(tracks), len(tracks))
        joined = sparse.coo_array((np.ones(len(self.same), np.int8), tuple(self.same.T)), shape=size)
        self.group: Rows = connected_components(joined, directed=False)[1].astype(np.int64)
        self._refuse_contradictions(tracks, pairs[DIFFERENT], joined)
        low, high = np.sort(pairs[DIFFERENT], axis=1).T
        self._different = np.sort(low * len(tracks) + high)

    def _refuse_contradictions(self, tracks: Sequence[Item], different: Rows, joined: sparse.coo_array) -> None:
        wrong = different[self.group[different[:, 0]] == self.group[different[:, 1]]]
        if not len(wrong):
            return
        a, b = wrong[0].tolist()
        before = shortest_path(joined, directed=False, unweighted=True, indices=[a], return_predecessors=True)[1][0]
        chain = [b]
        while chain[-1] != a:
            chain.append(int(before[chain[-1]]))
        told = " = ".join(name(tracks[place]) for place in reversed(chain))
        raise InputError(
            f"corrections contradict each other at {len(wrong)} pair{'s' if len(wrong) > 1 else ''}: {name(tracks[a])} "
            f"and {name(tracks[b])} are `different`, but `same` by {told}; take one of these lines out"
        )

    def overlapping(self, a: Rows, b: Rows) -> NDArray[np.bool_]:
        """``(len(a), len(b))``: whether two tracks were in one camera at the same time."""
        found: NDArray[np.bool_] = (
            (self.camera[a][:, None] == self.camera[b])
            & (self.start[a][:, None] <= self.end[b])
            & (self.start[b] <= self.end[a][:, None])
        )
        return found

    def cannot(self, a: Rows, b: Rows) -> NDArray[np.bool_]:
        """``(len(a), len(b))``: whether two tracks cannot be one person."""
        found: NDArray[np.bool_] = self.overlapping(a, b) & (self.group[a][:, None] != self.group[b])
        if len(self._different):
            low, high = np.minimum(a[:, None], b), np.maximum(a[:, None], b)
            found |= np.isin(low * len(self.group) + high, self._different)
        return found

    def overruled(self) -> list[tuple[int, int]]:
        """Pairs corrected to be the same although they overlap in one camera."""
        return [(a, b) for a, b in self.same.tolist() if self.overlapping(np.array([a]), np.array([b])).any()]


Values = NDArray[np.float32]
LARGEST = 3000  # largest component that is clustered from its matrix


class Similarities(NamedTuple):
    """Candidate pairs of N tracks.

    Attributes:
        near: ``(N, N)`` symmetric: similarities of each track to its nearest ones.
        features: ``(N, D)`` of unit length, whose product is the similarity of every pair; None if pairs missing in
            ``near`` have similarity 0.
    """

    near: sparse.csr_array
    features: Values | None

    def matrix(self, rows: Rows) -> NDArray[np.float64]:
        """Similarities of all pairs of some tracks."""
        if self.features is None:
            return np.asarray(self.near[rows][:, rows].toarray(), np.float64)
        some = self.features[rows].astype(np.float64)
        return np.asarray(some @ some.T)


def cluster(similarities: Similarities, threshold: float, constraints: Constraints, *, largest: int = LARGEST) -> Rows:
    """Cluster number of each track, ``(N,)`` from 0: equal for the same person.

    Args:
        similarities: Similarities of the pairs.
        threshold: Mean similarity at or above which two groups are one person.
        constraints: Must-link and cannot-link constraints.
        largest: Largest component that is clustered from its matrix.
    """
    near = similarities.near
    kept = sparse.coo_array(near)
    enough = kept.data >= threshold
    rows, columns = kept.row[enough], kept.col[enough]
    edges = np.concatenate([np.stack([rows, columns]), constraints.same.T], axis=1)
    graph = sparse.coo_array((np.ones(edges.shape[1], np.int8), tuple(edges)), shape=near.shape)
    part = connected_components(graph, directed=False)[1]
    order = np.argsort(part, kind="stable").astype(np.int64)
    person = np.zeros(len(order), np.int64)
    first = 0
    sizes = np.bincount(part)
    log.info("%d tracks in %d parts, the largest of %d", len(part), len(sizes), sizes.max())
    for members in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
        if len(members) == 1:
            labels = np.zeros(1, np.int64)
        elif len(members) <= largest:
            labels = from_matrix(similarities.matrix(members), members, threshold, constraints)
        else:
            labels = from_graph(similarities, members, threshold, constraints)
        person[members] = labels + first
        first += int(labels.max()) + 1
    return np.unique(person, return_inverse=True)[1].astype(np.int64)


def from_matrix(similarity: NDArray[np.float64], members: Rows, threshold: float, constraints: Constraints) -> Rows:
    """Clusters a component by scikit-learn, with the ``similarity`` of all pairs of its ``members``."""
    distance = 1 - similarity
    distance[constraints.cannot(members, members)] = 8.0 * len(members) ** 2  # a mean holds at most n^2 / 4 pairs
    group = constraints.group[members]
    distance[group[:, None] == group] = -1  # below all others
    np.fill_diagonal(distance, 0)
    how = AgglomerativeClustering(
        n_clusters=None, metric="precomputed", linkage="average", distance_threshold=np.nextafter(1 - threshold, 3)
    )
    return np.asarray(how.fit_predict(distance), np.int64)


def from_graph(similarities: Similarities, members: Rows, threshold: float, constraints: Constraints) -> Rows:
    """Clusters a component on its graph, with the same result; only compares groups connected by an edge."""
    groups = Groups(similarities, members, threshold, constraints)
    waiting = [entry for group in groups.alive() if (entry := groups.nearest(group)) is not None]
    heapq.heapify(waiting)
    while waiting:
        _, group, version, other, other_version = heapq.heappop(waiting)
        if groups.version[group] != version:  # outdated: the group has grown, or was joined to another
            continue
        if groups.version[other] == other_version:
            if groups.cannot(group, other):
                groups.forbid(group, other)
            else:
                groups.join(group, other)
        # Means only shrink when groups join, so the outdated similarity was an upper bound.
        entry = groups.nearest(group)
        if entry is not None:
            heapq.heappush(waiting, entry)
    return groups.labels()


Entry = tuple[float, int, int, int, int]
"""Heap entry: minus the similarity of a group and its nearest group, then both, with their versions when compared."""


class Groups:
    """The growing groups of a component; each is identified by the index of its first track in the members."""

    def __init__(self, similarities: Similarities, members: Rows, threshold: float, constraints: Constraints) -> None:
        self.members, self.threshold, self.constraints = members, threshold, constraints
        near = sparse.csr_array(similarities.near[members][:, members])
        first: dict[int, int] = {}
        self.root = np.array([first.setdefault(g, i) for i, g in enumerate(constraints.group[members].tolist())])
        self.places: dict[int, Rows] = {}
        for place, root in enumerate(self.root.tolist()):
            self.places[root] = np.append(self.places.get(root, np.empty(0, np.int64)), place)
        self.version = np.zeros(len(members), np.int64)
        self.size = np.bincount(self.root, minlength=len(members))
        self.total: Values | None = None
        if similarities.features is not None:
            self.total = np.zeros((len(members), similarities.features.shape[1]), np.float32)
            np.add.at(self.total, self.root, similarities.features[members])
        # Neighbours of each group's tracks, and their similarities.
        self.edges = {
            root: tuple(np.concatenate([part[near.indptr[p] : near.indptr[p + 1]] for p in places])
                        for part in (near.indices, near.data))
            for root, places in self.places.items()
        }  # fmt: skip
        self.forbidden: dict[int, set[int]] = {}

    def alive(self) -> Iterator[int]:
        """The current groups."""
        return iter(list(self.places))

    def nearest(self, group: int) -> Entry | None:
        """The most similar group that may be joined with this one; None if none reaches the threshold."""
        neighbours, values = self.edges[group]
        found, inverse = np.unique(self.root[neighbours], return_inverse=True)
        if self.total is not None:
            mean = self.total[found] @ self.total[group] / (self.size[found] * self.size[group])
        else:
            mean = np.bincount(inverse, values, len(found)) / (self.size[found] * self.size[group])
        mean[found == group] = -np.inf
        if group in self.forbidden:
            mean[np.isin(found, self.root[list(self.forbidden[group])])] = -np.inf
        best = int(np.argmax(mean)) if len(mean) else 0
        if not len(mean) or mean[best] < self.threshold:
            return None
        other = int(found[best])
        return -float(mean[best]), group, int(self.version[group]), other, int(self.version[other])

    def cannot(self, a: int, b: int) -> bool:
        """Whether two groups contain a cannot-link pair."""
        left, right = (self.members[self.places[group]] for group in (a, b))
        return bool(self.constraints.cannot(left, right).any())

    def forbid(self, a: int, b: int) -> None:
        """Forbids joining two groups and their successors."""
        self.forbidden.setdefault(a, set()).add(b)
        self.forbidden.setdefault(b, set()).add(a)

    def join(self, a: int, b: int) -> None:
        """Joins two groups, identified as ``a``."""
        places = self.places.pop(b)
        self.root[places] = a
        self.places[a] = np.concatenate([self.places[a], places])
        self.size[a] += self.size[b]
        if self.total is not None:
            self.total[a] += self.total[b]
        self.edges[a] = tuple(np.concatenate(pair) for pair in zip(self.edges[a], self.edges.pop(b), strict=True))
        if b in self.forbidden:
            self.forbidden.setdefault(a, set()).update(self.forbidden.pop(b))
        self.version[[a, b]] += 1

    def labels(self) -> Rows:
        """The number of each member's group, from 0."""
        return np.unique(self.root, return_inverse=True)[1].astype(np.int64)
