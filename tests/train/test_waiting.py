"""No step of a training waits for a GPU: what would read a value back is counted on the CPU, whoever asks for it."""

import time
import traceback
from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from pytorch_lightning.loggers import CSVLogger
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader

import aelm
from aelm.losses import CenterLoss, DistillationLoss
from aelm.train.callbacks import Average, Averaging, FiniteTraining, History, Progress
from tests.fake_gpu import Crossings
from tests.test_module import batches, module

# What reads on the CPU alone: labels are checked there alone, the loss that is looked at has come over by itself, and
# the average keeps its counter there, as torch's optimizers do, which ask for it through `_get_value`.
OF_THE_CPU = ("check_label_range", "_look", "update_parameters")
OF_A_STEP = tuple(str(Path(package.__file__).parent) for package in (aelm, pl))
EVERY = 5
STEPS = 12


class ReadBacks(TorchDispatchMode):
    """Counts, a step, the functions that ask for a tensor's value."""

    def __init__(self):
        super().__init__()
        self.step, self.found = 0, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten._local_scalar_dense.default:
            stack = traceback.extract_stack()
            asking = [frame.name for frame in stack if frame.filename.startswith(OF_A_STEP)][-1]
            if asking not in OF_THE_CPU and not any(frame.name == "_get_value" for frame in stack):
                self.found.setdefault(self.step, Counter())[asking] += 1
        return function(*args, **(kwargs or {}))


class Steps(pl.Callback):
    """Tells what step is under way; what follows the last one, and what comes before the first, is none."""

    def __init__(self, counted):
        self.counted = counted

    def on_train_batch_start(self, *_):
        self.counted.step += 1

    def on_train_epoch_end(self, *_):
        self.counted.step = -1000


class Arrived:
    def synchronize(self):
        pass


def read_backs(model, monkeypatch, tmp_path, *more):
    """By step from 1: who reads a value back in one epoch of a training with all that a run has."""
    monkeypatch.setattr("aelm.train.callbacks.async_copy", lambda loss: (loss.clone(), Arrived()))
    counted = ReadBacks()
    parts = [Steps(counted), FiniteTraining(tmp_path / "last.ckpt"), History(EVERY), *more]
    run = pl.Trainer(
        accelerator="cpu", max_epochs=1, num_sanity_val_steps=0, log_every_n_steps=EVERY, callbacks=parts,
        logger=CSVLogger(tmp_path), enable_checkpointing=False, enable_model_summary=False,
        enable_progress_bar=any(isinstance(part, Progress) for part in more), gradient_clip_val=1.0,
    )  # fmt: skip
    with counted:
        run.fit(model, DataLoader(batches(sizes=(8,) * STEPS, junk=None), batch_size=None))
    assert run.global_step == STEPS
    return {step: dict(who) for step, who in counted.found.items() if step > 0}


def test_values_are_read_back_at_steps_that_are_logged_alone(monkeypatch, tmp_path):
    optimizer = torch.optim.Adam
    found = read_backs(module(optimizer=optimizer), monkeypatch, tmp_path, Averaging(0.9), Progress(1e9))
    first = found.pop(1, {})
    assert set(first) <= {"get_metrics"}, "the bar's first look"
    assert set(found) == {EVERY, 2 * EVERY}


class OnTheBar(pl.Callback):
    def on_before_backward(self, trainer, pl_module, loss):
        pl_module.log("loss", loss, prog_bar=True)


@pytest.mark.parametrize(
    "reads", [OnTheBar, partial(Progress, 0.0), partial(WeightAveraging, multi_avg_fn=get_ema_multi_avg_fn(0.9))]
)
def test_what_reads_at_each_step_is_noticed(reads, monkeypatch, tmp_path):
    assert set(read_backs(module(), monkeypatch, tmp_path, reads())) == set(range(1, STEPS + 1))


def test_the_bar_reads_the_loss_once_a_second(monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    class Clock(pl.Callback):
        def on_train_batch_start(self, *_):
            now[0] += 0.25

    bar = Progress()
    found = read_backs(module(), monkeypatch, tmp_path, Clock(), bar)
    assert [step for step in found if "get_metrics" in found[step]] == [1, 5, 9]


class Mixed(nn.Module):
    """Weights and buffers of several types."""

    def __init__(self, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(3, 2, dtype=torch.bfloat16))
        with torch.no_grad():
            for tensor in (*self.parameters(), *self.buffers()):
                number = torch.randint(100, tensor.shape, generator=generator)
                tensor.copy_(number if tensor.dtype == torch.long else number / 7)


def test_the_average_equals_torchs_and_counters_are_those_of_the_model():
    ours = Average(Mixed(), torch.device("cpu"), decay=0.9)
    theirs = AveragedModel(Mixed(), multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    for seed in range(1, 6):
        for average in (ours, theirs):
            average.update_parameters(Mixed(seed))
        assert ours.state_dict().keys() == theirs.state_dict().keys()
        for key, value in theirs.state_dict().items():
            counts = key != "n_averaged" and not value.is_floating_point()
            wanted = Mixed(seed).state_dict()[key.removeprefix("module.")] if counts else value
            assert torch.equal(ours.state_dict()[key], wanted), key


def test_history_has_one_point_a_step_also_where_batches_are_accumulated():
    history = History(every_n_steps=2)
    options = {"max_epochs": 4, "accumulate_grad_batches": 3, "num_sanity_val_steps": 0, "logger": False}
    trainer = pl.Trainer(
        accelerator="cpu", callbacks=[history], enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **options,
    )  # fmt: skip
    trainer.fit(module(), DataLoader(batches(junk=None), batch_size=None))
    assert [step for step, _ in history.values["train/loss"]] == [2, 4]


@pytest.mark.parametrize("kind", [Average, AveragedModel])
def test_the_average_reads_nothing_from_its_device_and_sends_nothing_there(kind):
    """The device `meta` has no values to read."""
    device = torch.device("meta")
    model = Mixed().to(device)
    if kind is AveragedModel:  # what is to be avoided
        average = AveragedModel(model, device, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        with pytest.raises(RuntimeError, match="meta"):
            average.update_parameters(model)
        average.n_averaged = torch.tensor(1)  # nor is it enough to keep its counter on the CPU
    else:
        average = Average(model, device, 0.9)
    with Crossings() as crossings:
        for _ in range(3):
            average.update_parameters(model)
    assert average.n_averaged.device.type == "cpu"
    assert (crossings.count == 0) == (kind is Average)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("more", [{}, {"center": CenterLoss(4, 12), "distillation": DistillationLoss()}])
def test_no_step_on_a_gpu_waits_for_it(tmp_path, precision, more):
    """torch itself raises where the CPU waits, from the second step on: the first makes what lasts."""

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            torch.cuda.set_sync_debug_mode("error" if batch_idx else "default")

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.is_last_batch:
                torch.cuda.set_sync_debug_mode("default")

    parts = [FiniteTraining(tmp_path / "last.ckpt"), Averaging(0.9), Progress(1e9), History(1000), Watch()]
    run = pl.Trainer(
        accelerator="gpu", devices=1, max_epochs=1, num_sanity_val_steps=0, log_every_n_steps=1000, callbacks=parts,
        precision=precision, logger=False, enable_checkpointing=False, enable_model_summary=False,
    )  # fmt: skip
    try:
        run.fit(
            module(more, optimizer=torch.optim.Adam),
            DataLoader(batches(sizes=(8,) * STEPS, junk=None), batch_size=None),
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert run.global_step == STEPS
