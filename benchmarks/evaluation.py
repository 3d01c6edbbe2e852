"""Speed and memory of the evaluation beside its peers: `python benchmarks/evaluation.py` prints markdown tables.

Every figure comes from a process of its own, peers and ours in turn, so that no run inherits memory or a warm cache.
"Memory" is the peak of the process above what the inputs take. Seconds are the median of `--repeats` runs; what takes
minutes runs once. The features are made, not learnt (people, cameras, noise): they measure work, not recognition.

    python benchmarks/evaluation.py                    # everything, about an hour on 2 cores
    python benchmarks/evaluation.py ranking frechet    # some tables
    python benchmarks/evaluation.py --scale 0.1        # a tenth of every set: does it run?
    python benchmarks/evaluation.py --device cuda      # ours on the GPU, peers where they are

Peers: NumPy restatements in `reference_ranking.py`; `pytorch-fid`; `torch-fidelity` (`pip install torch-fidelity`).
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

SIZES = {  # queries, gallery images, dimensions, people, cameras
    'Market-1501': (3368, 15913, 2048, 750, 6),
    'MSMT17': (11659, 82161, 2048, 3060, 15),
    'Market+500k': (3368, 515913, 512, 750, 6),
}
ROUTES = {  # table: sizes: implementations; the first one is the peer that ratios refer to
    'ranking': {
        'Market-1501': ('NumPy, matrix ready', 'ours, matrix ready', 'NumPy', 'ours', 'matrix product alone'),
        'MSMT17': ('ours', 'matrix product alone'),
        'Market+500k': ('ours', 'matrix product alone'),
    },
    'reranking': {'Market-1501': ('NumPy', 'ours'), 'MSMT17': ('ours',)},
    'frechet': {
        '2048-d, 5,000 images': ('pytorch-fid', 'torch-fidelity', 'ours'),
        '2048-d, 1,000 images (singular)': ('pytorch-fid', 'ours'),
    },
    'kernel': {'2048-d, 5,000 images, 100 subsets of 1,000': ('torch-fidelity', 'ours')},
    'fid': {'2 x 256 images of 128x64': ('pytorch-fid', 'torch-fidelity', 'ours')},
}
ONCE = {('reranking', 'MSMT17')}  # minutes


# ---- inputs


def features(n: int, dim: int, people: int, cameras: int, seed: int) -> tuple:  # (n, dim) float32, pids, camids
    "Positive features with a person, a camera and noise in them; one in five gallery images is a stranger's (pid 0)."
    rng = np.random.default_rng(seed)
    common = np.random.default_rng(0)
    person, camera = (common.standard_normal((k, dim), np.float32) for k in (people + 1, cameras))
    pids, camids = rng.integers(1, people + 1, n), rng.integers(0, cameras, n)
    out = np.empty((n, dim), np.float32)
    for s in range(0, n, 8192):
        e = slice(s, s + 8192)
        out[e] = rng.standard_normal((len(pids[e]), dim), np.float32) * 2 + 1.5 * person[pids[e]] + camera[camids[e]]
    np.maximum(out, 0, out=out)
    return out, pids, camids


def retrieval_inputs(size: str, scale: float) -> tuple:
    "Query and gallery features with their labels."
    nq, ng, dim, people, cameras = SIZES[size]
    nq, ng, people = (max(20, round(k * scale)) for k in (nq, ng, people))
    q, qp, qc = features(nq, dim, people, cameras, 1)
    g, gp, gc = features(ng, dim, people, cameras, 2)
    gp[np.random.default_rng(3).random(ng) < (0.97 if '500k' in size else 0.2)] = 0
    return q, g, qp, gp, qc, gc


# ---- the usual NumPy way, restated


def distances_numpy(q, g) -> np.ndarray:  # (Q, G) squared Euclidean distances
    "The whole matrix at once."
    return (q**2).sum(1)[:, None] + (g**2).sum(1)[None] - 2 * (q @ g.T)


def rank_numpy(distances, q_pids, g_pids, q_camids, g_camids, max_rank: int = 50) -> tuple:  # CMC, mAP
    "Sort the whole matrix, then go through the queries."
    order = np.argsort(distances, axis=1)
    matches = (g_pids[order] == q_pids[:, None]).astype(np.int32)
    curves, precisions = [], []
    for i in range(len(distances)):
        keep = (g_pids[order[i]] != q_pids[i]) | (g_camids[order[i]] != q_camids[i])
        hits = matches[i][keep]
        if not hits.any():
            continue
        found = hits.cumsum()
        curves.append(np.minimum(found, 1)[:max_rank])
        precisions.append((found / np.arange(1, len(found) + 1) * hits).sum() / hits.sum())
    return np.mean(curves, axis=0), float(np.mean(precisions))


# ---- measuring


def resident(key: str = 'VmRSS') -> float:  # MiB
    "Memory of this process as the kernel counts it; not a number where there is no /proc."
    try:
        return next(int(l.split()[1]) / 1024 for l in open('/proc/self/status') if l.startswith(key))
    except OSError:
        return float('nan')


def measure(work) -> dict:  # seconds, MiB above what was there before, value
    "Run `work` once."
    try:
        Path('/proc/self/clear_refs').write_text('5')  # the peak counts from here
    except OSError:
        pass
    before, start = resident(), time.perf_counter()
    value = work()
    seconds = time.perf_counter() - start
    return {'seconds': seconds, 'MiB': resident('VmHWM') - before, 'value': float(value)}


def ranking(size, who, scale, device):
    from synthreid.metrics.ranking import evaluate_ranking, rank_metrics

    q, g, *labels = retrieval_inputs(size, scale)
    ready = distances_numpy(q, g) if 'ready' in who else None
    warm = torch.from_numpy(q[:256]).to(device)
    (warm @ warm.T).sum().item()
    if who == 'matrix product alone':
        left = torch.from_numpy(q).to(device)
        return measure(
            lambda: (
                sum(
                    (left @ torch.from_numpy(g[s : s + 4096]).to(device).T)[0, 0].item() for s in range(0, len(g), 4096)
                )
                * float('nan')
            )
        )
    return measure(
        {
            'NumPy, matrix ready': lambda: rank_numpy(ready, *labels)[1],
            'NumPy': lambda: rank_numpy(distances_numpy(q, g), *labels)[1],
            'ours, matrix ready': lambda: rank_metrics(ready, *labels).mAP,
            'ours': lambda: evaluate_ranking(q, g, *labels, metric='euclidean', device=device).mAP,
        }[who]
    )


def reranking(size, who, scale, device):
    from reference_ranking import k_reciprocal_numpy, k_reciprocal_pairs

    from synthreid.metrics.ranking import rank_metrics
    from synthreid.metrics.reranking import k_reciprocal_distance

    q, g, *labels = retrieval_inputs(size, scale)
    kept = {}

    def work():
        kept['d'] = (
            k_reciprocal_numpy(q, g)
            if who == 'NumPy'
            else k_reciprocal_distance(q, g, metric='euclidean', device=device)
        )
        return kept['d'][:8].sum()

    result = measure(work)
    if size == 'MSMT17':  # too large for the reference: some pairs, each from the definition
        near = [(i, j) for i in range(3) for j in np.argsort(kept['d'][i])[:4]]
        expected = k_reciprocal_pairs(q, g, near)
        print(
            f'{len(near)} pairs from the definition: largest difference'
            f' {np.abs(expected - [kept["d"][p] for p in near]).max():.2g}',
            file=sys.stderr,
        )
    return result | {'value': rank_metrics(kept['d'], *labels).mAP}


def clouds(n: int) -> list:
    "Two sets of 2048-d features whose covariances differ, spectrum as uneven as Inception's."
    rng = np.random.default_rng(n)
    spread = np.exp(-np.arange(2048) / 300).astype(np.float32)
    turn = np.linalg.qr(rng.standard_normal((2048, 2048)))[0].astype(np.float32)
    return [(rng.standard_normal((n, 2048), np.float32) * spread * s) @ turn + m for s, m in ((1, 0), (1.2, 0.01))]


def frechet(size, who, scale, device):
    from synthreid.metrics.features import feature_statistics
    from synthreid.metrics.frechet import frechet_between, frechet_distance

    n = 1000 if 'singular' in size else 5000
    x, y = clouds(n)
    if n < 2048 and who == 'ours':
        return measure(lambda: frechet_between(x, y))
    statistics_ = *feature_statistics(x), *feature_statistics(y)
    if who == 'ours':
        return measure(lambda: frechet_distance(*statistics_))
    if who == 'torch-fidelity':
        from torch_fidelity.metric_fid import fid_statistics_to_metric

        a, b = ({'mu': m, 'sigma': s} for m, s in (statistics_[:2], statistics_[2:]))
        return measure(lambda: fid_statistics_to_metric(a, b, False)['frechet_inception_distance'])
    from pytorch_fid.fid_score import calculate_frechet_distance

    return measure(lambda: calculate_frechet_distance(*statistics_))


def kernel(size, who, scale, device):
    from synthreid.metrics.frechet import kernel_distance_subsets

    x, y = clouds(5000)
    if who == 'ours':
        return measure(lambda: kernel_distance_subsets(x, y, n_subsets=100, subset_size=1000)[0])
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = torch.from_numpy(x), torch.from_numpy(y)
    return measure(
        lambda: kid_features_to_metric(x, y, kid_subsets=100, kid_subset_size=1000, verbose=False)[
            'kernel_inception_distance_mean'
        ]
    )


def fid(size, who, scale, device):
    "Folder to number: decoding, features, statistics, distance. Random weights do the same work as trained ones."
    from PIL import Image

    from synthreid.core import to_signed
    from synthreid.metrics.features import FID_WEIGHTS, _fid_inception, inception_features
    from synthreid.metrics.frechet import compare_folders
    from synthreid.render.folder import render_images

    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        n = max(16, round(256 * scale))
        for name, domain in (('a', 'game'), ('b', 'camera')):
            (d / name).mkdir()
            for i, image in enumerate(
                render_images(domain, np.arange(n) // 8, np.arange(n) % 8, size=(128, 64)).images
            ):
                Image.fromarray(image).save(d / name / f'{i:05}.png')
        weights = d / 'hub' / 'checkpoints' / FID_WEIGHTS
        weights.parent.mkdir(parents=True)
        torch.manual_seed(0)
        net = _fid_inception().train()
        for m in net.modules():
            if isinstance(m, torch.nn.BatchNorm2d):
                m.momentum = None
        some = torch.nn.functional.interpolate(
            to_signed(render_images('game', np.arange(16), np.arange(16), size=(128, 64)).images), size=(299, 299)
        )
        with torch.no_grad():
            net(some)
        torch.save(net.state_dict(), weights)
        if who == 'ours':
            return measure(
                lambda: compare_folders(
                    d / 'a',
                    d / 'b',
                    inception_features(weights, device=device),
                    cache=None,
                    only_distance=True,
                    progress=False,
                )['frechet']
            )
        if who == 'torch-fidelity':
            from torch_fidelity import calculate_metrics

            return measure(
                lambda: calculate_metrics(
                    input1=str(d / 'a'),
                    input2=str(d / 'b'),
                    fid=True,
                    cuda=device != 'cpu',
                    batch_size=50,
                    verbose=False,
                    cache=False,
                    feature_extractor_weights_path=str(weights),
                )['frechet_inception_distance']
            )
        torch.hub.set_dir(d / 'hub')
        from pytorch_fid.fid_score import calculate_fid_given_paths

        return measure(lambda: calculate_fid_given_paths([str(d / 'a'), str(d / 'b')], 50, device, 2048, num_workers=1))


# ---- tables


def machine(device: str) -> str:
    "What the figures were measured on."
    try:
        cpu = next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration):
        cpu = platform.processor() or 'unknown processor'
    gpu = f', {torch.cuda.get_device_name()}' if device.startswith('cuda') else ''
    return (
        f'{len(os.sched_getaffinity(0))}-core {platform.machine().replace("_", "-")} CPU ({cpu}){gpu}, Python'
        f' {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__.split("+")[0]},'
        f' {torch.get_num_threads()} threads'
    )


def run(table, size, who, args) -> dict | None:
    "One measurement in a fresh process; None where it failed."
    command = [
        sys.executable,
        __file__,
        '--only',
        json.dumps([table, size, who]),
        '--scale',
        str(args.scale),
        '--device',
        args.device,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f'{table}, {size}, {who}: {(done.stderr.strip().splitlines() or ["killed"])[-1]}', file=sys.stderr)
        return None
    for line in done.stderr.splitlines():
        if 'from the definition' in line:
            print(line, file=sys.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('tables', nargs='*', help=', '.join(ROUTES))
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--scale', type=float, default=1.0)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--only', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        table, size, who = json.loads(args.only)
        print(json.dumps(globals()[table](size, who, args.scale, args.device)))
        return
    print(machine(args.device) + (f', every set scaled by {args.scale}' if args.scale != 1 else ''))
    for table in args.tables or ROUTES:
        print(
            f'\n## {table}\n\n| size | implementation | seconds | times as fast as the peer | memory, MiB | value'
            ' |\n|---|---|---:|---:|---:|---:|',
            flush=True,
        )
        for size, everyone in ROUTES[table].items():
            found = {who: [] for who in everyone}
            for turn in range(args.repeats):
                for who in everyone:
                    if turn and (table, size) in ONCE:
                        continue
                    if one := run(table, size, who, args):
                        found[who].append(one)
            for who, many in found.items():
                if not many:
                    print(f'| {size} | {who} | failed | | | |')
                    continue
                seconds = statistics.median(r['seconds'] for r in many)
                peer = (
                    'NumPy, matrix ready'
                    if 'ready' in who
                    else everyone[2 if table == 'ranking' and len(everyone) > 2 else 0]
                )
                base = [r['seconds'] for r in found[peer]] if peer != who and 'alone' not in who else []
                ratio = f'{statistics.median(base) / seconds:.1f}' if base and 'ours' not in peer else ''
                print(
                    f'| {size} | {who} | {seconds:.2f} | {ratio} | {max(r["MiB"] for r in many):.0f} |'
                    f' {many[0]["value"]:.6g} |',
                    flush=True,
                )


if __name__ == '__main__':
    main()
