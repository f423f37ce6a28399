"""Finds pictures that are in two sets: in training and test, or in queries and gallery."""

import hashlib
import os
from collections.abc import Iterable, Sequence

from aelm.types import Benchmark, Picture


def twins(some: Sequence[Picture], others: Sequence[Picture]) -> list[tuple[Picture, Picture]]:
    """All pairs of ``some`` and ``others`` with the same identity and the same file, by path or content.

    Contents are read only if an identity has files of the same size on both sides, which is rare.
    """
    sizes = [_by_size(side, {picture.pid for picture in other}) for side, other in ((some, others), (others, some))]
    found = []
    for key in sizes[0].keys() & sizes[1].keys():
        content: dict[bytes, list[Picture]] = {}
        for picture in sizes[1][key]:
            content.setdefault(_digest(picture.path), []).append(picture)
        found += [(picture, twin) for picture in sizes[0][key] for twin in content.get(_digest(picture.path), ())]
    return found


def _by_size(pictures: Sequence[Picture], pids: Iterable[int]) -> dict[tuple[int, int], list[Picture]]:
    """The pictures of some identities by identity and file size; missing files are left out."""
    wanted = set(pids) - {-1}
    found: dict[tuple[int, int], list[Picture]] = {}
    for picture in pictures:
        if picture.pid in wanted:
            try:
                found.setdefault((picture.pid, os.stat(picture.path).st_size), []).append(picture)
            except OSError:  # a missing file is reported when it is read
                continue
    return found


def _digest(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "blake2b").digest()
    except OSError:
        return os.fsencode(path)


def copy_warnings(benchmark: Benchmark) -> list[str]:
    """Warnings about queries that find their own file, and people and files in both training and test.

    Benchmarks with published counts are not checked: they are known to have none.
    """
    if benchmark.official:
        return []
    warnings, name = [], benchmark.name
    for queries in (benchmark.query, *benchmark.more_queries.values()):
        own = {query for query, twin in twins(queries, benchmark.gallery) if query.camid != twin.camid}
        if own:
            warnings.append(
                f"{name}: {len(own):,} of {len(queries):,} queries find themselves: the same picture is also in the "
                "gallery, as of another camera. Scores mean little: remove these from one side, or name the cameras"
            )
    tested = [p for part in (benchmark.query, *benchmark.more_queries.values(), benchmark.gallery) for p in part]
    people = {picture.pid for picture in tested if picture.pid != -1}
    both = people & {picture.pid for picture in benchmark.train}
    if both:
        files = len({picture.path for picture, _ in twins(tested, benchmark.train)})
        warnings.append(
            f"{name}: {len(both):,} of {len(people):,} test identities are also in train, "
            f"and {files:,} of {len({picture.path for picture in tested}):,} test pictures. "
            "Where these were trained on, scores say little of new people: take people that train has not"
        )
    return warnings
