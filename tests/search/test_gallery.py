"""Gallery: what is added is found, what is removed is not, on disk and in memory alike."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from aelm.data.sources import Item
from aelm.embed.batches import embed_files
from aelm.embed.embedder import load_embedder
from aelm.embed.folder import read_embeddings
from aelm.search.gallery import BLOCK, Gallery
from tests.pictures_on_disk import save_model, write_people

D = 8


def unit(count, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def filled(count=30, seed=0):
    gallery = Gallery(dim=D)
    features = unit(count, seed)
    gallery.add(features, [Item(f"/g/{'ab'[i % 2]}/{i}.jpg", str(i // 3), str(i % 4)) for i in range(count)])
    return gallery, features


def slow_search(gallery_features, items, query, k, keep):
    """The obvious loop."""
    scores = sorted(
        ((-float(f @ query), i) for i, f in enumerate(gallery_features) if keep(items[i])), key=lambda s: s[0]
    )
    return [items[i].path for _, i in scores[:k]]


@pytest.mark.parametrize("seed", range(5))
def test_search_equals_the_slow_loop_under_every_filter(seed):
    gallery, features = filled(40, seed)
    queries = unit(3, seed + 100)
    cases = [
        ({}, lambda item: True),
        ({"only_camids": [1, "3"]}, lambda item: item.camid in "13"),
        ({"except_camids": ["02"]}, lambda item: item.camid != "2"),
        ({"paths": "/g/a/*"}, lambda item: item.path.startswith("/g/a/")),
        ({"paths": "*/b/*", "only_camids": [1]}, lambda item: "/b/" in item.path and item.camid == "1"),
    ]
    for options, keep in cases:
        found = gallery.search(queries, k=5, **options)
        assert [[hit.path for hit in hits] for hits in found] == [
            slow_search(features, gallery.items, query, 5, keep) for query in queries
        ]


def test_hits_tell_what_is_known_and_scores_are_cosines():
    gallery, features = filled()
    (hits,) = gallery.search(3 * features[7:8], k=1)
    assert hits[0].path == "/g/b/7.jpg"
    assert hits[0].score == pytest.approx(1, abs=1e-6)
    assert hits[0][2:4] == ("2", "3")
    (tensor,) = gallery.search(torch.from_numpy(features[7:8]), k=1)
    assert tensor == hits


def test_below_min_score_is_no_match():
    gallery, features = filled()
    scores = [hit.score for hit in gallery.search(features[:1], k=30)[0]]
    assert scores == sorted(scores, reverse=True)
    (some,) = gallery.search(features[:1], k=30, min_score=scores[4])
    assert [hit.score for hit in some] == scores[:5]
    assert gallery.search(unit(2, 9), min_score=1.1) == [[], []]
    assert gallery.search(unit(2, 9), only_camids=[99]) == [[], []]
    assert gallery.search(np.empty((0, D), np.float32)) == []


def test_the_queries_own_file_is_left_out():
    gallery, features = filled()
    everything = gallery.search(features[:2], k=3)
    without = gallery.search(features[:2], k=3, leave_out=["/g/a/0.jpg", "/g/./b/../b/1.jpg"])
    assert [hits[0].path for hits in everything] == ["/g/a/0.jpg", "/g/b/1.jpg"]
    assert [hits[:2] for hits in without] == [hits[1:3] for hits in everything]
    assert [len(hits) for hits in without] == [3, 3]


def test_adding_replaces_and_removing_takes_out():
    gallery, features = filled(10)
    gallery.add(features[9:10], [Item("/g/a/0.jpg", "new", "7")])
    assert len(gallery) == 10
    (hits,) = gallery.search(features[9:10], k=2)
    assert {hit.path for hit in hits} == {"/g/a/0.jpg", "/g/b/9.jpg"}
    assert "new" in {hit.pid for hit in hits}
    assert gallery.remove(["/g/b/9.jpg", "/g/./a/0.jpg", "/nowhere.jpg"]) == 2
    assert gallery.remove(["/g/b/9.jpg"]) == 0
    assert len(gallery) == 8
    (hits,) = gallery.search(features[9:10], k=20)
    assert len(hits) == 8
    assert not {hit.path for hit in hits} & {"/g/a/0.jpg", "/g/b/9.jpg"}


def test_many_blocks_are_one_gallery(monkeypatch):
    monkeypatch.setattr("aelm.search.gallery.BLOCK", 7)
    assert BLOCK > 7
    whole, features = filled(40)
    parts, _ = filled(25)
    parts.add(features[25:], whole.items[25:])
    for gallery in (whole, parts):
        gallery.remove(["/g/b/3.jpg", "/g/a/30.jpg"])
    assert parts.search(features[:4], k=6) == whole.search(features[:4], k=6)


@pytest.fixture
def folder(tmp_path):
    embedder = load_embedder(save_model(tmp_path / "model.ckpt"))
    paths = write_people(tmp_path / "crops", 6)
    gallery = Gallery(embedder)
    gallery.add(embed_files(embedder, paths), paths)
    gallery.save(tmp_path / "crops")
    return embedder, paths, tmp_path / "crops"


def test_a_folder_is_opened_changed_and_saved_in_place(folder, tmp_path, monkeypatch):
    embedder, paths, crops = folder
    gallery = Gallery.open(crops, embedder)
    assert [item.path for item in gallery.items] == paths
    (new,) = write_people(tmp_path / "more", 1)
    features = embed_files(embedder, [new])
    gallery.remove(paths[:2])
    gallery.add(features, [new])
    expected = gallery.search(features, k=9)
    gallery.save(crops)
    assert len(read_embeddings(crops).features) == 5
    again = Gallery.open(crops, embedder)
    assert again.search(features, k=9) == expected
    assert [item.path for item in again.items] == [*paths[2:], new]
    crops.rename(tmp_path / "moved")
    monkeypatch.chdir(tmp_path)
    moved = [item.path for item in Gallery.open("moved").items]
    assert moved == [*(path.replace(str(crops), "moved") for path in paths[2:]), new]


def test_a_folder_knows_the_model_that_made_it(folder, tmp_path):
    found = read_embeddings(folder[2])
    assert found.meta["model"]["checkpoint"] == str(tmp_path / "model.ckpt")
    nobody = Gallery(dataclasses.replace(folder[0], file=""))
    nobody.add(np.ones((1, folder[0].dim), np.float32), ["a.jpg"])
    nobody.save(tmp_path / "nobody")
    assert read_embeddings(tmp_path / "nobody").meta["model"]["checkpoint"] == ""


def test_a_pattern_finds_what_was_added_below_the_folder(folder):
    embedder, _, crops = folder
    gallery = Gallery.open(crops, embedder)
    (new,) = write_people(crops / "day2", 1)
    features = embed_files(embedder, [new])
    gallery.add(features, [new])
    (hits,) = gallery.search(features, paths="day2/*")
    assert [hit.path for hit in hits] == [new]
    gallery.save(crops)
    assert Gallery.open(crops).search(features, paths="day2/*") == [hits]
    assert gallery.remove(new) == 1


def test_a_gallery_of_another_model_is_refused(folder, tmp_path):
    other = load_embedder(save_model(tmp_path / "other.ckpt", threshold=0.5))
    wider = load_embedder(save_model(tmp_path / "wider.ckpt", embed_dim=7))
    for embedder, values in ((other, 12), (wider, 14)):
        with pytest.raises(
            ValueError, match=rf"crops holds embeddings of model.ckpt \(12 values.*\({values} values.*embed the"
        ):
            Gallery.open(folder[2], embedder)
    with pytest.raises(ValueError, match="`query` has 28 dimensions, the gallery 12"):
        Gallery.open(folder[2]).search(unit(1) @ np.ones((D, 28), np.float32))


def test_bad_calls_are_told():
    gallery, features = filled(4)
    with pytest.raises(ValueError, match="needs an `embedder`, or the `dim`"):
        Gallery()
    with pytest.raises(ValueError, match=r"must have shape \(1, 8\), a row an item, got \(2, 8\)"):
        gallery.add(features[:2], ["x.jpg"])
    with pytest.raises(ValueError, match="NaN or infinite"):
        gallery.add(features[:1] * np.nan, ["x.jpg"])
    with pytest.raises(ValueError, match=r"names '.*x\.jpg' twice"):
        gallery.add(features[:2], ["x.jpg", "./x.jpg"])
    with pytest.raises(TypeError, match="floating-point"):
        gallery.search(np.ones((1, D), int))
    with pytest.raises(ValueError, match="`k` must be at least 1, got 0"):
        gallery.search(features, k=0)
    with pytest.raises(ValueError, match="a path for each of the 4 queries, got 1"):
        gallery.search(features, leave_out=["x.jpg"])
    with pytest.raises(ValueError, match="knows no model"):
        gallery.save("nowhere")
    assert len(gallery) == 4


def test_additions_copy_each_row_a_few_times_only(monkeypatch):
    """Counted in rows: adding one by one what comes in 512 pieces copied 512 * 256 rows when each call copied all."""
    copied, empty = [], np.empty
    gallery, features = Gallery(dim=D), unit(512)

    def counted(shape, *rest):
        copied.append(shape[0] / 2)
        return empty(shape, *rest)

    monkeypatch.setattr(np, "empty", counted)
    for i in range(512):
        gallery.add(features[i : i + 1], [f"/g/{i}.jpg"])
    monkeypatch.undo()
    assert sum(copied) < 4 * 512
    assert len(gallery) == 512
    assert [hits[0].path for hits in gallery.search(features[::50], k=1)] == [f"/g/{i}.jpg" for i in range(0, 512, 50)]


def test_one_by_one_is_all_at_once(tmp_path):
    whole, features = filled(30)
    single = Gallery(dim=D)
    for i, item in enumerate(whole.items):
        single.add(features[i : i + 1], [item])
        assert len(single) == i + 1
    gone, replaced = whole.items[4].path, whole.items[8].path
    for gallery in (whole, single):
        gallery.remove([gone])
        gallery.add(features[9:10], [Item(replaced, "x", "9")])
    assert single.items == whole.items
    assert single.search(unit(4, 7), k=29) == whole.search(unit(4, 7), k=29)


def test_numbers_paths_and_one_alone_are_taken_for_what_they_mean(tmp_path):
    gallery, features = Gallery(dim=D), unit(20)
    gallery.add(features, [Item(Path(f"{i}.jpg"), pid=7, camid=i % 13) for i in range(20)])
    gallery.add(torch.tensor(features[:1]).bfloat16(), Path("0.jpg"))
    assert gallery.items[0] == Item("1.jpg", "7", "1")
    query = features[:1]
    for one, several in (("12", ["12"]), (12, ["12"]), (np.int64(12), ["12"])):
        assert gallery.search(query, only_camids=one) == gallery.search(query, only_camids=several) != []
    assert not any(hit.camid == "3" for hit in gallery.search(query, except_camids="3")[0])
    assert gallery.search(query, except_camids=0) != gallery.search(query)
    assert not any(hit.path == "5.jpg" for hit in gallery.search(query, leave_out="5.jpg")[0])
    assert gallery.search(query, only_camids=np.array([1, 2])) == gallery.search(query, only_camids=["1", "2"])
    assert gallery.remove("3.jpg") == 1
    assert gallery.remove(Path("4.jpg")) == 1
    assert gallery.remove([Path("5.jpg"), "3.jpg"]) == 1


@pytest.mark.parametrize(
    ("spoil", "item", "error", "message"),
    [
        (0.0, "empty.jpg", ValueError, "of 'empty.jpg' are all zero"),
        (np.nan, Item("nan.jpg"), ValueError, "NaN or infinite values, 1 of 1 rows, the first of 'nan.jpg'"),
        (1.0, 7.5, TypeError, "expected a list, got float 7.5"),
        (1.0, [None], TypeError, r"expected a path, or Item\(path, pid, camid\), got None"),
        (1.0, [("a.jpg", "7")], TypeError, "expected a path, or Item"),
        (1.0, Item("a.jpg", pid=["7"]), TypeError, "an identity or camera is text or a number, got list"),
    ],
)
def test_what_a_gallery_cannot_hold_is_refused_at_once(spoil, item, error, message):
    gallery = Gallery(dim=D)
    gallery.add(unit(1), ["good.jpg"])
    with pytest.raises(error, match=message):
        gallery.add(unit(1) * spoil, item)
    assert len(gallery) == 1
    gallery.search(unit(1))


def test_brackets_in_a_path_pattern_are_a_folder_s_name_where_nothing_fits():
    gallery = Gallery(dim=D)
    gallery.add(unit(3), ["day [1]/a.jpg", "day 2/b.jpg", "day 3/c.jpg"])
    found = gallery.search(unit(1), paths="day [1]/*")[0]
    assert [hit.path for hit in found] == ["day [1]/a.jpg"]
    assert len(gallery.search(unit(1), paths="day [23]/*")[0]) == 2
