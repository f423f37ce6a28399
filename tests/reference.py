"""Slow, obvious loops: what the fast code must equal."""

import math

import numpy as np


def ranked_gallery(scores, query_pid, query_camid, gallery_pids, gallery_camids):
    """Gallery rows of one query, best first, without those that take no part. A larger score is better."""
    rows = []
    for g in range(len(scores)):
        junk = gallery_pids[g] == -1
        same_shot = gallery_pids[g] == query_pid and gallery_camids[g] == query_camid
        if not junk and not same_shot:
            rows.append(g)
    return sorted(rows, key=lambda g: (-scores[g], g))


def similarity(query, gallery, metric):
    """Cosine, or minus the squared distance, of two vectors in double precision."""
    query, gallery = np.asarray(query, np.float64), np.asarray(gallery, np.float64)
    if metric == "euclidean":
        return -sum((float(a) - float(b)) ** 2 for a, b in zip(query, gallery, strict=True))
    return float(query @ gallery) / (math.sqrt(float(query @ query)) * math.sqrt(float(gallery @ gallery)))


def rank_scores(scores, query_pids, gallery_pids, query_camids, gallery_camids, max_rank=50):
    """Every score of ``rank_metrics``, one query at a time, from a table of similarities."""
    per_query = []
    for q in range(len(query_pids)):
        order = ranked_gallery(scores[q], query_pids[q], query_camids[q], gallery_pids, gallery_camids)
        ranks = [place + 1 for place, g in enumerate(order) if gallery_pids[g] == query_pids[q]]
        if not ranks:
            per_query.append(None)
            continue
        ap, trapezoid = 0.0, 0.0
        for k, rank in enumerate(ranks, start=1):
            before = 1.0 if rank == 1 else (k - 1) / (rank - 1)
            ap += k / rank / len(ranks)
            trapezoid += (k / rank + before) / 2 / len(ranks)
        matches = [order[rank - 1] for rank in ranks]
        per_query.append((ap, trapezoid, len(ranks) / ranks[-1], ranks, matches))
    valid = [scores for scores in per_query if scores is not None]
    return {
        "per_query": per_query,
        "mAP": sum(s[0] for s in valid) / len(valid),
        "mAP_trapezoid": sum(s[1] for s in valid) / len(valid),
        "mINP": sum(s[2] for s in valid) / len(valid),
        "cmc": [sum(s[3][0] <= k for s in valid) / len(valid) for k in range(1, max_rank + 1)],
        "num_skipped": len(per_query) - len(valid),
    }


def rerank_dense(query, gallery, k1=20, k2=6, lambda_value=0.3):
    """Zhong et al.'s procedure with its N x N tables, step by step; neighbours of equal distance in order."""
    features = np.concatenate([query, gallery]).astype(np.float64)
    squared = (features**2).sum(1)
    distance = np.maximum(squared[:, None] + squared[None] - 2 * features @ features.T, 0)
    distance = (distance / distance.max(axis=0)).T
    rank = np.argsort(distance, axis=1, kind="stable")

    def reciprocal(i, k):
        forward = rank[i, : k + 1]
        return forward[(rank[forward, : k + 1] == i).any(axis=1)].tolist()

    codes = np.zeros_like(distance)
    for i in range(len(features)):
        mutual = reciprocal(i, k1)
        expanded = set(mutual)
        for candidate in mutual:
            theirs = reciprocal(candidate, int(np.around(k1 / 2)))
            if len(set(theirs) & set(mutual)) > 2 / 3 * len(theirs):
                expanded |= set(theirs)
        members = sorted(expanded)
        weight = np.exp(-distance[i, members])
        codes[i, members] = weight / weight.sum()
    if k2 != 1:
        codes = np.stack([codes[rank[i, :k2]].mean(axis=0) for i in range(len(features))])
    result = np.zeros((len(query), len(gallery)))
    for q in range(len(query)):
        shared = np.minimum(codes[q], codes[len(query) :]).sum(axis=1)
        jaccard = 1 - shared / (2 - shared)
        result[q] = jaccard * (1 - lambda_value) + distance[q, len(query) :] * lambda_value
    return result


def verification_pairs(scores, query_pids, gallery_pids, query_camids, gallery_camids):
    """Scores of the genuine and of the impostor pairs."""
    genuine, impostor = [], []
    for q in range(len(query_pids)):
        for g in ranked_gallery(scores[q], query_pids[q], query_camids[q], gallery_pids, gallery_camids):
            (genuine if gallery_pids[g] == query_pids[q] else impostor).append(scores[q][g])
    return genuine, impostor
