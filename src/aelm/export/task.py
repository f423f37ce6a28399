"""The task of ``python -m aelm.export``: a checkpoint as an ONNX file, or one for ``torch.export.load``."""

import os
import re
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from aelm.checkpoint import checkpoint_file
from aelm.command.build import build_test_data, training_of
from aelm.data import ReIDDataModule, ReIDDataset
from aelm.data.sources import find_items
from aelm.embed.batches import embed_files, loaded, preparation
from aelm.embed.embedder import Embedder, device_and_threads, latency, load_embedder
from aelm.export.onnx import MOST, SUFFIXES, Exported, export_model
from aelm.files import check_file
from aelm.retrieval import RankMetrics
from aelm.types import InputError, Picture


def run(config: DictConfig) -> Exported:
    """Exports as configured, and prints the files, the difference from PyTorch, and speed and mAP if tested."""
    output = check_file(default_output(config) if config.output is None else config.output)
    embedder = load_embedder(config.checkpoint, list(config.allow), size=config.size, camera=config.camera)
    data = test_data(config, embedder)
    exported = export_model(
        embedder,
        output,
        config.format,
        preprocessing=config.preprocessing,
        precision=config.precision,
        calibration=None if config.calibrate is None else calibration(embedder, config.calibrate),
        opset=config.opset,
        tolerance=config.tolerance,
    )
    print(
        f"{exported.path} ({exported.path.stat().st_size / 2**20:.1f} MiB) and {exported.sidecar.name}: at batch 1, 2 "
        f"and 7 the largest difference to PyTorch is {exported.difference:.1e}"
    )
    if data is not None:
        compare(embedder, load_embedder(exported.path), data)
    return exported


def default_output(config: DictConfig) -> str:
    """The file's name without ``output``: the checkpoint's, or its run's for ``best.ckpt``, in the current folder.

    Raises:
        FileNotFoundError: If the checkpoint is a folder without ``best.ckpt``.
    """
    file = Path(os.path.abspath(checkpoint_file(config.checkpoint)))
    run = file.parents[1] if file.parent.name == "checkpoints" else file.parent
    name = run.name if file.name == "best.ckpt" else file.name
    name = re.sub(r"\.(pth|pt|bin|safetensors|ckpt)(\.tar.*)?$", "", name)  # torchreid writes model.pth.tar-60
    kinds = {"_fp16": config.precision == "fp16", "_int8": config.precision == "int8"}
    kinds["_uint8"] = config.preprocessing == "inside"
    return f"{name}{''.join(kind for kind, so in kinds.items() if so)}{SUFFIXES.get(config.format, '')}"


def test_data(config: DictConfig, embedder: Embedder) -> ReIDDataModule | None:
    """The test data: ``dataset``, or with only ``data_dir`` the checkpoint's data set; None without both."""
    if config.data_dir is None and OmegaConf.is_missing(config.dataset, "benchmarks"):
        return None
    if config.format != "onnx":
        raise InputError(f"`dataset` and `data_dir` test an ONNX file, and `format` is {config.format}: leave them out")
    training = training_of(config, embedder.config, embedder.pictures)
    data = build_test_data(config, training)
    data.setup("test")
    return data


def calibration(embedder: Embedder, source: str) -> Tensor:
    """At most 256 evenly spaced pictures ``(n, 3, height, width)`` uint8 of a folder, without unreadable ones."""
    paths = [item.path for item in find_items(source, None, key="calibrate")]
    places = np.linspace(0, len(paths) - 1, min(len(paths), MOST)).round().astype(int)
    kept = [Picture(paths[place], -1, 0) for place in places]
    data = ReIDDataset(kept, preparation(embedder), on_bad_image="skip")
    return next(loaded(data, len(kept), torch.get_num_threads())).image


def compare(embedder: Embedder, file: Embedder, data: ReIDDataModule) -> None:
    """Prints mAP (of tracks, if there are any) and milliseconds per picture of both models, on the first test set."""
    one = data.test_sets[0]
    pictures = (*one.query, *one.gallery)
    place = torch.arange(len(pictures))
    pids, camids = (torch.tensor([getattr(picture, key) for picture in pictures]) for key in ("pid", "camid"))
    found: list[float] = []
    for name, model in (("PyTorch", embedder), (file.name, file)):
        metric = RankMetrics(tracks=one.tracks or None)
        features = torch.from_numpy(embed_files(model, [picture.path for picture in pictures]))
        metric.update(features, pids, camids, place < len(one.query), place)
        found.append(100 * metric.compute().mAP)
        change = "" if len(found) == 1 else f" ({found[1] - found[0]:+.2f})"
        times = ", ".join(f"{value:.2f} at batch {count}" for count, value in latency(model).items())
        where = f"milliseconds a picture on {device_and_threads(model.device)}"
        print(f"{name}: mAP {found[-1]:.2f}{change} on {one.name}; {where}: {times}")
