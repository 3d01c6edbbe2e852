"""Time and memory of one clustering of an unlabelled training set: `python benchmarks/clustering.py`.

Features of 2048 dimensions with a person, a camera and noise in them, as many as Market-1501 and MSMT17 have for
training; from them to the distances and by DBSCAN to the clusters. Every row of the table is a process of its own, run
one after the other: seconds of the clock, seconds of the processor (user and system, all threads; on a machine that
others use, too, these are the ones to compare) and the peak of the whole process, with libraries and features.

    python benchmarks/clustering.py                     # both sizes; writes clustering.json and clustering.md beside it
    python benchmarks/clustering.py --scale 0.1 --out /tmp/small      # a tenth of the images: does it run?

Peer: `jaccard_numpy` in `reference_ranking.py`, full matrices as in the published code, and DBSCAN on the full matrix.
It needs five matrices of N x N float32 at its peak: 3 GB at the first size, 20 GB at the second, where it is not run.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from evaluation import machine, resident
from reference_ranking import jaccard_numpy

SIZES = {'Market-1501': (12936, 751, 6), 'MSMT17': (32621, 1041, 15)}  # training images, people, cameras
OURS = ('ours', 'ours, limit 0.7', 'ours, by camera', 'ours, by camera, limit 0.7')
ROUTES = {'Market-1501': ('NumPy, dense', *OURS), 'MSMT17': OURS}
EPS = 0.6


def features(n: int, people: int, cameras: int) -> tuple:  # (n, 2048) float32, pids, camids
    "People in 64 directions, shifted by their camera and blurred so that clusters are good and not perfect."
    rng = np.random.default_rng(1)
    person, camera = rng.standard_normal((people, 64)), rng.standard_normal((cameras, 64))
    pids, camids = rng.integers(0, people, n), rng.integers(0, cameras, n)
    inner = person[pids] + 0.5 * camera[camids] + 0.9 * rng.standard_normal((n, 64))
    return inner.astype(np.float32) @ rng.standard_normal((64, 2048), np.float32), pids, camids


def start_of_peak():
    "The peak of memory counts from here."
    try:
        Path('/proc/self/clear_refs').write_text('5')
    except OSError:
        pass


def spent(start=(0, 0)) -> tuple:
    "Seconds of the clock and of the processor since `start`."
    used = os.times()
    return time.perf_counter() - start[0], used.user + used.system - start[1]


def distances(who: str, x, cameras):
    "The matrix or the graph of one implementation."
    from synthreid.metrics.clustering import jaccard_graph

    if 'NumPy' in who:
        return jaccard_numpy(x)
    return jaccard_graph(x, cameras=cameras if 'camera' in who else None, limit=0.7 if 'limit' in who else 1.0)


def one(size: str, who: str, scale: float, labels_file: str) -> dict:
    "One measurement in this process; the clusters go into a file."
    from sklearn.cluster import DBSCAN

    from synthreid.metrics.clustering import agreement, cluster_graph

    n, people, cameras = SIZES[size]
    x, pids, camids = features(round(n * scale), max(4, round(people * scale)), cameras)
    (torch.ones(256, 256) @ torch.ones(256, 256)).sum().item()
    start_of_peak()
    start = spent()
    found = distances(who, x, camids)
    graph_s, graph_cpu = spent(start)
    middle = spent()
    if 'NumPy' in who:
        labels = DBSCAN(eps=EPS, min_samples=4, metric='precomputed').fit_predict(found)
        entries = float((found < 1).sum(1).mean())
    else:
        labels = cluster_graph(found, EPS)
        entries = found.nnz / len(x)
    cluster_s, cluster_cpu = spent(middle)
    peak = resident('VmHWM')
    np.save(labels_file, labels)
    seconds = dict(graph_s=graph_s, graph_cpu_s=graph_cpu, cluster_s=cluster_s, cluster_cpu_s=cluster_cpu)
    return seconds | dict(peak_MiB=peak, entries_per_row=entries) | agreement(labels, pids)._asdict()


def run(size: str, who: str, scale: float, folder: str) -> dict:
    "One measurement in a fresh process."
    labels = str(Path(folder) / f'{size} {who}.npy')
    command = [sys.executable, __file__, '--only', json.dumps([size, who, labels]), '--scale', str(scale)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f'{size}, {who}: failed with status {done.returncode}')
    return {'size': size, 'implementation': who, 'labels': labels} | json.loads(done.stdout.splitlines()[-1])


def same_clusters(a: dict, b: dict) -> float:
    "Share of the images with the same label in both."
    return float((np.load(a['labels']) == np.load(b['labels'])).mean())


def markdown(told: dict) -> str:
    "The table."
    head = '| size | implementation | distances, s (CPU s) | DBSCAN, s (CPU s) | peak, MiB | entries per row | clusters'
    lines = [told['machine'], '', head + ' | outliers | AMI | labels as dense |', '|---|---|' + '---:|' * 8]
    for r in told['rows']:
        times = [f'{r[k + "_s"]:.1f} ({r[k + "_cpu_s"]:.1f})' for k in ('graph', 'cluster')]
        same = f'{r["as_dense"]:.2%}' if r.get('as_dense') is not None else ''
        cells = [r['size'], r['implementation'], *times, f'{r["peak_MiB"]:,.0f}', f'{r["entries_per_row"]:,.0f}']
        cells += [f'{r["clusters"]:,}', f'{r["outliers"]:,}', f'{r["ami"]:.3f}', same]
        lines.append('| ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines) + '\n'


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--scale', type=float, default=1.0)
    parser.add_argument('--out', default=str(Path(__file__).with_suffix('')), help='of .json and .table.md')
    parser.add_argument('--only', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        size, who, labels = json.loads(args.only)
        print(json.dumps(one(size, who, args.scale, labels)))
        return
    told = {'machine': machine('cpu'), 'scale': args.scale, 'load_before': os.getloadavg(), 'eps': EPS, 'rows': []}
    with tempfile.TemporaryDirectory() as folder:
        for size, everyone in ROUTES.items():
            rows = [run(size, who, args.scale, folder) for who in everyone]
            for row in rows:
                plain = 'NumPy' in everyone[0] and 'camera' not in row['implementation']
                row['as_dense'] = same_clusters(rows[0], row) if plain else None
            told['rows'] += rows
            print(markdown({**told, 'rows': rows}), flush=True)
    for row in told['rows']:
        del row['labels']
    told['load_after'] = os.getloadavg()
    Path(args.out + '.json').write_text(json.dumps(told, indent=1) + '\n')


if __name__ == '__main__':
    main()
