"""What others use, restated plainly in NumPy from the paper: full matrices, a sort per row, a loop over images.

The package is compared with it in speed (`benchmarks/evaluation.py`) and in value (`tests/test_reranking.py`).
"""

from functools import lru_cache

import numpy as np


def squared_distances(x, y, metric):  # (N, M) float32
    "Squared distances, where re-ranking starts; torchreid's 'euclidean' is the squared one, squared again."
    if metric == 'cosine':
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        return np.square(1 - x @ y.T).astype(np.float32)
    return np.square((x * x).sum(1)[:, None] + (y * y).sum(1) - 2 * x @ y.T).astype(np.float32)


def k_reciprocal_numpy(
    query_features, gallery_features, k1=20, k2=6, lambda_value=0.3, metric='euclidean'
):  # (Q, G) float32
    "Re-ranking with k-reciprocal encoding (Zhong, Zheng, Cao, Li 2017), step by step."
    n_query = len(query_features)
    features = np.concatenate([query_features, gallery_features])
    distance = squared_distances(features, features, metric)
    distance /= distance.max(1, keepdims=True)
    order, n, half = np.argsort(distance, axis=1), len(features), int(np.around(k1 / 2))

    def reciprocal(i, k):  # the neighbours of i that count i among their own
        near = order[i, : k + 1]
        return near[(order[near, : k + 1] == i).any(1)]

    encoding = np.zeros((n, n), np.float32)
    for i in range(n):
        members = core = reciprocal(i, k1)
        for j in core:
            friends = reciprocal(j, half)
            if len(np.intersect1d(friends, core)) > 2 / 3 * len(friends):
                members = np.union1d(members, friends)
        weights = np.exp(-distance[i, members])
        encoding[i, members] = weights / weights.sum()
    if k2 > 1:
        encoding = np.stack([encoding[order[i, :k2]].mean(0) for i in range(n)])

    carriers = [np.flatnonzero(encoding[:, m]) for m in range(n)]
    result = np.empty((n_query, n), np.float32)
    for i in range(n_query):
        shared = np.zeros(n, np.float32)
        for m in np.flatnonzero(encoding[i]):
            shared[carriers[m]] += np.minimum(encoding[i, m], encoding[carriers[m], m])
        result[i] = (1 - shared / (2 - shared)) * (1 - lambda_value) + distance[i] * lambda_value
    return result[:, n_query:]


def k_reciprocal_pairs(query_features, gallery_features, pairs, k1=20, k2=6, lambda_value=0.3):  # (P,) float64
    "The same (Euclidean) of some pairs (query, gallery image) only, by sets: for sizes whose matrices fit nowhere."
    features, n_query = np.concatenate([query_features, gallery_features]), len(query_features)
    norms, half = np.square(features).sum(1, dtype=np.float64), int(np.around(k1 / 2))

    @lru_cache(None)
    def row(i):  # the nearest images, oneself first, and the squared distance of the farthest
        d = norms[i] + norms - 2 * (features @ features[i]).astype(np.float64)
        d[i] = 0
        some = np.argpartition(d, max(k1 + 1, k2) + 5)[: max(k1 + 1, k2) + 5]
        return [i] + [int(j) for j in some[np.argsort(d[some])] if j != i], d.max()

    def near(i):
        return row(i)[0]

    def distance(i, j):
        return (np.square(features[i].astype(np.float64) - features[j]).sum() / row(i)[1]) ** 2

    def reciprocal(i, k):
        return {j for j in near(i)[: k + 1] if i in near(j)[: k + 1]}

    @lru_cache(None)
    def encoding(i):
        core = reciprocal(i, k1)
        members = set(core)
        for friends in (reciprocal(j, half) for j in core):
            if len(friends & core) > 2 / 3 * len(friends):
                members |= friends
        weights = {m: np.exp(-distance(i, m)) for m in members}
        total = sum(weights.values())
        return {m: w / total for m, w in weights.items()}

    def averaged(i):
        out = {}
        for j in near(i)[:k2]:
            for m, w in encoding(j).items():
                out[m] = out.get(m, 0) + w / k2
        return out

    def jaccard(a, b):
        shared = sum(min(w, b[m]) for m, w in a.items() if m in b)
        return 1 - shared / (2 - shared)

    return np.array(
        [
            (1 - lambda_value) * jaccard(averaged(i), averaged(n_query + j)) + lambda_value * distance(i, n_query + j)
            for i, j in pairs
        ]
    )


def jaccard_numpy(features, k1=30, k2=6):  # (N, N) float32
    "The Jaccard distance that SpCL and those after it cluster with, on full matrices, an image at a time."
    x, n, half = np.asarray(features, np.float32), len(features), int(np.around(k1 / 2))
    x = x / np.linalg.norm(x, axis=1, keepdims=True)
    distance = 2 - 2 * x @ x.T
    np.fill_diagonal(distance, -1)  # oneself first, also before repeated images
    order = np.stack([np.argsort(row, kind='stable')[: max(k1 + 1, k2)] for row in distance])

    def reciprocal(i, k):  # the neighbours of i that count i among their own
        near = order[i, : k + 1]
        return near[(order[near, : k + 1] == i).any(1)]

    cores, friends = ([reciprocal(i, k) for i in range(n)] for k in (k1, half))
    encoding = np.zeros((n, n), np.float32)
    for i, core in enumerate(cores):
        members = [core]
        for j in core:
            if len(np.intersect1d(friends[j], core)) > 2 / 3 * len(friends[j]):
                members.append(friends[j])
        members = np.unique(np.concatenate(members))
        weights = np.exp(-distance[i, members].clip(0))
        encoding[i, members] = weights / weights.sum()
    del distance
    if k2 > 1:
        encoding = np.stack([encoding[near[:k2]].mean(0) for near in order])
    carriers = [np.flatnonzero(encoding[:, m]) for m in range(n)]
    result = np.empty((n, n), np.float32)
    for i in range(n):
        shared = np.zeros(n, np.float32)
        for m in np.flatnonzero(encoding[i]):
            shared[carriers[m]] += np.minimum(encoding[i, m], encoding[carriers[m], m])
        result[i] = (1 - shared / (2 - shared)).clip(0)
    return result
