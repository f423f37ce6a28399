"""Extra gallery pictures that match no query: how a ranking stands up to a bigger crowd."""

from collections.abc import Callable
from pathlib import Path

from aelm.data.pictures import walk_pictures
from aelm.types import Benchmark, Picture


def with_distractors(given: Benchmark | Callable[[], Benchmark], folder: str | Path) -> Benchmark:
    """A benchmark whose gallery also holds every picture beneath ``folder``.

    They are given one identity that nobody else has and a camera of their own, so that none of them ever matches and
    none is ever ignored. The published counts of the gallery no longer apply and are dropped.

    Args:
        given: The benchmark, or what reads it.
        folder: Pictures of people that no query shows, with whatever names.

    Raises:
        FileNotFoundError: If there is no such folder, or no picture beneath it.
    """
    base = Path(folder).expanduser()
    names = walk_pictures(base)
    benchmark = given if isinstance(given, Benchmark) else given()
    queries = [picture for split in (benchmark.query, *benchmark.more_queries.values()) for picture in split]
    everyone = [*benchmark.train, *queries, *benchmark.gallery]
    pid = max((picture.pid for picture in everyone), default=0) + 1
    camid = max((picture.camid for picture in everyone), default=0) + 1
    extra = tuple(Picture(str(base / name), pid, camid) for name in names)
    official = {key: count for key, count in benchmark.official.items() if not key.startswith("gallery")}
    return benchmark._replace(gallery=benchmark.gallery + extra, official=official)
