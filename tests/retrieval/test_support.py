"""Numbers that too few pairs, people or pictures support are left out or marked, and that is said."""

import csv
import io
import json
import logging
import math

import numpy as np
import pytest

from aelm.data.datamodule import EvaluationSet
from aelm.evaluate import task as evaluate
from aelm.evaluate.occlusion import Point, curve_csv, curve_scores, rows
from aelm.report.metrics import Test, warn_of_support
from aelm.retrieval import bootstrap, rank_metrics, verification
from aelm.retrieval.result import MIN_PEOPLE, percentiles
from aelm.types import Picture


def world(people, strangers=0, seed=0):
    """Features and labels of a query and two gallery pictures a person; some in the gallery have no query."""
    r = np.random.default_rng(seed)
    gallery_pids = np.repeat(np.arange(people + strangers), 2)
    centres = r.standard_normal((people + strangers, 8))
    query, gallery = (centres[pids] + 0.8 * r.standard_normal((len(pids), 8)) for pids in (range(people), gallery_pids))
    cameras = np.zeros(people, int), np.ones(len(gallery_pids), int)
    return query, gallery, np.arange(people), gallery_pids, *cameras


def as_test(people, strangers=0):
    query, gallery, q_pids, g_pids, *_ = world(people, strangers)
    sides = enumerate((q_pids, g_pids))
    pictures = [[Picture(f"{i}", int(pid), cam) for i, pid in enumerate(pids)] for cam, pids in sides]
    return Test(query, gallery, *pictures)


@pytest.mark.parametrize(("people", "strangers"), [(1, 1), (2, 3), (6, 30)])
def test_a_rate_is_supported_by_one_impostor_pair_that_it_accepts(people, strangers):
    far = (0.5, 0.1, 0.01, 1e-4)
    found = verification(*world(people, strangers), far=far)
    assert found.is_supported.tolist() == [rate * found.num_impostor >= 1 for rate in far]


def test_thresholds_of_too_few_pairs_are_left_out_and_that_is_said(caplog):
    with caplog.at_level(logging.WARNING):
        found = evaluate.thresholds("test", as_test(2, 3), [0.2, 0.01, 1e-4])
    assert set(found) == {"test/TAR@FAR=0.2", "test/threshold@FAR=0.2"}
    told = "test: thresholds at FAR 0.01, 0.0001 are left out: 16 impostor pairs (and 4 genuine ones) are too few"
    assert told in caplog.text
    caplog.clear()
    assert len(evaluate.thresholds("test", as_test(30), [0.01, 0.001])) == 4
    assert caplog.text == ""


@pytest.mark.parametrize("people", [1, MIN_PEOPLE - 1, MIN_PEOPLE])
def test_an_interval_needs_some_people(people, caplog):
    result = rank_metrics(*world(people, 20))
    assert all(math.isnan(end) == (people < MIN_PEOPLE) for ends in bootstrap(result).values() for end in ends)
    with caplog.at_level(logging.WARNING):
        found = evaluate.intervals({"test": result}, 200)
    assert (found == {}) == (people < MIN_PEOPLE)
    assert (f"left out for test ({people} people)" in caplog.text) == (people < MIN_PEOPLE)


def test_skipped_queries_are_nobody_s_support():
    query, gallery, q_pids, g_pids, *cameras = world(8)
    result = rank_metrics(query, gallery, np.where(q_pids < 4, q_pids, 100 + q_pids), g_pids, *cameras)
    assert math.isnan(bootstrap(result)["mAP"].low)


def test_an_interval_needs_draws_beyond_its_ends(caplog):
    result = rank_metrics(*world(30))
    assert all(math.isnan(end) for ends in bootstrap(result, samples=39).values() for end in ends)
    assert not math.isnan(bootstrap(result, samples=40)["mAP"].low)
    assert not math.isnan(percentiles(np.zeros(10), 5, confidence=0.5).low)
    with caplog.at_level(logging.WARNING):
        assert evaluate.intervals({"test": result}, 1) == {}
    assert "40 draws" in caplog.text


@pytest.mark.parametrize(("people", "samples"), [(3, 100), (8, 0)])
def test_occlusion_curves_have_no_interval_that_nothing_supports(people, samples):
    result = rank_metrics(*world(people, 20))
    curve = rows([Point("below", fraction, fraction, result) for fraction in (0.0, 0.3)], samples)
    named = curve_scores(curve, samples)
    assert not [name for name in named if name.endswith(("_low", "_high"))]
    assert not [name for name, value in named.items() if math.isnan(value)]
    for row in csv.DictReader(io.StringIO(curve_csv(curve))):
        assert (row["mAP_low"], row["mAP_high"], row["rank1_low"]) == ("", "", "")
        assert row["mAP"] != ""


def test_ranks_beyond_the_gallery_and_scores_of_few_people_are_said(caplog):
    def said(people, pictures, junk=0):
        caplog.clear()
        gallery = [Picture("g", pid, 2) for pid in range(pictures)] + [Picture("j", -1, 2)] * junk
        warn_of_support([EvaluationSet("val", tuple(Picture("q", pid, 1) for pid in range(people)), tuple(gallery))])
        return caplog.text

    with caplog.at_level(logging.WARNING):
        told = "val: the gallery holds 4 pictures, so rank5 and rank10 must be 100 %, whatever the model"
        assert told in said(9, 4, junk=20)
        assert "so rank10 must be 100 %" in said(9, 10)
        assert said(9, 11) == ""
        assert "val: few people have queries (1)" in said(1, 20)


def test_the_command_leaves_out_what_one_query_and_three_strangers_cannot_tell(tmp_path, monkeypatch, composed, caplog):
    monkeypatch.chdir(tmp_path)
    for name, table in (("query", "1,1\n"), ("gallery", "1,2\n2,2\n3,2\n4,2\n")):
        np.save(f"{name}.npy", np.eye(4, dtype=np.float32)[: table.count("\n")])
        (tmp_path / f"{name}.csv").write_text(f"pid,camid\n{table}")
    with caplog.at_level(logging.WARNING):
        evaluate.run(composed("evaluate", "query=query.npy", "gallery=gallery.npy", "output=out"))
    written = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert set(written) == {f"test/{name}" for name in ("mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10")}
    for told in ("FAR 0.01, 0.001, 0.0001 are left out", "95 % intervals are left out", "rank5 and rank10 must be"):
        assert told in caplog.text
