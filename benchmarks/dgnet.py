"""DG-Net on rendered people: swaps, ablation, and the cost of a full-size step.

Results go to dgnet.json, pictures beside it, the text is dgnet.md.

python benchmarks/dgnet.py step        # one published step, 256x128, batch 8: seconds and memory
python benchmarks/dgnet.py swaps       # a small run: grids of swaps, whom an independent network sees in them
python benchmarks/dgnet.py judge       # the same measurements on the checkpoint that lies with the tests
python benchmarks/dgnet.py ablation    # baseline, primary, fine-grained, both; three seeds
python benchmarks/dgnet.py ablation '[0, 1, 2]' '"studio"'    # the same in another world
python benchmarks/dgnet.py text        # dgnet.md from what has been measured
"""

import json
import platform
import resource
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from synthreid.core import atomic_write, pick_device, step_generator, to_signed
from synthreid.data.datasets import ReidSplit
from synthreid.data.store import render_people
from synthreid.metrics.evaluate import evaluate_reid
from synthreid.metrics.features import random_features
from synthreid.metrics.swaps import evaluate_swaps
from synthreid.training.checkpoint import load_checkpoint, save_checkpoint
from synthreid.training.dgnet import (
    DGNet,
    DGNetConfig,
    augment_views,
    read_codes,
    real_losses,
    set_swap_rates,
    weights_at,
)
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.hooks import draw_swaps
from synthreid.training.loop import fit, update
from synthreid.training.runs import load_method

HERE = Path(__file__).parent
SMALL = dict(
    backbone='resnet_small',
    strides=(1, 2),
    structure_dim=4,
    dilations=(1, 2, 3),
    hidden=64,
    embedding_dim=64,
    discriminator_dim=8,
    n_scales=2,
    dropout=(0.0, 0.0),
    pad=3,
    erasing=0.0,
    batch_size=8,
    lr=1e-3,
    beta1=0.5,
    weight_gan=0.25,
    milestones=(0.8,),
    reference_quirks=False,
)


def keep(name, value):
    "Add results to dgnet.json."
    path = HERE / 'dgnet.json'
    told = json.loads(path.read_text()) if path.exists() else {}
    told[name] = value
    with atomic_write(path) as tmp:
        tmp.write_text(json.dumps(told, indent=1))


def render_more(first, n, per_id, size, **effects):
    return render_people('game', np.arange(first, first + n), per_id, size, seed=1, **effects)


def ask(split, per_id, first=2):
    "The first pictures of everybody ask, the others are the gallery."
    q = np.arange(len(split)) % per_id < first
    return split[q], split[~q]


def train_direct(train, size, seed, steps, **changes):
    learning = dict(batch_size=32, images_per_id=4, weight_triplet=1.0, lr=1e-3, milestones=(), flat=0.6)
    config = DirectConfig(size=size, backbone='resnet_small', steps=steps, pooling='gem', **learning)
    method = DirectTransfer(replace(config, **changes), train.n_ids, seed=seed)
    fit(method, method.batches(train), steps)
    return method


def mean_ap(embed, query, gallery):
    return 100 * evaluate_reid(embed, query, gallery, flip=False, protocol='all_images').mAP


class WithoutGenerator(DGNet):
    "The baseline row alone: the appearance encoder learns from real images, without time for pictures nobody looks at."

    def step(self, batch, i):
        c, encoder = self.config, self.nets['appearance']
        for net in self.nets.values():
            net.train()
        set_swap_rates(c, self.opts, i)
        random, weights, pids = step_generator(self.seed, i, 1), weights_at(c, i), {k: batch[f'{k}_pids'] for k in 'ab'}
        views = {k: augment_views(batch[k], random, c.pad, c.erasing) for k in ('a', 'b', 'a_positive', 'b_positive')}
        clean, hidden = ({k: view[n] for k, view in views.items()} for n in range(2))
        losses = real_losses(read_codes(encoder, clean, hidden, pids)[1], pids, weights)
        return update({k: weights[k] * v for k, v in losses.items()}, self.opts['appearance'])


TEACHER = dict(
    steps=1200, last_stride=1, lr=3e-3, weight_triplet=0, label_smoothing=0.1, classifier_std=0.01, flat=0.5
)  # stronger than the student that it teaches

