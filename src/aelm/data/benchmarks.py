"""The benchmarks of person re-identification, as they lie on people's disks: one short function each.

Each takes the user's data directory, finds the data set beneath it under its usual names, and returns a
:class:`~aelm.types.Benchmark`. Identity and camera come from base names (or from the lists that the data set ships),
never from the path; files that are no pictures are ignored; every list is sorted by file name, so each machine and
each process numbers alike.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

from aelm.data.cuhk03 import cuhk03
from aelm.data.folder import folder
from aelm.data.msmt17 import msmt17
from aelm.data.official import OFFICIAL
from aelm.data.pictures import MARKET_NAME, read_folder, refuse_names, walk_pictures
from aelm.data.roots import find_root, subfolders
from aelm.types import Benchmark, Picture

__all__ = [
    "MARKET_NAME",
    "cuhk03",
    "duke",
    "folder",
    "market1501",
    "market_layout",
    "msmt17",
    "occluded_duke",
    "occluded_reid",
    "partial_reid",
    "read_folder",
]

MARKET_LAYOUT = ("bounding_box_train", "query", "bounding_box_test")

_DUKE_NAME = re.compile(r"(?P<pid>\d+)_c(?P<camid>\d+)_f\d+")
_PID_FIRST = re.compile(r"(?P<pid>\d+)")
_DUKE_FOLDERS = ("DukeMTMC-reID", "dukemtmc", "duke")
# The archive in which the authors of Occluded-REID gave it away; others keep Occluded-Duke there as well.
_ICME2018 = ("ICME2018_Occluded-Person-Reidentification_datasets",)
_NO_OFFICIAL: Mapping[str, int] = MappingProxyType({})


def market1501(root: str | Path) -> Benchmark:
    """Market-1501 (Zheng et al., ICCV 2015): 6 cameras, distractors (pid 0) and junk (pid -1) in the gallery.

    Args:
        root: The data directory; ``Market-1501-v15.09.15/``, ``market1501/``, one inside the other and the folder
            itself are all found.

    Raises:
        FileNotFoundError: If it is not there, or a folder of it holds no picture.
        ValueError: If file names carry no identity and camera.
    """
    found, _ = find_root(root, "market1501", ("Market-1501-v15.09.15", "market1501", "Market"), [MARKET_LAYOUT])
    return market_layout(found, "market1501", MARKET_NAME, OFFICIAL["market1501"])


def duke(root: str | Path) -> Benchmark:
    """DukeMTMC-reID (Zheng et al., ICCV 2017): 8 cameras, 408 ids of the gallery are distractors.

    Its authors withdrew it: this project has no download for it.

    Args:
        root: The data directory; ``DukeMTMC-reID/``, ``dukemtmc-reid/DukeMTMC-reID/``, ``duke/`` and the folder
            itself are all found.

    Raises:
        FileNotFoundError: If it is not there, or a folder of it holds no picture.
        ValueError: If file names carry no identity and camera.
    """
    hint = "DukeMTMC-reID was withdrawn by its authors: there is no download, only copies that people still have."
    found, _ = find_root(root, "duke", _DUKE_FOLDERS, [MARKET_LAYOUT], hint=hint)
    return market_layout(found, "duke", _DUKE_NAME, OFFICIAL["duke"])


def occluded_duke(root: str | Path) -> Benchmark:
    """Occluded-Duke (Miao et al., ICCV 2019): Duke's pictures split anew, so that every query is half hidden.

    Names and folders are those of DukeMTMC-reID; ``count_warnings`` tells when it is plain Duke that lies there.

    Args:
        root: The data directory; ``Occluded_Duke/``, ``Occluded-DukeMTMC-reID/``, also inside Duke's own folder, and
            the folder itself are all found.

    Raises:
        FileNotFoundError: If it is not there, or a folder of it holds no picture.
        ValueError: If file names carry no identity and camera.
    """
    hint = (
        "Occluded-Duke is made from DukeMTMC-reID with the lists of github.com/lightas/Occluded-DukeMTMC-Dataset; "
        "DukeMTMC was withdrawn by its authors, so there is no download of the pictures."
    )
    names = ("Occluded_Duke", "Occluded-DukeMTMC-reID", "Occluded-DukeMTMC")
    wrappings = (*_ICME2018, "Occluded-DukeMTMC-Dataset", *_DUKE_FOLDERS)
    found, _ = find_root(root, "occluded_duke", names, [MARKET_LAYOUT], wrappings=wrappings, hint=hint)
    return market_layout(found, "occluded_duke", _DUKE_NAME, OFFICIAL["occluded_duke"])


def occluded_reid(root: str | Path) -> Benchmark:
    """Occluded-REID (Zhuo et al., ICME 2018): test only; hidden queries, whole gallery, one folder per identity.

    Cameras are not recorded: queries are camera 0 and the gallery camera 1, as everybody has it. Published scores
    come from models trained on Market-1501.

    Args:
        root: The data directory; ``Occluded_REID/``, ``OccludedREID/`` and the folder itself are all found.

    Raises:
        FileNotFoundError: If it is not there, or a folder of it holds no picture.
        ValueError: If a picture lies in no numbered folder and its name starts with no number.
    """
    layout = ("occluded_body_images", "whole_body_images")
    found, _ = find_root(root, "occluded_reid", ("Occluded_REID",), [layout], wrappings=_ICME2018)
    return Benchmark(
        name="occluded_reid",
        train=(),
        query=_one_camera(found / "occluded_body_images", camid=0),
        gallery=_one_camera(found / "whole_body_images", camid=1),
        official=OFFICIAL["occluded_reid"],
    )


def partial_reid(root: str | Path) -> Benchmark:
    """Partial-REID (Zheng et al., ICCV 2015): test only; partial queries, whole gallery.

    The archive's uncropped ``occluded_body_images``, where they are, become the further query set ``occluded``.
    Cameras as in :func:`occluded_reid`.

    Args:
        root: The data directory; ``Partial_REID/``, ``Partial-REID_Dataset/`` and the folder itself are all found.

    Raises:
        FileNotFoundError: If it is not there, or a folder of it holds no picture.
        ValueError: If a picture's name does not start with a number.
    """
    layout = ("partial_body_images", "whole_body_images")
    found, _ = find_root(root, "partial_reid", ("Partial_REID", "Partial-REID_Dataset"), [layout])
    uncropped = found / "occluded_body_images"
    return Benchmark(
        name="partial_reid",
        train=(),
        query=_one_camera(found / "partial_body_images", camid=0),
        gallery=_one_camera(found / "whole_body_images", camid=1),
        more_queries={"occluded": _one_camera(uncropped, camid=0)} if uncropped.is_dir() else {},
        official=OFFICIAL["partial_reid"],
    )


def market_layout(
    root: Path,
    name: str,
    file_name: re.Pattern[str] = MARKET_NAME,
    official: Mapping[str, int] = _NO_OFFICIAL,
) -> Benchmark:
    """Read ``bounding_box_train``, ``query`` and ``bounding_box_test`` of one folder.

    Each further folder ``query_<what>`` becomes the query set ``more_queries[<what>]`` against the same gallery.

    Args:
        root: The folder itself; nothing is searched.
        name: Name of the benchmark.
        file_name: As for :func:`read_folder`.
        official: Published counts.

    Raises:
        FileNotFoundError: If one of the folders is not there or holds no picture.
        ValueError: If file names carry no identity and camera.
    """
    more = {child.name.removeprefix("query_"): child for child in subfolders(root) if child.name.startswith("query_")}
    return Benchmark(
        name=name,
        train=read_folder(root / "bounding_box_train", file_name),
        query=read_folder(root / "query", file_name),
        gallery=read_folder(root / "bounding_box_test", file_name),
        more_queries={what: read_folder(child, file_name) for what, child in more.items()},
        official=official,
    )


def _one_camera(root: Path, camid: int) -> tuple[Picture, ...]:
    """Pictures whose identity is the numbered folder they lie in, else the number that starts their base name."""
    pictures, unread = [], []
    paths = walk_pictures(root)
    for path in paths:
        parent, _, base = path.rpartition("/")
        match = re.fullmatch(r"\d+", parent) or _PID_FIRST.match(base)
        if match is None:
            unread.append(path)
        else:
            pictures.append(Picture(str(root / path), int(match[0]), camid))
    refuse_names(root, unread, len(paths), _PID_FIRST)
    return tuple(pictures)
