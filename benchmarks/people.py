"""What classic and realistic renders teach: `python benchmarks/people.py FOLDER` prints a markdown table.

Four folders are rendered (game and cameras, classic and realistic) with the sizes of the demo. The demo's row "direct
transfer, strong augmentation" is trained on each game, and each net is tested before classic and before realistic
cameras, beside raw pixels. One seed. Raw numbers go to `people.csv` in FOLDER; renders and runs are kept there.
"""

import argparse
import csv
import time
from dataclasses import replace
from pathlib import Path

import torch
from adapt import trained as finished

from synthreid.core import parse_size
from synthreid.data.datasets import load_dataset
from synthreid.data.store import load_images
from synthreid.demo import demo_rows
from synthreid.metrics.evaluate import evaluate_reid
from synthreid.render.folder import render_folder
from synthreid.training.runs import Run

SIZE, ROW = '64x32', 'direct transfer, strong augmentation'


def world(folder: Path, people: str, scale: float, workers: int):  # labelled source; dataset of the cameras, in memory
    "Render both domains with one kind of people, and load them."
    options = dict(size=parse_size(SIZE), seed=0, workers=workers, people=people, progress=False)
    ids = [round(n * scale) for n in (150, 270)]
    game = render_folder(folder / f'game_{people}', 'game', ids=ids[0], per_id=10, test_fraction=0.2, **options)
    camera = render_folder(folder / f'camera_{people}', 'camera', ids=ids[1], per_id=12, test_fraction=5 / 9, **options)
    load = lambda split: load_images(split, SIZE, cache=folder / 'cache', progress=False)
    target = load_dataset('market1501', camera)
    source = load(load_dataset('market1501', game).labelled())
    return source, replace(target, query=load(target.query), gallery=load(target.gallery))


def floor(target):  # RankingResult
    "Raw pixels at 8 x 16: what needs no net."
    embed = lambda x: torch.nn.functional.adaptive_avg_pool2d(x, (16, 8)).flatten(1)
    return evaluate_reid(embed, target.query, target.gallery, device='cpu')


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('folder', type=Path, help='where renders, runs and raw numbers go')
    parser.add_argument('--steps', type=int, default=600, help='of training')
    parser.add_argument('--scale', type=float, default=1.0, help='multiplies the number of people')
    parser.add_argument('--workers', type=int, default=1, help='processes that render')
    parser.add_argument('--device', default='cpu', help='where to train')
    args = parser.parse_args()
    worlds = {people: world(args.folder, people, args.scale, args.workers) for people in ('classic', 'realistic')}
    rows = []
    print('| trained on | tested on | mAP | rank-1 | seconds of training |\n|---|---|---|---|---|')
    for trained in ('raw pixels', 'classic', 'realistic'):
        if trained != 'raw pixels':
            source, cameras = worlds[trained]
            name, config = demo_rows(args.steps)[ROW]
            began = time.perf_counter()
            run = Run(args.folder / f'direct_{trained}', name, config, seed=0, device=args.device)
            method = finished(run, source, None)
            seconds = time.perf_counter() - began
        for tested, (_, cameras) in worlds.items():
            if trained == 'raw pixels':
                result, seconds = floor(cameras), 0.0
            else:
                result = evaluate_reid(method.embed, cameras.query, cameras.gallery, device=method.device)
            rows.append((trained, tested, 100 * result.mAP, 100 * result.cmc[0], seconds))
            print('| {} | {} | {:.1f} | {:.1f} | {:.0f} |'.format(*rows[-1]), flush=True)
    with open(args.folder / 'people.csv', 'w', newline='', encoding='utf-8') as f:
        csv.writer(f).writerows([('trained_on', 'tested_on', 'mAP', 'rank1', 'seconds'), *rows])
