"""The recipe, its draws, and random erasing beside a slow twin."""

import pickle
import random
import warnings

import albumentations as A
import cv2
import numpy as np
import pytest

from aelm.data import transforms
from aelm.data.transforms import Augment, RandomErasing, recipe

MEAN = (124, 116, 104)


def noise(height=128, width=64, seed=0):
    # Below the mean everywhere, so that erased pixels are known.
    return np.random.default_rng(seed).integers(1, 100, (height, width, 3), dtype=np.uint8)


def test_the_test_transform_is_opencvs_bilinear_resize():
    image = noise(91, 37)
    expected = cv2.resize(image, (16, 40), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(recipe(40, 16).test(image), expected)


@pytest.mark.parametrize(
    ("shape", "inside"),  # top, left, height and width in 40 x 16, as BoxMOT's own resize_pad gives them
    [((91, 37), (0, 0, 39, 16)), ((200, 30), (0, 5, 40, 6)), ((20, 30), (15, 0, 10, 16)), ((1, 500), (19, 0, 1, 16))],
)
def test_a_padded_picture_keeps_its_shape_within_the_mean_colour(shape, inside):
    image, (top, left, h, w) = noise(*shape), inside
    expected = np.full((40, 16, 3), MEAN, np.uint8)
    expected[top : top + h, left : left + w] = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)
    padded = recipe(40, 16, flip=0, pad=0, erasing=0, preprocess="resize_pad")
    np.testing.assert_array_equal(padded.test(image), expected)
    np.testing.assert_array_equal(padded.train(image), expected)
    assert pickle.loads(pickle.dumps(padded)).test(image).tolist() == expected.tolist()


def test_everything_switched_off_is_the_test_transform():
    image = noise()
    plain = recipe(40, 16, flip=0, pad=0, erasing=0)
    np.testing.assert_array_equal(plain.train(image), plain.test(image))


def test_flip_alone():
    image, always = noise(), recipe(40, 16, flip=1, pad=0, erasing=0)
    np.testing.assert_array_equal(always.train(image), always.test(image)[:, ::-1])


def test_pad_and_crop_is_a_shift_over_black():
    """Each result is a window of the padded picture, and with enough draws every window comes up."""
    image, pad = noise(6, 4), 2
    shift = recipe(6, 4, flip=0, pad=pad, erasing=0)
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))
    windows = {padded[y : y + 6, x : x + 4].tobytes(): (y, x) for y in range(5) for x in range(5)}
    assert len(windows) == 25
    seen = {windows[shift.train(image).tobytes()] for _ in range(400)}
    assert seen == set(windows.values())


def test_one_seed_one_picture_and_another_seed_another():
    augment, image = recipe(40, 16).train, noise()

    def drawn(seed):
        augment.seed(seed)
        return np.stack([augment(image) for _ in range(4)])

    np.testing.assert_array_equal(drawn(3), drawn(3))
    assert (drawn(3) != drawn(4)).any()


def test_flip_and_erasing_are_drawn_independently_of_each_other():
    """albumentations' own seeding gives each transform the same stream: a picture is erased just when it is flipped."""
    augment = recipe(8, 4, pad=0, erasing_area=(0.1, 0.2)).train
    image = np.zeros((8, 4, 3), np.uint8)
    image[:, :2] = 1
    counts = np.zeros((2, 2), int)
    for seed in range(400):
        augment.seed(seed)
        result = augment(image)
        erased = bool((result == MEAN).all(2).any())
        kept = ~(result == MEAN).all(2)
        flipped = bool(result[:, 2:][kept[:, 2:]].any())
        counts[int(flipped), int(erased)] += 1
    assert counts.min() > 70, counts  # 100 each, with a deviation of 9


def test_the_callers_picture_stays_as_it_is():
    # Same size, no shift, no flip: the cases in which no transform makes a copy.
    image, augment = noise(40, 16), recipe(40, 16, flip=0, pad=0, erasing=1).train
    before = image.copy()
    assert (augment(image) != before).any()
    np.testing.assert_array_equal(image, before)


def test_erasing_covers_one_rectangle_of_the_mean_and_nothing_else():
    eraser, image = RandomErasing(probability=1), noise()
    for seed in range(50):
        top, left, h, w = eraser.draw(128, 64, random.Random(seed))
        expected = image.copy()
        expected[top : top + h, left : left + w] = MEAN
        # probability 1 still takes its draw, so both see the same stream.
        np.testing.assert_array_equal(eraser(image.copy(), random.Random(seed)), expected)


