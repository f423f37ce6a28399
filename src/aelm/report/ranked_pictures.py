"""Figures of a run: curves, ranked rows of its test sets, heat maps of its network."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from aelm import figures
from aelm.data import ReIDDataModule
from aelm.data.dataset import ReIDDataset, collate
from aelm.figures.ranking import Verdict
from aelm.models import ReIDNetwork
from aelm.module import ReIDModule
from aelm.report.heatmap_rows import panels
from aelm.report.metrics import Test
from aelm.retrieval import RankResult
from aelm.retrieval.nearest import ranked_rows

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
