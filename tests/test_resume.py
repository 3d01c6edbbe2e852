"""A run that is killed with SIGKILL in the middle and started again ends as one that was not: the same weights and
optimiser states, and a log of the same steps."""

import os
import signal
import sys
import time

import forked
import pytest
import torch

from synthreid.render.folder import render_folder
from synthreid.training.checkpoint import list_checkpoints
from synthreid.training.hooks import read_metrics

SMALL = (
    '--size 32x16 --steps 60 --warmup-steps 4 --batch-size 4 --reid-batch 8 --dim 8 --n-blocks 1 --discriminator-dim 8'
    ' --head basic --head-layers [1] --head-widths [16] --n-patches 16 --device cpu --checkpoint-every 5'
    ' --sample-every 0'
).split()


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for domain in ('game', 'camera'):
        render_folder(root / domain, domain, ids=8, per_id=6, size='32x16', workers=1, progress=False)
    return root


def command(root, out):
    return [
        sys.executable,
        '-c',
        'from synthreid.cli import main; raise SystemExit(main())',
        'train',
        'joint',
        '--source',
        str(root / 'game'),
        '--target',
        str(root / 'camera'),
        '--out',
        str(out),
        *SMALL,
    ]


def test_kill_and_go_on(folders, tmp_path):
    assert forked.run(command(folders, tmp_path / 'whole')).returncode == 0
    victim = forked.start(command(folders, tmp_path / 'cut'))
    deadline = time.monotonic() + 300
    while len(list_checkpoints(tmp_path / 'cut' / 'checkpoints')) < 3:
        assert victim.poll() is None and time.monotonic() < deadline, 'the run ended before it could be killed'
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    before = list_checkpoints(tmp_path / 'cut' / 'checkpoints')[-1].name
    assert before != 'step_00000060', 'it was killed in the middle'
    again = forked.run(command(folders, tmp_path / 'cut'))
    assert again.returncode == 0, again.stderr
    last = [list_checkpoints(tmp_path / run / 'checkpoints')[-1] for run in ('whole', 'cut')]
    assert last[0].name == last[1].name == 'step_00000060'
    assert (last[0] / 'nets.safetensors').read_bytes() == (last[1] / 'nets.safetensors').read_bytes()
    a, b = (torch.load(c / 'opts.pt', weights_only=True) for c in last)
    torch.testing.assert_close(a, b, rtol=0, atol=0)
    logs = [read_metrics(tmp_path / run / 'metrics.csv') for run in ('whole', 'cut')]
    assert sorted({step for step, *_ in logs[0]}) == [20, 40, 60]
    assert logs[0] == logs[1], 'means over the same steps: those since the last row are in the checkpoint'


def test_interrupt_saves_and_says_so(folders, tmp_path):
    run = forked.start([*command(folders, tmp_path / 'run'), '--steps', '5000'])
    deadline = time.monotonic() + 300
    while not list_checkpoints(tmp_path / 'run' / 'checkpoints'):
        assert run.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    said = run.communicate(timeout=480)[1]
    assert 'stopping after this step' in said
    assert run.returncode == 130 and 'of 5000, saved in' in said and 'run the same command to go on' in said
    assert not list((tmp_path / 'run' / 'checkpoints').glob('.*')), 'nothing half-written is left'
