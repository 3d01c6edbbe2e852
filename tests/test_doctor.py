"""The doctor on everything a folder can contain: corrupt files, strange names, links, random trees, garbage in place of
list files."""

import builtins
import errno
import os
import random
import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from synthreid.cli import main
from synthreid.core import UserError
from synthreid.data.datasets import READERS, ReidDataset, ReidSplit, write_manifest
from synthreid.data.doctor import (
    check_outputs,
    count_images,
    examine,
    find_duplicates,
    list_everything,
    look_at_files,
    suggest_pattern,
)
from synthreid.render.folder import render_images
from synthreid.render.layouts import LAYOUT_NAMES, make_layout
from synthreid.visual.plots import plot_cameras

OPTIONS = {'pattern': dict(pattern='{split}/{pid}-cam{cam}-{*}.png'), 'syri': dict(layout='syri')}


def look(folder, **options):
    return examine(folder, progress=False, **options)


def named(d):
    return {f.name: f for f in d.findings}


def files(finding):
    return [n for f in finding.files for n in ((f,) if isinstance(f, str) else f)]


def snapshot(folder):
    return {str(p): (p.lstat().st_mtime_ns, p.lstat().st_size) for p in [folder, *sorted(folder.rglob('*'))]}


@pytest.fixture
def market(tmp_path):
    make_layout('market1501', tmp_path / 'm')
    return tmp_path / 'm'


# ---- the corrupt inputs of a real life


def test_corrupt_inputs_are_named_and_nothing_is_lost(market):
    train = market / 'bounding_box_train'
    jpeg = next(train.iterdir()).read_bytes()
    bad = {
        '0001_c1s1_900001_01.jpg': b'',
        '0001_c1s1_900002_01.jpg': jpeg[:-200],
        '0001_c1s1_900003_01.jpg': b'\x89PNG\r\n\x1a\n',
        '0001_c1s1_900004_01.jpg': b'GIF',
        '0001_c1s1_900005_01.jpg': jpeg[:30],
    }
    for name, data in bad.items():
        (train / name).write_bytes(data)
    bad |= {'0001_c1s1_900006_01.jpg': None, '0001_c1s1_900007_01.jpg': None, '0001_c1s1_900008_01.jpg': None}
    (train / '0001_c1s1_900006_01.jpg').symlink_to(train / 'nowhere')
    (train / '0001_c1s1_900007_01.jpg').symlink_to(train / '0001_c1s1_900007_01.jpg')
    os.mkfifo(train / '0001_c1s1_900008_01.jpg')
    good = {
        '0002_c1s1_910001_01 ü 中 b.jpg': ('RGB', (32, 64), 'JPEG'),
        '0002_c1s1_910002_01.jpg': ('RGB', (32, 64), 'PNG'),
        '0002_c1s1_910003_01.png': ('I;16', (32, 64), 'PNG'),
        '0002_c1s1_910004_01.jpg': ('CMYK', (32, 64), 'JPEG'),
        '0002_c1s1_910005_01.png': ('RGB', (1, 1), 'PNG'),
        '0002_c1s1_910006_01.jpg': ('L', (64, 32), 'JPEG'),
    }
    for name, (mode, size, kind) in good.items():
        Image.new(mode, size).save(train / name, kind)
    d = look(market, sample=0)
    found = named(d)
    assert d.exit_code == 2 and d.layout == 'market1501'
    assert sorted(Path(f.split(' (')[0]).name for f in found['broken'].files) == sorted(bad)
    reasons = ' '.join(found['broken'].files)
    for text in ('an empty file', 'truncated', 'not a picture', 'a link that leads nowhere', 'not a regular file'):
        assert text in reasons
    assert {Path(p).name for p in d.pictures[d.pictures.problem.isna()].path} >= set(good)
    assert [Path(f).name for f in found['tiny_pictures'].files] == ['0002_c1s1_910005_01.png']
    assert [Path(f).name for f in found['landscape'].files] == ['0002_c1s1_910006_01.jpg'] and found[
        'landscape'
    ].severity == 'note'
    assert {Path(f).name for f in found['modes'].files} == {
        '0002_c1s1_910003_01.png',
        '0002_c1s1_910004_01.jpg',
        '0002_c1s1_910006_01.jpg',
    }


