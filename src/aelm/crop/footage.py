"""Frames of a camera, from a video file or a folder of pictures."""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from pathlib import Path

import cv2

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
