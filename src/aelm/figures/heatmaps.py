"""Figures of heat maps on their pictures, and of erased regions."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from numpy.typing import NDArray

from aelm.figures.page import LABEL, MUTED, SCALE, SMALL, TITLE, Image, Page, box_aspect, fit, read_picture, rgb
from aelm.types import InputError

Map = NDArray[np.floating]
Mask = NDArray[np.bool_]

COLOUR_MAP = "inferno"  # brighter is hotter, also for colour-blind readers
STRONGEST = 0.8  # opacity at a map's maximum; at its minimum the map is transparent
BLANK, STRIPE = "#eceff2", "#aab2bb"
TRACE = "#56d4f0"

HEIGHT = 160.0  # of a picture; all lengths are in points
GUTTER, BLOCK_GAP, MARGIN = 6.0, 28.0, 16.0
PAGE = 920.0  # short rows are placed side by side within this width


class Panel(NamedTuple):
    """One view of a picture.

    Attributes:
        title: Column title; the same in every row.
        heatmap: ``(h, w)``, any range, scaled to its minimum and maximum; None for none.
        mask: ``(h, w)`` bool, True where the map was erased. Alone it blanks these positions; on a heat map it is
            outlined. None for none.
        labels: ``(h, w)`` uint8 label map, such as body parts, whose borders are drawn as thin lines. None for none.
    """

    title: str
    heatmap: Map | None = None
    mask: Mask | None = None
    labels: NDArray[np.uint8] | None = None


class HeatmapRow(NamedTuple):
    """A picture and its panels.

    Attributes:
        image: A file, or RGB ``(H, W, 3)`` uint8.
        panels: From left to right.
        caption: Text under the picture.
    """

    image: str | Path | Image
    panels: Sequence[Panel]
    caption: str = ""


def normalised(heatmap: Map) -> NDArray[np.float32]:
    """A map scaled to 0..1; a constant map becomes zero.

    >>> normalised(np.array([[2.0, 4.0, 3.0]]))
    array([[0. , 1. , 0.5]], dtype=float32)
    """
    lowest, highest = float(heatmap.min()), float(heatmap.max())
    if highest - lowest <= 1e-6 * max(abs(lowest), abs(highest)):  # ignore rounding differences
        return np.zeros(heatmap.shape, np.float32)
    return ((heatmap.astype(np.float64) - lowest) / (highest - lowest)).astype(np.float32)


def overlay(image: Image, heatmap: Map) -> Image:
    """The greyed picture under its heat map, which is more opaque where it is hotter.

    Shape:
        image ``(H, W, 3)``, heatmap ``(h, w)`` -> ``(H, W, 3)``.
    """
    height, width = image.shape[:2]
    heat = np.clip(cv2.resize(normalised(heatmap), (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    colour = matplotlib.colormaps[COLOUR_MAP](heat)[:, :, :3] * 255  # (H, W, 3)
    grey = image @ np.array([0.299, 0.587, 0.114])
    opacity = STRONGEST * heat[:, :, None]
    ground = 0.5 * image + 0.5 * grey[:, :, None]
    covered: Image = np.rint((1 - opacity) * ground + opacity * colour).astype(np.uint8)
    return covered


def blanked(image: Image, mask: Mask) -> Image:
    """The picture with the pixels of erased positions hatched.

    Shape:
        image ``(H, W, 3)``, mask ``(h, w)`` -> ``(H, W, 3)``.
    """
    height, width = image.shape[:2]
    diagonal = np.add.outer(np.arange(height), np.arange(width)) % 12
    cover = np.clip(2.5 - np.abs(diagonal - 6), 0, 1)[:, :, None]  # stripes with soft edges
    hatch = np.rint((1 - cover) * rgb(BLANK) + cover * rgb(STRIPE)).astype(np.uint8)
    return np.where(_grown(mask, width, height)[:, :, None], hatch, image).astype(np.uint8)


def outlined(image: Image, mask: Mask) -> Image:
    """The picture with a white and black outline around the erased positions."""
    height, width = image.shape[:2]
    region = _grown(mask, width, height).astype(np.uint8)
    drawn = image.copy()
    for size, colour in ((9, (0, 0, 0)), (5, (255, 255, 255))):
        kernel = np.ones((size, size), np.uint8)
        drawn[cv2.morphologyEx(region, cv2.MORPH_GRADIENT, kernel) > 0] = colour
    return drawn


def traced(image: Image, labels: NDArray[np.uint8]) -> Image:
    """The picture with a thin light line at borders between labels."""
    height, width = image.shape[:2]
    grown = cv2.resize(labels, (width, height), interpolation=cv2.INTER_NEAREST)
    drawn = image.copy()
    drawn[cv2.morphologyEx(grown, cv2.MORPH_GRADIENT, np.ones((2, 2), np.uint8)) > 0] = rgb(TRACE)
    return drawn


def heatmap_rows(rows: Sequence[HeatmapRow], path: str | Path, *, title: str = "") -> Path:
    """Draws each picture with its panels beside it; short rows are placed side by side.

    Args:
        rows: From left to right, then from top to bottom; all with the same panel titles.
        path: The PNG to write; an existing file is replaced.
        title: Title above all rows.

    Raises:
        FileNotFoundError: If a picture does not exist.
        ValueError: If there are no rows, titles differ, a map is not two-dimensional and finite, a picture is
            unreadable, or ``path`` is not a PNG.
    """
    _check(rows)
    images = [read_picture(row.image) for row in rows]
    width = HEIGHT * box_aspect(images)
    columns = 1 + len(rows[0].panels)
    block = columns * (width + GUTTER) - GUTTER
    abreast = max(1, min(len(rows), int((PAGE - 2 * MARGIN + BLOCK_GAP) // (block + BLOCK_GAP))))
    head = MARGIN + (TITLE + 12 if title else 0) + SMALL + 6
    pitch = HEIGHT + (SMALL + 14 if any(row.caption for row in rows) else 8)
    full = max(2 * MARGIN + abreast * (block + BLOCK_GAP) - BLOCK_GAP, 400)
    lines = -(-len(rows) // abreast)

    page = Page(full, head + lines * pitch + LABEL + MARGIN + 4)
    if title:
        page.write(page.shortened(title, full - 2 * MARGIN, TITLE, bold=True), MARGIN, MARGIN + 10, TITLE, bold=True)
    for place in range(abreast):
        left = MARGIN + place * (block + BLOCK_GAP)
        for column, text in enumerate(["picture", *(panel.title for panel in rows[0].panels)]):
            x = left + column * (width + GUTTER) + width / 2
            page.write(page.shortened(text, width, SMALL), x, head - 5, SMALL, colour=MUTED, align="center")
    for index, (row, image) in enumerate(zip(rows, images, strict=True)):
        left, top = MARGIN + index % abreast * (block + BLOCK_GAP), head + index // abreast * pitch
        _draw_row(page, row, image, left, top, width)
    _draw_key(page, rows, head + lines * pitch + 2)
    return page.save(path)


def _check(rows: Sequence[HeatmapRow]) -> None:
    if not rows:
        raise InputError("nothing to draw: `rows` is empty; give at least one picture")
    wanted = [panel.title for panel in rows[0].panels]
    for index, row in enumerate(rows):
        titles = [panel.title for panel in row.panels]
        if titles != wanted:
            raise InputError(f"row {index} has the panels {titles}, row 0 has {wanted}; a column needs one title")
        for panel in row.panels:
            where = f"panel {panel.title!r} of row {index}"
            for name, values in (("heatmap", panel.heatmap), ("mask", panel.mask), ("labels", panel.labels)):
                if values is not None and (values.ndim != 2 or values.size == 0):
                    raise InputError(f"`{name}` of {where} must be (h, w), got {values.shape}")
            if panel.heatmap is not None and not np.isfinite(panel.heatmap).all():
                raise InputError(f"`heatmap` of {where} has NaN or infinite values; was it computed in half precision?")


def _draw_row(page: Page, row: HeatmapRow, image: Image, x: float, y: float, width: float) -> None:
    image = fit(image, round(width * SCALE), round(HEIGHT * SCALE))
    drawn = [image]
    for panel in row.panels:
        view = image if panel.heatmap is None else overlay(image, panel.heatmap)
        if panel.mask is not None:
            view = (blanked if panel.heatmap is None else outlined)(view, panel.mask)
        if panel.labels is not None:
            view = traced(view, panel.labels)
        drawn.append(view)
    for column, view in enumerate(drawn):
        left = x + column * (width + GUTTER) + (width - view.shape[1] / SCALE) / 2
        page.picture(view, left, y + (HEIGHT - view.shape[0] / SCALE) / 2)
    room = len(drawn) * (width + GUTTER) - GUTTER
    page.write(page.shortened(row.caption, room, SMALL), x, y + HEIGHT + SMALL + 3, SMALL, colour=MUTED)


def _draw_key(page: Page, rows: Sequence[HeatmapRow], y: float) -> None:
    """Draws the legend of the colours that occur."""
    panels = [panel for row in rows for panel in row.panels]
    entries: list[tuple[Image, str]] = []
    if any(panel.heatmap is not None for panel in panels):
        ramp = np.linspace(0, 1, 64 * SCALE)[None, :].repeat(8 * SCALE, axis=0)
        entries.append((overlay(np.full((*ramp.shape, 3), 190, np.uint8), ramp), "low to high, per map"))
    if any(panel.mask is not None and panel.heatmap is None for panel in panels):
        swatch = np.zeros((8 * SCALE, 16 * SCALE, 3), np.uint8)
        entries.append((blanked(swatch, np.ones((1, 1), bool)), "erased"))
    if any(panel.mask is not None and panel.heatmap is not None for panel in panels):
        swatch = np.full((8 * SCALE, 16 * SCALE, 3), 150, np.uint8)
        swatch[2:-2, 2:-2] = 255
        swatch[5:-5, 5:-5] = 150
        entries.append((swatch, "outline of the erased region"))
    x = MARGIN
    for swatch, text in entries:
        page.picture(swatch, x, y)
        x += swatch.shape[1] / SCALE + 5
        page.write(text, x, y + 7, SMALL, colour=MUTED)
        x += page.width_of(text, SMALL) + 16


def _grown(mask: Mask, width: int, height: int) -> Mask:
    """The mask resized to a picture, without interpolation: (h, w) -> (H, W)."""
    rows = np.arange(height) * mask.shape[0] // height
    columns = np.arange(width) * mask.shape[1] // width
    grown: Mask = mask.astype(bool)[rows[:, None], columns]
    return grown
