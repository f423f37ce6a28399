"""Identities and cameras are text: kept as written, numbered alike whoever else is there, doubted in one sentence."""

import numpy as np
import pytest
import torch
from tests.data import trees

from aelm.data.benchmarks import folder
from aelm.data.datamodule import ReIDDataModule
from aelm.data.listing import doubts, numbers_of, plain
from aelm.data.splits import check, count_warnings, hold_out
from aelm.data.transforms import recipe
from aelm.report.metrics import Test, ranking_rows
from aelm.retrieval import rank_metrics
from aelm.types import Names, Picture

NAMED = r"(?P<pid>[^/]+)/"


def labelled(root, **options):
    """The label map of a training on the pictures in a folder."""
    read = folder(root, pattern=NAMED)
    data = ReIDDataModule({"mine": read}, recipe(32, 16), lambda *_, **__: Sampler(), **options)
    data.setup("fit")
    return data.label_map, [picture.pid for picture in data.train_pictures]


class Sampler:
    """Says nothing of its batches."""

    batch_size = 1

    def describe(self):
        return ""


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("0002", "2"), ("10.0", "10"), ("-1.0", "-1"), ("00-1", "-1"), ("10,0", "10"), ("000", "0"), ("-0", "0"),
        ("10.5", "10.5"), ("1-2", "1-2"), ("0x1f", "0x1f"), ("1e3", "1e3"), ("", ""), (None, ""), (7, "7"),
        (np.int64(7), "7"), (np.float32(-1), "-1"), ("Ren\u0065\u0301", "Ren\u00e9"), ("Ren\udce9", "Ren\u00e9"),
        ("9" * 40, "9" * 40), ("0" * 9 + "1" * 10_000, "1" * 10_000),
        ("7b0c7b8e-2f6a-4f43-a7e5-0d3b2f0f3f11", "7b0c7b8e-2f6a-4f43-a7e5-0d3b2f0f3f11"),
    ],
)  # fmt: skip
def test_every_identity_has_one_writing(written, meant):
    assert plain(written) == meant
    assert plain(plain(written)) == meant


@pytest.mark.parametrize("wrong", [b"7", ["7"], True])
def test_what_is_neither_text_nor_number_is_refused_by_name(wrong):
    with pytest.raises(TypeError, match="an identity or camera is text or a number, got"):
        plain(wrong)


@pytest.mark.parametrize("pattern", [r"(?P<pid>\d*)\w?_c(?P<camid>\d)", r"(?:(?P<pid>\d+))?\w?_c(?P<camid>\d)"])
def test_a_name_without_an_identity_does_not_fit_the_pattern(tmp_path, pattern):
    (tmp_path / "train").mkdir()
    for name in ("1_c1.jpg", "_c2.jpg", "x_c2.jpg"):
        (tmp_path / "train" / name).touch()
    with pytest.raises(ValueError, match=r"2 of 3 .*(_c2|x_c2)\.jpg"):
        folder(tmp_path, pattern=pattern)


def test_long_numbers_stay_apart_and_fit_a_tensor():
    long = [str(10**30), str(10**30 + 1), "9223372036854775808", "12"]
    found = numbers_of(long)
    assert found["12"] == 12
    assert len(set(found.values())) == 4
    assert max(found.values()) < 2**62


def test_labels_stay_the_same_where_the_gallery_grows(tmp_path):
    people = ["zoe", "2", "10", "ann", "7b0c"]
    trees.fill(tmp_path / "train", [f"{name}/{shot}.jpg" for name in people for shot in range(2)])
    trees.fill(tmp_path / "query", ["q1/1.jpg", "q2/1.jpg"])
    trees.fill(tmp_path / "gallery", ["q1/2.jpg", "q2/2.jpg"])
    before = labelled(tmp_path)
    held_out = hold_out(folder(tmp_path, pattern=NAMED).train, 0.4, 0, folder(tmp_path, pattern=NAMED).names)
    assert list(before[0]) == ["mine:2", "mine:10", "mine:7b0c", "mine:ann", "mine:zoe"]
    trees.fill(tmp_path / "gallery", ["aaa/1.jpg", "99999/1.jpg", "bob/1.jpg", "-1/1.jpg"])
    assert labelled(tmp_path) == before
    again = folder(tmp_path, pattern=NAMED)
    assert [p.path for p in hold_out(again.train, 0.4, 0, again.names).train] == [p.path for p in held_out.train]


