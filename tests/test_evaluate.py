"""Further ways of scoring, ready features, distractors: each against the engine called by hand."""

import csv
import json
import pickle
import shutil

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from aelm.data.benchmarks import MARKET_NAME, read_folder, with_distractors, with_multi_queries
from aelm.data.datamodule import evaluation_sets
from aelm.embed.folder import read_features
from aelm.evaluate import task as evaluate
from aelm.evaluate.task import Ways
from aelm.module import ReIDModule
from aelm.report import metrics
from aelm.report.metrics import Test
from aelm.retrieval import bootstrap, expand_queries, pool_people, rank_metrics, rerank, verification
from aelm.types import Benchmark, Picture
from tests.tiny import write_checkpoint


def world(seed=0, Q=12, G=40, D=8):
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(6, D))
    pids = [int(i % 6) for i in range(Q)], [int(i % 7) - 1 for i in range(G)]  # -1 is junk
    camids = [0] * Q, [1 + i % 2 for i in range(G)]
    features = [np.array([centres[max(p, 0)] for p in side]) + rng.normal(size=(len(side), D)) for side in pids]
    people = [
        tuple(Picture(f"{name}{i}.jpg", p, c) for i, (p, c) in enumerate(zip(*side, strict=True)))
        for name, side in zip("qg", zip(pids, camids, strict=True), strict=True)
    ]
    return Test(features[0].astype(np.float32), features[1].astype(np.float32), *people)


def by_hand(test):
    return [p.pid for p in test.query], [p.pid for p in test.gallery], [p.camid for p in test.query], [
        p.camid for p in test.gallery
    ]  # fmt: skip


def write_features(folder, test):
    for name, features, pictures in (("query", test[0], test.query), ("gallery", test[1], test.gallery)):
        np.save(folder / f"{name}.npy", features)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path", "pid", "camid"), *pictures])


def test_further_ways_equal_the_engine_called_by_hand():
    test = world()
    q_pids, g_pids, q_cams, g_cams = labels = by_hand(test)
    found = evaluate.further("test", test, Ways(rerank=True, k1=6, k2=3, multi_query=True, expand_queries=2))
    distances = rerank(test[0], test[1], k1=6, k2=3, lambda_value=0.3)
    pooled = pool_people(test[0], q_pids, q_cams)
    assert found["test_reranked"].mAP == rank_metrics(None, None, *labels, distances=distances).mAP
    multi = rank_metrics(pooled.features, test[1], pooled.pids, g_pids, pooled.camids, g_cams)
    assert (found["test_multi_query"].mAP, found["test_multi_query"].num_queries) == (multi.mAP, 6)
    assert found["test_expanded"].mAP == rank_metrics(expand_queries(test[0], test[1], 2), test[1], *labels).mAP
    assert evaluate.further("test", test, Ways()) == {}


def test_multi_query_says_where_it_changes_nothing(caplog):
    test = world(Q=6)
    evaluate.further("test", test, Ways(multi_query=True))
    assert "test: `multi_query` changes nothing" in caplog.text


def test_intervals_and_thresholds_carry_their_names():
    test = world()
    result = rank_metrics(test[0], test[1], *by_hand(test))
    intervals = evaluate.intervals({"test": result}, 200)
    low, high = bootstrap(result, samples=200)["mAP"]
    assert (intervals["test/mAP_low"], intervals["test/mAP_high"]) == (low, high)
    assert low < result.mAP < high
    assert evaluate.intervals({"test": result}, 0) == {}
    found = evaluate.thresholds("test", test, [0.1, 0.01])
    exact = verification(test[0], test[1], *by_hand(test), far=[0.1, 0.01])
    assert found["test/TAR@FAR=0.1"] == exact.tar[0]
    assert found["test/threshold@FAR=0.01"] == exact.threshold[1]


