"""Builds Lightning's Trainer and its callbacks from a training config."""

import logging
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import ModelCheckpoint, Timer
from pytorch_lightning.loggers import Logger

from aelm.command.build import built, check_loops
from aelm.report.metrics import COLUMNS
from aelm.train.callbacks import Averaging, ErasingSchedule, FiniteTraining, History, Progress
from aelm.train.saving import AtomicCheckpointIO, RandomStates, StepCheckpoint
from aelm.types import InputError

log = logging.getLogger(__name__)

# Trainer keys that must not be 0: nothing would be trained or saved.
TRAINING = ("max_epochs", "max_steps", "limit_train_batches")
LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0, "gradient_clip_val": 0}
NEVER = "; to validate never, hold nobody out: dataset.val_fraction=0"
SEEDS = 2**32  # the range that numpy and torch both accept


def build_trainer(config: DictConfig, logger: Logger | bool, history: History) -> pl.Trainer:
    """The Trainer of ``config``; writes nothing yet.

    Raises:
        ValueError: If a sweep would start several processes, ``monitor`` is not a validation score, or a trainer key
            conflicts with checkpoints or ranking.
    """
    check_monitor(config.monitor)
    check_loops(config.trainer)
    guard = FiniteTraining(Path(config.run_dir) / "checkpoints" / "last.ckpt")
    parts: list[pl.Callback] = [*checkpoints(config), RandomStates(), guard, history, timer(config.trainer)]
    if config.ema is not None:
        parts.append(Averaging(config.ema))
    if config.erasing is not None:
        parts.append(ErasingSchedule(built(config.erasing), config.trainer.max_epochs))
    if config.trainer.enable_progress_bar:
        parts.append(Progress())
    extra: dict[str, Any] = {"callbacks": parts, "logger": logger, "plugins": [AtomicCheckpointIO()]}
    # Lightning ignores `max_time` if there is another Timer.
    wanted: Any = OmegaConf.to_container(config.trainer, resolve=True)
    trainer: pl.Trainer = built({**wanted, "max_time": None, **extra})
    refuse_processes_in_a_sweep(trainer)
    return trainer


def checkpoints(config: DictConfig) -> list[pl.Callback]:
    """The callbacks that write ``best.ckpt`` and ``last.ckpt``."""
    folder = Path(config.run_dir) / "checkpoints"
    kept = partial(ModelCheckpoint, folder, mode="max", auto_insert_metric_name=False, enable_version_counter=False)
    if config.dataset.val_fraction:
        every, epochs = config.trainer.check_val_every_n_epoch, config.trainer.max_epochs
        if every and epochs and 0 < epochs < every:
            raise InputError(
                f"`trainer.check_val_every_n_epoch`={every} never comes in {epochs} epochs (`trainer.max_epochs`), and "
                "there would be no best.ckpt: validate more often, or hold nobody out with `dataset.val_fraction=0`"
            )
        # Two callbacks: Lightning's `save_last` saves when the best one does, not every epoch.
        found: list[pl.Callback] = [
            kept(filename="best", monitor=config.monitor),
            kept(filename="last", save_on_train_epoch_end=True),
        ]
    else:
        log.info("no identities are held out (dataset.val_fraction=0): best.ckpt is the last")
        found = [kept(filename="best", save_last=True, save_on_train_epoch_end=True)]
    if config.checkpoint_every_n_steps is not None:
        found.append(StepCheckpoint(folder / "last.ckpt", config.checkpoint_every_n_steps))
    return found


def timer(trainer: DictConfig) -> Timer:
    """Measures the training time, and stops training after ``max_time``.

    Raises:
        ValueError: If ``max_time`` is not a valid time.
    """
    limit = trainer.get("max_time")
    try:
        found = Timer(None if limit is None else str(limit))
    except MisconfigurationException as error:
        raise InputError(f"`trainer.max_time` must be days:hours:minutes:seconds, got {limit!r}") from error
    if limit is not None and not found.time_remaining():
        raise InputError(f"`trainer.max_time` leaves no time, got {limit!r}: null means no limit")
    return found


def check_numbers(config: DictConfig) -> None:
    """Raises ValueError for numbers that would fail at the first or last step, or be silently changed."""
    if not 0 <= config.seed < SEEDS:
        raise InputError(f"`seed` must lie in 0 .. {SEEDS - 1}, got {config.seed}; for chance choose any")
    if config.resume not in (None, "auto"):
        raise InputError(f"`resume` must be auto, or null for a fresh run; got {config.resume!r}")
    for key, least in LEAST.items():
        value = config.trainer.get(key)
        if value is not None and not value >= least:
            raise InputError(f"`trainer.{key}` must be at least {least}, got {value}{NEVER if 'val' in key else ''}")
    interval = config.trainer.get("val_check_interval")
    if isinstance(interval, (int, float)) and not interval > 0:
        raise InputError(f"`trainer.val_check_interval` must be above 0, got {interval}{NEVER}")
    for key in TRAINING:
        if config.trainer.get(key) == 0:
            raise InputError(
                f"`trainer.{key}=0` trains nothing, and leaves no checkpoint to test: give 1 or more; what is trained "
                "already is tested by `aelm evaluate checkpoint=...`"
            )


def check_monitor(name: str) -> None:
    """Raises ValueError unless ``name`` is a validation score; Lightning would only notice after the first epoch."""
    known = [f"val/{score}" for score in COLUMNS]
    if name not in known:
        raise InputError(f"`monitor` must be one of {', '.join(known)}, got {name!r}")


def refuse_processes_in_a_sweep(trainer: pl.Trainer) -> None:
    """Raises ValueError if Lightning would start further processes for one job of a Hydra multirun.

    Each of them would run the whole sweep again, and they would wait for each other forever.
    """
    sweep = HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if sweep and trainer.world_size > 1 and not (environment and environment.creates_processes_externally):
        raise InputError(
            f"a sweep (--multirun) cannot start {trainer.world_size} processes for each of its jobs. What works: "
            f"`torchrun --nproc_per_node={trainer.num_devices} -m aelm.train -m ...`, which starts them once for all "
            "jobs; `hydra/launcher=submitit_slurm`, where SLURM starts them; or one process a job (trainer.devices=1)"
        )
