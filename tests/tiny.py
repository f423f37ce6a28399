"""A small network in a checkpoint, as a training would leave it, made in a moment."""

import torch

from aelm import checkpoint
from aelm.checkpoint import build, describe

PREPROCESSING = {
    "height": 64, "width": 32, "interpolation": "bilinear", "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]
}  # fmt: skip


def description(aelm="AELM", coam="torch.nn.Identity", preprocessing=PREPROCESSING, **options):
    network = {
        "_target_": "aelm.models.ReIDNetwork",
        "_partial_": True,
        "backbone": {"_target_": "aelm.models.TimmBackbone", "name": "resnet10t", "pretrained": False},
        "coam": {"_target_": coam, "_partial_": True},
        "aelm": {"_target_": f"aelm.models.{aelm}", "_partial_": True, "embed_dim": 6, **options},
    }
    return describe(network, 5, preprocessing, [f"x:{i}" for i in range(5)])


def write_checkpoint(path, told=None):
    """Writes a checkpoint whose embeddings differ from picture to picture; returns its network."""
    torch.manual_seed(0)
    told = told or description()
    how = told["preprocessing"]
    network = build(told["network"])(num_ids=told["num_ids"], mean=how["mean"], std=how["std"])
    size = (how["height"], how["width"])
    with torch.no_grad():  # fresh statistics of the batch norms would make all pictures alike
        for _ in range(20):
            coarse = torch.nn.functional.interpolate(torch.rand(16, 3, 4, 2), size, mode="bilinear")
            network((255 * coarse).to(torch.uint8), torch.arange(16) % 5)
    state = {f"network.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, checkpoint.KEY: told}, path)
    return network.eval()
