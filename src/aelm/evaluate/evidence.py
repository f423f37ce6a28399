"""Data, figures and numbers of the claims and the occlusion sweep."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from aelm import figures
from aelm.data import Augment, ReIDDataModule, ReIDDataset
from aelm.data.dataset import ImageTransform, one_thread
from aelm.data.decoding import decode
from aelm.data.loader import check_sockets, default_workers
from aelm.data.synthetic import EVALUATION
from aelm.data.synthetic.people import PLANS, pick, stream
from aelm.data.synthetic.plan import SIZES
from aelm.data.synthetic.worker import JPEG_QUALITY, drawer
from aelm.embed.batches import preparation
from aelm.embed.embedder import Embedder
from aelm.evaluate import claims as summary
from aelm.evaluate import occlusion as curve
from aelm.evaluate.claims import PARTS, Mean, PictureMeasures, cells, measure, shrunk
from aelm.evaluate.occlusion import SCORES, Occluded, Plan, Row, measure_curves
from aelm.figures.curves import occlusion_chart, part_bars
from aelm.models import ReIDNetwork
from aelm.module import ReIDModule
from aelm.report.metrics import Test, write_text
from aelm.types import InputError, Picture

DRAWN = "aelm.data.synthetic.synthetic"


class World(NamedTuple):
    """The synthetic people of a training.

    Attributes:
        seed: Seed of the world.
        size: A key of ``SIZES``: number of cameras and of training shots.
        height: Picture height in pixels.
        people: Identity and label of each training person, in label order.
    """

    seed: int
    size: str
    height: int
    people: tuple[tuple[int, int], ...]


class Example(NamedTuple):
    """A shot that was not used for training; a loader adds a leading batch axis B.

    Attributes:
        image: ``(3, H, W)`` uint8, the network's input.
        parts: ``(h, w)`` uint8, ``BodyPart`` of each pixel of the drawing.
        hidden: ``(h, w)`` bool, True where occluded.
        label: Identity number in the network.
        identity: Identity number in the world.
        camera: Camera number, from 1.
    """

    image: Tensor
    parts: NDArray[np.uint8]
    hidden: NDArray[np.bool_]
    label: int
    identity: int
    camera: int


def world_of(config: Mapping[str, Any], labels: Sequence[str]) -> World:
    """The synthetic world that a checkpoint was trained on.

    Args:
        config: The configuration of the run, from the checkpoint.
        labels: Name of each label, such as ``"synthetic:1"``.

    Raises:
        ValueError: If it was not trained on synthetic people.
    """
    benchmarks = config.get("dataset", {}).get("benchmarks", {})
    for name, node in benchmarks.items():
        own = [(int(text.rpartition(":")[2]), i) for i, text in enumerate(labels) if text.rpartition(":")[0] == name]
        if node.get("_target_") == DRAWN and own:
            return World(node.get("seed", 0), node.get("size", "small"), node.get("height", 128), tuple(own))
    raise InputError(
        "`claims=true` needs a checkpoint of a training on synthetic pedestrians (dataset=synthetic), where the truth "
        f"about each pixel is drawn; this one was trained on {', '.join(benchmarks) or 'data it does not name'}"
    )


class FurtherShots(Dataset[Example]):
    """One shot of each chosen person by each camera: the first one not used for training.

    Args:
        world: The world of the training.
        people: Number of people, spread evenly over the labels; None for all.
        prepare: Transform of a picture for the network.
        occluded: Whether the person is occluded, by objects never shown in training; nothing else differs.

    Raises:
        ValueError: If ``people`` is below 1.
    """

    def __init__(self, world: World, people: int | None, prepare: Augment, *, occluded: bool) -> None:
        if people is not None and people < 1:
            raise InputError(f"`claims_people` must be at least 1, or null for all, got {people}")
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
        shot = drawer(self.world.size)(seed, identity, camera, number, occluder=front, height=self.world.height)
        image = torch.from_numpy(self.prepare(stored(shot.image))).permute(2, 0, 1).contiguous()
        return Example(image, shot.parts, shot.hidden, label, identity, camera)


def stored(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A drawn picture ``(h, w, 3)`` after JPEG compression, like training pictures."""
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    return decode(np.asarray(data, np.uint8).reshape(-1), "a drawn picture")


BATCH = 32


