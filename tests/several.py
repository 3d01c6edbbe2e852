"""One of several processes that train together, for `test_processes`: python several.py FOLDER [wrong]."""

import sys
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
import torch.distributed as dist

from synthreid import processes
from synthreid.data import augment
from synthreid.data.datasets import ReidSplit
from synthreid.training import direct, joint, selftrain
from synthreid.training.dgnet import DGNet, DGNetConfig
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.flip import FlipConfig, FlipReID
from synthreid.training.joint import JointConfig, JointTransfer
from synthreid.training.loop import Method, fit, scale_losses, update
from synthreid.training.selftrain import SelfTrain, SelfTrainConfig

# all batches can be shared out to two and to three
SIZE = dict(size='32x16', steps=9)
REID = SIZE | dict(backbone='resnet_small', batch_size=12, images_per_id=2, lr=1e-2, weights=None)
LOSSES = dict(weight_triplet=1.0, weight_circle=0.1, weight_centre=5e-4, augment='strong', erasing=0.5)
NETS = dict(dim=4, n_blocks=1, discriminator_dim=4, head='basic', head_layers=(1,), head_widths=(8,), n_patches=8)
NETS |= SIZE | dict(batch_size=6, reid_batch=12, reid_images_per_id=2, lr=1e-2, lr_discriminator=1e-2)
SWAP = dict(width=4, structure_dim=4, dilations=(1, 2), hidden=8, n_blocks=1, discriminator_dim=4, n_scales=2)
SWAP |= dict(codes_from=0, codes_ramp=0, teacher_from=0, teacher_ramp=0, reference_quirks=False, primary='donor')
SWAP |= SIZE | dict(backbone='resnet_small', embedding_dim=8, batch_size=6, pad=2, lr=1e-3, lr_appearance=1e-3)
FLIP = REID | dict(schedule='run', freeze_epochs=0, weight_circle=0.1)
METHODS = {
    'direct': lambda: DirectTransfer(DirectConfig(**REID | LOSSES), 8),
    'joint': lambda: JointTransfer(JointConfig(**NETS, weight_triplet=1.0, weight_nce_identity=0.5), 8, 3),
    'joint, as published': lambda: JointTransfer(
        JointConfig.reference(**NETS | dict(reid_batch=0, images_per_id=2, weight_triplet=1.0)), 8, 3
    ),
    'joint, apart': lambda: JointTransfer(
        JointConfig(**NETS, mode='disjoint', all_negatives=True, warmup_steps=1, augment='translation'), 8, 3
    ),
    'flip': lambda: FlipReID(FlipConfig(**FLIP), 8),
    'dgnet': lambda: DGNet(DGNetConfig(**SWAP), 8),
    'dgnet, target': lambda: DGNet(DGNetConfig(**SWAP, use_target=True), 8),
    'an overflow in fp16': lambda: Overflow(),
    'selftrain': lambda: adapted('direct'),
    'selftrain, all of it': lambda: adapted(
        'joint',
        use_source='classes',
        weight_proxy=0.5,
        memory_update='hard',
        outliers='singletons',
        eps=(0.3, 0.5, 0.7),
    ),
}


class Overflow(Method):
    "Twelve rows, of which the first has a gradient at step 1 that is infinite once the loss is multiplied."

    shares = True

    def __init__(self):
        super().__init__(DirectConfig(**REID), 8)
        self.nets['line'] = torch.nn.Linear(1, 1)
        self.opts['line'] = torch.optim.SGD(self.nets['line'].parameters(), lr=1e-2)

    def step(self, batch, i):
        scale_losses(self.opts.values())
        x, weight, here = torch.arange(12.0, dtype=torch.float64)[:, None], torch.ones(12, 1), processes.share()
        weight[0] = 1e36
        x, weight = (rows.chunk(here.world)[here.rank] for rows in (x, weight))
        y = self.nets['line'](x)
        if i == 1:
            y = (y - y.detach()).float() * weight
        return update({'mean': y.mean()}, *self.opts.values())


def adapted(start, **changes) -> SelfTrain:
    "From another method, in double precision too."
    start = METHODS[start]()
    for net in start.nets.values():
        net.double()
    kind = SIZE | dict(batch_size=12, images_per_id=2, source_batch=12, source_images_per_id=2, norm_group=2)
    kind |= dict(steps=3, epochs=2, k1=4, k2=2, min_samples=2, eps=(0.7,), hold_out=0.3, augment='strong')
    kind |= dict(choose='validation', keep='best')
    return SelfTrain(SelfTrainConfig(**kind | changes), 8, 3, start=start)


def split(seed) -> ReidSplit:
    images = np.random.default_rng(seed).integers(0, 256, (32, 32, 16, 3), np.uint8)
    return ReidSplit(None, np.repeat(np.arange(8), 4), np.arange(32) % 3, images)


def own_gradient_only(x):
    "All rows, of which only those of this process have a graph."
    whole, here = processes.gathered(x.detach()), processes.share()
    if x.is_floating_point():
        whole = torch.cat([whole[: here.rank * len(x)], x, whole[(here.rank + 1) * len(x) :]])
    return whole


def noise_by_rank(draw, *shape, generator=None, device='cpu', images=0, **more):
    "Each process draws for itself."
    seed = generator.initial_seed() + torch.randint(2**40, (), generator=generator).item() + dist.get_rank()
    return draw(shape, generator=torch.Generator().manual_seed(seed), device=device, **more)


def local_norm(self, func, types, args=(), kwargs=None):
    return func(*args, **kwargs or {})


def spoil(how: str):
    if how == 'own gradient only':
        direct.gathered = joint.gathered = own_gradient_only
    elif how == 'noise by rank':
        augment.drawn = joint.drawn = noise_by_rank
    elif how == 'local batch norm':
        processes._WholeBatch.__torch_function__ = local_norm


def train(make, steps=3) -> dict:  # {name: tensor}
    "Weights and losses after some steps of SGD in double precision."
    method, told = make(), []
    for net in method.nets.values():
        net.double()
        for m in net.modules():  # weights of 0, as ResNets begin, let rounding decide which of equal maxima learns
            if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.affine:
                torch.nn.init.uniform_(m.weight, 0.5, 1.5)
    groups = lambda opt: [{'params': group['params']} for group in opt.param_groups]
    method.opts = {name: torch.optim.SGD(groups(opt), lr=1e-3) for name, opt in method.opts.items()}
    batches = method.batches(split(0), split(1))
    double = lambda batch: {
        k: v.double() if torch.is_tensor(v) and v.is_floating_point() else v for k, v in batch.items()
    }
    note = lambda method, done, losses: told.append(losses)
    by_12 = partial(selftrain.embed_all, batch_size=12)  # 32 images: shares of different length
    with patch.object(selftrain, 'embed_all', by_12):
        fit(method, lambda i: double(batches(i)), steps, hooks=[note], log_every=1)
    found = {f'{n}.{k}': v for n, net in method.nets.items() for k, v in net.state_dict().items()}
    return found | {f'loss {name} {i}': torch.tensor(v) for i, losses in enumerate(told) for name, v in losses.items()}


if __name__ == '__main__':
    torch.set_num_threads(1)
    folder, wrong = Path(sys.argv[1]), ' '.join(sys.argv[2:])
    processes.join('cpu')
    spoil(wrong)
    for name in METHODS if not wrong else ['direct']:
        found = train(METHODS[name])
        if processes.is_first():
            torch.save(found, folder / f'{name}.pt')
