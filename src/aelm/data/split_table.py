"""What a benchmark holds, counted, beside what was published."""

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from aelm.data.holdout import HeldOut
from aelm.data.official import OFFICIAL
from aelm.types import Benchmark, Picture

_NONE_HELD_OUT: Mapping[str, HeldOut] = MappingProxyType({})


class Counts(NamedTuple):
    """Counts of one split.

    Attributes:
        images: All pictures.
        ids: Identities, junk apart.
        cameras: Cameras.
        distractors: Pictures of a gallery whose identity no query has, junk apart; None where it is no gallery.
        junk: Pictures of pid -1.
    """

    images: int
    ids: int
    cameras: int
    distractors: int | None
    junk: int


def count(pictures: Sequence[Picture], query_pids: set[int] | None = None) -> Counts:
    """Count a split; ``query_pids`` are the identities of all its queries if it is a gallery.

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
    """A table of all splits: images, identities, cameras, distractors, junk and the published images / identities.

    Args:
        benchmarks: As read.
        held_out: Benchmark name -> what validation holds out; it adds rows of what is trained and validated on.

    Returns:
        Aligned lines, without a newline at the end. ``differs`` marks counts that are not the published ones.

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
    """Sentences about counts that differ from the published ones, and about queries without a match."""
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
    return warnings


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
