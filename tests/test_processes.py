"""The number of processes changes nothing: weights to rounding in double precision; trouble in one of them ends all,
and the run goes on from its last checkpoint."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import several

TIMEOUT = 600  # a slow, busy machine


def free_port() -> str:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return str(s.getsockname()[1])


def start(command, world) -> list:
    "The same command as several processes, as `torchrun` starts them."
    place = dict(MASTER_ADDR='127.0.0.1', MASTER_PORT=free_port(), WORLD_SIZE=str(world), LOCAL_WORLD_SIZE=str(world))
    env = os.environ | place | dict(OMP_NUM_THREADS='1')
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ranks = [env | dict(RANK=str(r), LOCAL_RANK=str(r)) for r in range(world)]
    return [subprocess.Popen(command, env=e, **pipes) for e in ranks]


def finish(started, timeout=TIMEOUT) -> list:  # (exit code, stdout, stderr)
    try:
        said = [p.communicate(timeout=timeout) for p in started]
    finally:
        for p in started:
            p.kill()
    return [(p.returncode, *s) for p, s in zip(started, said)]


def trained(folder, world, *wrong) -> dict:
    folder.mkdir()
    ended = finish(start([sys.executable, several.__file__, str(folder), *wrong], world))
    assert all(code == 0 for code, _, _ in ended), ended
    return {file.stem: torch.load(file) for file in folder.glob('*.pt')}


@pytest.fixture(scope='module')
def alone():
    torch.set_num_threads(1)
    return {name: several.train(make) for name, make in several.METHODS.items()}


def distance(a, b) -> float:
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a if not k.startswith('loss'))


@pytest.mark.parametrize('world', [2, 3])
def test_weights_are_those_of_one_process(alone, tmp_path, world):
    found = trained(tmp_path / 'run', world)
    assert found.keys() == alone.keys()
    assert {name: d for name in alone if (d := distance(alone[name], found[name])) > 1e-12} == {}
    for name in alone:
        losses = {k: v for k, v in alone[name].items() if k.startswith('loss')}
        assert losses and all(torch.allclose(found[name][k], v, rtol=1e-6) for k, v in losses.items())


@pytest.mark.parametrize('wrong', ['own gradient only', 'local batch norm', 'noise by rank'])
def test_wrong_ways_are_seen(alone, tmp_path, wrong):
    assert distance(alone['direct'], trained(tmp_path / 'run', 2, wrong)['direct']) > 1e-6
