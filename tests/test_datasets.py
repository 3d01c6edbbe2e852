"""Readers against file lists that the reference classes parsed (fixtures/datasets.json), and against folders as users have them."""

import json
import os
import random
import shutil
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from synthreid.core import UserError
from synthreid.data.datasets import (
    LAYOUTS,
    READERS,
    Concern,
    ReidSplit,
    build_dataset,
    compile_pattern,
    detect_layout,
    hold_out,
    list_images,
    load_dataset,
    merge_sources,
    read_cuhk03,
    read_manifest,
    read_pattern,
    take_subset,
    unpack_cuhk03,
    write_manifest,
)
from synthreid.render.layouts import LAYOUT_NAMES, make_layout

FIXTURES = json.loads((Path(__file__).parent / 'fixtures' / 'datasets.json').read_text())


def touch(root, names):
    for n in names:
        (root / n).parent.mkdir(parents=True, exist_ok=True)
        (root / n).touch()


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


# ---- the reference's lists


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


# ---- layouts without a recorded list


@pytest.mark.parametrize('name', LAYOUT_NAMES)
def test_every_layout_is_read_as_written(name, tmp_path):
    options = {'pattern': dict(pattern='{split}/{pid}-cam{cam}-{*}.png'), 'syri': {}}
    written, d = (
        make_layout(name, tmp_path, ids=8),
        load_dataset(name if name in options else 'auto', tmp_path, **options.get(name, {})),
    )
    person = {str(tmp_path / p): (person, cam) for p, _, person, cam in written}
    for split in ('train', 'query', 'gallery'):
        s = getattr(d, split)
        known = [i for i, p in enumerate(s.paths) if p in person]
        expected = {str(tmp_path / p) for p, sp, *_ in written if sp == split and 'msmt17' not in name}
        assert expected <= set(s.paths), 'nothing is lost'
        people = {(int(s.pids[i]), person[s.paths[i]][0]) for i in known if s.pids[i] > 0}
        assert len(people) == len({a for a, _ in people}) == len({b for _, b in people})
    if name != 'folders':
        cams = {
            (int(c), person[p][1])
            for s in (d.train, d.query, d.gallery)
            for p, c in zip(s.paths, s.camids)
            if p in person
        }
        assert len({a for a, _ in cams}) == len(cams) or name == 'cuhk02'  # cuhk02 counts cameras by pair


def test_parts_that_count_together(tmp_path):
    touch(
        tmp_path,
        [f'unreal_v{x}.{y}/images/7_c00{d}_{f}.jpg' for x in (1, 2) for y in (1, 3) for d in (1, 2) for f in range(2)],
    )
    d = load_dataset('unrealperson', tmp_path)
    assert (
        d.train.n_ids == 2 and len(np.unique(d.train.camids)) == 4 and d.protocol == 'train only' and len(d.query) == 0
    )


def test_personx_one_folder_per_background(tmp_path):
    for b in '456':
        touch(
            tmp_path / b,
            ['bounding_box_train/0003_c2s1_1.jpg', 'query/0001_c1s1_1.jpg', 'bounding_box_test/0001_c2s1_1.jpg'],
        )
    d = load_dataset('auto', tmp_path)
    assert detect_layout(tmp_path) == 'personx' and len(d.train) == 3 and d.train.n_ids == 1


def test_several_datasets_side_by_side_are_never_one(tmp_path):
    for name in ('market1501', 'dukemtmcreid', 'gta_synthreid'):
        make_layout(name, tmp_path / name)
    with pytest.raises(UserError, match=r'got [23] \('):
        load_dataset('auto', tmp_path)
    make_layout('folders', tmp_path / 'plain')
    assert detect_layout(tmp_path / 'plain') == 'folders', 'what lies beside it does not matter'


def test_withdrawn_sets_are_read_but_not_offered(tmp_path):
    with pytest.raises(UserError) as e:
        load_dataset('nothing', tmp_path)
    assert 'duke' not in str(e.value) and 'msmt17' in str(e.value)
    assert 'withdrawn' in LAYOUTS['dukemtmcreid'].note and 'dukemtmcreid' in READERS


# ---- generic


