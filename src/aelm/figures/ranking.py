"""Ranked rows: a query on the left, its results on the right, with frames for match and miss; and contact sheets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from aelm.figures.page import (
    INK,
    LABEL,
    MUTED,
    PAPER,
    SCALE,
    SMALL,
    TITLE,
    Image,
    Page,
    box_aspect,
    fit,
    read_picture,
    rgb,
)
from aelm.types import InputError

Verdict = Literal["match", "miss", "ignored", "unknown"]

# Colour-blind safe green and red (after Tol's vibrant set); glyphs repeat the information.
COLOURS = {"match": "#009e73", "miss": "#cc3311", "ignored": "#8c959f", "unknown": "#c3cad1", "query": "#0072b2"}
GROUND = "#eef1f4"  # background of pictures with another aspect ratio
GLYPHS = {"match": "✓", "miss": "✗", "ignored": "\N{EN DASH}"}
MEANINGS = {"match": "same person", "miss": "another person", "ignored": "not ranked (same camera, or junk)"}

HEIGHT = 144.0  # of a picture with its frame; all lengths are in points
FRAME, GUTTER, MARGIN, BADGE = 3.0, 8.0, 16.0, 6.0
QUERY_GAP = 16.0  # between a query and its results


class RankedPicture(NamedTuple):
    """One result.

    Attributes:
        picture: A file, or RGB ``(H, W, 3)`` uint8.
        verdict: ``match`` (same person), ``miss`` (another person), ``ignored`` (not ranked) or ``unknown`` (as in a
            search; drawn with a neutral frame).
        score: Similarity or distance, shown beside the rank; None for none.
        caption: Short text under it, such as the camera.
    """

    picture: str | Path | Image
    verdict: Verdict
    score: float | None = None
    caption: str = ""


class RankedRow(NamedTuple):
    """A query and its results, best first.

    Attributes:
        query: A file, or RGB ``(H, W, 3)`` uint8.
        results: Results; their number may differ between rows.
        title: Text above the row, such as ``AP 0.31``.
        caption: Short text under the query.
    """

    query: str | Path | Image
    results: Sequence[RankedPicture]
    title: str = ""
    caption: str = ""


class _Cell(NamedTuple):
    """A frame of ``width`` x ``HEIGHT`` points at (x, y), and its picture."""

    x: float
    y: float
    width: float
    image: Image


def ranked_rows(rows: Sequence[RankedRow], path: str | Path, *, title: str = "") -> Path:
    """Draws each query with its results: green frames are matches, red ones misses, grey dashes ignored.

    Frames of unknown results are pale.

    The number under a result is its rank without ignored ones. The page is as wide as the longest row.

    Args:
        rows: From top to bottom.
        path: The PNG to write; an existing file is replaced.
        title: Title above all rows.

    Raises:
        FileNotFoundError: If a picture does not exist.
        ValueError: If there are no rows, a verdict is unknown, a picture is unreadable, or ``path`` is not a PNG.
    """
    if not rows:
        raise InputError("nothing to draw: `rows` is empty; give at least one query")
    for result in (result for row in rows for result in row.results):
        if result.verdict not in get_args(Verdict):
            raise InputError(f"`verdict` must be one of {', '.join(get_args(Verdict))}, got {result.verdict!r}")
    queries = [read_picture(row.query) for row in rows]
    results = [[read_picture(result.picture) for result in row.results] for row in rows]
    aspect = box_aspect([image for images in (queries, *results) for image in images])
    width = round((HEIGHT - 2 * FRAME) * aspect + 2 * FRAME)
    longest = max(len(images) for images in results)
    judged = any(result.verdict != "unknown" for row in rows for result in row.results)
    head = MARGIN + (TITLE + 10 if title else 0) + (LABEL + 10 if judged else 4)
    over, under = (LABEL + 6 if any(row.title for row in rows) else 0.0), 2 * SMALL + 18
    pitch = over + HEIGHT + under

    full = 2 * MARGIN + width + (QUERY_GAP + longest * (width + GUTTER) - GUTTER if longest else 0)
    page = Page(max(full, 420), head + len(rows) * pitch + MARGIN - 10)
    _draw_head(page, title, judged)
    for index, (row, query, images) in enumerate(zip(rows, queries, results, strict=True)):
        top = head + index * pitch + over
        if row.title:
            page.write(page.shortened(row.title, full - 2 * MARGIN, bold=True), MARGIN, top - 6, bold=True)
        _draw_query(page, row, _Cell(MARGIN, top, width, query))
        cells = [
            _Cell(MARGIN + width + QUERY_GAP + place * (width + GUTTER), top, width, image)
            for place, image in enumerate(images)
        ]
        _draw_results(page, row, cells)
    return page.save(path)


def _draw_head(page: Page, title: str, judged: bool) -> None:
    y = MARGIN
    if title:
        room = page.pixels.shape[1] / SCALE - 2 * MARGIN
        page.write(page.shortened(title, room, TITLE, bold=True), MARGIN, y + TITLE - 2, TITLE, bold=True)
        y += TITLE + 10
    x = MARGIN
    for verdict, meaning in MEANINGS.items() if judged else ():
        _draw_badge(page, verdict, x + BADGE, y + LABEL / 2)
        page.write(meaning, x + 2 * BADGE + 4, y + LABEL - 1.5, LABEL, colour=MUTED)
        x += 2 * BADGE + 4 + page.width_of(meaning) + 16


def _draw_query(page: Page, row: RankedRow, cell: _Cell) -> None:
    _draw_frame(page, cell, "query")
    below = cell.y + HEIGHT + SMALL + 4
    page.write("query", cell.x, below, SMALL, colour=COLOURS["query"], bold=True)
    page.write(page.shortened(row.caption, cell.width, SMALL), cell.x, below + SMALL + 3, SMALL, colour=MUTED)


def _draw_results(page: Page, row: RankedRow, cells: Sequence[_Cell]) -> None:
    rank = 0
    for result, cell in zip(row.results, cells, strict=True):
        ranked = result.verdict != "ignored"
        rank += ranked
        _draw_frame(page, cell, result.verdict)
        if result.verdict in GLYPHS:
            _draw_badge(page, result.verdict, cell.x + cell.width - FRAME - 2, cell.y + HEIGHT - FRAME - 2)
        below, right = cell.y + HEIGHT + SMALL + 4, cell.x + cell.width
        page.write(str(rank) if ranked else "\N{EN DASH}", cell.x, below, SMALL, bold=True)
        if result.score is not None:
            page.write(f"{result.score:.3f}", right, below, SMALL, colour=INK, align="right")
        caption = page.shortened(result.caption, cell.width + GUTTER - 3, SMALL)
        page.write(caption, cell.x, below + SMALL + 3, SMALL, colour=MUTED)


def _draw_frame(page: Page, cell: _Cell, verdict: str) -> None:
    """Draws the frame, then the picture in it, with a pale background beside it."""
    frame = np.full((round(HEIGHT * SCALE), round(cell.width * SCALE), 3), rgb(COLOURS[verdict]), np.uint8)
    if verdict == "ignored":
        frame[np.add.outer(np.arange(frame.shape[0]), np.arange(frame.shape[1])) % 18 < 7] = rgb(PAPER)
    edge = round(FRAME * SCALE)
    inside = frame[edge:-edge, edge:-edge]
    inside[:] = rgb(GROUND)
    image = fit(cell.image, inside.shape[1], inside.shape[0])
    if verdict == "ignored":  # ignored results are drawn paler
        image = cv2.addWeighted(image, 0.6, np.full_like(image, 255), 0.4, 0)
    top, left = (inside.shape[0] - image.shape[0]) // 2, (inside.shape[1] - image.shape[1]) // 2
    inside[top : top + image.shape[0], left : left + image.shape[1]] = image
    page.picture(frame, cell.x, cell.y)


def _draw_badge(page: Page, verdict: str, x: float, y: float) -> None:
    page.disc(x, y, BADGE, COLOURS[verdict])
    page.write(GLYPHS[verdict], x, y + 3.2, 9, colour="#ffffff", align="center", bold=True)


SHEET_MARGIN = 12.0  # in points


def contact_sheet(
    images: Sequence[str | Path | Image],
    path: str | Path,
    columns: int = 10,
    *,
    height: float = 160,
    gutter: float = 3,
    captions: Sequence[str] = (),
    title: str = "",
) -> Path:
    """Draws pictures in a grid with thin gutters, row by row.

    Args:
        images: Files, or RGB ``(H, W, 3)`` uint8.
        path: The PNG to write; an existing file is replaced.
        columns: Pictures per row.
        height: Height of a picture, in points of two pixels.
        gutter: Space between pictures, in points.
        captions: Text under each picture; empty, or one per picture.
        title: Title above the grid.

    Raises:
        FileNotFoundError: If a picture does not exist.
        ValueError: If there are no pictures, a number is out of range, captions and pictures differ in number, a
            picture is unreadable, or ``path`` is not a PNG.
    """
    if not images:
        raise InputError("nothing to draw: `images` is empty; give at least one picture")
    if columns < 1 or height < 1 or gutter < 0:
        raise InputError(f"`columns` and `height` must be at least 1 and `gutter` 0, got {columns}, {height}, {gutter}")
    if captions and len(captions) != len(images):
        raise InputError(f"`captions` must be none or one a picture, got {len(captions)} for {len(images)} pictures")
    pictures = [read_picture(image) for image in images]
    columns = min(columns, len(pictures))
    width = max(1.0, round(height * box_aspect(pictures) * SCALE) / SCALE)
    head = SHEET_MARGIN + (TITLE + 10 if title else 0)
    under = SMALL + 8 if captions else 0.0
    full = 2 * SHEET_MARGIN + columns * (width + gutter) - gutter

    page = Page(full, head + -(-len(pictures) // columns) * (height + under + gutter) - gutter + SHEET_MARGIN)
    if title:
        page.write(
            page.shortened(title, full - 2 * SHEET_MARGIN, TITLE, bold=True), MARGIN, MARGIN + 10, TITLE, bold=True
        )
    for index, picture in enumerate(pictures):
        x = SHEET_MARGIN + index % columns * (width + gutter)
        y = head + index // columns * (height + under + gutter)
        image = fit(picture, round(width * SCALE), round(height * SCALE))
        page.picture(image, x + (width - image.shape[1] / SCALE) / 2, y + (height - image.shape[0] / SCALE) / 2)
        if captions:
            text = page.shortened(captions[index], width, SMALL)
            page.write(text, x + width / 2, y + height + SMALL + 2, SMALL, colour=MUTED, align="center")
    return page.save(path)
