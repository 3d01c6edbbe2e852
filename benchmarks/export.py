"""One picture and sixteen through the exports of a net, beside torch: `export.py --out export.json`.

Untrained nets of the size that is trained with (a time does not know what a net has learned). Torch itself and the
three formats take turns in one process, after one call that warms up; each gets as many threads as there are cores. A
median is told, with the quickest and the slowest call.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from synthreid.core import parse_size, usable_cores
from synthreid.training.deploy import FORMATS, _Embedding
from synthreid.training.direct import DirectConfig
from synthreid.training.joint import JointConfig
from synthreid.training.methods import make_method

NETS = {
    'direct, ResNet-50': ('direct', DirectConfig()),
    'joint, our settings': ('joint', JointConfig()),
    'joint, published settings': ('joint', JointConfig.reference()),
}
NAMES = {'.onnx': 'ONNX Runtime', '.xml': 'OpenVINO', '.pt2': 'torch.export'}


def times(runs, x, repeats):  # {name: [ms]}
    "Calls in turn, after one that warms up."
    took = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            began = time.perf_counter()
            run(x)
            took[name].append(1000 * (time.perf_counter() - began))
    return {name: [round(t, 2) for t in values[1:]] for name, values in took.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--repeats', type=int, default=15)
    parser.add_argument('--size', default='256x128')
    parser.add_argument('--nets', nargs='*', default=list(NETS), choices=NETS)
    parser.add_argument('--out', default='export.json')
    args = parser.parse_args()
    torch.set_num_threads(usable_cores())
    found, rng = {}, np.random.default_rng(0)
    for title in args.nets:
        kind, config = NETS[title]
        config.size = args.size
        net = _Embedding(make_method(kind, config, n_ids=2, device='cpu')).eval()
        million = sum(p.numel() for p in net.parameters()) / 1e6
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            x = torch.from_numpy(rng.uniform(-1, 1, (16, 3, *parse_size(args.size))).astype(np.float32))
            runs = {'torch': lambda array, net=net: net(torch.from_numpy(array)).numpy()}
            runs |= {NAMES[s]: write(net, x[:5], Path(folder) / f'net{s}', {}) for s, write in FORMATS.items()}
            wanted = runs['torch'](x.numpy())
            off = {
                name: float(np.abs(run(x.numpy()) - wanted).max() / np.abs(wanted).max()) for name, run in runs.items()
            }
            found[title] = {'off': off}
            for n in (1, 16):
                found[title][str(n)] = told = times(runs, x[:n].numpy(), args.repeats)
                cells = [f'{statistics.median(t):.0f} ({min(t):.0f} to {max(t):.0f})' for t in told.values()]
                print(f'| {title} | {n} | ' + ' | '.join(cells) + ' |', flush=True)
        print(f'{title}: {million:.1f} million parameters in all nets; relative difference', off, flush=True)
        Path(args.out).write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
