"Ranking: what must hold for any sizes, labels, ties and blocks, under every protocol, against a few plain lines."

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import synthreid.metrics.ranking as module
from synthreid.core import UserError
from synthreid.metrics.distances import distance_matrix, distance_rows, top_k
from synthreid.metrics.ranking import (
    PROTOCOLS,
    count_before,
    draw_single_shot,
    evaluate_ranking,
    pool_queries,
    rank_metrics,
)

fixtures = np.load(Path(__file__).parent / 'fixtures' / 'ranking.npz')
LABELS = ('q_pids', 'g_pids', 'q_camids', 'g_camids')
sizes = dict(seed=st.integers(0, 2**32 - 1), q=st.integers(1, 80), g=st.integers(1, 300), d=st.integers(1, 40))
protocols = st.sampled_from(list(PROTOCOLS))


def case(name):
    return {k.split('/')[1]: fixtures[k] for k in fixtures.files if k.startswith(name + '/')}


def same(a, b):
    assert np.array_equal(a.ap, b.ap, equal_nan=True) and np.array_equal(a.inp, b.inp, equal_nan=True)
    assert (
        (a.first_match == b.first_match).all()
        and (a.cmc == b.cmc).all()
        and (a.mAP, a.mINP, a.n_valid, a.n_gallery) == (b.mAP, b.mINP, b.n_valid, b.n_gallery)
    )


def draw(seed, q, g, d, decimals=None, protocol='all_images'):
    "Features (rounded: many ties), labels with junk (-1) and distractors (0); at least one query can be scored."
    r = np.random.default_rng(seed)
    if protocol == 'leave_one_out':
        g = q = max(q, 2)
    x, y = r.standard_normal((q, d)), r.standard_normal((g, d))
    if decimals is not None:
        x, y = x.round(decimals), y.round(decimals)
    n = r.integers(1, 9)
    qp, gp, qc, gc = r.integers(-1, n + 1, q), r.integers(-1, n + 1, g), r.integers(0, 3, q), r.integers(0, 3, g)
    qp[0], gp[0], qc[0], gc[0] = 1, 1, 0, 2
    if protocol == 'leave_one_out':
        qp[1] = 1
        x, gp, gc = y, qp, qc
    return x.astype(np.float32), y.astype(np.float32), (qp, gp, qc, gc)


def plain(distances, qp, gp, qc, gc, protocol, max_rank=50):
    "The definition of every protocol: sort, remove, look. Returns CMC, mAP, AP per query, INP per query, first match."
    ap, inp, first, curves = [], [], [], []
    for i, row in enumerate(distances):
        order = np.argsort(row, kind='stable')
        person, same_camera = gp[order] == qp[i], gc[order] == qc[i]
        ignored = {'cross_camera': same_camera, 'no_cameras': same_camera & False, 'leave_one_out': order == i}.get(
            protocol, person & same_camera
        )
        if protocol in ('market1501', 'dgnet'):
            ignored = ignored | (gp[order] == -1)
        right, people = person[~ignored], gp[order][~ignored]
        places = np.flatnonzero(right)
        first.append(places[0] if len(places) else -1)
        if not len(places):
            ap.append(np.nan)
            inp.append(np.nan)
            continue
        k = np.arange(1, len(places) + 1)
        before = np.array([(j - 1) / p if p else 1.0 for j, p in zip(k, places)])
        ap.append(np.mean((k / (places + 1) + before) / 2 if protocol == 'dgnet' else k / (places + 1)))
        inp.append(len(places) / (places[-1] + 1))
        curves.append(
            single_shot(people, qp[i], max_rank)
            if protocol == 'cuhk03_old'
            else (np.arange(max_rank) >= places[0]).astype(float)
        )
    over = len(ap) if protocol == 'dgnet' else len(curves)
    return np.sum(curves, 0) / over, np.nansum(ap) / over, np.array(ap), np.array(inp), np.array(first)


def single_shot(people, pid, max_rank):
    "Expected CMC with one image per person: for every right match the product of a generating polynomial per person."
    curve = np.zeros(max_rank)
    right = np.flatnonzero(people == pid)
    for p in right:
        polynomial = np.ones(1)
        for other in set(people.tolist()) - {pid}:
            share = np.mean(np.flatnonzero(people == other) < p)
            polynomial = np.convolve(polynomial, [1 - share, share])
        curve += np.minimum(np.r_[np.cumsum(polynomial), np.ones(max_rank)][:max_rank], 1) / len(right)
    return curve


