"""The mutants still break what stands in the code; whether a test notices tells `python -m tests.mutants`."""

import ast
from pathlib import Path

import pytest

from tests.mutants import MUTANTS

SOURCE = Path(__file__).parents[1] / "src" / "aelm"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.what)
def test_a_mutant_breaks_one_place_of_the_code(mutant):
    text = (SOURCE / mutant.file).read_text(encoding="utf-8")
    assert text.count(mutant.old) == 1, f"{mutant.file} holds {mutant.old!r} {text.count(mutant.old)} times"
    assert ast.dump(ast.parse(text)) != ast.dump(ast.parse(text.replace(mutant.old, mutant.new)))


def test_there_are_enough_of_them():
    assert len({mutant.what for mutant in MUTANTS}) == len(MUTANTS) > 40
