"""Every command, without a network, with a home and a place for temporary files of its own: what is left behind."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from aelm.data.synthetic import synthetic
from tests.runs import P_X_K, SMALL

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


@pytest.fixture
def sealed(tmp_path, people):
    """Runs commands in a process without a network; gives what it printed, and what appeared and where."""
    # Sockets of loading processes go into the temporary place, and their paths must be short.
    temporary = tempfile.TemporaryDirectory(prefix="aelm-")
    places = {"here": tmp_path / "here", "home": tmp_path / "home", "temporary": Path(temporary.name)}
    for place in places.values():
        place.mkdir(exist_ok=True)
    (places["here"] / "crops").mkdir()
    for picture in synthetic(people, "tiny", progress=False).query[:4]:
        shutil.copy(picture.path, places["here"] / "crops")
    (places["here"] / "frames").mkdir()
    for frame, picture in enumerate(sorted((places["here"] / "crops").iterdir()), 1):
        shutil.copy(picture, places["here"] / "frames" / f"{frame:06}.jpg")
    boxes = "".join(f"{frame},{1 + frame // 3},2,2,40,90,0.9,-1,-1,-1\n" for frame in range(1, 5))
    (places["here"] / "boxes.txt").write_text(boxes)

    def run(*commands, end=()):
        # Nothing of what switches the network off elsewhere: the commands must keep to themselves unasked.
        switches = ("NO_ALBUMENTATIONS_UPDATE", "WANDB_MODE", "HF_HUB_OFFLINE", "MPLCONFIGDIR")
        env = {k: v for k, v in os.environ.items() if k not in switches and not k.startswith("XDG_")}
        env |= {"HOME": str(places["home"]), "TMPDIR": str(places["temporary"]), "AELM_DATA": str(people)}
        env |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        before = {name: files(place) for name, place in places.items()}
        done = subprocess.run(
            [sys.executable, "-m", "tests.sealed", str(tmp_path / "network.log"), *end],
            input=json.dumps(commands), cwd=places["here"], env=env, capture_output=True, text=True,
        )  # fmt: skip
        log = tmp_path / "network.log"
        after = {name: files(place) for name, place in places.items()}
        changed = {
            name: {path for path in before[name] | after[name] if before[name].get(path) != after[name].get(path)}
            for name in places
        }
        return done, log.read_text() if log.exists() else "", changed

    with temporary:
        yield run


@pytest.mark.slow
def test_no_command_reaches_out_or_writes_elsewhere(sealed, people):
    data = files(people)
    done, network, changed = sealed(*([command, arguments] for command, arguments, _ in TYPED))
    assert done.returncode == 0, done.stderr[-3000:]
    assert network == ""
    allowed = set().union(*(left for *_, left in TYPED))
    strange = {path for path in changed["here"] if not any(f"{path}/".startswith(f"{one}/") for one in allowed)}
    assert strange == set()
    for one in allowed:
        assert any(f"{path}/".startswith(f"{one}/") for path in changed["here"]), f"{one} was not written"
    assert changed["temporary"] == set()
    # matplotlib keeps its list of fonts, whoever draws with it.
    assert {
        path for path in changed["home"] if not path.startswith((".cache/matplotlib/", ".config/matplotlib"))
    } == set()
    assert files(people) == data


@pytest.mark.slow
def test_the_seal_holds(sealed):
    """A command that asks for weights from the hub is what a leak would look like."""
    asking = [*SMALL, *P_X_K, "model.backbone.pretrained=true", "name=asking"]
    done, network, _ = sealed(["train", asking], end=["end"])
    assert done.returncode != 0
    assert network.startswith("socket.")


def test_every_command_is_tried():
    assert {command for command, *_ in TYPED} == {path.stem for path in (ROOT / "conf").glob("*.yaml")}
