"""Readers of all benchmarks: find training pictures, queries and gallery in a data directory."""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from aelm.data.folder import folder
from aelm.data.layouts import OFFICIAL, find_root, subfolders
from aelm.data.listing import MARKET_NAME, first_few, read_folder, refuse_names, walk_pictures
from aelm.data.matlab import cuhk03, mars
from aelm.types import Benchmark, InputError, Picture

_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
# The camera is the third field: 0000_000_01_0303morning_0015_0.jpg.
_NAME = re.compile(r"(?P<pid>\d+)_\d+_(?P<camid>\d+)_")


def msmt17(root: str | Path, include_val: bool = False) -> Benchmark:
    """MSMT17 (Wei et al., CVPR 2018): 15 cameras; version 1, or version 2 with masked faces.

    Identities come from the lists, cameras from the file names. Training and test identities are both numbered from 0:
    the same number is not the same person.

    Args:
        root: The data directory; finds ``MSMT17_V1/{train,test}``, ``MSMT17_V2/{mask_train_v2,mask_test_v2}``, either
            of them in ``msmt17/``, or the folder itself; version 1 first.
        include_val: Also train on the pictures of ``list_val.txt``. torchreid, fast-reid and BoT do not; TransReID and
            CLIP-ReID do. The benchmark is then named ``msmt17_with_val``; a data module gives it the name of its key.

    Raises:
        FileNotFoundError: If it is not found, or pictures of a list are missing.
        ValueError: If a line of a list is malformed, a list is empty, or file names do not give a camera.
    """
    layouts = [("train", "test", *_LISTS), ("mask_train_v2", "mask_test_v2", *_LISTS)]
    found, (train, test, *_) = find_root(root, "msmt17", ("MSMT17_V1", "MSMT17_V2", "msmt17"), layouts)
    name = "msmt17_with_val" if include_val else "msmt17"
    in_train, in_test = walk_pictures(found / train), walk_pictures(found / test)
    return Benchmark(
        name=name,
        train=_read(found, train, _LISTS[: 1 + include_val], in_train),
        query=_read(found, test, ["list_query.txt"], in_test),
        gallery=_read(found, test, ["list_gallery.txt"], in_test),
        official=OFFICIAL[name],
    )


def _read(root: Path, folder: str, lists: Sequence[str], present: Sequence[str]) -> tuple[Picture, ...]:
    """The pictures named in the lists, lines such as ``0000/0000_000_01_0303morning_0015_0.jpg 0``."""
    pids = [entry for file in lists for entry in _read_list(root / file)]
    on_disk = set(present)
    absent = [path for path, _ in pids if path not in on_disk]
    if absent:
        raise FileNotFoundError(
            f"{root / folder}: {len(absent)} of the {len(pids)} pictures in {' and '.join(lists)} are missing: "
            f"{first_few(absent)}. Unpack the archive again, with the lists that belong to it"
        )
    cameras = [(path, pid, _NAME.match(path.rsplit("/", 1)[-1])) for path, pid in pids]
    refuse_names(root / folder, [path for path, _, match in cameras if match is None], len(cameras), _NAME)
    pictures = [Picture(str(root / folder / path), pid, int(match["camid"])) for path, pid, match in cameras if match]
    return tuple(sorted(pictures))


def _read_list(file: Path) -> list[tuple[str, int]]:
    entries = []
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        path, _, pid = line.strip().rpartition(" ")
        if not path or not pid.isdecimal():
            if line.strip():
                raise InputError(f"{file}, line {number}: expected `FOLDER/PICTURE.jpg IDENTITY`, found {line!r}")
            continue
        entries.append((path.strip(), int(pid)))
    if not entries:
        raise InputError(f"{file}: expected a line for each picture, found none. Unpack the archive again")
    return entries


