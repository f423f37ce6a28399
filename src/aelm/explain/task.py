"""The task of ``python -m aelm.explain``: heat maps of pictures, or the positions that make a pair similar."""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from aelm import figures
from aelm.data import Augment, BadImageError
from aelm.data.decoding import decode, read_bytes
from aelm.data.listing import first_few
from aelm.data.sources import Item, find_items
from aelm.devices import full_precision
from aelm.embed.batches import devices, preparation
from aelm.embed.embedder import Embedder, load_embedder
from aelm.files import check_file, hold_file, hold_folder
from aelm.report import heatmap_rows
from aelm.types import InputError

log = logging.getLogger(__name__)

TITLE = "What each classifier looks at, what AELM erases, and what is left for B"
NO_IDENTITIES = "What each position brings to the embedding"


def run(config: DictConfig) -> list[Path]:
    """Draws as configured; returns the files.

    Raises:
        FileNotFoundError: If there are no pictures.
        ValueError: If the model has no feature maps, or an option does not fit.
    """
    if (config.images is None) == (config.pair is None):
        raise InputError("give either `images` or `pair`: images=crops/ or pair=[a.jpg,b.jpg]")
    if config.pair is None and config.rows < 1:
        raise InputError(f"`rows` must be at least 1, got {config.rows}")
    is_file = config.pair is not None and Path(config.output).suffix.lower() == ".png"
    if is_file:
        check_file(config.output)
    with (hold_file if is_file else hold_folder)(config.output):
        return explain(config)


def explain(config: DictConfig) -> list[Path]:
    """Draws into the locked output."""
    embedder = load_embedder(config.checkpoint, list(config.allow), size=config.size, camera=config.camera)
    embedder.to(devices(config.device)[0])
    if not embedder.has_maps:
        raise InputError(
            f"{embedder.name} gives only embeddings, no feature maps: `explain` needs a checkpoint, "
            "or a file that another project trained and whose network pools a map"
        )
    with full_precision():
        if config.pair is not None:
            return [draw_pair(embedder, list(config.pair), Path(config.output))]
        items = find_items(config.images, config.pattern)
        return draw_pages(embedder, items, known_labels(items, embedder.labels, config.labels), config)


def known_labels(items: Sequence[Item], labels: Sequence[str], name: str | None) -> list[int | None]:
    """The label of each picture that shows a training identity; None for others.

    Args:
        items: The pictures, with identities from their names.
        labels: Identity of each label, ``"market1501:2"``.
        name: The training data set of those identities; None for none.

    Raises:
        ValueError: If the model was not trained on such a data set.
    """
    if name is None:
        return [None] * len(items)
    places = {label: i for i, label in enumerate(labels)}
    trained = sorted({label.partition(":")[0] for label in labels})
    if name not in trained:
        raise InputError(f"`labels` must be one of the data sets of the training, {first_few(trained)}, got {name!r}")
    known = [places.get(f"{name}:{item.pid}") for item in items]
    if strangers := [item for item, label in zip(items, known, strict=True) if label is None]:
        log.warning(
            "`labels=%s`: %d of %d pictures show nobody of the training, as far as their names tell: %s. The training "
            "has %s; `pattern` reads identities from file names",
            name, len(strangers), len(items), first_few(sorted({one.pid or "no identity" for one in strangers}), 3),
            first_few(list(labels), 3),
        )  # fmt: skip
    return known


def draw_pages(
    embedder: Embedder, items: Sequence[Item], known: Sequence[int | None], config: DictConfig
) -> list[Path]:
    """Draws pages of ``rows`` pictures each; unreadable pictures are skipped, and listed at the end."""
    output, paths, bad = Path(config.output), [], list[str]()
    for number, part in enumerate(readable(embedder, items, config.rows, bad), 1):
        images = torch.stack([image for _, image in part])
        names = [Path(items[i].path).name for i, _ in part]
        rows = heatmap_rows.model_rows(embedder.network, images, embedder.labels, [known[i] for i, _ in part], names)
        name = f"{number:06d}_{plain_name(names[0])}.png" if config.rows == 1 else f"page_{number:04d}.png"
        title = TITLE if embedder.network.num_ids else NO_IDENTITIES
        paths.append(figures.heatmap_rows(rows, output / name, title=title))
    if bad:
        print(f"{len(bad)} of {len(items)} pictures could not be read: {first_few(bad)}")
    if not paths:
        raise InputError(f"none of the {len(items)} pictures could be read: {first_few(bad)}")
    drawn = len(items) - len(bad)
    print(f"{drawn} picture{'s' * (drawn != 1)} in {len(paths)} file{'s' * (len(paths) != 1)} in {output}")
    return paths


def readable(
    embedder: Embedder, items: Sequence[Item], count: int, bad: list[str]
) -> Iterator[list[tuple[int, Tensor]]]:
    """Pictures ``(3, height, width)`` with their indices in ``items``, ``count`` at a time.

    The errors of unreadable pictures are added to ``bad``.
    """
    part: list[tuple[int, Tensor]] = []
    resize = preparation(embedder)
    for i, item in enumerate(items):
        try:
            part.append((i, prepared(resize, item.path)))
        except BadImageError as error:
            bad.append(str(error))
        if len(part) == count:
            yield part
            part = []
    if part:
        yield part


def prepared(resize: Augment, path: str) -> Tensor:
    """One picture as the network's input, ``(3, height, width)`` uint8.

    Raises:
        BadImageError: If it cannot be read.
    """
    return torch.from_numpy(resize(decode(read_bytes(path), path))).permute(2, 0, 1).contiguous()


def draw_pair(embedder: Embedder, pair: Sequence[str], output: Path) -> Path:
    """Draws two pictures with the maps that add up to their similarity; ``output`` is a PNG file, or its folder."""
    if len(pair) != 2:
        raise InputError(f"`pair` must name two pictures, got {len(pair)}: {first_few(pair)}")
    image_a, image_b = (prepared(preparation(embedder), path) for path in pair)
    maps, rows = heatmap_rows.paired(embedder.network, image_a, image_b, (Path(pair[0]).name, Path(pair[1]).name))
    parts = ", ".join(f"{name.replace(',', '')} {share:+.3f}" for name, share in heatmap_rows.shares(maps).items())
    score = float(maps.score[0])
    path = output if output.suffix.lower() == ".png" else output / "pair.png"
    figures.heatmap_rows(rows, path, title=f"Similarity {score:.3f}, split over positions")
    print(f"similarity {score:.4f} = {parts}\n{path}")
    return path


def plain_name(name: str) -> str:
    """The letters and digits of a file name, for naming an output file.

    >>> plain_name('0002_c1 <"x">.jpg')
    '0002_c1_x'
    """
    return re.sub(r"\W+", "_", Path(name).stem).strip("_")[:80] or "picture"
