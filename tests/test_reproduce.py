"""Results belong to what they were made of; rows that need others; rows of other systems."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthreid import reproduce as module
from synthreid.core import UserError
from synthreid.data.datasets import DatasetSpec, load_dataset, write_manifest
from synthreid.render.folder import render_folder
from synthreid.render.layouts import make_layout
from synthreid.reproduce import (
    Folders,
    Options,
    _published_numbers,
    check_job,
    comparison_table,
    fitting_rows,
    load_recipes,
    plan,
    prepare_row,
    recipe_config,
    reproduce,
)
from synthreid.training import runs
from synthreid.training.checkpoint import list_checkpoints
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.methods import METHODS

JOINT = '''
title: joint, tiny
system: mine
origin: here
method: joint
epochs: 1
source: {combineall: true}
settings: {dim: 8, n_blocks: 1, discriminator_dim: 8, head: basic, head_layers: [1], head_widths: [16], n_patches: 16,
  batch_size: 4, reid_batch: 8}
test: {flip: false}
'''
DIRECT = (
    JOINT.split('settings')[0].replace('joint', 'direct')
    + 'settings: {backbone: resnet_small, batch_size: 8}\ntest: {flip: false}\n'
)
QUICK = dict(steps=4, size='32x16', device='cpu', progress=False)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for domain in ('game', 'camera'):
        render_folder(root / domain, domain, ids=8, per_id=6, size='32x16', workers=1, progress=False)
    return root


@pytest.fixture
def recipes(tmp_path):
    folder = tmp_path / 'recipes'
    folder.mkdir()
    (folder / 'mine_joint.yaml').write_text(JOINT)
    (folder / 'mine_direct.yaml').write_text(DIRECT)
    return folder


def folders(data, **changes):
    return replace(Folders(DatasetSpec(data / 'game'), DatasetSpec(data / 'camera')), **changes)


def test_an_interrupted_translator_is_trained_to_its_end(data, recipes, tmp_path, monkeypatch):
    fit = runs.fit
    # Ctrl-C after two steps
    monkeypatch.setattr(runs, 'fit', lambda m, b, steps, *rest, **more: fit(m, b, 2, *rest, **more))
    with pytest.raises(KeyboardInterrupt, match='2 of 4'):
        reproduce('mine', folders(data), tmp_path / 'out', ['joint'], [0], recipe_folder=recipes, **QUICK)
    monkeypatch.undo()
    run = tmp_path / 'out' / 'mine' / 'joint' / 'seed_0'
    assert list_checkpoints(run / 'checkpoints')[-1].name == 'step_00000002'
    (recipes / 'mine_after.yaml').write_text(DIRECT + 'translate_with: joint\n')
    reproduce('mine', folders(data), tmp_path / 'out', ['after'], [0], recipe_folder=recipes, **QUICK)
    assert list_checkpoints(run / 'checkpoints')[-1].name == 'step_00000004' and (run / 'results.json').exists()
    (kept,) = (list_checkpoints(run / 'checkpoints')[-1] / 'translated').iterdir()
    seen = [np.load(tmp_path / 'out' / 'mine' / row / 'seed_0' / 'trained_on.npz') for row in ('after', 'joint')]
    assert seen[0]['unlabelled'].tolist() == seen[1]['unlabelled'].tolist() != [], (
        'what the translator saw counts as seen'
    )


def manifest(data, out, **changes):
    d = load_dataset('auto', data)
    for k, v in changes.items():
        setattr(d, k, v(getattr(d, k)))
    return write_manifest(d, out)


def test_a_result_is_that_of_these_images_and_labels(data, recipes, tmp_path):
    shutil.copytree(data, tmp_path / 'data')
    camera, game = manifest(tmp_path / 'data/camera', tmp_path / 'data/camera.csv'), tmp_path / 'data' / 'game'
    here = lambda target=camera, **more: reproduce(
        'mine',
        Folders(DatasetSpec(game), DatasetSpec(target)),
        tmp_path / 'out',
        ['direct'],
        [0],
        recipe_folder=recipes,
        **{**QUICK, **more},
    )
    first, run = here(), tmp_path / 'out/mine/direct/seed_0'
    results = lambda: len(json.loads((run / 'results.json').read_text()))
    assert here().equals(first) and results() == 1
    # the same pictures under other labels in the test: measured again, the first result stays
    camera.unlink()
    manifest(
        tmp_path / 'data/camera',
        camera,
        gallery=lambda s: replace(s, pids=np.where(s.pids > 0, np.roll(s.pids, 1), s.pids)),
    )
    assert not here().equals(first) and results() == 2
    camera.unlink()
    manifest(tmp_path / 'data/camera', camera)
    assert here().equals(first) and results() == 2
    # other people to train on: refused, whatever the folder is called
    path = Path(load_dataset('auto', game).train.paths[0])
    saved = path.read_bytes()
    Image.new('RGB', (16, 32), 'red').save(path)
    with pytest.raises(UserError, match='labelled 48 images of 8 people, .* there, 48 images of 8 people'):
        here()
    path.write_bytes(saved)
    with pytest.raises(UserError, match='precision 32-true there, bf16-mixed here.*choose another --out'):
        here(precision='bf16-mixed')
    (recipes / 'mine_direct.yaml').write_text(DIRECT.replace('epochs: 1', 'epochs: 1\nwarmup_epochs: 1'))
    with pytest.raises(UserError, match='warmup 0 there, 4 here'):
        here()
    (recipes / 'mine_direct.yaml').write_text(DIRECT.replace('flip: false', 'flip: true'))
    here()
    assert results() == 3, 'tested in another way'


def test_everything_may_be_moved(data, recipes, tmp_path, monkeypatch):
    shutil.copytree(data, tmp_path / 'a' / 'data')
    go = lambda root: reproduce(
        'mine', folders(root / 'data'), root / 'out', ['direct'], [0], recipe_folder=recipes, **QUICK
    )
    first = go(tmp_path / 'a')
    (tmp_path / 'a').rename(tmp_path / 'b')
    monkeypatch.setattr(module, 'Run', None)  # would fail
    assert go(tmp_path / 'b').equals(first)
    monkeypatch.chdir(tmp_path / 'b')
    assert go(Path('.')).equals(first)


def test_an_old_results_file_that_says_less_is_not_believed(data, recipes, tmp_path):
    reproduce('mine', folders(data), tmp_path, ['direct'], [0], recipe_folder=recipes, **QUICK)
    path = tmp_path / 'mine/direct/seed_0/results.json'
    old = json.loads(path.read_text())
    del old[0]['trained']['labelled']
    path.write_text(json.dumps(old))
    with pytest.raises(UserError, match='labelled None there'):
        reproduce('mine', folders(data), tmp_path, ['direct'], [0], recipe_folder=recipes, **QUICK)
    path.write_text('{')
    with pytest.raises(UserError, match='remove the file to measure again'):
        reproduce('mine', folders(data), tmp_path, ['direct'], [0], recipe_folder=recipes, **QUICK)


@dataclass
class PupilConfig(DirectConfig):
    "A direct method with a teacher."

    teacher: str | None = None


class Pupil(DirectTransfer):
    "Learns beside a teacher."

    name, Config = 'pupil', PupilConfig

    def __init__(self, config, n_ids, n_cameras=1, seed=0, device='cpu', teacher=None):
        super().__init__(config, n_ids, n_cameras, seed, device)
        self.teacher = teacher

    @classmethod
    def builds_on(cls, config):
        return {'teacher': config.teacher} if config.teacher else {}


def test_a_teacher_is_another_row(data, recipes, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, 'pupil', Pupil)
    (recipes / 'mine_pupil.yaml').write_text(
        DIRECT.replace('method: direct', 'method: pupil') + 'teacher: direct\nlabels: target\n'
    )
    (recipes / 'mine_direct.yaml').write_text(DIRECT + 'labels: target\n')
    real = Folders(None, DatasetSpec(data / 'camera'))
    check_job(
        prepare_row(load_recipes('mine', recipes)['pupil'], real, tmp_path, 0, Options(recipe_folder=recipes, **QUICK))
    )
    table = reproduce('mine', real, tmp_path, ['pupil'], [0], recipe_folder=recipes, **QUICK)
    run = tmp_path / 'mine' / 'pupil' / 'seed_0'
    assert len(table) == 2 and f'teacher: {tmp_path}/mine/direct/seed_0' in (run / 'config.yaml').read_text()
    assert runs.load_method(run, 'cpu').teacher is None, 'not needed to use it'
    (recipes / 'mine_direct.yaml').write_text(DIRECT + 'labels: target\nteacher: pupil\n')
    with pytest.raises(UserError):
        load_recipes('mine', recipes)  # the direct method has no teacher


def test_people_trained_on_are_named_in_the_table(data, recipes, tmp_path):
    (recipes / 'mine_direct.yaml').write_text(DIRECT + 'labels: target\n')  # combineall: the gallery is trained on
    table = reproduce(
        'mine', Folders(None, DatasetSpec(data / 'camera')), tmp_path, ['direct'], [0], recipe_folder=recipes, **QUICK
    )
    assert 'NO CLEAN TEST: 24 of 48 test images (4 of 4 people) were trained on' in table.row[0]
    assert 'NO CLEAN TEST' in (tmp_path / 'mine' / 'table.md').read_text()


def test_the_table_gathers_what_earlier_calls_measured(data, recipes, tmp_path):
    for row in ('direct', 'joint'):
        table = reproduce('mine', folders(data), tmp_path, [row], [0], recipe_folder=recipes, **QUICK)
    assert len(table) == 2 and len((tmp_path / 'mine' / 'table.csv').read_text().splitlines()) == 3


def test_all_rows_that_cannot_run_are_named(data, recipes, tmp_path):
    for name in ('first', 'second'):
        (recipes / f'mine_{name}.yaml').write_text(DIRECT + 'labels: target\n')
    with pytest.raises(UserError, match='^rows first, direct, second: [^|]*$'):  # the same cause once
        reproduce(
            'mine',
            folders(data),
            tmp_path,
            ['first', 'direct', 'second'],
            [0],
            recipe_folder=recipes,
            **{**QUICK, 'precision': 'half'},
        )


def test_broken_images_are_refused_or_skipped(data, recipes, tmp_path):
    for domain, part in (('game', 'bounding_box_train'), ('camera', 'bounding_box_test')):
        shutil.copytree(data / domain, tmp_path / domain)
        sorted((tmp_path / domain / part).glob('0*'))[-1].write_bytes(b'no picture')
    run = lambda **more: reproduce(
        'mine', folders(tmp_path), tmp_path / 'out', ['joint'], [0], recipe_folder=recipes, **QUICK, **more
    )
    n = len(load_dataset('auto', tmp_path / 'game', combineall=True).train)
    with pytest.raises(UserError, match='could not read 1.*--on-broken skip'):
        run()
    with pytest.warns(UserWarning, match='1 of .* images left out'):
        table = run(on_broken='skip')
    (kept,) = json.loads((tmp_path / 'out' / 'mine' / 'joint' / 'seed_0' / 'results.json').read_text())
    assert len(table) == 1 and kept['row']['n_source'] == n - 1 and kept['row']['published_protocol_after'] > 0


def test_published_columns_of_any_system(recipes):
    recipe = replace(load_recipes('mine', recipes)['direct'], published={'market1501': {'mAP': 89.6, 'rank1': 95.8}})
    row = dict(
        row='direct',
        title='direct',
        target='market1501',
        tested='market1501',
        steps=4,
        published_steps=4,
        size='a',
        published_size='a',
        seen='',
        mAP=0.5,
        rank1=0.25,
    )
    table = comparison_table([dict(row, seed=0), dict(row, seed=1, mAP=0.7)], {'direct': recipe})
    assert table.to_dict('records') == [
        {
            'row': 'direct',
            'seeds': 2,
            'tested on': 'market1501',
            'mAP': '60.0 ± 14.1',
            'published mAP': 89.6,
            'rank-1': '25.0 ± 0.0',
            'published rank-1': 95.8,
        }
    ]


def test_a_target_without_training_images_is_refused_early(data, recipes, tmp_path):
    empty = manifest(data / 'camera', tmp_path / 'test only.csv', train=lambda s: s[:0])
    with pytest.raises(UserError, match='target'):
        reproduce(
            'mine',
            Folders(DatasetSpec(data / 'game'), DatasetSpec(empty)),
            tmp_path / 'out',
            ['joint'],
            [0],
            recipe_folder=recipes,
            dry_run=True,
            **QUICK,
        )


def test_rows_that_fit_the_folders(data, recipes, tmp_path):
    (recipes / 'mine_duke.yaml').write_text(DIRECT + 'labels: target\npublished: {dukemtmcreid: {mAP: 1.0}}\n')
    (recipes / 'mine_market.yaml').write_text(DIRECT + 'labels: target\npublished: {market1501: {mAP: 2.0}}\n')
    rows = load_recipes('mine', recipes)
    assert fitting_rows(rows, folders(data)) == ['direct', 'joint', 'market']
    assert fitting_rows(rows, folders(data, source=None)) == ['market']
    with pytest.raises(UserError, match='no source.*--source'):
        fitting_rows({k: rows[k] for k in ('direct', 'duke')}, folders(data, source=None))
    reproduce(
        'mine', folders(data, source=None), tmp_path, ['duke'], [0], recipe_folder=recipes, dry_run=True, **QUICK
    )  # named: as you like


@pytest.mark.parametrize('system', ['synthreid', 'flipreid', 'dgnet', 'selftrain'])
def test_recipes_that_come_with_the_package(system, tmp_path):
    for domain in ('game', 'camera'):
        render_folder(tmp_path / domain, domain, ids=24, per_id=6, size='32x16', workers=1, progress=False)
    rows, data = load_recipes(system), tmp_path
    assert all(r.origin and r.title for r in rows.values())
    jobs = [
        prepare_row(r, folders(data), tmp_path, 0, Options(**{**QUICK, 'steps': None}))
        for r in map(rows.get, fitting_rows(rows, folders(data)))
    ]
    assert all(j.published.steps >= j.recipe.epochs and j.run.parts[-3] == system for j in jobs)
    assert len(jobs) >= 2 and all(
        'market1501' in j.recipe.published or not j.recipe.published or j.recipe.labels == 'source' for j in jobs
    )


def test_a_plan_may_name_anything(data, recipes, tmp_path):
    "Braces in the name of a folder are no place for the seeds."
    named = shutil.copytree(data / 'camera', tmp_path / '{0}{cam}')
    here = folders(data, target=DatasetSpec(named))
    jobs = [prepare_row(load_recipes('mine', recipes)['direct'], here, tmp_path, s, Options(**QUICK)) for s in (3, 4)]
    (line,) = plan(jobs).splitlines()
    assert 'seeds [3, 4],' in line and 'tested on {0}{cam} (' in line


def test_rows_of_self_training_go_by_their_source(tmp_path):
    "With the synthetic set that a row was published for, with another one, with none; the label-free row beside them."
    rows, without = load_recipes('selftrain'), ['ca_jaccard', 'cluster_contrast', 'label_free_alone', 'proxies', 'spcl']
    render_folder(tmp_path / 'camera', 'camera', ids=8, per_id=4, size='32x16', workers=1, progress=False)
    for name in ('personx', 'randperson', 'unrealperson'):
        make_layout(name, tmp_path / name, ids=4)
        given = folders(tmp_path, source=DatasetSpec(tmp_path / name, name))
        assert fitting_rows(rows, given) == sorted([*without, 'label_free', name])
    assert fitting_rows(rows, folders(tmp_path, source=DatasetSpec(tmp_path / 'camera'))) == sorted(
        [*without, 'label_free']
    )
    assert fitting_rows(rows, folders(tmp_path, source=None)) == without
    assert all(r.tuned == 'nothing' if name.startswith('label_free') else 'eps' in r.tuned for name, r in rows.items())
    for row in rows.values():
        given = recipe_config(row, 1000)
        assert (row.labels == 'none') == (given.use_source == 'none'), (
            'nothing is learned from a source that is not there'
        )
        assert row.labels != 'none' or given.hold_out == 0
        assert [*row.published] != ['market1501', 'msmt17'], 'their schedules differ'
    made = dict(target='market1501', source='personx')
    assert _published_numbers(rows['personx'], **made)['mAP'] == 73.8
    assert _published_numbers(rows['personx'], **made | dict(source='syri')) == {}, 'not beside another source'


SELFTRAIN = """
title: clusters alone
system: mine
origin: here
method: selftrain
labels: none
settings: {backbone: resnet_small, batch_size: 8, images_per_id: 2, norm_group: 8, epochs: 1, k1: 6, eps: [0.5, 0.7],
  choose: agreement, keep: last, hold_out: 0.0, min_samples: 2, lr: 0.001}
