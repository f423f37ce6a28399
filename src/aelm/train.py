"""``python -m aelm.train``: trains a network, tests its best checkpoint, and draws what came out."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import Logger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from aelm import pictures, report
from aelm.build import build_data, built
from aelm.callbacks import History, Progress
from aelm.checkpoint import describe
from aelm.cli import command
from aelm.data import ReIDDataModule
from aelm.module import ReIDModule
from aelm.run_dir import claim

log = logging.getLogger(__name__)


@command("train")
def main(config: DictConfig) -> float | None:
    """Runs the whole of it; a sweeper gets the monitored metric's value on the test set."""
    return run(config).get(config.monitor.replace("val/", "test/", 1))


def run(config: DictConfig) -> dict[str, float]:
    """Trains and tests as ``config`` says.

    Returns:
        What ``metrics.json`` holds.
    """
    config.data_dir = str(Path(config.data_dir).expanduser().absolute())
    recipe: Any = OmegaConf.to_container(config)  # with `${data_dir}` left open, for those who evaluate elsewhere
    OmegaConf.resolve(config)
    pl.seed_everything(config.seed, workers=True, verbose=False)
    data = build_data(config.dataset, built(config.transform), built(config.sampler), config.seed)
    data.prepare_data()
    data.setup("fit")
    module = build_module(config, data, recipe)
    run_dir = Path(config.run_dir)
    last = claim(run_dir, config)
    history = History(config.trainer.log_every_n_steps)
    logger = built(config.logger) if config.logger else False
    try:
        tell_config(logger, config)
        trainer = built({**config.trainer, "callbacks": [*callbacks(config), history], "logger": logger})
        trainer.fit(module, data, ckpt_path=last)
        return finish(config, trainer, module, data, history)
    finally:
        if isinstance(logger, WandbLogger):  # an open run would take in the next job of a sweep
            logger.experiment.finish()


def build_module(config: DictConfig, data: ReIDDataModule, recipe: dict[str, Any]) -> ReIDModule:
    """The network for as many identities as the data has, its losses, how it is optimised, and ``recipe`` for later."""
    transform = data.transform
    plain: Any = OmegaConf.to_container(config)
    kept = {key: recipe[key] for key in ("dataset", "transform", "sampler", "data_dir", "seed", "monitor")}
    preprocessing = {key: getattr(transform, key) for key in ("height", "width", "interpolation", "mean", "std")}
    return ReIDModule(
        built(config.model)(num_ids=data.num_ids, mean=transform.mean, std=transform.std),
        built(config.loss),
        built(config.optimizer),
        built(config.schedule),
        new_lr_factor=config.new_lr_factor,
        decay_norm_and_bias=config.decay_norm_and_bias,
        frozen_epochs=config.frozen_epochs,
        description=describe(plain["model"], data.num_ids, preprocessing, list(data.label_map), kept),
    )


def callbacks(config: DictConfig) -> list[pl.Callback]:
    """Checkpoints ``best`` and ``last``, and the progress bar."""
    kept = partial(
        ModelCheckpoint,
        Path(config.run_dir) / "checkpoints",
        mode="max",
        auto_insert_metric_name=False,
        enable_version_counter=False,
    )
    if config.dataset.val_fraction:
        # Two, since Lightning's `save_last` follows the best one and not the epochs.
        found: list[pl.Callback] = [
            kept(filename="best", monitor=config.monitor),
            kept(filename="last", save_on_train_epoch_end=True),
        ]
    else:
        log.info("no identities are held out (dataset.val_fraction=0): best.ckpt is the last")
        found = [kept(filename="best", save_last=True)]
    return [*found, Progress()] if config.trainer.enable_progress_bar else found


def tell_config(logger: Logger | bool, config: DictConfig) -> None:
    """Sends the configuration to W&B; the run directory holds it in any case."""
    if isinstance(logger, WandbLogger):
        plain: Any = OmegaConf.to_container(config)
        logger.log_hyperparams(plain)


def finish(
    config: DictConfig, trainer: pl.Trainer, module: ReIDModule, data: ReIDDataModule, history: History
) -> dict[str, float]:
    """Tests ``best.ckpt`` and writes what the run directory holds beside checkpoints."""
    best = Path(config.run_dir) / "checkpoints" / "best.ckpt"
    trainer.test(module, data, ckpt_path=best, verbose=False, weights_only=True)
    scores = report.scores(module.results)
    if trainer.is_global_zero:
        report.write_metrics(scores, Path(config.run_dir) / "metrics.json")
        print(report.table(module.results))
        if config.figures:
            send_pictures(trainer.logger, pictures.draw(Path(config.run_dir), module, data, history.values))
    return scores


@rank_zero_only
def send_pictures(logger: Logger | None, paths: list[Path]) -> None:
    """Hands the pictures of a run to W&B."""
    if isinstance(logger, WandbLogger):
        for path in paths:
            logger.log_image(f"figures/{path.stem}", [str(path)])


if __name__ == "__main__":
    main()
