"""Whole training, from JPEGs on disk to optimizer steps: pictures per second, and the share of time waiting for data.

    python benchmarks/train.py                     # on the CPU, a small network
    python benchmarks/train.py --quick             # to see that it runs
    python benchmarks/train.py --device cuda       # ResNet-50, 256 x 128, batch 128, bf16, channels_last, compiled

Compares aelm (its data module and module under Lightning's Trainer, as `python -m aelm.train` builds them) with the
same network trained as in torchreid, fast-reid and BoT: PyTorch's default float32 (convolutions in TF32 on a GPU),
NCHW, PIL and torchvision for each picture in 4 workers, and a plain loop. Both alternate; the first steps of each (one
or more) are a warm-up. Waiting is the time between the loop's request for a batch and its arrival: on a GPU, which is
still computing earlier steps, an upper bound.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytorch_lightning as pl
import torch
from input import write_pictures
from PIL import Image
from ranking import machine
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

from aelm.data import IdentitySampler, Loader, ReIDDataModule, recipe
from aelm.losses import IdentityLoss
from aelm.models import AELM, CoAM, ReIDNetwork, TimmBackbone
from aelm.module import ReIDModule
from aelm.train.callbacks import Averaging
from aelm.types import IMAGENET_MEAN, IMAGENET_STD, Benchmark, Picture

IMAGES = 4  # per identity in a step
ADAM = partial(torch.optim.Adam, lr=3.5e-4)


class Speed(NamedTuple):
    """Pictures per second, and the share of time waiting for them."""

    pictures: float
    waiting: float


class Watch(pl.Callback):
    """Measures the steps after the warm-up, and how long the loop waits for each batch."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.waited = 0.0

    def on_train_batch_start(self, trainer: pl.Trainer, *_: object) -> None:
        if trainer.global_step >= self.warm_up:
            self.waited += time.perf_counter() - self.before

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        if trainer.global_step == self.warm_up:
            wait_for_device(pl_module.device.type)
            self.started = time.perf_counter()
        self.before = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        wait_for_device(pl_module.device.type)
        self.seconds = time.perf_counter() - self.started