def test_templates():
    m = compile_pattern('{split}/{pid}/cam{cam}_{*}').search('/test/Ann Lee/cam2_x_1.PNG')
    assert (m['split'], m['pid'], m['cam']) == ('test', 'Ann Lee', '2')
    assert compile_pattern('{pid}_c{cam}_{*}.jpg').search('/a/0001_c2_7.jpg.tmp') is None
    assert compile_pattern(r'(?P<pid1>\d+)-(?P<pid2>\d+)').search('/3-4.png')['pid2'] == '4'
    for bad in ('(?P<pid>', '{person}', r'(?P<x>\d)'):
        with pytest.raises(UserError):
            compile_pattern(bad)


def test_unicode_spaces_and_broken_encodings(tmp_path):
    strange = os.fsdecode(b'caf\xe9 \xff')
    touch(tmp_path, ['Zoë Ü/1.jpg', '李 四/2.PNG', f'{strange}/3.jpeg'])
    d = load_dataset('folders', tmp_path)
    assert len(d.train) == 3 and d.train.n_ids == 3
    again = read_manifest(write_manifest(d, tmp_path / 'm.csv'))
    assert set(again.train.paths) == set(d.train.paths)
    touch(tmp_path, [f'{strange}.jpg'])
    with pytest.raises(UserError) as e:
        load_dataset('folders', tmp_path)
    str(e.value).encode()  # can be printed


def test_symlink_loops_hidden_files_and_duplicates(tmp_path):
    touch(tmp_path / 'a', ['1.jpg', '.2.jpg', 'Thumbs.db', '._1.jpg', '__MACOSX/3.jpg', 'b.jpg/4.jpg'])
    (tmp_path / 'a' / 'loop').symlink_to(tmp_path / 'a', target_is_directory=True)
    (tmp_path / 'a' / 'self').symlink_to(tmp_path / 'a' / 'self')
    (tmp_path / 'a' / 'self.jpg').symlink_to(tmp_path / 'a' / 'self.jpg')
    assert [p.relative_to(tmp_path).as_posix() for p in list_images(tmp_path)] == [
        'a/1.jpg',
        'a/b.jpg/4.jpg',
        'a/self.jpg',
    ]


def test_unreadable_folder_is_named(tmp_path, monkeypatch):
    touch(tmp_path, ['a/1.jpg', 'secret/2.jpg'])
    real = os.scandir

    def scandir(p):
        if 'secret' in str(p):
            raise PermissionError(13, 'Permission denied')
        return real(p)

    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(UserError, match='secret.*Permission denied.*change its permissions'):
        list_images(tmp_path)


def test_listing_touches_no_file(tmp_path, monkeypatch):
    touch(tmp_path / 'many', [f'{i}.jpg' for i in range(2000)])
    calls, real = [], os.stat
    monkeypatch.setattr(os, 'stat', lambda *a, **k: calls.append(a) or real(*a, **k))
    assert len(list_images(tmp_path / 'many')) == 2000
    assert len(calls) < 20


# ---- manifests, subsets, sources


@pytest.mark.parametrize(
    'content, problem',
    [
        ('path,camid\na.jpg,1\n', 'add pid'),
        ('path,pid\na.jpg,\n', 'row 2 has none'),
        ('path,pid,split\na.jpg,1,val\n', "got 'val'"),
        ('path,pid\n', 'the header only'),
        ('path,pid,camid,split,protocol', 'the header only'),
        ('path,path,pid\na.jpg,a.jpg,1\n', "'path' 2 times"),
        ('path,pid,protocol\na.jpg,1,x\na.jpg,1,y\n', 'one protocol'),
        ('path,pid\na.jpg,x\na.jpg,0\n', 'give this person a name'),
        ('path,pid\n\0,1\n', 'found nothing'),
        ('path,pid\n"a.jpg,1\n', 'row 2 has 1'),
        ('', 'got nothing'),
        ('path,pid\na,b.jpg,1\n', 'row 2 has 3'),
        ('path;pid\na.jpg;1\n', 'got path;pid'),
        ('path,pid\nmissing.jpg,1\n', 'found nothing'),
        ('path,pid,camid\na.jpg,1,-2\n', 'got camera -2'),
    ],
)
def test_bad_manifests(content, problem, tmp_path):
    touch(tmp_path, ['a.jpg'])
    (tmp_path / 'm.csv').write_text(content)
    with pytest.raises(UserError, match=problem):
        read_manifest(tmp_path / 'm.csv')


