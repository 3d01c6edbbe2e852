"""Files as Synth-ReID saves them, at full size, become a run with the reference's own numbers; the hub against the real
package."""

import inspect
import json
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import load

from synthreid.core import UserError
from synthreid.data.datasets import ReidSplit
from synthreid.metrics.evaluate import evaluate_reid
from synthreid.models.backbones import backbone, load_weights
from synthreid.render.folder import render_images
from synthreid.training.checkpoint import load_checkpoint, read_meta, save_checkpoint
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.exchange import (
    convert_reference,
    model_card,
    pull_from_hub,
    push_to_hub,
    stage_run,
)
from synthreid.training.joint import JointConfig
from synthreid.training.methods import make_method
from synthreid.training.runs import Run, find_checkpoint, load_method
from synthreid.training.selftrain import SelfTrainConfig


@dataclass
class FollowerConfig(DirectConfig):
    "Direct transfer after another run."

    after: str | None = None  # that run


class Follower(DirectTransfer):
    "Direct transfer after another run."

    name, Config = 'follower', FollowerConfig

    @classmethod
    def builds_on(cls, config):
        return {'before': config.after} if config.after else {}


def their_file(path, specs, seed, scale, statistics=False):
    "What torchreid writes on several GPUs (DataParallel names, NumPy numbers); weights by the fixtures' formula."
    rng, state = np.random.RandomState(seed), OrderedDict()
    for name, shape, kind in specs:
        r = rng.standard_normal(shape).astype(np.float32)
        state['module.' + name] = torch.tensor(1 + 0.05 * r if kind == 'norm_w' else r * scale)
        layer = name.rsplit('.', 1)[0]
        if (
            kind != 'norm_w'
            and len(shape) == 1
            and 'module.' + layer + '.weight' in state
            and state[f'module.{layer}.weight'].ndim == 1
        ):
            mean, var = torch.zeros(shape), torch.ones(shape)
            if statistics:
                mean, var = mean + 0.5, var * 2
            state |= {
                f'module.{layer}.running_mean': mean,
                f'module.{layer}.running_var': var,
                f'module.{layer}.num_batches_tracked': torch.tensor(100),
            }
    p = torch.nn.Parameter(torch.zeros(3))
    p.grad = torch.ones(3)
    optimiser = torch.optim.Adam([p])
    optimiser.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimiser, [20, 30])
    torch.save(
        {
            'state_dict': state,
            'epoch': 60,
            'rank1': np.float32(0.61),
            'best': np.float64(0.62),
            'optimizer': optimiser.state_dict(),
            'scheduler': scheduler.state_dict(),
        },
        path,
    )
    return path


@pytest.fixture(scope='module')
def theirs(tmp_path_factory):
    folder, (info, _), (step, _) = (
        tmp_path_factory.mktemp('theirs'),
        load('synthreid_nets'),
        load('synthreid_step_joint'),
    )
    files = {
        n: their_file(folder / f'{n}.pth.tar-60', info['specs'][n], info['seed'] + i, info['scale'][n])
        for i, n in enumerate(('generator', 'discriminator', 'id_net'))
    }
    return files | {
        'mlp': their_file(folder / 'mlp.pth.tar-60', step['specs']['mlp'], step['seed'] + 3, step['scale']['mlp'])
    }


