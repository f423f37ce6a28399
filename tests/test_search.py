"""``python -m aelm.search``: the right pictures, the filters, and every kind of output, the page in a real browser."""

import dataclasses
import html
import json
import os
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from hydra.errors import ConfigCompositionException

from aelm.command.schema import check_keys
from aelm.data import recipe
from aelm.embed import task as embed
from aelm.embed.batches import embed_files
from aelm.embed.embedder import load_embedder
from aelm.embed.folder import read_embeddings
from aelm.models import ReIDNetwork
from aelm.search import task as search
from aelm.search.page import pair_heat, read_pictures
from tests.browser import BROWSER, Page
from tests.embed.test_embedder import by_hand, write_onnx
from tests.pictures_on_disk import person, save_model, write, write_people

FAST = ["device=cpu", "workers=0", "progress=false"]
NASTY = [
    'it\'s "(1)".jpg',
    "<b>&amp;<img src=x onerror=alert(1)>.jpg",
    "two\nlines.jpg",
    "人物 Straße.png",
    "{{title}}.jpg",
]


@pytest.fixture
def world(tmp_path):
    """A model and a folder of nine people under three cameras."""
    return save_model(tmp_path / "model.ckpt"), write_people(tmp_path / "crops", 9)


@pytest.fixture
def embedded(composed, world, tmp_path):
    """The nine people, embedded where they lie."""
    paths = [f"checkpoint='{world[0]}'", f"images='{tmp_path}/crops'", f"output='{tmp_path}/crops'"]
    embed.run(composed("embed", *paths, *FAST))
    return world[1]


@pytest.fixture
def searched(composed, tmp_path):
    def run(query, *overrides, gallery=tmp_path / "crops"):
        return search.run(composed("search", f"query='{query}'", f"gallery='{gallery}'", *FAST, *overrides))

    return run


def test_results_are_ranked_by_similarity(searched, embedded, world, capsys):
    (found,) = searched(embedded[4], "top_k=3")
    features = embed_files(load_embedder(world[0]), embedded)
    scores = features @ features[4]
    order = [i for i in np.argsort(-scores, kind="stable") if i != 4][:3]  # its own file is left out
    assert [hit.path for hit in found.hits] == [embedded[i] for i in order]
    np.testing.assert_allclose([hit.score for hit in found.hits], scores[order], atol=1e-5)
    assert (found.query.pid, found.query.camid) == ("4", "2")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"query {embedded[4]}"
    assert [line.split() for line in lines[2:]] == [
        [str(rank), f"{hit.score:.3f}", hit.pid, hit.camid, hit.path] for rank, hit in enumerate(found.hits, 1)
    ]
    (own,) = searched(embedded[4], "top_k=3", "skip_self=false")
    assert own.hits[0].path == embedded[4]


def test_a_folder_of_pictures_is_searched_without_writing_to_it(searched, world, embedded, tmp_path):
    expected = searched(embedded[0], "top_k=4")
    for name in ("features.npy", "items.csv", "meta.json"):
        os.remove(tmp_path / "crops" / name)
    before = sorted(os.listdir(tmp_path / "crops"))
    found = searched(embedded[0], "top_k=4", f"checkpoint='{world[0]}'")
    assert [hit.path for hit in found[0].hits] == [hit.path for hit in expected[0].hits]
    assert sorted(os.listdir(tmp_path / "crops")) == before


def test_an_embeddings_file_names_its_folder(searched, embedded, tmp_path):
    by_folder = searched(embedded[0])
    assert searched(embedded[0], gallery=tmp_path / "crops" / "features.npy") == by_folder


def test_filters(searched, embedded):
    def cameras(*overrides):
        return {hit.camid for found in searched(Path(embedded[0]).parent, *overrides) for hit in found.hits}

    assert cameras() == {"1", "2", "3"}
    assert cameras("only_camids=[1,3]") == {"1", "3"}
    assert cameras("except_camids=[1]") == {"2", "3"}
    for found in searched(Path(embedded[0]).parent, "other_cameras=true"):
        assert len(found.hits) == 6
        assert found.query.camid not in {hit.camid for hit in found.hits}
    (found,) = searched(embedded[0], "paths='000[1-3]*'")
    assert {Path(hit.path).name[:4] for hit in found.hits} == {"0001", "0002", "0003"}


