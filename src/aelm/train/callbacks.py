"""Training callbacks: weight averaging, the erasing schedule, history, progress bar, and a stop at NaN or infinity."""

import itertools
import math
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, TQDMProgressBar, WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from aelm.data import ReIDDataset
from aelm.devices import async_copy
from aelm.models import AELM, ReIDNetwork
from aelm.models.network import StageOutputs
from aelm.module import ReIDModule
from aelm.schedules import training_length
from aelm.types import Batch, InputError, NotFiniteError


class Average(AveragedModel):
    """torch's exponential moving average of weights and buffers, without waiting for the GPU.

    torch keeps the number of updates on the device and synchronises several times an update. Here it stays on the CPU;
    the average only needs to know whether it is zero.

    Args:
        model: The model to average; copied.
        device: Device of the average.
        decay: Share of the average that each update keeps.
    """

    def __init__(self, model: nn.Module, device: torch.device, decay: float) -> None:
        typed: Callable[[float], Any] = get_ema_multi_avg_fn
        super().__init__(model, device, use_buffers=True)
        self.move = typed(decay)
        self.n_averaged = torch.tensor(0)

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        pairs = list(zip(tensors(self.module), tensors(model), strict=True))
        if self.n_averaged == 0:
            for average, current in pairs:
                average.copy_(current)
        else:
            for average, current in pairs:
                if not average.is_floating_point():  # counters of batch norms
                    average.copy_(current)
            for kind in {average.dtype for average, _ in pairs if average.is_floating_point()}:  # few kernels
                own, new = zip(*(pair for pair in pairs if pair[0].dtype == kind), strict=True)
                self.move(list(own), list(new), None)
        self.n_averaged += 1


def tensors(model: nn.Module) -> list[Tensor]:
    """Parameters and buffers of a model, without gradients."""
    return [tensor.detach() for tensor in itertools.chain(model.parameters(), model.buffers())]


