"""The task of ``python -m aelm.train``: trains a network, tests its best checkpoint, writes scores and figures."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from aelm.checkpoint import describe, without_weights
from aelm.command.build import build_data, built, built_optimizer
from aelm.command.schema import nodes
from aelm.data import ReIDDataModule
from aelm.files import hold_folder
from aelm.models import ReIDNetwork
from aelm.models.backbone import freeze_stages
from aelm.models.trained import load_neck
from aelm.module import NO_AVERAGE, ReIDModule
from aelm.report import metrics, runs
from aelm.train.callbacks import History, erasing_heads
from aelm.train.trainer import build_trainer, check_numbers
from aelm.types import InputError, RunError

log = logging.getLogger(__name__)

# Parameter names of losses for the number of identities, and for the embedding length.
IDENTITIES, LENGTH = ("num_ids", "num_classes"), ("embed_dim", "embedding_size")


def sweep_point(config: DictConfig) -> float | None:
    """Trains, tests and records the scores for the sweep table; returns the best value of the monitored metric."""
    # Rank 0 locks the directory for all processes; a job that cannot lock it adds no row to the sweep table.
    mine = config.run_dir if getattr(rank_zero_only, "rank", 0) == 0 else None
    with (
        removed_if_empty(Path(config.run_dir)),
        hold_folder(mine, "name"),
        runs.point(config.monitor) as results,
    ):
        outcome = train_and_test(config)
        results |= outcome.scores | outcome.validated
    return results.get(config.monitor, results.get(config.monitor.replace("val/", "test/", 1)))


@contextmanager
def removed_if_empty(folder: Path) -> Iterator[None]:
    """Removes the run directory, which Hydra creates first, if it is still empty after the block."""
    try:
        yield
    finally:
        with suppress(OSError):  # not empty
            folder.rmdir()


def run(config: DictConfig) -> dict[str, float]:
    """Trains and tests as ``config`` says; returns the content of ``metrics.json``."""
    return train_and_test(config).scores


class Outcome(NamedTuple):
    """Result of a run: the scores in ``metrics.json``, and the best value of the monitored metric."""

    scores: dict[str, float]
    validated: dict[str, float]


def train_and_test(config: DictConfig) -> Outcome:
    """Trains and tests as ``config`` says."""
    config.data_dir = str(Path(config.data_dir).expanduser().absolute())
    recipe: Any = OmegaConf.to_container(config)  # keeps `${data_dir}` unresolved, for evaluation on another machine
    OmegaConf.resolve(config)
    check_numbers(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    history = History(config.trainer.log_every_n_steps)
    logger = built_logger(config)
    trainer = build_trainer(config, logger, history)
    data = build_data(config.dataset, built(config.transform), built(config.sampler), config.seed)
    data.trainer = trainer  # so that checks before training use the same step size as training
    data.prepare_data()
    data.setup("fit")
    if not data.test_sets:
        log.warning("nothing will be tested: no queries in %s", ", ".join(data.benchmarks))
    metrics.warn_of_support([*data.val_sets, *data.test_sets])
    module = build_module(config, data, recipe, trainer.world_size)
    last = runs.claim(Path(config.run_dir), config, module.description, first=trainer.is_global_zero)
    tell_config(logger, config)
    status = 1
    try:
        trainer.fit(module, data, ckpt_path=last)
        scores = finish_run(config, trainer, module, data, history)
        found = [value for _, value in history.values.get(config.monitor, [])]
        status = 0
        return Outcome(scores, {config.monitor: max(found)} if found else {})
    finally:
        if isinstance(logger, WandbLogger):  # an open run would also log the next job of a sweep
            logger.experiment.finish(exit_code=status)


def build_module(config: DictConfig, data: ReIDDataModule, recipe: dict[str, Any], processes: int) -> ReIDModule:
    """The training module: network, losses, optimizer and schedule; keeps ``recipe`` for the checkpoint."""
    transform = data.transform
    plain: Any = OmegaConf.to_container(config)
    kept = {key: recipe[key] for key in ("dataset", "transform", "sampler", "data_dir", "seed", "monitor")}
    resumed = config.resume == "auto" and any(Path(config.run_dir, "checkpoints").glob("*.ckpt"))
    # Of a resumed run all weights are in its checkpoint.
    network = built(without_weights(plain["model"]) if resumed else config.model)(num_ids=data.num_ids)
    freeze_stages(network.backbone, config.frozen_stages)
    size, pictures = getattr(network.backbone, "size", None), (transform.height, transform.width)
    if size is not None and tuple(size) != pictures:
        raise InputError(
            f"the backbone takes pictures of {' x '.join(map(str, size))}, got {' x '.join(map(str, pictures))}: "
            "`model.backbone.size` must be [`transform.height`, `transform.width`]"
        )
    if config.neck_weights is not None and not resumed:
        load_neck(network, config.neck_weights)
    preprocessing = {key: getattr(transform, key) for key in ("height", "width", "interpolation", "preprocess")}
    preprocessing |= {key: list(values) for key, values in network.normalised._asdict().items()}
    module = ReIDModule(
        network.to(memory_format=torch.channels_last) if config.channels_last else network,
        built_losses(config.loss, network, pictures),
        built_optimizer(config.optimizer, config.lr_scale, processes * config.trainer.accumulate_grad_batches),
        built(config.schedule),
        new_lr_factor=config.new_lr_factor,
        decay_norm_and_bias=config.decay_norm_and_bias,
        frozen_epochs=config.frozen_epochs,
        description={
            **describe(plain["model"], data.num_ids, preprocessing, list(data.label_map), kept),
            "people": data.people,
        },
    )
    if module.needs_average and config.ema is None:
        raise InputError(NO_AVERAGE)
    if config.erasing is not None and not erasing_heads(network):
        raise InputError(
            "`erasing` is a schedule, and no classifier of this network erases (`model/aelm`): "
            "choose model/aelm=adversarial or random, or erasing=none"
        )
    if config.compile:
        module.compile_training()
    return module


def built_losses(node: DictConfig, network: ReIDNetwork, size: tuple[int, int]) -> Any:
    """Losses by name.

    ``???`` for the number of identities, or for the length of all embeddings together, is replaced by the network's
    value.

    Args:
        node: One ``_target_`` config a loss, by name.
        network: The network to train.
        size: Height and width of pictures.
    """
    plain: Any = OmegaConf.to_container(node, resolve=True)
    parts: list[Any] = [part for _, part in nodes(plain)]
    if any(part.get(key) == "???" for part in parts for key in (*IDENTITIES, *LENGTH)):
        outputs = network.explain(torch.zeros(1, 3, *size, dtype=torch.uint8))
        length = sum(head.embedding.shape[1] for heads in outputs for head in heads)
        sizes = dict.fromkeys(IDENTITIES, network.num_ids) | dict.fromkeys(LENGTH, length)
        for part in parts:
            part.update({key: value for key, value in sizes.items() if part.get(key) == "???"})
    return built(plain)


def built_logger(config: DictConfig) -> Logger | bool:
    """The logger; in a sweep each job is one W&B run, and all jobs form one group."""
    job = runs.this_job()
    if config.logger and job is not None and str(config.logger.get("_target_")).endswith(".WandbLogger"):
        config.logger.group = config.logger.group or config.name
        config.logger.name = f"{config.logger.name}-{job.number}"
    logger = built(config.logger) if config.logger else False
    if isinstance(logger, WandbLogger) and getattr(rank_zero_only, "rank", 0) == 0:
        with wandb_errors() as wandb:
            if (config.logger.mode or wandb.setup().settings.mode) in ("online", "shared"):
                wandb.login()  # before the data is read
    return logger


def tell_config(logger: Logger | bool, config: DictConfig) -> None:
    """Starts the W&B run and sends the configuration, which is also in the run directory."""
    if isinstance(logger, WandbLogger):
        plain: Any = OmegaConf.to_container(config)
        with wandb_errors():
            logger.log_hyperparams(plain)


@contextmanager
def wandb_errors() -> Iterator[Any]:
    """Imports W&B; explains what to do if it rejects the run.

    Raises:
        RunError: If no user is logged in, or the server cannot be reached.
    """
    import wandb

    try:
        yield wandb
    except wandb.errors.Error as error:
        raise RunError(
            f"`logger=wandb`: {' '.join(str(error).split())} Log in first (`wandb login`, or WANDB_API_KEY), or keep "
            "the run on this machine with `logger.mode=offline`"
        ) from error


def finish_run(
    config: DictConfig, trainer: pl.Trainer, module: ReIDModule, data: ReIDDataModule, history: History
) -> dict[str, float]:
    """Tests ``best.ckpt`` and writes scores, facts and figures to the run directory."""
    # Processes started by torchrun or SLURM name a run by their own start time: take the name of rank 0.
    run_dir = Path(trainer.strategy.broadcast(config.run_dir))
    if run_dir != Path(config.run_dir):
        with suppress(OSError):
            Path(config.run_dir).rmdir()
    best, last = (run_dir / "checkpoints" / f"{name}.ckpt" for name in ("best", "last"))
    if not best.is_file() and last.is_file():  # `max_time` ended before the first validation
        log.warning("there was no validation, and so no best.ckpt: last.ckpt is tested")
        best = last
    facts = runs.run_facts(trainer, runs.overrides())  # before the test, which loads the best checkpoint and its timer
    module.results = {}  # drop the last validation's
    if data.test_sets:
        trainer.test(module, data, ckpt_path=best, verbose=False, weights_only=True)
    bad = metrics.unreadable_files(data)
    validated = {} if module.results else best_validation(history, config.monitor)
    scores = metrics.scores(module.results) | validated | metrics.unreadable_counts(bad)
    if trainer.is_global_zero:
        metrics.write_unreadable(bad, Path(config.run_dir))
        metrics.write_metrics(scores, Path(config.run_dir) / "metrics.json")
        runs.write_facts(facts, Path(config.run_dir) / "run.json")
        summary = "  ".join(f"{name} {100 * value:.2f}" for name, value in validated.items()) or "not validated"
        print(metrics.scores_table(module.results) if module.results else f"not tested; {summary}")
        if config.figures:
            tests = metrics.tests_of(module, data)
            paths = metrics.draw_pictures(Path(config.run_dir), module, data, tests, history.values)
            send_pictures(trainer.logger, paths)
    return scores


def best_validation(history: History, monitor: str) -> dict[str, float]:
    """All scores of the validation that was best by ``monitor``, by name; empty if there was none."""
    found = history.values.get(monitor, [])
    step = max(found, key=lambda point: point[1])[0] if found else None
    noted = ((name, dict(points)) for name, points in history.values.items() if name.startswith("val/"))
    return {name: points[step] for name, points in noted if step in points}


@rank_zero_only
def send_pictures(logger: Logger | None, paths: list[Path]) -> None:
    """Sends the figures of a run to W&B."""
    if isinstance(logger, WandbLogger):
        for path in paths:
            logger.log_image(f"figures/{path.stem}", [str(path)])