def test_unreadable_folders_and_files_are_findings(market, monkeypatch):
    locked, file = str(market / 'query'), str(sorted((market / 'bounding_box_train').iterdir())[0])
    scandir, open_ = os.scandir, builtins.open
    refuse = lambda path: (_ for _ in ()).throw(PermissionError(errno.EACCES, 'Permission denied', path))
    monkeypatch.setattr(os, 'scandir', lambda p='.': refuse(p) if str(p).rstrip('/') == locked else scandir(p))
    monkeypatch.setattr(builtins, 'open', lambda p, *a, **k: refuse(p) if str(p) == file else open_(p, *a, **k))
    found = named(look(market))
    assert (
        found['unreadable_folders'].files == [f'{locked} (Permission denied)']
        and found['unreadable_folders'].severity == 'error'
    )
    assert 'readable folder' in found['refused'].message
    assert f'{file} (Permission denied)' in found['broken'].files


@pytest.mark.skipif(not hasattr(os, 'seteuid'), reason='needs POSIX permissions')
def test_real_permissions():
    with tempfile.TemporaryDirectory() as t:
        os.chmod(t, 0o755)
        market = Path(t) / 'm'
        make_layout('market1501', market)
        healthy = look(market)  # also imports what is imported late
        locked, user = sorted((market / 'bounding_box_train').iterdir())[0], os.geteuid()
        try:
            locked.chmod(0)
            (market / 'query').chmod(0)
            if user == 0:
                os.seteuid(65534)  # root may read everything
            inside = look(market)
            os.seteuid(user)
            market.chmod(0o644)
            if user == 0:
                os.seteuid(65534)
            outside = look(market)
        finally:
            os.seteuid(user)
            for p in (market, market / 'query', locked):
                p.chmod(0o755)
    assert healthy.exit_code == 0 and inside.exit_code == 2 and outside.exit_code == 2
    assert named(inside)['unreadable_folders'].files == [f'{market / "query"} (Permission denied)']
    assert f'{locked} (Permission denied)' in named(inside)['broken'].files and outside.report()


def test_a_pipe_does_not_make_it_wait(tmp_path):
    make_layout('grid', tmp_path / 'g')
    (tmp_path / 'g' / 'features_and_partitions.mat').unlink()
    os.mkfifo(tmp_path / 'g' / 'features_and_partitions.mat')
    assert files(named(look(tmp_path / 'g'))['pipes']) == [str(tmp_path / 'g' / 'features_and_partitions.mat')]


def test_links_up_and_around_are_not_followed(tmp_path):
    make_layout('folders', tmp_path / 'd')
    before = look(tmp_path / 'd')
    (tmp_path / 'd' / 'train' / 'person 1' / 'loop').symlink_to(tmp_path / 'd' / 'train')
    d = look(tmp_path / 'd')
    assert 'loops' in named(d) and d.exit_code == 0 and len(d.dataset.train) == len(before.dataset.train)
    (tmp_path / 'd' / 'train' / 'person 1' / 'up').symlink_to('/')
    d = look(tmp_path / 'd')
    assert (
        files(named(d)['link_above']) == [str(tmp_path / 'd' / 'train' / 'person 1' / 'up')]
        and d.dataset is None
        and len(d.pictures) == len(before.pictures)
    )


# ---- labels


def test_names_that_do_not_fit_are_all_listed(market):
    for name in ('holiday.jpg', 'x y.jpg'):
        shutil.copy(next((market / 'query').glob('0*')), market / 'query' / name)
    found = named(look(market))
    assert (
        found['misfits'].severity == 'error'
        and [Path(f).name for f in found['misfits'].files] == ['holiday.jpg', 'x y.jpg']
        and 'refused' not in found
    )


def test_files_that_a_reader_leaves_out_are_a_warning(tmp_path):
    make_layout('gta_synthreid', tmp_path / 'g')
    Image.new('RGB', (32, 64)).save(tmp_path / 'g' / 'query' / 'readme.jpg')
    d = look(tmp_path / 'g')
    assert d.exit_code == 1 and files(named(d)['misfits']) == [str(tmp_path / 'g' / 'query' / 'readme.jpg')]


