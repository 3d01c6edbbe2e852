"""A first step in bf16 and in fp16 beside one in float32, all as `fit` does them: losses and directions of gradients
are close, layers are computed in few bits, and what rounding would hurt is not. Losses in fp16 are multiplied as torch
does it."""

import sys
from collections import Counter
from contextlib import nullcontext
from pathlib import Path

import pytest
import several
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import synthreid
from synthreid.models import patchnce, reid
from synthreid.training import direct, joint, runs, selftrain
from synthreid.training.checkpoint import load_checkpoint, save_checkpoint
from synthreid.training.hooks import read_metrics
from synthreid.training.loop import PRECISIONS, Method, TrainingDiverged, fit, in_precision, scale_losses, update
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
BF16, FP16 = torch.bfloat16, torch.float16
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
    "Counts convolutions by type, and what is computed in few bits that is no layer."

    def __init__(self):
        super().__init__()
        self.convolutions, self.rounded = Counter(), Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out, name = func(*args, **kwargs or {}), func.overloadpacket.__name__
        tensors = [x for x in pytree.tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        narrow = any(x.dtype in (BF16, FP16) for x in tensors)
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


def first_step(name: str, precision: str, watch=None) -> tuple:  # losses; {net: gradient}
    "Of self-training the first one on clusters, which are found in float32."
    torch.set_num_threads(1)
    method, told, start = made(name), [], 0
    batches = method.batches(several.split(0), several.split(1))
    if name.startswith('selftrain'):
        method.cluster(batches(0), 0)
        start = 1
    for opt in method.opts.values() if precision == '16-mixed' else ():
        opt.param_groups[0]['loss_scale'] = torch.tensor([2.0**6, 0.0])  # the usual 2^16 is left out at first
    with watch or nullcontext():
        hooks = [lambda method, done, losses: told.append(losses)]
        fit(method, batches, start + 1, start, hooks, precision, log_every=1)
    flat = lambda net: [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return told[0], {net: torch.cat(flat(module)) for net, module in method.nets.items() if flat(module)}


@pytest.mark.parametrize('precision', ['bf16-mixed', '16-mixed'])
@pytest.mark.parametrize('name', METHODS)
def test_a_step_in_few_bits_is_close(name, precision):
    least, largest = (METHODS[name], LOSSES) if precision == 'bf16-mixed' else (0.97, LOSSES / 8)
    losses, gradients = first_step(name, '32-true')
    watch = Watch()
    near, directions = first_step(name, precision, watch)
    assert set(watch.convolutions) == {PRECISIONS[precision]} and not watch.rounded
    assert near.keys() == losses.keys() and directions.keys() == gradients.keys()
    apart = {k: abs(near[k] - v) / max(abs(v), 1e-3) for k, v in losses.items()}
    assert 0 < max(apart.values()) < largest, apart
    cosine = lambda a, b: torch.cosine_similarity(a, b, 0).item()
    alike = {net: cosine(gradient, directions[net]) for net, gradient in gradients.items()}
    assert min(alike.values()) > least, alike
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


def test_a_step_in_float32_is_seen():
    watch = Watch()
    first_step('direct', '32-true', watch)
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
        fit(method, batches, 1, precision='bf16-mixed')
    assert set(watch.convolutions) == {BF16} and not watch.rounded
    assert told and all((labels == found(*args)).all() for labels, args in told)
    assert len(method.memory['judged']) and method.memory['clusters'].dtype == torch.float32


@pytest.mark.parametrize('precision', PRECISIONS)
def test_a_run_trains_in_its_precision(tmp_path, precision):
    config = TINY['direct']().config
    config.steps = 1
    watch = Watch()
    with watch:
        run = Run(tmp_path / 'run', 'direct', config, device='cpu', precision=precision)
        run.train(several.split(0), tensorboard=False, sample_every=0, progress=False)
    assert set(watch.convolutions) == {PRECISIONS[precision]}
    told = {name: value for _, name, value in read_metrics(tmp_path / 'run' / 'metrics.csv')}
    losses, _ = first_step('direct', precision)
    assert {k: told[k] for k in losses} == pytest.approx(losses, rel=1e-4)


OPTIMISERS = {
    'Adam': lambda params, **more: torch.optim.Adam(params, 1e-2, **more),
    'SGD': lambda params, **more: torch.optim.SGD(params, 1e-2, momentum=0.9, nesterov=True, weight_decay=0.1, **more),
}
STRENGTHS = 1e-7, 30.0, 30.0, 1e-7, 1e-7, 30.0, 1e-3, 1e-7  # of the losses: too small for fp16, or too large


def pulled(kind: str, fused: bool, scaler=None) -> tuple:  # weights after every step, factors
    "Two optimisers that share a loss of a net in fp16, by `update` or by torch's own way."
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 1))
    opts = [OPTIMISERS[kind](part.parameters(), fused=fused) for part in net]
    if scaler is None:
        scale_losses(opts)
    weights, factors = [], []
    for i, strength in enumerate(STRENGTHS):
        with in_precision('16-mixed', torch.device('cpu')):
            loss = strength * net(torch.randn(4, 6, generator=torch.Generator().manual_seed(i))).float().sum()
            if scaler is None:
                update({'loss': loss}, *opts)
                factors.append(opts[0].param_groups[0]['loss_scale'][0].item())
        if scaler is not None:
            for opt in opts:
                opt.zero_grad()
            scaler.scale(loss).backward()
            for opt in opts:
                scaler.step(opt)
            scaler.update()
            factors.append(scaler.get_scale())
        weights.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
    return torch.stack(weights), factors


