"Search: exact in chunks, the index file against damage, and life without faiss."

import json
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from synthreid.core import UserError
from synthreid.metrics.distances import METRICS, top_k
from synthreid.metrics.ranking import evaluate_ranking
from synthreid.metrics.reranking import expand_queries, k_reciprocal_distance
from synthreid.metrics.search import SearchIndex, index_parameters, recall_at_k, search_exact


@given(
    seed=st.integers(0, 2**32 - 1),
    q=st.integers(1, 20),
    g=st.integers(1, 300),
    k=st.integers(1, 30),
    chunk=st.integers(1, 400),
    ties=st.booleans(),
    metric=st.sampled_from(METRICS),
)
@settings(max_examples=60, deadline=None)
def test_chunks_change_nothing(seed, q, g, k, chunk, ties, metric):
    r = np.random.default_rng(seed)
    x, y = r.standard_normal((q, 7)).astype(np.float32), r.standard_normal((g, 7)).astype(np.float32)
    if ties:
        x, y = x.round(), y.round()
    for a, b in zip(search_exact(x, y, k, metric, chunk), top_k(x, y, k, metric)):
        assert a.shape == b.shape == (q, min(k, g)) and (a == b).all()


@given(n=st.integers(1, 10**8), dim=st.integers(1, 4096))
def test_sizes_are_possible(n, dim):
    sizes = index_parameters(n, dim)
    assert dim % sizes['m'] == 0 and 1 <= sizes['nprobe'] <= sizes['nlist'] and sizes['nlist'] * 39 <= max(n, 39)


def test_without_faiss():
    code = '''
import sys; sys.modules['faiss'] = None
import numpy as np
from synthreid.core import UserError
from synthreid.metrics.ranking import evaluate_ranking
from synthreid.metrics.reranking import expand_queries, k_reciprocal_distance
from synthreid.metrics.search import SearchIndex, search_exact
print(search_exact(np.eye(3), np.eye(3), 1)[0].ravel().tolist())
for act in (lambda: SearchIndex.build(np.eye(3)), lambda: SearchIndex.load('x')):
    try: act()
    except UserError as e: print(e)
'''
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert (
        out[0] == '[0, 1, 2]' and len(out) == 3 and all("pip install 'synthreid[search]'" in line for line in out[1:])
    )


# ---- the rest needs faiss


@pytest.fixture(scope='module')
def gallery():
    pytest.importorskip('faiss')
    r = np.random.default_rng(0)
    return (r.standard_normal((500, 32))[r.integers(0, 500, 12_000)] + 0.5 * r.standard_normal((12_000, 32))).astype(
        np.float32
    )


@pytest.fixture(scope='module')
def index(gallery):
    return SearchIndex.build(gallery, 'ivfpq', ids=np.array([f'image {i}' for i in range(len(gallery))]))


@pytest.mark.parametrize('metric', METRICS)
@pytest.mark.parametrize('kind', ['array', 'half tensor', 'memory map'])
def test_flat_is_exact(gallery, metric, kind, tmp_path):
    g = gallery[:700]
    if kind == 'half tensor':
        g = torch.from_numpy(g).half()
    if kind == 'memory map':
        np.save(tmp_path / 'g.npy', g)
        g = np.load(tmp_path / 'g.npy', mmap_mode='r')
    flat = SearchIndex.build(g, 'flat', metric)
    (order, near), (want, distances) = flat.search(g[:50] * 2, 5), search_exact(g[:50] * 2, g, 5, metric)
    assert recall_at_k(order, want) > 0.99 and np.allclose(
        near, distances, atol=1e-3 if metric != 'cosine' else 1e-5, rtol=1e-4
    )
    order, near = flat.search(g[:50] * 2, 5, features=g)
    assert recall_at_k(order, want) > 0.99 and np.allclose(
        near, distances, atol=1e-3 if metric != 'cosine' else 1e-5, rtol=1e-4
    )


def test_approximate(gallery, index):
    r = np.random.default_rng(1)
    queries = gallery[:100] + 0.05 * r.standard_normal((100, 32)).astype(np.float32)
    exact, distances = search_exact(queries, gallery)
    codes, refined = index.search(queries), index.search(queries, features=gallery)
    everywhere = index.search(queries, nprobe=10**6, features=gallery)
    assert (
        0.2 < recall_at_k(codes[0], exact) < recall_at_k(refined[0], exact) <= recall_at_k(everywhere[0], exact) > 0.9
    )
    same = everywhere[0] == exact
    assert np.allclose(everywhere[1][same], distances[same], atol=1e-5) and (np.diff(everywhere[1]) >= 0).all()
    assert (index.search(queries, nprobe=1, k=1000)[0] == -1).any() and np.isinf(
        index.search(queries, nprobe=1, k=1000)[1]
    ).any(), 'one cell is too small for a long list'
    assert index.search(queries[:1], k=10**6)[0].shape == (1, 12_000)


