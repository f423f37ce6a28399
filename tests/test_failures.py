"""What ends in one line, what shows its traceback, and where each of the six commands leaves off."""

import csv
import os
import subprocess
import sys
from importlib import import_module

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException
from torch.utils.data import DataLoader

from aelm.command import build, cli
from aelm.data import recipe
from aelm.data.dataset import ReIDDataset, batch_seed, collate
from aelm.data.decoding import BadImageError
from aelm.retrieval import rank_metrics
from aelm.train.__main__ import main as train
from aelm.types import Picture
from tests.bad_inputs.world import contents
from tests.pictures_on_disk import save_model, write_people


@pytest.fixture
def start(monkeypatch, tmp_path):
    """Runs a program of ``aelm.command.cli`` in this process as if it had been typed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(cli.FULL, raising=False)

    def run(program, *arguments):
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["aelm", *arguments])
        program()

    return run


@pytest.fixture
def typed(start):
    """Likewise, for what ends the program; gives the line that it says."""

    def run(program, *arguments):
        with pytest.raises(SystemExit) as end:
            start(program, *arguments)
        return end.value.code

    return run


def program(task):
    """A command over the config of ``embed``."""
    return cli.command("embed")(task)


GIVEN = ["checkpoint=x", "images=x", "output=x"]


def refuse(config):
    build.built_optimizer({}, "cubic", 1)


def test_what_aelm_refuses_is_one_line(typed):
    said = typed(program(refuse), *GIVEN)
    assert said == (
        "error: `lr_scale` must be 'none' or 'linear', got 'cubic' (HYDRA_FULL_ERROR=1 shows the traceback)"
    )


BUGS = {
    "a key that the schema has not": (lambda config: config.divice, AttributeError),
    "a method that is not there": (lambda config: config.output.missing, AttributeError),
    "a missing entry": (lambda config: {}["x"], KeyError),
    "a call without arguments": (lambda config: cli.message_of(), TypeError),
    "shapes that do not fit": (lambda config: torch.zeros(2).view(3), RuntimeError),
    "a value that a library refuses, called by aelm": (lambda config: batch_seed(2**70, 0, []), OverflowError),
}


@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_shows_its_traceback(start, bug):
    task, kind = BUGS[bug]
    with pytest.raises(kind):
        start(program(task), *GIVEN)


def test_only_a_raise_of_aelm_is_foreseen():
    """Libraries raise ValueError too, and so does the interpreter within aelm's own lines."""
    with pytest.raises(ValueError, match="invalid literal") as error:
        cli.starter_of({"LOCAL_RANK": "1", cli.STARTED_BY: "seven"})
    assert not cli.is_expected(error.value)
    with pytest.raises(ValueError, match="dimensions") as error:
        rank_metrics(np.ones((2, 3)), np.ones((2, 4)), [1, 2], [1, 2], [1, 1], [2, 2])
    assert cli.is_expected(error.value)


@pytest.mark.parametrize(("arguments", "words"), [(GIVEN, "lr_scale"), (["divice=cpu"], "divice")])
def test_the_traceback_comes_with_hydras_switch(start, monkeypatch, arguments, words):
    monkeypatch.setenv(cli.FULL, "1")
    with pytest.raises((ValueError, ConfigCompositionException), match=words):
        start(program(refuse), *arguments)


def test_what_a_command_starts_finds_the_switch_as_it_was(typed, monkeypatch):
    found = []

    def look(config):
        found.append(os.environ.get(cli.FULL))
        refuse(config)

    typed(program(look), *GIVEN)
    assert found == [None]
    assert cli.FULL not in os.environ


def test_a_bad_picture_in_a_loading_process_is_one_line(tmp_path):
    """torch carries it over as a traceback in a text."""
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    dataset = ReIDDataset([Picture(str(tmp_path / "a.jpg"), 1, 1)], recipe(8, 8).test)
    with pytest.raises(BadImageError, match="Caught BadImageError in DataLoader") as error:
        list(DataLoader(dataset, num_workers=1, collate_fn=collate))
    assert "Traceback" in str(error.value)
    assert cli.is_expected(error.value)
    said = cli.message_of(error.value)
    assert said.startswith(f"The picture '{tmp_path}/a.jpg' is no JPEG")
    assert said.endswith("or set `dataset.on_bad_image=skip`")


