"""Every command and every line of Python in docs/search.md runs, in the order in which it stands there."""

import re
import shlex
from pathlib import Path

from aelm import embed, search
from aelm.cli import quoted
from aelm.schema import check_keys
from tests.pictures_on_disk import person, save_model, write

DOCUMENT = Path(__file__).parents[1] / "docs" / "search.md"
BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
COMMANDS = {"aelm.embed": embed.run, "aelm.search": search.run}


def test_the_document_runs(composed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "best.ckpt")
    for i in range(4):
        write(f"{tmp_path}/crops/{i:04}_c{i}.jpg", person(i))
        write(f"{tmp_path}/crops/north/{i:04}_c{i}.jpg", person(10 + i))
    write(f"{tmp_path}/person.jpg", person(2))
    kinds = [kind for kind, _ in BLOCKS]
    assert kinds.count("sh") >= 4
    assert kinds.count("python") >= 2
    for kind, text in BLOCKS:
        if kind == "python":
            exec(compile(text, str(DOCUMENT), "exec"), {})
            continue
        python, dash_m, module, *arguments = shlex.split(text)
        assert (python, dash_m) == ("python", "-m")
        config = composed(module.removeprefix("aelm."), *quoted(arguments), "device=cpu", "workers=0", "progress=false")
        check_keys(config)
        assert COMMANDS[module](config)
    assert {"result.html", "people", "by_folder"} <= {path.name for path in tmp_path.iterdir()}
    assert "north" in (tmp_path / "by_folder" / "items.csv").read_text()


def test_the_document_names_no_key_that_is_not_there(composed):
    text = DOCUMENT.read_text(encoding="utf-8")
    tables = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    keys = {key for cell in tables for key in re.findall(r"`(\w+)=", cell)}
    assert keys <= set(composed("search"))
    assert len(keys) >= 7
