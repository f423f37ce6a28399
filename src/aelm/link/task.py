"""The task of ``python -m aelm.link``: decides which tracks of several cameras are the same person.

Its HTML page shows one row per person in one file, with tracks over time and cameras, and heat maps.
"""

import csv
import io
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from aelm.data.decoding import Pixels
from aelm.data.listing import first_few
from aelm.data.sources import Item
from aelm.embed.batches import devices
from aelm.embed.embedder import Embedder, load_embedder
from aelm.embed.folder import Embeddings, check_model, given_to, made_by, read_embeddings
from aelm.embed.tracks import PICTURES, name
from aelm.figures.page import box_aspect
from aelm.files import check_folder, hold_folder
from aelm.link.clustering import Correction, as_table, merged_corrections, read_corrections
from aelm.link.people import People, Settings, link, link_scores, single_scores
from aelm.report.metrics import write_metrics, write_text
from aelm.search.gallery import Gallery
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
from aelm.types import InputError

log = logging.getLogger(__name__)

TABLE, PAGE, CORRECTIONS, METRICS = "people.csv", "people.html", "corrections.csv", "metrics.json"
COLUMNS = ["person", "track", "camid", "start", "end", "pictures", "path", "pid", "most_like", "score", "fit", "check"]


def run(config: DictConfig) -> People:
    """Links as ``config`` says, prints a summary, and writes the results to ``output``."""
    output = check_folder(config.output)
    settings = Settings(threshold(config), config.neighbours, config.rerank, config.k1, config.k2)
    settings.check()
    if config.page_people < 0:
        raise InputError(f"`page_people` must be 0 for no page, or how many; got {config.page_people}")
    with hold_folder(output):
        return linked(config, output, settings)


def linked(config: DictConfig, output: Path, settings: Settings) -> People:
    """Links and writes to the locked output."""
    embeddings = tracks_in(config.embeddings)
    tracks = absolute(embeddings.items, embeddings.folder)
    corrections, kept = all_corrections(config.corrections, output / CORRECTIONS, tracks)
    embedder = model(config, embeddings) if config.page_people and config.heatmaps else None
    people = link(np.asarray(embeddings.features), tracks, settings, corrections)
    scores = rated(people, tracks, embeddings.folder, settings)
    html = ""
    if config.page_people:
        facts = {"threshold": f"{settings.threshold:g}", "embeddings": str(config.embeddings)}
        facts |= {"model": str(embeddings.meta["model"]["name"])}
        facts |= {"F1 of pairs": f"{scores['link/pairwise_f1']:.3f}"} if "link/pairwise_f1" in scores else {}
        gallery = Gallery.open(embeddings)
        html = render(people, tracks, gallery.pictures, embedder, facts, config.page_people)
    write_text(output / TABLE, people_table(people, embeddings.items, str(embeddings.folder), output))
    if kept:
        write_text(output / CORRECTIONS, as_table(kept))
    for name_of, written in ((METRICS, scores), (PAGE, html)):
        if not written:  # of an earlier run with other people
            (output / name_of).unlink(missing_ok=True)
    if scores:
        write_metrics(scores, output / METRICS)
    if html:
        write_text(output / PAGE, html)
    print(summary(people, scores, output / (PAGE if html else TABLE)))
    return people


def threshold(config: DictConfig) -> float:
    """The given threshold, or the one recommended by an evaluation.

    Raises:
        FileNotFoundError: If the metrics file does not exist.
        ValueError: If none or both are given, or the metrics hold no threshold.
    """
    if (config.threshold is None) == (config.metrics is None):
        raise InputError(
            "give either `threshold`, or `metrics`, the metrics.json of an aelm.evaluate of tracks whose people are "
            "known, which recommends one"
        )
    if config.metrics is None:
        return float(config.threshold)
    try:
        found = json.loads(Path(config.metrics).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"`metrics`: {config.metrics} is not JSON: {error}") from error
    key = f"threshold@FAR={config.far:g}"
    named = found if isinstance(found, dict) else {}
    values = {one: value for one, value in named.items() if one.rpartition("/")[2] == key}
    if not values:
        raise InputError(
            f"`metrics`: {config.metrics} recommends no {key}; run aelm.evaluate with far=[{config.far:g}], or give "
            "`threshold`"
        )
    one, value = next(iter(values.items()))
    log.info("threshold %.4f: %s of %s", value, one, config.metrics)
    return float(value)


