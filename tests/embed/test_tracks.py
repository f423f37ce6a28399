"""Tracks as items: pooled as the mean of their pictures, shown by the best one, and read back as they were."""

import numpy as np
import pytest
import torch

from aelm.data.sources import Item, find_items
from aelm.embed import task as embed
from aelm.embed.folder import FEATURES, ITEMS, csv_bytes, read_embeddings, read_items
from aelm.embed.tracks import PICTURES, pool, tracks_of
from aelm.retrieval import pool_tracks
from tests.pictures_on_disk import person, save_model, write

FAST = ["device=cpu", "workers=0", "progress=false"]
MARS = r"(?P<track>(?P<pid>\d{4}|00-1)C(?P<camid>\d)T\d{4})F(?P<time>\d+)"


def unit(rows, seed=0, dim=8):
    features = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def slow_pool(features, items):
    """One track after the other, in float64: means, and the number of the best picture."""
    keys = list(dict.fromkeys((item.camid, item.track) for item in items))
    means, best = [], []
    for key in keys:
        places = [i for i, item in enumerate(items) if (item.camid, item.track) == key]
        mean = sum(items[i].quality * features[i].astype(np.float64) for i in places)
        means.append(mean / np.sqrt((mean**2).sum()))
        best.append(sorted(places, key=lambda i: (-items[i].quality, -(features[i] @ means[-1])))[0])
    return np.array(means), best


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("weighted", [False, True])
def test_pooling_is_the_weighted_mean_of_each_track(seed, weighted):
    r = np.random.default_rng(seed)
    features = unit(40, seed)
    quality = r.integers(1, 4, 40) if weighted else np.ones(40)
    items = [
        Item(f"{i}.jpg", "", str(r.integers(2)), str(r.integers(4)), float(i), float(i), 1, float(quality[i]))
        for i in range(40)
    ]
    cuts = sorted(r.integers(0, 41, 3))
    found = pool(items, lambda: np.split(features, cuts))
    means, best = slow_pool(features, items)
    np.testing.assert_allclose(found.features, means, atol=1e-6)
    assert [item.path for item in found.items] == [f"{i}.jpg" for i in best]
    for item, places in zip(found.items, tracks_of(items).values(), strict=True):
        assert (item.start, item.end, item.pictures) == (float(places[0]), float(places[-1]), len(places))
    if not weighted:
        numbers = [4 * int(item.camid) + int(item.track) for item in items]
        order = np.argsort([4 * int(item.camid) + int(item.track) for item in found.items])
        zeros = [0] * 40
        twin = pool_tracks(torch.from_numpy(features), numbers, zeros, zeros).features.numpy()
        np.testing.assert_allclose(found.features[order], twin, atol=1e-6)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([Item("a", track="1"), Item("b")], "1 of 2 pictures have no track: b"),
        ([Item("a", "7", "x", "1"), Item("b", "8", "x", "1")], "track 1 of camera x shows 7, 8, which are two tracks"),
        (
            [Item("a", "", "x", "1", 3.0, 3.0), Item("b", "", "x", "1", 2.5, 2.5)],
            "the times of track 1 of camera x run backwards: b at 2.5 follows 3",
        ),
    ],
)
def test_tracks_that_are_none_are_named(items, message):
    with pytest.raises(ValueError, match=message):
        tracks_of(items)


def test_a_track_that_weighs_nothing_is_named():
    items = [Item("a", "", "x", "1", quality=0.0), Item("b", "", "x", "2")]
    with pytest.raises(ValueError, match="the track x:1 weigh nothing"):
        pool(items, lambda: [unit(2)])


@pytest.fixture
def world(tmp_path):
    """A model, and crops of three tracks under two cameras with their table; one of the pictures is empty."""
    rows = []
    for camid, track, pid, count in (("door", 1, 5, 3), ("door", 2, 6, 2), ("gate", 1, 5, 2)):
        for i in range(count):
            path = write(f"{tmp_path}/crops/{camid}/{track}_{i}.png", person(10 * pid + i))
            rows.append((path[len(f"{tmp_path}/crops/") :], track, camid, i, 0.5 * i, pid, 0.9 - 0.1 * i))
    (tmp_path / "crops" / "door" / "2_1.png").write_bytes(b"")
    columns = ("path", "track", "camid", "frame", "time", "pid", "confidence")
    (tmp_path / "crops" / "crops.csv").write_bytes(csv_bytes(columns, rows))
    return save_model(tmp_path / "model.ckpt"), tmp_path