def test_gta_query_copies_are_by_design(tmp_path):
    make_layout('gta_synthreid', tmp_path / 'g')
    for p in list((tmp_path / 'g' / 'query').iterdir()):
        shutil.copy(p, tmp_path / 'g' / 'bounding_box_test')
    d = look(tmp_path / 'g')
    assert d.exit_code == 0 and len(named(d)['copies_same_camera'].files) == len(d.dataset.query)


def test_unused_folders_and_vehicles(market, tmp_path):
    shutil.copytree(market / 'query', market / 'gt_bbox')
    assert 'gt_bbox: 6' in named(look(market))['unused'].message
    make_layout('veri', tmp_path / 'v', size=(32, 64))
    assert 'landscape' not in named(look(tmp_path / 'v'))
    make_layout('dukemtmcreid', tmp_path / 'w', size=(32, 64))
    assert named(look(tmp_path / 'w'))['landscape'].severity == 'warning'


def test_two_datasets_and_folders_inside_and_around(market, tmp_path):
    assert look(tmp_path).folder == market and look(market / 'query').folder == market
    shutil.copytree(market, tmp_path / 'second')
    d = look(tmp_path)
    assert d.exit_code == 2 and 'give the folder of one' in named(d)['refused'].remedy


def test_relative_paths(market, monkeypatch):
    monkeypatch.chdir(market)
    assert look('.').exit_code == 0 and look('query').layout == 'market1501'
    monkeypatch.chdir(market.parent)
    assert look('m').layout == 'market1501'


def test_manifest(market):
    table = write_manifest(look(market).dataset, market / 'table.csv')
    d = look(table)
    assert d.exit_code == 0 and d.layout == 'manifest' and len(d.pictures) == 33
    gone = sorted((market / 'query').iterdir())[1]
    gone.unlink()
    assert [f.split(' (')[0] for f in named(look(table))['broken'].files] == [str(gone)]
    table.write_text('path,pid\n' + 'a,b,c\n')
    assert 'refused' in named(look(table))
    for odd in (
        b'\xff\x00\n\n"',
        b'',
        b'path,pid\n',
        b'path,pid,camid,split\n',
        b'path,pid\n\x00,1\n',
        b'PK\x03\x04',
        b'path,pid\na.jpg,' + b'9' * 30 + b'\n',
    ):
        table.write_bytes(odd)
        assert look(table).exit_code == 2 and look(table).report()


def test_one_file_in_two_splits_is_a_copy(market):
    d = look(market).dataset
    table = write_manifest(d, market / 'table.csv')
    whole = table.read_text()
    row = lambda split, p, pid, cam: f'{Path(p).relative_to(market)},{pid},{cam},{split},market1501\n'
    q, t = d.query, d.train
    for extra, name, severity in (
        (row('train', q.paths[0], q.pids[0], q.camids[0]), 'copies_train_test', 'error'),
        (row('gallery', t.paths[0], t.pids[0], t.camids[0]), 'copies_train_test', 'error'),
        (row('gallery', q.paths[0], q.pids[0], q.camids[0]), 'copies_same_camera', 'note'),
        (row('gallery', q.paths[0], q.pids[0], 1 - q.camids[0]), 'copies_query_gallery', 'warning'),
        (row('train', t.paths[0], t.pids[0], t.camids[0]), 'copies', 'note'),
        (row('train', t.paths[0], t.pids[-1], t.camids[0]), 'copies_two_identities', 'warning'),
    ):
        table.write_text(whole + extra)
        found = look(table)
        assert named(found)[name].severity == severity and len(named(found)[name].files) == 1, name
        assert (found.exit_code == 2) == (severity == 'error')
    table.write_text(whole + 'sub/../' + row('train', q.paths[0], q.pids[0], q.camids[0]))
    (market / 'sub').mkdir()
    assert named(look(table))['copies_train_test'].severity == 'error', 'another way to write the path'


def test_linked_folders_are_copies_too(tmp_path):
    make_layout('folders', tmp_path / 'd')
    (tmp_path / 'd' / 'again').symlink_to(tmp_path / 'd' / 'gallery', target_is_directory=True)
    found = named(look(tmp_path / 'd', pattern='{*}/{pid}/{*}', train='again', query='query', gallery='gallery'))
    assert found['copies_train_test'].severity == 'error' and len(found['copies_train_test'].files) == 12


