"""Plan of the data set: its sizes, and one entry for each picture."""

from typing import NamedTuple

import numpy as np

from aelm.data.synthetic.occluders import EVALUATION, TRAINING, Kind
from aelm.data.synthetic.people import PLANS, pick, stream

TRAIN, QUERY, OCCLUDED, GALLERY = "bounding_box_train", "query", "query_occluded", "bounding_box_test"
FOLDERS = (TRAIN, QUERY, OCCLUDED, GALLERY)
# Test identities never overlap training identities, across all sizes: a model can be tested on another size.
TEST_START, DISTRACTOR_START, JUNK_START = 5001, 8001, 9001


class Size(NamedTuple):
    """Numbers of people and pictures.

    Attributes:
        train_ids: Training identities, seen by every camera.
        train_shots: Training pictures per identity and camera.
        test_ids: Test identities, seen by every camera.
        cameras: Number of cameras.
        queries: Query cameras per test identity; each has an unoccluded and an occluded query.
        gallery_shots: Maximum number of gallery pictures per test identity and camera; at least one.
        distractors: Gallery identities without queries (pid 0), seen by every camera.
        junk: Bad detections in the gallery (pid -1).
    """

    train_ids: int
    train_shots: int
    test_ids: int
    cameras: int
    queries: int
    gallery_shots: int
    distractors: int
    junk: int


SIZES = {
    "tiny": Size(8, 3, 8, 3, 1, 2, 2, 4),
    "small": Size(150, 3, 100, 4, 2, 2, 20, 40),
    # The training set of `small` with 2.5 times its test people, so that differences between methods are measurable.
    "evidence": Size(150, 3, 250, 4, 2, 2, 40, 60),
    "standard": Size(600, 5, 250, 6, 3, 3, 120, 250),
    # Drawn by `varied`, for training only: the test people only monitor the training.
    "varied": Size(3000, 1, 100, 6, 2, 1, 0, 0),
}


class Task(NamedTuple):
    """One picture to draw.

    Attributes:
        folder: One of ``FOLDERS``.
        name: File name in Market-1501's format.
        identity: Identity that is drawn; the pid in the name is 0 or -1 for distractors and junk.
        camera: From 1.
        shot: Number of the picture within its identity and camera.
        occluder: Kind of the occluder, or None.
        loose: Errors of the box, as in ``shot.shoot``.
    """

    folder: str
    name: str
    identity: int
    camera: int
    shot: int
    occluder: Kind | None
    loose: float


def file_name(pid: int, camera: int, identity: int, shot: int) -> str:
    """A file name in Market-1501's format; the frame number distinguishes the people with pid 0 and -1.

    >>> file_name(2, 1, 2, 3), file_name(-1, 6, 9001, 0)
    ('0002_c1s1_000203_01.jpg', '-1_c6s1_900100_01.jpg')
    """
    return f"{'-1' if pid == -1 else f'{pid:04d}'}_c{camera}s1_{identity * 100 + shot:06d}_01.jpg"


def _task(
    folder: str, pid: int, identity: int, camera: int, shot: int, occluder: Kind | None = None, loose: float = 1.0
) -> Task:
    return Task(folder, file_name(pid, camera, identity, shot), identity, camera, shot, occluder, loose)


def plan(size: Size, seed: int, train_occluded: float) -> list[Task]:
    """Lists every picture of a set.

    Args:
        size: How much is drawn.
        seed: Of the world.
        train_occluded: Share of occluded training pictures, with occluders of the training family.
    """
    return [*_train(size, seed, train_occluded), *_test(size, seed), *_bystanders(size, seed)]


def _train(size: Size, seed: int, train_occluded: float) -> list[Task]:
    tasks: list[Task] = []
    for identity in range(1, size.train_ids + 1):
        for camera in range(1, size.cameras + 1):
            for shot in range(size.train_shots):
                chance = stream(PLANS, seed, identity, camera, shot)
                occluder = pick(chance, TRAINING) if chance.random() < train_occluded else None
                tasks.append(_task(TRAIN, identity, identity, camera, shot, occluder))
    return tasks


def _test(size: Size, seed: int) -> list[Task]:
    tasks: list[Task] = []
    for identity in range(TEST_START, TEST_START + size.test_ids):
        chance = stream(PLANS, seed, identity, 0, 0)
        order = np.argsort(chance.random(size.cameras), kind="stable") + 1
        for number, camera in enumerate(int(camera) for camera in order):
            if number < size.queries:
                # The occluded query differs from the unoccluded one only by the occluder.
                tasks.append(_task(QUERY, identity, identity, camera, 0))
                tasks.append(_task(OCCLUDED, identity, identity, camera, 0, pick(chance, EVALUATION)))
            shots = 1 + int(chance.random() * size.gallery_shots)
            tasks.extend(_task(GALLERY, identity, identity, camera, shot) for shot in range(1, shots + 1))
    return tasks


def _bystanders(size: Size, seed: int) -> list[Task]:
    tasks: list[Task] = []
    for identity in range(DISTRACTOR_START, DISTRACTOR_START + size.distractors):
        tasks.extend(_task(GALLERY, 0, identity, camera, 1) for camera in range(1, size.cameras + 1))
    for identity in range(JUNK_START, JUNK_START + size.junk):
        camera = 1 + int(stream(PLANS, seed, identity, 0, 0).random() * size.cameras)
        tasks.append(_task(GALLERY, -1, identity, camera, 1, loose=6.0))
    return tasks
