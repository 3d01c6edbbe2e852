"""Readers against file lists that the reference classes parsed (fixtures/datasets.json)."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from folders import touch
from PIL import Image

from synthreid.core import UserError
from synthreid.data.datasets import (
    load_dataset,
    read_cuhk03,
    unpack_cuhk03,
)

FIXTURES = json.loads((Path(__file__).parent / 'fixtures' / 'datasets.json').read_text())


def rows(split, root):
    return sorted(
        [Path(p).relative_to(root).as_posix(), int(pid), int(cam)]
        for p, pid, cam in zip(split.paths, split.pids, split.camids)
    )


def same(split, root, expected, exact=False):
    "The same files and cameras, and the same identities (`exact`), or identities that map one to one."
    ours, theirs = rows(split, root), sorted(expected)
    assert [(p, c) for p, _, c in ours] == [(p, c) for p, _, c in theirs]
    pairs = {(a[1], b[1]) for a, b in zip(ours, theirs)}
    assert len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}), 'identities map one to one'
    if exact:
        assert all(a == b for a, b in pairs)


@pytest.mark.parametrize('name', ['market1501', 'dukemtmcreid', 'gta_synthreid'])
def test_pattern_sets_parse_as_recorded(name, tmp_path):
    f = FIXTURES[name]
    touch(tmp_path, f['files'])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        d = load_dataset(name, tmp_path, junk=False)
    assert any('readme.jpg' in str(w.message) for w in caught) == (name == 'gta_synthreid')
    for split, expected in f['raw'].items():
        if split in ('train', 'query', 'gallery'):
            same(getattr(d, split), tmp_path, expected, exact=True)
    for split in {'train', 'query', 'gallery'} & set(f['relabelled']):
        same(getattr(d, split), tmp_path, f['relabelled'][split])
    assert d.train.n_ids == f['relabelled']['num_train_pids']


def test_market_junk_is_marked_and_500k_joins_the_gallery(tmp_path):
    f = FIXTURES['market1501']
    touch(tmp_path, f['files'])
    d, large = load_dataset('market1501', tmp_path), load_dataset('market1501_500k', tmp_path, junk=False)
    junk = {n for n, flag in f['flags'].items() if flag == 'junk_dropped' and n.startswith('bounding_box_test')}
    assert {n for n, pid, _ in rows(d.gallery, tmp_path) if pid == -1} == junk and junk
    same(large.gallery, tmp_path, f['with_500k']['gallery'], exact=True)


@pytest.mark.parametrize('how, key', [(True, 'combineall_synthreid'), ('query', 'combineall_upstream')])
def test_combineall(how, key, tmp_path):
    for name, sub in (('market1501', ''), ('msmt17_MSMT17_V1', 'MSMT17_V1')):
        f, root = FIXTURES[name], tmp_path / name / sub
        touch(root, f['files']) if 'files' in f else write_msmt17(root, f)
        d = load_dataset(name.split('_')[0], root, combineall=how)
        same(d.train, root, f[key]['train'])
        assert d.train.n_ids == f[key]['num_train_pids']


def write_msmt17(root, f):
    folders = ('train', 'test') if 'V1' in root.name else ('mask_train_v2', 'mask_test_v2')
    for part, lines in f['lists'].items():
        touch(root / folders[part in ('list_query', 'list_gallery')], [line.rsplit(' ', 1)[0] for line in lines])
        (root / f'{part}.txt').write_text('\n'.join(lines) + '\n')


@pytest.mark.parametrize('version', [1, 2])
def test_msmt17(version, tmp_path):
    f, root = FIXTURES[f'msmt17_MSMT17_V{version}'], tmp_path / f'MSMT17_V{version}'
    write_msmt17(root, f)
    d = load_dataset('msmt17', tmp_path)
    for split in ('train', 'query', 'gallery'):
        same(getattr(d, split), root, f['default'][split])
    same(d.query + d.gallery, root, f['default']['query'] + f['default']['gallery'])
    assert not set(d.train.pids) & set(d.gallery.pids) and min(d.train.pids) > 0


@pytest.mark.filterwarnings('ignore:left out 1')
def test_gta_sampling(tmp_path):
    f = FIXTURES['gta_synthreid']
    touch(tmp_path, f['files'])
    d = load_dataset('gta_synthreid', tmp_path, per_id=3)
    assert (len(d.train), len(d.gallery), len(d.query)) == tuple(
        f['n_samples_3'][f'n_{s}'] for s in ('train', 'gallery', 'query')
    )
    d = load_dataset('gta_synthreid', tmp_path, combineall=True)
    assert (len(d.train), d.train.n_ids) == (f['combineall']['n_train'], f['combineall']['num_train_pids'])


def write_cuhk03(root):
    from scipy.io import savemat

    f = FIXTURES['cuhk03']
    for kind, c in f['new_protocol_config'].items():
        touch(root / f'images_{kind}', c['filelist'])
        cell = np.empty((len(c['filelist']), 1), object)
        cell[:, 0] = c['filelist']
        savemat(
            root / f'cuhk03_new_protocol_config_{kind}.mat',
            dict(
                filelist=cell,
                labels=np.array(c['labels'])[:, None],
                camId=np.array(c['camId'])[:, None],
                **{f'{s}_idx': np.array(c[f'{s}_idx_1based'])[:, None] for s in ('train', 'query', 'gallery')},
            ),
        )
    return f


@pytest.mark.parametrize('kind', ['detected', 'labeled'])
def test_cuhk03_new(kind, tmp_path):
    f = write_cuhk03(tmp_path)
    d = load_dataset('cuhk03', tmp_path, images=kind)
    same(d.train, tmp_path, f[f'new_{kind}']['train'])
    for split in ('query', 'gallery'):
        same(getattr(d, split), tmp_path, f[f'new_{kind}'][split], exact=True)
    assert d.rule == 'cuhk03_new'


@pytest.mark.parametrize('kind, split', [('detected', 0), ('labeled', 3)])
@pytest.mark.parametrize('source', ['testsets.json', 'splits_classic'])
def test_cuhk03_old(kind, split, source, tmp_path):
    f = write_cuhk03(tmp_path)
    expected = f[f'classic_{kind}_split{split}']
    if source == 'testsets.json':
        (tmp_path / source).write_text(json.dumps(f['classic_testsets']))
    else:  # as torchreid writes it: absolute paths of another machine
        splits = [{'query': []}] * split + [
            {'query': [['C:\\data\\' + p.replace('/', '\\'), *r] for p, *r in expected['query']]}
        ]
        (tmp_path / f'splits_classic_{kind}.json').write_text(json.dumps(splits))
    d = read_cuhk03(tmp_path, kind, 'old', split)
    for s in ('train', 'query', 'gallery'):
        same(getattr(d, s), tmp_path, expected[s])
    assert d.protocol == f'cuhk03_old, split {split}' and not set(d.train.pids) & set(d.query.pids)


def test_cuhk03_np(tmp_path):
    f = FIXTURES['cuhk03_np_folder']['parsed']
    for sub, names in f.items():
        touch(tmp_path / 'cuhk03-np' / 'detected' / sub, [n for n, *_ in names])
    d = load_dataset('cuhk03', tmp_path)
    for split, sub in (('train', 'bounding_box_train'), ('query', 'query'), ('gallery', 'bounding_box_test')):
        same(getattr(d, split), tmp_path / 'cuhk03-np' / 'detected' / sub, f[sub], exact=True)
    with pytest.raises(UserError, match='holds the new one only'):
        load_dataset('cuhk03', tmp_path, protocol='old')
    with pytest.raises(UserError, match='labeled'):
        load_dataset('cuhk03', tmp_path, images='labeled')


def test_cuhk03_mat(tmp_path):
    h5py = pytest.importorskip('h5py')
    pictures = {(p, k): np.full((6 + p, 3 + k, 3), 10 * p + k, np.uint8) for p in range(2) for k in (0, 1, 5)}
    with h5py.File(tmp_path / 'cuhk-03.mat', 'w') as f:
        n = iter(range(1000))

        def store(array):
            f[key := f'#refs#/{next(n)}'] = array.T
            return f[key].ref

        def cells(items, shape):
            a = np.empty(shape, h5py.ref_dtype)
            a.ravel()[:] = items
            return a

        empty = lambda: store(np.zeros(2, np.uint64))
        for kind in ('detected', 'labeled'):
            people = cells(
                [store(pictures[p, k]) if (p, k) in pictures else empty() for p in range(2) for k in range(10)], (2, 10)
            )
            f.create_dataset(kind, data=cells([store(people)], (1, 1)), dtype=h5py.ref_dtype)
        f.create_dataset(
            'testsets',
            data=cells([store(np.array([[1, 2]], float)), store(np.array([[1, 1]], float))], (1, 2)),
            dtype=h5py.ref_dtype,
        )
    d = read_cuhk03(tmp_path, 'labeled', 'old', split_id=1)
    assert [Path(p).name for p in d.query.paths] == [
        '1_001_1_01.png',
        '1_001_1_02.png',
        '1_001_2_06.png',
    ] and d.query.camids.tolist() == [0, 0, 1]
    first = next((tmp_path / 'images_labeled').iterdir())
    first.unlink()
    (tmp_path / 'testsets.json').unlink()  # as after an interruption
    assert len(read_cuhk03(tmp_path, 'labeled', 'old').train) == 3 and first.exists()
    for (p, k), image in pictures.items():
        assert (
            np.asarray(Image.open(tmp_path / 'images_detected' / f'1_{p + 1:03d}_{1 + k // 5}_{k + 1:02d}.png'))
            == image
        ).all()


def test_cuhk03_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'h5py', None)
    (tmp_path / 'cuhk-03.mat').touch()
    with pytest.raises(UserError, match=r"pip install 'synthreid\[formats\]'"):
        read_cuhk03(tmp_path)
    monkeypatch.undo()
    pytest.importorskip('h5py')
    with pytest.raises(UserError, match='could not unpack'):
        unpack_cuhk03(tmp_path / 'cuhk-03.mat', tmp_path)


@pytest.mark.parametrize('split', [0, 1, 2])
def test_viper(split, tmp_path):
    f = FIXTURES['viper']
    touch(tmp_path / 'VIPeR', f['files'])
    d = load_dataset('viper', tmp_path, split_id=split, split_seed=f['np_random_seed'])
    for s, expected in f['splits'][str(split)].items():
        same(getattr(d, s), tmp_path / 'VIPeR', expected)
    assert d.protocol == f'market1501, split {split}, seed {f["np_random_seed"]}'


def test_prid(tmp_path):
    f = FIXTURES['prid']
    touch(
        tmp_path / 'single_shot',
        [f'cam_a/person_{p:04d}.png' for p in range(1, 386)] + [f'cam_b/person_{p:04d}.png' for p in range(1, 750)],
    )
    d = load_dataset('prid', tmp_path, split_id=4, split_seed=f['random_seed'])
    assert sorted(set(d.train.pids)) == f['split4']['train'] and sorted(set(d.query.pids)) == f['split4']['test']
    assert [len(s) for s in (d.train, d.query, d.gallery)] == f['n']
    base = tmp_path / 'single_shot'
    assert set(map(tuple, f['query_head'])) <= set(map(tuple, rows(d.query, base))) and set(
        map(tuple, f['gallery_tail'])
    ) <= set(map(tuple, rows(d.gallery, base)))


def test_grid(tmp_path):
    from scipy.io import savemat

    f = FIXTURES['grid']
    parts = f['split1']
    kept = {
        p for p, *_ in parts['train'] + parts['query'] + parts['gallery']
    }  # the fixture stores 40 rows of each list
    touch(tmp_path, [*kept, 'gallery/0000_3_00001_30_110_80_200.jpeg'])
    cell = np.empty((1, 10), object)
    for i in range(10):
        cell[0, i] = dict(
            a=np.zeros((1, 1)), b=np.zeros((1, 1)), c=np.array([f['train_idx_split1'] if i == 1 else [1]])
        )
    savemat(tmp_path / 'features_and_partitions.mat', {'trainIdxAll': cell})
    d = load_dataset('grid', tmp_path, split_id=1)
    same(d.train, tmp_path, parts['train'])
    same(d.query, tmp_path, parts['query'], exact=True)
    same(d.gallery, tmp_path, parts['gallery'] + [['gallery/0000_3_00001_30_110_80_200.jpeg', 0, 2]], exact=True)
