"""Source only, joint, joint and self-training, self-training without source, oracle: seeds x draws.

Goes on where it stopped. Labels of the target are used for the numbers alone, and for what is set beside the label-free
choices: the best epoch, the best fixed eps, and self-training whose clusters are the true people.

    nice -n 15 python benchmarks/adapt.py --work runs/adapt_bench --seeds 0 1 2 --draws 1 2 [--device cuda]
    python benchmarks/adapt.py --work runs/adapt_bench --table      # of what is there

`--what`: `truth`, also the true people as clusters, and every eps by itself; `rule`, joint and self-training alone, by
today's choice, beside the truth; from its start, `fixed`, one eps by itself, and `options`, every option by itself;
`communities`, other ways to cluster; `imagenet`, nets with weights from ImageNet at 128x64.
"""

import argparse
import json
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import torch
from pretrained import INSTALLED
from scipy.sparse import csr_matrix

from synthreid.adapt import adapt_settings, run_adapt
from synthreid.core import UserError, atomic_write
from synthreid.data.batches import Pixels
from synthreid.demo import demo_data, demo_rows
from synthreid.metrics.clustering import agreement, jaccard_graph
from synthreid.metrics.evaluate import evaluate_reid, extract_features
from synthreid.metrics.openset import calibrate, evaluate_roc
from synthreid.metrics.tables import markdown_table
from synthreid.training import selftrain
from synthreid.training.checkpoint import list_checkpoints
from synthreid.training.runs import Run, load_method

QUIET = dict(sample_every=0, tensorboard=False, progress=False)
ROWS = {
    'source only': 'same encoder, source only, strong augmentation',
    'oracle': 'oracle: trained on target labels',
}
COLUMNS = 'mAP best_epoch last_epoch held_back ami clusters eps threshold target_false_match target_true_match'.split()


def trained(run, *data, **how):
    "The method at the end of its training; what a signal stopped before is no row."
    method, done = run.train(*data, **how, **QUIET)
    if done < run.config.steps:
        raise SystemExit(f'stopped at step {done}: the same command goes on')
    return method


def tested(embed, target, device) -> float:  # mAP in percent
    return 100 * evaluate_reid(embed, target.query, target.gallery, device=device).mAP


def true_people(target):  # (N,) from 0
    return np.unique(target.train.pids, return_inverse=True)[1]


def beside_truth(run, target, device) -> dict:
    "The best that could have been chosen: mAP of every epoch, agreement of the last clusters with the people."
    learners = [load_method(c, device) for c in list_checkpoints(run / 'checkpoints')]
    maps = [tested(m.nets['embedder'].eval(), target, device) for m in learners]
    with np.load(run / 'clusters.npz') as f:
        last = agreement(f['labels'][-1], true_people(target))
        told = dict(ami=last.ami, clusters=last.clusters, eps=f['eps'][-1].item())
    return told | dict(best_epoch=max(maps), last_epoch=maps[-1])


def folder_name(draw, seed, told) -> str:
    return f'draw{draw}_seed{seed}_steps{told.steps}_{told.adapt_steps}'