def measured_shots(network: ReIDNetwork, shots: FurtherShots, workers: int | None = None) -> list[PictureMeasures]:
    """The measures of every shot at every stage, from the unerased maps of the picture's own identity.

    Args:
        network: On the device to run on; its heads are IFCN, or have A and B.
        shots: Shots, drawn in worker processes.
        workers: Number of workers; None for one per core, at most 8; 0 for none.
    """
    count = default_workers(1) if workers is None else workers
    check_sockets(count)
    loader: DataLoader[Example] = DataLoader(shots, BATCH, num_workers=count, worker_init_fn=one_thread)
    found = []
    for batch in loader:
        device = network.mean.device
        outputs = network.explain(batch.image.to(device), batch.label.to(device))
        for stage, heads in enumerate(outputs, 1):
            heats = [head.heatmap.cpu().numpy() for head in heads if head.heatmap is not None]
            hits = [(head.logits.argmax(1).cpu() == batch.label).tolist() for head in heads]
            for i in range(len(batch.label)):
                identity, camera = int(batch.identity[i]), int(batch.camera[i])
                own = [heat[i].astype(np.float64) for heat in heats]
                parts, hidden = batch.parts[i].numpy(), batch.hidden[i].numpy()
                measures = measure(own, cells(parts, ~hidden, own[0].shape), shrunk(hidden, own[0].shape))
                name = f"{identity} camera {camera}"
                found.append(PictureMeasures(name, identity, stage, tuple(hit[i] for hit in hits), measures))
    return found


ROWS, QUERIES = 8, 3
TITLE = "Where A and B look, on shots that were not trained on; lines: visible parts of the body"
NEVER = (math.nan, math.nan, math.nan)


def draw_claims(
    directory: Path, prefix: str, network: ReIDNetwork, shots: FurtherShots, stages: Mapping[int, Mapping[str, Mean]]
) -> list[Path]:
    """Draws heat maps of A and B on some shots with outlines of the body parts, and bars of coverage by part.

    Args:
        directory: Folder for ``<prefix>_heatmaps.png`` and ``<prefix>_parts.png``.
        prefix: Such as ``claims``.
        network: On the device to run on.
        shots: The measured shots.
        stages: The means of each stage.
    """
    rows = []
    for place in np.linspace(0, len(shots) - 1, min(ROWS, len(shots))).round().astype(int).tolist():
        shot = shots[place]
        label = torch.tensor([shot.label], device=network.mean.device)
        outputs = network.explain(shot.image[None].to(network.mean.device), label)
        labels = np.where(shot.hidden, 0, shot.parts).astype(np.uint8)
        panels = [
            figures.Panel(f"{letter}, stage {stage}", head.heatmap[0].cpu().numpy(), labels=labels)
            for stage, heads in enumerate(outputs, 1)
            for letter, head in zip("AB", heads, strict=False)
            if head.heatmap is not None
        ]
        image = shot.image.permute(1, 2, 0).numpy()
        rows.append(figures.HeatmapRow(image, panels, f"id {shot.identity}, cam {shot.camera}"))
    bars = {
        f"stage {stage}": {
            head.upper(): [bar(found.get(f"{head}/part_{part.name.lower()}")) for part in PARTS]
            for head in "ab"
            if f"{head}/parts" in found
        }
        for stage, found in stages.items()
    }
    names = [part.name.lower().replace("_", " ") for part in PARTS]
    title = "How often each visible part of the body is covered"
    return [
        figures.heatmap_rows(rows, directory / f"{prefix}_heatmaps.png", title=TITLE),
        part_bars(bars, names, directory / f"{prefix}_parts.png", title=title),
    ]


def bar(mean: Mean | None) -> tuple[float, float, float]:
    """How often a part is covered, the standard error, and the chance value."""
    return NEVER if mean is None else (mean.value, mean.error, mean.chance)


