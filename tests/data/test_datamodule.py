"""From benchmarks to loaders: names, numbers, shares of processes, and what is refused."""

import logging
import multiprocessing
import os
import re
import signal
import sys
import tempfile
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import pytorch_lightning as pl
import torch

import aelm.data
from aelm.data.datamodule import EvaluationSet, ReIDDataModule, evaluation_sets
from aelm.data.loader import Loader, default_workers
from aelm.data.sampler import IdentitySampler, ShuffleSampler
from aelm.data.transforms import recipe
from aelm.models import AELM, ReIDNetwork
from aelm.module import ReIDModule
from aelm.types import Benchmark, Picture

SAMPLER = partial(IdentitySampler, identities=2, images=2)
HERE = Loader(workers=0, test_batch_size=5)


@pytest.fixture
def make(tmp_path):
    """Writes a benchmark: identities 10, 20, ... seen twice by cameras 3 and 7 in training, once each in test."""

    def write(name, ids=4, test_ids=3, more=(), **official):
        rng = np.random.default_rng(len(name))

        def shots(split, pids, camids, count=1):
            pictures = []
            for pid in pids:
                for camid in camids:
                    for shot in range(count):
                        path = tmp_path / name / split / f"{pid}_{camid}_{shot}.png"
                        path.parent.mkdir(parents=True, exist_ok=True)
                        image = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
                        path.write_bytes(cv2.imencode(".png", image)[1].tobytes())
                        pictures.append(Picture(str(path), pid, camid))
            return tuple(pictures)

        train_pids, test_pids = range(10, 10 * ids + 1, 10), range(5, 5 + test_ids)
        return Benchmark(
            name,
            train=shots("train", train_pids, (3, 7), 2),
            query=shots("query", test_pids, (3,)),
            gallery=shots("gallery", test_pids, (7,)) + shots("gallery", (-1,) if test_ids else (), (3,)),
            more_queries={what: shots(what, test_pids, (3,)) for what in more},
            official={key.replace("_", " "): number for key, number in official.items()},
        )

    return write


def module(*benchmarks, **options):
    options = {"transform": recipe(16, 8), "sampler": SAMPLER, "loader": HERE, **options}
    return ReIDDataModule({benchmark.name: benchmark for benchmark in benchmarks}, **options)


def test_training_pictures_get_labels_and_cameras_from_zero(make):
    data = module(make("market"))
    data.setup()
    assert data.num_ids == 4
    assert data.label_map == {"market:10": 0, "market:20": 1, "market:30": 2, "market:40": 3}
    batch = next(iter(data.train_dataloader()))
    assert batch.image.shape == (4, 3, 16, 8)
    assert set(batch.camid.tolist()) <= {0, 1}
    assert not batch.is_query.any()
    for position, label in zip(batch.position.tolist(), batch.pid.tolist(), strict=True):
        # The file's name says who it is.
        assert f"/{10 * (label + 1)}_" in data.train_pictures[position].path


def test_without_a_trainer_each_pass_is_a_new_epoch(make):
    data = module(make("market"))
    data.setup()
    passes = [torch.cat([batch.image for batch in data.train_dataloader()]) for _ in range(3)]
    assert not any(torch.equal(passes[0], later) for later in passes[1:])
    loader = data.train_dataloader()
    later = torch.cat([batch.image for batch in loader])
    data.setup()
    again = [torch.cat([batch.image for batch in data.train_dataloader()]) for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in zip([*passes, later], again, strict=True))


def test_several_benchmarks_are_joined_for_training_and_kept_apart_for_test(make):
    data = module(make("b", ids=3), make("a", ids=2, more=["occluded"]), make("c", more=["dark"]))
    data.setup()
    assert data.num_ids == 9
    assert list(data.label_map) == ["a:10", "a:20", "b:10", "b:20", "b:30", "c:10", "c:20", "c:30", "c:40"]
    assert list(data.label_map.values()) == list(range(9))
    assert len({picture.camid for picture in data.train_pictures}) == 6
    assert data.test_names == ["test", "test_a", "test_a_occluded", "test_c", "test_c_dark"]
    assert len(data.test_dataloader()) == 5
    assert data.shared_galleries == {"test_a_occluded": ("test_a", 0), "test_c_dark": ("test_c", 0)}


def test_train_and_test_choose(make):
    data = module(make("a"), make("b", more=["occluded"]), make("c"), train=["b"], test=["b", "a"])
    data.setup()
    assert {name.split(":")[0] for name in data.label_map} == {"b"}
    assert data.test_names == ["test", "test_occluded", "test_a"]
    assert data.test_sets[2].query[0].path.split("/")[-3] == "a"


