from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.data import DataLoader, IterableDataset

from aelm.losses import IdentityLoss, TripletLoss
from aelm.models import AELM, IFCN, CoAM, RandomAELM, ReIDNetwork
from aelm.module import ReIDModule
from aelm.retrieval import rank_metrics
from aelm.schedules import cosine, multistep
from aelm.types import Batch
from tests.fake_gpu import Crossings

QUIET = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}


class Trunk(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.ReLU())


def module(losses=None, **options):
    torch.manual_seed(0)
    network = ReIDNetwork(Trunk(), 4, lambda c: nn.Identity(), partial(AELM, embed_dim=6))
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1, weight_decay=0.01), **options}
    return ReIDModule(network, {"identity": IdentityLoss(), "triplet": TripletLoss(), **(losses or {})}, **options)


def batches(seed=0, sizes=(8, 8, 5), queries=6, junk=20):
    """A test set in uneven batches: queries first, junk and distractors in the gallery."""
    generator = torch.Generator().manual_seed(seed)
    found, start = [], 0
    for size in sizes:
        position = torch.arange(start, start + size)
        pid = position % 4
        pid[position == junk] = -1
        images = torch.randint(256, (size, 3, 32, 16), dtype=torch.uint8, generator=generator)
        found.append(Batch(images, pid, (position < queries).long(), position, position < queries))
        start += size
    return found


def trainer(**options):
    return pl.Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, **QUIET, **options)


def loader(seed=0):
    return DataLoader(batches(seed), batch_size=None)


def pictures():
    """Training batches: every label counts."""
    return DataLoader(batches(junk=None), batch_size=None)


def test_test_scores_equal_rank_metrics_on_the_embeddings():
    model = module()
    scores = trainer().test(model, loader(), verbose=False)[0]
    parts = [torch.cat([getattr(b, key) for b in batches()]) for key in ("image", "pid", "camid", "is_query")]
    image, pid, camid, query = parts
    with torch.no_grad():
        features = torch.cat([model.eval()(b.image) for b in batches()])
    result = rank_metrics(features[query], features[~query], pid[query], pid[~query], camid[query], camid[~query])
    assert scores == pytest.approx({f"test/{key}": value for key, value in result.scalars().items()}, abs=1e-6)
    assert torch.equal(model.collected["test"].features, features)
    assert image.shape[0] == 21


def test_flipping_takes_a_picture_and_its_mirror_image_for_one():
    model, images = module().eval(), batches()[0].image
    plain = model(images)
    model.flip = True
    torch.testing.assert_close(model(images), model(images.flip(3)))
    assert not torch.allclose(model(images), model(images.flip(2)), atol=1e-3)
    assert not torch.allclose(model(images), plain, atol=1e-3)


def test_query_sets_of_one_gallery_are_scored_as_if_alone_and_the_gallery_is_embedded_once(monkeypatch):
    """Queries 0 to 1 are one set, 2 to 5 another; each with the gallery in a loader of its own is the oracle."""

    def part(first, end, gallery=True):
        found = []
        for batch in batches():
            kept = batch.is_query & (batch.position >= first) & (batch.position < end) | ~batch.is_query & gallery
            moved = batch.position - torch.where(batch.is_query, first, 6 - (end - first))
            found.append(Batch(*(field[kept] for field in batch._replace(position=moved)[:5])))
        return DataLoader(found, batch_size=None)

    alone = {}
    for name, first, end in (("test", 0, 2), ("test_dark", 2, 6)):
        model = module()
        trainer().test(model, part(first, end), verbose=False)
        alone[name] = model.results["test"], model.collected["test"]
    model, seen = module(), []
    data = pl.LightningDataModule()
    data.test_dataloader = lambda: [part(0, 2), part(2, 6, gallery=False)]
    data.test_names, data.shared_galleries = ["test", "test_dark"], {"test_dark": ("test", 4 - 2)}
    embed = model.network.embed
    monkeypatch.setattr(model.network, "embed", lambda images: seen.append(len(images)) or embed(images))
    trainer().test(model, data, verbose=False)
    assert sum(seen) == 21
    for name, (result, collected) in alone.items():
        assert model.results[name].scalars() == result.scalars()
        assert torch.equal(model.collected[name].positions, collected.positions)
        torch.testing.assert_close(model.collected[name].features, collected.features)


