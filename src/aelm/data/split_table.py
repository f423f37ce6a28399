"""A benchmark's splits: held-out identities, pictures in two sets, and a table with the published counts."""

import hashlib
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aelm.data.layouts import OFFICIAL
from aelm.types import NO_NAMES, Benchmark, InputError, Names, Picture


class HeldOut(NamedTuple):
    """Training pictures split by identity, in the original order.

    Attributes:
        train: Pictures left for training.
        query: One picture of each held-out identity and camera, if a match remains in ``gallery``.
        gallery: The other pictures of the held-out identities.
    """

    train: tuple[Picture, ...]
    query: tuple[Picture, ...] = ()
    gallery: tuple[Picture, ...] = ()


def hold_out(pictures: Sequence[Picture], fraction: float, seed: int, names: Names = NO_NAMES) -> HeldOut:
    """Holds out training identities as queries and gallery.

    The middle picture of each held-out identity and camera becomes a query if all queries of this identity still have a
    match from another camera in the gallery.

    Args:
        pictures: The training pictures of one benchmark.
        fraction: Share of identities to hold out, in [0, 1); at least two unless it is 0.
        seed: Seed of the choice among identities seen by two or more cameras; the same on every machine.
        names: Names of identities; the choice depends on names, not numbers.

    Raises:
        ValueError: If ``fraction`` is out of range, too few identities are seen by two cameras, or fewer than two
            identities would be left for training.
    """
    if not 0 <= fraction < 1:
        raise InputError(f"`fraction` must lie in [0, 1), got {fraction}")
    if fraction == 0:
        return HeldOut(tuple(pictures))
    cameras: defaultdict[int, defaultdict[int, list[Picture]]] = defaultdict(lambda: defaultdict(list))
    for picture in pictures:
        cameras[picture.pid][picture.camid].append(picture)
    called = {names.pid(pid): pid for pid in cameras}
    chosen = _chosen({name: len(cameras[pid]) for name, pid in called.items()}, fraction, seed)
    held = {called[name] for name in chosen}
    queries = {picture for pid in held for picture in _queries(cameras[pid])}
    return HeldOut(
        train=tuple(picture for picture in pictures if picture.pid not in held),
        query=tuple(picture for picture in pictures if picture in queries),
        gallery=tuple(picture for picture in pictures if picture.pid in held and picture not in queries),
    )


def _chosen(num_cameras: dict[str, int], fraction: float, seed: int) -> set[str]:
    wanted = max(2, round(fraction * len(num_cameras)))
    eligible = [name for name, number in num_cameras.items() if number > 1]
    found = f"{len(num_cameras)} identities, {len(eligible)} of them seen by two cameras or more"
    way_out = "Lower it, or set it to 0: then nothing is held out"
    if wanted > len(eligible):
        raise InputError(
            f"`val_fraction`={fraction} asks for {wanted} identities to validate on, each seen by two cameras or more, "
            f"found {found}. {way_out}"
        )
    if len(num_cameras) - wanted < 2:
        raise InputError(
            f"`val_fraction`={fraction} must leave at least two identities to train on, found {found}, "
            f"of which {wanted} would be held out. {way_out}"
        )
    # A hash, since no library guarantees the same random numbers in later versions.
    return set(sorted(eligible, key=lambda name: hashlib.sha256(f"{seed} {name}".encode()).digest())[:wanted])


