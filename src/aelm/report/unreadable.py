"""Unreadable pictures that a run skipped (``dataset.on_bad_image=skip``): how many, and which."""

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch.distributed as dist

from aelm.data import ReIDDataModule
from aelm.data.decoding import decoding_error
from aelm.report.metrics import write_text

LIST = "bad.csv"


def unreadable_files(data: ReIDDataModule) -> dict[str, list[str]]:
    """The unreadable files of each set so far, over all processes; empty unless they are skipped. A collective call."""
    found = [data.unreadable]
    if dist.is_available() and dist.is_initialized():
        found *= dist.get_world_size()
        dist.all_gather_object(found, data.unreadable)
    names = dict.fromkeys(name for one in found for name in one)
    return {name: sorted({path for one in found for path in one.get(name, ())}) for name in names}


def unreadable_counts(files: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Number of skipped files per set, by the names in ``metrics.json``.

    >>> unreadable_counts({"train": [], "test": ["a.jpg", "b.jpg"]})
    {'train/unreadable': 0.0, 'test/unreadable': 2.0}
    """
    return {f"{name}/unreadable": float(len(paths)) for name, paths in files.items()}


def write_list(files: Mapping[str, Sequence[str]], folder: Path) -> None:
    """Writes ``bad.csv``: set, path and error; without errors, an earlier file is removed."""
    rows = [(name, path, decoding_error(path)) for name, paths in files.items() for path in paths]
    if not rows:
        (folder / LIST).unlink(missing_ok=True)
        return
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["set", "path", "reason"])
    lines.writerows(rows)
    write_text(folder / LIST, text.getvalue())
