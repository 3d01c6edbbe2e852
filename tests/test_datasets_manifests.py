"""Tables of pictures: what is wrong with them, and that reading gives what was written."""

import os
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
