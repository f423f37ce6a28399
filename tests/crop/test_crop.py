"""Crops out of videos: the right pixels of the right frames, and a word on everything that gives none."""

import csv

import cv2
import numpy as np
import pytest

from aelm.command import cli, schema
from aelm.crop import task as crop
from aelm.crop.footage import Choice, choose, open_footage, read_boxes

HEIGHT, WIDTH, FRAMES = 96, 128, 30


def picture(frame):
    """A frame that shows its number: rows, columns and number in one channel each."""
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    image[:, :, 0] = 7 * frame
    image[:, :, 1] = np.arange(HEIGHT)[:, None] * 2
    image[:, :, 2] = np.arange(WIDTH)
    return image


def write_video(path, frames=FRAMES):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (WIDTH, HEIGHT))
    for frame in range(1, frames + 1):
        writer.write(picture(frame))
    writer.release()
    return path


def write_frames(folder, first=1):
    folder.mkdir()
    for frame in range(first, first + FRAMES):
        cv2.imwrite(str(folder / f"{frame:06d}.png"), picture(frame))
    return folder


def write_boxes(path, rows):
    path.write_text("".join(",".join(map(str, row)) + "\n" for row in rows))
    return path


USUAL = [(f, 7, 10 + f, 8, 30, 64, 0.9, -1, -1, -1) for f in range(1, 21)]


@pytest.fixture
def cut(tmp_path, composed, capsys):
    """Runs the command on a video and boxes; gives the rows of the table and what was printed."""

    def run(rows=USUAL, *overrides, video=None):
        video = video or write_video(tmp_path / "door.avi")
        boxes = write_boxes(tmp_path / "boxes.txt", rows)
        config = composed(
            "crop", f"video={video}", f"boxes={boxes}", f"output={tmp_path}/crops", "progress=false", *overrides
        )
        schema.check_keys(config)
        schema.check_given(config, "crop")
        crop.run(config)
        return table(tmp_path / "crops" / "crops.csv"), capsys.readouterr().out

    return run


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_a_crop_shows_its_box_of_its_frame(cut, tmp_path, kind):
    video = write_frames(tmp_path / "door") if kind == "folder" else None
    rows, _ = cut(USUAL, "fps=10", "min_height=1", video=video)
    assert [(row["frame"], row["track"], row["camid"], row["pid"]) for row in rows] == [
        (str(frame), "7", "door", "") for frame in range(1, 21)
    ]
    for row in rows:
        frame = int(row["frame"])
        assert row["confidence"] == "0.9"
        assert row["path"] == f"door_0007_{frame:06d}.jpg"
        assert float(row["time"]) == pytest.approx((frame - 1) / 10)
        found = cv2.imread(str(tmp_path / "crops" / row["path"])).astype(int)
        wanted = picture(frame)[8:72, 10 + frame : 40 + frame].astype(int)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).mean() < 3  # of two JPEGs; the next frame is 7 away


def test_frames_of_a_folder_are_numbered_by_their_names(cut, tmp_path):
    rows, _ = cut([(f, 1, 0, 0, 20, 80, 1) for f in (5, 7)], "fps=2", video=write_frames(tmp_path / "cam", first=5))
    assert [(row["frame"], row["time"]) for row in rows] == [("5", "0.000"), ("7", "1.000")]


def test_what_leaves_the_picture_is_cut_off(cut, tmp_path):
    cut([(1, 1, -10, -5, 40, 80, 1), (2, 1, 100, 20, 1e9, 1e9, 1)])
    shapes = [cv2.imread(str(file)).shape[:2] for file in sorted((tmp_path / "crops").glob("*.jpg"))]
    assert shapes == [(75, 30), (76, 28)]


def test_every_height_confidence_and_number_choose():
    boxes = read_boxes_of([(f, t, 0, 0, 9, 50 + t, c) for t, c in ((1, 0.2), (2, 0.9)) for f in range(1, 31)])

    def chosen(**choice):
        cuts, bad = choose(boxes, (HEIGHT, WIDTH), lambda _: True, Choice(**choice))
        assert bad == []
        return [(cut.frame, cut.track) for cut in cuts]

    assert len(chosen()) == 60
    assert chosen(every=10) == [(1, 1), (1, 2), (11, 1), (11, 2), (21, 1), (21, 2)]
    assert {track for _, track in chosen(min_height=52)} == {2}
    assert {track for _, track in chosen(min_confidence=0.5)} == {2}
    assert chosen(per_track=1) == [(16, 1), (16, 2)]
    for most in range(1, 31):  # spread: no gap is twice as long as another, and more
        frames = [frame for frame, track in chosen(per_track=most) if track == 1]
        gaps = np.diff([-frames[0] + 1, *frames])[1:]
        assert len(frames) == most
        assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1 or gaps.max() <= 2 * gaps.min()