def test_other_cameras_of_a_query_whose_camera_is_unknown_are_told(searched, embedded, world, tmp_path, caplog):
    shutil.copy(world[1][0], tmp_path / "who.jpg")
    searched(tmp_path / "who.jpg", "other_cameras=true")
    assert "`other_cameras`: the camera of 1 of 1 queries is unknown" in caplog.text
    caplog.clear()
    searched(embedded[0], "other_cameras=true")
    assert "other_cameras" not in caplog.text


def test_no_match(searched, embedded, tmp_path, capsys):
    for suffix in ("json", "html", "png"):
        (found,) = searched(embedded[0], "min_score=1", f"output='{tmp_path}/out.{suffix}'")
        assert found.hits == []
    assert "no match: No picture that passes the filters scores 1 or more." in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text())["queries"][0]["match"] is False
    assert "<b>No match</b>No picture that passes the filters" in (tmp_path / "out.html").read_text()
    assert cv2.imread(str(tmp_path / "out.png")).std() > 5


def test_json_tells_what_was_found(searched, embedded, tmp_path):
    found = searched(Path(embedded[0]).parent, "top_k=2", "min_score=-1", f"output='{tmp_path}/new/out.json'")
    told = json.loads((tmp_path / "new" / "out.json").read_text())
    assert (told["pictures"], told["model"], told["top_k"], told["min_score"]) == (9, "model.ckpt", 2, -1)
    assert [query["path"] for query in told["queries"]] == embedded
    for query, one in zip(told["queries"], found, strict=True):
        assert [(r["rank"], r["path"], r["score"]) for r in query["results"]] == [
            (rank, hit.path, hit.score) for rank, hit in enumerate(one.hits, 1)
        ]


