"""GalleryStore: a gallery in Milvus, either a local file (Milvus Lite) or a server."""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from aelm.data.listing import plain
from aelm.data.sources import Item, several
from aelm.embed.embedder import Embedder
from aelm.embed.folder import check_model, read_embeddings
from aelm.retrieval.blocks import Array, check_features
from aelm.search.gallery import Hit, checked
from aelm.types import InputError, MissingPackageError

BATCH = 1000  # rows per message; Milvus accepts at most 64 MB
LIMIT = 16384  # maximum number of results per query in Milvus
_OPENED: Counter[str] = Counter()  # local files, and how many stores of each this process has open


class GalleryStore:
    """Embeddings of one model in Milvus, each picture once, identified by its absolute path.

    A store may hold galleries of several models. Each has its own collection, named after the model's SHA-256, so
    embeddings of different models are never mixed.

    Args:
        uri: A local file such as ``people.db`` (Milvus Lite), or ``http://host:19530`` of a Milvus server or cluster.
        embedder: The model of the embeddings.
        index: Index of a new collection: ``FLAT`` is exact; ``HNSW`` and others are approximate. An existing collection
            keeps its index.
        timeout: Seconds to wait for a server.

    Raises:
        ConnectionError: If Milvus cannot be reached at ``uri``, or another process has the local file open.
        ModuleNotFoundError: If pymilvus is not installed.
        ValueError: If ``index`` is unknown to Milvus.
    """

    def __init__(self, uri: str, embedder: Embedder, *, index: str = "FLAT", timeout: float = 10) -> None:
        self.uri, self.dim, self.embedder = uri, embedder.dim, embedder
        self.collection = f"aelm_{embedder.sha256[:32]}"
        self._client = connect(uri, timeout)
        if not self._client.has_collection(self.collection):
            self._create(index)
        self._client.load_collection(self.collection)
        self._file = "" if "://" in uri else os.path.abspath(uri)
        _OPENED[self._file] += 1

    def _create(self, index: str) -> None:
        types = pymilvus().DataType
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("id", types.VARCHAR, is_primary=True, max_length=64)  # a hash: paths may be too long
        schema.add_field("path", types.VARCHAR, max_length=8192)
        schema.add_field("pid", types.VARCHAR, max_length=256)
        schema.add_field("camid", types.VARCHAR, max_length=256)
        schema.add_field("time", types.DOUBLE)
        schema.add_field("embedding", types.FLOAT_VECTOR, dim=self.dim)
        how = self._client.prepare_index_params()
        how.add_index("embedding", index_type=index, metric_type="COSINE")
        try:
            self._client.create_collection(self.collection, schema=schema, index_params=how, consistency_level="Strong")
        except pymilvus().MilvusException as error:
            if self._client.has_collection(self.collection):
                self._client.drop_collection(self.collection)
            raise InputError(f"Milvus at {self.uri} makes no `index` {index!r}: {error.message}") from error

    def __len__(self) -> int:
        return int(self._client.query(self.collection, filter="", output_fields=["count(*)"])[0]["count(*)"])

    def close(self) -> None:
        """Closes the connection; a local file too, with the last store of it: then another program may open it."""
        self._client.close()
        file, self._file = self._file, ""
        _OPENED[file] -= 1
        if file and not _OPENED[file]:
            from milvus_lite.server_manager import server_manager_instance  # pymilvus's close() leaves it running

            server_manager_instance.release_server(file)

    def add(self, features: Array, items: Sequence[Item | str | Path], times: Sequence[float] = ()) -> None:
        """Adds pictures; one with an existing path replaces it.

        Args:
            features: ``(n, D)``, as from ``embed_files``.
            items: A path, or path, identity and camera, for each.
            times: Time of each picture, in seconds since 1970; 0 if unknown.

        Raises:
            TypeError: If features are not a floating-point tensor or array.
            ValueError: If shapes do not match, a value is not finite, or a path is not UTF-8.
        """
        new, full = checked(features, items, self.dim)
        when = list(times) or [0.0] * len(full)
        if len(when) != len(full):
            raise InputError(f"`times` must have {len(full)} entries or none, got {len(when)}")
        rows = [_row(item, time, feature) for item, time, feature in zip(full, when, new, strict=True)]
        for first in range(0, len(rows), BATCH):
            self._client.upsert(self.collection, rows[first : first + BATCH])

    def add_folder(self, folder: str) -> int:
        """Adds a folder of embeddings written by ``aelm.embed``, block by block; returns the number of pictures.

        Raises:
            FileNotFoundError: If there are no finished embeddings.
            ValueError: If they are from another model.
        """
        found = read_embeddings(folder)
        check_model(found, self.embedder)
        for first in range(0, len(found.items), BATCH):
            part = found.items[first : first + BATCH]
            items = [item._replace(path=os.path.join(found.folder, item.path)) for item in part]
            times = [item.start or 0.0 for item in part]
            self.add(np.array(found.features[first : first + BATCH]), items, times=times)
        return len(found.items)

    def remove(self, paths: Collection[str | Path] | str | Path) -> int:
        """Removes pictures; returns how many of ``paths`` existed."""
        ids = sorted({_id(os.fspath(path)) for path in several(paths)})
        before = len(self)
        for first in range(0, len(ids), BATCH):
            self._client.delete(self.collection, filter=f"id in {json.dumps(ids[first : first + BATCH])}")
        return before - len(self)

    def search(
        self,
        query: Array,
        k: int = 20,
        *,
        min_score: float | None = None,
        only_camids: Collection[str | int] | str | int | None = None,
        except_camids: Collection[str | int] | str | int = (),
        paths: str | None = None,
        between: tuple[float, float] | None = None,
        leave_out: Sequence[str | Path] | str | Path = (),
    ) -> list[list[Hit]]:
        """The most similar pictures of each query, best first; exact if the index is ``FLAT``.

        Args and errors as in :meth:`aelm.Gallery.search`, except ``paths``, a pattern for absolute paths with only
        ``*`` and ``?``, and ``between``, which selects pictures by time, both ends included.
        """
        check_features("query", query)
        if query.shape[1] != self.dim:
            raise InputError(
                f"`query` has {query.shape[1]} dimensions, the gallery {self.dim}; both must come from one model"
            )
        wanted = k + bool(leave_out)
        if k < 1 or wanted > LIMIT:
            raise InputError(f"`k` must lie in 1 .. {LIMIT - bool(leave_out)}, as Milvus has it, got {k}")
        leave_out = several(leave_out)
        if leave_out and len(leave_out) != len(query):
            raise InputError(f"`leave_out` must name a path for each of the {len(query)} queries, got {len(leave_out)}")
        if not len(query):
            return []
        rows = np.asarray(query if isinstance(query, np.ndarray) else query.detach().cpu(), np.float32)
        found = self._client.search(
            self.collection,
            data=rows.tolist(),
            limit=wanted,
            filter=" and ".join(_conditions(only_camids, except_camids, paths, between)),
            output_fields=["path", "pid", "camid"],
        )
        hits = [[_hit(one) for one in some if min_score is None or one["distance"] >= min_score] for some in found]
        own = [os.path.abspath(path) for path in leave_out] or [""] * len(hits)
        return [[hit for hit in some if hit.path != mine][:k] for some, mine in zip(hits, own, strict=True)]


