"""Frames of a camera, from a video file or a folder of pictures, and the boxes of tracks in them."""

import csv
import itertools
import math
import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from aelm.data.decoding import BadImageError, Pixels, decode, read_bytes, read_header
from aelm.data.listing import is_picture
from aelm.data.sources import LISTS
from aelm.types import InputError

ENDED = 25  # this many consecutive undecodable frames count as the end of a video


class Footage(ABC):
    """Numbered frames of the same size.

    Attributes:
        path: File or folder.
        size: Height and width.
        fps: Frames per second.
        first: Number of the first frame.
    """

    path: Path
    size: tuple[int, int]
    fps: float
    first: int

    @abstractmethod
    def has(self, frame: int) -> bool:
        """Whether a frame of this number should exist."""

    @abstractmethod
    def frames(self, wanted: Collection[int]) -> Iterator[tuple[int, Pixels | None]]:
        """The requested frames in order, ``(height, width, 3)`` uint8 BGR; None for a broken frame.

        The iterator stops early if the video does.
        """

    def time(self, frame: int) -> float:
        """Seconds since the first frame."""
        return (frame - self.first) / self.fps


def open_footage(path: str | Path, fps: float | None = None) -> Footage:
    """Opens a video, or a folder of frames.

    Args:
        path: The file or folder.
        fps: Frames per second; None to use the video's rate; required for folders.

    Raises:
        FileNotFoundError: If the path does not exist, or the folder holds no pictures.
        ValueError: If it cannot be opened as a video, or its frame rate is unknown.
    """
    path = Path(path)
    if fps is not None and not 0 < fps < math.inf:
        raise InputError(f"`fps` must be positive, got {fps}")
    if path.is_dir():
        return Folder(path, fps)
    if not path.is_file():
        raise FileNotFoundError(f"no video {path}; expected a video file, or a folder of frames")
    if path.suffix.lower() in LISTS:  # FFmpeg would render the text as video
        raise InputError(
            f"`video`: {path} is text; `boxes` is where boxes go, `video` names a video or a folder of frames"
        )
    return Video(path, fps)


class Video(Footage):
    """The frames of a video file, from 1, decoded by OpenCV."""

    def __init__(self, path: Path, fps: float | None) -> None:
        self.path, self.first = path, 1
        self.capture = cv2.VideoCapture(str(path))
        height, width = (self.capture.get(p) for p in (cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_WIDTH))
        self.size = int(height), int(width)
        if not self.capture.isOpened() or min(self.size) < 1:
            raise InputError(
                f"{path} does not open as a video: not one, cut off, or of a kind that OpenCV cannot decode here. "
                f"Convert it: ffmpeg -i {path.name} -c:v libx264 {path.stem}_h264.mp4"
            )
        self.fps = self.capture.get(cv2.CAP_PROP_FPS) if fps is None else fps
        if not 0 < self.fps < 1001:
            raise InputError(f"{path} says that it has {self.fps:g} frames a second; give the number: fps=25")
        self.count = int(self.capture.get(cv2.CAP_PROP_FRAME_COUNT))

    def has(self, frame: int) -> bool:
        return frame >= 1 and (frame <= self.count or self.count <= 0)

    def frames(self, wanted: Collection[int]) -> Iterator[tuple[int, Pixels | None]]:
        last, missed, frame = max(wanted, default=0), 0, 0
        while frame < last and missed < ENDED:
            frame += 1
            # Unneeded frames are not converted to BGR.
            is_there = self.capture.grab()
            missed = 0 if is_there else missed + 1
            if frame in wanted and (is_there or frame <= self.count):
                good, picture = self.capture.retrieve() if is_there else (False, None)
                yield frame, picture if good else None
        self.capture.release()