def test_a_test_loader_holds_queries_then_gallery_as_they_are(make):
    benchmark = make("a")
    data = module(benchmark)
    data.setup("test")
    (loader,) = data.test_dataloader()
    batches = list(loader)
    assert [len(batch.pid) for batch in batches] == [5, 2]
    pid, camid, position, is_query = (
        torch.cat([getattr(batch, field) for batch in batches]).tolist()
        for field in ("pid", "camid", "position", "is_query")
    )
    pictures = benchmark.query + benchmark.gallery
    assert pid == [picture.pid for picture in pictures]
    assert camid == [picture.camid for picture in pictures]
    assert position == list(range(7))
    assert is_query == [True] * 3 + [False] * 4
    expected = cv2.imread(pictures[6].path)[..., ::-1].copy()
    assert torch.equal(batches[1].image[1], torch.from_numpy(expected).permute(2, 0, 1))


def test_query_sets_that_share_a_gallery_load_it_once(make):
    benchmark = make("a", more=["occluded"])
    for picture in (benchmark.more_queries["occluded"][0], benchmark.gallery[1]):
        Path(picture.path).write_text("no picture")
    data = module(benchmark, loader=HERE._replace(on_bad_image="skip"))
    data.setup("test")
    loaders = data.test_dataloader()
    assert [len(torch.cat([batch.pid for batch in loader])) for loader in loaders] == [3 + 4 - 1, 3 - 1]
    bad, gallery = benchmark.more_queries["occluded"][0].path, benchmark.gallery[1].path
    assert data.unreadable == {"test": (gallery,), "test_occluded": (bad, gallery)}


def test_testing_does_not_read_what_is_only_trained_on(make):
    def refuse():
        raise AssertionError("the training set was read")

    data = ReIDDataModule({"a": refuse, "b": make("b")}, recipe(16, 8), SAMPLER, train=["a"], test=["b"], loader=HERE)
    data.setup("test")
    assert data.test_names == ["test"]
    assert len(data.test_dataloader()) == 1
    with pytest.raises(RuntimeError, match="no training pictures"):
        data.train_dataloader()


def test_readers_are_called_once_and_named_by_their_key(make):
    calls = []

    def read():
        calls.append(1)
        return make("name of the reader")

    data = ReIDDataModule({"mine": read}, recipe(16, 8), SAMPLER, loader=HERE)
    data.prepare_data()
    for stage in ("fit", "test"):
        data.setup(stage)
    assert len(calls) == 1
    assert next(iter(data.label_map)) == "mine:10"


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_validation_is_on_identities_that_are_not_trained_on(make, names):
    data = module(*(make(name, ids=8) for name in names), val_fraction=0.25)
    data.setup("fit")
    assert data.val_names == ["val"]
    (held,) = data.val_sets
    held_out = {(path.split("/")[-3], path.split("/")[-1].split("_")[0]) for path, _, _ in held.query + held.gallery}
    trained = {tuple(name.split(":")) for name in data.label_map}
    assert not held_out & trained
    assert len(held_out) == len({picture.pid for picture in held.query + held.gallery}) == 2 * len(names)
    assert len(held_out | trained) == 8 * len(names)
    assert data.num_ids == 6 * len(names)
    (loader,) = data.val_dataloader()
    assert sum(len(batch.pid) for batch in loader) == len(held.query + held.gallery)


def test_who_is_held_out_does_not_depend_on_the_seed(make):
    benchmark, sets = make("a", ids=12), set()
    for seed in range(3):
        data = module(benchmark, val_fraction=0.25, seed=seed)
        data.setup("fit")
        sets.add(data.val_sets[0][:3])
    assert len(sets) == 1


def test_nothing_is_held_out_by_default(make):
    data = module(make("a"))
    data.setup()
    assert data.val_dataloader() == []
    assert data.val_names == []


def at(rank, world_size):
    """What the module asks a Trainer for."""
    return SimpleNamespace(
        global_rank=rank, world_size=world_size, num_devices=world_size, state=SimpleNamespace(fn="fit")
    )


def test_processes_share_training_and_tests_without_duplicates(make):
    benchmark, parts = make("a", ids=8, test_ids=6), []
    for rank in range(3):
        data = module(benchmark)
        data.trainer = at(rank, 3)
        data.prepare_data()
        data.setup("fit")
        parts.append((list(data.train_dataloader()), list(data.test_dataloader()[0])))
    steps = [len(train) for train, _ in parts]
    assert len(set(steps)) == 1
    for step in range(steps[0]):
        pids = [set(train[step].pid.tolist()) for train, _ in parts]
        assert len(set.union(*pids)) == sum(map(len, pids)) == 6
    tested = [index for _, test in parts for batch in test for index in batch.position.tolist()]
    assert sorted(tested) == list(range(len(benchmark.query + benchmark.gallery)))