def test_two_spellings_of_a_number(tmp_path):
    make_layout('folders', tmp_path / 'd')
    for i, k in ((1, '7'), (2, '007')):
        (tmp_path / 'd' / 'train' / f'person {i}').rename(tmp_path / 'd' / 'train' / k)
    d = look(tmp_path / 'd')
    assert d.exit_code == 1 and '007 = 7' in named(d)['spellings'].message and d.dataset.train.n_ids == 2
    (tmp_path / 'd' / 'train' / '007').rename(tmp_path / 'd' / 'train' / '1_1')
    assert look(tmp_path / 'd').exit_code == 0


def test_a_person_called_0_is_asked_about(tmp_path, market):
    make_layout('folders', tmp_path / 'd')
    for k in ('train', 'query', 'gallery'):
        for p in (tmp_path / 'd' / k).iterdir():
            p.rename(p.with_name(p.name.replace('person ', '')))
    (tmp_path / 'd' / 'gallery' / '0').mkdir()
    shutil.copy(next((tmp_path / 'd' / 'gallery' / '4').iterdir()), tmp_path / 'd' / 'gallery' / '0' / '1.jpg')
    assert [Path(p).parent.name for p in named(look(tmp_path / 'd'))['person_zero'].files] == ['0']
    assert 'person_zero' not in named(look(market)) | named(look(market, layout='market1501'))


def test_syri_is_named():
    with tempfile.TemporaryDirectory() as t:
        make_layout('syri', t)
        found = look(t)
        assert '--layout syri' in named(found)['unknown_layout'].remedy and found.exit_code == 2
        assert look(t, layout='syri').exit_code == 0


# ---- what it writes


def test_manifest_of_a_held_out_test_says_what_comes_next(tmp_path):
    make_layout('randperson', tmp_path / 'd', ids=8)
    d = look(tmp_path / 'd')
    said = d.save_manifest(tmp_path / 'my split.csv', 0.5, seed=1)
    assert (
        f"train direct --source '{tmp_path}/my split.csv' --train-only" in said
        and f"evaluate runs/NAME --target '{tmp_path}/my split.csv'" in said
    )
    again = look(tmp_path / 'my split.csv')
    assert (
        again.exit_code < 2
        and again.dataset.train.n_ids == 4
        and len(again.dataset.query)
        and 'seed 1' in again.dataset.protocol
    )
    with pytest.raises(UserError, match='there already'):
        d.save_manifest(tmp_path / 'my split.csv')
    assert 'next' not in d.save_manifest(tmp_path / 'all.csv') and len(look(tmp_path / 'all.csv').dataset.train) == len(
        d.dataset.train
    )


def test_an_existing_test_is_not_dropped(market, tmp_path):
    d = look(market)
    with pytest.raises(UserError, match='has a test already .6 query and 15 gallery pictures.*leave --hold-out out'):
        d.save_manifest(tmp_path / 'm.csv', 0.5)
    assert not (tmp_path / 'm.csv').exists()


def test_the_command(market, tmp_path, capsys):
    call = lambda *a: (main(['doctor', *map(str, a)]), *capsys.readouterr())
    for wrong, text in (
        (('--hold-out', 0.5), 'add --manifest'),
        (('--manifest', tmp_path / 'm.txt'), 'ending in .csv'),
        (('--picture', 'x.abc'), 'choose another suffix'),
    ):
        code, out, err = call(market, *wrong)
        assert code == 2 and not out and text in err, 'said before the examination'
    assert call(market, '--manifest', tmp_path / 'm.csv')[0] == 0 and (tmp_path / 'm.csv').exists()
    with open(tmp_path / 'm.csv', 'a') as f:
        f.write((tmp_path / 'm.csv').read_text().splitlines()[-1].replace('gallery', 'train') + '\n')
    code, out, err = call(tmp_path / 'm.csv')
    assert code == 2 and 'ERROR   copies_train_test: 1 pictures are in train and test' in out