class Folder(Footage):
    """The pictures of a folder; the last number in a name is the frame number."""

    def __init__(self, path: Path, fps: float | None) -> None:
        self.path = path
        self.files: dict[int, Path] = {}
        for file in sorted(path.iterdir()):
            if is_picture(file.name):
                number = re.findall(r"\d+", file.stem)
                if not number or int(number[-1]) in self.files:
                    other = f", as in {self.files[int(number[-1])].name}" if number else ""
                    raise InputError(
                        f"{file}: each frame's name must end in a number of its own, such as 000001{other}"
                    )
                self.files[int(number[-1])] = file
        if not self.files:
            raise FileNotFoundError(f"no picture in the folder {path}; expected frames such as 000001.jpg")
        if fps is None:
            raise InputError(f"{path} is a folder, whose frame rate nobody knows: give frames a second, such as fps=25")
        self.fps, self.first = fps, min(self.files)
        headers = (read_header(read_bytes(str(self.files[frame])).tobytes()) for frame in sorted(self.files))
        found = next((header for header in headers if header.kind), None)
        if found is None:
            raise InputError(f"none of the {len(self.files)} frames in {path} is a picture")
        self.size = (found.height, found.width)

    def has(self, frame: int) -> bool:
        return frame in self.files

    def frames(self, wanted: Collection[int]) -> Iterator[tuple[int, Pixels | None]]:
        for frame in sorted(set(wanted) & self.files.keys()):
            name = str(self.files[frame])
            try:
                picture = cv2.cvtColor(decode(read_bytes(name), name), cv2.COLOR_RGB2BGR)
            except BadImageError:
                yield frame, None
                continue
            yield frame, picture if picture.shape[:2] == self.size else None


COLUMNS = ("frame", "id", "left", "top", "width", "height", "confidence")
NEEDED = COLUMNS[:6]


class Box(NamedTuple):
    """One line of a box file, in pixels from the upper left corner of the frame; a box may exceed the frame.

    Attributes:
        frame: Frame number in the file; MOTChallenge starts at 1.
        track: Track number; negative if the file has none.
        left: Pixels.
        top: Pixels.
        width: Pixels.
        height: Pixels.
        confidence: Detector confidence; NaN if the file has none.
        line: Line number in the file, from 1.
    """

    frame: int
    track: int
    left: float
    top: float
    width: float
    height: float
    confidence: float
    line: int


class Cut(NamedTuple):
    """A crop of a frame: rows ``top:bottom`` and columns ``left:right``; ``confidence`` is NaN if unknown."""

    frame: int
    track: int
    top: int
    bottom: int
    left: int
    right: int
    confidence: float


class Omission(NamedTuple):
    """A box without a crop, and the reason."""

    frame: int
    track: int
    reason: str


class Choice(NamedTuple):
    """Selection of boxes.

    Attributes:
        every: Use only the frames 1, 1 + every, 1 + 2 every, ...
        min_height: Minimum height inside the frame, in pixels.
        min_confidence: Minimum detector confidence; None for any. Boxes without a confidence are used.
        per_track: Maximum number per track, spread over its time; None for all.
    """

    every: int = 1
    min_height: float = 0.0
    min_confidence: float | None = None
    per_track: int | None = None


