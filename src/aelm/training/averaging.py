"""A moving average of the weights, which is what gets validated, saved and tested."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.trainer.states import TrainerFn
from torch.optim.swa_utils import get_ema_multi_avg_fn


class Averaging(WeightAveraging):
    """Lightning's weight averaging with an exponential moving average, after every optimizer step.

    Beside Lightning's ``EMAWeightAveraging`` this keeps the average on the device of the model, moves all weights in
    few calls, and lets a test take the average that a checkpoint holds, not the weights that training goes on from.

    Args:
        decay: How much of the average each step keeps, in (0, 1).

    Raises:
        ValueError: If ``decay`` lies elsewhere.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"`ema` must lie in (0, 1), or be null for none; got {decay}")
        typed: Callable[[float], Any] = get_ema_multi_avg_fn
        super().__init__(multi_avg_fn=typed(decay))

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        # The model itself gets there later: asked for its device now it would name the CPU.
        self._device = trainer.strategy.root_device
        super().setup(trainer, pl_module, stage)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)
