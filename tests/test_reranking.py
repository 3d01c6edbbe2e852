"Re-ranking equals torchreid's stored numbers and a plain restatement; neither block size nor order matters."

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from synthreid.core import UserError
from synthreid.metrics.ranking import rank_metrics
from synthreid.metrics.reranking import evaluate_reranked, expand_queries, jaccard_distance, k_reciprocal_distance

sys.path.insert(0, str(Path(__file__).parents[1] / 'benchmarks'))
from reference_ranking import k_reciprocal_numpy, squared_distances

stored = np.load(Path(__file__).parent / 'fixtures' / 'rerank.npz')
CASES = {
    'euclidean_k120_k26_lam0.3': ('euclidean', 20, 6, 0.3),
    'euclidean_k110_k23_lam0.5': ('euclidean', 10, 3, 0.5),
    'cosine_k120_k26_lam0.3': ('cosine', 20, 6, 0.3),
    'cosine_k110_k23_lam0.5': ('cosine', 10, 3, 0.5),
}
LABELS = [stored[k] for k in ('q_pids', 'g_pids', 'q_camids', 'g_camids')]


@pytest.mark.parametrize('name', CASES)
def test_stored_numbers(name):
    metric, k1, k2, lambda_value = CASES[name]
    d = k_reciprocal_distance(stored['q_feat'], stored['g_feat'], k1, k2, lambda_value, metric)
    assert d.dtype == np.float32 and np.abs(d - stored[f'{name}/final_dist']).max() < 2e-6
    r = rank_metrics(d, *LABELS)
    assert (
        abs(r.mAP - stored[f'{name}/mAP']) < 1e-9
        and np.allclose(r.cmc, stored[f'{name}/cmc'], atol=1e-6)
        and abs(r.mINP - stored[f'{name}/mINP']) < 1e-9
    )
    assert evaluate_reranked(stored['q_feat'], stored['g_feat'], *LABELS, k1, k2, lambda_value, metric).mAP == r.mAP
    if metric == 'euclidean':
        assert (
            k_reciprocal_distance(stored['q_feat'], stored['g_feat'], k1, k2, lambda_value, 'squared_euclidean') == d
        ).all()