@settings(deadline=None, max_examples=150)
@given(
    **sizes,
    protocol=protocols,
    kind=st.sampled_from(['float64', 'float32', 'float16', 'int64']),
    block=st.sampled_from([1, 37, 16384]),
)
def test_every_protocol_equals_its_definition(seed, q, g, d, protocol, kind, block):
    x, y, labels = draw(seed, q, g, d, protocol=protocol)
    r = np.random.default_rng(seed)
    dist = r.integers(0, 30, (len(x), len(y))) if seed % 2 else r.random((len(x), len(y))) * 100  # ties, or none
    dist = dist.astype(kind)
    before, module._BLOCK = module._BLOCK, block
    try:
        r = rank_metrics(dist, *labels, protocol=protocol)
    finally:
        module._BLOCK = before
    cmc, mAP, ap, inp, first = plain(dist, *labels, protocol)
    assert np.allclose(r.ap, ap, atol=1e-12, rtol=0, equal_nan=True) and np.allclose(
        r.inp, inp, atol=1e-12, rtol=0, equal_nan=True
    )
    assert (r.first_match == first).all() and np.allclose(r.cmc, cmc, atol=1e-9, rtol=0) and abs(r.mAP - mAP) < 1e-12
    assert len(r.cmc) == 50 and r.protocol == f'{protocol}: {PROTOCOLS[protocol]}'
    same(rank_metrics(torch.from_numpy(dist), *map(torch.from_numpy, labels), protocol=protocol), r)


@settings(deadline=None, max_examples=100)
@given(
    **sizes,
    block=st.integers(1, 400),
    metric=st.sampled_from(['cosine', 'euclidean', 'squared_euclidean']),
    rounded=st.booleans(),
    protocol=protocols,
)
def test_streaming_equals_full(seed, q, g, d, block, metric, rounded, protocol):
    x, y, labels = draw(seed, q, g, d, 0 if rounded else None, protocol)
    full = rank_metrics(distance_matrix(x, y, metric), *labels, protocol=protocol)
    same(evaluate_ranking(x, y, *labels, metric=metric, block=block, protocol=protocol), full)
    same(
        evaluate_ranking(
            torch.tensor(x), torch.tensor(y), *map(torch.tensor, labels), metric=metric, protocol=protocol
        ),
        full,
    )


@settings(deadline=None, max_examples=20)
@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.integers(200, 600),
    g=st.integers(500, 3000),
    block=st.integers(1, 1500),
    most=st.sampled_from([1, 3000, 2**22]),
)
def test_streaming_equals_full_with_several_chunks_and_groups(seed, q, g, block, most):
    x, y, labels = draw(seed, q, g, 64, 1)
    original = module._groups
    module._groups = lambda labels: original(labels, most)
    try:
        streamed = evaluate_ranking(x, y, *labels, block=max(block, 200))
    finally:
        module._groups = original
    same(streamed, rank_metrics(distance_matrix(x, y), *labels))


@pytest.mark.parametrize('factor', [1 - 1e-9, 1 + 1e-9])
def test_a_match_never_counts_itself_where_a_library_rounds_its_distance_otherwise(factor, monkeypatch):
    _, _, labels = draw(2, 50, 300, 1)
    dist, original = np.random.default_rng(0).permutation(50 * 300).reshape(50, 300) + 1.0, module._limits
    want = rank_metrics(dist, *labels)
    monkeypatch.setattr(module, '_BLOCK', 70)
    monkeypatch.setattr(module, '_limits', lambda *a: original(*a) * factor)
    same(rank_metrics(dist, *labels), want)


@settings(deadline=None, max_examples=40)
@given(**sizes, protocol=protocols)
def test_the_path_of_other_devices_gives_the_same(seed, q, g, d, protocol):
    "On a GPU rows are sorted and searched by another function; here it runs on CPU tensors."
    x, y, labels = draw(seed, q, g, d, 1, protocol)
    want = evaluate_ranking(x, y, *labels, protocol=protocol, block=100)
    original, module._below = module._below, module._below_by_torch
    try:
        got = evaluate_ranking(torch.from_numpy(x), torch.from_numpy(y), *labels, protocol=protocol, block=100)
    finally:
        module._below = original
    same(got, want)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_on_the_gpu(protocol):
    x, y, labels = draw(0, 700, 5000, 64, protocol=protocol)
    dist = torch.from_numpy(distance_matrix(x, y))
    same(rank_metrics(dist.cuda(), *labels, protocol=protocol), rank_metrics(dist, *labels, protocol=protocol))
    on_gpu, on_cpu = (evaluate_ranking(x, y, *labels, protocol=protocol, device=d, block=1000) for d in ('cuda', 'cpu'))
    assert abs(on_gpu.mAP - on_cpu.mAP) < 1e-4 and on_gpu.n_valid == on_cpu.n_valid


