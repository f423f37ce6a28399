"""Cost of CoAM and AELM in a training step, and of building the class maps, which the head avoids.

    python benchmarks/step.py              # ResNet-50, 256 x 128, batch 8, N = 751, then N up to 100,000
    python benchmarks/step.py --quick      # small, to see that it runs
    python benchmarks/step.py --device cuda --batch-size 64 --precision bf16

First table: forward and backward of the plain identity model (one classifier per stage) on the same two stages with the
same width of the embedding map, then with two heads, CoAM, AELM and both. Second: a whole step with both for 100,000
identities. Third: logits and heat map of each picture's identity from the embedding map, and their gradients, compared
with building all class maps, averaging and selecting. Fourth: the heat map alone, for increasing numbers of identities.

All variants alternate in one process; times are medians of processor time, which other users of the machine affect
least (on a GPU: of wall-clock time). Memory is the peak size of a step's tensors beyond those that existed before it.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler prints each start and stop

import torch
import torch.nn.functional as F
from ranking import machine
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from aelm.losses import IdentityLoss
from aelm.models import AELM, IFCN, CoAM, ReIDNetwork, TimmBackbone, TwoHeads

Step = Callable[[], tuple[float, float]]  # seconds of forward and of backward

NO_COAM = nn.Identity
ARMS: dict[str, tuple[Callable[..., nn.Module], Callable[..., nn.Module]]] = {
    "plain": (NO_COAM, IFCN),
    "two heads": (NO_COAM, TwoHeads),
    "+ CoAM": (CoAM, IFCN),
    "+ AELM": (NO_COAM, AELM),
    "+ CoAM + AELM": (CoAM, AELM),
}


def clock(device: str) -> float:
    """The current time in seconds; on a GPU, after synchronisation."""
    if device == "cpu":
        return time.process_time() / torch.get_num_threads()
    torch.cuda.synchronize()
    return time.perf_counter()


def training_step(arm: str, num_ids: int, options: argparse.Namespace) -> Step:
    """Forward and backward of a network on a batch of noise; without the optimizer, which is the same for all."""
    torch.manual_seed(0)
    coam, aelm = ARMS[arm]
    backbone = TimmBackbone(options.backbone, pretrained=False)
    network = ReIDNetwork(backbone, num_ids, coam, partial(aelm, embed_dim=options.embed_dim)).to(options.device)
    if options.channels_last:
        network.to(memory_format=torch.channels_last)
    size = (options.batch_size, 3, options.height, options.height // 2)
    images = torch.randint(256, size, dtype=torch.uint8, device=options.device)
    pids = torch.randint(num_ids, (options.batch_size,), device=options.device)
    loss, half = IdentityLoss(), options.precision == "bf16"

    def step() -> tuple[float, float]:
        network.zero_grad()
        start = clock(options.device)
        with torch.autocast(options.device, torch.bfloat16, enabled=half):
            total = loss(network(images, pids), pids)
        middle = clock(options.device)
        total.backward()
        return middle - start, clock(options.device) - middle

    return step


def head_step(way: str, num_ids: int, options: argparse.Namespace) -> Step:
    """Logits and heat maps from the embedding map, and the loss gradients with respect to map and weight."""
    torch.manual_seed(0)
    B, E = options.head_batch_size, options.embed_dim
    maps = torch.rand(B, E, 16, 8, device=options.device, requires_grad=True)
    pids = torch.randint(num_ids, (B,), device=options.device)
    head = IFCN(E, num_ids, E).to(options.device)
    head.embed = nn.Sequential()

    def ours() -> tuple[Tensor, Tensor]:
        output = head(maps, pids)
        return output.logits, output.heatmap

    def naive() -> tuple[Tensor, Tensor]:
        class_maps = F.conv2d(maps, head.weight[:, :, None, None])  # (B, N, H, W)
        selected = class_maps[torch.arange(B, device=maps.device), pids].detach()
        return class_maps.mean((2, 3)), selected

    calls = {"aelm": ours, "all class maps": naive}

    def step() -> tuple[float, float]:
        maps.grad = head.weight.grad = None
        start = clock(options.device)
        logits, _heat = calls[way]()
        middle = clock(options.device)
        F.cross_entropy(logits, pids).backward()
        return middle - start, clock(options.device) - middle

    return step


def heatmap_step(num_ids: int, options: argparse.Namespace) -> Step:
    """The heat maps of a batch alone."""
    torch.manual_seed(0)
    maps = torch.rand(options.head_batch_size, options.embed_dim, 16, 8, device=options.device)
    pids = torch.randint(num_ids, (len(maps),), device=options.device)
    head, pooled = IFCN(options.embed_dim, num_ids, options.embed_dim).to(options.device), maps.mean((2, 3))

    def step() -> tuple[float, float]:
        start = clock(options.device)
        head.heatmaps(maps, pooled, pids)
        return clock(options.device) - start, 0.0

    return step


def peak_memory(step: Step, device: str) -> float:
    """Peak size in MB of a step's tensors beyond those that existed before it, from the allocator."""
    step()  # creates what is created only once
    if device != "cpu":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 1e6
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiled:
        step()
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())]
    return max(itertools.accumulate(sizes, initial=0)) / 1e6


