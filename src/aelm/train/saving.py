"""Atomic checkpoint writes, with the states of all random generators."""

import os
import random
import re
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback, Checkpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO

from aelm.checkpoint import read_checkpoint
from aelm.data.loader import cuda_is_used
from aelm.files import write_file
from aelm.types import Batch, InputError


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


class StepCheckpoint(Checkpoint):
    """Saves to one file every n optimizer steps within an epoch, so a killed run loses at most n steps.

    Skips the last batch of an epoch: the checkpoints at its end also hold the validation scores.

    Args:
        path: The file.
        every_n_steps: Optimizer steps, counted from the start of the training.

    Raises:
        ValueError: If ``every_n_steps`` is less than 1.
    """

    def __init__(self, path: Path, every_n_steps: int) -> None:
        if every_n_steps < 1:
            raise InputError(f"`checkpoint_every_n_steps` must be at least 1, or null; got {every_n_steps}")
        self.path = path
        self.every_n_steps = every_n_steps
        self._done = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._done = trainer.global_step

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        # Under gradient accumulation most batches take no step, and no checkpoint holds accumulated gradients.
        stepped, self._done = trainer.global_step > self._done, trainer.global_step
        if stepped and self._done % self.every_n_steps == 0 and not trainer.is_last_batch:
            trainer.save_checkpoint(self.path, weights_only=False)
