"The numbers of torchreid, fast-reid, pytorch-fid and torch-fidelity on stored inputs, and properties on random ones."

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from synthreid.core import UserError
from synthreid.metrics.distances import distance_matrix
from synthreid.metrics.evaluate import extract_features
from synthreid.metrics.features import (
    FeatureExtractor,
    _fid_inception,
    cache_folder,
    feature_statistics,
    folder_features,
    inception_features,
    random_features,
)
from synthreid.metrics.frechet import (
    compare_folders,
    density_coverage,
    frechet_between,
    frechet_distance,
    kernel_distance,
    kernel_distance_subsets,
    precision_recall,
)
from synthreid.metrics.ranking import drop_junk, evaluate_ranking, rank_metrics
from synthreid.metrics.translation import source_retrieval

FIXTURES = Path(__file__).parent / 'fixtures'
ranking = np.load(FIXTURES / 'ranking.npz')
LABELS = ('q_pids', 'g_pids', 'q_camids', 'g_camids')


def case(name):
    return {k.split('/')[1]: ranking[k] for k in ranking.files if k.startswith(name + '/')}


def check(result, want, prefix='', ranks=50):
    assert np.allclose(result.cmc[:ranks], want[prefix + 'cmc'], atol=1e-6, rtol=0)
    assert abs(result.mAP - want[prefix + 'mAP']) < 1e-12
    assert np.allclose(result.ap, want[prefix + 'AP'], atol=1e-12, rtol=0, equal_nan=True)


@pytest.mark.parametrize(
    'name', ['random', 'noise', 'no_valid_match', 'junk_distractor', 'single_positive', 'tiny_gallery']
)
def test_ranking_cases(name):
    c = case(name)
    r = rank_metrics(c['distmat'], *(c[k] for k in LABELS), max_rank=50)
    check(r, c, ranks=int(c.get('max_rank_used', 50)))
    assert len(r.cmc) == 50 and abs(r.mINP - c['fastreid_mINP']) < 1e-12 and abs(r.mAP - c['fastreid_mAP']) < 1e-12
    assert (r.first_match == c['first_match_index']).all() and r.n_valid == c['num_valid']
    assert np.allclose(r.inp, c['INP'], atol=1e-12, rtol=0, equal_nan=True)
    if name == 'tiny_gallery':
        assert (r.cmc[17:] == 1).all()


def test_junk_removed():
    c = case('junk_distractor')
    g, gc, d = drop_junk(c['g_pids'], c['g_camids'], c['distmat'].T)
    r = rank_metrics(d.T, c['q_pids'], g, c['q_camids'], gc)
    check(r, c, 'junk_removed_')
    assert abs(r.mINP - c['junk_removed_fastreid_mINP']) < 1e-12


def test_ties_follow_gallery_order_and_stay_within_the_bounds():
    c = case('ties')
    r = rank_metrics(c['distmat'], *(c[k] for k in LABELS))
    assert (
        abs(r.mAP - c['stable_mAP']) < 1e-12
        and abs(r.mINP - c['stable_mINP']) < 1e-12
        and abs(r.rank(1) - c['stable_cmc1']) < 1e-6
    )
    assert c['tie_worst_mAP'] < r.mAP < c['tie_best_mAP'] and c['tie_worst_mINP'] < r.mINP < c['tie_best_mINP']
    assert (c['tie_worst_cmc'] - 1e-6 <= r.cmc).all() and (r.cmc <= c['tie_best_cmc'] + 1e-6).all()


def test_distances():
    c = case('random')
    assert np.allclose(
        distance_matrix(c['q_feat'], c['g_feat'], 'squared_euclidean'), c['torchreid_euclid_sq'], rtol=1e-5
    )
    assert np.allclose(distance_matrix(c['q_feat'], c['g_feat'], 'cosine'), c['torchreid_cosine'], atol=2e-6)
    for metric in ('euclidean', 'squared_euclidean'):
        check(evaluate_ranking(c['q_feat'], c['g_feat'], *(c[k] for k in LABELS), metric=metric), c)


def test_nobody_to_score():
    c = case('noise')
    with pytest.raises(UserError, match='same numbering'):
        rank_metrics(c['distmat'], c['q_pids'] + 1000, *(c[k] for k in LABELS[1:]))


# ---- distances between sets of images ----
frechet = np.load(FIXTURES / 'frechet.npz')


@pytest.mark.parametrize('name', ['fullrank', 'rankdef'])
def test_frechet_from_features(name):
    x, y = frechet[f'{name}/x'], frechet[f'{name}/y']
    for value in (frechet_distance(*feature_statistics(x), *feature_statistics(y)), frechet_between(x, y)):
        for reference in ('pytorch_fid', 'torch_fidelity_fid', 'exact_psd_eig'):
            assert abs(value / frechet[f'{name}/{reference}'] - 1) < 1e-6
    assert abs(frechet_between(x, x)) < 1e-6


