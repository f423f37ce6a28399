"""What rank_metrics refuses, and how it says so."""

import numpy as np
import pytest

from aelm.retrieval import rank_metrics

GOOD = {
    "query_features": np.eye(3)[:2], "gallery_features": np.eye(3), "query_pids": [0, 1], "gallery_pids": [0, 1, 2],
    "query_camids": [0, 0], "gallery_camids": [1, 1, 1],
}  # fmt: skip


def spoiled(value, row):
    features = np.eye(3)
    features[row] = value
    return features


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"gallery_features": spoiled(np.nan, 1)}, ValueError, r"1 of the `gallery_features` \(rows 1\) hold NaN"),
        ({"gallery_features": spoiled(np.inf, [0, 2])}, ValueError, r"2 of the `gallery_features` \(rows 0, 2\)"),
        ({"query_features": spoiled(np.nan, 0)[:2]}, ValueError, r"`query_features` \(rows 0\) hold NaN"),
        ({"gallery_features": spoiled(0.0, 2)}, ValueError, r"`gallery_features` \(rows 2\) are zero vectors"),
        ({"gallery_features": spoiled(1e200, 2)}, ValueError, "too long for torch.float64"),
        ({"gallery_features": np.eye(4)[:3]}, ValueError, "3 dimensions but `gallery_features` 4"),
        ({"gallery_features": np.eye(3)[:2]}, ValueError, "has 2 rows but `gallery_pids` 3 entries"),
        ({"gallery_features": [np.eye(3), np.eye(3)]}, ValueError, "rows but `gallery_pids` 3 entries"),
        ({"gallery_features": [np.eye(3)[:1]]}, ValueError, "has 1 rows but `gallery_pids` 3 entries"),
        ({"gallery_features": [[1.0, 2.0, 3.0]]}, TypeError, "must be a tensor or an array, got list"),
        ({"query_features": np.eye(3)}, ValueError, "has 3 rows but `query_pids` 2 entries"),
        ({"query_features": np.eye(3, dtype=int)[:2]}, TypeError, "floating-point numbers, got int64"),
        ({"query_features": np.ones(3)}, ValueError, r"shape \(pictures, dimensions\), got \(3,\)"),
        ({"query_features": None}, ValueError, "unless `distances` are given"),
        ({"query_pids": [0, 1, 1]}, ValueError, "`query_pids` has 3 entries but `query_camids` has 2"),
        ({"query_pids": [0.0, 1.0]}, TypeError, "`query_pids` must hold whole numbers, got float64"),
        ({"query_pids": [[0, 1]]}, ValueError, "`query_pids` must have one axis"),
        ({"query_pids": [0, -1]}, ValueError, r"pid -1 marks junk.*1 of 2 queries have it \(rows 1\)"),
        ({"gallery_pids": [0, -2, 1]}, ValueError, r"`gallery_pids` must be -1 \(junk\) or above, got -2 at row 1"),
        (
            {"gallery_pids": [], "gallery_camids": [], "gallery_features": np.ones((0, 3))},
            ValueError,
            "gallery is empty",
        ),
        ({"query_pids": [], "query_camids": [], "query_features": np.ones((0, 3))}, ValueError, "query is empty"),
        ({"gallery_pids": [7, 8, 9]}, ValueError, "the two sides share no pid"),
        (
            {"gallery_camids": [0, 0, 0]},
            ValueError,
            "2 pids occur on both sides, but only in pictures of the query's own",
        ),
        ({"metric": "hamming"}, ValueError, "`metric` must be one of cosine, euclidean, got 'hamming'"),
        ({"max_rank": 0}, ValueError, "`max_rank` must be at least 1"),
        ({"distances": np.ones((2, 3))}, ValueError, "not both"),
    ],
)
def test_bad_input_is_named(change, error, message):
    rank_metrics(**GOOD)
    with pytest.raises(error, match=message):
        rank_metrics(**{**GOOD, **change})


@pytest.mark.parametrize(
    ("distances", "message"),
    [
        (np.ones((2, 4)), r"must have shape \(2, 3\)"),
        (np.ones((3, 3)), r"must have shape \(2, 3\)"),
        ([np.ones((1, 3))], r"must have shape \(2, 3\).*got 1 rows"),
        (np.array([[0, 1, 2], [0, np.nan, 1]]), "NaN or infinite values in rows 1"),
    ],
)
def test_bad_distances_are_named(distances, message):
    ids = {name: value for name, value in GOOD.items() if not name.endswith("features")}
    with pytest.raises(ValueError, match=message):
        rank_metrics(None, None, **ids, distances=distances)
