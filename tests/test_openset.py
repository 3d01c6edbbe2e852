"ROC, calibration and open-set identification: fast-reid's stored numbers, scikit-learn, brute force, properties."

import tracemalloc
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from synthreid.core import UserError
from synthreid.metrics.distances import distance_matrix
from synthreid.metrics.openset import (
    _units,
    calibrate,
    cut_lists,
    evaluate_open_set,
    evaluate_roc,
    fastreid_tpr,
    open_set_metrics,
    reliability,
    roc_metrics,
)
from synthreid.metrics.ranking import rank_metrics

ranking = np.load(Path(__file__).parent / 'fixtures' / 'ranking.npz')
FIXTURE = [ranking[f'random/{k}'] for k in ('distmat', 'q_pids', 'g_pids', 'q_camids', 'g_camids')]
seeds = st.integers(0, 2**32 - 1)


def draw(seed, ties=False, junk=False):
    "Random distances and labels with at least one genuine and one impostor pair."
    r = np.random.default_rng(seed)
    q, g = r.integers(1, 15), r.integers(2, 50)
    labels = r.integers(0, 5, q), r.integers(-1 if junk else 0, 5, g), r.integers(0, 3, q), r.integers(0, 3, g)
    labels[1][:2], labels[3][0] = (labels[0][0], labels[0][0] + 1), labels[2][0] + 1
    distances = r.integers(0, r.integers(1, 30), (q, g)).astype(float) if ties else r.random((q, g))
    return distances + (labels[0][:, None] != labels[1]) * r.choice([0, 0.5]), labels


def split(distances, labels, junk=None):
    "Genuine and impostor distances by masks on the whole matrix."
    q, g, qc, gc = labels
    same = q[:, None] == g
    valid = np.ones_like(same) if junk is None else np.broadcast_to(g != junk, same.shape)
    return distances[same & valid & (qc[:, None] != gc)], distances[~same & valid]


