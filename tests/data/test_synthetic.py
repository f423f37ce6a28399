"""The synthetic set on disk: what is planned, written once and whole, and read back."""

import json
import shutil
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import cv2
import numpy as np
import pytest

from aelm.data.synthetic import EVALUATION, TRAINING, Kind, generate, synthetic, truth, worker
from aelm.data.synthetic.generate import MARKER, is_complete
from aelm.data.synthetic.plan import FOLDERS, GALLERY, OCCLUDED, QUERY, SIZES, TRAIN, plan
from aelm.data.synthetic.truth import HIDDEN, encode, mask_path
from aelm.data.synthetic.worker import Order


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The tiny set, drawn once for all tests that only look at it."""
    root = tmp_path_factory.mktemp("synthetic")
    return root, synthetic(root, "tiny", progress=False)


@pytest.fixture
def copying(world, monkeypatch):
    """Lets the tests of how the set is written copy its pictures instead of drawing them; counts how often."""
    root, _ = world
    (finished,) = root.glob("synthetic-tiny-s0-*")
    draws = []

    def draw(order, workers, progress):
        draws.append(order)
        for folder in (*FOLDERS, "masks"):
            shutil.copytree(finished / folder, Path(order.target) / folder)

    monkeypatch.setattr(generate, "_draw", draw)
    return draws


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("size", SIZES)
def test_the_plan_keeps_the_rules_of_re_id(size):
    tasks = plan(SIZES[size], seed=0, train_occluded=0.1)
    people = {folder: {task.identity for task in tasks if task.folder == folder} for folder in FOLDERS}
    assert people[TRAIN].isdisjoint(people[QUERY] | people[GALLERY])
    assert people[QUERY] == people[OCCLUDED]
    assert people[QUERY] <= people[GALLERY]
    assert (len(people[TRAIN]), len(people[QUERY])) == (SIZES[size].train_ids, SIZES[size].test_ids)
    for folder in FOLDERS:
        names = [task.name for task in tasks if task.folder == folder]
        assert len(set(names)) == len(names)
    # Each query finds its person under another camera, in a picture of another moment.
    seen = defaultdict(set)
    for task in tasks:
        if task.folder == GALLERY:
            seen[task.identity].add(task.camera)
    taken = {(task.identity, task.camera, task.shot) for task in tasks if task.folder == GALLERY}
    for task in tasks:
        if task.folder == QUERY:
            assert seen[task.identity] - {task.camera}
            assert (task.identity, task.camera, task.shot) not in taken
    assert max(task.camera for task in tasks) == SIZES[size].cameras


def test_the_sizes_are_as_large_as_promised():
    assert all(SIZES[size].test_ids >= 100 for size in ("small", "standard"))
    assert SIZES["standard"].train_ids >= 500
    assert SIZES["standard"].cameras == 6
    counts = Counter(task.folder for task in plan(SIZES["small"], 0, 0.1))
    assert 1600 <= counts[TRAIN] <= 2000
    assert 600 <= counts[GALLERY] <= 800
    assert counts[QUERY] == counts[OCCLUDED] == 200


def test_a_training_identity_of_one_size_is_a_test_identity_of_none():
    sets = [plan(size, 0, 0.1) for size in SIZES.values()]
    trained = {task.identity for tasks in sets for task in tasks if task.folder == TRAIN}
    tested = {task.identity for tasks in sets for task in tasks if task.folder != TRAIN}
    assert trained.isdisjoint(tested)


def test_evaluation_hides_people_behind_things_that_training_never_showed():
    assert set(TRAINING).isdisjoint(EVALUATION)
    assert set(TRAINING) | set(EVALUATION) == set(Kind)
    tasks = plan(SIZES["small"], seed=0, train_occluded=0.3)
    shown = {folder: {task.occluder for task in tasks if task.folder == folder} for folder in FOLDERS}
    assert shown[TRAIN] == {None, *TRAINING}
    assert shown[OCCLUDED] == set(EVALUATION)
    assert shown[QUERY] == shown[GALLERY] == {None}


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_the_share_of_hidden_training_pictures(share):
    tasks = [task for task in plan(SIZES["small"], seed=3, train_occluded=share) if task.folder == TRAIN]
    assert sum(task.occluder is not None for task in tasks) / len(tasks) == pytest.approx(share, abs=0.03)


def test_an_occluded_query_is_the_whole_one_with_something_in_front():
    tasks = plan(SIZES["tiny"], seed=0, train_occluded=0.1)
    moments = {
        folder: [(task.name, task.identity, task.camera, task.shot) for task in tasks if task.folder == folder]
        for folder in (QUERY, OCCLUDED)
    }
    assert moments[QUERY] == moments[OCCLUDED]


def test_the_benchmark_lists_what_was_planned(world):
    root, benchmark = world
    tasks = plan(SIZES["tiny"], 0, 0.1)
    lists = {
        TRAIN: benchmark.train,
        QUERY: benchmark.query,
        OCCLUDED: benchmark.more_queries["occluded"],
        GALLERY: benchmark.gallery,
    }
    for folder, pictures in lists.items():
        names = [Path(picture.path).name for picture in pictures]
        assert names == sorted(task.name for task in tasks if task.folder == folder)
    pid = {task.name: task.identity if task.identity < 8000 else None for task in tasks}
    for picture in (*benchmark.train, *benchmark.query, *benchmark.gallery):
        expected = pid[Path(picture.path).name]
        assert picture.pid == expected if expected else picture.pid in (0, -1)
        assert f"_c{picture.camid}s1_" in picture.path
    counts = Counter(picture.pid for picture in benchmark.gallery)
    assert (counts[0], counts[-1]) == (6, 4)
    assert json.loads((next(root.glob("synthetic-*")) / MARKER).read_text())["pictures"] == len(tasks)


def test_the_set_reads_back_as_pictures_with_truth(world):
    _, benchmark = world
    for picture in (*benchmark.train[:8], *benchmark.query, *benchmark.more_queries["occluded"]):
        image = cv2.imread(picture.path)
        parts, visible = truth(picture.path)
        assert image.shape == (128, 64, 3)
        assert parts.shape == visible.shape == (128, 64)
        assert 0.1 < (parts > 0).mean() < 0.6
    assert all(truth(picture.path).visible.all() for picture in benchmark.query)
    for picture in benchmark.more_queries["occluded"]:
        found = truth(picture.path)
        hidden = 1 - found.body.sum() / (found.parts > 0).sum()
        assert 0.2 < hidden < 0.75


def test_what_is_there_is_not_drawn_again(world, monkeypatch):
    root, benchmark = world
    monkeypatch.setattr(generate, "_draw", None)
    assert synthetic(root, "tiny", progress=False) == benchmark


@pytest.mark.parametrize("changed", [{"seed": 1}, {"height": 64}, {"train_occluded": 0.125}, {"size": "small"}])
def test_parameters_that_change_pixels_change_the_folder(changed, copying, tmp_path):
    for parameters in ({}, changed):
        synthetic(tmp_path, progress=False, **({"size": "tiny"} | parameters))
    assert len(copying) == len(list(tmp_path.glob("synthetic-*"))) == 2


def test_several_processes_write_the_same_bytes(world, tmp_path):
    root, _ = world
    synthetic(tmp_path, "tiny", workers=2, progress=False)
    (ours,), (theirs,) = root.glob("synthetic-tiny-s0-*"), tmp_path.glob("synthetic-tiny-s0-*")
    assert contents(ours) == contents(theirs)


def test_two_programs_at_once_both_find_the_set(tmp_path):
    program = (
        "import sys; from aelm.data.synthetic import synthetic;"
        "print(len(synthetic(sys.argv[1], 'tiny', progress=False).train))"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    pair = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in pair] == ["72", "72"]
    assert [process.returncode for process in pair] == [0, 0]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["synthetic-tiny-s0-h128-o10-v1"]


def test_the_slower_of_two_programs_without_locks_keeps_what_the_faster_wrote(copying, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows
    publish = generate._publish

    def overtaken(partial, order):
        publish(Path(shutil.copytree(partial, tmp_path / "faster")), order)
        publish(partial, order)

    monkeypatch.setattr(generate, "_publish", overtaken)
    benchmark = synthetic(tmp_path, "tiny", progress=False)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["synthetic-tiny-s0-h128-o10-v1"]
    assert len(benchmark.train) == 72


def test_an_interrupted_run_leaves_nothing_that_is_taken_for_the_set(tmp_path, monkeypatch):
    shoot, taken = worker.shoot, []

    def interrupted(*arguments, **options):
        taken.append(arguments)
        if len(taken) > 5:
            raise KeyboardInterrupt
        return shoot(*arguments, **options)

    monkeypatch.setattr(worker, "shoot", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic(tmp_path, "tiny", workers=0, progress=False)
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


def test_what_a_killed_run_left_is_cleared_away(copying, tmp_path):
    left = tmp_path / ".synthetic-tiny-s0-h128-o10-v1.partial-killed"
    (left / TRAIN).mkdir(parents=True)
    synthetic(tmp_path, "tiny", progress=False)
    assert not left.exists()


@pytest.mark.parametrize("damage", ["no marker", "no mask", "no picture"])
def test_a_damaged_set_is_drawn_again(damage, copying, tmp_path):
    benchmark = synthetic(tmp_path, "tiny", progress=False)
    (folder,) = tmp_path.glob("synthetic-*")
    whole = contents(folder)
    picture = Path(benchmark.gallery[0].path)
    {"no marker": folder / MARKER, "no mask": mask_path(picture), "no picture": picture}[damage].unlink()
    assert not is_complete(Order(str(folder), "tiny", 0, 128, 0.1))
    assert synthetic(tmp_path, "tiny", progress=False) == benchmark
    assert len(copying) == 2
    assert contents(folder) == whole
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [folder.name]


def test_a_failing_worker_is_reported(tmp_path):
    order = Order(str(tmp_path / "nowhere"), "tiny", 0, 128, 0.1)
    with pytest.raises(OSError, match=r"(?s)drawing process failed.*No such file"):
        list(generate._share(order, workers=1))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": "huge"}, "tiny, small, evidence, standard, varied, got 'huge'"),
        ({"seed": -1}, "`seed` must not be negative, got -1"),
        ({"height": 127}, "`height` must be even and at least 16, got 127"),
        ({"train_occluded": 1.5}, r"`train_occluded` must lie in 0 .. 1, got 1.5"),
        ({"workers": -2}, "`workers` must not be negative, got -2"),
    ],
)
def test_wrong_parameters_are_named(wrong, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        synthetic(tmp_path, **wrong)
    assert not list(tmp_path.iterdir())


def test_a_root_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OSError, match=r"cannot write the synthetic pictures to .*file.*data_dir="):
        synthetic(tmp_path / "file", "tiny", progress=False)


def test_masks_pack_and_unpack(tmp_path):
    generator = np.random.default_rng(0)
    parts = generator.integers(0, 10, (16, 8)).astype(np.uint8)
    hidden = generator.random((16, 8)) < 0.5
    coded = encode(parts, hidden)
    assert np.array_equal(coded, np.where(hidden, parts + HIDDEN, parts))
    (tmp_path / "masks" / QUERY).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "masks" / QUERY / "a.png"), coded)
    found = truth(tmp_path / QUERY / "a.jpg")
    assert np.array_equal(found.parts, parts)
    assert np.array_equal(found.visible, ~hidden)
    assert np.array_equal(found.body, (parts > 0) & ~hidden)


def test_truth_says_what_it_looked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"masks.query.a.png; only synthetic"):
        truth(tmp_path / "query" / "a.jpg")
    (tmp_path / "masks" / "query").mkdir(parents=True)
    (tmp_path / "masks" / "query" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="not a readable single-channel PNG"):
        truth(tmp_path / "query" / "a.jpg")
