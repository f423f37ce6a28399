"""What a figure was given, caught on its way to the file."""

import pytest

from aelm.figures import curves as curves_file
from aelm.figures import curves as training_file
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
    for file in (curves_file, training_file):
        monkeypatch.setattr(file, "save", lambda figure, path: figures.append(figure))
    return figures
