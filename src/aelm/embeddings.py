"""A folder of embeddings: ``features.npy``, ``items.csv`` and ``meta.json``."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.data.sources import Item
from aelm.embedder import Embedder

FORMAT = 1
FEATURES, ITEMS, META = "features.npy", "items.csv", "meta.json"


class Embeddings(NamedTuple):
    """What a folder of embeddings holds.

    Attributes:
        features: ``(G, D)`` float32, unit length, memory-mapped.
        items: The picture of each row; relative paths start from ``folder``.
        meta: The model, its preprocessing, the versions.
        folder: Where it lies.
    """

    features: NDArray[np.float32]
    items: tuple[Item, ...]
    meta: Mapping[str, Any]
    folder: Path


def read_embeddings(folder: str | Path) -> Embeddings:
    """Opens a folder that ``aelm.embed`` wrote; the features stay on disk.

    Raises:
        FileNotFoundError: If one of its files is missing.
        ValueError: If they do not fit each other.
    """
    folder = Path(folder)
    missing = [name for name in (META, FEATURES, ITEMS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds no finished embeddings: no {', '.join(missing)}; python -m aelm.embed output={folder} "
            "makes them, and goes on where it was stopped"
        )
    meta = json.loads((folder / META).read_text(encoding="utf-8"))
    if meta.get("format") != FORMAT:
        raise ValueError(f"{folder / META}: expected format {FORMAT}, found {meta.get('format')!r}; embed again")
    features = np.load(folder / FEATURES, mmap_mode="r")
    items = read_items(folder / ITEMS)
    expected = (len(items), meta["model"]["dim"])
    if features.dtype != np.float32 or features.shape != expected:
        raise ValueError(
            f"{folder / FEATURES}: expected {expected} float32 as {ITEMS} and {META} say, found {features.shape} "
            f"{features.dtype}; the files come from different runs: embed again"
        )
    return Embeddings(features, items, meta, folder)


def read_items(path: Path) -> tuple[Item, ...]:
    """The pictures of an ``items.csv``."""
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        rows = csv.DictReader(stream)
        if list(rows.fieldnames or ()) != list(Item._fields):
            raise ValueError(f"{path}: expected the columns {', '.join(Item._fields)}, found {rows.fieldnames}")
        return tuple(Item(row["path"], row["pid"], row["camid"]) for row in rows)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> bytes:
    """A CSV file's content; any file name survives, also one that is no UTF-8.

    >>> table(["path"], [['a "b",\\nc.jpg']])
    b'path\\r\\n"a ""b"",\\nc.jpg"\\r\\n'
    """
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(columns)
    lines.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def describe(embedder: Embedder, checkpoint: str, versions: Mapping[str, str]) -> dict[str, Any]:
    """What ``meta.json`` says of the model and of what its pictures went through."""
    return {
        "format": FORMAT,
        "model": {
            "name": embedder.name,
            "checkpoint": os.path.abspath(checkpoint),
            "sha256": embedder.sha256,
            "dim": embedder.dim,
        },
        "preprocessing": {
            "height": embedder.height,
            "width": embedder.width,
            "interpolation": embedder.interpolation,
            "mean": list(embedder.mean),
            "std": list(embedder.std),
        },
        "versions": dict(versions),
    }


def check_model(embeddings: Embeddings, embedder: Embedder) -> None:
    """Refuses embeddings that another model made.

    Raises:
        ValueError: If the model, or the number of its values, differs.
    """
    made = embeddings.meta["model"]
    if made["sha256"] != embedder.sha256:
        raise ValueError(
            f"{embeddings.folder} holds embeddings of {made['name']} ({made['dim']} values, sha256 "
            f"{made['sha256'][:12]}), the query's model is {embedder.name} ({embedder.dim} values, sha256 "
            f"{embedder.sha256[:12]}); their scores mean nothing. Use checkpoint={made['checkpoint']}, or embed the "
            "gallery again"
        )


def relative(path: str, folder: str | Path) -> str:
    """A path as ``items.csv`` holds it: from ``folder`` on where it lies beneath, so that both move together.

    >>> relative("/data/crops/a/1.jpg", "/data/crops"), relative("/data/1.jpg", "/data/crops")
    ('a/1.jpg', '/data/1.jpg')
    """
    whole, root = os.path.abspath(path), os.path.abspath(folder)
    inside = whole.startswith(root.rstrip(os.sep) + os.sep)
    return os.path.relpath(whole, root).replace(os.sep, "/") if inside else whole