@pytest.fixture
def embedded(composed, world):
    model, root = world

    def run(*overrides, images="crops/crops.csv", output="out"):
        paths = [f"checkpoint={model}", f"images={root}/{images}", f"output={root}/{output}"]
        embed.run(composed("embed", *paths, *FAST, *overrides))
        return read_embeddings(root / output)

    return run


@pytest.mark.parametrize("images", ["crops/crops.csv", "crops"])
def test_the_table_says_which_pictures_are_a_track(embedded, world, images):
    found = embedded(images=images)
    told = [(item.track, item.camid, item.pid, item.start, item.end, item.pictures) for item in found.items]
    assert told == [("1", "door", "5", 0, 1, 3), ("2", "door", "6", 0, 0, 1), ("1", "gate", "5", 0, 0.5, 2)]
    assert (found.meta["tracks"], found.meta["pictures"], found.meta["bad"]) == (3, 6, 1)
    single = read_embeddings(world[1] / "out" / PICTURES)
    means, best = slow_pool(single.features, single.items)
    np.testing.assert_allclose(found.features, means, atol=1e-6)
    assert [item.path for item in found.items] == [single.items[i].path for i in best]
    plain = embedded("tracks=false", images=images, output="plain")
    np.testing.assert_array_equal(plain.features, single.features)
    assert [item.start for item in single.items] == [0, 0.5, 1, 0, 0, 0.5]


def test_quality_is_a_column_of_the_table(embedded, world):
    found = embedded("quality=confidence")
    best = ("door/1_0.png", "door/2_0.png", "gate/1_0.png")
    assert [item.path for item in found.items] == [f"{world[1]}/crops/{one}" for one in best]
    with pytest.raises(ValueError, match="expected a first line with the column sharpness"):
        embedded("quality=sharpness")
    with pytest.raises(ValueError, match="`quality` names a column of a table"):
        embedded("quality=confidence", images="crops/door")


def test_tracks_move_with_their_folder(embedded, world):
    embedded(output="crops")
    (world[1] / "crops").rename(world[1] / "moved")
    found = read_embeddings(world[1] / "moved")
    assert all((found.folder / item.path).is_file() for item in found.items)
    single = read_embeddings(world[1] / "moved" / PICTURES)
    assert all((single.folder / item.path).is_file() for item in single.items)


def test_names_of_mars_tell_tracks(tmp_path):
    names = ["0001C1T0001F001.jpg", "0001C1T0001F002.jpg", "0001C2T0001F001.jpg", "0002C1T0001F001.jpg",
             "00-1C1T0001F001.jpg"]  # fmt: skip
    for i, name in enumerate(names):
        write(f"{tmp_path}/{name}", person(i))
    items = find_items(tmp_path, MARS)
    assert [item.path[len(f"{tmp_path}/") :] for item in items] == sorted(names)
    assert {key: len(places) for key, places in tracks_of(items).items()} == {
        ("1", "00-1C1T0001"): 1, ("1", "0001C1T0001"): 2, ("2", "0001C2T0001"): 1, ("1", "0002C1T0001"): 1,
    }  # fmt: skip
    assert [item.start for item in items] == [1, 1, 2, 1, 1]


@pytest.mark.parametrize(
    ("row", "message"), [("a.png,1,noon", "line 2: time must be a number, got 'noon'"), ("a.png,1,nan", "time must be")]
)
def test_a_time_that_is_none_is_named(tmp_path, row, message):
    (tmp_path / "crops.csv").write_text(f"path,track,time\n{row}\n")
    with pytest.raises(ValueError, match=message):
        find_items(tmp_path / "crops.csv")


def test_folders_written_before_still_load(embedded, world):
    found = embedded(images="crops/gate", output="old")
    assert (world[1] / "old" / ITEMS).read_bytes().startswith(b"path,pid,camid\r\n")
    assert (found.folder / FEATURES).is_file()
    (world[1] / "old" / ITEMS).write_text("path,pid,camid,track,start,end,pictures\na.jpg,1,2,3,x,,1\n")
    with pytest.raises(ValueError, match=r"items\.csv, line 2: could not convert"):
        read_items(world[1] / "old" / ITEMS)
    (world[1] / "old" / ITEMS).write_text("path,pid\na.jpg,1\n")
    with pytest.raises(ValueError, match=r"expected the columns path, pid, camid, track, start, end, pictures"):
        read_items(world[1] / "old" / ITEMS)