def one(work, draw, seed, told) -> list:
    "All rows of one draw of the worlds and one seed of the trainings."
    device = told.device
    source, target, _ = demo_data(work / 'data', told.size, seed=draw, progress=False)
    out, rows = work / folder_name(draw, seed, told), []
    note = lambda row, mAP, **more: rows.append(dict(row=row, draw=draw, seed=seed, mAP=mAP, **more))
    settings = adapt_settings('small', told.size, told.steps, told.adapt_steps)
    people = selftrain.divide_people(source, settings['adapted'].hold_out)[0]
    for row, name in ROWS.items():
        kind, config = demo_rows(told.steps, oracle=True)[name]
        labelled, unlabelled = (target.train.relabel(), None) if row == 'oracle' else (people, target.train)
        run = Run(out / row.replace(' ', '_'), kind, replace(config, size=told.size), seed, device)
        note(row, tested(trained(run, labelled, unlabelled).embed, target, device))
    joint = Run(out / 'joint', 'joint', settings['joint'], seed, device)
    every = max(10, settings['joint'].steps // 10)
    trained(joint, people, target.train, checkpoint_every=every, recorded=device != 'cpu')
    for found in run_adapt(source, target, out, settings, seed=seed, device=device, progress=False):
        name = {'start': 'joint', 'adapted': 'joint and self-training', 'control': 'without source'}[found['method']]
        more = {k: found[k] for k in ('threshold', 'target_false_match', 'target_true_match')}
        more['held_back'] = found['mAP']
        if found['method'] != 'start':
            more |= beside_truth(out / found['method'], target, device)
        note(name, found['target_mAP'], **more)
    return rows


def with_truth(work, draw, seed, told) -> list:
    "Behind `one`: the true people as clusters, and every eps by itself."
    source, target, _ = demo_data(work / 'data', told.size, seed=draw, progress=False)
    out = work / folder_name(draw, seed, told)
    learned = adapt_settings('small', told.size, told.steps, told.adapt_steps)['adapted']
    learned = replace(learned, start=str(out / 'joint'), choose='agreement', keep='last', hold_out=0)
    told_rows = []
    for eps in (None, *learned.eps):
        label = 'clusters are the true people' if eps is None else f'eps {eps:g}'
        given = (lambda c, *sets: true_people(target)[None]) if eps is None else selftrain.cluster_at
        run = Run(out / label.replace(' ', '_'), 'selftrain', replace(learned, eps=(eps or 0.5,)), seed, told.device)
        with mock.patch.object(selftrain, 'cluster_at', given):
            try:
                mAP = tested(trained(run, source, target.train).embed, target, told.device)
            except UserError:  # no clusters at this eps
                mAP = np.nan
        told_rows.append(dict(row=label, draw=draw, seed=seed, mAP=mAP))
    return told_rows


def by_eps(method, target, config) -> dict:
    "What the clusters at every eps are worth with a net: the rule's criterion beside the truth."
    codes = selftrain.embed_all(method.nets['embedder'], Pixels(target.train.images, method.device), len(target.train))
    found = selftrain.cluster_at(config, (codes, target.train.camids))
    truth = [agreement(labels, true_people(target)) for labels in found]
    criterion = selftrain.judge_eps(found).tolist()
    return dict(criterion=criterion, ami=[t.ami for t in truth], clusters=[t.clusters for t in truth])


def thresholds(method, held, target) -> dict:
    "Wanted false-match rate: what comes out on the target, beside the threshold that its labels would choose."
    of = lambda split: extract_features(method.embed, split.images, flip=True, device=method.device)
    known, codes, (q, g) = of(held), of(target.train), (target.query, target.gallery)
    labels = selftrain.among_strangers(held.pids, held.camids, target.train.camids)
    there = evaluate_roc(known, torch.cat([known, codes]), *labels, max_fpr=0.01)
    here = evaluate_roc(of(q), of(g), q.pids, g.pids, q.camids, g.camids, max_fpr=0.5)
    found = {}
    for wanted in (1e-3, 1e-2):
        threshold = calibrate(there, wanted).threshold
        false, true = here.rates_at(threshold)
        best = here.threshold_at(wanted)
        told = dict(threshold=threshold, false_match=false, true_match=true)
        found[f'{wanted:g}'] = told | dict(best=best, best_true_match=here.rates_at(best)[1])
    return found


def rule(work, draw, seed, told) -> list:
    "Start and self-training as `adapt` does them; every fourth epoch and every eps judged by the truth."
    device, began = told.device, time.process_time()
    source, target, _ = demo_data(work / 'data', told.size, seed=draw, progress=False)
    out = work / folder_name(draw, seed, told)
    settings = adapt_settings('small', told.size, told.steps, told.adapt_steps, control=False)
    people, back = selftrain.divide_people(source, settings['adapted'].hold_out)
    run = Run(out / 'joint', 'joint', settings['joint'], seed, device)
    start = trained(run, people, target.train, checkpoint_every=max(10, told.steps // 10))
    learned = replace(settings['adapted'], start=str(out / 'joint'))
    run = Run(out / 'adapted', 'selftrain', learned, seed, device)
    adapted = trained(run, source, target.train, checkpoint_every=told.adapt_steps // learned.epochs)
    spent = time.process_time() - began
    held = selftrain.HeldOut(back, start, learned, len(np.unique(target.train.camids)))()
    first = selftrain.SelfTrain(learned, source.n_ids, seed=seed, device=device, start=start)
    nets = [first, *(load_method(c, device) for c in list_checkpoints(run.folder / 'checkpoints'))]
    with np.load(run.folder / 'clusters.npz') as f:
        chosen = f['eps'].tolist()
    looked_at = range(0, len(nets), len(nets) // 5)
    by_epoch = {e: tested(nets[e].nets['embedder'].eval(), target, device) for e in looked_at}
    return [
        dict(
            row="today's rule",
            draw=draw,
            seed=seed,
            device=device,
            cpu_s=spent,
            mAP=by_epoch[len(nets) - 1],
            by_epoch=by_epoch,
            chosen=chosen,
            eps_tried=list(learned.eps),
            by_eps={e: by_eps(nets[e], target, learned) for e in (0, len(nets) - 2)},
            thresholds={'start': thresholds(start, held, target), 'adapted': thresholds(adapted, held, target)},
        )
    ]


def from_imagenet(work, draw, seed, told) -> list:
    "At 128x64: a net with ImageNet's weights learns renders, then the cameras; and the cameras alone."
    source, target, _ = demo_data(work / 'data', '128x64', 60, 108, draw, progress=False)
    out, device = work / f'imagenet_{folder_name(draw, seed, told)}', told.device
    settings = adapt_settings('small', '128x64', adapt_steps=told.adapt_steps)
    kinds = {
        'start': ('direct', replace(INSTALLED, steps=told.steps)),
        'adapted': ('selftrain', replace(settings['adapted'], start=str(out / 'start'))),
        'control': ('selftrain', replace(settings['control'], backbone=INSTALLED.backbone, weights='installed')),
    }
    rows = []
    for name, (kind, config) in kinds.items():
        began, run = time.process_time(), Run(out / name, kind, config, seed, device)
        learned = trained(run, source, target.train, checkpoint_every=20)
        row = dict(row=f'ImageNet: {name}', draw=draw, seed=seed, steps=config.steps, device=device)
        rows.append(row | dict(cpu_s=time.process_time() - began, mAP=tested(learned.embed, target, device)))
        if kind == 'selftrain':
            with np.load(run.folder / 'clusters.npz') as f:
                first, last = (agreement(f['labels'][e], true_people(target)) for e in (0, -1))
                rows[-1] |= dict(chosen=f['eps'].tolist(), first_clusters=first.clusters, first_ami=first.ami)
            rows[-1] |= dict(clusters=last.clusters, ami=last.ami)
    return rows


def fixed(work, draw, seed, told) -> list:
    "Behind `rule`: from its start, with its people held back, one eps by itself: what the choice costs."
    source, target, _ = demo_data(work / 'data', told.size, seed=draw, progress=False)
    out, rows = work / folder_name(draw, seed, told), []
    learned = adapt_settings('small', told.size, told.steps, told.adapt_steps)['adapted']
    for eps in told.eps:
        config = replace(learned, start=str(out / 'joint'), eps=(eps,))
        run = Run(out / f'fixed_{eps:g}', 'selftrain', config, seed, told.device)
        mAP = tested(trained(run, source, target.train).embed, target, told.device)
        with np.load(run.folder / 'clusters.npz') as f:
            last = agreement(f['labels'][-1], true_people(target))
        row = dict(row=f'{eps:g}, from the start of the rule', draw=draw, seed=seed, device=told.device)
        rows.append(row | dict(eps=eps, mAP=mAP, ami=last.ami, clusters=last.clusters))
    return rows


OPTIONS = {
    'none of them': {},
    'twice the steps': dict(steps=600, epochs=20),
    'one proxy per cluster and camera, 0.5': dict(weight_proxy=0.5),
    'both of these: as `adapt` does': dict(steps=600, epochs=20, weight_proxy=0.5),
    'twice the clusterings': dict(epochs=20),
    'without the source': dict(use_source='none'),
    'source told apart by itself': dict(use_source='apart'),
    'plain Jaccard (CA-Jaccard off)': dict(camera_aware=False),
    'camera mean left in': dict(camera_mean=False),
    'memory by the hardest': dict(memory_update='hard'),
    'outliers as clusters of one': dict(outliers='singletons'),
}


def options(work, draw, seed, told) -> list:
    "Behind `rule`: every option by itself, from its start."
    source, target, _ = demo_data(work / 'data', told.size, seed=draw, progress=False)
    start = work / folder_name(draw, seed, told) / 'joint'
    learned = adapt_settings('small', told.size, told.steps, told.adapt_steps)['adapted']
    learned = replace(learned, start=str(start), steps=300, epochs=10, weight_proxy=0.0)
    rows = []
    for i, (name, changes) in enumerate(OPTIONS.items()):
        out = work / f'options_{folder_name(draw, seed, told)}' / str(i)
        run = Run(out, 'selftrain', replace(learned, **changes), seed, told.device)
        mAP = tested(trained(run, source, target.train).embed, target, told.device)
        with np.load(run.folder / 'clusters.npz') as f:
            last, chosen = agreement(f['labels'][-1], true_people(target)), f['eps'].tolist()
        rows.append(dict(row=name, draw=draw, seed=seed, steps=learned.steps, mAP=mAP, ami=last.ami, chosen=chosen))
        rows[-1] |= dict(clusters=last.clusters, device=told.device)
        print(rows[-1], flush=True)
    return rows


def groups_of(kind, graph, limit, least) -> np.ndarray:  # (N,) int64, -1 outliers
    "Communities of the graph whose entries are below a limit, the nearer the stronger; small ones are outliers."
    coo, n = graph.tocoo(), graph.shape[0]
    near = (coo.data < limit) & (coo.row != coo.col)
    rows, columns, weights = coo.row[near], coo.col[near], 1 - coo.data[near]
    if kind == 'Leiden':
        from sknetwork.clustering import Leiden

        links = csr_matrix((weights, (rows, columns)), shape=graph.shape)
        found = Leiden(resolution=8, random_state=0).fit_predict(links)
    else:
        from infomap import Infomap

        net, once = Infomap(silent=True, two_level=True, seed=1), rows < columns
        for i in range(n):
            net.add_node(i)
        net.add_links([(int(a), int(b), float(w)) for a, b, w in zip(rows[once], columns[once], weights[once])])
        net.run()
        module = net.get_modules()
        found = np.array([module[i] for i in range(n)])
    kept = np.bincount(found)[found] >= least
    return np.where(kept, np.cumsum(np.bincount(found[kept], minlength=found.max() + 1) > 0)[found] - 1, -1)


def community_clusters(kind, config, *sets) -> np.ndarray:
    "In place of `cluster_at`; `eps` is the limit."
    cameras = np.concatenate([camids for _, camids in sets])
    codes = torch.cat([selftrain.without_camera(*part) if config.camera_mean else part[0] for part in sets])
    told = dict(k1=config.k1, k2=config.k2, cameras=cameras if config.camera_aware else None, limit=0.95)
    graph = jaccard_graph(codes, **told)
    return np.stack([groups_of(kind, graph, eps, config.min_samples) for eps in config.eps])


def communities(work, draw, seed, told) -> list:
    "Behind `rule`: DBSCAN beside Infomap and Leiden (pip install infomap scikit-network), as clusters and in training."
    source, target, _ = demo_data(work / 'data', told.size, seed=draw, progress=False)
    out, limits, rows = work / folder_name(draw, seed, told), (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8), []
    learned = adapt_settings('small', told.size, told.steps, told.adapt_steps)['adapted']
    learned = replace(learned, start=str(out / 'joint'), eps=limits)
    start = load_method(list_checkpoints(out / 'joint' / 'checkpoints')[-1], told.device)
    nets = {
        'start': selftrain.SelfTrain(learned, source.n_ids, seed=seed, device=told.device, start=start),
        'adapted': load_method(list_checkpoints(out / 'adapted' / 'checkpoints')[-1], told.device),
    }
    of_eps = selftrain.cluster_at
    for kind in ('DBSCAN', 'Infomap', 'Leiden'):
        given, tried = (
            (of_eps, (0.35, 0.4, 0.45, *limits)) if kind == 'DBSCAN' else (partial(community_clusters, kind), limits)
        )
        with mock.patch.object(selftrain, 'cluster_at', given):
            for name, net in nets.items():
                told_row = by_eps(net, target, replace(learned, eps=tried))
                rows.append(dict(row=f'{kind}, {name}', draw=draw, seed=seed, eps_tried=tried, by_eps=told_row))
                print(rows[-1], flush=True)
            if told.train and kind != 'DBSCAN':
                config = replace(learned, eps=(0.6,), steps=300, epochs=10, weight_proxy=0.0)
                run = Run(work / f'{kind}_{folder_name(draw, seed, told)}', 'selftrain', config, seed, told.device)
                mAP = tested(trained(run, source, target.train).embed, target, told.device)
                rows.append(dict(row=f'{kind}, trained', draw=draw, seed=seed, steps=300, mAP=mAP))
    return rows


KINDS = dict(
    communities=(communities,),
    rows=(one,),
    truth=(one, with_truth),
    rule=(rule,),
    fixed=(fixed,),
    options=(options,),
    imagenet=(from_imagenet,),
)


def table(work) -> str:
    "Mean and standard deviation over all draws and seeds that are there."
    rows = pd.DataFrame([r for f in sorted(work.glob('results/*.json')) for r in json.loads(f.read_text())])
    groups = rows.groupby('row', sort=False)
    lines = [
        [
            name,
            len(g),
            *(f'{g[c].mean():.3g} ± {g[c].std():.2g}' if c in g and g[c].notna().any() else '' for c in COLUMNS),
        ]
        for name, g in groups
    ]
    return markdown_table(['row', 'runs', *COLUMNS], lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, default=Path('runs/adapt_bench'))
    parser.add_argument('--seeds', type=int, nargs='+', default=[0, 1, 2])
    parser.add_argument('--draws', type=int, nargs='+', default=[1, 2], help='draw 7 was used for tuning')
    parser.add_argument('--size', default='64x32')
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--adapt-steps', type=int, default=600)
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--what', default='rows', choices=list(KINDS), help='see above')
    parser.add_argument('--train', action='store_true', help='of `communities`: also 300 steps with each')
    parser.add_argument('--eps', type=float, nargs='+', default=[0.45], help='of `fixed`')
    parser.add_argument('--table', action='store_true', help='print what is there')
    told = parser.parse_args()
    jobs = [(draw, seed) for draw in told.draws for seed in told.seeds]
    for draw, seed in [] if told.table else jobs:
        for work in KINDS[told.what]:
            kept = told.work / 'results' / f'{folder_name(draw, seed, told)}_{work.__name__}.json'
            if not kept.exists():
                rows = work(told.work, draw, seed, told)
                kept.parent.mkdir(parents=True, exist_ok=True)
                with atomic_write(kept) as tmp:
                    tmp.write_text(json.dumps(rows, indent=1))
    print(table(told.work))


if __name__ == '__main__':
    main()
