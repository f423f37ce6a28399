"""A white page in the house look, on which pictures lie pixel by pixel and text is set by matplotlib.

Lengths are in points of 1/72 inch, from the top left; a point is two pixels, so that text stays sharp where a README
shows the page at half its size.
"""

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from aelm.figures.lettering import drawable, font
from aelm.figures.pictures import Image
from aelm.figures.writing import save

SCALE = 2
DPI = 72 * SCALE
LARGEST = 2**16 - 1  # pixels a side that Agg draws

INK, MUTED, RULE, PAPER = "#1f2328", "#656d76", "#d0d7de", "#ffffff"
TITLE, LABEL, SMALL = 12.0, 9.0, 7.5

Align = Literal["left", "center", "right"]


def rgb(colour: str) -> tuple[int, int, int]:
    """A colour as three bytes.

    >>> rgb("#ff8000")
    (255, 128, 0)
    """
    red, green, blue = (round(255 * part) for part in to_rgb(colour))
    return red, green, blue


class Page:
    """A page of pictures, frames and text.

    Args:
        width: In points.
        height: In points.

    Raises:
        ValueError: If the page is larger than a PNG of this kind can be.
    """

    def __init__(self, width: float, height: float) -> None:
        columns, rows = round(width * SCALE), round(height * SCALE)
        if max(columns, rows) > LARGEST:
            raise ValueError(
                f"a figure may have {LARGEST} pixels a side, this one needs {columns} x {rows}; "
                "draw fewer rows or columns"
            )
        self.pixels: Image = np.full((rows, columns, 3), rgb(PAPER), np.uint8)
        # The small excess keeps the division from losing the last pixel to rounding.
        self._figure = Figure(figsize=((columns + 0.01) / DPI, (rows + 0.01) / DPI), dpi=DPI)
        canvas: Any = FigureCanvasAgg(self._figure)  # matplotlib gives it no types
        self._renderer = canvas.get_renderer()

    def picture(self, image: Image, x: float, y: float) -> None:
        """Lays an image of device pixels on the page, its top left corner at (x, y)."""
        left, top = round(x * SCALE), round(y * SCALE)
        self.pixels[top : top + image.shape[0], left : left + image.shape[1]] = image

    def fill(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Paints a rectangle."""
        left, top, right, bottom = (round(SCALE * value) for value in (x, y, x + width, y + height))
        self.pixels[top:bottom, left:right] = rgb(colour)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        """Paints a disc with a white rim around (x, y)."""
        for size, paint in ((radius + 1, PAPER), (radius, colour)):
            # OpenCV takes fixed point with four binary digits behind the point.
            centre = (round((x * SCALE - 0.5) * 16), round((y * SCALE - 0.5) * 16))
            cv2.circle(self.pixels, centre, round(size * SCALE * 16), rgb(paint), -1, cv2.LINE_AA, 4)

    def width_of(self, text: str, size: float = LABEL, *, bold: bool = False) -> float:
        """The width of a text in points."""
        width, _, _ = self._renderer.get_text_width_height_descent(drawable(text), font(size, bold=bold), False)
        return float(width) / SCALE

    def shortened(self, text: str, room: float, size: float = LABEL, *, bold: bool = False) -> str:
        """The text, or as much of it as fits into ``room`` points, with an ellipsis."""
        text = drawable(text)
        if self.width_of(text, size, bold=bold) <= room:
            return text
        fits, too_long = 0, len(text)
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if self.width_of(text[:middle].rstrip() + "…", size, bold=bold) <= room:
                fits = middle
            else:
                too_long = middle
        return text[:fits].rstrip() + "…"

    def write(
        self,
        text: str,
        x: float,
        y: float,
        size: float = LABEL,
        *,
        colour: str = INK,
        align: Align = "left",
        bold: bool = False,
    ) -> None:
        """Sets one line of text with its base line at ``y``."""
        rows, columns = self.pixels.shape[:2]
        self._figure.text(
            x * SCALE / columns,
            1 - y * SCALE / rows,
            drawable(text),
            fontproperties=font(size, bold=bold),
            color=colour,
            ha=align,
            va="baseline",
            parse_math=False,
            usetex=False,
        )

    def save(self, path: str | Path) -> Path:
        """Writes the page as PNG."""
        self._figure.figimage(self.pixels, origin="upper")
        return save(self._figure, path)
