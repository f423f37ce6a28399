"""What is pasted in front of training pictures: how much, where, whose, and never what an evaluation shows."""

import random
from functools import partial

import cv2
import numpy as np
import pytest
import torch

from aelm.data import ReIDDataModule, ShuffleSampler, pasting
from aelm.data.dataset import ReIDDataset
from aelm.data.pasting import Cutout, Pasting, cutout, drawn_cutout, paste
from aelm.data.synthetic import EVALUATION, TRAINING
from aelm.data.transforms import Augment, recipe
from aelm.types import Benchmark, Picture

BLACK, WHITE = np.zeros((128, 64, 3), np.uint8), np.full((90, 50, 3), 255, np.uint8)


def covered(kind, share, count=150, seed=0):
    """Masks ``(count, H, W)`` of what lies over a black picture."""
    rng, paster = random.Random(seed), Pasting(1.0, (share, share), [kind])
    return np.stack([paster(BLACK.copy(), [WHITE, WHITE], rng).any(2) for _ in range(count)])


@pytest.mark.parametrize("kind", ["person", "object", "patch"])
@pytest.mark.parametrize("share", [0.1, 0.25, 0.4])
def test_about_the_share_that_was_asked_for_is_covered(kind, share):
    found = covered(kind, share).mean((1, 2))
    assert abs(found.mean() - share) < 0.35 * share
    assert (found > 0).all()


@pytest.mark.parametrize("kind", ["person", "object", "patch"])
def test_things_stand_below_and_beside_more_often_than_above(kind):
    where = covered(kind, 0.25).mean(0)
    assert where[-20:].mean() > 1.5 * where[:20].mean()
    assert where[:, :12].mean() > 0.5 * where.mean() < 2 * where[:, -12:].mean()


def test_a_larger_share_covers_more():
    for kind in ("person", "object", "patch"):
        means = [covered(kind, share).mean() for share in (0.1, 0.2, 0.4)]
        assert means == sorted(means)


def test_the_drawn_things_are_those_of_training_alone(monkeypatch):
    shown, plain = [], pasting.sheet
    monkeypatch.setattr(pasting, "sheet", lambda kind, *rest: shown.append(kind) or plain(kind, *rest))
    drawn_cutout.cache_clear()
    covered("object", 0.2, count=40)
    assert set(shown) == set(TRAINING)
    assert not set(shown) & set(EVALUATION)
    assert np.array_equal(drawn_cutout(TRAINING[0], 3).colour, drawn_cutout.__wrapped__(TRAINING[0], 3).colour)


def test_pasting_equals_its_slow_twin():
    rng = np.random.default_rng(0)
    for top, left in ((-3, 2), (1, -2), (4, 5), (-20, 0), (0, 0)):
        image = rng.integers(0, 256, (9, 7, 3), dtype=np.uint8)
        thing = Cutout(rng.integers(0, 256, (6, 5, 3), dtype=np.uint8), rng.integers(0, 256, (6, 5), dtype=np.uint8))
        expected = image.astype(float)
        for y in range(6):
            for x in range(5):
                if 0 <= top + y < 9 and 0 <= left + x < 7:
                    a = thing.mask[y, x] / 255
                    expected[top + y, left + x] = (1 - a) * image[top + y, left + x] + a * thing.colour[y, x]
        np.testing.assert_allclose(paste(image.copy(), thing, top, left), expected, atol=0.51)


def test_your_own_objects_take_the_place_of_the_drawn_ones():
    red = np.zeros((20, 10, 3), np.uint8)
    red[:, :, 0] = 100
    paster = Pasting(1.0, (0.2, 0.3), ["object"], objects=[(red, np.ones((20, 10), bool))])
    result = paster(BLACK.copy(), [], random.Random(0))
    assert result[:, :, 0].any()
    assert not result[:, :, 1:].any()


@pytest.mark.parametrize(
    ("mask", "words"),
    [(np.ones((19, 10), bool), r"mask \(h, w\) of its size, got \(20, 10, 3\) and \(19, 10\)"),
     (np.zeros((20, 10), np.uint8), "something in its mask")],
)  # fmt: skip
def test_a_mask_that_does_not_fit_is_refused_when_pasting_is_built(mask, words):
    with pytest.raises(ValueError, match=words):
        Pasting(objects=[(np.zeros((20, 10, 3), np.uint8), mask)])
    assert cutout(BLACK, np.ones((128, 64), bool)).mask.max() == 255


