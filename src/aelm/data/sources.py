"""Pictures as people name them: a folder, a pattern such as ``crops/*.jpg``, a list, or one file."""

import csv
import glob
import io
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from aelm.data.listing import EXTENSIONS, is_picture, shown, walk_pictures
from aelm.types import InputError

NAMES = r"(?P<pid>-?\d+)_c(?P<camid>\d+)"
"""What file names tell unless said otherwise: identity and camera, as in ``0002_c1s1_000451_03.jpg``."""

LISTS = frozenset({".txt", ".lst", ".csv", ".tsv"})


class Item(NamedTuple):
    """A picture, and whose it is where that is known.

    Attributes:
        path: The file.
        pid: Identity, in whatever writing; whole numbers without leading zeros, empty where unknown.
        camid: Camera, likewise.
    """

    path: str
    pid: str = ""
    camid: str = ""


def find_items(source: str | Path, pattern: str | None = NAMES, *, key: str = "images") -> tuple[Item, ...]:
    """The pictures that ``source`` names, each once; they are not opened.

    Args:
        source: A picture; a folder, taken with all folders beneath; a glob pattern (``**`` goes through folders); or a
            list: a text file with a path a line, or a table (CSV) with the column ``path`` and, if wanted, ``pid`` and
            ``camid``. Paths of a list start from the list's own folder.
        pattern: Regular expression with the groups ``pid`` and ``camid`` (or one of them), tried at the start of base
            names, or, with a ``/`` in it, of paths beneath the folder; names that do not match tell nothing. None
            reads nothing from names. A table's own columns come first.
        key: What errors call ``source``.

    Raises:
        FileNotFoundError: If there is nothing of this name, or no picture in it.
        ValueError: If a file is neither picture nor list, a list is broken, or ``pattern`` is not a pattern.
    """
    names = _compiled(pattern)
    path = Path(source)
    if path.is_dir():
        try:
            found = walk_pictures(path)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"`{key}`: no picture in the folder {path}, nor in those beneath; expected files that end in "
                f"{', '.join(sorted(EXTENSIONS))}"
            ) from None
        return _once(Item(str(path / name), *_told(name, names)) for name in found)
    if path.is_file():
        if is_picture(path.name):
            return (Item(str(path), *_told(path.name, names)),)
        if path.suffix.lower() in LISTS:
            return _once(_listed(path, names, key))
        raise InputError(
            f"`{key}`: {path} is neither a picture ({', '.join(sorted(EXTENSIONS))}) nor a list of them "
            f"({', '.join(sorted(LISTS))})"
        )
    matching = sorted(name for name in glob.glob(str(source), recursive=True) if is_picture(os.path.basename(name)))
    if not matching:
        raise FileNotFoundError(
            f"`{key}`: nothing at {str(source)!r}; expected a folder, a picture, a pattern that matches some, or a list"
        )
    return _once(Item(name, *_told(os.path.basename(name), names)) for name in matching)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        names = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InputError(f"`pattern` must be a regular expression, got {pattern!r}: {error}") from error
    if names is not None and not {"pid", "camid"} & names.groupindex.keys():
        raise InputError(f"`pattern` must have a group (?P<pid>...) or (?P<camid>...), got {pattern!r}")
    return names


def _told(name: str, names: re.Pattern[str] | None) -> tuple[str, str]:
    """Identity and camera that a name tells."""
    if names is None:
        return "", ""
    match = names.match(name if "/" in names.pattern else name.rsplit("/", 1)[-1])
    groups = match.groupdict() if match else {}
    return plain(groups.get("pid") or ""), plain(groups.get("camid") or "")


def plain(text: str) -> str:
    """Whole numbers in their shortest writing, other text without blanks around it.

    >>> plain("007"), plain("-1"), plain(" north gate ")
    ('7', '-1', 'north gate')
    """
    text = text.strip()
    return str(int(text)) if re.fullmatch(r"-?\d+", text, re.ASCII) else text


def _listed(file: Path, names: re.Pattern[str] | None, key: str) -> Sequence[Item]:
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        text = stream.read()
    if file.suffix.lower() in (".csv", ".tsv"):
        items = _table(file, text, names)
    else:
        paths = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
        items = [Item(path, *_told(os.path.basename(path), names)) for path in paths]
    if not items:
        raise FileNotFoundError(f"`{key}`: the list {file} is empty; expected a picture a line")
    return [item._replace(path=os.path.join(file.parent, item.path)) for item in items]


def _table(file: Path, text: str, names: re.Pattern[str] | None) -> Sequence[Item]:
    header = text.partition("\n")[0]
    # Spreadsheets write semicolons wherever the comma is the decimal point.
    rows = csv.DictReader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=header.count))
    if "path" not in (rows.fieldnames or ()):
        raise InputError(
            f"{file}: expected a first line with the column path and, if wanted, pid and camid; "
            f"found {shown(rows.fieldnames or ()) or 'an empty file'}"
        )
    items = []
    for row in rows:
        if not row["path"]:
            raise InputError(f"{file}: line {rows.line_num} has no path")
        told = _told(os.path.basename(row["path"]), names)
        pid, camid = (plain(row.get(what) or "") or told[i] for i, what in enumerate(("pid", "camid")))
        items.append(Item(row["path"], pid, camid))
    return items


def _once(items: Iterable[Item]) -> tuple[Item, ...]:
    """Each path once, in order."""
    return tuple({item.path: item for item in items}.values())
