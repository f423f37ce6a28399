"""What the rows of bad input are made of, and the place where each is tried."""

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from tests.runs import P_X_K, SMALL

QUIET = ["progress=false", "workers=0", "device=cpu"]
TESTING = ["trainer.accelerator=cpu", "trainer.enable_progress_bar=false", "figures=false", "bootstrap=0"]
# What makes each command run in a second or two where nothing is wrong; a row says the rest.
USUAL = {
    "train": [*SMALL, *P_X_K, "data_dir={people}"],
    "evaluate": [*TESTING, "checkpoint={model}", "dataset=synthetic", "dataset.benchmarks.synthetic.size=tiny",
                 "dataset.workers=0", "data_dir={people}", "output={root}/scores"],
    "embed": [*QUIET, "checkpoint={model}", "images={root}/crops", "output={root}/embedded"],
    "search": [*QUIET, "checkpoint={model}", "query={root}/crops/0000_c1s1_000000_00.jpg", "gallery={root}/crops",
               "output={root}/found.json"],
    "explain": ["device=cpu", "checkpoint={model}", "images={root}/crops", "output={root}/maps"],
    "export": ["checkpoint={model}", "output={root}/model.onnx"],
}  # fmt: skip


class World(NamedTuple):
    """Where a row is tried.

    Attributes:
        root: A folder of its own, with pictures in ``crops`` and what earlier commands left.
        people: A data directory with the tiny synthetic people, shared by all: nothing may be written there.
        model: The checkpoint of a small network, likewise.
    """

    root: Path
    people: Path
    model: Path

    def filled(self, texts: Sequence[str]) -> list[str]:
        """Texts with the places of this world in them."""
        places = {name: str(place) for name, place in self._asdict().items()}
        result = []
        for text in texts:
            for name, place in places.items():
                text = text.replace(f"{{{name}}}", place)
            result.append(text)
        return result


class Row(NamedTuple):
    """Something wrong, and what is said of it.

    Attributes:
        wrong: In words.
        command: Which one is tried.
        overrides: Beside those of ``USUAL``, which they come after.
        words: What the message must hold.
        prepare: Makes what is wrong in the world.
        begins: Whether training may begin before it is found out.
        without: Overrides of ``USUAL`` that are left out, by how they begin.
    """

    wrong: str
    command: str
    overrides: Sequence[str]
    words: Sequence[str]
    prepare: Callable[[World], object] = lambda world: None
    begins: bool = False
    without: Sequence[str] = ()

    def arguments(self, world: World) -> list[str]:
        """The command line."""
        without = [*self.without, *["dataset.benchmarks"] * any(text.startswith("dataset=") for text in self.overrides)]
        usual = [text for text in USUAL[self.command] if not text.startswith(tuple(without))]
        return world.filled([*usual, *self.overrides])


def contents(root: Path) -> dict[str, str]:
    """Every file beneath a folder with a hash of its content, and every folder."""
    found = {}
    for folder, folders, files in os.walk(root):
        found |= {os.path.join(folder, name): "folder" for name in folders}
        for name in files:
            path = Path(folder, name)
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found
