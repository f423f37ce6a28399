"""Output of a test: the table, metrics.json, CSVs of queries and cameras, unreadable pictures, and figures.

The figures are curves, ranked rows of the test sets, and heat maps of the network.
"""

import csv
import io
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch.distributed as dist

from aelm import figures, files
from aelm.data import ReIDDataModule
from aelm.data.datamodule import EvaluationSet
from aelm.data.dataset import ReIDDataset, collate
from aelm.data.decoding import decoding_error
from aelm.figures.ranking import Verdict
from aelm.models import ReIDNetwork
from aelm.module import ReIDModule
from aelm.report.heatmap_rows import panels
from aelm.retrieval import RankResult
from aelm.retrieval.labels import JUNK
from aelm.retrieval.nearest import ranked_rows
from aelm.retrieval.result import MIN_PEOPLE
from aelm.types import NO_NAMES, Names, Picture

log = logging.getLogger(__name__)


class Test(NamedTuple):
    """Features and pictures of a test set.

    Attributes:
        query_features: ``(Q, D)``, any kind that :func:`aelm.retrieval.rank_metrics` takes.
        gallery_features: ``(G, D)``.
        query: The Q pictures.
        gallery: The G pictures.
        names: Names of identities and cameras.
    """

    query_features: Any
    gallery_features: Any
    query: Sequence[Picture]
    gallery: Sequence[Picture]
    names: Names = NO_NAMES


def tests_of(module: ReIDModule, data: ReIDDataModule) -> dict[str, Test]:
    """Features and pictures that a test of ``module`` on ``data`` ranked, by test set; without unreadable pictures."""
    tests = {}
    for one in data.test_sets:
        features, positions = module.collected[one.name]
        pictures = [*one.query, *one.gallery]
        kept = [pictures[position] for position in positions.tolist()]
        edge = int((positions < len(one.query)).sum())
        tests[one.name] = Test(features[:edge], features[edge:], kept[:edge], kept[edge:], one.names)
    return tests


COLUMNS = ("mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10")


def scores(results: Mapping[str, RankResult]) -> dict[str, float]:
    """All scores by their logged name, such as ``test/mAP``."""
    return {f"{name}/{key}": value for name, result in results.items() for key, value in result.scalars().items()}


def scores_table(results: Mapping[str, RankResult], intervals: Mapping[str, float] | None = None) -> str:
    """The scores in per cent, one line per test set; ``intervals`` are printed after mAP and rank-1."""
    known = intervals or {}
    rows = [["per cent", "queries", "skipped", *COLUMNS]]
    for name, result in results.items():
        row = [name, str(result.num_queries), str(result.num_skipped)]
        for key, value in result.scalars().items():
            ends = [f"{100 * known[end]:.1f}" for end in (f"{name}/{key}_low", f"{name}/{key}_high") if end in known]
            row.append(f"{100 * value:.2f}" + (f" [{', '.join(ends)}]" if ends and key in ("mAP", "rank1") else ""))
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    first = [row[0].ljust(widths[0]) for row in rows]
    rest = ["  ".join(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)) for row in rows]
    return "\n".join(f"{name}  {cells}" for name, cells in zip(first, rest, strict=True))


def excluded_counts(results: Mapping[str, RankResult]) -> str:
    """Excluded queries without a match, junk and distractors; one line per test set that has any."""
    return "\n".join(
        f"{name}: {r.num_skipped} queries without a match skipped, {r.num_junk} junk pictures ignored, "
        f"{r.num_distractors} distractors"
        for name, r in results.items()
        if r.num_skipped or r.num_junk or r.num_distractors
    )


