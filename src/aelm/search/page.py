"""The HTML page of a search in one file, with heat maps: the score split over the positions of both pictures."""

import base64
import html
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aelm.data import BadImageError
from aelm.data.decoding import Pixels, decode, read_bytes
from aelm.data.transforms import place_of
from aelm.devices import full_precision
from aelm.embed.batches import preparation
from aelm.embed.embedder import Embedder
from aelm.figures.heatmaps import COLOUR_MAP, STRONGEST
from aelm.figures.page import Image, box_aspect, fit
from aelm.models.similarity import merged, similarity_maps

BATCH = 32  # pairs per batch


class Heat(NamedTuple):
    """Contribution of each position of two pictures to their score, ``(h, w)`` each; both sum to the score.

    Of pictures that were padded to the network's size, the values over the picture itself, one for each pixel there.
    """

    on_query: NDArray[np.float32]
    on_result: NDArray[np.float32]


def read_pictures(paths: Iterable[str]) -> list[Pixels | None]:
    """Pictures ``(h, w, 3)`` uint8 RGB; None for unreadable ones."""
    found: list[Pixels | None] = []
    for path in paths:
        try:
            found.append(decode(read_bytes(path), path))
        except BadImageError:
            found.append(None)
    return found


def pair_heat(embedder: Embedder, query: Pixels | None, results: Sequence[Pixels | None]) -> list[Heat | None]:
    """Heat maps of a query with each of its results.

    Args:
        embedder: On the device to run on.
        query: ``(h, w, 3)`` uint8 RGB; None gives no heat maps.
        results: Likewise; None for missing ones.

    Returns:
        One per result; None if a picture is missing, or the model has no feature maps (``embedder.has_maps``).
    """
    heat: list[Heat | None] = [None] * len(results)
    known = [i for i, result in enumerate(results) if result is not None]
    if query is None or not embedder.has_maps:
        return heat
    asked = _prepared(embedder, [query])
    for some in (known[first : first + BATCH] for first in range(0, len(known), BATCH)):
        found = _prepared(embedder, [picture for i in some if (picture := results[i]) is not None])
        with full_precision():
            maps = similarity_maps(embedder.network, asked, found)
        on_query, on_result = (merged(part).cpu().numpy() for part in (maps.on_a, maps.on_b))
        for place, i in enumerate(some):
            heat[i] = Heat(_shown(embedder, query, on_query[place]), _shown(embedder, results[i], on_result[place]))
    return heat


def _shown(embedder: Embedder, picture: Pixels | None, heat: NDArray[np.float32]) -> NDArray[np.float32]:
    """The part of a heat map that lies over the picture, and not over padding."""
    if picture is None or embedder.preprocess == "resize":
        return heat
    whole = cv2.resize(heat, (embedder.width, embedder.height), interpolation=cv2.INTER_LINEAR)
    part: NDArray[np.float32] = whole[place_of(picture, embedder.height, embedder.width, embedder.preprocess)]
    return part


def _prepared(embedder: Embedder, pictures: Sequence[Pixels]) -> Tensor:
    """The network's input ``(B, 3, H, W)`` uint8 on its device."""
    prepare = preparation(embedder)
    images = np.stack([prepare(picture) for picture in pictures])  # (B, H, W, 3)
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous().to(embedder.device)


TALLEST, WIDEST = 288, 432  # of a picture on the page, in pixels
SMALL = 96  # height of a track's other pictures
OTHERS = 8  # maximum number of other pictures
FINE = 64  # rows of a heat-map image; the browser smooths it
QUALITY = 88
VERDICTS = {"match": "✓", "miss": "✗", "": ""}


class PagePicture(NamedTuple):
    """A picture on the page.

    Attributes:
        path: Displayed path; any text.
        picture: RGB ``(H, W, 3)`` uint8; None if the file is unreadable.
        caption: Text under it, such as identity and camera.
    """

    path: str
    picture: Image | None
    caption: str = ""


class Result(NamedTuple):
    """A result on the page.

    Attributes:
        shown: Its picture.
        score: Cosine similarity with the query.
        verdict: ``match``, ``miss``, or empty if unknown.
        heat: Heat maps of the pair; None if not available.
        others: Other pictures of the track of ``shown``.
    """

    shown: PagePicture
    score: float
    verdict: str = ""
    heat: Heat | None = None
    others: Sequence[Image] = ()


class Answer(NamedTuple):
    """A query and its results, best first; empty for "no match"."""

    query: PagePicture
    results: Sequence[Result]


def render(answers: Sequence[Answer], facts: Mapping[str, str], no_match: str, no_heat: str) -> str:
    """The full page.

    Args:
        answers: From top to bottom.
        facts: Facts for the header, by name.
        no_match: Text for a query without results.
        no_heat: Text for a result without a heat map.
    """
    pictures = [shown.picture for answer in answers for shown in (answer.query, *(r.shown for r in answer.results))]
    aspect = box_aspect([picture for picture in pictures if picture is not None] or [np.zeros((2, 1, 3), np.uint8)])
    warm = any(result.heat is not None for answer in answers for result in answer.results)
    values = {
        "title": "Search result" if len(answers) == 1 else f"Search results of {len(answers)} queries",
        "aspect": f"{aspect:.4f}",
        "facts": "".join(f"<div><dt>{text(k)}</dt><dd><bdi>{text(v)}</bdi></dd></div>" for k, v in facts.items()),
        "hint": "Click a result to see which places made it similar to its query."
        if warm
        else "Click a result to enlarge it.",
        "answers": "\n".join(_answer(answer, no_match, no_heat) for answer in answers),
        "footer": "Made by aelm. Scores are cosine similarities of the embeddings, at most 1.",
    }
    return filled(values)


