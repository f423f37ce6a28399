"""One's own pictures: split folders with a pattern for the file names, or a table (CSV)."""

import csv
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

from aelm.data.layouts import subfolders
from aelm.data.listing import is_picture, refuse_names, shown, walk_pictures
from aelm.types import Benchmark, InputError, Picture

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
        raise InputError(
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


_SPLIT = re.compile(r"train|query|gallery|test|query_\w+")
_COLUMNS = ("path", "pid", "camid", "split")


def read_table(root: Path, file: Path, default_split: str) -> list[Entry]:
    """Read the columns ``path``, ``pid`` and, where there are such, ``camid`` and ``split``; others are ignored.

    Args:
        root: Where the paths start.
        file: The table, separated by comma, semicolon or tab; taken as given or, if there is none, beneath ``root``.
        default_split: For rows that name no split.

    Raises:
        FileNotFoundError: If there is no such table.
        ValueError: If columns are missing, or rows are wrong; says which lines.
    """
    places = (file.expanduser(), root / file)
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        raise FileNotFoundError(f"`csv`: expected a table, found neither {places[0].absolute()} nor {places[1]}")
    with found.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        header = stream.readline()
        # Spreadsheets write semicolons wherever the comma is the decimal point.
        reader = csv.reader(stream, delimiter=max(",;\t", key=header.count))
        columns = [column.strip() for column in next(csv.reader([header], reader.dialect), [])]
        lines = [(reader.line_num + 1, row) for row in reader if row]
    absent = [column for column in _COLUMNS[:2] if column not in columns]
    if absent:
        raise InputError(
            f"{found}: expected a first line with the columns path, pid and, if wanted, camid and split; "
            f"{' and '.join(absent)} missing, found {shown(columns) or 'an empty file'}"
        )
    return _checked(found, [(line, _entry(root, columns, row, default_split)) for line, row in lines])


def _entry(root: Path, columns: Sequence[str], row: Sequence[str], default_split: str) -> Entry | str:
    """What a row says, or what is wrong with it."""
    if len(row) != len(columns):
        return f"{len(row)} values for {len(columns)} columns"
    path, pid, camid, split = (row[columns.index(column)].strip() if column in columns else "" for column in _COLUMNS)
    split = split or default_split
    if not path or not pid:
        return f"no {'pid' if path else 'path'}"
    if not _SPLIT.fullmatch(split):
        return f"split {split!r} is none of train, query, gallery, test, query_<what>"
    if not is_picture(Path(path).name):
        return f"{path} is no picture"
    if not (root / path).is_file():
        return f"no file {root / path}"
    return Entry(root / path, split, pid, camid or None)


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
        raise InputError(f"{file}: {len(wrong)} of {len(rows)} rows are wrong: {shown(wrong)}. Correct or remove them")
    if not rows:
        raise InputError(f"{file}: expected a line for each picture, found only the column names")
    return entries


Flat = Literal["test", "train"]

_SPLIT_OF_FOLDER = {
    "train": "train",
    "bounding_box_train": "train",
    "query": "query",
    "gallery": "gallery",
    "bounding_box_test": "gallery",
    "test": "test",
}


def folder(
    root: str | Path,
    pattern: str = r"(?P<pid>-?\d+)_c(?P<camid>\d+)",
    csv: str | Path | None = None,
    flat: Flat = "test",
    name: str = "folder",
) -> Benchmark:
    """Read anyone's own pictures.

    Splits are the folders ``train``, ``query`` and ``gallery`` of ``root`` (or Market-1501's names for them), further
    query sets ``query_<what>``, all with whatever folders beneath; other folders are ignored. Where there is only a
    folder ``test``, or no such folder at all, each picture is ranked against all others: query and gallery are then
    the same list, and a query's own picture takes no part because it has the same identity and camera.

    Identities and cameras that are whole numbers stay as they are (-1 is junk, ``007`` is 7). If one of them is not,
    all are numbered 0, 1, ... in sorted order. Without cameras, every match must count: queries are camera 0 and the
    gallery camera 1, pictures ranked against each other are each a camera of their identity, and training pictures of
    an identity are camera 0 and 1 in turn, so that validation can hold some out.

    Args:
        root: Where the pictures lie.
        pattern: Regular expression with the group ``pid`` and, if there are cameras, ``camid``. It must match from the
            start of the base name; with a ``/`` in it, from the start of the path beneath the split's folder, as in
            ``(?P<pid>[^/]+)/cam(?P<camid>\\d+)``. Not used with ``csv``.
        csv: A table with the columns ``path`` (beneath ``root``), ``pid`` and, if wanted, ``camid`` and ``split``
            (``train``, ``query``, ``gallery``, ``test`` or ``query_<what>``); taken as given or, if there is no such
            file, beneath ``root``.
        flat: What pictures without a split are: ``test`` as above, or ``train``.
        name: Name of the benchmark, in tables and metric names.

    Raises:
        FileNotFoundError: If there is no such folder or table, or no picture.
        ValueError: If ``pattern`` or ``flat`` is wrong, file names do not match, or the table is malformed.
    """
    if flat not in get_args(Flat):
        raise InputError(f"`flat` must be 'test' or 'train', got {flat!r}")
    base = Path(root).expanduser().absolute()
    if not base.is_dir():
        raise FileNotFoundError(f"{name}: expected a folder of pictures, found no folder {base}. Set `data_dir=...`")
    entries = _from_folders(base, _compiled(pattern), flat) if csv is None else read_table(base, Path(csv), flat)
    return numbered(name, entries)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"`pattern` must be a regular expression, got {pattern!r}: {error}") from error
    if "pid" not in compiled.groupindex:
        raise InputError(f"`pattern` must have a group (?P<pid>...), and (?P<camid>...) for cameras, got {pattern!r}")
    return compiled


def _from_folders(root: Path, pattern: re.Pattern[str], flat: Flat) -> list[Entry]:
    splits = {}
    for child in subfolders(root):
        split = _SPLIT_OF_FOLDER.get(child.name, child.name if child.name.startswith("query_") else None)
        if split is not None:
            splits[child] = split
    found = splits or {root: flat}
    return [entry for child, split in found.items() for entry in _matched(child, split, pattern)]


def _matched(root: Path, split: str, pattern: re.Pattern[str]) -> list[Entry]:
    paths = walk_pictures(root)
    matches = [pattern.match(path if "/" in pattern.pattern else path.rsplit("/", 1)[-1]) for path in paths]
    refuse_names(root, [path for path, match in zip(paths, matches, strict=True) if match is None], len(paths), pattern)
    return [
        Entry(root / path, split, match["pid"], match.groupdict().get("camid"))
        for path, match in zip(paths, matches, strict=True)
        if match is not None
    ]
