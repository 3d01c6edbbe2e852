"""Small folders in the true layout of every dataset, made of rendered people.

`make_layout('msmt17', root)` writes the files and returns what it wrote; readers, doctor, store and recipes are tested on them.
"""

import json
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from synthreid.render.folder import render_images


def _three(train, query, gallery, name):
    return dict(train=f'{train}/{name}', query=f'{query}/{name}', gallery=f'{gallery}/{name}')


def _market(name):
    return _three('bounding_box_train', 'query', 'bounding_box_test', name)


# split -> file name; p person, q 1 to 4 in turn, c camera from 0, d camera from 1, k picture of the person, l list number (from 0 in each part)
NAMES = {
    'market1501': _market('{p:04d}_c{d}s1_{k:06d}_01.jpg'),
    'market1501_500k': _market('{p:04d}_c{d}s1_{k:06d}_01.jpg'),
    'dukemtmcreid': _market('{p:04d}_c{d}_f{k:07d}.jpg'),
    'occluded_duke': {s: 'Occluded_Duke/' + f for s, f in _market('{p:04d}_c{d}_f{k:07d}.jpg').items()},
    'gta_synthreid': _market('{p:08d}_sn001c{d:02d}_{k:04d}.jpeg'),
    'cuhk03_np': {s: 'detected/' + f for s, f in _market('{p:04d}_c{d}_{k}.png').items()},
    'personx': {s: '4/' + f for s, f in _market('{p:04d}_c{d}s1_{k:06d}.jpg').items()},
    'veri': _three('image_train', 'image_query', 'image_test', '{p:04d}_c{d:03d}_{k:08d}_0.jpg'),
    'clonedperson': _three('train', 'test/query', 'test/gallery', '70{p:04d}_s02_c{c:02d}_f{k:06d}.jpg'),
    'randperson': dict(train='randperson_subset/{p:06d}_s00_c{c:02d}_f{k:06d}.jpg'),
    'unrealperson': dict(train='unreal_v1.3/images/{p}_c{d:03d}_{k}.jpg'),
    'syri': dict(train='{p:03d}_{c:03d}_{k:04d}.jpg'),
    'msmt17': {
        s: 'MSMT17_V1/' + f
        for s, f in dict(
            train='train/{l:04d}/{l:04d}_{k:03d}_{d:02d}_0113morning_{k:04d}_0.jpg',
            query='test/{l:04d}/{l:04d}_{k:03d}_{d:02d}_0114noon_{k:04d}_0.jpg',
            gallery='test/{l:04d}/{l:04d}_{k:03d}_{d:02d}_0114noon_{k:04d}_1.jpg',
        ).items()
    },
    'msmt17_v2': {
        s: 'MSMT17_V2/' + f
        for s, f in dict(
            train='mask_train_v2/{l:04d}/{l:04d}_{k:03d}_{d:02d}_0113morning_{k:04d}_0.jpg',
            query='mask_test_v2/{l:04d}/{l:04d}_{k:03d}_{d:02d}_0114noon_{k:04d}_0.jpg',
            gallery='mask_test_v2/{l:04d}/{l:04d}_{k:03d}_{d:02d}_0114noon_{k:04d}_1.jpg',
        ).items()
    },
    'cuhk02': dict(
        train='Dataset/P{q}/cam{d}/{p:03d}_{k}.png',
        query='Dataset/P5/cam1/{p:03d}_{k}.png',
        gallery='Dataset/P5/cam2/{p:03d}_{k}.png',
    ),
    'folders': {s: s + '/person {p}/{k:03d}.jpg' for s in ('train', 'query', 'gallery')},
    'pattern': {s: s + '/{p}-cam{d}-{k}.png' for s in ('train', 'query', 'gallery')},
}
# every person in both views; the reader draws who trains
VIEWS = {
    'viper': ('VIPeR/cam_a/{p:03d}_00.bmp', 'VIPeR/cam_b/{p:03d}_90.bmp'),
    'cuhk01': ('campus/{p:04d}001.png', 'campus/{p:04d}003.png'),
    'prid': ('prid_2011/single_shot/cam_a/person_{p:04d}.png', 'prid_2011/single_shot/cam_b/person_{p:04d}.png'),
    'grid': ('probe/{p:04d}_1_{p:05d}_30_110_80_200.jpeg', 'gallery/{p:04d}_2_{p:05d}_30_110_80_200.jpeg'),
}
LAYOUT_NAMES = [*NAMES, *VIEWS, 'cuhk03']


@lru_cache(4096)
def _picture(person, camera, k, size, seed):
    return Image.fromarray(render_images('camera', [person], [k * 7 + camera], size=size, seed=seed).images[0])


