"""The task of ``python -m aelm.crop``: cuts pictures of people out of videos, given the boxes of their tracks."""

import csv
import math
import re
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
from omegaconf import DictConfig
from tqdm import tqdm

from aelm.crop.footage import Box, Choice, Cut, Footage, Omission, choose, open_footage, read_boxes
from aelm.data.decoding import Pixels
from aelm.data.listing import first_few
from aelm.files import check_folder
from aelm.types import InputError

CROPS, OMITTED = "crops.csv", "omitted.csv"
COLUMNS = ("path", "track", "camid", "frame", "time", "pid", "confidence")
QUALITY = [cv2.IMWRITE_JPEG_QUALITY, 95]
THREADS, WAITING = 2, 8  # encoding threads beside the decoding one; frames that may wait for them


class Camera(NamedTuple):
    """One camera's footage, boxes and name."""

    name: str
    footage: Footage
    boxes: Sequence[Box]


def run(config: DictConfig) -> int:
    """Cuts as ``config`` says, prints a summary, and returns the number of crops.

    Raises:
        OSError: If a file is missing, or ``output`` is not empty.
        ValueError: If a file or setting is invalid, or there is nothing to cut.
    """
    choice = Choice(config.every, config.min_height, config.min_confidence, config.per_track)
    for name, value, least in (("every", choice.every, 1), ("per_track", choice.per_track, 1)):
        if value is not None and value < least:
            raise InputError(f"`{name}` must be at least {least}, got {value}")
    output = check_folder(config.output)
    if output.is_dir() and (held := sorted(file.name for file in output.iterdir())):
        raise FileExistsError(
            f"`output`: {output} is not empty ({first_few(held, 2)}), and crops of two runs must not mix; name a new "
            "folder"
        )
    cameras = opened(config)
    pids = {} if config.truth is None else read_pids(Path(config.truth))
    rows: list[tuple[object, ...]] = []
    omitted: list[tuple[object, ...]] = []
    with atomic_folder(output) as folder:
        for camera in cameras:
            cuts, bad = choose(camera.boxes, camera.footage.size, camera.footage.has, choice)
            fate = cut_out(camera, cuts, folder, progress=config.progress)
            for cut in cuts:
                if why := fate.get(cut.frame, "the video ends before"):
                    bad.append(Omission(cut.frame, cut.track, why))
                    continue
                time = f"{camera.footage.time(cut.frame):.3f}"
                sure = "" if math.isnan(cut.confidence) else f"{cut.confidence:g}"
                pid = pids.get((camera.name, cut.track), "")
                rows.append((file_name(camera.name, cut), cut.track, camera.name, cut.frame, time, pid, sure))
            omitted += [(camera.name, *omission) for omission in bad]
        left_out = counts_text(omitted)
        if not rows:
            raise InputError(
                f"no crop came out of {sum(len(camera.boxes) for camera in cameras)} boxes{left_out}. Do they "
                "belong to this video? `every`, `min_height` and `min_confidence` choose among them"
            )
        write_table(folder / CROPS, COLUMNS, rows)
        if omitted:
            write_table(folder / OMITTED, ("camid", "frame", "track", "reason"), omitted)
    tracks = len({row[1:3] for row in rows})
    where = f"\nlisted in {output / OMITTED}" if omitted else ""
    print(f"{len(rows)} crops of {tracks} tracks by {len(cameras)} cameras in {output}{left_out}{where}")
    return len(rows)


def counts_text(omitted: Sequence[Sequence[object]], most: int = 5) -> str:
    """Numbers of omitted boxes by reason, most frequent first.

    >>> counts_text([("door", 1, 7, "size -3 x 9")])
    '; 1 box left out: size -3 x 9'
    """
    reasons = Counter(str(reason) for *_, reason in omitted)
    parts = [f"; {n} box{'es' * (n > 1)} left out: {why}" for why, n in reasons.most_common(most)]
    return "".join(parts) + (f"; and {len(reasons) - most} more reasons" if len(reasons) > most else "")


