"""A tiny model on disk, and pictures of every kind that people have, for the tests of the commands."""

import os

import cv2
import numpy as np
import torch

from aelm import checkpoint
from aelm.checkpoint import build, describe

NETWORK = {
    "_target_": "aelm.models.ReIDNetwork",
    "_partial_": True,
    "backbone": {"_target_": "aelm.models.TimmBackbone", "name": "resnet10t", "pretrained": False},
    "coam": {"_target_": "aelm.models.CoAM", "_partial_": True},
    "aelm": {"_target_": "aelm.models.AELM", "_partial_": True, "embed_dim": 6},
}
PREPROCESSING = {
    "height": 64,
    "width": 32,
    "interpolation": "bilinear",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
}


def save_model(path, seed=0, embed_dim=6):
    """Writes a checkpoint of an untrained network, as Lightning lays it out."""
    torch.manual_seed(seed)
    network = {**NETWORK, "aelm": {**NETWORK["aelm"], "embed_dim": embed_dim}}
    description = describe(network, 5, PREPROCESSING, [f"x:{i}" for i in range(5)])
    state = {f"network.{k}": v for k, v in build(description["network"])(num_ids=5).eval().state_dict().items()}
    torch.save({"state_dict": state, checkpoint.KEY: description}, path)
    return path


def person(number, height=96, width=48):
    """A picture that no other number has, ``(H, W, 3)``: blobs of colour, smooth as photographs are."""
    colours = np.random.default_rng(number).integers(0, 256, (6, 3, 3), dtype=np.uint8)
    return cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC)


def write(path, image, *options):
    """Encodes by the suffix; Python opens the file, since OpenCV cannot open every name."""
    done, encoded = cv2.imencode(os.path.splitext(path)[1], image, options)
    assert done
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(encoded.tobytes())
    return str(path)


def write_people(folder, count, *, cameras=3):
    """Writes ``count`` pictures with Market-1501's names; gives their paths, in order."""
    return [write(f"{folder}/{i:04}_c{i % cameras + 1}s1_{i:06}_00.jpg", person(i)) for i in range(count)]
