"""From listings and names to numbers: patterns, odd file systems, identities and cameras as words."""

import os
import warnings

import pytest
from folders import touch

from synthreid.core import UserError
from synthreid.data.datasets import (
    Concern,
    build_dataset,
    compile_pattern,
    hold_out,
    list_images,
    load_dataset,
    read_manifest,
    read_pattern,
    write_manifest,
)


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


def test_pattern_sub_folders(tmp_path):
    touch(tmp_path, ['T/1_c1.jpg', 'Q/2_c1.jpg', 'G/2_c2.jpg', 'G/notes_c.jpg'])
    options = dict(pattern=r'(?P<pid>\d+)_c(?P<cam>\d+)', train='T', query='Q', gallery='G')
    with pytest.raises(UserError, match='notes_c.jpg'):
        read_pattern(tmp_path, **options)
    d = read_pattern(tmp_path, **options, strict=False)
    assert [len(s) for s in (d.train, d.query, d.gallery)] == [1, 1, 1] and d.gallery.camids.tolist() == [1]


def test_a_pattern_does_not_train_on_the_test_inside(tmp_path):
    touch(tmp_path, ['1_c1.jpg', 'q/2_c1.jpg', 'g/2_c2.jpg', 't/1_c1.jpg'])
    for train in ('', '.', 'q'):
        with pytest.raises(UserError, match='name the sub-folder of the training pictures'):
            read_pattern(tmp_path, '{pid}_c{cam}.jpg', train=train, query='q', gallery='g')
    assert len(read_pattern(tmp_path, '{pid}_c{cam}.jpg', train='t', query='q', gallery='g').train) == 1
