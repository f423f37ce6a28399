"""A stopped run or job goes on where data or project have moved, and is refused where its data is another one."""

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from aelm.checkpoint import KEY
from aelm.compare.runs import read_runs
from aelm.data.sources import find_items
from aelm.data.splits import digests
from aelm.embed import job
from aelm.embed.job import Settings, embed_items
from aelm.report.runs import claim, differences, read_config
from aelm.train import task as train
from aelm.train.trainer import AtomicCheckpointIO
from aelm.types import Benchmark, InputError, Picture
from tests.bomb import Bomb
from tests.pictures_on_disk import save_model, write_people
from tests.tiny import description, write_checkpoint

ON_CPU = Settings("cpu", batch_size=4, shard_size=4, workers=0, progress=False)


def config(**changes):
    return OmegaConf.create({"resume": "auto", "name": "x", "seed": 0, "data_dir": "/a", **changes})


@pytest.fixture
def run(tmp_path):
    """A run directory with a checkpoint of people 0 to 4."""
    claim(tmp_path / "run", config())
    (tmp_path / "run" / "checkpoints").mkdir()
    told = {**description(), "people": {f"x:{i}": "digest" for i in range(5)}}
    write_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt", told)
    return tmp_path / "run"


def test_digests_know_names_and_sizes_and_no_places(tmp_path):
    files = [tmp_path / place / "a.jpg" for place in ("here", "there")]
    for file in files:
        file.parent.mkdir()
        file.write_bytes(b"1234")
    here, there = (digests([Benchmark("x", (Picture(str(file), 7, 1),))]) for file in files)
    assert here == there
    assert list(here) == ["x:7"]
    renamed = files[0].rename(tmp_path / "here" / "b.jpg")
    files[1].write_bytes(b"12345")
    for path in (renamed, files[1], tmp_path / "gone.jpg"):
        assert digests([Benchmark("x", (Picture(str(path), 7, 1),))])["x:7"] != here["x:7"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x:0": None, "x:99": "digest"}, "people that came: x:99; people that went: x:0"),
        ({"x:3": "other"}, "people with other pictures: x:3"),
        ({f"x:{i}": "new" for i in range(10, 20)}, "people that came: x:10, x:11, x:12, x:13, x:14 and 5 more"),
    ],
)
def test_other_people_or_pictures_are_refused_by_name(run, change, told):
    kept = (run / "checkpoints" / "last.ckpt").read_bytes()
    people = {f"x:{i}": "digest" for i in range(5)} | change
    now = {"labels": [], "people": {key: value for key, value in people.items() if value}}
    with pytest.raises(InputError, match=rf"run cannot go on: .*{told}\. Bring the data back") as caught:
        claim(run, config(), now)
    assert "\n" not in str(caught.value)
    assert (run / "checkpoints" / "last.ckpt").read_bytes() == kept


def test_a_checkpoint_of_an_earlier_release_knows_its_labels(run):
    write_checkpoint(run / "checkpoints" / "last.ckpt")
    now = {"labels": [f"x:{i}" for i in range(5)], "people": {"x:0": "digest"}}
    assert claim(run, config(), now) == run / "checkpoints" / "last.ckpt"
    with pytest.raises(InputError, match="people that went: x:4"):
        claim(run, config(), {**now, "labels": now["labels"][:4]})


def test_places_may_change_and_the_configuration_tells_the_new_ones(run):
    before = config(model={"backbone": {"weights": "/a/w.pth"}}, logger={"save_dir": "/a"}, dataset={"test": ["x"]})
    after = config(model={"backbone": {"weights": "/b/w.pth"}}, logger=False, dataset={"test": None}, data_dir="/b")
    assert differences(before, after) == []
    other = config(model={"backbone": {"weights": "/a/v.pth"}})
    assert "model.backbone.weights: w.pth -> v.pth" in differences(before, other)
    claim(run, config(data_dir="/b"))
    assert read_config(run / "config.yaml").data_dir == "/b"


def test_a_run_that_was_killed_before_its_first_last_checkpoint_goes_on_from_the_best(run):
    best = (run / "checkpoints" / "last.ckpt").rename(run / "checkpoints" / "best.ckpt")
    assert claim(run, config()) == best
    assert claim(run, config(), first=False) == best


