"""Sources of pictures: a folder, a pattern such as ``crops/*.jpg``, a list or table, or one file.

Tables and lists may be CSV of any program, in any usual encoding.
"""

import codecs
import csv
import io
import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from aelm.data.listing import EXTENSIONS, first_few, is_picture, passed_over, plain, walk_pictures
from aelm.files import kind_of, matching, on_disk
from aelm.types import InputError, InputTypeError

log = logging.getLogger(__name__)

# Longer marks first: the one of UTF-32 starts like that of UTF-16.
MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


class Table(NamedTuple):
    """The content of a table.

    Attributes:
        columns: Column names, in lower case.
        rows: Last line number and values of each row; empty rows are left out.
    """

    columns: list[str]
    rows: list[tuple[int, list[str]]]


def read_text(file: Path) -> str:
    """The text of a file, in UTF-16 or UTF-32 if it starts with their byte order mark, otherwise UTF-8.

    Bytes that are not UTF-8 become surrogates, as in file names.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not text; the message says what it is.
    """
    content = file.read_bytes()
    mark = next((mark for mark in MARKS if content.startswith(mark)), b"")
    encoding = MARKS.get(mark, "utf-8")
    if not mark and content[1:2] == b"\0" and kind_of(content[::2]) == "text":  # UTF-16 without a byte order mark
        encoding = "utf-16-le"
    elif (
        content and not mark and ((kind := kind_of(content)) not in ("text", "") or b"\0" in content.split(b"\n", 1)[0])
    ):
        raise InputError(
            f"{file}: expected text, found {kind or 'bytes that are no text'}. Save the table as CSV (UTF-8)"
        )
    return content[len(mark) :].decode(encoding, "surrogateescape" if encoding == "utf-8" else "replace")


def read_table(file: Path, *, blank: bool = False) -> Table:
    """Reads a table separated by comma, semicolon or tab, with column names in the first line.

    Args:
        file: The table.
        blank: Whether to keep rows of empty cells, as written by spreadsheets.

    Raises:
        OSError: If it cannot be read.
        ValueError: If it is not text, a column is repeated, or quotes are not closed.
    """
    text = read_text(file)
    first, _, rest = text.partition("\n")
    # Spreadsheets write semicolons if the decimal separator is a comma, and some declare it in an extra line.
    said = first.strip().lower()
    separator = max(",;\t", key=first.count)
    lines = 0
    if said.startswith("sep=") and len(said) <= 5:
        separator, text, lines = said[4:] or "\t", rest, 1
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    try:
        columns = [name.strip().lower() for name in next(reader, [])]
        rows = [(reader.line_num + lines, row) for row in reader if row and (blank or any(map(str.strip, row)))]
    except csv.Error as error:
        raise InputError(
            f"{file}, line {reader.line_num + lines}: no row of a table ({error}). Is a quote open?"
        ) from error
    if twice := sorted({name for name in columns if name and columns.count(name) > 1}):
        raise InputError(f"{file}: expected each column once, found {first_few(twice)} twice. Remove or rename one")
    # Spreadsheets pad rows with empty cells.
    wide = len(columns)
    return Table(columns, [(line, row if any(row[wide:]) else row[:wide]) for line, row in rows])


NAMES = r"(?P<pid>-?\d+)_c(?P<camid>\d+)"
"""Default pattern of file names: identity and camera, as in ``0002_c1s1_000451_03.jpg``."""

LISTS = frozenset({".txt", ".lst", ".csv", ".tsv"})
TABLE = "crops.csv"  # written by aelm.crop beside its crops


class Item(NamedTuple):
    """A picture, or a track represented by one of its pictures, with identity and camera if known.

    Attributes:
        path: The file.
        pid: Identity as text; integers without leading zeros, empty if unknown.
        camid: Camera, likewise.
        track: Number or name of the track in its camera; empty without tracks.
        start: Time of the picture, or of the first one of the track, in seconds; None if unknown.
        end: Time of the last one, likewise.
        pictures: Number of pictures of the item.
        quality: Weight of a picture within its track.
    """

    path: str
    pid: str = ""
    camid: str = ""
    track: str = ""
    start: float | None = None
    end: float | None = None
    pictures: int = 1
    quality: float = 1.0