@pytest.mark.parametrize(
    'options, text',
    [
        (dict(hold_out=0.5), 'add --manifest'),
        (dict(manifest='x.csv', hold_out=2), 'between 0 and 1'),
        (dict(manifest='x.csv', hold_out=-0.5), 'between 0 and 1'),
        (dict(manifest='x.txt'), 'ending in .csv'),
        (dict(manifest='x'), 'ending in .csv'),
        (dict(picture='x.csv'), 'choose another suffix'),
        (dict(picture='x'), 'choose another suffix'),
    ],
)
def test_outputs_are_checked_first(options, text):
    with pytest.raises(UserError, match=text):
        check_outputs(**options)


@pytest.mark.parametrize('name', LAYOUT_NAMES)
def test_examining_changes_nothing_and_finds_the_same_again(name, tmp_path):
    make_layout(name, tmp_path / name, ids=8)
    before = snapshot(tmp_path / name)
    first, second = (look(tmp_path / name, **OPTIONS.get(name, {})) for _ in range(2))
    assert snapshot(tmp_path / name) == before and str(first) == str(second) and first.exit_code < 2
    assert plot_cameras(first.dataset).axes


def test_a_missing_folder_is_named_from_around_too(tmp_path):
    make_layout('cuhk02', tmp_path / 'around' / 'c', ids=8)
    shutil.rmtree(tmp_path / 'around' / 'c' / 'Dataset' / 'P1')
    found = named(look(tmp_path / 'around'))
    assert 'cuhk02, but without P1/*' in found['incomplete'].message


def test_a_split_that_is_not_there_is_an_error(tmp_path):
    make_layout('cuhk03', tmp_path)
    for options, text in (
        (dict(split_id=300), 'has one split'),
        (dict(split_id=300, protocol='old'), 'split_id 0 to'),
        (dict(split_id='x', protocol='old'), "got 'x'"),
    ):
        d = look(tmp_path, **options)
        assert d.exit_code == 2 and text in named(d)['refused'].report(), d


def test_wrong_use_is_refused(tmp_path):
    (tmp_path / 'a.zip').touch()
    for arguments, text in (
        ((tmp_path / 'no',), 'found nothing'),
        ((tmp_path / 'a.zip',), 'unpack'),
        ((tmp_path, 'market1502'), 'choose one of these layouts'),
    ):
        with pytest.raises(UserError, match=text):
            look(arguments[0], **dict(zip(['layout'], arguments[1:])))
    with pytest.raises(UserError, match='mark it with'):
        look(tmp_path, pattern='{cam}')
    d = look(tmp_path)
    assert named(d)['no_pictures'].remedy == 'unpack the archive first'
    with pytest.raises(UserError, match='see the findings'):
        d.readable()


def test_duplicates_are_exact(tmp_path):
    rng = np.random.RandomState(0)
    data = [rng.bytes(300) for _ in range(5)]
    paths = []
    for i, k in enumerate(rng.randint(0, 5, 40)):
        Image.fromarray(np.frombuffer(data[k], np.uint8).reshape(10, 10, 3)).save(tmp_path / f'{i}.bmp')
        paths.append(str(tmp_path / f'{i}.bmp'))
    groups = find_duplicates(paths, look_at_files(paths, progress=False))
    contents = [{Path(p).read_bytes() for p in g} for g in groups]
    assert all(len(c) == 1 for c in contents) and sum(map(len, groups)) == 40 and len(groups) == 5


def test_huge_numbers_and_many_cameras(tmp_path):
    make_layout('market1501', tmp_path / 'm')
    for part in ('query', 'bounding_box_test'):
        for p in list((tmp_path / 'm' / part).glob('0004*')):
            p.rename(p.with_name(p.name.replace('0004', str(2**62 + 1))))
    assert look(tmp_path / 'm').exit_code == 0
    for i in range(300):
        shutil.copy(
            next((tmp_path / 'm' / 'query').iterdir()),
            tmp_path / 'm' / 'bounding_box_train' / f'0001_c{i + 10**6}s1_{i}.jpg',
        )
    d = look(tmp_path / 'm')
    assert 'many_cameras' in named(d) and plot_cameras(d.readable()).axes


# ---- fuzz

JPEG = None


