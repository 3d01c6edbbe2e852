"""A first step in bf16 beside one in float32, both as `fit` does them: losses and directions of gradients are close,
layers are computed in bf16, and what rounding would hurt is not."""

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import several
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins.environments import LightningEnvironment
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import synthreid
from synthreid.models import patchnce, reid
from synthreid.training import direct, joint, selftrain
from synthreid.training.hooks import read_metrics
from synthreid.training.loop import fit
from synthreid.training.runs import Run

# the least cosine between the gradients of a net; of DG-Net's tiny generator noise of 2^-8 in the pixels, which bf16
# has in every layer, makes it 0.90 in float32
METHODS = {
    'direct': 0.95,
    'joint': 0.95,
    'joint, as published': 0.95,
    'flip': 0.95,
    'dgnet': 0.7,
    'selftrain': 0.95,
}
WHOLE = dict(use_source='classes', weight_proxy=0.5, outliers='singletons', eps=(0.3, 0.5, 0.7))
TINY = {name: several.METHODS[name] for name in METHODS if name != 'selftrain'}
TINY |= {'selftrain': lambda: several.adapted('joint', **WHOLE, norm_group=12)}  # groups of two magnify rounding
LOSSES = 0.03  # the largest difference, as a share of the loss
BF16 = torch.bfloat16
PACKAGE = str(Path(synthreid.__file__).parent) + '/'
PRODUCTS = ('addmm', 'mm', 'bmm')  # of nets, not of losses
LAYERS = {  # what may be computed in bf16 on the way forward: nothing with a power, a length or an exponential in it
    *('_to_copy', '_unsafe_view', 'bernoulli_', 'cat', 'clone', 'empty_like', 'eq', 'index', 'scalar_tensor', 'stack'),
    *('abs', 'add', 'add_', 'amax', 'clamp', 'div_', 'mean', 'mul', 'sub', 'where', 'convolution', 'native_batch_norm'),
    *('adaptive_max_pool2d', 'upsample_bilinear2d', 'upsample_nearest2d', 'leaky_relu', 'relu', 'relu_', 'tanh'),
}
ALSO = {'training/flip.py': ('div',)}  # by two


def place() -> tuple:  # file, function
    "Where in the package an operation is asked for; what merely hands it on does not count."
    frame = sys._getframe(1)
    while frame is not None:
        file, function = frame.f_code.co_filename, frame.f_code.co_name
        if file.startswith(PACKAGE) and function != '__torch_function__':
            return file.removeprefix(PACKAGE), function
        frame = frame.f_back
    return 'torch', ''


