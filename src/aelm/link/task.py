"""The task of ``python -m aelm.link``: decides which tracks of several cameras are the same person."""

import csv
import io
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from aelm.data.listing import first_few
from aelm.data.sources import Item
from aelm.embed.batches import devices
from aelm.embed.embedder import Embedder, load_embedder
from aelm.embed.folder import Embeddings, check_model, given_to, made_by, read_embeddings
from aelm.embed.tracks import PICTURES, name
from aelm.files import check_folder, hold_folder
from aelm.link import page
from aelm.link.constraints import Correction, as_table, merged_corrections, read_corrections
from aelm.link.people import People, Settings, link, link_scores, single_scores
from aelm.report.metrics import write_metrics, write_text
from aelm.search.gallery import Gallery
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
    tracks = page.absolute(embeddings.items, embeddings.folder)
    corrections = all_corrections(config.corrections, output / CORRECTIONS, tracks)
    embedder = model(config, embeddings) if config.page_people and config.heatmaps else None
    people = link(np.asarray(embeddings.features), tracks, settings, corrections)
    scores = rated(people, tracks, embeddings.folder, settings)
    html = ""
    if config.page_people:
        facts = {"threshold": f"{settings.threshold:g}", "embeddings": str(config.embeddings)}
        facts |= {"model": str(embeddings.meta["model"]["name"])}
        facts |= {"F1 of pairs": f"{scores['link/pairwise_f1']:.3f}"} if "link/pairwise_f1" in scores else {}
        gallery = Gallery.open(embeddings)
        html = page.render(people, tracks, gallery.pictures, embedder, facts, config.page_people)
    write_text(output / TABLE, people_table(people, embeddings.items, str(embeddings.folder), output))
    if corrections:
        write_text(output / CORRECTIONS, as_table(corrections))
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


def all_corrections(given: str | None, kept: Path, tracks: Sequence[Item]) -> tuple[Correction, ...]:
    """Corrections of earlier runs and of this one; the later answer for a pair counts."""
    new = () if given is None else read_corrections(given)
    before = read_corrections(kept) if kept.is_file() else ()
    there = {name(item) for item in tracks}
    usable = [one for one in before if {one.a, one.b} <= there]
    if len(usable) < len(before):
        gone = [f"{one.a} {one.answer} {one.b}" for one in before if one not in usable]
        log.warning("%d of the corrections in %s name tracks that are gone: %s", len(gone), kept, first_few(gone))
    return merged_corrections([*usable, *new])


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
    row = {path.path: i for i, path in enumerate(page.absolute(single.items, single.folder))}
    best = np.asarray(single.features[[row[item.path] for item in tracks]])
    return scores | {f"single/{key}": value for key, value in single_scores(best, pids, settings.threshold).items()}


def people_table(people: People, items: Sequence[Item], folder: str, output: Path) -> str:
    """The people as a CSV table with one line per track."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(COLUMNS)
    for i in np.argsort(people.person, kind="stable").tolist():
        item, fellow = items[i], int(people.fellow[i])
        path = os.path.relpath(os.path.join(folder, item.path), output)
        why = (name(items[fellow]), f"{people.score[i]:.4f}", f"{people.fit[i]:.4f}") if fellow >= 0 else ("", "", "")
        check = "yes" if people.uncertain[i] else ""
        what = (item.camid, item.start, item.end, item.pictures, path, item.pid)
        lines.writerow([int(people.person[i]) + 1, name(item), *what, *why, check])
    return text.getvalue()


def summary(people: People, scores: dict[str, float], where: Path) -> str:
    """The summary in a few lines."""
    lines = [f"{int(people.person.max()) + 1} people in {len(people.person)} tracks: {where}"]
    for kind, what in (("link", "links"), ("single", "one threshold on single pictures")):
        if f"{kind}/pairwise_f1" in scores:
            rates = [f"{rate} {scores[f'{kind}/pairwise_{rate}']:.3f}" for rate in ("precision", "recall", "f1")]
            lines.append(f"{what}: {', '.join(rates)} of pairs")
    return "\n".join(lines)