def wait_for_device(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def network(num_ids: int, options: argparse.Namespace) -> ReIDNetwork:
    torch.manual_seed(0)
    return ReIDNetwork(TimmBackbone(options.backbone, pretrained=False), num_ids, CoAM, AELM)


def ours(pictures: list[Picture], options: argparse.Namespace) -> Speed:
    """aelm under Lightning."""
    sampler = partial(
        IdentitySampler,
        identities=options.batch_size // IMAGES,
        images=IMAGES,
        steps_per_epoch=options.warm_up + options.steps,
    )
    data = ReIDDataModule(
        {"jpegs": Benchmark("jpegs", tuple(pictures))},
        recipe(options.height, options.height // 2),
        sampler,
        test=[],
        loader=Loader(workers=options.workers, cache=options.cache),
    )
    data.setup("fit")
    module = ReIDModule(network(data.num_ids, options), {"identity": IdentityLoss()}, ADAM)
    if options.channels_last:
        module.network.to(memory_format=torch.channels_last)
    if options.compile:
        module.compile_training()
    watch = Watch(options.warm_up)
    trainer = pl.Trainer(
        accelerator="gpu" if options.device == "cuda" else "cpu",
        devices=1,
        precision=options.precision,
        max_epochs=1,
        callbacks=[watch, *([Averaging(0.999)] if options.ema else [])],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        benchmark=True,
    )
    if options.device == "cuda":
        torch.set_float32_matmul_precision("high")  # as `python -m aelm.train` does
    trainer.fit(module, data)
    torch.set_float32_matmul_precision("highest")  # as it was, for the peers
    return Speed(options.steps * options.batch_size / watch.seconds, watch.waited / watch.seconds)


class PeersDataset(Dataset[tuple[torch.Tensor, int]]):
    """Pictures as torchreid, fast-reid and BoT read and augment them."""

    def __init__(self, pictures: list[Picture], height: int) -> None:
        size = (height, height // 2)
        self.pictures = pictures
        self.augment = T.Compose(
            [
                T.Resize(size),
                T.RandomHorizontalFlip(0.5),
                T.Pad(10),
                T.RandomCrop(size),
                T.ToTensor(),
                T.Normalize(IMAGENET_MEAN, IMAGENET_STD),
                T.RandomErasing(0.5, scale=(0.02, 0.4), ratio=(0.3, 1 / 0.3), value=0),
            ]
        )

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = self.pictures[index]
        return self.augment(Image.open(picture.path).convert("RGB")), picture.pid


def peers(pictures: list[Picture], options: argparse.Namespace) -> Speed:
    """A plain loop with the same network and the same steps."""
    labels, camids = [picture.pid for picture in pictures], [picture.camid for picture in pictures]
    steps = options.warm_up + options.steps
    sampler = IdentitySampler(
        labels, camids, identities=options.batch_size // IMAGES, images=IMAGES, steps_per_epoch=steps
    )
    order = [index for _, index in sampler]
    loader = DataLoader(
        PeersDataset(pictures, options.height),
        options.batch_size,
        sampler=order,
        num_workers=min(options.workers, 4),
        pin_memory=options.device == "cuda",
    )
    torch.backends.cudnn.benchmark = True  # as their scripts set it, and as aelm's trainer above
    model = network(max(labels) + 1, options).to(options.device).train()
    optimizer, loss = ADAM(model.parameters()), IdentityLoss()
    waited = started = 0.0
    batches: Iterator[tuple[torch.Tensor, torch.Tensor]] = iter(loader)
    for step in range(steps):
        if step == options.warm_up:
            wait_for_device(options.device)
            waited, started = 0.0, time.perf_counter()
        asked = time.perf_counter()
        images, pids = next(batches)
        waited += time.perf_counter() - asked
        images, pids = images.to(options.device, non_blocking=True), pids.to(options.device, non_blocking=True)
        optimizer.zero_grad()
        loss(model(images, pids), pids).backward()
        optimizer.step()
    wait_for_device(options.device)
    seconds = time.perf_counter() - started
    return Speed(options.steps * options.batch_size / seconds, waited / seconds)


def settings() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--backbone")
    parser.add_argument("--height", type=int)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--precision")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--warm-up", type=int)
    parser.add_argument("--turns", type=int)
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction)
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction)
    parser.add_argument("--ema", action="store_true")
    parser.add_argument("--cache", choices=["none", "ram"], default="none")
    parser.add_argument("--pictures", type=int, default=4096)
    gpu = {
        "backbone": "resnet50", "height": 256, "batch_size": 128, "precision": "bf16-mixed", "workers": 8,
        "steps": 100, "warm_up": 20, "turns": 3, "channels_last": True, "compile": True,
    }  # fmt: skip
    cpu = {
        "backbone": "resnet18", "height": 128, "batch_size": 32, "precision": "32-true", "workers": 1,
        "steps": 20, "warm_up": 3, "turns": 3, "channels_last": False, "compile": False,
    }  # fmt: skip
    quick = {"backbone": "resnet10t", "height": 64, "batch_size": 8, "steps": 5, "warm_up": 1, "turns": 1}
    options = parser.parse_args()
    defaults = {**(gpu if options.device == "cuda" else cpu), **(quick if options.quick else {})}
    parser.set_defaults(**defaults, **({"pictures": 256} if options.quick else {}))
    return parser.parse_args()


def main() -> None:
    options = settings()
    ways = {"peers (PIL, torchvision, float32, NCHW)": peers, "aelm": ours}
    found: dict[str, list[Speed]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        drawn = write_pictures(Path(folder), options.pictures)
        pictures = [one._replace(pid=i % (options.pictures // 8), camid=i % 4) for i, one in enumerate(drawn)]
        for _ in range(options.turns):
            for name, way in ways.items():
                found[name].append(way(pictures, options))
    print(f"{machine()}; {torch.cuda.get_device_name() if options.device == 'cuda' else 'CPU'}")
    print(
        f"{options.backbone} + CoAM + AELM, {options.height} x {options.height // 2}, batch {options.batch_size}, "
        f"{options.steps} steps after {options.warm_up}, {options.turns} turns, {options.workers} workers (peers at "
        f"most 4); aelm: {options.precision}, channels_last={options.channels_last}, compile={options.compile}, "
        f"ema={options.ema}, cache={options.cache}\n"
    )
    print("| | pictures/s | spread | of the peers' | waiting for data |\n|---|---|---|---|---|")
    base = statistics.median(speed.pictures for speed in next(iter(found.values())))
    for name, speeds in found.items():
        pictures_a_second = statistics.median(speed.pictures for speed in speeds)
        spread = (max(speeds).pictures - min(speeds).pictures) / pictures_a_second
        waiting = statistics.median(speed.waiting for speed in speeds)
        print(
            f"| {name} | {pictures_a_second:,.1f} | {spread:.0%} | {pictures_a_second / base:.2f} x | {waiting:.1%} |"
        )


if __name__ == "__main__":
    main()
