"Rendering in several processes, and folders that are interrupted, reused or refused."

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from synthreid.core import UserError
from synthreid.render import folder
from synthreid.render.camera import draw_image
from synthreid.render.folder import load_truth, render_folder, render_images

SMALL = dict(ids=6, per_id=3, size='32x16', progress=False)


def digest(root):
    "File name to content hash of every picture, and the truth."
    files = {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(Path(root).rglob('*.jpg'))
    }
    truth = {k: (m.tobytes(), j.tobytes()) for k, (m, j) in load_truth(root).items()}
    return files, truth


@pytest.mark.parametrize('domain', ['game', 'camera'])
def test_workers_do_not_matter(domain):
    pids, idx = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    alone, pool = (render_images(domain, pids, idx, '64x32', seed=3, workers=w) for w in (0, 3))
    for name in ('images', 'masks', 'joints', 'pids', 'camids'):
        assert np.array_equal(getattr(alone, name), getattr(pool, name)), name
    order = np.random.default_rng(0).permutation(24)
    mixed = render_images(domain, pids[order], idx[order], '64x32', seed=3, workers=2)
    assert np.array_equal(mixed.images, alone.images[order])


def test_a_fresh_process_gives_the_same_picture():
    code = (
        'import hashlib\nfrom synthreid.render.folder import render_images\n'
        "print(hashlib.sha256(render_images('camera', [4], [2], '64x32').images.tobytes()).hexdigest())"
    )
    out = subprocess.run(
        [sys.executable, '-c', code],
        capture_output=True,
        text=True,
        env={**os.environ, 'PYTHONHASHSEED': '77'},
        check=True,
    )
    assert out.stdout.strip() == hashlib.sha256(render_images('camera', [4], [2], '64x32').images.tobytes()).hexdigest()


def test_workers_need_no_torch():
    code = "import sys, synthreid.render.camera\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, '-c', code], check=True)


def test_seeds_and_domains_are_different_people():
    a = render_images('camera', [0], [0], '64x32')
    others = [
        render_images('camera', [0], [0], '64x32', seed=1),
        render_images('game', [0], [0], '64x32'),
        render_images('camera', [0], [0], '64x32', camera_seed=9),
    ]
    assert all((a.images != o.images).mean() > 0.5 for o in others)
    assert np.array_equal(render_images('camera', [0], [0], '64x32', camera_seed=0).images, a.images), (
        'camera_seed defaults to seed'
    )


def test_layout(tmp_path):
    root = render_folder(tmp_path / 'set', 'camera', ids=8, per_id=6, size='32x16', workers=2, progress=False)
    names = {d: [p.name for p in (root / d).iterdir()] for d in ('bounding_box_train', 'query', 'bounding_box_test')}
    every = [n for v in names.values() for n in v]
    assert all(re.fullmatch(r'(-1|\d{4})_c[1-6]s1_\d{6}_\d\d\.jpg', n) for n in every)
    ids = {d: {int(n.split('_')[0]) for n in v} for d, v in names.items()}
    assert (
        ids['bounding_box_train'] == {1, 2, 3, 4}
        and ids['query'] == {5, 6, 7, 8}
        and ids['bounding_box_test'] == {-1, 0, 5, 6, 7, 8}
    )
    assert len(names['query']) == len({n[:7] for n in names['query']}) == 24, 'one query per identity and camera'
    plan = list(folder._plan_folder(folder._get_domain('camera'), 8, 6, 0.5))
    assert len(plan) == len(every) == len(load_truth(root)), 'no two pictures share a name'
    mask, joints = load_truth(root)['query/' + names['query'][0]]
    assert mask.shape == (32, 16) and joints.shape == (17, 2)
    assert Image.open(root / 'query' / names['query'][0]).size == (16, 32)