def test_wrong_options_are_named():
    with pytest.raises(ValueError, match=r"`pasting` must lie in \[0, 1\], got 2"):
        Pasting(2)
    with pytest.raises(ValueError, match="`pasting_area` must be two rising shares"):
        Pasting(area=(0.5, 0.2))
    with pytest.raises(ValueError, match="`pasting_kinds` must be some of person, object, patch"):
        Pasting(kinds=[])
    with pytest.raises(ValueError, match="`clean_view` must be one of none, target, batch, got 'both'"):
        Augment([], clean_view="both")


def tree(folder):
    """Red and green pictures of person 0, blue ones of 1: six in all."""
    pictures = []
    for i, (pid, channel) in enumerate([(0, 0), (0, 1), (1, 2)] * 2):
        image = np.zeros((40, 20, 3), np.uint8)
        image[:, :, channel] = 200
        cv2.imwrite(str(folder / f"{i}.png"), image[:, :, ::-1])
        pictures.append(Picture(str(folder / f"{i}.png"), pid, i % 2))
    return pictures


@pytest.mark.parametrize("kind", ["person", "patch"])
def test_what_is_pasted_comes_from_other_people(tmp_path, kind):
    transform = recipe(32, 16, pad=0, erasing=0, pasting=1.0, pasting_kinds=[kind]).train
    dataset = ReIDDataset(tree(tmp_path), transform)
    for epoch in range(20):
        red, green, blue = dataset.__getitems__([(epoch, i) for i in range(3)]).image
        assert red[2].any()
        assert not red[1].any()  # the other picture of the same person
        assert green[2].any()
        assert not green[0].any()
        assert blue[:2].any()


def test_without_another_person_pictures_stay_as_they_are(tmp_path):
    dataset = ReIDDataset(tree(tmp_path), recipe(32, 16, pad=0, erasing=0, pasting=1.0, pasting_kinds=["patch"]).train)
    assert not dataset.__getitems__([0, 1]).image[:, 2].any()


def test_the_clean_view_is_the_picture_before_anything_covers_it(tmp_path):
    options = {"pad": 2, "erasing": 1.0, "pasting": 1.0}
    pictures, order = tree(tmp_path), [3, 2, 1]
    target = ReIDDataset(pictures, recipe(32, 16, **options, clean_view="target").train).__getitems__(order)
    both = ReIDDataset(pictures, recipe(32, 16, **options, clean_view="batch").train).__getitems__(order)
    alone = ReIDDataset(pictures, recipe(32, 16, **options).train).__getitems__(order)
    assert torch.equal(target.image, alone.image)
    assert alone.clean is None
    assert both.clean is None
    assert torch.equal(both.image, torch.cat([target.image, target.clean]))
    assert both.pid.tolist() == [0, 1, 0, 0, 1, 0]
    assert both.position.tolist() == [3, 2, 1, 3, 2, 1]
    plain = ReIDDataset(pictures, recipe(32, 16, pad=2, erasing=0).train).__getitems__(order)
    assert torch.equal(target.clean[0], plain.image[0])  # the draws of the first picture begin alike
    own = {3: 0, 2: 2, 1: 1}
    for image, index in zip(target.clean, order, strict=True):
        assert not image[[c for c in range(3) if c != own[index]]].any()


@pytest.mark.parametrize("clean_view", ["none", "target", "batch"])
def test_seed_epoch_and_indices_decide(tmp_path, clean_view):
    pictures, transform = tree(tmp_path), recipe(32, 16, pasting=0.7, clean_view=clean_view).train
    items = [(4, i) for i in (5, 0, 2)]
    first, again = (ReIDDataset(pictures, transform, seed=3).__getitems__(items) for _ in range(2))
    other = ReIDDataset(pictures, transform, seed=3).__getitems__([(5, i) for _, i in items])
    assert torch.equal(first.image, again.image)
    assert not torch.equal(first.image, other.image)


@pytest.mark.parametrize(("kinds", "batch", "fits"), [
    (["person", "patch"], 1, False), (["object"], 1, True), (["person", "object"], 1, True), (["patch"], 2, True)
])  # fmt: skip
def test_a_batch_of_one_has_nobody_to_paste(tmp_path, kinds, batch, fits):
    pictures = tuple(tree(tmp_path))
    data = ReIDDataModule(
        {"x": Benchmark("x", pictures, pictures[:1], pictures[1:])},
        recipe(32, 16, pasting=1.0, pasting_kinds=kinds),
        partial(ShuffleSampler, batch_size=batch),
    )
    if fits:
        data.setup("fit")
        return
    with pytest.raises(ValueError, match="2 identities and 1 pictures a batch"):
        data.setup("fit")