def test_manifest_round_trip(tmp_path):
    make_layout('market1501', tmp_path)
    d = load_dataset('auto', tmp_path, per_id=2, seed=3)
    again = load_dataset('auto', write_manifest(d, tmp_path / 'sub' / 'm.csv'))
    for s in ('train', 'query', 'gallery'):
        assert (getattr(again, s).pids == getattr(d, s).pids).all() and (
            getattr(again, s).camids == getattr(d, s).camids
        ).all()
        assert [os.path.realpath(p) for p in getattr(again, s).paths] == [
            os.path.realpath(p) for p in getattr(d, s).paths
        ]
    words = pd.DataFrame(dict(path=d.train.paths, pid=['x', 'y'] * 3, split='train'))
    words.to_csv(tmp_path / 'words.csv', index=False)
    assert (
        read_manifest(tmp_path / 'words.csv').train.n_ids == 2
        and read_manifest(tmp_path / 'words.csv').protocol == 'no_cameras'
    )


@pytest.mark.parametrize('name', ['m.txt', 'm', 'm.parquet', 'm.csv.gz'])
def test_manifests_are_written_under_a_name_that_is_recognised(name, tmp_path):
    make_layout('market1501', tmp_path)
    with pytest.raises(UserError, match='ending in .csv'):
        write_manifest(load_dataset('auto', tmp_path), tmp_path / name)
    assert not (tmp_path / name).exists()


def test_manifest_of_paths_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, ['a.jpg'])
    d = build_dataset('d', [('a.jpg', 'train', ('1',), ('1',))])
    assert os.path.samefile(read_manifest(write_manifest(d, 'sub/m.csv')).train.paths[0], 'a.jpg')


def test_manifest_keeps_domains(tmp_path):
    rows_ = [(f'{tmp_path}/{i}.jpg', 'train', (str(i),), ('1',)) for i in range(1, 4)]
    touch(tmp_path, ['1.jpg', '2.jpg', '3.jpg', '4.jpg'])
    d = build_dataset('d', rows_)
    d.train = merge_sources([d, build_dataset('e', [(f'{tmp_path}/4.jpg', 'train', ('1',), ('1',))])])
    for s in ('query', 'gallery'):
        getattr(d, s).domains = np.zeros(0)
    assert read_manifest(write_manifest(d, tmp_path / 'd.csv')).train.domains.tolist() == [0, 0, 0, 1]


def test_parquet_asks_for_pyarrow(tmp_path):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        (tmp_path / 'm.parquet').touch()
        with pytest.raises(UserError, match=r"pip install 'synthreid\[formats\]'"):
            read_manifest(tmp_path / 'm.parquet')
    else:
        touch(tmp_path, ['a.jpg'])
        pd.DataFrame(dict(path=['a.jpg'], pid=[4], camid=[1], split=['train'])).to_parquet(tmp_path / 'm.parquet')
        assert read_manifest(tmp_path / 'm.parquet').train.pids.tolist() == [4]


def test_subset_is_pinned():
    s = ReidSplit([str(i) for i in range(40)], np.repeat([5, 3, 8, 0], 10), np.zeros(40))
    chosen = take_subset(s, per_id=3, ids=2, seed=7)
    assert chosen.paths.tolist() == PINNED
    assert (take_subset(s, per_id=3, ids=2, seed=8).paths[:3] != chosen.paths[:3]).any()


PINNED = ['2', '5', '9', '20', '21', '27', *map(str, range(30, 40))]


def test_merged_sources_share_nothing(tmp_path):
    a, b = (ReidSplit([f'{k}/{n}' for n in 'xyz'], [1, 2, -1], [0, 3, 0]) for k in 'ab')
    m = merge_sources([a, b])
    assert m.pids.tolist() == [0, 1, 2, 3] and m.camids.tolist() == [0, 1, 2, 3] and m.domains.tolist() == [0, 0, 1, 1]
    with pytest.raises(UserError, match='at least one source'):
        merge_sources([])


