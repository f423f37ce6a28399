"""Average linkage under constraints: scikit-learn from the matrix, the same over the graph, and both as a slow twin."""

import numpy as np
import pytest
from scipy import sparse

from aelm.data.sources import Item
from aelm.link.clustering import (
    Constraints,
    Correction,
    Similarities,
    as_table,
    cluster,
    from_graph,
    from_matrix,
    read_corrections,
)
from aelm.retrieval import neighbour_graph
from aelm.retrieval.rerank import rerank


def world(seed, people=12, tracks=60, dim=6, noise=0.5):
    """Features of tracks of some people, on two cameras, each at some time."""
    r = np.random.default_rng(seed)
    whose = r.integers(people, size=tracks)
    features = r.standard_normal((people, dim))[whose] + noise * r.standard_normal((tracks, dim))
    features = (features / np.linalg.norm(features, axis=1, keepdims=True)).astype(np.float32)
    start = r.uniform(0, 100, tracks)
    items = [
        Item(f"{i}.jpg", str(whose[i]), "ab"[i % 2], str(i), float(start[i]), float(start[i] + r.uniform(0, 10)))
        for i in range(tracks)
    ]
    return features, items, r


def slow(similarity, threshold, items, corrections):
    """Joins the two most similar groups again and again, looking at every pair of tracks each time."""
    number = {f"{item.camid}:{item.track}": i for i, item in enumerate(items)}
    told = {frozenset((number[a], number[b])): answer for answer, a, b in corrections}
    groups = [{i} for i in range(len(items))]

    def meet(a, b):
        return next((g for g in groups if a in g), None) is next((g for g in groups if b in g), None)

    for pair, answer in told.items():
        if answer == "same" and not meet(*pair):
            parts = [g for g in groups if g & pair]
            groups = [g for g in groups if not g & pair] + [set.union(*parts)]
    together = [set(g) for g in groups]

    def cannot(a, b):
        if told.get(frozenset((a, b))) == "different":
            return True
        if any({a, b} <= g for g in together):
            return False
        one, two = items[a], items[b]
        return one.camid == two.camid and one.start <= two.end and two.start <= one.end

    apart = {(a, b) for a in range(len(items)) for b in range(len(items)) if cannot(a, b)}
    while True:
        best = None
        for i, left in enumerate(groups):
            for right in groups[:i]:
                if any((a, b) in apart for a in left for b in right):
                    continue
                mean = np.mean([similarity[a, b] for a in left for b in right])
                if mean >= threshold and (best is None or mean > best[0]):
                    best = (mean, left, right)
        if best is None:
            return {frozenset(group) for group in groups}
        groups = [g for g in groups if g is not best[1] and g is not best[2]] + [best[1] | best[2]]


def parts(labels):
    return {frozenset(np.flatnonzero(labels == one).tolist()) for one in np.unique(labels)}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [-0.2, 0.3, 0.6])
@pytest.mark.parametrize("corrected", [False, True])
def test_clusters_are_those_of_the_slow_twin(seed, threshold, corrected):
    features, items, r = world(seed, people=8, tracks=40)
    names = [f"{item.camid}:{item.track}" for item in items]
    pairs = r.permutation(40)[:12].reshape(6, 2) if corrected else []
    corrections = [Correction("same" if i % 2 else "different", names[a], names[b]) for i, (a, b) in enumerate(pairs)]
    constraints = Constraints(items, corrections)
    similarity = features.astype(np.float64) @ features.T.astype(np.float64)
    expected = slow(similarity, threshold, items, corrections)
    everyone = np.arange(40)
    assert parts(from_matrix(similarity, everyone, threshold, constraints)) == expected
    whole = Similarities(neighbour_graph(features, 40), features)
    assert parts(from_graph(whole, everyone, threshold, constraints)) == expected
    for largest in (1, 15, 100):  # parts over the graph, some of them, none
        assert parts(cluster(whole, threshold, constraints, largest=largest)) == expected


