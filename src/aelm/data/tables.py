"""Reads tables and lists: CSV of any program, in any usual encoding."""

import codecs
import csv
import io
from pathlib import Path
from typing import NamedTuple

from aelm.data.listing import first_few
from aelm.files import kind_of
from aelm.types import InputError

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