@settings(deadline=None, max_examples=40)
@given(**sizes, protocol=protocols.filter(lambda p: p != 'leave_one_out'))
def test_gallery_order_does_not_matter_without_ties(seed, q, g, d, protocol):
    _, _, (qp, gp, qc, gc) = draw(seed, q, g, d)
    r = np.random.default_rng(seed)
    dist, o = r.permutation(q * g).reshape(q, g), r.permutation(g)
    a, b = (
        rank_metrics(dist[:, o], qp, gp[o], qc, gc[o], protocol=protocol),
        rank_metrics(dist, qp, gp, qc, gc, protocol=protocol),
    )
    if protocol == 'cuhk03_old':
        assert np.allclose(a.cmc, b.cmc, atol=1e-12)
    else:
        same(a, b)


@settings(deadline=None, max_examples=40)
@given(
    **sizes, protocol=st.sampled_from(['all_images', 'market1501', 'cross_camera', 'cuhk03_old', 'cuhk03_new', 'dgnet'])
)
def test_more_junk_changes_nothing(seed, q, g, d, protocol):
    x, y, (qp, gp, qc, gc) = draw(seed, q, g, d)
    qp[:], qc[:] = 1, 0
    junk = np.flatnonzero(
        ((gp == 1) & (gc == 0))
        | ((gp == -1) & (protocol in ('market1501', 'dgnet')))
        | ((gc == 0) & (protocol == 'cross_camera'))
    )
    more = np.r_[np.arange(g), np.repeat(junk, 3)]
    a, b = (evaluate_ranking(x, y[k], qp, gp[k], qc, gc[k], protocol=protocol) for k in (more, np.arange(g)))
    a.n_gallery = b.n_gallery
    same(a, b)


@settings(deadline=None, max_examples=60)
@given(**sizes, columns=st.integers(0, 300))
def test_counting_equals_a_stable_sort(seed, q, g, d, columns):
    r = np.random.default_rng(seed)
    dist = r.integers(0, 1 + r.integers(1, 200), (q, g)).astype(np.float32)
    wanted = r.integers(0, g, (q, d))
    place = np.argsort(np.argsort(dist, axis=1, kind='stable'), axis=1)
    cut = min(columns, g)
    total = 0
    for s in (slice(0, cut), slice(cut, g)):
        if s.start < s.stop:
            total = total + count_before(
                torch.from_numpy(dist[:, s].copy()),
                torch.from_numpy(np.take_along_axis(dist, wanted, 1)),
                torch.from_numpy(wanted - s.start),
            )
    assert (total.numpy() == np.take_along_axis(place, wanted, 1)).all()


@settings(deadline=None, max_examples=40)
@given(**sizes)
def test_top_k_equals_a_stable_sort(seed, q, g, d):
    x, y, _ = draw(seed, q, g, d, 0)
    assert (top_k(x, y, k=5)[0] == np.argsort(distance_matrix(x, y), axis=1, kind='stable')[:, :5]).all()


@settings(deadline=None, max_examples=40)
@given(**sizes, rows=st.integers(1, 90), block=st.integers(1, 400))
def test_distances_do_not_depend_on_blocks(seed, q, g, d, rows, block):
    x, y, _ = draw(seed, q, g, d)
    assert np.array_equal(
        np.concatenate([r for _, r in distance_rows(x, y, block=block, rows=rows)]), distance_matrix(x, y)
    )


# ---- stored results of torchreid, fast-reid and DG-Net ----
@pytest.mark.parametrize('name', ['random', 'noise', 'no_valid_match', 'junk_distractor', 'single_positive'])
def test_dgnet(name):
    c = case(name)
    r = rank_metrics(c['distmat'], *(c[k] for k in LABELS), protocol='dgnet')
    assert np.allclose(r.cmc, c['dgnet_cmc'], atol=1e-6, rtol=0) and abs(r.mAP - c['dgnet_mAP']) < 1e-12
    assert np.allclose(r.ap, c['dgnet_AP'], atol=1e-12, rtol=0, equal_nan=True)