def warn_of_support(sets: Iterable[EvaluationSet]) -> None:
    """Warns of unreliable scores: ranks beyond the gallery size, and sets with few people."""
    for one in sets:
        usable = sum(picture.pid != JUNK for picture in one.gallery)
        certain = [f"rank{k}" for k in (1, 5, 10) if usable <= k]
        if certain:
            log.warning(
                "%s: the gallery holds %d pictures, so %s must be 100 %%, whatever the model",
                one.name, usable, " and ".join(certain),
            )  # fmt: skip
        people = len({picture.pid for picture in one.query})
        if people < MIN_PEOPLE:
            log.warning("%s: few people have queries (%d): their scores say little about others", one.name, people)


def write_metrics(values: Mapping[str, float], path: Path) -> None:
    """Writes ``metrics.json``: a flat mapping of name to number."""
    write_text(path, json.dumps(dict(sorted(values.items())), indent=2) + "\n")


def write_queries(result: RankResult, queries: Sequence[Picture], path: Path, names: Names = NO_NAMES) -> None:
    """Writes a CSV with one line per query: path, pid, camid, AP, INP and rank of the first match; empty if skipped."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["path", "pid", "camid", "average_precision", "inverse_negative_penalty", "first_rank"])
    columns = (result.average_precision, result.inverse_negative_penalty, result.first_rank)
    for picture, ap, inp, first in zip(queries, *columns, strict=True):
        scored = [f"{ap:.6f}", f"{inp:.6f}", int(first)] if first else ["", "", ""]
        lines.writerow([picture.path, names.pid(picture.pid), names.camid(picture.camid), *scored])
    write_text(path, text.getvalue())


def write_cameras(result: RankResult, path: Path, names: Names = NO_NAMES) -> None:
    """Writes a CSV with one line per query camera: numbers of queries and skipped queries, and their scores."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["camid", "queries", "skipped", *COLUMNS])
    for camid, row in result.by_camera().items():
        scored = ["" if math.isnan(row[key]) else f"{row[key]:.6f}" for key in COLUMNS]
        lines.writerow([names.camid(camid), int(row["num_queries"]), int(row["num_skipped"]), *scored])
    write_text(path, text.getvalue())


def write_text(path: Path, text: str) -> None:
    """Writes a text file with :func:`aelm.files.write_file`; it may contain file names that are not UTF-8."""
    files.write_file(path, lambda file: file.write(text.encode("utf-8", "surrogateescape")))


LIST = "bad.csv"


def unreadable_files(data: ReIDDataModule) -> dict[str, list[str]]:
    """The unreadable files of each set so far, over all processes; empty unless they are skipped. A collective call."""
    found = [data.unreadable]
    if dist.is_available() and dist.is_initialized():
        found *= dist.get_world_size()
        dist.all_gather_object(found, data.unreadable)
    names = dict.fromkeys(name for one in found for name in one)
    return {name: sorted({path for one in found for path in one.get(name, ())}) for name in names}


def unreadable_counts(files: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Number of skipped files per set, by the names in ``metrics.json``.

    >>> unreadable_counts({"train": [], "test": ["a.jpg", "b.jpg"]})
    {'train/unreadable': 0.0, 'test/unreadable': 2.0}
    """
    return {f"{name}/unreadable": float(len(paths)) for name, paths in files.items()}


def write_unreadable(files: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Writes ``bad.csv``: set, path and error; without errors, an earlier file is removed."""
    rows = [(name, path, decoding_error(path)) for name, paths in files.items() for path in paths]
    if not rows:
        (folder / LIST).unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["set", "path", "reason"])
    lines.writerows(rows)
    write_text(folder / LIST, text.getvalue())


History = Mapping[str, Sequence[tuple[int, float]]]
VERDICTS: Mapping[int, Verdict] = {1: "match", 0: "miss", -1: "ignored"}
ROWS, RESULTS, PEOPLE = 5, 10, 6


