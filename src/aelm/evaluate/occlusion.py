"""Occlusion sweep: queries occluded by objects unseen in training, ranked against unoccluded galleries."""

import csv
import hashlib
import io
import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import SequentialSampler

from aelm.data import Loader, ReIDDataset
from aelm.data.dataset import ImageTransform
from aelm.data.decoding import Pixels
from aelm.data.synthetic import occlude
from aelm.data.synthetic.occluders import Manner
from aelm.report.metrics import Test
from aelm.retrieval import RankResult, rank_metrics, resamples
from aelm.retrieval.result import percentiles
from aelm.types import InputError, Picture

OnBad = Literal["error", "skip"]
LARGEST = 0.75  # of a picture: the most that `occlude` hides


class Plan(NamedTuple):
    """The points of the curve to measure.

    Attributes:
        fractions: Fractions of each query's pixels to hide, ascending, in 0 .. 0.75; 0 is the plain query.
        kinds: ``below``, ``side``, ``object``, ``person`` (see :func:`aelm.data.synthetic.occlude`).
        seed: Seed of the occluders.
    """

    fractions: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    kinds: tuple[Manner, ...] = get_args(Manner)
    seed: int = 0

    def check(self) -> None:
        """Raises ValueError if the plan is invalid."""
        ordered = list(self.fractions) == sorted(set(self.fractions))
        if not ordered or not any(self.fractions) or not 0 <= self.fractions[0] <= self.fractions[-1] <= LARGEST:
            raise InputError(
                f"`occlusion_fractions` must ascend within 0 .. {LARGEST}, one above 0, got {list(self.fractions)}"
            )
        known = get_args(Manner)
        if not self.kinds or len(set(self.kinds)) < len(self.kinds) or set(self.kinds) - set(known):
            raise InputError(f"`occlusion_kinds` must be some of {', '.join(known)}, each once, got {list(self.kinds)}")

    @property
    def hiding(self) -> tuple[float, ...]:
        """The fractions above 0."""
        return tuple(fraction for fraction in self.fractions if fraction > 0)


class Occluded(ReIDDataset):
    """Every query with every occluder kind at every fraction above 0, ordered by kind and then by fraction.

    The occluder of a query depends only on seed, identity, camera, file name and kind. So it is the same on every
    machine and for every network, and grows with the fraction.

    Args:
        queries: The Q queries.
        plan: The occlusions.
        transform: Applied after the occlusion.
        on_bad_image: See :class:`aelm.data.ReIDDataset`.

    Attributes:
        hidden: ``(n,)`` hidden share of the pixels, filled in by the workers as pictures are read.
    """

    def __init__(
        self, queries: Sequence[Picture], plan: Plan, transform: ImageTransform, on_bad_image: OnBad = "error"
    ) -> None:
        self.points = tuple(itertools.product(plan.kinds, plan.hiding))
        super().__init__([query for query in queries for _ in self.points], transform, on_bad_image=on_bad_image)
        self.queries = tuple(queries)
        self.plan = plan
        self.hidden = torch.zeros(len(self))
        self.hidden.untyped_storage().share_memory_()

    def read(self, index: int) -> Pixels:
        query, (kind, fraction) = self.queries[index // len(self.points)], self.points[index % len(self.points)]
        image, hidden = occlude(super().read(index), fraction, kind, stream(self.plan.seed, query, kind))
        self.hidden[index] = float(hidden.mean())
        return image


def stream(seed: int, query: Picture, kind: str) -> np.random.Generator:
    """The random generator of a query's occluder; independent of the file's folder."""
    text = f"{seed} {query.pid} {query.camid} {kind} {Path(query.path).name}"
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))


class Point(NamedTuple):
    """One point of the curve.

    Attributes:
        kind: Occluder kind.
        fraction: Requested fraction.
        hidden: Hidden share of the queries' pixels.
        result: The ranking of the hidden queries.
    """

    kind: str
    fraction: float
    hidden: float
    result: RankResult


def labels_of(test: Test) -> tuple[list[int], list[int], list[int], list[int]]:
    """Pids of queries and gallery, then camids, in the order of :func:`aelm.retrieval.rank_metrics`."""
    pids = [picture.pid for picture in test.query], [picture.pid for picture in test.gallery]
    return *pids, [picture.camid for picture in test.query], [picture.camid for picture in test.gallery]


