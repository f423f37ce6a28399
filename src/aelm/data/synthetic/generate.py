"""Draws the data set once, atomically, and reads it as a benchmark."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from aelm.data.synthetic.plan import FOLDERS, SIZES
from aelm.data.synthetic.worker import CANNOT_WRITE, Order, work
from aelm.files import hold_file
from aelm.types import InputError, RunError

if TYPE_CHECKING:
    from aelm.types import Benchmark

VERSION = 1  # of the drawing: incremented whenever a pixel of the set changes
MARKER = "complete.json"
ENOUGH_FOR_WORKERS = 400  # pictures; for fewer, starting processes takes longer than drawing


def synthetic(
    root: str | Path,
    size: str = "small",
    seed: int = 0,
    *,
    height: int = 128,
    train_occluded: float = 0.1,
    workers: int | None = None,
    progress: bool = True,
) -> "Benchmark":
    """Draws the synthetic pedestrians below ``root`` unless they exist, and lists them.

    The folder has Market-1501's layout, with additional queries ``query_occluded`` and ground truth in ``masks``.
    It is written atomically: an interrupted run leaves nothing that is mistaken for the set, and if two processes draw
    the same set, one waits for the other.

    Args:
        root: Folder of the data sets.
        size: ``tiny`` (tests), ``small`` (quickstart), ``evidence`` (comparisons on a CPU), ``standard`` or
            ``varied`` (3,000 people, for training only).
        seed: Of the world: selects people and cameras.
        height: Of the pictures in pixels; the width is half the height.
        train_occluded: Share of occluded training pictures; evaluation uses other kinds of occluders.
        workers: Processes that draw; 0 draws in this process, None uses one per processor, up to eight.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: If a parameter is out of range.
        OSError: If ``root`` cannot be written.
    """
    if size not in SIZES:
        raise InputError(f"`size` must be one of {', '.join(SIZES)}, got {size!r}")
    if seed < 0:
        raise InputError(f"`seed` must not be negative, got {seed}")
    if height < 16 or height % 2:
        raise InputError(f"`height` must be even and at least 16, got {height}")
    if not 0.0 <= train_occluded <= 1.0:
        raise InputError(f"`train_occluded` must lie in 0 .. 1, got {train_occluded}")
    if workers is not None and workers < 0:
        raise InputError(f"`workers` must not be negative, got {workers}")
    name = f"synthetic-{size}-s{seed}-h{height}-o{100 * train_occluded:g}-v{VERSION}"
    order = Order(str(Path(root) / name), size, seed, height, train_occluded)
    if not is_complete(order):
        try:
            _generate(order, workers, progress)
        except OSError as error:
            raise OSError(
                f"cannot write the synthetic pictures to {order.target}: {error}; "
                "free some space there, or name another folder (`data_dir=...` or $AELM_DATA)"
            ) from error
    # Imported here: worker processes import this package too, and do not need torch, which takes seconds to load.
    from aelm.data.benchmarks import market_layout

    return market_layout(Path(order.target), "synthetic")


def is_complete(order: Order) -> bool:
    """Whether the set is complete: it has the marker, and the planned number of files in every folder."""
    target = Path(order.target)
    if not (target / MARKER).is_file():
        return False
    wanted = Counter(task.folder for task in order.tasks())
    folders = ((folder, target / where / folder) for folder in FOLDERS for where in ("", "masks"))
    return all(path.is_dir() and len(os.listdir(path)) >= wanted[folder] for folder, path in folders)


def _generate(order: Order, workers: int | None, progress: bool) -> None:
    target = Path(order.target)
    target.parent.mkdir(parents=True, exist_ok=True)
    with hold_file(target, "data_dir", wait=True) as is_alone:
        if is_complete(order):
            return
        if is_alone:
            for left in target.parent.glob(f".{target.name}.partial-*"):
                shutil.rmtree(left, ignore_errors=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        try:
            partial.chmod(0o755)  # temporary folders are private, but data sets are shared
            _draw(order._replace(target=str(partial)), workers, progress)
            facts = {**order._asdict(), "version": VERSION, "pictures": len(order.tasks())}
            del facts["target"]
            (partial / MARKER).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
            _publish(partial, order)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _publish(partial: Path, order: Order) -> None:
    """Renames the finished folder; replaces an incomplete one, but keeps a complete one of another process."""
    target = Path(order.target)
    if target.exists() and not is_complete(order):
        broken = Path(tempfile.mkdtemp(prefix=f".{target.name}.partial-", dir=target.parent))
        target.rename(broken / "broken")
        shutil.rmtree(broken, ignore_errors=True)
    try:
        partial.rename(target)
    except OSError:
        if not is_complete(order):
            raise


def _draw(order: Order, workers: int | None, progress: bool) -> None:
    target = Path(order.target)
    for folder in FOLDERS:
        (target / folder).mkdir()
        (target / "masks" / folder).mkdir(parents=True)
    total = len(order.tasks())
    if workers is None:
        workers = 0 if total < ENOUGH_FOR_WORKERS else min(os.cpu_count() or 1, 8)
    with tqdm(total=total, desc="drawing synthetic pedestrians", unit="picture", disable=not progress) as bar:
        if workers == 0:
            for _ in work(order):
                bar.update()
        else:
            for count in _share(order, workers):
                bar.update(count)


def _share(order: Order, workers: int) -> Iterator[int]:
    """Starts the worker processes; yields the number of pictures written since the last yield."""
    ours, theirs = os.pipe()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    processes = []
    with tempfile.TemporaryFile() as complaints:
        try:
            for part in range(workers):
                command = [
                    sys.executable,
                    "-m",
                    "aelm.data.synthetic.worker",
                    json.dumps(order),
                    str(part),
                    str(workers),
                ]
                processes.append(subprocess.Popen(command, stdout=theirs, stderr=complaints, env=environment))
            os.close(theirs)
            while dots := os.read(ours, 4096):
                yield len(dots)
            if failed := [status for process in processes if (status := process.wait())]:
                complaints.seek(0)
                said = complaints.read().decode(errors="replace")[-2000:]
                kind = OSError if set(failed) == {CANNOT_WRITE} else RunError
                raise kind(f"a drawing process failed, exit status {failed[0]}:\n{said}")
        finally:
            os.close(ours)
            for process in processes:
                process.terminate()
                process.wait()
