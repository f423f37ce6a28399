"""Every command in the guides to cameras and own pictures runs; every file name in them is read as they say."""

import csv
import json
import re
import shlex
from functools import partial
from pathlib import Path

import pytest

from aelm.command.cli import quoted
from aelm.command.schema import check_keys
from aelm.crop import task as crop
from aelm.data.folder import folder
from aelm.data.sources import find_items
from aelm.data.synthetic import videos
from aelm.embed import task as embed
from aelm.evaluate import task as evaluate
from aelm.link import task as link
from aelm.search import task as search
from aelm.train import task as train
from tests.pictures_on_disk import person, save_model, write
from tests.runs import P_X_K, SMALL

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FAST = ["device=cpu", "workers=0", "progress=false"]
TEST = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "figures=false", "dataset.workers=0"]
COMMANDS = {
    "crop": (crop.run, ["progress=false", "per_track=4"]),
    "embed": (embed.run, FAST),
    "search": (search.run, FAST),
    "link": (link.run, ["device=cpu"]),
    "evaluate": (evaluate.run, TEST),
    "train": (train.run, [*SMALL[2:], *P_X_K, "figures=false"]),
}


def blocks(name):
    return re.findall(r"^```(sh|csv)\n(.*?)^```", (DOCS / name).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(composed, tmp_path, monkeypatch):
    """Runs the commands of a document, some of them with less work; gives how often each was run."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(videos, "videos", partial(videos.videos, fps=4.0))
    save_model(tmp_path / "best.ckpt")
    write(f"{tmp_path}/person.jpg", person(2))

    def run(name):
        ran = []
        for kind, block in blocks(name):
            if kind == "csv":
                continue
            python, dash_m, module, *arguments = shlex.split(block)
            assert (python, dash_m) == ("python", "-m")
            command = module.removeprefix("aelm.")
            ran.append(command)
            if command == "data.synthetic.videos":
                videos.main([*arguments, "--people", "5"])
                continue
            run_it, less = COMMANDS[command]
            ready = any(argument.startswith("query=") for argument in arguments)
            less = [one for one in less if not (ready and one.startswith("dataset"))]
            if command == "train":
                less = [*less, f"run_dir={tmp_path}/run-{len(ran)}"]
            config = composed(command, *quoted(arguments), *less)
            check_keys(config)
            run_it(config)
        return ran

    return run


@pytest.mark.slow
def test_one_id_across_cameras(run, tmp_path):
    (text,) = [block for kind, block in blocks("cameras.md") if kind == "csv"]
    (tmp_path / "corrections.csv").write_text(text)
    ran = run("cameras.md")
    steps = ["data.synthetic.videos", "crop", "embed"]
    assert ran == [*steps, *steps, "evaluate", "link", "link", "search"]
    told = json.loads((tmp_path / "people" / "metrics.json").read_text())
    assert {"link/pairwise_f1", "link/bcubed_f1", "link/adjusted_rand", "single/best_pairwise_f1"} <= told.keys()
    with (tmp_path / "people" / "people.csv").open() as file:
        person_of = {row["track"]: row["person"] for row in csv.DictReader(file)}
    assert (tmp_path / "people" / "people.html").is_file()
    assert (tmp_path / "people" / "corrections.csv").read_text() == text
    same, different = (line.split(",")[1:] for line in text.splitlines()[1:])
    assert person_of[same[0]] == person_of[same[1]]
    assert person_of[different[0]] != person_of[different[1]]


@pytest.mark.slow
def test_own_pictures(run, tmp_path):
    for i in range(24):  # 12 people to train on, 11 to test with: 110 pairs of strangers
        write(f"{tmp_path}/mine/train/{i // 2:04}_c{i % 2}_{i}.jpg", person(i // 2))
    for i in range(22):
        write(f"{tmp_path}/mine/{'query' if i % 2 else 'gallery'}/{100 + i // 2:04}_c{i % 2}_{i}.jpg", person(i))
        write(f"{tmp_path}/by_camera/{'door' if i % 2 else 'gate'}/{i // 2}_{i}.jpg", person(i))
    (table,) = [block for kind, block in blocks("own_pictures.md") if kind == "csv"]
    (tmp_path / "mine" / "people.csv").write_text(table)
    for i, name in enumerate("abc"):
        write(f"{tmp_path}/mine/visit/{name}.jpg", person(i))
    assert run("own_pictures.md") == ["evaluate", "evaluate", "train", "evaluate", "train", "evaluate"]
    assert "test/threshold@FAR=0.01" in json.loads((tmp_path / "scores" / "metrics.json").read_text())


PATTERNS = {
    row[0].partition(" ")[0].strip(","): row
    for line in (DOCS / "own_pictures.md").read_text(encoding="utf-8").splitlines()
    if line.startswith("| ") and len(row := [cell.strip() for cell in line.strip("|").split(" | ")]) == 4
}
# Data set; pattern; names beneath its splits; identity and camera of each.
NAMES = [
    ("VeRi-776", None, {"train": {"0001_c001_00016450_0.jpg": (1, 1), "0200_c020_00030600_0.jpg": (200, 20)},
                        "query": {"0002_c002_00030600_0.jpg": (2, 2)},
                        "gallery": {"0002_c003_00084280_0.jpg": (2, 3)}}),
    ("VehicleX", None, {"train": {"0001_c1_1.jpg": (1, 1), "1362_c11_49.jpg": (1362, 11)}}),
    ("LTCC", r"(?P<pid>\d+)_\d+_c(?P<camid>\d+)_",
     {"train": {"000_1_c5_004301.png": (0, 5)}, "query": {"094_1_c9_015833.png": (94, 9)},
      "test": {"094_2_c11_017210.png": (94, 11)}}),
    ("PRCC", r"(?=(?:.*/)?(?P<pid>\d{3})/)(?=(?:.*/)?(?P<camid>[ABC])[_/])",
     {"train": {"001/A_cropped_rgb001.jpg": (1, 0), "001/B_cropped_rgb103.jpg": (1, 1)},
      "query": {"C/333/cropped_rgb371.jpg": (333, 2)}, "gallery": {"A/333/cropped_rgb002.jpg": (333, 0)}}),
    ("one", r"(?P<pid>[^/]+)/", {"": {"Dan/Macaque_Face_001.jpg": (0, 0), "Dan/Macaque_Face_002.jpg": (0, 1),
                                      "t001/CAluWEgwPX.JPG": (1, 0)}}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "pattern", "files"), NAMES, ids=[name for name, *_ in NAMES])
def test_file_names_of_other_data_sets_are_read_as_the_table_says(tmp_path, name, pattern, files):
    row = PATTERNS[name]
    told = re.fullmatch(r"`(.*)`", row[2])
    assert (told[1] if told else None) == pattern
    assert told or row[2] == "the default"
    for split, names in files.items():
        for i, one in enumerate(names):
            write(str(tmp_path / split / one), person(i))
    found = folder(tmp_path, **({} if pattern is None else {"pattern": pattern}))
    everyone = {*found.train, *found.query, *found.gallery}
    read = {p.path.removeprefix(f"{tmp_path}/"): (p.pid, p.camid) for p in everyone}
    wanted = {f"{split}/{one}".lstrip("/"): ids for split, names in files.items() for one, ids in names.items()}
    assert read == wanted
    if name == "PRCC":
        items = find_items(tmp_path / "train", pattern)
        assert [(item.pid, item.camid) for item in items] == [("1", "A"), ("1", "B")]


def test_a_list_of_tigers_becomes_a_table(tmp_path):
    for i in (1, 2):
        write(f"{tmp_path}/{i:06}.jpg", person(i))
    (tmp_path / "list.csv").write_text("path,pid\n000001.jpg,7\n000002.jpg,9\n")
    found = folder(tmp_path, csv="list.csv")
    assert [(Path(p.path).name, p.pid) for p in found.query] == [("000001.jpg", 7), ("000002.jpg", 9)]


def test_the_guides_name_no_key_and_no_page_that_is_not_there(composed):
    for name in ("cameras.md", "own_pictures.md", "licences.md", "starter.md"):
        for target in re.findall(r"\]\(([^)#]+)\)", (DOCS / name).read_text(encoding="utf-8")):
            assert (DOCS / target).exists(), target
    keys = set(re.findall(r"`(\w+)=", (DOCS / "cameras.md").read_text(encoding="utf-8")))
    assert keys <= {key for command in ("crop", "embed", "link", "search") for key in composed(command)}


def test_the_demo_does_what_the_guide_does():
    """The same commands in the same order, but for the names of folders."""
    recipe = (ROOT / "Makefile").read_text().partition("demo-cameras: ")[2].partition("\n\n")[0]
    made = set(re.findall(r"-m aelm\.([\w.]+)", recipe))
    told = {shlex.split(block)[2].removeprefix("aelm.") for kind, block in blocks("cameras.md") if kind == "sh"}
    assert made == told - {"search"}
