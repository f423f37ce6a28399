"""Readers of the benchmarks that come as MATLAB files: CUHK03 in the 767/700 protocol, and MARS.

CUHK03 is read from its CUHK03-NP folders or from ``cuhk-03.mat``. In MARS tracks are ranked against tracks.
"""

import logging
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray
from scipy.io import loadmat
from scipy.io.matlab import MatReadError

from aelm.data.layouts import OFFICIAL, find_root
from aelm.data.listing import first_few, read_folder, walk_pictures
from aelm.files import hold_file
from aelm.types import Benchmark, InputError, Picture

Labels = Literal["detected", "labeled"]

_LOG = logging.getLogger(__name__)
_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")
_NP_NAME = re.compile(r"(?P<pid>\d+)_c(?P<camid>\d+)_")
# Camera pair, person of that pair, view (1 or 2), picture: 1_001_1_01.png.
_RAW_NAME = re.compile(r"\d+_\d+_(?P<camid>\d)_\d+\.png")
_SHOTS_OF_FIRST_VIEW = 5
# Errors of scipy for a file of another kind, or a broken one.
_NO_MATLAB = (MatReadError, LookupError, NotImplementedError, TypeError, ValueError, zlib.error)


def cuhk03(root: str | Path, labels: Labels = "detected") -> Benchmark:
    """CUHK03 (Li et al., CVPR 2014) as split by Zhong et al., CVPR 2017: 767 identities train, 700 test.

    The older protocol (20 splits, one gallery picture per identity) is not comparable and not offered.

    Args:
        root: The data directory, with ``cuhk03-np/{detected,labeled}/``, or ``cuhk03/`` with ``cuhk-03.mat`` (also in
            ``cuhk03_release/``) and ``cuhk03_new_protocol_config_{detected,labeled}.mat``. On first use the pictures of
            the ``.mat`` are written as PNG to ``images_{detected,labeled}/`` beside it.
        labels: Boxes from a detector, or drawn by hand.

    Raises:
        FileNotFoundError: If it is not found, or pictures of the protocol are missing.
        ValueError: If ``labels`` is another word, a ``.mat`` has the wrong content, or file names do not match.
        OSError: If the pictures of the ``.mat`` cannot be written.
    """
    if labels not in get_args(Labels):
        raise InputError(f"`labels` must be 'detected' or 'labeled', got {labels!r}")
    name = f"cuhk03_{labels}"
    # The user may name cuhk03-np/detected itself.
    data_dir = Path(root).expanduser().parent if Path(root).name == labels else Path(root)
    found, layout = find_root(data_dir, name, ("cuhk03-np", "cuhk03"), _layouts(labels))
    if layout[0].endswith("bounding_box_train"):
        train, query, gallery = (read_folder(found / labels / folder, _NP_NAME) for folder in _FOLDERS)
    else:
        source, config = found / layout[0], found / layout[1]
        images = extract(source, labels) if source.suffix == ".mat" else source
        train, query, gallery = _read_protocol(config, images)
    return Benchmark(name=name, train=train, query=query, gallery=gallery, official=OFFICIAL[name])


def extract(mat: Path, labels: Labels) -> Path:
    """Writes the pictures of ``cuhk-03.mat`` as PNG to ``images_<labels>`` beside it, all or none.

    Returns:
        The folder; an existing one is kept.

    Raises:
        ValueError: If the file is not HDF5, or lacks the cell array.
        OSError: If the folder cannot be written.
    """
    target = mat.parent / f"images_{labels}"
    if target.is_dir():
        return target
    with hold_file(target, "data_dir", wait=True) as is_alone:
        if target.is_dir():  # written meanwhile by another process
            return target
        if is_alone:
            for left in mat.parent.glob(f".{target.name}.partial-*"):
                shutil.rmtree(left, ignore_errors=True)
        _LOG.info("Writing the pictures of %s to %s, once", mat, target)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=mat.parent))
        try:
            for file, image in _pictures_of(mat, labels):
                if not cv2.imwrite(str(partial / file), image[:, :, ::-1]):
                    raise OSError(f"{partial / file}: could not write this picture of {mat}; is the disk full?")
            partial.chmod(0o755)
            try:
                partial.rename(target)
            except OSError:
                # Another process was faster and wrote the same pictures.
                if not target.is_dir():
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def _layouts(labels: Labels) -> list[tuple[str, ...]]:
    config = f"cuhk03_new_protocol_config_{labels}.mat"
    mats = [(f"{folder}cuhk-03.mat", f"{place}{config}") for folder, place in _PLACES]
    images = [(f"{folder}images_{labels}", f"{place}{config}") for folder, place in _PLACES]
    return [tuple(f"{labels}/{folder}" for folder in _FOLDERS), *images, *mats]


_PLACES = (("cuhk03_release/", ""), ("", ""), ("cuhk03_release/", "cuhk03_release/"), ("", "cuhk03_release/"))


def _pictures_of(mat: Path, labels: Labels) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """Name and RGB picture ``(H, W, 3)`` of each filled cell: camera pair, person, five shots of each view."""
    if not h5py.is_hdf5(mat):
        raise InputError(f"{mat}: expected an HDF5 file (Matlab 7.3), found something else; download it again")
    with h5py.File(mat, "r") as file:
        if labels not in file:
            raise InputError(f"{mat}: expected a cell array {labels!r}, found {first_few(sorted(file))}")
        for pair, pair_cell in enumerate(file[labels][()].ravel(), start=1):
            # Matlab stores arrays in column order, so every array is transposed.
            for person, shots in enumerate(file[pair_cell][()].T, start=1):
                for shot, cell in enumerate(shots):
                    image = file[cell][()].T
                    if image.ndim == 3:  # an empty cell has fewer axes
                        view = 1 if shot < _SHOTS_OF_FIRST_VIEW else 2
                        yield f"{pair}_{person:03d}_{view}_{shot + 1:02d}.png", image