def test_the_seed_decides(gallery, index):
    again, other = SearchIndex.build(gallery, 'ivfpq'), SearchIndex.build(gallery, 'ivfpq', seed=1)
    found = [i.search(gallery[:50])[1] for i in (index, again, other)]
    assert (found[0] == found[1]).all() and (found[0] != found[2]).any()


def test_save_and_load(gallery, index, tmp_path):
    path = tmp_path / 'new' / 'gallery.index'
    index.save(path)
    again = SearchIndex.load(path)
    assert all((a == b).all() for a, b in zip(index.search(gallery[:20]), again.search(gallery[:20])))
    assert (
        (again.ids == index.ids).all()
        and repr(again) == repr(index)
        and [p.name for p in path.parent.iterdir()] == ['gallery.index']
    )
    plain = SearchIndex.build(gallery[:50], metric='euclidean')
    plain.save(path)
    again = SearchIndex.load(path)
    assert again.ids is None and again.metric == 'euclidean' and again.kind == 'flat' and len(again) == 50


def test_a_failed_save_keeps_the_old_file(gallery, tmp_path):
    path = tmp_path / 'gallery.index'
    SearchIndex.build(gallery[:50]).save(path)
    before = path.read_bytes()
    broken = SearchIndex.build(gallery[:60])
    broken.ids = np.array([object()])
    with pytest.raises(ValueError):
        broken.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_damage_is_refused(gallery, tmp_path):
    path = tmp_path / 'gallery.index'
    SearchIndex.build(gallery[:300], ids=np.arange(300)).save(path)
    whole, r = path.read_bytes(), np.random.default_rng(0)
    for cut in r.integers(0, len(whole) - 1, 20):
        path.write_bytes(whole[:cut])
        with pytest.raises(UserError, match='damaged or foreign'):
            SearchIndex.load(path)
    refused = 0
    for at in r.integers(0, len(whole), 60):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])
        try:
            SearchIndex.load(path)
        except UserError:
            refused += 1
    assert refused >= 58, 'only a byte of the zip directory that nobody reads (a date) may change unseen'
    path.write_text('something else')
    with pytest.raises(UserError, match='damaged or foreign'):
        SearchIndex.load(path)
    with pytest.raises(UserError, match='damaged or foreign'):
        SearchIndex.load(tmp_path)


@pytest.mark.parametrize(
    'change', [dict(dim=31), dict(count=299), dict(metric='manhattan'), dict(kind='ivfpq'), dict(format='another')]
)
def test_contradictions_are_refused(gallery, tmp_path, change):
    path, other = tmp_path / 'gallery.index', tmp_path / 'other.index'
    SearchIndex.build(gallery[:300]).save(path)
    with zipfile.ZipFile(path) as a, zipfile.ZipFile(other, 'w') as b:
        for name in a.namelist():
            data = a.read(name)
            b.writestr(name, json.dumps({**json.loads(data), **change}) if name == 'about.json' else data)
    with pytest.raises(UserError, match=str(list(change.values())[0])):
        SearchIndex.load(other)


def test_wrong_use(gallery, index):
    with pytest.raises(UserError, match='same network'):
        index.search(gallery[:3, :16])
    with pytest.raises(UserError, match='gallery features of the index'):
        index.search(gallery[:3], features=gallery[:9])
    with pytest.raises(UserError, match='k of at least 1'):
        index.search(gallery[:3], k=0)
    with pytest.raises(UserError, match='to divide'):
        SearchIndex.build(gallery, 'ivfpq', m=5)
    with pytest.raises(UserError, match='at most 32'):
        SearchIndex.build(np.zeros((10_000, 37), np.float32), 'ivfpq')
    with pytest.raises(UserError, match='NaN'):
        SearchIndex.build(np.full((5, 3), np.nan))
    with pytest.raises(UserError, match='ids of shape'):
        SearchIndex.build(gallery[:5], ids=[1, 2])
    with pytest.raises(UserError, match='expected kind'):
        SearchIndex.build(gallery, 'hnsw')
    with pytest.raises(UserError, match="metric of 'cosine'"):
        SearchIndex.build(gallery, metric='manhattan')


