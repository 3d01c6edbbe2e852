"The sparse graph and its clusters equal a dense restatement, plain and by camera, with ties and repeated pictures."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import DBSCAN
from sklearn.metrics import adjusted_mutual_info_score

from synthreid.core import UserError
from synthreid.metrics.clustering import agreement, camera_mix, cluster_graph, jaccard_graph, share_new, split_since


def ranked(distance, allowed):
    "For every image the allowed ones, nearest first, itself before all, equal distances in order."
    lists = []
    for i, row in enumerate(distance):
        row = np.where(np.arange(len(row)) == i, -1, row)
        order = np.argsort(row, kind='stable')
        lists.append([int(j) for j in order if allowed[i, j]])
    return lists


def reciprocal(lists, i, k):
    return {j for j in lists[i][:k] if i in lists[j][:k]}


def dense_jaccard(x, k1=30, k2=6, cameras=None, k2_intra=2, k2_inter=4, k1_intra=5, k1_inter=20):  # (N, N) float64
    "The distance as published, by sets and full matrices; a row of zeros is at the cosine distance 1 from everything."
    x = np.asarray(x, np.float64)
    length = np.linalg.norm(x, axis=1, keepdims=True)
    x, n = x / np.where(length > 0, length, 1), len(x)
    distance = 2 - 2 * x @ x.T
    np.fill_diagonal(distance, 0)
    everybody = np.ones((n, n), bool)
    V = np.zeros((n, n))
    if cameras is None:
        near = ranked(distance, everybody)
        core = [reciprocal(near, i, k1 + 1) for i in range(n)]
        friends = [reciprocal(near, i, int(np.around(k1 / 2)) + 1) for i in range(n)]
        sets = [c.union(*[friends[j] for j in c if len(friends[j] & c) > 2 / 3 * len(friends[j])]) for c in core]
        averaged = [near[i][:k2] for i in range(n)]
    else:
        same = np.equal.outer(cameras, cameras)
        own, others = ranked(distance, same), ranked(distance, ~same)
        sets = [reciprocal(own, i, k1_intra + 1) | reciprocal(others, i, k1_inter + 1) for i in range(n)]
        averaged = [own[i][:k2_intra] + others[i][:k2_inter] for i in range(n)]
    for i, members in enumerate(sets):
        members = sorted(members)
        V[i, members] = np.exp(-distance[i, members])
        V[i] /= V[i].sum()
    V = np.stack([V[a].mean(0) for a in averaged])
    shared = np.stack([np.minimum(v, V).sum(1) for v in V])
    return 1 - shared / (2 - shared)


def plain_dbscan(distance, eps, min_samples):
    "The textbook: number the cores' components in the order of their first core, then let near images join."
    n, near = len(distance), distance <= eps
    core, labels, count = near.sum(1) >= min_samples, np.full(len(distance), -1), 0
    for i in range(n):
        if labels[i] >= 0 or not core[i]:
            continue
        todo = [i]
        while todo:
            j = todo.pop()
            if labels[j] >= 0:
                continue
            labels[j] = count
            if core[j]:
                todo += np.flatnonzero(near[j]).tolist()
        count += 1
    return labels


def full(graph):
    out, pairs = np.ones(graph.shape, np.float32), graph.tocoo()
    out[pairs.row, pairs.col] = pairs.data
    return out


def people(n, dim, n_people, n_cameras, seed, noise=0.4):
    rng = np.random.default_rng(seed)
    who, cameras = rng.integers(0, n_people, n), rng.integers(0, n_cameras, n)
    x = rng.normal(size=(n_people, dim))[who] + 0.3 * rng.normal(size=(n_cameras, dim))[cameras]
    return (x + noise * rng.normal(size=(n, dim))).astype(np.float32), who, cameras


