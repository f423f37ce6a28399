"""Time and memory of exact ranking, compared with the matrix product alone and with the usual way.

python benchmarks/ranking.py market            # 3,368 x 15,913 x 2,048, random features
python benchmarks/ranking.py market --people   # the same with features that give mAP 0.8
python benchmarks/ranking.py msmt17            # 11,659 x 82,161 x 2,048
python benchmarks/ranking.py million           # 3,368 x 1,000,000 x 512
"""

import argparse
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from aelm.retrieval import rank_metrics


class Size(NamedTuple):
    """Size of a benchmark: queries, gallery, dimensions, identities, pictures of them, and noise for mAP 0.8."""

    Q: int
    G: int
    D: int
    people: int
    cameras: int
    known: int
    noise: float


SIZES = {
    "tiny": Size(200, 900, 256, 40, 6, 700, 1.0),
    "market": Size(3368, 15_913, 2048, 750, 6, 13_115, 1.77),
    "msmt17": Size(11_659, 82_161, 2048, 3060, 15, 82_161, 1.6),
    "million": Size(3368, 1_000_000, 512, 750, 6, 13_115, 1.1),
}
CHUNK = 4096


class World(NamedTuple):
    """Features and labels of queries and gallery."""

    query: np.ndarray
    gallery: np.ndarray
    query_pids: np.ndarray
    gallery_pids: np.ndarray
    query_camids: np.ndarray
    gallery_camids: np.ndarray


def make_world(size: Size, people: bool, seed: int = 0) -> World:
    """Random features; or people in groups of ten similar ones, with the noise that gives mAP 0.8."""
    r = np.random.default_rng(seed)
    query_pids = r.integers(0, size.people, size.Q)
    known = r.integers(0, size.people, size.known)
    # Distractors are other people with a dozen pictures each.
    others = r.integers(size.people, size.people + 1 + (size.G - size.known) // 12, size.G - size.known)
    gallery_pids = np.concatenate([known, others])
    looks = r.standard_normal((1 + size.G // 100, size.D), dtype=np.float32)

    def features(pids: np.ndarray) -> np.ndarray:
        out = np.empty((len(pids), size.D), dtype=np.float32)
        for begin in range(0, len(pids), CHUNK):
            part = out[begin : begin + CHUNK]
            r.standard_normal(out=part, dtype=np.float32)
            if people:
                part *= size.noise
                for row, pid in zip(part, pids[begin : begin + CHUNK].tolist(), strict=True):
                    own = np.random.default_rng(pid).standard_normal(size.D, dtype=np.float32)
                    row += 0.45 * own + looks[pid // 10 % len(looks)]
        return out

    query, gallery = features(query_pids), features(gallery_pids)
    cameras = (r.integers(0, size.cameras, n) for n in (size.Q, size.G))
    return World(query, gallery, query_pids, gallery_pids, *cameras)


def bare_product(world: World) -> None:
    """The float32 product alone: in one piece if it fits into memory, else repeatedly into one block."""
    query, gallery = torch.from_numpy(world.query), torch.from_numpy(world.gallery)
    if len(query) * len(gallery) <= 2**28:
        _ = query @ gallery.T
        return
    width = 4 * CHUNK
    out = torch.empty(len(query), width)
    for begin in range(0, len(gallery), width):
        block = gallery[begin : begin + width]
        torch.mm(query, block.T, out=out[:, : len(block)])


def usual_way(world: World) -> float:
    """The full distance matrix, numpy's argsort, and a vectorised loop over the queries; returns mAP."""
    query = world.query / np.linalg.norm(world.query, axis=1, keepdims=True)
    gallery = world.gallery / np.linalg.norm(world.gallery, axis=1, keepdims=True)
    distances = 1 - query @ gallery.T
    order = np.argsort(distances, axis=1)
    precisions = []
    for q, row in enumerate(order):
        pids, camids = world.gallery_pids[row], world.gallery_camids[row]
        kept = (pids != world.query_pids[q]) | (camids != world.query_camids[q])
        matches = pids[kept] == world.query_pids[q]
        if matches.any():
            hits = matches.cumsum()
            precisions.append((hits / np.arange(1, len(hits) + 1))[matches].mean())
    return float(np.mean(precisions))


def seconds(call: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor time of a call; the latter is more reliable on a shared machine."""
    begin, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begin, time.process_time() - used


def report(times: dict[str, list[tuple[float, float]]], yardstick: str) -> None:
    """Prints medians, and their ratios to the call ``yardstick``."""
    for name, taken in times.items():
        wall, used = np.array(taken).T
        bare_wall, bare_used = np.array(times[yardstick]).T
        turns = wall / bare_wall
        print(
            f"{name:14} median {np.median(wall):8.3f} s, {np.median(wall) / np.median(bare_wall):.3f} x the product "
            f"(turn by turn {np.median(turns):.3f}, {turns.min():.3f} to {turns.max():.3f}); "
            f"processor time {np.median(used):8.3f} s, {np.median(used) / np.median(bare_used):.3f} x"
        )


def peak_memory(call: Callable[[], object]) -> float:
    """Peak memory of a call in megabytes beyond the memory in use before it (Linux)."""
    before = _memory("VmRSS")
    with open("/proc/self/clear_refs", "w") as reset:
        reset.write("5")
    call()
    return _memory("VmHWM") - before


def _memory(name: str) -> float:
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith(name))
    return int(line.split()[1]) / 1024


def machine() -> str:
    """Number of threads and library versions, for the tables."""
    return f"{torch.get_num_threads()} threads, torch {torch.__version__}, numpy {np.__version__}"


def main() -> None:
    """Measures one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--people", action="store_true", help="features of mAP 0.8 instead of random ones")
    parser.add_argument("--usual", action="store_true", help="also the usual way (needs 20 bytes per pair)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    world = make_world(size, arguments.people)
    kind = "people" if arguments.people else "random"
    print(f"{arguments.size}: {size.Q:,} x {size.G:,} x {size.D:,}, {kind} features; {machine()}")

    result = rank_metrics(*world)
    memory = peak_memory(lambda: rank_metrics(*world))
    calls: dict[str, Callable[[], object]] = {
        "bare product": lambda: bare_product(world),
        "rank_metrics": lambda: rank_metrics(*world),
    }
    if arguments.usual:
        print(f"mAP of the usual way: {usual_way(world):.6f}")
        calls["usual way"] = lambda: usual_way(world)
    # The calls alternate, so that other load on the machine affects all of them.
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(arguments.repeats):
        for name, call in calls.items():
            times[name].append(seconds(call))
    print(f"mAP {result.mAP:.6f}, peak memory beyond the features {memory:.0f} MB")
    report(times, "bare product")


if __name__ == "__main__":
    main()
