"""The task of ``python -m aelm.evaluate``: tests a checkpoint on a data set, or scores stored features."""

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from aelm.checkpoint import STARTER
from aelm.command.build import build_test_data, built, check_loops, training_of
from aelm.data.benchmarks import with_distractors, with_multi_queries
from aelm.data.datamodule import EvaluationSet
from aelm.data.dataset import printable
from aelm.devices import full_precision
from aelm.embed.embedder import device_and_threads, latency, load_embedder
from aelm.embed.folder import own_rows, read_array, read_features, sides_of
from aelm.evaluate import evidence
from aelm.evaluate.evidence import Destination
from aelm.evaluate.occlusion import Plan, labels_of
from aelm.files import hold_folder
from aelm.module import ReIDModule
from aelm.report import metrics
from aelm.report.metrics import Test
from aelm.retrieval import (
    RankResult,
    bootstrap,
    centralise,
    expand_queries,
    pool_people,
    rank_metrics,
    rerank_blocks,
    verification,
)
from aelm.retrieval.result import MIN_PEOPLE
from aelm.types import InputError

log = logging.getLogger(__name__)


class Ways(NamedTuple):
    """Further scorings to compute.

    Attributes:
        rerank: Whether to re-rank by k-reciprocal encoding.
        k1: See :func:`aelm.retrieval.rerank`.
        k2: Likewise.
        lambda_value: Likewise.
        multi_query: Whether to average the pictures in ``gt_bbox/`` of each query's identity and camera, as
            Market-1501's protocol does; without that folder, the queries of one identity and camera.
        expand_queries: Number of gallery neighbours averaged with each query; 0 for none.
        centralise: Number of gallery neighbours averaged with each query and gallery item; 0 for none.
    """

    rerank: bool = False
    k1: int = 20
    k2: int = 6
    lambda_value: float = 0.3
    multi_query: bool = False
    expand_queries: int = 0
    centralise: int = 0

    def check(self) -> None:
        """Raises ValueError if a number is out of range; called before pictures are embedded."""
        if self.k1 < 1 or self.k2 < 1 or not 0 <= self.lambda_value <= 1:
            raise InputError(
                f"`k1` and `k2` must be at least 1 and `lambda_value` in [0, 1], got {self.k1}, {self.k2} and "
                f"{self.lambda_value}"
            )
        for name, number in (("expand_queries", self.expand_queries), ("centralise", self.centralise)):
            if number < 0:
                raise InputError(f"`{name}` must be 0 for none, or how many; got {number}")


class Tested(NamedTuple):
    """Results and features of each test set by name, and further scores by full name."""

    results: dict[str, RankResult]
    tests: dict[str, Test]
    further: Mapping[str, float] = MappingProxyType({})


@full_precision()
def run(config: DictConfig) -> dict[str, float]:
    """Tests as ``config`` says, prints the table, and writes to ``output`` if given.

    Returns:
        All scores by name, as in ``metrics.json``.
    """
    if all(config[key] is None for key in ("checkpoint", "query", "gallery", "distances")):
        config = config.copy()
        config.checkpoint = STARTER
    checked_ways(config)
    check_sources(config)
    plan = occlusion_plan(config)
    with hold_folder(config.output if getattr(rank_zero_only, "rank", 0) == 0 else None):
        return test_and_score(config, plan)


def test_and_score(config: DictConfig, plan: Plan | None) -> dict[str, float]:
    """All scores by name, of a checkpoint or of stored features."""
    if config.checkpoint is None:
        return score(config, test_features(config))
    embedder = load_embedder(config.checkpoint, list(config.allow), size=config.size, camera=config.camera)
    trained = training_of(config, embedder.config, embedder.pictures)
    world = evidence.world(embedder, trained) if config.claims else None
    module = ReIDModule(embedder.network, {}, torch.optim.SGD)
    module.flip = config.flip
    data = build_test_data(config, trained)
    if config.distractors is not None:
        for name, reader in data.benchmarks.items():
            data.benchmarks[name] = partial(with_distractors, reader, config.distractors)
    if config.multi_query:
        for name, reader in data.benchmarks.items():
            data.benchmarks[name] = partial(with_multi_queries, reader)
    wanted: Any = OmegaConf.to_container(config.trainer, resolve=True)
    trainer = built({**wanted, "logger": False, "enable_checkpointing": False, "enable_model_summary": False})
    if plan is not None:
        data.trainer = trainer
        data.prepare_data()
        data.setup("test")
        if data.test_sets and data.test_sets[0].tracks:
            raise InputError("`occlusion=sweep` hides single pictures, and this data set ranks tracks: leave it out")
    trainer.test(module, data, verbose=False)
    bad = metrics.unreadable_files(data)
    if not trainer.is_global_zero:
        return metrics.scores(module.results)
    tests = metrics.tests_of(module, data)
    beside = metrics.unreadable_counts(bad)
    to = Destination(None if config.output is None else Path(config.output), config.figures)
    module.to(trainer.strategy.root_device)  # Lightning moves it back to the CPU
    if world is not None:
        beside |= evidence.claims(embedder, world, config.claims_people, data.loader.workers, to)
    if plan is not None:
        embed = partial(evidence.embed_images, module, trainer.precision_plugin.forward_context)
        beside |= evidence.occlusion(next(iter(tests.values())), plan, embed, data, config.bootstrap, to)
    if config.latency:
        device, times = embedder.device, latency(embedder)
        told_times = ", ".join(f"{value:.2f} at batch {count}" for count, value in times.items())
        print(f"milliseconds a picture on {device_and_threads(device)}: {told_times}")
        beside |= {f"latency/{device.type}_batch_{count}_ms": value for count, value in times.items()}
    scores = score(config, Tested(module.results, tests, beside))
    if config.output is not None:
        metrics.write_unreadable(bad, Path(config.output))
        if config.figures:
            metrics.draw_pictures(Path(config.output), module, data, tests, {})
    return scores


