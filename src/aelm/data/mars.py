"""Reader of MARS, in which tracks are ranked against tracks."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from aelm.data.layouts import OFFICIAL, find_root
from aelm.data.listing import first_few, walk_pictures
from aelm.types import Benchmark, InputError, Picture

LAYOUT = ("bbox_train", "bbox_test", "info")
# 0001C1T0001F001.jpg; junk is 00-1C..., distractors are 0000C...
NAME = re.compile(r"(?P<pid>\d{4}|00-1)C(?P<camid>\d)T\d+F\d+")


class Track(NamedTuple):
    """Ordered pictures of one person in one camera."""

    names: Sequence[str]
    pid: int
    camid: int


def mars(root: str | Path) -> Benchmark:
    """MARS (Zheng et al., ECCV 2016): 6 cameras; queries and gallery are tracks; has junk (pid -1) and distractors (0).

    ``Benchmark.tracks`` gives the track of each test picture. Training uses single pictures.

    Args:
        root: The data directory; finds ``MARS/`` with ``bbox_train/``, ``bbox_test/`` and ``info/``
            (``train_name.txt``, ``test_name.txt``, ``tracks_train_info.mat``, ``tracks_test_info.mat``,
            ``query_IDX.mat``), or that folder itself.

    Raises:
        FileNotFoundError: If it is not found, or pictures of the lists are missing.
        ValueError: If a list is malformed, or does not match the others.
    """
    found, _ = find_root(root, "mars", ("MARS", "mars"), [LAYOUT])
    info = found / "info"
    train = read_tracks(info / "train_name.txt", info / "tracks_train_info.mat", "track_train_info")
    test = read_tracks(info / "test_name.txt", info / "tracks_test_info.mat", "track_test_info")
    asked = {int(number) - 1 for number in read_mat(info / "query_IDX.mat", "query_IDX").ravel()}
    if not asked or not asked <= set(range(len(test))):
        raise InputError(f"{info / 'query_IDX.mat'}: expected numbers of tracks in 1 .. {len(test)}")
    query = [track for number, track in enumerate(test) if number in asked]
    gallery = [track for number, track in enumerate(test) if number not in asked]
    places = {name: number for number, track in enumerate(test) for name in track.names}
    folder = found / "bbox_test"
    return Benchmark(
        name="mars",
        train=pictures(found / "bbox_train", train),
        query=pictures(folder, query),
        gallery=pictures(folder, gallery),
        official=OFFICIAL["mars"],
        tracks={str(folder / name[:4] / name): number for name, number in places.items()},
    )


def pictures(folder: Path, tracks: Sequence[Track]) -> tuple[Picture, ...]:
    """All pictures of some tracks, sorted by file name.

    Raises:
        FileNotFoundError: If some are missing.
    """
    present = set(walk_pictures(folder))
    listed = [(f"{name[:4]}/{name}", track) for track in tracks for name in track.names]
    if absent := [name for name, _ in listed if name not in present]:
        raise FileNotFoundError(
            f"{folder}: {len(absent)} of the {len(listed)} pictures in the lists of info/ are missing: "
            f"{first_few(absent)}. Unpack the archive again"
        )
    return tuple(sorted(Picture(str(folder / name), track.pid, track.camid) for name, track in listed))


def read_tracks(names: Path, table: Path, key: str) -> list[Track]:
    """Reads tracks from a list of file names and a table of first and last index in it (from 1), pid and camera.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If the two do not match.
    """
    listed = names.read_text(encoding="utf-8").split()
    rows = read_mat(table, key)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise InputError(f"{table}: expected {key} with four columns, found {rows.shape}")
    tracks = []
    for first, last, pid, camid in rows.astype(int).tolist():
        some = listed[max(first, 1) - 1 : last]
        told = {(match["pid"], match["camid"]) if (match := NAME.match(name)) else name for name in some}
        if len(some) != last - first + 1 or told != {("00-1" if pid == -1 else f"{pid:04}", str(camid))}:
            raise InputError(
                f"{table}: the track {first} .. {last} of identity {pid} and camera {camid} does not fit {names.name} "
                f"with {len(listed)} names: {first_few(some, 2)}. Unpack the archive again"
            )
        tracks.append(Track(some, pid, camid))
    return tracks


def read_mat(path: Path, key: str) -> NDArray[Any]:
    """Reads one array of a MATLAB file.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is not a MATLAB file, or lacks the array.
    """
    if not path.is_file():
        raise FileNotFoundError(f"mars: no file {path}. Unpack info/ again")
    try:
        found: NDArray[Any] = loadmat(str(path))[key]
        return found
    except (KeyError, ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise InputError(f"{path}: expected a MATLAB file with {key}: {error}") from error
