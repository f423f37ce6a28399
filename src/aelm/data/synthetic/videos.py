"""Synthetic videos: people walk past several cameras, with exact boxes and identities.

``python -m aelm.data.synthetic.videos videos/`` writes, for each camera, a video (or a folder of frames) and its boxes
in MOTChallenge's format, and one table with the identity of every track.
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import cv2
import numpy as np

from aelm.data.synthetic.body import Pose, View
from aelm.data.synthetic.camera import Camera, camera
from aelm.data.synthetic.dress import draw_person
from aelm.data.synthetic.occluders import Kind, sheet
from aelm.data.synthetic.paint import Bytes, Floats, Layer, blank
from aelm.data.synthetic.people import between, person, stream
from aelm.data.synthetic.plan import TEST_START
from aelm.data.synthetic.scenes import SCENE_HEIGHT, scene
from aelm.types import InputError

VIDEOS = 7  # purpose of its random streams, like those of ``people``
PHASES = 10  # sprites of a cycle of two steps
SPRITE = (320, 240)  # height and width of a sprite, in pixels
BODY, FOOT = 270, (120.0, 304.0)  # pixels per body height in a sprite, and the point between the feet
LEAST_SEEN = 0.3  # minimum visible share of a body for a box
Form = Literal["mp4", "avi", "frames"]
CODES = {"mp4": "mp4v", "avi": "MJPG"}
TRUTH = "truth.csv"


class Walk(NamedTuple):
    """One person who passes one camera once: a track.

    Attributes:
        camera: From 1.
        track: Number of the track, from 1 in each camera.
        pid: Identity.
        first: The first frame, from 1; the person may still be outside the picture.
        frames: Number of frames.
        start: Position of the feet in the first frame, in picture widths and heights.
        end: Position of the feet in the last frame.
        period: Frames for two steps.
    """

    camera: int
    track: int
    pid: int
    first: int
    frames: int
    start: tuple[float, float]
    end: tuple[float, float]
    period: float

    def foot(self, frame: int) -> tuple[float, float]:
        """Position of the feet in a frame, in picture widths and heights."""
        share = (frame - self.first) / max(self.frames - 1, 1)
        return tuple(a + (b - a) * share for a, b in zip(self.start, self.end, strict=True))  # type: ignore[return-value]


class Box(NamedTuple):
    """Box of a person in a frame, in pixels from the upper left corner; it may extend beyond the picture.

    Attributes:
        frame: From 1.
        track: Number of the track.
        left: Pixels.
        top: Pixels.
        width: Pixels.
        height: Pixels.
        seen: Visible share of the body.
    """

    frame: int
    track: int
    left: int
    top: int
    width: int
    height: int
    seen: float


def walks(people: int, cameras: int, seed: int, fps: float) -> list[Walk]:
    """The walks of all people; everybody passes at least two cameras, some pass one of them again."""
    found: list[Walk] = []
    tracks = [0] * cameras
    for identity in range(people):
        draw = stream(VIDEOS, seed, identity)
        seconds = between(draw, 0.0, 1.6 * people)
        tour = [int(number) for number in np.argsort(draw.random(cameras), kind="stable")]
        tour = [number for i, number in enumerate(tour) if i < 2 or draw.random() < 0.8]
        if draw.random() < 0.25:
            tour.append(tour[0])
        for number in tour:
            speed, tempo = between(draw, 0.62, 0.9), between(draw, 0.95, 1.25)
            start, end, length = _path(draw)
            tracks[number] += 1
            frames = max(round(length / speed * fps), 2)
            first = round(seconds * fps) + 1
            found.append(
                Walk(number + 1, tracks[number], TEST_START + identity, first, frames, start, end, tempo * fps)
            )
            seconds += length / speed + between(draw, 1.0, 6.0)
    return found


def _path(draw: np.random.Generator) -> tuple[tuple[float, float], tuple[float, float], float]:
    """Start and end of a walk, and its length in body heights: across the picture, or along the line of sight."""
    if draw.random() < 0.6:
        lane = between(draw, 0.68, 0.94)
        path = ((-0.1, lane), (1.1, lane + between(draw, -0.05, 0.05)))
        length = 1.2 / (0.75 * size_at(lane))
    else:
        path = ((between(draw, 0.2, 0.8), 0.64), (between(draw, 0.1, 0.9), 1.04))
        length = 4.0
    return (path[0], path[1], length) if draw.random() < 0.5 else (path[1], path[0], length)


def size_at(row: float) -> float:
    """Height of an average person by the row of the feet, both in picture heights."""
    return 0.26 + 0.5 * (row - 0.62)


def sprites(walk: Walk, eye: Camera, seed: int) -> list[Layer]:
    """The phases of a walk, as seen by its camera."""
    draw = stream(VIDEOS, seed, walk.pid, walk.camera, walk.track)
    right, near = walk.end[0] - walk.start[0], 3.0 * (walk.end[1] - walk.start[1])
    view = View(float(np.arctan2(right, near)), eye.pitch, BODY, FOOT)
    stride, swing, elbow = between(draw, 0.25, 0.45), between(draw, 0.15, 0.45), between(draw, 0.2, 0.6)
    turn = between(draw, -0.4, 0.4)
    layers = []
    for phase in range(PHASES):
        layer = blank(*SPRITE)
        pose = Pose(2 * np.pi * phase / PHASES, stride, swing, elbow, 0.04, turn)
        draw_person(layer, person(seed, walk.pid), pose, view, eye.light)
        layers.append(layer)
    return layers


def background(eye: Camera, height: int, width: int) -> Floats:
    """The background of a camera, ``(height, width, 3)``, 0..255."""
    whole = scene(eye.seed, eye.number)
    scale = max(height / SCENE_HEIGHT, width / whole.shape[1])
    size = (round(whole.shape[1] * scale), round(SCENE_HEIGHT * scale))
    left = int(stream(VIDEOS, eye.seed, 0, eye.number).random() * (size[0] - width))
    picture: Bytes = cv2.resize(whole, size, interpolation=cv2.INTER_LINEAR)[:height, left : left + width]
    return picture.astype(np.float32)


class Lens:
    """A camera's tint, blur and noise, precomputed as tables, since a video has many frames.

    Args:
        eye: The camera.
        height: Of its frames.
        width: Likewise.
    """

    def __init__(self, eye: Camera, height: int, width: int) -> None:
        self.draw = stream(VIDEOS, eye.seed, 1, eye.number)
        self.blur = max(0.6 * eye.blur * height, 0.3)
        levels = (np.arange(256, dtype=np.float32) / 255) ** np.float32(eye.gamma)
        table = levels[:, None] * np.array(eye.gain, np.float32) * (1 - eye.haze) + eye.haze * 0.6
        self.table = np.clip(np.rint(table * 255), 0, 255).astype(np.uint8)[None]
        self.noise = self.draw.normal(0.0, eye.noise, (height + 64, width + 64, 3)).astype(np.int16)

    def __call__(self, light: Floats) -> Bytes:
        """``(h, w, 3)`` 0..255 -> the stored picture, uint8."""
        height, width = light.shape[:2]
        picture = cv2.LUT(cv2.GaussianBlur(light.astype(np.uint8), (0, 0), self.blur), self.table)
        top, left = (int(64 * self.draw.random()) for _ in range(2))
        noisy: Bytes = cv2.add(picture, self.noise[top : top + height, left : left + width], dtype=cv2.CV_8U)
        return noisy


def film(seed: int, number: int, plan: list[Walk], size: tuple[int, int]) -> Iterator[tuple[Bytes, list[Box]]]:
    """The frames of a camera, ``(height, width, 3)`` uint8 RGB, each with its boxes.

    Args:
        seed: Of the world.
        number: The camera, from 1.
        plan: The walks past all cameras; every camera records until the last one ends.
        size: Height and width of the frames.
    """
    height, width = size
    eye = camera(seed, number)
    empty, lens = background(eye, height, width), Lens(eye, height, width)
    post = _post(eye, seed, height, width)
    mine = [walk for walk in plan if walk.camera == number]
    drawn: dict[int, list[Layer]] = {}
    for frame in range(1, max(walk.first + walk.frames for walk in plan)):
        now = [walk for walk in mine if walk.first <= frame < walk.first + walk.frames]
        drawn = {walk.track: drawn.get(walk.track) or sprites(walk, eye, seed) for walk in now}
        light, owner = empty.copy(), np.zeros((height, width), np.int32)
        placed = []
        for walk in sorted(now, key=lambda walk: walk.foot(frame)[1]):  # the nearest person is drawn last
            moment = drawn[walk.track][int(PHASES * (frame - walk.first) / walk.period) % PHASES]
            placed.append(_stand(light, owner, moment, walk, frame))
        if post is not None:
            column = slice(width // 3, width // 3 + post.part.shape[1])
            solid = post.part > 0
            light[:, column][solid] = post.colour[solid]
            owner[:, column][solid] = 0
        seen = np.bincount(owner.ravel(), minlength=max((walk.track for walk in now), default=0) + 1)
        boxes = [box._replace(seen=float(seen[box.track] / box.seen)) for box in placed]
        yield lens(light), sorted(box for box in boxes if box.seen >= LEAST_SEEN)


def _post(eye: Camera, seed: int, height: int, width: int) -> Layer | None:
    """Every second camera looks past a pillar."""
    if eye.number % 2:
        return None
    return sheet(Kind.PILLAR, stream(VIDEOS, seed, 2, eye.number), height, max(width // 12, 4), eye.light)


def _stand(light: Floats, owner: np.ndarray, sprite: Layer, walk: Walk, frame: int) -> Box:
    """Draws a person into a frame; returns the box of the whole body, with its number of pixels as ``seen``."""
    height, width = owner.shape
    x, y = walk.foot(frame)
    scale = size_at(y) * height / BODY
    shape = (round(SPRITE[1] * scale), round(SPRITE[0] * scale))
    colour = cv2.resize(sprite.colour, shape, interpolation=cv2.INTER_AREA)
    alpha = cv2.resize((sprite.part > 0).astype(np.float32), shape, interpolation=cv2.INTER_AREA)
    left, top = round(x * width - FOOT[0] * scale), round(y * height - FOOT[1] * scale)
    solid = alpha > 0.5
    rows, columns = np.flatnonzero(solid.any(1)), np.flatnonzero(solid.any(0))
    y0, y1, x0, x1 = max(top, 0), min(top + shape[1], height), max(left, 0), min(left + shape[0], width)
    if y0 < y1 and x0 < x1:
        part = np.s_[y0 - top : y1 - top, x0 - left : x1 - left]
        here = light[y0:y1, x0:x1]
        ground = np.mgrid[y0:y1, x0:x1].astype(np.float32)
        away = ((ground[1] - x * width) / (34 * scale * 2)) ** 2 + ((ground[0] - y * height) / (14 * scale * 2)) ** 2
        here *= (1 - 0.45 * np.exp(-away))[:, :, None]
        here *= 1 - alpha[part][:, :, None]
        here += colour[part]
        owner[y0:y1, x0:x1][solid[part]] = walk.track
    return Box(
        frame,
        walk.track,
        left + int(columns[0]),
        top + int(rows[0]),
        int(columns[-1] - columns[0]) + 1,
        int(rows[-1] - rows[0]) + 1,
        float(np.count_nonzero(solid)),
    )


def videos(
    output: str | Path,
    *,
    people: int = 24,
    cameras: int = 3,
    seed: int = 0,
    fps: float = 10.0,
    size: tuple[int, int] = (480, 640),
    form: Form = "mp4",
) -> Path:
    """Writes the videos of some cameras: ``cam1.mp4`` (or the folder ``cam1``), ``cam1.txt``, ..., and ``truth.csv``.

    The boxes have MOTChallenge's format: frame, track, left, top, width, height, confidence (the visible share of the
    body), and three times -1; frames count from 1. The truth has the columns camera, track, pid, first_frame,
    last_frame and fps. All cameras start at the same time.

    Args:
        output: The folder, new or empty; written atomically.
        people: Number of people.
        cameras: Number of cameras, at least two.
        seed: Of the world.
        fps: Frames per second.
        size: Height and width of the frames.
        form: ``mp4``, ``avi`` (Motion JPEG), or ``frames``: a folder of JPEG files.

    Raises:
        ValueError: If a number is out of range.
        OSError: If ``output`` is not empty, or cannot be written.

    Returns:
        The folder.
    """
    for name, value, least in (("people", people, 1), ("cameras", cameras, 2), ("seed", seed, 0), ("fps", fps, 1)):
        if value < least:
            raise InputError(f"`{name}` must be at least {least}, got {value}")
    if min(size) < 64 or size[0] % 2 or size[1] % 2:
        raise InputError(f"`size` must be two even numbers of at least 64, height and width, got {size}")
    if form not in get_args(Form):
        raise InputError(f"`form` must be one of {', '.join(get_args(Form))}, got {form!r}")
    output = Path(output)
    if output.exists() and (not output.is_dir() or os.listdir(output)):
        raise FileExistsError(f"{output} is there already; remove it, or name another folder")
    plan = walks(people, cameras, seed, fps)
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=output.parent))
    try:
        partial.chmod(0o755)
        with ThreadPoolExecutor(min(cameras, os.cpu_count() or 1)) as pool:
            shown = list(
                pool.map(lambda number: _write(partial, number, seed, plan, fps, size, form), range(1, cameras + 1))
            )
        rows = ["camera,track,pid,first_frame,last_frame,fps"]
        for walk in sorted(plan):
            frames = [box.frame for box in shown[walk.camera - 1] if box.track == walk.track]
            if frames:
                rows.append(f"cam{walk.camera},{walk.track},{walk.pid},{min(frames)},{max(frames)},{fps:g}")
        (partial / TRUTH).write_text("\n".join(rows) + "\n", encoding="utf-8")
        if output.exists():
            output.rmdir()
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return output


def _write(
    folder: Path, number: int, seed: int, plan: list[Walk], fps: float, size: tuple[int, int], form: Form
) -> list[Box]:
    """Writes the video of one camera to a folder; returns its boxes."""
    path = folder / (f"cam{number}" if form == "frames" else f"cam{number}.{form}")
    writer = None
    if form == "frames":
        path.mkdir()
    else:
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODES[form]), fps, (size[1], size[0]))
        if not writer.isOpened():
            raise OSError(f"OpenCV cannot write {path.name} here; try form=avi or form=frames")
    kept: list[Box] = []
    try:
        for frame, (picture, boxes) in enumerate(film(seed, number, plan, size), 1):
            if writer is not None:
                writer.write(picture[:, :, ::-1])
            else:
                _, data = cv2.imencode(".jpg", picture[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
                (path / f"{frame:06d}.jpg").write_bytes(data.tobytes())
            kept += boxes
    finally:
        if writer is not None:
            writer.release()
    lines = (f"{b.frame},{b.track},{b.left},{b.top},{b.width},{b.height},{b.seen:.2f},-1,-1,-1\n" for b in kept)
    (folder / f"cam{number}.txt").write_text("".join(lines), encoding="utf-8")
    return kept


def main(arguments: list[str] | None = None) -> None:
    """Arguments: the folder, and the numbers of people and cameras."""
    parser = argparse.ArgumentParser(prog="python -m aelm.data.synthetic.videos", description=main.__doc__)
    parser.add_argument("output")
    for name, usual in (("people", 24), ("cameras", 3), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--form", choices=get_args(Form), default="mp4")
    print(f"synthetic videos in {videos(**vars(parser.parse_args(arguments)))}")


if __name__ == "__main__":
    main()
