"""Builds Lightning's Trainer and its callbacks, and writes its checkpoints atomically, with random states."""

import logging
import os
import random
import re
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.callbacks import Callback, Checkpoint, ModelCheckpoint, Timer
from pytorch_lightning.loggers import Logger
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.trainer.states import TrainerFn

from aelm.checkpoint import read_checkpoint
from aelm.command.build import built, check_loops
from aelm.data.loader import cuda_is_used
from aelm.files import write_file
from aelm.report.metrics import COLUMNS
from aelm.train.callbacks import Averaging, ErasingSchedule, FiniteTraining, History, Progress
from aelm.types import Batch, InputError

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
    wanted: Any = OmegaConf.to_container(config.trainer, resolve=True)
    for key, own in (("callbacks", parts), ("plugins", [AtomicCheckpointIO()])):
        more = wanted.get(key) or []
        wanted[key] = [*own, *(more if isinstance(more, list) else [more])]
    # Lightning ignores `max_time` if there is another Timer.
    trainer: pl.Trainer = built({**wanted, "max_time": None, "logger": logger})
    # With `max_steps`, Lightning takes an epoch that a checkpoint has finished for unfinished, and skips the next one.
    trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
    if trainer.strategy.root_device.type == "cuda":
        # By torch's older interface: with the newer one Lightning could not read it.
        torch.set_float32_matmul_precision("high")
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
        best = kept(filename="best", monitor=config.monitor)
    else:
        log.info("no identities are held out (dataset.val_fraction=0): best.ckpt is the last")
        best = kept(filename="best", save_on_train_epoch_end=True)
    return [best, LastCheckpoint(folder / "last.ckpt", config.checkpoint_every_n_steps)]


def timer(trainer: DictConfig) -> Timer:
    """Measures the training time, and stops training after ``max_time``.

    Raises:
        ValueError: If ``max_time`` is not a valid time.
    """
    limit = trainer.get("max_time")
    try:
        found = StepTimer(None if limit is None else str(limit))
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


