"""Makes the starter model, ``src/aelm/models/starter.ckpt``, from drawn people alone; ``make starter`` runs this.

    python benchmarks/starter.py DATA WEIGHTS OUTPUT

DATA is the folder of the data sets; people (`varied`, 3,000 of them under six cameras each) are drawn there first,
unless they are there, and 540 `usual` ones, as those of the quickstart, in passing. WEIGHTS are
those of MobileNetV2 from ImageNet, as ``real_people.py weights`` writes them. Nothing is learned by gradients:

1. The words of ``ColourWords`` are the middles of k-means over colours of drawn pictures.
2. The linear layers of the two ``StripeHead``, on colours and on MobileNetV2's map, come of linear discriminant
   analysis: it whitens how one person's pictures differ, and keeps the directions in which people differ most.

Weights are written in float16. About five minutes on two cores, most of them to draw the people.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor, nn

from aelm.checkpoint import KEY, build, describe
from aelm.data.synthetic import shoot, synthetic
from aelm.data.synthetic.occluders import TRAINING
from aelm.data.synthetic.people import PLANS, pick, stream
from aelm.files import write_file
from aelm.models import ReIDNetwork
from aelm.models.colour_words import lab, untinted
from aelm.models.weights import load_weights

NETWORK = {
    "_target_": "aelm.models.ReIDNetwork",
    "_partial_": True,
    "join": "all",
    "backbone": {
        "_target_": "aelm.models.ColourWords",
        "words": 128,
        "softness": 9.0,
        "backbone": {  # the first four of five stages: 96 channels, a 16th of the picture's size
            "_target_": "aelm.models.TimmBackbone",
            "name": "mobilenetv2_100",
            "pretrained": False,
            "last_stride": 2,
            "options": {"out_indices": [3]},
        },
    },
    "coam": {"_target_": "torch.nn.Identity", "_partial_": True},
    "aelm": {"_target_": "aelm.models.StripeHead", "_partial_": True, "embed_dim": 256},
}
PREPROCESSING = {
    "height": 128, "width": 64, "interpolation": "bilinear", "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]
}  # fmt: skip
COLOURS = 60_000  # that the words are made of
VARIED = 1500  # of the 3,000 varied people
WORLDS, PEOPLE, CAMERAS = 27, 20, 5  # of the usual people: seeds from 1,000 on, people of each, cameras of each
USUAL_COUNT = 2  # as how many pictures one of theirs counts
RIDGE = 1.0  # what is added to the spread of one person's pictures, in mean variances


def usual_people() -> tuple[list[np.ndarray], list[int]]:
    """Pictures ``(H, W, 3)`` of people and cameras as those of the quickstart and the videos, and who is who.

    Worlds of their own: nobody and no camera of theirs is drawn anywhere else.
    """
    pictures, pids = [], []
    for number in range(WORLDS * PEOPLE):
        seed = 1000 + number // PEOPLE
        for camera in range(1, CAMERAS + 1):
            chance = stream(PLANS, seed, number, camera, 0)
            occluder = pick(chance, TRAINING) if chance.random() < 0.15 else None
            pictures.append(shoot(seed, number + 1, camera, 0, occluder=occluder, loose=1.5).image)
            pids.append(100_000 + number)
    return pictures, pids


def colour_words(pictures: Sequence[Tensor], count: int) -> Tensor:
    """The middles ``(count, 3)`` of the colours in pictures, in the space of :func:`lab`."""
    seen = [lab(untinted(F.avg_pool2d(p / 255, 4))).permute(0, 2, 3, 1) for p in pictures]
    colours = torch.cat([s.reshape(-1, 3) for s in seen]).numpy()
    chosen = colours[np.random.default_rng(0).integers(0, len(colours), COLOURS)]
    means = MiniBatchKMeans(count, random_state=0, n_init=1, batch_size=4096).fit(chosen)
    return torch.from_numpy(means.cluster_centers_.astype(np.float32))


def discriminants(features: Tensor, pids: Tensor, count: int) -> nn.Linear:
    """Linear discriminant analysis: features ``(n, D)`` of people to ``count`` numbers, as a linear layer."""
    features = features.double()
    everyone, place = pids.unique(return_inverse=True)
    sums = features.new_zeros(len(everyone), features.shape[1]).index_add_(0, place, features)
    means, middle = sums / place.bincount()[:, None], features.mean(0)
    own, between = features - means[place], means - middle
    within = own.T @ own / len(own)
    within.diagonal().add_(RIDGE * within.diagonal().mean())
    root = torch.linalg.cholesky(within)
    white = torch.linalg.solve_triangular(root, between.T, upper=False)  # people, one person's spread alike everywhere
    _, directions = torch.linalg.eigh(white @ white.T)
    weight = torch.linalg.solve_triangular(root.T, directions[:, -count:], upper=True).T
    layer = nn.Linear(features.shape[1], count)
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(-weight @ middle)
    return layer


@torch.no_grad()
def starter(varied: Tensor, usual: Tensor, pids: Tensor, weights: str) -> ReIDNetwork:
    """The network, made from pictures ``(B, 3, H, W)`` uint8 of drawn people; ``pids`` of the varied come first."""
    network = build(NETWORK)(num_ids=0, mean=PREPROCESSING["mean"], std=PREPROCESSING["std"])
    backbone = network.eval().backbone
    load_weights(backbone.backbone.network, weights)
    backbone.words.copy_(colour_words(varied[::5].split(64), len(backbone.words)))
    parts = [*varied.split(64), *usual.split(64)]
    pooled = [[h.pooled(m) for h, m in zip(network.heads, network.features(part), strict=True)] for part in parts]
    repeats = torch.ones_like(pids)
    repeats[len(varied) :] = USUAL_COUNT
    for head, features in zip(network.heads, zip(*pooled, strict=True), strict=True):
        every = torch.cat(features).repeat_interleave(repeats, 0)
        head.neck[0].load_state_dict(discriminants(every, pids.repeat_interleave(repeats), 256).state_dict())
    return network.half()


def main(data: str, weights: str, output: str) -> None:
    """Draws, makes and writes."""
    found = synthetic(data, "varied", train_occluded=0.15)
    people = [p for p in found.train if p.pid <= VARIED]
    height, width = PREPROCESSING["height"], PREPROCESSING["width"]
    varied = [cv2.resize(np.asarray(cv2.imread(p.path))[:, :, ::-1], (width, height)) for p in people]
    usual, pids = usual_people()
    first, second = (torch.from_numpy(np.stack(part)).permute(0, 3, 1, 2) for part in (varied, usual))
    network = starter(first, second, torch.tensor([*(p.pid for p in people), *pids]), weights)
    state = {f"network.{key}": value.contiguous() for key, value in network.state_dict().items()}
    told = describe(NETWORK, 0, PREPROCESSING, [])
    write_file(Path(output), lambda file: torch.save({"state_dict": state, KEY: told}, file))
    print(f"{output}: {Path(output).stat().st_size / 1e6:.2f} MB, of {len(varied) + len(usual)} drawn pictures")


if __name__ == "__main__":
    if len(sys.argv) != 4 or re.match("-", sys.argv[1]):
        sys.exit(__doc__)
    main(*sys.argv[1:])
