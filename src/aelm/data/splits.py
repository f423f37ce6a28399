"""Labels, cameras and splits of one or several benchmarks, and checks before training."""

import os
from collections.abc import Mapping, Sequence

from aelm.data.listing import first_few
from aelm.data.split_table import HeldOut, count_warnings, hold_out, split_table, unmatched_queries
from aelm.files import digest
from aelm.types import Benchmark, InputError, Names, Picture

__all__ = [
    "HeldOut",
    "camera_map",
    "check",
    "count_warnings",
    "digests",
    "hold_out",
    "join",
    "label_map",
    "relabel",
    "split_table",
    "unmatched_queries",
]

LabelMap = Mapping[tuple[str, int], int]
"""Training labels by (benchmark name, label in that benchmark)."""


def label_map(benchmarks: Sequence[Benchmark]) -> dict[tuple[str, int], int]:
    """Training labels 0 .. N-1 of all identities; identities of different benchmarks are distinct.

    Args:
        benchmarks: Their ``train`` pictures are used; order does not matter.

    Returns:
        (benchmark name, pid) -> label, in sorted order.

    Raises:
        ValueError: If there is no benchmark, two have the same name, one has no training pictures or a negative pid, or
            there are fewer than two identities.

    >>> first, second = Benchmark("a", (Picture("x.jpg", 7, 1),)), Benchmark("b", (Picture("y.jpg", 7, 1),))
    >>> label_map([second, first])
    {('a', 7): 0, ('b', 7): 1}
    """
    check_trainable(benchmarks)
    keys = sorted({(benchmark.name, picture.pid) for benchmark in benchmarks for picture in benchmark.train})
    if len(keys) < 2:
        names = ", ".join(benchmark.name for benchmark in benchmarks)
        raise InputError(
            f"{names}: training needs at least two identities to tell apart, found {len(keys)}. "
            "Does the pattern for file names take the right part as `pid`?"
        )
    return {key: label for label, key in enumerate(keys)}


def digests(benchmarks: Sequence[Benchmark]) -> dict[str, str]:
    """A digest of names and sizes of each identity's training pictures, independent of their folder.

    Returns:
        ``"market1501:2"`` -> digest, in sorted order.
    """
    files: dict[str, list[tuple[str, str]]] = {}
    for benchmark in benchmarks:
        for picture in benchmark.train:
            file = (os.path.basename(picture.path), picture.path)
            files.setdefault(f"{benchmark.name}:{benchmark.names.pid(picture.pid)}", []).append(file)
    return {person: digest(sorted(found)) for person, found in sorted(files.items())}


def camera_map(benchmarks: Sequence[Benchmark]) -> dict[tuple[str, int], int]:
    """Numbers 0 .. K-1 of all training cameras, distinct between benchmarks: (name, camid) -> number."""
    keys = sorted({(benchmark.name, picture.camid) for benchmark in benchmarks for picture in benchmark.train})
    return {key: camera for camera, key in enumerate(keys)}


def relabel(benchmarks: Sequence[Benchmark], labels: LabelMap, cameras: LabelMap) -> tuple[Picture, ...]:
    """The training pictures of all benchmarks, with pid replaced by label and camid by camera number.

    Args:
        benchmarks: In the order of the result.
        labels: From :func:`label_map`, possibly of a checkpoint.
        cameras: From :func:`camera_map`.

    Raises:
        ValueError: If identities or cameras are not in the maps; gives their number and names.
    """
    train = [(benchmark.name, picture) for benchmark in benchmarks for picture in benchmark.train]
    for what, known, keys in (
        ("identities", labels, {(name, picture.pid) for name, picture in train}),
        ("cameras", cameras, {(name, picture.camid) for name, picture in train}),
    ):
        unknown = sorted(keys - known.keys())
        if unknown:
            raise InputError(
                f"{len(unknown)} of {len(keys)} {what} to train on are not in the map, which has {len(known)}: "
                f"{first_few(unknown)}. Training goes on only with the data, and the held-out share, it began with"
            )
    return tuple(
        Picture(picture.path, labels[name, picture.pid], cameras[name, picture.camid]) for name, picture in train
    )


def join(benchmarks: Sequence[Benchmark]) -> Benchmark:
    """Joins benchmarks, with identities and cameras renumbered to be distinct; a single one is unchanged.

    Junk stays -1. Identities and cameras of a benchmark keep their order; further query sets of the same name are
    merged. Used for one validation set over several training sets; test sets are better kept separate.

    Raises:
        ValueError: If there is no benchmark, or two have the same name.
    """
    _refuse_same_names(benchmarks)
    if len(benchmarks) == 1:
        return benchmarks[0]
    first_pid = first_camera = 0
    splits: dict[str, list[Picture]] = {}
    names = Names({}, {})
    for benchmark in benchmarks:
        parts = _parts(benchmark)
        pids = sorted({picture.pid for part in parts.values() for picture in part if picture.pid >= 0})
        camids = sorted({picture.camid for part in parts.values() for picture in part})
        new_pid = {pid: first_pid + i for i, pid in enumerate(pids)}
        new_camid = {camid: first_camera + i for i, camid in enumerate(camids)}
        first_pid, first_camera = first_pid + len(pids), first_camera + len(camids)
        names = Names(
            {**names.pids, **{new: f"{benchmark.name}:{benchmark.names.pid(pid)}" for pid, new in new_pid.items()}},
            {
                **names.camids,
                **{new: f"{benchmark.name}:{benchmark.names.camid(old)}" for old, new in new_camid.items()},
            },
        )
        for split, part in parts.items():
            splits.setdefault(split, []).extend(
                Picture(path, new_pid.get(pid, pid), new_camid[camid]) for path, pid, camid in part
            )
    train, query, gallery = (tuple(splits.pop(split)) for split in ("train", "query", "gallery"))
    more = {split.removesuffix(" query"): tuple(pictures) for split, pictures in splits.items()}
    return Benchmark("+".join(one.name for one in benchmarks), train, query, gallery, more, names=names)


