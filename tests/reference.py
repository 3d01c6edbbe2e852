"""What the parity tests share: the reference implementations' stored numbers, and the weights behind them."""

import json
from pathlib import Path

import numpy as np
import torch

FIXTURES = Path(__file__).parent / 'fixtures'


def load(name):
    return json.loads((FIXTURES / f'{name}.json').read_text()), np.load(FIXTURES / f'{name}.npz')


def fill(net, specs, seed, scale):
    "The fixtures' weight formula, drawn in the order of the parameters."
    rng, parameters = np.random.RandomState(seed), list(net.parameters())
    assert [list(p.shape) for p in parameters] == [shape for _, shape, _ in specs]
    for p, (_, shape, kind) in zip(parameters, specs):
        r = rng.standard_normal(shape).astype(np.float32)
        p.data.copy_(torch.tensor(1 + 0.05 * r if kind == 'norm_w' else r * scale))
    return net
