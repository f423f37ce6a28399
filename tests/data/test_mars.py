"""MARS: its folders and lists, and tracks scored against tracks, as a slow twin does it."""

import re

import numpy as np
import pytest
import torch
from scipy.io import savemat
from tests.pictures_on_disk import person, save_model, write
from tests.reference import rank_scores

from aelm.data.benchmarks import mars
from aelm.embed.batches import embed_files
from aelm.embed.embedder import load_embedder
from aelm.export import task as export
from aelm.retrieval import RankMetrics

# Of the test: pid, camera, pictures; the queries are tracks 1, 4 and 7 (from 1). 0 is a distractor, -1 junk.
TEST = [(2, 1, 3), (2, 2, 2), (2, 2, 1), (4, 3, 2), (4, 3, 2), (4, 6, 4), (6, 1, 2), (6, 5, 1), (0, 2, 3), (-1, 1, 2)]
TRAIN = [(1, 1, 2), (1, 2, 3), (3, 4, 2)]
QUERIES = [1, 4, 7]


def tracks(root, folder, told):
    """Writes pictures of tracks; gives their names and the table that tells of them."""
    names, rows, number = [], [], {}
    for pid, camid, count in told:
        who = "00-1" if pid == -1 else f"{pid:04}"
        number[who, camid] = number.get((who, camid), 0) + 1
        some = [f"{who}C{camid}T{number[who, camid]:04}F{i:03}.jpg" for i in range(1, count + 1)]
        for i, name in enumerate(some):
            noise = np.random.default_rng(len(names) + i).integers(-60, 61, (96, 48, 3))
            picture = np.clip(person(pid + 5).astype(int) + noise, 0, 255).astype(np.uint8)
            write(f"{root}/{folder}/{who}/{name}", picture)
        rows.append((len(names) + 1, len(names) + count, pid, camid))
        names += some
    return names, np.array(rows, np.int16)


def tree(root):
    """MARS in small."""
    (root / "info").mkdir(parents=True)
    for kind, told in (("train", TRAIN), ("test", TEST)):
        names, rows = tracks(root, f"bbox_{kind}", told)
        (root / "info" / f"{kind}_name.txt").write_text("\n".join(names) + "\n")
        savemat(root / "info" / f"tracks_{kind}_info.mat", {f"track_{kind}_info": rows})
    savemat(root / "info" / "query_IDX.mat", {"query_IDX": np.array([QUERIES], np.uint16)})
    return root


@pytest.fixture
def found(tmp_path):
    return tree(tmp_path / "data" / "MARS")


def test_folders_and_lists_are_read(found):
    benchmark = mars(found.parent)
    assert [len(part) for part in (benchmark.train, benchmark.query, benchmark.gallery)] == [7, 7, 22]
    assert {(p.pid, p.camid) for p in benchmark.query} == {(2, 1), (4, 3), (6, 1)}
    assert {p.pid for p in benchmark.gallery} == {2, 4, 6, 0, -1}
    counts = {}
    for path in benchmark.tracks:
        counts[benchmark.tracks[path]] = counts.get(benchmark.tracks[path], 0) + 1
    assert counts == {i: count for i, (_, _, count) in enumerate(TEST)}
    assert {p.path for p in (*benchmark.query, *benchmark.gallery)} == benchmark.tracks.keys()


