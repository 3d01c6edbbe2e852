"""Does `render --like` find the world before the cameras, and does training on it help?

    python benchmarks/like.py pool     --work FOLDER [--simulations 210]    # worlds from everywhere, for all targets
    python benchmarks/like.py recover  --work FOLDER [--simulations 240] [--methods regression,...]
    python benchmarks/like.py transfer --work FOLDER [--steps 600] [--seeds 0,1,2] [--device cuda] [--row joint]
    python benchmarks/like.py table    --work FOLDER            # prints both tables from what was run

`recover`: targets whose world is known, before six cameras, 120 unlabelled pictures; three searchers with the same
number of rendered worlds. `transfer`: gaps of content; nets of several seeds are trained on renders of the usual world,
of the fitted world (one fit) and of the true one, without any target picture, and tested on people before the cameras;
with `--row joint` they also get the unlabelled pictures of the cameras, and translate. Resumable: what is done is kept,
and `--minutes` begins nothing after that.
"""

import argparse
import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from adapt import trained as finished

from synthreid.data.datasets import load_dataset
from synthreid.data.store import load_images
from synthreid.demo import demo_rows
from synthreid.metrics.evaluate import evaluate_reid
from synthreid.render import fit
from synthreid.render.camera import camera_domain, gap_domain
from synthreid.render.folder import render_folder, render_images
from synthreid.render.world import USUAL, World, describe_worlds
from synthreid.training.runs import Run

SIZE = '64x32'
GAPS = dict(
    tight=World(zoom=1.35, stretch=1.3, lift=0.04),
    dark=World(brightness=0.4, saturation=0.4, outerwear=0.9, long_hair=0.8),
    above=World(pitch=25.0, side=0.9, zoom=0.8),
    mixed=World(zoom=1.2, stretch=1.2, pitch=12.0, side=0.8, brightness=0.55, outerwear=0.8, crowd=3.0),
)
WORLDS = GAPS | dict(loose=World(zoom=0.75, lift=-0.08, brightness=1.2, bare_legs=0.7))

FOLDERS = dict(direct='transfer', joint='transfer_joint')  # of the results
LEARNERS = dict(direct='direct transfer, strong augmentation', joint='joint (translate and recognise)')
SEARCHERS, KINDS = ('regression', 'descent', 'cma'), ('usual', 'fitted', 'true')


def kept(file, make):
    "A result computed before, or now."
    if not file.exists():
        result = make()
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(result, indent=1))
    return json.loads(file.read_text())


def hidden(world, n=120, seed=5):
    "Unlabelled pictures of a world before six cameras."
    found = render_images(camera_domain(worlds=(world,)), np.arange(n), np.arange(n), SIZE, seed=seed)
    return found.images, found.camids


def begun_pool(work, name):
    "The pool of a target: a copy of the one from everywhere, to which worlds near the first answer are added."
    file = work / 'pools' / f'{name}.npz'
    if not file.exists() and (work / 'wide.npz').exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / 'wide.npz', file)
    return file


def draw_pool(work, simulations):
    pool = fit._Pool(work / 'wide.npz')
    while len(pool.points) < simulations:
        at = len(pool.points)
        pool.add([fit._simulate((0, at, fit._draw_point(np.random.default_rng([0, at]))))])


# ---- searchers that render for one target only


def objective(images, camids, seed):
    "Distance of the content of a world's renders, as other cameras see them, to the target's; lower is nearer."
    target = fit._summary(images, camids)
    spread = np.concatenate([fit._simulate((seed, 10_000 + i, fit._USUAL))[2] for i in range(4)]).std(0) + 0.05
    count = iter(range(10**9))

    def distance(point):
        found = fit._simulate((seed, 20_000 + next(count) % 4, np.clip(point, 0, 1)))[2].mean(0)
        return float(np.mean(((found - target) / spread) ** 2))

    return distance


def descend(distance, budget):
    "Attribute descent (Yao et al. 2020): one number after the other, the best of a few values."
    point, step = fit._USUAL.copy(), 0.3
    best, spent = distance(point), 1
    while spent < budget:
        for k in range(len(point)):
            for value in (point[k] - step, point[k] + step):
                if spent < budget and 0 <= value <= 1:
                    trial = point.copy()
                    trial[k] = value
                    found, spent = distance(trial), spent + 1
                    if found < best:
                        best, point = found, trial
        step *= 0.6
    return point


