"""What a run keeps and shows beside Lightning's own: its history in memory, and the time left on the progress bar."""

import math
import time
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback, TQDMProgressBar

from aelm.types import Batch


class History(Callback):
    """Logged values by name as ``(step, value)``, whichever logger is chosen; saved with the checkpoint."""

    def __init__(self, every_n_steps: int = 10) -> None:
        self.every_n_steps = every_n_steps
        self.values: dict[str, list[tuple[int, float]]] = {}

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if trainer.global_step % self.every_n_steps == 0:
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
    """Lightning's bar, with the time that the whole training still takes."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._started, self._first_step = time.monotonic(), trainer.global_step

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        shown: dict[str, Any] = super().get_metrics(trainer, pl_module)
        shown.pop("v_num", None)
        done, steps = trainer.global_step - self._first_step, trainer.estimated_stepping_batches
        if trainer.training and done and math.isfinite(steps):  # a training without end has no time left
            left = (time.monotonic() - self._started) / done * (steps - trainer.global_step)
            shown["left"] = str(timedelta(seconds=round(max(left, 0))))
        return shown
