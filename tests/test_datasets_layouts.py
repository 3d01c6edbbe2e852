"""Every layout is recognised and read as it was written; what does not fit or is damaged is refused in words."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import touch

from synthreid.core import UserError
from synthreid.data.datasets import (
    LAYOUTS,
    READERS,
    detect_layout,
    load_dataset,
)
from synthreid.render.layouts import LAYOUT_NAMES, make_layout


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


def test_a_folder_called_images_makes_no_500k_set(tmp_path):
    "Unless its names say that they are distractors."
    for kind, names in {
        'people': ['0007_c1s1_000001_01.jpg', '0000_c1s1_000002_01.jpg'],
        'anything': ['figure 1.png'],
        'empty': [],
        'distractors': ['0000_c1s1_000001_01.jpg', '-1_c1s1_000002_01.jpg'],
    }.items():
        make_layout('market1501', tmp_path / kind)
        (tmp_path / kind / 'images').mkdir()
        touch(tmp_path / kind / 'images', names)
        found = detect_layout(tmp_path / kind)
        assert found == ('market1501_500k' if kind == 'distractors' else 'market1501'), kind
        gallery = load_dataset('auto', tmp_path / kind).gallery
        assert sum('/images/' in p for p in gallery.paths) == len(names) * (kind == 'distractors')
        if kind == 'people':
            assert len(load_dataset('market1501_500k', tmp_path / kind).gallery) == len(gallery) + 2, 'if it is named'


def test_withdrawn_sets_are_read_but_not_offered(tmp_path):
    with pytest.raises(UserError) as e:
        load_dataset('nothing', tmp_path)
    assert 'duke' not in str(e.value) and 'msmt17' in str(e.value)
    assert 'withdrawn' in LAYOUTS['dukemtmcreid'].note and 'dukemtmcreid' in READERS


def test_msmt17_as_a_source_has_the_validation_list(tmp_path):
    make_layout('msmt17', tmp_path)
    d, source = load_dataset('msmt17', tmp_path, val=True), load_dataset('msmt17', tmp_path, combineall=True)
    assert set(d.train.paths) > set(load_dataset('msmt17', tmp_path).train.paths) and set(source.train.paths) == set(
        d.train.paths
    ) | set(d.gallery.paths)


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