def test_interrupted_folder_is_finished(tmp_path, monkeypatch):
    whole = render_folder(tmp_path / 'whole', 'camera', workers=0, **SMALL)
    done, work = [], folder._file

    def dies(job):
        if len(done) == 9:
            raise KeyboardInterrupt
        done.append(job)
        return work(job)

    with monkeypatch.context() as m:
        m.setattr(folder, '_file', dies)
        with pytest.raises(KeyboardInterrupt):
            render_folder(tmp_path / 'part', 'camera', workers=0, **SMALL)
    assert not (tmp_path / 'part' / 'render.json').exists()
    with pytest.raises(UserError, match='other settings'):
        render_folder(tmp_path / 'part', 'camera', workers=0, seed=1, **SMALL)
    assert digest(render_folder(tmp_path / 'part', 'camera', workers=2, **SMALL)) == digest(whole)


def test_killed_folder_is_finished(tmp_path):
    args = dict(ids=24, per_id=8, size='64x32', progress=False)
    code = (
        f"from synthreid.render.folder import render_folder\nrender_folder({str(tmp_path / 'a')!r}, 'game', workers=0,"
        f" **{args!r})"
    )
    child = subprocess.Popen([sys.executable, '-c', code])
    while len(list((tmp_path / 'a').rglob('*.jpg'))) < 20 and child.poll() is None:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (tmp_path / 'a' / 'render.json').exists(), 'the kill came before the end'
    (tmp_path / 'a' / 'query' / '.0001_c1s1_000001_01.jpg.12').write_bytes(
        b'half'
    )  # a kill may come while a picture is written
    root = render_folder(tmp_path / 'a', 'game', workers=2, **args)
    assert digest(root) == digest(render_folder(tmp_path / 'b', 'game', workers=2, **args))
    assert not [p for p in root.rglob('.*') if p.is_file()], 'no half-written files stay'


def test_reuse_and_refuse(tmp_path):
    root = render_folder(tmp_path / 'set', 'game', workers=0, **SMALL)
    stamp = {p: p.stat().st_mtime_ns for p in root.rglob('*') if p.is_file()}
    assert render_folder(root, 'game', workers=0, **SMALL) == root and stamp == {
        p: p.stat().st_mtime_ns for p in root.rglob('*') if p.is_file()
    }
    for change in (dict(seed=5), dict(noise=0.5), dict(test_fraction=0.2)):
        with pytest.raises(UserError, match='other settings'):
            render_folder(root, 'game', workers=0, **{**SMALL, **change})
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('dear')
    with pytest.raises(UserError, match='other files'):
        render_folder(tmp_path / 'mine', 'game', workers=0, **SMALL)
    assert [p.name for p in (tmp_path / 'mine').iterdir()] == ['thesis.txt']


@pytest.mark.parametrize(
    'bad', [dict(size='33x16'), dict(ids=0), dict(test_fraction=2), dict(workers=-1), dict(domain='film'), dict(fog=1)]
)
def test_bad_input_writes_nothing(tmp_path, bad):
    args = {**SMALL, 'domain': 'game', 'workers': 0, **bad}
    with pytest.raises(UserError):
        render_folder(tmp_path / 'set', **args)
    assert not (tmp_path / 'set').exists() or not list((tmp_path / 'set').rglob('*.jpg'))


@pytest.mark.skipif(sys.platform != 'linux', reason='asks the system for children')
def test_workers_of_a_killed_parent_write_nothing_more(tmp_path):
    code = (
        'import sys; from synthreid.render.folder import render_folder;'
        'render_folder(sys.argv[1], "game", ids=100, per_id=20, size="64x32", workers=2, progress=False)'
    )
    parent = subprocess.Popen([sys.executable, '-c', code, str(tmp_path / 'x')])
    pictures = lambda: len(list((tmp_path / 'x').glob('*/*.jpg')))
    deadline = time.monotonic() + 120
    while pictures() < 20:
        assert parent.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    parent.kill()
    parent.wait()
    first = pictures()
    time.sleep(3)
    assert pictures() <= first + 4, 'each worker ends what it is at'


