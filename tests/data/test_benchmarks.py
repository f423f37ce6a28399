"""The benchmark readers, on tiny trees with the real names."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import trees
from scipy.io import loadmat, savemat

from aelm.data import benchmarks
from aelm.data.benchmarks import MARKET_NAME, folder, market_layout, read_folder
from aelm.types import Benchmark, Picture

MARKET_ROOTS = [
    "",
    "market1501",
    "Market-1501",
    "Market-1501-v15.09.15",
    "market1501/Market-1501-v15.09.15",
    "Market-1501-v15.09.15/Market-1501-v15.09.15",
    "Market1501",
]
DUKE_ROOTS = ["", "DukeMTMC-reID", "dukemtmc-reid/DukeMTMC-reID", "dukemtmcreid", "duke", "dukemtmc"]
OCCLUDED_DUKE_ROOTS = [
    "",
    "Occluded_Duke",
    "occluded-dukemtmc-reid",
    "occluded_dukeMTMC",
    "OccludedDuke/Occluded-DukeMTMC-reID",
    "dukemtmcreid/Occluded_Duke",
    "ICME2018_Occluded-Person-Reidentification_datasets/Occluded_Duke",
]
CUHK03_NP_ROOTS = ["", "cuhk03-np", "CUHK03-NP", "cuhk03", "cuhk03/cuhk03-np"]
MSMT17_ROOTS = ["", "msmt17", "MSMT17", "MSMT17_V{}", "msmt17/MSMT17_V{}"]
OCCLUDED_REID_ROOTS = ["", "Occluded_REID", "occluded-reid", "OccludedREID", "occluded_reid/Occluded_REID"]
PARTIAL_REID_ROOTS = ["", "Partial_REID", "PartialREID", "Partial-REID_Dataset", "partial_reid/Partial-REID_Dataset"]


def facts(pictures: tuple[Picture, ...]) -> list[tuple[str, int, int]]:
    return [(Path(path).name, pid, camid) for path, pid, camid in pictures]


def assert_well_formed(benchmark: Benchmark) -> None:
    """Every picture is a file, every list is sorted, nothing stands in a list twice."""
    for pictures in (benchmark.train, benchmark.query, benchmark.gallery, *benchmark.more_queries.values()):
        paths = [picture.path for picture in pictures]
        assert paths == sorted(set(paths))
        assert all(os.path.isfile(path) and os.path.isabs(path) for path in paths)


def twin(names: list[str], pattern: str) -> list[tuple[str, int, int]]:
    """Base name, pid and camid the slow way: cut by hand."""
    cut = []
    for name in sorted(names):
        pid, rest = name.split("_c", 1)
        cut.append((name, int(pid), int(rest[0])))
    assert all(re.match(pattern, name) for name in names)
    return cut


@pytest.mark.parametrize("at", MARKET_ROOTS)
def test_market_is_found_and_read_under_every_usual_root(tmp_path: Path, at: str) -> None:
    trees.market1501(tmp_path / at)
    benchmark = benchmarks.market1501(tmp_path)
    assert_well_formed(benchmark)
    assert benchmark.name == "market1501"
    assert facts(benchmark.train) == [
        ("0002_c1s1_000451_03.jpg", 2, 1),
        ("0002_c2s1_000301_01.jpg", 2, 2),
        ("0007_c3s3_077419_03.jpg", 7, 3),
    ]
    assert facts(benchmark.query) == [("0001_c1s1_001051_00.jpg", 1, 1), ("0003_c6s3_097842_00.jpg", 3, 6)]
    assert [picture.pid for picture in benchmark.gallery] == [-1, -1, 0, 0, 0, 1, 1, 3]
    assert [picture.camid for picture in benchmark.gallery] == [1, 3, 1, 5, 6, 1, 2, 4]
    assert benchmark.official["train images"] == 12936


@pytest.mark.parametrize("at", DUKE_ROOTS)
def test_duke_is_found_and_read_under_every_usual_root(tmp_path: Path, at: str) -> None:
    trees.duke(tmp_path / at)
    benchmark = benchmarks.duke(str(tmp_path))
    assert_well_formed(benchmark)
    for pictures, folder_name in zip(
        (benchmark.train, benchmark.query, benchmark.gallery), trees.MARKET_FOLDERS, strict=True
    ):
        assert facts(pictures) == twin(trees.DUKE[folder_name], r"\d{4}_c\d_f\d{7}\.jpg")


@pytest.mark.parametrize("at", OCCLUDED_DUKE_ROOTS)
def test_occluded_duke_is_found_and_read_under_every_usual_root(tmp_path: Path, at: str) -> None:
    trees.duke(tmp_path / at)
    benchmark = benchmarks.occluded_duke(tmp_path)
    assert_well_formed(benchmark)
    assert (len(benchmark.train), len(benchmark.query), len(benchmark.gallery)) == (3, 2, 4)
    assert benchmark.official["query images"] == 2210


def test_of_several_copies_the_preferred_name_wins_and_the_directory_itself_comes_last(tmp_path: Path) -> None:
    for at in ("", "market1501", "Market-1501-v15.09.15", "market1501/market1501"):
        trees.market1501(tmp_path / at)
    assert Path(benchmarks.market1501(tmp_path).query[0].path).parent == tmp_path / "Market-1501-v15.09.15" / "query"
    assert Path(benchmarks.market1501(tmp_path / "market1501").query[0].path).parts[-4:-2] == (
        "market1501",
        "market1501",
    )
    for at in ("duke", "dukemtmc-reid"):
        trees.duke(tmp_path / at)
    assert Path(benchmarks.duke(tmp_path).query[0].path).parent == tmp_path / "dukemtmc-reid" / "query"


def test_duke_and_occluded_duke_side_by_side_are_not_taken_for_each_other(tmp_path: Path) -> None:
    trees.duke(tmp_path / "dukemtmcreid" / "DukeMTMC-reID")
    trees.fill(tmp_path / "dukemtmcreid" / "Occluded_Duke" / "query", ["0042_c1_f0000001.jpg"])
    trees.duke(tmp_path / "dukemtmcreid" / "Occluded_Duke")
    assert 42 not in {picture.pid for picture in benchmarks.duke(tmp_path).query}
    assert 42 in {picture.pid for picture in benchmarks.occluded_duke(tmp_path).query}


def test_occluded_duke_inside_dukes_own_folder_is_not_taken_for_duke(tmp_path: Path) -> None:
    trees.duke(tmp_path / "dukemtmcreid" / "Occluded_Duke")
    with pytest.raises(FileNotFoundError, match="withdrawn by its authors"):
        benchmarks.duke(tmp_path)


@pytest.mark.parametrize("at", CUHK03_NP_ROOTS)
@pytest.mark.parametrize("labels", ["detected", "labeled"])
def test_cuhk03_np_is_found_and_read_under_every_usual_root(tmp_path: Path, at: str, labels: str) -> None:
    trees.cuhk03_np(tmp_path / at)
    benchmark = benchmarks.cuhk03(tmp_path, labels)
    assert_well_formed(benchmark)
    assert benchmark.name == f"cuhk03_{labels}"
    assert facts(benchmark.gallery) == [("0001_c1_21.png", 1, 1), ("0001_c2_65.png", 1, 2), ("0002_c2_70.png", 2, 2)]
    assert all(Path(picture.path).parts[-3] == labels for picture in benchmark.train)


def test_cuhk03_np_may_be_named_with_its_kind_of_boxes_and_hold_jpeg(tmp_path: Path) -> None:
    names = {at: [name.replace(".png", ".JPG") for name in files] for at, files in trees.CUHK03_NP.items()}
    trees.folders(tmp_path / "labeled", names)
    assert len(benchmarks.cuhk03(tmp_path / "labeled", "labeled").train) == 3
    with pytest.raises(FileNotFoundError, match="detected/bounding_box_train"):
        benchmarks.cuhk03(tmp_path / "labeled", "detected")
    with pytest.raises(ValueError, match="`labels` must be 'detected' or 'labeled', got 'hand'"):
        benchmarks.cuhk03(tmp_path, "hand")


@pytest.mark.parametrize("release", ["cuhk03_release", ""])
@pytest.mark.parametrize("at", ["", "cuhk03", "CUHK03"])
def test_cuhk03_is_read_from_its_mat(tmp_path: Path, at: str, release: str) -> None:
    trees.cuhk03_raw(tmp_path / at, release)
    benchmark = benchmarks.cuhk03(tmp_path)
    assert_well_formed(benchmark)
    shots = trees.cuhk03_shots()
    for picture in (*benchmark.train, *benchmark.query, *benchmark.gallery):
        # The picture itself: neither transposed nor with red and blue swapped.
        np.testing.assert_array_equal(cv2.imread(picture.path)[:, :, ::-1], shots[Path(picture.path).name])
    assert facts(benchmark.train) == [
        ("1_001_1_01.png", 1, 1),
        ("1_001_1_03.png", 1, 1),
        ("1_001_2_06.png", 1, 2),
        ("1_001_2_09.png", 1, 2),
    ]
    assert facts(benchmark.query) == [
        ("1_002_1_01.png", 2, 1),
        ("1_002_2_06.png", 2, 2),
        ("2_001_1_01.png", 4, 1),
        ("2_001_2_06.png", 4, 2),
    ]
    assert {(pid, camid) for _, pid, camid in facts(benchmark.gallery)} == {
        (p, c) for p in (2, 3, 4, 5) for c in (1, 2)
    }
    assert len(benchmark.gallery) == 2 * 2 + 2 * 4


def test_cuhk03_is_extracted_once_and_needs_the_mat_no_more(tmp_path: Path) -> None:
    root = trees.cuhk03_raw(tmp_path / "cuhk03")
    first = benchmarks.cuhk03(tmp_path)
    images = root / "cuhk03_release" / "images_detected"
    assert sorted(path.name for path in images.iterdir()) == sorted(trees.cuhk03_shots())
    assert images.stat().st_mode & 0o055 == 0o055  # others of the group can read it
    stamps = {path: path.stat().st_mtime_ns for path in images.iterdir()}
    (root / "cuhk03_release" / "cuhk-03.mat").unlink()
    assert benchmarks.cuhk03(tmp_path) == first
    assert {path: path.stat().st_mtime_ns for path in images.iterdir()} == stamps
    # As torchreid leaves them: beside the release.
    images.rename(root / "images_detected")
    assert facts(benchmarks.cuhk03(tmp_path).query) == facts(first.query)


def test_an_interrupted_extraction_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = trees.cuhk03_raw(tmp_path, release="")
    before = sorted(path.name for path in root.iterdir())
    written = []

    def stop_at_the_third(path: str, image: np.ndarray) -> bool:
        written.append(path)
        return len(written) < 3

    monkeypatch.setattr("aelm.data.matlab.cv2.imwrite", stop_at_the_third)
    with pytest.raises(OSError, match=r"could not write this picture of .*cuhk-03\.mat"):
        benchmarks.cuhk03(tmp_path)
    assert len(written) == 3
    assert sorted(path.name for path in root.iterdir()) == before
    monkeypatch.undo()
    assert len(benchmarks.cuhk03(tmp_path).train) == 4


def test_two_processes_that_extract_at_once_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trees.cuhk03_raw(tmp_path, release="")
    rename = Path.rename

    def lose(self: Path, target: Path) -> Path:
        trees.fill(target, trees.cuhk03_shots())  # the other process is done just before us
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", lose)
    benchmark = benchmarks.cuhk03(tmp_path)
    assert len(benchmark.train) == 4
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_cuhk03_says_what_is_wrong_with_its_files(tmp_path: Path) -> None:
    root = trees.cuhk03_raw(tmp_path, release="")
    benchmarks.cuhk03(tmp_path)
    (root / "images_detected" / "1_001_1_01.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the 20 pictures .* are missing: 1_001_1_01\.png.*Remove"):
        benchmarks.cuhk03(tmp_path)

    config = root / "cuhk03_new_protocol_config_labeled.mat"
    good = {key: value for key, value in loadmat(config).items() if not key.startswith("__")}
    savemat(config, good | {"query_idx": np.array([[0], [21]])})
    with pytest.raises(ValueError, match=r"indices in 1\.\.20, found 20 labels and, out of range, 0, 21"):
        benchmarks.cuhk03(tmp_path, "labeled")
    savemat(config, {key: value for key, value in good.items() if key != "labels"})
    with pytest.raises(ValueError, match=r"labels missing, found filelist, gallery_idx"):
        benchmarks.cuhk03(tmp_path, "labeled")


def test_a_mat_of_another_kind_is_refused(tmp_path: Path) -> None:
    trees.cuhk03_raw(tmp_path, release="")
    (tmp_path / "cuhk-03.mat").write_bytes(b"<html>not found</html>")
    with pytest.raises(ValueError, match="expected an HDF5 file"):
        benchmarks.cuhk03(tmp_path)
    with h5py.File(tmp_path / "cuhk-03.mat", "w") as mat:
        mat["testsets"] = 1
    with pytest.raises(ValueError, match="expected a cell array 'detected', found testsets"):
        benchmarks.cuhk03(tmp_path)
    assert not (tmp_path / "images_detected").exists()


@pytest.mark.parametrize("at", MSMT17_ROOTS)
@pytest.mark.parametrize("version", [1, 2])
def test_msmt17_is_found_and_read_with_and_without_val(tmp_path: Path, at: str, version: int) -> None:
    trees.msmt17(tmp_path / at.format(version), version)
    benchmark = benchmarks.msmt17(tmp_path)
    assert_well_formed(benchmark)
    assert facts(benchmark.train) == [
        ("0000_000_01_0303morning_0015_0.jpg", 0, 1),
        ("0001_003_14_0303noon_0101_1.jpg", 1, 14),
    ]
    assert facts(benchmark.query) == [("0000_002_03_0302afternoon_1211_0.jpg", 0, 3)]
    assert facts(benchmark.gallery) == [
        ("0000_007_15_0303morning_0009_2.jpg", 0, 15),
        ("0001_000_05_0303noon_0007_0.jpg", 1, 5),
    ]
    with_val = benchmarks.msmt17(tmp_path, include_val=True)
    assert_well_formed(with_val)
    assert facts(with_val.train)[1] == ("0000_045_07_0303morning_0042_1_ex.jpg", 0, 7)
    assert (benchmark.name, with_val.name) == ("msmt17", "msmt17_with_val")
    assert (benchmark.official["train images"], with_val.official["train images"]) == (30248, 32621)
    assert (with_val.query, with_val.gallery) == (benchmark.query, benchmark.gallery)


def test_msmt17_says_what_is_wrong_with_its_lists(tmp_path: Path) -> None:
    root = trees.msmt17(tmp_path)
    (root / "list_train.txt").write_text("0000/0000_000_01_0303morning_0015_0.jpg 0\n0000/lost_000_01_x.jpg 0\n")
    with pytest.raises(FileNotFoundError, match=r"1 of the 2 pictures in list_train\.txt are missing: 0000/lost_"):
        benchmarks.msmt17(tmp_path)
    (root / "list_train.txt").write_text("\n0000/0000_000_01_0303morning_0015_0.jpg\n")
    with pytest.raises(
        ValueError, match=r"list_train\.txt, line 2: expected `FOLDER/PICTURE\.jpg IDENTITY`, found '0000/"
    ):
        benchmarks.msmt17(tmp_path)
    (root / "list_train.txt").write_text("\n")
    with pytest.raises(ValueError, match=r"list_train\.txt: expected a line for each picture, found none"):
        benchmarks.msmt17(tmp_path)
    trees.fill(root / "train", ["0000/nocamera.jpg"])
    (root / "list_train.txt").write_text("0000/nocamera.jpg 0\n")
    with pytest.raises(ValueError, match=r"1 of 1 file names carry no identity or camera: 0000/nocamera\.jpg"):
        benchmarks.msmt17(tmp_path)
    (root / "list_train.txt").unlink()
    with pytest.raises(FileNotFoundError, match=r"list_train\.txt"):
        benchmarks.msmt17(tmp_path)


@pytest.mark.parametrize("at", OCCLUDED_REID_ROOTS)
def test_occluded_reid_has_two_made_up_cameras(tmp_path: Path, at: str) -> None:
    trees.occluded_reid(tmp_path / at)
    benchmark = benchmarks.occluded_reid(tmp_path)
    assert_well_formed(benchmark)
    assert benchmark.train == ()
    assert facts(benchmark.query) == [("001_01.tif", 1, 0), ("001_02.tif", 1, 0), ("200_01.tif", 200, 0)]
    assert facts(benchmark.gallery) == [("001_06.tif", 1, 1), ("200_06.tif", 200, 1), ("200_07.tif", 200, 1)]


def test_occluded_reid_takes_the_identity_from_the_numbered_folder_else_from_the_name(tmp_path: Path) -> None:
    trees.fill(tmp_path / "occluded_body_images", ["007/a.tif", "008_1.tif"])
    trees.fill(tmp_path / "whole_body_images", ["007/12.tif", "front/008_2.tif"])
    benchmark = benchmarks.occluded_reid(tmp_path)
    assert [p.pid for p in benchmark.query] == [7, 8]
    assert [p.pid for p in benchmark.gallery] == [7, 8]
    trees.fill(tmp_path / "whole_body_images", ["front/x.tif"])
    with pytest.raises(ValueError, match=r"1 of 3 file names carry no identity: front/x\.tif"):
        benchmarks.occluded_reid(tmp_path)


@pytest.mark.parametrize("at", PARTIAL_REID_ROOTS)
def test_partial_reid_has_two_made_up_cameras(tmp_path: Path, at: str) -> None:
    trees.partial_reid(tmp_path / at)
    benchmark = benchmarks.partial_reid(tmp_path)
    assert_well_formed(benchmark)
    assert facts(benchmark.query) == [("001_001.jpg", 1, 0), ("060_005.jpg", 60, 0)]
    assert facts(benchmark.gallery) == [("001_001.jpg", 1, 1), ("060_002.jpg", 60, 1)]
    assert benchmark.more_queries == {}
    trees.fill(tmp_path / at / "occluded_body_images", ["001_003.jpg"])
    assert facts(benchmarks.partial_reid(tmp_path).more_queries["occluded"]) == [("001_003.jpg", 1, 0)]


@pytest.mark.parametrize(
    "reader",
    [
        benchmarks.market1501,
        benchmarks.duke,
        benchmarks.occluded_duke,
        benchmarks.cuhk03,
        benchmarks.msmt17,
        benchmarks.occluded_reid,
        benchmarks.partial_reid,
    ],
)
def test_a_missing_data_set_is_told_with_what_was_searched_and_found(
    tmp_path: Path, reader: Callable[[Path], Benchmark]
) -> None:
    trees.fill(tmp_path / "holidays", ["beach.jpg"])
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(FileNotFoundError) as caught:
        reader(tmp_path)
    message = str(caught.value)
    assert message.startswith(reader.__name__)
    assert f"Looked in {tmp_path}" in message
    assert "holidays/, notes.txt" in message
    assert "data_dir" in message
    assert ("withdrawn by its authors" in message) == ("duke" in reader.__name__)
    with pytest.raises(FileNotFoundError, match=r"found no folder .*nowhere"):
        reader(tmp_path / "nowhere")


def test_a_half_unpacked_data_set_is_told_by_what_it_lacks(tmp_path: Path) -> None:
    root = trees.market1501(tmp_path / "market1501")
    for file in (root / "query").iterdir():
        file.unlink()
    with pytest.raises(FileNotFoundError, match=r"query: expected pictures .*, found nothing"):
        benchmarks.market1501(tmp_path)
    (root / "query").rmdir()
    with pytest.raises(FileNotFoundError, match=f"{root} lacks query"):
        benchmarks.market1501(tmp_path)


def test_base_names_are_parsed_and_never_the_path(tmp_path: Path) -> None:
    root = trees.market1501(tmp_path / "exp1_c3" / "0099_c9s1_000000_00.jpg")
    assert facts(benchmarks.market1501(root).query) == [
        ("0001_c1s1_001051_00.jpg", 1, 1),
        ("0003_c6s3_097842_00.jpg", 3, 6),
    ]


def test_names_without_identity_or_camera_are_named_and_counted(tmp_path: Path) -> None:
    root = trees.market1501(tmp_path)
    trees.fill(root / "query", ["person.jpg", *(f"{i:04d}.jpg" for i in range(6))])
    with pytest.raises(ValueError, match=r"7 of 9 file names .*: 0000\.jpg, .*0004\.jpg, \.\.\. \(7 in all\)"):
        benchmarks.market1501(tmp_path)
    with pytest.raises(ValueError, match=r"carry no identity or camera: 0001_c2_f0046182\.jpg.*dataset=folder"):
        benchmarks.market1501(trees.duke(tmp_path / "elsewhere"))


def test_read_folder_takes_every_picture_format_and_ignores_the_rest(tmp_path: Path) -> None:
    names = [
        f"000{i}_c1s1_000000_00{ext}"
        for i, ext in enumerate([".jpg", ".JPEG", ".png", ".BMP", ".tif", ".tiff", ".webp"])
    ]
    trees.fill(tmp_path, names)
    for stray in ("Thumbs.db", "0001_c1s1_000000_00.txt", ".DS_Store", "._0001_c1s1_000000_00.jpg"):
        (tmp_path / stray).write_text("")
    (tmp_path / "0009_c1s1_000000_00").mkdir()
    pictures = read_folder(tmp_path, MARKET_NAME)
    assert [Path(picture.path).name for picture in pictures] == names
    with pytest.raises(FileNotFoundError, match="found no such folder"):
        read_folder(tmp_path / "nowhere", MARKET_NAME)


def test_market_layout_reads_further_query_sets(tmp_path: Path) -> None:
    root = trees.market1501(tmp_path)
    trees.fill(root / "query_occluded", ["0003_c5s1_000000_00.jpg"])
    benchmark = market_layout(root, "synthetic")
    assert benchmark.name == "synthetic"
    assert benchmark.official == {}
    assert {name: facts(pictures) for name, pictures in benchmark.more_queries.items()} == {
        "occluded": [("0003_c5s1_000000_00.jpg", 3, 5)]
    }


class TestFolder:
    """One's own pictures."""

    def test_split_folders_are_read_by_the_default_pattern(self, tmp_path: Path) -> None:
        trees.fill(tmp_path / "train", ["1_c1.jpg", "deeper/2_c12_x.png"])
        trees.fill(tmp_path / "query", ["0007_c3s1_000.jpg"])
        trees.fill(tmp_path / "gallery", ["-1_c1.jpg", "0007_c4.jpg"])
        trees.fill(tmp_path / "query_dark", ["0007_c5.jpg"])
        trees.fill(tmp_path / "rejected", ["nobody.jpg"])
        benchmark = folder(tmp_path, name="mine")
        assert_well_formed(benchmark)
        assert benchmark.name == "mine"
        assert facts(benchmark.train) == [("1_c1.jpg", 1, 1), ("2_c12_x.png", 2, 12)]
        assert facts(benchmark.query) == [("0007_c3s1_000.jpg", 7, 3)]
        assert facts(benchmark.gallery) == [("-1_c1.jpg", -1, 1), ("0007_c4.jpg", 7, 4)]
        assert facts(benchmark.more_queries["dark"]) == [("0007_c5.jpg", 7, 5)]

    def test_it_reads_markets_folders_as_the_market_reader_does(self, tmp_path: Path) -> None:
        trees.market1501(tmp_path)
        market = benchmarks.market1501(tmp_path)
        assert folder(tmp_path)[1:4] == market[1:4]

    def test_words_are_numbered_in_sorted_order_behind_numbers_and_keep_their_text(self, tmp_path: Path) -> None:
        pattern = r"(?P<pid>[^/]+)/(?P<camid>\w+)-\d+"
        trees.fill(tmp_path / "train", ["zoe/lobby-1.jpg", "12/lobby-1.jpg"])
        trees.fill(tmp_path / "query", ["ann/lobby-1.jpg"])
        trees.fill(tmp_path / "gallery", ["ann/garage-1.jpg", "-1/garage-2.jpg"])
        benchmark = folder(tmp_path, pattern=pattern)
        # 12 < ann < zoe and garage < lobby; junk stays junk.
        assert [(p.pid, p.camid) for p in benchmark.train] == [(12, 1), (14, 1)]
        assert [(p.pid, p.camid) for p in benchmark.query] == [(13, 1)]
        assert [(p.pid, p.camid) for p in benchmark.gallery] == [(-1, 0), (13, 0)]
        assert benchmark.names == ({13: "ann", 14: "zoe"}, {0: "garage", 1: "lobby"})

    def test_a_pattern_with_a_slash_never_sees_the_path_above(self, tmp_path: Path) -> None:
        trees.fill(tmp_path / "7_c7" / "query", ["3/c1.jpg"])
        trees.fill(tmp_path / "7_c7" / "gallery", ["3/c2.jpg"])
        benchmark = folder(tmp_path / "7_c7", pattern=r"(?P<pid>\d+)/c(?P<camid>\d+)")
        assert [(p.pid, p.camid) for p in (*benchmark.query, *benchmark.gallery)] == [(3, 1), (3, 2)]

    def test_without_cameras_every_match_counts_and_no_picture_matches_itself(self, tmp_path: Path) -> None:
        trees.fill(tmp_path / "train", ["1-a.jpg", "1-b.jpg", "1-c.jpg"])
        trees.fill(tmp_path / "query", ["2-a.jpg"])
        trees.fill(tmp_path / "gallery", ["2-b.jpg"])
        split = folder(tmp_path, pattern=r"(?P<pid>\d+)-")
        assert [p.camid for p in split.train] == [0, 1, 0]
        assert (split.query[0].camid, split.gallery[0].camid) == (0, 1)

        flat = folder(tmp_path / "train", pattern=r"(?P<pid>\d+)-")
        assert flat.train == ()
        assert flat.query == flat.gallery
        for query in flat.query:
            matches = [p.path for p in flat.gallery if p.pid == query.pid and p.camid != query.camid]
            assert matches == [p.path for p in flat.gallery if p.path != query.path]

    @pytest.mark.parametrize(
        "names",
        [
            ("image_train", "image_query", "image_test"),
            ("Train", "Query", "Gallery"),
            ("bbox_train", "test/query", "test/gallery"),
            ("training", "probe", "Test"),
            ("veri/image_train", "veri/image_query", "veri/image_test"),
        ],
    )
    def test_the_usual_names_of_splits_are_taken_in_any_case_and_one_folder_too_high(
        self, tmp_path: Path, names: tuple[str, ...]
    ) -> None:
        for name, file in zip(names, ("1_c1.jpg", "2_c1.jpg", "2_c2.jpg"), strict=True):
            trees.fill(tmp_path / name, [file])
        benchmark = folder(tmp_path)
        assert [facts(split) for split in (benchmark.train, benchmark.query, benchmark.gallery)] == [
            [("1_c1.jpg", 1, 1)], [("2_c1.jpg", 2, 1)], [("2_c2.jpg", 2, 2)]
        ]  # fmt: skip
        assert benchmark.doubts == ()

    def test_folders_by_unknown_names_are_not_ranked_against_each_other(self, tmp_path: Path) -> None:
        trees.fill(tmp_path / "learn", ["1_c1.jpg"])
        trees.fill(tmp_path / "ask", ["2_c1.jpg", "2_c2.jpg"])
        with pytest.raises(ValueError, match=r"expected the folders train, query, .* found ask, learn in .*flat=test"):
            folder(tmp_path)
        assert len(folder(tmp_path, flat="test").query) == 3
        trees.fill(tmp_path / "my_train", ["3/c1.jpg"])
        with pytest.raises(ValueError, match=r"expected the folders .* found my_train"):
            folder(tmp_path, pattern=r"(?P<pid>\w+)/\w+")

    @pytest.mark.parametrize("pattern", [r"(?P<pid>\d+)_c(?P<camid>\d+)", r"(?P<pid>\d+)/\d+_c(?P<camid>\d+)"])
    def test_folders_of_identities_are_no_splits(self, tmp_path: Path, pattern: str) -> None:
        trees.fill(tmp_path, ["0001/0001_c1.jpg", "0001/0001_c2.jpg", "0002/0002_c1.jpg"])
        assert len(folder(tmp_path, pattern=pattern).query) == 3

    def test_what_is_left_out_or_stands_beside_is_said(self, tmp_path: Path) -> None:
        for name in ("train", "query", "gallery", "val"):
            trees.fill(tmp_path / name, ["1_c1.jpg"])
        (tmp_path / "notes").mkdir()
        assert [doubt for doubt in folder(tmp_path).doubts if "folders val are left out" in doubt]
        (low,) = folder(tmp_path / "gallery").doubts
        assert "lies beside query, train" in low
        trees.fill(tmp_path / "Train", ["2_c1.jpg"])
        with pytest.raises(ValueError, match=r"one folder for a split, found Train and train"):
            folder(tmp_path)
        for name in ("a", "b"):
            trees.fill(tmp_path / "two" / name / "query", ["1_c1.jpg"])
            trees.fill(tmp_path / "two" / name / "gallery", ["1_c2.jpg"])
        with pytest.raises(ValueError, match=r"found them in a, b\. Set `data_dir` to one of these"):
            folder(tmp_path / "two")

    def test_a_flat_folder_tests_or_trains(self, tmp_path: Path) -> None:
        trees.fill(tmp_path, ["1_c1.jpg", "1_c2.jpg", "-1_c1.jpg"])
        tested = folder(tmp_path)
        assert facts(tested.query) == [("1_c1.jpg", 1, 1), ("1_c2.jpg", 1, 2)]
        assert facts(tested.gallery) == [("-1_c1.jpg", -1, 1), ("1_c1.jpg", 1, 1), ("1_c2.jpg", 1, 2)]
        trained = folder(tmp_path, flat="train")
        assert (len(trained.train), trained.query, trained.gallery) == (3, (), ())
        with pytest.raises(ValueError, match="`flat` must be 'test' or 'train', got 'both'"):
            folder(tmp_path, flat="both")

    def test_a_test_folder_is_the_gallery_where_there_are_queries(self, tmp_path: Path) -> None:
        trees.fill(tmp_path / "test", ["1_c1.jpg", "1_c2.jpg"])
        alone = folder(tmp_path)
        assert alone.query == alone.gallery
        trees.fill(tmp_path / "query", ["1_c3.jpg"])
        benchmark = folder(tmp_path)
        assert facts(benchmark.query) == [("1_c3.jpg", 1, 3)]
        assert benchmark.gallery == alone.gallery

    @pytest.mark.parametrize(
        ("pattern", "message"),
        [
            ("(?P<pid>", "`pattern` must be a regular expression, got '\\(\\?P<pid>'"),
            (r"(\d+)_c(\d+)", r"`pattern` must have a group \(\?P<pid>"),
        ],
    )
    def test_a_wrong_pattern_is_refused(self, tmp_path: Path, pattern: str, message: str) -> None:
        trees.fill(tmp_path, ["1_c1.jpg"])
        with pytest.raises(ValueError, match=message):
            folder(tmp_path, pattern=pattern)

    def test_names_that_do_not_fit_are_counted(self, tmp_path: Path) -> None:
        trees.fill(tmp_path / "query", ["1_c1.jpg", "sub/selfie.jpg"])
        trees.fill(tmp_path / "gallery", ["1_c2.jpg"])
        with pytest.raises(ValueError, match=r"query: 1 of 2 file names carry no identity or camera: sub/selfie\.jpg"):
            folder(tmp_path)
        with pytest.raises(ValueError, match=r"1 of 3 pictures have no camera: .*selfie\.jpg.*a camera, or none"):
            folder(tmp_path, pattern=r"(?P<pid>[^_.]+)(_c(?P<camid>\d+))?")

    def test_an_absent_or_empty_folder_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError, match=r"found no folder .*nowhere"):
            folder(tmp_path / "nowhere")
        (tmp_path / "notes.txt").write_text("")
        with pytest.raises(FileNotFoundError, match=r"expected pictures .*found notes\.txt"):
            folder(tmp_path)