def test_cuhk03_old():
    c = case('cuhk03')
    r = rank_metrics(c['distmat'], *(c[k] for k in LABELS), protocol='cuhk03_old')
    assert np.allclose(r.cmc[:20], c['cuhk03_cmc_expected'], atol=1e-9, rtol=0) and abs(r.mAP - c['cuhk03_mAP']) < 1e-12
    spread = c['cuhk03_cmc_per_seed'].std(0) / len(c['cuhk03_cmc_per_seed']) ** 0.5
    assert (np.abs(r.cmc[:20] - c['cuhk03_cmc_mean']) <= 5 * spread + 1e-6).all()


def test_market1501_is_junk_removed():
    c = case('junk_distractor')
    r = rank_metrics(c['distmat'], *(c[k] for k in LABELS), protocol='market1501')
    assert np.allclose(r.cmc, c['junk_removed_cmc'], atol=1e-6, rtol=0) and abs(r.mAP - c['junk_removed_mAP']) < 1e-12
    assert abs(r.mINP - c['junk_removed_fastreid_mINP']) < 1e-12 and r.n_gallery == (c['g_pids'] != -1).sum()


# ---- what is refused, and what is not ----
@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_bad_input_is_refused_under_every_protocol(protocol):
    x, y, labels = draw(3, 40, 90, 8, protocol=protocol)
    dist, run = distance_matrix(x, y), dict(protocol=protocol)
    for value in (np.nan, np.inf):
        with pytest.raises(UserError, match='1 NaN or infinite'):
            rank_metrics(np.where(np.arange(dist.size).reshape(dist.shape) == 11, value, dist), *labels, **run)
    spoilt = y.copy()
    spoilt[7, 2] = np.nan
    with pytest.raises(UserError, match='row 7'):
        evaluate_ranking(spoilt if protocol == 'leave_one_out' else x, spoilt, *labels, **run)
    with pytest.raises(UserError, match='whole numbers in query_pids'):
        rank_metrics(dist, labels[0] + 0.5, *labels[1:], **run)
    with pytest.raises(UserError, match='max_rank'):
        evaluate_ranking(x, y, *labels, max_rank=0, **run)
    with pytest.raises(UserError, match='at least one query'):
        rank_metrics(np.empty((0, 90)), [], labels[1], [], labels[3], **run)
    nobody = np.arange(len(dist)) + 1000
    if protocol == 'leave_one_out':
        with pytest.raises(UserError, match='single image'):
            rank_metrics(dist, nobody, nobody, **run)
    else:
        with pytest.raises(UserError, match='same numbering'):
            rank_metrics(dist, nobody, *labels[1:], **run)
    if protocol in ('no_cameras', 'leave_one_out'):
        same(rank_metrics(dist, *labels[:2], **run), rank_metrics(dist, *labels, **run))
    else:
        with pytest.raises(UserError, match='needs camera numbers'):
            rank_metrics(dist, *labels[:2], **run)
        nowhere = np.zeros(len(dist), int), np.zeros(dist.shape[1], int)
        with pytest.raises(UserError, match='only on the camera of the query'):
            rank_metrics(dist, *labels[:2], *nowhere, **run)


def test_leave_one_out_is_every_image_on_its_own_camera():
    x, _, (pids, *_) = draw(5, 60, 60, 12, 0, 'leave_one_out')
    same(
        evaluate_ranking(x, x, pids, pids, protocol='leave_one_out'),
        evaluate_ranking(x, x, pids, pids, np.arange(60), np.arange(60)),
    )


def test_half_precision_memory_maps(tmp_path):
    x, y, labels = draw(0, 300, 2000, 32)
    np.save(tmp_path / 'g.npy', y.astype(np.float16))
    mapped = np.load(tmp_path / 'g.npy', mmap_mode='r')
    full = rank_metrics(distance_matrix(x, y.astype(np.float16).astype(np.float32)), *labels)
    for block in (333, 16384):
        same(evaluate_ranking(x, mapped, *labels, block=block), full)
    same(
        evaluate_ranking(torch.tensor(x).bfloat16(), torch.tensor(y).bfloat16(), *labels, block=333),
        evaluate_ranking(torch.tensor(x).bfloat16().float(), torch.tensor(y).bfloat16().float(), *labels),
    )