def random_states() -> dict[str, Any]:
    """States of this process's global generators of Python, numpy and torch, as plain data and tensors."""
    version, numbers, gauss = random.getstate()
    kind, key, *rest = np.random.get_state(legacy=True)  # used by other libraries, not by aelm
    return {
        "python": (version, list(numbers), gauss),
        "numpy": (str(kind), torch.from_numpy(np.asarray(key).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()) if cuda_is_used() else [],
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Restores the result of :func:`random_states`; states of missing CUDA devices are ignored.

    >>> states = random_states()
    >>> first = random.random(), torch.rand(1), np.random.rand()
    >>> set_random_states(states)
    >>> (random.random(), torch.rand(1), np.random.rand()) == first
    True
    """
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    kind, key, *rest = states["numpy"]
    np.random.set_state((kind, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["torch"].cpu())
    for device, state in enumerate(states["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(state.cpu(), device)


class RandomStates(Callback):
    """Saves the random states of every process in each checkpoint, so a resumed run draws the same numbers.

    They are restored when training starts: numbers drawn earlier, such as initial weights, have no effect.
    """

    def __init__(self) -> None:
        self._to_set: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        # All processes call this before one of them writes.
        states: list[Any] = [random_states()]
        if dist.is_available() and dist.is_initialized():
            states = [None] * dist.get_world_size()
            dist.all_gather_object(states, random_states())
        return {"states": states}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._to_set = state_dict["states"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_rank < len(self._to_set):
            set_random_states(self._to_set[trainer.global_rank])
        self._to_set = []


class _ErrorRecorder:
    """A file that keeps the error of a failed write (full disk, Ctrl-C), which torch replaces by a RuntimeError."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.name, self.flush = file, file.name, file.flush
        self.error: BaseException | None = None

    def write(self, data: Any) -> int:
        try:
            return self.file.write(data)
        except BaseException as error:
            self.error = error
            raise


def save_atomically(content: Any, path: Path) -> None:
    """Atomic ``torch.save``: readers find either the old or the new complete file, even after a crash.

    Writes ``.<name>.partial`` in the same folder, syncs it to disk, and renames it.

    Raises:
        OSError: If it cannot be written; the old file is kept and the partial file removed.
    """

    def write(file: BinaryIO) -> None:
        watched: Any = _ErrorRecorder(file)
        try:
            torch.save(content, watched)
        except RuntimeError as error:  # torch's error for a failed write
            raise watched.error or OSError(str(error)) from error
        file.flush()
        os.fsync(file.fileno())

    try:
        # A fixed name, so the next checkpoint overwrites the partial file of a killed run.
        write_file(path, write, path.with_name(f".{path.name}.partial"))
    except OSError as error:
        raise OSError(f"the checkpoint {error}; then go on with `resume=auto`") from error
    if os.name == "posix":  # Windows cannot open a directory, and syncs renames itself
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Saves with :func:`save_atomically` and loads with :func:`aelm.checkpoint.read_checkpoint`.

    Lightning's own class keeps a second copy in memory, does not sync, may move across file systems, can execute code
    from a file, and loses the best score if the checkpoint folder has moved.
    """

    def load_checkpoint(
        self, path: str | os.PathLike[str], map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        checkpoint = read_checkpoint(Path(path))
        folder = Path(path).resolve().parent

        def here(place: str) -> str:
            return str(folder / re.split(r"[/\\]", place)[-1]) if place else place

        for state in checkpoint.get("callbacks", {}).values():
            if isinstance(state, dict) and "best_k_models" in state:
                state["dirpath"] = str(folder)
                state["best_k_models"] = {here(place): score for place, score in state["best_k_models"].items()}
                for key in ("best_model_path", "kth_best_model_path", "last_model_path"):
                    state[key] = here(state[key])
        return checkpoint

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        if storage_options is not None or "://" in str(path):
            raise InputError(
                f"checkpoints are written to local files, got {path} with {storage_options}: use a local `run_dir`"
            )
        save_atomically(checkpoint, Path(path))


class StepTimer(Timer):
    """Lightning's timer, but training stops only after an optimizer step: no checkpoint holds accumulated gradients."""

    _steps = 0

    @property
    def state_key(self) -> str:
        return Timer.__qualname__

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._steps = trainer.global_step

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any, **kwargs: Any) -> None:
        stepped, self._steps = trainer.global_step != self._steps, trainer.global_step
        if stepped:
            super().on_train_batch_end(trainer, *args, **kwargs)


class LastCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` at the end of each epoch, every n optimizer steps, and where a limit stops the training.

    A run that goes on from it continues with the next batch. Within an epoch, it also holds the scores of a validation
    that follows the step.

    Args:
        path: The file.
        every_n_steps: Optimizer steps, counted from the start of the training; a killed run loses at most as many. None
            saves only at the end of epochs.

    Raises:
        ValueError: If ``every_n_steps`` is less than 1.
    """

    def __init__(self, path: Path, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise InputError(f"`checkpoint_every_n_steps` must be at least 1, or null; got {every_n_steps}")
        self.path = path
        self.every_n_steps = every_n_steps
        self._steps = 0
        self._stepped = False  # whether the last batch took a step
        self._saved = -1  # the step

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._steps = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        # Under gradient accumulation most batches take no step, and no checkpoint holds accumulated gradients.
        self._stepped, self._steps = trainer.global_step > self._steps, trainer.global_step
        due = self.every_n_steps is not None and self._steps % self.every_n_steps == 0
        ends = self._stops(trainer) or 0 < trainer.max_steps <= self._steps
        if self._stepped and (due or ends) and not trainer.is_last_batch:
            self._save(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        within = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and not trainer.is_last_batch
        if within and self._stepped and (self._stops(trainer) or self._saved == trainer.global_step):
            self._save(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_last_batch:  # else the training was stopped within the epoch
            self._save(trainer)

    def _stops(self, trainer: pl.Trainer) -> bool:
        """Whether the training stops here; `min_epochs` and `min_steps` may still forbid it."""
        return trainer.should_stop and trainer.fit_loop._can_stop_early

    def _save(self, trainer: pl.Trainer) -> None:
        if not getattr(trainer, "fast_dev_run", False):
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.path, weights_only=False)