class _Protocol(NamedTuple):
    files: list[str]
    pids: list[int]
    splits: dict[str, list[int]]


def _read_protocol(config: Path, images: Path) -> tuple[tuple[Picture, ...], ...]:
    """Training, query and gallery pictures; camera is the view of the pair."""
    protocol = _load_protocol(config)
    present = {path.name for path in images.iterdir()}
    used = sorted({protocol.files[i] for indices in protocol.splits.values() for i in indices})
    absent = [file for file in used if file not in present]
    if absent:
        raise FileNotFoundError(
            f"{images}: {len(absent)} of the {len(used)} pictures in {config.name} are missing: {first_few(absent)}. "
            "Remove this folder, so that it is written again from cuhk-03.mat"
        )
    return tuple(
        tuple(sorted(_picture(images, protocol, config, i) for i in indices)) for indices in protocol.splits.values()
    )


def _picture(images: Path, protocol: _Protocol, config: Path, i: int) -> Picture:
    file = protocol.files[i]
    match = _RAW_NAME.fullmatch(file)
    if match is None:
        raise InputError(f"{config}: expected pictures named like 1_001_1_01.png, found {file!r}")
    return Picture(str(images / file), protocol.pids[i], int(match["camid"]))


def _load_protocol(config: Path) -> _Protocol:
    try:
        mat = loadmat(str(config))
    except _NO_MATLAB as error:
        raise InputError(
            f"{config}: expected a Matlab file, found something else ({type(error).__name__}: {error}). "
            "Download the protocol again"
        ) from error
    wanted = ("filelist", "labels", "train_idx", "query_idx", "gallery_idx")
    absent = [key for key in wanted if key not in mat]
    if absent:
        held = sorted(key for key in mat if not key.startswith("__"))
        raise InputError(
            f"{config}: expected {', '.join(wanted)}; {', '.join(absent)} missing, found {first_few(held)}"
        )
    files = [str(np.asarray(cell).item()) for cell in mat["filelist"].ravel()]
    pids = [int(pid) for pid in mat["labels"].ravel()]
    # Matlab counts from 1.
    splits = {key: [int(i) - 1 for i in mat[key].ravel()] for key in wanted[2:]}
    out_of_range = [i + 1 for indices in splits.values() for i in indices if not 0 <= i < len(files)]
    if len(pids) != len(files) or out_of_range:
        raise InputError(
            f"{config}: expected a label for each of {len(files)} files and indices in 1..{len(files)}, found "
            f"{len(pids)} labels and, out of range, {first_few(out_of_range) or 'nothing'}. Download the protocol again"
        )
    return _Protocol(files, pids, splits)


MARS_LAYOUT = ("bbox_train", "bbox_test", "info")
# 0001C1T0001F001.jpg; junk is 00-1C..., distractors are 0000C...
MARS_NAME = re.compile(r"(?P<pid>\d{4}|00-1)C(?P<camid>\d)T\d+F\d+")


class Track(NamedTuple):
    """Ordered pictures of one person in one camera."""

    names: Sequence[str]
    pid: int
    camid: int


def mars(root: str | Path) -> Benchmark:
    """MARS (Zheng et al., ECCV 2016): 6 cameras; queries and gallery are tracks; has junk (pid -1) and distractors (0).

    As in the authors' code, the gallery is every track of the test, the queries too: without them 140 of the 1,980
    queries have no match. ``Benchmark.tracks`` gives the track of each test picture. Training uses single pictures.

    Args:
        root: The data directory; finds ``MARS/`` with ``bbox_train/``, ``bbox_test/`` and ``info/``
            (``train_name.txt``, ``test_name.txt``, ``tracks_train_info.mat``, ``tracks_test_info.mat``,
            ``query_IDX.mat``), or that folder itself.

    Raises:
        FileNotFoundError: If it is not found, or pictures of the lists are missing.
        ValueError: If a list is malformed, or does not match the others.
    """
    found, _ = find_root(root, "mars", ("MARS", "mars"), [MARS_LAYOUT])
    info = found / "info"
    train = read_tracks(info / "train_name.txt", info / "tracks_train_info.mat", "track_train_info")
    test = read_tracks(info / "test_name.txt", info / "tracks_test_info.mat", "track_test_info")
    asked = {int(number) - 1 for number in read_mat(info / "query_IDX.mat", "query_IDX").ravel()}
    if not asked or not asked <= set(range(len(test))):
        raise InputError(f"{info / 'query_IDX.mat'}: expected numbers of tracks in 1 .. {len(test)}")
    query = [track for number, track in enumerate(test) if number in asked]
    places = {name: number for number, track in enumerate(test) for name in track.names}
    folder = found / "bbox_test"
    return Benchmark(
        name="mars",
        train=pictures_of_tracks(found / "bbox_train", train),
        query=pictures_of_tracks(folder, query),
        gallery=pictures_of_tracks(folder, test),
        official=OFFICIAL["mars"],
        tracks={str(folder / name[:4] / name): number for name, number in places.items()},
    )


def pictures_of_tracks(folder: Path, tracks: Sequence[Track]) -> tuple[Picture, ...]:
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
        told = {(match["pid"], match["camid"]) if (match := MARS_NAME.match(name)) else name for name in some}
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
    except _NO_MATLAB as error:
        raise InputError(f"{path}: expected a MATLAB file with {key}: {error}") from error
