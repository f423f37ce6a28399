import json

import pytest

from aelm.compare.runs import read_runs
from tests.compare.disk import ARMS, write_run, write_sweep

FILES = ["metrics.json", "run.json"]


def test_a_sweep_is_read_with_what_failed_and_what_stopped(tmp_path):
    write_sweep(tmp_path / "s", {"ifcn": {0: 0.1, 1: "stopped"}, "aelm": {0: 0.3, 1: None}}, {"device": "x", "y": 2})
    found = {run.folder.name: run for run in read_runs([str(tmp_path / "s")], FILES)}
    assert list(found) == ["0", "1", "2", "3"]
    assert found["0"].scores == {"test/mAP": 0.1, "y": 2.0}
    assert (found["0"].settings, found["0"].facts) == ({"arm": "ifcn", "seed": "0"}, {"device": "x"})
    assert (found["1"].scores, found["1"].failure, found["1"].absent) == ({}, "", ("metrics.json", "run.json"))
    assert (found["1"].seed, found["3"].config) == (1, {})
    assert (found["3"].failure, found["3"].settings["arm"]) == ("ValueError: it broke", "aelm")


def test_places_may_be_runs_folders_and_patterns_and_count_once(tmp_path):
    for name in ("a/2", "a/10", "b"):
        write_run(tmp_path / name, ARMS["ifcn"], 0, {"x": 1.0})
    (tmp_path / "a" / "2" / "evidence").mkdir()
    (tmp_path / "c").write_text("no folder")

    def names(*places):
        found = read_runs([str(tmp_path / place) for place in places], ["metrics.json"])
        return [str(run.folder.relative_to(tmp_path)) for run in found]

    assert names("") == ["a/2", "a/10", "b"]
    assert names("a/10", "a") == ["a/10", "a/2"]
    assert names("?") == ["a/2", "a/10", "b"]
    assert names("**/1*") == ["a/10"]


def test_settings_come_from_run_json_where_there_is_no_sweep(tmp_path):
    facts = {"overrides": json.dumps(["arm=aelm", "+x.y='a=b'"]), "device": "d"}
    (run,) = read_runs([str(write_run(tmp_path / "r", ARMS["aelm"], 3, {"x": 1}, facts))], FILES)
    assert (run.settings, run.facts, run.seed) == ({"arm": "aelm", "x.y": "'a=b'"}, {"device": "d"}, 3)


def test_files_are_merged_and_must_not_contradict(tmp_path):
    folder = write_run(tmp_path / "r", ARMS["ifcn"], 0, {"a": 0.5, "b": 1}, late={"a": 0.5002, "c": 2})
    files = ["metrics.json", "late/metrics.json", "later/metrics.json"]
    (run,) = read_runs([str(folder)], files)
    assert run.scores == {"a": 0.5, "b": 1, "c": 2}
    assert run.absent == ("later/metrics.json",)
    (folder / "late" / "metrics.json").write_text('{"a": 0.6}')
    with pytest.raises(ValueError, match=r"^a of .*r is 0.5 in metrics.json and 0.6 in late/metrics.json: .*`files`"):
        read_runs([str(folder)], files)


def test_a_run_without_the_first_file_has_no_scores(tmp_path):
    (run,) = read_runs([str(write_run(tmp_path / "r", ARMS["ifcn"], 0, None, {"train/seconds": 3}))], FILES)
    assert (run.scores, run.absent) == ({}, ("metrics.json",))


def test_bad_places_and_files_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thing.txt").touch()
    for place, told in (("nowhere", "no such folder"), ("empty", "nothing"), ("other", "thing.txt")):
        with pytest.raises(FileNotFoundError, match=rf"no run in .*{place} \(a run holds config.yaml\); found: {told}"):
            read_runs([str(tmp_path / place)], FILES)
    with pytest.raises(ValueError, match=r"`files` is empty"):
        read_runs([str(tmp_path)], [])
    folder = write_run(tmp_path / "r", ARMS["ifcn"], 0, {})
    for text, told in (('{"a": ', "is not JSON.*cut off"), ("[1]", "must hold names and numbers.*got a list")):
        (folder / "metrics.json").write_text(text)
        with pytest.raises(ValueError, match=told):
            read_runs([str(folder)], FILES)
    (folder / "config.yaml").write_text("a: 1")
    with pytest.raises(ValueError, match="has no `seed`"):
        read_runs([str(folder)], FILES)