def jpeg():
    global JPEG
    if JPEG is None:
        with tempfile.TemporaryDirectory() as t:
            Image.fromarray(np.random.RandomState(0).randint(0, 255, (40, 20, 3), np.uint8)).save(Path(t) / 'a.jpg')
            JPEG = (Path(t) / 'a.jpg').read_bytes()
    return JPEG


FOLDERS = [
    '',
    'query',
    'bounding_box_train',
    'bounding_box_test',
    'train',
    'test',
    'Query',
    '0001',
    '0002',
    'a b',
    'single_shot',
    'cam_a',
    'cam_b',
    'probe',
    'gallery',
    'images',
    'campus',
    'P1/cam1',
    'images_detected',
    'mask_train_v2',
    'unreal_v1.2/images',
    'x' * 200,
]
NAMES = [
    '0001_c1s1_000001_01.jpg',
    '0002_c2_f0000001.jpg',
    '-1_c1s1_000000_00.jpg',
    '0000_c0_1.jpg',
    '1_001_1_01.png',
    '00000001_sn001c01_0001.jpeg',
    '000001_s00_c00_f000001.jpg',
    '{pid}_c{cam}.jpg',
    '.jpg',
    '..jpg',
    'a\nb.jpg',
    '\u202e.png',
    '\udcff_c1.jpg',
    'list_train.txt',
    'list_val.txt',
    'list_query.txt',
    'list_gallery.txt',
    'features_and_partitions.mat',
    'cuhk-03.mat',
    'testsets.json',
    'cuhk03_new_protocol_config_detected.mat',
    'splits_classic_detected.json',
    'Thumbs.db',
    '٣_c٤.jpg',
    '²_c1.jpg',
    '99999999999999999999_c1s1_1.jpg',
    '1_c99999999999999999999s1_1.jpg',
    '9223372036854775807_c9223372036854775806s1_1.jpg',
]
names = st.one_of(
    st.sampled_from(NAMES),
    st.text(st.characters(codec='utf-8', exclude_characters='/\0'), min_size=1, max_size=12)
    .filter(lambda n: n not in ('.', '..'))
    .map(lambda n: n + '.jpg'),
    st.from_regex(r'[0-9]{1,4}_c[0-9]{1,3}(s1)?_[0-9]{1,6}\.(jpg|png|JPG)', fullmatch=True),
)
things = st.lists(
    st.tuples(
        st.sampled_from(FOLDERS),
        names,
        st.sampled_from(['jpeg', 'jpeg', 'jpeg', 'cut', 'empty', 'noise', 'text', 'link', 'loop', 'folder', 'fifo']),
    ),
    max_size=25,
)


def grow(root, tree, seed):
    rng = random.Random(seed)
    contents = dict(
        jpeg=jpeg(),
        cut=jpeg()[: rng.randrange(len(jpeg()))],
        empty=b'',
        noise=rng.randbytes(rng.randrange(1, 300)),
        text=rng.choice(
            [
                b'0001/0001_000_01_x_0.jpg 3\n',
                b'[[[1, 2]]]',
                b'[1]',
                b'MATLAB 5.0 MAT-file',
                b'\x89HDF\r\n\x1a\n',
                b'{"query": 3}',
            ]
        ),
    )
    for folder, name, kind in tree:
        path = root / folder / name
        if os.path.lexists(path):
            continue  # writing into a fifo would wait for ever
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if kind == 'link':
                path.symlink_to(rng.choice([root / 'nowhere', root / 'query', root, '/', path]))
            elif kind == 'loop':
                path.symlink_to(path.parent)
            elif kind == 'folder':
                path.mkdir()
            elif kind == 'fifo':
                os.mkfifo(path)
            else:
                path.write_bytes(contents[kind])
        except OSError:
            pass  # a name too long, or a file where a folder should be


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    things,
    st.sampled_from(['auto'] * 8 + [k for k in READERS if k not in ('pattern', 'manifest')]),
    st.integers(0, 10**6),
    st.booleans(),
)
def test_no_folder_makes_it_fail(tree, layout, seed, thorough):
    with tempfile.TemporaryDirectory() as t:
        root = Path(t) / 'd'
        root.mkdir()
        grow(root, tree, seed)
        d = look(root, layout=layout, thorough=thorough)
        text = d.report(examples=100)
        assert text.encode('utf-8') and d.exit_code in (0, 1, 2)
        assert all(f.severity in ('note', 'warning', 'error') and f.message and f.remedy for f in d.findings)
        known = set(d.pictures.path) | {
            n.rpartition(' (')[0] if f.name in ('broken', 'unreadable_folders') else n
            for f in d.findings
            for n in files(f)
        }
        lost = {f'{d.folder}/{n}' for n in list_everything(d.folder).pictures} - known
        assert not lost, lost
        if d.dataset is not None:
            plot_cameras(d.dataset)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(LAYOUT_NAMES), things, st.integers(0, 10**6))
