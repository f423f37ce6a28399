"""What is ranked against what, and under which name its scores are reported."""

from collections.abc import Sequence
from typing import NamedTuple

from aelm.types import Benchmark, Picture


class EvaluationSet(NamedTuple):
    """Queries and the gallery they are ranked against.

    Attributes:
        name: Prefix of its metrics, such as ``test`` in ``test/mAP``.
        query: The queries.
        gallery: The gallery, junk and distractors included.
    """

    name: str
    query: tuple[Picture, ...]
    gallery: tuple[Picture, ...]


def kept(one: EvaluationSet, positions: Sequence[int]) -> EvaluationSet:
    """What is left of a set of which only some pictures could be read.

    Args:
        one: The whole set.
        positions: Where those pictures stand, ascending, counted through queries and gallery.

    >>> a, b, c = (Picture(name, 1, 1) for name in "abc")
    >>> kept(EvaluationSet("test", (a, b), (c,)), [1, 2])[1:] == ((b,), (c,))
    True
    """
    edge = len(one.query)
    query = tuple(one.query[i] for i in positions if i < edge)
    return one._replace(query=query, gallery=tuple(one.gallery[i - edge] for i in positions if i >= edge))


def evaluation_sets(benchmarks: Sequence[Benchmark]) -> tuple[EvaluationSet, ...]:
    """The test sets of some benchmarks: ``test`` for the first, ``test_<name>`` for others, then ``.._<query set>``.

    Raises:
        ValueError: If a benchmark has no queries, or two sets would have one name.

    >>> one = (Picture("x.jpg", 1, 1),)
    >>> first, second = Benchmark("a", one, one, one, {"occluded": one}), Benchmark("b", one, one, one, {"dark": one})
    >>> [found.name for found in evaluation_sets([first, second])]
    ['test', 'test_occluded', 'test_b', 'test_b_dark']
    """
    found: list[EvaluationSet] = []
    for i, benchmark in enumerate(benchmarks):
        prefix = "test" if i == 0 else f"test_{benchmark.name}"
        sets = [EvaluationSet(prefix, benchmark.query, benchmark.gallery)] if benchmark.query else []
        for more, queries in benchmark.more_queries.items():
            sets.append(EvaluationSet(f"{prefix}_{more}", queries, benchmark.gallery))
        if not sets:
            raise ValueError(
                f"{benchmark.name}: expected queries to test with, found none "
                f"({len(benchmark.train)} training pictures). Name another data set in `test`"
            )
        found += sets
    names = [one.name for one in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"Two test sets would report their scores as {', '.join(twice)}: rename one of the data sets")
    return tuple(found)