def groups(n, dim, seed):
    "Features with neighbourhoods in them, and a label each."
    rng = np.random.default_rng(seed)
    who = rng.integers(0, max(1, n // 8), n)
    return (
        rng.standard_normal((max(1, n // 8), dim))[who] + rng.uniform(0.3, 1.5) * rng.standard_normal((n, dim))
    ).astype(np.float32), who


def clear_cut(x, metric, *ends):
    "Whether no list of neighbours ends between two distances that differ by less than their rounding."
    d = np.sqrt(np.sort(squared_distances(x.astype(np.float64), x.astype(np.float64), metric), axis=1))
    return all((d[:, k] - d[:, k - 1] > 1e-6 * d[:, -1]).all() for k in ends if k < len(x))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 40),
    st.integers(1, 160),  # with the queries up to four panels of 64
    st.integers(1, 40),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0, 0.1, 0.3, 0.77, 1]),
    st.sampled_from(['cosine', 'euclidean']),
    st.integers(0, 10**6),
)
def test_equals_the_plain_algorithm(n_query, n_gallery, dim, k1, k2, lambda_value, metric, seed):
    x = groups(n_query + n_gallery, dim + 3, seed)[0]
    q, g = x[:n_query], x[n_query:]
    assume(clear_cut(x, metric, k1 + 1, round(k1 / 2) + 1, k2))
    want = k_reciprocal_numpy(q.astype(np.float64), g.astype(np.float64), k1, k2, lambda_value, metric)
    got = k_reciprocal_distance(q, g, k1, k2, lambda_value, metric)
    assert got.shape == (n_query, n_gallery) and np.abs(got - want).max() < 2e-6


@settings(deadline=None, max_examples=25)
@given(
    st.integers(1, 30),
    st.integers(1, 500),
    st.integers(1, 30),
    st.integers(1, 8),
    st.integers(1, 600),
    st.booleans(),
    st.integers(0, 10**6),
)
def test_block_size_and_order_change_nothing(n_query, n_gallery, k1, k2, block, repeated, seed):
    x = groups(n_query + n_gallery, 12, seed)[0]
    rng = np.random.default_rng(seed)
    if repeated:
        x = x[rng.integers(0, len(x), len(x))]  # with images that occur several times, at distance 0
    q, g = x[:n_query], x[n_query:]
    d = k_reciprocal_distance(q, g, k1, k2)
    assert np.allclose(k_reciprocal_distance(q, g, k1, k2, block=block), d, atol=1e-6)
    if not repeated and clear_cut(
        x, 'cosine', k1 + 1, round(k1 / 2) + 1, k2
    ):  # in another order distances round otherwise
        o, p = rng.permutation(n_gallery), rng.permutation(n_query)
        assert np.allclose(k_reciprocal_distance(q[p], g[o], k1, k2), d[p][:, o], atol=2e-6)


def test_several_panels_of_several_groups():
    "Large enough that rows are searched by groups, from above the diagonal and from below it."
    x, who = groups(3000, 20, 5)
    want = k_reciprocal_numpy(x[:100].astype(np.float64), x[100:].astype(np.float64), metric='cosine')
    for block in (None, 64, 700):
        assert np.abs(k_reciprocal_distance(x[:100], x[100:], block=block) - want).max() < 2e-6


def test_jaccard_is_the_dense_one_and_missing_entries_are_one():
    x, who = groups(300, 20, 1)
    want = k_reciprocal_numpy(x, x, 1, 1, 1, 'cosine')  # for its shape only
    J = jaccard_distance(x, 12, 4)
    full = np.ones_like(want)
    pairs = J.tocoo()
    full[pairs.row, pairs.col] = pairs.data
    for start in (0, 100, 200):  # a third of the images as queries, brought to the front
        order = np.r_[start : start + 100, 0:start, start + 100 : 300]
        part = k_reciprocal_numpy(x[order[:100]], x[order[100:]], 12, 4, 0, 'cosine')
        assert np.abs(full[order[:100]][:, order[100:]] - part).max() < 2e-6
    assert (
        (full.diagonal() == 0).all()
        and (J.data >= 0).all()
        and J.has_sorted_indices
        and np.abs(full - full.T).max() < 1e-6
    )


def test_types_and_inputs():
    x = groups(200, 16, 2)[0]
    q, g = x[:20], x[20:]
    d = k_reciprocal_distance(q, g)
    assert (k_reciprocal_distance(torch.tensor(q, requires_grad=True), torch.tensor(g)) == d).all()
    assert np.allclose(k_reciprocal_distance(q.astype(np.float64), g), d, atol=1e-6)
    before = q.copy(), g.copy()
    k_reciprocal_distance(q, g, metric='euclidean')
    assert (q == before[0]).all() and (g == before[1]).all()
    coarse = k_reciprocal_distance(torch.tensor(q).half(), torch.tensor(g).half())
    assert (
        np.abs(coarse - k_reciprocal_distance(torch.tensor(q).half().float(), torch.tensor(g).half().float())).max()
        < 1e-6
    )
    offset = k_reciprocal_distance(
        q + 300, g + 300, metric='euclidean'
    )  # far from the origin, where squared norms swallow the differences
    assert np.abs(offset - k_reciprocal_numpy(q.astype(float), g.astype(float))).max() < 1e-3


def test_all_images_equal():
    d = k_reciprocal_distance(np.ones((3, 4)), np.ones((9, 4)), metric='euclidean')
    assert np.isfinite(d).all() and d.shape == (3, 9)
    J = jaccard_distance(np.ones((12, 4)), k1=3, metric='euclidean')
    assert (J.diagonal() == 0).all() and np.isfinite(J.data).all()


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(k1=0), 'k1'),
        (dict(k1=2.5), 'k1'),
        (dict(k2=0), 'k2'),
        (dict(lambda_value=-0.1), 'lambda_value'),
        (dict(lambda_value=float('nan')), 'lambda_value'),
        (dict(metric='l1'), 'metric'),
        (dict(block=-1), 'block'),
        (dict(query_features=np.ones(8)), 'query features'),
        (dict(query_features=np.ones((0, 8))), 'at least one'),
        (dict(gallery_features=np.ones((5, 7))), 'width'),
        (dict(gallery_features=np.full((5, 8), np.inf)), 'infinity'),
        (dict(lambda_value=None), 'lambda_value'),
    ],
)
def test_refusals(change, says):
    with pytest.raises(UserError, match=says):
        k_reciprocal_distance(**{**dict(query_features=np.eye(8), gallery_features=np.eye(8)), **change})


