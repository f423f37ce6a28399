"""Identities and cameras as text: normalised spelling, numbers, and warnings about likely mistakes."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aelm.types import InputTypeError

JUNK = "-1"
# An integer; spreadsheets add decimal zeros if a value is missing, and MARS writes 00-1 for junk.
_WHOLE = re.compile(r"0*(-?)0*(\d+?)(?:[.,]0+)?", re.ASCII)
_SHORTENED = re.compile(r"-?\d[.,]\d+e\+\d+", re.IGNORECASE | re.ASCII)  # a long number changed by a spreadsheet
_NOBODY = frozenset(
    {"junk", "background", "unknown", "distractor", "distractors", "none", "nan", "null", "na", "n/a", "?"}
)
DIGITS = 18  # integers of this many digits always fit in int64


def plain(text: Any) -> str:
    """Normalises an identity or camera: integers to their shortest form, other text without surrounding blanks.

    Raises:
        TypeError: If it is neither text nor a number.

    >>> [plain(one) for one in ("007", "-1", " north gate ", 7, "10.0", "-1.0", "00-1", "1.5")]
    ['7', '-1', 'north gate', '7', '10', '-1', '-1', '1.5']
    """
    if text is None:
        return ""
    if not isinstance(text, str):
        if isinstance(text, bool) or not hasattr(text, "__float__"):
            raise InputTypeError(f"an identity or camera is text or a number, got {type(text).__name__} {text!r}")
        text = str(text.item() if hasattr(text, "item") else text)
    text = text.strip()
    if not text.isascii():
        if any("\udc80" <= letter <= "\udcff" for letter in text):  # bytes that are not UTF-8: Windows encoding
            text = text.encode("utf-8", "surrogateescape").decode("cp1252", "replace")
        text = unicodedata.normalize("NFC", text)
    whole = _WHOLE.fullmatch(text)
    return text if whole is None else whole[1] * (whole[2] != "0") + whole[2]


def numbers_of(texts: Iterable[str]) -> dict[str, int]:
    """A number for each text: itself if it is an integer, otherwise one above all integers, in sorted order.

    So the order of the texts does not change when others are added.

    Args:
        texts: From :func:`plain`.

    >>> numbers_of(["7", "12", "-1"])
    {'-1': -1, '12': 12, '7': 7}
    >>> numbers_of(["bob", "-1", "ann"])
    {'-1': -1, 'ann': 0, 'bob': 1}
    """
    distinct = sorted(set(texts))
    whole = {text: int(text) for text in distinct if _WHOLE.fullmatch(text) and len(text) <= DIGITS}
    first = max(whole.values(), default=-1)
    words = [text for text in distinct if text not in whole]
    return whole | {text: max(first, -1) + 1 + i for i, text in enumerate(words)}


def texts_of(numbered: Mapping[str, int]) -> dict[int, str]:
    """The texts that differ from their number, by number.

    >>> texts_of(numbers_of(["7", "ann"]))
    {8: 'ann'}
    """
    return {number: text for text, number in numbered.items() if text != str(number)}


def doubts(what: str, texts: Sequence[str]) -> list[str]:
    """A warning about texts that look like junk, or like two spellings of one identity.

    Args:
        what: ``identities`` or ``cameras``.
        texts: The texts as read, one per picture.

    >>> doubts("cameras", ["7", "007", "007"])
    ["cameras that may not be what they seem: '007' and '7' are read as 7 (3 pictures)"]
    >>> doubts("identities", ["1", "2", "-1"])
    []
    """
    writings: dict[str, set[str]] = {}
    sizes: Counter[str] = Counter()
    for text, count in Counter(texts).items():
        writings.setdefault(plain(text), set()).add(text.strip())
        sizes[plain(text)] += count
    alike: dict[str, list[str]] = {}
    found: list[tuple[list[str], str, int]] = []
    for text, some in sorted(writings.items()):
        whole = _WHOLE.fullmatch(text)
        if text == JUNK and some != {JUNK}:
            found.append((sorted(some), "read as junk (-1)", sizes[text]))
        elif whole and len(some) > 1:
            found.append((sorted(some), f"read as {text}", sizes[text]))
        elif text.casefold() in _NOBODY:
            found.append(([text], "read as a name, write -1 for junk", sizes[text]))
        elif _SHORTENED.fullmatch(text):
            found.append(([text], "a number that a spreadsheet shortened, perhaps several", sizes[text]))
        if not whole:
            loose = re.sub(r"(?<!\d)0+(?=\d)", "", unicodedata.normalize("NFKC", text).casefold())
            alike.setdefault(loose, []).append(text)
    found += [
        (some, "read as different ones", sum(sizes[text] for text in some)) for some in alike.values() if len(some) > 1
    ]
    told = [
        f"{_quoted(which)} {'is' if len(which) == 1 else 'are'} {how} ({number:,} picture{'s' * (number != 1)})"
        for which, how, number in found
    ]
    more = f"; and {len(told) - 5} more" * (len(told) > 5)
    return [f"{what} that may not be what they seem: {'; '.join(told[:5])}{more}"] if told else []


def _quoted(texts: Sequence[str]) -> str:
    """A few texts, quoted, for a sentence."""
    some = [f"'{text}'" for text in texts[:4]] + ["..."] * (len(texts) > 4)
    return " and ".join([", ".join(some[:-1]), some[-1]]) if len(some) > 1 else some[0]
