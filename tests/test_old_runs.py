"""Run folders of the version before runs were values: they load, embed, evaluate, translate, go on and are explored."""

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from synthreid.cli import main
from synthreid.core import to_signed
from synthreid.data.datasets import DatasetSpec
from synthreid.data.store import load_images
from synthreid.training.checkpoint import read_meta
from synthreid.training.methods import make_config
from synthreid.training.provenance import find_data, seen_in_training
from synthreid.training.runs import Run, find_checkpoint, load_method
from synthreid.visual.dashboard import Dashboard
from synthreid.visual.embedding import EmbeddingExplorer
from synthreid.visual.ranked import RankedExplorer

STORED = Path(__file__).parent / 'fixtures' / 'old_runs'
THEN = json.loads((STORED / 'expected.json').read_text())
# the last bits of a convolution depend on the processor and on torch: bit for bit where both are those of the fixture
SAME_MACHINE = (THEN['torch'], THEN['cpu']) == (torch.__version__, torch.backends.cpu.get_cpu_capability())


@pytest.fixture
def old(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    shutil.unpack_archive(STORED / 'runs.tar.xz', tmp_path)
    yield tmp_path / 'old_runs'
    torch.set_num_threads(threads)


def images_of(run):
    "What the old version trained on: all labelled images, and the first two cameras of the target."
    specs = find_data(run)
    source = load_images(specs['source'].load().labelled().relabel(), '32x16', progress=False)
    target = load_images(specs['target'].load().train, '32x16', progress=False)
    return source, target[target.camids < 2]


def close(got, expected):
    np.testing.assert_allclose(got, expected, rtol=1e-6 if SAME_MACHINE else 1e-3, atol=1e-7 if SAME_MACHINE else 1e-3)


@pytest.mark.parametrize('name', ['joint', 'direct'])
def test_loads_and_embeds_the_same_numbers(old, name):
    method, then = load_method(old / 'runs' / name, 'cpu'), THEN[name]
    x = to_signed(images_of(old / 'runs' / name)[0].images[:3])
    features = method.embed(x).double()
    close(features[:, :8], then['embedding'])
    close(features.norm(dim=1), then['embedding_norm'])
    assert method.translates == (name == 'joint') and not method.swaps
    if method.translates:
        close(method.translate(x).double().mean((2, 3)), then['translation'])


@pytest.mark.parametrize('name', ['joint', 'direct'])
def test_evaluates(old, name, capsys):
    run = old / 'runs' / name
    assert main(['evaluate', str(run), '--target', str(old / 'data' / 'camera'), '--device', 'cpu']) == 0
    assert 'market1501' in capsys.readouterr().out
    (row,) = read_meta(find_checkpoint(run))['metrics']
    assert row['mAP'] == pytest.approx(THEN[name]['mAP'], abs=1e-9 if SAME_MACHINE else 0.05)
    assert row['rank1'] == pytest.approx(THEN[name]['rank1'], abs=1e-9 if SAME_MACHINE else 0.06)
    assert seen_in_training(run, find_data(run)['target'].load()) == '', 'the record of training images is read'
    assert 'NO CLEAN TEST' in seen_in_training(run, find_data(run)['source'].load())


def test_translates(old, tmp_path):
    out, game = tmp_path / 'translated', old / 'data' / 'game' / 'bounding_box_train'
    run = str(old / 'runs' / 'joint' / 'checkpoints' / 'step_00000004')
    assert main(['translate', str(game), '--run', run, '--out', str(out), '--device', 'cpu']) == 0
    assert len(list(out.glob('*.png'))) == len(list(game.iterdir()))


@pytest.mark.parametrize('name', ['joint', 'direct'])
def test_goes_on_as_it_would_have(old, name):
    folder, then = old / 'runs' / name, THEN[name]
    config = make_config(name, yaml.safe_load((folder / 'config.yaml').read_text())['config'])
    source, target = images_of(folder)
    seen = (source, target if name == 'joint' else None)
    run = Run(folder, name, config, device='cpu')
    run.check(*seen)
    assert not run.is_finished(*seen)
    method, done = run.train(*seen, checkpoint_every=4, sample_every=0, tensorboard=False, progress=False)
    assert done == 6 and run.is_finished(*seen)
    close(method.embed(to_signed(source.images[:3])).double()[:, :8], then['embedding_6'])
    if SAME_MACHINE:
        weights = (folder / 'checkpoints' / 'step_00000006' / 'nets.safetensors').read_bytes()
        assert hashlib.sha256(weights).hexdigest() == then['step_6']


@pytest.mark.parametrize('name', ['joint', 'direct'])
def test_its_data_are_found_and_explored(old, name):
    run, home = old / 'runs' / name, old.resolve() / 'data'
    assert json.loads((run / 'data.json').read_text())['source'].keys() == {'folder', 'from_here'}, 'as it was noted'
    assert find_data(run) == {'source': DatasetSpec(str(home / 'game')), 'target': DatasetSpec(str(home / 'camera'))}
    board = Dashboard(run, compare='none', device='cpu')
    assert isinstance(board.lists(), RankedExplorer), board.lists()
    assert isinstance(board.features(n=6, umap=False), EmbeddingExplorer), board.features()
