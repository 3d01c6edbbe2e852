"""One process at a time writes into a folder: another one ends with exit code 2 and the name of the first, and a
process that was killed holds nothing."""

import json
import os
import signal
import sys
import threading
import time

import forked
import pytest

from synthreid.core import UserError, is_new, lock_folder
from synthreid.render.folder import render_folder
from synthreid.training.checkpoint import list_checkpoints

TINY = '--size 32x16 --backbone resnet_small --weights null --batch-size 4 --images-per-id 2 --device cpu'.split()


def train(root, out, *more):
    return [
        sys.executable,
        '-c',
        'import sys; from synthreid.cli import main; sys.argv[0] = "synthreid"; raise SystemExit(main())',
        *('train', 'direct', '--source', str(root), '--out', str(out), *TINY, *more),
    ]


def holder(folder):
    "Number of the process that wrote itself down last."
    try:
        return json.loads((folder / '.lock.json').read_text())['pid']
    except FileNotFoundError:
        return None


def wait_for(ready, process, seconds=600):
    deadline = time.monotonic() + seconds
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def end(process):
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=600)
    return process.returncode


def test_two_trainings_and_a_kill(tmp_path):
    root = render_folder(tmp_path / 'game', 'game', ids=6, per_id=4, size='32x16', workers=0, progress=False)
    out = tmp_path / 'run'
    long = ('--steps', '1000000', '--checkpoint-every', '5')
    first = forked.start(train(root, out, *long))
    wait_for(lambda: list_checkpoints(out / 'checkpoints'), first)
    before = (out / 'config.yaml').read_bytes()
    second = forked.run(train(root, out, *long))
    assert second.returncode == 2 and len(second.stderr.strip().splitlines()) == 1, second.stderr
    assert f'process {first.pid} on' in second.stderr and 'synthreid train direct' in second.stderr
    assert first.poll() is None and (out / 'config.yaml').read_bytes() == before
    first.kill()
    first.communicate()
    assert holder(out) == first.pid, 'it could not say good-bye'
    third = forked.start(train(root, out, *long))
    step = list_checkpoints(out / 'checkpoints')[-1].name
    wait_for(lambda: holder(out) == third.pid and list_checkpoints(out / 'checkpoints')[-1].name > step, third)
    assert end(third) == 130 and not (out / '.lock.json').exists()
    steps = [line.split(',')[0] for line in (out / 'metrics.csv').read_text().splitlines()[1:]]
    assert steps == sorted(set(steps), key=int), 'every row once'


def test_a_new_folder_is_refused_as_well(tmp_path):
    "Before the first checkpoint, too, and whatever the settings."
    root = render_folder(tmp_path / 'game', 'game', ids=6, per_id=4, size='32x16', workers=0, progress=False)
    with lock_folder(tmp_path / 'run'):
        told = forked.run(train(root, tmp_path / 'run', '--seed', '1'))
        assert told.returncode == 2 and f'process {os.getpid()} on' in told.stderr
        assert {p.name for p in (tmp_path / 'run').iterdir()} == {'.lock', '.lock.json'}
    assert is_new(tmp_path / 'run')


def test_another_thread_is_another(tmp_path):
    found = []

    def enter():
        try:
            with lock_folder(tmp_path):
                found.append('in')
        except UserError as e:
            found.append(str(e))

    with lock_folder(tmp_path), lock_folder(tmp_path):  # calls may be nested
        (other := threading.Thread(target=enter)).start()
        other.join()
    (other := threading.Thread(target=enter)).start()
    other.join()
    assert f'process {os.getpid()}' in found[0] and found[1] == 'in'


def test_a_link_is_the_same_folder(tmp_path):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'link').symlink_to(tmp_path / 'run')
    code = 'import sys; from synthreid.core import lock_folder\nwith lock_folder(sys.argv[1]): pass'
    with lock_folder(tmp_path / 'run'):
        told = forked.run([sys.executable, '-c', code, tmp_path / 'link'])
    assert 'UserError' in told.stderr


@pytest.mark.parametrize('number, passes', [('ENOLCK', True), ('ENOSYS', True), ('EACCES', False)])
def test_file_systems_without_locks(tmp_path, monkeypatch, number, passes):
    "There nobody is refused, but warned."
    import errno

    import synthreid.core as core

    class Unlockable(core.FileLock):
        def acquire(self, *args, **options):
            raise OSError(vars(errno)[number], 'no locks here')

    monkeypatch.setattr(core, 'FileLock', Unlockable)
    if passes:
        with pytest.warns(UserWarning, match='cannot be locked'), lock_folder(tmp_path):
            assert (tmp_path / '.lock.json').exists()
    else:
        with pytest.raises(OSError), lock_folder(tmp_path):
            pass
