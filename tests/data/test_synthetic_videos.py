"""Synthetic videos: the same each time, and true: boxes hold people, and tracks are who the table says."""

import csv
import itertools
from functools import partial

import cv2
import numpy as np
import pytest

from aelm.crop.footage import open_footage
from aelm.data.synthetic import videos as module
from aelm.data.synthetic.camera import camera
from aelm.data.synthetic.videos import film, main, videos, walks

SIZE = (160, 208)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return videos(tmp_path_factory.mktemp("videos") / "out", people=4, cameras=2, size=SIZE, form="frames")


def table(folder):
    with (folder / "truth.csv").open() as file:
        return list(csv.DictReader(file))


def boxes_of(folder, name):
    return np.loadtxt(folder / f"{name}.txt", delimiter=",", ndmin=2)


def test_everything_is_there(made):
    assert sorted(path.name for path in made.iterdir()) == ["cam1", "cam1.txt", "cam2", "cam2.txt", "truth.csv"]
    assert len(list((made / "cam1").iterdir())) == len(list((made / "cam2").iterdir()))
    assert cv2.imread(str(made / "cam1" / "000001.jpg")).shape == (*SIZE, 3)


def test_the_table_and_the_boxes_agree(made):
    seen = {}
    for row in table(made):
        boxes = boxes_of(made, row["camera"])
        frames = boxes[boxes[:, 1] == int(row["track"]), 0]
        assert (frames.min(), frames.max()) == (int(row["first_frame"]), int(row["last_frame"]))
        seen.setdefault(row["pid"], set()).add(row["camera"])
        assert row["fps"] == "10"
    for name in ("cam1", "cam2"):
        tracks = {int(row["track"]) for row in table(made) if row["camera"] == name}
        assert tracks == set(boxes_of(made, name)[:, 1].astype(int))
    assert len(seen) == 4
    assert all(len(cameras) == 2 for cameras in seen.values())


def test_a_box_is_where_a_person_is(made):
    """Inside a box the frame differs from the empty place, beside all boxes hardly."""
    name, number = "cam1", 1
    boxes = boxes_of(made, name)
    busy = int(boxes[np.argmax(boxes[:, 6] * boxes[:, 5]), 0])
    plan = walks(4, 2, 0, 10)
    empty = film(0, number, [walk._replace(first=10**6) for walk in plan], SIZE)
    blank, none = next(empty)
    assert none == []
    shown = cv2.imread(str(made / name / f"{busy:06d}.jpg"))[:, :, ::-1].astype(float)
    change = np.abs(cv2.GaussianBlur(shown - blank, (0, 0), 2)).max(2)
    outside = np.ones(SIZE, bool)
    for _, _, left, top, width, height, seen, *_ in boxes[boxes[:, 0] == busy]:
        inside = np.s_[max(int(top), 0) : int(top + height), max(int(left), 0) : int(left + width)]
        outside[max(int(top) - 8, 0) : int(top + height) + 8, max(int(left) - 16, 0) : int(left + width) + 16] = False
        assert seen < 0.9 or change[inside].mean() > 15
    assert change[outside].mean() < 4


def test_a_box_is_as_high_as_its_place_says(made):
    boxes = boxes_of(made, "cam1")
    whole = boxes[boxes[:, 6] > 0.97]
    feet = (whole[:, 3] + whole[:, 5]) / SIZE[0]
    tall = whole[:, 5] / SIZE[0]
    assert np.corrcoef(feet, tall)[0, 1] > 0.5
    assert (np.abs(tall / module.size_at(feet) - 1) < 0.25).all()


def test_the_same_seed_gives_the_same_world_and_another_another(made, tmp_path):
    again = videos(tmp_path / "again", people=4, cameras=2, size=SIZE, form="frames")
    for file in sorted(made.rglob("*.*")):
        assert file.read_bytes() == (again / file.relative_to(made)).read_bytes(), file
    assert walks(4, 2, 1, 10) != walks(4, 2, 0, 10)


@pytest.mark.parametrize("form", ["mp4", "avi"])
def test_a_video_file_holds_the_frames(made, tmp_path, form):
    folder = videos(tmp_path / "out", people=4, cameras=2, size=SIZE, form=form)
    assert (folder / "cam2.txt").read_text() == (made / "cam2.txt").read_text()
    footage = open_footage(folder / f"cam2.{form}")
    assert footage.fps == 10
    wanted = len(list((made / "cam2").iterdir()))
    frames = list(footage.frames(range(1, wanted + 2)))
    assert [frame for frame, _ in frames] == list(range(1, wanted + 1))
    for frame, picture in frames[::40]:
        true = cv2.imread(str(made / "cam2" / f"{frame:06d}.jpg")).astype(int)
        assert np.abs(picture.astype(int) - true).mean() < 8


def test_tracks_of_one_person_in_one_camera_do_not_overlap():
    for seed in range(5):
        spans = {}
        for walk in walks(40, 3, seed, 10):
            spans.setdefault((walk.camera, walk.pid), []).append((walk.first, walk.first + walk.frames))
        assert any(len(times) == 2 for times in spans.values())
        for times in spans.values():
            times.sort()
            assert all(one[1] < other[0] for one, other in itertools.pairwise(times))


def test_the_program_writes_a_folder_and_no_second_time(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, "videos", partial(videos, size=SIZE))
    folder = str(tmp_path / "made")
    main([folder, "--people", "1", "--cameras", "2", "--form", "frames"])
    assert capsys.readouterr().out == f"synthetic videos in {folder}\n"
    with pytest.raises(FileExistsError, match="is there already"):
        main([folder])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"people": 0}, "`people` must be at least 1, got 0"),
        ({"cameras": 1}, "`cameras` must be at least 2, got 1"),
        ({"fps": 0}, "`fps` must be at least 1, got 0"),
        ({"size": (63, 64)}, "`size` must be two even numbers"),
        ({"form": "mkv"}, "`form` must be one of mp4, avi, frames, got 'mkv'"),
    ],
)
def test_bad_parameters_are_named(tmp_path, wrong, told):
    with pytest.raises(ValueError, match=told):
        videos(tmp_path / "out", **wrong)
    assert list(tmp_path.iterdir()) == []


def test_every_second_camera_looks_past_a_pillar():
    assert [module._post(camera(0, number), 0, 96, 128) is None for number in (1, 2, 3)] == [True, False, True]