def tracks_in(folder: str) -> Embeddings:
    """Reads embeddings of tracks.

    Raises:
        ValueError: If its rows are not tracks.
    """
    found = read_embeddings(folder)
    without = [item.path for item in found.items if not item.track]
    if without or "tracks" not in found.meta:
        raise InputError(
            f"{folder} holds no tracks{f': {first_few(without, 2)}' if without else ' but their single pictures'}. "
            "Embed a table with the column track, such as crops.csv of aelm.crop, or names by a `pattern` "
            "with (?P<track>...)"
        )
    if all(item.start is None for item in found.items):
        log.warning("no track has a time: overlapping tracks of one camera are not detected and may be linked")
    return found


def all_corrections(
    given: str | None, file: Path, tracks: Sequence[Item]
) -> tuple[tuple[Correction, ...], tuple[Correction, ...]]:
    """Corrections of earlier runs and of this one, the later answer for a pair: those to use now, and all to keep."""
    new = () if given is None else read_corrections(given)
    before = read_corrections(file) if file.is_file() else ()
    there = {name(item) for item in tracks}
    usable = [one for one in before if {one.a, one.b} <= there]
    if len(usable) < len(before):
        gone = [f"{one.a} {one.answer} {one.b}" for one in before if one not in usable]
        log.warning(
            "%d of the corrections in %s name tracks that are not here; they are kept but not used: %s",
            len(gone), file, first_few(gone),
        )  # fmt: skip
    return merged_corrections([*usable, *new]), merged_corrections([*before, *new])


def model(config: DictConfig, embeddings: Embeddings) -> Embedder | None:
    """The model of the embeddings, for heat maps; None if its file is gone and no other is given."""
    checkpoint = config.checkpoint or made_by(embeddings)
    if not checkpoint:
        log.warning("no heat maps: %s is gone; give `checkpoint`", embeddings.meta["model"]["checkpoint"])
        return None
    embedder = load_embedder(checkpoint, list(config.allow), **given_to(embeddings))
    check_model(embeddings, embedder)
    place = devices(config.device if isinstance(config.device, str) else tuple(config.device))[0]
    return embedder.to(place)


def rated(people: People, tracks: Sequence[Item], folder: Path, settings: Settings) -> dict[str, float]:
    """Scores of the links if identities are known, and of the single-picture baseline."""
    pids = [item.pid for item in tracks]
    scores = {f"link/{key}": value for key, value in link_scores(people.person, pids).items()}
    if not scores or settings.rerank or not (folder / PICTURES).is_dir():
        return scores
    single = read_embeddings(folder / PICTURES)
    row = {path.path: i for i, path in enumerate(absolute(single.items, single.folder))}
    if any(item.path not in row for item in tracks):  # added by Gallery.save, which writes no single pictures
        return scores
    best = np.asarray(single.features[[row[item.path] for item in tracks]])
    return scores | {f"single/{key}": value for key, value in single_scores(best, pids, settings.threshold).items()}


def people_table(people: People, items: Sequence[Item], folder: str, output: Path) -> str:
    """The people as a CSV table with one line per track."""
    table = io.StringIO(newline="")
    lines = csv.writer(table)
    lines.writerow(COLUMNS)
    for i in np.argsort(people.person, kind="stable").tolist():
        item, fellow = items[i], int(people.fellow[i])
        path = os.path.relpath(os.path.join(folder, item.path), output)
        why = (name(items[fellow]), f"{people.score[i]:.4f}", f"{people.fit[i]:.4f}") if fellow >= 0 else ("", "", "")
        check = "yes" if people.uncertain[i] else ""
        what = (item.camid, item.start, item.end, item.pictures, path, item.pid)
        lines.writerow([int(people.person[i]) + 1, name(item), *what, *why, check])
    return table.getvalue()


def summary(people: People, scores: dict[str, float], where: Path) -> str:
    """The summary in a few lines."""
    lines = [f"{int(people.person.max()) + 1} people in {len(people.person)} tracks: {where}"]
    for kind, what in (("link", "links"), ("single", "one threshold on single pictures")):
        if f"{kind}/pairwise_f1" in scores:
            rates = [f"{rate} {scores[f'{kind}/pairwise_{rate}']:.3f}" for rate in ("precision", "recall", "f1")]
            lines.append(f"{what}: {', '.join(rates)} of pairs")
    return "\n".join(lines)


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