STUDIO = dict(fixed=True, n_cameras=2, occlusion=0.0, crowd=0.0)  # two places, nobody else in the picture
WORLDS = dict(
    streets=dict(
        per_id=(8, 6), effects={}, steps=1200, at=800, strides=(2, 2), dilations=(1, 2)
    ),  # many places; a structure code of 12x6
    studio=dict(per_id=(12, 8), effects=STUDIO, steps=1500, at=1000),
)
ROWS = {
    'baseline': dict(online=False),
    'primary': dict(fine=False),
    'fine': dict(primary='none'),
    'both': {},
    'donor, no teacher': dict(primary='donor', fine=False),
}


def ablation(seeds=(0, 1, 2), world='streets', rows=('baseline', 'primary', 'fine', 'both')):
    """All rows of a seed share their first steps, in which they do not differ; they part where the teacher begins. A
    fine-grained head that nobody taught is not tested."""
    size, settings = '48x24', dict(WORLDS[world])
    (per_id, per_test), effects, at = (settings.pop(k) for k in ('per_id', 'effects', 'at'))
    train, test = render_more(0, 60, per_id, size, **effects).relabel(), render_more(60, 60, per_test, size, **effects)
    query, gallery = ask(test, per_test)
    settings = {
        **SMALL,
        'size': size,
        'width': 16,
        'teacher_from': at / settings['steps'],
        'teacher_ramp': 0.1,
        'codes_from': 0.2,
        'codes_ramp': 0.05,
        'lr_appearance': 1e-2,
        'head_lr': 2.0,
        **settings,
    }
    steps = settings['steps']
    found = dict(
        world=world,
        size=size,
        people=60,
        pictures=len(train),
        steps=steps,
        rows_part_at=at,
        teacher_steps=TEACHER['steps'],
        rows={},
        teacher=[],
        identity=[],
        seconds=[],
    )
    with tempfile.TemporaryDirectory() as d:
        for seed in seeds:
            began = time.process_time()
            teacher = train_direct(train, size, seed, **TEACHER)
            found['teacher'].append(mean_ap(teacher.embed, query, gallery))
            config, taught = DGNetConfig(**settings), dict(seed=seed, teacher=teacher.nets['embedder'])
            trunk = DGNet(config, train.n_ids, **taught)
            fit(trunk, trunk.batches(train), at)
            shared = save_checkpoint(trunk, Path(d) / f'trunk{seed}', at)
            found['identity'].append(
                evaluate_swaps(trunk.swap, test.images, test.pids, teacher.embed, n=400)['identity_appearance']
            )  # the teacher had no part in these pictures yet
            for row in rows:
                kind = WithoutGenerator if row == 'baseline' else DGNet
                method = kind(replace(config, **ROWS[row]), train.n_ids, **taught)
                load_checkpoint(method, shared)
                fit(method, method.batches(train), steps, start=at)
                heads = {'primary head': 0, 'both heads': 0.5, 'fine head': 'fine'}
                tested = heads if row in ('fine', 'both') else ['primary head']
                scores = {k: mean_ap(partial(method.embed_flipped, alpha=heads[k]), query, gallery) for k in tested}
                found['rows'].setdefault(row, []).append(scores)
                told = {k: round(v, 1) for k, v in scores.items()}
                print(seed, row, told, round(time.process_time() - began), flush=True)
            found['seconds'].append(time.process_time() - began)
            keep(f'ablation {world}', found)


def swaps(steps=1000, seed=0):
    size = '64x32'
    train, test = render_more(0, 60, 12, size, **STUDIO).relabel(), render_more(60, 60, 8, size, **STUDIO)
    query, gallery = ask(test, 8)
    began = time.process_time()
    teacher = train_direct(train, size, seed, 200)
    print('teacher', mean_ap(teacher.embed, query, gallery), flush=True)
    config = DGNetConfig(**SMALL, width=16, size=size, steps=steps, lr_appearance=1e-2, head_lr=2.0)
    method = DGNet(config, train.n_ids, seed=seed, teacher=teacher.nets['embedder'])
    history = []

    def look(m, i, losses):
        history.append(losses)
        if i % 100 == 0:
            recent = {k: round(float(np.mean([h.get(k, 0) for h in history[-50:]])), 3) for k in history[-1]}
            print(i, recent, flush=True)
        if i % 250 == 0 or i == steps:
            save_checkpoint(m, Path(tempfile.gettempdir()) / 'synthreid_dgnet', i)

    fit(method, method.batches(train), steps, hooks=[look], log_every=1)
    judge = train_direct(train, size, seed + 7, 200)
    report(
        method,
        judge,
        test,
        history,
        dict(steps=steps, seconds=time.process_time() - began, teacher_mAP=mean_ap(teacher.embed, query, gallery)),
    )


