"""The HTML page of people in one file: one row per person, with tracks over time and cameras, and heat maps."""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache

import numpy as np

from aelm.data.decoding import Pixels
from aelm.data.sources import Item
from aelm.embed.embedder import Embedder
from aelm.embed.tracks import name
from aelm.figures.page import box_aspect
from aelm.link.people import People
from aelm.search.page import (
    PagePicture,
    Result,
    filled,
    hit,
    pair_heat,
    picture_html,
    read_pictures,
    spread_paths,
    text,
)

EPOCH = 1e8  # larger times are seconds since 1970
NO_HEAT = "There is no heat map: a picture is missing, the model has no feature maps, or heat maps are switched off."
ALONE = "This person has no other track."


def render(
    people: People,
    tracks: Sequence[Item],
    pictures_of: Callable[[Item], Sequence[str]],
    embedder: Embedder | None,
    facts: Mapping[str, str],
    most: int,
) -> str:
    """The full page.

    Args:
        people: The people of the N tracks.
        tracks: N tracks, with readable paths.
        pictures_of: The pictures of a track.
        embedder: The model for heat maps; None for none.
        facts: Facts for the header, by name.
        most: Number of people to show: those with the most tracks.
    """
    count = np.bincount(people.person)
    chosen = np.sort(np.argsort(-count, kind="stable")[:most])
    order = sorted(range(len(tracks)), key=lambda i: (people.person[i], tracks[i].start or 0.0, i))
    rows: dict[int, list[int]] = {int(person): [] for person in chosen}
    for i in order:
        if int(people.person[i]) in rows:
            rows[int(people.person[i])].append(i)

    @cache
    def picture(i: int) -> Pixels | None:
        return read_pictures([tracks[i].path])[0]

    known = [one for i in next(iter(rows.values())) if (one := picture(i)) is not None]
    told = f"{len(chosen)} of {len(count)} people are shown: those with the most tracks. " if len(count) > most else ""
    told += "Click a track to see why it belongs to its person. "
    told += f"The {people.uncertain.sum()} least certain links are marked with a question mark."
    sections = [
        _person(person, members, people, tracks, pictures_of, embedder, picture) for person, members in rows.items()
    ]
    return filled(
        {
            "title": f"{len(count)} people in {len(tracks)} tracks",
            "aspect": f"{box_aspect(known or [np.zeros((2, 1, 3), np.uint8)]):.4f}",
            "facts": "".join(f"<div><dt>{text(k)}</dt><dd><bdi>{text(v)}</bdi></dd></div>" for k, v in facts.items()),
            "hint": told,
            "answers": "\n".join(sections),
            "footer": "Made by aelm. A score is the similarity with the track of the same person that is most alike.",
        }
    )


def _person(
    person: int,
    members: Sequence[int],
    people: People,
    tracks: Sequence[Item],
    pictures_of: Callable[[Item], Sequence[str]],
    embedder: Embedder | None,
    picture: Callable[[int], Pixels | None],
) -> str:
    cards = []
    for i in members:
        track, fellow = tracks[i], int(people.fellow[i])
        one = PagePicture(track.path, picture(i), f"{span(track)} · {track.pictures} pictures")
        heat = pair_heat(embedder, picture(fellow), [one.picture])[0] if embedder and fellow >= 0 else None
        others = [p for p in read_pictures(spread_paths(pictures_of(track), track.path)) if p is not None]
        mark, kind = ("?", "unsure") if people.uncertain[i] else ("", "")
        attributes = f' id="track-{i}" data-what="{text(name(track))}"'
        if fellow >= 0:
            pair = f'data-a="{text(name(tracks[fellow]))}" data-b="{text(name(track))}"'
            attributes += f' data-with="track-{fellow}" {pair}'
        result = Result(one, float(people.score[i]), kind, heat, others)
        cards.append(hit(result, name(track), mark, NO_HEAT if fellow >= 0 else ALONE, attributes))
    cameras = dict.fromkeys(tracks[i].camid for i in members)
    best = max(members, key=lambda i: tracks[i].pictures)
    told = f"{_number(len(members), 'track')} in {_number(len(cameras), 'camera')}"
    return (
        f'<section class="asked-for person">{_lanes(list(cameras), members, people, tracks)}<figure class="query" '
        f'data-path="">{picture_html(PagePicture("", picture(best)))}<figcaption><strong>Person {person + 1}</strong>'
        f'<span class="name">{told}</span></figcaption></figure><ol>{"".join(cards)}</ol></section>'
    )


def _lanes(cameras: Sequence[str], members: Sequence[int], people: People, tracks: Sequence[Item]) -> str:
    """Timeline of a person: one line per camera over the time of all tracks; empty if times are unknown."""
    times = [time for track in tracks for time in (track.start, track.end) if time is not None]
    if not times:
        return ""
    first, length = min(times), max(max(times) - min(times), 1e-9)
    lanes = []
    for camera in cameras:
        bars = []
        for i in members:
            track = tracks[i]
            if track.camid == camera and track.start is not None and track.end is not None:
                left, width = (100 * part / length for part in (track.start - first, track.end - track.start))
                kind = ' class="unsure"' if people.uncertain[i] else ""
                bars.append(f'<i{kind} style="left:{left:.2f}%;width:{width:.2f}%" title="{text(span(track))}"></i>')
        lanes.append(f'<div class="lane"><bdi class="name">{text(camera)}</bdi><span>{"".join(bars)}</span></div>')
    return f'<div class="lanes">{"".join(lanes)}</div>'


def span(track: Item) -> str:
    """Time span of a track as text.

    >>> span(Item("", start=61.5, end=3700.0)), span(Item(""))
    ('0:01:01.5 to 1:01:40.0', 'time unknown')
    >>> span(Item("", start=1.7e9, end=1.7e9 + 5))
    '2023-11-14 22:13:20 to 22:13:25 UTC'
    """
    if track.start is None or track.end is None:
        return "time unknown"
    if track.start >= EPOCH:
        start, end = (datetime.fromtimestamp(time, UTC) for time in (track.start, track.end))
        return f"{start:%Y-%m-%d %H:%M:%S} to {end:%H:%M:%S} UTC"
    return " to ".join(
        f"{time // 3600:.0f}:{time % 3600 // 60:02.0f}:{time % 60:04.1f}" for time in (track.start, track.end)
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def absolute(items: Sequence[Item], folder: str | os.PathLike[str]) -> list[Item]:
    """Items of a folder of embeddings, with absolute paths."""
    return [item._replace(path=os.path.normpath(os.path.join(folder, item.path))) for item in items]