def test_no_damaged_dataset_makes_it_fail(name, tree, seed):
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as t:
        root = Path(t) / name
        make_layout(name, root, ids=4)
        everything = sorted(p for p in root.rglob('*') if p.is_file())
        for p in rng.sample(everything, min(len(everything), rng.randrange(1, 8))):
            data = p.read_bytes()
            act = rng.choice(['delete', 'cut', 'empty', 'noise', 'rename', 'copy', 'folder', 'fifo'])
            if act in ('delete', 'folder', 'fifo'):
                p.unlink()
            if act == 'folder':
                p.mkdir()
            if act == 'fifo':
                os.mkfifo(p)
            if act == 'cut':
                p.write_bytes(data[: rng.randrange(len(data))])
            if act == 'empty':
                p.write_bytes(b'')
            if act == 'noise':
                p.write_bytes(bytes(rng.randrange(256) if rng.random() < 0.05 else b for b in data))
            if act == 'rename':
                p.rename(p.with_name(rng.choice(['9', 'x', '0_', 'Ü']) + p.name))
            if act == 'copy':
                p.with_name('7' + p.name).write_bytes(data)
        if rng.random() < 0.5:
            grow(root, tree, seed)
        for options in ({}, OPTIONS.get(name, {})):
            assert look(root, **options).report().encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(names.map(lambda n: n) | st.tuples(st.sampled_from(FOLDERS), names).map('/'.join), max_size=30))
def test_suggestions_never_fail(listed):
    suggest_pattern([n.lstrip('/') for n in listed])


cells = st.one_of(
    st.sampled_from(
        [
            'a.jpg',
            './a.jpg',
            'b.jpg',
            '../d/a.jpg',
            '.',
            '',
            '/',
            '\0',
            'path',
            'pid',
            'camid',
            'split',
            'domain',
            'protocol',
            '0',
            '-1',
            '007',
            '7',
            '1_1',
            '1.0',
            'nan',
            '-0',
            '9' * 18,
            '9' * 19,
            '9' * 5000,
            '1e400',
            '٣',
            'train',
            'query',
            'gallery',
            'market1501',
            'no_cameras',
            '"',
            ',',
            '\n',
            '\ufeff',
            '\udcff',
        ]
    ),
    st.text(max_size=5),
)
tables = st.tuples(
    st.lists(st.sampled_from(['path', 'pid', 'camid', 'split', 'domain', 'protocol', 'x', '']), max_size=7),
    st.lists(st.lists(cells, min_size=1, max_size=7), max_size=6),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.one_of(st.binary(max_size=60), tables, st.lists(st.tuples(*[cells] * 4), min_size=1, max_size=8)),
    st.sampled_from(['.csv', '.parquet']),
)
def test_no_manifest_makes_it_fail(content, suffix):
    if isinstance(content, list):
        content = (
            ['path', 'pid', 'camid', 'split'],
            [
                [('a.jpg', 'b.jpg')[i % 2], *r[1:3], ('train', 'query', 'gallery')[len(r[3]) % 3]]
                for i, r in enumerate(content)
            ],
        )
    with tempfile.TemporaryDirectory() as t:
        root = Path(t) / 'd'
        root.mkdir()
        for n in 'ab':
            (root / f'{n}.jpg').write_bytes(jpeg())
        file = root / f'm{suffix}'
        if isinstance(content, bytes):
            file.write_bytes(content)
        else:
            import csv

            with open(file, 'w', newline='', encoding='utf-8', errors='surrogateescape') as f:
                try:
                    csv.writer(f).writerows([content[0], *content[1]])
                except (UnicodeEncodeError, csv.Error):
                    pass
        d = look(file)
        assert d.report().encode() and d.exit_code in (0, 1, 2)
        assert not [f for f in d.findings if 'the reader fails' in f.message], d.report()
        if d.dataset is not None:
            plot_cameras(d.dataset)


