"""Folder layouts and published counts of benchmarks.

Keys are ``"<split> <what>"``: the split is ``train``, ``query`` or ``gallery``; ``<what>`` is ``images``, ``ids``
(without junk; Market-1501's distractors, all numbered 0, count as one), ``cameras``, ``distractors`` (gallery images of
ids without a query) or ``junk`` (images of pid -1).
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from aelm.data.listing import first_few


def _counts(
    cameras: int, splits: Mapping[str, tuple[int, int]], more: Mapping[str, int] | None = None
) -> Mapping[str, int]:
    """The table of a benchmark from (ids, images) of each split."""
    table: dict[str, int] = {}
    for split, (ids, images) in splits.items():
        table |= {f"{split} images": images, f"{split} ids": ids, f"{split} cameras": cameras}
    return MappingProxyType(table | dict(more or {}))


_MSMT17_TEST = {"query": (3060, 11659), "gallery": (3060, 82161)}

OFFICIAL: Mapping[str, Mapping[str, int]] = MappingProxyType(
    {
        "market1501": _counts(
            6,
            {"train": (751, 12936), "query": (750, 3368), "gallery": (751, 19732)},
            {"gallery distractors": 2798, "gallery junk": 3819},
        ),
        "duke": _counts(8, {"train": (702, 16522), "query": (702, 2228), "gallery": (1110, 17661)}),
        "occluded_duke": _counts(8, {"train": (702, 15618), "query": (519, 2210), "gallery": (1110, 17661)}),
        "cuhk03_detected": _counts(2, {"train": (767, 7365), "query": (700, 1400), "gallery": (700, 5332)}),
        "cuhk03_labeled": _counts(2, {"train": (767, 7368), "query": (700, 1400), "gallery": (700, 5328)}),
        # For the test only people are counted: its items are tracks of varying length.
        "mars": MappingProxyType({"train images": 509914, "train ids": 625, "train cameras": 6, "query ids": 626}),
        "msmt17": _counts(15, {"train": (1041, 30248), **_MSMT17_TEST}),
        "msmt17_with_val": _counts(15, {"train": (1041, 32621), **_MSMT17_TEST}),
        # Cameras of these two are not recorded: queries are one camera, the gallery another.
        "occluded_reid": _counts(1, {"query": (200, 1000), "gallery": (200, 1000)}),
        "partial_reid": _counts(1, {"query": (60, 300), "gallery": (60, 300)}),
    }
)
"""Counts by benchmark name."""


Layout = tuple[str, ...]
"""Folders and files, relative to the data set's folder, that must all exist."""


def find_root(
    data_dir: str | Path,
    dataset: str,
    names: Sequence[str],
    layouts: Sequence[Layout],
    *,
    wrappings: Sequence[str] = (),
    hint: str = "",
) -> tuple[Path, Layout]:
    """Finds the folder with a data set's folders and files, and which known layout it has.

    Search order: folders of the usual names in ``data_dir`` (nested ones first, since the outer one is then only a
    wrapper), folders of these names in a wrapper folder, and last ``data_dir`` itself. Names are compared without case
    and punctuation, so ``Market-1501`` also finds ``market1501``.

    Args:
        data_dir: Folder of data sets, or the data set itself.
        dataset: Its name, for the error.
        names: Usual names of its folder, preferred ones first.
        layouts: Required content of the folder, preferred layout first.
        wrappings: Names of folders that may contain the data set's folder.
        hint: A further sentence for the error.

    Raises:
        FileNotFoundError: If nothing matches; lists what was searched, where, and what was found.
    """
    root = Path(data_dir).expanduser().absolute()
    tried = list(_candidates(root, names, wrappings))
    for folder in tried:
        for layout in layouts:
            if not _missing(folder, layout):
                return folder, layout
    raise FileNotFoundError("\n".join(_not_found(root, dataset, names, layouts, tried) + [hint] * bool(hint)))


def plain_folder(name: str) -> str:
    """A folder's name without case and punctuation.

    >>> plain_folder("Market-1501-v15.09.15")
    'market1501v150915'
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())


def subfolders(folder: Path) -> list[Path]:
    """The folders in ``folder``, sorted by name; empty if it does not exist or is not readable."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:
        return []
    return [folder / name for name in names]


def _missing(folder: Path, layout: Layout) -> list[str]:
    return [name for name in layout if not (folder / name).exists()]


def _candidates(root: Path, names: Sequence[str], wrappings: Sequence[str]) -> Iterator[Path]:
    def inside(folder: Path, wanted: Sequence[str]) -> list[Path]:
        rank = {plain_folder(name): i for i, name in reversed(list(enumerate(wanted)))}
        children = [child for child in subfolders(folder) if plain_folder(child.name) in rank]
        return sorted(children, key=lambda child: rank[plain_folder(child.name)])

    for child in inside(root, names):
        yield from inside(child, names)
        yield child
    for wrapping in inside(root, wrappings):
        yield from list(_candidates(wrapping, names, ()))[:-1]
    yield root


def _not_found(
    root: Path, dataset: str, names: Sequence[str], layouts: Sequence[Layout], tried: Sequence[Path]
) -> list[str]:
    way_out = "Set `data_dir=...` or $AELM_DATA to the folder that holds the data set, or to the data set itself."
    if not root.is_dir():
        return [f"{dataset}: expected a data directory, found no folder {root}.", way_out]
    lines = [
        f"{dataset}: found no folder that holds {', or '.join(' + '.join(layout) for layout in layouts[:3])}.",
        f"Looked in {root} itself and beneath it in {', '.join(names)} (in any case, also one inside the other).",
    ]
    for folder in tried:
        missing = min((_missing(folder, layout) for layout in layouts), key=len)
        if folder != root or len(missing) < min(map(len, layouts)):
            lines.append(f"{folder} lacks {', '.join(missing)}.")
    found = sorted(f"{entry.name}/" if entry.is_dir() else entry.name for entry in root.iterdir())
    return [*lines[:6], f"Found in {root}: {first_few(found, most=12) or 'nothing'}.", way_out]
