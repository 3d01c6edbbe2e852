"""A method outside of the package, by its address: trained by command, found again, or said to be missing."""

import subprocess
import sys

import pytest

from synthreid.cli import main
from synthreid.core import UserError
from synthreid.render.folder import render_folder
from synthreid.training.checkpoint import read_meta, save_checkpoint
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.runs import find_checkpoint, load_method

METHOD = '''
from dataclasses import dataclass

import torch

from synthreid.training.direct import DirectConfig, DirectTransfer


@dataclass
class MineConfig(DirectConfig):
    "Settings of mine."

    gain: float = 2.0  # of the features


class Mine(DirectTransfer):
    "Features, twice as long."

    name, Config = 'mine', MineConfig

    @torch.no_grad()
    def embed(self, images):
        return self.config.gain * super().embed(images)
'''
# -P: no folder is on the path by itself, as for the installed command
COMMAND = [sys.executable, '-P', '-c', 'from synthreid.cli import main; raise SystemExit(main())']


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    root = tmp_path_factory.mktemp('home')
    render_folder(root / 'game', 'game', ids=8, per_id=6, size='32x16', workers=0, progress=False)
    (root / 'my_module.py').write_text(METHOD)
    return root


def call(folder, *argv):
    done = subprocess.run([*COMMAND, *map(str, argv)], cwd=folder, capture_output=True, text=True, timeout=1200)
    return done.returncode, done.stdout, done.stderr


TRAIN = (
    *('train', 'my_module:Mine', '--source', 'game', '--out', 'run', '--size', '32x16', '--backbone', 'resnet_small'),
    *('--steps', '2', '--batch-size', '4', '--gain', '3', '--device', 'cpu'),
)


def test_by_command(home):
    assert call(home, *TRAIN)[:2] == (0, '2 of 2 steps done in run\n')
    meta = read_meta(find_checkpoint(home / 'run'))
    assert (meta['method'], meta['config']['gain']) == ('my_module:Mine', 3)
    code, said, err = call(home, 'evaluate', 'run', '--target', 'game', '--device', 'cpu')
    assert code == 0 and 'market1501' in said, err
    away = home / 'elsewhere'
    away.mkdir()
    code, _, err = call(away, 'evaluate', home / 'run', '--target', home / 'game', '--device', 'cpu')
    assert code == 2 and "the module 'my_module'" in err and 'Traceback' not in err


@pytest.fixture
def path(monkeypatch):
    monkeypatch.setattr(sys, 'path', [p for p in sys.path if p])  # restored afterwards


def test_a_run_folder_brings_no_code(home, tmp_path, path, monkeypatch):
    kind = DirectTransfer(DirectConfig(size='32x16', backbone='resnet_small'), 8)
    kind.extra['method'] = 'code_in_run:Mine'
    save_checkpoint(kind, tmp_path / 'run' / 'checkpoints', 1)
    (tmp_path / 'run' / 'code_in_run.py').write_text('raise SystemExit("code of a run folder")')
    monkeypatch.chdir(tmp_path / 'run')
    with pytest.raises(UserError, match='its code is not run'):
        load_method('.', 'cpu')


def test_what_is_no_method(home, path, monkeypatch, capsys):
    (home / 'broken.py').write_text('import no_such_package')
    monkeypatch.chdir(home)
    for name, part in {
        'my_module:Nobody': "a class 'Nobody'",
        'my_module:MineConfig': 'inherits from',
        'no_module:Mine': "the module 'no_module'",
        'broken:Mine': 'no_such_package',
        'mine': 'expected a method of',
    }.items():
        assert main(['train', name, '--source', 'game', '--out', 'x']) == 2
        assert part in capsys.readouterr().err, name
    assert not (home / 'x').exists()
