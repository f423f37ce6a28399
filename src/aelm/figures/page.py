"""A white page with pictures at pixel precision and text drawn by matplotlib.

Lengths are in points of 1/72 inch, from the top left; a point is two pixels, so text stays sharp if a README shows the
page at half size.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import PIL.Image
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from numpy.typing import NDArray

from aelm.files import write_file
from aelm.types import InputError

Image = NDArray[np.uint8]

# Bounds of the aspect ratio (width / height) of picture boxes.
NARROWEST, WIDEST = 0.4, 1.6


def read_picture(picture: str | Path | Image) -> Image:
    """An RGB picture ``(H, W, 3)`` uint8, from a file or an array.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If the file is not a picture, or the array is not ``(H, W, 3)`` uint8.
    """
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or picture.size == 0:
            raise InputError(f"a picture must be (H, W, 3) uint8 RGB, got {picture.shape} {picture.dtype}")
        return picture
    path = Path(picture)
    if not path.is_file():
        raise FileNotFoundError(f"no picture at {str(path)!r}; was the data set moved since it was read?")
    # Read bytes first: OpenCV cannot open every file name on every system.
    encoded = np.frombuffer(path.read_bytes(), np.uint8)
    image = cv2.imdecode(encoded, cv2.IMREAD_COLOR) if encoded.size else None
    if image is None:
        raise InputError(f"{str(path)!r} is not a picture OpenCV can read ({encoded.size} bytes); replace or remove it")
    return np.ascontiguousarray(image[:, :, ::-1], np.uint8)


def resize(image: Image, width: int, height: int) -> Image:
    """Resizes a picture to a size in pixels: area means to shrink, cubic to enlarge."""
    smaller = width * height < image.shape[0] * image.shape[1]
    return np.asarray(
        cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA if smaller else cv2.INTER_CUBIC), np.uint8
    )


def fit(image: Image, width: int, height: int) -> Image:
    """Resizes a picture to fit ``width`` x ``height`` pixels, keeping its aspect ratio.

    >>> fit(np.zeros((10, 20, 3), np.uint8), 40, 40).shape
    (20, 40, 3)
    """
    scale = min(width / image.shape[1], height / image.shape[0])
    # Rounded: an aspect error below a pixel is better than a seam beside the picture.
    return resize(
        image,
        *(max(1, min(side, round(scale * old))) for side, old in ((width, image.shape[1]), (height, image.shape[0]))),
    )


def box_aspect(images: Sequence[Image]) -> float:
    """Width over height of the picture boxes: the median of the pictures, within bounds.

    >>> box_aspect([np.zeros((128, 64, 3), np.uint8)] * 3)
    0.5
    """
    return float(np.clip(np.median([image.shape[1] / image.shape[0] for image in images]), NARROWEST, WIDEST))


# DejaVu Sans comes with matplotlib; these fonts, if installed, are used for scripts that it lacks.
OTHER_SCRIPTS = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "Microsoft YaHei",
    "Hiragino Sans",
    "PingFang SC",
    "Arial Unicode MS",
)
MISSING = "\N{WHITE SQUARE}"


@cache
def families() -> tuple[str, ...]:
    """The fonts of all figures, in the order of glyph lookup."""
    installed = set(font_manager.fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in installed))


@cache
def glyphs() -> frozenset[int]:
    """The code points that :func:`families` can draw."""
    found = [font_manager.get_font(font_manager.findfont(name)).get_charmap() for name in families()]
    return frozenset().union(*found)


def font(size: float, *, bold: bool = False) -> FontProperties:
    """The font of all figures, with size in points."""
    return FontProperties(family=list(families()), size=size, weight="bold" if bold else "normal")


def drawable(text: str) -> str:
    """One drawable line of text: collapses white space, and replaces missing glyphs by a square.

    >>> drawable("a\\tb\\n c")
    'a b c'
    """
    return "".join(letter if ord(letter) in glyphs() else MISSING for letter in " ".join(text.split()))


def png_path(path: str | Path) -> Path:
    """The path of a PNG to write; creates its folder.

    Raises:
        ValueError: If the name does not end in ``.png``.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise InputError(f"`path` must end in .png, got {str(path)!r}; figures are written as PNG only")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG and returns its path.

    Raises:
        ValueError: If the name does not end in ``.png``.
    """
    canvas: Any = FigureCanvasAgg(figure)  # untyped in matplotlib
    # Without matplotlib's version in the file, the same data gives the same bytes.
    kind = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": COMPRESSION}}
    return write_file(png_path(path), lambda file: canvas.print_png(file, **kind))


SCALE = 2
DPI = 72 * SCALE
COMPRESSION = 3  # of PNG: a third of the time of 6, for a tenth more bytes
LARGEST = 2**16 - 1  # largest width and height of Agg in pixels

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
        width: Width in points.
        height: Height in points.

    Raises:
        ValueError: If the page is too large for a PNG.
    """

    def __init__(self, width: float, height: float) -> None:
        columns, rows = round(width * SCALE), round(height * SCALE)
        if max(columns, rows) > LARGEST:
            raise InputError(
                f"a figure may have {LARGEST} pixels a side, this one needs {columns} x {rows}; "
                "draw fewer rows or columns"
            )
        self.pixels: Image = np.full((rows, columns, 3), rgb(PAPER), np.uint8)
        # The small excess avoids losing the last pixel by rounding.
        self._figure = Figure(figsize=((columns + 0.01) / DPI, (rows + 0.01) / DPI), dpi=DPI)
        self._figure.patch.set_visible(False)  # the pixels are the ground
        canvas: Any = FigureCanvasAgg(self._figure)  # untyped in matplotlib
        self._canvas, self._renderer = canvas, canvas.get_renderer()

    def picture(self, image: Image, x: float, y: float) -> None:
        """Draws an image, unscaled, with its top left corner at (x, y)."""
        left, top = round(x * SCALE), round(y * SCALE)
        self.pixels[top : top + image.shape[0], left : left + image.shape[1]] = image

    def fill(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """Paints a rectangle."""
        left, top, right, bottom = (round(SCALE * value) for value in (x, y, x + width, y + height))
        self.pixels[top:bottom, left:right] = rgb(colour)

    def disc(self, x: float, y: float, radius: float, colour: str) -> None:
        """Paints a disc with a white rim around (x, y)."""
        for size, paint in ((radius + 1, PAPER), (radius, colour)):
            # OpenCV takes fixed-point numbers with four fractional bits.
            centre = (round((x * SCALE - 0.5) * 16), round((y * SCALE - 0.5) * 16))
            cv2.circle(self.pixels, centre, round(size * SCALE * 16), rgb(paint), -1, cv2.LINE_AA, 4)

    def width_of(self, text: str, size: float = LABEL, *, bold: bool = False) -> float:
        """The width of a text in points."""
        width, _, _ = self._renderer.get_text_width_height_descent(drawable(text), font(size, bold=bold), False)
        return float(width) / SCALE

    def shortened(self, text: str, room: float, size: float = LABEL, *, bold: bool = False) -> str:
        """The text, cut with an ellipsis to fit ``room`` points."""
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
        """Draws one line of text with its base line at ``y``."""
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
        drawn = np.asarray(self._canvas.buffer_rgba())
        drawn[:] = np.dstack([self.pixels, np.full(self.pixels.shape[:2], 255, np.uint8)])
        self._figure.draw(self._renderer)  # the text; `figimage` would take a second to copy the pixels
        page = PIL.Image.fromarray(drawn[:, :, :3].copy())
        return write_file(png_path(path), lambda file: page.save(file, "png", compress_level=COMPRESSION))
