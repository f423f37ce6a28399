"""Two processes on the CPU (gloo): both ways of starting, the same bits, and what is refused."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from aelm.command import schema
from aelm.command.build import built_optimizer
from aelm.train import task as train
from aelm.train import trainer
from aelm.train.callbacks import History
from tests.runs import P_X_K, SMALL

ROOT = Path(__file__).parents[1]
TWO = ["trainer.devices=2", "trainer.strategy=ddp"]
FEW = [*SMALL, *P_X_K, "dataset.test_batch_size=4", "schedule.warmup_epochs=1"]
TORCHRUN = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--master_addr=127.0.0.1"]


def python(*arguments, cwd=ROOT, port=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_PORT": str(port)}
    done = subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env=environment)
    return done.returncode, done.stdout, done.stderr


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.mark.slow
def test_two_processes_are_one_however_they_are_started(people, tmp_path, tmp_path_factory, tested):
    losses = "loss=[identity_triplet,center,arcface]"
    overrides = [*FEW, "figures=false", losses]
    ports = [f"--master_port={free_port()}", f"--log-dir={tmp_path_factory.mktemp('logs')}"]
    start = [*TORCHRUN, *ports, "-m", "tests.two_processes"]
    code, out, err = python(*start, str(people), str(tmp_path), *overrides)
    assert code == 0, err[-3000:]
    found = json.loads(out.splitlines()[-1])
    assert found["gradients"] < 1e-12
    assert found["heat maps"] < 1e-12
    assert found["statistics differ"] == {"training": True, "validation": False}
    assert found["losses"] == {"differ": False, "moved": ["arcface.loss.W", "center.centers"]}
    # Whatever is written, one process writes it, also where each has another name for the run.
    assert sorted(os.listdir(tmp_path)) == ["torchrun", "two"]
    assert sorted(os.listdir(tmp_path / "torchrun")) == [
        "checkpoints",
        "config.yaml",
        "csv",
        "metrics.json",
        "run.json",
    ]

    best = tmp_path / "torchrun" / "checkpoints" / "best.ckpt"
    alone = tested(best, f"output={tmp_path}/one")
    assert found["evaluate"] == alone
    assert {name: alone[name] for name in found["train"]} == found["train"]
    for name in os.listdir(tmp_path / "one"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()

    fresh = [f"data_dir={people}", *FEW, *TWO, losses, "name=lightning", "trainer.max_epochs=2"]
    code, out, err = python("-m", "aelm.train", *fresh, cwd=tmp_path, port=free_port())
    assert code == 0, err[-3000:]
    assert (out + err).count("2 processes x (2 identities x 2 images) = 8 images a step") == 1
    assert (out + err).count("mAP_trapezoid") == 1
    other = tmp_path / "runs" / "lightning"
    assert os.listdir(other / "csv") == ["version_0"]
    assert "cmc.png" in os.listdir(other)
    states = [torch.load(run / "checkpoints" / "last.ckpt", weights_only=True) for run in (best.parents[1], other)]
    assert states[0]["state_dict"].keys() == states[1]["state_dict"].keys()
    assert all(torch.equal(value, states[1]["state_dict"][key]) for key, value in states[0]["state_dict"].items())
    assert len(states[0]["callbacks"]["RandomStates"]["states"]) == 2


def test_more_processes_than_identities_to_share_are_refused(trained, monkeypatch, tmp_path):
    monkeypatch.setattr(train.pl.Trainer, "fit", lambda *_: pytest.fail("training began"))
    message = r"`identities` x processes = 2 x 9 = 18 identities, found \d+: lower `identities` or use fewer processes"
    with pytest.raises(ValueError, match=message):
        trained("trainer.devices=9", "trainer.strategy=ddp")
    assert not (tmp_path / "run").exists()


@pytest.fixture
def in_a_sweep(monkeypatch):
    """Makes it seem that Hydra runs a job of a multirun."""
    hydra = SimpleNamespace(initialized=lambda: True, get=lambda: SimpleNamespace(mode=RunMode.MULTIRUN))
    monkeypatch.setattr(trainer, "HydraConfig", hydra)


def test_a_sweep_with_several_processes_a_job_is_refused_with_what_works(in_a_sweep, composed):
    def build(*overrides):
        return trainer.build_trainer(composed("train", "trainer.accelerator=cpu", *overrides), False, History())

    with pytest.raises(ValueError, match=r"a sweep \(--multirun\) cannot start 2 processes") as error:
        build(*TWO)
    for way in ("torchrun --nproc_per_node=2 -m aelm.train -m", "hydra/launcher=submitit_slurm", "trainer.devices=1"):
        assert way in str(error.value)
    assert build().world_size == 1


def test_callbacks_and_plugins_of_the_user_join_ours(composed, monkeypatch):
    monkeypatch.setenv("RANK", "0")
    rates = "+trainer.callbacks=[{_target_:pytorch_lightning.callbacks.LearningRateMonitor,logging_interval:step}]"
    cluster = "+trainer.plugins={_target_:pytorch_lightning.plugins.environments.KubeflowEnvironment}"
    overrides = ["trainer.accelerator=cpu", *TWO, rates, cluster]
    found = trainer.build_trainer(composed("train", *overrides), True, History())
    kinds = {type(part).__name__ for part in found.callbacks}
    assert {"LearningRateMonitor", "History", "ModelCheckpoint"} <= kinds
    assert type(found.strategy.cluster_environment).__name__ == "KubeflowEnvironment"


def test_a_sweep_may_have_processes_that_slurm_started(in_a_sweep, composed, monkeypatch):
    place = {
        "NTASKS": 2,
        "PROCID": 0,
        "LOCALID": 0,
        "NTASKS_PER_NODE": 2,
        "JOB_NAME": "aelm",
        "NODELIST": "here",
        "JOB_ID": 7,
        "NODEID": 0,
    }
    for name, value in place.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    found = trainer.build_trainer(composed("train", "trainer.accelerator=cpu", *TWO), False, History())
    assert found.world_size == 2


def commands():
    """What docs/training.md tells to type, as overrides; of several values of a sweep the first."""
    for line in re.findall(r"-m aelm\.train (?:-m )?([^`|\n]*=[^`|\n]*)", (ROOT / "docs" / "training.md").read_text()):
        yield [re.sub(r"=([^,\[]*),.*", r"=\1", word) for word in shlex.split(line) if "=" in word]


@pytest.mark.parametrize("overrides", list(commands()), ids=" ".join)
def test_the_commands_of_the_document_compose(overrides):
    GlobalHydra.instance().clear()
    schema.register()
    with initialize_config_module("aelm.conf", version_base="1.3"):
        assert compose("train", overrides, return_hydra_config=True)


def test_the_document_is_read():
    found = list(commands())
    assert len(found) >= 8
    assert any("hydra/launcher=submitit_slurm" in overrides for overrides in found)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["lr_scale=none"], "an optimizer step takes 2 batches, its learning rate is as written"),
        (
            ["lr_scale=linear", "optimizer.lr=0.5"],
            "learning rate 0.5 x 2 batches an optimizer step = 1 (lr_scale=linear)",
        ),
    ],
)
def test_the_learning_rate_is_scaled_aloud(composed, caplog, overrides, told):
    caplog.set_level("INFO")
    config = composed("train", *overrides)
    optimizer = built_optimizer(config.optimizer, config.lr_scale, 2)([torch.zeros(1, requires_grad=True)])
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.0 if config.lr_scale == "linear" else 3.5e-4)
    assert told in caplog.text


def test_another_way_of_scaling_is_refused(composed):
    with pytest.raises(ValueError, match="`lr_scale` must be 'none' or 'linear', got 'sqrt'"):
        built_optimizer(composed("train").optimizer, "sqrt", 2)
