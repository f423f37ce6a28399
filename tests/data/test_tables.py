"""Tables as people save them: any program's separators and encodings, and what is no table is called by its name."""

import io
import os
import unicodedata
import zipfile

import numpy as np
import pytest
from tests.data import trees

from aelm.data.benchmarks import folder
from aelm.data.sources import find_items, read_table, read_text
from aelm.embed.folder import read_features

ROWS = [["path", "pid", "camid"], ["a.jpg", "ann", "1"], ["b.jpg", "bo", "2"]]
TEXT = "\r\n".join(",".join(row) for row in ROWS) + "\r\n"


@pytest.mark.parametrize(
    "content",
    [
        TEXT.encode("utf-8-sig"), TEXT.encode("utf-16"), TEXT.encode("utf-16-le"),
        b"\xfe\xff" + TEXT.encode("utf-16-be"), TEXT.encode("utf-32"), TEXT.replace(",", ";").encode(),
        TEXT.replace(",", "\t").encode("utf-16"),
        b"sep=;\r\n" + TEXT.replace(",", ";").encode(), TEXT.replace("path,pid,camid", " Path ,PID,CamID").encode(),
        (TEXT + ",,\r\n\r\n  \r\n").encode(), TEXT.replace("\r\n", ",\r\n").encode(),
        TEXT.replace("ann", '"ann"').encode(), TEXT.replace("\r\n", "\n").strip().encode(),
    ],
)  # fmt: skip
def test_each_reader_takes_a_table_as_people_save_it(tmp_path, content):
    trees.fill(tmp_path, ["a.jpg", "b.jpg"])
    (tmp_path / "t.csv").write_bytes(content)
    np.save(tmp_path / "t.npy", np.eye(2, dtype=np.float32))
    items = find_items(tmp_path / "t.csv")
    assert [(os.path.basename(one.path), one.pid, one.camid) for one in items] == [
        ("a.jpg", "ann", "1"),
        ("b.jpg", "bo", "2"),
    ]
    assert [tuple(one)[1:3] for one in read_features(tmp_path / "t.npy").items] == [("ann", "1"), ("bo", "2")]
    read = folder(tmp_path, csv="t.csv")
    assert [(read.names.pid(picture.pid), picture.camid) for picture in read.query] == [("ann", 1), ("bo", 2)]


def test_lines_are_counted_as_an_editor_does(tmp_path):
    (tmp_path / "t.csv").write_text("sep=;\npath;pid\n\na.jpg;1\n")
    assert read_table(tmp_path / "t.csv").rows == [(4, ["a.jpg", "1"])]


def test_windows_letters_become_themselves_in_identities_and_file_names(tmp_path):
    trees.fill(tmp_path, ["André.jpg"])
    (tmp_path / "t.csv").write_bytes("path,pid\nAndré.jpg,André\n".encode("cp1252"))
    (item,) = find_items(tmp_path / "t.csv")
    assert (item.path, item.pid) == (str(tmp_path / "André.jpg"), "André")


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("ending", [".csv", ".txt"])
def test_paths_are_found_in_the_other_writing(tmp_path, form, ending):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    trees.fill(tmp_path / unicodedata.normalize(form, "zoé"), [unicodedata.normalize(form, "rené.JPG")])
    line = unicodedata.normalize(other, "zoé\\rené.jpg")
    (tmp_path / f"t{ending}").write_text(f"{line}\n" if ending == ".txt" else f"path,pid\n{line},1\n", encoding="utf-8")
    (item,) = find_items(tmp_path / f"t{ending}")
    assert os.path.isfile(item.path)
    assert find_items(unicodedata.normalize(other, str(tmp_path / "zoé"))) == find_items(
        tmp_path / unicodedata.normalize(form, "zoé")
    )
    if ending == ".csv":
        assert [picture.path for picture in folder(tmp_path, csv="t.csv").query] == [item.path]


def test_two_files_that_differ_in_case_alone_are_not_guessed_between(tmp_path):
    trees.fill(tmp_path, ["a.JPG", "A.jpg"])
    (tmp_path / "t.csv").write_text("path,pid\na.jpg,1\n")
    with pytest.raises(ValueError, match="line 2: no file"):
        folder(tmp_path, csv="t.csv")


def test_an_absolute_path_of_windows_is_called_so(tmp_path):
    (tmp_path / "t.csv").write_text("path,pid\nC:\\data\\a.jpg,1\n")
    with pytest.raises(ValueError, match="which is a path of Windows: write it from the data directory on"):
        folder(tmp_path, csv="t.csv")


def workbook():
    """The beginning of an Excel file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "kind"),
    [(workbook(), "an Excel workbook"), (b"%PDF-1.7", "a PDF"), (b"<!doctype html><p>", "a web page"),
     (bytes(600), "600 zeros"), (b"\x07\x00\x01", "bytes that are no text")],
)  # fmt: skip
def test_what_is_no_table_is_called_by_its_kind(tmp_path, content, kind):
    (tmp_path / "t.csv").write_bytes(content)
    for read in (read_table, read_text, find_items, lambda file: folder(tmp_path, csv=file)):
        with pytest.raises(ValueError, match=f"expected text, found {kind}.*Save the table as CSV"):
            read(tmp_path / "t.csv")


def test_an_open_quote_and_a_column_twice_are_told(tmp_path):
    (tmp_path / "t.csv").write_text('path,pid\n"a.jpg,1\n' + "b.jpg,2\n" * 20_000)
    with pytest.raises(ValueError, match="Is a quote open"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv").write_text("path,pid,PID\na.jpg,1,2\n")
    with pytest.raises(ValueError, match="each column once, found pid twice"):
        read_table(tmp_path / "t.csv")