def measure_curves(
    test: Test, plan: Plan, embed: Callable[[Tensor], Tensor], transform: ImageTransform, loader: Loader
) -> list[Point]:
    """Ranks the queries at every point of the plan against the gallery embeddings of ``test``.

    Args:
        test: Plain queries and gallery with their features; fraction 0 uses the plain queries.
        plan: The points.
        embed: Maps uint8 pictures ``(B, 3, H, W)`` to embeddings ``(B, D)``, on the ranking's device.
        transform: Applied after the occlusion.
        loader: Loading options.

    Returns:
        The plain queries once per kind, if 0 is a fraction; then kind by kind, fractions ascending.

    Raises:
        ValueError: If the plan is invalid.
    """
    plan.check()
    data = Occluded(test.query, plan, transform, loader.on_bad_image)
    features = torch.zeros(0)
    for batch in loader.build(data, SequentialSampler(data), loader.test_batch_size, lives_on=False):
        found_here = embed(batch.image).float()
        if not len(features):  # skipped pictures stay 0, as in the plain test
            features = found_here.new_zeros(len(data), found_here.shape[1])
        features[batch.position.to(features.device, non_blocking=True)] = found_here
    features = features.reshape(len(test.query), len(data.points), -1)
    hidden = data.hidden.reshape(len(test.query), -1).mean(0)
    labels = labels_of(test)
    plain = rank_metrics(test.query_features, test.gallery_features, *labels)
    found = [Point(kind, 0.0, 0.0, plain) for kind in plan.kinds if 0.0 in plan.fractions]
    for i, (kind, fraction) in enumerate(data.points):
        result = rank_metrics(features[:, i].contiguous(), test.gallery_features, *labels)
        found.append(Point(kind, fraction, float(hidden[i]), result))
    return found


SCORES = ("mAP", "rank1")
MEAN = "mean"


class Row(NamedTuple):
    """A point of the curve; fractions in 0 .. 1.

    Attributes:
        kind: What hides the queries; ``mean`` is the mean over kinds.
        fraction: Requested fraction.
        hidden: Hidden share of the queries' pixels.
        values: mAP and rank-1, each with the ends of its 95 % interval (NaN if not requested or not supported).
    """

    kind: str
    fraction: float
    hidden: float
    values: dict[str, tuple[float, float, float]]


def rows(points: Sequence[Point], samples: int) -> list[Row]:
    """The curve of the mean over kinds, then of each kind, fractions ascending.

    Args:
        points: From :func:`aelm.evaluate.occlusion.measure_curves`: the same fractions for each kind.
        samples: Bootstrap samples over identities; 0 for no intervals.
    """
    fractions = sorted({point.fraction for point in points})
    found = []
    for kind in (MEAN, *dict.fromkeys(point.kind for point in points)):
        for fraction in fractions:
            here = [p for p in points if p.fraction == fraction and kind in (p.kind, MEAN)]
            hidden = float(np.mean([point.hidden for point in here]))
            found.append(Row(kind, fraction, hidden, scored([point.result for point in here], samples)))
    return found


def scored(results: Sequence[RankResult], samples: int) -> dict[str, tuple[float, float, float]]:
    """Mean mAP and rank-1 over rankings of the same queries, with 95 % intervals.

    An identity is resampled with all its queries in all rankings, since these are correlated.
    """
    valid = results[0].first_rank > 0
    people = results[0].query_pids[valid]
    each = {
        "mAP": np.mean([result.average_precision[valid] for result in results], 0),
        "rank1": np.mean([result.first_rank[valid] == 1 for result in results], 0),
    }
    if not samples:
        return {name: (float(score.mean()), math.nan, math.nan) for name, score in each.items()}
    drawn, identity = resamples(people, samples)
    size = np.bincount(identity)
    found = {}
    for name, score in each.items():
        means = drawn @ np.bincount(identity, score) / (drawn @ size)
        found[name] = (float(score.mean()), *percentiles(means, len(size)))
    return found


def curve_scores(curve: Sequence[Row], samples: int) -> dict[str, float]:
    """Flat names: ``occlusion/below_30/mAP``, with ``_low`` and ``_high``, and ``occlusion/mAP`` over all above 0 %."""
    named: dict[str, float] = {}
    for row in curve:
        for name, values in row.values.items():
            start = f"occlusion/{row.kind}_{100 * row.fraction:02g}/{name}"
            ends = ("", "_low", "_high") if samples else ("",)
            named |= {start + end: value for end, value in zip(ends, values, strict=False) if not math.isnan(value)}
    for name in SCORES:
        hidden = [row.values[name][0] for row in curve if row.kind == MEAN and row.fraction > 0]
        named[f"occlusion/{name}"] = float(np.mean(hidden))
    return named


def curve_table(curve: Sequence[Row]) -> str:
    """mAP and rank-1 in per cent, one line per kind, one column per fraction."""
    fractions = sorted({row.fraction for row in curve})
    lines = []
    for name in SCORES:
        lines.append(["occlusion, " + name, *(f"{100 * fraction:g} %" for fraction in fractions)])
        for kind in dict.fromkeys(row.kind for row in curve):
            found = [row.values[name][0] for row in curve if row.kind == kind]
            lines.append([kind, *(f"{100 * value:.2f}" for value in found)])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    )


def curve_csv(curve: Sequence[Row]) -> str:
    """A CSV with one line per point: kind, requested and hidden fraction, mAP and rank-1 with intervals."""
    text = io.StringIO(newline="")
    lines = csv.writer(text)
    lines.writerow(
        ["kind", "fraction", "hidden", *(f"{name}{end}" for name in SCORES for end in ("", "_low", "_high"))]
    )
    for row in curve:
        numbers = [value for name in SCORES for value in row.values[name]]
        shown = ("" if math.isnan(value) else f"{value:.6f}" for value in numbers)
        lines.writerow([row.kind, f"{row.fraction:g}", f"{row.hidden:.4f}", *shown])
    return text.getvalue()
