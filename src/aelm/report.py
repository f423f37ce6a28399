"""What a test leaves behind: the table, metrics.json, a CSV a query, and the pictures."""

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from aelm.retrieval import RankResult
from aelm.types import Picture

COLUMNS = ("mAP", "mAP_trapezoid", "mINP", "rank1", "rank5", "rank10")


def scores(results: Mapping[str, RankResult]) -> dict[str, float]:
    """Every score under the name it is logged by, such as ``test/mAP``."""
    return {f"{name}/{key}": value for name, result in results.items() for key, value in result.scalars().items()}


def table(results: Mapping[str, RankResult]) -> str:
    """The scores in per cent, a line a test set."""
    width = max(len(name) for name in results)
    lines = [f"{'per cent':{width}} {'queries':>8} {'skipped':>8} " + " ".join(f"{c:>13}" for c in COLUMNS)]
    for name, result in results.items():
        values = result.scalars()
        lines.append(
            f"{name:{width}} {result.num_queries:>8} {result.num_skipped:>8} "
            + " ".join(f"{100 * values[c]:>13.2f}" for c in COLUMNS)
        )
    return "\n".join(lines)


def write_metrics(values: Mapping[str, float], path: Path) -> None:
    """Writes ``metrics.json``: flat, name -> number."""
    write_whole(path, json.dumps(dict(sorted(values.items())), indent=2) + "\n")


def write_queries(result: RankResult, queries: Sequence[Picture], path: Path) -> None:
    """Writes a CSV with a line a query: path, pid, camid, AP, INP and rank of the first match; empty where skipped."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(["path", "pid", "camid", "average_precision", "inverse_negative_penalty", "first_rank"])
    columns = (result.average_precision, result.inverse_negative_penalty, result.first_rank)
    for picture, ap, inp, first in zip(queries, *columns, strict=True):
        scored = [f"{ap:.6f}", f"{inp:.6f}", int(first)] if first else ["", "", ""]
        lines.writerow([picture.path, picture.pid, picture.camid, *scored])
    write_whole(path, text.getvalue())


def write_whole(path: Path, text: str) -> None:
    """Writes a text file so that a reader finds the old one or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8", newline="")
    os.replace(beside, path)