@pytest.mark.parametrize('fused', [False, True])
@pytest.mark.parametrize('kind', OPTIMISERS)
def test_losses_are_multiplied_as_by_torch(monkeypatch, kind, fused):
    "Small gradients arrive, infinite ones move nothing, the factor falls and rises: as with `torch.amp.GradScaler`."
    monkeypatch.setattr('synthreid.training.loop._GOOD_STEPS', 2)
    weights, factors = pulled(kind, fused)
    theirs, known = pulled(kind, False, torch.amp.GradScaler('cpu', growth_interval=2))
    assert factors == known and len(set(factors)) > 2
    torch.testing.assert_close(weights, theirs)
    left_out = [(now == before).all().item() for before, now in zip(weights, weights[1:])]
    assert left_out == [True, True, False, False, True, False, False]


def test_the_first_step_of_all_may_overflow(monkeypatch):
    "A fused SGD whose first step is left out has buffers of zeros."
    monkeypatch.setitem(globals(), 'STRENGTHS', (30.0, 30.0, 1e-3, 1e-3))
    weights, _ = pulled('SGD', True)
    theirs, _ = pulled('SGD', False, torch.amp.GradScaler('cpu'))
    torch.testing.assert_close(weights, theirs)


def test_factors_are_saved_with_the_run(tmp_path, monkeypatch):
    "A run in fp16 that stopped in the middle ends with the bits of one that did not, and with its factors."
    config, data = TINY['joint']().config, (several.split(0), several.split(1))
    config.steps, ends = 4, []

    def trained(name, until):
        monkeypatch.setattr(
            runs, 'fit', lambda method, batches, steps, *more, **how: fit(method, batches, until, *more, **how)
        )
        run = Run(tmp_path / name, 'joint', config, device='cpu', precision='16-mixed')
        return run.train(*data, tensorboard=False, sample_every=0, progress=False)[0]

    whole = trained('whole', 4)
    assert trained('cut', 2) is not whole
    again = trained('cut', 4)
    for ours, theirs in zip(*(pytree.tree_leaves([m.nets[k].state_dict() for k in m.nets]) for m in (whole, again))):
        assert torch.equal(ours, theirs)
    for name, opt in whole.opts.items():
        ours, theirs = (m.opts[name].state_dict() for m in (whole, again))
        assert ours['param_groups'][0]['loss_scale'].tolist() == theirs['param_groups'][0]['loss_scale'].tolist()
        ends.append(opt.param_groups[0]['loss_scale'].tolist())
    assert any(factor < 2**16 or good == 4 for factor, good in ends), ends


class Infinite(Method):
    "Finite losses whose gradients never are: nothing is ever learned, and the losses do not say so."

    def __init__(self):
        super().__init__(several.METHODS['direct']().config, 8)
        self.nets['line'] = torch.nn.Linear(1, 1)
        self.opts['line'] = torch.optim.SGD(self.nets['line'].parameters(), 1e-2)

    def step(self, batch, i):
        return update({'root': (self.nets['line'](torch.ones(1, 1)) * 0).float().sqrt().sum()}, *self.opts.values())


@pytest.mark.parametrize('steps, every, seen', [(60, 20, 19), (18, 20, 18), (300, 300, 299)])
def test_what_overflows_at_every_step_is_told(steps, every, seen):
    "At the next row of the log, or at the end."
    said = f'infinite at step {seen} .* multiplied by .*: --precision bf16-mixed or 32-true'
    with pytest.raises(TrainingDiverged, match=said):
        fit(Infinite(), lambda i: {}, steps, precision='16-mixed', log_every=every)


def test_factors_have_a_limit_and_divide_once(monkeypatch):
    monkeypatch.setattr('synthreid.training.loop._GOOD_STEPS', 1)
    w = torch.nn.Parameter(torch.zeros(1))
    opts = [torch.optim.SGD([w], 1e-2) for _ in range(2)]  # of the same weight
    scale_losses(opts)
    for _ in range(50):
        update({'tiny': 1e-3 * w.sum()}, *opts)
    assert opts[0].param_groups[0]['loss_scale'][0] == 2**24
    assert w.item() == pytest.approx(-50 * 2 * 1e-2 * 1e-3)


def test_factors_follow_the_method_to_its_device(tmp_path):
    "Checkpoints are read on the CPU; settings of an optimiser that are tensors go where its weights are."
    method = TINY['direct']()
    scale_losses(method.opts.values())
    saved = save_checkpoint(method, tmp_path, 1)
    other = TINY['direct']()
    other.device = torch.device('meta')
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.Module, 'load_state_dict', lambda *state: None)
        load_checkpoint(other, saved)
    assert all(opt.param_groups[0]['loss_scale'].device.type == 'meta' for opt in other.opts.values())
