"""Where does translation help? Every gap of the family, every row, several seeds.

    python benchmarks/gaps.py --work FOLDER [--steps 600] [--seeds 0,1,2] [--gaps sensor,...] [--rows like,...]
    python benchmarks/gaps.py --work FOLDER --table      # prints the table of what was run so far

Rows are those of the demo; `like` is the strong row on renders of a world fitted to the unlabelled pictures. One file
per gap, row and seed: the same command goes on where it stopped, and the table says how many seeds each number has.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch

from synthreid.data.datasets import load_dataset
from synthreid.data.store import load_images
from synthreid.demo import demo_data, demo_rows
from synthreid.metrics.evaluate import evaluate_reid
from synthreid.render.camera import Gap
from synthreid.render.fit import fit_world
from synthreid.render.folder import render_folder
from synthreid.render.world import read_world, write_world
from synthreid.training.runs import Run

SIZE, PEOPLE = '64x32', dict(source_ids=80, target_ids=72)
ROWS = {
    'source-only': 'direct transfer',
    'strong': 'direct transfer, strong augmentation',
    'closed form': 'closed form per camera, no GAN',
    'joint': 'joint (translate and recognise)',
    'like': 'direct transfer, strong augmentation',
    'oracle': 'oracle: trained on target labels',
}


def like_source(work, gap, target, seed, simulations):
    "Renders of a world fitted to the unlabelled pictures, as many as the game has."
    file = work / 'worlds' / f'{gap}_{seed}_{simulations}.yaml'
    if not file.exists():
        how = dict(simulations=simulations, keep=work / 'worlds' / f'{gap}_{seed}.npz', workers=0, progress=False)
        write_world(fit_world(target.train.images, target.train.camids, seed=seed, **how).worlds, file)
    folder = work / 'data' / f'like_{gap}_{seed}_{simulations}'
    options = dict(size=SIZE, seed=seed, workers=0, progress=False, worlds=read_world(file))
    render_folder(folder, 'game', ids=PEOPLE['source_ids'], per_id=10, test_fraction=0.2, **options)
    return load_images(load_dataset('market1501', folder).labelled(), SIZE, progress=False)


def result(work, gap, row, steps, seed, simulations, device):
    "mAP and rank-1 of one row, trained and drawn with one seed."
    file = work / 'results' / f'{gap}_{row.replace(" ", "_")}_steps{steps}_seed{seed}.json'
    if file.exists():
        return json.loads(file.read_text())
    source, target, _ = demo_data(work / 'data', SIZE, seed=seed, progress=False, gap=gap, **PEOPLE)
    name, config = demo_rows(steps, oracle=True)[ROWS[row]]
    if row == 'like':
        source = like_source(work, gap, target, seed, simulations)
    labelled, real = (target.train, None) if row == 'oracle' else (source, target.train)
    needs_no_target = row in ('source-only', 'strong')  # the same net for every gap
    run = work / 'runs' / f'{"any" if needs_no_target else gap}_{row.replace(" ", "_")}_steps{steps}_seed{seed}'
    real = real if row in ('closed form', 'joint') else None
    trained = Run(run, name, replace(config, size=SIZE), seed=seed, device=device)
    quiet = dict(tensorboard=False, progress=False, sample_every=0, recorded=device != 'cpu' and row == 'joint')
    method, _ = trained.train(labelled, real, **quiet)
    found = evaluate_reid(method.embed, target.query, target.gallery, device=method.device)
    told = dict(gap=gap, row=row, steps=steps, seed=seed, mAP=found.mAP, rank1=found.rank(1))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told, indent=1))
    return told


def table(work, steps):
    "Markdown: a line per gap, mean mAP and spread, with the number of seeds."
    told = [json.loads(f.read_text()) for f in sorted((work / 'results').glob(f'*_steps{steps}_seed*.json'))]
    lines = ['| gap | ' + ' | '.join(ROWS) + ' |', '|---' * (1 + len(ROWS)) + '|']
    for gap in get_args(Gap):
        cells = []
        for row in ROWS:
            found = [100 * t['mAP'] for t in told if t['gap'] == gap and t['row'] == row]
            spread = f' ± {np.std(found, ddof=1):.1f}' if len(found) > 1 else ''
            cells.append(f'{np.mean(found):.1f}{spread} ({len(found)})' if found else '')
        if any(cells):
            lines.append(f'| {gap} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines), told


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--seeds', default='0,1,2')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--simulations', type=int, default=240)
    parser.add_argument('--gaps', default=','.join(get_args(Gap)))
    parser.add_argument('--rows', default=','.join(ROWS))
    parser.add_argument('--table', action='store_true')
    told = parser.parse_args()
    if told.table:
        return print(table(told.work, told.steps)[0])
    torch.set_num_threads(1)
    for seed in map(int, told.seeds.split(',')):
        for row in told.rows.split(','):
            for gap in told.gaps.split(','):
                found = result(told.work, gap, row, told.steps, seed, told.simulations, told.device)
                print(f'{gap:11} {row:12} seed {seed}: mAP {100 * found["mAP"]:.1f}', flush=True)


if __name__ == '__main__':
    main()
