"""What weights from ImageNet are worth from renders to cameras, and what takes the cameras out.

python benchmarks/pretrained.py [--draw 0] [--steps 120] [--rows scratch,installed] [--out benchmarks/pretrained.json]

The demo's two worlds at 128x64. `rows`: direct transfer with strong augmentation, from scratch and from installed
weights, and what was not trained at all; each as it is and with everything that `evaluate --per-camera` offers, whose
statistics come from the unlabelled training pictures. `study`: which stand-in for FID orders spoilt pictures as the eye
does. A row that is in the file already is not measured again. Draw 7 is for trying, draw 0 for reporting.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from synthreid.core import to_signed, to_uint8
from synthreid.demo import demo_data
from synthreid.metrics.cameras import camera_embeds, camera_maps, move_features
from synthreid.metrics.chance import chance_level
from synthreid.metrics.evaluate import evaluate_reid, extract_features
from synthreid.metrics.features import pretrained_features, random_features
from synthreid.metrics.floors import pixel_embed, pretrained_embed
from synthreid.metrics.frechet import frechet_between
from synthreid.metrics.ranking import evaluate_ranking
from synthreid.metrics.tables import markdown_table
from synthreid.training.direct import DirectConfig, DirectTransfer

SCRATCH = DirectConfig(
    size='128x64',
    backbone='resnet_small',
    last_stride=1,
    classifier_std=0.01,
    batch_size=16,
    images_per_id=4,
    lr=1e-2,
    milestones=(),
    flat=0.75,
    label_smoothing=0.1,
    augment='strong',
)
INSTALLED = replace(SCRATCH, backbone='tf_efficientnet_lite0', weights='installed', lr=1e-3, warmup=20)
ROWS = {
    'scratch': SCRATCH,
    'scratch, input': replace(SCRATCH, instance_norm='input'),
    'installed': INSTALLED,
    'installed, input': replace(INSTALLED, instance_norm='input'),
    'installed, half': replace(INSTALLED, instance_norm='half'),
    'installed, random weights': replace(INSTALLED, weights=None),
    'installed, lr 3e-4': replace(INSTALLED, lr=3e-4),
}
PER_CAMERA = ('none', 'norms', 'centre', 'scale', 'whiten')


def measure(embed, nets, target, kinds, device='cpu'):
    "mAP and rank-1 in percent, as it is and without the cameras, whose statistics come from the training pictures."
    splits = target.train, target.query, target.gallery
    known, *codes = (extract_features(embed, split.images, device=device) for split in splits)
    labels, found = (target.query.pids, target.gallery.pids, target.query.camids, target.gallery.camids), {}
    for how in kinds:
        if how == 'norms':
            own = camera_embeds(embed, target.train, 'norms', nets, device=device)
            result = evaluate_reid(own, target.query, target.gallery, flip=False, device=device)
        else:
            both = codes
            if how != 'none':
                maps = camera_maps(known, target.train.camids, how)
                rows = zip(codes, splits[1:])
                both = [
                    torch.stack([move_features(x, *maps[c]) for x, c in zip(q, s.camids.tolist())]) for q, s in rows
                ]
            result = evaluate_ranking(*both, *labels, protocol='market1501')
        found[how] = {'mAP': round(100 * result.mAP, 2), 'rank1': round(100 * result.rank(1), 2)}
    return found


def trained(config, source, target, steps, seed, device):
    "Train a row and measure it."
    config, began = replace(config, steps=steps), time.process_time()
    method = DirectTransfer(config, source.n_ids, seed=seed, device=device)
    batches = method.batches(source)
    for i in range(steps):
        method.step(batches(i), i)
    seconds = time.process_time() - began
    found = measure(method.embed, method.nets.values(), target, PER_CAMERA, device)
    return found | {'cpu_seconds': round(seconds), 'device': device}


def spoilt(x):
    "{what was done: pictures}, from what hardly hurts to what nobody would take for the same street."
    grid = torch.zeros(1, 1, 8, 8)
    grid[..., ::2, ::2] = grid[..., 1::2, 1::2] = 1
    board = grid.repeat(1, 1, x.shape[2] // 8, x.shape[3] // 8) - 0.5
    small = F.interpolate(x, scale_factor=0.25, mode='bilinear', antialias=True)
    halves = x.unflatten(2, (4, -1)).flip(2).flatten(2, 3)  # four bands of a person, feet first
    return {
        'blurred': F.interpolate(small, x.shape[2:], mode='bilinear'),
        'checkerboard': (x + 0.25 * board).clamp(-1, 1),
        'wrong colour': x[:, [2, 0, 1]],
        'wrong content': halves,
    }


def study(source, target, n):
    "Frechet distance to pictures of the cameras, by two stand-ins for FID; good are other pictures of these cameras."
    images, cameras = target.train.images, target.train.camids
    order = np.random.default_rng(0).permutation(len(images))
    real, rest = images[order[:n]], images[order[len(order) // 2 :]][:n]
    sets = {'good': rest} | {k: to_uint8(v) for k, v in spoilt(to_signed(rest)).items()}
    sets['one camera of six'] = np.resize(images[cameras == 0], (n, *images.shape[1:]))
    sets['not translated'] = source.images[:: max(1, len(source) // n)][:n]
    found = {}
    for extractor in (random_features([source.images, images], max_images=200), pretrained_features(size=(128, 64))):
        known = extractor(real)
        found[extractor.distance_name] = {k: frechet_between(extractor(v), known) for k, v in sets.items()}
    return found


def tables(done):
    "The results of one setting as Markdown."
    cell = lambda r, how: f'{r[how]["mAP"]:.1f} / {r[how]["rank1"]:.1f}' if how in r else ''
    rows = [[name, *(cell(r, how) for how in PER_CAMERA)] for name, r in done.items() if name != 'study']
    print(markdown_table(['mAP / rank-1', *PER_CAMERA], rows))
    if 'study' in done:
        names = [*done['study']]
        kinds = [*done['study'][names[0]]]
        print(
            markdown_table(['pictures', *names], [[k, *(f'{done["study"][n][k]:.3g}' for n in names)] for k in kinds])
        )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('--draw', type=int, default=0)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--steps', type=int, default=120)
    parser.add_argument('--device', default='cpu', help='of the trained rows')
    parser.add_argument('--pictures', type=int, default=300, help='of each kind in the study')
    parser.add_argument('--ids', type=int, nargs=2, default=(60, 108), metavar=('SOURCE', 'TARGET'))
    parser.add_argument('--rows', default='floors,scratch,installed,installed, input,installed, half,study')
    parser.add_argument('--data', default='runs/pretrained')
    parser.add_argument('--out', default='benchmarks/pretrained.json')
    a = parser.parse_args()
    path = Path(a.out)
    known = json.loads(path.read_text()) if path.exists() else {}
    source, target, _ = demo_data(a.data, '128x64', *a.ids, a.draw, progress=False)
    for row in a.rows.replace(', ', '; ').split(','):
        row = row.replace('; ', ', ')
        key = f'draw {a.draw}, {a.ids[0]} and {a.ids[1]} people, {a.steps} steps, seed {a.seed}'
        done = known.setdefault(key, {})
        if row in done:
            continue
        if row == 'floors':
            chance = chance_level(target.query.pids, target.gallery.pids, target.query.camids, target.gallery.camids)
            done['chance'] = {'none': {name: round(100 * chance[name], 2) for name in ('mAP', 'rank1')}}
            done['raw 8x16 pixels'] = measure(pixel_embed, (), target, ('none', 'centre', 'scale', 'whiten'))
            extractor = pretrained_features(size=(128, 64))
            done['floors'] = measure(pretrained_embed(extractor), [extractor.net], target, PER_CAMERA)
        elif row == 'study':
            done[row] = study(source, target, a.pictures)
        else:
            done[row] = trained(ROWS[row], source, target, a.steps, a.seed, a.device)
        print(row, done[row], flush=True)
        path.write_text(json.dumps(known, indent=1))
    tables(known[key])


if __name__ == '__main__':
    main()
