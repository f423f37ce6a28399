"""From what people write as identity and camera to a benchmark with numbers."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from aelm.data.pictures import shown
from aelm.types import Benchmark, Picture

_JUNK = "-1"


class Entry(NamedTuple):
    """A picture as a file name or a table describes it.

    Attributes:
        path: The file.
        split: ``train``, ``query``, ``gallery``, ``query_<what>``, or ``test``: the gallery if there are queries, else
            query and gallery at once.
        pid: Identity, in whatever writing; ``-1`` is junk.
        camid: Camera, in whatever writing; None if there are no cameras.
    """

    path: Path
    split: str
    pid: str
    camid: str | None


def numbers(texts: Iterable[str]) -> dict[str, int]:
    """A number for each text: itself if all are whole numbers, else its place among all in sorted order.

    >>> numbers(["007", "12", "-1"])
    {'-1': -1, '007': 7, '12': 12}
    >>> numbers(["bob", "-1", "ann"])
    {'-1': -1, 'ann': 0, 'bob': 1}
    """
    distinct = sorted(set(texts))
    if all(re.fullmatch(r"-?\d+", text) for text in distinct):
        return {text: int(text) for text in distinct}
    return {
        text: i - (_JUNK in distinct) for i, text in enumerate(sorted(distinct, key=lambda text: (text != _JUNK, text)))
    }


def numbered(name: str, entries: Sequence[Entry]) -> Benchmark:
    """The benchmark of these pictures, each split sorted by path.

    Raises:
        ValueError: If some pictures have a camera and others have none.
    """
    without = [entry.path for entry in entries if entry.camid is None]
    if 0 < len(without) < len(entries):
        raise ValueError(
            f"{name}: {len(without)} of {len(entries)} pictures have no camera: {shown(without)}. "
            "Give each picture a camera, or none of them"
        )
    pids = numbers(entry.pid for entry in entries)
    cameras = numbers(entry.camid for entry in entries if entry.camid is not None)
    has_queries = any(entry.split.startswith("query") for entry in entries)
    splits: dict[str, list[Picture]] = {}
    shots: Counter[tuple[str, int]] = Counter()
    for entry in sorted(entries):
        split = "gallery" if entry.split == "test" and has_queries else entry.split
        pid = pids[entry.pid]
        shot = shots[split, pid]
        camid = _made_up_camera(split, shot) if entry.camid is None else cameras[entry.camid]
        shots[split, pid] += 1
        splits.setdefault(split, []).append(Picture(str(entry.path), pid, camid))
    done = {split: tuple(sorted(pictures)) for split, pictures in splits.items()}
    test = done.get("test", ())
    return Benchmark(
        name=name,
        train=done.get("train", ()),
        # Junk is never asked for.
        query=tuple(picture for picture in test if picture.pid != -1) or done.get("query", ()),
        gallery=tuple(sorted(test + done.get("gallery", ()))),
        more_queries={s.removeprefix("query_"): done[s] for s in sorted(done) if s.startswith("query_")},
    )


def _made_up_camera(split: str, shot: int) -> int:
    """A camera where none is known, such that every match counts; ``shot`` counts an identity's pictures."""
    if split.startswith("query"):
        return 0
    if split == "gallery":
        return 1
    return shot % 2 if split == "train" else shot