@pytest.mark.parametrize("seed", range(4))
def test_shared_neighbours_are_clustered_alike_over_matrix_and_graph(seed):
    features, items, r = world(seed)
    constraints = Constraints(items)
    shares = neighbour_graph(features, 60, rerank=True, k1=8, k2=3).toarray().astype(np.float64)
    noise = r.uniform(0, 1e-4, shares.shape)
    shares += (shares > 0) * (noise + noise.T)  # shares of neighbours are often equal, and then any order is right
    graph = sparse.csr_array(shares)
    expected = slow(shares, 0.3, items, [])
    for largest in (1, 100):
        assert parts(cluster(Similarities(graph, None), 0.3, constraints, largest=largest)) == expected
    assert 5 < len(expected) < 55


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("k", [1, 5, 39, 200])
def test_the_graph_holds_the_nearest_of_each_item(seed, k):
    features = np.random.default_rng(seed).standard_normal((40, 7)).astype(np.float32) * 3
    unit = features.astype(np.float64) / np.linalg.norm(features, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2)
    kept = np.zeros((40, 40), bool)
    for i in range(40):
        kept[i, np.argsort(-cosine[i])[: min(k, 39)]] = True
    kept |= kept.T
    found = neighbour_graph(features, k)
    held = sparse.csr_array((np.ones(found.nnz), found.indices, found.indptr), found.shape).toarray() > 0
    np.testing.assert_array_equal(held, kept)
    np.testing.assert_allclose(found.toarray()[kept], cosine[kept], atol=2e-6)


def test_shared_neighbours_are_those_of_re_ranking():
    """Re-ranking of two halves of a set whose items all differ compares each item of one with each of the other."""
    features, *_ = world(3)
    jaccard = 1 - rerank(features[:30], features[30:], k1=8, k2=3, lambda_value=0)
    found = neighbour_graph(features, 60, rerank=True, k1=8, k2=3).toarray()
    np.testing.assert_allclose(found[:30, 30:], np.where(jaccard > 1e-9, jaccard, 0), atol=1e-6)


def test_a_number_below_one_is_refused():
    with pytest.raises(ValueError, match="`k`, `k1` and `k2` must be at least 1, got 0, 20 and 6"):
        neighbour_graph(np.eye(3), 0)


def test_tracks_that_overlap_in_one_camera_are_two_people():
    same = np.ones((4, 3), np.float32) / np.sqrt(3).astype(np.float32)
    items = [Item("", "", "a", "1", 0, 5), Item("", "", "a", "2", 5, 9), Item("", "", "b", "1", 0, 9),
             Item("", "", "a", "3", 5.1, 6)]  # fmt: skip

    def people(*corrections, tracks=items):
        constraints = Constraints(tracks, [Correction(*one) for one in corrections])
        whole = Similarities(neighbour_graph(same, 4), same)
        return parts(cluster(whole, 0.9, constraints)), constraints

    found, constraints = people()
    assert not any({0, 1} <= group or {1, 3} <= group for group in found)
    assert constraints.overruled() == []
    found, constraints = people(("same", "a:1", "a:2"), ("different", "a:3", "a:1"))
    assert next(group for group in found if 0 in group) >= {0, 1}
    assert constraints.overruled() == [(0, 1)]
    untimed = [item._replace(start=None, end=None) for item in items]
    assert people(tracks=untimed)[0] == {frozenset(range(4))}


ITEMS = [Item("", "", "a", str(i)) for i in range(5)]


@pytest.mark.parametrize(
    ("corrections", "message"),
    [
        ([("same", "a:1", "a:9")], r"corrections name tracks that are not there: a:9; there is a:0"),
        (
            [("same", "a:0", "a:1"), ("same", "a:2", "a:1"), ("different", "a:2", "a:0"), ("different", "a:3", "a:0")],
            r"contradict each other at 1 pair: a:2 and a:0 are `different`, but `same` by a:2 = a:1 = a:0",
        ),
    ],
)
def test_corrections_that_cannot_be_are_named(corrections, message):
    with pytest.raises(ValueError, match=message):
        Constraints(ITEMS, [Correction(*one) for one in corrections])


def test_two_tracks_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two tracks are called a:1: number the tracks of a camera apart"):
        Constraints([*ITEMS, ITEMS[1]])


def test_corrections_survive_a_file_and_the_last_answer_counts(tmp_path):
    (tmp_path / "c.csv").write_text("answer,a,b,why\nsame,a:1,b:1,hat\ndifferent,b:1,a:1,\nsame, a:2,c:1 ,\n")
    found = read_corrections(tmp_path / "c.csv")
    assert found == (("different", "b:1", "a:1"), ("same", "a:2", "c:1"))
    (tmp_path / "d.csv").write_text(as_table(found), newline="")
    assert read_corrections(tmp_path / "d.csv") == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("answer,a\nsame,x\n", "expected the columns answer, a, b, b missing"),
        ("answer,a,b\nmaybe,x,y\n", r"line 2: expected same or different and two tracks, .* got maybe,x,y"),
        ("answer,a,b\nsame,x,x\n", "line 2: expected same or different and two tracks"),
        ("answer,a,b\nsame,x,\n", "line 2"),
    ],
)
def test_a_malformed_correction_is_named(tmp_path, text, message):
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_corrections(tmp_path / "c.csv")
