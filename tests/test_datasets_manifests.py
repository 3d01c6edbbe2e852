"""Tables of pictures: what is wrong with them, and that reading gives what was written."""

import os
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from folders import touch

from synthreid.core import UserError
from synthreid.data.datasets import (
    Concern,
    build_dataset,
    load_dataset,
    merge_sources,
    read_manifest,
    write_manifest,
)
from synthreid.render.layouts import make_layout


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
        ('path:pid\na.jpg:1\n', 'got path:pid'),
        ('image,name\na.jpg,1\n', 'got path, name: add pid, or rename'),
        ('path,pid\na.jpg,1\na.jpg,-\n', "row 3 has '-' .1 in all.*-1 for junk"),
        ('path,pid,camid\na.jpg,1,NaN\n', "column camid of .*row 2 has 'NaN'"),
        ('path,pid,domain\na.jpg,1,null\n', "column domain of .*row 2 has 'null'"),
        ('file,image,pid\na.jpg,a.jpg,1\n', "'path' 2 times .file, image."),
        ('path,pid\nmissing.jpg,1\n', 'found nothing'),
        ('path,pid,camid\na.jpg,1,-2\n', 'got camera -2'),
    ],
)
def test_bad_manifests(content, problem, tmp_path):
    touch(tmp_path, ['a.jpg'])
    (tmp_path / 'm.csv').write_text(content)
    with pytest.raises(UserError, match=problem):
        read_manifest(tmp_path / 'm.csv')


@pytest.mark.parametrize(
    'missing',
    [
        '',
        ' ',
        'NaN',
        'nan',
        '-nan',
        'NA',
        'n/a',
        'N/A',
        '#N/A',
        'null',
        'NULL',
        '<NA>',
        'NONE',
        'None',
        '-',
        '?',
        'Unknown',
    ],
)
def test_a_missing_identity_is_no_person(missing, tmp_path):
    "In a table by its row, in a folder or file name by the picture; cameras likewise."
    touch(tmp_path, [f'{i}.jpg' for i in range(4)])
    for column, labels in (('pid', f'1,{missing},2,2'), ('camid', f'1,{missing},2,2')):
        pids, cams = (labels if c == column else '1,1,2,2' for c in ('pid', 'camid'))
        rows = [f'{i}.jpg,{p},{c}' for i, (p, c) in enumerate(zip(pids.split(','), cams.split(',')))]
        (tmp_path / 'm.csv').write_text('\n'.join(['path,pid,camid', *rows]))
        with pytest.raises(UserError, match=f'column {column} of .*, row 3 has .*1 in all'):
            read_manifest(tmp_path / 'm.csv')
    for what, keys in (('identity', ((missing,), ('1',))), ('camera', (('1',), (missing,)))):
        with pytest.raises(UserError, match=f'{what} for every picture of d, got .* for a.jpg'):
            build_dataset('d', [('a.jpg', 'train', *keys)])
    if '/' not in missing and missing.strip():
        touch(tmp_path / 'people', [f'{missing}/1.jpg', '8/1.jpg'])
        with pytest.raises(UserError, match=f'{re.escape(missing)}/1.jpg'):
            load_dataset('folders', tmp_path / 'people')


def test_pandas_and_what_it_writes(tmp_path):
    "Gaps make floats of numbers; words that end in .0 stay what they are."
    touch(tmp_path, [f'{i}.jpg' for i in range(4)])
    table = pd.DataFrame(dict(path=[f'{i}.jpg' for i in range(4)], pid=[3.0, 7.0, 7.0, None], camid=[1, 2, 1, 2]))
    table.to_csv(tmp_path / 'm.csv', index=False, na_rep='NULL')
    with pytest.raises(UserError, match="row 5 has 'NULL'"):
        read_manifest(tmp_path / 'm.csv')
    table[:3].to_csv(tmp_path / 'm.csv', index=False)
    assert read_manifest(tmp_path / 'm.csv').train.pids.tolist() == [3, 7, 7]
    table['pid'] = ['v1.0', 'v1', 'v1.0', 'v2']
    table.to_csv(tmp_path / 'm.csv', index=False)
    pids = read_manifest(tmp_path / 'm.csv').train.pids
    assert pids[0] == pids[2] and len(set(pids)) == 3


def test_a_word_among_numbers_and_junk_to_learn_from_are_said(tmp_path):
    touch(tmp_path, [f'{i}.jpg' for i in range(4)])
    table = pd.DataFrame(dict(path=[f'{i}.jpg' for i in range(4)], pid=['3', '7', 'x9', '-1'], camid=[1, 2, 1, 2]))
    table.to_csv(tmp_path / 'm.csv', index=False)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        assert len(read_manifest(tmp_path / 'm.csv').train) == 3
    found = {w.message.name: [Path(f).name for f in w.message.files] for w in said}
    assert found == {'words_among_numbers': ['2.jpg'], 'junk_in_train': ['3.jpg']}
    touch(tmp_path / 'people', ['-1/a.jpg', '7/b.jpg', '8/c.jpg'])
    with pytest.warns(Concern, match='1 training pictures .* below 0 .*-1/a.jpg.*another name, in the folder'):
        assert load_dataset('folders', tmp_path / 'people').train.pids.tolist() == [7, 8]


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-8-sig', 'utf-16', 'utf-16-le', 'utf-16-be'])
@pytest.mark.parametrize('sep', [',', ';', '\t', '|'])
def test_tables_as_spreadsheets_save_them(encoding, sep, tmp_path):
    touch(tmp_path, ['Zoë/a.jpg', 'b;c.jpg', 'd,e.jpg'])
    table = pd.DataFrame(
        {'File Name': ['Zoë\\a.jpg', 'b;c.jpg', 'd,e.jpg'], 'Person-ID': ['7', '8', '8'], 'CAMERA': [1, 2, 1], 'x': ''}
    )
    table.to_csv(tmp_path / 'm.csv', sep=sep, index=False, encoding=encoding, lineterminator='\r\n')
    if encoding in ('utf-16-le', 'utf-16-be'):  # without its mark
        with pytest.raises(UserError, match='save it as CSV UTF-8'):
            read_manifest(tmp_path / 'm.csv')
        return
    d = load_dataset('auto', tmp_path / 'm.csv')
    assert d.train.pids.tolist() == [7, 8, 8] and d.train.camids.tolist() == [1, 2, 1] and d.rule == 'market1501'
    assert d.train.paths.tolist() == [f'{tmp_path}/{n}' for n in ('Zoë/a.jpg', 'b;c.jpg', 'd,e.jpg')]


def test_a_name_with_a_backslash_is_found_first(tmp_path):
    touch(tmp_path, ['a\\b.jpg', 'a/b.jpg'])
    (tmp_path / 'm.csv').write_text('path,pid\na\\b.jpg,1\n')
    assert read_manifest(tmp_path / 'm.csv').train.paths.tolist() == [f'{tmp_path}/a\\b.jpg']


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


def test_a_column_id_names_people_only_where_no_other_does(tmp_path):
    (tmp_path / 'a.jpg').touch()
    for head, row, pid in (('filename\tID\tCam', 'a.jpg\t7\t2', 7), ('Image;id;Person', 'a.jpg;1;9', 9)):
        (tmp_path / 'list.csv').write_text(f'{head}\n{row}\n')
        assert load_dataset('manifest', tmp_path / 'list.csv').train.pids.tolist() == [pid]
