"""What the parity tests share: stored numbers of reference implementations, and the weights they were computed with."""

import json
import zlib
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


def by_formula(net):
    """Every parameter and running statistic from a seed made of its own name, so that two implementations with the same
    names get the same weights. Classifiers and pooled layers, which only one of them has, need not be left out."""
    for name, t in net.state_dict().items():
        if not t.is_floating_point():
            continue
        r = torch.from_numpy(np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(t.shape))).to(t)
        if t.ndim > 1:
            r = r * (2 / t[0].numel()) ** 0.5  # convolutions: a variance that the depth does not change
        elif name.endswith('running_var') or name.endswith('weight'):
            r = 1 + 0.2 * r.tanh()  # scales and variances around 1
        else:
            r = 0.2 * r
        t.copy_(r)
    return net


def backbone_input():
    return torch.from_numpy(np.random.RandomState(0).uniform(-2, 2, (2, 3, 64, 32)))


def stage_numbers(net, stages, forward):
    "Shape, mean, deviation and some numbers of what each stage of a network gives while `forward` runs."
    found = {}

    def keep(stage, maps):
        x = maps.detach().clone().double().numpy()
        some = x.ravel()[:: max(1, x.size // 400)]
        numbers = dict(shape=np.array(x.shape), mean=x.mean(), std=x.std(), some=some)
        found.update({f'{stage}/{key}': value for key, value in numbers.items()})

    hooks = [
        getattr(net, stage).register_forward_hook(lambda m, args, maps, stage=stage: keep(stage, maps))
        for stage in stages
    ]
    with torch.no_grad():
        forward()
    for hook in hooks:
        hook.remove()
    return found
