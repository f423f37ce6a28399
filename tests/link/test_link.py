"""``python -m aelm.link``: the right people, the table, corrections that stay, and the page in a real browser."""

import csv
import json
import re
import shutil

import cv2
import numpy as np
import pytest

from aelm.command.cli import is_expected
from aelm.data.sources import Item
from aelm.embed import task as embed
from aelm.embed.embedder import load_embedder
from aelm.embed.folder import csv_bytes, embeddings_meta, read_embeddings, write_embeddings
from aelm.embed.tracks import PICTURES
from aelm.link import task as link
from aelm.link.people import Settings
from aelm.search import task as search
from aelm.search.gallery import Gallery
from aelm.search.page import pair_heat, read_pictures
from tests.browser import BROWSER, Page
from tests.pictures_on_disk import person, save_model, write

FAST = ["device=cpu", "workers=0", "progress=false"]
CAMERAS, PEOPLE = ("door", "gate", "ha,ll"), 4


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Four people who walk past three cameras, three pictures each time, with noise; the first listed comes last."""
    root = tmp_path_factory.mktemp("cameras")
    r, rows = np.random.default_rng(0), []
    for camera, camid in enumerate(CAMERAS):
        for pid in range(PEOPLE):
            for shot in range(3):
                picture = person(pid).astype(int) + r.integers(-20, 21, (96, 48, 3))
                name = f"{camera}/{pid}_{shot}.jpg"
                write(f"{root}/crops/{name}", np.clip(picture, 0, 255).astype(np.uint8))
                time = 10 * (PEOPLE - pid) + 100 * (len(CAMERAS) - camera) + shot
                rows.append((name, pid + 1, camid, time, float(time), pid))
    (root / "crops" / "crops.csv").write_bytes(csv_bytes(("path", "track", "camid", "frame", "time", "pid"), rows))
    save_model(root / "model.ckpt")
    return root


@pytest.fixture
def world(crops, composed, tmp_path):
    """A copy of the crops with their embeddings in ``tmp_path / "tracks"``."""
    shutil.copytree(crops, tmp_path, dirs_exist_ok=True)
    paths = [f"checkpoint={tmp_path}/model.ckpt", f"images={tmp_path}/crops", f"output={tmp_path}/tracks"]
    embed.run(composed("embed", *paths, *FAST))
    return tmp_path


@pytest.fixture
def linked(composed, world):
    def run(*overrides):
        paths = [f"embeddings={world}/tracks", f"output={world}/people", "device=cpu"]
        return link.run(composed("link", *paths, *overrides))

    return run


def good_threshold(world):
    """Between what tracks of one person and of two are alike."""
    found = read_embeddings(world / "tracks")
    cosine = found.features @ found.features.T
    same = np.array([a.pid == b.pid for a in found.items for b in found.items]).reshape(cosine.shape)
    low, high = cosine[~same].max(), cosine[same].min()
    assert low < high
    return f"threshold={(low + high) / 2}"


def rows(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def people_of(path):
    found = {}
    for row in rows(path):
        found.setdefault(row["person"], set()).add(row["track"])
    return {frozenset(group) for group in found.values()}


def test_each_person_is_found_across_the_cameras(linked, world, capsys):
    people = linked(good_threshold(world))
    assert people_of(world / "people" / "people.csv") == {
        frozenset(f"{camid}:{pid + 1}" for camid in CAMERAS) for pid in range(PEOPLE)
    }
    told = json.loads((world / "people" / "metrics.json").read_text())
    assert told["link/pairwise_f1"] == told["link/bcubed_f1"] == told["link/adjusted_rand"] == 1
    assert 0 < told["single/pairwise_f1"] <= told["single/best_pairwise_f1"] <= 1
    out = capsys.readouterr().out
    assert f"4 people in 12 tracks: {world}/people/people.html" in out
    assert "one threshold on single pictures: precision" in out
    found = read_embeddings(world / "tracks")
    cosine = found.features.astype(np.float64) @ found.features.T.astype(np.float64)
    listed = rows(world / "people" / "people.csv")
    place = {f"{item.camid}:{item.track}": i for i, item in enumerate(found.items)}
    for row in listed:
        i = place[row["track"]]
        others = [place[one["track"]] for one in listed if one["person"] == row["person"] and one is not row]
        best = max(others, key=lambda j: cosine[i, j])
        assert place[row["most_like"]] == best
        assert float(row["score"]) == pytest.approx(cosine[i, best], abs=1e-4)
        assert float(row["fit"]) == pytest.approx(cosine[i, others].mean(), abs=1e-4)
        assert (world / "people" / row["path"]).is_file()
    fits = sorted(float(row["fit"]) for row in listed)
    assert sorted(float(row["fit"]) for row in listed if row["check"] == "yes") == fits[:2]
    assert people.uncertain.sum() == 2
    body = (world / "people" / "people.html").read_text().partition("<script>")[0]
    assert re.findall('data-what="(.+?)"', body) == [  # as they were seen
        f"{camid}:{pid + 1}" for pid in reversed(range(PEOPLE)) for camid in reversed(CAMERAS)
    ]


def test_shared_neighbours_find_them_too(linked, world):
    linked("rerank=true", "k1=3", "k2=2", "threshold=0.4")
    assert json.loads((world / "people" / "metrics.json").read_text())["link/pairwise_f1"] > 0.8


def test_corrections_are_taken_and_kept(linked, world):
    threshold, output = good_threshold(world), world / "people"
    (world / "c.csv").write_text("answer,a,b\nsame,door:1,door:2\ndifferent,gate:3,door:3\n")
    linked(threshold, f"corrections={world}/c.csv")
    expected = people_of(output / "people.csv")
    one = next(group for group in expected if "door:1" in group)
    assert "door:2" in one
    assert not any({"gate:3", "door:3"} <= group for group in expected)
    linked(threshold)  # not given again
    assert people_of(output / "people.csv") == expected
    (world / "d.csv").write_text('answer,a,b\nsame,door:3,gate:3\nsame,door:4,"ha,ll:4"\n')
    linked(threshold, f"corrections={world}/d.csv")
    assert any({"gate:3", "door:3"} <= group for group in people_of(output / "people.csv"))
    assert {tuple(row.values()) for row in rows(output / "corrections.csv")} == {
        ("same", "door:1", "door:2"), ("same", "door:3", "gate:3"), ("same", "door:4", "ha,ll:4"),
    }  # fmt: skip


def test_kept_corrections_of_tracks_that_are_gone_are_told(linked, world, caplog):
    (world / "people").mkdir()
    (world / "people" / "corrections.csv").write_text("answer,a,b\nsame,door:1,door:99\n")
    linked(good_threshold(world), "page_people=0")
    assert "1 of the corrections in" in caplog.text
    assert "door:1 same door:99" in caplog.text
    assert not (world / "people" / "people.html").exists()
    (world / "c.csv").write_text("answer,a,b\nsame,door:1,door:2\n")
    linked(good_threshold(world), "page_people=0", f"corrections={world}/c.csv")
    assert [tuple(row.values()) for row in rows(world / "people" / "corrections.csv")] == [
        ("same", "door:1", "door:99"), ("same", "door:1", "door:2"),
    ]  # fmt: skip


def test_nothing_of_an_earlier_run_stays_beside_a_new_one(linked, world):
    linked(good_threshold(world))
    items = world / "tracks" / "items.csv"
    listed = rows(items)
    with items.open("w", newline="") as file:
        table = csv.DictWriter(file, listed[0])
        table.writeheader()
        table.writerows({**row, "pid": ""} for row in listed)
    linked("threshold=0.9", "page_people=0")
    assert sorted(path.name for path in (world / "people").glob("*.*")) == ["people.csv"]


def test_a_track_that_was_added_later_has_no_single_picture_to_compare(linked, world):
    gallery = Gallery.open(world / "tracks")
    features = np.array(read_embeddings(world / "tracks").features[:1])
    gallery.add(features, [gallery.items[0]._replace(path=str(world / "new.jpg"), track="77")])
    gallery.save(world / "tracks")
    linked(good_threshold(world), "page_people=0")
    told = json.loads((world / "people" / "metrics.json").read_text())
    assert "link/pairwise_f1" in told
    assert "single/pairwise_f1" not in told


def test_the_threshold_is_the_evaluations(linked, world):
    (world / "metrics.json").write_text('{"test/threshold@FAR=0.001": 0.97, "test/threshold@FAR=0.01": 0.5}')
    by_metrics = linked(f"metrics={world}/metrics.json")
    assert (by_metrics.person == linked("threshold=0.97").person).all()
    assert (linked(f"metrics={world}/metrics.json", "far=0.01").person == linked("threshold=0.5").person).all()


BAD = [
    (["threshold=1.5"], "`threshold` is a similarity in -1 .. 1, got 1.5"),
    (["threshold=nan"], "`threshold` is a similarity in -1 .. 1, got nan"),
    ([], "give either `threshold`, or `metrics`"),
    (["threshold=0.5", "metrics=x.json"], "give either `threshold`, or `metrics`"),
    (["metrics={world}/m.json", "far=0.5"], "recommends no threshold@FAR=0.5; run aelm.evaluate"),
    (["metrics={world}/crops/crops.csv"], "is not JSON"),
    (["metrics={world}/none.json"], "none.json"),
    (["threshold=0.5", "neighbours=0"], "`neighbours` must be at least 1"),
    (["threshold=0.5", "page_people=-1"], "`page_people` must be 0 for no page"),
    (["threshold=0.5", "corrections={world}/none.csv"], "none.csv"),
    (["threshold=0.5", "corrections={world}/c.csv"], "corrections contradict each other at 1 pair: gate:1 and door:1"),
    (["threshold=0.5", "embeddings={world}/tracks/track_pictures"], "holds no tracks but their single pictures"),
    (["threshold=0.5", "embeddings={world}/plain"], "holds no tracks: "),
    (["threshold=0.5", "embeddings={world}/crops"], "holds no finished embeddings"),
]


@pytest.mark.parametrize(("overrides", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input_is_named_and_nothing_is_written(linked, composed, world, overrides, message):
    (world / "m.json").write_text('{"test/threshold@FAR=0.001": 0.97}')
    (world / "c.csv").write_text(
        "answer,a,b\nsame,door:1,door:2\nsame,gate:1,door:2\ndifferent,gate:1,door:1\nsame,door:4,gate:4\n"
    )
    if any("plain" in one for one in overrides):
        paths = [f"checkpoint={world}/model.ckpt", f"images={world}/crops/0", f"output={world}/plain"]
        embed.run(composed("embed", *paths, *FAST))
    with pytest.raises((ValueError, OSError)) as error:
        linked(*(one.format(world=world) for one in overrides))
    assert is_expected(error.value)
    assert message in str(error.value)
    assert not (world / "people").exists()


def test_tracks_without_times_are_told(linked, composed, world, caplog):
    text = (world / "crops" / "crops.csv").read_text().replace("frame,time", "frame,when")
    (world / "crops" / "crops.csv").write_text(text)
    paths = [f"checkpoint={world}/model.ckpt", f"images={world}/crops", f"output={world}/tracks"]
    embed.run(composed("embed", *paths, *FAST))
    linked(good_threshold(world))
    assert "no track has a time" in caplog.text
    assert "time unknown" in (world / "people" / "people.html").read_text()


def test_settings_and_yaml_agree(composed):
    config = composed("link", "embeddings=x", "output=x", "threshold=0.5")
    assert Settings(0.5) == Settings(0.5, config.neighbours, config.rerank, config.k1, config.k2)


def test_search_shows_a_track_by_its_best_picture_and_opens_its_others(composed, world):
    query = world / "crops" / "0" / "2_0.jpg"
    keys = [f"query={query}", f"gallery={world}/tracks", "top_k=2", f"output={world}/found.html", *FAST]
    (found,) = search.run(composed("search", *keys))
    hit = found.hits[0]
    assert (hit.pid, hit.pictures) == ("2", 3)
    single = read_embeddings(world / "tracks" / PICTURES)
    track = [i for i, item in enumerate(single.items) if (item.camid, item.track) == (hit.camid, hit.track)]
    gallery = Gallery.open(world / "tracks")
    camera = CAMERAS.index(hit.camid)
    assert gallery.pictures(hit) == [f"{world}/crops/{camera}/2_{shot}.jpg" for shot in range(3)]
    assert len(track) == 3
    page = (world / "found.html").read_text()
    assert page.partition("<script>")[0].count('class="others"') == 2
    assert page.partition("<script>")[0].count("track 3 (3 pictures)") >= 1


SHOWN = """(async (id) => { const image = document.getElementById(id); if (image.hidden) return "";
  await image.decode(); return image.src; })"""
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")


@needs_browser
def test_in_a_browser_people_stand_in_rows_and_a_click_shows_why(linked, world):
    linked(good_threshold(world))
    listed = {row["track"]: row for row in rows(world / "people" / "people.csv")}
    with Page(world / "people" / "people.html", world / "profile") as page:
        assert page.run("document.querySelectorAll('.person').length") == PEOPLE
        assert page.run("[...document.querySelectorAll('.person')].map((e) => e.querySelectorAll('.hit').length)") == [
            3, 3, 3, 3,
        ]  # fmt: skip
        assert page.run("document.querySelectorAll('.hit.unsure').length") == 2
        # Each person's cameras one under the other, later tracks farther right.
        bars = "[...document.querySelector('.person').querySelectorAll('.lane i')]"
        lefts = page.run(f"{bars}.map((e) => e.getBoundingClientRect().x)")
        assert lefts == sorted(lefts)
        assert len(set(lefts)) == 3
        heats = set()
        for number in range(12):
            page.click(".hit", number)
            track = page.run("document.getElementById('what').textContent")
            why = listed[track]
            fellow = listed[why["most_like"]]
            shown = [page.run(f"document.getElementById('name-{side}').textContent") for side in "ab"]
            assert shown == [str((world / "people" / one["path"]).resolve()) for one in (fellow, why)]
            assert page.run("document.getElementById('score').textContent") == f"score {float(why['score']):.3f}"
            heat = [page.run(f"{SHOWN}('heat-{side}')") for side in "ab"]
            assert all(one.startswith("data:image/png") for one in heat)
            heats.add(tuple(heat))
            assert page.run("document.querySelectorAll('#others img').length") == 2
            page.click("#close")
        assert len(heats) > 2 * PEOPLE  # pairs of nearly equal pictures may look alike in 256 colours
        page.click(".hit", 0)
        first = page.run("document.getElementById('what').textContent")
        page.click("#same")
        page.click("#after")
        second = page.run("document.getElementById('what').textContent")
        page.click("#different")
        said = page.run("document.getElementById('said').value")
    (world / "said.csv").write_text(said, newline="")
    assert [tuple(row.values()) for row in rows(world / "said.csv")] == [
        ("same", listed[first]["most_like"], first),
        ("different", listed[second]["most_like"], second),
    ]


def test_the_heat_map_is_that_of_the_pair(linked, world, monkeypatch):
    asked = []
    monkeypatch.setattr(link, "pair_heat", lambda *a: (asked.append(a), pair_heat(*a))[1])
    people = linked(good_threshold(world))
    found = read_embeddings(world / "tracks")
    pictures = read_pictures([str(found.folder / item.path) for item in found.items])
    embedder = load_embedder(world / "model.ckpt")
    assert len(asked) == 12
    pairs = {(a[1].tobytes(), a[2][0].tobytes()) for a in asked}
    assert pairs == {(pictures[f].tobytes(), pictures[i].tobytes()) for i, f in enumerate(people.fellow)}
    (heat,) = pair_heat(embedder, pictures[people.fellow[0]], [pictures[0]])
    assert heat.on_query.sum() == pytest.approx(heat.on_result.sum(), abs=1e-4)


def test_without_the_model_there_is_a_page_without_heat_maps(linked, world, caplog):
    (world / "model.ckpt").unlink()
    linked(good_threshold(world))
    assert "no heat maps" in caplog.text
    body = (world / "people" / "people.html").read_text().partition("<script>")[0]
    assert "data-heat-a=" not in body
    assert body.count("There is no heat map") == 12


def test_heat_maps_of_another_model_are_refused(linked, world):
    save_model(world / "other.ckpt", embed_dim=7)
    with pytest.raises(ValueError, match=r"embeddings of model\.ckpt \(12 values.* other\.ckpt \(14 values"):
        linked(good_threshold(world), f"checkpoint={world}/other.ckpt")
    assert not (world / "people").exists()


def test_a_large_page_shows_the_people_with_the_most_tracks(linked, world):
    linked("threshold=1.0", "page_people=3", "heatmaps=false")  # everyone alone
    body = (world / "people" / "people.html").read_text().partition("<script>")[0]
    assert body.count('class="asked-for person"') == 3
    assert "3 of 12 people are shown" in body
    assert body.count("This person has no other track.") == 3
    (world / "c.csv").write_text("answer,a,b\nsame,door:1,door:2\n")  # the last two to be seen
    linked("threshold=1.0", "page_people=1", "heatmaps=false", f"corrections={world}/c.csv")
    body = (world / "people" / "people.html").read_text().partition("<script>")[0]
    assert re.findall('data-what="(.+?)"', body) == ["door:2", "door:1"]


def test_hostile_names_are_text(world, composed, tmp_path):
    evil = '"><script>alert(1)</script>'
    embedder = load_embedder(world / "model.ckpt")
    home = tmp_path / "evil"
    (home / "scratch").mkdir(parents=True)
    items = [Item(f"{evil}{i}.jpg", "", evil, str(i), 0.0 + 9 * i, 1.0 + 9 * i, 1) for i in range(2)]
    for item in items:
        write_path = home / item.path
        write_path.parent.mkdir(parents=True, exist_ok=True)
        write_path.write_bytes(cv2.imencode(".jpg", person(1))[1].tobytes())
    features = np.ones((2, embedder.dim), np.float32) / np.sqrt(embedder.dim).astype(np.float32)
    meta = embeddings_meta(embedder, {}) | {"tracks": 2}
    write_embeddings(home, [features], items, meta, home / "scratch")
    link.run(composed("link", f"embeddings={home}", f"output={tmp_path}/people", "threshold=0.9", "device=cpu"))
    page = (tmp_path / "people" / "people.html").read_text()
    assert "<script>alert(1)" not in page
    assert page.count("&lt;script&gt;alert(1)") > 5