def _save(path, person, camera, k, size, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    _picture(person, camera, k, tuple(size), seed).save(path)


def make_layout(name, root, ids=6, per_id=4, cameras=2, size=(64, 32), seed=0):
    """Write a dataset of `ids` people (half train, half test) with `per_id` pictures each and one query per camera.
    Returns rows (relative path, split or None where the reader draws it, person, camera from 0)."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    if name in NAMES:
        rows = list(_split_rows(name, ids, per_id, cameras))
    elif name in VIEWS:
        rows = [(f.format(p=p), None, p, c) for c, f in enumerate(VIEWS[name]) for p in range(1, ids + 1)]
    elif name == 'cuhk03':
        rows = [
            (f'images_{kind}/{1 + p % 5}_{p:03d}_{1 + k % 2}_{1 + k // 2 + 5 * (k % 2):02d}.png', None, p, k % 2)
            for kind in ('detected', 'labeled')
            for p in range(1, ids + 1)
            for k in range(per_id)
        ]
    else:
        raise ValueError(f'expected one of {LAYOUT_NAMES}, got {name!r}')
    for i, (path, _, person, camera) in enumerate(rows):
        _save(root / path, person, camera, i % 97, size, seed)
    if name in EXTRAS:
        EXTRAS[name](root, rows, size)
    return rows


def _split_rows(name, ids, per_id, cameras):
    names, train = NAMES[name], ids // 2 if 'query' in NAMES[name] else ids

    def row(split, p, c, k):
        if name == 'cuhk02' and split == 'gallery':
            c = 1
        return names[split].format(p=p, q=1 + p % 4, c=c, d=c + 1, k=k, l=p - 1 - train * (p > train)), split, p, c

    for p in range(1, train + 1):
        for k in range(per_id):
            yield row('train', p, k % cameras, k)
    for p in range(train + 1, ids + 1):
        for c in range(cameras if name != 'cuhk02' else 1):
            yield row('query', p, c, 900 + c)
        for k in range(per_id):
            yield row('gallery', p, k % cameras, k)
    if name.startswith('market'):
        for p, k in ((0, 1), (0, 2), (-1, 3)):
            yield row('gallery', p, 0, k)[0].replace('/-001', '/-1'), 'gallery', p, 0
    if name == 'market1501_500k':
        for p, k in ((0, 5), (-1, 6)):
            yield (
                row('gallery', p, 0, k)[0].replace('/-001', '/-1').replace('bounding_box_test', 'images'),
                'gallery',
                p,
                0,
            )


def _msmt17(root, rows, size):
    top = next(root.iterdir())
    for part in ('train', 'val', 'query', 'gallery'):
        mine = [r for r in rows if r[1] == ('train' if part == 'val' else part)]
        mine = mine[::4] if part == 'val' else [r for i, r in enumerate(mine) if i % 4 or part != 'train']
        rels = [r[0].split('/', 2)[2] for r in mine]
        (top / f'list_{part}.txt').write_text(''.join(f'{r} {int(r[:4])}\n' for r in rels))


def _grid(root, rows, size):
    from scipy.io import savemat

    people = sorted({r[2] for r in rows})
    for k in range(3):
        _save(root / f'gallery/0000_3_{k:05d}_30_110_80_200.jpeg', 0, 0, k, size, 0)
    cell = np.empty((1, 10), object)
    for i in range(10):
        cell[0, i] = dict(
            probe=np.zeros((1, 1)),
            gallery=np.zeros((1, 1)),
            people=np.array([sorted(np.random.RandomState(i).permutation(people)[: len(people) // 2])]),
        )
    savemat(root / 'features_and_partitions.mat', {'trainIdxAll': cell})


def _prid(root, rows, size):
    for p in (201, 202, 749):
        _save(root / f'prid_2011/single_shot/cam_b/person_{p:04d}.png', p, 1, 0, size, 0)
    for p in (300, 385):
        _save(root / f'prid_2011/single_shot/cam_a/person_{p:04d}.png', p, 0, 0, size, 0)


def _cuhk03(root, rows, size):
    from scipy.io import savemat

    people = sorted({r[2] for r in rows})
    test = people[len(people) // 2 :]
    for kind in ('detected', 'labeled'):
        names = sorted(r[0].split('/')[1] for r in rows if kind in r[0])
        owner = [int(n[2:5]) for n in names]
        first = {}
        for i, n in enumerate(names):
            first.setdefault((owner[i], n[6]), i)
        query = [first[k] for k in sorted(first) if k[0] in test]
        parts = dict(
            train=[i for i, p in enumerate(owner) if p not in test],
            query=query,
            gallery=[i for i, p in enumerate(owner) if p in test and i not in query],
        )
        cell = np.empty((len(names), 1), object)
        cell[:, 0] = names
        savemat(
            root / f'cuhk03_new_protocol_config_{kind}.mat',
            dict(
                filelist=cell,
                labels=np.array(owner)[:, None],
                **{f'{k}_idx': np.array(v)[:, None] + 1 for k, v in parts.items()},
            ),
        )
    (root / 'testsets.json').write_text(
        json.dumps([[[1 + p % 5, p] for p in people[i % 2 :: 2][:2]] for i in range(20)])
    )


EXTRAS = {'msmt17': _msmt17, 'msmt17_v2': _msmt17, 'grid': _grid, 'prid': _prid, 'cuhk03': _cuhk03}


def draw_tree(root, per_folder=3):
    """The files below `root` as text, `per_folder` of each folder."""
    lines = []

    def walk(folder, indent):
        entries = sorted(folder.iterdir(), key=lambda p: (p.is_file(), p.name))
        for d in [p for p in entries if p.is_dir()][:6]:
            lines.append(f'{indent}{d.name}/')
            walk(d, indent + '    ')
        files = [p.name for p in entries if p.is_file()]
        lines.extend(indent + f for f in files[:per_folder])
        if len(files) > per_folder:
            lines.append(f'{indent}... {len(files) - per_folder} more')

    walk(Path(root), '')
    return '\n'.join(lines)
