"""A folder of embeddings: ``features.npy``, ``items.csv`` and ``meta.json``."""

import csv
import io
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.checkpoint import STARTER, STARTER_FILE
from aelm.data.listing import doubts, first_few, numbers_of, plain, texts_of
from aelm.data.sources import Item, read_table
from aelm.embed.embedder import Embedder
from aelm.files import kind_of, on_disk, write_file
from aelm.types import InputError, Names, Picture


class FeatureFile(NamedTuple):
    """Features and their pictures, row by row.

    Attributes:
        features: ``(B, D)``, memory-mapped.
        items: B pictures, each with an identity; paths are empty if the table has none.
        file: Path of the features.
    """

    features: Any
    items: tuple[Item, ...]
    file: Path


def read_features(path: str | Path) -> FeatureFile:
    """Reads a folder of ``aelm.embed`` (``features.npy``, ``items.csv``), or ``X.npy`` with ``X.csv`` beside it.

    The table has the column ``pid`` and optionally ``camid`` and ``path``.

    Raises:
        FileNotFoundError: If one of the two files is missing.
        ValueError: If the array or the table is malformed, or their lengths differ.
    """
    path = on_disk(Path(path).expanduser())
    array, table = (path / "features.npy", path / "items.csv") if path.is_dir() else (path, path.with_suffix(".csv"))
    if array.is_file():
        features = read_array(array)  # before looking for the table: the file may not be an array
    for file in (array, table):
        if not file.is_file():
            raise FileNotFoundError(
                f"no file {file}: features need an array (.npy) and a table (.csv) with pid and camid"
            )
    items = _read_people(table)
    if len(features) != len(items):
        turned = ", and has a column for each: save it transposed" * (features.shape[1] == len(items))
        raise InputError(
            f"{array} holds {len(features)} rows and {table} {len(items)}: they must be the same pictures{turned}"
        )
    return FeatureFile(features, items, array)


