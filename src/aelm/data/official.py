"""Counts of the benchmarks as published, to compare with what lies on disk.

Keys are ``"<split> <what>"``: the split is ``train``, ``query`` or ``gallery``; what is counted is ``images``,
``ids`` (junk apart; Market-1501's distractors, all numbered 0, count as one), ``cameras``, ``distractors`` (gallery
images of ids that no query has) or ``junk`` (images of pid -1).
"""

from collections.abc import Mapping
from types import MappingProxyType


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
        "msmt17": _counts(15, {"train": (1041, 30248), **_MSMT17_TEST}),
        "msmt17_with_val": _counts(15, {"train": (1041, 32621), **_MSMT17_TEST}),
        # The cameras of these two are not recorded: queries count as one, the gallery as another.
        "occluded_reid": _counts(1, {"query": (200, 1000), "gallery": (200, 1000)}),
        "partial_reid": _counts(1, {"query": (60, 300), "gallery": (60, 300)}),
    }
)
"""Benchmark name -> counts."""