@pytest.mark.parametrize('again', ['m', 'm/.', 'm/../m', 'link', 'm/m.csv'])
def test_a_folder_given_twice_is_refused(again, tmp_path):
    make_layout('market1501', tmp_path / 'm')
    (tmp_path / 'link').symlink_to(tmp_path / 'm', target_is_directory=True)
    d = load_dataset('auto', tmp_path / 'm')
    write_manifest(d, tmp_path / 'm' / 'm.csv')
    with pytest.raises(UserError, match='source 2 has 12 pictures of an earlier one .*name every folder once'):
        merge_sources([d, load_dataset('auto', f'{tmp_path}/{again}')])


# ---- identities


def people(*keys, splits=None, cams=None):
    splits, cams = splits or ['train'] * len(keys), cams or ['1'] * len(keys)
    return build_dataset('d', [(f'{s}/{i}.jpg', s, (k,), (c,)) for i, (k, s, c) in enumerate(zip(keys, splits, cams))])


@pytest.mark.parametrize(
    'keys', [('1_11', '111'), ('+7', '7'), (' 7', '7'), ('1e3', '1000'), ('7.0', '7'), ('٣_', '٣')]
)
def test_only_whole_numbers_are_numbers(keys):
    assert people(*keys).train.n_ids == 2


def test_spellings_of_one_number_are_one_person_and_said():
    for keys in (('007', '7', '8'), ('007', '7', 'ann')):
        with pytest.warns(
            Concern, match='identities of d written in several ways, each group counts as one: 007 = 7'
        ) as said:
            d = people(*keys)
        assert d.train.pids[0] == d.train.pids[1] != d.train.pids[2] and said[0].message.name == 'spellings'
    with pytest.warns(Concern, match='cameras of d.*01 = 1'):
        assert people('1', '1', '1', cams=['1', '01', '2']).train.camids.tolist() == [0, 0, 1]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert people('0007', '0012', '0100').train.pids.tolist() == [7, 12, 100]


def test_nobody_and_junk_stay_so_among_words():
    d = people(
        'bob', 'ann', '0', '-1', '0000', '-7', splits=['train', 'gallery', 'gallery', 'gallery', 'gallery', 'query']
    )
    assert d.train.pids.tolist() == [2] and d.gallery.pids.tolist() == [1, 0, -1, 0] and d.query.pids.tolist() == [-1]
    assert set(d.labelled().pids) == {0, 1} and len(d.labelled()) == 2
    for split in ('train', 'query'):
        with pytest.raises(UserError, match=f'{split}/1.jpg: give this person a name'):
            people('bob', '0', splits=['train', split])
    assert people('0', '1', splits=['train', 'gallery']).train.pids.tolist() == [1], 'among numbers a person may be 0'


def test_numbers_too_large_for_64_bits_are_words(tmp_path):
    big = ['9' * 19, '9' * 20, '9' * 5000, str(2**63 - 1), '12']
    d = people(*big, cams=big)
    assert d.train.n_ids == 5 and d.train.pids.min() == 1 and d.train.camids.max() == 4
    d = hold_out(people('9' * 18, '8' * 18, *['9' * 18, '8' * 18], cams=['1', '1', '9' * 18, '9' * 18]).train, 0.5)
    assert len(d.query) == len(d.gallery) == 1
    touch(tmp_path, ['a.jpg'])
    (tmp_path / 'm.csv').write_text(f'path,pid,camid\na.jpg,{2**63},{2**64}\n')
    assert read_manifest(tmp_path / 'm.csv').train.pids.tolist() == [1]


# ---- a picture in two splits


def test_a_picture_in_train_and_test_is_said(tmp_path):
    touch(tmp_path, ['a.jpg', 'b.jpg', 'c.jpg'])
    table = tmp_path / 'm.csv'
    table.write_text(
        f'path,pid,camid,split\na.jpg,1,1,train\n./a.jpg,1,1,query\nb.jpg,1,2,gallery\n{tmp_path}/sub/../b.jpg,2,2,train\nc.jpg,2,1,train\n'
    )
    (tmp_path / 'sub').mkdir()
    with pytest.warns(Concern, match='2 pictures of m are in train and in query or gallery') as said:
        read_manifest(table)
    assert said[0].message.name == 'copies_train_test' and [Path(p).name for p in said[0].message.files] == [
        'a.jpg',
        'b.jpg',
    ]
    table.write_text('path,pid,camid,split\na.jpg,1,1,train\nb.jpg,1,1,query\nb.jpg,1,1,gallery\n')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        read_manifest(table)  # the protocol leaves this match out