def report(method, judge, test, history, more):
    "Numbers and pictures of a trained small run."
    query, gallery = ask(test, 8)
    found = dict(
        more,
        size=method.config.size,
        mAP={str(a): mean_ap(partial(method.embed_flipped, alpha=a), query, gallery) for a in (0, 0.5, 'fine')},
        judge_mAP=mean_ap(judge.embed, query, gallery),
    )
    found |= evaluate_swaps(
        method.swap, test.images, test.pids, judge.embed, random_features([test.images], size=(64, 32)), n=400
    )
    step = max(1, len(history) // 100)
    if history:
        found['losses'] = {
            k: [
                round(float(np.mean([h.get(k, 0) for h in history[i : i + step]])), 4)
                for i in range(0, len(history), step)
            ]
            for k in history[-1]
        }
    keep('swaps', found)
    x, y = to_signed(test.images[::8][:8]), to_signed(test.images[3::8][8:16])
    draw_swaps(x, y, method.swap_grid(x, y)).resize((9 * 64, 9 * 128)).save(HERE / 'dgnet_swaps.jpg', quality=88)
    print(json.dumps({k: v for k, v in found.items() if k != 'losses'}, indent=1))


def judged_again():
    "The swaps of the checkpoint that lies with the tests, measured once more (its training is not repeated)."
    size = '64x32'
    train, test = render_more(0, 60, 12, size, **STUDIO).relabel(), render_more(60, 60, 8, size, **STUDIO)
    method = load_method(HERE.parent / 'nbs/examples/dgnet_run', 'cpu')
    told = json.loads((HERE / 'dgnet.json').read_text())['swaps']
    report(
        method,
        train_direct(train, size, 7, 200),
        test,
        [],
        {k: told[k] for k in ('steps', 'seconds', 'teacher_mAP', 'losses')},
    )


def full_step(device='auto', repeats=3):
    "A step at the published size, before and behind the ramps, with a teacher (random, as all networks here)."
    device = pick_device(device)
    teacher = DirectTransfer(DirectConfig(), 751, device=device).nets['embedder'].eval()
    method = DGNet(DGNetConfig.reference(weights=None), 751, device=device, teacher=teacher)
    image = np.random.default_rng(0).integers(0, 255, (1, 256, 128, 3), np.uint8)
    batches = method.batches(
        ReidSplit(None, np.repeat(np.arange(751), 2), np.zeros(1502, int), np.broadcast_to(image, (1502, 256, 128, 3)))
    )
    rows = {}
    for name, first in (('before the ramps', 0), ('behind the ramps', 50_000)):
        wall, cpu = [], []
        for i in range(repeats):
            start, used = time.perf_counter(), time.process_time()
            losses = method.step(batches(first + i), first + i)
            assert all(v.isfinite() for v in losses.values())  # waits for the device
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - used)
        rows[name] = dict(seconds=round(float(np.median(wall)), 2), cpu_seconds=round(float(np.median(cpu)), 2))
        print(name, [round(t, 2) for t in wall], [round(t, 2) for t in cpu], flush=True)
    memory = (
        torch.cuda.max_memory_allocated() / 2**30
        if device.type == 'cuda'
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    )
    where = (
        torch.cuda.get_device_name()
        if device.type == 'cuda'
        else f'{platform.machine()} CPU, {torch.get_num_threads()} thread(s)'
    )
    keep(
        f'step {device.type}',
        dict(
            rows,
            memory_GiB=round(memory, 2),
            repeats=repeats,
            where=where,
            torch=torch.__version__,
            parameters=sum(p.numel() for n in method.nets.values() for p in n.parameters()),
        ),
    )


def cell(values):
    "Mean, and standard deviation where there are several."
    return f'{np.mean(values):.1f}' + (f' ± {np.std(values, ddof=1):.1f}' if len(values) > 1 else '')


