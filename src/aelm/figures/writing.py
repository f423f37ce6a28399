"""Writes a figure to disk: whole, or not at all."""

from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from aelm.whole import write_whole


def png_path(path: str | Path) -> Path:
    """The place of a picture to be written, its folder made.

    Raises:
        ValueError: If the name does not end in ``.png``.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ValueError(f"`path` must end in .png, got {str(path)!r}; figures are written as PNG only")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def save(figure: Figure, path: str | Path) -> Path:
    """Writes a figure as PNG and returns where it lies.

    Raises:
        ValueError: If the name does not end in ``.png``.
    """
    canvas: Any = FigureCanvasAgg(figure)  # matplotlib gives it no types
    # Without matplotlib's version in the file, the same data gives the same bytes.
    return write_whole(png_path(path), lambda file: canvas.print_png(file, metadata={"Software": None}))