def first_map(scores: Mapping[str, float]) -> float:
    """The mAP of the first test set.

    >>> first_map({"test_night/rank1": 0.75, "test_night/mAP": 0.5, "test_rain/mAP": 0.25})
    0.5
    """
    return next(value for name, value in scores.items() if name.endswith("/mAP"))


def check_sources(config: DictConfig) -> None:
    """Raises ValueError unless either a model or stored features are given, without keys that only the other needs."""
    ready = [key for key in ("query", "gallery", "distances") if config[key] is not None]
    if (config.checkpoint is None) == (config.query is None or config.gallery is None):
        raise InputError("give either `checkpoint`, or `query` and `gallery` with ready features")
    if config.output is not None and all(Path(config.output, name).exists() for name in ("config.yaml", "checkpoints")):
        raise InputError(
            f"`output`: {config.output} is the directory of a training, whose scores and pictures would be replaced; "
            f"take output={Path(config.output, 'evaluation')}"
        )
    if config.checkpoint is not None and ready:
        raise InputError(f"`{ready[0]}` says what is ready, and `checkpoint` what makes it: give one of them")
    if config.checkpoint is None:
        needing = [key for key in ("claims", "occlusion", "flip", "distractors", "data_dir", "latency") if config[key]]
        needing += [] if OmegaConf.is_missing(config.dataset, "benchmarks") else ["dataset"]
        if needing:
            raise InputError(
                f"`{'`, `'.join(needing)}`: no part in ready features, whose pictures are not looked at. Give "
                "`checkpoint`, or leave it out"
            )


def checked_ways(config: DictConfig) -> Ways:
    """The further scorings, checked before anything is tested.

    Raises:
        ValueError: If one of their numbers, of the bootstrap or of the false-accept rates is out of range.
    """
    ways = Ways(**{key: config[key] for key in Ways._fields})
    ways.check()
    check_loops(config.trainer)
    if config.trainer.get("limit_test_batches") == 0:
        raise InputError("`trainer.limit_test_batches=0` tests nothing: leave it out")
    if config.bootstrap < 0:
        raise InputError(f"`bootstrap` must be 0 for none, or a number of draws; got {config.bootstrap}")
    if not all(0 < rate < 1 for rate in config.far):
        raise InputError(f"`far` must list rates between 0 and 1, got {list(config.far)}")
    return ways


def occlusion_plan(config: DictConfig) -> Plan | None:
    """The points of the occlusion curve; None if not requested.

    Raises:
        ValueError: If `occlusion` is neither null nor sweep, or its points are invalid.
    """
    if config.occlusion is None:
        return None
    if config.occlusion != "sweep":
        raise InputError(f"`occlusion` must be sweep, or null for none, got {config.occlusion!r}")
    plan = Plan(tuple(config.occlusion_fractions), tuple(config.occlusion_kinds), config.occlusion_seed)
    plan.check()
    return plan


def test_features(config: DictConfig) -> Tested:
    """Stored features, or stored distances, as one test set."""
    query, gallery = read_features(config.query), read_features(config.gallery)
    sides = sides_of(query, gallery)
    for doubt in sides.doubts:
        log.warning(printable(doubt))
    if own := own_rows(query, gallery, sides):
        log.warning(
            "%d of %d queries find themselves: their very features are also in the gallery, as of another camera. "
            "Scores mean little: take these rows out of one side, or name the cameras",
            own, len(sides.query),
        )  # fmt: skip
    test = Test(query.features, gallery.features, sides.query, sides.gallery, sides.names)
    if config.distances is None:
        result = rank_metrics(query.features, gallery.features, *labels_of(test))
    else:
        result = rank_metrics(None, None, *labels_of(test), distances=read_array(config.distances))
    return Tested({"test": result}, {"test": test})


