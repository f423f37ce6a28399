"""Time and memory of linking a hundred thousand tracks.

    python benchmarks/link.py                      # 100,000 tracks with 512-d embeddings, two kinds of model
    python benchmarks/link.py --tracks 20000

Tracks are simulated: people with five tracks each on average, on ten cameras, over a day. For a *good* model, whose
embeddings vary in all directions, the threshold accepts one in ten million pairs of different people: the graph of
similar pairs has small components, which scikit-learn clusters. Embeddings of a *weak* model vary in only 40
directions, and its threshold accepts one in a thousand: nearly all tracks are in one component, which is clustered on
the graph. The time is that of `aelm.link` between reading the embeddings and writing the table; each kind runs in its
own process, whose peak memory is printed (Linux), including the features.
"""

import argparse
import logging
import resource
import subprocess
import sys
import time

import numpy as np
import torch
from ranking import machine

from aelm.data.sources import Item
from aelm.link.people import Settings, link, link_scores

# Directions in which embeddings vary, noise relative to the person's unit vector, accepted rate of different people.
MODELS = {"good": (512, 0.8, 1e-7), "weak": (40, 0.9, 1e-3)}
DAY, TRACK = 12 * 3600.0, 20.0  # seconds


def made_up(
    tracks: int, dim: int, directions: int, noise: float, people: int
) -> tuple[np.ndarray, list[Item], np.ndarray]:
    """Simulated unit features, tracks with times, and their identities."""
    r = np.random.default_rng(0)
    whose = r.integers(people, size=tracks)
    basis = r.standard_normal((directions, dim), dtype=np.float32)
    features = (r.standard_normal((people, directions), dtype=np.float32) @ basis)[whose]
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    other = r.standard_normal((tracks, directions), dtype=np.float32) @ basis
    features += noise * other / np.linalg.norm(other, axis=1, keepdims=True)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    start = r.uniform(0, DAY, tracks)
    camera = r.integers(10, size=tracks)
    items = [
        Item(f"{i}.jpg", str(whose[i]), str(camera[i]), str(i), float(start[i]), float(start[i]) + TRACK)
        for i in range(tracks)
    ]
    return features, items, whose


def strangers(features: np.ndarray, whose: np.ndarray, rate: float) -> float:
    """The similarity that this share of pairs of different people exceeds, from a sample."""
    r = np.random.default_rng(1)
    a, b = r.integers(len(whose), size=(2, 2_000_000))
    apart = whose[a] != whose[b]
    pairs = zip(np.array_split(a[apart], 100), np.array_split(b[apart], 100), strict=True)
    some = np.concatenate([np.einsum("bd,bd->b", features[left], features[right]) for left, right in pairs])
    return float(np.quantile(some, 1 - rate))


def measure(kind: str, tracks: int, dim: int) -> None:
    """Links one simulated day and prints a row."""
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    directions, noise, rate = MODELS[kind]
    features, items, whose = made_up(tracks, dim, directions, noise, tracks // 5)
    threshold = strangers(features, whose, rate)
    begin = time.perf_counter()
    found = link(features, items, Settings(threshold))
    taken = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    right = link_scores(found.person, [item.pid for item in items])
    cells = [
        kind, f"{threshold:.3f}", f"{right['people']:,.0f} of {right['identities']:,.0f}",
        f"{100 * right['pairwise_f1']:.1f}", f"{taken:.0f} s", f"{peak:.2f} GiB",
    ]  # fmt: skip
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    """Runs each kind in its own process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--kind", choices=sorted(MODELS))
    options = parser.parse_args()
    if options.kind:
        measure(options.kind, options.tracks, options.dim)
        return
    print(f"{options.tracks:,} tracks with {options.dim}-d embeddings; {machine()}; {torch.get_num_threads()} threads")
    print("| model | threshold | people | pairwise F1 | time | peak memory |\n|---|---|---|---|---|---|", flush=True)
    for kind in MODELS:
        command = [sys.executable, __file__, "--kind", kind, "--tracks", str(options.tracks), "--dim", str(options.dim)]
        subprocess.run(command, check=True)
    print("target: 10 minutes and 4 GB on two cores")


if __name__ == "__main__":
    main()
