"""Self-training: no label of the target is used for anything, and a run that is killed goes on with the same bits."""

import csv
import io
import json
import os
import shutil
import signal
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from hashlib import sha256
from types import SimpleNamespace

import forked
import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN

from synthreid.cli import main
from synthreid.commands import _scorable
from synthreid.data.datasets import load_dataset, write_manifest
from synthreid.render.folder import render_folder
from synthreid.training import selftrain
from synthreid.training.checkpoint import list_checkpoints
from synthreid.training.runs import load_method
from synthreid.training.selftrain import cluster_batch, proxy_contrast, refresh

MAIN = 'from synthreid.cli import main; raise SystemExit(main())'
SMALL = (
    '--size 32x16 --steps 8 --epochs 2 --batch-size 16 --images-per-id 4 --norm-group 8 --k1 6 --lr 0.001 --augment'
    ' strong --erasing 0 --eps [0.4,0.5,0.6] --choose validation --keep best --device cpu --checkpoint-every 3'
    ' --sample-every 0'
).split()


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp('data')
    for domain in ('game', 'camera'):
        render_folder(root / domain, domain, ids=16, per_id=6, size='32x16', workers=1, progress=False)
    start = ['--source', str(root / 'game'), '--out', str(root / 'start'), '--size', '32x16', '--device', 'cpu']
    kind = '--backbone resnet_small --steps 4 --batch-size 16 --images-per-id 4'.split()
    done = run('train', 'direct', *start, *kind)
    assert done.returncode == 0, done.stderr
    return root


def run(*arguments) -> SimpleNamespace:
    "The command, in this process."
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main([*arguments])
    return SimpleNamespace(returncode=code, stdout=out.getvalue(), stderr=err.getvalue())


def command(root, out, target='camera') -> list:
    data = ['--source', str(root / 'game'), '--target', str(root / target), '--start', str(root / 'start')]
    return ['train', 'selftrain', *data, '--out', str(out), *SMALL]


def learn(root, out, target='camera'):
    return run(*command(root, out, target))


def weights(out) -> str:
    "A sum: of two long files that differ pytest would draw the difference for minutes."
    return sha256((list_checkpoints(out / 'checkpoints')[-1] / 'nets.safetensors').read_bytes()).hexdigest()


