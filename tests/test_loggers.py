"""What Weights & Biases and MLflow have kept of a run, read back without the network, against metrics.csv.

Both are heavy and none is needed: they are not in the extra `dev`, and where they are missing these tests are skipped.
"""

import json
import signal
import sqlite3
import struct
import sys

import pytest
from test_cli import SMALL, call, data  # noqa: F401

from synthreid.training.hooks import read_metrics


@pytest.fixture
def train(data, tmp_path, monkeypatch):  # noqa: F811
    "train(logger): a run in RUN, or on with it."
    for name in ('WANDB_MODE', 'WANDB_PROJECT', 'MLFLOW_TRACKING_URI', 'MLFLOW_EXPERIMENT_NAME'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    small = [*SMALL[: SMALL.index('--steps')], '--steps', 45, *SMALL[SMALL.index('--steps') + 2 :]]
    where = 'train', 'direct', '--source', data / 'game', '--out', 'RUN', *small
    return lambda logger: call(*where, '--logger', logger)


def interrupted(monkeypatch, train, logger, at=23):
    "A run that Ctrl-C stops after step `at`, and that goes on."
    from synthreid.training.direct import DirectTransfer as Direct

    step = Direct.step

    def stopped(self, batch, i):
        if i == at:
            signal.raise_signal(signal.SIGINT)
        return step(self, batch, i)

    with monkeypatch.context() as m:
        m.setattr(Direct, 'step', stopped)
        assert train(logger)[0] == 130
    code, said, err = train(logger)
    assert code == 0, err


def rows(run):
    "metrics.csv: {(step, name): value}."
    found = {(step, name): value for step, name, value in read_metrics(run / 'metrics.csv')}
    assert {step for step, _ in found} == {20, 40, 45}
    return found


def wandb_records(file):
    "The records of a .wandb file: LevelDB's log format behind a header of 7 bytes."
    from wandb.proto import wandb_internal_pb2 as pb

    raw, at, whole = file.read_bytes(), 7, b''
    while at + 7 <= len(raw):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        _, size, kind = struct.unpack('<IHB', raw[at : at + 7])
        whole += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            record = pb.Record()
            record.ParseFromString(whole)
            yield record
            whole = b''


@pytest.mark.long
def test_what_weights_and_biases_keeps_is_metrics_csv(train, tmp_path, monkeypatch):
    pytest.importorskip('wandb')
    interrupted(monkeypatch, train, 'wandb')
    files = sorted((tmp_path / 'RUN' / 'wandb').glob('offline-run-*/*.wandb'))
    assert len(files) == 2
    kept, numbers, facts = {}, set(), {}
    for record in (r for file in files for r in wandb_records(file)):
        if record.HasField('run'):
            numbers.add((record.run.run_id, record.run.project, record.run.display_name))
            facts |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        told = {(item.key or item.nested_key[0]): json.loads(item.value_json) for item in record.history.item}
        step = told.get('_step')
        kept |= {(step, name): value for name, value in told.items() if name[0] != '_' and (step, name) not in kept}
    assert kept == rows(tmp_path / 'RUN')
    assert len(numbers) == 1 and ('synthreid', 'RUN') == numbers.pop()[1:], 'one run, in two sittings'
    assert facts['method'] == 'direct' and facts['backbone'] == 'resnet_small'


@pytest.mark.long
def test_what_mlflow_keeps_is_metrics_csv(train, tmp_path, monkeypatch):
    pytest.importorskip('mlflow')
    interrupted(monkeypatch, train, 'mlflow')
    base = sqlite3.connect(tmp_path / 'RUN' / 'mlflow.db')
    kept = base.execute('select step, key, value from metrics').fetchall()
    assert {(step, name): value for step, name, value in kept} == rows(tmp_path / 'RUN')
    assert len(kept) == len(rows(tmp_path / 'RUN')), 'nothing is told twice'
    assert base.execute('select name, status from runs').fetchall() == [('RUN', 'FINISHED')]
    facts = dict(base.execute('select key, value from params').fetchall())
    assert facts['method'] == 'direct' and facts['backbone'] == 'resnet_small'


def test_a_store_that_cannot_be_reached_is_told_before_the_first_step(train, tmp_path, monkeypatch):
    pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'nonsense://nowhere')
    code, said, err = train('mlflow')
    assert code == 2 and 'expected mlflow to begin a run' in err, err
    assert read_metrics(tmp_path / 'RUN' / 'metrics.csv') == []


@pytest.mark.parametrize('logger', ['wandb', 'mlflow'])
def test_a_logger_that_is_not_installed_is_told_before_anything_begins(logger, train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, logger, None)
    code, said, err = train(logger)
    assert code == 2 and f"pip install 'synthreid[{logger}]'" in err and err.count('\n') == 1, err
    assert not (tmp_path / 'RUN').exists()