class Watch(TorchDispatchMode):
    "Counts convolutions by type, and what is computed in bf16 that is no layer."

    def __init__(self):
        super().__init__()
        self.convolutions, self.rounded = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, name = func(*args, **kwargs or {}), func.overloadpacket.__name__
        tensors = [x for x in pytree.tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        narrow = any(x.dtype == BF16 for x in tensors)
        if name == 'convolution':
            self.convolutions[tensors[0].dtype] += 1
        if narrow and not (func.is_view or name.endswith('_backward')):
            file, function = place()
            own = PRODUCTS if file.startswith('models/') or file == 'data/augment.py' else ALSO.get(file, ())
            if name not in (*LAYERS, *own) and function != 'update':  # gradients are of the type of what they belong to
                self.rounded[f'{name} in {file}, {function}'] += 1
        return out


def made(name: str):
    "The method in float32, and what it starts from."
    method = TINY[name]()
    for part in (method, vars(method).get('start')):
        for net in part.nets.values() if part else ():
            net.float()
    return method


def first_step(name: str, precision: str | None, watch=None) -> tuple:  # losses; {net: gradient}
    "Of self-training the first one on clusters, which are found in float32."
    torch.set_num_threads(1)
    method, told, start = made(name), [], 0
    batches = method.batches(several.split(0), several.split(1))
    if name.startswith('selftrain'):
        method.cluster(batches(0), 0)
        start = 1
    alone = dict(accelerator='cpu', devices=1, plugins=[LightningEnvironment()])
    fabric = Fabric(precision=precision, **alone) if precision else None
    with watch or nullcontext():
        hooks = [lambda method, done, losses: told.append(losses)]
        fit(method, batches, start + 1, start, hooks, fabric, log_every=1)
    flat = lambda net: [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return told[0], {net: torch.cat(flat(module)) for net, module in method.nets.items() if flat(module)}


@pytest.mark.parametrize('name', METHODS)
def test_a_step_in_bf16_is_close(name):
    losses, gradients = first_step(name, '32-true')
    watch = Watch()
    near, directions = first_step(name, 'bf16-mixed', watch)
    assert set(watch.convolutions) == {BF16} and not watch.rounded
    assert near.keys() == losses.keys() and directions.keys() == gradients.keys()
    apart = {k: abs(near[k] - v) / max(abs(v), 1e-3) for k, v in losses.items()}
    assert 0 < max(apart.values()) < LOSSES, apart
    cosine = lambda a, b: torch.cosine_similarity(a, b, 0).item()
    alike = {net: cosine(gradient, directions[net]) for net, gradient in gradients.items()}
    assert min(alike.values()) > METHODS[name], alike
    length = {net: (directions[net].norm() / gradient.norm()).item() for net, gradient in gradients.items()}
    assert all(0.9 < x < 1.1 for x in length.values()), length


ISLANDS = [
    (reid, '_pairwise_distances', 'direct'),
    (direct, 'circle_loss', 'direct'),
    (joint, 'gan_loss', 'joint'),
    (joint, 'patch_nce', 'joint'),
    (patchnce, 'widen', 'joint'),
    (selftrain, 'cluster_contrast', 'selftrain'),
    (selftrain, 'refresh', 'selftrain'),
    (selftrain, 'proxy_contrast', 'selftrain'),
]


@pytest.mark.parametrize('module, island, name', ISLANDS, ids=[f'{i}, {n}' for _, i, n in ISLANDS])
def test_an_island_that_is_gone_is_seen(monkeypatch, module, island, name):
    sunken = (lambda x: x) if island == 'widen' else getattr(module, island).__wrapped__
    monkeypatch.setattr(module, island, sunken)
    watch = Watch()
    first_step(name, 'bf16-mixed', watch)
    assert watch.rounded


@pytest.mark.parametrize('precision', [None, '32-true'])
def test_a_step_without_bf16_is_seen(precision):
    watch = Watch()
    first_step('direct', precision, watch)
    assert set(watch.convolutions) == {torch.float32} and not watch.rounded


def test_clusters_and_judgement_are_of_float32():
    "What features of bf16 say of each other is said in float32: the clusters are those found outside of the step."
    method, told = made('selftrain'), []
    batches = method.batches(several.split(0), several.split(1))
    found = selftrain.cluster_at

    def note(*args):
        told.append((found(*args), args))
        return told[-1][0]

    with pytest.MonkeyPatch.context() as patch, Watch() as watch:
        patch.setattr(selftrain, 'cluster_at', note)
        fabric = Fabric(accelerator='cpu', devices=1, precision='bf16-mixed', plugins=[LightningEnvironment()])
        fit(method, batches, 1, fabric=fabric)
    assert set(watch.convolutions) == {BF16} and not watch.rounded
    assert told and all((labels == found(*args)).all() for labels, args in told)
    assert len(method.memory['judged']) and method.memory['clusters'].dtype == torch.float32


@pytest.mark.parametrize('precision', ['32-true', 'bf16-mixed'])
def test_a_run_trains_in_its_precision(tmp_path, precision):
    config = TINY['direct']().config
    config.steps = 1
    watch = Watch()
    with watch:
        run = Run(tmp_path / 'run', 'direct', config, device='cpu', precision=precision)
        run.train(several.split(0), tensorboard=False, sample_every=0, progress=False)
    assert set(watch.convolutions) == {BF16 if precision == 'bf16-mixed' else torch.float32}
    told = {name: value for _, name, value in read_metrics(tmp_path / 'run' / 'metrics.csv')}
    losses, _ = first_step('direct', precision)
    assert {k: told[k] for k in losses} == pytest.approx(losses, rel=1e-4)