def score(config: DictConfig, tested: Tested) -> dict[str, float]:
    """Adds the further scorings, prints the table, and writes ``metrics.json`` and the CSVs to ``output``."""
    ways = checked_ways(config)
    results = dict(tested.results)
    metrics.warn_of_support(
        EvaluationSet(name, tuple(test.query), tuple(test.gallery)) for name, test in tested.tests.items()
    )
    from_boxes = {name for name in tested.tests if name.endswith("_multi_query")}
    for name, test in tested.tests.items():
        multi_query = ways.multi_query and not from_boxes & {name, f"{name}_multi_query"}
        results |= further(name, test, ways._replace(multi_query=multi_query))
    limits = intervals(results, config.bootstrap)
    scores = metrics.scores(results) | limits | dict(tested.further)
    if config.distances is None:
        for name, test in tested.tests.items():
            scores |= thresholds(name, test, list(config.far))
    else:
        log.info("no true-accept rates and thresholds: these are cosines of features, and `distances` were ranked")
    print("\n".join([metrics.scores_table(results, limits), metrics.excluded_counts(tested.results)]).rstrip())
    if config.output is not None:
        output = Path(config.output)
        metrics.write_metrics(scores, output / "metrics.json")
        for name, test in tested.tests.items():
            metrics.write_queries(results[name], test.query, output / f"queries_{name}.csv", test.names)
            metrics.write_cameras(results[name], output / f"cameras_{name}.csv", test.names)
    return scores


def further(name: str, test: Test, ways: Ways) -> dict[str, RankResult]:
    """Computes the requested scorings: ``<name>_reranked``, ``_multi_query``, ``_expanded``, ``_centralised``."""
    query, gallery = test.query_features, test.gallery_features
    labels = query_pids, gallery_pids, query_camids, gallery_camids = labels_of(test)
    results = {}
    if ways.rerank:
        blocks = rerank_blocks(query, gallery, k1=ways.k1, k2=ways.k2, lambda_value=ways.lambda_value)
        results[f"{name}_reranked"] = rank_metrics(None, None, *labels, distances=blocks)
    if ways.multi_query:
        pooled = pool_people(query, query_pids, query_camids)
        if len(pooled.pids) == len(query_pids):
            log.warning(
                "%s: `multi_query` changes nothing: no identity and camera has two queries, and no gt_bbox/, as of "
                "Market-1501, lies beside them", name,
            )  # fmt: skip
        pooled_labels = pooled.pids, gallery_pids, pooled.camids, gallery_camids
        results[f"{name}_multi_query"] = rank_metrics(pooled.features, gallery, *pooled_labels)
    if ways.expand_queries:
        expanded = expand_queries(query, gallery, ways.expand_queries)
        results[f"{name}_expanded"] = rank_metrics(expanded, gallery, *labels)
    if ways.centralise:
        results[f"{name}_centralised"] = rank_metrics(*centralise(query, gallery, ways.centralise), *labels)
    return results


def intervals(results: Mapping[str, RankResult], samples: int) -> dict[str, float]:
    """95 % bootstrap intervals by name, ``test/mAP_low`` and ``test/mAP_high``; none for 0 samples.

    Intervals with too few people or samples are left out with a message.
    """
    found: dict[str, float] = {}
    without: list[str] = []
    for name, result in results.items() if samples else ():
        ends = {
            f"{name}/{score}_{end}": value
            for score, interval in bootstrap(result, samples=samples).items()
            for end, value in zip(("low", "high"), interval, strict=True)
            if not math.isnan(value)
        }
        found |= ends
        people = len(np.unique(result.query_pids[result.first_rank > 0]))
        without += [] if ends else [f"{name} ({people} people)"]
    if without:
        log.warning(
            "95 %% intervals are left out for %s: they need queries of at least %d people, and 40 draws (`bootstrap`)",
            ", ".join(without), MIN_PEOPLE,
        )  # fmt: skip
    return found


def thresholds(name: str, test: Test, far: Sequence[float]) -> dict[str, float]:
    """True-accept rate and threshold at each false-accept rate: ``test/TAR@FAR=0.001``, ``test/threshold@FAR=0.001``.

    The threshold is a cosine: pairs at or above it are treated as the same person. Rates with too few pairs are left
    out with a message.
    """
    if not far:
        return {}
    found = verification(test.query_features, test.gallery_features, *labels_of(test), far=far)
    if not found.is_supported.all():
        few = [f"{rate:g}" for rate, known in zip(far, found.is_supported, strict=True) if not known]
        log.warning(
            "%s: thresholds at FAR %s are left out: %d impostor pairs (and %d genuine ones) are too few for such rates",
            name, ", ".join(few), found.num_impostor, found.num_genuine,
        )  # fmt: skip
    points = [(f"{rate:g}", float(tar), float(threshold)) for rate, tar, threshold, known in
            zip(far, found.tar, found.threshold, found.is_supported, strict=True) if known]  # fmt: skip
    rates = {f"{name}/TAR@FAR={rate}": tar for rate, tar, _ in points}
    return rates | {f"{name}/threshold@FAR={rate}": threshold for rate, _, threshold in points}