@pytest.mark.parametrize("content", [b"seed: [0", b"seed: 0\xff", b"", b"- a\n", b"seed: ${oops\n"])
def test_a_damaged_configuration_is_named(run, content):
    (run / "config.yaml").write_bytes(content)
    for read in (lambda: claim(run, config()), lambda: read_runs([str(run)], ["metrics.json"])):
        with pytest.raises((InputError, FileExistsError), match=r"config\.yaml|another configuration|no `seed`"):
            read()


def test_a_damaged_checkpoint_is_named_and_what_it_hides_does_not_run(run, trace):
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:5000])
    with pytest.raises(InputError, match=r"last\.ckpt"):
        claim(run, config(), {"people": {}})
    torch.save({"state_dict": Bomb(trace), KEY: {}}, last)
    for read in (lambda: claim(run, config(), {"people": {}}), lambda: AtomicCheckpointIO().load_checkpoint(last)):
        with pytest.raises(InputError, match=r"last\.ckpt does not load as data"):
            read()


def test_a_run_goes_on_where_data_and_project_moved_and_knows_its_best_score(trained, people, tmp_path, monkeypatch):
    plain, stopped, best = train.ReIDModule.training_step, [], []

    def step(self, batch, batch_idx):
        if self.global_step == 4:
            found = next(c for c in self.trainer.callbacks if getattr(c, "monitor", None))
            best.append((found.best_model_score, Path(found.best_model_path).parent.parent.name))
            if not stopped:
                stopped.append(True)
                raise KeyError("killed")
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(train.ReIDModule, "training_step", step)
    run = ["figures=false", "checkpoint_every_n_steps=1"]
    with pytest.raises(KeyError, match="killed"):
        trained(*run, name="old")
    (tmp_path / "old").rename(tmp_path / "new")
    shutil.copytree(people, tmp_path / "data")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="The dirpath has changed")
        trained(*run, "resume=auto", f"data_dir={tmp_path / 'data'}", name="new")
    (score, old), (kept, new) = best
    assert (kept, old, new) == (score, "old", "new")
    assert score is not None


def test_an_embedding_job_goes_on_where_pictures_and_model_have_moved(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "model.ckpt")
    write_people(tmp_path / "crops", 12)
    plain, written = job.write_shard, []

    def write(shards, number, *arguments):
        if len(written) == 2:
            raise KeyError("killed")
        plain(shards, number, *arguments)
        written.append(number)

    monkeypatch.setattr(job, "write_shard", write)
    with pytest.raises(KeyError, match="killed"):
        embed_items("model.ckpt", find_items("crops"), tmp_path / "out", ON_CPU)
    for name in ("crops", "out", "model.ckpt"):
        (tmp_path / "disk").mkdir(exist_ok=True)
        shutil.move(tmp_path / name, tmp_path / "disk" / f"new {name}")
    monkeypatch.setattr(job, "write_shard", lambda *all_of_it: plain(*all_of_it) or written.append(all_of_it[1]))
    shard = tmp_path / "disk" / "new out" / job.WORK / "000001.npz"
    whole = shard.read_bytes()
    again = "disk/new model.ckpt", find_items("disk/new crops"), tmp_path / "disk" / "new out", ON_CPU
    shard.write_bytes(whole[:200])
    with pytest.raises(InputError, match=r"000001\.npz, which an earlier run left, is damaged .*Remove this file"):
        embed_items(*again)
    shard.write_bytes(whole)
    written.clear()
    assert embed_items(*again) == (12, 0)
    assert written == []  # the last part was done by the run that met the damaged one
    meta = json.loads((tmp_path / "disk" / "new out" / "meta.json").read_text())
    assert meta["model"]["checkpoint"].endswith("new model.ckpt")
    assert np.load(tmp_path / "disk" / "new out" / "features.npy").shape[0] == 12


def test_an_embedding_job_over_pictures_that_were_cut_anew_starts_anew(tmp_path, caplog):
    paths = write_people(tmp_path / "crops", 4)
    job.open_shards(paths, tmp_path, {}, 4, 4)
    caplog.set_level("INFO")
    job.open_shards(paths, tmp_path, {}, 4, 4)
    assert "starting anew" not in caplog.text
    Path(paths[0]).write_bytes(Path(paths[0]).read_bytes() + b"\0")
    job.open_shards(paths, tmp_path, {}, 4, 4)
    assert "starting anew" in caplog.text