def test_a_trainer_drives_it_and_each_epoch_differs(make):
    class Watch(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.seen, self.tested = [], []
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def training_step(self, batch, batch_idx):
            self.seen.append((batch.position.tolist(), batch.image.sum().item()))
            return self.weight * 0

        def test_step(self, batch, batch_idx, dataloader_idx=0):
            self.tested.append((dataloader_idx, batch.position.tolist()))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    data, watch = module(make("a", more=["occluded"]), loader=HERE._replace(workers=1)), Watch()
    trainer = pl.Trainer(
        max_epochs=3,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(watch, datamodule=data)
    trainer.test(watch, datamodule=data, verbose=False)
    # A plain loop, whose sampler counts for itself, and no worker.
    alone = module(make("a", more=["occluded"]))
    alone.setup("fit")
    loader = alone.train_dataloader()
    plain = [(batch.position.tolist(), batch.image.sum().item()) for _ in range(3) for batch in loader]
    assert watch.seen == plain
    assert len({tuple(positions) for positions, _ in plain}) > len(loader)
    assert watch.tested == [(0, [0, 1, 2, 3, 4]), (0, [5, 6]), (1, [0, 1, 2])]


def test_predict_gives_the_embeddings_of_queries_then_gallery(make):
    torch.manual_seed(0)
    backbone = torch.nn.Conv2d(3, 4, 4, stride=4)
    model = ReIDModule(
        ReIDNetwork(backbone, 4, lambda c: torch.nn.Identity(), partial(AELM, embed_dim=6)), {}, torch.optim.SGD
    )
    data = module(make("a", more=["occluded"]), loader=HERE)
    trainer = pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    found = [torch.cat(batches) for batches in trainer.predict(model, data)]
    nothing = model.predict_step(next(iter(data.test_dataloader()[0]))._replace(image=torch.empty(0, 3, 0, 0)), 0)
    assert nothing.shape == (0, found[0].shape[1])
    trainer.test(model, data, verbose=False)
    assert torch.equal(found[0], model.collected["test"].features)
    assert torch.equal(found[1], model.collected["test_occluded"].features[:3])


class Deadly:
    """A transform that kills its process at the picture of one colour."""

    def seed(self, seed):
        pass

    def __call__(self, image):
        if image.max() == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        return image


def test_of_a_loading_process_that_dies_the_file_is_told(make, tmp_path):
    benchmark = make("a", ids=6)
    bad = benchmark.train[5].path
    cv2.imwrite(bad, np.full((16, 8, 3), 7, np.uint8))
    transform = replace(recipe(16, 8), train=Deadly())
    data = module(
        benchmark, transform=transform, loader=Loader(workers=2), sampler=partial(ShuffleSampler, batch_size=4)
    )

    class Nothing(pl.LightningModule):
        def training_step(self, batch, batch_idx):
            return None

        def configure_optimizers(self):
            return None

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_epochs=1, use_distributed_sampler=False, **quiet)
    with pytest.raises((RuntimeError, OSError, EOFError)) as error:  # as the death happens to show
        trainer.fit(Nothing(), data)
    # A second complaint may come while the first is dealt with: a user sees both.
    told, one = "", error.value
    while one is not None:
        told, one = told + str(one) + "".join(getattr(one, "__notes__", [])), one.__cause__ or one.__context__
    assert re.search(rf"process \d+ while reading {re.escape(bad)}", told)


def test_what_there_is_is_told_once(make, caplog):
    data = module(make("a", train_images=17, query_images=3, gallery_images=4), val_fraction=0.5)
    with caplog.at_level(logging.INFO, logger="aelm"):
        data.setup("fit")
        data.setup("test")
    assert caplog.text.count("data set") == 1
    assert "val gallery" in caplog.text
    assert "1 process x (2 identities x 2 images) = 4 images a step" in caplog.text
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert "a: train has 16 images, not 17" in warnings[0]


def test_other_processes_keep_quiet(make, caplog):
    data = module(make("a", train_images=17))
    data.trainer = at(1, 2)
    with caplog.at_level(logging.INFO, logger="aelm"):
        data.setup("fit")
    assert caplog.text == ""


def test_skipped_pictures_are_listed_at_the_end(make, caplog):
    benchmark = make("a")
    for picture in (benchmark.train[0], benchmark.query[1]):
        with open(picture.path, "w") as file:
            file.write("no picture")
    data = module(benchmark, loader=HERE._replace(on_bad_image="skip", cache="ram"))
    data.setup()
    loader = data.train_dataloader()
    batches = [batch for _ in range(10) for batch in loader]
    assert {len(batch.image) for batch in batches} == {loader.batch_size}  # another picture took its place
    assert not any((batch.position == 0).any() for batch in batches)
    assert len(torch.cat([batch.pid for batch in data.test_dataloader()[0]])) == 6
    assert data.unreadable == {"train": (benchmark.train[0].path,), "test": (benchmark.query[1].path,)}
    caplog.clear()
    data.teardown("fit")
    assert "train: 1 pictures could not be read" in caplog.text
    assert "test: 1 pictures could not be read" in caplog.text
    assert benchmark.query[1].path in caplog.text


def test_incomplete_splits_matter_only_where_they_are_used(make):
    whole, no_test = make("a", query_images=3), make("b", test_ids=0, query_images=3, train_images=16)
    with pytest.raises(ValueError, match=r"b: expected pictures in query"):
        module(no_test, test=["b"]).setup()
    data = module(whole, no_test, train=["b"], test=["a"])
    data.setup()
    assert (data.num_ids, data.test_names) == (4, ["test"])


def test_refusals_come_before_training(make):
    good = make("a")
    one_camera = good._replace(gallery=tuple(picture._replace(camid=3) for picture in good.gallery))
    with pytest.raises(ValueError, match="another camera"):
        module(one_camera).setup("fit")
    # Where it is not tested on, it does not matter.
    module(one_camera, test=[]).setup("fit")
    with pytest.raises(ValueError, match="5 x 1 = 5 identities, found 4"):
        module(good, sampler=partial(IdentitySampler, identities=5)).setup("fit")
    with pytest.raises(ValueError, match="`test` names b, found only a"):
        module(good, test=["b"])
    with pytest.raises(ValueError, match=r"`train` must be a list of names, got 'a': write \[a\]"):
        module(good, train="a")
    with pytest.raises(ValueError, match="a: expected queries"):
        module(good._replace(query=(), gallery=()), test=["a"]).setup("fit")
    with pytest.raises(ValueError, match="expected training pictures"):
        module(good._replace(train=()), train=["a"]).setup("fit")
    with pytest.raises(ValueError, match="a: expected training pictures, found none"):
        module(good._replace(train=()), val_fraction=0.5).setup("fit")
    with pytest.raises(RuntimeError, match="nothing to test on"):
        module(good).test_dataloader()


def test_two_test_sets_of_one_name_are_refused(make):
    first, second = make("a", more=["occluded"]), make("occluded")
    with pytest.raises(ValueError, match="test_occluded: rename"):
        evaluation_sets([first, second])


def test_a_benchmark_with_further_queries_only(make):
    benchmark = make("a", more=["occluded"])
    assert evaluation_sets([benchmark._replace(query=())]) == (
        EvaluationSet("test_occluded", benchmark.more_queries["occluded"], benchmark.gallery),
    )


def test_plain_shuffling_and_loader_options(make):
    data = module(
        make("a"),
        sampler=partial(ShuffleSampler, batch_size=6, drop_last=False),
        loader=Loader(workers=1, cache="ram", prefetch_factor=3, multiprocessing_context="fork"),
    )
    data.setup("fit")
    loader = data.train_dataloader()
    assert (loader.num_workers, loader.prefetch_factor, loader.persistent_workers) == (1, 3, True)
    assert not data.test_dataloader()[0].persistent_workers
    assert sorted(index for batch in loader for index in batch.position.tolist()) == list(range(16))


def test_default_workers():
    assert 1 <= default_workers(1) <= 8
    assert default_workers(10_000) == 1


def test_every_name_of_the_package_is_to_be_had():
    for name in aelm.data.__all__:
        assert getattr(aelm.data, name).__name__ == name
        assert name in dir(aelm.data)
    assert not hasattr(aelm.data, "nothing")


@pytest.mark.skipif(sys.platform == "win32", reason="no Unix sockets")
def test_a_folder_for_temporary_files_too_deep_for_loading_processes_is_told(make, tmp_path_factory, monkeypatch):
    """Batches would never arrive: the error of the socket that carries them stays in the loading process."""
    deep = tmp_path_factory.mktemp("d" * 80)  # multiprocessing removes its folder there when Python ends
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    monkeypatch.setitem(multiprocessing.current_process()._config, "tempdir", None)
    data = module(make("one"), loader=HERE._replace(workers=1))
    data.setup()
    with pytest.raises(OSError, match=r"may have 10[37] characters and here has \d{3}: .*set TMPDIR to a shorter"):
        data.train_dataloader()
    data = module(make("one"), loader=HERE)
    data.setup()
    assert len(data.train_dataloader()) > 0
