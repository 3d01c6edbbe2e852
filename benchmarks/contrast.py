"""Which patch contrast? PatchNCE, hDCE, SRC, MoNCE, EnCo on a draw of the demo's world, everything else the same.

python benchmarks/contrast.py [--out runs/contrast] [--draws 7] [--seeds 0,1,2] [--steps 600] [--only hDCE MoNCE]

Every training is a run folder: the same command goes on where it stopped. Results in
benchmarks/contrast.json; printed as a table, mean and standard deviation of the seeds that are there.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

from synthreid.core import atomic_write
from synthreid.demo import demo_data, demo_rows, judge_row, train_row
from synthreid.metrics.features import random_features
from synthreid.metrics.tables import result_row, results_table, table_markdown

HERE = Path(__file__).parent
VARIANTS = {
    'PatchNCE (default)': {},
    'SRC beside it': dict(weight_relation=6.4),  # half of the published ratio to the contrast, which is 0.05 to 0.1
    'hDCE': dict(contrast='hdce'),
    'hDCE, weight 0.1': dict(contrast='hdce', weight_nce=0.1),  # the published one; 0.5 is ours for PatchNCE
    'hDCE and SRC': dict(contrast='hdce', weight_relation=6.4),
    'MoNCE': dict(contrast='monce'),
    # EnCo compares layers of a decoder that repaints, so PatchNCE with the same decoder belongs beside it; its weights
    # are the published ones (2 and 10, halved in its code), the rates are the demo's
    'PatchNCE, repainting decoder': dict(decoder='resize'),
    'EnCo, repainting decoder': dict(decoder='resize', contrast='enco', weight_nce=1.0, weight_unchanged=5.0),
}
COLUMNS = ['rank1', 'mAP', 'after', 'source_retrieval_rank1', 'foreground_colour_change']


def numbers(text):
    return [int(n) for n in text.split(',')]


def measure(out, draw, seed, steps, device, done, kept, only=()):
    "Train and judge what is missing of one seed."
    there = {r['method'] for r in done if (r['draw'], r['seed'], r['steps']) == (draw, seed, steps)}
    missing = [v for v in only or VARIANTS if v not in there]
    if not missing:
        return
    source, target, masks = demo_data(out / 'data', seed=draw)
    extractor = random_features([source.images, target.train.images])
    base = replace(demo_rows(steps)['joint (translate and recognise)'][1], size='64x32')
    for name in missing:
        config = replace(base, **VARIANTS[name])
        runs = out / f'draw{draw}_steps{steps}'
        method, seconds = train_row(runs, name, 'joint', config, source, target, seed, device, progress=False)
        ranking, more = judge_row(method, target, source, masks, extractor)
        done.append(result_row(name, ranking, seed, seconds, steps, draw=draw, device=method.device.type, **more))
        with atomic_write(kept) as tmp:
            tmp.write_text(json.dumps(done, indent=1))
        print(done[-1], flush=True)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('runs/contrast'))
    parser.add_argument('--draws', type=numbers, default=[7])
    parser.add_argument('--seeds', type=numbers, default=[0, 1, 2])
    parser.add_argument('--steps', type=int, default=600)
    parser.add_argument('--only', nargs='+', choices=list(VARIANTS), default=[], help='these variants; default: all')
    parser.add_argument('--device', default='auto')
    parser.add_argument('--kept', type=Path, default=HERE / 'contrast.json', help='file of the results')
    a = parser.parse_args()
    done = json.loads(a.kept.read_text()) if a.kept.exists() else []
    for draw in a.draws:
        for seed in a.seeds:
            measure(a.out, draw, seed, a.steps, a.device, done, a.kept, a.only)
        rows = [r for r in done if (r['draw'], r['steps']) == (draw, a.steps)]
        print(table_markdown(results_table(rows), COLUMNS))
