"""Identities and cameras as text, and the pictures of a folder whose names say them.

Spelling is normalised; training gets numbers; likely mistakes are warned of.
"""

import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aelm.types import InputError, InputTypeError, Picture

log = logging.getLogger(__name__)

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


EXTENSIONS = frozenset({".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".tif", ".tiff", ".webp"})
# Picture formats that are not read, and folders of copies made by the system.
NOT_READ = frozenset(
    {".heic", ".heif", ".avif", ".gif", ".jp2", ".j2k", ".jxl", ".pgm", ".ppm", ".tga", ".psd", ".dng", ".cr2", ".nef"}
)
NOT_ENTERED = frozenset({"__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found"})

MARKET_NAME = re.compile(r"(?P<pid>-1|\d+)_c(?P<camid>\d+)s\d+_")
"""Pattern of Market-1501's file names: ``0002_c1s1_000451_03.jpg``, distractors ``0000_...``, junk ``-1_...``."""


def is_picture(name: str) -> bool:
    """Whether a file of this name is read: a picture extension in any case, and not hidden.

    >>> is_picture("0002_c1s1_000451_03.JPG"), is_picture("Thumbs.db"), is_picture("._0002_c1s1_000451_03.jpg")
    (True, False, False)
    """
    # macOS writes a hidden ._NAME.jpg beside each copied file; it is not a picture.
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in EXTENSIONS


def list_pictures(folder: Path) -> list[str]:
    """Base names of the pictures directly in ``folder``, sorted.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of pictures, found no such folder")
    with os.scandir(folder) as entries:
        found = sorted(entry.name for entry in entries)
    return _some(folder, [name for name in found if is_picture(name)], found)


def walk_pictures(folder: Path) -> list[str]:
    """Paths, relative to ``folder`` and with ``/``, of the pictures in it and all its subfolders, sorted.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no pictures.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder}: expected a folder of pictures, found no such folder")
    found: list[str] = []
    closed: list[str] = []
    entered: set[str] = set()
    waiting = [folder]  # real folders first, then links to folders, so that a picture is listed under its real folder
    while waiting:
        for parent, folders, files in os.walk(waiting.pop(0), onerror=lambda error: closed.append(error.filename)):
            if os.path.realpath(parent) in entered:
                folders.clear()
                continue
            entered.add(os.path.realpath(parent))
            folders[:] = [name for name in folders if not name.startswith(".") and name not in NOT_ENTERED]
            waiting += [Path(parent, name) for name in sorted(folders) if os.path.islink(os.path.join(parent, name))]
            prefix = Path(parent).relative_to(folder).as_posix() + "/"
            found += [(prefix + name).removeprefix("./") for name in files]
    if closed:
        log.warning(
            "%s: %d folders cannot be opened, their pictures are left out: %s", folder, len(closed), first_few(closed)
        )
    return _some(folder, sorted(path for path in found if is_picture(path.rsplit("/", 1)[-1])), sorted(found))


def read_folder(folder: Path, name: re.Pattern[str]) -> tuple[Picture, ...]:
    """Reads the pictures of one folder; identity and camera come from their base names.

    Args:
        folder: Folder of the pictures; subfolders and other files are ignored.
        name: Matched at the start of each base name (never of the path); the groups ``pid`` and ``camid`` are numbers.

    Returns:
        The pictures, sorted by file name.

    Raises:
        FileNotFoundError: If the folder does not exist, or holds no pictures.
        ValueError: If names do not match; gives their number and the first ones.
    """
    names = list_pictures(folder)
    matches = [name.match(file) for file in names]
    refuse_names(folder, [file for file, match in zip(names, matches, strict=True) if match is None], len(names), name)
    return tuple(
        Picture(str(folder / file), int(match["pid"]), int(match["camid"]))
        for file, match in zip(names, matches, strict=True)
        if match is not None
    )


def refuse_names(folder: Path, unread: Sequence[str], total: int, name: re.Pattern[str]) -> None:
    """Raises a ValueError with the number and names of files that do not match, if there are any."""
    if unread:
        wanted = "identity or camera" if "camid" in name.groupindex else "identity"
        raise InputError(
            f"{folder}: {len(unread)} of {total} file names carry no {wanted}: {first_few(unread)}; expected names "
            f"like the pattern {name.pattern!r}. Is it the right data set? Otherwise move these files away, or read "
            "your own pictures with `dataset=folder` and a `pattern` that fits their names"
        )


def first_few(items: Sequence[object], most: int = 5) -> str:
    """The first few items, for an error.

    >>> first_few([3, 1, 4, 1, 5, 9])
    '3, 1, 4, 1, 5, ... (6 in all)'
    """
    text = ", ".join(str(item) for item in items[:most])
    return text if len(items) <= most else f"{text}, ... ({len(items)} in all)"


def passed_over(names: Sequence[str]) -> str:
    """Number of unsupported pictures among some files, by extension.

    >>> passed_over(["a.HEIC", "b/c.heic", "d.gif", "Thumbs.db", "._e.heic"])
    '2 .heic, 1 .gif'
    """
    bases = [name.rsplit("/", 1)[-1] for name in names]
    ends = Counter(os.path.splitext(base)[1].lower() for base in bases if not base.startswith("."))
    return ", ".join(f"{number} {end}" for end, number in ends.most_common() if end in NOT_READ)


def _some(folder: Path, pictures: list[str], found: Sequence[str]) -> list[str]:
    if pictures and (others := passed_over(found)):
        log.warning("%s: pictures that are not read are left out: %s. Convert them to JPEG or PNG", folder, others)
    if not pictures:
        raise FileNotFoundError(
            f"{folder}: expected pictures ({', '.join(sorted(EXTENSIONS))}), found {first_few(found) or 'nothing'}. "
            "Unpack the archive again, or point `data_dir` at the folder that holds the pictures"
        )
    return pictures