def read_boxes_of(rows, tmp="boxes.txt"):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        return read_boxes(write_boxes(Path(folder) / tmp, rows))


def test_boxes_come_as_text_with_blanks_or_as_a_table_too(tmp_path):
    wanted = [box[:6] for box in read_boxes_of(USUAL)]
    (tmp_path / "blanks.txt").write_text("\n".join(" ".join(map(str, row)) for row in USUAL))
    assert [box[:6] for box in read_boxes(tmp_path / "blanks.txt")] == wanted
    lines = ["Height,track,frame,left,top,width,colour", *(f"64,7,{row[0]},{row[2]},8,30,red" for row in USUAL)]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    found = read_boxes(tmp_path / "table.csv")
    assert [box[:6] for box in found] == wanted
    assert all(np.isnan(box.confidence) for box in found)
    kept, _ = choose(found, (HEIGHT, WIDTH), lambda _: True, Choice(min_confidence=0.5))
    assert len(kept) == len(USUAL), "a box without a confidence passes"


def test_a_confidence_of_minus_one_is_none(cut):
    rows, _ = cut([(*row[:6], -1, -1, -1, -1) for row in USUAL], "min_confidence=0.5")
    assert [row["confidence"] for row in rows] == [""] * 20


def test_several_videos_at_once_and_who_is_known(cut, tmp_path):
    one, two = (write_video(tmp_path / f"{name}.avi") for name in ("hall", "yard"))
    boxes = write_boxes(tmp_path / "boxes.txt", USUAL)
    (tmp_path / "truth.csv").write_text("camera,track,pid,first_frame,last_frame,fps\nyard,7,12,1,20,10\n")
    rows, told = cut(USUAL, f"video=[{one},{two}]", f"boxes=[{boxes},{boxes}]", f"truth={tmp_path}/truth.csv")
    assert {(row["camid"], row["pid"]) for row in rows} == {("hall", ""), ("yard", "12")}
    assert len(list((tmp_path / "crops").glob("*.jpg"))) == 40
    assert told.startswith("40 crops of 2 tracks by 2 cameras in")


def test_a_camera_may_be_a_number(cut):
    rows, _ = cut(USUAL, "camera=1", "min_height=1")
    assert {row["camid"] for row in rows} == {"1"}


@pytest.mark.parametrize("kind", ["link", "empty", "here"])
def test_an_output_may_be_a_link_or_an_empty_folder(cut, tmp_path, monkeypatch, kind):
    (tmp_path / "disk").mkdir()
    where = tmp_path / "crops"
    if kind == "link":
        where.symlink_to(tmp_path / "disk")
    else:
        where.mkdir()
        monkeypatch.chdir(where)
    rows, _ = cut(USUAL, "min_height=1", *(["output=."] if kind == "here" else []))
    assert len(rows) == 20
    assert {path.name for path in where.iterdir()} == {"crops.csv", *(row["path"] for row in rows)}
    assert where.is_symlink() == (kind == "link")


def test_what_gives_no_crop_is_counted_and_listed(cut, tmp_path):
    wrong = [
        (2, 8, 5, 5, -4, 50, 1), (2, 9, 5, 5, 4, 0, 1), (2, 10, 500, 5, 40, 80, 1), (2, 11, -90, 5, 40, 80, 1),
        (0, 7, 5, 5, 40, 80, 1), (900, 7, 5, 5, 40, 80, 1), (3, -1, 5, 5, 40, 80, 1), (4, 12, "nan", 5, 40, 80, 1),
    ]  # fmt: skip
    rows, told = cut([*USUAL, *wrong])
    assert len(rows) == 20
    listed = {(row["frame"], row["track"]): row["reason"] for row in table(tmp_path / "crops" / "omitted.csv")}
    assert listed == {
        ("2", "8"): "size -4 x 50",
        ("2", "9"): "size 4 x 0",
        ("2", "10"): "outside the picture of 128 x 96",
        ("2", "11"): "outside the picture of 128 x 96",
        ("0", "7"): "no such frame",
        ("900", "7"): "no such frame",
        ("3", "-1"): "no track",
        ("4", "12"): "not a number",
    }
    assert "2 boxes left out: no such frame" in told


