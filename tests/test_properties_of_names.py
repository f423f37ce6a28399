"""Laws that hold for whatever hypothesis comes up with: names of pictures, identities and paths."""

import os
import re
import tempfile
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, given
from hypothesis import strategies as st

from aelm.command.cli import quoted
from aelm.data.listing import MARKET_NAME, numbers_of, read_folder
from aelm.data.sources import Item, plain
from aelm.embed.folder import csv_bytes, read_items

pids, camids = st.integers(-1, 9999), st.integers(0, 99)


@given(
    st.sets(st.tuples(pids, camids, st.integers(1, 9), st.integers(0, 10**6)), min_size=1, max_size=6),
    st.sampled_from([".jpg", ".PNG", ".jpeg", ".tiff"]),
)
def test_market_names_tell_who_and_where_whatever_the_folder_is_called(drawn, suffix):
    with tempfile.TemporaryDirectory(prefix="0007_c3s2_") as root:  # the path looks like a name too
        folder = Path(root, "-1_c9s9_000001_00")
        folder.mkdir()
        expected = {}
        for pid, camid, sequence, frame in drawn:
            name = (
                f"{pid:04d}_c{camid}s{sequence}_{frame:06d}_00{suffix}"
                if pid >= 0
                else f"-1_c{camid}s1_{frame}{suffix}"
            )
            expected[name] = (pid, camid)
            (folder / name).touch()
        for stray in ("Thumbs.db", "._0001_c1s1_000001_00.jpg", "notes.txt"):
            (folder / stray).touch()
        found = read_folder(folder, MARKET_NAME)
        assert [os.path.basename(one.path) for one in found] == sorted(expected)
        assert {os.path.basename(one.path): (one.pid, one.camid) for one in found} == expected


file_names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=30)


@given(file_names)
def test_a_name_that_tells_nothing_is_refused_and_never_guessed(stem):
    name = f"{stem}.jpg"
    assume(not name.startswith(".") and len(name.encode()) < 200)
    head, _, rest = name.partition("_c")
    tells = (head == "-1" or head.isdecimal()) and rest.partition("s")[0].isdecimal()
    assume(not tells)
    with tempfile.TemporaryDirectory() as root:
        Path(root, name).touch()
        with pytest.raises(ValueError, match="1 of 1 file names carry no identity or camera"):
            read_folder(Path(root), MARKET_NAME)


@given(st.lists(st.integers(-1, 50).map(str) | st.integers(0, 50).map("{:04d}".format), min_size=1))
def test_whole_numbers_stay_what_they_are(texts):
    assert numbers_of(texts) == {text: int(text) for text in texts}
    assert all(plain(text) == str(int(text)) for text in texts)


@given(st.lists(st.text(min_size=1, max_size=5), min_size=1).map(lambda texts: [plain(one) for one in texts]))
def test_other_identities_are_numbered_behind_whole_numbers_in_sorted_order(texts):
    found = numbers_of([*texts, "who?"])
    whole = {text for text in texts if re.fullmatch("-?[0-9]+", text)}
    first = max(0, *(int(text) + 1 for text in {"-1", *whole}))
    words = sorted({*texts, "who?"} - whole)
    assert found == {text: int(text) for text in whole} | {text: first + i for i, text in enumerate(words)}


any_name = st.text(st.characters(exclude_characters="\0"), max_size=12)
# What a file system gives for a name that is no UTF-8.
undecodable = st.binary(max_size=8).map(lambda raw: os.fsdecode(raw.replace(b"\0", b"")))


@given(
    st.lists(
        st.builds(Item, any_name.filter(str.isprintable) | undecodable, any_name.filter(str.isprintable)), max_size=5
    )
)
def test_a_table_of_pictures_gives_back_any_name(items):
    with tempfile.TemporaryDirectory() as root:
        file = Path(root, "items.csv")
        file.write_bytes(csv_bytes(Item._fields[:3], [item[:3] for item in items]))
        assert [one[:3] for one in read_items(file)] == [one[:3] for one in items]


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20))
def test_a_path_reaches_hydra_as_it_was_typed(path):
    assume(not path.startswith("~") and any(c in " ,'\"()[]{}=#&;|<>$*?!" or ord(c) > 127 for c in path))
    assume(path[0] + path[-1] not in ("''", '""', "[]") and not (path.startswith("${") and path.endswith("}")))
    (argument,) = quoted([f"output={path}"])
    assert quoted([argument]) == [argument]
    assert OverridesParser.create().parse_override(argument).value() == path
