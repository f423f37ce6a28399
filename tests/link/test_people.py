"""People from links: their numbers, their similarities, and scores against known identities, by a slow twin."""

import numpy as np
import pytest

from aelm.data.sources import Item
from aelm.link import people as linking
from aelm.link.clustering import Similarities
from aelm.link.people import Settings, explained_pairs, link, link_scores, single_scores
from aelm.retrieval import neighbour_graph
from tests.link.test_clustering import world


def test_people_are_numbered_in_the_order_they_were_first_seen():
    tracks = [Item("", "", "a", str(i), start, start + 1) for i, start in enumerate((20.0, 0.0, 10.0))]
    assert link(np.eye(3, dtype=np.float32), tracks, Settings(0.5)).person.tolist() == [2, 0, 1]


def test_with_rerank_scores_are_shares_of_common_neighbours():
    features, items, _ = world(0)
    people = link(features, items, Settings(0.3, 60, True, 8, 3))
    shares = neighbour_graph(features, 60, rerank=True, k1=8, k2=3).toarray()
    linked = np.flatnonzero(people.fellow >= 0)
    assert len(linked) > 10
    np.testing.assert_allclose(people.score[linked], shares[linked, people.fellow[linked]], atol=1e-6)


def test_blocks_change_no_score_and_no_fit(monkeypatch):
    features, items, r = world(0)
    pids, person = [item.pid for item in items], r.integers(3, size=len(items))
    whole = single_scores(features, pids, 0.5), explained_pairs(Similarities(None, features), person)
    monkeypatch.setattr(linking, "BLOCK", 7)
    assert single_scores(features, pids, 0.5) == pytest.approx(whole[0])
    for one, other in zip(explained_pairs(Similarities(None, features), person), whole[1], strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def slow_scores(person, pids):
    """Pair by pair and track by track."""
    known = [i for i, pid in enumerate(pids) if pid not in ("", "-1")]
    pairs = [(i, j) for i in known for j in known if i < j]
    right = sum(person[i] == person[j] and pids[i] == pids[j] for i, j in pairs)
    found, there = sum(person[i] == person[j] for i, j in pairs), sum(pids[i] == pids[j] for i, j in pairs)
    precision, recall = [], []
    for i in known:
        mine, same = {j for j in known if person[j] == person[i]}, {j for j in known if pids[j] == pids[i]}
        precision.append(len(mine & same) / len(mine))
        recall.append(len(mine & same) / len(same))
    expected = found * there / len(pairs)
    bp, br = np.mean(precision), np.mean(recall)
    return {
        "pairwise_precision": right / found, "pairwise_recall": right / there,
        "pairwise_f1": 2 * right / (found + there), "bcubed_precision": bp, "bcubed_recall": br,
        "bcubed_f1": 2 * bp * br / (bp + br), "adjusted_rand": (right - expected) / ((found + there) / 2 - expected),
    }  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
def test_scores_are_those_of_the_slow_twin(seed):
    r = np.random.default_rng(seed)
    pids = [["", "-1", "a", "b", "c", "d"][i] for i in r.integers(6, size=40)]
    person = r.integers(5, size=40)
    found = link_scores(person, pids)
    for key, value in slow_scores(person, pids).items():
        assert found[key] == pytest.approx(value), key
    assert found["tracks"] == sum(pid not in ("", "-1") for pid in pids)
    features = r.standard_normal((40, 5)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    cosine = features @ features.T
    known = [i for i in range(40) if pids[i] not in ("", "-1")]
    pairs = [(i, j) for i in known for j in known if i < j]
    for threshold in (-0.5, 0.0, 0.7):
        accepted = [(i, j) for i, j in pairs if cosine[i, j] >= threshold]
        right = sum(pids[i] == pids[j] for i, j in accepted)
        there = sum(pids[i] == pids[j] for i, j in pairs)
        single = single_scores(features, pids, threshold)
        assert single["pairwise_f1"] == pytest.approx(2 * right / (len(accepted) + there))
        assert single["best_pairwise_f1"] >= single["pairwise_f1"] - 1e-3
    assert link_scores(person, [""] * 40) == {} == single_scores(features, [""] * 40, 0.5)