def find_items(
    source: str | Path, pattern: str | None = NAMES, *, key: str = "images", quality: str | None = None
) -> tuple[Item, ...]:
    """The pictures of ``source``, each once; they are not opened.

    Args:
        source: A picture; a folder with all its subfolders, or with the table ``crops.csv`` of ``aelm.crop``; a glob
            pattern (``**`` includes subfolders); or a list: a text file with one path per line, or a table (CSV) with
            the column ``path`` and optionally ``pid``, ``camid``, ``track`` and ``time``. Paths of a list are relative
            to its folder.
        pattern: Regular expression with some of the groups ``pid``, ``camid``, ``track`` and ``time``, matched at the
            start of base names or, if it contains ``/``, of paths relative to the folder, the list's folder, or a
            glob's part before its first wildcard. Names that do not match are ignored, with a warning if none does.
            None parses no names. Columns of a table take precedence.
        key: Name of ``source`` in errors.
        quality: Column of the table with a picture's weight in its track, such as ``confidence``; None for equal
            weights.

    Raises:
        FileNotFoundError: If the source does not exist, or holds no pictures.
        ValueError: If a file is neither picture nor list, a list is broken, or ``pattern`` is invalid.
    """
    items = _found(source, _compiled(pattern), key, quality)
    known = any(item.pid or item.camid or item.track for item in items)
    if pattern not in (None, NAMES) and len(items) > 1 and not known:
        log.warning(
            "`pattern` matches none of the %d names of `%s`, such as %r: %r", len(items), key, items[0].path, pattern
        )
    return items


def _found(source: str | Path, names: re.Pattern[str] | None, key: str, quality: str | None) -> tuple[Item, ...]:
    path = on_disk(source)
    if (path / TABLE).is_file():
        path /= TABLE
    if quality is not None and path.suffix.lower() not in (".csv", ".tsv"):
        raise InputError(f"`quality` names a column of a table, and `{key}` is none: {path}; leave it out")
    if path.is_dir():
        try:
            found = walk_pictures(path)
        except FileNotFoundError:
            others = passed_over([one.name for one in path.rglob("*")])
            raise FileNotFoundError(
                f"`{key}`: no picture in the folder {path}, nor in those beneath; expected files that end in "
                f"{', '.join(sorted(EXTENSIONS))}" + f", found {others}: convert them to JPEG or PNG" * bool(others)
            ) from None
        return _once(Item(str(path / name), *_parsed(name, names)) for name in found)
    if path.is_file():
        if is_picture(path.name):
            return (Item(str(path), *_parsed(path.name, names)),)
        if path.suffix.lower() in LISTS:
            return _once(_listed(path, names, key, quality))
        raise InputError(
            f"`{key}`: {path} is neither a picture ({', '.join(sorted(EXTENSIONS))}) nor a list of them "
            f"({', '.join(sorted(LISTS))})"
        )
    found = matching(str(source))
    fitting = [name for name in found if is_picture(os.path.basename(name))]
    if not fitting:
        others = passed_over(found)
        raise FileNotFoundError(
            f"`{key}`: nothing at {str(source)!r}; expected a folder, a picture, a pattern that matches some, or a list"
            + f" (found {others}: convert them to JPEG or PNG)" * bool(others)
        )
    fixed = os.path.dirname(re.split(r"[*?[]", str(source))[0]) or "."
    return _once(Item(name, *_parsed(name, names, fixed)) for name in fitting)


def _compiled(pattern: str | None) -> re.Pattern[str] | None:
    try:
        names = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise InputError(f"`pattern` must be a regular expression, got {pattern!r}: {error}") from error
    if names is not None and not {"pid", "camid", "track"} & names.groupindex.keys():
        raise InputError(f"`pattern` must have a group (?P<pid>...), (?P<camid>...) or (?P<track>...), got {pattern!r}")
    return names