@pytest.mark.parametrize('name', ['full', 'diag', 'identical', 'zero_cov'])
def test_frechet_from_statistics(name):
    value = frechet_distance(*(frechet[f'pair_{name}/{k}'] for k in ('mu1', 'sigma1', 'mu2', 'sigma2')))
    assert np.isclose(value, frechet[f'pair_{name}/exact_psd_eig'], rtol=1e-9, atol=1e-9)
    assert np.isclose(value, frechet[f'pair_{name}/pytorch_fid'], rtol=1e-6, atol=1e-9)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(2, 60),
    m=st.integers(2, 60),
    d=st.integers(1, 40),
    offset=st.sampled_from([0.0, 1000.0]),
    constant=st.booleans(),
)
def test_frechet_of_singular_covariances(seed, n, m, d, offset, constant):
    r = np.random.default_rng(seed)
    x, y = (
        r.standard_normal((n, d)) * np.geomspace(1, 1e-3, d) + offset,
        r.standard_normal((m, d)) @ r.standard_normal((d, d)) + offset,
    )
    if constant:
        x[:, -1] = 7  # a feature that never changes
    (m1, s1), (m2, s2) = feature_statistics(x), feature_statistics(y)
    centred = [
        (a - a.mean(0)) / np.sqrt(len(a) - 1) for a in (x, y)
    ]  # the trace without any covariance: exact for every rank
    exact = (
        np.sum((m1 - m2) ** 2)
        + np.trace(s1)
        + np.trace(s2)
        - 2 * np.linalg.svd(centred[0] @ centred[1].T, compute_uv=False).sum()
    )
    for value in (frechet_distance(m1, s1, m2, s2), frechet_between(x, y), frechet_between(y, x)):
        assert np.isclose(value, exact, rtol=1e-6, atol=1e-9)
    assert abs(frechet_between(x, x)) < 1e-9 * np.trace(s1) + 1e-12


@pytest.mark.parametrize('size', [1e-100, 1e40, 1e100, 1e140])
def test_frechet_keeps_its_unit(size):
    x, y = frechet['fullrank/x'].astype(np.float64), frechet['fullrank/y'].astype(np.float64)
    want = frechet_between(x, y)
    for got in (
        frechet_between(size * x, size * y),
        frechet_distance(*feature_statistics(size * x), *feature_statistics(size * y)),
    ):
        assert np.isclose(got / size / size, want, rtol=1e-6)


@pytest.mark.parametrize('size', [1e-200, 1e200])
@pytest.mark.filterwarnings('ignore:overflow', 'ignore:invalid')
def test_what_float64_cannot_hold_is_refused(size):
    x, y = frechet['fullrank/x'].astype(np.float64), frechet['fullrank/y'].astype(np.float64)
    for distance in (frechet_between, kernel_distance, kernel_distance_subsets, precision_recall, density_coverage):
        with pytest.raises(UserError, match='divide all features by one number'):
            distance(size * x, y if size > 1 else size * y)
    if size > 1:
        with pytest.raises(UserError, match='finite statistics'):
            frechet_distance(*feature_statistics(size * x), *feature_statistics(y))
    with pytest.raises(UserError, match='divide all features by one number'):
        kernel_distance(1e60 * x, 1e60 * y)  # the kernel is a third power of products


@settings(deadline=None, max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(2, 40), d=st.integers(1, 40), offset=st.sampled_from([0, 9.0]))
def test_no_distance_is_negative(seed, n, d, offset):
    x = np.random.default_rng(seed).standard_normal((n, d)) + offset
    assert frechet_between(x, x) >= 0
    assert frechet_distance(*feature_statistics(x), *feature_statistics(x)) >= 0


def test_statistics_need_no_second_copy_of_the_features():
    import tracemalloc

    x = np.random.default_rng(0).standard_normal((100_000, 64), np.float32)
    tracemalloc.start()
    try:
        mu, sigma = feature_statistics(x, block=1000)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < x.nbytes / 4
    assert np.allclose(mu, x.mean(0, dtype=np.float64), atol=1e-12) and np.allclose(
        sigma, np.cov(x.astype(np.float64), rowvar=False), rtol=1e-9, atol=1e-12
    )


def test_kernel_distance():
    x, y = frechet['kid_small/x'], frechet['kid_small/y']
    for chunk in (7, 2048):
        assert abs(kernel_distance(x, y, chunk) / frechet['kid_small/kid_f64'] - 1) < 1e-9
    mean, sd = kernel_distance_subsets(x, y, n_subsets=10, seed=2020)
    assert np.isclose(mean, frechet['kid_small/kid_subsets10_half_seed2020_mean'], rtol=2e-4)
    assert np.isclose(sd, frechet['kid_small/kid_subsets10_half_seed2020_std'], rtol=2e-4)


