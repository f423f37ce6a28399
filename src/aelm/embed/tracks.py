"""Tracks: one embedding for the pictures of a person that a tracker followed in one camera."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from aelm.data.listing import first_few
from aelm.data.sources import Item
from aelm.types import InputError

Features = NDArray[np.float32]
PICTURES = "track_pictures"  # subfolder of a folder of tracks with the embeddings of single pictures


class Pooled(NamedTuple):
    """Embeddings of tracks, one row each.

    Attributes:
        features: ``(T, D)`` float32 of unit length.
        items: T tracks, each with the path of its best picture.
    """

    features: Features
    items: list[Item]


def name(item: Item) -> str:
    """Name of a track in tables and errors: camera and number.

    >>> name(Item("a.jpg", camid="door", track="7"))
    'door:7'
    """
    return f"{item.camid}:{item.track}"


def tracks_of(items: Sequence[Item]) -> dict[tuple[str, str], list[int]]:
    """Indices of each track's pictures by (camera, track), in the order of their first pictures.

    Raises:
        ValueError: If only some pictures have a track, a track has two identities, or its times run backwards, which
            means that two tracks have the same number.
    """
    without = [item.path for item in items if not item.track]
    if without:
        raise InputError(
            f"{len(without)} of {len(items)} pictures have no track: {first_few(without, 3)}. Give each a track, in "
            "the table or by the `pattern`, or embed single pictures with tracks=false"
        )
    tracks: dict[tuple[str, str], list[int]] = {}
    for place, item in enumerate(items):
        tracks.setdefault((item.camid, item.track), []).append(place)
    for places in tracks.values():
        of_track = [items[place] for place in places]
        one = f"track {of_track[0].track} of camera {of_track[0].camid or 'unknown'}"
        pids = sorted({item.pid for item in of_track})
        if len(pids) > 1:
            raise InputError(
                f"{one} shows {first_few([pid or 'nobody known' for pid in pids])}, which are two tracks with one "
                "number: number them apart"
            )
        for before, after in itertools.pairwise(of_track):
            if before.start is not None and after.start is not None and after.start < before.start:
                raise InputError(
                    f"the times of {one} run backwards: {after.path} at {after.start:g} follows {before.start:g}. Sort "
                    "the table by time, or number two tracks apart"
                )
    return tracks


def pool(items: Sequence[Item], parts: Callable[[], Iterable[Features]]) -> Pooled:
    """The mean of each track's unit embeddings, weighted by quality, scaled to unit length.

    The best picture is the one with the highest quality; among equals, the one most similar to the mean.

    Args:
        items: B pictures.
        parts: Returns their embeddings in parts ``(b, D)``; called twice, so only one part is in memory at a time.

    Raises:
        ValueError: As :func:`tracks_of`, or if all pictures of a track have quality 0.
    """
    tracks = tracks_of(items)
    row = np.empty(len(items), np.int64)
    for number, places in enumerate(tracks.values()):
        row[places] = number
    weight = np.array([item.quality for item in items], np.float32)
    total, first = np.empty((0, 0), np.float32), 0
    for part in parts():
        total = total if total.size else np.zeros((len(tracks), part.shape[1]), np.float32)
        some = slice(first, first + len(part))
        np.add.at(total, row[some], part * weight[some, None])
        first += len(part)
    length = np.linalg.norm(total, axis=1)
    if not length.all():
        weightless = list(tracks)[int(np.argmin(length))]
        raise InputError(
            f"the pictures of the track {':'.join(weightless)} weigh nothing: give one a `quality` above 0"
        )
    mean: Features = total / length[:, None]
    likeness, first = np.empty(len(items), np.float32), 0
    for part in parts():
        some = slice(first, first + len(part))
        likeness[some] = np.einsum("bd,bd->b", part, mean[row[some]])
        first += len(part)
    pooled = []
    for places in tracks.values():
        best = max(places, key=lambda place: (weight[place], likeness[place]))
        times = [time for place in places if (time := items[place].start) is not None]
        start, end = (times[0], times[-1]) if times else (None, None)
        pooled.append(items[best]._replace(start=start, end=end, pictures=len(places)))
    return Pooled(mean, pooled)
