"""Metrics take features that live on a device, give the numbers of the CPU, and copy no more than they must.

The device is the pretended one of `test_waits`: its tensors refuse `.numpy()` and mixing with the CPU's.
"""

import numpy as np
import pytest
import test_waits
import torch
from test_waits import FAR, Elsewhere, aten, watched
from torch.utils import _pytree as pytree

from synthreid.metrics.correspondence import compact, contrast_place, mean_contrast
from synthreid.metrics.distances import METRICS, distance_matrix, top_k
from synthreid.metrics.evaluate import evaluate_reid, extract_features
from synthreid.metrics.frechet import (
    density_coverage,
    frechet_between,
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from synthreid.metrics.lists import places_in, rank_lists
from synthreid.metrics.openset import evaluate_open_set, evaluate_roc, fastreid_tpr, open_set_metrics, roc_metrics
from synthreid.metrics.projection import fit_square, principal_plane
from synthreid.metrics.ranking import PROTOCOLS, draw_single_shot, drop_junk, evaluate_ranking, rank_metrics
from synthreid.metrics.reranking import evaluate_reranked, expand_queries, jaccard_distance, k_reciprocal_distance
from synthreid.metrics.search import SearchIndex, search_exact
from synthreid.metrics.swaps import swap_diversity, swap_identity
from synthreid.metrics.translation import target_distance

r = np.random.default_rng(0)
CENTRES = r.standard_normal((12, 8))
P, C = np.arange(60) % 12, np.arange(60) % 5
X = torch.tensor(CENTRES[P] + 0.8 * r.standard_normal((60, 8)), dtype=torch.float32)
Q, G, LABELS = X[:20], X[20:], (P[:20], P[20:], C[:20], C[20:])
OPEN = (np.where(P[:20] > 8, P[:20] + 50, P[:20]), *LABELS[1:])
D = torch.tensor(distance_matrix(Q, G))
LENT, WORN = np.arange(10), np.arange(10) + 1
CLOUD = np.arange(60, dtype=np.float64).reshape(30, 2) % 7


class Split:
    "Labels of pictures, and pictures."

    def __init__(self, rows):
        self.pids, self.camids = P[rows], C[rows]
        self.images = (40 * CENTRES[self.pids][:, None, None, :3] + 128).clip(0, 255).repeat(8, 1).repeat(4, 2)
        self.images = self.images.astype(np.uint8)

    def __len__(self):
        return len(self.pids)

    def __getitem__(self, rows):
        return Split(np.arange(60)[: len(P)][rows])


def facts(result) -> list:
    return [result.cmc, result.mAP, result.mINP, result.ap]


ASKED = {
    **{f'distance_matrix, {m}': lambda q, g, d, m=m: distance_matrix(q, g, m) for m in METRICS},
    **{f'top_k, {m}': lambda q, g, d, m=m: top_k(q, g, 7, m, block=16) for m in METRICS},
    'evaluate_ranking': lambda q, g, d: facts(evaluate_ranking(q, g, *LABELS, block=64)),
    'evaluate_ranking, multi-query': lambda q, g, d: facts(evaluate_ranking(q, g, *LABELS, multi_query=True)),
    **{
        f'rank_metrics, {p}': lambda q, g, d, p=p: facts(rank_metrics(d, *LABELS, protocol=p))
        for p in PROTOCOLS
        if p != 'leave_one_out'
    },
    'draw_single_shot': lambda q, g, d: draw_single_shot(d, *LABELS, 5),
    'drop_junk': lambda q, g, d: len(drop_junk(LABELS[1], g)[1]),
    'k_reciprocal_distance': lambda q, g, d: k_reciprocal_distance(q, g, 6, 3),
    'evaluate_reranked': lambda q, g, d: facts(evaluate_reranked(q, g, *LABELS, 6, 3)),
    'jaccard_distance': lambda q, g, d: jaccard_distance(g, 6, 3).toarray(),
    'expand_queries': lambda q, g, d: expand_queries(q, g),
    'search_exact': lambda q, g, d: search_exact(q, g, 7, chunk=16),
    'evaluate_roc': lambda q, g, d: evaluate_roc(q, g, *LABELS, max_fpr=1).genuine,
    "evaluate_open_set": lambda q, g, d: evaluate_open_set(q, g, *OPEN).nearest,
    "open_set_metrics": lambda q, g, d: open_set_metrics(d, *OPEN).nearest,
    'SearchIndex': lambda q, g, d: SearchIndex.build(g).search(q, 5, features=g),
    'roc_metrics': lambda q, g, d: roc_metrics(d, *LABELS, max_fpr=1).impostor,
    'fastreid_tpr': lambda q, g, d: fastreid_tpr(d, *LABELS),
    'frechet_between': lambda q, g, d: frechet_between(q, g),
    'frechet_distance': lambda q, g, d: frechet_distance(q[0], q.T @ q, g[0], g.T @ g),
    'kernel_distance': lambda q, g, d: kernel_distance(q, g),
    'kernel_distance_subsets': lambda q, g, d: kernel_distance_subsets(q, g),
    'precision_recall': lambda q, g, d: precision_recall(q, g),
    'density_coverage': lambda q, g, d: density_coverage(q, g),
    'swap_identity': lambda q, g, d: list(swap_identity(q[:10], g, LABELS[1], LENT, WORN).values()),
    'swap_diversity': lambda q, g, d: swap_diversity(q, g[:20], LENT, WORN),
    'principal_plane': lambda q, g, d: principal_plane(g)[0],
    'fit_square': lambda q, g, d: fit_square(q[:, :2], like=g[:20, :2]),
    'target_distance': lambda q, g, d: target_distance(q, g),
    'contrast_place': lambda q, g, d: contrast_place(q, g[:20], 3, np.array([1, 2, 7]))['probability'],
    'mean_contrast': lambda q, g, d: mean_contrast(q, g[:20]),
    'compact': lambda q, g, d: np.abs(compact(q, g[:20]).astype(np.float32)),
    'rank_lists': lambda q, g, d: rank_lists(q, g, Split(slice(20)), Split(slice(20, 60)), 5).distance,
    'places_in': lambda q, g, d: places_in(
        q, g, Split(slice(20)), Split(slice(20, 60)), np.arange(100).reshape(20, 5) % 40
    ),
}


def values(found) -> list:
    found = found if isinstance(found, (list, tuple)) else [found]
    return [np.asarray(x.here if isinstance(x, Elsewhere) else x, np.float64) for x in found]


COPIES = (aten._to_copy, aten.copy_)
INDEXED = (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_)  # indices may lie on the host


def is_far(x) -> bool:
    return isinstance(x, Elsewhere)


@pytest.fixture
def fetched(monkeypatch):
    "Inside, far tensors may not meet those of the host; gives the sizes of what was copied to the host."
    sizes = []

    def note(func, args, kwargs, far, to):
        packet = func.overloadpacket
        used = (args[0], *args[2:]) if packet in INDEXED else (args, kwargs)
        tensors = [x for x in pytree.tree_leaves(used) if isinstance(x, torch.Tensor) and x.ndim]
        if packet not in COPIES:
            assert len({is_far(x) for x in tensors}) < 2, f'{func} mixes devices in {test_waits.line()}'
        if packet is aten._to_copy and far and not to or packet is aten.copy_ and is_far(args[1]) > is_far(args[0]):
            sizes.append(args[packet is aten.copy_].numel())

    monkeypatch.setattr(test_waits, 'note', note)
    with watched(monkeypatch):
        yield sizes


def far(x):
    return Elsewhere(x.clone())


@pytest.mark.parametrize('name', ASKED)
def test_features_of_a_device_give_the_same_numbers(request, name):
    want = values(ASKED[name](Q, G, D))
    request.getfixturevalue('fetched')
    got = values(ASKED[name](far(Q), far(G), far(D)))
    for a, b in zip(got, want, strict=True):
        assert a.shape == b.shape and np.allclose(a, b, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize('act', [lambda x: x.numpy(), np.asarray, lambda x: x @ torch.ones(8, 1)])
def test_the_pretended_device_is_strict(fetched, act):
    with pytest.raises((TypeError, RuntimeError, AssertionError)):
        act(far(X))


def test_lists_are_fetched_once(fetched):
    for block in (8, 16, 4096):
        fetched.clear()
        top_k(far(Q), far(G), 7, block=block)
        assert sorted(n for n in fetched if n > 1) == [140, 140], 'the order and the distances'


def test_ties_of_a_device_keep_the_order_of_the_gallery(fetched):
    twice = torch.cat([G, G, G[:5]])
    for block in (8, 40, 4096):
        there, here = (top_k(*pair, 30, block=block) for pair in ((far(Q), far(twice)), (Q, twice)))
        assert (there[0] == here[0]).all() and (there[1] == here[1]).all()


@pytest.mark.parametrize('rerank', [False, True])
def test_codes_stay_on_the_device_that_ranks_them(fetched, rerank):
    weights = torch.tensor(r.standard_normal((3, 16)), dtype=torch.float32).to(FAR)
    embed = lambda x: x.mean((2, 3)) @ weights
    query, gallery = Split(slice(20)), Split(slice(20, 60))
    fetched.clear()
    there = evaluate_reid(embed, query, gallery, rerank=rerank, protocol='all_images', device=FAR)
    allowed = 20 * 40 if rerank else 40 * 10  # re-ranked distances; otherwise places of the right matches
    assert max(fetched, default=0) <= allowed and 20 * 16 not in fetched and 40 * 16 not in fetched
    assert extract_features(embed, query.images, device=FAR).device.type == 'cpu'
    weights = weights.here
    here = evaluate_reid(lambda x: x.mean((2, 3)) @ weights, query, gallery, rerank=rerank, protocol='all_images')
    assert there.mAP == here.mAP and (there.cmc == here.cmc).all()
