"""Imports go one way, and each part is to be had without the others."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import aelm
import aelm.data
from aelm.__main__ import COMMANDS

SOURCE = Path(__file__).parents[1] / "src" / "aelm"
# Each part, and what of aelm it may import beside itself and `types`; from below to above.
MAY = {
    "types files devices schedules": "",
    "models": "files",
    "losses": "models",
    "retrieval": "devices",
    "data": "files",
    "figures": "files",
    "module": "devices schedules models retrieval",
    "checkpoint": "files models",
    "report": "files models retrieval data figures module checkpoint",
    "command": "data checkpoint",
    "embed": "files devices models data checkpoint",
    "search": "files devices models retrieval data figures embed",
    "link": "retrieval data figures embed search",
    "export": "files devices models embed",
    "explain __main__": "",
    "compare": "files report",
    "crop": "data",
    "evaluate": "devices models retrieval data figures module report embed",
    "train": "files devices schedules checkpoint models data module report command",
    "__init__": "models retrieval data module checkpoint embed search",
}
ROWS = {part: set(below.split()) for parts, below in MAY.items() for part in parts.split()}
# What a command's own `task` puts together.
PUT_TOGETHER = {
    *("files", "devices", "models", "data", "figures", "module", "retrieval"),
    *("checkpoint", "report", "command", "embed", "search"),
}
# Beside `command` and each command: what reads or writes a run's configuration.
KNOW_HYDRA = {"train/trainer.py", "report/runs.py", "compare/runs.py"}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "aelm":
            yield from (f"aelm.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


FILES = [pytest.param(f, id=str(f.relative_to(SOURCE))) for f in sorted(SOURCE.rglob("*.py"))]


def part_of(file):
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file):
    part = part_of(file)
    found = {name.split(".")[1] for name in imports(file) if name.startswith("aelm.")} - {part}
    if file.name == "__main__.py":
        allowed = {"command"}  # and its own task
    else:
        allowed = ROWS[part] | {"types"} | (PUT_TOGETHER if file.name == "task.py" else set())
    assert found <= allowed, f"{file} may not import {found - allowed}"
    commands = {name for name in imports(file) if name.endswith(("__main__", ".task"))}
    assert commands <= {f"aelm.{part}.task"} if file.name == "__main__.py" else not commands, (
        "nothing imports a command"
    )


def test_the_table_has_no_circle():
    done = set()
    for part, below in ROWS.items():
        assert below <= done, f"{part} stands above {below - done}"
        done.add(part)


def test_the_first_floor_is_small():
    assert len([path for path in SOURCE.iterdir() if path.name not in ("__pycache__", "conf")]) <= 25


@pytest.mark.parametrize("file", FILES)
def test_few_know_hydra_and_one_knows_albumentations(file):
    tops = {name.split(".")[0] for name in imports(file)}
    known = part_of(file) == "command" or file.name in ("__main__.py", "task.py")
    assert known or str(file.relative_to(SOURCE)) in KNOW_HYDRA or not tops & {"hydra", "omegaconf"}
    assert file.name == "transforms.py" or "albumentations" not in tops


# Public parts, and libraries that each does not need: two rows of parts in which each may load more than those before.
WITHOUT = [
    {
        "aelm.CoAM": ["pytorch_lightning", "hydra", "albumentations", "torchmetrics"],
        "aelm.load_model": ["pytorch_lightning", "hydra", "albumentations"],
        "aelm.ReIDModule": ["hydra", "albumentations"],
    },
    {
        "aelm.data.sampler.IdentitySampler": ["pytorch_lightning", "hydra", "albumentations", "timm"],
        "aelm.data.dataset.ReIDDataset": ["pytorch_lightning", "hydra", "albumentations", "timm"],
        "aelm.rank_metrics": ["pytorch_lightning", "hydra", "albumentations", "timm"],
        "aelm.ReIDDataModule": ["hydra", "timm"],
        **{f"aelm.data.{name}": ["hydra", "timm"] for name in sorted(aelm.data.__all__)},
    },
]
# Each row in a process of its own, forked from one that has torch alone.
LOADED = """
import importlib, json, os, sys, torch
for parts in json.loads(sys.argv[1]):
    if not os.fork():
        for name, without in parts.items():
            package, _, part = name.rpartition(".")
            getattr(importlib.import_module(package), part)
            print(name, [module for module in without if module in sys.modules], flush=True)
        os._exit(0)
    assert os.wait()[1] == 0, parts
"""


def test_a_part_brings_no_other_library():
    done = subprocess.run([sys.executable, "-c", LOADED, json.dumps(WITHOUT)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} []" for parts in WITHOUT for name in parts]


def test_a_command_loads_torch_only_when_its_keys_are_checked():
    """Otherwise a misspelt key, `--help` and `--cfg job` take three times as long."""
    names = [f"aelm.{command}.__main__" for command in COMMANDS]
    code = f"import importlib, sys; [importlib.import_module(name) for name in {names}]; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("name", aelm.__all__)
def test_every_public_name_is_to_be_had(name):
    assert getattr(aelm, name).__name__ == name


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'COAM'"):
        aelm.COAM  # noqa: B018
    assert set(aelm.__all__) <= set(dir(aelm))