class Averaging(WeightAveraging):
    """Lightning's weight averaging with an exponential moving average, after every optimizer step.

    Unlike Lightning's ``EMAWeightAveraging`` this keeps the average on the model's device, updates all weights in few
    calls without waiting for the GPU, and tests the average in a checkpoint, not the weights that training resumes
    from.

    Args:
        decay: Share of the average that each step keeps, in (0, 1).

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise InputError(f"`ema` must lie in (0, 1), or be null for none; got {decay}")
        super().__init__()
        self.decay = decay

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if stage == "fit":
            # The model moves to its device later: `pl_module.device` is still the CPU.
            average = self._average_model = Average(pl_module, trainer.strategy.root_device, self.decay)
            if isinstance(pl_module, ReIDModule) and isinstance(average.module, ReIDModule):
                pl_module.average = partial(predictions, average.module.network)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


@torch.no_grad()
def predictions(network: ReIDNetwork, images: Tensor) -> StageOutputs:
    """Outputs of a network in evaluation mode for pictures ``(B, 3, H, W)``: nothing is erased."""
    outputs: StageOutputs = network.eval()(images)
    return outputs


class ErasingSchedule(Callback):
    """Sets how much :class:`aelm.models.AELM` erases, at the start of each epoch.

    Args:
        schedule: Maps (epoch, number of epochs) to a strength in 0 .. 1: 1 erases at or above ``threshold``, less
            raises the threshold, and 0 erases nothing (see :func:`aelm.schedules.ramp`).
        epochs: Number of training epochs.

    Raises:
        ValueError: If the schedule erases in no epoch.
    """

    def __init__(self, schedule: Callable[[float, float], float], epochs: int | None) -> None:
        if epochs is None or epochs < 0:
            raise InputError("`erasing` needs a known number of epochs: give `trainer.max_epochs`")
        if not any(schedule(epoch, epochs) > 0 for epoch in range(epochs)):
            raise InputError(
                f"`erasing` erases in none of {epochs} epochs (`trainer.max_epochs`): begin earlier, stop later, or "
                "`erasing=none` for all of them"
            )
        self.schedule = schedule
        self.epochs = epochs

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        length = training_length(self.epochs, trainer.max_steps, max(steps, 1))
        strength = self.schedule(trainer.current_epoch, length)
        for head in erasing_heads(pl_module):
            head.set_strength(strength)

    on_train_start = on_train_epoch_start  # Lightning skips the latter when a run resumes within an epoch


def erasing_heads(module: nn.Module) -> list[AELM]:
    """The classifiers that erase."""
    return [head for head in module.modules() if isinstance(head, AELM)]


class History(Callback):
    """Logged values by name as ``(step, value)``, for every logger; saved in the checkpoint.

    Args:
        every_n_steps: Interval between recorded training values; 0 records none, as in Lightning.
    """

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self.values: dict[str, list[tuple[int, float]]] = {}
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._done = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        # Under gradient accumulation most batches take no step.
        stepped, self._done = trainer.global_step != self._done, trainer.global_step
        if stepped and self.every_n_steps and self._done % self.every_n_steps == 0:
            self._note(trainer, "train/")
            for group in trainer.optimizers[0].param_groups:
                self._append(f"lr-{group.get('name', 'all')}", trainer.global_step, group["lr"])

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._note(trainer, "val")

    def _note(self, trainer: pl.Trainer, prefix: str) -> None:
        for name, value in trainer.callback_metrics.items():
            if name.startswith(prefix):
                self._append(name, trainer.global_step, float(value))

    def _append(self, name: str, step: int, value: float) -> None:
        self.values.setdefault(name, []).append((step, value))

    def state_dict(self) -> dict[str, Any]:
        return {"values": self.values}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.values = {name: [(int(s), float(v)) for s, v in series] for name, series in state_dict["values"].items()}


class Progress(TQDMProgressBar):
    """Lightning's progress bar with the loss and the remaining training time.

    The loss is read at most once every ``loss_every_seconds``, since each read waits for the device.
    """

    def __init__(self, loss_every_seconds: float = 1.0) -> None:
        super().__init__()
        self.loss_every_seconds = loss_every_seconds
        self._read, self._loss = -math.inf, ""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        if "train/loss" in trainer.callback_metrics and time.monotonic() >= self._read + self.loss_every_seconds:
            self._loss = f"{float(trainer.callback_metrics['train/loss']):.3g}"
            self._read = time.monotonic()
        if self._loss:
            shown["train/loss"] = self._loss
        done, steps = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        if trainer.training and done and math.isfinite(steps):  # unknown for an endless training
            left = (time.monotonic() - self._started) / done * (steps - trainer.global_step)
            shown["left"] = str(timedelta(seconds=round(max(left, 0))))
        return shown


CURE = (
    "Look at those pictures; if they are sound, lower `optimizer.lr`, warm up longer (`schedule.warmup_epochs`), set "
    "`trainer.gradient_clip_val`, or compute with `trainer.precision=32-true`, under another `name`"
)


class Step(NamedTuple):
    """A running step: its number and epoch, the positions of its pictures in the data set, and its loss.

    ``arrived`` is the CUDA event after which the loss is on the CPU; None if it already is.
    """

    number: int
    epoch: int
    positions: Tensor
    loss: Tensor
    arrived: Any


class FiniteTraining(Callback):
    """Stops training at the first loss that is NaN or infinite; names the step, its files and the last checkpoint.

    On the CPU a loss is checked before its backward pass. On a GPU it is copied in the background and checked at the
    next step, without waiting. Weights are checked before each validation and each checkpoint, so a checkpoint that is
    not finite never replaces a good one.

    Args:
        last: The checkpoint that a run resumes from.
    """

    def __init__(self, last: Path) -> None:
        self.last = last
        self._positions = torch.empty(0)
        self._now: Step | None = None
        self._before: Step | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        self._positions = batch.position

    def on_before_backward(self, trainer: pl.Trainer, pl_module: pl.LightningModule, loss: Tensor) -> None:
        self._look(trainer, pl_module)
        value, arrived = async_copy(loss.detach())
        self._before = self._now
        self._now = Step(trainer.global_step, trainer.current_epoch, self._positions, value, arrived)
        if arrived is None:
            self._look(trainer, pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.sanity_checking:
            self._look(trainer, pl_module)
            self._look_at_weights(trainer, pl_module.state_dict())

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._look(trainer, pl_module)
        self._look_at_weights(trainer, checkpoint["state_dict"])

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._look(trainer, pl_module)

    def _look(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Raises FloatingPointError if the loss of the current step has arrived and is not finite."""
        step = self._now
        if step is None:
            return
        if step.arrived is not None:
            step.arrived.synchronize()
        loss = float(step.loss)
        if math.isfinite(loss):
            return
        causes = [f"the loss of step {step.number} (epoch {step.epoch}) is {loss}, over {batch_files(trainer, step)}"]
        if self._before is not None and not_finite(pl_module.state_dict()):
            causes.append(
                f"or the gradient of the step before was not finite, over {batch_files(trainer, self._before)}"
            )
        self._stop(causes)

    def _look_at_weights(self, trainer: pl.Trainer, state: dict[str, Any]) -> None:
        name, step = not_finite(state), self._now
        if name and step is not None:
            reason = f"`{name}` is not finite after step {step.number} (epoch {step.epoch}), though its loss was"
            self._stop([f"{reason}, over {batch_files(trainer, step)}"])

    def _stop(self, reasons: Sequence[str]) -> None:
        raise NotFiniteError(f"training stopped: {'; '.join(reasons)}. {progress_kept(self.last)}. {CURE}")


def not_finite(state: dict[str, Any]) -> str:
    """Name of the first tensor with a NaN or infinite value; empty if there is none.

    >>> not_finite({"a": torch.zeros(2), "b": torch.tensor([0, torch.inf]), "c": torch.tensor(1)})
    'b'
    """
    named = {key: value for key, value in state.items() if isinstance(value, Tensor) and value.is_floating_point()}
    sound = [value.isfinite().all() for value in named.values()]
    if not sound or bool(torch.stack(sound).all()):  # one synchronisation for all tensors
        return ""
    return next(key for key, value in zip(named, sound, strict=True) if not value)


def batch_files(trainer: pl.Trainer, step: Step) -> str:
    """The files of a step's batch, as text; their positions if the data set is not aelm's."""
    dataset, positions = getattr(trainer.train_dataloader, "dataset", None), step.positions.tolist()
    if not isinstance(dataset, ReIDDataset):
        return f"the positions {positions} of the data set"
    paths = [dataset.path(position) for position in positions]
    folders = sorted({os.path.dirname(path) for path in paths})
    return f"{', '.join(map(os.path.basename, paths))} in {', '.join(folders)}"


def progress_kept(last: Path) -> str:
    """The last checkpoint of a stopped training, as text."""
    if not last.is_file():
        return "No checkpoint had been written yet"
    step = torch.load(last, map_location="cpu", weights_only=True, mmap=True)["global_step"]
    return f"The last good checkpoint is {last}, after step {step}"
