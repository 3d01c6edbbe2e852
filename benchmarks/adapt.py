"""Source only, joint, joint and self-training, self-training without source, oracle: seeds x draws; goes on where it
stopped. Labels of the target are used for the numbers alone, and for the best eps and epoch beside the chosen ones.

    nice -n 15 python benchmarks/adapt.py --work runs/adapt_bench --seeds 3 --draws 1 2
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from synthreid.adapt import adapt_settings, run_adapt
from synthreid.core import atomic_write
from synthreid.demo import demo_data, demo_rows
from synthreid.metrics.clustering import agreement
from synthreid.metrics.evaluate import evaluate_reid
from synthreid.metrics.tables import markdown_table
from synthreid.training.checkpoint import list_checkpoints
from synthreid.training.runs import Run, load_method
from synthreid.training.selftrain import divide_people

ROWS = {
    'source only': 'same encoder, source only, strong augmentation',
    'oracle': 'oracle: trained on target labels',
}


def test_map(method, target) -> float:
    return evaluate_reid(method.embed, target.query, target.gallery, device=method.device).mAP


def beside_truth(run, target) -> dict:
    "What was chosen, and the best that could have been: mAP of the epochs, agreement of the last clusters."
    learner = [load_method(c, 'cpu') for c in list_checkpoints(run / 'checkpoints')]
    maps = [evaluate_reid(m.nets['embedder'].eval(), target.query, target.gallery).mAP for m in learner]
    with np.load(run / 'clusters.npz') as f:
        truth = np.unique(target.train.pids, return_inverse=True)[1]
        last = agreement(f['labels'][-1], truth)
        return dict(
            best_epoch=max(maps), last_epoch=maps[-1], ami=last.ami, clusters=last.clusters, eps=f['eps'][-1].item()
        )


def one(work: Path, draw: int, seed: int, size: str, steps: int, adapt_steps: int) -> list:
    source, target, _ = demo_data(work / 'data', size, seed=draw)
    out, rows = work / f'draw{draw}_seed{seed}', []
    note = lambda row, mAP, **more: rows.append(dict(row=row, draw=draw, seed=seed, mAP=mAP, **more))
    settings = adapt_settings('small', size, steps, adapt_steps)
    people = divide_people(source, settings['adapted'].hold_out)[0]
    for row, name in ROWS.items():
        kind, config = demo_rows(settings['joint'].steps, oracle=True)[name]
        config = replace(config, size=size)
        labelled, unlabelled = (target.train.relabel(), None) if row == 'oracle' else (people, target.train)
        run = Run(out / row.replace(' ', '_'), kind, config, seed, 'cpu')
        note(row, test_map(run.train(labelled, unlabelled, sample_every=0, tensorboard=False)[0], target))
    for found in run_adapt(source, target, out, settings, seed=seed, device='cpu'):
        name = {'start': 'joint', 'adapted': 'joint and self-training', 'control': 'without source'}[found['method']]
        more = {k: found[k] for k in ('threshold', 'target_false_match', 'target_true_match')}
        more['held_back'] = found['mAP']
        if found['method'] != 'start':
            more |= beside_truth(out / found['method'], target)
        note(name, found['target_mAP'] / 100, **more)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, default=Path('runs/adapt_bench'))
    parser.add_argument('--seeds', type=int, default=3)
    parser.add_argument('--draws', type=int, nargs='+', default=[1, 2], help='draw 7 was used for tuning')
    parser.add_argument('--size', default='64x32')
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--adapt-steps', type=int, default=300)
    told = parser.parse_args()
    rows = []
    for draw in told.draws:
        for seed in range(told.seeds):
            rows += one(told.work, draw, seed, told.size, told.steps, told.adapt_steps)
            with atomic_write(told.work / 'adapt.json') as tmp:
                tmp.write_text(json.dumps(rows, indent=1))
    table = pd.DataFrame(rows).groupby('row', sort=False).mean(numeric_only=True).drop(columns=['draw', 'seed'])
    print(markdown_table(['row', *table], [[row, *(f'{v:.3f}' for v in values)] for row, values in table.iterrows()]))


if __name__ == '__main__':
    main()
