"""People and files on two sides are counted, and said."""

import pytest

from aelm.data.benchmarks import folder, with_distractors
from aelm.data.split_table import copy_warnings
from aelm.types import Benchmark, Picture


def write(root, **files):
    """Files ``split/name`` of the given contents."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_suffix(".jpg").write_bytes(content)
    return root


PID = r"(?P<pid>\d+)"


def test_queries_that_find_their_own_file_are_counted(tmp_path):
    root = write(tmp_path, query__1a=b"one", query__1b=b"two", query__2a=b"one", gallery__1x=b"one",
                 gallery__1y=b"other", gallery__2a=b"eno")  # fmt: skip
    (said,) = copy_warnings(folder(root, pattern=PID, name="mine"))
    assert said.startswith("mine: 1 of 3 queries find themselves: the same picture is also in the gallery")


def test_a_copy_of_the_query_s_own_camera_takes_no_part_and_is_no_fault(tmp_path):
    root = write(tmp_path, query__1_c1=b"one", gallery__1_c1=b"one", gallery__1_c2=b"two")
    assert copy_warnings(folder(root)) == []


def test_pictures_ranked_against_each_other_are_no_copies_but_a_file_twice_is(tmp_path):
    assert copy_warnings(folder(write(tmp_path, **{"1a": b"one", "1b": b"two"}), pattern=PID)) == []
    (said,) = copy_warnings(folder(write(tmp_path, **{"1c": b"one"}), pattern=PID))
    assert "2 of 3 queries find themselves" in said


def test_people_and_files_trained_on_and_tested_are_counted(tmp_path):
    root = write(tmp_path, train__1_c1=b"one", train__1_c2=b"two", train__2_c1=b"x", query__1_c1=b"one",
                 query__3_c1=b"3", gallery__1_c2=b"twu", gallery__3_c2=b"three")  # fmt: skip
    (said,) = copy_warnings(folder(root, name="mine"))
    assert "mine: 1 of 2 test identities are also in train, and 1 of 4 test pictures" in said


def test_benchmarks_with_published_counts_and_missing_files_are_left_alone(tmp_path):
    one = (Picture(str(tmp_path / "gone.jpg"), 0, 1),)
    assert copy_warnings(Benchmark("msmt17", one, one, one, official={"train images": 1})) == []
    assert copy_warnings(Benchmark("mine", (), one, (Picture(str(tmp_path / "too.jpg"), 0, 2),))) == []


def test_distractors_that_are_test_pictures_are_counted(tmp_path):
    root = write(tmp_path / "own", query__1_c1=b"one", gallery__1_c2=b"two")
    more = write(tmp_path / "more", **{"1_c2": b"two", "new": b"new"})
    benchmark = with_distractors(folder(root), more)
    assert any("1 of 2 distractors have the name of a test picture: 1_c2.jpg" in doubt for doubt in benchmark.doubts)
    assert benchmark.names.pid(benchmark.gallery[-1].pid) == "distractor"
    assert with_distractors(folder(root), write(tmp_path / "others", new=b"new")).doubts == ()


@pytest.mark.parametrize("stage", ["fit", "test"])
def test_a_training_and_a_test_tell_it(tmp_path, stage, caplog):
    from aelm.data.datamodule import ReIDDataModule
    from aelm.data.transforms import recipe

    root = write(tmp_path, train__1_c1=b"a", train__1_c2=b"b", train__2_c1=b"c", train__2_c2=b"d", query__1_c1=b"e",
                 gallery__1_c2=b"f")  # fmt: skip
    data = ReIDDataModule({"mine": folder(root)}, recipe(32, 16), lambda *_, **__: Sampler())
    with caplog.at_level("WARNING"):
        data.setup(stage)
    assert "1 of 1 test identities are also in train" in caplog.text


class Sampler:
    """Says nothing of its batches."""

    batch_size = 1

    def describe(self):
        return ""
