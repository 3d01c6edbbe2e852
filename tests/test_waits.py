"""No step waits for its device, shown without one: tensors with real numbers that say they live elsewhere.

`Elsewhere` holds a CPU tensor and claims the device 'meta'. Every operation passes `compute`, which does it
on the CPU and notes what a GPU would have to be waited for: numbers that are asked for (`float`, `bool`, `item`),
shapes that depend on values (boolean indices, `nonzero`), and copies from one side to the other.
"""

import sys
from collections import Counter
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from synthreid import core
from synthreid.data.datasets import ReidSplit
from synthreid.training.dgnet import DGNet, DGNetConfig
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.flip import FlipConfig, FlipReID
from synthreid.training.joint import JointConfig, JointTransfer
from synthreid.training.loop import LossMeans

FAR = torch.device('meta')
aten = torch.ops.aten
ASKED = (aten._local_scalar_dense, aten.nonzero, aten.equal, aten.masked_select, aten._unique2, aten.bincount)
noted = Counter()


class Elsewhere(torch.Tensor):
    "A tensor that lives on the device FAR, with its numbers."

    @staticmethod
    def __new__(cls, here):
        like = dict(strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype, device=FAR)
        far = torch.Tensor._make_wrapper_subclass(cls, here.shape, **like)
        far.here = here
        return far

    def __init__(self, here):
        pass

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


def line() -> str:
    "The innermost line of the package that is being executed."
    frame = sys._getframe(1)
    while frame is not None and '/synthreid/' not in frame.f_code.co_filename:
        frame = frame.f_back
    return 'torch' if frame is None else f'{frame.f_code.co_filename.split("/synthreid/")[-1]}:{frame.f_lineno}'


def is_far(x) -> bool:
    return isinstance(x, Elsewhere)


def note(func, args, kwargs, far: bool, to: bool):
    "Write down what the host would have to wait for."
    packet = func.overloadpacket
    if far and packet in ASKED:
        noted[f'asked for a number in {line()}'] += 1
    if packet in (aten.index, aten.index_put, aten.index_put_, aten._index_put_impl_) and far:
        for index in args[1]:
            if isinstance(index, torch.Tensor) and (index.dtype == torch.bool or not is_far(index)):
                noted[f'index that is boolean, or on the host, in {line()}'] += 1
    if packet is aten._to_copy and far != to and not kwargs.get('non_blocking'):
        noted[f'copy from one side to the other in {line()}'] += 1
    if packet is aten.copy_ and is_far(args[0]) != is_far(args[1]):
        noted[f'copy from one side to the other in {line()}'] += 1


def compute(func, args, kwargs):
    "The operation on the CPU; what comes out lives where it should."
    far = any(map(is_far, pytree.tree_leaves((args, kwargs))))
    to = torch.device(kwargs['device']) == FAR if kwargs.get('device') is not None else far
    note(func, args, kwargs, far, to)
    plain, named = pytree.tree_map_only(Elsewhere, lambda x: x.here, (args, kwargs))
    if kwargs.get('device') is not None:
        named['device'] = torch.device('cpu')
    out = func(*plain, **named)
    if not to:
        return out
    out = pytree.tree_map_only(torch.Tensor, lambda x: x if is_far(x) else Elsewhere(x), out)
    try:
        return return_and_correct_aliasing(func, args, kwargs, out) if far else out
    except Exception:  # operations without a schema of their own
        return out


class Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return compute(func, args, kwargs or {})


class Made(TorchFunctionMode):
    "Constants from numbers of Python: made on the CPU and copied."

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.tolist and is_far(args[0]):
            noted[f'asked for numbers in {line()}'] += 1
            return args[0].here.tolist()
        if func is torch.Tensor.new_tensor and is_far(args[0]):
            return torch.tensor(args[1], dtype=kwargs.get('dtype', args[0].dtype)).to(FAR)
        if func in (torch.tensor, torch.as_tensor) and kwargs.get('device') is not None and not is_far(args[0]):
            device = kwargs.pop('device')
            return func(*args, **kwargs).to(device)
        return func(*args, **kwargs)


class FarGenerator(torch.Generator):
    "A generator of the CPU that says it belongs to FAR."

    claims = torch.device('cpu')

    def __new__(cls, device='cpu'):
        made = super().__new__(cls, 'cpu')
        made.claims = torch.device(device)
        return made

    def __init__(self, device='cpu'):
        pass

    @property
    def device(self):
        return self.claims


def send(values, device='cpu'):
    "As on a GPU: from page-locked memory, without waiting."
    x = torch.as_tensor(values if not isinstance(values, np.ndarray) else np.array(values))
    return x.to(device, non_blocking=True)


