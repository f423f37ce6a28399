"""Time and memory of sparse re-ranking, compared with the product of all features with themselves.

python benchmarks/rerank.py market     # 19,281 items x 2,048
python benchmarks/rerank.py msmt17     # 93,820 items x 2,048, row by row into rank_metrics
python benchmarks/rerank.py tiny --dense
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch
from ranking import SIZES, World, machine, make_world, peak_memory, report, seconds

from aelm.retrieval import rank_metrics, rerank, rerank_blocks

CHUNK = 4096


def self_product(items: torch.Tensor) -> None:
    """The float32 product of all features with themselves: in one piece if it fits into memory, else in blocks."""
    if len(items) ** 2 <= 2**29:
        _ = items @ items.T
        return
    out = torch.empty(CHUNK, len(items))
    for begin in range(0, len(items), CHUNK):
        block = items[begin : begin + CHUNK]
        torch.mm(block, items.T, out=out[: len(block)])


def reranked(world: World, whole: bool) -> float:
    """mAP after re-ranking, from one Q x G matrix or from rows that are not kept."""
    make = rerank if whole else rerank_blocks
    distances = make(world.query, world.gallery)
    return rank_metrics(None, None, *world[2:], distances=distances).mAP


def main() -> None:
    """Measures one size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("size", choices=SIZES)
    parser.add_argument("--random", action="store_true", help="random features instead of those of mAP 0.8")
    parser.add_argument("--dense", action="store_true", help="also the dense procedure of the tests (small sizes)")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    world = make_world(size, people=not arguments.random)
    items = torch.from_numpy(np.concatenate([world.query, world.gallery]))
    kind = "random" if arguments.random else "people"
    print(f"{arguments.size}: {len(items):,} items x {size.D:,}, {kind} features; {machine()}")
    whole = size.Q * size.G <= 2**28
    run = (lambda: rerank(world.query, world.gallery)) if whole else (lambda: reranked(world, whole=False))
    if whole:
        print(f"mAP {rank_metrics(*world).mAP:.4f}, re-ranked {reranked(world, whole):.4f}")
    memory = peak_memory(run)
    times: dict[str, list[tuple[float, float]]] = {"self product": [], "rerank": []}
    for _ in range(arguments.repeats):
        times["self product"].append(seconds(lambda: self_product(items)))
        times["rerank"].append(seconds(run))
    print(f"peak memory beyond the features {memory:.0f} MB")
    report(times, "self product")
    if arguments.dense:
        sys.path.insert(0, str(Path(__file__).parents[1]))
        from tests.reference import rerank_dense

        query, gallery = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in world[:2])
        difference = np.abs(rerank(query, gallery) - rerank_dense(query, gallery)).max()
        print(f"largest difference to the dense procedure {difference:.2e}")


if __name__ == "__main__":
    main()
