"""Contact sheets: pictures in a grid."""

from collections.abc import Sequence
from pathlib import Path

from aelm.figures.page import MUTED, SCALE, SMALL, TITLE, Image, Page, box_aspect, fit, read_picture
from aelm.types import InputError

MARGIN = 12.0  # in points


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
    head = MARGIN + (TITLE + 10 if title else 0)
    under = SMALL + 8 if captions else 0.0
    full = 2 * MARGIN + columns * (width + gutter) - gutter

    page = Page(full, head + -(-len(pictures) // columns) * (height + under + gutter) - gutter + MARGIN)
    if title:
        page.write(page.shortened(title, full - 2 * MARGIN, TITLE, bold=True), MARGIN, MARGIN + 10, TITLE, bold=True)
    for index, picture in enumerate(pictures):
        x = MARGIN + index % columns * (width + gutter)
        y = head + index // columns * (height + under + gutter)
        image = fit(picture, round(width * SCALE), round(height * SCALE))
        page.picture(image, x + (width - image.shape[1] / SCALE) / 2, y + (height - image.shape[0] / SCALE) / 2)
        if captions:
            text = page.shortened(captions[index], width, SMALL)
            page.write(text, x + width / 2, y + height + SMALL + 2, SMALL, colour=MUTED, align="center")
    return page.save(path)
