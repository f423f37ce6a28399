import os

# Before anything imports albumentations or a W&B client.
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["HF_HUB_OFFLINE"] = "1"

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from aelm import schema


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """Tests run side by side: more threads only wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture
def composed(tmp_path):
    """Composes a config as the commands do, with a run directory under ``tmp_path``."""

    def make(name="train", *overrides):
        GlobalHydra.instance().clear()
        schema.register()
        with initialize_config_module("aelm.conf", version_base="1.3"):
            fixed = [f"run_dir={tmp_path}/run", "name=test"] if name == "train" else []
            return compose(name, [*fixed, *overrides])

    return make