def draw_pictures(
    directory: Path, module: ReIDModule, data: ReIDDataModule, tests: Mapping[str, Test], history: History
) -> list[Path]:
    """Draws all figures of a tested module into ``directory``; returns the files.

    Args:
        directory: Folder for the PNGs.
        module: After a test, with its results; without results no test figures are drawn.
        data: The test data.
        tests: The ranked features, by test set.
        history: Logged values by name; empty for no training curves.
    """
    paths = [figures.training_curves(history, directory / "training.png")] if history else []
    if not module.results:
        return paths
    cmc = {name: result.cmc.tolist() for name, result in module.results.items() if name != "val"}
    mean_ap = {name: result.mAP for name, result in module.results.items()}
    paths.append(figures.cmc_curve(cmc, directory / "cmc.png", mean_ap=mean_ap))
    for name, test in tests.items():
        paths += draw_rankings(directory, name, test, module.results[name])
        rows = query_heatmaps(module.network, data, test)
        if rows[0].panels:  # models from other projects have none
            title = "What each classifier looks at, and what AELM erases"
            paths.append(figures.heatmap_rows(rows, directory / f"heatmaps_{name}.png", title=title))
    return paths


def draw_rankings(directory: Path, name: str, test: Test, result: RankResult) -> list[Path]:
    """Ranked rows of the best, the worst and some random queries of a test set, as PNGs in ``directory``."""
    paths = []
    for kind, queries in chosen_queries(result).items():
        path = directory / f"ranked_{name}_{kind}.png"
        rows = ranking_rows(test, result, queries)
        paths.append(figures.ranked_rows(rows, path, title=f"{name}: {kind} queries"))
    return paths


def ranking_rows(test: Test, result: RankResult, queries: Sequence[int]) -> list[figures.RankedRow]:
    """Rows to draw for some queries: their nearest gallery pictures, and whether each is a match."""
    asked = [test.query[q] for q in queries]
    found = ranked_rows(
        test.query_features[list(queries)],
        test.gallery_features,
        [picture.pid for picture in asked],
        [picture.pid for picture in test.gallery],
        [picture.camid for picture in asked],
        [picture.camid for picture in test.gallery],
        k=RESULTS,
    )
    rows = []
    for i, (q, picture) in enumerate(zip(queries, asked, strict=True)):
        results = []
        for score, index, verdict in zip(found.scores[i], found.indices[i], found.verdict[i], strict=True):
            hit = test.gallery[index]
            caption = f"id {test.names.pid(hit.pid)}, cam {test.names.camid(hit.camid)}"
            results.append(figures.RankedPicture(hit.path, VERDICTS[int(verdict)], float(score), caption))
        title = f"AP {result.average_precision[q]:.2f}, first match at rank {result.first_rank[q]}"
        who = f"id {test.names.pid(picture.pid)}, cam {test.names.camid(picture.camid)}"
        rows.append(figures.RankedRow(picture.path, results, title, who))
    return rows


def chosen_queries(result: RankResult) -> dict[str, list[int]]:
    """The queries to show: highest AP, lowest AP, and random ones (the same in each run)."""
    scored = np.flatnonzero(result.first_rank)
    order = scored[np.argsort(-result.average_precision[scored], kind="stable")]
    some = np.random.default_rng(0).permutation(scored)[:ROWS]
    return {"best": order[:ROWS].tolist(), "worst": order[::-1][:ROWS].tolist(), "random": some.tolist()}


def query_heatmaps(network: ReIDNetwork, data: ReIDDataModule, test: Test) -> list[figures.HeatmapRow]:
    """Heat maps of all classifiers, and what AELM would erase, for some people spread over the queries."""
    picks = np.linspace(0, len(test.query) - 1, min(PEOPLE, len(test.query))).round().astype(int)
    pictures = [test.query[i] for i in picks]
    dataset = ReIDDataset(pictures, data.transform.test)
    images = collate(dataset.__getitems__(list(range(len(pictures))))).image
    outputs = network.explain(images.to(network.mean.device))
    return [
        figures.HeatmapRow(images[i].permute(1, 2, 0).numpy(), panels(outputs, i), f"id {test.names.pid(picture.pid)}")
        for i, picture in enumerate(pictures)
    ]