def test_a_sweep_goes_on_behind_a_job_that_fails_and_ends_in_one_line(typed, tmp_path, capsys):
    said = typed(train, "-m", "seed=1,2", "dataset=market1501", f"data_dir={tmp_path}/none", "name=sweep")
    assert said.startswith("error: market1501: expected a data directory, found no folder")
    with (tmp_path / "runs" / "sweep" / "sweep.csv").open(newline="") as file:
        rows = [(row["seed"], row["status"], row["error"].partition(":")[0]) for row in csv.DictReader(file)]
    assert rows == [("1", "failed", "FileNotFoundError"), ("2", "failed", "FileNotFoundError")]
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Error executing job with overrides: ['seed=1', 'dataset=market1501'")


def test_a_run_that_fails_before_training_leaves_no_run_directory(typed, tmp_path):
    typed(train, "dataset=market1501", f"data_dir={tmp_path}/none", "name=first")
    assert not (tmp_path / "runs" / "first").exists()


TYPED = {
    "train": (["dataset=market1501", "name=earlier"], "Set `data_dir=...` or $AELM_DATA"),
    "evaluate": (["checkpoint=cut.ckpt", "output=scores"], "cut.ckpt does not load as data"),
    "embed": (["checkpoint=model.ckpt", "images=nothing/", "output=embedded"], "`images`: nothing at"),
    "search": (["checkpoint=model.ckpt", "query=me.jpg", "gallery=crops", "output=found.json"], "`query`: nothing at"),
    "explain": (["checkpoint=model.ckpt", "images=crops", "output=maps", "labels=duke"], "got 'duke'"),
    "export": (["checkpoint=model.ckpt", "output=model.onnx", "format=tflite"], "onnx, torch_export"),
}


def in_a_process(command, arguments, folder):
    environment = {key: value for key, value in os.environ.items() if key != cli.FULL}
    environment["PATH"] = os.path.dirname(sys.executable)  # where Lightning finds `srun`, it adds a hint
    done = subprocess.run(
        [sys.executable, "-m", f"aelm.{command}", *arguments, "data_dir=none"],
        cwd=folder, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 1
    return done.stdout, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("command", TYPED)
def test_a_command_fails_with_one_line_and_leaves_earlier_outputs_whole(command, typed, tmp_path, capfd):
    save_model(tmp_path / "model.ckpt")
    write_people(str(tmp_path / "crops"), 2)
    (tmp_path / "cut.ckpt").write_bytes((tmp_path / "model.ckpt").read_bytes()[:1000])
    for name in ("scores/metrics.json", "embedded/features.npy", "embedded/meta.json", "maps/page_0001.png",
                 "found.json", "model.onnx", "model.onnx.metadata.json", "runs/earlier/metrics.json"):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("earlier")
    before = contents(tmp_path)
    arguments, words = TYPED[command]
    if command == "train":
        out, err = in_a_process(command, arguments, tmp_path)
    else:
        said = typed(import_module(f"aelm.{command}.__main__").main, *arguments)
        out, err = capfd.readouterr()
        err += said  # as Python prints what ends a program
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert words in line
    assert "Traceback" not in out
    assert contents(tmp_path) == before


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_command_that_ended_well_closes_its_connections(start, ends_well, tmp_path):
    """What gloo leaves open aborts one in a few processes while Python shuts down."""
    distributed = torch.distributed
    rendezvous = f"file://{tmp_path / 'rendezvous'}"

    def task(_):
        distributed.init_process_group("gloo", init_method=rendezvous, rank=0, world_size=1)
        if not ends_well:  # others may still wait for this process
            raise RuntimeError("no")

    try:
        if ends_well:
            start(program(task), *GIVEN)
        else:
            with pytest.raises(RuntimeError, match="no"):
                start(program(task), *GIVEN)
        assert distributed.is_initialized() is not ends_well
    finally:
        if distributed.is_initialized():
            distributed.destroy_process_group()
