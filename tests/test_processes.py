"""The number of processes changes nothing: weights to rounding in double precision; trouble in one of them ends all,
and the run goes on from its last checkpoint."""

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import forked
import numpy as np
import pytest
import several
import torch
from safetensors.torch import load_file

from synthreid.cli import main
from synthreid.render.folder import render_folder
from synthreid.training.checkpoint import list_checkpoints, read_meta
from synthreid.training.hooks import read_metrics

TIMEOUT = 600  # a slow, busy machine


def free_port() -> str:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


TORCHRUN = dict(WORLD_SIZE='WORLD_SIZE', LOCAL_WORLD_SIZE='WORLD_SIZE', RANK='RANK', LOCAL_RANK='RANK')
SRUN = dict(SLURM_STEP_NUM_TASKS='WORLD_SIZE', SLURM_PROCID='RANK', SLURM_LOCALID='RANK')


def start(command, world, starter=TORCHRUN, begin=forked.start) -> list:
    "The same command as several processes, as `torchrun` starts them, or `srun`."
    env = os.environ | dict(MASTER_PORT=free_port(), OMP_NUM_THREADS='1')
    env |= dict(MASTER_ADDR='127.0.0.1') if starter is TORCHRUN else dict(SLURM_STEP_NODELIST='localhost')
    told = [dict(WORLD_SIZE=str(world), RANK=str(rank)) for rank in range(world)]
    ranks = [env | {name: one[what] for name, what in starter.items()} for one in told]
    return [begin(command, env=e) for e in ranks]


def fresh(command, **how):
    "With a Python of its own, which also ends as it does for users."
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **how)


def finish(started, timeout=TIMEOUT) -> list:  # (exit code, stdout, stderr)
    try:
        said = [p.communicate(timeout=timeout) for p in started]
    finally:
        for p in started:
            p.kill()
    return [(p.returncode, *s) for p, s in zip(started, said)]


def trained(folder, world, *wrong, starter=TORCHRUN) -> dict:
    folder.mkdir()
    ended = finish(start([sys.executable, several.__file__, str(folder), *wrong], world, starter))
    assert all(code == 0 for code, _, _ in ended), ended
    return {file.stem: torch.load(file) for file in folder.glob('*.pt')}


@pytest.fixture(scope='module')
def alone():
    torch.set_num_threads(1)
    return {name: several.train(make) for name, make in several.METHODS.items()}


def distance(a, b) -> float:
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a if not k.startswith('loss'))


@pytest.mark.parametrize('world, starter', [(2, TORCHRUN), (3, SRUN)], ids=['2', '3'])
def test_weights_are_those_of_one_process(alone, tmp_path, world, starter):
    found = trained(tmp_path / 'run', world, starter=starter)
    assert found.keys() == alone.keys()
    assert {name: d for name in alone if (d := distance(alone[name], found[name])) > 1e-12} == {}
    for name in alone:
        losses = {k: v for k, v in alone[name].items() if k.startswith('loss')}
        assert losses and all(torch.allclose(found[name][k], v, rtol=1e-6) for k, v in losses.items())


@pytest.mark.parametrize('wrong', ['own gradient only', 'local batch norm', 'noise by rank'])
def test_wrong_ways_are_seen(alone, tmp_path, wrong):
    assert distance(alone['direct'], trained(tmp_path / 'run', 2, wrong)['direct']) > 1e-6


# ---- runs

SMALL = (
    '--size 32x16 --steps 40 --warmup-steps 4 --batch-size 4 --reid-batch 16 --dim 8 --n-blocks 1 --discriminator-dim 8'
    ' --head basic --head-layers [1] --head-widths [16] --n-patches 16 --device cpu --checkpoint-every 5'
    ' --sample-every 0'
).split()
MAIN = 'from synthreid.cli import main; raise SystemExit(main())'
TROUBLE = """
import os, signal, sys, time, torch
from synthreid.training import joint
step, how = joint.JointTransfer.step, sys.argv.pop(1)
def spoilt(self, batch, i):
    if i == 17 and how == 'Ctrl-C':
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
    elif i == 17 and os.environ.get('RANK') == '1':
        if how == 'nan':
            batch['reid'].fill_(float('nan'))
        else:
            os.kill(os.getpid(), getattr(signal, how))
    return step(self, batch, i)
joint.JointTransfer.step = spoilt
"""


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for domain in ('game', 'camera'):
        render_folder(root / domain, domain, ids=8, per_id=6, size='32x16', workers=1, progress=False)
    return root


