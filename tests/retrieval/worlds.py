"""Small random worlds with everything that goes wrong in real ones."""

from typing import NamedTuple

import numpy as np


class World(NamedTuple):
    query: np.ndarray
    gallery: np.ndarray
    query_pids: np.ndarray
    gallery_pids: np.ndarray
    query_camids: np.ndarray
    gallery_camids: np.ndarray

    @property
    def labels(self):
        return self[2:]


def random_world(seed, metric="euclidean", dtype=np.float64):
    """Exact ties, junk, same-camera pictures, distractors and absent identities; at least one match.

    Euclidean worlds hold small whole numbers, so that distances are exact; cosine worlds repeat whole rows.
    """
    r = np.random.default_rng(seed)
    Q, G, D = int(r.integers(1, 9)), int(r.integers(1, 40)), int(r.integers(2, 7))
    ids, cameras = int(r.integers(1, 7)), int(r.integers(2, 4))
    if metric == "euclidean":
        query, gallery = (r.integers(0, 4, (n, D)).astype(dtype) for n in (Q, G))
    else:
        query, kinds = r.standard_normal((Q, D)).astype(dtype), r.standard_normal((max(1, G // 3), D)).astype(dtype)
        gallery = kinds[r.integers(0, len(kinds), G)]
    query_pids = r.integers(0, ids, Q)
    gallery_pids = r.integers(-1, ids + 2, G)
    query_camids, gallery_camids = r.integers(0, cameras, Q), r.integers(0, cameras, G)
    gallery_pids[-1], gallery_camids[-1] = query_pids[0], query_camids[0] + 1
    return World(query, gallery, query_pids, gallery_pids, query_camids, gallery_camids)