def listed(domain, ids, per_id, test_fraction):
    "The plan of a folder as it has always been, as one list."
    test = min(ids, max(0, round(ids * test_fraction)))
    train, last = ids - test, ids
    rows = [('bounding_box_train', p + 1, p, i, None, False) for p in range(train) for i in range(per_id)]
    for p in range(train, last):
        rows += [('bounding_box_test', p + 1, p, i, None, False) for i in range(per_id)]
        rows += [('query', p + 1, p, per_id + c, c, False) for c in range(domain.n_cameras)]
    junk, others = round(test * per_id * 0.1), round(test * per_id * 0.15)
    rows += [('bounding_box_test', -1, train + i % test, 100000 + i, None, True) for i in range(junk)]
    rows += [('bounding_box_test', 0, 1000000 + i if i % 3 else -1 - i, 0, None, False) for i in range(others)]
    return rows


def test_a_folder_is_what_lists_and_numpy_would_make(tmp_path):
    "Pictures, their names and truth.npz, byte for byte."
    root = render_folder(tmp_path / 'set', 'camera', ids=7, per_id=5, size='32x16', seed=3, workers=2, progress=False)
    domain, rows = folder._get_domain('camera'), []
    for place, label, pid, index, cam, part in listed(domain, 7, 5, 0.5):
        image, mask, joints, camid = draw_image(domain, pid, index, (32, 16), 3, cam, part)
        frame = 25 * (index if label > 0 else index % 100000 + abs(pid) % 100000) + 1
        box = 2 if label <= 0 and pid < 0 else 1
        person = '-1' if label < 0 else f'{label:04}'
        rows.append((f'{place}/{person}_c{camid + 1}s1_{frame:06}_{box:02}.jpg', np.packbits(mask), joints))
        kept = io.BytesIO()
        Image.fromarray(image).save(kept, 'JPEG', quality=95)
        assert (root / rows[-1][0]).read_bytes() == kept.getvalue()
    paths, masks, joints = (np.array(column) for column in zip(*rows))
    names = np.array(folder.JOINTS)
    np.savez_compressed(
        tmp_path / 'truth.npz', paths=paths, masks=masks, joints=joints, size=(32, 16), joint_names=names
    )
    assert (root / 'truth.npz').read_bytes() == (tmp_path / 'truth.npz').read_bytes()
    assert len(list(root.rglob('*.jpg'))) == len(rows)


def test_a_million_people_need_no_more_memory_than_ten(tmp_path, monkeypatch):
    "Neither the plan nor what is known of the pictures is held as a list."
    drawn = []

    def stops(job):
        drawn.append(job)
        if len(drawn) == 5:
            raise KeyboardInterrupt
        return 'bounding_box_train/a.jpg', np.zeros(4, np.uint8), np.zeros((17, 2))

    monkeypatch.setattr(folder, '_file', stops)
    tracemalloc.start()
    with pytest.raises(KeyboardInterrupt):
        render_folder(tmp_path / 'set', 'camera', ids=1_000_000, size='64x32', workers=0, progress=False)
    assert tracemalloc.get_traced_memory()[1] < 4e6 and not (tmp_path / 'set' / 'render.json').exists()
    known = ((f'query/{i}.jpg', np.zeros(256, np.uint8), np.zeros((17, 2))) for i in range(40_000))
    tracemalloc.reset_peak()
    with folder._set_aside(known, tmp_path / 'truth.npz') as kept:
        folder._write_truth(tmp_path / 'truth.npz', *kept, (64, 32), 40_000)
    assert tracemalloc.get_traced_memory()[1] < 4e6, 'as lists they are 20 MB and more'
    tracemalloc.stop()
    assert np.load(tmp_path / 'truth.npz')['paths'][[0, -1]].tolist() == ['query/0.jpg', 'query/39999.jpg']
    with pytest.raises(UserError, match='at most 1,000,000 people'):
        render_folder(tmp_path / 'more', 'camera', ids=1_000_001, progress=False)
