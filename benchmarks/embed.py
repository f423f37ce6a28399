"""Speed of embedding files relative to the model alone, and a check that memory does not grow with their number.

    python benchmarks/embed.py             # aelm.embed's work beside the model alone on pictures in memory
    python benchmarks/embed.py --memory    # memory while it embeds ten times as many pictures

The model is a ResNet-18 with aelm's default heads at 128 x 64, untrained. "alone" runs it on pictures in memory;
"embed" reads, decodes and resizes files of 4 kB, runs the model, writes shards and joins them. Both use the same
batches and threads and alternate in one process; medians over the turns. Loading the model is not included.
"""

import argparse
import os
import statistics
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import torch
from input import write_pictures

from aelm.checkpoint import KEY, build, describe
from aelm.data.sources import Item
from aelm.embed.batches import default_batch_size
from aelm.embed.embedder import Embedder, load_embedder
from aelm.embed.folder import embeddings_meta
from aelm.embed.job import Settings, embed_shards, join_batches, open_shards
from aelm.types import IMAGENET_MEAN, IMAGENET_STD

NETWORK = {
    "_target_": "aelm.models.ReIDNetwork",
    "_partial_": True,
    "backbone": {"_target_": "aelm.models.TimmBackbone", "name": "resnet18", "pretrained": False},
    "coam": {"_target_": "aelm.models.CoAM", "_partial_": True},
    "aelm": {"_target_": "aelm.models.AELM", "_partial_": True},
}


def make_embedder(folder: Path) -> Embedder:
    """An untrained model, loaded from a checkpoint like any other."""
    preprocessing = {
        "height": 128,
        "width": 64,
        "interpolation": "bilinear",
        "mean": IMAGENET_MEAN,
        "std": IMAGENET_STD,
    }
    description = describe(NETWORK, 100, preprocessing, [f"x:{i}" for i in range(100)])
    network = build(description["network"])(num_ids=100)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, KEY: description}, folder / "model.ckpt")
    return load_embedder(folder / "model.ckpt")


def alone(embedder: Embedder, count: int, batch_size: int) -> float:
    """Seconds of the model on pictures in the memory of its device."""
    images = torch.randint(256, (batch_size, 3, 128, 64), dtype=torch.uint8, device=embedder.device)
    start = time.perf_counter()
    features = [embedder.embed(images[: count - first]) for first in range(0, count, batch_size)]
    features[-1].cpu()  # waits for the device
    return time.perf_counter() - start


def embed(embedder: Embedder, paths: list[str], output: Path, settings: Settings) -> float:
    """Seconds from files to a folder of embeddings."""
    meta = embeddings_meta(embedder, {})
    start = time.perf_counter()
    shards = open_shards(paths, output, meta, settings.batch_size or 64, settings.shard_size)
    embed_shards(embedder, shards, shards.missing(), settings)
    join_batches(shards, [Item(path) for path in paths], output, meta, tracks=False)
    return time.perf_counter() - start


def family_memory() -> float:
    """Megabytes of this process and its children; shared pages count once."""
    total = 0
    for process in [os.getpid(), *children(os.getpid())]:
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:  # the process has ended
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


def children(process: int) -> list[int]:
    """The child processes of a process."""
    found = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    return [int(child) for child in found]


def watch_memory(embedder: Embedder, paths: list[str], output: Path, settings: Settings) -> None:
    """Prints the memory in each tenth of a job."""
    seen: list[tuple[float, float]] = []
    done = threading.Event()

    def look() -> None:
        start = time.perf_counter()
        while not done.wait(0.5):
            seen.append((time.perf_counter() - start, family_memory()))

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        seconds = embed(embedder, paths, output, settings)
    finally:
        done.set()
        watcher.join()
    print(f"{len(paths):,} pictures in {seconds:.0f} s; memory in MB (this process and its workers), by tenths:")
    tenths = [[mb for at, mb in seen if i / 10 <= at / seconds < (i + 1) / 10] for i in range(10)]
    print("  ".join(f"{max(part):.0f}" if part else "-" for part in tenths))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=None)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--memory", action="store_true", help="instead, measure memory over ten times the pictures")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        embedder = make_embedder(folder).to(options.device)
        paths = [picture.path for picture in write_pictures(folder, options.pictures)]
        size = options.batch_size or default_batch_size(options.device)
        settings = Settings(options.device, size, shard_size=options.pictures, workers=options.workers, progress=False)
        if options.memory:
            watch_memory(embedder, paths * 10, folder / "out", settings)
            return
        alone(embedder, 4 * size, size)
        ways: dict[str, list[float]] = {"alone": [], "embed": []}
        for _ in range(options.turns):
            ways["alone"].append(alone(embedder, len(paths), size))
            ways["embed"].append(embed(embedder, paths, folder / "out", settings))
    medians = {way: statistics.median(seconds) for way, seconds in ways.items()}
    print(f"ResNet-18 at 128 x 64, {len(paths)} files, batches of {size}, {torch.get_num_threads()} threads")
    for way, seconds in ways.items():
        spread = (max(seconds) - min(seconds)) / medians[way]
        print(f"{way:6}{len(paths) / medians[way]:8,.1f} pictures/s   (spread {spread:.0%})")
    print(f"embed reaches {medians['alone'] / medians['embed']:.1%} of the speed of the model alone (target: 95 %)")


if __name__ == "__main__":
    main()
