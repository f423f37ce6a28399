"""Every option composes, builds, and says no more than the signatures do; every misspelt key is named."""

import inspect
from functools import partial
from importlib import import_module
from pathlib import Path

import pytest
import torch
from hydra.errors import ConfigCompositionException
from omegaconf import OmegaConf
from torch import nn

from aelm.__main__ import COMMANDS
from aelm.command.build import built
from aelm.command.schema import check_keys, nodes
from aelm.models import AELM, IFCN, CoAM, RandomAELM, ReIDNetwork, TwoHeads
from aelm.train.task import built_losses

CONF = Path(__file__).parents[1] / "conf"
SMALL = ["model.backbone.name=resnet10t", "model.backbone.pretrained=false", "model.backbone.weights=null"]
GROUPS = ["dataset", "transform", "sampler", "loss", "optimizer", "schedule", "erasing", "logger",
          "experiment", "arm",
          "model/backbone", "model/coam", "model/aelm"]  # fmt: skip
OPTIONS = [
    (group, file.stem)
    for group in GROUPS
    for file in sorted((CONF / group).glob("*.yaml"))
    if (group, file.stem) not in {("dataset", "base"), ("dataset", "from_checkpoint"), ("model/backbone", "custom")}
]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_has_no_unknown_key(composed, group, option):
    config = composed("train", f"{group}={option}")
    check_keys(config)
    OmegaConf.resolve(config)


def test_every_group_is_tested():
    folders = {str(p.parent.relative_to(CONF)) for p in CONF.rglob("*.yaml")}
    assert folders - set(GROUPS) == {".", "model", "trainer"}


@pytest.mark.parametrize(
    ("group", "option"), [o for o in OPTIONS if o[0] in ("model/coam", "model/aelm", "experiment", "arm")]
)
def test_every_model_builds_and_runs(composed, group, option):
    network = built(composed("train", f"{group}={option}", *SMALL).model)(num_ids=3)
    assert isinstance(network, ReIDNetwork)
    outputs = network(torch.rand(2, 3, 64, 32), torch.tensor([0, 2]))
    assert all(torch.isfinite(head.logits).all() for stage in outputs for head in stage)


@pytest.mark.parametrize(
    ("option", "kind"), [("adversarial", AELM), ("random", RandomAELM), ("two_heads", TwoHeads), ("none", IFCN)]
)
def test_model_aelm_is_group_and_node_at_once(composed, option, kind):
    head = built(composed("train", f"model/aelm={option}", "model.aelm.embed_dim=7", *SMALL).model)(num_ids=3).heads[0]
    assert type(head) is kind


def test_the_examples_of_the_readme(composed):
    config = composed(
        "train", "dataset=duke", "model.aelm.threshold=0.55", "model.aelm.fill=zero", "model.coam.mode=residual", *SMALL
    )
    network = built(config.model)(num_ids=3)
    assert (network.heads[0].threshold, network.heads[0].fill, network.attention[0].mode) == (0.55, "zero", "residual")
    assert type(network.attention[0]) is CoAM
    assert type(built(composed("train", "model/coam=none", *SMALL).model)(num_ids=3).attention[0]) is nn.Identity


@pytest.mark.parametrize("group", ["loss", "optimizer", "schedule", "erasing", "transform", "sampler"])
def test_parts_build(composed, group):
    for file in sorted({*(CONF / group).glob("*.yaml")} - {CONF / "erasing" / "none.yaml"}):
        config = composed("train", f"{group}={file.stem}", *SMALL)
        if group == "loss":
            assert built_losses(config.loss, built(config.model)(num_ids=3), (64, 32))
        else:
            assert built(config[group])


def test_several_data_sets_join(composed):
    config = composed("train", "dataset=[market1501,occluded_reid]", "dataset.train=[market1501]")
    assert set(config.dataset.benchmarks) == {"market1501", "occluded_reid"}
    assert all(isinstance(reader, partial) for reader in built(config.dataset.benchmarks).values())


