"""What may happen to a run folder: a full disk, a flipped bit, a damaged file, Ctrl-C, a divergence. Every time one
line names the file and what to do, and nothing is lost."""

import builtins
import contextlib
import json
import resource
import shutil
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from synthreid.cli import main
from synthreid.core import atomic_write
from synthreid.render.folder import render_folder
from synthreid.training.checkpoint import list_checkpoints, read_meta
from synthreid.training.direct import DirectTransfer
from synthreid.training.hooks import MetricsLog, read_metrics
from synthreid.training.provenance import find_data

STEPS = 50
TINY = (
    f'--size 32x16 --backbone resnet_small --weights null --batch-size 4 --images-per-id 2 --steps {STEPS} --device cpu'
    ' --checkpoint-every 15'
).split()


@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "Two rendered folders, a run that nothing happened to, and one that was interrupted after the checkpoint at 30."
    home = tmp_path_factory.mktemp('home')
    for domain in ('game', 'camera'):
        render_folder(home / domain, domain, ids=6, per_id=4, size='32x16', workers=0, progress=False)
    assert train(home, home / 'whole') == 0
    with pytest.MonkeyPatch.context() as patch:
        interrupt_at(patch, 33)
        assert train(home, home / 'part') == 130
    return home


def train(home, out, *more):
    return main(['train', 'direct', '--source', str(home / 'game'), '--out', str(out), *TINY, *more])


def weights(run):
    return (list_checkpoints(run / 'checkpoints')[-1] / 'nets.safetensors').read_bytes()


def one_line(capsys, *said):
    lines = capsys.readouterr().err.strip().splitlines()
    lines = [line for line in lines if line.startswith('synthreid:') or 'Traceback' in line]
    assert len(lines) == 1 and all(s in lines[0] for s in said), lines


@contextlib.contextmanager
def largest_file(size):
    "Files end at `size` bytes, as on a full disk or at the end of a quota."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


@pytest.mark.parametrize('name', ['metrics.csv', 'nets.safetensors', 'opts.pt', 'meta.json'])
def test_full_disk(home, tmp_path, capfd, name, monkeypatch):
    "One line, exit code 2, nothing half written, and the run goes on to the same end."
    run = tmp_path / 'run'
    full(monkeypatch, name)
    assert train(home, run) == 2
    monkeypatch.undo()
    one_line(capfd, name, 'free space')
    assert not list(run.rglob('.*.tmp')) and not (run / '.lock.json').exists()
    assert train(home, run) == 0
    assert weights(run) == weights(home / 'whole')
    assert (run / 'metrics.csv').read_bytes() == (home / 'whole' / 'metrics.csv').read_bytes()


def full(monkeypatch, name):
    "Every byte for a file of this name finds the disk full; the log is there before."
    real = builtins.open

    def open(path, mode='r', *args, **options):
        writes = 'a' in mode if name == 'metrics.csv' else 'w' in mode
        return real('/dev/full' if writes and Path(path).name == name else path, mode, *args, **options)

    monkeypatch.setattr(builtins, 'open', open)


