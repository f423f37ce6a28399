"""``python -m aelm.embed``: what it writes, what it leaves alone, and that it goes on where it was stopped."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from aelm.data import BadImageError, Loader, ReIDDataset, recipe
from aelm.embed import job
from aelm.embed import task as embed
from aelm.embed.batches import embed_files, loaded
from aelm.embed.batches import embedded as embedded_batches
from aelm.embed.embedder import load_embedder
from aelm.embed.folder import read_embeddings
from aelm.embed.job import WORK
from aelm.types import Picture
from tests.pictures_on_disk import person, save_model, write, write_people

FILES = ("features.npy", "items.csv", "meta.json")


@pytest.fixture
def world(tmp_path):
    """A model and a folder of ten people."""
    return save_model(tmp_path / "model.ckpt"), write_people(tmp_path / "crops", 10)


@pytest.fixture
def embedded(composed, world, tmp_path):
    def run(*overrides, images=tmp_path / "crops", output=tmp_path / "out"):
        fixed = ["device=cpu", "workers=0", "progress=false", "batch_size=2", "shard_size=4"]
        paths = [f"checkpoint='{world[0]}'", f"images='{images}'", f"output='{output}'"]
        return embed.run(composed("embed", *paths, *fixed, *overrides))

    return run


def content(folder):
    return {name: Path(folder, name).read_bytes() for name in os.listdir(folder) if name in (*FILES, "bad.csv")}


def test_the_embeddings_are_the_evaluations_own(embedded, world, tmp_path, capsys):
    model, paths = world
    assert embedded() == (10, 0)
    assert set(os.listdir(tmp_path / "out")) == set(FILES)
    assert "10 pictures embedded" in capsys.readouterr().out
    found = read_embeddings(tmp_path / "out")
    dataset = ReIDDataset([Picture(path, 0, 0) for path in paths], recipe(64, 32).test)
    expected = load_embedder(model).embed(dataset.__getitems__(list(range(10))).image)
    assert isinstance(found.features, np.memmap)
    np.testing.assert_allclose(found.features, expected.numpy(), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.features, axis=1), 1, atol=1e-5)
    assert [item.path for item in found.items] == paths  # beside the output, so absolute
    assert [(item.pid, item.camid) for item in found.items] == [(str(i), str(i % 3 + 1)) for i in range(10)]
    assert found.meta["model"]["sha256"] == load_embedder(model).sha256
    assert found.meta["preprocessing"]["height"] == 64
    assert {"aelm", "torch", "opencv"} <= set(found.meta["versions"])


def test_into_the_folder_of_the_pictures_paths_are_relative_and_move_along(embedded, world, tmp_path):
    embedded(output=tmp_path / "crops")
    (tmp_path / "crops").rename(tmp_path / "moved")
    found = read_embeddings(tmp_path / "moved")
    assert [item.path for item in found.items] == [os.path.basename(path) for path in world[1]]
    before = content(tmp_path / "moved")
    embedded(images=tmp_path / "moved", output=tmp_path / "moved")  # its own results are no pictures
    assert content(tmp_path / "moved") == before


def test_nothing_is_written_elsewhere(embedded, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    embedded()
    assert os.listdir(tmp_path / "home") == []


def test_a_stopped_job_goes_on_and_gives_the_same_files(embedded, world, tmp_path, monkeypatch):
    embedded(output=tmp_path / "whole")
    write, embeds = job.write_shard, []

    def stop(shards, number, *rest):
        if number == 1:
            raise KeyboardInterrupt
        write(shards, number, *rest)

    monkeypatch.setattr(job, "write_shard", stop)
    with pytest.raises(KeyboardInterrupt):
        embedded()
    assert not (tmp_path / "out" / "meta.json").exists()
    with pytest.raises(FileNotFoundError, match="no finished embeddings"):
        read_embeddings(tmp_path / "out")
    monkeypatch.setattr(job, "write_shard", write)
    feed = job.embedded
    monkeypatch.setattr(job, "embedded", lambda m, paths, *a, **k: embeds.extend(paths) or feed(m, paths, *a, **k))
    assert embedded() == (10, 0)
    assert embeds == world[1][4:]  # the first shard of four was kept
    assert content(tmp_path / "out") == content(tmp_path / "whole")
    assert set(os.listdir(tmp_path / "out")) == set(FILES)


def test_what_another_job_left_is_not_gone_on_with(embedded, world, tmp_path, monkeypatch, caplog):
    write = job.write_shard
    monkeypatch.setattr(job, "write_shard", lambda shards, number, *rest: write(shards, number, *rest) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        embedded()
    assert (tmp_path / "out" / WORK / "000000.npz").exists()
    monkeypatch.setattr(job, "write_shard", write)
    save_model(world[0], threshold=0.5)
    caplog.set_level("INFO")
    assert embedded() == (10, 0)
    assert "starting anew" in caplog.text
    np.testing.assert_allclose(
        read_embeddings(tmp_path / "out").features, embed_files(load_embedder(world[0]), world[1]), atol=1e-6
    )


def written(paths):
    return {path: path.stat().st_mtime_ns for path in paths}


@pytest.mark.faults
def test_a_killed_job_goes_on_and_gives_the_same_files(embedded, world, tmp_path):
    write_people(tmp_path / "crops", 60)
    out, shards = tmp_path / "out", ("batch_size=1", "shard_size=3")
    command = ["device=cpu", "workers=0", "progress=false", f"checkpoint={world[0]}", f"images={tmp_path}/crops"]
    running = subprocess.Popen(
        [sys.executable, "-m", "aelm.embed", *command, f"output={out}", *shards],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
    )
    while not (out / WORK / "000003.npz").exists():
        assert running.poll() is None
        time.sleep(0.002)
    running.send_signal(signal.SIGKILL)
    running.wait()
    done = written((out / WORK).glob("*.npz"))
    assert 4 <= len(done) < 20
    times = {}
    join = job.join_batches
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(job, "join_batches", lambda *a, **k: times.update(written(done)) or join(*a, **k))
        embedded(*shards)
    assert times == done  # no finished shard was embedded twice
    embedded(*shards, output=tmp_path / "whole")
    assert content(out) == content(tmp_path / "whole")
    assert set(os.listdir(out)) == set(FILES)


@pytest.mark.slow
def test_two_processes_write_what_one_writes(embedded, tmp_path):
    embedded(output=tmp_path / "one")
    embedded("device=[cpu,cpu]", output=tmp_path / "two")
    one, two = (read_embeddings(tmp_path / name) for name in ("one", "two"))
    assert one.items == two.items
    np.testing.assert_allclose(one.features, two.features, atol=1e-6)


def test_threads_that_load_change_nothing(tmp_path):
    for i in range(11):
        write(f"{tmp_path}/{i:02}.jpg", cv2.resize(person(i), (20 + 3 * i, 90 - 4 * i)))
    for bad in (3, 8, 9, 10):
        (tmp_path / f"{bad:02}.jpg").write_bytes(b"no picture")
    pictures = [Picture(str(path), -1, 0) for path in sorted(tmp_path.iterdir())]

    def batches(threads):
        dataset = ReIDDataset(pictures, recipe(32, 16).test, on_bad_image="skip")
        return list(loaded(dataset, 4, threads))

    alone = batches(1)
    assert [batch.position.tolist() for batch in alone] == [[0, 1, 2], [4, 5, 6, 7], []]
    for threads in (2, 3, 7):
        for one, other in zip(alone, batches(threads), strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one[:5], other[:5], strict=True))


def test_a_model_on_the_cpu_shares_its_cores_with_no_process(world, tmp_path, monkeypatch):
    monkeypatch.setattr(Loader, "build", lambda *_, **__: pytest.fail("a process would load"))
    embedder = load_embedder(world[0])
    ((positions, features),) = embedded_batches(embedder, [str(path) for path in world[1]][:3], 64)
    assert positions.tolist() == [0, 1, 2]
    assert features.shape == (3, embedder.dim)


def test_workers_change_nothing(embedded, tmp_path):
    embedded(output=tmp_path / "none")
    embedded("workers=2", output=tmp_path / "two")
    assert content(tmp_path / "none") == content(tmp_path / "two")


def test_bad_pictures_are_counted_and_listed_and_the_rest_is_done(embedded, world, tmp_path, capsys):
    bad = {"0000_cut.jpg": Path(world[1][0]).read_bytes()[:200], "0003_empty.png": b"", "zz/none.jpg": b"no picture"}
    (tmp_path / "crops" / "zz").mkdir()
    for name, data in bad.items():
        (tmp_path / "crops" / name).write_bytes(data)
    assert embedded(output=tmp_path / "crops") == (10, 3)
    assert "3 could not be read, see" in capsys.readouterr().out
    with open(tmp_path / "crops" / "bad.csv", newline="") as file:
        listed = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(listed) == set(bad)
    assert "cut off" in listed["0000_cut.jpg"]
    assert "empty file" in listed["0003_empty.png"]
    assert "is no JPEG, PNG" in listed["zz/none.jpg"]
    found = read_embeddings(tmp_path / "crops")
    assert found.meta["bad"] == 3
    np.testing.assert_allclose(found.features, embed_files(load_embedder(world[0]), world[1]), atol=1e-6)
    for name in bad:
        (tmp_path / "crops" / name).unlink()
    embedded(output=tmp_path / "crops")
    assert not (tmp_path / "crops" / "bad.csv").exists()


def encoded(image, kind, **options):
    """The bytes of an RGB picture, as Pillow writes them."""
    stream = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(stream, kind, **options)
    return stream.getvalue()


def test_pictures_of_every_kind_are_seen_as_viewers_show_them(embedded, world, tmp_path):
    rgb = person(3)
    turned = Image.fromarray(np.rot90(rgb))
    orientation = turned.getexif()
    orientation[0x0112] = 6  # a quarter clockwise to see it upright
    grey = np.asarray(Image.fromarray(rgb).convert("L"))
    (tmp_path / "kinds").mkdir()
    for name, data in {
        "plain.png": encoded(rgb, "PNG"),
        "16bit.png": cv2.imencode(".png", rgb[:, :, ::-1].astype(np.uint16) * 257)[1].tobytes(),
        "rgba.png": encoded(np.dstack([rgb, np.full(rgb.shape[:2], 9, np.uint8)]), "PNG"),
        "cmyk.jpg": encoded(Image.fromarray(rgb).convert("CMYK"), "JPEG", quality=100, subsampling=0),
        "rotated.jpg": encoded(turned, "JPEG", quality=100, subsampling=0, exif=orientation),
        "grey.png": encoded(grey, "PNG"),
        "grey as rgb.png": encoded(np.dstack([grey] * 3), "PNG"),
        "rotated, but not told.png": encoded(turned, "PNG"),
    }.items():
        (tmp_path / "kinds" / name).write_bytes(data)
    assert embedded(images=tmp_path / "kinds") == (8, 0)
    found = read_embeddings(tmp_path / "out")
    row = {Path(item.path).name: feature for item, feature in zip(found.items, found.features, strict=True)}
    for name in ("16bit.png", "rgba.png"):
        np.testing.assert_allclose(row[name], row["plain.png"], atol=1e-6)
    for name in ("cmyk.jpg", "rotated.jpg"):  # these formats lose a little
        assert row[name] @ row["plain.png"] > 0.999
    np.testing.assert_allclose(row["grey.png"], row["grey as rgb.png"], atol=1e-6)
    for name in ("grey.png", "rotated, but not told.png"):
        assert row[name] @ row["plain.png"] < 0.995


def test_two_files_of_one_name_are_two_items(embedded, tmp_path):
    for i, place in enumerate(("a", "b")):
        write(tmp_path / "twins" / place / "same.jpg", person(i))
    embedded(images=tmp_path / "twins", output=tmp_path / "twins")
    found = read_embeddings(tmp_path / "twins")
    assert [item.path for item in found.items] == ["a/same.jpg", "b/same.jpg"]
    assert not np.allclose(found.features[0], found.features[1])


def test_a_folder_without_pictures_is_told(embedded, tmp_path):
    (tmp_path / "none").mkdir()
    with pytest.raises(FileNotFoundError, match="`images`: no picture in the folder"):
        embedded(images=tmp_path / "none")
    assert not (tmp_path / "out").exists()


def test_when_no_picture_can_be_read_nothing_is_made_up(embedded, tmp_path):
    (tmp_path / "bad").mkdir()
    for i in range(5):
        (tmp_path / "bad" / f"{i}.jpg").write_bytes(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"none of the 5 pictures can be read: .*0\.jpg' is no JPEG"):
        embedded(images=tmp_path / "bad")
    assert not (tmp_path / "out").exists()


def test_a_list_may_name_what_is_gone(embedded, world, tmp_path):
    (tmp_path / "list.txt").write_text("crops/gone.jpg\n" + "\n".join(world[1][:3]) + "\n")
    assert embedded(images=tmp_path / "list.txt") == (3, 1)
    assert "No such file" in (tmp_path / "out" / "bad.csv").read_text()


def test_files_of_different_runs_are_refused(embedded, tmp_path):
    embedded()
    np.save(tmp_path / "out" / "features.npy", np.zeros((10, 7), np.float32))
    with pytest.raises(ValueError, match=r"expected \(10, 12\) float32 .*, found \(10, 7\)"):
        read_embeddings(tmp_path / "out")
    meta = json.loads((tmp_path / "out" / "meta.json").read_text())
    (tmp_path / "out" / "meta.json").write_text(json.dumps({**meta, "format": 99}))
    with pytest.raises(ValueError, match="expected format 1, found 99"):
        read_embeddings(tmp_path / "out")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "`batch_size` must be at least 1, got 0"),
        ("shard_size=0", "`shard_size` must be at least 1, got 0"),
        ("device=cuda:99", "`device`: 'cuda:99' cannot be used here"),
        ("device=[]", "`device` must name at least one device"),
        ("pattern='(?P<pid>'", "`pattern` must be a regular expression"),
    ],
)
def test_bad_settings_are_named(embedded, tmp_path, override, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace("?", r"\?")):
        embedded(override)
    assert not (tmp_path / "out" / "features.npy").exists()


def test_in_python_a_bad_picture_is_an_error(world, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"x")
    with pytest.raises(BadImageError, match=r"bad\.jpg"):
        embed_files(load_embedder(world[0]), [world[1][0], str(tmp_path / "bad.jpg")])
    assert embed_files(load_embedder(world[0]), []).shape == (0, 12)


def test_a_diverged_model_is_told(world):
    embedder = load_embedder(world[0])
    next(embedder.network.backbone.parameters()).data.fill_(float("nan"))
    with pytest.raises(ValueError, match=r"model\.ckpt gives NaN or infinite values"):
        embed_files(embedder, world[1][:2])


def test_yaml_and_settings_agree(composed):
    config = composed("embed", "checkpoint=x", "images=x", "output=x")
    assert embed.settings(config) == job.Settings()
