"""Output of a search: table, JSON, PNG or HTML page."""

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from aelm import figures
from aelm.data.decoding import Pixels
from aelm.data.sources import Item
from aelm.embed.embedder import Embedder
from aelm.figures.ranking import Verdict
from aelm.files import check_file
from aelm.search import page as search_page
from aelm.search.gallery import Hit
from aelm.search.page import Heat, pair_heat, read_pictures
from aelm.types import InputError

SUFFIXES = (".html", ".png", ".json")
NO_HEAT = "There is no heat map: a picture is missing, or the model has no feature maps."


class Answer(NamedTuple):
    """A query and its results, best first."""

    query: Item
    hits: Sequence[Hit]


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


def results_table(found: Sequence[Answer], no_match: str) -> str:
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
            lines.append(f"  no match: {no_match}")
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


def page(
    found: Sequence[Answer],
    facts: Mapping[str, str],
    no_match: str,
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
    return search_page.render(
        answers, {key.replace("_", " "): words(v) for key, v in facts.items() if v}, no_match, why
    )


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