def opened(config: DictConfig) -> list[Camera]:
    """The cameras of a config, each with its boxes; decodes nothing yet.

    Raises:
        ValueError: If the lists differ in length, or two cameras have the same name.
    """
    videos, boxes = listed(config.video), listed(config.boxes)
    names = [Path(video).stem for video in videos] if config.camera is None else listed(config.camera)
    if not len(videos) == len(boxes) == len(names):
        raise InputError(
            f"`video`, `boxes` and `camera` must name as many of each, got {len(videos)}, {len(boxes)} and {len(names)}"
        )
    for name in names:
        if not re.fullmatch(r"[\w-]+", name) or names.count(name) > 1:
            raise InputError(
                f"`camera` must give each video a name of its own, of letters, digits, - and _, got {name!r}"
                f"{' twice' if names.count(name) > 1 else ''}; write camera=door"
            )
    parts = zip(names, videos, boxes, strict=True)
    return [Camera(name, open_footage(video, config.fps), read_boxes(path)) for name, video, path in parts]


def listed(value: Any) -> list[str]:
    """A list of one or several paths or names."""
    return [str(part) for part in value] if isinstance(value, Sequence) and not isinstance(value, str) else [str(value)]


def read_pids(path: Path) -> dict[tuple[str, int], str]:
    """Identity of each track, from a table with the columns camera, track and pid."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        table = csv.DictReader(file)
        missing = {"camera", "track", "pid"} - set(table.fieldnames or ())
        if missing:
            raise InputError(f"{path} lacks the column {', '.join(sorted(missing))}; it has {table.fieldnames}")
        try:
            return {(row["camera"], int(row["track"])): row["pid"] for row in table}
        except (TypeError, ValueError) as error:
            raise InputError(f"{path}, line {table.line_num}: track must be a whole number: {error}") from error


def file_name(camera: str, cut: Cut) -> str:
    """File name of a crop: camera, track and frame.

    >>> file_name("door", Cut(123, 7, 0, 1, 0, 1, 0.9))
    'door_0007_000123.jpg'
    """
    return f"{camera}_{cut.track:04d}_{cut.frame:06d}.jpg"


def cut_out(camera: Camera, cuts: Sequence[Cut], folder: Path, *, progress: bool) -> Mapping[int, str]:
    """Writes the crops of one camera; returns an error text per frame, empty if it was cut.

    One thread decodes, others encode and write.
    """
    by_frame: dict[int, list[Cut]] = {}
    for cut in cuts:
        by_frame.setdefault(cut.frame, []).append(cut)
    done: dict[int, str] = {}
    waiting: deque[Future[None]] = deque()
    frames = tqdm(
        camera.footage.frames(by_frame), total=len(by_frame), unit=" frames", desc=camera.name, disable=not progress
    )
    with ThreadPoolExecutor(THREADS) as pool:
        for frame, picture in frames:
            done[frame] = "the frame is broken" if picture is None else ""
            if picture is not None:
                waiting.append(pool.submit(write_crops, folder, camera.name, picture, by_frame[frame]))
            while len(waiting) > WAITING:
                waiting.popleft().result()
        for future in waiting:
            future.result()
    return done


def write_crops(folder: Path, camera: str, frame: Pixels, cuts: Sequence[Cut]) -> None:
    """Writes the crops of a frame ``(h, w, 3)`` BGR as JPEG."""
    for cut in cuts:
        _, data = cv2.imencode(".jpg", frame[cut.top : cut.bottom, cut.left : cut.right], QUALITY)
        (folder / file_name(camera, cut)).write_bytes(data.tobytes())


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Writes a CSV file."""
    with path.open("w", newline="", encoding="utf-8") as file:
        lines = csv.writer(file)
        lines.writerow(columns)
        lines.writerows(rows)


@contextmanager
def atomic_folder(output: Path) -> Iterator[Path]:
    """A temporary folder that becomes ``output``, or its content if it is there, at the end; removed after an error."""
    output = output.resolve()
    is_there = output.is_dir()  # it may be a mounted folder, which cannot be replaced
    home = output if is_there else output.parent
    home.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{output.name}.partial-", dir=home))
    try:
        partial.chmod(0o755)
        yield partial
        if is_there:
            for file in partial.iterdir():
                file.rename(output / file.name)
        else:
            partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
