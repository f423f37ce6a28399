"""The wheel holds all that the commands need, and the make targets are what the README says."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def shell(*command, cwd, env=None):
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_wheel_runs_without_the_checkout(tmp_path):
    source = tmp_path / "source"
    tracked = shell("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).splitlines()
    for name in tracked:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path / "dist")]
    shell(*build, cwd=source)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {str(p.relative_to(ROOT / "src")) for p in (ROOT / "src").rglob("*.py")}
    expected |= {"aelm/py.typed", "aelm/search/page.html", "aelm/models/starter.ckpt"}
    expected |= {f"aelm/{p.relative_to(ROOT)}" for p in (ROOT / "conf").rglob("*.yaml")}
    assert expected <= names
    # A fresh environment over this one's libraries, in which aelm comes from the wheel alone.
    venv.create(tmp_path / "env", with_pip=True)
    python = tmp_path / "env" / "bin" / "python"
    shell(str(python), "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", str(wheel), cwd=tmp_path)
    (site,) = (tmp_path / "env" / "lib").glob("python*/site-packages")
    libraries = Path(shell(sys.executable, "-c", "import torch; print(torch.__path__[0])", cwd=tmp_path).strip()).parent
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    env = {**clean, "PYTHONPATH": f"{site}{os.pathsep}{libraries}"}
    home = tmp_path / "elsewhere"
    home.mkdir()
    where = shell(str(python), "-c", "import aelm; print(aelm.__file__)", cwd=home, env=env)
    assert str(site) in where
    shown = shell(
        str(tmp_path / "env" / "bin" / "aelm"), "train", "--cfg", "job", "experiment=strong", cwd=home, env=env
    )
    assert "neck: true" in shown
    code = "import sys; from aelm.models import CoAM; import torch; print(CoAM(8, 2)(torch.zeros(1, 8, 2, 2)).shape)"
    assert "[1, 8, 2, 2]" in shell(str(python), "-c", code, cwd=home, env=env)
    assert os.listdir(home) == []


def test_make_help_names_every_target():
    shown = shell("make", "help", cwd=ROOT)
    for target in (
        "demo",
        "starter",
        "test",
        "test-lowest",
        "test-newest",
        "lint",
        "format",
        "docs",
        "lock",
        "audit",
        "clean",
        "help",
    ):
        assert f"{target} " in shown


def test_setup_cfg_lists_every_package():
    import configparser

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    listed = set(config["options"]["packages"].split())
    found = {".".join(p.parent.relative_to(ROOT / "src").parts) for p in (ROOT / "src").rglob("__init__.py")}
    assert listed == found | {"aelm.conf"}


def test_the_workflow_runs_what_setup_cfg_promises():
    import configparser

    import yaml

    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    classifiers = config["metadata"]["classifiers"].splitlines()
    promised = {line.rpartition(" ")[2] for line in classifiers if "Python :: 3." in line}
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yaml").read_text(encoding="utf-8"))["jobs"]
    assert set(jobs["test"]["strategy"]["matrix"]["python"]) == promised
    targets = {step["run"].removeprefix("make ") for job in jobs.values() for step in job["steps"] if "run" in step}
    assert targets == {"lint", "test", "docs"}
    named = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()}
    assert targets <= named