def test_validation_is_computed_in_full_precision_and_training_as_was_set(monkeypatch):
    matmul = torch.backends.cuda.matmul
    model, precision = module(), {}
    forward = model.network.forward
    embed = model.network.embed
    monkeypatch.setattr(
        model.network, "forward", lambda *a: precision.update(training=matmul.fp32_precision) or forward(*a)
    )
    monkeypatch.setattr(
        model.network, "embed", lambda images: precision.update(validation=matmul.fp32_precision) or embed(images)
    )
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        trainer().fit(model, pictures(), loader())
    finally:
        matmul.fp32_precision = before
    assert precision == {"training": "tf32", "validation": "ieee"}


def test_several_loaders_without_a_data_module_get_numbered_names():
    model = module()
    trainer().test(model, [loader(0), loader(1)], verbose=False)
    assert set(model.results) == {"test", "test_1"}


def test_validation_logs_under_val():
    model = module()
    fit = trainer()
    fit.fit(model, pictures(), loader(1))
    names = {f"val/{key}" for key in ("mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10")}
    assert names <= set(fit.callback_metrics)
    terms = {"train/loss", "train/loss_identity", "train/loss_triplet", "train/erased_fraction/stage1"}
    assert terms <= set(fit.callback_metrics)


def names_of(model, group):
    known = {id(p): name for name, p in model.network.named_parameters()}
    return {known[id(p)] for p in group["params"]}


def test_parameter_groups_cover_everything_once():
    model = module()
    groups = {group["name"]: group for group in model.parameter_groups()}
    assert set(groups) == {"backbone", "backbone_no_decay", "new", "new_no_decay"}
    assert names_of(model, groups["backbone"]) == {"backbone.0.weight"}
    assert names_of(model, groups["backbone_no_decay"]) == {"backbone.0.bias", "backbone.1.weight", "backbone.1.bias"}
    assert groups["new_no_decay"]["weight_decay"] == groups["backbone_no_decay"]["weight_decay"] == 0
    assert "weight_decay" not in groups["new"]
    assert all(p.ndim > 1 for p in groups["new"]["params"])
    together = [p for group in groups.values() for p in group["params"]]
    assert len(together) == len({id(p) for p in together}) == len(list(model.network.parameters()))
    everything = module(decay_norm_and_bias=True).parameter_groups()
    assert [group["name"] for group in everything] == ["backbone", "new"]


def test_schedule_and_factor_reach_the_groups():
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append({g["name"]: g["lr"] for g in trainer.optimizers[0].param_groups})

    schedule = partial(multistep, milestones=(1,), warmup_epochs=0)
    trainer(callbacks=[Watch()]).fit(module(schedule=schedule, new_lr_factor=10), pictures())
    assert [r["backbone"] for r in rates] == pytest.approx([0.1] * 3 + [0.01] * 3)
    assert [r["new_no_decay"] for r in rates] == pytest.approx([1.0] * 3 + [0.1] * 3)


def test_a_last_smaller_step_of_accumulated_batches_counts_in_the_schedule():
    seen = []
    model = module(schedule=lambda epoch, epochs: seen.append((epoch, epochs)) or 1.0)
    trainer(accumulate_grad_batches=2).fit(model, pictures())  # three batches: two steps an epoch
    assert {epoch for epoch, _ in seen} == {0, 0.5, 1, 1.5, 2}
    assert {epochs for _, epochs in seen} == {2}


