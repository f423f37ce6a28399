"""Further shots of people who were trained on: pictures that no training saw, with identities that have a class."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from aelm.data import Augment
from aelm.data.decoding import decode
from aelm.data.synthetic import EVALUATION, shoot
from aelm.data.synthetic.people import PLANS, pick, stream
from aelm.data.synthetic.plan import SIZES
from aelm.data.synthetic.worker import JPEG_QUALITY

DRAWN = "aelm.data.synthetic.synthetic"


class World(NamedTuple):
    """The synthetic people of a training.

    Attributes:
        seed: Of the world.
        size: A key of ``SIZES``: how many cameras there are, and how many shots were trained on.
        height: Of a picture in pixels.
        people: Identity and label of each person who was trained on, in the order of the labels.
    """

    seed: int
    size: str
    height: int
    people: tuple[tuple[int, int], ...]


class Example(NamedTuple):
    """A shot that was not trained on; a loader puts an axis B in front.

    Attributes:
        image: ``(3, H, W)`` uint8, as the network takes it.
        parts: ``(h, w)`` uint8, ``BodyPart`` of each pixel as it was drawn.
        hidden: ``(h, w)`` bool, True where something stands in front.
        label: Of the identity, as the network numbers it.
        identity: As the world numbers it.
        camera: From 1.
    """

    image: Tensor
    parts: NDArray[np.uint8]
    hidden: NDArray[np.bool_]
    label: int
    identity: int
    camera: int


def world_of(config: Mapping[str, Any], labels: Sequence[str]) -> World:
    """The world of a checkpoint's training.

    Args:
        config: The configuration of the run, as the checkpoint holds it.
        labels: What each label stands for, ``"synthetic:1"``.

    Raises:
        ValueError: If the training saw no synthetic people.
    """
    benchmarks = config.get("dataset", {}).get("benchmarks", {})
    for name, node in benchmarks.items():
        own = [(int(text.rpartition(":")[2]), i) for i, text in enumerate(labels) if text.rpartition(":")[0] == name]
        if node.get("_target_") == DRAWN and own:
            return World(node.get("seed", 0), node.get("size", "small"), node.get("height", 128), tuple(own))
    raise ValueError(
        "`claims=true` needs a checkpoint of a training on synthetic pedestrians (dataset=synthetic), where the truth "
        f"about each pixel is drawn; this one was trained on {', '.join(benchmarks) or 'data it does not name'}"
    )


class FurtherShots(Dataset[Example]):
    """One shot of each chosen person by each camera, the first that training did not see.

    Args:
        world: Whom training saw.
        people: How many of them, spread evenly over the labels; None for all.
        prepare: What happens to a picture before the network gets it.
        occluded: Whether something stands in front, of the family that training never shows; nothing else differs.

    Raises:
        ValueError: If ``people`` is below 1.
    """

    def __init__(self, world: World, people: int | None, prepare: Augment, *, occluded: bool) -> None:
        if people is not None and people < 1:
            raise ValueError(f"`claims_people` must be at least 1, or null for all, got {people}")
        count = len(world.people) if people is None else min(people, len(world.people))
        places = np.linspace(0, len(world.people) - 1, count).round().astype(int)
        self.world = world
        self.prepare = prepare
        self.occluded = occluded
        self.cameras = SIZES[world.size].cameras
        self.chosen = [world.people[place] for place in places]

    def __len__(self) -> int:
        return len(self.chosen) * self.cameras

    def __getitem__(self, index: int) -> Example:
        (identity, label), camera = self.chosen[index // self.cameras], index % self.cameras + 1
        seed, number = self.world.seed, SIZES[self.world.size].train_shots
        front = pick(stream(PLANS, seed, identity, camera, number), EVALUATION) if self.occluded else None
        shot = shoot(seed, identity, camera, number, occluder=front, height=self.world.height)
        image = torch.from_numpy(self.prepare(stored(shot.image))).permute(2, 0, 1).contiguous()
        return Example(image, shot.parts, shot.hidden, label, identity, camera)


def stored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A drawn picture ``(h, w, 3)`` as it comes back from the disk: trained pictures went through JPEG too."""
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return decode(np.asarray(data, np.uint8).reshape(-1), "a drawn picture")
