import importlib
import os
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from aelm.__main__ import COMMANDS
from aelm.command import schema
from aelm.command.cli import STARTED_BY, quote, quoted
from tests.conftest import CONF

NASTY = [
    "it's (1).jpg",
    "a,b.jpg",
    "[1].jpg x",
    'it\'s "both".jpg',
    "ends with \\",
    "back\\'slash",
    "blanks  and = signs",
    "Straße/人物.jpg",
    "{x: 1}",
    "#1 $2 %3 !4 &5 *?.jpg",
    r"(?P<pid>-?\d+)_c(?P<camid>\d+)",
    "-1_c1.jpg",
    "a:b",
]


def parsed(argument):
    """What Hydra's own parser makes of it."""
    return OverridesParser.create().parse_override(argument).value()


@pytest.mark.parametrize("text", NASTY)
def test_any_text_arrives_as_it_was_typed(text):
    (argument,) = quoted([f"checkpoint={text}"])
    assert str(parsed(argument)) == text
    assert quoted([argument]) == [argument]  # a child process gets the arguments once more


@pytest.mark.parametrize("text", NASTY)
def test_quote_is_what_hydra_unquotes(text):
    assert str(parsed(f"key={quote(text)}")) == text


def test_letters_beyond_ascii_are_text_in_any_value():
    arguments = ["only_camids=[Tür,2,'b c']", "only_camids=[Tür 1,2]", "quality=Güte", "camera=正门", "camera=2"]
    found = [parsed(one) for one in quoted(arguments)]
    assert found == [["Tür", 2, "b c"], ["Tür 1", "2"], "Güte", "正门", 2]
    assert quoted(quoted(arguments)) == quoted(arguments)
    left = ["--config-dir=/données/conf", "+x={root: '/données'}", "camera=null"]
    assert quoted(left) == left


def test_what_is_no_path_is_left_to_hydra():
    for argument in ("seed=1,2", "model.aelm.threshold=0.7", "transform.extra=[a,b]", "-m", "output=null", "~model"):
        assert quoted([argument]) == [argument]


@pytest.mark.parametrize(
    ("argument", "values"),
    [
        ("model.backbone.name=resnet18,resnet34", ["resnet18", "resnet34"]),
        ("model.backbone.name=choice(resnet18,resnet34)", ["resnet18", "resnet34"]),
        ("checkpoint=it's (1).ckpt, b.ckpt", ["it's (1).ckpt", "b.ckpt"]),
        ("checkpoint='a,b',c d", ["a,b", "c d"]),
        ("name=1e-3,true", ["1e-3", "true"]),
        ("runs=[a b,c],[d]", [["a b", "c"], ["d"]]),
    ],
)
def test_commas_separate_the_values_of_a_sweep(argument, values):
    for mode in ("-m", "--multirun"):
        override = OverridesParser.create().parse_override(quoted([argument, mode])[0])
        assert override.is_sweep_override()
        assert [parsed(f"x={text}") for text in override.sweep_string_iterator()] == values


SINGLE = [text for text in NASTY if "," not in text]


@pytest.mark.parametrize(
    ("key", "text"),
    [(key, text) for key in ("+x.pattern", "+x.name") for text in SINGLE]
    + [("+x.pattern", r"(?P<pid>\d{1,4})_c(?P<camid>\d)")],
)
def test_any_single_text_arrives_in_a_sweep(key, text):
    (argument, _) = quoted([f"{key}={text}", "-m"])
    assert str(parsed(argument)) == text


def test_null_is_a_word_where_a_key_needs_one_and_nowhere_below():
    for mode in ([], ["-m"]):
        assert quoted(["name=null", "model.backbone.name=null", *mode], {"name"})[:2] == [
            "name='null'",
            "model.backbone.name=null",
        ]


@pytest.mark.parametrize("key", ["name", "images", "gallery", "+x.root"])
@pytest.mark.parametrize(
    "text", ["1e-3", "3.10", "007", "1_000", "-1", "inf", "NaN", "true", "1.", ".5", "[crops]", "[a, b]"]
)
def test_texts_that_look_like_values_stay_as_typed(key, text):
    (argument,) = quoted([f"{key}={text}"])
    assert parsed(argument) == text
    assert type(parsed(argument)) is not float
    assert quoted([argument]) == [argument]


def test_null_is_a_text_where_a_key_needs_one():
    assert [quoted([f"images={null}"], schema.needed("embed")) for null in ("null", "NULL")] == [
        ["images='null'"], ["images='NULL'"]
    ]  # fmt: skip
    assert quoted(["images=null"], schema.needed("explain")) == ["images=null"]
    assert quoted(["output=null", "pattern=null"], schema.needed("search")) == ["output=null", "pattern=null"]
    assert {"name", "run_dir"} <= schema.needed("train")


def test_the_script_finds_a_module_in_the_current_folder_as_python_m_does(tmp_path):
    (tmp_path / "mine.py").write_text("print('mine was found')")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "aelm"
    script.write_text(
        "import sys, runpy\nfrom aelm import __main__ as aelm\n"
        "aelm.runpy.run_module = lambda *_, **__: __import__('mine')\nsys.exit(aelm.main())"
    )
    done = subprocess.run([sys.executable, str(script), "train"], cwd=tmp_path, capture_output=True, text=True)
    assert done.stdout == "mine was found\n", done.stderr
    safe = subprocess.run([sys.executable, "-P", str(script), "train"], cwd=tmp_path, capture_output=True, text=True)
    assert "No module named 'mine'" in safe.stderr


def test_a_console_that_cannot_show_a_letter_gets_its_number(tmp_path):
    code = (
        "import sys\nfrom aelm.command import cli\n"
        "@cli.command('compare')\ndef main(config):\n    print(config.output)\nmain()"
    )
    arguments = ["runs=x", "output=rené/人"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code, *arguments], cwd=tmp_path, capture_output=True, env=environment)
    assert done.stdout.strip() == rb"ren\xe9/\u4eba", done.stderr


def test_home_is_expanded_in_paths_alone():
    assert quoted(["+x.root=~/data", "pattern=~x"]) == [f"+x.root={os.path.expanduser('~/data')}", "pattern='~x'"]


def test_unknown_commands_are_named():
    code = "import sys; from aelm.__main__ import main; sys.argv = ['aelm', 'trian']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 1
    assert "no command trian" in done.stderr
    assert "train" in done.stderr


@pytest.mark.parametrize("first", [text for text in NASTY if "," not in text])
@pytest.mark.parametrize("second", ["b.jpg", "it's (2).jpg"])
def test_lists_of_paths_arrive_as_they_were_typed(first, second):
    (argument,) = quoted([f"pair=[{first},{second}]"])
    assert [str(path) for path in parsed(argument)] == [first, second]
    assert quoted([argument]) == [argument]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_explains_every_key_of_the_command_and_names_its_groups(name, monkeypatch, capsys):
    monkeypatch.setenv(STARTED_BY, "")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    importlib.import_module(f"aelm.{name}.__main__").main()
    told = capsys.readouterr().out
    file = CONF / f"{name}.yaml"
    for key in set(OmegaConf.load(file)) - {"defaults", "hydra"}:
        assert f"\n{key}:" in told
    for line in file.read_text("utf-8").partition("\nhydra:")[0].splitlines():
        assert not line.startswith("#") or line.removeprefix("# ") in told
    assert "\nhydra:" not in told
    assert (
        ("transform=bot|flip|none (default: bot)\n" in told) == ("model/coam=coam|none\n" in told) == (name == "train")
    )
    assert ("dataset=base|cuhk03|" in told) == (name in ("train", "evaluate", "export"))
