"""MSMT17, which ships lists of its pictures."""

import re
from collections.abc import Sequence
from pathlib import Path

from aelm.data.official import OFFICIAL
from aelm.data.pictures import refuse_names, shown, walk_pictures
from aelm.data.roots import find_root
from aelm.types import Benchmark, Picture

_LISTS = ("list_train.txt", "list_val.txt", "list_query.txt", "list_gallery.txt")
# The camera is the third field: 0000_000_01_0303morning_0015_0.jpg.
_NAME = re.compile(r"(?P<pid>\d+)_\d+_(?P<camid>\d+)_")


def msmt17(root: str | Path, include_val: bool = False) -> Benchmark:
    """MSMT17 (Wei et al., CVPR 2018): 15 cameras; version 1, or version 2 with masked faces.

    Identity comes from the lists, camera from the file names. Training and test number their identities both from 0:
    the same number there is not the same person.

    Args:
        root: The data directory; ``MSMT17_V1/{train,test}``, ``MSMT17_V2/{mask_train_v2,mask_test_v2}``, either in
            ``msmt17/``, and the folder itself are all found, version 1 first.
        include_val: Train with the pictures of ``list_val.txt`` too. torchreid, fast-reid and BoT do not; TransReID
            and CLIP-ReID do. The benchmark is then named ``msmt17_with_val``, so that results tell.

    Raises:
        FileNotFoundError: If it is not there, or pictures of a list are missing.
        ValueError: If a line of a list is malformed, a list is empty, or file names carry no camera.
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
            f"{shown(absent)}. Unpack the archive again, with the lists that belong to it"
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
                raise ValueError(f"{file}, line {number}: expected `FOLDER/PICTURE.jpg IDENTITY`, found {line!r}")
            continue
        entries.append((path.strip(), int(pid)))
    if not entries:
        raise ValueError(f"{file}: expected a line for each picture, found none. Unpack the archive again")
    return entries