def test_text_is_kept_through_validation_and_tests(tmp_path):
    trees.fill(tmp_path / "train", [f"{name}/{shot}.jpg" for name in ("ann", "bo", "cy", "di") for shot in range(4)])
    trees.fill(tmp_path / "query", ["eve/1.jpg"])
    trees.fill(tmp_path / "gallery", ["eve/2.jpg"])
    data = ReIDDataModule({"mine": folder(tmp_path, pattern=NAMED)}, recipe(32, 16), lambda *_, **__: Sampler(),
                          val_fraction=0.5)  # fmt: skip
    data.setup("fit")
    for one, known in ((data.val_sets[0], {"ann", "bo", "cy", "di"}), (data.test_sets[0], {"eve"})):
        assert {one.names.pid(picture.pid) for picture in one.query} <= known


def test_errors_name_people_by_their_text(tmp_path):
    trees.fill(tmp_path / "query", ["ann/1.jpg"])
    trees.fill(tmp_path / "gallery", ["bob/1.jpg"])
    with pytest.raises(ValueError, match="query has ann, gallery has bob"):
        check(folder(tmp_path, pattern=NAMED))


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        (["0007", "7", "7"], ["'0007' and '7' are read as 7 (3 pictures)"]),
        (["10.0", "10"], ["'10' and '10.0' are read as 10 (2 pictures)"]),
        (["00-1", "00-1", "1"], ["'00-1' is read as junk (-1) (2 pictures)"]),
        (["junk", "ann"], ["'junk' is read as a name", "(1 picture)"]),
        (["Ann", "ann", "bo"], ["'Ann' and 'ann' are read as different ones (2 pictures)"]),
        (["P07", "P7"], ["'P07' and 'P7' are read as different ones"]),
        (["1.23457E+15", "2"], ["'1.23457E+15' is a number that a spreadsheet shortened"]),
        (["0007", "7", "junk"], ["read as 7", "; 'junk'"]),
    ],
)
def test_what_looks_like_junk_or_a_collision_is_named_in_one_sentence(texts, words):
    (sentence,) = doubts("identities", texts)
    assert all(word in sentence for word in words), sentence


@pytest.mark.parametrize("texts", [["0001", "0002", "-1"], ["1", "10", "100"], ["1_12", "11_2"], ["a1", "b1"], []])
def test_usual_identities_raise_no_doubt(texts):
    assert doubts("identities", texts) == []


def test_a_reader_s_doubts_are_told_with_the_counts(tmp_path):
    trees.fill(tmp_path / "query", ["0007/1.jpg"])
    trees.fill(tmp_path / "gallery", ["7/1.jpg", "00-1/1.jpg"])
    benchmark = folder(tmp_path, pattern=NAMED, name="mine")
    assert [picture.pid for picture in benchmark.gallery] == [-1, 7]
    assert any("mine: identities that may not be" in line and "'00-1'" in line for line in count_warnings(benchmark))


def test_figures_call_people_and_cameras_by_their_names():
    features, names = torch.eye(2), Names({0: "alice"}, {1: "door"})
    one = Test(features[:1], features[1:], [Picture("q.jpg", 0, 0)], [Picture("g.jpg", 0, 1)], names)
    result = rank_metrics(features[:1], features[1:], [0], [0], [0], [1])
    (row,) = ranking_rows(one, result, [0])
    assert row.caption == "id alice, cam 0"
    assert row.results[0].caption == "id alice, cam door"