class TestTable:
    """One's own pictures by a CSV."""

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
    def test_it_names_pictures_identities_cameras_and_splits(
        self, tmp_path: Path, delimiter: str, encoding: str
    ) -> None:
        trees.fill(tmp_path / "crops", ["a.jpg", "b.jpg", "c, d.jpg", "e.jpg"])
        rows = [
            ["pid", "path", "note", "split", "camid"],
            ["anna", "crops/a.jpg", "", "train", "north"],
            ["bo", "crops/b.jpg", "dark", "query", "south"],
            ["bo", '"crops/c, d.jpg"', "", "gallery", "north"],
            [],
            ["anna", str(tmp_path / "crops" / "e.jpg"), "", "query_late", "south"],
        ]
        text = "\n".join(delimiter.join(row) for row in rows)
        (tmp_path / "who.csv").write_text(text, encoding=encoding)
        benchmark = folder(tmp_path, csv="who.csv")
        assert_well_formed(benchmark)
        assert facts(benchmark.train) == [("a.jpg", 0, 0)]
        assert facts(benchmark.query) == [("b.jpg", 1, 1)]
        assert facts(benchmark.gallery) == [("c, d.jpg", 1, 0)]
        assert facts(benchmark.more_queries["late"]) == [("e.jpg", 0, 1)]
        assert folder(tmp_path, csv=tmp_path / "who.csv") == benchmark

    def test_splits_may_have_their_usual_names_here_too(self, tmp_path: Path) -> None:
        trees.fill(tmp_path, ["a.jpg", "b.jpg", "c.jpg"])
        (tmp_path / "who.csv").write_text("path,pid,split\na.jpg,3,Training\nb.jpg,4,PROBE\nc.jpg,4,Gallery\n")
        read = folder(tmp_path, csv="who.csv")
        assert (len(read.train), len(read.query), len(read.gallery)) == (1, 1, 1)

    def test_camera_and_split_may_be_left_out(self, tmp_path: Path) -> None:
        trees.fill(tmp_path, ["a.jpg", "b.jpg"])
        (tmp_path / "who.csv").write_text("path,pid\na.jpg,3\nb.jpg,3\n")
        tested = folder(tmp_path, csv="who.csv")
        assert tested.query == tested.gallery
        assert [(p.pid, p.camid) for p in tested.query] == [(3, 0), (3, 1)]
        assert len(folder(tmp_path, csv="who.csv", flat="train").train) == 2

    def test_wrong_rows_are_told_with_their_lines(self, tmp_path: Path) -> None:
        trees.fill(tmp_path, ["a.jpg", "b.jpg"])
        (tmp_path / "who.csv").write_text(
            "path,pid,camid,split\na.jpg,1,1,train\nlost.jpg,1,1,train\nb.jpg,,1,train\n"
            "b.jpg,1,1,validation\na.jpg,2,1,train\nb.jpg,1\n"
        )
        with pytest.raises(ValueError, match="5 of 6 rows are wrong") as caught:
            folder(tmp_path, csv="who.csv")
        for part in (
            "line 3: no file",
            "line 4: no pid",
            "line 5: split 'validation' is none of train, query, gallery",
            "line 6: the same picture as line 2",
            "line 7: 2 values for 4 columns",
        ):
            assert part in str(caught.value)

    def test_missing_columns_rows_and_files_are_told(self, tmp_path: Path) -> None:
        table = tmp_path / "who.csv"
        with pytest.raises(FileNotFoundError, match=r"`csv`: expected a table, found neither .*who\.csv nor"):
            folder(tmp_path, csv="who.csv")
        table.write_text("file,pid\na.jpg,1\n")
        with pytest.raises(ValueError, match=r"columns path, pid.*; path missing, found file, pid"):
            folder(tmp_path, csv="who.csv")
        table.write_text("")
        with pytest.raises(ValueError, match="path and pid missing, found an empty file"):
            folder(tmp_path, csv="who.csv")
        table.write_text("path,pid\n")
        with pytest.raises(ValueError, match="found only the column names"):
            folder(tmp_path, csv="who.csv")
        table.write_text("path,pid\nnotes.txt,1\n")
        with pytest.raises(ValueError, match=r"line 2: notes\.txt is no picture"):
            folder(tmp_path, csv="who.csv")
