"""Nets are compiled in place and whole: no graph breaks, the same names of weights, the same losses."""

import numpy as np
import pytest
import torch
from test_waits import METHODS, split

from synthreid.training.loop import compile_nets


@pytest.fixture(autouse=True)
def forget():
    yield
    torch._dynamo.reset()


def two_steps(method) -> list:
    batches = method.batches(split(0), split(1))
    torch.manual_seed(0)  # of dropout
    return [{k: v.item() for k, v in method.step(batches(i), i).items()} for i in range(2)]


@pytest.mark.parametrize('name', METHODS)
def test_nets_are_one_graph_each(name):
    plain, compiled = METHODS[name]('cpu'), METHODS[name]('cpu')
    compile_nets(compiled, backend='eager', fullgraph=True)  # a break is an error
    for net in plain.nets:
        assert list(plain.nets[net].state_dict()) == list(compiled.nets[net].state_dict())
    for a, b in zip(two_steps(plain), two_steps(compiled)):
        assert a.keys() == b.keys() and all(np.isclose(a[k], b[k], rtol=1e-5) for k in a)


def test_a_break_is_seen():
    method = METHODS['joint']('cpu')
    encode = method.nets['generator'].encode

    def broken(*args, **kwargs):
        torch._dynamo.graph_break()
        return encode(*args, **kwargs)

    method.nets['generator'].encode = broken
    compile_nets(method, backend='eager', fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported):
        two_steps(method)
