"""Time of exact search in a memory-mapped file, compared with the matrix product alone over the same file.

    python benchmarks/search.py                    # 1,000,000 embeddings of 512 float32 numbers: a file of 2 GB
    python benchmarks/search.py --pictures 100000  # a tenth of it

A folder of embeddings is created in a temporary folder (see `TMPDIR`), opened with `Gallery.open`, and searched for
the 20 best matches of 32 queries at a time: by `Gallery.search`, which also returns paths and scores, and by `nearest`.
The product reads the same file through `np.memmap` in blocks of the same size and discards the results; once with
numpy's `@`, once with torch's. All alternate in one run, with the whole file in the page cache.
"""

import argparse
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from ranking import machine, seconds

from aelm.data.sources import Item
from aelm.embed.folder import FEATURES, FORMAT, write_embeddings
from aelm.retrieval import nearest
from aelm.retrieval.blocks import COLUMNS
from aelm.search.gallery import Gallery

CHUNK = 50_000
# Rows per block, as in the library for few queries.
BLOCK = 4 * COLUMNS
# Number of first rows that are compared with a full sort in float64.
CHECKED = 200_000
# More than the rounding error of a float32 sum of 512 products.
SURE = 1e-5
NUMPY, TORCH = "numpy's product", "torch's product"
YARDSTICKS = (NUMPY, TORCH)


def make_folder(folder: Path, pictures: int, dim: int, queries: int) -> np.ndarray:
    """Writes embeddings of unit length, ten pictures a person, and returns queries: other pictures of some of them."""
    r = np.random.default_rng(0)
    people = r.standard_normal((-(-pictures // 10), dim), dtype=np.float32)
    asked = r.integers(0, len(people), queries)

    def unit(features: np.ndarray) -> np.ndarray:
        return features / np.linalg.norm(features, axis=1, keepdims=True)

    def parts() -> Iterator[np.ndarray]:
        for first in range(0, pictures, CHUNK):
            rows = np.arange(first, min(first + CHUNK, pictures))
            # Pictures of one person are spread over the file, as in a camera network.
            yield unit(people[rows % len(people)] + r.standard_normal((len(rows), dim), dtype=np.float32))

    items = [Item(f"camera{i % 6}/{i:07}.jpg", str(i % len(people)), str(i % 6)) for i in range(pictures)]
    model = {"name": "none", "checkpoint": "", "sha256": "", "dim": dim}
    scratch = folder / "scratch"
    scratch.mkdir()
    write_embeddings(folder, parts(), items, {"format": FORMAT, "model": model}, scratch)
    return unit(people[asked] + r.standard_normal((queries, dim), dtype=np.float32))


def product_of_numpy(query: np.ndarray, features: np.ndarray) -> None:
    """The product alone, by numpy."""
    for first in range(0, len(features), BLOCK):
        _ = features[first : first + BLOCK] @ query.T


def product_of_torch(query: np.ndarray, features: np.ndarray) -> None:
    """The product alone, by torch."""
    asked = torch.from_numpy(query)
    for first in range(0, len(features), BLOCK):
        _ = torch.utils.dlpack.from_dlpack(features[first : first + BLOCK]) @ asked.T


def check(query: np.ndarray, features: np.ndarray, k: int) -> int:
    """Compares the first rows with a full sort in float64; returns the number of ranks that differ by rounding.

    Raises:
        ValueError: If a rank has another picture, whose score differs by more than rounding.
    """
    features = features[:CHECKED]
    found = nearest(query, features, k)
    exact = query.astype(np.float64) @ features.astype(np.float64).T
    exact /= np.linalg.norm(query, axis=1, keepdims=True) * np.linalg.norm(features, axis=1).astype(np.float64)
    order = np.argsort(-exact, axis=1, kind="stable")[:, :k]
    differ = np.take_along_axis(exact, order, 1) - np.take_along_axis(exact, found.indices, 1)
    if np.abs(differ).max() > SURE:
        raise ValueError(f"not the {k} best: scores differ by {np.abs(differ).max():.2g} from the sorted ones")
    return int((order != found.indices).sum())


def peak_memory(call: Callable[[], object]) -> float:
    """Peak memory of a call in megabytes beyond the memory in use before it, without file pages (Linux)."""
    seen, done = [own_memory()], threading.Event()

    def look() -> None:
        while not done.wait(0.002):
            seen.append(own_memory())

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return max(seen) - seen[0]


def own_memory() -> float:
    """Megabytes in use, without file pages."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon:")).split()[1]) / 1024


def print_table(times: dict[str, list[tuple[float, float]]]) -> None:
    """Prints medians of wall-clock and processor time, and their ratios to both products in the same turn."""
    print("| way | wall | processor |" + "".join(f" / {y}: wall (range), processor |" for y in YARDSTICKS))
    print("|---|---|---|" + "---|" * len(YARDSTICKS))
    for way, taken in times.items():
        wall, used = np.array(taken).T
        cells = [f"{np.median(wall) * 1e3:.0f} ms", f"{np.median(used) * 1e3:.0f} ms"]
        for yardstick in YARDSTICKS:
            bare_wall, bare_used = np.array(times[yardstick]).T
            turns = wall / bare_wall
            share = np.median(used) / np.median(bare_used)
            cells.append(f"{np.median(turns):.2f} ({turns.min():.2f} to {turns.max():.2f}), {share:.2f}")
        print("| " + " | ".join([way, *cells]) + " |")


def main() -> None:
    """Creates the file, checks the results, and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--queries", type=int, default=32)
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--turns", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="aelm-search-") as name:
        folder = Path(name)
        query = make_folder(folder, options.pictures, options.dim, options.queries)
        print(f"{options.queries} queries x {options.pictures:,} x {options.dim}, top {options.top_k}; {machine()}")
        begin = time.perf_counter()
        gallery = Gallery.open(folder)
        print(f"Gallery.open, once: {time.perf_counter() - begin:.1f} s")
        # First, since later it would reuse memory of the other calls.
        memory = peak_memory(lambda: gallery.search(query, options.top_k))
        print(f"peak memory of Gallery.search without the file and the names: {memory:.0f} MB")
        features = np.load(folder / FEATURES, mmap_mode="r")
        rounded = check(query, features, options.top_k)
        print(f"first {min(CHECKED, options.pictures):,} rows: as a float64 sort, {rounded} ranks differ by rounding")
        calls = {
            NUMPY: lambda: product_of_numpy(query, features),
            TORCH: lambda: product_of_torch(query, features),
            "nearest": lambda: nearest(query, features, options.top_k),
            "Gallery.search": lambda: gallery.search(query, options.top_k),
        }
        for call in calls.values():  # warm-up: reads the file and fills caches
            call()
        times: dict[str, list[tuple[float, float]]] = {way: [] for way in calls}
        for _ in range(options.turns):
            for way, call in calls.items():
                times[way].append(seconds(call))
        print_table(times)
        print(f"target: Gallery.search within 1.3 x {NUMPY} over the same file")


if __name__ == "__main__":
    main()
