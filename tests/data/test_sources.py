"""Pictures as people name them: folders, patterns, lists, files; whatever their names."""

import os

import pytest

from aelm.data.sources import Item, find_items
from aelm.embed.folder import SINGLE, csv_bytes, read_items

NASTY = ['it\'s "(1)".jpg', "<b>&amp;.jpg", "two\nlines.jpg", "人物 Straße.png", "a,b;c\t.jpg", "[1]*.jpg"]


@pytest.fixture
def crops(tmp_path):
    for name in (
        "0007_c2s1_1.jpg",
        "a/same.jpg",
        "b/same.jpg",
        "b/deep/12_c1.PNG",
        "notes.md",
        ".hidden.jpg",
        "a/x.gif",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_is_taken_with_all_beneath(crops):
    items = find_items(crops)
    names = [os.path.relpath(item.path, crops) for item in items]
    assert names == ["0007_c2s1_1.jpg", "a/same.jpg", "b/deep/12_c1.PNG", "b/same.jpg"]
    assert [item[1:3] for item in items] == [("7", "2"), ("", ""), ("12", "1"), ("", "")]


def test_one_file_and_patterns(crops, monkeypatch):
    assert find_items(crops / "b/deep/12_c1.PNG") == (Item(f"{crops}/b/deep/12_c1.PNG", "12", "1"),)
    assert [item.path for item in find_items(f"{crops}/*/same.jpg")] == [f"{crops}/a/same.jpg", f"{crops}/b/same.jpg"]
    monkeypatch.chdir(crops)
    assert [item.path for item in find_items("**/*.jpg")] == ["0007_c2s1_1.jpg", "a/same.jpg", "b/same.jpg"]


def test_names_tell_what_the_pattern_says(crops):
    found = find_items(crops, r"(?P<camid>[^/]+)/(?P<pid>\w+)\.")
    assert [item[1:3] for item in found] == [("", ""), ("same", "a"), ("", ""), ("same", "b")]
    assert {item[1:3] for item in find_items(crops, None)} == {("", "")}
    with pytest.raises(ValueError, match=r"`pattern` must have a group \(\?P<pid>...\)"):
        find_items(crops, r"(\d+)")


def test_a_pattern_with_a_slash_reads_the_folders_of_globs_lists_and_tables(crops, monkeypatch, caplog):
    pattern = r"(?P<camid>[^/]+)/(?P<pid>\w+)\."
    (crops / "list.txt").write_text(f"./a/same.jpg\n{crops}/b/same.jpg")
    (crops / "list.csv").write_text("path\na/same.jpg\nb/../b/same.jpg")
    monkeypatch.chdir(crops.parent)
    for source in ("*/same.jpg", "**/same.jpg", "list.txt", "list.csv"):
        for place in (crops, crops.name):
            assert [item[1:3] for item in find_items(f"{place}/{source}", pattern)] == [("same", "a"), ("same", "b")]
    monkeypatch.chdir(crops)
    assert [item[1:3] for item in find_items("[ab]/same.jpg", pattern)] == [("same", "a"), ("same", "b")]
    assert not caplog.records
    find_items(crops, r"person(?P<pid>\d+)")
    assert "`pattern` matches none of the 4 names of `images`" in caplog.text


def test_a_text_list_starts_from_its_own_folder(crops, tmp_path):
    (crops / "list.txt").write_bytes("﻿a/same.jpg\r\n\r\n0007_c2s1_1.jpg\r\na/same.jpg\r\n/abs/x.jpg".encode())
    found = find_items(crops / "list.txt")
    assert found == (Item(f"{crops}/a/same.jpg"), Item(f"{crops}/0007_c2s1_1.jpg", "7", "2"), Item("/abs/x.jpg"))


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_a_table_tells_identity_and_camera(crops, mark):
    lines = ["camid,path,note,pid", "north gate,a/same.jpg,x,007", ",0007_c2s1_1.jpg,,", "3,b/same.jpg,,bob"]
    (crops / "list.csv").write_text("\n".join(lines).replace(",", mark))
    assert find_items(crops / "list.csv") == (
        Item(f"{crops}/a/same.jpg", "7", "north gate"),
        Item(f"{crops}/0007_c2s1_1.jpg", "7", "2"),
        Item(f"{crops}/b/same.jpg", "bob", "3"),
    )


@pytest.mark.parametrize("name", NASTY)
def test_any_name_is_found_and_survives_a_table(tmp_path, name):
    (tmp_path / name).touch()
    for source in (tmp_path, tmp_path / name):
        assert find_items(source) == (Item(f"{tmp_path}/{name}"),)
    (tmp_path / "items.csv").write_bytes(csv_bytes(SINGLE, [Item(name, "1", 'c"1')[:3]]))
    assert read_items(tmp_path / "items.csv") == (Item(name, "1", 'c"1'),)
    assert find_items(tmp_path / "items.csv") == (Item(f"{tmp_path}/{name}", "1", 'c"1'),)


def test_a_name_that_is_no_utf8_survives(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    try:
        (tmp_path / name).touch()
    except OSError:
        pytest.skip("this file system takes UTF-8 names only")
    (tmp_path / "items.csv").write_bytes(csv_bytes(SINGLE, [Item(name)[:3]]))
    assert find_items(tmp_path / "items.csv") == find_items(tmp_path, key="query") == (Item(f"{tmp_path}/{name}"),)


def test_what_cannot_be_meant_is_told(crops, tmp_path):
    (tmp_path / "none" / "sub").mkdir(parents=True)
    (tmp_path / "none" / "sub" / "x.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"`images`: no picture in the folder .*none.*\.jpg"):
        find_items(tmp_path / "none")
    with pytest.raises(FileNotFoundError, match=r"`query`: nothing at '.*nowhere'"):
        find_items(tmp_path / "nowhere", key="query")
    with pytest.raises(FileNotFoundError, match="nothing at"):
        find_items(f"{crops}/*.bmp")
    with pytest.raises(ValueError, match=r"notes\.md is neither a picture .* nor a list"):
        find_items(crops / "notes.md")
    (crops / "empty.txt").write_text("\n")
    with pytest.raises(FileNotFoundError, match=r"empty\.txt is empty"):
        find_items(crops / "empty.txt")
    (crops / "bad.csv").write_text("file,pid\nx.jpg,1\n")
    with pytest.raises(ValueError, match=r"column path .*; found file, pid"):
        find_items(crops / "bad.csv")
    (crops / "bad.csv").write_text("path,pid\nx.jpg,1\n,2\n")
    with pytest.raises(ValueError, match="line 3 has no path"):
        find_items(crops / "bad.csv")


def test_a_tree_is_listed_once_whatever_links_it_holds(tmp_path, caplog):
    """Loops, a link beside its folder, copies that systems make, and a folder that is only linked."""
    for name in ("a/1.jpg", "__MACOSX/1.jpg", "@eaDir/1.jpg/T.jpg", "a/.cache/2.jpg", "a/._1.jpg"):
        (tmp_path / "crops" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "crops" / name).touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "3.jpg").touch()
    (tmp_path / "crops" / "a" / "loop").symlink_to(tmp_path / "crops")
    (tmp_path / "crops" / "0_latest").symlink_to("a")
    (tmp_path / "crops" / "linked").symlink_to(tmp_path / "elsewhere")
    found = [os.path.relpath(item.path, tmp_path / "crops") for item in find_items(tmp_path / "crops")]
    assert found == ["a/1.jpg", "linked/3.jpg"]


def test_pictures_that_are_not_read_are_counted(tmp_path, caplog):
    for name in ("1.jfif", "2.HEIC", "b/3.heic", "4.gif", "Thumbs.db"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [os.path.basename(item.path) for item in find_items(tmp_path)] == ["1.jfif"]
    assert "pictures that are not read are left out: 2 .heic, 1 .gif" in caplog.text
    with pytest.raises(FileNotFoundError, match=r"no picture in the folder .*found 1 \.heic: convert them"):
        find_items(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match=r"nothing at .*found 1 \.gif: convert them"):
        find_items(f"{tmp_path}/*.gif")


def test_a_folder_that_cannot_be_opened_is_told(tmp_path, caplog, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "1.jpg").touch()
    scandir = os.scandir

    def refusing(path):
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    assert len(find_items(tmp_path)) == 1
    assert "1 folders cannot be opened" in caplog.text


def test_brackets_in_the_name_of_a_folder_are_no_pattern(tmp_path):
    (tmp_path / "crops [1]").mkdir()
    (tmp_path / "crops [1]" / "a.jpg").touch()
    (tmp_path / "crops 1").mkdir()
    assert [item.path for item in find_items(f"{tmp_path}/crops [1]/*.jpg")] == [f"{tmp_path}/crops [1]/a.jpg"]
    (tmp_path / "crops 1" / "b.jpg").touch()
    assert [item.path for item in find_items(f"{tmp_path}/crops [1]/*.jpg")] == [f"{tmp_path}/crops 1/b.jpg"]
