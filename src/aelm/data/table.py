"""A table (CSV) that says of each picture whose it is."""

import csv
import re
from collections.abc import Sequence
from pathlib import Path

from aelm.data.numbering import Entry
from aelm.data.pictures import is_picture, shown

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
        raise ValueError(
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
        raise ValueError(f"{file}: {len(wrong)} of {len(rows)} rows are wrong: {shown(wrong)}. Correct or remove them")
    if not rows:
        raise ValueError(f"{file}: expected a line for each picture, found only the column names")
    return entries