def evolve(distance, budget, seed):
    "CMA-ES (pycma)."
    import cma

    options = dict(bounds=[0, 1], maxfevals=budget, verbose=-9, seed=seed + 1)
    return cma.fmin(distance, fit._USUAL, 0.2, options)[0]


def recover(work, simulations, methods, names, seed=0):
    for name in names:
        world = WORLDS[name]
        images, camids = hidden(world)
        for method in methods:

            def search(method=method, name=name, images=images, camids=camids):
                began = time.process_time()
                if method == 'regression':
                    how = dict(simulations=simulations, keep=begun_pool(work, name), workers=0, progress=False)
                    found = fit.fit_world(images, camids, seed=seed, **how)
                    return dict(world=describe_worlds(found.worlds), errors=found.errors, seconds=found.seconds)
                distance = objective(images, camids, seed)
                point = descend(distance, simulations) if method == 'descent' else evolve(distance, simulations, seed)
                return dict(world=describe_worlds((fit._world_at(point),)), seconds=time.process_time() - began)

            print(
                name,
                method,
                kept(work / 'recover' / f'{name}_{method}_{simulations}.json', search)['world'],
                flush=True,
            )


# ---- what training on it is worth


def trained(work, source, targets, steps, seed, size, device, row='direct'):
    "mAP and rank-1 on each target of a net that has seen the source alone, or the pictures of the first target, too."
    load = lambda split: load_images(split, size, cache=work / 'cache', progress=False)
    method, config = demo_rows(steps)[LEARNERS[row]]
    first, seen = next(iter(targets.values())), None
    name = source.name if row == 'direct' else f'{source.name}_{first.name}_{row}'
    run = Run(
        work / 'runs' / f'{name}_{size}_steps{steps}_seed{seed}', method, replace(config, size=size), seed, device
    )
    labelled = load(load_dataset('market1501', source).labelled())
    if row == 'joint':
        seen = load(load_dataset('market1501', first).train)
    recorded = device != 'cpu' and row == 'joint'
    method = finished(run, labelled, seen, recorded=recorded)
    told = {}
    for name, target in targets.items():
        real = load_dataset('market1501', target)
        found = evaluate_reid(method.embed, load(real.query), load(real.gallery), device=method.device)
        told |= {f'{name}_mAP': found.mAP, f'{name}_rank1': found.rank(1)}
    return told


def fitted_world(work, name, target, simulations, seed=0):
    "Read off the unlabelled pictures of the target, all effects of its cameras included."

    def search():
        real = load_images(load_dataset('market1501', target).train, SIZE, progress=False)
        how = dict(simulations=simulations, keep=begun_pool(work, f'{name}_gap'), workers=0, progress=False)
        found = fit.fit_world(real.images, real.camids, seed=seed, **how)
        return dict(world=describe_worlds(found.worlds), before=found.before, after=found.after, errors=found.errors)

    told = kept(work / 'fits' / f'{name}_{simulations}_seed{seed}.json', search)
    print(name, told['world'], flush=True)
    return World(**told['world'])


def transfer(work, steps, seeds, which, simulations, gaps, size, device, row='direct', minutes=float('inf')):
    "`cameras`: with all their effects; `clean`: cameras that see the same world and change nothing."
    torch.set_num_threads(1)
    options = dict(size=SIZE, workers=0, progress=False)
    jobs = [(seed, kind, name) for seed in seeds for kind in which for name in gaps]
    began = time.time()
    for seed, kind, name in jobs:
        if time.time() - began > 60 * minutes:
            return print('time is up; the same command goes on')
        targets = dict(cameras=work / f'target_{name}', clean=work / f'clean_{name}')
        domains = dict(cameras=camera_domain(), clean=gap_domain('content'))
        for k, folder in targets.items():
            people = dict(ids=120, per_id=8, test_fraction=0.6)
            render_folder(folder, domains[k], worlds=(GAPS[name],), **people, **options)
        world = dict(usual=USUAL, true=GAPS[name]).get(kind)
        world = world or fitted_world(work, name, targets['cameras'], simulations)
        source = work / f'source_{kind if kind == "usual" else f"{name}_{kind}"}'
        render_folder(source, 'game', ids=100, per_id=8, test_fraction=0.2, worlds=(world,), **options)
        file = work / FOLDERS[row] / f'{name}_{kind}_{size}_steps{steps}_seed{seed}.json'
        work_of = partial(trained, work, source, targets, steps, seed, size, device, row)
        print(name, kind, seed, kept(file, work_of), flush=True)


