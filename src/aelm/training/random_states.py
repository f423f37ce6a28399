"""The states of all random generators, saved with each checkpoint and set again when a run goes on."""

import random
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback


def random_states() -> dict[str, Any]:
    """Where the global generators of Python, numpy and torch stand in this process, as plain data and tensors."""
    version, numbers, gauss = random.getstate()
    kind, key, *rest = np.random.get_state(legacy=True)  # what third parties draw from; aelm itself does not
    return {
        "python": (version, list(numbers), gauss),
        "numpy": (str(kind), torch.from_numpy(np.asarray(key).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
        "cuda": list(torch.cuda.get_rng_state_all()),
    }


def set_random_states(states: dict[str, Any]) -> None:
    """Sets what :func:`random_states` gave; states of CUDA devices that are not here are left out.

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
    """Saves the random states of every process with each checkpoint; a run that goes on draws what it would have.

    The states are set when training starts: what a command draws before, to build a network that the checkpoint then
    fills, no longer matters.
    """

    def __init__(self) -> None:
        self._to_set: list[dict[str, Any]] = []

    def state_dict(self) -> dict[str, Any]:
        # All processes come by here when one of them is about to write.
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