def test_tracks_are_scored_as_the_slow_twin_does(found, tested, composed, tmp_path, capsys):
    model = save_model(tmp_path / "model.ckpt")
    quiet = ["dataset.workers=0", "bootstrap=0", f"output={tmp_path}/out", "rerank=true"]
    scores = tested(model, "dataset=mars", f"data_dir={found.parent}", *quiet)
    embedder = load_embedder(model)
    means = []
    names = (found / "info" / "test_name.txt").read_text().split()
    first = 0
    for _, _, count in TEST:
        some = [str(found / "bbox_test" / name[:4] / name) for name in names[first : first + count]]
        mean = embed_files(embedder, some).astype(np.float64).mean(axis=0)
        means.append(mean / np.linalg.norm(mean))
        first += count
    query = [i - 1 for i in QUERIES]
    gallery = range(len(TEST))
    labels = np.array([(pid, camid) for pid, camid, _ in TEST])
    similarity = np.array(means)[query] @ np.array(means)[gallery].T
    expected = rank_scores(similarity, labels[query, 0], labels[gallery, 0], labels[query, 1], labels[gallery, 1])
    assert scores["test/mAP"] == pytest.approx(expected["mAP"], abs=1e-9)
    assert scores["test/rank1"] == pytest.approx(expected["cmc"][0])
    assert 0 < scores["test_reranked/mAP"] <= 1
    table = (tmp_path / "out" / "queries_test.csv").read_text().splitlines()
    assert [line.split("/")[-1].split(",")[0] for line in table[1:]] == [
        "0002C1T0001F001.jpg", "0004C3T0001F001.jpg", "0006C1T0001F001.jpg",
    ]  # fmt: skip
    data = ["dataset=mars", f"data_dir={found.parent}", "dataset.workers=0"]
    capsys.readouterr()
    export.run(composed("export", f"checkpoint={model}", f"output={tmp_path}/model.onnx", *data))
    told = re.findall(r"mAP ([\d.]+)", capsys.readouterr().out)
    assert [float(value) for value in told] == pytest.approx([100 * scores["test/mAP"]] * 2, abs=0.006)


def test_a_track_is_not_hidden_picture_by_picture(found, tested, tmp_path):
    with pytest.raises(ValueError, match="`occlusion=sweep` hides single pictures, and this data set ranks tracks"):
        tested(save_model(tmp_path / "model.ckpt"), "dataset=mars", f"data_dir={found.parent}", "occlusion=sweep")


def test_pooling_does_not_depend_on_batches():
    r = np.random.default_rng(0)
    features = torch.from_numpy(r.standard_normal((40, 6)).astype(np.float32))
    track = np.arange(40) // 4 * 4
    pids, camids = torch.from_numpy(track // 4 % 5), torch.from_numpy((track >= 20).astype(int))
    is_query = torch.from_numpy(track < 20)

    def result(parts, **how):
        metric = RankMetrics(**how)
        for part in parts:
            metric.update(features[part], pids[part], camids[part], is_query[part], torch.from_numpy(part))
        return metric.compute()

    shuffled = r.permutation(np.concatenate([np.arange(40), [3, 4, 30]]))  # some come twice
    one = result([np.arange(40)], tracks=track.tolist())
    two = result(np.array_split(shuffled, 7), tracks=track.tolist())
    assert one.average_precision.tolist() == two.average_precision.tolist()
    assert one.num_queries == 5
    assert result([np.arange(40)]).num_queries == 20


def spoil(root, name, change):
    path = root / "info" / name
    if callable(change):
        change(path)
    else:
        path.write_bytes(change)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("query_IDX.mat", lambda p: p.unlink(), r"mars: no file .*query_IDX\.mat"),
        ("query_IDX.mat", b"none", r"expected a MATLAB file with query_IDX"),
        ("query_IDX.mat", lambda p: savemat(p, {"query_IDX": np.array([[99]])}), r"numbers of tracks in 1 \.\. 10"),
        ("query_IDX.mat", lambda p: savemat(p, {"other": np.array([[1]])}), r"expected a MATLAB file with query_IDX"),
        ("tracks_test_info.mat", lambda p: savemat(p, {"track_test_info": np.ones((2, 3))}), "with four columns"),
        ("test_name.txt", b"0002C1T0001F001.jpg\n", r"the track 1 \.\. 3 of identity 2 and camera 1 does not fit"),
        ("test_name.txt", lambda p: p.write_text("0009" + p.read_text()[4:]), "does not fit test_name.txt"),
    ],
)
def test_lists_that_do_not_fit_are_named(found, name, change, message):
    spoil(found, name, change)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        mars(found.parent)


def test_pictures_that_are_missing_are_named(found):
    (found / "bbox_test" / "0002" / "0002C1T0001F002.jpg").unlink()
    with pytest.raises(FileNotFoundError, match="1 of the 7 pictures in the lists of info/ are missing: 0002/0002C1T"):
        mars(found.parent)
    with pytest.raises(FileNotFoundError, match=r"bbox_train \+ bbox_test \+ info"):
        mars(found / "info")