def train(root, out, *more, before=()):
    data = ['--source', str(root / 'game'), '--target', str(root / 'camera'), '--out', str(out)]
    return [sys.executable, '-c', ''.join(before[:1]) + MAIN, *before[1:], 'train', 'joint', *data, *SMALL, *more]


def same_end(a, b):
    last = [list_checkpoints(run / 'checkpoints')[-1] for run in (a, b)]
    assert last[0].name == last[1].name == 'step_00000040'
    assert (last[0] / 'nets.safetensors').read_bytes() == (last[1] / 'nets.safetensors').read_bytes()
    states = [torch.load(c / 'opts.pt', weights_only=True) for c in last]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    assert read_metrics(a / 'metrics.csv') == read_metrics(b / 'metrics.csv')


@pytest.fixture(scope='module')
def whole(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole') / 'run'
    ended = finish(start(train(folders, out), 2, begin=fresh))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert '40 of 40 steps done' in ended[0][1] and not ended[1][1], 'the first process speaks'
    assert len(read_metrics(out / 'metrics.csv')) == len(set(read_metrics(out / 'metrics.csv'))), 'rows come once'
    assert read_meta(list_checkpoints(out / 'checkpoints')[-1])['n_processes'] == 2
    return out


@pytest.mark.parametrize('how', ['nan', 'SIGTERM', 'SIGKILL', 'Ctrl-C'])
def test_trouble_in_one_ends_all_and_the_run_goes_on(folders, whole, tmp_path, how):
    "Ctrl-C reaches the whole group, and torchrun passes it on once more."
    out = tmp_path / 'run'
    started = start(train(folders, out, before=(TROUBLE, how)), 2)
    started[1].wait(TIMEOUT)
    since = time.monotonic()
    ended = finish(started)
    assert time.monotonic() - since < 60, 'seconds on a machine that is free'
    codes, said = [code for code, _, _ in ended], ended[0][2] + ended[1][2]
    saved = [c.name for c in list_checkpoints(out / 'checkpoints')]
    if how == 'SIGKILL':
        assert codes == [2, -9] and 'expected all processes to go on' in said and 'step_00000015' in said
    elif how == 'nan':
        assert codes == [2, 2] and said.count('expected finite losses') == 1 and 'step_00000015' in said
    else:
        assert codes == [130, 130] and said.count('stopped at step 18 of 40') == 1, ended
    assert saved[-1] == ('step_00000018' if how in ('SIGTERM', 'Ctrl-C') else 'step_00000015')
    assert not list(out.rglob('.*.tmp'))
    again = finish(start(train(folders, out), 2))
    assert [code for code, _, _ in again] == [0, 0], again
    same_end(whole, out)


def test_one_process_goes_on_where_two_stopped(folders, whole, tmp_path):
    out = tmp_path / 'run'
    shutil.copytree(whole, out)
    shutil.rmtree(list_checkpoints(out / 'checkpoints')[-1])
    again = forked.run(train(folders, out))
    assert again.returncode == 0, again.stderr
    a, b = (load_file(list_checkpoints(run / 'checkpoints')[-1] / 'nets.safetensors') for run in (whole, out))
    assert max((a[k] - b[k]).abs().max().item() for k in a) < 0.01 and a.keys() == b.keys()


@pytest.mark.parametrize(
    'more, said',
    [
        (['--batch-size', '5'], 'expected batch_size divisible by the 2 processes, got 5: use 4'),
        (['--reid-batch', '12'], 'expected people_in_reid_batch divisible by the 2 processes, got 3'),
        (['--compile'], 'expected one process for compile, got 2'),
        (['--device', 'cuda:1'], 'each process takes the GPU of its number'),
        (['--source', 'nowhere'], 'nowhere'),
    ],
)
def test_refused_in_one_sentence(folders, tmp_path, more, said):
    ended = finish(start(train(folders, tmp_path / 'run', *more), 2))
    assert [code for code, _, _ in ended] == [2, 2]
    assert sum(said in err for _, _, err in ended) == 1, ended
    assert not list(tmp_path.iterdir()), 'nothing was written or decoded'


def test_threads_of_several_wait_without_spinning(monkeypatch):
    "Set before torch is imported, which the command line does late."
    monkeypatch.setenv('OMP_WAIT_POLICY', 'active')
    monkeypatch.delenv('OMP_WAIT_POLICY')
    for name, value in dict(RANK='0', WORLD_SIZE='1').items():
        monkeypatch.setenv(name, value)
    assert main(['--version']) == 0 and os.environ['OMP_WAIT_POLICY'] == 'passive'


def test_other_commands_are_left_to_the_first(folders):
    ended = finish(start([sys.executable, '-c', MAIN, 'doctor', str(folders / 'camera')], 2))
    assert ended[1] == (0, '', '') and 'doctor is done by one process' in ended[0][2] and 'images' in ended[0][1]


COUNT = """
import atexit, os
from synthreid.training import joint
from synthreid.metrics import features, floors
seen = []
def counting(work):
    return lambda *args: seen.append(len(args[-1])) or work(*args)
for name in ('embed', 'translate'):
    setattr(joint.JointTransfer, name, counting(getattr(joint.JointTransfer, name)))
floors.pixel_embed = counting(floors.pixel_embed)
features.FeatureExtractor.prepare = counting(features.FeatureExtractor.prepare)
calibrate = features._some_prepared
def by_all(*args):
    n, found = len(seen), calibrate(*args)
    del seen[n:]
    return found
features._some_prepared = by_all
atexit.register(lambda: os.write(2, f'embedded {sum(seen)}'.encode()))
"""


LOST = """
import os
from synthreid.core import UserError
from synthreid.metrics import floors
found = floors.pretrained_features
def lost(**how):
    if os.environ['RANK'] == '1':
        raise UserError('expected the weights, got none: find them')
    return found(**how)
floors.pretrained_features = lost
"""


def check_a_floor_of_all_or_of_none(run, source, target):
    "What is not there in one process is a row without numbers, and nobody waits for ever."
    argv = ['evaluate', str(run), '--source', str(source), '--target', str(target), '--floors', '--device', 'cpu']
    ended = finish(start([sys.executable, '-c', LOST + MAIN, *argv], 2))
    assert [code for code, _, _ in ended] == [0, 0], ended
    assert 'pretrained features as they are: not there in all processes' in ended[0][1]


def check_evaluation_is_shared(run, source, target, tmp_path):
    "The numbers and records of one process, which embeds and translates everything; of three each does its part."
    given = ['--source', str(source), '--target', str(target), '--floors', '--device', 'cpu']
    given += ['--batch-size', '7', '--per-camera', 'centre', '--rerank']
    told, shares = [], []
    for world in (1, 3):
        own = tmp_path / f'run{world}'
        shutil.copytree(run, own)
        argv = ['evaluate', str(own), *given, '--json']
        ended = finish(start([sys.executable, '-c', COUNT + MAIN, *argv], world))
        assert [code for code, _, _ in ended] == [0] * world, ended
        assert [out for _, out, _ in ended[1:]] == [''] * (world - 1), 'the first process speaks'
        assert all(err.startswith('embedded ') for _, _, err in ended[1:]), ended
        meta = read_meta(list_checkpoints(own / 'checkpoints')[-1])
        told.append((ended[0][1].replace(str(own), ''), meta['metrics']))
        shares.append([int(err.split('embedded ')[1]) for _, _, err in ended])
    assert told[0] == told[1] and 're-ranked' in told[0][0] and len(told[0][1]) == 2
    assert sum(shares[1]) == shares[0][0] > max(shares[1]) and min(shares[1]) > 0


def test_embedding_translating_and_evaluating_are_shared(folders, tmp_path):
    "The same bytes as by one process, whoever made them; an error is told once."
    run, pictures = tmp_path / 'run', str(folders / 'game' / 'bounding_box_train')
    joint = '--size 32x16 --steps 2 --warmup-steps 1 --batch-size 4 --reid-batch 8 --dim 8 --n-blocks 1 --head basic'
    joint += ' --discriminator-dim 8 --head-layers [1] --head-widths [16] --device cpu'
    data = ['--source', str(folders / 'game'), '--target', str(folders / 'camera')]
    assert main(['train', 'joint', *data, '--out', str(run), *joint.split()]) == 0
    n = len(list((folders / 'game' / 'bounding_box_train').iterdir()))
    for world in (1, 2):
        given = ['--run', str(run), '--batch-size', '3', '--device', 'cpu', '--out']
        for command, out in ('embed', f'{world}.npz'), ('translate', str(world)):
            argv = [command, pictures, *given, str(tmp_path / out)]
            if world == 1:
                assert main(argv) == 0
                continue
            ended = finish(start([sys.executable, '-c', MAIN, *argv], world))
            assert [code for code, _, _ in ended] == [0, 0], ended
            assert str(n) in ended[0][1] and ended[1][1] == ''
    one, two = (np.load(tmp_path / f'{world}.npz') for world in (1, 2))
    assert one['features'].tobytes() == two['features'].tobytes() and (one['paths'] == two['paths']).all()
    made = [{p.name: p.read_bytes() for p in (tmp_path / str(world)).iterdir()} for world in (1, 2)]
    assert made[0] == made[1] and sum(name.endswith('.png') for name in made[0]) == n
    two = tmp_path / 'two'  # pictures, for three processes
    two.mkdir()
    for picture in sorted(Path(pictures).iterdir())[:2]:
        shutil.copy(picture, two)
    for world in (1, 3):
        argv = ['embed', str(two), '--run', str(run), '--device', 'cpu', '--out', str(tmp_path / f'of_two_{world}.npz')]
        ended = finish(start([sys.executable, '-c', MAIN, *argv], world))
        assert [code for code, _, _ in ended] == [0] * world, ended
    one, three = (np.load(tmp_path / f'of_two_{world}.npz') for world in (1, 3))
    assert one['features'].tobytes() == three['features'].tobytes() and len(three['paths']) == 2
    check_evaluation_is_shared(run, folders / 'game', folders / 'camera', tmp_path)
    check_a_floor_of_all_or_of_none(run, folders / 'game', folders / 'camera')
    # what it would take down at its end may abort: the other end of its connections is gone (here it does for sure)
    fragile = 'import atexit, os; atexit.register(os.abort); ' + MAIN
    again = [sys.executable, '-c', fragile, 'embed', pictures, *given, str(tmp_path / '2.npz')]
    again = finish(start(again, 2, begin=fresh))
    assert [code for code, _, _ in again] == [2, 2] and sum('is there already' in err for _, _, err in again) == 1


@pytest.mark.parametrize('machines', [1, 2])
def test_torchrun(folders, tmp_path, machines):
    "The commands of the documentation; two machines are two torchruns that meet at a port."
    program = shutil.which('synthreid', path=str(Path(sys.executable).parent) + os.pathsep + os.environ['PATH'])
    run = [sys.executable, '-m', 'torch.distributed.run', '--master_addr', '127.0.0.1', '--master_port', free_port()]
    run += ['--nnodes', str(machines), '--nproc_per_node', str(2 // machines)]
    command = [program, *train(folders, tmp_path / 'run')[3:], '--steps', '6']
    commands = [[*run, '--node_rank', str(rank), *command] for rank in range(machines)]
    ended = finish([fresh(c) for c in commands])
    assert [code for code, _, _ in ended] == [0] * machines, ended
    assert [said.count('6 of 6 steps done') for _, said, _ in ended] == [1, 0][:machines]
    assert [c.name for c in list_checkpoints(tmp_path / 'run' / 'checkpoints')] == ['step_00000005', 'step_00000006']


def test_one_process_in_a_batch_of_slurm(folders, tmp_path, monkeypatch):
    "An allocation for several tasks, of which nobody started any by srun: one process, as ever."
    for name, value in dict(SLURM_JOB_NAME='train', SLURM_NTASKS='4', SLURM_JOB_ID='7', SLURM_PROCID='0').items():
        monkeypatch.setenv(name, value)
    small = '--size 32x16 --steps 1 --batch-size 4 --backbone resnet_small --device cpu'.split()
    data = ['--source', str(folders / 'game'), '--out', str(tmp_path / 'run')]
    assert main(['train', 'direct', *data, *small]) == 0
