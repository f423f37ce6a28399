"""The task of ``python -m aelm.search``: finds the pictures of a gallery that are most similar to a query."""

import json
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, ListConfig

from aelm import figures
from aelm.checkpoint import STARTER
from aelm.data.decoding import Pixels, decoding_error
from aelm.data.sources import Item, find_items
from aelm.embed.batches import Features, default_batch_size, devices, embedded
from aelm.embed.embedder import Embedder, load_embedder
from aelm.embed.folder import FEATURES, ITEMS, META, Embeddings, given_to, made_by, read_embeddings, relative
from aelm.embed.job import Settings, embed_items
from aelm.figures.ranking import Verdict
from aelm.files import check_file, hold_file
from aelm.report.metrics import write_text
from aelm.search import page as search_page
from aelm.search.gallery import Gallery, Hit
from aelm.search.page import Heat, pair_heat, read_pictures
from aelm.search.store import GalleryStore
from aelm.types import InputError

log = logging.getLogger(__name__)

SUFFIXES = (".html", ".png", ".json")


class Answer(NamedTuple):
    """A query and its results, best first."""

    query: Item
    hits: Sequence[Hit]


def run(config: DictConfig) -> list[Answer]:
    """Searches as ``config`` says, prints the table, and writes ``output`` if given."""
    check_output(config.output)
    if config.top_k < 1:
        raise InputError(f"`top_k` must be at least 1, got {config.top_k}")
    if config.min_score is not None and not -1 <= config.min_score <= 1:
        raise InputError(f"`min_score` is a cosine and must lie in -1 .. 1, got {config.min_score}; null keeps all")
    asked = find_items(config.query, config.pattern, key="query")
    place = devices(config.device if isinstance(config.device, str) else tuple(config.device))[0]
    with hold_file(config.output):
        return search(config, asked, place)


def search(config: DictConfig, asked: Sequence[Item], place: str) -> list[Answer]:
    """Searches and writes the locked output."""
    embedder, searched = open_gallery(config, place)
    try:
        queries, features = embed_queries(embedder, asked, config.batch_size or default_batch_size(place))
        hits = search_each(searched, queries, features, config)
        found = [Answer(query, near) for query, near in zip(queries, hits, strict=True)]
        print(results_table(found, no_match(config)))
        if config.output is not None:
            write(Path(config.output), found, config, embedder, searched)
    finally:
        if isinstance(searched, GalleryStore):
            searched.close()
    return found


def open_gallery(config: DictConfig, place: str) -> tuple[Embedder, Gallery | GalleryStore]:
    """The model on its device, and the gallery.

    Raises:
        ValueError: If no gallery is given, or the model is unknown.
    """
    if isinstance(config.gallery, str):
        found = find_gallery(config, place)
        embedder = load(config, config.checkpoint or own_checkpoint(found), place, given_to(found))
        return embedder, Gallery.open(found, embedder)
    if not config.gallery.uri:
        raise InputError("`gallery` is missing: gallery=FOLDER or gallery.uri=people.db")
    uri = str(config.gallery.uri)
    if "://" not in uri and not Path(uri).exists():  # Milvus Lite stores a folder
        raise FileNotFoundError(
            f"`gallery.uri`: no gallery store {uri}; aelm.GalleryStore makes one, see docs/gallery_store.md"
        )
    if config.checkpoint is None:
        raise InputError("a gallery store may serve several models: give `checkpoint`")
    embedder = load(config, config.checkpoint, place, {})
    return embedder, GalleryStore(config.gallery.uri, embedder)


def load(config: DictConfig, checkpoint: str, place: str, given: Mapping[str, Any]) -> Embedder:
    """Loads a model on its device; ``size`` and ``camera`` of ``config`` come before those ``given`` to the gallery."""
    options = {**given, **{key: config[key] for key in ("size", "camera") if config[key] is not None}}
    return load_embedder(checkpoint, list(config.allow), precision=config.precision, **options).to(place)


def find_gallery(config: DictConfig, place: str) -> Embeddings:
    """The embeddings to search: from a folder of embeddings, or computed now from pictures."""
    path = Path(config.gallery)
    if path.is_file() and path.name in (FEATURES, ITEMS, META):
        path = path.parent
    if any((path / name).is_file() for name in (FEATURES, META)):
        return read_embeddings(path)
    items = find_items(config.gallery, config.pattern, key="gallery")
    log.info("%s holds no embeddings: its %d pictures are embedded for this search alone", path, len(items))
    with tempfile.TemporaryDirectory(prefix="aelm-search-") as folder:
        settings = Settings(
            place, config.batch_size, workers=config.workers, progress=config.progress, precision=config.precision,
            size=config.size, camera=config.camera, tracks=False,
        )  # fmt: skip
        embed_items(config.checkpoint or STARTER, items, Path(folder), settings, list(config.allow))
        found = read_embeddings(folder)
        # As if stored in the folder of pictures; the temporary folder is removed.
        home = path if path.is_dir() else Path(folder)
        items = tuple(item._replace(path=relative(os.path.join(folder, item.path), home)) for item in found.items)
        return found._replace(features=np.array(found.features), items=items, folder=home)


