"""Synthetic pedestrians as pictures: reproducible, frozen, consistent from every side, and hard for a histogram."""

import hashlib
import json
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from aelm.data.synthetic import EVALUATION, TRAINING, BodyPart, Kind, occlude, person, shoot
from aelm.data.synthetic.body import Pose, View
from aelm.data.synthetic.camera import camera
from aelm.data.synthetic.dress import draw_person
from aelm.data.synthetic.generate import VERSION
from aelm.data.synthetic.occluders import MANNERS, NOON, cover
from aelm.data.synthetic.paint import blank
from aelm.data.synthetic.people import stream
from aelm.data.synthetic.plan import SIZES, plan

FROZEN = Path(__file__).with_name("synthetic_hashes.json")
# (seed, identity, camera, shot, occluder): training and test people, every camera of `standard`, each thing in front.
MOMENTS = [
    (0, 1, 1, 0, None),
    (0, 2, 2, 1, "wall"),
    (0, 17, 3, 2, "pillar"),
    (0, 101, 4, 3, "car"),
    (0, 5001, 1, 0, "bush"),
    (0, 5002, 2, 0, "board"),
    (0, 5003, 5, 0, "crates"),
    (0, 5004, 6, 0, "person"),
    (0, 5090, 4, 1, None),
    (7, 1, 1, 0, None),
]


def take(seed, identity, number, index, occluder=None):
    return shoot(seed, identity, number, index, occluder=None if occluder is None else Kind(occluder))


def fingerprint(shot):
    """Mean colours of a 16 x 8 grid, and the share of every body part and of what is hidden, in grey levels."""
    grid = cv2.resize(shot.image.astype(np.float32), (8, 16), interpolation=cv2.INTER_AREA)
    shares = np.bincount(shot.parts.ravel(), minlength=len(BodyPart)) / shot.parts.size
    return [round(float(value), 1) for value in (*grid.ravel(), *(255 * shares), 255 * shot.hidden.mean())]


def digest(shots):
    """Of raw pixels, before JPEG, and of parts and hidden pixels."""
    return hashlib.sha256(b"".join(array.tobytes() for shot in shots for array in shot)).hexdigest()


def surroundings():
    """What may change the last bit: versions, and the instructions of the processor that they use."""
    return f"OpenCV {cv2.__version__}, numpy {np.__version__}, {platform.machine()}, {cv2.getCPUFeaturesLine()}"


def freeze():
    """Writes the file anew: `python -m tests.data.test_synthetic_pictures`, together with a new VERSION."""
    shots = [take(*moment) for moment in MOMENTS]
    frozen = {
        "version": VERSION,
        "frozen under": surroundings(),
        "sha256": digest(shots),
        "fingerprints": [fingerprint(shot) for shot in shots],
    }
    FROZEN.write_text(json.dumps(frozen) + "\n")


def test_the_pictures_are_frozen():
    """To the bit under the libraries and on the kind of processor that it was frozen with, else but for edges.

    OpenCV 4.10 and 5.0 fill the rim of a polygon differently: a thousandth of the canvas, up to four levels of a cell.
    """
    frozen = json.loads(FROZEN.read_text())
    assert frozen["version"] == VERSION
    shots = [take(*moment) for moment in MOMENTS]
    for shot, wanted in zip(shots, frozen["fingerprints"], strict=True):
        difference = np.abs(np.array(fingerprint(shot)) - wanted)
        assert difference.max() < 6.0
        assert difference.mean() < 0.3
    if surroundings() == frozen["frozen under"]:
        assert digest(shots) == frozen["sha256"]