def test_the_distance_rows_of_a_huge_gallery_stay_small():
    g = torch.ones(1, 2).expand(20_000_000, 2)  # one row, no memory
    start, rows = next(distance_rows(torch.ones(5, 2), g, block=2**20))
    assert rows.nbytes <= 2**28 and rows.shape[1] == len(g)


@settings(deadline=None, max_examples=30)
@given(**sizes)
def test_pooled_queries(seed, q, g, d):
    x, _, (p, _, c, _) = draw(seed, q, g, d)
    pooled, pids, camids = pool_queries(x, p, c)
    assert len(set(zip(pids.tolist(), camids.tolist()))) == len(pids) == len(set(zip(p.tolist(), c.tolist())))
    for i in range(len(pids)):
        assert np.allclose(pooled[i], x[(p == pids[i]) & (c == camids[i])].mean(0), atol=1e-5)


@given(seed=sizes['seed'], ties=st.booleans())
@settings(max_examples=15, deadline=None)
def test_draws_of_the_old_cuhk03_protocol_estimate_its_expectation(seed, ties):
    x, y, labels = draw(seed, 12, 60, 6, 0 if ties else None)
    d = distance_matrix(x, y, 'squared_euclidean').round(6)
    draws, expected = (
        draw_single_shot(d, *labels, repeats=300, max_rank=12),
        rank_metrics(d, *labels, protocol='cuhk03_old', max_rank=12).cmc,
    )
    n = rank_metrics(d, *labels).n_valid
    assert draws.shape == (300, 12) and (np.diff(draws, axis=1) >= 0).all()
    assert np.abs(draws.mean(0) - expected).max() < 6 * 0.5 / (300 * n) ** 0.5


def test_multi_query_pools_and_says_so():
    x, y, (qp, gp, qc, gc) = draw(3, 40, 200, 8)
    pooled, pids, camids = pool_queries(x, qp, qc)
    for protocol in ('all_images', 'market1501', 'cross_camera', 'cuhk03_old', 'dgnet'):
        got = evaluate_ranking(x, y, qp, gp, qc, gc, protocol=protocol, multi_query=True)
        same(got, evaluate_ranking(pooled, y, pids, gp, camids, gc, protocol=protocol))
        assert 'multi-query' in got.protocol and 'multi-query' in repr(got)
    with pytest.raises(UserError, match='leave_one_out'):
        evaluate_ranking(x, x, qp, qp, qc, qc, protocol='leave_one_out', multi_query=True)


@pytest.mark.parametrize(
    'options, why',
    [
        (dict(max_rank=2.5), 'max_rank'),
        (dict(max_rank=0), 'max_rank'),
        (dict(block=None), 'block'),
        (dict(metric='manhattan'), 'metric'),
        (dict(protocol='market'), 'protocol'),
    ],
)
def test_odd_options_are_named(options, why):
    x, y, labels = draw(0, 5, 20, 4)
    with pytest.raises(UserError, match=why):
        evaluate_ranking(x, y, *labels, **options)


@pytest.mark.parametrize(
    'change',
    [
        lambda a: a * 1j,
        lambda a: a.astype(str),
        lambda a: a.astype(object),
        lambda a: a * np.float32(1e25),
        lambda a: a * np.float32(1e-25),
        lambda a: torch.tensor(a) * 1j,
    ],
)
def test_odd_features_are_refused_with_a_reason(change):
    x, y, labels = draw(0, 5, 20, 4)
    with pytest.raises(UserError, match='features'):
        evaluate_ranking(x, change(y), *labels)


def test_scale_does_not_matter_to_cosine():
    x, y, labels = draw(1, 30, 100, 16)
    same(evaluate_ranking(x, y, *labels), evaluate_ranking(x * np.float32(2.0**50), y * np.float32(2.0**-40), *labels))


@pytest.mark.parametrize('k', [0, -1, 1.5, None])
def test_places_begin_at_one(k):
    result = rank_metrics(np.eye(3), [0, 1, 2], [1, 2, 0], protocol='no_cameras')
    with pytest.raises(UserError, match='k of at least 1'):
        result.rank(k)