__all__ = [
    "MARKET_NAME",
    "cuhk03",
    "duke",
    "folder",
    "market1501",
    "market_layout",
    "mars",
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
# The archive in which Occluded-REID was published; some users also keep Occluded-Duke there.
_ICME2018 = ("ICME2018_Occluded-Person-Reidentification_datasets",)
_NO_OFFICIAL: Mapping[str, int] = MappingProxyType({})


def market1501(root: str | Path) -> Benchmark:
    """Market-1501 (Zheng et al., ICCV 2015): 6 cameras, distractors (pid 0) and junk (pid -1) in the gallery.

    Args:
        root: The data directory; finds ``Market-1501-v15.09.15/``, ``market1501/``, one inside the other, or the folder
            itself.

    Raises:
        FileNotFoundError: If it is not found, or one of its folders holds no pictures.
        ValueError: If file names do not give identity and camera.
    """
    found, _ = find_root(root, "market1501", ("Market-1501-v15.09.15", "market1501", "Market"), [MARKET_LAYOUT])
    return market_layout(found, "market1501", MARKET_NAME, OFFICIAL["market1501"])


def duke(root: str | Path) -> Benchmark:
    """DukeMTMC-reID (Zheng et al., ICCV 2017): 8 cameras, 408 distractor ids in the gallery.

    Its authors withdrew it, so this project offers no download.

    Args:
        root: The data directory; finds ``DukeMTMC-reID/``, ``dukemtmc-reid/DukeMTMC-reID/``, ``duke/``, or the folder
            itself.

    Raises:
        FileNotFoundError: If it is not found, or one of its folders holds no pictures.
        ValueError: If file names do not give identity and camera.
    """
    hint = "DukeMTMC-reID was withdrawn by its authors: there is no download, only copies that people still have."
    found, _ = find_root(root, "duke", _DUKE_FOLDERS, [MARKET_LAYOUT], hint=hint)
    return market_layout(found, "duke", _DUKE_NAME, OFFICIAL["duke"])


def occluded_duke(root: str | Path) -> Benchmark:
    """Occluded-Duke (Miao et al., ICCV 2019): a new split of Duke's pictures with occluded queries.

    File names and folders are those of DukeMTMC-reID; ``count_warnings`` reports if it is plain Duke instead.

    Args:
        root: The data directory; finds ``Occluded_Duke/``, ``Occluded-DukeMTMC-reID/``, also inside Duke's folder, or
            the folder itself.

    Raises:
        FileNotFoundError: If it is not found, or one of its folders holds no pictures.
        ValueError: If file names do not give identity and camera.
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
    """Occluded-REID (Zhuo et al., ICME 2018): test only; occluded queries, full-body gallery, one folder per identity.

    Cameras are not recorded: queries are camera 0 and the gallery camera 1, as in other projects. Published scores come
    from models trained on Market-1501.

    Args:
        root: The data directory; finds ``Occluded_REID/``, ``OccludedREID/``, or the folder itself.

    Raises:
        FileNotFoundError: If it is not found, or one of its folders holds no pictures.
        ValueError: If neither a picture's folder nor the start of its name is a number.
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
    """Partial-REID (Zheng et al., ICCV 2015): test only; partial queries, full-body gallery.

    The archive's uncropped ``occluded_body_images``, if present, become the further query set ``occluded``. Cameras as
    in :func:`occluded_reid`.

    Args:
        root: The data directory; finds ``Partial_REID/``, ``Partial-REID_Dataset/``, or the folder itself.

    Raises:
        FileNotFoundError: If it is not found, or one of its folders holds no pictures.
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
    """Reads ``bounding_box_train``, ``query`` and ``bounding_box_test`` in a folder.

    Each further folder ``query_<what>`` becomes the query set ``more_queries[<what>]`` with the same gallery.

    Args:
        root: The folder itself, without a search.
        name: Name of the benchmark.
        file_name: As for :func:`read_folder`.
        official: Published counts.

    Raises:
        FileNotFoundError: If one of the folders is missing or holds no pictures.
        ValueError: If file names do not give identity and camera.
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
    """Pictures whose identity is the number of their folder, or the number at the start of their base name."""
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


def with_distractors(given: Benchmark | Callable[[], Benchmark], folder: str | Path) -> Benchmark:
    """A benchmark whose gallery also holds all pictures below ``folder``.

    They get one new identity and one new camera, so they never match and are never ignored. The published counts of the
    gallery no longer apply and are dropped.

    Args:
        given: The benchmark, or its reader.
        folder: Pictures of people without a query, with any file names.

    Raises:
        FileNotFoundError: If the folder does not exist or holds no pictures.
    """
    base = Path(folder).expanduser()
    names = walk_pictures(base)
    benchmark = given if isinstance(given, Benchmark) else given()
    queries = [picture for split in (benchmark.query, *benchmark.more_queries.values()) for picture in split]
    everyone = [*benchmark.train, *queries, *benchmark.gallery]
    pid = max((picture.pid for picture in everyone), default=0) + 1
    camid = max((picture.camid for picture in everyone), default=0) + 1
    extra = tuple(Picture(str(base / name), pid, camid) for name in names)
    known = {Path(picture.path).name for picture in (*queries, *benchmark.gallery)}
    same = [one for one in extra if Path(one.path).name in known]
    named = first_few([Path(one.path).name for one in same])
    doubt = f"{len(same):,} of {len(extra):,} distractors have the name of a test picture: {named}. Are they copies?"
    official = {key: count for key, count in benchmark.official.items() if not key.startswith("gallery")}
    called = benchmark.names._replace(pids={**benchmark.names.pids, pid: "distractor"})
    doubts = (*benchmark.doubts, *[doubt] * bool(same))
    return benchmark._replace(gallery=benchmark.gallery + extra, official=official, names=called, doubts=doubts)


def with_multi_queries(given: Benchmark | Callable[[], Benchmark]) -> Benchmark:
    """A benchmark with the further query set ``multi_query`` if ``gt_bbox/`` lies beside its queries (Market-1501).

    The pictures there of one query's identity and camera are one track, so their features are averaged. A query without
    such pictures stays as it is.

    Args:
        given: The benchmark, or its reader.

    Raises:
        ValueError: If file names in ``gt_bbox/`` do not give identity and camera.
    """
    benchmark = given if isinstance(given, Benchmark) else given()
    boxes = Path(benchmark.query[0].path).parent.parent / "gt_bbox" if benchmark.query else Path()
    if boxes.name != "gt_bbox" or not boxes.is_dir():
        return benchmark
    groups = {picture[1:]: number for number, picture in enumerate(benchmark.query)}
    pictures = [picture for picture in read_folder(boxes, MARKET_NAME) if picture[1:] in groups]
    tracks = {picture.path: groups[picture[1:]] for picture in pictures}
    found = {picture[1:] for picture in pictures}
    pictures += [picture for picture in benchmark.query if picture[1:] not in found]
    more = {**benchmark.more_queries, "multi_query": tuple(pictures)}
    return benchmark._replace(more_queries=more, tracks={**benchmark.tracks, **tracks})
