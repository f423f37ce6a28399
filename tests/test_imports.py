"""Imports go one way, and each part is to be had without the others."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import aelm

SOURCE = Path(__file__).parents[1] / "src" / "aelm"
# Each part, and what of aelm it may import beside itself.
MAY = {
    "types": set(),
    "whole": set(),
    "schedules": set(),
    "models": {"types"},
    "losses": {"types", "models"},
    "devices": set(),
    "retrieval": {"types", "devices"},
    "data": {"types"},
    "figures": {"types", "whole"},
    "module": {"types", "models", "retrieval"},
    "training": {"types", "data", "whole"},
    "trainer": {"build", "report", "training"},
    "sweeps": {"figures", "report"},
    "checkpoint": {"models"},
    "telemetry": set(),
    "foreign": {"types", "models", "telemetry"},
    "graphs": {"foreign", "telemetry"},
    "embedding": {"types", "checkpoint", "data", "foreign", "models", "whole"},
    "searching": {"types", "data", "embedding", "figures", "models", "places", "retrieval"},
    "exporting": {"embedding", "foreign", "graphs", "whole"},
    "explaining": {"figures", "models"},
    "report": {"types", "whole", "retrieval"},
    "evidence": {"types", "models", "retrieval", "data", "figures", "scoring"},
    "proofs": {"data", "embedding", "evidence", "module", "report", "scoring"},
    "left_out": {"data", "report"},
    "places": set(),
    "scoring": {"types", "retrieval"},
    "pictures": {"types", "models", "retrieval", "data", "figures", "module", "explaining"},
    "values": set(),
    "schema": {"values"},
    "orphans": set(),
    "failures": {"schema"},
    "cli": {"failures", "orphans", "schema", "telemetry"},
    "build": {"checkpoint", "data", "failures"},
    "run_dir": {"places"},
    "run_facts": {"report"},
    "comparison": {"run_dir", "sweeps"},
    "__init__": {"checkpoint", "data", "embedding", "models", "module", "retrieval", "searching"},
    "__main__": set(),
}
COMMANDS = {"train", "evaluate", "embed", "export", "explain", "search", "compare"}
HYDRA = {"comparison", "schema", "failures", "cli", "build", "run_dir", "trainer", "sweeps", *COMMANDS}


def imports(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "aelm":
            yield from (f"aelm.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


FILES = [pytest.param(f, id=str(f.relative_to(SOURCE))) for f in sorted(SOURCE.rglob("*.py"))]


@pytest.mark.parametrize("file", FILES)
def test_imports_go_one_way(file):
    part = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    found = {name.split(".")[1] for name in imports(file) if name.startswith("aelm.")} - {part}
    if part not in COMMANDS:
        assert found <= MAY[part], f"{file} may not import {found - MAY[part]}"
    assert not (found - {part}) & COMMANDS, "nothing imports a command"


@pytest.mark.parametrize("file", FILES)
def test_few_know_hydra_and_one_knows_albumentations(file):
    part = file.relative_to(SOURCE).parts[0].removesuffix(".py")
    tops = {name.split(".")[0] for name in imports(file)}
    assert part in HYDRA or not tops & {"hydra", "omegaconf"}
    assert file.name == "transforms.py" or "albumentations" not in tops


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("CoAM", ["pytorch_lightning", "hydra", "albumentations", "torchmetrics"]),
        ("rank_metrics", ["pytorch_lightning", "hydra", "albumentations", "timm"]),
        ("load_model", ["pytorch_lightning", "hydra", "albumentations"]),
        ("ReIDDataModule", ["hydra", "timm"]),
        ("ReIDModule", ["hydra", "albumentations"]),
    ],
)
def test_a_part_brings_no_other_library(name, without):
    code = f"import sys; from aelm import {name}; print([m for m in {without} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", aelm.__all__)
def test_every_public_name_is_to_be_had(name):
    assert getattr(aelm, name).__name__ == name


def test_what_the_design_promises_is_public():
    from aelm import (  # noqa: F401
        AELM,
        IFCN,
        CoAM,
        RankMetrics,
        ReIDDataModule,
        ReIDModule,
        load_model,
        rank_metrics,
        rerank,
    )  # fmt: skip


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'COAM'"):
        aelm.COAM  # noqa: B018
    assert set(aelm.__all__) <= set(dir(aelm))