def read_array(path: str | Path) -> Any:
    """A memory-mapped 2-D array of floats; nothing in the file is executed.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such an array.
    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        found = _found(path)
        if found == "a numpy array":
            found = "an array of Python objects" if "bject" in str(error) else f"an array that is cut off ({error})"
        raise InputError(f"{path} is not an array that loads as data, but {found}") from error
    if not isinstance(array, np.ndarray) or array.ndim != 2 or array.dtype.kind != "f":
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else _found(path)
        raise InputError(f"{path} must hold floats of shape (rows, columns), found {found}")
    return array


# How to convert features in other kinds of files to an array.
_SAVED_AS = {
    "a Matlab file": 'numpy.save("X.npy", scipy.io.loadmat(FILE)[NAME]) makes one',
    "a Matlab 7.3 file": 'numpy.save("X.npy", h5py.File(FILE)[NAME][()].T) makes one',
    "an HDF5 file": 'numpy.save("X.npy", h5py.File(FILE)[NAME][()]) makes one',
    "a file of torch.save": 'numpy.save("X.npy", torch.load(FILE).numpy()) makes one',
    "a pickle": "save the array itself, where it was made",
    "a numpy archive (.npz)": 'numpy.save("X.npy", numpy.load(FILE)[NAME]) makes one',
    "text": 'numpy.save("X.npy", numpy.loadtxt(FILE, delimiter=",", ndmin=2)) makes one',
}


def _found(path: str | Path) -> str:
    """The kind of a file that is not an array, and how to convert it."""
    with open(path, "rb") as file:
        kind = kind_of(file.read(512)) or "bytes of an unknown kind"
    return f"{kind}: {_SAVED_AS[kind]}" if kind in _SAVED_AS else kind


def _read_people(path: Path) -> tuple[Item, ...]:
    """The rows of a table with ``pid``, and optionally ``camid`` and ``path``; each row needs an identity."""
    table = read_table(path)
    if "pid" not in table.columns:
        raise InputError(f"{path} lacks the column pid; it has {first_few(table.columns) or 'none'}")
    items, nobody = [], []
    for line, values in table.rows:
        row = dict(zip(table.columns, values, strict=False))
        items.append(Item(row.get("path") or "", plain(row.get("pid")), plain(row.get("camid"))))
        if not items[-1].pid:
            nobody.append(f"line {line}")
    if nobody:
        raise InputError(
            f"{path}: expected an identity for each picture, {len(nobody)} of {len(items)} have none: "
            f"{first_few(nobody)}. Fill them in, -1 for junk; `aelm embed` reads them from file names by `pattern`"
        )
    return tuple(items)


class Sides(NamedTuple):
    """Queries and gallery with numeric labels, the names of the labels, and warnings."""

    query: tuple[Picture, ...]
    gallery: tuple[Picture, ...]
    names: Names
    doubts: tuple[str, ...]


def sides_of(query: FeatureFile, gallery: FeatureFile) -> Sides:
    """Numbers identities and cameras of query and gallery jointly.

    Without cameras every match counts: queries are camera 0 and the gallery camera 1; if both are the same file, each
    picture gets its own camera, so it does not match itself.

    Raises:
        ValueError: If some pictures have a camera and others have none.
    """
    items = (*query.items, *gallery.items)
    without = [item.path or item.pid for item in items if not item.camid]
    if 0 < len(without) < len(items):
        raise InputError(
            f"{len(without)} of {len(items)} pictures of query and gallery have no camera: {first_few(without)}. "
            "Give each picture a camera, or none of them"
        )
    pids, cameras = numbers_of(item.pid for item in items), numbers_of(item.camid for item in items)
    one_file = query.file.resolve() == gallery.file.resolve()

    def side(found: FeatureFile, camid: int) -> tuple[Picture, ...]:
        made_up = range(len(found.items)) if one_file else [camid] * len(found.items)
        return tuple(
            Picture(item.path, pids[item.pid], made_up[i] if without else cameras[item.camid])
            for i, item in enumerate(found.items)
        )

    told = (*doubts("identities", [item.pid for item in items]), *doubts("cameras", [item.camid for item in items]))
    names = Names(texts_of(pids), {} if without else texts_of(cameras))
    return Sides(side(query, 0), side(gallery, 1), names, told)


def own_rows(query: FeatureFile, gallery: FeatureFile, sides: Sides) -> int:
    """Number of queries with a match of identical features in the gallery, probably the same picture."""
    asked = {picture.pid for picture in sides.query}
    held: dict[bytes, list[Picture]] = {}
    for row, picture in zip(gallery.features, sides.gallery, strict=True):
        if picture.pid in asked:
            held.setdefault(row.tobytes(), []).append(picture)
    return sum(
        any(twin.pid == picture.pid and twin.camid != picture.camid for twin in held.get(row.tobytes(), ()))
        for row, picture in zip(query.features, sides.query, strict=True)
    )


FORMAT = 1
# Columns of items.csv without and with tracks.
SINGLE, OF_TRACKS = Item._fields[:3], Item._fields[:7]
FEATURES, ITEMS, META = "features.npy", "items.csv", "meta.json"


class Embeddings(NamedTuple):
    """Content of a folder of embeddings.

    Attributes:
        features: ``(G, D)`` float32, unit length, memory-mapped.
        items: The picture of each row; relative paths start from ``folder``.
        meta: The model, its preprocessing, library versions.
        folder: Path of the folder.
    """

    features: NDArray[np.float32]
    items: tuple[Item, ...]
    meta: Mapping[str, Any]
    folder: Path


def read_embeddings(folder: str | Path) -> Embeddings:
    """Opens a folder that ``aelm.embed`` wrote; the features stay on disk.

    Raises:
        FileNotFoundError: If one of its files is missing.
        ValueError: If they do not match each other.
    """
    folder = Path(folder)
    missing = [name for name in (META, FEATURES, ITEMS) if not (folder / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{folder} holds no finished embeddings: no {', '.join(missing)}; python -m aelm.embed output={folder} "
            "makes them, and goes on where it was stopped"
        )
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{folder / META} is not JSON ({error}); embed again") from error
    if not isinstance(meta, dict):
        raise InputError(f"{folder / META} must hold a JSON object, found {type(meta).__name__}; embed again")
    if meta.get("format") != FORMAT:
        raise InputError(f"{folder / META}: expected format {FORMAT}, found {meta.get('format')!r}; embed again")
    features = read_array(folder / FEATURES)
    items = read_items(folder / ITEMS)
    expected = (len(items), meta["model"]["dim"])
    if features.dtype != np.float32 or features.shape != expected:
        raise InputError(
            f"{folder / FEATURES}: expected {expected} float32 as {ITEMS} and {META} say, found {features.shape} "
            f"{features.dtype}; the files come from different runs: embed again"
        )
    return Embeddings(features, items, meta, folder)


def read_items(path: Path) -> tuple[Item, ...]:
    """The pictures of an ``items.csv``."""
    table = read_table(path, blank=True)
    if tuple(table.columns) not in (SINGLE, OF_TRACKS):
        raise InputError(f"{path}: expected the columns {', '.join(OF_TRACKS)}, found {first_few(table.columns)}")
    items = []
    for line, row in table.rows:
        try:
            items.append(_item(*row))
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}, line {line}: {error}; embed again") from error
    return tuple(items)


def _item(
    path: str, pid: str, camid: str, track: str = "", start: str = "", end: str = "", pictures: str = "1"
) -> Item:
    first, last = (float(time) if time else None for time in (start, end))
    return Item(path, pid, camid, track, first, last, int(pictures))


def write_embeddings(
    folder: Path, parts: Iterable[NDArray[np.float32]], items: Sequence[Item], meta: Mapping[str, Any], scratch: Path
) -> None:
    """Writes the three files; an existing embeddings folder stays intact until the new files are complete.

    Args:
        folder: Output folder.
        parts: The features, in blocks of rows: only one block is in memory.
        items: The picture of each row, with paths as written.
        meta: From :func:`embeddings_meta`, and more.
        scratch: A folder on the same file system for temporary files.
    """
    shape = (len(items), int(meta["model"]["dim"]))

    def write_features(file: BinaryIO) -> None:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": shape})
        for part in parts:
            file.write(np.ascontiguousarray(part, "<f4").data)

    text = json.dumps({**meta, "pictures": sum(item.pictures for item in items)}, indent=2) + "\n"
    columns = OF_TRACKS if any(item.track for item in items) else SINGLE
    write_file(scratch / FEATURES, write_features)
    write_file(scratch / ITEMS, lambda file: file.write(csv_bytes(columns, (item[: len(columns)] for item in items))))
    write_file(scratch / META, lambda file: file.write(text.encode()))
    (folder / META).unlink(missing_ok=True)  # its presence says that the others are complete
    for name in (FEATURES, ITEMS, META):
        os.replace(scratch / name, folder / name)


def csv_bytes(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> bytes:
    """Content of a CSV file; preserves any file name, even if it is not UTF-8.

    >>> csv_bytes(["path"], [['a "b",\\nc.jpg']])
    b'path\\r\\n"a ""b"",\\nc.jpg"\\r\\n'
    """
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(columns)
    lines.writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def embeddings_meta(embedder: Embedder, versions: Mapping[str, str]) -> dict[str, Any]:
    """Content of ``meta.json``: the model and its preprocessing."""
    return {
        "format": FORMAT,
        "model": {
            "name": embedder.name,
            "checkpoint": embedder.file,
            "sha256": embedder.sha256,
            "dim": embedder.dim,
            **embedder.given,
        },
        "preprocessing": {
            "height": embedder.height,
            "width": embedder.width,
            "interpolation": embedder.interpolation,
            "preprocess": embedder.preprocess,
            "mean": list(embedder.mean),
            "std": list(embedder.std),
        },
        "precision": embedder.precision,
        "versions": dict(versions),
    }


def made_by(embeddings: Embeddings) -> str:
    """The model that made embeddings, as a checkpoint to load; empty where it is not where it was."""
    path = str(embeddings.meta["model"]["checkpoint"])
    if path and Path(path).is_file():
        return path
    return STARTER if Path(path).name == STARTER_FILE.name else ""  # another environment has it elsewhere


def given_to(embeddings: Embeddings) -> dict[str, Any]:
    """The ``size`` and ``camera`` that the model of embeddings was loaded with; None where they were not given."""
    return {key: embeddings.meta["model"].get(key) for key in ("size", "camera")}


def check_model(embeddings: Embeddings, embedder: Embedder) -> None:
    """Checks that embeddings were made by this model.

    Raises:
        ValueError: If the model, or the dimension of its embeddings, differs.
    """
    made = embeddings.meta["model"]
    if made["sha256"] != embedder.sha256:
        raise InputError(
            f"{embeddings.folder} holds embeddings of {made['name']} ({made['dim']} values, sha256 "
            f"{made['sha256'][:12]}), the query's model is {embedder.name} ({embedder.dim} values, sha256 "
            f"{embedder.sha256[:12]}); their scores mean nothing. Use checkpoint={made['checkpoint']}, or embed the "
            "gallery again"
        )


def relative(path: str, folder: str | Path) -> str:
    """A path for ``items.csv``: relative to ``folder`` if it is inside, so that both can be moved together.

    >>> relative("/data/crops/a/1.jpg", "/data/crops"), relative("/data/1.jpg", "/data/crops")
    ('a/1.jpg', '/data/1.jpg')
    """
    whole, root = os.path.abspath(path), os.path.abspath(folder)
    inside = whole.startswith(root.rstrip(os.sep) + os.sep)
    return os.path.relpath(whole, root).replace(os.sep, "/") if inside else whole