def check(benchmark: Benchmark) -> None:
    """Checks a benchmark before training.

    Raises:
        ValueError: If a required split is empty, a pid is out of range, or no query of a set has a match from another
            camera.
    """
    name, parts = benchmark.name, _parts(benchmark)
    for split, pictures in parts.items():
        lowest = -1 if split == "gallery" else 0
        outside = [picture for picture in pictures if picture.pid < lowest]
        if outside:
            raise InputError(
                f"{name}: {len(outside)} of {len(pictures)} pictures of {split} have a pid out of range: "
                f"{first_few([f'{picture.pid} ({picture.path})' for picture in outside])}; expected {lowest} or more. "
                "Only a gallery holds junk (-1); give each other person a number from 0"
            )
    sets = {split: pictures for split, pictures in parts.items() if "query" in split and pictures}
    published = [split for split in ("train", "query", "gallery") if f"{split} images" in benchmark.official]
    needed = published or (["gallery"] if sets else []) + (["query"] if benchmark.gallery and not sets else [])
    empty = [split for split in needed or ["train"] if not parts[split]]
    if empty:
        sizes = ", ".join(f"{len(pictures)} in {split}" for split, pictures in parts.items())
        raise InputError(
            f"{name}: expected pictures in {' and '.join(empty)}, found none ({sizes}). "
            "Is the data set unpacked completely, and `data_dir` the right folder?"
        )
    for split, queries in sets.items():
        if len(unmatched_queries(queries, benchmark.gallery)) == len(queries):
            raise InputError(f"{name}: {_why_unmatched(split, queries, benchmark.gallery, benchmark.names)}")


def _why_unmatched(split: str, query: Sequence[Picture], gallery: Sequence[Picture], names: Names) -> str:
    query_pids, gallery_pids = ({picture.pid for picture in pictures} - {-1} for pictures in (query, gallery))
    shared = query_pids & gallery_pids
    if not shared:
        return (
            f"{split} and gallery must share identities, found none in common; {split} has "
            f"{first_few([names.pid(pid) for pid in sorted(query_pids)])}, gallery has "
            f"{first_few([names.pid(pid) for pid in sorted(gallery_pids)])}. "
            "Does `pid` mean the same in both, and does the pattern take the right part of the file names?"
        )
    cameras = [
        first_few([names.camid(camid) for camid in sorted({picture.camid for picture in pictures})], most=20)
        for pictures in (query, gallery)
    ]
    return (
        f"a match counts only from another camera, but {split} and gallery share {len(shared)} identities and none "
        f"across cameras: {split} has the cameras {cameras[0]}, gallery has {cameras[1]}. "
        "Check the `camid` of the file names; pictures without cameras can be read with a `pattern` that has none"
    )


def _parts(benchmark: Benchmark) -> dict[str, tuple[Picture, ...]]:
    """All splits by name."""
    more = {f"{name} query": queries for name, queries in benchmark.more_queries.items()}
    return {"train": benchmark.train, "query": benchmark.query, "gallery": benchmark.gallery, **more}


def _refuse_same_names(benchmarks: Sequence[Benchmark]) -> None:
    names = [benchmark.name for benchmark in benchmarks]
    if not names or len(set(names)) < len(names):
        raise InputError(f"expected one data set or more, each by another name, got {', '.join(names) or 'none'}")


def check_trainable(benchmarks: Sequence[Benchmark]) -> None:
    """Checks the training benchmarks.

    Raises:
        ValueError: If there is no benchmark, two have the same name, or one has no training pictures or a negative pid.
    """
    _refuse_same_names(benchmarks)
    for benchmark in benchmarks:
        if not benchmark.train:
            way_out = (
                "Some data sets are for testing only, as occluded_reid is; then train on another one, and name this "
                "one as a test set"
                if benchmark.official
                else "Put the pictures to train on into a folder `train`, give them `train` in the column `split` of a "
                "table, or train on all with `dataset.benchmarks.folder.flat=train`; see docs/own_pictures.md"
            )
            raise InputError(
                f"{benchmark.name}: expected training pictures, found none ({len(benchmark.query)} queries, "
                f"{len(benchmark.gallery)} in the gallery). {way_out}"
            )
        junk = [picture for picture in benchmark.train if picture.pid < 0]
        if junk:
            raise InputError(
                f"{benchmark.name}: {len(junk)} of {len(benchmark.train)} training pictures have a negative pid: "
                f"{first_few([picture.path for picture in junk])}; expected 0 or more. Junk (-1) belongs in the gallery"
            )