def test_only_the_output_is_written(searched, embedded, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    before = sorted(os.listdir(tmp_path / "crops"))
    searched(embedded[0])
    assert os.listdir(tmp_path / "home") == []
    for suffix in ("html", "png", "json"):
        searched(embedded[0], f"output=out.{suffix}")
    assert sorted(os.listdir(tmp_path / "home")) == ["out.html", "out.json", "out.png"]
    assert sorted(os.listdir(tmp_path / "crops")) == before


def test_bad_queries_are_left_out_and_told(searched, embedded, tmp_path, caplog):
    (tmp_path / "queries.txt").write_text(f"gone.jpg\n{embedded[3]}\n")
    (found,) = searched(tmp_path / "queries.txt")
    assert found.query.path == embedded[3]
    assert "1 of 2 queries could not be read" in caplog.text
    (tmp_path / "bad.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no query can be read: .*bad\.jpg.* empty file"):
        searched(tmp_path / "bad.jpg")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("output=result.pdf", r"`output` must end in \.html, \.png, \.json, got 'result\.pdf'"),
        ("top_k=0", "`top_k` must be at least 1, got 0"),
        ("query=nowhere.jpg", "`query`: nothing at 'nowhere.jpg'"),
        ("gallery=nowhere", "`gallery`: nothing at 'nowhere'"),
    ],
)
def test_bad_settings_are_named(searched, embedded, override, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        searched(embedded[0], override)


@pytest.mark.parametrize("command", ["embed", "search"])
def test_a_misspelt_key_is_named(composed, command):
    with pytest.raises(ConfigCompositionException, match="divice"):
        composed(command, "divice=cpu")
    with pytest.raises(ValueError, match="unknown key `divice`, did you mean `device`"):
        check_keys(composed(command, "+divice=cpu"))


def test_a_gallery_of_another_model_is_refused(searched, embedded, tmp_path):
    other = save_model(tmp_path / "other.ckpt", embed_dim=7)
    with pytest.raises(ValueError, match=r"embeddings of model\.ckpt \(12 values.* other\.ckpt \(14 values"):
        searched(embedded[0], f"checkpoint='{other}'")
    (tmp_path / "model.ckpt").unlink()
    with pytest.raises(ValueError, match=r"was made with .*model\.ckpt, which is gone: give `checkpoint`"):
        searched(embedded[0])


def test_other_peoples_models_embed_and_search_without_heat_maps(composed, searched, world, tmp_path):
    model = write_onnx(tmp_path / "other.onnx")
    paths = [f"checkpoint='{model}'", f"images='{tmp_path}/crops'", f"output='{tmp_path}/crops'"]
    embed.run(composed("embed", *paths, *FAST))
    found = read_embeddings(tmp_path / "crops")
    images = np.stack([recipe(24, 16).test(picture) for picture in read_pictures(world[1])])
    expected = by_hand(torch.from_numpy(images).permute(0, 3, 1, 2)).numpy()
    np.testing.assert_allclose(found.features, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    (one,) = searched(world[1][0], f"output='{tmp_path}/out.html'")
    assert found.meta["model"]["name"] == "other.onnx"
    np.testing.assert_allclose(
        [hit.score for hit in one.hits], sorted(found.features[1:] @ found.features[0])[::-1], atol=1e-5
    )
    page = (tmp_path / "out.html").read_text()
    assert "data-heat-a=" not in page.partition("<script>")[0]
    assert page.count('data-why="There is no heat map') == len(one.hits) == 8


def test_the_heat_of_a_pair_sums_to_its_score(world):
    embedder = load_embedder(world[0])
    query, *results = read_pictures([*world[1][:4], "gone.jpg"])
    heat = pair_heat(embedder, query, results)
    features = embed_files(embedder, world[1][:4])
    assert heat[3] is None
    for one, score in zip(heat[:3], features[1:] @ features[0], strict=True):
        assert one.on_query.sum() == pytest.approx(score, abs=1e-4)
        assert one.on_result.sum() == pytest.approx(score, abs=1e-4)
    assert pair_heat(embedder, None, results) == [None] * 4


def test_a_heat_map_lies_over_the_picture_and_not_over_its_padding(world):
    """A wide picture is in the middle of the network's tall input."""
    embedder = load_embedder(world[0])
    padded = dataclasses.replace(embedder, preprocess="resize_pad")
    wide = np.zeros((24, 96, 3), np.uint8)
    (heat,) = pair_heat(padded, wide, [read_pictures(world[1][:1])[0]])
    height = padded.width * 24 // 96
    assert heat.on_query.shape == (height, padded.width)
    (whole,) = pair_heat(padded, recipe(embedder.height, embedder.width, preprocess="resize_pad").test(wide), [wide])
    full = cv2.resize(whole.on_query, (padded.width, padded.height), interpolation=cv2.INTER_LINEAR)
    top = (padded.height - height) // 2
    np.testing.assert_allclose(whole.on_result, full[top : top + height], atol=1e-6)


@pytest.fixture
def nasty(composed, world, tmp_path):
    """A gallery whose files have the names that break pages and tables; two of one name."""
    for i, name in enumerate([*NASTY, "a/same.jpg", "b/same.jpg"]):
        write(tmp_path / "nasty" / name, person(i)) if "/" in name else write(f"{tmp_path}/nasty/{name}", person(i))
    embed.run(
        composed("embed", f"checkpoint='{world[0]}'", f"images='{tmp_path}/nasty'", f"output='{tmp_path}/nasty'", *FAST)
    )
    return tmp_path / "nasty"


def test_file_names_are_text_on_the_page(searched, nasty, world, tmp_path):
    (found,) = searched(world[1][8], f"output='{tmp_path}/out.html'", gallery=nasty)
    assert {os.path.relpath(hit.path, nasty) for hit in found.hits} == {*NASTY, "a/same.jpg", "b/same.jpg"}
    page = (tmp_path / "out.html").read_text()
    assert "<b>&amp;" not in page
    told = [html.unescape(path) for path in re.findall(r'class="hit [a-z]*" data-path="([^"]*)"', page)]
    assert told == [hit.path for hit in found.hits]


SEEN = """(async (id) => {
  const image = document.getElementById(id);
  if (image.hidden) return {hidden: true};
  await image.decode();
  const box = image.getBoundingClientRect(), canvas = document.createElement("canvas");
  const top = document.elementFromPoint(box.x + box.width / 2, box.y + box.height / 2);
  [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  const values = [...context.getImageData(0, 0, canvas.width, canvas.height).data];
  const alpha = values.filter((_, i) => i % 4 === 3).sort((a, b) => a - b);
  return {hidden: false, top: top && top.id, width: box.width, height: box.height, source: image.src,
          sum: values.reduce((a, b) => a + b, 0), lightest: alpha[0], darkest: alpha[alpha.length - 1]};
})"""
OUTSIDE = """[...document.querySelectorAll("[src],[href]")].map((e) => e.src || e.href)
  .concat(performance.getEntriesByType("resource").map((e) => e.name)).filter((name) => !name.startsWith("data:"))"""
OPEN = "document.querySelector('dialog').open"
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium is installed: apt-get install chromium")


@needs_browser
def test_in_a_browser_a_click_shows_the_heat_map_of_that_pair(searched, nasty, world, tmp_path):
    (found,) = searched(world[1][8], f"output='{tmp_path}/out.html'", gallery=nasty)
    sources, sums = {"a": set(), "b": set(), "picture": set()}, set()
    with Page(tmp_path / "out.html", tmp_path / "profile") as page:
        assert page.run("document.querySelectorAll('.hit').length") == len(found.hits) == 7
        assert not page.run(OPEN)
        for number, hit in enumerate(found.hits):
            page.click(".hit", number)
            assert page.run(OPEN)
            names = [page.run(f"document.getElementById('name-{side}').textContent") for side in "ab"]
            assert names == [found.query.path, hit.path]
            assert page.run("document.getElementById('score').textContent") == f"score {hit.score:.3f}"
            picture = page.run(f"{SEEN}('picture-b')")
            for side in "ab":
                heat = page.run(f"{SEEN}('heat-{side}')")
                assert heat["top"] == f"heat-{side}"  # over the picture, in sight
                assert heat["height"] > 100
                assert heat["darkest"] > 100
                assert heat["lightest"] < heat["darkest"] - 50  # covers some places and lets others through
                sources[side].add(heat["source"])
            assert (heat["width"], heat["height"]) == (picture["width"], picture["height"])
            sources["picture"].add(picture["source"])
            sums.add(heat["sum"])
            page.click("#close")
            assert not page.run(OPEN)
        assert page.run(OUTSIDE) == []
    # Two results show two pictures and two heat maps.
    assert [len(found) for found in (*sources.values(), sums)] == [7, 7, 7, 7]


@needs_browser
def test_in_a_browser_the_heat_map_can_be_taken_off_and_the_next_result_shown(searched, embedded, tmp_path):
    searched(embedded[0], "top_k=2", f"output='{tmp_path}/out.html'")
    with Page(tmp_path / "out.html", tmp_path / "profile") as page:
        page.click(".hit")
        first = page.run(f"{SEEN}('heat-b')")
        page.click("#on")
        assert page.run(f"{SEEN}('heat-a')")["hidden"]
        assert page.run(f"{SEEN}('heat-b')")["hidden"]
        assert page.run(f"{SEEN}('picture-b')")["width"] > 20
        page.click("#on")
        page.click("#after")
        assert page.run("document.getElementById('what').textContent") == "Result 2 of 2"
        assert page.run(f"{SEEN}('heat-b')")["source"] != first["source"]
        assert page.run("document.getElementById('after').disabled")


@needs_browser
def test_in_a_browser_a_result_without_heat_map_says_why(searched, embedded, tmp_path):
    searched(embedded[0], "top_k=2", "heatmaps=false", f"output='{tmp_path}/out.html'")
    with Page(tmp_path / "out.html", tmp_path / "profile") as page:
        page.click(".hit")
        assert page.run("document.getElementById('none').innerText") == "Heat maps were switched off (heatmaps=false)."
        assert page.run(f"{SEEN}('heat-a')")["hidden"]
        assert page.run(f"{SEEN}('picture-b')")["width"] > 20


def test_paths_mean_the_same_in_a_folder_that_is_embedded_in_passing(searched, world, tmp_path, composed):
    """As if the folder held its embeddings."""
    given = [f"checkpoint='{world[0]}'", "paths='[0-4]*'"]
    (passing,) = searched(world[1][7], *given)
    paths = [f"checkpoint='{world[0]}'", f"images='{tmp_path}/crops'", f"output='{tmp_path}/crops'"]
    embed.run(composed("embed", *paths, *FAST))
    (held,) = searched(world[1][7], *given)
    assert [hit.path for hit in passing.hits] == [hit.path for hit in held.hits]
    assert len(held.hits) > 1


def test_a_search_embeds_in_the_precision_that_is_asked_for(searched, world, monkeypatch):
    told, make = [], search.embed_items
    monkeypatch.setattr(
        search, "load_embedder", lambda *a, **k: (told.append(k["precision"]), load_embedder(*a, **k))[1]
    )
    monkeypatch.setattr(search, "embed_items", lambda *a: (told.append(a[3].precision), make(*a))[1])
    for precision in ("32", "bf16"):
        told.clear()
        keys = [f"precision={precision}", f"checkpoint='{world[0]}'", "skip_self=false", "top_k=1"]
        (found,) = searched(world[1][2], *keys)
        assert told == [precision, precision]  # the gallery's pictures and the query
        assert found.hits[0].path == world[1][2]
    with pytest.raises(ValueError, match="`precision` must be one of 32, bf16, 16, got 'half'"):
        searched(world[1][2], "precision=half", f"checkpoint='{world[0]}'")


def test_pictures_without_embeddings_are_embedded_as_the_queries_are(composed, world, tmp_path, monkeypatch):
    asked, keys = [], ["query=x", f"gallery={tmp_path}/crops", "size=[64,32]", "camera=2"]
    monkeypatch.setattr(
        search, "embed_items", lambda checkpoint, items, folder, settings, allow: asked.append(settings)
    )
    with pytest.raises(FileNotFoundError):
        search.find_gallery(composed("search", *keys), "cpu")
    assert (list(asked[0].size), asked[0].camera) == ([64, 32], 2)


def test_what_a_search_is_told_comes_before_what_the_gallery_was_made_with(composed, monkeypatch):
    told, config = {}, composed("search", "query=x", "gallery=x", "camera=2")
    monkeypatch.setattr(search, "load_embedder", lambda *_, **options: told.update(options) or SimpleNamespace(to=str))
    search.load(config, "x", "cpu", {"camera": 1, "size": [64, 32]})
    assert (told["camera"], told["size"]) == (2, [64, 32])


def test_embeddings_and_heat_maps_are_computed_without_tf32(searched, embedded, tmp_path, monkeypatch):
    seen, features = [], ReIDNetwork.features

    def spied(self, images):
        seen.append(torch.backends.cudnn.conv.fp32_precision)
        return features(self, images)

    def load(*arguments, **options):
        found = load_embedder(*arguments, **options)
        seen.clear()  # of what measures the length of an embedding
        return found

    monkeypatch.setattr(ReIDNetwork, "features", spied)
    monkeypatch.setattr(search, "load_embedder", load)
    before = torch.backends.cudnn.conv.fp32_precision
    searched(embedded[4], "top_k=2", f"output={tmp_path}/page.html")
    assert len(seen) >= 2
    assert set(seen) == {"ieee"}
    assert torch.backends.cudnn.conv.fp32_precision == before
