"""Hands docstrings to the documentation site as Markdown: doctests as blocks of code, ``:class:`X` `` as `X`."""

import re
from typing import Any

import griffe

# Lines from >>> to the next blank one.
DOCTEST = re.compile(r"^( *)>>> .*(?:\n *\S.*)*", re.MULTILINE)
ROLE = re.compile(r":\w+:`~?([^`]+)`")


def markdown(docstring: str) -> str:
    """A docstring whose doctests and references are written as Markdown has them."""
    fenced = DOCTEST.sub(lambda block: f"{block[1]}```pycon\n{block[0]}\n{block[1]}```", docstring)
    return ROLE.sub(r"`\1`", fenced)


class Docstrings(griffe.Extension):
    """Rewrites each docstring as it is read."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring:
            obj.docstring.value = markdown(obj.docstring.value)