def recovered(work):
    "True numbers beside those found, per world and searcher."
    lines = ['| world | number | usual | true | ' + ' | '.join(SEARCHERS) + ' | expected error |', '|---' * 8 + '|']
    for name, world in WORLDS.items():
        files = {m: sorted((work / 'recover').glob(f'{name}_{m}_*.json')) for m in SEARCHERS}
        told = {m: json.loads(f[0].read_text()) for m, f in files.items() if f}
        for number in describe_worlds((world,)):
            found = [
                f'{t.get("world", {}).get(number, getattr(USUAL, number)):.2f}' if t else ''
                for t in map(told.get, SEARCHERS)
            ]
            error = told['regression']['errors'][number]
            error = 'cannot be told' if np.isnan(error) else f'± {error:.2f}'
            true = f'{getattr(USUAL, number):.2f} | {getattr(world, number):.2f}'
            lines.append(f'| {name} | {number} | {true} | ' + ' | '.join(found) + f' | {error} |')
    return '\n'.join(lines)


def transferred(work, row='direct'):
    "mAP by world of the renders; the share of the way from the usual to the true world."
    told = {f.stem: json.loads(f.read_text()) for f in sorted((work / FOLDERS[row]).glob('*.json'))}
    lines = ['| gap | cameras | seeds | usual world | fitted world | true world | share of the way |', '|---' * 7 + '|']
    for name in GAPS:
        for cameras in ('clean', 'cameras'):
            found = [[100 * t[f'{cameras}_mAP'] for k, t in told.items() if k.startswith(f'{name}_{w}')] for w in KINDS]
            if all(found):
                usual, fitted, true = map(np.mean, found)
                share = f'{(fitted - usual) / (true - usual):.2f}' if true - usual > 1 else 'no way to go'
                spread = lambda x: f'{np.mean(x):.1f}' + (f' ± {np.std(x, ddof=1):.1f}' if len(x) > 1 else '')
                cells = ' | '.join([name, cameras, str(min(map(len, found))), *map(spread, found), share])
                lines.append(f'| {cells} |')
    return '\n'.join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('part', choices=['pool', 'recover', 'transfer', 'table'])
    parser.add_argument('--work', type=Path, required=True)
    parser.add_argument('--simulations', type=int, default=240)
    parser.add_argument('--methods', default='regression,descent,cma')
    parser.add_argument('--names', default=','.join(WORLDS))
    parser.add_argument('--size', default=SIZE, help='of the pictures in training and test')
    parser.add_argument('--gaps', default=','.join(GAPS))
    parser.add_argument('--worlds', default='usual,true,fitted')
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--seeds', default='0')
    parser.add_argument('--row', choices=list(LEARNERS), default='direct', help='what is trained on the renders')
    parser.add_argument('--minutes', type=float, default=float('inf'), help='of transfer: begin nothing after that')
    parser.add_argument('--device', default='cpu')
    told = parser.parse_args()
    if told.part == 'pool':
        draw_pool(told.work, told.simulations)
    elif told.part == 'recover':
        recover(told.work, told.simulations, told.methods.split(','), told.names.split(','))
    elif told.part == 'transfer':
        seeds, which, gaps = ([*map(int, told.seeds.split(','))], told.worlds.split(','), told.gaps.split(','))
        how = told.simulations, gaps, told.size, told.device, told.row, told.minutes
        transfer(told.work, told.steps, seeds, which, *how)
    else:
        print(recovered(told.work), *(f'{row}\n\n{transferred(told.work, row)}' for row in LEARNERS), sep='\n\n')


if __name__ == '__main__':
    main()