@pytest.mark.parametrize('k', [3, 5])
def test_precision_recall(k):
    for chunk in (7, 2048):
        p = precision_recall(frechet['prc_small/generated'], frechet['prc_small/real'], k, chunk)
        assert np.allclose(
            (*p, p.f_score), [frechet[f'prc_small/k{k}_{n}'] for n in ('precision', 'recall', 'f_score')], atol=1e-6
        )


def plain_prdc(generated, real, k):
    "Precision, recall, density, coverage as Naeem et al. 2020 write them, on full distance matrices."
    from scipy.spatial.distance import cdist

    radius = lambda a: np.sort(cdist(a, a), 1)[:, k]
    d = cdist(generated, real)
    near = d < radius(real)
    return (
        near.any(1).mean(),
        (d < radius(generated)[:, None]).any(0).mean(),
        near.sum(1).mean() / k,
        near.any(0).mean(),
    )


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(7, 60),
    m=st.integers(7, 60),
    d=st.integers(1, 20),
    k=st.integers(1, 6),
    chunk=st.integers(3, 70),
)
def test_density_and_coverage(seed, n, m, d, k, chunk):
    r = np.random.default_rng(seed)
    x, y = r.standard_normal((n, d)) + 0.3, r.standard_normal((m, d))
    assert np.allclose((*precision_recall(x, y, k, chunk), *density_coverage(x, y, k, chunk)), plain_prdc(x, y, k))


def pictures(folder, seed, strength, n=16, sizes=((64, 32), (40, 60), (350, 310))):
    r = np.random.default_rng(seed)
    folder.mkdir()
    for i in range(n):
        h, w = sizes[i % len(sizes)]
        pixels = r.integers(0, 200, (h // 8 + 1, w // 8 + 1, 3)).repeat(8, 0).repeat(8, 1)[:h, :w] + r.integers(
            0, strength, (h, w, 3)
        )
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / f'{i:03}.{"png" if i % 2 else "jpg"}')
    return folder


def random_inception(path):
    "A weight file of pytorch-fid's shape whose features vary as trained ones do."
    torch.manual_seed(0)
    state = _fid_inception().state_dict()
    for k, v in state.items():
        if k.endswith('conv.weight'):
            v.normal_(0, (2 / v[0].numel()) ** 0.5)
        elif 'running_mean' in k:
            v.normal_(0, 0.1)
        elif 'running_var' in k:
            v.uniform_(0.5, 1.5)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)


@pytest.mark.long
def test_folders_against_the_code_of_pytorch_fid(tmp_path, monkeypatch):
    "From image files to the distance, images of several sizes; pytorch-fid loads the same weights from its own place."
    from pytorch_fid.fid_score import calculate_frechet_distance, get_activations
    from pytorch_fid.inception import InceptionV3

    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    random_inception(tmp_path / 'hub' / 'checkpoints' / 'pt_inception-2015-12-05-6726825d.pth')
    a, b = pictures(tmp_path / 'a', 0, 50), pictures(tmp_path / 'b', 1, 120)
    net = InceptionV3()
    x, y = (get_activations(sorted(f.iterdir()), net, batch_size=1, num_workers=0) for f in (a, b))
    span = np.linalg.qr(np.concatenate([x, y]).T)[
        0
    ]  # turning the space into the span of these images changes no distance, and the 2048-d square root takes a minute
    want = calculate_frechet_distance(*(s for f in (x @ span, y @ span) for s in (f.mean(0), np.cov(f, rowvar=False))))
    extractor = inception_features()
    got = compare_folders(a, b, extractor, cache=tmp_path / 'cache', progress=False)
    assert abs(got['frechet'] / want - 1) < 1e-5 and got['resizer'] == 'bilinear' and got['n_a'] == got['n_b'] == 16
    kept = folder_features(a, extractor, tmp_path / 'cache', progress=False)
    assert kept.cached and np.abs(kept.features - x).max() < 1e-5 * np.abs(x).max()