def test_bots_recipe(composed):
    config = composed("train", "experiment=strong")
    assert (config.transform.height, config.transform.width, config.transform.pad) == (256, 128, 10)
    assert (config.transform.flip, config.transform.erasing, list(config.transform.erasing_area)) == (
        0.5,
        0.5,
        [0.02, 0.4],
    )
    assert (config.sampler.identities, config.sampler.images) == (16, 4)
    assert (config.optimizer.lr, config.optimizer.weight_decay) == (3.5e-4, 5e-4)
    assert (list(config.schedule.milestones), config.schedule.warmup_epochs) == ([40, 70], 10)
    assert (config.loss.identity.label_smoothing, config.loss.triplet.margin) == (0.1, 0.3)
    assert (config.model.backbone.name, config.decay_norm_and_bias) == ("resnet50.tv_in1k", True)
    assert (config.model.backbone.last_stride, config.model.aelm.neck, config.trainer.max_epochs) == ("auto", True, 120)


def test_yaml_and_signature_agree(composed):
    """One home for a default: what a group file repeats equals the signature, unless it is a named deviation."""
    deviating = {"transform/flip", "transform/none"}
    for group, option in OPTIONS:
        if group in ("experiment", "arm", "logger", "optimizer") or f"{group}/{option}" in deviating:
            continue
        config = composed("train", f"{group}={option}")
        if (part := OmegaConf.select(config, group.replace("/", "."))) is None:
            continue
        plain = OmegaConf.to_container(part, resolve=group == "model/backbone")
        for place, node in nodes(plain):
            if not node["_target_"].startswith("aelm."):
                continue
            module, _, name = node["_target_"].rpartition(".")
            parameters = inspect.signature(getattr(import_module(module), name)).parameters
            for key, value in node.items():
                default = parameters[key].default if key in parameters else inspect.Parameter.empty
                if default is not inspect.Parameter.empty and not key.startswith("_"):
                    assert (list(default) if isinstance(default, tuple) else default) == value, (
                        f"{group}={option}: {place}.{key}"
                    )


@pytest.mark.parametrize(
    ("override", "key"),
    [
        ("model.aelm.treshold=0.7", "treshold"),
        ("modl.aelm.threshold=0.7", "modl"),
        ("dataset.val_fractoin=0.1", "val_fractoin"),
        ("trainer.max_epoch=3", "max_epoch"),
        ("dataset=markt1501", "markt1501"),
        ("model/aelm=adversial", "adversial"),
    ],
)
def test_a_misspelt_key_on_the_command_line_is_named(composed, override, key):
    with pytest.raises(ConfigCompositionException) as error:
        composed("train", override)
    assert key in str(error.value) + str(error.value.__cause__)


@pytest.mark.parametrize(
    ("place", "key"),
    [
        ("+model.aelm.treshold=0.7", "model.aelm.treshold"),
        ("+modl=1", "unknown key `modl`"),
        ("+dataset.val_fractoin=0.1", "did you mean `val_fraction`"),
        ("+trainer.max_epoch=3", "trainer.max_epoch"),
        ("+loss.identity.label_smooting=0.1", "loss.identity.label_smooting"),
        ("+dataset.benchmarks.synthetic.sice=small", "dataset.benchmarks.synthetic.sice"),
    ],
)
def test_a_misspelt_key_that_was_added_is_named_with_its_place(composed, place, key):
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        check_keys(composed("train", place))


@pytest.mark.parametrize(
    ("text", "key"),
    [("modl: {aelm: {threshold: 0.6}}", "modl"), ("model: {aelm: {treshold: 0.6}}", "treshold"),
     ("dataset: {val_fractoin: 0.6}", "val_fractoin"), ("trainer: {max_epoch: 3}", "max_epoch")],
)  # fmt: skip
def test_a_misspelt_key_in_an_experiment_file_is_named(composed, tmp_path, text, key):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    with pytest.raises((ConfigCompositionException, ValueError)) as error:
        check_keys(composed("train", f"hydra.searchpath=[file://{tmp_path}]", "experiment=mine"))
    assert key in str(error.value) + str(error.value.__cause__)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_composes_and_names_a_misspelt_key(composed, command):
    config = composed(command)
    check_keys(config)
    with pytest.raises(ConfigCompositionException) as error:
        composed(command, "outptu=x")
    assert "outptu" in str(error.value) + str(error.value.__cause__)
    with pytest.raises(ValueError, match="unknown key `allwo`"):
        check_keys(composed(command, "+allwo=x"))
