import copy
import os
import warnings
from functools import cache
from pathlib import Path

# Before anything imports albumentations, onnxruntime or a W&B client.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import settings

from aelm.command import schema
from aelm.data.synthetic import synthetic
from aelm.evaluate import task as evaluate
from aelm.train import task as train
from tests.runs import P_X_K, SMALL

# The same examples each time, whatever the machine is busy with.
settings.register_profile("aelm", derandomize=True, deadline=None, database=None, max_examples=60)
settings.load_profile("aelm")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a GPU"))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tests run side by side: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_warnings_are_errors():
    """What aelm itself raises is an error; libraries newer than this release may warn."""
    warnings.filterwarnings("error", module=r"aelm\b")


CONF = Path(__file__).parents[1] / "conf"


def is_choice(override):
    """Whether an override says which files are merged, or is for Hydra to judge: not just a value."""
    group = (CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)
    return group or override.is_hydra_override() or override.is_sweep_override()


@cache
def _chosen(name, choices):
    """A command's configuration with some choices of groups, and no value overridden."""
    GlobalHydra.instance().clear()
    schema.register()
    with initialize_config_module("aelm.conf", version_base="1.3"):
        return compose(name, list(choices))


@pytest.fixture
def composed(tmp_path):
    """Composes a config as the commands do, with a run directory under ``tmp_path``.

    Hydra first merges the files that are chosen, then sets values. What it merges is kept, which takes longer.
    """

    def make(name="train", *overrides):
        fixed = [f"run_dir={tmp_path}/run", "name=test"] if name == "train" else []
        parsed = OverridesParser.create().parse_overrides([*fixed, *overrides])
        chosen = [one for one in parsed if is_choice(one)]
        compose_chosen = _chosen.__wrapped__ if any(one.is_hydra_override() for one in parsed) else _chosen
        config = copy.deepcopy(compose_chosen(name, tuple(one.input_line for one in chosen)))
        ConfigLoaderImpl._apply_overrides_to_config([one for one in parsed if one not in chosen], config)
        return config

    return make


@pytest.fixture(scope="session")
def people(tmp_path_factory):
    """A data directory with the tiny synthetic people."""
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent
    synthetic(root / "people", "tiny", progress=False)  # of several test processes one draws, the others wait
    return root / "people"


@pytest.fixture
def trained(composed, people):
    """Trains with some overrides; gives the run directory and what the run returned."""

    def run(*overrides, name="run"):
        sampler = [] if "sampler=shuffle" in overrides else P_X_K
        config = composed("train", f"data_dir={people}", *SMALL, *sampler, *overrides)
        config.run_dir = config.run_dir.removesuffix("run") + name
        return config.run_dir, train.run(config)

    return run


@pytest.fixture
def tested(composed):
    def run(checkpoint, *overrides):
        fixed = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "figures=false"]
        return evaluate.run(composed("evaluate", f"checkpoint={checkpoint}", *fixed, *overrides))

    return run


@pytest.fixture
def trace(tmp_path):
    """The file that appears when a ``Bomb`` goes off; checked behind each test."""
    yield tmp_path / "exploded"
    assert not (tmp_path / "exploded").exists()
