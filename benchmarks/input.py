"""Pictures per second on one core, from JPEG files to a normalised batch with BoT's augmentation.

    python benchmarks/input.py

Compares aelm (OpenCV and albumentations on uint8, erasing, one memory block per batch, then normalising the batch in
torch) with torchreid, fast-reid and BoT (PIL and torchvision for each picture: ToTensor, Normalize, RandomErasing, then
stacking), alternating in one process with one thread; medians over the turns. Both write the float batch into given
memory, since 25 MB of new pages per batch would take longer than the work. The files are generated: 64 x 128, about
4 kB, like Market-1501's.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as T

from aelm.data.dataset import ReIDDataset
from aelm.data.transforms import recipe
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, Picture

MEAN, STD = (torch.tensor(values).view(1, 3, 1, 1) * 255 for values in (IMAGENET_MEAN, IMAGENET_STD))
PEERS = "peers (PIL, torchvision)"


def write_pictures(folder: Path, count: int) -> list[Picture]:
    """Writes smooth colours with a little noise, which take JPEG as long as photographs."""
    rng = np.random.default_rng(0)
    pictures = []
    for i in range(count):
        colours = rng.integers(0, 256, (16, 8, 3), dtype=np.uint8)
        image = cv2.resize(colours, (64, 128), interpolation=cv2.INTER_CUBIC) + rng.normal(0, 6, (128, 64, 3))
        path = folder / f"{i:04}.jpg"
        cv2.imwrite(str(path), image.clip(0, 255).astype(np.uint8), [cv2.IMWRITE_JPEG_QUALITY, 90])
        pictures.append(Picture(str(path), i % 16, i % 4))
    return pictures


def ours(
    pictures: list[Picture], out: Tensor, *, cache: Literal["none", "ram"] = "none", normalised: bool = True
) -> Callable[[], None]:
    """One pass over the pictures with aelm."""
    dataset = ReIDDataset(pictures, recipe().train, cache=cache)
    scale, shift = 1 / STD, -MEAN / STD

    def run() -> None:
        for start in range(0, len(pictures), len(out)):
            batch = dataset.__getitems__([(0, start + i) for i in range(len(out))])
            if normalised:
                out.copy_(batch.image).mul_(scale).add_(shift)

    return run


def peers(pictures: list[Picture], out: Tensor) -> Callable[[], None]:
    """One pass over the pictures as in torchreid, fast-reid and BoT."""
    augment = T.Compose(
        [
            T.Resize((256, 128)),
            T.RandomHorizontalFlip(0.5),
            T.Pad(10),
            T.RandomCrop((256, 128)),
            T.ToTensor(),
            T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
            T.RandomErasing(0.5, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=0),
        ]
    )

    def run() -> None:
        for start in range(0, len(pictures), len(out)):
            batch = pictures[start : start + len(out)]
            torch.stack([augment(Image.open(picture.path).convert("RGB")) for picture in batch], out=out)

    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        pictures = write_pictures(Path(folder), options.pictures // options.batch_size * options.batch_size)
        size = statistics.mean(Path(picture.path).stat().st_size for picture in pictures)
        out = torch.empty(options.batch_size, 3, 256, 128)
        ways = {
            PEERS: peers(pictures, out),
            "aelm, normalised on the CPU": ours(pictures, out),
            "aelm, uint8 out": ours(pictures, out, normalised=False),
            "aelm, uint8 out, cache=ram": ours(pictures, out, cache="ram", normalised=False),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for turn in range(options.turns + 1):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                if turn > 0:  # The first turn is a warm-up.
                    seconds[name].append(time.perf_counter() - start)
    print(f"{len(pictures)} JPEGs of {size / 1024:.1f} kB, batches of {options.batch_size}, {options.turns} turns")
    base = statistics.median(seconds[PEERS])
    for name, times in seconds.items():
        median = statistics.median(times)
        spread = (max(times) - min(times)) / median
        print(f"{name:30}{len(pictures) / median:8,.0f} pictures/s{base / median:7.2f} x   (spread {spread:.0%})")


if __name__ == "__main__":
    main()