def test_features_go_to_the_cache_of_the_user(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'home'))
    folder, extractor = (
        pictures(tmp_path / 'a', 0, 50),
        FeatureExtractor(torch.nn.AdaptiveAvgPool2d(2), 'mean colours', size=(32, 32)),
    )
    assert (
        not folder_features(folder, extractor, progress=False).cached
        and folder_features(folder, extractor, progress=False).cached
    )
    assert cache_folder() == tmp_path / 'home' / 'synthreid' / 'features' and len(list(cache_folder().iterdir())) == 1
    paths = sorted(folder.iterdir())
    turned = folder_features(paths[::-1], extractor, progress=False)
    assert not turned.cached and np.array_equal(
        turned.features[::-1], folder_features(folder, extractor, progress=False).features
    )
    assert (
        not folder_features(paths[:5], extractor, cache=None, progress=False).cached
        and len(list(cache_folder().iterdir())) == 2
    )
    (tmp_path / 'file').write_text('in the way')
    with pytest.warns(UserWarning, match='could not be kept'):
        folder_features(folder, extractor, tmp_path / 'file', progress=False)
    with pytest.raises(UserError, match='gone.png'):
        folder_features([*paths, folder / 'gone.png'], extractor, progress=False)


def test_inception_is_the_network_of_pytorch_fid(tmp_path, monkeypatch):
    import pytorch_fid.inception as pf

    torch.manual_seed(0)
    state = {
        k: v if not v.is_floating_point() or 'running_var' in k else torch.randn_like(v) * 0.05
        for k, v in _fid_inception().state_dict().items()
    }
    torch.save(state, tmp_path / 'random.pth')
    monkeypatch.setattr(pf, 'load_state_dict_from_url', lambda *a, **k: state)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 32, 3), np.uint8)
    with torch.no_grad():
        want = pf.InceptionV3().eval()(torch.from_numpy(images).movedim(-1, 1).float() / 255)[0].flatten(1).numpy()
    got = inception_features(tmp_path / 'random.pth')
    assert np.abs(want).max() > 1e-3 and np.allclose(got(images), want, rtol=1e-3, atol=1e-5 * np.abs(want).max())
    assert got.distance_name != 'FID'


def test_only_the_original_weights_are_called_fid(tmp_path, monkeypatch):
    import synthreid.metrics.features as module

    torch.save(_fid_inception().state_dict(), tmp_path / 'w.pth')
    digest = hashlib.sha256((tmp_path / 'w.pth').read_bytes()).hexdigest()
    monkeypatch.setattr(module, 'FID_WEIGHTS', f'pt_inception-2015-12-05-{digest[:8]}.pth')
    assert inception_features(tmp_path / 'w.pth').distance_name == 'FID'
    assert (
        inception_features(tmp_path / 'w.pth', resize='antialiased bicubic').distance_name == 'FID, antialiased bicubic'
    )
    monkeypatch.setattr(torch.hub, 'get_dir', lambda: str(tmp_path))
    assert module.find_fid_weights() is None
    with pytest.raises(UserError, match='random_features'):
        inception_features()


# ---- what the notebooks do not show ----
def test_read_only_memory_maps(tmp_path):
    r = np.random.default_rng(0)
    images = r.integers(0, 256, (40, 16, 8, 3), np.uint8)
    features = r.standard_normal((40, 5)).astype(np.float32)
    np.save(tmp_path / 'i.npy', images)
    np.save(tmp_path / 'f.npy', features)
    mapped = np.load(tmp_path / 'i.npy', mmap_mode='r')
    embed = lambda x: x.mean((2, 3))
    assert torch.equal(extract_features(embed, mapped, batch_size=7), extract_features(embed, images))
    assert np.array_equal(
        distance_matrix(features, np.load(tmp_path / 'f.npy', mmap_mode='r')), distance_matrix(features, features)
    )
    assert np.array_equal(
        codes := random_features(mapped)(mapped), random_features(images)(images)
    ) and codes.shape == (40, 128)


def test_random_features_depend_on_their_seed_and_leave_the_global_one_alone():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 8, 3), np.uint8)
    torch.manual_seed(3)
    want = torch.rand(2)
    torch.manual_seed(3)
    a, b, c = (random_features(images, seed)(images) for seed in (0, 0, 1))
    assert torch.equal(torch.rand(2), want) and np.array_equal(a, b) and not np.allclose(a, c)
    assert 'FID' not in random_features(images).distance_name


def test_the_mask_alone_does_not_give_the_source_away():
    r = np.random.default_rng(0)
    source = r.integers(0, 256, (60, 64, 32, 3), np.uint8)
    masks = r.random((60, 64, 32)) < 0.5
    assert source_retrieval(source, source, masks).all()
    assert source_retrieval(source, r.integers(0, 256, source.shape, np.uint8), masks).mean() < 0.15
    assert source_retrieval(source, np.full_like(source, 90), masks).mean() < 0.15


def test_umap_is_not_imported_before_it_is_wanted():
    import subprocess
    import sys

    code = (
        'import sys, synthreid.visual.plots, synthreid.metrics.evaluate; sys.exit("umap" in sys.modules or "numba" in'
        ' sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=Path(__file__).parents[1]).returncode == 0
