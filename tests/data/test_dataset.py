"""The same bytes from any number of workers, and what happens to files that cannot be read."""

import hashlib
import logging
import struct

import albumentations as A
import cv2
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from aelm.data.dataset import ReIDDataset, batch_seed, collate, one_thread
from aelm.data.decoding import BadImageError
from aelm.data.sampler import IdentitySampler
from aelm.data.transforms import Augment, recipe
from aelm.types import Picture


def draw(folder, count=12, seed=0):
    """Writes noise pictures of several sizes; four identities, two cameras."""
    rng, pictures = np.random.default_rng(seed), []
    for i in range(count):
        path = folder / f"ü {i:02}.png"
        image = rng.integers(0, 256, (20 + i, 10 + i % 3, 3), dtype=np.uint8)
        path.write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
        pictures.append(Picture(str(path), i % 4, i // 4 % 2))
    return pictures


def loaded(dataset, epochs=2, **options):
    """All batches of some epochs, from one loader."""
    labels = dataset._pids.tolist()
    sampler = IdentitySampler(labels, dataset._camids.tolist(), identities=2, images=2, steps_per_epoch=3)
    workers = options.pop("workers", 0)
    loader = DataLoader(
        dataset,
        batch_size=sampler.batch_size,
        sampler=sampler,
        collate_fn=collate,
        num_workers=workers,
        worker_init_fn=one_thread,
        **({"persistent_workers": True, **options} if workers else {}),
    )
    return [batch for _ in range(epochs) for batch in loader]


def same(first, second):
    return len(first) == len(second) and all(
        torch.equal(a, b) for x, y in zip(first, second, strict=True) for a, b in zip(x[:5], y[:5], strict=True)
    )


def test_batch_holds_what_the_pictures_say(tmp_path):
    pictures = draw(tmp_path)
    dataset = ReIDDataset(pictures, Augment([]), num_queries=5)
    order = [5, 0, 4]
    for index in order:
        batch = dataset.__getitems__([index])
        image = cv2.imdecode(np.fromfile(pictures[index].path, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        assert torch.equal(batch.image[0], torch.from_numpy(image.copy()).permute(2, 0, 1))
    batch = ReIDDataset(pictures, recipe(16, 8).test, num_queries=5).__getitems__(order)
    assert batch.image.shape == (3, 3, 16, 8)
    assert batch.image.dtype == torch.uint8
    assert batch.image.is_contiguous()
    assert batch.pid.tolist() == [pictures[i].pid for i in order]
    assert batch.camid.tolist() == [pictures[i].camid for i in order]
    assert batch.position.tolist() == order
    assert batch.is_query.tolist() == [False, True, True]
    assert (batch.pid.dtype, batch.camid.dtype, batch.position.dtype) == (torch.int64,) * 3
    assert batch.is_query.dtype == torch.bool


@pytest.mark.parametrize("cache", ["none", "ram"])
def test_any_number_of_workers_gives_the_same_bytes(tmp_path, cache):
    """Workers live on from epoch to epoch here."""
    pictures = draw(tmp_path)
    expected = loaded(ReIDDataset(pictures, recipe(16, 8).train))
    for workers in (1, 2):
        assert same(loaded(ReIDDataset(pictures, recipe(16, 8).train, cache=cache), workers=workers), expected)


def test_spawned_workers_give_the_same_bytes(tmp_path):
    pictures = draw(tmp_path)
    expected = loaded(ReIDDataset(pictures, recipe(16, 8).train))
    spawned = ReIDDataset(pictures, recipe(16, 8).train, cache="ram", on_bad_image="skip")
    assert same(loaded(spawned, workers=2, multiprocessing_context="spawn"), expected)


def test_augmentation_follows_seed_and_epoch(tmp_path):
    """The same four pictures, asked for again."""
    pictures = draw(tmp_path)

    def images(seed, epoch, order=(0, 1, 2, 3)):
        dataset = ReIDDataset(pictures, recipe(16, 8).train, seed=seed)
        return dataset.__getitems__([(epoch, index) for index in order]).image

    assert torch.equal(images(0, 0), images(0, 0))
    assert not torch.equal(images(0, 0), images(0, 1))
    assert not torch.equal(images(0, 0), images(1, 0))
    # Pictures of a batch are not all treated alike, and a place in the batch is not what decides.
    assert not torch.equal(images(0, 0)[0], images(0, 0, (1, 0, 2, 3))[1])


def test_one_picture_many_times_is_augmented_anew_each_time(tmp_path):
    dataset = ReIDDataset(draw(tmp_path), recipe(16, 8).train)
    images = dataset.__getitems__([(0, 3)] * 8).image
    assert len({image.numpy().tobytes() for image in images}) == 8


def test_a_single_item_is_a_batch_of_one(tmp_path):
    dataset = ReIDDataset(draw(tmp_path), recipe(16, 8).train)
    assert torch.equal(dataset[(4, 2)].image, dataset.__getitems__([(4, 2)]).image[0])
    assert torch.equal(dataset[2].image, dataset[(0, 2)].image)
    assert len(dataset) == 12


def test_ram_cache_does_not_touch_the_files_again(tmp_path):
    pictures = draw(tmp_path)
    cached = ReIDDataset(pictures, recipe(16, 8).test, cache="ram")
    before = [cached[i].image for i in range(12)]
    for picture in pictures:
        (tmp_path / picture.path).unlink()
    assert all(torch.equal(cached[i].image, before[i]) for i in range(12))
    with pytest.raises(BadImageError, match=r"00\.png"):
        ReIDDataset(pictures, recipe(16, 8).test)[0]
    with pytest.raises(BadImageError, match=r"00\.png"):
        ReIDDataset(pictures, recipe(16, 8).test, cache="ram")


def test_a_bad_picture_stops_the_loader_and_is_named(tmp_path):
    pictures = draw(tmp_path)
    (tmp_path / "ü 05.png").write_bytes(b"no picture")
    with pytest.raises(BadImageError, match=r"ü 05\.png.*on_bad_image=skip") as raised:
        loaded(ReIDDataset(pictures, recipe(16, 8).train), epochs=4)
    # As torch carries it out of a worker: made anew from its text.
    assert str(type(raised.value)(str(raised.value))) == str(raised.value)


@pytest.mark.parametrize("cache", ["none", "ram"])
@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_are_skipped_and_listed(tmp_path, cache, workers):
    """Workers report to the process that asks."""
    pictures = draw(tmp_path)
    (tmp_path / "ü 05.png").write_bytes(b"no picture")
    (tmp_path / "ü 06.png").unlink()
    dataset = ReIDDataset(pictures, recipe(16, 8).test, cache=cache, on_bad_image="skip")
    loader = DataLoader(dataset, batch_size=3, collate_fn=collate, num_workers=workers)
    batches = list(loader)
    assert [index for batch in batches for index in batch.position.tolist()] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    assert dataset.unreadable == (pictures[5].path, pictures[6].path)


def test_a_skipped_picture_is_logged_once(tmp_path, caplog):
    pictures = draw(tmp_path)
    (tmp_path / "ü 05.png").write_bytes(b"no picture")
    dataset = ReIDDataset(pictures, recipe(16, 8).test, on_bad_image="skip")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            dataset.__getitems__([4, 5])
    assert caplog.text.count("ü 05.png") == 1
    nothing = dataset.__getitems__([5, 5])
    assert len(nothing.image) == len(nothing.pid) == len(nothing.position) == len(nothing.is_query) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_of_a_training_are_replaced_by_others_of_their_identity(tmp_path, workers):
    """Identities are ``i % 4``: 1, 5 and 9 are one."""
    pictures = draw(tmp_path)
    good = loaded(ReIDDataset(pictures, Augment([A.Resize(16, 8)])))
    (tmp_path / "ü 05.png").write_bytes(b"no picture")
    (tmp_path / "ü 10.png").unlink()
    dataset = ReIDDataset(pictures, Augment([A.Resize(16, 8)]), on_bad_image="replace")
    batches = loaded(dataset, workers=workers)
    stands_in = {5: 9, 10: 2}
    assert any(5 in batch.position for batch in good)
    for batch, whole in zip(batches, good, strict=True):
        assert batch.position.tolist() == [stands_in.get(i, i) for i in whole.position.tolist()]
        assert torch.equal(batch.pid, whole.pid)
        for image, position in zip(batch.image, batch.position.tolist(), strict=True):
            assert torch.equal(image, dataset[position].image)
    assert dataset.unreadable == (pictures[5].path, pictures[10].path)


def test_the_replacement_does_not_depend_on_what_was_found_bad_before(tmp_path):
    """Or a run that goes on would take other pictures than one that was never stopped."""
    pictures = draw(tmp_path)
    for number in (1, 5):
        (tmp_path / f"ü {number:02}.png").write_bytes(b"no picture")
    orders = ([1], [5], [5, 1], [1, 5], [1, 1, 5])
    found = set()
    for order in orders:
        dataset = ReIDDataset(pictures, recipe(16, 8).train, on_bad_image="replace")
        for index in order[:-1]:
            dataset.__getitems__([(0, index)])
        batch = dataset.__getitems__([(3, 1), (3, 5), (3, 9)])
        found.add((*batch.position.tolist(), batch.image.numpy().tobytes()))
    assert [one[:3] for one in found] == [(9, 9, 9)]


def test_where_an_identity_has_no_picture_left_another_ones_is_taken(tmp_path):
    pictures = draw(tmp_path)
    for number in (1, 5, 9):
        (tmp_path / f"ü {number:02}.png").write_bytes(b"no picture")
    batch = ReIDDataset(pictures, recipe(16, 8).train, on_bad_image="replace").__getitems__([1, 9])
    assert batch.position.tolist() == [2, 10]
    assert batch.pid.tolist() == [2, 2]
    for picture in pictures:
        (tmp_path / picture.path).unlink(missing_ok=True)
    with pytest.raises(BadImageError, match=r"None of the 12 pictures can be read; one of them is '.*ü 03\.png'"):
        ReIDDataset(pictures, recipe(16, 8).train, on_bad_image="replace").__getitems__([3])


def test_transforms_that_do_not_fit_are_named(tmp_path):
    pictures = draw(tmp_path)
    with pytest.raises(ValueError, match=r"same size, got heights and widths \(20, 10\) and \(21, 11\)"):
        ReIDDataset(pictures, Augment([])).__getitems__([0, 1])

    class Floats(Augment):
        def __call__(self, image):
            return image / 255

    with pytest.raises(TypeError, match=r"uint8, got \(20, 10, 3\) float64"):
        ReIDDataset(pictures, Floats([]))[0]


def test_options_out_of_range(tmp_path):
    pictures = draw(tmp_path, 2)
    with pytest.raises(ValueError, match="`cache` must be 'none' or 'ram', got 'disk'"):
        ReIDDataset(pictures, Augment([]), cache="disk")
    with pytest.raises(ValueError, match="`on_bad_image` must be 'error', 'skip' or 'replace', got 'ignore'"):
        ReIDDataset(pictures, Augment([]), on_bad_image="ignore")
    with pytest.raises(ValueError, match=r"`num_queries` must lie in 0 \.\. 2"):
        ReIDDataset(pictures, Augment([]), num_queries=3)


def test_batch_seed_is_the_same_everywhere():
    """A number written down, so that a release or a machine that differs is found out."""
    assert batch_seed(1, 2, [3, 4]) == 15195315728730727403
    digest = hashlib.blake2b(struct.pack("<4q", 1, 2, 3, 4), digest_size=8).digest()
    assert struct.unpack("<Q", digest) == (15195315728730727403,)
    seeds = {batch_seed(s, e, [i, j]) for s in range(4) for e in range(4) for i in range(4) for j in range(4)}
    assert len(seeds) == 4**4
