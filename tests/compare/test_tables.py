import csv
import io
import re

import pytest

from aelm.compare.arms import occlusion_curves, sort_into_arms
from aelm.compare.runs import read_runs
from aelm.compare.task import as_csv, compare, markdown, matching_metrics, runs_csv
from tests.compare.disk import ARMS, write_run, write_sweep


@pytest.fixture
def made(tmp_path):
    """Two arms: seeds 0 to 2 in both, a further one in each, one that failed and one that stopped."""
    facts = {"train/seconds": 412.3, "device": "cpu | 1"}
    values = {
        "ifcn": {0: 0.10, 1: 0.20, 2: 0.30, 3: 0.90},
        "aelm": {0: 0.12, 1: 0.23, 2: 0.34, 4: "stopped", 5: None, 6: 0.5},
    }
    runs = read_runs([str(write_sweep(tmp_path / "s", values, facts))], ["metrics.json", "run.json"])
    return compare(sort_into_arms(runs), ["test/mAP", "train/*"], "ifcn", 0.95), runs


def cells(text, first):
    """The cells of the lines that start with a cell."""
    return [
        [c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        for line in text.splitlines()
        if re.match(rf"\| {first} ", line)
    ]


def test_the_tables_hold_what_was_worked_by_hand(made):
    text = markdown(*made)
    assert cells(text, "ifcn")[1] == ["ifcn", "4", "37.50 ± 35.94", "412.3 ± 0.0"]
    # Differences 2, 3 and 4 points: 3 -+ 4.30 / sqrt(3).
    assert cells(text, "aelm")[2] == ["aelm", "3", "+3.00 ± 0.58 [+0.52, +5.48]", "+0.0 ± 0.0 [+0.0, +0.0]"]
    assert "seed 3: in ifcn, not in aelm" in text
    assert "seed 6: in aelm, not in ifcn" in text
    assert re.search(r"s/8 \(arm=aelm, seed=5\): failed: ValueError: it broke", text)
    assert re.search(r"s/7 \(arm=aelm, seed=4\): no scores: still running, or stopped", text)
    assert cells(text, "device") == [["device", r"cpu \| 1: 8"]]


def test_the_csvs_hold_plain_numbers(made):
    rows = {(row["arm"], row["metric"]): row for row in csv.DictReader(io.StringIO(as_csv(made[0])))}
    found = rows["aelm", "test/mAP"]
    assert float(found["difference"]) == pytest.approx(0.03)
    assert float(found["high"]) == pytest.approx(0.03 + 4.302653 * 0.01 / 3**0.5)
    assert (found["baseline"], found["pairs"], found["paired_seeds"], found["unpaired_seeds"]) == (
        "ifcn",
        "3",
        "0 1 2",
        "3 6",
    )
    assert (rows["ifcn", "test/mAP"]["mean"], rows["ifcn", "test/mAP"]["difference"]) == ("0.375", "")
    rows = list(csv.DictReader(io.StringIO(runs_csv(*made))))
    assert [row["status"] for row in rows] == ["done"] * 7 + ["unfinished", "done", "failed"]
    assert [row["arm"] for row in rows] == ["ifcn"] * 4 + ["aelm"] * 5 + [""]
    assert (rows[0]["seed"], rows[0]["test/mAP"], rows[-1]["test/mAP"]) == ("0", "0.1", "")


def test_a_metric_that_some_runs_lack_says_how_many_had_it(tmp_path):
    for arm in ARMS:
        for seed in range(3):
            late = {"late": {"claims/x": 0.1 * seed}} if (arm, seed) != ("aelm", 1) else {}
            write_run(tmp_path / f"{arm}{seed}", ARMS[arm], seed, {"test/mAP": 0.5}, **late)
    runs = read_runs([str(tmp_path)], ["metrics.json", "late/metrics.json"])
    text = markdown(compare(sort_into_arms(runs), ["claims/*"], None, 0.95), runs)
    (name,) = {run.folder.name for run in runs if run.absent}
    assert name == "aelm1"
    assert text.count("(n=2)") == 2  # in the means and in the differences
    assert f"no late/metrics.json, and so not under its metrics: {tmp_path}/aelm1\n" in text


def test_names_and_patterns_of_metrics():
    known = {"test/mAP", "test/rank1", "test_occluded/mAP", "occlusion/mean_9/mAP", "occlusion/mean_10/mAP"}
    assert matching_metrics(["test*/mAP", "test/mAP", "occlusion/*", "nothing/*"], known) == [
        "test/mAP", "test_occluded/mAP", "occlusion/mean_9/mAP", "occlusion/mean_10/mAP"
    ]  # fmt: skip
    with pytest.raises(ValueError, match=r"no run has the metric `test/map`; there are test/mAP"):
        matching_metrics(["test/map"], known)
    with pytest.raises(ValueError, match=r"no run has any of claims/\*; there are occlusion"):
        matching_metrics(["claims/*"], known)


def test_an_unknown_baseline_is_named_with_those_that_exist(made):
    with pytest.raises(ValueError, match="no arm is called `plain`; there are: ifcn; aelm"):
        compare(made[0].arms, ["test/mAP"], "plain", 0.95)


def test_curves_hold_means_over_seeds_and_paired_differences(tmp_path):
    for arm, gain in (("ifcn", 0.0), ("aelm", 0.01)):
        for seed in range(3):
            points = {f"occlusion/{kind}_{p}/mAP": 0.5 + 0.1 * seed - float(p) / 1000 + gain * float(p) / 5 * (1 + seed)
                      for kind in ("side", "mean") for p in ("00", "05", "12.5")}  # fmt: skip
            write_run(tmp_path / f"{arm}{seed}", ARMS[arm], seed, {**points, "occlusion/side_00/rank1": 1.0})
    arms = sort_into_arms(read_runs([str(tmp_path)], ["metrics.json"]))
    base = next(arm for arm in arms if "IFCN" in arm.name)
    curves = occlusion_curves(arms, base, 0.95)
    assert list(curves) == ["mean", "side"]
    found = {curve.arm: curve for curve in curves["side"]}
    plain = found.pop(base.name)
    assert plain.differences == []
    assert [point.percent for point in plain.values] == [0, 5, 12.5]
    assert plain.values[1][1:] == pytest.approx((0.595, 0.495, 0.695))
    (other,) = found.values()
    assert other.differences[2][1:] == pytest.approx(
        (0.05, 0.05 - 0.025 * 4.302653 / 3**0.5, 0.05 + 0.025 * 4.302653 / 3**0.5)
    )
    without = read_runs([str(write_sweep(tmp_path / "s", {"ifcn": {0: 0.1}}))], ["metrics.json"])
    assert occlusion_curves(sort_into_arms(without), base, 0.95) == {}
