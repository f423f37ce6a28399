"""Whatever a name holds, it is text on the page of a search: no tag, attribute or script comes from it."""

from html.parser import HTMLParser

import numpy as np
import pytest

from aelm.search.page import Answer, Heat, PagePicture, Result, render

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '" onmouseover="alert(1)',
    "' autofocus onfocus='alert(1)",
    "</bdi></button><a href='javascript:alert(1)'>x</a>",
    "&lt;script&gt; &amp; &#60;b&#62;",
    "<!-- ]]> --><style>*{display:none}</style>",
    "{{title}} ${7*7} \u202egnp.exe \x00 \udce9",
]


class Seen(HTMLParser):
    """What a browser would make of a page: its tags with the names of their attributes, its texts, their values."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.texts, self.values = [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, sorted(name for name, _ in attrs)))
        self.values += [(name, value) for name, value in attrs if name in ("data-path", "title", "data-why")]

    def handle_endtag(self, tag):
        self.tags.append((tag, "end"))

    def handle_comment(self, data):
        self.tags.append(("comment", data))

    def handle_data(self, data):
        self.texts.append(data)


def page(text):
    """A page that says ``text`` wherever a page says what it was given."""
    picture = np.full((8, 4, 3), 90, np.uint8)
    shown = PagePicture(f"folder/{text}", picture, text)
    heat = Heat(np.eye(2, dtype=np.float32), np.eye(2, dtype=np.float32))
    results = [Result(shown, 0.5, "match", heat), Result(PagePicture(text, None, text), 0.25)]
    return render([Answer(shown, results), Answer(shown, [])], {text: text, "model": text}, text, text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_adds_no_tag_and_no_attribute(text):
    harmless, hostile = Seen(page("harmless")), Seen(page(text))
    assert hostile.tags == harmless.tags
    assert ("script", []) in harmless.tags
    # As it was, but for what HTML cannot hold.
    kept = text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
    assert any(kept in piece.replace("\x00", "\ufffd") for piece in ["".join(hostile.texts)])
    paths = [value.replace("\x00", "\ufffd") for name, value in hostile.values if name == "data-path"]
    assert paths == [f"folder/{kept}", f"folder/{kept}", kept, f"folder/{kept}"]
    assert ("data-why", kept) in [(name, value.replace("\x00", "\ufffd")) for name, value in hostile.values]


def test_scripts_hold_nothing_that_was_given():
    def scripts(html):
        return html.split("<script>")[1:]

    assert scripts(page("harmless")) == scripts(page("<b>other</b>"))


def test_the_page_may_load_nothing_from_elsewhere():
    assert "Content-Security-Policy\" content=\"default-src 'none'; img-src data:;" in page("harmless")
