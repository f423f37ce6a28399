"""What the README tells people to type is run, or at least understood, here."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from aelm.command.schema import check_keys
from tests.pictures_on_disk import person, write

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(r"^python -m aelm\.(\w+) +(.*?)(?: +#.*)?$", README, re.MULTILINE)


def test_python_blocks_run(trained, tmp_path, monkeypatch, capsys):
    run_dir, _ = trained("figures=false")
    shutil.copytree(run_dir, tmp_path / "here" / "runs" / "demo")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("a.jpg", "b.jpg"):
        write(f"./{name}", person(ord(name[0])))
    assert len(PYTHON) >= 3
    capsys.readouterr()
    for block in PYTHON:
        exec(compile(block, "README.md", "exec"), {})
    assert capsys.readouterr().out.startswith("1.0 1.0 1.0 1.0")


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_commands_compose(composed, command, arguments):
    overrides = [a for a in shlex.split(arguments) if a != "-m"]
    parsed = OverridesParser.create().parse_overrides(overrides)
    first = []
    for p in parsed:
        value = next(iter(p.sweep_iterator())) if p.is_sweep_override() else p.get_value_element_as_str()
        first.append(f"{p.key_or_group}={value}")
    check_keys(composed(command, *first))


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_every_dataset_has_its_row():
    options = {p.stem for p in (ROOT / "conf" / "dataset").glob("*.yaml")} - {"base", "from_checkpoint"}
    assert set(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == options


def test_the_reading_path_tells_its_lengths():
    told = re.findall(r"\]\((src/aelm/[\w/]+\.py)\) \((\d+)\)", README)
    assert len(told) == 4
    lengths = [len((ROOT / path).read_text(encoding="utf-8").splitlines()) for path, _ in told]
    assert [int(lines) for _, lines in told] == pytest.approx(lengths, rel=0.15)
    (whole,) = re.findall(r"about (\d+) lines", README)
    assert int(whole) == pytest.approx(sum(lengths), rel=0.1)