def _parsed(
    path: str, names: re.Pattern[str] | None, folder: str | Path = "."
) -> tuple[str, str, str, float | None, float | None]:
    """Identity, camera, track and time (as start and end) from a base name, or from a path relative to ``folder``."""
    if names is None:
        return "", "", "", None, None
    name = os.path.basename(path)
    if "/" in names.pattern:
        name = os.path.relpath(path, folder).replace(os.sep, "/")
    match = names.match(name)
    groups = match.groupdict() if match else {}
    pid, camid, track = (plain(groups.get(what) or "") for what in ("pid", "camid", "track"))
    time = _number(groups["time"], f"the time in the name {name}") if groups.get("time") else None
    return pid, camid, track, time, time


def _number(text: str, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"{what} must be a number, got {text!r}")
    return value


def _listed(file: Path, names: re.Pattern[str] | None, key: str, quality: str | None) -> Sequence[Item]:
    if file.suffix.lower() in (".csv", ".tsv"):
        items = _table(file, names, quality)
    else:
        paths = [line.removesuffix("\r") for line in read_text(file).split("\n") if line.strip()]
        items = [Item(path, *_parsed(os.path.join(file.parent, path), names, file.parent)) for path in paths]
    if not items:
        raise FileNotFoundError(f"`{key}`: the list {file} is empty; expected a picture a line")
    return [item._replace(path=str(on_disk(os.path.join(file.parent, item.path)))) for item in items]


def _table(file: Path, names: re.Pattern[str] | None, quality: str | None) -> Sequence[Item]:
    table = read_table(file)
    weight_column = None if quality is None else quality.strip().lower()
    for column in ("path", weight_column or "path"):
        if column not in table.columns:
            raise InputError(
                f"{file}: expected a first line with the column {column} and, if wanted, pid, camid, track and time; "
                f"found {first_few(table.columns) or 'an empty file'}"
            )
    items = []
    for line, values in table.rows:
        row = dict(zip(table.columns, values, strict=False))
        if not row["path"]:
            raise InputError(f"{file}: line {line} has no path")
        parsed = _parsed(os.path.join(file.parent, row["path"]), names, file.parent)
        pid, camid, track = (
            plain(row.get(what)) or before for what, before in zip(("pid", "camid", "track"), parsed[:3], strict=True)
        )
        place = f"{file}: line {line}:"
        time = _number(row["time"], f"{place} time") if row.get("time") else parsed[3]
        weight = 1.0 if weight_column is None else _number(row.get(weight_column) or "", f"{place} {quality}")
        if weight < 0:
            raise InputError(f"{place} {quality} must not be negative, got {weight:g}")
        items.append(Item(row["path"], pid, camid, track, time, time, 1, weight))
    return items


def item_of(given: Any) -> Item:
    """Converts a path, or an :class:`Item` whose identity and camera may be numbers, to an item.

    Raises:
        TypeError: If it is neither.

    >>> item_of(Path("a.jpg")).path, item_of(Item("b.jpg", pid=7)).pid
    ('a.jpg', '7')
    """
    item = given if isinstance(given, Item) else Item(given)
    if not isinstance(item.path, (str, os.PathLike)):
        raise InputTypeError(f"expected a path, or Item(path, pid, camid), got {given!r}")
    return item._replace(path=os.fspath(item.path), pid=plain(item.pid), camid=plain(item.camid))


def several(given: Any) -> list[Any]:
    """Converts to a list; a single text, path, number or picture becomes a list of one.

    Raises:
        TypeError: If it is none of these.

    >>> several(("a.jpg", "b.jpg")), several("a.jpg"), several(3)
    (['a.jpg', 'b.jpg'], ['a.jpg'], [3])
    """
    if isinstance(given, (str, os.PathLike, Item, Integral)):
        return [given]
    if not isinstance(given, Iterable) or isinstance(given, (bytes, Mapping)):
        raise InputTypeError(f"expected a list, got {type(given).__name__} {given!r}")
    return list(given)


def _once(items: Iterable[Item]) -> tuple[Item, ...]:
    """Removes repeated paths, in order."""
    return tuple({item.path: item for item in items}.values())