def test_layers_of_a_backbone_have_rates_of_their_own():
    rates = []

    class Watch(pl.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append({g["name"]: g["lr"] for g in trainer.optimizers[0].param_groups})

    model = module(new_lr_factor=10)
    model.network.backbone.lr_factors = {"0.weight": 0.25, "0.bias": 0.25}
    groups = {group["name"]: group for group in model.parameter_groups()}
    assert names_of(model, groups["backbone_0.25"]) == {"backbone.0.weight"}
    assert names_of(model, groups["backbone_no_decay"]) == {"backbone.1.weight", "backbone.1.bias"}
    trainer(callbacks=[Watch()]).fit(model, pictures())
    names = {"backbone_0.25": 0.025, "backbone_no_decay": 0.1, "backbone_no_decay_0.25": 0.025}
    assert rates[0] == pytest.approx(names | {"new": 1.0, "new_no_decay": 1.0})


def test_a_frozen_backbone_keeps_weights_and_statistics_then_moves():
    states = []

    class Watch(pl.Callback):
        def on_train_epoch_end(self, trainer, module):
            states.append({k: v.clone() for k, v in module.network.backbone.state_dict().items()})

    model = module(frozen_epochs=1)
    start = {k: v.clone() for k, v in model.network.backbone.state_dict().items()}
    trainer(callbacks=[Watch()]).fit(model, pictures(), loader(1))
    assert all(torch.equal(start[key], states[0][key]) for key in start)
    assert all(not torch.equal(start[key], states[1][key]) for key in start)


def test_a_rehearsal_changes_neither_the_network_nor_what_is_drawn_next():
    model = module(description={"preprocessing": {"height": 32, "width": 16}})
    model.network.heads[0].a.embed.append(nn.Dropout())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    stream = torch.get_rng_state()
    model.check_steps([[0, 0, 1], [0, 0, 1], [2]])
    assert torch.equal(stream, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_description_travels_with_the_checkpoint(tmp_path):
    model = module(description={"labels": ["x:1"]})
    fit = trainer()
    fit.fit(model, pictures())
    fit.save_checkpoint(tmp_path / "x.ckpt")
    assert torch.load(tmp_path / "x.ckpt", weights_only=True)["aelm"] == {"labels": ["x:1"]}


class Pull(nn.Module):
    """A loss with a parameter: the mean embedding is drawn to a point that is learned."""

    def __init__(self):
        super().__init__()
        self.point = nn.Parameter(torch.zeros(1))

    def forward(self, outputs, pids):
        return (outputs[-1][0].pooled.mean() - self.point).square().sum() + (self.point - 1).square().sum()


def with_pull():
    torch.manual_seed(0)
    network = ReIDNetwork(Trunk(), 4, lambda c: nn.Identity(), partial(AELM, embed_dim=6))
    losses = {"identity": IdentityLoss(), "pull": Pull(), "plain": lambda outputs, pids: outputs[0][0].logits.sum() * 0}
    return ReIDModule(network, losses, partial(torch.optim.SGD, lr=0.1, momentum=0.9))


def test_parameters_of_a_loss_are_trained_and_saved(tmp_path):
    model = with_pull()
    assert any(p is model.losses["pull"].point for group in model.parameter_groups() for p in group["params"])
    run = trainer()
    run.fit(model, pictures())
    trained = model.losses["pull"].point.item()
    assert trained != 0
    run.save_checkpoint(tmp_path / "run.ckpt")
    again = with_pull()
    pl.Trainer(accelerator="cpu", max_epochs=3, num_sanity_val_steps=0, **QUIET).fit(
        again, pictures(), ckpt_path=tmp_path / "run.ckpt", weights_only=True
    )
    assert again.losses["pull"].point.item() != trained
    assert torch.load(tmp_path / "run.ckpt", weights_only=True)["state_dict"]["losses.pull.point"].item() == trained


def test_losses_move_with_the_module():
    assert {p.dtype for p in with_pull().double().losses.parameters()} == {torch.float64}


@pytest.mark.parametrize("name", ["type", "of.two"])
def test_a_loss_of_a_name_that_torch_does_not_take_is_named(name):
    with pytest.raises(ValueError, match=rf"a loss cannot be named '{name}' .*: take another name"):
        ReIDModule(module().network, {name: IdentityLoss()}, torch.optim.SGD)


@pytest.mark.parametrize("neck", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_step_in_pure_half_precision(dtype, neck):
    torch.manual_seed(0)
    network = ReIDNetwork(Trunk(), 4, partial(CoAM, reduction=4), partial(AELM, embed_dim=6, neck=neck))
    losses = {"identity": IdentityLoss(), "triplet": TripletLoss()}
    model = ReIDModule(network, losses, partial(torch.optim.SGD, lr=0.1)).to(dtype)
    model.log = lambda *_, **__: None
    loss = model.training_step(batches(junk=None)[0], 0)
    loss.backward()
    assert loss.dtype == torch.float32
    trained = {name: p.grad for name, p in model.named_parameters() if p.requires_grad}
    assert [name for name, gradient in trained.items() if gradient is None or not gradient.isfinite().all()] == []
    model.optimizer(model.parameter_groups()).step()
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    "head", [AELM, RandomAELM, IFCN, *(partial(AELM, fill=fill, erase="attended") for fill in ("swap", "drop", "zero"))]
)
@pytest.mark.parametrize("neck", [False, True])
def test_a_step_on_a_fake_gpu_reads_nothing_back(head, neck):
    """Where a value is read back, fake tensors raise; where two devices meet, too."""
    with FakeTensorMode():
        with torch.device("cuda"):
            coam = partial(CoAM, reduction=4, mode="sequential")
            network = ReIDNetwork(Trunk(), 4, coam, partial(head, embed_dim=6, neck=neck))
            images, pids = torch.empty(8, 3, 32, 16, dtype=torch.uint8), torch.empty(8, dtype=torch.long)
        model = ReIDModule(network, {"identity": IdentityLoss(0.1), "triplet": TripletLoss()}, torch.optim.SGD)
        logged = {}
        model.log = lambda name, value, **_: logged.update({name: value})
        with Crossings() as crossings:
            loss = model.training_step(Batch(images, pids, pids, pids, pids.bool()), 0)
    assert crossings.count == 0
    assert loss.device.type == "cuda"
    assert {value.device.type for value in logged.values()} == {"cuda"}


def test_a_few_batches_of_validation_are_not_ranked():
    """Lightning's check before training and its trial of one batch see queries and no gallery."""
    for options in ({"num_sanity_val_steps": 2}, {"fast_dev_run": True}):
        trial = pl.Trainer(accelerator="cpu", max_epochs=1, **QUIET, **options)
        trial.fit(module(), pictures(), DataLoader(batches(sizes=(3, 3, 15)), batch_size=None))
        assert trial.global_step > 0


def test_a_loader_without_a_length_is_an_error_before_the_first_step():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(batches(junk=None))

    with pytest.raises(ValueError, match=r"the training loader has no length, .* `limit_train_batches`, or schedule=N"):
        trainer().fit(module(schedule=partial(multistep, milestones=(1,))), DataLoader(Stream(), batch_size=None))


def endless(schedule, **limit):
    ends = pl.Trainer(accelerator="cpu", max_epochs=-1, num_sanity_val_steps=0, **(limit or {"max_steps": 4}), **QUIET)
    model = module(schedule=schedule)
    ends.fit(model, pictures())
    return ends.optimizers[0].param_groups[0]["lr"]


def test_a_cosine_without_an_end_is_an_error_before_the_first_step():
    with pytest.raises(ValueError, match=r"the cosine schedule needs a known end: give `trainer.max_epochs` or `\+"):
        endless(partial(cosine, warmup_epochs=0), max_time={"seconds": 1})


def test_a_cosine_ends_with_the_steps():
    assert endless(partial(cosine, warmup_epochs=0, final_factor=0.25)) == pytest.approx(0.025)


def test_steps_of_the_rate_need_no_end():
    """Nor does a training that only time ends."""
    model = module(schedule=partial(multistep, milestones=(1,), warmup_epochs=0))
    ends = pl.Trainer(accelerator="cpu", max_epochs=-1, max_time={"seconds": 1}, num_sanity_val_steps=0, **QUIET)
    ends.fit(model, pictures())
    assert ends.global_step > 3
    assert ends.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)
    assert endless(partial(multistep, milestones=(100,), warmup_epochs=0)) == pytest.approx(0.1)