def test_a_quota_in_the_middle_of_a_file(home, tmp_path, capfd):
    size = (list_checkpoints(home / 'whole' / 'checkpoints')[-1] / 'nets.safetensors').stat().st_size
    with largest_file(size // 2):
        assert train(home, tmp_path / 'run') == 2
    one_line(capfd, 'nets.safetensors')
    assert list_checkpoints(tmp_path / 'run' / 'checkpoints') == []
    assert train(home, tmp_path / 'run') == 0 and weights(tmp_path / 'run') == weights(home / 'whole')


def test_full_disk_of_a_table(home, tmp_path, capfd):
    "Other commands that write: one line, and no half a file."
    with largest_file(4000):  # the output of this test goes into a file, too
        code = main(['embed', str(home / 'game'), '--run', str(home / 'whole'), '--out', str(tmp_path / 'f.npz')])
    assert code == 2 and not list(tmp_path.iterdir())
    one_line(capfd, 'f.npz')


@pytest.mark.parametrize('name', ['nets.safetensors', 'opts.pt'])
@pytest.mark.parametrize('place', [0.2, 0.5, 0.9])
def test_a_flipped_bit_is_found(home, tmp_path, capsys, name, place):
    run = shutil.copytree(home / 'part', tmp_path / 'run')
    last = list_checkpoints(run / 'checkpoints')[-1]
    data = bytearray((last / name).read_bytes())
    data[int(len(data) * place)] ^= 16
    (last / name).write_bytes(data)
    assert train(home, run) == 2
    one_line(capsys, str(last / name), 'go on from the checkpoint before it')
    if name == 'nets.safetensors':
        assert main(['embed', str(home / 'game'), '--run', str(run), '--out', str(tmp_path / 'f.npz')]) == 2
        one_line(capsys, str(last / name))
    shutil.rmtree(last)  # as it says
    assert train(home, run) == 0 and weights(run) == weights(home / 'whole')


def test_checkpoints_without_sums_load(home, tmp_path):
    "Those of version 0.1.0."
    run = shutil.copytree(home / 'whole', tmp_path / 'run')
    for checkpoint in list_checkpoints(run / 'checkpoints'):
        meta = read_meta(checkpoint)
        del meta['sums']
        (checkpoint / 'meta.json').write_text(json.dumps(meta))
    shutil.rmtree(list_checkpoints(run / 'checkpoints')[-1])
    assert train(home, run) == 0 and weights(run) == weights(home / 'whole')


@pytest.mark.parametrize(
    'change',
    [
        {'step': '45'},
        {'step': None},
        {'step': -1},
        {'step': 10**9},
        {'config': []},
        {'method': 7},
        {'running': 7},
        {'running': {'a': 'b'}},
    ],
)
def test_senseless_values_of_a_checkpoint_are_damage(home, tmp_path, capsys, change):
    run = shutil.copytree(home / 'part', tmp_path / 'run')
    last = list_checkpoints(run / 'checkpoints')[-1] / 'meta.json'
    last.write_text(json.dumps(json.loads(last.read_text()) | change))
    assert train(home, run) == 2
    one_line(capsys, 'meta.json', last.parent.name)


DAMAGE = {'empty': lambda b: b'', 'cut': lambda b: b[: len(b) // 2], 'other': lambda b: bytes(range(256)) * 4}


@pytest.mark.parametrize('how', [*DAMAGE, 'folder'])
@pytest.mark.parametrize('name', ['config.yaml', 'trained_on.npz', 'data.json'])
def test_damaged_side_files_are_named(home, tmp_path, capsys, name, how):
    run = shutil.copytree(home / 'whole', tmp_path / 'run')
    data = (run / name).read_bytes()
    (run / name).unlink()
    (run / name).mkdir() if how == 'folder' else (run / name).write_bytes(DAMAGE[how](data))
    command = {
        'config.yaml': lambda: train(home, run),
        'trained_on.npz': lambda: main(['evaluate', str(run), '--target', str(home / 'camera'), '--device', 'cpu']),
        'data.json': lambda: main(['explore', str(run), '--no-browser']),
    }[name]
    if name == 'data.json':
        from synthreid.core import UserError
        from synthreid.training.provenance import find_data

        with pytest.raises(UserError, match='data.json'):
            find_data(run)
        return
    if (name, how) == ('config.yaml', 'cut'):
        assert command() in (0, 2)  # half of a YAML file may be one
        return
    assert command() == 2
    one_line(capsys, name)


def test_a_damaged_log_is_told_and_goes_on(home, tmp_path):
    run = shutil.copytree(home / 'whole', tmp_path / 'run')
    shutil.rmtree(list_checkpoints(run / 'checkpoints')[-1])
    log = (run / 'metrics.csv').read_bytes()
    (run / 'metrics.csv').write_bytes(log.replace(b'20,', b'2\0\xff,', 1))
    with pytest.warns(UserWarning, match='metrics.csv: 1 rows cannot be read, the first is row 2'):
        assert train(home, run) == 0
    assert len(read_metrics(run / 'metrics.csv')) == len(read_metrics(home / 'whole' / 'metrics.csv')) - 1


def interrupt_at(monkeypatch, step):
    real = DirectTransfer.step

    def interrupted(self, batch, i):
        if i + 1 == step:
            signal.raise_signal(signal.SIGINT)
        return real(self, batch, i)

    monkeypatch.setattr(DirectTransfer, 'step', interrupted)


def test_ctrl_c_answers_at_once_and_the_log_goes_on(home, tmp_path, capsys, monkeypatch):
    run = tmp_path / 'run'
    for step in (7, 33):
        interrupt_at(monkeypatch, step)
        assert train(home, run) == 130
        monkeypatch.undo()
        said = capsys.readouterr().err
        assert said.index('stopping after this step') < said.index(f'stopped at step {step} of {STEPS}')
        assert list_checkpoints(run / 'checkpoints')[-1].name == f'step_{step:08d}'
    assert train(home, run) == 0
    assert (run / 'metrics.csv').read_bytes() == (home / 'whole' / 'metrics.csv').read_bytes()
    assert weights(run) == weights(home / 'whole')


def test_a_failure_between_two_rows_changes_no_row(home, tmp_path, monkeypatch):
    "The partial row that tells what happened last is replaced when the run goes on."
    run, real = tmp_path / 'run', DirectTransfer.step

    def broken(self, batch, i):
        if i == 30:  # just after the checkpoint at 30
            raise RuntimeError('broken')
        return real(self, batch, i)

    monkeypatch.setattr(DirectTransfer, 'step', broken)
    assert train(home, run) == 70
    monkeypatch.undo()
    assert read_metrics(run / 'metrics.csv')[-1][0] == 30
    assert train(home, run) == 0
    assert (run / 'metrics.csv').read_bytes() == (home / 'whole' / 'metrics.csv').read_bytes()


def spoil_at(monkeypatch, step):
    real = DirectTransfer.step

    def spoilt(self, batch, i):
        losses = real(self, batch, i)
        return {k: v * np.nan for k, v in losses.items()} if i == step else losses

    monkeypatch.setattr(DirectTransfer, 'step', spoilt)


def test_the_way_out_of_a_divergence(home, tmp_path, capsys, monkeypatch):
    "What the message says can be done."
    run, after = tmp_path / 'run', tmp_path / 'after'
    spoil_at(monkeypatch, 31)
    assert train(home, run) == 2
    monkeypatch.undo()
    good = run / 'checkpoints' / 'step_00000030'
    one_line(capsys, f'last good checkpoint: {good}, 1 steps before', '--start-from CHECKPOINT, another --out')
    assert train(home, run, '--lr', '0.001') == 2, 'refused in that folder'
    earlier = str(run / 'checkpoints' / 'step_00000015')
    assert train(home, after, '--lr', '0.001', '--start-from', earlier) == 0
    noted = yaml.safe_load((after / 'config.yaml').read_text())
    assert noted['start_from'] == earlier and noted['config']['lr'] == 0.001
    assert read_meta(list_checkpoints(after / 'checkpoints')[-1])['start_from_step'] == 15
    assert train(home, tmp_path / 'fresh', '--lr', '0.001') == 0
    assert weights(after) != weights(tmp_path / 'fresh'), 'its weights were taken'
    assert train(home, after, '--lr', '0.001', '--start-from', earlier) == 0, 'the same command again'
    capsys.readouterr()
    assert train(home, tmp_path / 'none', '--start-from', str(home)) == 2
    one_line(capsys, 'one of the runs inside', str(home / 'whole'))


@pytest.mark.parametrize('setting', [['--lr', '1e38'], ['--lr', '1e30', '--weight-decay', '1e30']])
def test_rates_without_measure(home, tmp_path, capsys, setting):
    assert train(home, tmp_path / 'run', *setting) == 2
    one_line(capsys, 'expected')


def test_a_folder_with_runs_is_no_run(home, capsys):
    assert main(['evaluate', str(home), '--target', str(home / 'camera'), '--device', 'cpu']) == 2
    one_line(capsys, f'name one of the runs inside: {home / "part"}, {home / "whole"}')


def test_a_killed_run_knows_its_data(home, tmp_path, monkeypatch):
    "As the explorers need it: what is written at the end alone is lost with the process."

    def killed(self, batch, i):
        raise SystemError('killed')

    monkeypatch.setattr(DirectTransfer, 'step', killed)
    run = tmp_path / 'run'
    assert train(home, run) == 70
    assert Path(find_data(run)['source'].root) == home / 'game'


def test_a_refused_start_leaves_nothing(home, tmp_path, capsys):
    "Other people, other nets: the weights do not fit, and the folder is free for the next attempt."
    new, empty = tmp_path / 'new', tmp_path / 'empty'
    empty.mkdir()
    for run in (new, empty):
        assert train(home, run, '--start-from', str(home / 'whole'), '--ids', '4') == 2
        one_line(capsys, 'weights that fit')
    assert not new.exists() and not list(empty.iterdir())
    assert train(home, home / 'part', '--start-from', str(home / 'whole')) == 2, 'a run keeps what it has'
    assert (home / 'part' / 'config.yaml').exists()


def test_a_run_is_not_inside_another_run(home, capsys):
    for inner in ('inner', 'checkpoints/inner'):
        assert train(home, home / 'whole' / inner) == 2
        one_line(capsys, 'outside of other runs', str(home / 'whole'))
        assert not (home / 'whole' / inner).exists()


def test_a_folder_in_the_place_of_a_file_is_named(home, tmp_path, capsys):
    "And not the temporary file that was to become it."
    run = shutil.copytree(home / 'part', tmp_path / 'run')
    (run / 'metrics.csv').unlink()
    (run / 'metrics.csv').mkdir()
    with pytest.raises(OSError) as caught, atomic_write(run / 'metrics.csv') as tmp:
        tmp.write_text('')
    assert caught.value.filename == str(run / 'metrics.csv') and caught.value.filename2 is None
    assert train(home, run) == 2
    one_line(capsys, f'{run / "metrics.csv"}:')


def test_no_room_for_tensorboard_is_told_once(tmp_path, monkeypatch):
    "Its thread ends with a traceback of its own otherwise."
    from tensorboard.summary.writer.record_writer import RecordWriter

    def full(self, data):
        raise OSError(28, 'No space left on device')

    threads = []
    monkeypatch.setattr(threading, 'excepthook', threads.append)
    log = MetricsLog(tmp_path, steps=9)
    monkeypatch.setattr(RecordWriter, 'write', full)
    with pytest.raises(OSError) as caught:
        for done in range(1, 1000):
            log(None, done, {'id': 1.0})
            time.sleep(0.01)
    assert caught.value.errno == 28 and caught.value.filename == str(tmp_path / 'tensorboard')
    other = threading.Thread(target=lambda: 1 / 0)
    other.start()
    other.join()
    assert [failed.exc_type for failed in threads] == [ZeroDivisionError], 'others are told as before'
    with pytest.raises(OSError):
        log.close(None, 9, False, {})
    assert threading.excepthook == threads.append