def own_checkpoint(gallery: Embeddings) -> str:
    """Path of the model that computed a gallery.

    Raises:
        ValueError: If the file no longer exists.
    """
    if not (path := made_by(gallery)):
        made = gallery.meta["model"]["checkpoint"] or "a model without a file"
        raise InputError(f"{gallery.folder} was made with {made}, which is gone: give `checkpoint`")
    return path


def embed_queries(embedder: Embedder, queries: Sequence[Item], batch_size: int) -> tuple[list[Item], Features]:
    """The readable queries, and their embeddings ``(Q, D)``.

    Raises:
        ValueError: If none is readable.
    """
    batches = embedded(embedder, [query.path for query in queries], batch_size, workers=0)
    parts = [(queries_of, features) for queries_of, features in batches]
    kept = np.concatenate([positions for positions, _ in parts])
    if not len(kept):
        raise InputError(f"no query can be read: {decoding_error(queries[0].path)}")
    if len(kept) < len(queries):
        log.warning("%d of %d queries could not be read and are left out", len(queries) - len(kept), len(queries))
    return [queries[i] for i in kept], np.concatenate([features for _, features in parts])


def search_each(
    gallery: Gallery | GalleryStore, queries: Sequence[Item], features: Features, config: DictConfig
) -> list[list[Hit]]:
    """The results of each query; ``other_cameras`` also excludes the query's own camera."""
    unknown = sum(not query.camid for query in queries)
    if config.other_cameras and unknown:
        log.warning(
            "`other_cameras`: the camera of %d of %d queries is unknown, so results from it stay; `pattern` reads it "
            "from file names",
            unknown, len(queries),
        )  # fmt: skip
    groups: dict[str, list[int]] = {}
    for place, query in enumerate(queries):
        groups.setdefault(query.camid if config.other_cameras else "", []).append(place)
    hits: dict[int, list[Hit]] = {}
    for camid, places in groups.items():
        found = gallery.search(
            features[places],
            config.top_k,
            min_score=config.min_score,
            only_camids=config.only_camids,
            except_camids=[*(config.except_camids or ()), *([camid] if camid else [])],
            paths=config.paths,
            leave_out=[queries[place].path for place in places] if config.skip_self else (),
        )
        hits.update(zip(places, found, strict=True))
    return [hits[place] for place in range(len(queries))]


def no_match(config: DictConfig) -> str:
    """Text for a query without results."""
    if config.min_score is None:
        return "No picture of the gallery passes the filters."
    return f"No picture that passes the filters scores {config.min_score:g} or more."


def write(
    output: Path, found: Sequence[Answer], config: DictConfig, embedder: Embedder, searched: Gallery | GalleryStore
) -> None:
    """Writes one file, in the format given by its extension."""
    output.parent.mkdir(parents=True, exist_ok=True)
    suffix = output.suffix.lower()
    if suffix == ".png":
        draw_results(found, output)
        return
    name = config.gallery if isinstance(config.gallery, str) else config.gallery.uri
    facts: dict[str, Any] = {"gallery": name, "pictures": len(searched), "model": embedder.name}
    for key in ("top_k", "min_score", "only_camids", "except_camids", "other_cameras", "paths"):
        facts[key] = list(config[key]) if isinstance(config[key], ListConfig) else config[key]
    if suffix == ".json":
        text = as_json(found, facts)
    else:
        of_track = {"pictures_of": searched.pictures} if isinstance(searched, Gallery) else {}
        text = page(found, facts, no_match(config), embedder, heatmaps=config.heatmaps, **of_track)
    write_text(output, text)


def check_output(path: str | None) -> None:
    """Checks the output file.

    Raises:
        OSError: If it cannot be written.
        ValueError: If its extension is not one of ``SUFFIXES``.
    """
    if path is not None and Path(path).suffix.lower() not in SUFFIXES:
        raise InputError(f"`output` must end in {', '.join(SUFFIXES)}, got {path!r}; null prints the table only")
    if path is not None:
        check_file(path)


def results_table(found: Sequence[Answer], nothing: str) -> str:
    """The results as lines for a console; line breaks in file names are escaped.

    >>> print(results_table([Answer(Item("q.jpg"), [Hit("a\\nb.jpg", 0.5, "7", "")])], "none"))
    query q.jpg
      rank   score  pid         camid       path
         1   0.500  7                       a\\nb.jpg
    """
    lines = []
    for query, hits in found:
        lines.append(f"query {printable_line(query.path)}")
        if not hits:
            lines.append(f"  no match: {nothing}")
            continue
        lines.append(f"  {'rank':>4} {'score':>7}  {'pid':10}  {'camid':10}  path")
        for rank, hit in enumerate(hits, 1):
            lines.append(f"  {rank:>4} {hit.score:>7.3f}  {hit.pid:10}  {hit.camid:10}  {printable_line(hit.path)}")
    return "\n".join(lines)


