"""The user's own pictures: split folders with a pattern for file names, or a table (CSV)."""

import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from aelm.data.layouts import plain_folder as plain_name
from aelm.data.layouts import subfolders
from aelm.data.listing import doubts, first_few, is_picture, numbers_of, plain, refuse_names, texts_of, walk_pictures
from aelm.data.sources import read_table
from aelm.files import on_disk
from aelm.types import Benchmark, InputError, Names, Picture


class Entry(NamedTuple):
    """A picture as described by its file name or a table row.

    Attributes:
        path: The file.
        split: ``train``, ``query``, ``gallery``, ``query_<what>``, or ``test``: the gallery if there are queries,
            otherwise both query and gallery.
        pid: Identity as text; ``-1`` is junk.
        camid: Camera as text; None if there are no cameras.
    """

    path: Path
    split: str
    pid: str
    camid: str | None


def benchmark_of(name: str, entries: Sequence[Entry]) -> Benchmark:
    """The benchmark of these pictures, with each split sorted by path, and names of identities and cameras.

    Raises:
        ValueError: If only some pictures have a camera.
    """
    without = [entry.path for entry in entries if entry.camid is None]
    if 0 < len(without) < len(entries):
        raise InputError(
            f"{name}: {len(without)} of {len(entries)} pictures have no camera: {first_few(without)}. "
            "Give each picture a camera, or none of them"
        )
    written = {text: plain(text) for entry in entries for text in (entry.pid, entry.camid) if text is not None}
    pids = numbers_of(written[entry.pid] for entry in entries)
    cameras = numbers_of(written[entry.camid] for entry in entries if entry.camid is not None)
    has_queries = any(entry.split.startswith("query") for entry in entries)
    splits: dict[str, list[Picture]] = {}
    shots: Counter[tuple[str, int]] = Counter()
    for entry in sorted(entries):
        split = "gallery" if entry.split == "test" and has_queries else entry.split
        pid = pids[written[entry.pid]]
        shot = shots[split, pid]
        camid = _made_up_camera(split, shot) if entry.camid is None else cameras[written[entry.camid]]
        shots[split, pid] += 1
        splits.setdefault(split, []).append(Picture(str(entry.path), pid, camid))
    done = {split: tuple(sorted(pictures)) for split, pictures in splits.items()}
    test = done.get("test", ())
    return Benchmark(
        name=name,
        train=done.get("train", ()),
        # Junk is never a query.
        query=tuple(picture for picture in test if picture.pid != -1) or done.get("query", ()),
        gallery=tuple(sorted(test + done.get("gallery", ()))),
        more_queries={s.removeprefix("query_"): done[s] for s in sorted(done) if s.startswith("query_")},
        names=Names(texts_of(pids), texts_of(cameras)),
        doubts=(
            *doubts("identities", [entry.pid for entry in entries]),
            *doubts("cameras", [entry.camid for entry in entries if entry.camid is not None]),
        ),
    )


def _made_up_camera(split: str, shot: int) -> int:
    """A camera for pictures without one, such that every match counts; ``shot`` numbers an identity's pictures."""
    if split.startswith("query"):
        return 0
    if split == "gallery":
        return 1
    return shot % 2 if split == "train" else shot


_COLUMNS = ("path", "pid", "camid", "split")


def read_entries(root: Path, file: Path, default_split: str) -> list[Entry]:
    """Reads the columns ``path``, ``pid`` and, if present, ``camid`` and ``split``; others are ignored.

    Args:
        root: Folder that paths are relative to.
        file: The table, separated by comma, semicolon or tab; the path as given, or else relative to ``root``.
        default_split: For rows without a split.

    Raises:
        FileNotFoundError: If the table does not exist.
        ValueError: If columns are missing, or rows are invalid (lists the lines).
    """
    places = (file.expanduser(), root / file)
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"`csv`: expected a table, found neither {places[0].absolute()} nor {places[1]}")
    table = read_table(found)
    absent = [column for column in _COLUMNS[:2] if column not in table.columns]
    if absent:
        raise InputError(
            f"{found}: expected a first line with the columns path, pid and, if wanted, camid and split; "
            f"{' and '.join(absent)} missing, found {first_few(table.columns) or 'an empty file'}"
        )
    return _checked(found, [(line, _entry(root, table.columns, row, default_split)) for line, row in table.rows])


def _entry(root: Path, columns: Sequence[str], row: Sequence[str], default_split: str) -> Entry | str:
    """The entry of a row, or what is wrong with it."""
    if len(row) != len(columns):
        return f"{len(row)} values for {len(columns)} columns"
    path, pid, camid, said = (row[columns.index(column)].strip() if column in columns else "" for column in _COLUMNS)
    split = split_of(said) if said else default_split
    if not path or not pid:
        return f"no {'pid' if path else 'path'}"
    if split is None:
        return f"split {said!r} is none of train, query, gallery, test, query_<what>"
    found = on_disk(root / path)
    if not is_picture(re.split(r"[/\\]", path)[-1]):
        return f"{path} is no picture"
    if not found.is_file():
        windows = (
            ", which is a path of Windows: write it from the data directory on"
            if re.match(r"[A-Za-z]:|\\\\", path)
            else ""
        )
        return f"no file {root / path}{windows}"
    return Entry(found, split, pid, camid or None)


