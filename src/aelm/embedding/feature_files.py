"""Features that lie in files, from ``aelm.embed`` or any other project, and whom they show."""

import csv
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aelm.types import Picture


class FeatureFile(NamedTuple):
    """Features and their pictures, row by row.

    Attributes:
        features: ``(B, D)``, memory-mapped.
        pictures: B pictures; paths are empty where the table has none.
    """

    features: Any
    pictures: tuple[Picture, ...]


def read_features(path: str | Path) -> FeatureFile:
    """Reads a folder of ``aelm.embed`` (``features.npy``, ``items.csv``), or ``X.npy`` with ``X.csv`` beside it.

    The table has the columns ``pid`` and ``camid``, whole numbers, and if wanted ``path``.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If the array or the table is malformed, or their lengths differ.
    """
    path = Path(path).expanduser()
    array, table = (path / "features.npy", path / "items.csv") if path.is_dir() else (path, path.with_suffix(".csv"))
    for file in (array, table):
        if not file.is_file():
            raise FileNotFoundError(
                f"no file {file}: features need an array (.npy) and a table (.csv) with pid and camid"
            )
    features = read_array(array)
    pictures = read_table(table)
    if len(features) != len(pictures):
        raise ValueError(
            f"{array} holds {len(features)} rows and {table} {len(pictures)}: they must be the same pictures"
        )
    return FeatureFile(features, pictures)


def read_array(path: str | Path) -> Any:
    """A memory-mapped 2-D array of floats; nothing in the file is executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is not an array that loads as data: {error}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{path} must hold floats of shape (rows, columns), found {found}")
    return array


def read_table(path: Path) -> tuple[Picture, ...]:
    """Pictures of a table with ``pid``, ``camid`` and perhaps ``path``; a bad row is an error with its line number."""
    with path.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
        rows = csv.DictReader(file)
        missing = {"pid", "camid"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"{path} lacks the column {', '.join(sorted(missing))}; it has {rows.fieldnames}")
        pictures = []
        for row in rows:
            try:
                pictures.append(Picture(row.get("path") or "", int(row["pid"]), int(row["camid"])))
            except (TypeError, ValueError) as error:
                raise ValueError(
                    f"{path}, line {rows.line_num}: pid and camid must be whole numbers, got {row['pid']!r} and "
                    f"{row['camid']!r}"
                ) from error
    return tuple(pictures)