epochs: 8
steps_per_epoch: 1
source: {}
test: {flip: false}
tuned: eps
published: {market1501: {mAP: 82.1, tested_on: market1501}}
"""


def test_a_row_without_any_source(data, recipes, tmp_path):
    "Trained, tested, told apart from those with labels; the people of the target change nothing."
    (recipes / 'mine_clusters.yaml').write_text(SELFTRAIN)
    given = dict(rows=['clusters'], seeds=[0], recipe_folder=recipes, **QUICK)
    table = reproduce('mine', folders(data, source=None), tmp_path / 'out', **given)
    assert table['chosen by labels of the target'].tolist() == ['eps'] and table['published mAP'].tolist() == [82.1]
    run = tmp_path / 'out' / 'mine' / 'clusters' / 'seed_0'
    row = json.loads((run / 'results.json').read_text())[0]['row']
    assert row['n_source'] == row['n_ids'] == 0 and row['source'] == ''
    one = load_dataset('market1501', data / 'camera')
    shuffled = replace(one, train=replace(one.train, pids=np.roll(one.train.pids, 7)))
    named = DatasetSpec(write_manifest(shuffled, tmp_path / 'others.csv'))
    reproduce('mine', folders(data, source=None, target=named), tmp_path / 'shuffled', **given)
    same = [list_checkpoints(tmp_path / k / 'mine/clusters/seed_0/checkpoints')[-1] for k in ('out', 'shuffled')]
    assert same[0].joinpath('nets.safetensors').read_bytes() == same[1].joinpath('nets.safetensors').read_bytes()
