"""Gallery: embeddings to search, on disk, in memory, or both."""

import os
import tempfile
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.data.listing import plain
from aelm.data.sources import Item, item_of, several
from aelm.embed.embedder import Embedder
from aelm.embed.folder import (
    ITEMS,
    Embeddings,
    check_model,
    embeddings_meta,
    read_embeddings,
    read_items,
    relative,
    write_embeddings,
)
from aelm.embed.tracks import PICTURES
from aelm.retrieval import nearest
from aelm.retrieval.blocks import Array, as_tensor, check_features
from aelm.types import InputError

Rows = NDArray[np.int64]
BLOCK = 65536  # rows processed at once


class Hit(NamedTuple):
    """A search result.

    Attributes:
        path: The file.
        score: Cosine similarity with the query, at most 1.
        pid: Identity, empty if unknown.
        camid: Camera, likewise.
        track: Track number if it is the best picture of a track; empty for a single picture.
        pictures: Number of pictures of the track; :meth:`Gallery.pictures` lists them.
    """

    path: str
    score: float
    pid: str
    camid: str
    track: str = ""
    pictures: int = 1


def with_rows(held: NDArray[Any], used: int, new: NDArray[Any]) -> NDArray[Any]:
    """Writes ``new`` after the ``used`` rows of ``held``, or of a copy of twice the size if there is no room.

    So repeated small additions copy each row only a few times.

    >>> with_rows(np.array([1, 2, 0]), 2, np.array([3])), len(with_rows(np.arange(3), 3, np.array([3])))
    (array([1, 2, 3]), 6)
    """
    end = used + len(new)
    if end > len(held):
        larger = np.empty((max(end, 2 * len(held)), *held.shape[1:]), held.dtype)
        larger[:used] = held[:used]
        held = larger
    held[used:end] = new
    return held


def checked(features: Array, items: Any, dim: int) -> tuple[NDArray[np.float32], list[Item]]:
    """Checks and converts input of a gallery: a float32 row and an :class:`Item` per picture.

    Raises:
        TypeError: If features are not a floating-point tensor or array, or an item is neither a path nor an item.
        ValueError: If shapes do not match, or a row is zero or not finite.
    """
    check_features("features", features)
    full = [item_of(item) for item in several(items)]
    new = as_tensor(features).cpu().float().numpy()
    if new.shape != (len(full), dim):
        raise InputError(f"`features` must have shape {(len(full), dim)}, a row an item, got {new.shape}")
    broken = np.flatnonzero(~np.isfinite(new).all(1))
    if len(broken):
        raise InputError(
            f"`features` hold NaN or infinite values, {len(broken)} of {len(new)} rows, the first of "
            f"{full[broken[0]].path!r}; has the model diverged?"
        )
    empty = np.flatnonzero(~new.any(1))
    if len(empty):
        raise InputError(
            f"`features` of {full[empty[0]].path!r} are all zero, as {len(empty)} of {len(new)} rows: zero "
            "vectors are similar to nothing. Leave them out; is the crop empty?"
        )
    return new, full


