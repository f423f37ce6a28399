"""Must-link and cannot-link constraints between tracks, from their times and from user corrections."""

import csv
import io
import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components, shortest_path

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
