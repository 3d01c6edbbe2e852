"""Where does translation help? Every gap of the family, every row, several seeds.

    python benchmarks/gaps.py --work FOLDER [--steps 600] [--seeds 0,1,2] [--gaps sensor,...] [--rows like,...]
    python benchmarks/gaps.py --work FOLDER --missing --device cuda --minutes 9   # what the table lacks, in one command
    python benchmarks/gaps.py --work FOLDER --table      # prints the table of what was run so far

Rows are those of the demo; `like` is the strong row on renders of a world fitted to the unlabelled pictures; `adapted`
is self-training on the joint model. What was measured lies in gaps.json (`--kept`), which is written after every row:
the same command goes on where it stopped, trainings included, and the table says how many seeds each number has.
`--missing` takes every gap, row and seed that is not there, the most valuable first, and begins none that is not likely
to end within `--minutes`. On a machine that keeps one folder: copy gaps.json there and name it with `--kept`.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from adapt import trained as finished

from synthreid.core import atomic_write
from synthreid.data.datasets import load_dataset
from synthreid.data.store import load_images
from synthreid.demo import ADAPTED, demo_data, demo_rows
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
    'adapted': ADAPTED,
}
VALUE = ('oracle', 'like', 'adapted', 'joint', 'strong', 'closed form', 'source-only')  # what is missed most, first
LEARNS_FROM_TARGET = ('closed form', 'joint', 'adapted')


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


def trained(work, gap, row, steps, seed, simulations, device):
    "The method of a row, trained or found done, and the target."
    source, target, _ = demo_data(work / 'data', SIZE, seed=seed, progress=False, gap=gap, **PEOPLE)
    name, config = demo_rows(steps, oracle=True, adapt=True)[ROWS[row]]
    if row == 'like':
        source = like_source(work, gap, target, seed, simulations)
    if row == 'adapted':
        trained(work, gap, 'joint', steps, seed, simulations, device)
        config = replace(config, start=str(run_folder(work, gap, 'joint', steps, seed)))
    labelled, real = (target.train, None) if row == 'oracle' else (source, target.train)
    real = real if row in LEARNS_FROM_TARGET else None
    run = Run(run_folder(work, gap, row, steps, seed), name, replace(config, size=SIZE), seed=seed, device=device)
    recorded = device != 'cpu' and name == 'joint'
    return finished(run, labelled, real, recorded=recorded), target


def run_folder(work, gap, row, steps, seed):
    gap = 'any' if row in ('source-only', 'strong') else gap  # the same net for every gap
    return work / 'runs' / f'{gap}_{row.replace(" ", "_")}_steps{steps}_seed{seed}'


def place(told):
    "What tells one measurement from another."
    return tuple(told[key] for key in ('gap', 'row', 'steps', 'seed'))


def result(work, kept, gap, row, steps, seed, simulations, device):
    "mAP and rank-1 of one row, trained and drawn with one seed; kept."
    done, told = read(kept), dict(gap=gap, row=row, steps=steps, seed=seed)
    found = next((t for t in done if place(t) == place(told)), None)
    if found is None:
        began = time.time()
        method, target = trained(work, gap, row, steps, seed, simulations, device)
        ranking = evaluate_reid(method.embed, target.query, target.gallery, device=method.device)
        found = told | dict(
            mAP=ranking.mAP, rank1=ranking.rank(1), device=device, seconds=round(time.time() - began, 1)
        )
        with atomic_write(kept) as tmp:
            tmp.write_text(json.dumps(sorted([*read(kept), found], key=place), indent=0) + '\n')
    print(f'{gap:11} {row:12} seed {seed}: mAP {100 * found["mAP"]:.1f}', flush=True)
    return found


def read(kept):
    return json.loads(kept.read_text()) if kept.exists() else []


def missing(kept, gaps, rows, steps, seeds):
    "What the table lacks: first rows that it lacks everywhere, seed after seed."
    there = {place(t) for t in read(kept)}
    wanted = [(gap, row, steps, seed) for seed in seeds for row in VALUE if row in rows for gap in gaps]
    return [what for what in wanted if what not in there]


def table(kept, steps):
    "Markdown: a line per gap, mean mAP and spread, with the number of seeds."
    told = [t for t in read(kept) if t['steps'] == steps]
    lines = ['| gap | ' + ' | '.join(ROWS) + ' |', '|---' * (1 + len(ROWS)) + '|']
    for gap in get_args(Gap):
        cells = []
        for row in ROWS:
            found = [100 * t['mAP'] for t in told if t['gap'] == gap and t['row'] == row]
            spread = f' ± {np.std(found, ddof=1):.1f}' if len(found) > 1 else ''
            cells.append(f'{np.mean(found):.1f}{spread} ({len(found)})' if found else '')
        if any(cells):
            lines.append(f'| {gap} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--seeds', default='0,1,2')
    parser.add_argument('--device', default='cpu')
    parser.add_argument('--simulations', type=int, default=240)
    parser.add_argument('--gaps', default=','.join(get_args(Gap)))
    parser.add_argument('--rows', default=','.join(ROWS))
    parser.add_argument('--table', action='store_true', help='print what is there')
    parser.add_argument('--missing', action='store_true', help='everything that is not there, the most valuable first')
    parser.add_argument('--minutes', type=float, default=float('inf'), help='with --missing: begin nothing after that')
    parser.add_argument('--kept', type=Path, default=Path(__file__).parent / 'gaps.json', help='file of the results')
    told = parser.parse_args()
    if told.table:
        return print(table(told.kept, told.steps))
    torch.set_num_threads(1)
    gaps, rows, seeds = told.gaps.split(','), told.rows.split(','), [*map(int, told.seeds.split(','))]
    wanted = [(gap, row, told.steps, seed) for seed in seeds for row in rows for gap in gaps]
    if told.missing:
        wanted = missing(told.kept, gaps, rows, told.steps, seeds)
        print(len(wanted), 'are missing', flush=True)
    began, longest = time.time(), 0.0
    for what in wanted:
        left = 60 * told.minutes - (time.time() - began)
        if left < 1.2 * longest or left <= 0:
            return print(f'time is up before {what}; the same command goes on')
        at = time.time()
        result(told.work, told.kept, *what, told.simulations, told.device)
        longest = max(longest, time.time() - at)


if __name__ == '__main__':
    main()
