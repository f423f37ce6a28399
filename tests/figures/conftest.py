"""What a figure was given, caught on its way to the file."""

import pytest

from aelm.figures import curves
from aelm.figures.page import Page


@pytest.fixture
def texts(monkeypatch):
    """Every text that a page was given, in order."""
    written = []
    write = Page.write

    def listen(page, text, *where, **how):
        written.append(text)
        write(page, text, *where, **how)

    monkeypatch.setattr(Page, "write", listen)
    return written


@pytest.fixture
def charts(monkeypatch):
    """The figures that were drawn instead of their files."""
    figures = []
    monkeypatch.setattr(curves, "save", lambda figure, path: figures.append(figure))
    return figures
