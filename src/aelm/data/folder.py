"""One's own pictures: split folders with a pattern for the file names, or a table (CSV)."""

import re
from pathlib import Path
from typing import Literal, get_args

from aelm.data.numbering import Entry, numbered
from aelm.data.pictures import refuse_names, walk_pictures
from aelm.data.roots import subfolders
from aelm.data.table import read_table
from aelm.types import Benchmark

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
        raise ValueError(f"`flat` must be 'test' or 'train', got {flat!r}")
    base = Path(root).expanduser().absolute()
    if not base.is_dir():
        raise FileNotFoundError(f"{name}: expected a folder of pictures, found no folder {base}. Set `data_dir=...`")
    entries = _from_folders(base, _compiled(pattern), flat) if csv is None else read_table(base, Path(csv), flat)
    return numbered(name, entries)


def _compiled(pattern: str) -> re.Pattern[str]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ValueError(f"`pattern` must be a regular expression, got {pattern!r}: {error}") from error
    if "pid" not in compiled.groupindex:
        raise ValueError(f"`pattern` must have a group (?P<pid>...), and (?P<camid>...) for cameras, got {pattern!r}")
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
