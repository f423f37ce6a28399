"""Varied people: reproducible, far more different than the frozen ones, some of them nearly alike."""

import cv2
import numpy as np
import pytest

from aelm.data.synthetic import Kind, shoot, varied
from aelm.data.synthetic.people import Person
from aelm.data.synthetic.people import person as usual
from aelm.data.synthetic.worker import Order, work


def test_a_picture_depends_on_its_numbers_alone():
    one = varied.shoot(0, 5, 2, 0, occluder=Kind.WALL)
    varied.shoot(0, 90, 1, 3)
    again = varied.shoot(0, 5, 2, 0, occluder=Kind.WALL)
    for first, second in zip(one, again, strict=True):
        np.testing.assert_array_equal(first, second)
    assert (varied.shoot(1, 5, 2, 0).image != one.image).any()


@pytest.mark.parametrize("height", [64, 128])
def test_sizes_and_truth_are_those_of_the_frozen_pictures(height):
    shot = varied.shoot(0, 1, 1, 0, height=height)
    for ours, theirs in zip(shot, shoot(0, 1, 1, 0, height=height), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert 0.1 < (shot.parts > 0).mean() < 0.7


def test_colours_are_not_those_of_a_palette():
    tops = {varied.person(0, identity).top for identity in range(100)}
    assert len(tops) > 60 > len({usual(0, identity).top for identity in range(100)}) * 6


def test_every_third_person_is_nearly_the_one_before():
    def differing(identity):
        one, other = varied.person(0, identity - 1), varied.person(0, identity)
        return sum(a != b for a, b in zip(one, other, strict=True))

    alike = [differing(identity) for identity in range(1, 90, varied.TWINS)]
    others = [differing(identity) for identity in range(2, 90, varied.TWINS)]
    assert 1 <= np.mean(alike) < 0.35 * len(Person._fields) < np.mean(others)


def test_neighbours_share_cameras_and_others_do_not():
    here, there = varied.eye_of(0, 0, 1), varied.eye_of(0, 1, 1)
    assert here.gain != there.gain
    assert here.gain != varied.eye_of(0, 0, 2).gain


def test_the_worker_draws_the_set_that_is_ordered(tmp_path):
    for size, take in (("varied", varied.shoot), ("tiny", shoot)):
        order = Order(str(tmp_path / size), size, 0, 32, 0.0)
        for folder in ("bounding_box_train", "masks/bounding_box_train"):
            (tmp_path / size / folder).mkdir(parents=True)
        task = next(work(order))
        wanted = take(0, task.identity, task.camera, task.shot, occluder=task.occluder, loose=task.loose, height=32)
        found = cv2.imread(str(tmp_path / size / task.folder / task.name))[:, :, ::-1].astype(int)
        assert np.abs(found - wanted.image).mean() < 6