def read_boxes(path: str | Path) -> list[Box]:
    """The boxes of a file, sorted by frame and track.

    Args:
        path: MOTChallenge's text (frame, id, left, top, width, height, confidence; further fields are ignored;
            separated by commas or blanks), or a CSV with these column names; ``track`` is another name for ``id``.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If a line is not a box, two boxes of a frame have the same track, or no box has a track.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file of boxes {path}; expected lines of {', '.join(COLUMNS)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            lines = [(number, line) for number, line in enumerate(file, 1) if line.strip()]
        except UnicodeDecodeError as error:
            raise InputError(f"{path} is no text: expected lines of {', '.join(COLUMNS)}") from error
    order: Sequence[int | None] = [*range(len(COLUMNS))]
    if lines and re.match(r"\W*[a-z_]+\W", lines[0][1], re.IGNORECASE):  # starts with a word, not a number: a header
        order = _header(_fields(lines.pop(0)[1]), path)
    boxes = [_box(_fields(line), order, number, path) for number, line in lines]
    if not any(box.track >= 0 for box in boxes):
        raise InputError(
            f"{path} holds no track ({len(boxes)} boxes, their id negative): crops are sorted by track. Run a tracker "
            "on these detections, and give its file"
        )
    boxes.sort(key=lambda box: (box.frame, box.track, box.line))
    for one, other in itertools.pairwise(boxes):
        if one[:2] == other[:2] and one.track >= 0:
            raise InputError(
                f"{path}, lines {one.line} and {other.line}: frame {one.frame} has two boxes of track {one.track}; two "
                "tracks must not share a number"
            )
    return boxes


def _fields(line: str) -> list[str]:
    row = next(csv.reader([line])) if "," in line else line.replace(";", " ").split()
    return [field.strip() for field in row]


def _header(names: Sequence[str], path: Path) -> list[int | None]:
    known = [{"track": "id", "conf": "confidence"}.get(name.lower(), name.lower()) for name in names]
    missing = [name for name in NEEDED if name not in known]
    if missing:
        raise InputError(f"{path} lacks the column {', '.join(missing)}; it has {', '.join(names)}")
    return [known.index(name) if name in known else None for name in COLUMNS]


def _box(fields: Sequence[str], order: Sequence[int | None], line: int, path: Path) -> Box:
    cells = [fields[at] if at is not None and at < len(fields) else "" for at in order]
    try:
        frame, track, left, top, width, height = (float(cell) for cell in cells[:6])
        if not (frame.is_integer() and track.is_integer()):
            raise ValueError
        confidence = float(cells[6] or "nan")
        confidence = confidence if confidence >= 0 else math.nan  # -1 means unknown
        return Box(int(frame), int(track), left, top, width, height, confidence, line)
    except (ValueError, OverflowError):
        raise InputError(
            f"{path}, line {line}: expected {', '.join(COLUMNS)} (frame and id whole numbers), got {','.join(fields)!r}"
        ) from None


def choose(
    boxes: Sequence[Box], size: tuple[int, int], has: Callable[[int], bool], choice: Choice
) -> tuple[list[Cut], list[Omission]]:
    """The crops, sorted by frame and track, and the boxes that cannot be cut out.

    Boxes are clipped to the frame. Boxes not selected by ``choice`` are in neither list.

    Args:
        boxes: From :func:`read_boxes`.
        size: Height and width of the frames.
        has: Whether a frame number exists.
        choice: Selection of boxes.

    >>> boxes = [Box(1, 7, -4, 2, 10, 50, 0.9, 1), Box(2, 7, 0, 0, -3, 9, 0.9, 2)]
    >>> cuts, bad = choose(boxes, (40, 30), lambda frame: True, Choice())
    >>> cuts[0][:6], bad
    ((1, 7, 2, 40, 0, 6), [Omission(frame=2, track=7, reason='size -3 x 9')])
    """
    height, width = size
    tracks: defaultdict[int, list[Cut]] = defaultdict(list)
    bad: list[Omission] = []
    for box in boxes:
        if (reason := _fault(box, height, width, has)) is not None:
            bad.append(Omission(box.frame, box.track, reason))
            continue
        unsure = choice.min_confidence is not None and box.confidence < choice.min_confidence
        if unsure or (box.frame - 1) % choice.every:
            continue
        top, left = max(round(box.top), 0), max(round(box.left), 0)
        bottom, right = min(round(box.top + box.height), height), min(round(box.left + box.width), width)
        if bottom - top >= max(choice.min_height, 1) and right > left:
            tracks[box.track].append(Cut(box.frame, box.track, top, bottom, left, right, box.confidence))
    kept = [cut for cuts in tracks.values() for cut in spread(cuts, choice.per_track)]
    return sorted(kept), bad


def _fault(box: Box, height: int, width: int, has: Callable[[int], bool]) -> str | None:
    sides = (box.left, box.top, box.width, box.height)
    if box.track < 0:
        return "no track"
    if not all(map(math.isfinite, sides)):
        return "not a number"
    if box.width <= 0 or box.height <= 0:
        return f"size {box.width:g} x {box.height:g}"
    if not has(box.frame):
        return "no such frame"
    if min(box.left + box.width, width - box.left, box.top + box.height, height - box.top) < 0.5:
        return f"outside the picture of {width} x {height}"
    return None


def spread(cuts: Sequence[Cut], most: int | None) -> list[Cut]:
    """At most ``most`` cuts, from the middles of equal parts.

    >>> [cut.frame for cut in spread([Cut(f, 1, 0, 1, 0, 1, 0.9) for f in range(9)], 3)]
    [1, 4, 7]
    """
    if most is None or len(cuts) <= most:
        return list(cuts)
    return [cuts[i] for i in ((np.arange(most) + 0.5) * len(cuts) / most).astype(int)]