def test_fastreid_fixture():
    assert np.allclose(
        fastreid_tpr(*FIXTURE), [ranking[f'random/roc_tpr_at_fpr_1e-0{i}'] for i in (4, 3, 2)], atol=1e-12, rtol=0
    )
    roc = roc_metrics(*FIXTURE, max_fpr=1)
    assert [roc.n_genuine, roc.n_impostor] == ranking['random/roc_n_pos_neg'].tolist()
    assert (roc.genuine == ranking['random/roc_pos_sorted']).all()
    stored = ranking['random/roc_neg_sorted']
    assert (roc.impostor[:: roc.n_impostor // (len(stored) - 1)] == stored).all()


@given(seed=seeds, ties=st.booleans(), wanted=st.lists(st.floats(0, 1), min_size=1, max_size=5))
@settings(max_examples=150, deadline=None)
def test_fastreid_convention_is_scikit_learn_with_impostors_as_positives(seed, ties, wanted):
    distances, labels = draw(seed, ties)
    genuine, impostor = split(distances, labels)
    fpr, tpr, _ = roc_curve(np.repeat([0, 1], [len(genuine), len(impostor)]), np.r_[genuine, impostor])
    nearest = [tpr[np.argmin(np.abs(fpr - f))] for f in wanted]
    assert np.allclose(fastreid_tpr(distances, *labels, fpr=wanted), nearest, atol=1e-12)


@given(seed=seeds, ties=st.booleans(), junk=st.booleans(), fpr=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_our_convention_is_the_largest_threshold_within_the_rate(seed, ties, junk, fpr):
    distances, labels = draw(seed, ties, junk)
    genuine, impostor = split(distances, labels, -1)
    roc = roc_metrics(distances, *labels, max_fpr=1)
    assert roc.n_impostor == len(impostor) and roc.n_genuine == len(genuine)
    threshold = roc.threshold_at(fpr)
    assert roc.rates_at(threshold) == ((impostor < threshold).mean(), (genuine < threshold).mean())
    assert (impostor < threshold).mean() <= fpr + 1e-6
    if threshold < np.inf:
        assert (impostor <= threshold).mean() > fpr


@given(seed=seeds, ties=st.booleans(), max_fpr=st.floats(0.001, 1), share=st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_few_impostors_are_enough(seed, ties, max_fpr, share):
    distances, labels = draw(seed, ties)
    whole, part = (roc_metrics(distances, *labels, max_fpr=f) for f in (1, max_fpr))
    assert len(part.impostor) <= max_fpr * part.n_impostor + 1e-6
    assert part.threshold_at(share * max_fpr) == whole.threshold_at(share * max_fpr)
    assert part.tpr_at(share * max_fpr) == whole.tpr_at(share * max_fpr)
    assert (distances[tuple(part.impostor_pairs.T)] == part.impostor).all() and (
        distances[tuple(part.genuine_pairs.T)] == part.genuine
    ).all()
    if max_fpr < 1:
        with pytest.raises(UserError, match='larger max_fpr'):
            part.tpr_at(max_fpr + 1e-3)


@given(
    seed=seeds,
    n=st.integers(1, 40),
    g=st.integers(3, 200),
    d=st.integers(1, 20),
    block=st.integers(1, 250),
    metric=st.sampled_from(['cosine', 'euclidean']),
)
@settings(max_examples=60, deadline=None)
def test_streaming_is_the_matrix(seed, n, g, d, block, metric):
    r = np.random.default_rng(seed)
    x, y = r.standard_normal((n, d)).astype(np.float32), r.standard_normal((g, d)).astype(np.float32)
    labels = [r.integers(0, 4, n), r.integers(-1, 4, g), r.integers(0, 2, n), r.integers(0, 2, g)]
    labels[0][0], labels[1][:2], labels[2][0], labels[3][0] = 0, (0, 1), 0, 1
    matrix = distance_matrix(x, y, metric)
    a, b = (
        evaluate_roc(x, y, *labels, metric=metric, block=block, max_fpr=0.3),
        roc_metrics(matrix, *labels, max_fpr=0.3),
    )
    assert (a.genuine == b.genuine).all() and (a.impostor == b.impostor).all() and a.limit == b.limit
    labels[0][-1] = 9  # absent, unless it is the only query
    assume(n > 1)
    a, b = evaluate_open_set(x, y, *labels, metric=metric, block=block), open_set_metrics(matrix, *labels)
    assert (
        (a.match_rank == b.match_rank).all()
        and (a.nearest == b.nearest).all()
        and (a.match_distance == b.match_distance).all()
    )


@given(seed=seeds)
@settings(max_examples=60, deadline=None)
def test_order_and_junk_change_nothing(seed):
    distances, labels = draw(seed, junk=True)
    q, g, qc, gc = labels
    before = roc_metrics(distances, *labels, max_fpr=0.5)
    order = np.random.default_rng(seed).permutation(len(g))
    after = roc_metrics(distances[:, order], q, g[order], qc, gc[order], max_fpr=0.5)
    assert (after.genuine == before.genuine).all() and (after.impostor == before.impostor).all()
    junk = roc_metrics(
        np.c_[distances, np.zeros((len(q), 3))], q, np.r_[g, -1, -1, -1], qc, np.r_[gc, 0, 1, 2], max_fpr=0.5
    )
    assert (
        (junk.genuine == before.genuine).all()
        and (junk.impostor == before.impostor).all()
        and junk.n_impostor == before.n_impostor
    )


def test_other_protocols():
    r = np.random.default_rng(2)
    distances, pids = r.random((40, 40)), r.integers(-1, 5, 40)
    alike, other = pids[:, None] == pids, ~np.eye(40, dtype=bool)
    own = roc_metrics(distances, pids, pids, max_fpr=1, protocol='leave_one_out')
    assert (own.genuine == np.sort(distances[alike & other])).all() and (
        own.impostor == np.sort(distances[~alike])
    ).all()
    free = roc_metrics(distances, pids, pids, max_fpr=1, protocol='no_cameras')
    assert (free.genuine == np.sort(distances[alike])).all() and free.n_impostor == own.n_impostor == (~alike).sum()
    with pytest.raises(UserError, match='marked as junk'):
        roc_metrics(distances, pids, pids, np.zeros(40), np.ones(40))
    with pytest.raises(UserError, match="protocol of 'market1501'"):
        roc_metrics(distances, pids, pids, np.zeros(40), np.ones(40), protocol='cross_camera')


def test_a_collapsed_network_accepts_nobody_and_needs_no_memory():
    r = np.random.default_rng(0)
    roc = roc_metrics(np.full((20, 500), 0.3), r.integers(0, 9, 20), r.integers(0, 9, 500), np.zeros(20), np.ones(500))
    assert len(roc.impostor) == 0 and roc.tpr_at(0.01) == 0 and roc.threshold_at(0.01) == 0.3


def test_memory_does_not_grow_with_the_pairs():
    r = np.random.default_rng(0)
    q, g = (r.standard_normal((n, 4)).astype(np.float32) for n in (300, 20_000))
    labels = r.integers(0, 50, 300), r.integers(0, 50, 20_000), np.zeros(300), np.ones(20_000)
    tracemalloc.start()
    roc = evaluate_roc(q, g, *labels, max_fpr=1e-3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()  # what NumPy holds; torch's few rows are apart
    assert roc.n_impostor > 5_000_000 and peak < 20e6, 'all pairs would be 70 MB'


def people(seed, n=60, n_query=2, n_gallery=4, dim=16):
    r = np.random.default_rng(seed)
    centres = r.standard_normal((n, dim))
    q, g = np.repeat(np.arange(1, n + 1), n_query), np.repeat(np.arange(1, n + 1), n_gallery)
    x, y = ((centres[p - 1] + 0.8 * r.standard_normal((len(p), dim))).astype(np.float32) for p in (q, g))
    return x, y, q, g, np.zeros(len(q), int), np.ones(len(g), int)


def test_calibration():
    roc = evaluate_roc(*people(0), max_fpr=0.05)
    wide, narrow = (calibrate(roc, 0.01, c) for c in (0.99, 0.8))
    assert wide.threshold == narrow.threshold == roc.threshold_at(0.01) and wide.false_match <= 0.01
    for name in ('false_match', 'true_match'):
        (a, b), (c, d), rate = (
            getattr(wide, name + '_interval'),
            getattr(narrow, name + '_interval'),
            getattr(wide, name),
        )
        assert 0 < a < c < rate < d < b < 1
    assert (wide.same(roc.impostor).sum(), wide.same(roc.genuine).mean()) == (wide.n_accepted, wide.true_match)
    fewer = calibrate(evaluate_roc(*people(0, 20), max_fpr=0.05), 0.02)
    more = calibrate(evaluate_roc(*people(0, 300), max_fpr=0.05), 0.02)
    assert np.ptp(more.false_match_interval) < np.ptp(fewer.false_match_interval) / 2 and more.n_people == 300


def test_more_pictures_of_the_same_people_do_not_make_the_rate_certain():
    once, often = (calibrate(evaluate_roc(*people(3, 40, n, n), max_fpr=0.05), 0.05) for n in (2, 12))
    assert (
        often.n_people == once.n_people and np.ptp(often.false_match_interval) > np.ptp(once.false_match_interval) / 2
    )


def test_distractors_are_people_of_their_own():
    x, y, q, g, qc, gc = people(1)
    y, g, gc = (
        np.r_[y, np.random.default_rng(5).standard_normal((500, 16)).astype(np.float32)],
        np.r_[g, np.zeros(500, int)],
        np.r_[gc, np.ones(500, int)],
    )
    roc = evaluate_roc(x, y, q, g, qc, gc, max_fpr=0.05)
    assert calibrate(roc, 0.01).n_people == 560 and len(np.unique(_units(roc)[1])) == 560
    assert (
        calibrate(evaluate_roc(x, y, q - 1, np.r_[g[:240] - 1, np.full(500, 77)], qc, gc, max_fpr=0.05), 0.01).n_people
        == 61
    ), 'pid 0 in the query is a person'
    g[-100:] = -1
    assert calibrate(evaluate_roc(x, y, q, g, qc, gc, max_fpr=0.05), 0.01).n_people == 460


def test_too_little_to_say():
    roc = evaluate_roc(*people(0), max_fpr=0.05)
    with pytest.raises(UserError, match='impostor pairs to speak of'):
        calibrate(roc, 1e-6)
    with pytest.warns(UserWarning, match='accepted impostor pairs'):
        calibrate(roc, 3e-4)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        calibrate(roc, 0.01)
    with pytest.raises(UserError, match='between 0 and 1'):
        calibrate(roc, 0)
    with pytest.raises(UserError, match='confidence'):
        calibrate(roc, 0.01, 95)
    with pytest.raises(UserError, match='larger max_fpr'):
        calibrate(roc, 0.1)
    x, y, *labels = people(0)
    x[3] = np.nan
    with pytest.raises(UserError, match='first: row 3'):
        evaluate_roc(x, y, *labels)


def test_reliability_judges_on_other_people():
    x, y, *labels = people(7, 200)
    table = reliability(evaluate_roc(x, y, *labels, max_fpr=0.05), (0.001, 0.01), splits=6, seed=3)
    assert (
        len(table) == 12
        and (table == reliability(evaluate_roc(x, y, *labels, max_fpr=1), (0.001, 0.01), splits=6, seed=3)).all().all()
    )
    assert ((table.false_match / table.wanted).between(0.2, 5)).all() and table.false_match.nunique() > 6
    assert (
        table[table.wanted == 0.01].true_match.to_numpy() > table[table.wanted == 0.001].true_match.to_numpy()
    ).all()


@given(seed=seeds, ties=st.booleans(), threshold=st.floats(0, 2), rank=st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_open_set_by_brute_force(seed, ties, threshold, rank):
    distances, (q, g, qc, gc) = draw(seed, ties, junk=True)
    distances, q, qc = np.r_[distances, distances[:1] / 2], np.r_[q, 99], np.r_[qc, 0]
    result = open_set_metrics(distances, q, g, qc, gc)
    alarms, hits = [], []
    for row, pid, camid in zip(distances, q, qc):
        keep = np.flatnonzero((g != -1) & ~((g == pid) & (gc == camid)))
        order = keep[np.argsort(row[keep], kind='stable')]
        if (g[keep] == pid).any():
            first = np.flatnonzero(g[order] == pid)[0]
            hits.append(first < rank and row[order[first]] < threshold)
        else:
            alarms.append(bool((row[keep] < threshold).any()))
    assert result.rates_at(threshold, rank) == (np.mean(alarms), np.mean(hits))
    assert result.rates_at(result.threshold_at(0.3))[0] <= 0.3


def test_without_a_threshold_the_rate_is_the_cmc():
    distances, q, g, qc, gc = FIXTURE
    g = np.where(g == q[0], 77, g)
    result, closed = open_set_metrics(distances, q, g, qc, gc), rank_metrics(distances, q, g, qc, gc)
    assert result.mated.sum() == closed.n_valid and (result.match_rank == closed.first_match).all()
    assert all(np.isclose(result.dir_at(1, k), closed.rank(k)) for k in (1, 5, 10))


def test_cut_lists():
    assert cut_lists([[4, 2, 0], [1, 0, 3]], [[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], 0.3).tolist() == [
        [4, 2, -1],
        [-1, -1, -1],
    ]