@pytest.mark.parametrize('zeros', [[3], [0, 30, 31]])
@pytest.mark.parametrize('k1, k2', [(6, 1), (20, 1), (20, 6)])
def test_zeros_are_at_the_distance_one_from_everything(zeros, k1, k2):
    "A row of zeros is what a row in a direction of its own is, and the plain algorithm knows that one."
    x = np.abs(groups(80, 6, 11)[0])
    x[zeros] = 0
    apart = np.concatenate([x.astype(np.float64), np.eye(80)[:, zeros]], 1)
    for lambda_value in (0, 0.3, 1):
        want = k_reciprocal_numpy(apart[:9], apart[9:], k1, k2, lambda_value, 'cosine')
        got = k_reciprocal_distance(x[:9], x[9:], k1, k2, lambda_value, 'cosine')
        off = np.abs(got - want)
        if k2 > 1 and lambda_value < 1:  # the nearest six of zeros are any six: with them their averages
            off = np.delete(np.delete(off, [i for i in zeros if i < 9], 0), [i - 9 for i in zeros if i >= 9], 1)
        assert off.max() < 2e-6
    assert np.isfinite(jaccard_distance(x, k1, k2).data).all()


def test_settings_may_be_numbers_of_any_kind():
    x = groups(60, 6, 1)[0]
    want = k_reciprocal_distance(x[:9], x[9:], 5, 2, 0.25)
    for number in (np.float32, np.float64, np.float16):
        assert (k_reciprocal_distance(x[:9], x[9:], np.int64(5), 2, number(0.25)) == want).all()
    assert torch.equal(expand_queries(x[:9], x[9:], alpha=np.float32(2)), expand_queries(x[:9], x[9:], alpha=2))


def test_nothing_to_expand():
    x = groups(60, 6, 1)[0]
    for queries, gallery in ((x[:0], x), (x, x[:0])):
        with pytest.raises(UserError, match='at least one query|gallery images'):
            expand_queries(queries, gallery)


def test_expanded_queries_follow_the_formula():
    x = groups(120, 10, 3)[0].astype(np.float64)
    unit = x / np.linalg.norm(x, axis=1, keepdims=True)
    q, g = unit[:20], unit[20:]
    for k, alpha in ((1, 0), (5, 0), (5, 3), (300, 1.5)):
        similar = q @ g.T
        near = np.argsort(-similar, axis=1)[:, :k]
        weight = np.maximum(np.take_along_axis(similar, near, 1), 0) ** alpha
        want = q + (weight[:, :, None] * g[near]).sum(1)
        want /= np.linalg.norm(want, axis=1, keepdims=True)
        assert np.allclose(expand_queries(x[:20], x[20:], k, alpha), want, atol=1e-5)


@pytest.mark.gpu
def test_same_on_gpu():
    x, who = groups(3000, 64, 7)
    q, g = torch.tensor(x[:300]), torch.tensor(x[300:])
    d = k_reciprocal_distance(q, g)
    for got in (
        k_reciprocal_distance(q.cuda(), g),
        k_reciprocal_distance(q, g, device='cuda'),
    ):  # a few lists may end between distances that rounding exchanges
        assert (np.abs(got - d) > 1e-5).mean() < 1e-3
    assert np.allclose(expand_queries(q.cuda(), g.cuda()), expand_queries(q, g), atol=1e-5)
    J, K = jaccard_distance(torch.tensor(x), 12, 4), jaccard_distance(torch.tensor(x).cuda(), 12, 4)
    assert abs(J - K).sum() < 1e-3 * J.sum()