class Gallery:
    """Embeddings of pictures to search, each picture once, identified by its path.

    Embeddings opened from a folder are memory-mapped; added ones are in memory until :meth:`save`.

    Args:
        embedder: The model of the embeddings; None for any embeddings with ``dim`` values.
        dim: Length D of an embedding, if there is no embedder.

    Raises:
        ValueError: If neither is given.

    >>> gallery = Gallery(dim=2)
    >>> gallery.add(np.array([[1, 0], [0, 1]], np.float32), ["a.jpg", Item("b.jpg", camid="3")])
    >>> [[hit.path for hit in hits] for hits in gallery.search(np.array([[0.1, 1]], np.float32), k=1)]
    [['b.jpg']]
    """

    def __init__(self, embedder: Embedder | None = None, *, dim: int = 0) -> None:
        if embedder is None and dim < 1:
            raise InputError(
                "a Gallery needs an `embedder`, or the `dim` of its embeddings; Gallery.open takes a folder"
            )
        self.dim = dim if embedder is None else embedder.dim
        self.meta: dict[str, Any] = {} if embedder is None else embeddings_meta(embedder, {})
        self.folder: Path | None = None
        self._base: NDArray[np.float32] = np.empty((0, self.dim), np.float32)
        self._items: list[Item] = []
        # Have spare rows: used rows of `_added` are the items beyond the base, those of `_room` are all items.
        self._added: NDArray[np.float32] = np.empty((0, self.dim), np.float32)
        self._room = np.empty(0, bool)
        self._row: dict[str, int] | None = None  # row of each path; built on first use
        self._tracks: dict[tuple[str, str], list[str]] | None = None  # pictures of each track, likewise

    @classmethod
    def open(cls, folder: str | Path | Embeddings, embedder: Embedder | None = None) -> "Gallery":
        """Opens a gallery folder written by ``aelm.embed`` or :meth:`save`.

        Args:
            folder: The folder.
            embedder: The model of the queries; None skips the check that it is the same.

        Raises:
            FileNotFoundError: If there are no finished embeddings.
            ValueError: If they are from another model, or the files do not match.
        """
        found = folder if isinstance(folder, Embeddings) else read_embeddings(folder)
        if embedder is not None:
            check_model(found, embedder)
        gallery = cls(dim=found.meta["model"]["dim"])
        gallery.meta, gallery.folder = dict(found.meta), found.folder
        gallery._base, gallery._items = found.features, list(found.items)
        gallery._room = np.ones(len(found.items), bool)
        return gallery

    def __len__(self) -> int:
        return int(self._kept.sum())

    @property
    def _kept(self) -> NDArray[np.bool_]:
        """Whether each row is still in the gallery; a writable view."""
        return self._room[: len(self._items)]

    @property
    def items(self) -> list[Item]:
        """The items in order; paths as in :meth:`search`."""
        return [self._items[row]._replace(path=self._path(row)) for row in np.flatnonzero(self._kept).tolist()]

    def add(self, features: Array, items: Sequence[Item | str | Path]) -> None:
        """Adds pictures; one with an existing path replaces it.

        Args:
            features: ``(n, D)``, as from ``embed_files``.
            items: A path, or path, identity and camera, for each.

        Raises:
            TypeError: If features are not a floating-point tensor or array, or an item is invalid.
            ValueError: If shapes do not match, a row is zero or not finite, or a path is repeated.
        """
        new, full = checked(features, items, self.dim)
        keys = [os.path.abspath(item.path) for item in full]
        if len(set(keys)) < len(keys):
            twice = next(key for key in keys if keys.count(key) > 1)
            raise InputError(f"`items` names {twice!r} twice; which embedding is meant?")
        self.remove(keys)
        count = len(self._items)
        self._added = with_rows(self._added, count - len(self._base), new)
        self._room = with_rows(self._room, count, np.ones(len(full), bool))
        self._rows().update(zip(keys, range(count, count + len(keys)), strict=True))
        self._items += [
            item if self.folder is None else item._replace(path=relative(item.path, self.folder)) for item in full
        ]

    def remove(self, paths: Collection[str | Path] | str | Path) -> int:
        """Removes pictures; returns how many of ``paths`` existed."""
        rows = self._rows()
        gone = [rows.pop(key) for key in map(os.path.abspath, several(paths)) if key in rows]
        self._kept[gone] = False
        return len(gone)

    def search(
        self,
        query: Array,
        k: int = 20,
        *,
        min_score: float | None = None,
        only_camids: Collection[str | int] | str | int | None = None,
        except_camids: Collection[str | int] | str | int = (),
        paths: str | None = None,
        leave_out: Sequence[str | Path] | str | Path = (),
    ) -> list[list[Hit]]:
        """Exact search for the most similar pictures of each query, best first, block by block.

        Args:
            query: ``(Q, D)``.
            k: Maximum number of results per query.
            min_score: Minimum similarity of a match; without matches the list is empty.
            only_camids: Cameras to search in; None for all.
            except_camids: Cameras to leave out, such as the query's own.
            paths: Pattern for paths as in ``items.csv``, such as ``day1/*``; ``*`` also matches ``/``.
            leave_out: Path of each query itself, to exclude from its results.

        Raises:
            ValueError: If ``k`` is below 1, dimensions differ, or ``leave_out`` is neither empty nor one per query.
        """
        check_features("query", query)
        if query.shape[1] != self.dim:
            raise InputError(
                f"`query` has {query.shape[1]} dimensions, the gallery {self.dim}; both must come from one model"
            )
        leave_out = several(leave_out)
        if leave_out and len(leave_out) != len(query):
            raise InputError(f"`leave_out` must name a path for each of the {len(query)} queries, got {len(leave_out)}")
        rows = self._wanted(only_camids, except_camids, paths)
        if not len(rows) or not len(query):
            return [[] for _ in range(len(query))]
        found = nearest(query, self._features(rows), k + bool(leave_out))
        hits = []
        for i, (scores, places) in enumerate(zip(found.scores.tolist(), rows[found.indices], strict=True)):
            own = os.path.abspath(leave_out[i]) if leave_out else ""
            near = [self._hit(row, score) for score, row in zip(scores, places, strict=True)
                    if min_score is None or score >= min_score]  # fmt: skip
            hits.append([hit for hit in near if not own or os.path.abspath(hit.path) != own][:k])
        return hits

    def pictures(self, hit: Hit | Item) -> list[str]:
        """The pictures of a hit's track, in order; only the hit's own if no others are known."""
        if self._tracks is None:
            self._tracks = {}
            home = None if self.folder is None else self.folder / PICTURES
            for item in read_items(home / ITEMS) if home is not None and (home / ITEMS).is_file() else ():
                path = os.path.normpath(os.path.join(str(home), item.path))
                self._tracks.setdefault((item.camid, item.track), []).append(path)
        return self._tracks.get((hit.camid, hit.track), [hit.path]) if hit.track else [hit.path]

    def save(self, folder: str | Path) -> None:
        """Writes it as a folder of embeddings, which may be the folder it was opened from.

        Of tracks it saves the embedding and the best picture; other pictures are only listed in the original folder.

        Raises:
            ValueError: If it is empty, or its model is unknown.
        """
        if not self.meta:
            raise InputError("this gallery knows no model: make it with Gallery(embedder), so that searches can check")
        if not len(self):
            raise InputError("the gallery is empty, so there is nothing to save")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        items = [item._replace(path=relative(item.path, folder)) for item in self.items]
        with tempfile.TemporaryDirectory(dir=folder, prefix=".aelm-") as scratch:
            write_embeddings(folder, self._blocks(np.flatnonzero(self._kept)), items, self.meta, Path(scratch))

    def _path(self, row: int) -> str:
        path = self._items[row].path
        return path if self.folder is None else os.path.join(self.folder, path)

    def _hit(self, row: int, score: float) -> Hit:
        item = self._items[row]
        return Hit(self._path(row), score, item.pid, item.camid, item.track, item.pictures)

    def _rows(self) -> dict[str, int]:
        if self._row is None:
            self._row = {os.path.abspath(self._path(row)): row for row in range(len(self._items))}
        return self._row

    def _wanted(self, only: Any, others: Any, pattern: str | None) -> Rows:
        """The rows to search, ascending."""
        cameras = None if only is None else set(map(plain, several(only)))
        left_out = set(map(plain, several(others)))
        if cameras is None and not left_out and pattern is None:
            return np.flatnonzero(self._kept)
        if pattern and not any(fnmatchcase(item.path, pattern) for item in self._items):
            pattern = pattern.replace("[", "[[]")  # brackets are part of a folder's name
        fits = [
            (cameras is None or item.camid in cameras)
            and item.camid not in left_out
            and (pattern is None or fnmatchcase(item.path, pattern))
            for item in self._items
        ]
        return np.flatnonzero(self._kept & np.array(fits, bool))

    def _features(self, rows: Rows) -> Array | Iterator[Array]:
        whole = len(rows) == len(self._base) == len(self._items)
        return self._base if whole else self._blocks(rows)

    def _blocks(self, rows: Rows) -> Iterator[NDArray[np.float32]]:
        """The features of some rows in ascending order, block by block."""
        for part in (rows[first : first + BLOCK] for first in range(0, len(rows), BLOCK)):
            edge = int(np.searchsorted(part, len(self._base)))
            yield np.concatenate([self._base[part[:edge]], self._added[part[edge:] - len(self._base)]])