def text():
    told = json.loads((HERE / 'dgnet.json').read_text())
    out = ['# DG-Net', '', 'Written by `python benchmarks/dgnet.py text` from `dgnet.json`.', '']
    if steps := {k: v for k, v in told.items() if k.startswith('step ')}:
        out += [
            '## One step at the published size',
            '',
            (
                'Batches of 8 in two streams with their positives, 256x128, ResNet-50, 751 people, all networks at'
                ' their published widths, with a ResNet-50 as teacher, float32. Processor time is the sum over threads;'
                ' where it is far below the wall-clock time, the machine was busy with other work.'
            ),
            '',
            '| where | phase | seconds | processor seconds | peak memory of both phases, GiB |',
            '|---|---|---|---|---|',
        ]
        for v in steps.values():
            out += [
                f"| {v['where']}, torch {v['torch']} | {phase} | {v[phase]['seconds']} | {v[phase]['cpu_seconds']} |"
                f" {v['memory_GiB']} |"
                for phase in ('before the ramps', 'behind the ramps')
            ]
        out += ['']
    if s := told.get('swaps'):
        out += [
            '## Swaps',
            '',
            (
                f"60 rendered people (720 pictures, {s['size']}, two places), {s['steps']} steps, small networks and"
                " milder settings than published (`SMALL` in the script: the code term acts, a quarter of the"
                f" adversarial weight, `beta1` 0.5, two discriminators, no dropout, no erasing), {s['seconds']:.0f}"
                " processor seconds with teacher. Everything is measured on 60 other people."
            ),
            '',
            '![swaps](dgnet_swaps.jpg)',
            '',
            '| | |',
            '|---|---|',
            f"| swaps whose nearest real picture shows the appearance donor | {s['identity_appearance']:.1%} |",
            f"| ... the structure donor | {s['identity_structure']:.1%} |",
            f"| chance | {s['identity_chance']:.1%} |",
            f"| ceiling: the same asked with the appearance donors' real pictures | {s['identity_ceiling']:.1%} |",
            f"| mAP of the network that judged this (independent, never saw a swap) | {s['judge_mAP']:.1f} |",
            f"| SSIM of a swap and its structure donor | {s['ssim_structure_donor']:.2f} |",
            f"| ... and its appearance donor | {s['ssim_appearance_donor']:.2f} |",
            f"| SSIM of two swaps (of two real pictures) | {s['ssim_swaps']:.2f} ({s['ssim_real']:.2f}) |",
            (
                "| distance of the features of two swaps, as a share of that of two real pictures |"
                f" {s['diversity']:.2f} |"
            ),
            (
                f"| Frechet distance to real pictures (of the structure donors' own pictures), {s['features']} |"
                f" {s['frechet']:.2f} ({s['frechet_floor']:.2f}) |"
            ),
            (
                "| mAP: primary head, both (alpha 0.5), fine-grained head |"
                f" {', '.join(f'{v:.1f}' for v in s['mAP'].values())} |"
            ),
            f"| mAP of the teacher | {s['teacher_mAP']:.1f} |",
            '',
        ]
    for world, where in (('streets', 'a game with many places'), ('studio', 'two places, nobody else in the picture')):
        if not (a := told.get(f'ablation {world}')):
            continue
        n = min(map(len, a['rows'].values()))
        heads = list(a['rows']['both'][0])
        out += [
            f'## Ablation, {world}',
            '',
            (
                f"{a['people']} rendered people ({a['pictures']} pictures, {where}, {a['size']}), {a['steps']} steps of"
                f" which the rows of a seed share the first {a['rows_part_at']}, {n} seed{'s' * (n > 1)}; mAP on 60"
                f" other people, mean and standard deviation. The teacher (`direct`, {a['teacher_steps']} steps on the"
                f" same people) has {cell(a['teacher'][:n])}; where the rows part, it takes"
                f" {cell([100 * v for v in a['identity'][:n]])} % of 400 swaps of test people for the appearance donor"
                " (chance: 1.5 %). Without fine-grained labels the second head learns nothing and is not tested."
            ),
            '',
            '| row | primary head | both heads, alpha 0.5 | fine-grained head |',
            '|---|---|---|---|',
            *(
                f'| {row} | '
                + ' | '.join(cell([v[k] for v in scores[:n]]) if k in scores[0] else '' for k in heads)
                + ' |'
                for row, scores in a['rows'].items()
            ),
            '',
        ]
    (HERE / 'dgnet.md').write_text('\n'.join(out))
    print('\n'.join(out))


if __name__ == '__main__':
    {'text': text, 'step': full_step, 'swaps': swaps, 'judge': judged_again, 'ablation': ablation}[sys.argv[1]](
        *map(json.loads, sys.argv[2:])
    )