def _checked(file: Path, rows: Sequence[tuple[int, Entry | str]]) -> list[Entry]:
    first_line: dict[tuple[Path, str], int] = {}
    entries, wrong = [], []
    for line, row in rows:
        if isinstance(row, str):
            wrong.append(f"line {line}: {row}")
            continue
        before = first_line.setdefault((row.path, row.split), line)
        if before != line:
            wrong.append(f"line {line}: the same picture as line {before}")
        entries.append(row)
    if wrong:
        raise InputError(
            f"{file}: {len(wrong)} of {len(rows)} rows are wrong: {first_few(wrong)}. Correct or remove them"
        )
    if not rows:
        raise InputError(f"{file}: expected a line for each picture, found only the column names")
    return entries


Flat = Literal["test", "train"]

# Common names of the splits, without case and punctuation, such as VeRi-776's image_train and MARS's bbox_test. Test
# sets without queries are ranked against themselves.
_SPLITS: Mapping[str, Sequence[str]] = {
    "train": ("train", "training", "trainset", "boundingboxtrain", "bboxtrain", "imagetrain", "trainimages"),
    "query": ("query", "queries", "queryset", "probe", "imagequery", "testquery", "queryimages", "testprobe"),
    "gallery": ("gallery", "galleryset", "boundingboxtest", "imagegallery", "testgallery", "galleryimages"),
    "test": ("test", "testing", "testset", "bboxtest", "imagetest", "imagestest", "testimages"),
}
_SPLIT_OF_NAME = {name: split for split, names in _SPLITS.items() for name in names}
_LIKE_SPLITS = re.compile(r"(?:^|[^a-z])(?:train|query|gallery|test|probe)|(?:train|query|gallery)$", re.IGNORECASE)
_EXPECTED = "train, query, gallery, test, query_<what> (or image_train, bounding_box_test and the like, in any case)"


def split_of(name: str) -> str | None:
    """The split that a folder name or a table value stands for; None if unknown.

    >>> split_of("Image_Train"), split_of("bounding_box_test"), split_of("query_dark"), split_of("day1")
    ('train', 'gallery', 'query_dark', None)
    """
    further = re.fullmatch(r"query_(\w+)", name, re.IGNORECASE)
    known = _SPLIT_OF_NAME.get(plain_name(name))
    return f"query_{further[1]}" if further and known is None else known


def folder(
    root: str | Path,
    pattern: str = r"(?P<pid>-?\d+)_c(?P<camid>\d+)",
    csv: str | Path | None = None,
    flat: Flat | None = None,
    name: str = "folder",
) -> Benchmark:
    """Reads the user's own pictures.

    Splits are the folders ``train``, ``query`` and ``gallery``, or their usual names in Market-1501, MARS and VeRi-776,
    in ``root``, in its folder ``test``, or in its only folder with splits; further query sets are ``query_<what>``.
    Subfolders are included. If there is only a folder ``test``, or no split folder, each picture is ranked against all
    others: query and gallery are the same list, and a query's own picture is ignored, since it has the same identity
    and camera.

    Identities and cameras that are integers keep their number (-1 is junk, ``007`` and ``7.0`` are 7). Others keep
    their text in ``names`` and get higher numbers in sorted order. Without cameras, every match must count: queries are
    camera 0 and the gallery camera 1; if pictures are ranked against each other, each picture of an identity gets its
    own camera; training pictures of an identity alternate between camera 0 and 1, so validation can hold some out.

    Args:
        root: Folder of the pictures.
        pattern: Regular expression with the group ``pid`` and, if there are cameras, ``camid``. It must match at the
            start of the base name or, if it contains ``/``, of the path relative to the split's folder, as in
            ``(?P<pid>[^/]+)/cam(?P<camid>\\d+)``. Not used with ``csv``.
        csv: A table with the columns ``path`` (relative to ``root``), ``pid`` and optionally ``camid`` and ``split``
            (``train``, ``query``, ``gallery``, ``test`` or ``query_<what>``); the path as given, or else relative to
            ``root``.
        flat: Split of pictures without one: ``test`` as above, or ``train``. None means ``test``, but raises an error
            for pictures in folders that may be splits with unknown names.
        name: Name of the benchmark, in tables and metric names.

    Raises:
        FileNotFoundError: If the folder or table does not exist, or there are no pictures.
        ValueError: If ``pattern`` or ``flat`` is wrong, file names do not match, the table is malformed, or folders may
            be splits but none has a known name.
    """
    if flat is not None and flat not in get_args(Flat):
        raise InputError(f"`flat` must be 'test' or 'train', got {flat!r}")
    base = on_disk(Path(root).expanduser().absolute())
    if not base.is_dir():
        raise FileNotFoundError(f"{name}: expected a folder of pictures, found no folder {base}. Set `data_dir=...`")
    if csv is not None:
        return benchmark_of(name, read_entries(base, Path(csv), flat or "test"))
    names = _compiled(pattern)
    found = split_folders(base)
    entries = [entry for child, split in found.items() for entry in _matched(child, split, names)]
    if not found:
        entries = _matched(base, flat or "test", names)
        if flat is None:
            _refuse_folders(name, base, entries, names)
    benchmark = benchmark_of(name, entries)
    return benchmark._replace(doubts=(*_left_out(base, found), *benchmark.doubts))


