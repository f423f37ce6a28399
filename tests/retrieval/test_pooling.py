"""Pooling and query expansion against plain loops."""

import numpy as np
import pytest
import torch

from aelm.retrieval import centralise, expand_queries, pool_people, pool_tracks, rank_metrics


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def test_people_are_averaged_by_camera():
    r = np.random.default_rng(0)
    features, pids, camids = r.standard_normal((60, 5)), r.integers(0, 4, 60), r.integers(0, 3, 60)
    pooled = pool_people(features, pids, camids)
    assert len(set(zip(pooled.pids.tolist(), pooled.camids.tolist(), strict=True))) == len(pooled.features) == 12
    for n, (pid, camid) in enumerate(zip(pooled.pids, pooled.camids, strict=True)):
        members = (pids == pid) & (camids == camid)
        np.testing.assert_allclose(pooled.features[n], unit(unit(features[members]).mean(axis=0)), atol=1e-12)
        assert (pooled.group[members] == n).all()


def test_tracks_keep_their_identity():
    r = np.random.default_rng(1)
    tracks = r.integers(5, 9, 40)
    features = r.standard_normal((40, 3)).astype(np.float32)
    pooled = pool_tracks(torch.from_numpy(features), tracks, tracks % 2, tracks // 2)
    assert pooled.pids.tolist() == [1, 0, 1, 0]
    assert pooled.camids.tolist() == [2, 3, 3, 4]
    np.testing.assert_allclose(pooled.features[2], unit(unit(features[tracks == 7]).mean(axis=0)), atol=1e-6)


def test_expansion_averages_the_query_with_its_neighbours():
    r = np.random.default_rng(2)
    query, gallery = unit(r.standard_normal((4, 6))), unit(r.standard_normal((30, 6)))
    for k, alpha in ((3, 0.0), (5, 2.0)):
        expanded = expand_queries(query, 7 * gallery, k, alpha=alpha)
        for q in range(4):
            cosines = gallery @ query[q]
            order = np.argsort(-cosines)[:k]
            weights = np.maximum(cosines[order], 0) ** alpha
            np.testing.assert_allclose(
                expanded[q], unit(query[q] + (gallery[order] * weights[:, None]).sum(axis=0)), atol=1e-12
            )


def test_a_neighbour_that_points_away_weighs_nothing():
    query, gallery = np.array([[1.0, 0.0]]), np.array([[1.0, 1.0], [-1.0, 1.0]])
    expected = query[0] + 0.5 * unit(gallery[0])
    np.testing.assert_allclose(expand_queries(query, gallery, 2, alpha=2.0)[0], unit(expected), atol=1e-12)


def test_a_query_that_is_in_the_gallery_is_its_own_first_neighbour():
    features = unit(np.random.default_rng(2).standard_normal((9, 4)))
    np.testing.assert_allclose(expand_queries(features, features, 1), features, atol=1e-12)
    others = np.where(np.eye(9, dtype=bool), -1, features @ features.T).argmax(axis=1)
    for found in (expand_queries(features, features, 2), centralise(features, features, 2)[0]):
        np.testing.assert_allclose(found, unit(2 * features + features[others]), atol=1e-12)


def test_pooling_and_expansion_help_where_pictures_are_noisy():
    r = np.random.default_rng(3)
    pids = np.repeat(np.arange(50), 6)
    noisy = r.standard_normal((50, 24))[pids] + 1.6 * r.standard_normal((300, 24))
    more = r.standard_normal((300, 24)) * 1.6
    centres = np.stack([noisy[pids == pid].mean(axis=0) for pid in range(50)])[pids]
    gallery = centres + more
    labels = pids, pids, np.zeros(300, int), np.ones(300, int)
    single = rank_metrics(noisy, gallery, *labels).mAP
    pooled = pool_people(noisy, pids, labels[2])
    assert rank_metrics(pooled.features, gallery, pooled.pids, pids, pooled.camids, labels[3]).mAP > single + 0.1
    assert rank_metrics(expand_queries(noisy, gallery, 3), gallery, *labels).mAP > single


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pool_people(np.ones((3, 2)), [0, 1], [0, 1]), "one entry for each of the 3 features, got 2"),
        (lambda: pool_people(np.zeros((1, 2)), [0], [0]), "zero vectors"),
        (lambda: pool_people(np.array([[1.0, 0], [-1, 0]]), [0, 0], [0, 0]), "the mean features"),
        (lambda: pool_tracks(np.ones((2, 2)), [4, 4], [0, 1], [0, 0]), "one pid, but tracks 4 have several"),
        (lambda: expand_queries(np.ones((2, 2)), np.ones((2, 2)), 1, alpha=-1), "`alpha` must be at least 0"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("k", [1, 3, 40])
def test_centralising_averages_everything_with_its_neighbours_in_the_gallery(k):
    r = np.random.default_rng(5)
    query, gallery = r.standard_normal((4, 6)), r.standard_normal((20, 6))
    centred, others = centralise(query, gallery, k)
    directions = unit(gallery)
    for q in range(4):
        near = np.argsort(-directions @ unit(query)[q])[:k]
        np.testing.assert_allclose(centred[q], unit(unit(query)[q] + directions[near].sum(0)), atol=1e-9)
    for g in range(20):
        near = [i for i in np.argsort(-directions @ directions[g]) if i != g][:k]
        np.testing.assert_allclose(others[g], unit(directions[g] + directions[near].sum(0)), atol=1e-9)


def test_a_query_is_centralised_as_if_it_came_alone():
    r = np.random.default_rng(6)
    query, gallery = r.standard_normal((5, 6)), r.standard_normal((20, 6))
    together, whole = centralise(query, gallery)
    alone, same = centralise(query[2:3], gallery)
    torch.testing.assert_close(together[2:3], alone)
    torch.testing.assert_close(whole, same)
