"""Every command and every line of Python in the documents on searching runs, in the order in which it stands there."""

import re
import shlex
from pathlib import Path

import pytest

from aelm.command.cli import quoted
from aelm.command.schema import check_keys
from aelm.embed import task as embed
from aelm.search import task as search
from tests.pictures_on_disk import person, save_model, write

DOCS = Path(__file__).parents[1] / "docs"
COMMANDS = {"aelm.embed": embed.run, "aelm.search": search.run}
FAST = ["device=cpu", "workers=0", "progress=false"]


@pytest.fixture
def home(tmp_path, monkeypatch):
    """The folder that the documents speak of: a model, a person, and crops."""
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "best.ckpt")
    for i in range(4):
        write(f"{tmp_path}/crops/{i:04}_c{i}.jpg", person(i))
        write(f"{tmp_path}/crops/north/{i:04}_c{i}.jpg", person(10 + i))
    write(f"{tmp_path}/person.jpg", person(2))
    return tmp_path


@pytest.fixture
def run(composed):
    """Runs what a document says: (kind, text) of its blocks."""

    def run(name):
        text = (DOCS / name).read_text(encoding="utf-8")
        blocks = re.findall(r"^```(sh|python)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for kind, block in blocks:
            if kind == "python":
                exec(compile(block, name, "exec"), {})
                continue
            python, dash_m, module, *arguments = shlex.split(block)
            assert (python, dash_m) == ("python", "-m")
            config = composed(module.removeprefix("aelm."), *quoted(arguments), *FAST)
            check_keys(config)
            assert COMMANDS[module](config)
        return [kind for kind, _ in blocks]

    return run


def test_search_runs(home, run):
    kinds = run("search.md")
    assert (kinds.count("sh"), kinds.count("python")) == (4, 2)
    assert {"result.html", "people", "by_folder"} <= {path.name for path in home.iterdir()}
    assert "north" in (home / "by_folder" / "items.csv").read_text()


def test_starter_runs(home, run):
    assert run("starter.md") == ["sh", "sh"]
    assert (home / "result.html").is_file()


def test_gallery_store_runs(home, run, composed, capsys):
    pytest.importorskip("pymilvus", reason="the extra `gallery` is not installed")
    embed.run(composed("embed", "checkpoint=best.ckpt", "images=crops", "output=crops", *FAST))
    assert run("gallery_store.md") == ["python", "sh"]
    assert f"8 {home}/person.jpg" in capsys.readouterr().out
    assert (home / "result.html").is_file()


def test_search_names_no_key_that_is_not_there(composed):
    text = (DOCS / "search.md").read_text(encoding="utf-8")
    keys = {key for cell in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE) for key in re.findall(r"`'?(\w+)=", cell)}
    assert keys <= set(composed("search"))
    assert len(keys) >= 7
