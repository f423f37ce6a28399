"""Text that any file name or identity survives: no markup, no missing glyphs, no line breaks."""

from functools import cache

from matplotlib import font_manager
from matplotlib.font_manager import FontProperties

# DejaVu Sans comes with matplotlib; the others are taken for the scripts it lacks, where the machine has one of them.
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
    """The fonts of all figures, in the order in which a glyph is looked for."""
    installed = set(font_manager.fontManager.get_font_names())
    return ("DejaVu Sans", *(name for name in OTHER_SCRIPTS if name in installed))


@cache
def glyphs() -> frozenset[int]:
    """The code points that :func:`families` can draw."""
    found = [font_manager.get_font(font_manager.findfont(name)).get_charmap() for name in families()]
    return frozenset().union(*found)


def font(size: float, *, bold: bool = False) -> FontProperties:
    """The house font in a size in points."""
    return FontProperties(family=list(families()), size=size, weight="bold" if bold else "normal")


def drawable(text: str) -> str:
    """One line that can be drawn: white space collapsed, glyphs that no font has shown as a square.

    >>> drawable("a\\tb\\n c")
    'a b c'
    """
    return "".join(letter if ord(letter) in glyphs() else MISSING for letter in " ".join(text.split()))