def slow_erasing(height, width, rng, probability, area, aspect):
    """BoT's RandomErasing, line by line, with the draws of ``random.Random`` in this project's order."""
    if rng.uniform(0, 1) >= probability:
        return None
    for _attempt in range(100):
        target_area = rng.uniform(area[0], area[1]) * (height * width)
        aspect_ratio = rng.uniform(aspect, 1 / aspect)
        h = round((target_area * aspect_ratio) ** 0.5)
        w = round((target_area / aspect_ratio) ** 0.5)
        if w < width and h < height and w > 0 and h > 0:
            x1 = rng.randint(0, height - h)
            y1 = rng.randint(0, width - w)
            return x1, y1, h, w
    return None


@pytest.mark.parametrize(("height", "width"), [(256, 128), (64, 64), (40, 200), (3, 2), (1, 1)])
def test_erasing_equals_its_slow_twin(height, width):
    eraser = RandomErasing(0.7, (0.02, 0.4))
    for seed in range(300):
        twin = slow_erasing(height, width, random.Random(seed), 0.7, (0.02, 0.4), 0.3)
        assert eraser.draw(height, width, random.Random(seed)) == twin


def test_erased_share_reaches_what_was_asked_for():
    """Up to 0.4 on tall pictures; albumentations' Erasing stops at 0.15 there."""
    rng, eraser = random.Random(0), RandomErasing(probability=1)
    shares = []
    for _ in range(2000):
        _, _, h, w = eraser.draw(256, 128, rng)
        shares.append(h * w / (256 * 128))
    assert 0.015 < min(shares) < 0.05
    assert 0.38 < max(shares) < 0.405


def test_erasing_probability():
    rng, eraser = random.Random(0), RandomErasing(probability=0.3)
    assert 500 < sum(eraser.draw(256, 128, rng) is not None for _ in range(2000)) < 700


def test_extra_transforms_run_between_crop_and_erasing():
    inverted = recipe(16, 8, flip=0, pad=0, erasing=1, extra=[A.InvertImg(p=1)])
    image = noise()
    result = inverted.train(image)
    erased = (result == MEAN).all(2)
    assert erased.any()
    np.testing.assert_array_equal(result[~erased], 255 - inverted.test(image)[~erased])


def test_own_lists_are_seeded_too():
    own = Augment([A.Resize(8, 4), A.OneOf([A.RandomBrightnessContrast(p=1), A.GaussNoise(p=1)], p=1)])
    image = noise()
    own.seed(1)
    first = own(image)
    own.seed(1)
    np.testing.assert_array_equal(own(image), first)


def test_augment_survives_pickling_with_its_state():
    augment, image = recipe(16, 8).train, noise()
    augment.seed(5)
    copy = pickle.loads(pickle.dumps(augment))
    np.testing.assert_array_equal(copy(image), augment(image))


@pytest.mark.filterwarnings("ignore:Argument")
def test_unknown_arguments_are_errors():
    with pytest.raises(ValueError, match="hieght"):
        Augment([A.Resize(8, 4), A.HorizontalFlip(hieght=3)])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"flip": 1.5}, "flip"),
        ({"pad": -1}, "pad"),
        ({"erasing": 2}, "probability"),
        ({"erasing_area": (0.4, 0.02)}, "area"),
        ({"erasing_area": (0.0, 0.4)}, "area"),
        ({"height": 0}, "height"),
    ],
)
def test_values_out_of_range_are_errors_that_name_them(options, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        recipe(**options)


def test_transforms_carry_what_a_checkpoint_must_tell():
    made = recipe(384, 128)
    assert (made.height, made.width, made.interpolation) == (384, 128, "bilinear")
    assert made.test(noise()).shape == (384, 128, 3)


def test_the_agpl_successor_is_warned_about(monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        transforms.warn_of_successor()
    monkeypatch.setattr(transforms.importlib.metadata, "version", lambda name: f"2.1 of {name}")
    with pytest.warns(UserWarning, match="AlbumentationsX 2.1 of albumentationsx.*AGPL"):
        transforms.warn_of_successor()
