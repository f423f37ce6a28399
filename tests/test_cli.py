import os
import subprocess
import sys

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from aelm.command.cli import quote, quoted

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


def test_what_is_no_path_is_left_to_hydra():
    for argument in ("seed=1,2", "model.aelm.threshold=0.7", "transform.extra=[a,b]", "-m", "output=null", "~model"):
        assert quoted([argument]) == [argument]


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