@pytest.mark.parametrize("ready", [False, True])
def test_foreign_features_are_scored_from_the_command_line(composed, tmp_path, capsys, ready):
    test = world()
    write_features(tmp_path, test)
    overrides = [
        f"query={tmp_path}/query.npy",
        f"gallery={tmp_path}/gallery.npy",
        f"output={tmp_path}/out",
        "rerank=true",
    ]
    if ready:
        np.save(tmp_path / "d.npy", -test[0] @ test[1].T)
        overrides.append(f"distances={tmp_path}/d.npy")
    scores = evaluate.run(composed("evaluate", *overrides, "rerank=true", "k1=6", "k2=3"))
    distances = -test[0] @ test[1].T if ready else None
    sides = (None, None) if ready else test[:2]
    expected = rank_metrics(*sides, *by_hand(test), distances=distances)
    assert {k: v for k, v in scores.items() if k in ("test/mAP", "test/rank1")} == {
        "test/mAP": expected.mAP,
        "test/rank1": expected.scalars()["rank1"],
    }
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == scores
    assert {"test_reranked/mAP", "test/mAP_low"} <= set(scores)
    assert ("test/TAR@FAR=0.01" in scores) != ready  # a threshold of the features says nothing of other distances
    shown = capsys.readouterr().out
    assert "junk pictures ignored" in shown
    assert f"{100 * scores['test/mAP']:.2f} [" in shown
    with (tmp_path / "out" / "queries_test.csv").open() as file:
        assert [row["path"] for row in csv.DictReader(file)] == [p.path for p in test.query]
    with (tmp_path / "out" / "cameras_test.csv").open() as file:
        assert [row["queries"] for row in csv.DictReader(file)] == ["12"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "query.csv").unlink(), r"no file .*query\.csv"),
        (lambda d: (d / "query.csv").write_text("pid,camid\n1,1\n"), "holds 12 rows and .* 1"),
        (lambda d: (d / "query.csv").write_text("camid\n1\n"), "lacks the column pid; it has camid"),
        (lambda d: (d / "query.csv").write_text("pid,camid\n1,1\n,1\n"), "1 of 2 have none: line 3"),
        (lambda d: np.save(d / "query.npy", np.zeros((3, 12))), "holds 3 rows and .* 12: .* save it transposed"),
        (lambda d: np.save(d / "query.npy", np.zeros(3)), r"must hold floats of shape \(rows, columns\)"),
        (lambda d: np.save(d / "query.npy", np.array([{}])), "not an array that loads as data"),
        (lambda d: (d / "query.npy").write_bytes(b"text"), "not an array that loads as data"),
    ],
)
def test_bad_feature_files_are_named(tmp_path, spoil, message):
    write_features(tmp_path, world())
    spoil(tmp_path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_features(tmp_path / "query.npy")


def test_a_folder_of_embed_is_read_too(tmp_path):
    test = world()
    write_features(tmp_path, test)
    (tmp_path / "query.npy").rename(tmp_path / "features.npy")
    (tmp_path / "query.csv").rename(tmp_path / "items.csv")
    found = read_features(tmp_path)
    assert [tuple(map(str, picture)) for picture in test.query] == [item[:3] for item in found.items]
    assert np.array_equal(found.features, test[0])


def test_a_table_may_come_from_a_spreadsheet_and_name_any_file(tmp_path):
    np.save(tmp_path / "x.npy", np.eye(2, dtype=np.float32))
    (tmp_path / "x.csv").write_bytes(b"\xef\xbb\xbfpid,camid,path\r\n1,0,caf\xe9.jpg\r\n2,1,b.jpg\r\n")
    items = read_features(str(tmp_path / "x.npy")).items
    assert [item[:3] for item in items] == [("caf\udce9.jpg", "1", "0"), ("b.jpg", "2", "1")]


@pytest.mark.parametrize(
    ("save", "words"),
    [
        (lambda f, a: scipy.io.savemat(f, {"f": a}), "a Matlab file: .*scipy.io.loadmat"),
        (lambda f, a: h5py.File(f, "w").create_dataset("f", data=a).file.close(), "an HDF5 file: .*h5py"),
        (lambda f, a: torch.save(torch.tensor(a), f), "a file of torch.save: .*torch.load"),
        (lambda f, a: np.savez(f, f=a), r"a numpy archive \(.npz\): .*numpy.load"),
        (lambda f, a: np.savetxt(f, a, delimiter=","), "text: .*numpy.loadtxt"),
        (lambda f, a: f.write(pickle.dumps(a)), "a pickle: save the array itself"),
        (lambda f, a: np.save(f, np.array([{}]), allow_pickle=True), "an array of Python objects"),
        (lambda f, a: f.write(b"\x93NUMPY\1\0"), "an array that is cut off"),
        (lambda f, a: None, r"an empty file \(0 bytes\)"),
    ],
)
def test_features_in_other_files_are_called_by_their_kind(tmp_path, save, words):
    with (tmp_path / "x.npy").open("w+b") as file:
        save(file, np.eye(3, dtype=np.float32))
    (tmp_path / "x.csv").write_text("pid\n1\n2\n3\n")
    with pytest.raises(ValueError, match=words) as caught:
        read_features(tmp_path / "x.npy")
    assert "allow_pickle" not in str(caught.value)


@pytest.mark.parametrize("cameras", [True, False])
def test_people_with_names_are_scored_and_keep_them(composed, tmp_path, cameras):
    for side, rows in {"q": ["ann", "bo"], "g": ["bo", "-1.0", "ann", "cy"]}.items():
        looks = np.eye(4, dtype=np.float32)[[["ann", "bo", "cy", "-1.0"].index(row) for row in rows]]
        np.save(tmp_path / f"{side}.npy", looks + (0.1 if side == "q" else 0))
        text = [f"{row};{side if cameras else ''};{side}{i}.jpg\n" for i, row in enumerate(rows)]
        (tmp_path / f"{side}.csv").write_text("PID;CamID;path\n" + "".join(text))
    out = tmp_path / "out"
    scores = evaluate.run(composed("evaluate", f"query={tmp_path}/q.npy", f"gallery={tmp_path}/g.npy", f"output={out}"))
    assert scores["test/mAP"] == 1
    with (out / "queries_test.csv").open() as file:
        assert [(row["pid"], row["camid"]) for row in csv.DictReader(file)] == [
            ("ann", "q" if cameras else "0"), ("bo", "q" if cameras else "0")
        ]  # fmt: skip


def test_features_that_are_their_own_match_are_counted(composed, tmp_path, caplog):
    for side in "qg":
        np.save(tmp_path / f"{side}.npy", np.eye(3, dtype=np.float32)[: 3 - (side == "q")])
        (tmp_path / f"{side}.csv").write_text("pid\n1\n2\n" + "3\n" * (side == "g"))
    evaluate.run(composed("evaluate", f"query={tmp_path}/q.npy", f"gallery={tmp_path}/g.npy", "bootstrap=0"))
    assert "2 of 2 queries find themselves" in caplog.text


def test_one_file_as_both_sides_without_cameras_finds_others_alone(composed, tmp_path, caplog):
    np.save(tmp_path / "x.npy", np.eye(4, dtype=np.float32)[[0, 0, 1, 1]])
    (tmp_path / "x.csv").write_text("pid\n1\n1\n2\n2\n")
    both = [f"query={tmp_path}/x.npy", f"gallery={tmp_path}/x.npy", "bootstrap=0"]
    assert evaluate.run(composed("evaluate", *both))["test/mAP"] == 1
    assert "4 of 4 queries find themselves" in caplog.text  # their twins are exact


def test_a_run_directory_is_no_output(composed, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").touch()
    with pytest.raises(ValueError, match=r"`output`: .*run is the directory of a training.*output=.*run.evaluation"):
        evaluate.run(composed("evaluate", "checkpoint=x", f"output={tmp_path}/run"))


def test_checkpoint_or_features_but_not_both(composed):
    for overrides in (["checkpoint=x", "query=q", "gallery=g"], ["query=q"]):
        with pytest.raises(ValueError, match="give either `checkpoint`, or `query` and `gallery`"):
            evaluate.run(composed("evaluate", *overrides))


def test_multi_queries_are_the_boxes_of_each_query(tmp_path):
    for name in ("query/0001_c1s1_000001_00.jpg", "query/0002_c2s1_000001_00.jpg", "gt_bbox/0001_c1s1_000001_00.jpg",
                 "gt_bbox/0001_c1s1_000002_00.jpg", "gt_bbox/0001_c2s1_000002_00.jpg",
                 "gt_bbox/0003_c1s1_000001_00.jpg"):  # fmt: skip
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    query = read_folder(tmp_path / "query", MARKET_NAME)
    before = Benchmark("market", (), query, (Picture("g.jpg", 1, 3), Picture("h.jpg", 2, 3)))
    plain, pooled = evaluation_sets([with_multi_queries(lambda: before)])
    assert (plain.name, plain.query, plain.tracks) == ("test", query, ())
    assert pooled.name == "test_multi_query"
    assert [path.removeprefix(f"{tmp_path}/") for path, _, _ in pooled.query] == [
        "gt_bbox/0001_c1s1_000001_00.jpg", "gt_bbox/0001_c1s1_000002_00.jpg", "query/0002_c2s1_000001_00.jpg",
    ]  # fmt: skip
    assert pooled.tracks == (0, 0, 2, 3, 4)
    before = before._replace(query=before.gallery)
    assert with_multi_queries(before) is before


def test_distractors_join_the_gallery_and_match_nobody(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("a.jpg", "deep/b.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    people = (Picture("q.jpg", 7, 3),)
    before = Benchmark("x", (), people, people, {"dark": (Picture("d.jpg", 9, 4),)}, {"query ids": 1, "gallery ids": 1})
    after = with_distractors(lambda: before, tmp_path)
    assert [p.path for p in after.gallery] == ["q.jpg", f"{tmp_path}/a.jpg", f"{tmp_path}/deep/b.png"]
    assert {(p.pid, p.camid) for p in after.gallery[1:]} == {(10, 5)}
    assert after.official == {"query ids": 1}
    with pytest.raises(FileNotFoundError, match="none"):
        with_distractors(before, tmp_path / "none")


def test_the_table_lines_up():
    test = world()
    result = rank_metrics(test[0], test[1], *by_hand(test))
    lines = metrics.scores_table(
        {"test": result, "test_reranked": result}, evaluate.intervals({"test": result}, 50)
    ).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert lines[0].split()[:4] == ["per", "cent", "queries", "skipped"]


def test_a_checkpoint_is_scored_in_every_way(trained, composed, people, tmp_path):
    run_dir, scores = trained("figures=false")
    options = ["rerank=true", "k1=4", "k2=2", "multi_query=true", "expand_queries=1", "figures=false"]
    quiet = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false"]
    (tmp_path / "crowd").mkdir()
    (gallery,) = people.glob("synthetic-tiny*/bounding_box_train")
    crowd = sorted(gallery.glob("*.jpg"))[:5]
    for file in crowd:
        (tmp_path / "crowd" / file.name).write_bytes(file.read_bytes())
    best = f"checkpoint={run_dir}/checkpoints/best.ckpt"
    every = evaluate.run(composed("evaluate", best, *options, *quiet))
    names = {name.split("/")[0] for name in every}
    kinds = ("", "_reranked", "_multi_query", "_expanded")
    assert names == {f"{name}{kind}" for name in ("test", "test_occluded") for kind in kinds}
    assert {key: every[key] for key in scores} == scores
    # Boxes that are copies of the queries give the very scores of the queries.
    (boxes := gallery.parent / "gt_bbox").mkdir()
    try:
        for file in gallery.parent.glob("query/*.jpg"):
            (boxes / file.name).write_bytes(file.read_bytes())
        boxed = evaluate.run(composed("evaluate", best, "multi_query=true", "figures=false", *quiet))
    finally:
        shutil.rmtree(boxes)
    assert {name.split("/")[0] for name in boxed} == {
        "test",
        "test_multi_query",
        "test_occluded",
        "test_occluded_multi_query",
    }
    assert {key: boxed[key] for key in scores} == scores
    assert boxed["test_multi_query/mAP"] == every["test_multi_query/mAP"]
    flipped = evaluate.run(composed("evaluate", best, "flip=true", "figures=false", *quiet))
    assert flipped["test/mAP"] != scores["test/mAP"]
    crowded = evaluate.run(composed("evaluate", best, f"distractors={tmp_path}/crowd", "figures=false", *quiet))
    assert crowded["test/mAP"] <= scores["test/mAP"] + 1e-9


def test_a_checkpoint_is_tested_without_tf32(tested, people, tmp_path, monkeypatch):
    found, forward = set(), ReIDModule.forward

    def noted(self, images):
        found.add(torch.backends.cudnn.conv.fp32_precision)
        return forward(self, images)

    monkeypatch.setattr(ReIDModule, "forward", noted)
    write_checkpoint(tmp_path / "best.ckpt")
    before = torch.backends.cudnn.conv.fp32_precision
    small = ["dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny", "dataset.workers=0", "bootstrap=0"]
    tested(tmp_path / "best.ckpt", *small, f"data_dir={people}")
    assert found == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before