def _queries(cameras: dict[int, list[Picture]]) -> list[Picture]:
    """One query per camera, as long as each query keeps a match from another camera."""
    left = {camid: len(shots) for camid, shots in cameras.items()}
    asked: list[int] = []
    # Cameras with many pictures first.
    for camid in sorted(cameras, key=lambda camid: (-len(cameras[camid]), camid)):
        after = left | {camid: left[camid] - 1}
        if all(any(count for other, count in after.items() if other != query) for query in [*asked, camid]):
            left = after
            asked.append(camid)
    return [cameras[camid][len(cameras[camid]) // 2] for camid in asked]


_NONE_HELD_OUT: Mapping[str, HeldOut] = MappingProxyType({})


class Counts(NamedTuple):
    """Counts of one split.

    Attributes:
        images: All pictures.
        ids: Identities, without junk.
        cameras: Cameras.
        distractors: Gallery pictures of an identity without a query, without junk; None if it is not a gallery.
        junk: Pictures of pid -1.
    """

    images: int
    ids: int
    cameras: int
    distractors: int | None
    junk: int


def count(pictures: Sequence[Picture], query_pids: set[int] | None = None) -> Counts:
    """Counts a split; for a gallery, ``query_pids`` are the identities of all queries.

    >>> count([Picture("a", 3, 1), Picture("b", 0, 2), Picture("c", -1, 2)], query_pids={3})
    Counts(images=3, ids=2, cameras=2, distractors=1, junk=1)
    """
    pids = [picture.pid for picture in pictures]
    return Counts(
        images=len(pids),
        ids=len(set(pids) - {-1}),
        cameras=len({picture.camid for picture in pictures}),
        distractors=None if query_pids is None else sum(pid != -1 and pid not in query_pids for pid in pids),
        junk=pids.count(-1),
    )


def split_table(benchmarks: Sequence[Benchmark], held_out: Mapping[str, HeldOut] = _NONE_HELD_OUT) -> str:
    """A table of all splits: images, identities, cameras, distractors, junk and published images / identities.

    Args:
        benchmarks: The benchmarks as read.
        held_out: Benchmark name -> held-out pictures; adds rows of the training and validation parts.

    Returns:
        Aligned lines, without a final newline. ``differs`` marks counts that differ from the published ones.

    >>> print(split_table([Benchmark("mine", train=(Picture("a.jpg", 1, 1), Picture("b.jpg", 2, 1)))]))
    data set  split  images  ids  cameras  distractors  junk  published
    mine      train       2    2        1            -     -          -
    """
    rows: list[tuple[str, ...]] = [("data set", "split", *Counts._fields, "published")]
    for benchmark in benchmarks:
        for split, counts in _splits(benchmark):
            rows.append((benchmark.name, split, *_texts(counts), _published(benchmark, split, counts)))
        if benchmark.name in held_out:
            train, query, gallery = held_out[benchmark.name]
            pids = {picture.pid for picture in query}
            parts = {"  to train": count(train), "  val query": count(query), "  val gallery": count(gallery, pids)}
            rows += [(benchmark.name, split, *_texts(counts), "-") for split, counts in parts.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [
            text.ljust(width) if i < 2 else text.rjust(width)
            for i, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def count_warnings(benchmark: Benchmark) -> list[str]:
    """Warnings about problems that make scores unreliable or not comparable.

    Counts that differ from the published ones, queries without a match, the same pictures or people in two splits, and
    the reader's warnings.
    """
    found = {f"{split} {what}": number for split, counts in _splits(benchmark) for what, number in _pairs(counts)}
    warnings = []
    for split in ("train", "query", "gallery"):
        expected = {key: number for key, number in benchmark.official.items() if key.startswith(f"{split} ")}
        wrong = [key for key, number in expected.items() if found.get(key, 0) != number]
        if wrong:
            differences = ", ".join(f"{found.get(key, 0):,} {key.split()[1]}, not {expected[key]:,}" for key in wrong)
            warnings.append(f"{benchmark.name}: {split} has {differences}. Scores will not compare with published ones")
    if warnings:
        warnings += [
            f"{benchmark.name}: these are the published counts of {name}. Is it the right folder?"
            for name, table in OFFICIAL.items()
            if name != benchmark.name and all(found.get(key) == number for key, number in table.items())
        ]
    for queries in (benchmark.query, *benchmark.more_queries.values()):
        lonely = len(unmatched_queries(queries, benchmark.gallery))
        if lonely:
            warnings.append(
                f"{benchmark.name}: {lonely:,} of {len(queries):,} queries have no match from another camera in the "
                "gallery. They take no part in the scores"
            )
    return [*warnings, *copy_warnings(benchmark), *(f"{benchmark.name}: {doubt}" for doubt in benchmark.doubts)]


def unmatched_queries(query: Sequence[Picture], gallery: Sequence[Picture]) -> tuple[Picture, ...]:
    """The queries without a match: no picture of their identity from another camera in the gallery."""
    cameras: dict[int, set[int]] = {}
    for picture in gallery:
        cameras.setdefault(picture.pid, set()).add(picture.camid)
    return tuple(
        picture for picture in query if picture.pid < 0 or not cameras.get(picture.pid, set()) - {picture.camid}
    )


def _splits(benchmark: Benchmark) -> Iterator[tuple[str, Counts]]:
    asked = [benchmark.query, *benchmark.more_queries.values()]
    pids = {picture.pid for queries in asked for picture in queries}
    if benchmark.train:
        yield "train", count(benchmark.train)
    if benchmark.query:
        yield "query", count(benchmark.query)
    for name, queries in benchmark.more_queries.items():
        yield f"{name} query", count(queries)
    if benchmark.gallery:
        yield "gallery", count(benchmark.gallery, pids)


def _pairs(counts: Counts) -> Iterator[tuple[str, int]]:
    for what, number in counts._asdict().items():
        if number is not None:
            yield what, number


def _texts(counts: Counts) -> list[str]:
    is_gallery = counts.distractors is not None
    numbers = [counts.images, counts.ids, counts.cameras, counts.distractors]
    junk = f"{counts.junk:,}" if is_gallery or counts.junk else "-"
    return [*("-" if number is None else f"{number:,}" for number in numbers), junk]


def _published(benchmark: Benchmark, split: str, counts: Counts) -> str:
    expected = {what: benchmark.official.get(f"{split} {what}") for what in Counts._fields}
    if expected["images"] is None or expected["ids"] is None:
        return "-"
    same = all(number in (None, getattr(counts, what)) for what, number in expected.items())
    return f"{'' if same else 'differs: '}{expected['images']:,} / {expected['ids']:,}"


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