def test_a_video_that_ends_early_gives_what_it_has(cut, tmp_path):
    video = write_video(tmp_path / "door.avi")
    content = video.read_bytes()
    video.write_bytes(content[: len(content) // 2])
    rows, told = cut(video=video)
    assert 5 < len(rows) < 20
    assert [int(row["frame"]) for row in rows] == list(range(1, len(rows) + 1))
    assert f"{20 - len(rows)} boxes left out: " in told


def test_a_broken_frame_is_counted(cut, tmp_path):
    folder = write_frames(tmp_path / "door")
    (folder / "000003.png").write_bytes((folder / "000003.png").read_bytes()[:200])
    (folder / "000004.png").write_bytes(b"")
    rows, told = cut(USUAL, "fps=10", video=folder)
    assert [int(row["frame"]) for row in rows] == [1, 2, *range(5, 21)]
    assert "2 boxes left out: the frame is broken" in told


def test_frames_that_nobody_wants_are_not_decoded(tmp_path, monkeypatch):
    footage = open_footage(write_video(tmp_path / "door.avi"))
    capture, retrieved = footage.capture, []

    class Counting:
        def grab(self):
            return capture.grab()

        def retrieve(self):
            retrieved.append(1)
            return capture.retrieve()

        def release(self):
            capture.release()

    footage.capture = Counting()
    assert [frame for frame, _ in footage.frames({3, 9})] == [3, 9]
    assert len(retrieved) == 2


BAD = {
    "no video": (["video={root}/none.mp4"], USUAL, "no video .*none.mp4"),
    "no video but text": (["video={root}/boxes.txt"], USUAL, "`video`: .*boxes.txt is text"),
    "no video but noise": (["video={root}/noise.mp4"], USUAL, "does not open as a video.*ffmpeg"),
    "folder without pictures": (["video={root}/empty"], USUAL, "no picture in the folder"),
    "folder without a rate": (["video={root}/frames"], USUAL, "frame rate nobody knows.*fps=25"),
    "rate of zero": (["fps=0"], USUAL, "`fps` must be positive"),
    "no boxes": (["boxes={root}/none.txt"], USUAL, "no file of boxes"),
    "boxes that are a video": (["boxes={root}/door.avi"], USUAL, "is no text|expected frame"),
    "words": ([], [(1, 7, 1, 2, 3, "x")], "line 1: expected frame, id, left"),
    "half a frame": ([], [(1.5, 7, 1, 2, 3, 4)], "frame and id whole numbers"),
    "few columns": ([], [(1, 7, 1, 2)], "line 1: expected frame, id, left"),
    "no boxes in the file": ([], [], "holds no track"),
    "no tracks": ([], [(1, -1, 1, 2, 30, 90)], "holds no track.*Run a tracker"),
    "two tracks with one number": ([], [*USUAL, USUAL[3]], "lines 4 and 21: frame 4 has two boxes of track 7"),
    "nothing left": (["min_height=90"], USUAL, "no crop came out of 20 boxes"),
    "boxes of another video": ([], [(f, 1, 900, 2, 30, 90) for f in (1, 2)], "2 boxes left out: outside the picture"),
    "every of zero": (["every=0"], USUAL, "`every` must be at least 1, got 0"),
    "none of a track": (["per_track=0"], USUAL, "`per_track` must be at least 1, got 0"),
    "a camera that is a path": (["camera=a/b"], USUAL, "`camera` must give.*letters"),
    "two cameras with one name": (
        ["video=[{root}/door.avi,{root}/door.avi]", "boxes=[{root}/boxes.txt,{root}/boxes.txt]"],
        USUAL,
        "'door' twice",
    ),
    "fewer boxes than videos": (["video=[{root}/door.avi,{root}/frames]"], USUAL, "as many of each, got 2, 1 and 2"),
    "an output that is full": (["output={root}/frames"], USUAL, "is not empty"),
    "truth of another form": (["truth={root}/boxes.txt"], USUAL, "lacks the column camera, pid, track"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(cut, tmp_path, name):
    overrides, rows, told = BAD[name]
    (tmp_path / "empty").mkdir()
    write_frames(tmp_path / "frames")
    (tmp_path / "noise.mp4").write_bytes(bytes(range(256)) * 40)
    with pytest.raises((ValueError, OSError), match=told) as caught:
        cut(rows, *(text.format(root=tmp_path) for text in overrides))
    assert cli.is_expected(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boxes.txt", "door.avi", "empty", "frames", "noise.mp4"]
