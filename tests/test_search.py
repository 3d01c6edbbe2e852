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