def draw_occlusion(
    directory: Path, queries: Sequence[Picture], plan: Plan, transform: ImageTransform, curve: Sequence[Row]
) -> list[Path]:
    """Draws the curve, and some queries with every occluder kind at every fraction.

    Args:
        directory: Folder for ``occlusion.png`` and ``occlusion_queries.png``.
        queries: All queries.
        plan: The occlusions.
        transform: Transform of pictures.
        curve: The points of the curve.
    """
    some = [queries[i] for i in np.linspace(0, len(queries) - 1, min(QUERIES, len(queries))).round().astype(int)]
    hidden, plain = Occluded(some, plan, transform), ReIDDataset(some, transform)
    images = []
    captions: list[str] = []
    for kind in plan.kinds:
        for q in range(len(some)):
            images.append(plain.read(q))
            captions.append(kind)
            for i, (one, fraction) in enumerate(hidden.points):
                if one == kind:
                    images.append(hidden.read(q * len(hidden.points) + i))
                    captions.append(f"{100 * fraction:g} %")
    columns = len(some) * (1 + len(plan.hiding))
    sheet = figures.contact_sheet(
        images, directory / "occlusion_queries.png", columns, height=64, captions=captions,
        title="Queries as they were hidden",
    )  # fmt: skip
    fractions = sorted({row.fraction for row in curve})
    panels = {
        name: {
            kind: [row.values[name] for row in curve if row.kind == kind]
            for kind in dict.fromkeys(r.kind for r in curve)
        }
        for name in SCORES
    }
    return [occlusion_chart(panels, fractions, directory / "occlusion.png"), sheet]


class Destination(NamedTuple):
    """Where CSVs and figures are written.

    Attributes:
        output: A directory; None to write nothing.
        figures: Whether to draw figures.
    """

    output: Path | None
    figures: bool


def world(embedder: Embedder, config: Mapping[str, Any]) -> World:
    """The synthetic people that a checkpoint was trained on.

    Raises:
        ValueError: If it was trained on other data, or gives no heat maps.
    """
    if not embedder.has_maps:
        raise InputError(
            f"{embedder.name} gives only embeddings, no feature maps: `claims=true` needs a checkpoint of aelm"
        )
    return world_of(config, embedder.labels)


def claims(
    embedder: Embedder, people: World, count: int | None, workers: int | None, to: Destination
) -> dict[str, float]:
    """Measures where A and B look on new shots of the training people, unoccluded (``claims``) and ``claims_occluded``.

    Args:
        embedder: On the device to run on.
        people: The world of the training.
        count: Number of people; None for all.
        workers: Worker processes that draw; None for one per core.
        to: Output: ``claims.csv`` with one line per picture and stage, ``claims_parts.csv``, PNGs.
    """
    found, means, named = {}, {}, dict[str, float]()
    for prefix in ("claims", "claims_occluded"):
        shots = FurtherShots(people, count, preparation(embedder), occluded=prefix != "claims")
        found[prefix] = measured_shots(embedder.network, shots, workers)
        means[prefix] = summary.by_stage(found[prefix])
        named |= summary.claim_scores(prefix, means[prefix])
        print(f"{len(shots)} shots of {len(shots.chosen)} people\n{summary.claims_table(prefix, means[prefix])}")
        if to.output is not None and to.figures:
            draw_claims(to.output, prefix, embedder.network, shots, means[prefix])
    if to.output is not None:
        write_text(to.output / "claims.csv", summary.pictures_csv(found))
        write_text(to.output / "claims_parts.csv", summary.parts_csv(means))
    return named


def occlusion(
    test: Test, plan: Plan, embed: Callable[[Tensor], Tensor], data: ReIDDataModule, samples: int, to: Destination
) -> dict[str, float]:
    """Scores of a test set at increasing occlusion of the queries.

    Args:
        test: Plain queries and gallery with their features.
        plan: The occlusions.
        embed: Computes embeddings as the test did.
        data: Transform and loading of pictures.
        samples: Bootstrap samples of the intervals; 0 for none.
        to: Output: ``occlusion.csv`` and PNGs.
    """
    points = measure_curves(test, plan, embed, data.transform.test, data.loader)
    rows = curve.rows(points, samples)
    print(curve.curve_table(rows))
    if to.output is not None:
        write_text(to.output / "occlusion.csv", curve.curve_csv(rows))
        if to.figures:
            draw_occlusion(to.output, test.query, plan, data.transform.test, rows)
    return curve.curve_scores(rows, samples)


@torch.inference_mode()
def embed_images(module: ReIDModule, context: Callable[[], AbstractContextManager[None]], images: Tensor) -> Tensor:
    """Embeddings ``(B, D)`` as in a test of ``module``, in the trainer's precision context."""
    with context():
        features: Tensor = module(images.to(module.device))
    return features
