"""Time and memory of FlipReID steps at full size.

python benchmarks/flip.py [--ids 16] [--backbone resnest50d] [--precision 32-true] [--steps 2] [--rest 1]

Images are noise: what a step costs does not depend on them. Peak memory is the process's (CPU) or the allocator's
(GPU). `--rest` steps of the first phase (backbone at rest), then `--steps` of the second, in which everything learns.
"""

import argparse
import os
import platform
import resource
import time

import numpy as np
import torch

from synthreid.data.datasets import ReidSplit
from synthreid.training.flip import FlipConfig, FlipReID
from synthreid.training.loop import in_precision

parser = argparse.ArgumentParser()
for name, default in dict(
    ids=16,
    per_id=4,
    backbone='resnest50d',
    size='384x128',
    precision='32-true',
    device='cpu',
    steps=2,
    rest=1,
    threads=os.cpu_count(),
).items():
    parser.add_argument(f'--{name.replace("_", "-")}', type=type(default), default=default)
a = parser.parse_args()
torch.set_num_threads(a.threads)
rng = np.random.default_rng(0)
n = a.ids * a.per_id
images = rng.integers(0, 256, (n, *map(int, a.size.split('x')), 3), np.uint8)
source = ReidSplit(None, np.repeat(np.arange(a.ids), a.per_id), np.zeros(n, np.int64), images)
method = FlipReID(
    FlipConfig(size=a.size, backbone=a.backbone, weights=None, batch_size=n, images_per_id=a.per_id),
    751 if a.ids <= 751 else a.ids,
    device=a.device,
)
batch = method.batches(source)(0)
print(
    f'{platform.machine()}, {a.threads} threads, torch {torch.__version__}; {a.backbone},'
    f' {sum(p.numel() for p in method.nets["embedder"].parameters()):,} parameters, {a.size}, {a.ids} x {a.per_id},'
    f' {a.precision}'
)


def step(i):
    began, cpu = time.perf_counter(), time.process_time()
    with in_precision(a.precision, method.device):
        losses = method.step(batch, i)
    if a.device == 'cuda':
        torch.cuda.synchronize()
    peak = (
        torch.cuda.max_memory_allocated() / 2**30
        if a.device == 'cuda'
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    print(
        f'step {i}: {time.perf_counter() - began:.1f} s, CPU {time.process_time() - cpu:.1f} s, peak {peak:.1f} GiB so'
        ' far, ' + ', '.join(f'{k} {v:.3f}' for k, v in losses.items()),
        flush=True,
    )


for i in range(a.rest):
    step(i)
for i in range(a.steps):
    step(20 * 200 + i)