@pytest.mark.parametrize('nlist', [0, -1, 2.5, 20_000, 400])
def test_cells_that_cannot_be_learnt(gallery, nlist):
    with pytest.raises(UserError, match='nlist'):
        SearchIndex.build(gallery, 'ivfpq', nlist=nlist)


@pytest.mark.parametrize('m', [0, -4, 1.5])
def test_codes_that_cannot_be_made(gallery, m):
    with pytest.raises(UserError, match='m of at least 1'):
        SearchIndex.build(gallery, 'ivfpq', m=m)


@pytest.mark.parametrize('nprobe', [0, -1, 2.5])
def test_cells_that_cannot_be_looked_into(gallery, index, nprobe):
    with pytest.raises(UserError, match='nprobe of at least 1'):
        index.search(gallery[:3], nprobe=nprobe)


def by_hand(queries, features, metric):
    "Distances in float64; the cosine distance of zeros to everything is 1."
    q, g = (np.asarray(v, np.float64) for v in (queries, features))
    if metric == 'cosine':
        length = [np.linalg.norm(v, axis=1, keepdims=True) for v in (q, g)]
        q, g = (v / np.where(n > 0, n, 1) for v, n in zip((q, g), length))
        return 1 - q @ g.T
    squared = np.square(q[:, None] - g[None]).sum(2)
    return np.sqrt(squared) if metric == 'euclidean' else squared


@pytest.mark.parametrize('metric', METRICS)
def test_zeros_have_their_distance_on_every_path(gallery, metric):
    "Pictures without a direction: neither first nor last, but where their distance puts them."
    features, queries = gallery.copy(), np.concatenate([-gallery[:4], gallery[4:8], np.zeros((1, 32), np.float32)])
    features[[5, 700, 9_000]] = 0
    small, n = features[:900], len(features)
    want, all_of_it = by_hand(queries, small, metric), dict(k=900)
    near = [search_exact(queries, small, **all_of_it, metric=metric, chunk=256)]
    near += [top_k(queries, small, **all_of_it, metric=metric)]
    near += [SearchIndex.build(small, 'flat', metric).search(queries, **all_of_it, features=f) for f in (None, small)]
    for order, distance in near:
        assert (np.sort(order, 1) == np.arange(900)).all() and (np.diff(distance) >= -1e-5).all()
        # faiss takes the difference of squared norms: that costs Euclidean distances near 0 half their digits
        assert np.allclose(distance, np.take_along_axis(want, order, 1), atol=1e-5 if metric == 'cosine' else 5e-3)
    codes = SearchIndex.build(features, 'ivfpq', metric)
    order, distance = codes.search(queries, k=n // 10, nprobe=10**6, features=features)
    assert np.allclose(distance, np.take_along_axis(by_hand(queries, features, metric), order, 1), atol=1e-4)
    if metric == 'cosine':
        order, distance = codes.search(queries, k=n, nprobe=10**6)
        assert np.allclose(distance[np.isin(order, [5, 700, 9_000])], 1, atol=0.2)  # by codes, hence about
        assert (distance[-1] == 1).all()


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e30, 1e-25])
def test_rows_that_have_no_distance_are_refused_everywhere(gallery, index, value):
    spoilt = gallery[:300].copy()
    spoilt[7] = value
    flat = SearchIndex.build(gallery[:300])
    for act in (
        lambda: SearchIndex.build(spoilt),
        lambda: flat.search(spoilt[:9]),
        lambda: flat.search(gallery[:9], k=300, features=spoilt),
        lambda: index.search(spoilt[:9]),
        lambda: search_exact(gallery[:9], spoilt),
        lambda: search_exact(spoilt[:9], gallery),
        lambda: top_k(gallery[:9], spoilt),
        lambda: k_reciprocal_distance(gallery[:9], spoilt),
        lambda: expand_queries(gallery[:9], spoilt),
        lambda: evaluate_ranking(gallery[:300], spoilt, np.arange(300), np.arange(300), protocol='no_cameras'),
    ):
        with pytest.raises(UserError, match='expected finite .* rows'):
            act()


def test_an_index_of_before_is_read(gallery, tmp_path):
    "Cosine by squared distances of unit vectors, as files had it."
    import faiss

    unit = gallery[:300] / np.linalg.norm(gallery[:300], axis=1, keepdims=True)
    old = faiss.IndexFlatL2(32)
    old.add(unit)
    SearchIndex(old, 'cosine', 'flat').save(tmp_path / 'old.index')
    order, distance = SearchIndex.load(tmp_path / 'old.index').search(gallery[:20])
    want = search_exact(gallery[:20], gallery[:300])
    assert (order == want[0]).all() and np.allclose(distance, want[1], atol=1e-5)
