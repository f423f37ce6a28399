"""Tiny trees of the benchmarks, with the real folders and file names, distractors, junk and stray files among them.

Each function fills one folder and returns it. Pictures are a few pixels of one grey: only names matter.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

import cv2
import h5py
import numpy as np
from scipy.io import savemat

MARKET_FOLDERS = ("bounding_box_train", "query", "bounding_box_test")

MARKET = {
    "bounding_box_train": ["0002_c1s1_000451_03.jpg", "0002_c2s1_000301_01.jpg", "0007_c3s3_077419_03.jpg"],
    "query": ["0001_c1s1_001051_00.jpg", "0003_c6s3_097842_00.jpg"],
    "bounding_box_test": [
        "-1_c1s1_000401_03.jpg",
        "-1_c3s2_105278_05.jpg",
        "0000_c1s1_000151_01.jpg",
        "0000_c5s1_000176_02.jpg",
        "0000_c6s4_002427_07.jpg",
        "0001_c2s1_000301_00.jpg",
        "0001_c1s1_001051_03.jpg",
        "0003_c4s6_015641_02.jpg",
    ],
}
DUKE = {
    "bounding_box_train": ["0001_c2_f0046182.jpg", "0001_c5_f0051341.jpg", "0009_c8_f0000123.jpg"],
    "query": ["0005_c2_f0046985.jpg", "0033_c1_f0057706.jpg"],
    "bounding_box_test": [
        "0005_c5_f0051781.jpg",
        "0005_c2_f0047105.jpg",
        "0033_c6_f0046250.jpg",
        "4417_c7_f0225470.jpg",  # an identity that no query has
    ],
}
CUHK03_NP = {
    "bounding_box_train": ["0003_c1_1.png", "0003_c2_6.png", "0004_c1_2.png"],
    "query": ["0001_c1_1.png", "0001_c2_7.png"],
    "bounding_box_test": ["0001_c1_21.png", "0001_c2_65.png", "0002_c2_70.png"],
}
MSMT17 = {
    "list_train.txt": ["0000/0000_000_01_0303morning_0015_0.jpg 0", "0001/0001_003_14_0303noon_0101_1.jpg 1"],
    "list_val.txt": ["0000/0000_045_07_0303morning_0042_1_ex.jpg 0"],
    "list_query.txt": ["0000/0000_002_03_0302afternoon_1211_0.jpg 0"],
    "list_gallery.txt": ["0000/0000_007_15_0303morning_0009_2.jpg 0", "0001/0001_000_05_0303noon_0007_0.jpg 1"],
}
OCCLUDED_REID = {
    "occluded_body_images": ["001/001_01.tif", "001/001_02.tif", "200/200_01.tif"],
    "whole_body_images": ["001/001_06.tif", "200/200_06.tif", "200/200_07.tif"],
}
PARTIAL_REID = {
    "partial_body_images": ["001_001.jpg", "060_005.jpg"],
    "whole_body_images": ["001_001.jpg", "060_002.jpg"],
}


@cache
def encoded(extension: str) -> bytes:
    """A picture of 2 x 4 pixels as a file of this extension holds it."""
    done, data = cv2.imencode(extension.lower(), np.full((4, 2, 3), 127, np.uint8))
    assert done
    return data.tobytes()


def fill(folder: Path, names: Iterable[str]) -> Path:
    """Write a picture of each of these names, folders in between included."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(path.suffix))
    return folder


def folders(root: Path, names: Mapping[str, Iterable[str]]) -> Path:
    """Fill several folders, each with the stray files that the official archives hold."""
    for folder, files in names.items():
        fill(root / folder, files)
        (root / folder / "Thumbs.db").write_bytes(b"thumbs")
        (root / folder / "._0002_c1s1_000451_03.jpg").write_bytes(b"macOS")
    (root / "readme.txt").write_text("read me")
    return root


def market1501(root: Path) -> Path:
    """Market-1501 with 3 training pictures, 2 queries, 2 junk pictures and 3 distractors."""
    fill(root / "gt_bbox", ["0001_c1s1_001051_00.jpg.jpg"])
    return folders(root, MARKET)


def duke(root: Path) -> Path:
    """DukeMTMC-reID (or Occluded-Duke, whose names are the same) with one distractor."""
    return folders(root, DUKE)


def cuhk03_np(root: Path, labels: Iterable[str] = ("detected", "labeled")) -> Path:
    """CUHK03-NP."""
    for kind in labels:
        folders(root / kind, CUHK03_NP)
    return root