def printable_line(text: str) -> str:
    """Text for a console: escapes control characters and invalid characters.

    >>> printable_line("a\\tb"), printable_line("人物")
    ('a\\\\tb', '人物')
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def as_json(found: Sequence[Answer], facts: Mapping[str, Any]) -> str:
    """The results as JSON."""
    queries = [
        {
            **{"path": query.path, "pid": query.pid, "camid": query.camid},
            "match": bool(hits),
            "results": [{"rank": rank, **hit._asdict()} for rank, hit in enumerate(hits, 1)],
        }
        for query, hits in found
    ]
    return json.dumps({**facts, "queries": queries}, indent=2) + "\n"


def draw_results(found: Sequence[Answer], path: Path) -> None:
    """Draws the results as a PNG; missing pictures are drawn as empty boxes."""
    rows = []
    for query, hits in found:
        pictures = [
            picture if picture is not None else empty() for picture in read_pictures([query.path, *paths(hits)])
        ]
        results = [
            figures.RankedPicture(picture, verdict(query, hit) or "unknown", hit.score, caption(hit.pid, hit.camid))
            for hit, picture in zip(hits, pictures[1:], strict=True)
        ]
        name = os.path.basename(query.path)
        title = printable_line(name) if hits else f"{printable_line(name)}: no match"
        rows.append(figures.RankedRow(pictures[0], results, title, caption(query.pid, query.camid)))
    figures.ranked_rows(rows, path, title="Search result" if len(rows) == 1 else "Search results")


NO_HEAT = "There is no heat map: a picture is missing, or the model has no feature maps."


def page(
    found: Sequence[Answer],
    facts: Mapping[str, str],
    nothing: str,
    embedder: Embedder,
    *,
    heatmaps: bool,
    pictures_of: Callable[[Hit], Sequence[str]] = lambda hit: [hit.path],
) -> str:
    """The results as an HTML page, with a heat map of each pair if ``heatmaps`` is set.

    ``pictures_of`` returns the pictures of a hit's track.
    """
    answers = []
    for query, hits in found:
        asked, *pictures = read_pictures([query.path, *paths(hits)])
        heat: Sequence[Heat | None] = pair_heat(embedder, asked, pictures) if heatmaps else [None] * len(hits)
        results = [
            search_page.Result(
                search_page.PagePicture(hit.path, picture, caption(hit.pid, hit.camid, hit.track, hit.pictures)),
                hit.score,
                verdict(query, hit) or "",
                warm,
                [one for one in read_pictures(search_page.spread_paths(pictures_of(hit), hit.path)) if one is not None],
            )
            for hit, picture, warm in zip(hits, pictures, heat, strict=True)
        ]
        shown = search_page.PagePicture(query.path, asked, caption(query.pid, query.camid))
        answers.append(search_page.Answer(shown, results))
    why = NO_HEAT if heatmaps else "Heat maps were switched off (heatmaps=false)."
    return search_page.render(answers, {key.replace("_", " "): words(v) for key, v in facts.items() if v}, nothing, why)


def words(fact: Any) -> str:
    """A fact as readable text.

    >>> words(["1", "3"]), words(True), words(0.5)
    ('1, 3', 'yes', '0.5')
    """
    if isinstance(fact, list):
        return ", ".join(map(str, fact))
    return "yes" if fact is True else printable_line(str(fact))


def paths(hits: Sequence[Hit]) -> list[str]:
    """Paths of the pictures."""
    return [hit.path for hit in hits]


def verdict(query: Item, hit: Hit) -> Verdict | None:
    """Whether it is the same person; None unless both identities are known.

    >>> verdict(Item("q.jpg", "7"), Hit("a.jpg", 0.5, "7", "")), verdict(Item("q.jpg"), Hit("a.jpg", 0.5, "7", ""))
    ('match', None)
    """
    if not query.pid or not hit.pid or "-1" in (query.pid, hit.pid):
        return None
    return "match" if query.pid == hit.pid else "miss"


def caption(pid: str, camid: str, track: str = "", pictures: int = 1) -> str:
    """Identity, camera and track as a caption.

    >>> caption("7", "2"), caption("", "2"), caption("", ""), caption("", "2", "5", 9)
    ('id 7, cam 2', 'cam 2', '', 'cam 2, track 5 (9 pictures)')
    """
    of_track = f"{track} ({pictures} pictures)" if track else ""
    return ", ".join(f"{name} {value}" for name, value in (("id", pid), ("cam", camid), ("track", of_track)) if value)


def empty() -> Pixels:
    """Placeholder of a missing picture."""
    return np.full((128, 64, 3), 238, np.uint8)