def _id(path: str) -> str:
    return hashlib.sha256(os.path.abspath(path).encode("utf-8", "surrogateescape")).hexdigest()


def _row(item: Item, time: float, feature: Any) -> dict[str, Any]:
    path = os.path.abspath(item.path)
    if not path.isprintable() and path != path.encode("utf-8", "replace").decode():
        raise InputError(f"Milvus takes paths in UTF-8 alone, got {path!r}; rename the file")
    fields = {"pid": item.pid, "camid": item.camid, "time": float(time)}
    return {"id": _id(path), "path": path, **fields, "embedding": feature.tolist()}


def _hit(found: Any) -> Hit:
    entity = found["entity"]
    return Hit(entity["path"], float(found["distance"]), entity["pid"], entity["camid"])


def _conditions(
    only: Any,
    others: Any,
    pattern: str | None,
    between: tuple[float, float] | None,
) -> Iterable[str]:
    """Filters in Milvus's query language, with JSON strings."""
    if only is not None:
        yield f"camid in {_texts(only)}"
    if several(others):
        yield f"camid not in {_texts(others)}"
    if pattern is not None:
        yield f"path like {json.dumps(like(pattern), ensure_ascii=False)}"
    if between is not None:
        yield f"time >= {float(between[0])!r} and time <= {float(between[1])!r}"


def _texts(values: Any) -> str:
    return json.dumps([plain(value) for value in several(values)], ensure_ascii=False)


def like(pattern: str) -> str:
    """Converts a pattern with ``*`` and ``?`` to a ``LIKE`` pattern.

    Raises:
        ValueError: If it holds brackets, which ``LIKE`` does not support.

    >>> like("/day_1/*.jp?g")
    '/day\\\\_1/%.jp_g'
    """
    if "[" in pattern:
        raise InputError(f"`paths` in a store knows * and ? only, got {pattern!r}")
    escaped = "".join("\\" + c if c in "\\%_" else c for c in pattern)
    return escaped.replace("*", "%").replace("?", "_")


def connect(uri: str, timeout: float) -> Any:
    """A Milvus client.

    Raises:
        ConnectionError: If Milvus does not answer.
        ModuleNotFoundError: If pymilvus is not installed.
    """
    milvus = pymilvus()
    if "://" not in uri:
        os.makedirs(os.path.dirname(os.path.abspath(uri)), exist_ok=True)
    reasons = _Reasons()
    local = logging.getLogger("milvus_lite.server_manager")
    local.addHandler(reasons)
    propagate, local.propagate = local.propagate, False
    try:
        return milvus.MilvusClient(uri=uri, timeout=timeout)
    except (milvus.MilvusException, OSError, RuntimeError, ValueError) as error:
        found = reasons.found or error
        if type(found).__name__ == "DataDirLockedError":
            raise ConnectionError(
                f"the gallery store {uri!r} is in use by another process: a local file serves one program at a time. "
                "End the other program, or run a Milvus server for several (http://host:19530)"
            ) from error
        if "://" not in uri:
            raise ConnectionError(
                f"the gallery store {uri!r} cannot be opened: {type(found).__name__}: {found}. Give a new file such as "
                "people.db, or http://host:19530 of a server that runs"
            ) from error
        raise ConnectionError(
            f"no Milvus at {uri!r}: {error}. Give a file of your own such as people.db, or http://host:19530 of a "
            "server that runs"
        ) from error
    finally:
        local.removeHandler(reasons)
        local.propagate = propagate


class _Reasons(logging.Handler):
    """Keeps errors that Milvus Lite logs but does not raise."""

    found: BaseException | None = None

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found = record.exc_info[1]


def pymilvus() -> Any:
    """Imports pymilvus.

    Raises:
        ModuleNotFoundError: If it is not installed, with the command to install it.
    """
    try:
        import pymilvus as module
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "a gallery store needs pymilvus, which is not installed: pip install 'aelm[gallery]'"
        ) from error
    return module