@pytest.fixture(scope='module')
def whole(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp('whole') / 'run'
    done = learn(folders, out)
    assert done.returncode == 0, done.stderr
    return out


def relabelled(root, name, change):
    "The target as a manifest in which only the people are others."
    split = load_dataset('market1501', root / 'camera')
    file = write_manifest(split, root / f'{name}.csv')
    rows = list(csv.DictReader(file.open()))
    people = [row for row in rows if int(row['pid']) > 0]  # the others are no people
    for row, pid in zip(people, change([row['pid'] for row in people])):
        row['pid'] = pid
    with file.open('w', newline='') as f:
        table = csv.DictWriter(f, rows[0])
        table.writeheader()
        table.writerows(rows)
    return file.name


def test_no_label_of_the_target_is_used(folders, tmp_path):
    shuffle = lambda pids: np.random.default_rng(0).permutation(pids)
    kinds = {'as_it_is': lambda pids: pids, 'shuffled': shuffle, 'one': lambda pids: ['7'] * len(pids)}
    found = {}
    for name, change in kinds.items():
        done = learn(folders, tmp_path / name, relabelled(folders, name, change))
        assert done.returncode == 0, done.stderr
        found[name] = weights(tmp_path / name)
    assert found['as_it_is'] == found['shuffled'] == found['one']


KILL = """
import os, signal
from synthreid.training import selftrain
work, times, how = selftrain.{what}, [0], int(os.environ['KILL'])
def spoilt(*a, **k):
    times[0] += 1
    if times[0] == how:
        os.kill(os.getpid(), signal.SIGKILL)
    return work(*a, **k)
selftrain.{what} = spoilt
"""


@pytest.mark.parametrize(
    'what, when, saved',  # the call that is the last, and the step that had been saved by then
    [
        ('cluster_at', 3, 3),  # clustering at step 4
        pytest.param('cluster_batch', 6, 3, marks=pytest.mark.slow),  # in the middle of the second epoch
        pytest.param('embed_all', 4, 3, marks=pytest.mark.slow),  # held-back people, after step 4
        pytest.param('embed_all', 5, 6, marks=pytest.mark.slow),  # the target, at the end
    ],
)
def test_killed_in_every_phase_it_goes_on_with_the_same_bits(folders, whole, tmp_path, monkeypatch, what, when, saved):
    monkeypatch.setenv('KILL', str(when))
    out = tmp_path / 'run'
    killed = forked.run([sys.executable, '-c', KILL.format(what=what) + MAIN, *command(folders, out)])
    assert killed.returncode == -signal.SIGKILL
    assert list_checkpoints(out / 'checkpoints')[-1].name == f'step_{saved:08}', 'it was killed in the middle'
    assert learn(folders, out).returncode == 0
    assert weights(out) == weights(whole)
    states = [torch.load(list_checkpoints(r / 'checkpoints')[-1] / 'opts.pt', weights_only=True) for r in (whole, out)]
    torch.testing.assert_close(*states, rtol=0, atol=0)
    a, b = ({k: v for k, v in np.load(r / 'clusters.npz').items()} for r in (whole, out))
    assert a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def test_the_record_of_clusters_and_the_net_that_is_kept(whole, folders):
    with np.load(whole / 'clusters.npz') as f:
        found = {k: f[k] for k in f.files}
    n = len(load_dataset('market1501', folders / 'camera').train)
    assert found['labels'].shape == (2, n) and found['eps'].shape == (2,) and found['criterion'].shape == (2, 3)
    assert found['eps_tried'].tolist() == [0.4, 0.5, 0.6] and found['judged'].shape == (3,)
    usable = found['criterion'].argmax(1)
    assert np.isin(found['eps'], found['eps_tried']).all() and (usable >= 0).all()
    method, images = load_method(whole, 'cpu'), torch.zeros(2, 3, 32, 16)
    best = method.nets['kept'] if found['judged'].max() > found['judged'][-1] + 1e-6 else method.nets['embedder']
    torch.testing.assert_close(method.embed(images), best.eval()(images))


def test_the_graph_holds_no_distance_beyond_the_largest_eps(monkeypatch):
    "And the clusters are those of scikit-learn on all distances, a distance of exactly eps among them."
    rng, graphs, whole = np.random.default_rng(0), [], selftrain.jaccard_graph
    codes = torch.nn.functional.normalize(
        torch.from_numpy(
            rng.standard_normal((30, 8))[np.repeat(np.arange(30), 6)] + 0.4 * rng.standard_normal((180, 8))
        )
    )
    noted = lambda *a, **k: graphs.append(whole(*a, **k)) or graphs[-1]
    monkeypatch.setattr(selftrain, 'jaccard_graph', noted)
    full = whole(codes, k1=12, k2=4)
    tied = float(np.sort(full.data)[full.nnz // 5])  # some pair lies exactly there
    config = selftrain.SelfTrainConfig(eps=(tied / 2, tied), k1=12, k2=4, camera_mean=False)
    found = selftrain.cluster_at(config, (codes, np.zeros(180, int)))
    assert graphs[0].nnz == (full.data <= np.float32(tied)).sum() < full.nnz / 2
    dense = np.ones((180, 180), np.float32)
    dense[np.repeat(np.arange(180), np.diff(full.indptr)), full.indices] = full.data
    for eps, labels in zip(config.eps, found):
        assert np.array_equal(labels, DBSCAN(eps=eps, min_samples=4, metric='precomputed').fit_predict(dense))


def test_memory_by_a_loop():
    "Against a loop over clusters, with ties and clusters that come twice."
    g = torch.Generator().manual_seed(0)
    unit = lambda *shape: torch.nn.functional.normalize(torch.randn(*shape, generator=g, dtype=torch.float64))
    memory, codes, labels = unit(5, 4), unit(9, 4), torch.tensor([0, 0, 2, 2, 2, 4, 4, 0, 4])
    for how in ('mean', 'hard'):
        wanted = memory.clone()
        for c in labels.unique():
            own = codes[labels == c]
            seen = own.mean(0) if how == 'mean' else own[(own @ memory[c]).argmin()]
            wanted[c] = torch.nn.functional.normalize(0.2 * memory[c] + 0.8 * seen, dim=0)
        torch.testing.assert_close(refresh(memory, codes, labels, 0.2, how), wanted)
    owners, total = torch.tensor([0, 0, 2, 4, 1]), []
    for code, label in zip(codes, labels):
        s = (code @ memory.T / 0.1).tolist()
        own = [s[j] for j in range(5) if owners[j] == label]
        others = sorted((s[j] for j in range(5) if owners[j] != label), reverse=True)[:2]
        whole = np.log(np.exp(own).sum() + np.exp(others).sum())
        total.append(np.mean([whole - o for o in own]))
    found = proxy_contrast(codes, memory, owners, labels, 0.1, 2)
    assert found.item() == pytest.approx(np.mean(total), rel=1e-5)


def test_batches_of_clusters_never_show_outliers():
    labels = np.r_[np.repeat(np.arange(4), [3, 8, 2, 5]), np.full(20, -1)]
    for step in range(20):
        batch = cluster_batch(labels, np.arange(38) % 3, 24, 4, step)
        groups = labels[batch].reshape(6, 4)
        assert len(batch) == 24 and (groups >= 0).all() and (groups == groups[:, :1]).all()
        assert set(groups[:, 0]) == {0, 1, 2, 3}
    assert np.array_equal(batch, cluster_batch(labels, np.arange(38) % 3, 24, 4, 19)), 'a function of the step'


@pytest.mark.parametrize(
    'more, said',
    [
        (['--eps', '[0.01]'], 'expected at least two clusters of the target at the start'),
        (['--hold-out', '0'], 'expected people held back'),
        (['--norm-group', '12'], 'norm_group 12'),
        (['--size', '64x32'], 'expected pictures of the size of the start'),
        (['--eps', '[0.6,1]'], 'expected distances above 0 and below 1 in eps, got [0.6, 1'),
        (['--choose', 'agreement', '--eps', '[0.6,0.5]'], 'expected ascending eps'),
    ],
)
def test_refused_in_one_sentence(folders, tmp_path, more, said):
    data = ['--source', str(folders / 'game'), '--target', str(folders / 'camera'), '--start', str(folders / 'start')]
    done = run('train', 'selftrain', *data, '--out', str(tmp_path / 'run'), *SMALL, *more)
    assert done.returncode == 2 and said in done.stderr, done.stderr


def test_adapt(folders, tmp_path):
    "The command, on pictures without labels: all of it, and what is missing once more."
    out, target = tmp_path / 'run', tmp_path / 'cameras'
    for i, path in enumerate(load_dataset('market1501', folders / 'camera').train.paths):
        place = target / f'camera{i % 3}'
        place.mkdir(parents=True, exist_ok=True)
        os.link(path, place / os.path.basename(path))
    data = ['--source', str(folders / 'game'), '--target', str(target), '--layout', 'unlabelled', '--out', str(out)]
    kind = '--size 32x16 --steps 20 --adapt-steps 4 --control --false-match 0.05 --device cpu'.split()
    done = run('adapt', *data, *kind)
    assert done.returncode == 0, done.stderr
    whole, said = weights(out / 'adapted'), (out / 'table.md').read_text()
    for left in (out / 'control', list_checkpoints(out / 'adapted' / 'checkpoints')[-1]):
        shutil.rmtree(left)
    done = run('adapt', *data, *kind)
    assert done.returncode == 0, done.stderr
    assert weights(out / 'adapted') == whole and (out / 'table.md').read_text() == said, 'it went on where it stood'
    told = json.loads((out / 'threshold.json').read_text())
    assert told['false_match'] == 0.05 and 0 < told['threshold'] < 2
    assert all(f'| {name} |' in (out / 'table.md').read_text() for name in ('start', 'adapted', 'control'))
    assert 'target_mAP' not in (out / 'table.md').read_text().split('\n')[0], 'there are no labels to measure it by'
    assert (out / 'report.html').stat().st_size > 10_000 and (out / 'adapted' / 'clusters.npz').exists()
    assert load_method(out / 'adapted', 'cpu').name == 'selftrain'


def test_what_cannot_work_is_told_before_anything_is_trained(folders, tmp_path, capsys, monkeypatch):
    "Too few pictures, rates below one pair, steps below one, a folder of somebody else, one folder as both."
    monkeypatch.setattr('synthreid.commands._decoded', lambda *a, **k: pytest.fail('decoded'))
    camera, game, mine = folders / 'camera', folders / 'game', tmp_path / 'mine'
    mine.mkdir()
    (mine / 'table.md').write_text('dear')
    few = tmp_path / 'few' / 'camera1'
    few.mkdir(parents=True)
    for path in load_dataset('market1501', camera).train.paths[:12]:
        os.link(path, few / os.path.basename(path))
    for target, out, more, part in (
        (camera, tmp_path / 'a', ['--adapt-steps', '-1'], 'steps of at least 1'),
        (camera, tmp_path / 'a', ['--false-match', '1e-9'], 'a false-match rate of at least'),
        (few.parent, tmp_path / 'a', ['--layout', 'unlabelled'], 'at least 40 pictures'),
        (camera, mine, [], 'other files'),
        (game, tmp_path / 'a', [], 'a target other than the source'),
    ):
        data = ['--source', str(game), '--target', str(target), '--out', str(out), '--size', '32x16']
        code, err = main(['adapt', *data, '--device', 'cpu', *more]), capsys.readouterr().err
        assert code == 2 and part in err and err.count('\n') == 1, err
    assert (mine / 'table.md').read_text() == 'dear' and os.listdir(mine) == ['table.md']
    assert not (tmp_path / 'a').exists()


def test_a_test_that_nobody_can_score_is_left_out(folders, tmp_path, capsys):
    real = load_dataset('market1501', folders / 'camera')
    strangers = real.query[:2] + real.query[:0]
    strangers.pids = strangers.pids + 1000
    found = _scorable(replace(real, query=strangers))
    assert not len(found.query) and not len(found.gallery) and len(found.train) == len(real.train)
    assert 'left out' in capsys.readouterr().err
    assert _scorable(real) is real