def test_a_picture_depends_on_nothing_but_its_numbers():
    first = [take(*moment) for moment in MOMENTS[:4]]
    np.random.default_rng(0).random(10)
    again = [take(*moment) for moment in reversed(MOMENTS[:4])][::-1]
    for one, other in zip(first, again, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    program = (
        "import hashlib; from aelm.data.synthetic import shoot;"
        "print(hashlib.sha256(shoot(0, 1, 1, 0).image.tobytes()).hexdigest())"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == hashlib.sha256(first[0].image.tobytes()).hexdigest()


def test_every_number_matters():
    base = shoot(0, 1, 1, 0).image
    for other in ((1, 1, 1, 0), (0, 2, 1, 0), (0, 1, 2, 0), (0, 1, 1, 1)):
        assert np.abs(shoot(*other).image.astype(int) - base).mean() > 3


@pytest.mark.parametrize("height", [64, 128, 256, 384])
def test_a_taller_picture_shows_the_same(height):
    shot = shoot(0, 5, 2, 1, height=height)
    assert shot.image.shape == (height, height // 2, 3)
    assert shot.parts.shape == shot.hidden.shape == (height, height // 2)
    reference = shoot(0, 5, 2, 1, height=128)
    small = [cv2.resize(picture, (8, 16), interpolation=cv2.INTER_AREA) for picture in (shot.image, reference.image)]
    assert np.abs(small[0].astype(int) - small[1]).mean() < 8
    assert (shot.parts > 0).mean() == pytest.approx((reference.parts > 0).mean(), abs=0.01)


@pytest.mark.parametrize("height", [0, 33])
def test_impossible_heights_are_refused(height):
    with pytest.raises(ValueError, match=f"`height` must be even and positive, got {height}"):
        shoot(0, 1, 1, 0, height=height)


def test_cameras_count_from_one():
    with pytest.raises(ValueError, match="cameras count from 1, got 0"):
        camera(0, 0)


@pytest.mark.parametrize("kind", Kind)
def test_an_occluder_hides_the_share_it_is_asked_for_and_changes_nothing_else(kind):
    for identity in range(5001, 5005):
        whole, behind = shoot(0, identity, 2, 0), shoot(0, identity, 2, 0, occluder=kind, covered=(0.45, 0.45))
        assert np.array_equal(whole.parts, behind.parts)
        assert not whole.hidden.any()
        body = whole.parts > 0
        assert 0.3 < behind.hidden[body].mean() < 0.6
        # Lens and lost resolution mix neighbours, nothing farther away.
        far = cv2.dilate(behind.hidden.astype(np.uint8), np.ones((13, 13), np.uint8)) == 0
        assert far.any()
        assert np.array_equal(whole.image[far], behind.image[far])
        near = cv2.erode(behind.hidden.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        assert np.abs(whole.image[near].astype(int) - behind.image[near]).mean() > 5


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("kind", [Kind.WALL, Kind.CAR, Kind.BUSH, Kind.CRATES])
def test_what_comes_from_below_hides_exactly_the_share(kind, share):
    target = np.zeros((512, 256), bool)
    target[60:480, 90:170] = True
    layer = cover(target, share, kind, stream(1, 2), NOON)
    assert (layer.part > 0)[target].mean() == pytest.approx(share, abs=0.02)


def drawn(who, yaw, **pose):
    layer = blank()
    still = Pose(phase=0.0, stride=0.0, swing=0.0, elbow=0.2, lean=0.0, turn=0.0)
    draw_person(layer, who, still._replace(**pose), View(yaw, 0.15, 440, (128, 485)), NOON)
    return layer


PLAIN = person(0, 1)._replace(
    garment="tee", pattern="plain", logo="none", is_open=False, bag="none", legwear="slim", hat="none", haircut="short"
)


@pytest.mark.parametrize(("yaw", "order"), [(0.0, 1), (np.pi, -1)])
def test_left_and_right_are_the_persons_own(yaw, order):
    parts = drawn(PLAIN, yaw).part
    for left, right in ((BodyPart.LEFT_ARM, BodyPart.RIGHT_ARM), (BodyPart.LEFT_LEG, BodyPart.RIGHT_LEG)):
        assert order * (np.nonzero(parts == left)[1].mean() - np.nonzero(parts == right)[1].mean()) > 10


def test_the_body_is_in_order_from_top_to_bottom():
    parts = drawn(PLAIN, 0.0).part
    rows = [
        np.nonzero(parts == part)[0].mean()
        for part in (BodyPart.HAIR, BodyPart.HEAD, BodyPart.TORSO, BodyPart.LEFT_LEG, BodyPart.SHOES)
    ]
    assert rows == sorted(rows)
    assert set(np.unique(parts)) == set(BodyPart) - {BodyPart.BAG}
    head = np.nonzero((parts == BodyPart.HEAD) | (parts == BodyPart.HAIR))[0]
    body = np.nonzero(parts)[0]
    assert 5 < np.ptp(body) / np.ptp(head) < 8  # as many heads tall as people are, or a little fewer


def test_a_logo_shows_from_the_front_only():
    logo = PLAIN._replace(logo="square", logo_colour=(255, 0, 255))
    front, back = (
        np.abs(drawn(logo, yaw).colour.astype(int) - drawn(PLAIN, yaw).colour).max(axis=2) > 20 for yaw in (0.0, np.pi)
    )
    assert front.sum() > 300
    assert back.sum() == 0


def test_a_backpack_shows_from_behind_and_its_straps_from_the_front():
    pack = PLAIN._replace(bag="backpack", bag_colour=(255, 0, 255))
    behind, front = ((drawn(pack, yaw).part == BodyPart.BAG).sum() for yaw in (np.pi, 0.0))
    assert behind > 2000
    assert front < 0.2 * behind
    straps = drawn(pack, 0.0).colour
    assert (straps[..., 0].astype(int) - straps[..., 1] > 60).sum() > 300


def test_a_face_shows_from_the_front_only():
    front, back = (drawn(PLAIN._replace(haircut="long"), yaw).part == BodyPart.HEAD for yaw in (0.0, np.pi))
    assert front.sum() > 5 * max(back.sum(), 1)


def test_legs_part_when_seen_from_the_side():
    wide = np.ptp(np.nonzero(drawn(PLAIN, np.pi / 2, stride=0.4, phase=np.pi / 2).part == BodyPart.SHOES)[1])
    together = np.ptp(np.nonzero(drawn(PLAIN, np.pi / 2).part == BodyPart.SHOES)[1])
    assert wide > together + 80


def test_people_differ_but_share_their_colours():
    tasks = plan(SIZES["standard"], 0, 0.0)
    people = [person(0, identity) for identity in sorted({task.identity for task in tasks})]
    assert len(set(people)) == len(people)
    # Without sizes, which are hard to see, hardly anybody has a twin.
    looks = Counter(who._replace(height=1, girth=1, shoulders=1) for who in people)
    assert max(looks.values()) == 1
    colours = Counter((who.top, who.bottom) for who in people)
    assert np.mean([colours[who.top, who.bottom] for who in people]) > len(people) / 40


@pytest.mark.parametrize("kind", MANNERS)
@pytest.mark.parametrize("size", [(128, 64), (256, 128), (90, 61), (600, 200)])
def test_occlude_hides_the_share_of_any_picture(kind, size):
    image = np.random.default_rng(0).integers(0, 256, (*size, 3)).astype(np.uint8)
    before = image.copy()
    for seed, fraction in enumerate((0.1, 0.25, 0.4, 0.55, 0.7)):
        covered, hidden = occlude(image, fraction, kind, np.random.default_rng(seed))
        assert (covered.shape, covered.dtype, hidden.shape) == (image.shape, np.uint8, size)
        assert hidden.mean() == pytest.approx(fraction, abs=0.03)
        changed = (covered != image).any(axis=2)
        rim = cv2.dilate(hidden.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        assert changed[~rim].mean() < 0.005  # slivers thinner than half a pixel
        assert changed[hidden].mean() > 0.95
        again = occlude(image, fraction, kind, np.random.default_rng(seed))
        assert np.array_equal(again[0], covered)
        assert np.array_equal(again[1], hidden)
    assert np.array_equal(image, before)


def test_occlude_nothing_returns_a_copy():
    image = np.full((20, 10, 3), 9, np.uint8)
    covered, hidden = occlude(image, 0.0, "side", np.random.default_rng(0))
    assert np.array_equal(covered, image)
    assert covered is not image
    assert not hidden.any()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"image": np.zeros((4, 4), np.uint8)}, r"must be \(H, W, 3\) uint8, got \(4, 4\) uint8"),
        ({"fraction": 0.9}, r"`fraction` must lie in 0 .. 0.75, got 0.9"),
        ({"kind": "above"}, "below, side, object, person, got 'above'"),
    ],
)
def test_occlude_names_what_is_wrong(wrong, message):
    arguments = {"image": np.zeros((8, 4, 3), np.uint8), "fraction": 0.5, "kind": "below"} | wrong
    with pytest.raises(ValueError, match=message):
        occlude(**arguments, generator=np.random.default_rng(0))


def colour_histogram(image, space, stripes):
    """Joint colour histogram of each horizontal stripe; ``(stripes * bins,)``."""
    if space == "hsv":
        image, bins, limits = cv2.cvtColor(image, cv2.COLOR_RGB2HSV), [12, 6, 4], [0, 180, 0, 256, 0, 256]
    else:
        bins, limits = [8, 8, 8], [0, 256] * 3
    bands = np.array_split(image, stripes)
    return np.concatenate([cv2.calcHist([band], [0, 1, 2], None, bins, limits).ravel() / band.size for band in bands])


def average_precision(similarity, match):
    hits = match[np.argsort(-similarity, kind="stable")]
    ranks = np.flatnonzero(hits) + 1
    return (np.arange(1, len(ranks) + 1) / ranks).mean()


@pytest.mark.parametrize(("space", "stripes"), [("rgb", 1), ("hsv", 3), ("rgb", 6)])
def test_a_colour_histogram_does_not_find_people(space, stripes, gallery):
    """Fewer people than in `small`, so it is easier here than there; still it stays below 0.15."""
    images, pids, cams = gallery
    features = np.stack([colour_histogram(image, space, stripes) for image in images])
    scores = []
    for query in range(len(images)):
        similarity = np.minimum(features, features[query]).sum(axis=1)
        kept = cams != cams[query]
        scores.append(average_precision(similarity[kept], pids[kept] == pids[query]))
    assert np.mean(scores) < 0.15


@pytest.fixture(scope="module")
def gallery():
    """Sixty people, one picture by each of four cameras."""
    moments = [(pid, number) for pid in range(5001, 5061) for number in range(1, 5)]
    images = [shoot(0, pid, number, 1).image for pid, number in moments]
    pids, cams = np.array(moments).T
    return images, pids, cams


def test_the_families_of_occluders_are_told_apart_by_their_looks():
    """No thing of one family is drawn as one of the other: their nearest mean colours and textures differ."""
    target = np.ones((512, 256), bool)
    looks = {
        kind: np.stack([cover(target, 1.0, kind, stream(3, seed), NOON).colour for seed in range(3)]) for kind in Kind
    }
    for ours in TRAINING:
        for theirs in EVALUATION:
            differences = np.abs(looks[ours][:, None].astype(int) - looks[theirs][None]).mean(axis=(2, 3, 4))
            assert differences.min() > 8


if __name__ == "__main__":
    freeze()