def msmt17(root: Path, version: int = 1) -> Path:
    """MSMT17, version 1 or 2, with its lists."""
    train, test = ("train", "test") if version == 1 else ("mask_train_v2", "mask_test_v2")
    for file, lines in MSMT17.items():
        fill(
            root / (train if file in ("list_train.txt", "list_val.txt") else test), [line.split()[0] for line in lines]
        )
        (root / file).write_text("\n".join(lines) + "\n")
    fill(root / train, ["0001/0001_009_02_0303noon_0500_0.jpg"])  # in no list
    return root


def occluded_reid(root: Path) -> Path:
    """Occluded-REID, one folder per identity."""
    return folders(root, OCCLUDED_REID)


def partial_reid(root: Path) -> Path:
    """Partial-REID, without the uncropped pictures."""
    return folders(root, PARTIAL_REID)


CUHK03_PERSONS = (3, 2)
"""Persons of each pair of cameras in the tiny ``cuhk-03.mat``."""


def cuhk03_shots() -> dict[str, np.ndarray]:
    """File name -> RGB picture of the tiny ``cuhk-03.mat``; sizes and values all differ."""
    generator = np.random.default_rng(0)
    shots = {}
    for pair, persons in enumerate(CUHK03_PERSONS, start=1):
        for person in range(1, persons + 1):
            for shot in (1, 3, 6, 9):  # the other six cells are empty, as many are in the real file
                size = (3 + person, 2 + pair, 3)
                shots[f"{pair}_{person:03d}_{1 if shot <= 5 else 2}_{shot:02d}.png"] = generator.integers(
                    0, 256, size, np.uint8
                )
    return shots


def cuhk03_mat(file: Path) -> Path:
    """A Matlab 7.3 file: per kind of box a cell array of pairs, each a cell array (persons, 10) of pictures."""
    file.parent.mkdir(parents=True, exist_ok=True)
    shots = cuhk03_shots()
    with h5py.File(file, "w", userblock_size=512) as mat:
        empty = mat.create_dataset("#refs#/empty", data=np.zeros(2, np.uint64))
        empty.attrs["MATLAB_empty"] = 1
        for kind in ("detected", "labeled"):
            pairs = mat.create_dataset(kind, (1, len(CUHK03_PERSONS)), dtype=h5py.ref_dtype)
            for pair, persons in enumerate(CUHK03_PERSONS, start=1):
                cells = mat.create_dataset(f"#refs#/{kind}{pair}", (10, persons), dtype=h5py.ref_dtype)
                cells[...] = np.full((10, persons), empty.ref)
                for name, image in shots.items():
                    if name.startswith(f"{pair}_"):
                        _, person, _, shot = name.removesuffix(".png").split("_")
                        stored = mat.create_dataset(f"#refs#/{kind}_{name}", data=image.T)  # columns first
                        cells[int(shot) - 1, int(person) - 1] = stored.ref
                pairs[0, pair - 1] = cells.ref
    return file


def cuhk03_protocol(file: Path) -> Path:
    """The 767/700 protocol in small: person 1 trains, persons 2 and 4 are asked for, 3 and 5 only fill the gallery."""
    file.parent.mkdir(parents=True, exist_ok=True)
    names = sorted(cuhk03_shots())
    files = np.empty((len(names), 1), dtype=object)
    files[:, 0] = names
    labels = [1 + (int(name.split("_")[1]) - 1) + (3 if name[0] == "2" else 0) for name in names]
    at = [(i + 1, pid, name[-6:-4]) for i, (pid, name) in enumerate(zip(labels, names, strict=True))]
    query = [i for i, pid, shot in at if pid in (2, 4) and shot in ("01", "06")]
    gallery = [i for i, pid, _ in at if pid > 1 and i not in query]
    savemat(
        file,
        {
            "filelist": files,
            "labels": np.array(labels, np.uint16)[:, None],
            "train_idx": np.array([i for i, pid, _ in at if pid == 1], np.uint16)[:, None],
            "query_idx": np.array(query, np.uint16)[:, None],
            "gallery_idx": np.array(gallery, np.uint16)[:, None],
        },
    )
    return file


def cuhk03_raw(root: Path, release: str = "cuhk03_release") -> Path:
    """CUHK03 as downloaded: ``cuhk-03.mat`` in ``release``, the protocols beside it or above."""
    cuhk03_mat(root / release / "cuhk-03.mat")
    for kind in ("detected", "labeled"):
        cuhk03_protocol(root / f"cuhk03_new_protocol_config_{kind}.mat")
    return root