def compare(ways: Mapping[str, Callable[[], Step]], turns: int, device: str) -> dict[str, tuple[float, float, float]]:
    """Milliseconds of forward and backward, and MB, of each variant; the variants alternate."""
    steps = {name: make() for name, make in ways.items()}
    memory = {name: peak_memory(step, device) for name, step in steps.items()}
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, step in steps.items():
            found = step()
            if turn > 0:  # the first turn is a warm-up
                times[name].append(found)
    medians = {name: [1000 * statistics.median(part) for part in zip(*t, strict=True)] for name, t in times.items()}
    return {name: (medians[name][0], medians[name][1], memory[name]) for name in ways}


def report(title: str, found: dict[str, tuple[float, float, float]], base: str) -> None:
    """Prints a Markdown table; ratios are relative to the variant ``base``."""
    print(f"\n{title}\n\n| | forward ms | backward ms | step | peak MB | memory |\n|---|---|---|---|---|---|")
    whole, most = sum(found[base][:2]), found[base][2]
    for name, (forward, backward, memory) in found.items():
        ratio, share = (forward + backward) / whole, memory / max(most, 1e-9)
        print(f"| {name} | {forward:.1f} | {backward:.1f} | {ratio:.2f} x | {memory:.1f} | {share:.2f} x |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--head-batch-size", type=int, default=64)
    parser.add_argument("--embed-dim", type=int, default=512)
    parser.add_argument("--num-ids", type=int, default=751)
    parser.add_argument("--many-ids", type=int, nargs="+", default=[751, 4101, 20_000, 100_000])
    parser.add_argument("--precision", choices=["32", "bf16"], default="32")
    parser.add_argument("--channels-last", action="store_true")
    parser.add_argument("--turns", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    if options.quick:
        small = {"backbone": "resnet10t", "height": 64, "batch_size": 2, "head_batch_size": 4, "turns": 2}
        vars(options).update(small, many_ids=[751, 4101], embed_dim=64)
    torch.set_num_threads(options.threads)
    print(f"{machine()}; {options.device}, {options.threads} threads, {options.turns} turns, {options.precision}")
    shape = f"{options.backbone}, {options.height} x {options.height // 2}, batch {options.batch_size}"

    arms = {arm: partial(training_step, arm, options.num_ids, options) for arm in ARMS}
    title = f"Training step: {shape}, two stages, E = {options.embed_dim}, N = {options.num_ids:,}"
    report(title, compare(arms, options.turns, options.device), "plain")

    most = max(options.many_ids)
    both = {f"N = {n:,}": partial(training_step, "+ CoAM + AELM", n, options) for n in (options.num_ids, most)}
    found = compare(both, max(options.turns // 3, 1), options.device)
    report(f"Training step with both: {shape}", found, f"N = {options.num_ids:,}")

    heads = {way: partial(head_step, way, 4101, options) for way in ("aelm", "all class maps")}
    found = compare(heads, options.turns, options.device)
    title = f"Logits and heat map from the embedding map: N = 4,101, batch {options.head_batch_size}, 16 x 8"
    report(title, found, "aelm")

    many = {f"N = {n:,}": partial(heatmap_step, n, options) for n in options.many_ids}
    found = compare(many, 4 * options.turns, options.device)
    report(f"The heat map alone, batch {options.head_batch_size}, 16 x 8", found, f"N = {options.many_ids[0]:,}")


if __name__ == "__main__":
    main()
