"""Breaks the formulas one by one, in a copy of the tree, and tells which test notices: python -m tests.mutants [WORD].

With a word, only mutants whose description holds it. Prints a table in Markdown, as in tests/mutations.md; ends with 1
where a mutant survives. Needs os.fork: what is slow to import is imported once.
"""

import importlib
import os
import re
import shutil
import sys
import tempfile
import tomllib
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
SLOW_TO_IMPORT = (
    "torch",
    "timm",
    "pytest",
    "hypothesis",
    "pytorch_lightning",
    "hydra",
    "hydra.core.override_parser.overrides_parser",
    "albumentations",
    "torchmetrics",
    "h5py",
    "scipy.io",
    "scipy.sparse",
    "matplotlib.figure",
)


class Mutant(NamedTuple):
    """One formula, broken: in ``file``, ``old`` becomes ``new``; ``tests`` is where it should be noticed."""

    what: str
    file: str
    old: str
    new: str
    tests: str


MUTANTS = [Mutant(**entry) for entry in tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))["mutant"]]


def copied(folder):
    """A copy of what the tests need; ``aelm`` is then imported from there, with its configs."""
    for name in ("src", "conf", "tests", "benchmarks", "docs", "requirements"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "assets"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "Makefile"):
        shutil.copy(ROOT / name, folder)


def noticed_by(folder, tests):
    """The first test that fails, in a process of its own; None where all pass."""
    log = folder / "log"
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.path[:0] = [str(folder), str(folder / "src")]
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # for what the tests start
        for name in [name for name in sys.modules if name.partition(".")[0] in ("aelm", "tests")]:
            del sys.modules[name]
        code = 3
        try:
            code = importlib.import_module("pytest").main(
                ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-m", "not slow", *tests.split()]
            )
        finally:
            os._exit(int(code))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    text = log.read_text(encoding="utf-8", errors="replace")
    if status == 0:
        return None
    found = re.search(r"^(?:FAILED|ERROR) (\S+?)(?:\[| -|$)", text, re.MULTILINE)
    if status != 1 or found is None:
        raise RuntimeError(f"the tests did not run (exit {status}):\n{text[-2000:]}")
    return found[1].removeprefix("tests/")


def main(word=""):
    """Tries every mutant; gives how many survived."""
    for name in SLOW_TO_IMPORT:
        importlib.import_module(name)
    survivors = 0
    print("| broken | in | noticed by |\n|---|---|---|", flush=True)
    for mutant in MUTANTS:
        if word not in mutant.what:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            copied(folder)
            file = folder / "src" / "aelm" / mutant.file
            text = file.read_text(encoding="utf-8")
            if mutant.old not in text:
                raise ValueError(f"{mutant.what}: {mutant.file} holds no {mutant.old!r}; mend the mutant")
            file.write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
            test = noticed_by(folder, mutant.tests)
        survivors += test is None
        print(f"| {mutant.what} | `{mutant.file}` | {'**nothing**' if test is None else f'`{test}`'} |", flush=True)
    return survivors


if __name__ == "__main__":
    sys.exit(1 if main(*sys.argv[1:2]) else 0)