def test_what_was_not_read_is_not_tabulated(tmp_path):
    "A folder per person without cameras; a test in which all are on two cameras; a manifest."
    make_layout('folders', tmp_path / 'people')
    d = examine(tmp_path / 'people', progress=False)
    assert d.dataset.rule == 'no_cameras' and ' camera' not in str(d.dataset).replace('no_cameras', '')
    assert count_images(d.dataset).index.tolist() == ['not read'] and 'not read' in d.report()
    for ax in plot_cameras(d.dataset).axes:
        assert [t.get_text() for t in ax.get_xticklabels()] == ['not read']
    assert 'no_cameras' in named(d)
    two = ReidSplit([f'{i}.jpg' for i in range(8)], np.repeat([1, 2, 3, 4], 2), [0, 1] * 4)
    fig = plot_cameras(ReidDataset('two', two, two[:0], two[:0]))
    for ax, wanted in zip(fig.axes, ([0, 1], [2])):
        ticks = [t for t in ax.get_xticks() if ax.get_xlim()[0] <= t <= ax.get_xlim()[1]]
        assert ticks == wanted
    table = write_manifest(d.dataset, tmp_path / 'people' / 'table.csv')
    assert examine(table, progress=False).report().splitlines()[0] == f'{table}: a manifest'


def test_cameras_of_pictures_without_labels_are_counted(tmp_path):
    for camera in ('door', 'yard'):
        make_layout('folders', tmp_path / camera)
    d = examine(tmp_path, 'unlabelled', progress=False)
    assert count_images(d.dataset).index.tolist() == [0, 1] and '2 cameras' in str(d.dataset)
    assert 'no_cameras' not in named(d)


def test_turned_and_oversized_pictures_are_told(tmp_path):
    make_layout('market1501', tmp_path)
    lying, huge, *_ = sorted((tmp_path / 'query').iterdir())
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(lying) as image:
        image.transpose(Image.Transpose.ROTATE_90).save(lying, exif=exif)
    Image.new('1', (9000, 9000)).save(huge, format='PNG')
    d = examine(tmp_path, progress=False, sample=0)
    found = {f.name: f for f in d.findings}
    assert found['turned'].severity == 'note' and found['turned'].files == [str(lying)]
    assert 'landscape' not in found, 'it stands when it is read'
    assert len(found['broken'].files) == 1 and '9000x9000, more than 34 million pixels' in found['broken'].files[0]


def test_the_camera_in_the_names_of_a_folder_per_person_is_guessed(tmp_path):
    made = render_images('camera', np.repeat(range(4), 6), np.tile(range(6), 4), size=(32, 16))
    for i, (pid, cam, image) in enumerate(zip(made.pids, made.camids, made.images)):
        for root, name in ('told', f'cam{cam + 1}_{i:04d}'), ('plain', f'{i:04d}'):
            (tmp_path / root / f'person {pid}').mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(tmp_path / root / f'person {pid}' / f'{name}.png')
    (note,) = (f for f in examine(tmp_path / 'told', progress=False).findings if f.name == 'no_cameras')
    pattern = re.search(r"--pattern '(.*)'", note.remedy)[1]
    again = examine(tmp_path / 'told', pattern=pattern, progress=False).dataset
    pairs = {(re.search(r'cam(\d+)_', str(p))[1], int(c)) for p, c in zip(again.train.paths, again.train.camids)}
    assert len(again.train) == 24 and len(pairs) == len(set(made.camids)), 'one number for each name'
    assert len(set(again.train.pids)) == 4 and len(set(again.train.camids)) == len(set(made.camids))
    (note,) = (f for f in examine(tmp_path / 'plain', progress=False).findings if f.name == 'no_cameras')
    assert '--pattern' not in note.remedy
