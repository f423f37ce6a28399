"""Unreadable pictures: a run continues without them, and reports their number and names."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from aelm.report import metrics
from aelm.report.metrics import write_unreadable
from tests.pictures_on_disk import save_model

SYNTHETIC = "synthetic-tiny-s0-h128-o10-v1"


@pytest.fixture
def copied(people, tmp_path):
    """A copy of the synthetic people, to be spoiled."""
    return Path(shutil.copytree(people, tmp_path / "data"))


def spoiled(folder, *places):
    """Cuts off some of a folder's pictures, by their place in the order of names."""
    files = [sorted(folder.glob("*.jpg"))[place] for place in places]
    for file in files:
        file.write_bytes(file.read_bytes()[:300])
    return files


def rows(path):
    """The lines of a table, by column; names in it may be no UTF-8."""
    with open(path, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def renamed(file):
    """Gives a file a name that is no UTF-8, as archives from elsewhere hold them."""
    other = os.fsencode(file).replace(b".jpg", b"_\xe9.jpg")
    try:
        os.rename(file, other)
    except OSError:
        pytest.skip("this file system takes no such names")
    return Path(os.fsdecode(other))


def test_the_list_holds_any_name_as_it_is(tmp_path):
    bad = tmp_path / 'a "b",\nc.jpg'
    bad.write_bytes(b"GIF89a")
    odd = renamed(Path(shutil.copy(bad, tmp_path / "人.jpg")))
    write_unreadable({"train": [str(bad)], "val": [], "test": [str(odd)]}, tmp_path)
    found = [(row["set"], row["path"], "a GIF" in row["reason"]) for row in rows(tmp_path / "bad.csv")]
    assert found == [("train", str(bad), True), ("test", str(odd), True)]
    write_unreadable({"train": [], "test": []}, tmp_path)
    assert not (tmp_path / "bad.csv").exists()


@pytest.mark.parametrize("batch", [1, 7])
def test_a_test_without_bad_pictures_is_one_without_their_files(copied, tmp_path, tested, batch, monkeypatch, caplog):
    """Also where all pictures of a batch are bad, and where the last of all is."""
    monkeypatch.setattr(metrics, "ROWS", 1)  # drawing takes longest
    monkeypatch.setattr(metrics, "RESULTS", 2)
    root = copied / SYNTHETIC
    model = save_model(tmp_path / "model.ckpt")
    options = ["dataset=folder", f"data_dir={root}", "dataset.workers=0", f"dataset.test_batch_size={batch}",
               "dataset.on_bad_image=skip", f"output={tmp_path}/out", "bootstrap=0", "rerank=true"]  # fmt: skip
    bad = [*spoiled(root / "query", 0, 3), *spoiled(root / "bounding_box_test", 1, -1)]
    bad[0] = renamed(bad[0])
    renamed(sorted((root / "query").glob("*.jpg"))[1])  # a good one, which the table of queries names
    scores = tested(model, *options, f"figures={str(batch > 1).lower()}")
    assert scores["test/unreadable"] == 4
    caplog.text.encode("utf-8")  # what is told can be shown
    assert (tmp_path / "out" / "ranked_test_worst.png").is_file() == (batch > 1)
    listed = rows(tmp_path / "out" / "bad.csv")
    assert {row["path"] for row in listed if row["set"] == "test"} == {str(file) for file in bad}
    assert all("is cut off" in row["reason"] for row in listed)
    asked = {file.name for file in (root / "query").glob("*.jpg")} - {file.name for file in bad}
    assert {Path(row["path"]).name for row in rows(tmp_path / "out" / "queries_test.csv")} == asked
    for file in bad:
        file.unlink()
    without = tested(model, *options)
    assert without["test/unreadable"] == 0
    assert not (tmp_path / "out" / "bad.csv").exists()
    named = [name for name in without if name.startswith("test") and "unreadable" not in name]
    assert {name: scores[name] for name in named} == pytest.approx({name: without[name] for name in named}, abs=1e-6)


def test_a_training_counts_what_it_replaced_and_left_out(copied, trained):
    root = copied / SYNTHETIC
    train = spoiled(root / "bounding_box_train", *range(0, 60, 3))
    query = spoiled(root / "query", 0)
    run_dir, scores = trained(
        "dataset.on_bad_image=skip", f"data_dir={copied}", "trainer.max_epochs=1", "figures=false"
    )
    found = {(row["set"], row["path"]) for row in rows(f"{run_dir}/bad.csv")}
    told = json.loads(Path(run_dir, "metrics.json").read_text())
    assert told == scores
    for name in ("train", "val", "test", "test_occluded"):
        assert told[f"{name}/unreadable"] == sum(one == name for one, _ in found)
    assert told["test/unreadable"] == 1
    assert ("test", str(query[0])) in found
    assert told["train/unreadable"] + told["val/unreadable"] > 0
    assert {path for name, path in found if name in ("train", "val")} <= {str(file) for file in train}


def test_where_a_bad_picture_is_an_error_nothing_is_counted(trained):
    run_dir, scores = trained("trainer.max_epochs=1", "figures=false")
    assert not [name for name in scores if "unreadable" in name]
    assert not Path(run_dir, "bad.csv").exists()
