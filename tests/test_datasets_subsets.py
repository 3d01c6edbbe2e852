"""Fixed subsets, several sources together, a test of one's own, and a data set as a value."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from folders import touch

from synthreid.core import UserError
from synthreid.data.datasets import (
    DatasetSpec,
    ReidSplit,
    hold_out,
    load_dataset,
    merge_sources,
    take_subset,
    write_manifest,
)
from synthreid.render.layouts import make_layout


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


@pytest.mark.parametrize('options', [dict(per_id=0), dict(per_id=-1), dict(ids=0), dict(per_id=2.5)])
def test_wrong_subsets_are_refused_before_reading(options, tmp_path):
    with pytest.raises(UserError, match=f'expected {next(iter(options))} of at least 1'):
        load_dataset('auto', tmp_path / 'nowhere', **options)


def test_hold_out_needs_somebody_who_asks():
    with pytest.raises(UserError, match='one each'):
        hold_out(ReidSplit(list('abcd'), [1, 2, 3, 4], [0, 1, 0, 1]), 0.5)


def test_a_data_set_is_a_value(tmp_path):
    make_layout('pattern', tmp_path / 'own')
    spec = DatasetSpec(tmp_path / 'own', pattern='{split}/{pid}-cam{cam}-{*}.png')
    again = DatasetSpec(**json.loads(json.dumps(asdict(spec))))
    assert again == spec and spec.layout == 'pattern' and spec.root == str(tmp_path / 'own')
    for s, other in zip(spec.load().splits.values(), load_dataset(again).splits.values()):
        assert s.paths.tolist() == other.paths.tolist() and s.pids.tolist() == other.pids.tolist()
    assert spec.load(ids=1, seed=3).train.n_ids == load_dataset(spec, ids=1, seed=3).train.n_ids == 1
    assert DatasetSpec('x', 'Market-1501').layout == 'market1501'


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(layout='market1502'), "got 'market1502'"),
        (dict(pattern='{who}.jpg'), 'got {who}'),
        (dict(pattern='{pid}.jpg', layout='market1501'), 'leave one of the two out'),
    ],
)
def test_a_wrong_value_is_refused_when_it_is_made(wrong, message):
    with pytest.raises(UserError, match=message):
        DatasetSpec('data', **wrong)