@contextmanager
def watched(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(torch, 'Generator', FarGenerator)
        for module in [m for name, m in sys.modules.items() if name.startswith('synthreid.') and m is not None]:
            if getattr(module, 'send', None) is core.send and module is not core:
                patch.setattr(module, 'send', send)
        patch.setattr(core, 'send', send)
        with Made(), Watch():
            yield


def split(seed):
    images = np.random.default_rng(seed).integers(0, 256, (32, 32, 16, 3), np.uint8)
    return ReidSplit(None, np.repeat(np.arange(8), 4), np.arange(32) % 3, images)


SIZE = dict(size='32x16', steps=10)
REID = SIZE | dict(backbone='resnet_small', batch_size=8, images_per_id=4)
NETS = dict(dim=4, n_blocks=1, discriminator_dim=4, head='basic', head_layers=(1,), head_widths=(8,), n_patches=8)
NETS |= SIZE | dict(batch_size=4)
START = dict(codes_from=0, codes_ramp=0, teacher_from=0, teacher_ramp=0, reference_quirks=False, primary='donor')
SWAP = dict(width=4, structure_dim=4, dilations=(1, 2), hidden=8, n_blocks=1, discriminator_dim=4, n_scales=2)
SWAP |= START | SIZE | dict(backbone='resnet_small', embedding_dim=8, batch_size=4, pad=2)
EVERYTHING = dict(weight_triplet=1.0, weight_circle=0.1, weight_centre=5e-4, augment='strong', erasing=0.5)
METHODS = {
    'direct': lambda d: DirectTransfer(DirectConfig(**REID), 8, device=d),
    'direct, all losses': lambda d: DirectTransfer(DirectConfig(**REID | EVERYTHING), 8, device=d),
    'joint': lambda d: JointTransfer(JointConfig(**NETS, reid_batch=8, weight_triplet=1.0), 8, 3, device=d),
    'joint, no GAN': lambda d: JointTransfer(JointConfig(**NETS, reid_batch=8, translation='none'), 8, 3, device=d),
    'joint reference': lambda d: JointTransfer(JointConfig.reference(**NETS, weight_nce_identity=0.5), 8, 3, device=d),
    'flip': lambda d: FlipReID(FlipConfig(**REID, weights=None, freeze_epochs=0, epochs=10), 8, device=d),
    'dgnet': lambda d: DGNet(DGNetConfig(**SWAP), 8, device=d),
}


def waits(monkeypatch, make, change=lambda method: None) -> tuple:  # in a batch, in a step, when the means are told
    "Places where the host waits; the first step, in which optimisers begin and constants are sent, does not count."
    with watched(monkeypatch):
        method = make(FAR)
        change(method)
        batches, means, counts = method.batches(split(0), split(1)), LossMeans(), []
        means.add(method.step(batches(0), 0))
        noted.clear()
        batch = batches(1)
        counts.append(dict(noted))
        noted.clear()
        losses = method.step(batch, 1)
        counts.append(dict(noted))
        noted.clear()
        means.add(losses)
        means.take()
        counts.append(dict(noted))
    return counts


@pytest.mark.parametrize('kept', [True, False])
@pytest.mark.parametrize('name', METHODS)
def test_no_step_waits(monkeypatch, name, kept):
    def keep(method):
        method.data_on_device = kept

    in_batch, in_step, told = waits(monkeypatch, METHODS[name], keep)
    assert not in_batch and not in_step
    assert sum(told.values()) <= 1


def spoil(kind):
    "A step that looks at its losses in one of the ways that wait."

    def change(method):
        step = method.step

        def spoilt(batch, i):
            losses = step(batch, i)
            first = next(iter(losses.values()))
            if kind == 'float':
                float(first)
            elif kind == 'mask':
                batch['images'][batch['pids'] > 3]
            elif kind == 'constant':
                first.new_tensor([1.0, 2.0])
            else:
                torch.tensor([1.0], device=FAR)
            return losses

        method.step = spoilt

    return change


@pytest.mark.parametrize('kind', ['float', 'mask', 'constant', 'tensor'])
def test_a_wait_is_seen(monkeypatch, kind):
    assert sum(waits(monkeypatch, METHODS['direct'], spoil(kind))[1].values()) == 1


def test_numbers_are_those_of_the_cpu(monkeypatch):
    with watched(monkeypatch):
        there = METHODS['joint'](FAR)
        far = {k: v.here.clone() for k, v in there.step(there.batches(split(0), split(1))(0), 0).items()}
    here = METHODS['joint']('cpu')
    near = here.step(here.batches(split(0), split(1))(0), 0)
    assert far.keys() == near.keys() and all(torch.equal(far[k], near[k]) for k in far)


def rates(method) -> list:
    return [group['lr'] for opt in method.opts.values() for group in opt.param_groups]


@pytest.mark.parametrize('name', METHODS)
def test_steps_of_a_phase_have_the_same_rates(name):
    method, found = METHODS[name]('cpu'), {}
    batches = method.batches(split(0), split(1))
    for i in range(10):
        method.step(batches(i), i)
        frozen = [p.requires_grad for net in method.nets.values() for p in net.parameters()]
        assert found.setdefault(method.phase(i), (rates(method), frozen)) == (rates(method), frozen)
    assert 1 < len(found) < 10 or name == 'flip'  # its epochs are one step long here
