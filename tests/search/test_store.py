"""A gallery in Milvus Lite gives what exact search gives, under every filter; bad addresses are told."""

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from aelm.data.sources import Item
from aelm.embed import task as embed
from aelm.embed.embedder import load_embedder
from aelm.search import store
from aelm.search import task as search
from aelm.search.gallery import Gallery
from aelm.search.store import GalleryStore
from tests.pictures_on_disk import save_model, write_people

pytest.importorskip("pymilvus", reason="the extra `gallery` is not installed")
D = 12
NASTY = [
    '/g/it\'s "(1)".jpg',
    "/g/two\nlines.jpg",
    "/g/人物 100%.jpg",
    "/g/back\\slash.jpg",
    "/g/a_b.jpg",
    "/g/axb.jpg",
]


@pytest.fixture
def embedder(tmp_path):
    return load_embedder(save_model(tmp_path / "model.ckpt"))


@pytest.fixture
def people(tmp_path, embedder):
    gallery = GalleryStore(str(tmp_path / "new" / "people.db"), embedder)
    yield gallery
    gallery.close()


def unit(count, seed=0):
    values = np.random.default_rng(seed).normal(size=(count, D)).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def items(count):
    return [Item(f"/g/{'ab'[i % 2]}_{i % 3}/{i}.jpg", str(i // 3), str(i % 4)) for i in range(count)]


def same(found, expected):
    assert [[hit[0] for hit in hits] for hits in found] == [[hit[0] for hit in hits] for hits in expected]
    assert [[hit[2:] for hit in hits] for hits in found] == [[hit[2:] for hit in hits] for hits in expected]
    for some, others in zip(found, expected, strict=True):
        np.testing.assert_allclose([hit.score for hit in some], [hit.score for hit in others], atol=1e-5)


def test_it_equals_exact_search_on_10_000_items_under_every_filter(people):
    features, queries = unit(10_000), unit(20, seed=1)
    exact = Gallery(dim=D)
    for gallery in (people, exact):
        gallery.add(features, items(10_000))
    assert len(people) == 10_000
    options = [{}, {"only_camids": [1, "03"]}, {"except_camids": ["2"]}, {"paths": "/g/a_1/*"}, {"min_score": 0.6},
               {"paths": "*/9?9?.jpg", "only_camids": [0]}, {"only_camids": [99]},
               {"leave_out": [item.path for item in items(20)]}]  # fmt: skip
    for one in options:
        asked = features[:20] if "leave_out" in one else queries
        same(people.search(asked, k=10, **one), exact.search(asked, k=10, **one))


def test_adding_replaces_removing_takes_out_and_the_file_keeps_it(people, embedder):
    features = unit(len(NASTY))
    people.add(features, NASTY)
    people.add(features[:1], [Item(NASTY[1], "new", "7")])
    assert len(people) == len(NASTY)
    (hits,) = people.search(features[:1], k=2)
    assert {(hit.path, hit.pid, hit.camid) for hit in hits} == {(NASTY[0], "", ""), (NASTY[1], "new", "7")}
    assert people.remove([NASTY[0], NASTY[3], "/nowhere.jpg"]) == 2
    people.close()
    again = GalleryStore(people.uri, embedder)
    (hits,) = again.search(features[:1], k=20)
    assert {hit.path for hit in hits} == {*NASTY} - {NASTY[0], NASTY[3]}
    (hits,) = again.search(features[:1], paths="*/a_b.jpg")
    assert [hit.path for hit in hits] == ["/g/a_b.jpg"]
    again.close()


def test_times_are_a_filter(people):
    features = unit(4)
    people.add(features, [f"/g/{i}.jpg" for i in range(4)], times=[10.5, 20, 30, 1.7e9])
    (hits,) = people.search(features[:1], between=(10.5, 30))
    assert {hit.path for hit in hits} == {"/g/0.jpg", "/g/1.jpg", "/g/2.jpg"}
    (hits,) = people.search(features[:1], between=(1e9, 2e9))
    assert [hit.path for hit in hits] == ["/g/3.jpg"]


def test_a_folder_of_tracks_brings_its_times(people, embedder, tmp_path):
    gallery = Gallery(embedder)
    gallery.add(unit(2), [Item(f"/g/{i}.jpg", track=str(i), start=start) for i, start in enumerate((1.6e9, 1.7e9))])
    gallery.save(tmp_path / "tracks")
    people.add_folder(str(tmp_path / "tracks"))
    (hits,) = people.search(unit(2)[:1], between=(1.65e9, 1.8e9))
    assert [hit.path for hit in hits] == ["/g/1.jpg"]


def test_the_command_searches_a_store(composed, embedder, tmp_path):
    paths = write_people(tmp_path / "crops", 6)
    fast = ["device=cpu", "workers=0", "progress=false", f"checkpoint='{tmp_path}/model.ckpt'"]
    embed.run(composed("embed", f"images='{tmp_path}/crops'", f"output='{tmp_path}/crops'", *fast))
    people = GalleryStore(str(tmp_path / "people.db"), embedder)
    assert people.add_folder(str(tmp_path / "crops")) == len(people) == 6
    people.close()
    query = [f"query='{paths[2]}'", "top_k=4", f"output='{tmp_path}/out.html'", *fast]
    by_folder = search.run(composed("search", f"gallery='{tmp_path}/crops'", *query))
    by_store = search.run(composed("search", f"gallery.uri='{tmp_path}/people.db'", *query))
    same([found.hits for found in by_store], [found.hits for found in by_folder])
    assert "data-heat-a" in (tmp_path / "out.html").read_text()
    with pytest.raises(ValueError, match="give `checkpoint`"):
        search.run(composed("search", f"gallery.uri='{tmp_path}/people.db'", *query[:2]))
    with pytest.raises(ValueError, match=r"`gallery` is missing: gallery=FOLDER or gallery\.uri=people\.db"):
        search.run(composed("search", *query))


def test_galleries_of_two_models_never_meet(people, embedder, tmp_path, composed):
    people.add(unit(3), items(3))
    wider = load_embedder(save_model(tmp_path / "wider.ckpt", embed_dim=7))
    people.close()
    other = GalleryStore(people.uri, wider)
    assert len(other) == 0
    assert other.search(np.ones((1, 14), np.float32)) == [[]]
    with pytest.raises(ValueError, match="`query` has 12 dimensions, the gallery 14"):
        other.search(unit(1))
    other.close()


def test_bad_calls_and_addresses_are_told(people, embedder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"`k` must lie in 1 \.\. 16384, as Milvus has it, got 0"):
        people.search(unit(1), k=0)
    with pytest.raises(ValueError, match=r"must have shape \(1, 12\), .* got \(2, 12\)"):
        people.add(unit(2), ["x.jpg"])
    with pytest.raises(ValueError, match="NaN or infinite"):
        people.add(unit(1) * np.nan, ["x.jpg"])
    with pytest.raises(ValueError, match=r"UTF-8 alone, got '/caf\\udce9.jpg'"):
        people.add(unit(1), ["/caf\udce9.jpg"])
    with pytest.raises(ValueError, match=r"knows \* and \? only, got '\[ab\]\*'"):
        people.search(unit(1), paths="[ab]*")
    assert len(people) == 0
    logging.getLogger("pymilvus").setLevel(logging.CRITICAL)
    with pytest.raises(ConnectionError, match=r"no Milvus at 'http://127\.0\.0\.1:9'.* people\.db"):
        GalleryStore("http://127.0.0.1:9", embedder, timeout=1)
    monkeypatch.setitem(sys.modules, "pymilvus", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aelm\[gallery\]'"):
        store.pymilvus()


def test_a_store_takes_what_a_gallery_takes_and_refuses_what_it_refuses(people):
    people.add(unit(3), [Item("/g/1.jpg", pid=7, camid=12), Path("/g/2.jpg"), "/g/3.jpg"])
    (found,) = people.search(unit(1), only_camids="12")
    assert found[0][2:4] == ("7", "12")
    assert people.search(unit(1), only_camids=12)[0] == found
    assert people.remove("/g/2.jpg") == people.remove(Path("/g/3.jpg")) == 1
    with pytest.raises(ValueError, match=r"of ./g/empty\.jpg. are all zero"):
        people.add(unit(1) * 0, ["/g/empty.jpg"])
    assert len(people) == 1


def test_a_file_of_another_program_or_of_another_kind_is_told_as_such(tmp_path, embedder, people):
    code = (
        "import sys, aelm\n"
        "try:\n    print(len(aelm.GalleryStore(sys.argv[1], aelm.load_embedder(sys.argv[2]))))\n"
        "except ConnectionError as error:\n    print(error)"
    )

    def another_program():
        done = subprocess.run(
            [sys.executable, "-c", code, people.uri, str(tmp_path / "model.ckpt")], capture_output=True, text=True
        )
        assert "Traceback" not in done.stderr
        return done.stdout

    people.add(unit(3), items(3))
    second = GalleryStore(people.uri, embedder)
    assert "is in use by another process: a local file serves one program at a time" in another_program()
    people.close()
    assert len(second) == 3
    second.close()
    assert another_program() == "3\n"
    (tmp_path / "old.db").write_bytes(b"SQLite format 3\0" + bytes(100))
    with pytest.raises(ConnectionError, match=r"old.db' cannot be opened: (NotADirectory|FileExists)Error"):
        GalleryStore(str(tmp_path / "old.db"), embedder)