def test_imported_run_has_the_numbers_of_the_reference(theirs, tmp_path):
    info, z = load('synthreid_nets')
    run = convert_reference(**theirs, out=tmp_path / 'run', size='64x32')
    meta = read_meta(find_checkpoint(run))
    assert (
        meta['n_ids'] == 17
        and meta['untrained'] == []
        and meta['images']['size'] == '64x32'
        and meta['imported']['generator']['epoch'] == 60
    )
    method = load_method(run, 'cpu')
    for theirs_name, ours in {'generator': 'generator', 'discriminator': 'discriminator', 'id_net': 'identity'}.items():
        assert sum(p.numel() for p in method.nets[ours].parameters()) == info['counts'][theirs_name]
    x = torch.tensor(np.random.RandomState(info['seed'] + 100).uniform(-1, 1, info['in0']).astype(np.float32))
    sampled = lambda t, k: (lambda a: a[:: max(1, a.size // k)])(t.numpy().ravel())
    got, want = (
        method.embed(x),
        z['in0/I.eval_embedding'] if 'in0/I.eval_embedding' in z else z['in0/I.eval_embedding.sample'],
    )
    got = got.numpy() if want.shape == tuple(got.shape) else sampled(got, 512)
    assert got.shape == want.shape and abs(got - want).max() <= 1e-5 * abs(want).max()
    got, want = method.translate(x), z['in0/G.image'] if 'in0/G.image' in z else z['in0/G.image.sample']
    got = got.numpy() if want.shape == tuple(got.shape) else sampled(got, 1024)
    assert got.shape == want.shape and abs(got - want).max() <= 2e-5
    with torch.no_grad():
        assert abs(method.nets['discriminator'](x).numpy() - z['in0/D.out']).max() <= 1e-5
    with pytest.raises(UserError, match='weights only'):  # it cannot go on training by mistake
        load_checkpoint(method, find_checkpoint(run))


def test_statistics_travel_too(theirs, tmp_path):
    info, _ = load('synthreid_nets')
    files = {
        'generator': theirs['generator'],
        'id_net': their_file(tmp_path / 'id', info['specs']['id_net'], 63, 0.03, statistics=True),
    }
    method = load_method(convert_reference(**files, out=tmp_path / 'run'), 'cpu')
    means, variances = (
        [v for k, v in method.nets['identity'].state_dict().items() if k.endswith(s)]
        for s in ('running_mean', 'running_var')
    )
    assert (
        len(means) == len(variances) == 13 * 3 + 3 + 1
        and all((m == 0.5).all() for m in means)
        and all((v == 2).all() for v in variances)
    )
    assert read_meta(find_checkpoint(tmp_path / 'run'))['untrained'] == ['discriminator', 'projector']


def test_what_does_not_fit_is_a_table(theirs, tmp_path):
    with pytest.raises(UserError, match='our_shape') as e:
        convert_reference(theirs['generator'], theirs['id_net'], tmp_path / 'run', dim=32)
    assert 'encoder.1.0.weight (64, 3, 7, 7)' in ' '.join(str(e.value).split()) and '(32, 3, 7, 7)' in str(e.value)
    with pytest.raises(UserError, match='do not fit'):
        convert_reference(theirs['generator'], theirs['id_net'], tmp_path / 'run', discriminator=theirs['mlp'])
    with pytest.raises(UserError, match="got 'blocks'"):
        convert_reference(theirs['generator'], theirs['id_net'], tmp_path / 'run', blocks=3)
    assert not (tmp_path / 'run').exists()


SMALL = dict(dim=8, n_blocks=1, discriminator_dim=8, head='basic', head_layers=(1,), head_widths=(16,))


class Bomb:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return (open, (self.path, 'w'))


@pytest.mark.parametrize('make', ['program', 'program in state_dict', 'cut', 'empty', 'list', 'text'])
def test_hostile_and_broken_files(theirs, tmp_path, make):
    bad, mark = tmp_path / 'bad.pth.tar', tmp_path / 'ran'
    if make == 'program':
        torch.save({'state_dict': OrderedDict(a=torch.ones(1)), 'rank1': Bomb(mark)}, bad)
    elif make == 'program in state_dict':
        torch.save({'state_dict': {'a': Bomb(mark)}}, bad)
    elif make == 'cut':
        bad.write_bytes(theirs['mlp'].read_bytes()[:3000])
    elif make == 'empty':
        bad.write_bytes(b'')
    elif make == 'list':
        torch.save([torch.ones(2)], bad)
    else:
        bad.write_text('not a checkpoint')
    with pytest.raises(UserError, match='bad.pth.tar'):
        convert_reference(bad, bad, tmp_path / 'run')
    with pytest.raises(UserError, match='bad.pth.tar'):
        load_weights(backbone('resnet_small'), bad)
    assert not mark.exists() and not (tmp_path / 'run').exists()


def save_small(folder, **changes):
    method = make_method('joint', JointConfig.reference(size='32x16', **SMALL, **changes), 5)
    return method, save_checkpoint(method, folder, 3)


def test_evaluate_an_imported_run(tmp_path):
    method, _ = save_small(tmp_path / 'ours')
    files = {}
    for theirs_name, ours in {'generator': 'generator', 'id_net': 'identity'}.items():
        files[theirs_name] = tmp_path / theirs_name
        torch.save(
            {
                'state_dict': {k: v for k, v in method.nets[ours].state_dict().items() if 'colour_map' not in k},
                'epoch': 1,
            },
            files[theirs_name],
        )
    run = convert_reference(**files, out=tmp_path / 'run', size='32x16', **SMALL)
    r = render_images('camera', np.repeat(np.arange(4), 6), np.tile(np.arange(6), 4), size=(32, 16))
    split = ReidSplit(None, r.pids, r.camids, r.images)
    results = [
        evaluate_reid(m.embed, split, split, flip=False, metric='euclidean') for m in (load_method(run, 'cpu'), method)
    ]
    assert results[0].mAP == results[1].mAP and 0 < results[0].mAP <= 1


def test_a_run_in_its_folder_keeps_recipe_and_data(tmp_path):
    r = render_images('game', np.repeat(np.arange(4), 4), np.tile(np.arange(4), 4), size=(32, 16))
    split = ReidSplit(None, r.pids, r.camids, r.images)
    go = lambda **names: Run(
        tmp_path / 'run',
        'direct',
        DirectConfig(size='32x16', backbone='resnet_small', steps=4, batch_size=4),
        device='cpu',
    ).train(split, checkpoint_every=2, tensorboard=False, progress=False, **names)
    go(recipe='row 3', data='game')
    last = find_checkpoint(tmp_path / 'run')
    for f in last.iterdir():
        f.unlink()
    last.rmdir()
    go()  # goes on from step 2, and nobody tells it the names again
    meta = read_meta(find_checkpoint(tmp_path / 'run'))
    assert (meta['step'], meta['recipe'], meta['data'], meta['images']['size']) == (4, 'row 3', 'game', '32x16')


def test_without_the_extras(tmp_path, monkeypatch):
    _, checkpoint = save_small(tmp_path / 'ours')
    import importlib

    real = importlib.import_module

    def missing(name, *a):
        if name == 'huggingface_hub':
            raise ImportError(name)
        return real(name, *a)

    monkeypatch.setattr(importlib, 'import_module', missing)
    with pytest.raises(UserError, match=r"pip install 'synthreid\[hub\]'"):
        push_to_hub(checkpoint, 'a/b')
    with pytest.raises(UserError, match=r"pip install 'synthreid\[hub\]'"):
        pull_from_hub('a/b', tmp_path / 'out')


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "huggingface_hub whose calls must fit the real signatures, and go to a folder."
    real = pytest.importorskip('huggingface_hub')
    signatures = {
        f: inspect.signature(getattr(real.HfApi, f)) for f in ('create_repo', 'repo_info', 'upload_folder', '__init__')
    }
    download, calls = inspect.signature(real.snapshot_download), []

    class Api:
        def __init__(self, **k):
            signatures['__init__'].bind(self, **k)
            calls.append(('login', k))

        def __getattr__(self, name):
            def call(*a, **k):
                given = signatures[name].bind(self, *a, **k).arguments
                calls.append((name, given))
                repo = tmp_path / 'hub' / given['repo_id']
                if name == 'create_repo':
                    repo.mkdir(parents=True, exist_ok=True)
                if name == 'upload_folder':
                    [(repo / p.name).write_bytes(p.read_bytes()) for p in Path(given['folder_path']).iterdir()]
                return (
                    real.hf_api.ModelInfo(id=given['repo_id'], private=True)
                    if name == 'repo_info'
                    else 'https://huggingface.co/' + given['repo_id']
                )

            return call

    def fetch(*a, **k):
        given = download.bind(*a, **k).arguments
        calls.append(('download', given))
        given['local_dir'].mkdir(parents=True)
        (given['local_dir'] / '.cache').mkdir()
        for name in given['allow_patterns']:
            f = tmp_path / 'hub' / given['repo_id'] / name
            if f.exists():
                (given['local_dir'] / name).write_bytes(f.read_bytes())
        return str(given['local_dir'])

    monkeypatch.setattr(real, 'HfApi', Api)
    monkeypatch.setattr(real, 'snapshot_download', fetch)
    return calls


def test_push_and_pull(tmp_path, hub):
    method, checkpoint = save_small(tmp_path / 'ours')
    assert push_to_hub(checkpoint, 'me/model', token='hf_secret') == 'https://huggingface.co/me/model'
    repo = tmp_path / 'hub' / 'me' / 'model'
    assert sorted(p.name for p in repo.iterdir()) == [
        'README.md',
        'config.yaml',
        'meta.json',
        'nets.safetensors',
    ], 'no optimiser'
    assert [name for name, _ in hub] == ['login', 'create_repo', 'repo_info', 'upload_folder'] and hub[1][1][
        'private'
    ] is True
    out = pull_from_hub('me/model', tmp_path / 'new' / 'pulled', revision='main')
    assert sorted(p.name for p in out.iterdir()) == [
        'README.md',
        'config.yaml',
        'meta.json',
        'nets.safetensors',
    ] and list(out.parent.iterdir()) == [out]
    x = torch.rand(2, 3, 32, 16) * 2 - 1
    assert torch.equal(load_method(out, 'cpu').embed(x), method.embed(x))
    push_to_hub(checkpoint, 'me/model', optimisers=True)
    assert (repo / 'opts.pt').exists() and (
        pull_from_hub('me/model', tmp_path / 'all', optimisers=True) / 'opts.pt'
    ).exists()
    assert not any(b'hf_secret' in p.read_bytes() for p in tmp_path.rglob('*') if p.is_file())


def test_pull_of_something_else_leaves_nothing(tmp_path, hub):
    _, checkpoint = save_small(tmp_path / 'ours')
    push_to_hub(checkpoint, 'me/model')
    meta = tmp_path / 'hub' / 'me' / 'model' / 'meta.json'
    whole = json.loads(meta.read_text())
    for spoilt in (
        whole | {'method': 'magic'},
        whole | {'method': ['joint']},
        whole | {'config': {'dims': 1}},
        whole | {'config': whole['config'] | {'dim': '8'}},
        whole | {'config': [1]},
        {k: v for k, v in whole.items() if k != 'n_ids'},
    ):
        meta.write_text(json.dumps(spoilt))
        with pytest.raises(UserError, match='me/model'):
            pull_from_hub('me/model', tmp_path / 'out')
    meta.unlink()
    with pytest.raises(UserError, match='me/model'):
        pull_from_hub('me/model', tmp_path / 'out')
    assert not (tmp_path / 'out').exists() and not list(tmp_path.glob('.pull*'))


def test_no_network_is_one_clear_line(tmp_path, monkeypatch):
    real = pytest.importorskip('huggingface_hub')
    _, checkpoint = save_small(tmp_path / 'ours')

    def down(*a, **k):
        raise real.errors.LocalEntryNotFoundError('no connection')

    monkeypatch.setattr(real, 'snapshot_download', down)
    monkeypatch.setattr(real.HfApi, 'create_repo', down)
    with pytest.raises(UserError, match='check the name OWNER/NAME, the network'):
        pull_from_hub('me/model', tmp_path / 'out')
    with pytest.raises(UserError, match='check the name OWNER/NAME, the network'):
        push_to_hub(checkpoint, 'me/model')


def test_nothing_private_is_staged(tmp_path):
    method = make_method('direct', DirectConfig(size='32x16', backbone='resnet_small'), 5)
    method.config.weights = '/home/somebody/secret project/w.pth'
    checkpoint = save_checkpoint(method, tmp_path / 'direct', 1)
    (tmp_path / 'staged').mkdir()
    assert stage_run(checkpoint, tmp_path / 'staged') == ['README.md', 'config.yaml', 'meta.json', 'nets.safetensors']
    assert not any(b'somebody' in p.read_bytes() for p in (tmp_path / 'staged').iterdir())
    assert read_meta(tmp_path / 'staged')['config']['weights'] == 'w.pth' and load_method(tmp_path / 'staged', 'cpu')
    assert 'not recorded' in model_card(checkpoint) and 'No results are recorded' in model_card(checkpoint)


def test_nothing_private_is_staged_of_the_runs_that_one_builds_on(tmp_path):
    "Whatever the setting is called: that of self-training, and that of a method of one's own."
    small = dict(size='32x16', backbone='resnet_small', batch_size=8, images_per_id=4, norm_group=8)
    learned = make_method('selftrain', SelfTrainConfig(**small), 5)
    learned.config.start = '/home/somebody/secret project/joint'
    own = make_method(Follower, FollowerConfig(size='32x16', backbone='resnet_small'), 5)
    own.config.after = '/home/somebody/secret project/direct'
    for method, setting, name in ((learned, 'start', 'joint'), (own, 'after', 'direct')):
        checkpoint = save_checkpoint(method, tmp_path / setting, 1)
        (tmp_path / f'{setting} staged').mkdir()
        stage_run(checkpoint, tmp_path / f'{setting} staged')
        assert not any(b'somebody' in p.read_bytes() for p in (tmp_path / f'{setting} staged').iterdir())
        assert read_meta(tmp_path / f'{setting} staged')['config'][setting] == name


def test_imagenet_weights_are_never_random(monkeypatch):
    import timm

    create = timm.create_model

    def offline(name, pretrained=False, **k):
        if pretrained:
            raise OSError('cannot reach the hub')
        return create(name, pretrained=False, **k)

    monkeypatch.setattr(timm, 'create_model', offline)
    monkeypatch.setattr(
        'synthreid.models.backbones._ask_hub', lambda repo: None
    )  # the hub answers, and the download fails
    with pytest.raises(UserError, match='cannot reach the hub.*weights=FILE'):
        backbone('resnet18', weights='imagenet')