def filled(values: Mapping[str, str]) -> str:
    """The template filled with HTML values."""
    # In one pass, so that braces in a file name are not replaced.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template())


@cache
def template() -> str:
    """The page template."""
    return files("aelm.search").joinpath("page.html").read_text(encoding="utf-8")


def text(value: str) -> str:
    """Escapes text for HTML elements and attributes; invalid characters become question marks.

    >>> text("<a'b\\"\\r\\udce9")
    '&lt;a&#x27;b&quot;&#13;?'
    """
    return html.escape(value.encode("utf-8", "replace").decode()).replace("\r", "&#13;")


def _answer(answer: Answer, no_match: str, no_heat: str) -> str:
    query = answer.query
    results = "".join(_result(result, rank, no_heat) for rank, result in enumerate(answer.results, 1))
    found = f"<ol>{results}</ol>" if results else f'<p class="no-match"><b>No match</b>{text(no_match)}</p>'
    return (
        f'<section class="asked-for"><figure class="query" data-path="{text(query.path)}">{picture_html(query)}'
        f"<figcaption><strong>Query</strong>{_name(query)}{text(query.caption)}</figcaption></figure>{found}</section>"
    )


def _result(result: Result, rank: int, no_heat: str) -> str:
    return hit(result, str(rank), VERDICTS[result.verdict], no_heat)


def hit(result: Result, label: str, mark: str, no_heat: str, attributes: str = "") -> str:
    """One clickable picture of a list.

    Args:
        result: The result; a NaN score is not shown.
        label: Text at the lower left, such as its rank.
        mark: A sign after the label.
        no_heat: Text if it has no heat map.
        attributes: Further HTML attributes of the button.
    """
    shown, heat = result.shown, result.heat
    low, high = (0.0, 0.0) if heat is None else (min(m.min() for m in heat), max(m.max() for m in heat))
    warm = (
        f'data-why="{text(no_heat)}"'
        if heat is None
        else f'data-heat-a="{heat_uri(heat.on_query, low, high)}" data-heat-b="{heat_uri(heat.on_result, low, high)}"'
    )
    score = "" if math.isnan(result.score) else f"{result.score:.3f}"
    width = f"{100 * min(max(result.score, 0), 1):.1f}" if score else "0"
    others = "".join(f'<img src="{picture_uri(picture, SMALL)}" alt="">' for picture in result.others)
    others = others and f'<span class="others" hidden>{others}</span>'
    return (
        f'<li><button type="button" class="hit {result.verdict}" data-path="{text(shown.path)}" '
        f'data-score="{score}" {warm}{attributes}>{picture_html(shown)}'
        f'<span class="line"><span class="rank">{text(label)}<i>{mark}</i></span>'
        f'<span class="score">{score}</span></span>'
        f'<span class="bar"><i style="width:{width}%"></i></span>'
        f'<span class="caption">{_name(shown)}{text(shown.caption)}</span>'
        f"{others}</button></li>"
    )


def spread_paths(paths: Sequence[str], shown: str) -> list[str]:
    """A few evenly spread pictures of a track, without the one that is shown.

    >>> spread_paths(["a", "b", "c"], "b")
    ['a', 'c']
    """
    others = [path for path in paths if os.path.abspath(path) != os.path.abspath(shown)]
    return [others[i] for i in np.linspace(0, len(others) - 1, min(OTHERS, len(others))).round().astype(int)]


def picture_html(shown: PagePicture) -> str:
    """HTML of a picture in its frame."""
    if shown.picture is None:
        return '<span class="box gone">the file is gone or cannot be read</span>'
    return f'<span class="box"><img src="{picture_uri(shown.picture)}" alt="" loading="lazy"></span>'


def _name(shown: PagePicture) -> str:
    return f'<bdi class="name" title="{text(shown.path)}">{text(os.path.basename(shown.path))}</bdi>'


def picture_uri(picture: Image, tallest: int = TALLEST) -> str:
    """A picture as the source of an ``<img>``: a JPEG at display size or smaller."""
    height, width = picture.shape[:2]
    small = fit(picture, WIDEST, tallest) if height > tallest or width > WIDEST else picture
    return _uri("jpeg", cv2.imencode(".jpg", small[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1])


def heat_uri(values: NDArray[np.float32], low: float, high: float) -> str:
    """A heat map as the source of an ``<img>`` over its picture, more opaque where it is hotter.

    Args:
        values: ``(h, w)``.
        low: Value drawn as transparent.
        high: Value drawn with the highest opacity.
    """
    rows = max(FINE, values.shape[0])
    size = (round(rows * values.shape[1] / values.shape[0]), rows)
    fine = cv2.resize(np.asarray(values, np.float32), size, interpolation=cv2.INTER_CUBIC)
    heat = np.clip((fine - low) / max(high - low, 1e-12), 0, 1)
    pixels = np.rint(255 * matplotlib.colormaps[COLOUR_MAP](heat)).astype(np.uint8)
    pixels[:, :, 3] = np.rint(255 * STRONGEST * heat)
    return _uri("png", cv2.imencode(".png", pixels[:, :, [2, 1, 0, 3]])[1])


def _uri(kind: str, encoded: NDArray[np.uint8]) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(encoded.tobytes()).decode()}"