def test_a_pattern_does_not_train_on_the_test_inside(tmp_path):
    touch(tmp_path, ['1_c1.jpg', 'q/2_c1.jpg', 'g/2_c2.jpg', 't/1_c1.jpg'])
    for train in ('', '.', 'q'):
        with pytest.raises(UserError, match='name the sub-folder of the training pictures'):
            read_pattern(tmp_path, '{pid}_c{cam}.jpg', train=train, query='q', gallery='g')
    assert len(read_pattern(tmp_path, '{pid}_c{cam}.jpg', train='t', query='q', gallery='g').train) == 1


def test_no_picture_is_labelled_twice(tmp_path):
    make_layout('market1501', tmp_path)
    once = load_dataset('market1501', tmp_path).labelled()
    again = load_dataset('market1501', tmp_path, combineall=True).labelled()
    assert len(again) == len(once) == len(set(again.paths))


def test_per_id_holds_over_train_and_gallery_together(tmp_path):
    touch(
        tmp_path,
        [f'{s}/{p}/{k}.jpg' for s, n in (('train', 4), ('gallery', 9)) for p in 'abc' for k in range(n)]
        + [f'gallery/d/{k}.jpg' for k in range(9)],
    )
    for n in (1, 3, 4, 6, 13, 20):
        count = lambda s: np.bincount(s.relabel().pids).tolist()
        d = load_dataset('folders', tmp_path, per_id=n)
        assert count(d.labelled()) == [min(n, 13)] * 3 + [min(n, 9)] and count(d.train) == [min(n, 4)] * 3
        assert count(load_dataset('folders', tmp_path, per_id=n, combineall=True).train) == count(d.labelled())


def test_msmt17_as_a_source_has_the_validation_list(tmp_path):
    make_layout('msmt17', tmp_path)
    d, source = load_dataset('msmt17', tmp_path, val=True), load_dataset('msmt17', tmp_path, combineall=True)
    assert set(d.train.paths) > set(load_dataset('msmt17', tmp_path).train.paths) and set(source.train.paths) == set(
        d.train.paths
    ) | set(d.gallery.paths)


@pytest.mark.parametrize('options', [dict(per_id=0), dict(per_id=-1), dict(ids=0), dict(per_id=2.5)])
def test_wrong_subsets_are_refused_before_reading(options, tmp_path):
    with pytest.raises(UserError, match=f'expected {next(iter(options))} of at least 1'):
        load_dataset('auto', tmp_path / 'nowhere', **options)


def test_hold_out_needs_somebody_who_asks():
    with pytest.raises(UserError, match='one each'):
        hold_out(ReidSplit(list('abcd'), [1, 2, 3, 4], [0, 1, 0, 1]), 0.5)


def test_syri_is_named(tmp_path):
    make_layout('syri', tmp_path)
    with pytest.raises(UserError, match='--layout syri, --source-layout syri for a source'):
        load_dataset('auto', tmp_path)


@pytest.mark.parametrize(
    'sub, message', [('', 'or another reader'), ('nowhere', 'check the path'), ('a.jpg', 'got the file')]
)
@pytest.mark.parametrize('name', sorted(set(READERS) - {'manifest', 'pattern', 'folders', 'syri', 'unlabelled'}))
def test_wrong_folders_get_a_message(name, sub, message, tmp_path):
    touch(tmp_path, ['a.jpg', 'papers/b.txt'])
    with pytest.raises(UserError, match=message):
        load_dataset(name, tmp_path / sub)


def test_pictures_without_labels(tmp_path):
    touch(tmp_path, ['a.jpg', 'door/b.jpg', 'door/old/c.png', 'yard/d.jpg', 'notes.txt'])
    d = load_dataset('unlabelled', tmp_path)
    assert (
        len(d.train) == 4
        and set(d.train.pids) == {-1}
        and d.train.camids.tolist() == [0, 1, 1, 2]
        and not len(d.query) + len(d.gallery) + len(d.labelled())
    )
    (tmp_path / 'empty').mkdir()
    for sub, message in (('nowhere', 'check the path'), ('a.jpg', 'got the file'), ('empty', 'expected')):
        with pytest.raises(UserError, match=message):
            load_dataset('unlabelled', tmp_path / sub)