def on_a_grid(n, seed):
    "Unit vectors of four halves, in a power of two: all products and means are exact, and almost all distances tie."
    rng = np.random.default_rng(seed)
    x = np.zeros((n, 8), np.float32)
    for row in x:
        row[rng.choice(8, 4, replace=False)] = rng.choice([-0.5, 0.5], 4)
    return x[rng.integers(0, n // 2, n)]  # with repeated pictures


SETTINGS = [dict(k1=8, k2=3), dict(k1=5, k2=1), dict(k1=30, k2=6)]
BY_CAMERA = [dict(), dict(k1_intra=2, k1_inter=4, k2_intra=1, k2_inter=1), dict(k1_intra=9, k1_inter=3, k2_intra=3)]


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('kind', SETTINGS)
def test_plain_graph_is_the_dense_one(kind, seed):
    x = people(150, 12, 15, 4, seed)[0]
    assert np.abs(full(jaccard_graph(x, **kind)) - dense_jaccard(x, **kind)).max() < 2e-6


@pytest.mark.parametrize('seed', range(3))
@pytest.mark.parametrize('kind', BY_CAMERA)
def test_graph_by_camera_is_the_dense_one(kind, seed):
    x, _, cameras = people(150, 12, 15, 4, seed)
    want = dense_jaccard(x, cameras=cameras, **kind)
    assert np.abs(full(jaccard_graph(x, cameras=cameras, **kind)) - want).max() < 2e-6


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([64, 128]),
    st.integers(1, 40),
    st.integers(1, 8),
    st.sampled_from([None, 1, 2, 5]),
    st.floats(0.05, 0.95),
    st.integers(1, 6),
    st.integers(0, 10**6),
)
def test_clusters_with_ties_and_repeated_pictures(n, k1, k2, n_cameras, eps, min_samples, seed):
    x = on_a_grid(n, seed)
    cameras = None if n_cameras is None else np.random.default_rng(seed).integers(0, n_cameras, n)
    want, graph = dense_jaccard(x, k1, k2, cameras), jaccard_graph(x, k1, k2, cameras)
    got = full(graph)
    assert np.abs(got - want).max() < 2e-6
    labels = cluster_graph(graph, eps, min_samples)
    assert labels.dtype == np.int64
    assert (labels == DBSCAN(eps=np.float32(eps), min_samples=min_samples, metric='precomputed').fit_predict(got)).all()
    if np.abs(want - eps).min() > 1e-5:
        assert (labels == plain_dbscan(want, eps, min_samples)).all()


@pytest.mark.parametrize('by_camera', [False, True])
@pytest.mark.parametrize('n', [1, 2, 3, 7])
def test_fewer_images_than_neighbours(n, by_camera):
    x, _, cameras = people(n, 5, 2, 2, n)
    cameras = cameras if by_camera else None
    graph = jaccard_graph(x, cameras=cameras)
    assert np.abs(full(graph) - dense_jaccard(x, cameras=cameras)).max() < 2e-6
    labels = cluster_graph(graph, 0.9, 1)
    assert (labels == plain_dbscan(dense_jaccard(x, cameras=cameras), 0.9, 1)).all()
    assert (cluster_graph(graph, 0.9, n + 1) == -1).all()


def test_one_camera_only():
    x = people(90, 8, 9, 1, 3)[0]
    got = full(jaccard_graph(x, cameras=np.full(90, 7)))
    assert np.abs(got - dense_jaccard(x, cameras=np.full(90, 7))).max() < 2e-6


@pytest.mark.parametrize('by_camera', [False, True])
@pytest.mark.parametrize('zeros', [[3], [0, 30, 31]])
def test_rows_of_zeros(zeros, by_camera):
    "They are at the cosine distance 1 from everything: what a direction of its own is."
    x, _, cameras = people(80, 6, 8, 3, 11)
    x = np.abs(x)
    x[zeros] = 0
    kind = dict(cameras=cameras, k2_intra=1, k2_inter=1) if by_camera else dict(k1=10, k2=1)
    off = np.abs(full(jaccard_graph(x, **kind)) - dense_jaccard(x, **kind))
    if by_camera:  # whom a row of zeros takes from another camera is left to rounding
        off = np.delete(np.delete(off, zeros, 0), zeros, 1)
    assert off.max() < 2e-6
    assert np.isfinite(jaccard_graph(np.zeros((9, 4)), cameras=np.arange(9) % 2).data).all()


@pytest.mark.parametrize('by_camera', [False, True])
def test_symmetric_and_the_same_again(by_camera):
    x, _, cameras = people(700, 24, 50, 5, 1)
    cameras = cameras if by_camera else None
    graph, again = (jaccard_graph(x, 12, 4, cameras) for _ in range(2))
    turned = graph.T.tocsr()
    turned.sort_indices()
    for other in (turned, again):
        assert (graph.indptr == other.indptr).all() and (graph.indices == other.indices).all()
        assert (graph.data == other.data).all()
    assert graph.dtype == np.float32 and (graph.diagonal() == 0).all() and graph.data.max() < 1
    for block in (64, 100, 5000):
        other = jaccard_graph(x, 12, 4, cameras, block=block)
        assert np.abs(full(graph) - full(other)).max() < 1e-6
    near = full(graph)[full(graph) < np.float32(0.5)]
    assert (jaccard_graph(x, 12, 4, cameras, limit=0.5).data == near).all()
    order = np.random.default_rng(0).permutation(700)
    moved = jaccard_graph(x[order], 12, 4, None if cameras is None else cameras[order])
    assert np.abs(full(moved) - full(graph)[order][:, order]).max() < 2e-6


def test_explicit_zeros_are_kept():
    x = np.repeat(np.eye(4, dtype=np.float32), 6, 0)  # four pictures, six times each
    graph = jaccard_graph(x, 5, 2)
    assert (graph.data == 0).sum() == 4 * 36 and (cluster_graph(graph, 0.1) == np.repeat(np.arange(4), 6)).all()


def test_an_eps_that_is_a_distance():
    "Neighbours at exactly eps count, in the sparse graph as in the dense matrix."
    x = people(120, 8, 12, 3, 5)[0]
    graph = jaccard_graph(x, 8, 3)
    for eps in np.unique(graph.data)[[5, 60, 400, -40]]:
        dense = DBSCAN(eps=eps, min_samples=4, metric='precomputed').fit_predict(full(graph))
        assert (cluster_graph(graph, eps) == dense).all() and (cluster_graph(graph, float(eps)) == dense).all()
    before = graph.data.copy()
    assert (graph.data == before).all() and graph.has_sorted_indices


def test_agreement_counts_outliers_as_clusters_of_one():
    rng = np.random.default_rng(0)
    truth, labels = rng.integers(0, 9, 200), rng.integers(-1, 6, 200)
    truth[:7] = -1
    known = truth >= 0
    alone, kept = labels[known].copy(), truth[known]
    alone[alone < 0] = 1000 + np.arange((alone < 0).sum())
    got = agreement(labels, truth)
    inside = labels[known] >= 0
    largest = sum(np.bincount(kept[labels[known] == c]).max() for c in range(6))
    assert got.ami == pytest.approx(adjusted_mutual_info_score(kept, alone))
    assert got.purity == pytest.approx(largest / inside.sum())
    assert got[2:] == (6, 9, int((~inside).sum()), 193)
    assert np.isnan(agreement([-1, -1], [0, 1]).purity)


def test_cameras_splits_and_new_clusters():
    rng = np.random.default_rng(1)
    labels, cameras = rng.integers(-1, 5, 300), rng.integers(2, 6, 300)
    for c, mix in enumerate(camera_mix(labels, cameras)):
        share = np.bincount(cameras[labels == c]) / (labels == c).sum()
        share = share[share > 0]
        assert mix == pytest.approx(np.prod(share**-share))
    now = rng.integers(-1, 4, 300)
    parts = split_since(labels, now)
    for c in range(5):
        there = np.bincount(now[(labels == c) & (now >= 0)], minlength=4)
        assert sorted(parts[c]) == np.flatnonzero(there).tolist() and there[parts[c][0]] == there.max()
    assert split_since(labels, labels) == {} == split_since(labels, np.full(300, -1))
    assert np.allclose(share_new(labels, now), [(labels[now == c] < 0).mean() for c in range(4)])
    assert len(camera_mix([-1, -1], [0, 1])) == len(share_new(None, [-1, -1])) == 0


@pytest.mark.parametrize(
    'call, says',
    [
        (lambda x: jaccard_graph(x, k1=0), 'k1'),
        (lambda x: jaccard_graph(x, k2_inter=0), 'k2_inter'),
        (lambda x: jaccard_graph(x, block=-1), 'block'),
        (lambda x: jaccard_graph(x, limit=1.5), 'limit'),
        (lambda x: jaccard_graph(x, limit=None), 'limit'),
        (lambda x: jaccard_graph(x, cameras=[0, 1]), r'cameras, shape \(8,\)'),
        (lambda x: jaccard_graph(x, cameras=np.zeros(8)), 'whole number per image'),
        (lambda x: jaccard_graph(x[:0]), 'at least one row'),
        (lambda x: jaccard_graph(np.full((8, 3), np.nan)), 'finite'),
        (lambda x: cluster_graph(jaccard_graph(x), 1.0), 'eps above 0 and below 1'),
        (lambda x: cluster_graph(jaccard_graph(x), float('nan')), 'eps'),
        (lambda x: cluster_graph(jaccard_graph(x), 0.5, 0), 'min_samples'),
        (lambda x: agreement([0, 1], [0]), 'truth'),
        (lambda x: agreement([0, 1], [-1, -1]), 'person is known'),
        (lambda x: camera_mix([0.5, 1], [0, 1]), 'labels'),
    ],
)
def test_refusals(call, says):
    with pytest.raises(UserError, match=says):
        call(np.eye(8, dtype=np.float32))


@pytest.mark.gpu
def test_same_on_gpu():
    x, _, cameras = people(3000, 64, 200, 5, 7)
    for kind in (dict(), dict(cameras=cameras)):
        here, there = jaccard_graph(x, **kind), jaccard_graph(torch.tensor(x), device='cuda', **kind)
        assert abs(here - there).sum() < 1e-3 * here.sum()
