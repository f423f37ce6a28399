"""Every command, without a network, with a home and a place for temporary files of its own: what is left and shown.

One process runs them all, and at the end a training that asks for weights from the hub, as a leak would.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from aelm.data.synthetic import synthetic
from tests.runs import P_X_K, SMALL
from tests.sealed import REFUSAL

ROOT = Path(__file__).parents[1]
ON_CPU = ["device=cpu", "progress=false"]
BEST = "checkpoint=runs/first/checkpoints/best.ckpt"
TRAINED = [*SMALL, *P_X_K, "trainer.max_epochs=1", "dataset.workers=1"]
# Each command as typed, and what it may leave in the folder where it runs.
TYPED = [
    ("train", [*TRAINED, "name=first"], {"runs/first"}),
    ("train", [*TRAINED, "name=second", "figures=false", "model.aelm.threshold=0.5"], {"runs/second"}),
    ("evaluate", [BEST, "output=scores", "trainer.accelerator=cpu", "trainer.enable_progress_bar=false"], {"scores"}),
    ("embed", [BEST, "images=crops", "output=embeddings", "workers=1", *ON_CPU], {"embeddings"}),
    ("search", [BEST, "query=crops", "gallery=embeddings", "output=found.html", *ON_CPU], {"found.html"}),
    ("search", [BEST, "query=crops", "gallery=crops", "workers=0", *ON_CPU], set()),
    ("search", ["query=[a], b's.jpg", "gallery=embeddings", "output=my page.html", *ON_CPU], {"my page.html"}),
    ("crop", ["video=frames", "boxes=boxes.txt", "fps=5", "min_height=16", "output=cut", "progress=false"], {"cut"}),
    ("embed", [BEST, "images=cut", "output=tracks", "workers=0", *ON_CPU], {"tracks"}),
    ("link", ["embeddings=tracks", "threshold=0.9", "output=people", "device=cpu"], {"people"}),
    ("explain", [BEST, "images=crops", "output=maps", "device=cpu"], {"maps"}),
    ("compare", ["runs=runs", "output=tables"], {"tables"}),
    ("export", [BEST, "output=model.onnx"], {"model.onnx", "model.onnx.metadata.json"}),
]


def files(folder):
    """Every file and empty folder beneath, with what it holds."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
        elif not any(path.iterdir()):
            found[path.relative_to(folder).as_posix()] = None
    return found


# A leak would look like this; as clients try again for a minute, the first refusal ends the process.
ASKING = ("train", [*SMALL, *P_X_K, "model.backbone.pretrained=true", "name=asking"])


class Sealed(NamedTuple):
    """What became of a process that ran every command.

    Attributes:
        done: With what it printed.
        network: What it tried to reach, before the marker and behind it.
        changed: Files that appeared or became others, by place.
    """

    done: subprocess.CompletedProcess
    network: tuple[str, str]
    changed: dict[str, set[str]]


@pytest.fixture(scope="module")
def sealed(tmp_path_factory, people):
    """Runs all commands in a process without a network."""
    root = tmp_path_factory.mktemp("sealed")
    # Sockets of loading processes go into the temporary place, and their paths must be short.
    with tempfile.TemporaryDirectory(prefix="aelm-") as temporary:
        places = {"here": root / "it's (here), 人", "home": root / "home", "temporary": Path(temporary), "data": people}
        for place in places.values():
            place.mkdir(exist_ok=True)
        (places["here"] / "crops").mkdir()
        for picture in synthetic(people, "tiny", progress=False).query[:4]:
            shutil.copy(picture.path, places["here"] / "crops")
        shutil.copy(picture.path, places["here"] / "[a], b's.jpg")
        (places["here"] / "frames").mkdir()
        for frame, picture in enumerate(sorted((places["here"] / "crops").iterdir()), 1):
            shutil.copy(picture, places["here"] / "frames" / f"{frame:06}.jpg")
        boxes = "".join(f"{frame},{1 + frame // 3},2,2,40,90,0.9,-1,-1,-1\n" for frame in range(1, 5))
        (places["here"] / "boxes.txt").write_text(boxes)
        # Nothing of what switches the network off elsewhere, or messages: the commands must keep to themselves unasked.
        switches = ("NO_ALBUMENTATIONS_UPDATE", "WANDB_MODE", "HF_HUB_OFFLINE", "MPLCONFIGDIR", "PYTHONWARNINGS")
        env = {k: v for k, v in os.environ.items() if k not in switches and not k.startswith("XDG_")}
        env |= {"HOME": str(places["home"]), "TMPDIR": temporary, "AELM_DATA": str(people)}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        before = {name: files(place) for name, place in places.items()}
        done = subprocess.run(
            [sys.executable, "-m", "tests.sealed", str(root / "network.log")],
            input=json.dumps([*(typed[:2] for typed in TYPED), None, ASKING]),
            cwd=places["here"], env=env, capture_output=True, text=True,
        )  # fmt: skip
        after = {name: files(place) for name, place in places.items()}
        changed = {
            name: {path for path in before[name] | after[name] if before[name].get(path) != after[name].get(path)}
            for name in places
        }
        log = root / "network.log"
        network, _, asked = (log.read_text() if log.exists() else "").partition("end\n")
        return Sealed(done, (network, asked), changed)


@pytest.mark.slow
def test_no_command_reaches_out_or_writes_elsewhere(sealed):
    assert sealed.done.returncode == REFUSAL, sealed.done.stderr[-3000:]
    assert sealed.network[0] == ""
    allowed = set().union(*(left for *_, left in TYPED))
    here = {path for path in sealed.changed["here"] if not path.startswith("runs/asking/")}
    assert {path for path in here if not any(f"{path}/".startswith(f"{one}/") for one in allowed)} == set()
    for one in allowed:
        assert any(f"{path}/".startswith(f"{one}/") for path in here), f"{one} was not written"
    assert sealed.changed["temporary"] == set()
    # matplotlib keeps its list of fonts, whoever draws with it.
    assert {
        path for path in sealed.changed["home"] if not path.startswith((".cache/matplotlib/", ".config/matplotlib"))
    } == set()
    assert sealed.changed["data"] == set()


@pytest.mark.slow
def test_the_seal_holds(sealed):
    assert sealed.network[1].startswith("socket.")


@pytest.mark.slow
def test_names_are_taken_as_typed(sealed):
    lines = sealed.done.stdout.splitlines()
    (place,) = [i for i, line in enumerate(lines) if "[a], b's.jpg" in line]
    rank, score, _, _, path = lines[place + 2].split(maxsplit=4)
    assert (rank, score, Path(path).parent.name) == ("1", "1.000", "crops")


@pytest.mark.slow
def test_commands_show_their_own_messages_alone(sealed):
    """No other library's advertisements or deprecation warnings."""
    shown = sealed.done.stdout + sealed.done.stderr
    for foreign in ("Tip:", "litlogger", "deprecated", "Deprecat", "FutureWarning"):
        assert foreign not in shown, shown
    for own in ("= 4 images a step", "synthetic  train", "mAP_trapezoid", "test_occluded"):
        assert own in sealed.done.stdout, shown
    assert sealed.done.stdout.count("per cent") == 3  # two trainings and an evaluation


def test_every_command_is_tried():
    assert {command for command, *_ in TYPED} == {path.stem for path in (ROOT / "conf").glob("*.yaml")}
