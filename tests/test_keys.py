"""Keys of speed and averaging: what they change, and what they must not."""

from functools import partial

import pytest
import torch
from torch import nn

from aelm.losses import IdentityLoss
from aelm.models import AELM, CoAM, ReIDNetwork
from aelm.module import ReIDModule
from aelm.train.callbacks import Averaging


def state(run_dir, name="last"):
    return torch.load(f"{run_dir}/checkpoints/{name}.ckpt", weights_only=True)


def test_ema_saves_and_tests_the_average_and_trains_on_without_it(trained, tested, monkeypatch):
    weights = []

    def note(self, batch, batch_idx):
        weights.append({key: value.detach().clone() for key, value in self.state_dict().items()})

    monkeypatch.setattr(ReIDModule, "on_train_batch_start", note, raising=False)
    options = ["figures=false", "optimizer.lr=0.01", "schedule=none"]
    without, _ = trained(*options, name="without")
    own = weights[:]
    weights.clear()
    run_dir, scores = trained(*options, "ema=0.8", name="with")
    assert all(torch.equal(a[key], b[key]) for a, b in zip(own, weights, strict=True) for key in a)
    last, without = state(run_dir), state(without)
    assert all(torch.equal(without["state_dict"][k], last["current_model_state"][k]) for k in without["state_dict"])
    # After each step the average keeps 0.8 of itself; it starts as the weights after the first step.
    average = None
    for one in [*weights[1:], last["current_model_state"]]:
        values = {k: v.double() for k, v in one.items() if v.is_floating_point()}
        average = values if average is None else {k: 0.8 * average[k] + 0.2 * v for k, v in values.items()}
    found = {k: v.double() for k, v in last["state_dict"].items() if v.is_floating_point()}
    assert all(torch.allclose(found[k], v, rtol=1e-4, atol=1e-6) for k, v in average.items())
    assert not all(torch.allclose(found[k], without["state_dict"][k].double(), rtol=1e-4, atol=1e-6) for k in found)
    again = tested(f"{run_dir}/checkpoints/best.ckpt")
    assert {name: again[name] for name in scores} == scores


@pytest.mark.parametrize("decay", [0, 1, -0.5])
def test_a_decay_outside_its_range_is_refused(decay):
    with pytest.raises(ValueError, match=r"`ema` must lie in \(0, 1\), or be null for none"):
        Averaging(decay)


def test_channels_last_is_another_layout_of_the_same_training(trained):
    options = ["figures=false", "trainer.max_epochs=1"]
    plain, _ = trained(*options, name="plain")
    other, _ = trained(*options, "channels_last=true", name="other")
    one, two = state(plain)["state_dict"], state(other)["state_dict"]
    key = "network.backbone.network.conv1.3.weight"
    assert not one[key].is_contiguous(memory_format=torch.channels_last)
    assert two[key].is_contiguous(memory_format=torch.channels_last)
    assert all(torch.allclose(one[k], two[k], rtol=1e-2, atol=2e-3) for k in one)


def test_compile_compiles_the_training_step_alone(trained, monkeypatch):
    calls = []

    def traced(function, **options):
        assert not options

        def run(*arguments):
            calls.append(arguments[0].shape[0])
            return function(*arguments)

        return run

    monkeypatch.setattr(torch, "compile", traced)
    run_dir, _ = trained("figures=false", "compile=true", "trainer.max_epochs=1")
    assert calls == [4, 4, 4]
    monkeypatch.undo()
    same, _ = trained("figures=false", "trainer.max_epochs=1", name="same")
    one, two = state(run_dir)["state_dict"], state(same)["state_dict"]
    assert all(torch.equal(one[k], two[k]) for k in one)


@pytest.mark.slow
def test_a_compiled_step_has_the_gradients_of_a_plain_one():
    """With dynamo's own graphs; inductor's code would take minutes to build here."""
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    network = ReIDNetwork(trunk, 5, partial(CoAM, reduction=2), partial(AELM, embed_dim=6))
    images, pids = torch.randint(256, (4, 3, 32, 16), dtype=torch.uint8), torch.tensor([0, 1, 2, 3])
    gradients = []
    for forward in (network, torch.compile(network.forward, backend="aot_eager")):
        network.zero_grad()
        IdentityLoss()(forward(images, pids), pids).backward()
        gradients.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in zip(*gradients, strict=True))


def test_the_mean_of_losses_is_what_accumulation_and_clipping_act_on(trained):
    """Two batches of 4, accumulated, make one step; a clipped step is no longer than asked for."""
    options = [
        "figures=false",
        "trainer.max_epochs=1",
        "optimizer=sgd",
        "optimizer.momentum=0",
        "optimizer.nesterov=false",
    ]
    steps = [
        "sampler.steps_per_epoch=4",
        "trainer.accumulate_grad_batches=2",
        "schedule=none",
        "optimizer.weight_decay=0",
    ]
    run_dir, _ = trained(*options, *steps, "trainer.gradient_clip_val=0.001", "optimizer.lr=1", name="clipped")
    found = state(run_dir)
    assert found["global_step"] == 2
    start, _ = trained(*options, *steps, "optimizer.lr=0", name="start")
    before, after = state(start)["state_dict"], found["state_dict"]
    learnt = [k for k in before if "running" not in k and "num_batches" not in k]
    moved = sum(float((before[k] - after[k]).pow(2).sum()) for k in learnt) ** 0.5
    assert 0.0005 < moved <= 2 * 0.001 * 1.01