@pytest.mark.parametrize('name', sorted(LAYOUTS))
def test_a_stray_name_is_answered_with_an_example(name, tmp_path):
    make_layout(name, tmp_path, ids=8)
    folder = sorted(p for p in tmp_path.rglob('*') if p.suffix == LAYOUTS[name].suffix)[0].parent
    shutil.copy(next(folder.iterdir()), folder / f'stray{LAYOUTS[name].suffix}')
    with pytest.raises(UserError, match='stray.*1 of') as refused:
        load_dataset(name, tmp_path)
    assert f'names like {LAYOUTS[name].example} (person ' in str(refused.value) and '(?P<' not in str(refused.value)


def test_pattern_sub_folders(tmp_path):
    touch(tmp_path, ['T/1_c1.jpg', 'Q/2_c1.jpg', 'G/2_c2.jpg', 'G/notes_c.jpg'])
    options = dict(pattern=r'(?P<pid>\d+)_c(?P<cam>\d+)', train='T', query='Q', gallery='G')
    with pytest.raises(UserError, match='notes_c.jpg'):
        read_pattern(tmp_path, **options)
    d = read_pattern(tmp_path, **options, strict=False)
    assert [len(s) for s in (d.train, d.query, d.gallery)] == [1, 1, 1] and d.gallery.camids.tolist() == [1]


@pytest.mark.parametrize(
    'name, file',
    [
        ('msmt17', 'MSMT17_V1/list_query.txt'),
        ('grid', 'features_and_partitions.mat'),
        ('cuhk03', 'cuhk03_new_protocol_config_detected.mat'),
        ('cuhk03', 'testsets.json'),
    ],
)
@pytest.mark.parametrize('content', [b'', b'nonsense\n', b'\xff\x00' * 500, b'[[1]]'])
def test_damaged_split_files_are_named(name, file, content, tmp_path):
    make_layout(name, tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(UserError, match=Path(file).name):
        load_dataset(name, tmp_path, **({'protocol': 'old'} if 'json' in file else {}))


WORDS = [
    'bounding_box_train',
    'query',
    'bounding_box_test',
    'train',
    'test',
    'gallery',
    'images',
    'P1',
    'cam1',
    'cam_a',
    'cam_b',
    'campus',
    'single_shot',
    'detected',
    'images_detected',
    '4',
    'probe',
    'list_train.txt',
    'cuhk-03.mat',
    'features_and_partitions.mat',
    'testsets.json',
    'unreal_v1.1',
    '0001_c1s1_1.jpg',
    'x.jpg',
    '-1_c1.png',
    '0000_c0_1.jpg',
    'person_0001.png',
    '1_001_1_01.png',
    '001_00.bmp',
    'm.csv',
    'ü 中.JPG',
    '0001001.png',
    '٣_c١.jpg',
    '²_c²_1.jpg',
]


def spoil(root, r):
    "Delete, rename, overwrite or loop something in a folder that was whole."
    files, dirs = (
        sorted(p for p in root.rglob('*') if test(p) and not p.is_symlink()) for test in (Path.is_file, Path.is_dir)
    )
    if not files:
        return
    what, f, other = r.randrange(5), r.choice(files), r.choice(WORDS)
    if what == 0:
        f.unlink()
    elif what == 1 and dirs:
        shutil.rmtree(r.choice(dirs))
    elif what == 2 and not f.with_name(other).exists():
        f.rename(f.with_name(other))
    elif what == 3:
        f.write_bytes(b'\xff\x00')
    elif what == 4 and not (f.parent / 'loop').exists():
        (f.parent / 'loop').symlink_to(root)


@pytest.mark.filterwarnings('ignore:left out', 'ignore::synthreid.data.datasets.Concern')
@pytest.mark.parametrize('name', LAYOUT_NAMES)
def test_spoilt_folders_are_read_or_refused_in_words(name, tmp_path):
    for seed in range(6):
        r, root = random.Random(f'{name} {seed}'), tmp_path / str(seed)
        make_layout(name, root, ids=4, size=(8, 4))
        for _ in range(2):
            spoil(root, r)
        for reader in ('auto', *(k for k in READERS if k != 'pattern')):
            for options in [{}] if reader != 'cuhk03' else [{}, {'protocol': 'old'}]:
                try:
                    assert len(load_dataset(reader, root, **options).train) >= 0
                except UserError as e:
                    assert ': ' in str(e) and str(e).encode()
