"""A step in float64 computes in float64: nothing on its way is rounded to float32, where CPU and GPU part ways."""

import sys
from collections import Counter

import pytest
import torch
from test_waits import FAR, METHODS, NETS, Elsewhere, compute, line, split, watched
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from synthreid.training.joint import JointConfig, make_nets, start_translation

aten = torch.ops.aten
DRAWN = (aten.rand, aten.randn, aten.uniform_, aten.normal_, aten.bernoulli_)  # float32 everywhere: the same draws
PLACES = ('index', '_boxes')  # functions that turn draws into rows and columns, which are whole numbers


def places() -> bool:
    "Whether one of these functions is at work."
    frame = sys._getframe(1)
    while frame is not None and frame.f_code.co_name not in PLACES:
        frame = frame.f_back
    return frame is not None


class Rounded(TorchDispatchMode):
    "Counts the operations that give numbers of less than float64, except draws and what merely moves numbers."

    def __init__(self):
        super().__init__()
        self.places = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **kwargs or {})
        narrow = [x for x in pytree.tree_leaves(out) if isinstance(x, torch.Tensor) and x.is_floating_point()]
        counted = func.overloadpacket is aten.add_ and all(not x.ndim for x in narrow)  # Adam's steps
        computed = not (func.is_view or counted or func.overloadpacket in DRAWN or places())
        if computed and any(x.dtype != torch.float64 for x in narrow):
            self.places[f'{func.overloadpacket.__name__} in {line()}'] += 1
        return out


def in_float64(batch: dict) -> dict:
    return {k: v.double() if v.is_floating_point() else v for k, v in batch.items()}


def rounded(method) -> Counter:
    "What two steps round, the second of which finds everything that is made once in its place."
    for net in method.nets.values():
        net.double()
    batches = method.batches(split(0), split(1))
    method.step(in_float64(batches(0)), 0)
    batch = in_float64(batches(1))
    with Rounded() as seen:
        method.step(batch, 1)
    return seen.places


@pytest.mark.parametrize('name', METHODS)
def test_nothing_is_rounded(name):
    assert not rounded(METHODS[name]('cpu'))


def test_a_rounding_is_seen():
    with Rounded() as seen:
        torch.ones(3, dtype=torch.float64).float().exp()
    assert sum(seen.places.values()) == 2


class Computed(TorchDispatchMode):
    "Refuses arithmetic on a device that is not the CPU; copies and views pass."

    moves = (aten._to_copy, aten.copy_, aten.clone)
    asks = (aten.ne, aten.any, aten._local_scalar_dense, aten.bitwise_or)  # is there anything to do?

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        far = any(isinstance(x, Elsewhere) for x in pytree.tree_leaves((args, kwargs)))
        passes = func.is_view or func.overloadpacket in (*self.moves, *self.asks)
        assert not far or passes, f'{func} in {line()}'
        return compute(func, args, kwargs or {})


@pytest.mark.parametrize('changes', [{}, {'cameras': False}, {'decoder': 'resize'}, {'translation': 'colour_map'}])
def test_closed_forms_are_computed_on_the_cpu(monkeypatch, changes):
    "Another device adds three numbers in another order: with it joint training began 2e-8 apart."
    config = JointConfig(**NETS, **changes)
    source, target = split(0), split(1)
    with watched(monkeypatch):
        generator = make_nets(config, 8, 3)['generator'].to(FAR)
        with Computed():
            start_translation(generator, config, source, target)
        far = {k: v.here for k, v in generator.state_dict().items()}
    torch.manual_seed(0)
    here = make_nets(config, 8, 3)['generator']
    start_translation(here, config, source, target)
    starts = [k for k in far if 'camera_field' in k or 'colour_map' in k or 'log_gain' in k or 'to_field.bias' in k]
    assert starts and all(torch.equal(far[k], here.state_dict()[k]) for k in starts)
