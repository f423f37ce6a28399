"""The task of ``python -m aelm.evaluate``: tests a checkpoint on a data set, or scores stored features."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities import rank_zero_only

from aelm.checkpoint import STARTER
from aelm.command.build import build_test_data, built, check_loops, training_of
from aelm.data.benchmarks import with_distractors
from aelm.data.datamodule import EvaluationSet
from aelm.data.dataset import printable
from aelm.devices import full_precision
from aelm.embed.embedder import load_embedder
from aelm.embed.folder import own_rows, read_array, read_features, sides_of
from aelm.embed.latency import device_name, latency
from aelm.evaluate import evidence, scoring
from aelm.evaluate.evidence import Destination
from aelm.evaluate.occlusion import Plan
from aelm.evaluate.scoring import Ways
from aelm.files import hold_folder
from aelm.module import ReIDModule
from aelm.report import metrics
from aelm.report.metrics import Test
from aelm.retrieval import RankResult, rank_metrics
from aelm.types import InputError

log = logging.getLogger(__name__)


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
    wanted: Any = OmegaConf.to_container(config.trainer, resolve=True)
    trainer = built({**wanted, "logger": False, "enable_checkpointing": False, "enable_model_summary": False})
    trainer.test(module, data, verbose=False)
    bad = metrics.unreadable_files(data)
    if not trainer.is_global_zero:
        return metrics.scores(module.results)
    tests = metrics.tests_of(module, data)
    further = metrics.unreadable_counts(bad)
    to = Destination(None if config.output is None else Path(config.output), config.figures)
    module.to(trainer.strategy.root_device)  # Lightning moves it back to the CPU
    if world is not None:
        further |= evidence.claims(embedder, world, config.claims_people, data.loader.workers, to)
    if plan is not None:
        embed = partial(evidence.embed_images, module, trainer.precision_plugin.forward_context)
        further |= evidence.occlusion(next(iter(tests.values())), plan, embed, data, config.bootstrap, to)
    if config.latency:
        device, times = embedder.device, latency(embedder)
        told_times = ", ".join(f"{value:.2f} at batch {count}" for count, value in times.items())
        print(f"milliseconds a picture on {device_name(device)}: {told_times}")
        further |= {f"latency/{device.type}_batch_{count}_ms": value for count, value in times.items()}
    scores = score(config, Tested(module.results, tests, further))
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
        result = rank_metrics(query.features, gallery.features, *scoring.labels_of(test))
    else:
        result = rank_metrics(None, None, *scoring.labels_of(test), distances=read_array(config.distances))
    return Tested({"test": result}, {"test": test})


def score(config: DictConfig, tested: Tested) -> dict[str, float]:
    """Adds the further scorings, prints the table, and writes ``metrics.json`` and the CSVs to ``output``."""
    ways = checked_ways(config)
    results = dict(tested.results)
    metrics.warn_of_support(
        EvaluationSet(name, tuple(test.query), tuple(test.gallery)) for name, test in tested.tests.items()
    )
    for name, test in tested.tests.items():
        results |= scoring.further(name, test, ways)
    intervals = scoring.intervals(results, config.bootstrap)
    scores = metrics.scores(results) | intervals | dict(tested.further)
    for name, test in tested.tests.items():
        scores |= scoring.thresholds(name, test, list(config.far))
    print("\n".join([metrics.scores_table(results, intervals), metrics.excluded_counts(tested.results)]).rstrip())
    if config.output is not None:
        output = Path(config.output)
        metrics.write_metrics(scores, output / "metrics.json")
        for name, test in tested.tests.items():
            metrics.write_queries(results[name], test.query, output / f"queries_{name}.csv", test.names)
            metrics.write_cameras(results[name], output / f"cameras_{name}.csv", test.names)
    return scores