def _left_out(root: Path, splits: Mapping[Path, str]) -> list[str]:
    """Warnings about folders with pictures outside of all splits, or a split beside others."""
    if not splits:
        beside = sorted(child.name for child in _named(root.parent) if child != root) if split_of(root.name) else []
        lies = (
            f"{root} lies beside {first_few(beside)}: is it one split of a data set? "
            f"Then set `data_dir` to {root.parent}"
        )
        return [lies] * bool(beside)
    others = [
        child.name
        for parent in {child.parent for child in splits}
        for child in subfolders(parent)
        if child not in splits and not any(child in one.parents for one in splits) and _has_pictures(child)
    ]
    return [f"pictures in the folders {first_few(sorted(others))} are left out; splits are {_EXPECTED}"] * bool(others)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"`pattern` must be a regular expression, got {pattern!r}: {error}") from error
    if "pid" not in compiled.groupindex:
        raise InputError(f"`pattern` must have a group (?P<pid>...), and (?P<camid>...) for cameras, got {pattern!r}")
    return compiled


def split_folders(root: Path) -> dict[Path, str]:
    """The split folders in ``root``, in its ``test``, or in its only folder that has two or more.

    Raises:
        ValueError: If two folders are the same split, or several folders have splits.
    """
    found = _named(root)
    for child in [child for child, split in found.items() if split == "test"]:
        inner = _named(child)
        if "query" in inner.values():
            del found[child]
            found |= inner
    by_split: dict[str, list[str]] = {}
    for child, split in found.items():
        by_split.setdefault(split, []).append(str(child.relative_to(root)))
    if twice := next((some for some in by_split.values() if len(some) > 1), None):
        raise InputError(f"{root}: expected one folder for a split, found {' and '.join(twice)}. Remove or rename one")
    inside = [] if found else [child for child in subfolders(root) if len(_named(child)) > 1]
    if len(inside) > 1:
        raise InputError(
            f"{root}: expected the folders of one data set, found them in "
            f"{first_few([child.name for child in inside])}. Set `data_dir` to one of these"
        )
    return split_folders(inside[0]) if inside else found


def _named(root: Path) -> dict[Path, str]:
    """The folders of ``root`` named like a split."""
    return {child: split for child in subfolders(root) if (split := split_of(child.name)) is not None}


def _has_pictures(root: Path) -> bool:
    return any(is_picture(name) for _, _, files in os.walk(root) for name in files)


def _refuse_folders(name: str, root: Path, entries: Sequence[Entry], pattern: re.Pattern[str]) -> None:
    """Raises ValueError if pictures are in folders that may be splits, not identities or part of the pattern."""
    pids: dict[str, set[str]] = {}
    for entry in entries:
        first, *deeper = entry.path.relative_to(root).parts
        if deeper:
            pids.setdefault(first, set()).add(plain(entry.pid))
    like_splits = [one for one in pids if _LIKE_SPLITS.search(one)]
    unknown = like_splits or [one for one, some in pids.items() if some != {plain(one)} and "/" not in pattern.pattern]
    if unknown:
        raise InputError(
            f"{name}: expected the folders {_EXPECTED}, found {first_few(unknown)} in {root}. Rename them; or write "
            "`dataset.benchmarks.folder.flat=test` to rank all pictures against each other, =train to train on all"
        )


def _matched(root: Path, split: str, pattern: re.Pattern[str]) -> list[Entry]:
    paths = walk_pictures(root)
    matches = [pattern.match(path if "/" in pattern.pattern else path.rsplit("/", 1)[-1]) for path in paths]
    known = [(path, match) for path, match in zip(paths, matches, strict=True) if match and match["pid"]]
    refuse_names(root, sorted(set(paths) - {path for path, _ in known}), len(paths), pattern)
    return [Entry(root / path, split, match["pid"], match.groupdict().get("camid") or None) for path, match in known]
