"""The image cache under kills, company, full disks and damage; files of every kind; samplers and augmentations as
functions of the step."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from synthreid.core import UserError, step_generator, to_signed
from synthreid.data import store
from synthreid.data.augment import GEOMETRY, augment, random_translation
from synthreid.data.datasets import ReidSplit
from synthreid.data.samplers import DomainBatches, IdentityBatches, shuffled_batch
from synthreid.data.store import BrokenImages, LazyImages, load_images, read_image

SIZE = (16, 8)
quick = settings(
    max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write_split(folder, n=20, seed=0, size=(24, 12)):
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    paths = [folder / f'{i:03d}.{"jpg" if i % 2 else "png"}' for i in range(n)]
    for p in paths:
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(p)
    return ReidSplit(paths, np.arange(n), np.arange(n) % 3)


def direct(paths):
    return np.stack([np.asarray(Image.open(p).convert('RGB').resize(SIZE[::-1], Image.BILINEAR)) for p in paths])


def load(split, cache=None, **options):
    return load_images(split, SIZE, cache, progress=False, **options)


def counted(split, cache, **options):
    "The loaded split and how many pictures were decoded for it."
    calls, decode = [], store.decode_image
    with patch.object(store, 'decode_image', lambda *a: calls.append(1) or decode(*a)):
        return load(split, cache, **options), len(calls)


# ---- the cache gives what decoding gives


@quick
@given(
    kinds=st.lists(st.sampled_from(['good', 'text', 'empty', 'cut', 'missing']), min_size=1, max_size=12),
    block=st.integers(1, 5),
    in_cache=st.booleans(),
)
def test_cache_equals_decoding_and_skips_consistently(tmp_path_factory, kinds, block, in_cache):
    folder = tmp_path_factory.mktemp('images')
    split = write_split(folder, len(kinds), seed=len(kinds))
    split.domains = np.arange(len(kinds)) + 50
    for kind, p in zip(kinds, map(Path, split.paths)):
        data = p.read_bytes()
        if kind == 'missing':
            p.unlink()
        elif kind != 'good':
            p.write_bytes({'text': b'GIF8 is not enough', 'empty': b'', 'cut': data[: len(data) // 3]}[kind])
    good = np.flatnonzero(np.array(kinds) == 'good')
    bad = [p for k, p in zip(kinds, split.paths) if k != 'good']
    with patch.object(store, '_BLOCK', block):
        for _ in range(2):  # the second time from the cache
            if bad:
                with pytest.raises(BrokenImages) as e:
                    load(split, folder / 'cache' if in_cache else None)
                assert [p for p, _ in e.value.files] == bad and all(p in str(e.value) for p in bad)
            if not len(good):
                continue
            if bad:
                with pytest.warns(UserWarning, match=f'{len(bad)} of {len(kinds)} images left out'):
                    got = load(split, folder / 'cache' if in_cache else None, on_broken='skip')
            else:
                got = load(split, folder / 'cache' if in_cache else None)
            assert (got.images == direct(split.paths[good])).all() and isinstance(got.images, np.memmap) == in_cache
            assert (
                (got.pids == good).all()
                and (got.camids == good % 3).all()
                and (got.domains == good + 50).all()
                and (got.paths == split.paths[good]).all()
            )


def test_content_decides(tmp_path):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    images, n = counted(split, cache)
    assert n == 20 and counted(split, cache)[1] == 0
    for p in split.paths:
        os.utime(p)  # another time, the same content
    assert counted(split, cache)[1] == 0 and counted(write_split(tmp_path / 'elsewhere'), cache)[1] == 0
    with patch.object(store, '_read_bytes', side_effect=AssertionError('read again')):
        load(split, cache)
    os.replace(split.paths[3], split.paths[5])  # the same path, another content; another is missing
    with pytest.raises(BrokenImages, match='003.jpg .No such file') as e:
        load(split, cache)
    assert len(e.value.files) == 1
    write_split(tmp_path / 'a', seed=1)
    other, n = counted(split, cache)
    assert n == 20 and (other.images == direct(split.paths)).all() and (other.images != images.images).any()
    assert load_images(split, (8, 8), cache, progress=False).images.shape == (20, 8, 8, 3)


def test_refusal_is_remembered_and_repair_is_noticed(tmp_path):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    good = Path(split.paths[4]).read_bytes()
    Path(split.paths[4]).write_bytes(good[:50])
    with pytest.raises(BrokenImages):
        load(split, cache)
    with pytest.warns(UserWarning, match='1 of 20'):
        assert counted(split, cache, on_broken='skip')[1] == 0
    Path(split.paths[4]).write_bytes(good)
    assert len(load(split, cache)) == 20


def test_a_file_that_changes_while_it_is_decoded(tmp_path):
    split = write_split(tmp_path / 'a')
    find = store._find_digests

    def find_and_change(paths, *args):
        found = find(paths, *args)
        Path(paths[7]).write_bytes(Path(paths[8]).read_bytes())
        return found

    with (
        patch.object(store, '_find_digests', find_and_change),
        pytest.raises(UserError, match='007.jpg to stay as it is'),
    ):
        load(split, tmp_path / 'cache')
    assert (load(split, tmp_path / 'cache').images == direct(split.paths)).all()


@pytest.mark.parametrize('damage', ['cut', 'longer', 'altered', 'gone', 'log cut', 'log gone', 'log nonsense'])
def test_damage_is_noticed(tmp_path, damage):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    with patch.object(store, '_BLOCK', 6):
        before = load(split, cache).images
        kept = before.copy()
        rows, log = next(cache.glob('*.rows')), next(cache.glob('*.log'))
        data = rows.read_bytes()
        if damage == 'cut':
            os.replace(rows, rows.with_suffix('.old'))
            rows.write_bytes(data[:-100])
        elif damage == 'longer':
            rows.write_bytes(data + b'x')
        elif damage == 'altered':
            rows.unlink()
            rows.write_bytes(data[:999] + bytes([data[999] ^ 1]) + data[1000:])
        elif damage == 'gone':
            rows.unlink()
        elif damage == 'log cut':
            log.write_text(log.read_text()[:-60])
        elif damage == 'log gone':
            log.unlink()
        else:
            log.write_text('{}\n[1]\nnull\n')
        assert (load(split, cache).images == kept).all()
        assert counted(split, cache)[1] == 0, 'and the new map is a good one'


@settings(quick, max_examples=60)
@given(
    which=st.sampled_from(['log', 'content', 'rows']),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=3),
    cut=st.sampled_from([1.0, 1.0, 0.7, 0.0]),
)
def test_a_damaged_side_file_is_built_again(tmp_path_factory, which, flips, cut):
    "Whatever its bytes have become: the pictures are right, without a word, and so is what is kept then."
    folder = tmp_path_factory.mktemp('side')
    split, cache = write_split(folder / 'a', n=8), folder / 'cache'
    with patch.object(store, '_BLOCK', 3):
        wanted = load(split, cache).images.copy()
        file = next(cache.glob(f'*.{which}'))
        data = bytearray(file.read_bytes())
        data = data[: int(cut * len(data))]
        for place, mask in flips:
            if data:
                data[int(place * len(data))] ^= mask
        os.replace(file, file.with_suffix('.old'))
        file.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            assert (load(split, cache).images == wanted).all()
        assert counted(split, cache)[1] == 0


@pytest.mark.parametrize(
    'log',
    [
        '{"rows": "x", "sum": 1, "broken": {}}',
        '{"rows": 6, "sum": 1, "broken": [1]}',
        '{"rows": -6, "sum": 1, "broken": {}}',
        '{"rows": 1e999, "sum": 1, "broken": {"a": 1}}',
        '{"sealed": "x"}',
        '{"sealed": null}\n{"sealed": 1}',
    ],
)
def test_a_log_of_other_kinds_is_built_again(tmp_path, log):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    wanted = load(split, cache).images.copy()
    next(cache.glob('*.log')).write_text(log)
    assert (load(split, cache).images == wanted).all() and counted(split, cache)[1] == 0


def test_a_folder_in_place_of_a_side_file(tmp_path):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    wanted = load(split, cache).images.copy()
    for kind in ('content', 'log'):
        file = next(cache.glob(f'*.{kind}'))
        file.unlink()
        file.mkdir()
        if kind == 'content':
            assert (load(split, cache).images == wanted).all(), 'it only saves time'
            continue
        with pytest.raises(UserError, match=f'{file.name} .Is a directory'):
            load(split, cache)


def test_a_copied_cache_is_used_after_a_look(tmp_path):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    load(split, cache)
    os.utime(next(cache.glob('*.rows')), (1, 1))
    assert counted(split, cache)[1] == 0


# ---- killed, in company, without room

SCRIPT = '''
import json, os, resource, sys, time, warnings
from pathlib import Path
from synthreid.data import store
from synthreid.data.datasets import ReidSplit
folder, cache, journal, pause, limit = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), int(sys.argv[5])
store._BLOCK, store.usable_cores, decode = 4, lambda: 1, store.decode_image
def slowly(*args):
    time.sleep(pause)
    with open(journal, 'a') as f: f.write('x')
    return decode(*args)
store.decode_image = slowly
if limit: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
paths = sorted(Path(folder).iterdir())
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter('always')
    got = store.load_images(ReidSplit(paths, [0] * len(paths), [0] * len(paths)), (16, 8), cache, progress=False)
import hashlib
found = dict(sum=hashlib.sha256(got.images.tobytes()).hexdigest(), kind=type(got.images).__name__)
print(json.dumps(found | dict(said=[str(w.message) for w in said])))
'''


def start(tmp_path, pause=0.0, limit=0):
    return subprocess.Popen(
        [
            sys.executable,
            '-c',
            SCRIPT,
            *map(str, (tmp_path / 'a', tmp_path / 'cache', tmp_path / 'journal', pause, limit)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(process):
    out, err = process.communicate(timeout=960)
    assert process.returncode == 0, err
    return json.loads(out)


def checksum(images):
    import hashlib

    return hashlib.sha256(images.tobytes()).hexdigest()


def test_killed_builds_go_on(tmp_path):
    split = write_split(tmp_path / 'a')
    victim = start(tmp_path, pause=0.1)
    lines = lambda: sum(f.read_text().count('\n') for f in (tmp_path / 'cache').glob('*.log'))
    deadline = time.monotonic() + 200
    while lines() < 2:
        assert victim.poll() is None and time.monotonic() < deadline, 'the build ended before it could be killed'
        time.sleep(0.01)
    os.kill(victim.pid, signal.SIGKILL)
    victim.communicate()
    kept = lines() * 4
    assert 8 <= kept < 20
    with open(next((tmp_path / 'cache').glob('*.rows')), 'ab') as f:
        f.write(b'half a block')  # what a kill in the middle of a write leaves
    with patch.object(store, '_BLOCK', 4):
        got, n = counted(split, tmp_path / 'cache')
    assert n == 20 - kept and (got.images == direct(split.paths)).all()


def test_a_block_that_was_spoilt_before_the_end_is_decoded_again(tmp_path):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    decode, calls = store.decode_image, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) > 13:
            raise MemoryError
        return decode(*args)

    with patch.object(store, '_BLOCK', 4), patch.object(store, 'usable_cores', lambda: 1):
        with patch.object(store, 'decode_image', interrupted), pytest.raises(MemoryError):
            load(split, cache)
        rows = next(cache.glob('*.rows'))
        data = bytearray(rows.read_bytes())
        data[5 * 16 * 8 * 3] ^= 255  # in the second of three blocks
        rows.write_bytes(data)
        got, n = counted(split, cache)
    assert n == 16 and (got.images == direct(split.paths)).all()


def test_two_processes_build_once(tmp_path):
    split = write_split(tmp_path / 'a')
    both = [start(tmp_path, pause=0.1) for _ in range(2)]
    found = [result(p) for p in both]
    assert {f['sum'] for f in found} == {checksum(direct(split.paths))} and {f['kind'] for f in found} == {'memmap'}
    assert (tmp_path / 'journal').read_text() == 'x' * 20, 'every picture was decoded once'


def test_full_disk(tmp_path):
    split = write_split(tmp_path / 'a')
    found = result(
        start(tmp_path, limit=3000)
    )  # no file may grow beyond 3000 bytes: an error of the system in the middle of a write
    assert found['kind'] == 'ndarray' and found['sum'] == checksum(direct(split.paths))
    assert 'do not fit into' in found['said'][0] and not list((tmp_path / 'cache').glob('*.rows'))
    assert isinstance(load(split, tmp_path / 'cache').images, np.memmap), 'later there is room'


def test_a_cache_that_is_no_folder(tmp_path):
    split = write_split(tmp_path / 'a')
    (tmp_path / 'file').touch()
    with pytest.raises(UserError, match='choose another folder'):
        load(split, tmp_path / 'file')


# ---- on the fly


def test_lazy_images_serve_every_consumer(tmp_path):
    from synthreid.data.batches import LabelledBatches
    from synthreid.metrics.evaluate import extract_features
    from synthreid.metrics.translation import translate_images
    from synthreid.training.provenance import fingerprint

    split = write_split(tmp_path / 'a')
    Path(split.paths[9]).write_bytes(b'')
    with patch.object(store, '_free_memory', lambda: 0), pytest.warns(UserWarning, match='on the fly|left out'):
        lazy = load(split, on_broken='skip')
    with pytest.warns(UserWarning, match='left out'):
        array = load(split, on_broken='skip')
    assert (
        isinstance(lazy.images, LazyImages)
        and lazy.images.shape == array.images.shape == (19, *SIZE, 3)
        and len(lazy) == 19
    )
    embed = lambda x: x.mean(3).flatten(1)
    assert torch.equal(extract_features(embed, lazy.images, 7), extract_features(embed, array.images, 7))
    assert fingerprint(lazy) == fingerprint(array)
    a, b = (LabelledBatches(s.relabel(), 8, seed=3)(11) for s in (lazy, array))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert (lazy[lazy.camids == 1].images == array[array.camids == 1].images).all()
    assert (translate_images(lambda x: -x, lazy.images, 5) == 255 - array.images).all()


# ---- files


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_pixel_formats(tmp_path):
    rng = np.random.default_rng(0)
    rgb = np.kron(rng.integers(0, 256, (4, 2, 3), dtype=np.uint8), np.ones((4, 4, 1), np.uint8))
    photo, grey = Image.fromarray(rgb), rgb[..., 0]

    def same(path, expected, tolerance=0):
        assert np.abs(read_image(path, SIZE).astype(int) - expected).max() <= tolerance, path

    same(save(tmp_path / '16.png', Image.fromarray(grey.astype(np.uint16) * 257)), grey[..., None])
    same(save(tmp_path / '16.tif', Image.fromarray(grey.astype(np.uint16) * 257)), grey[..., None])
    same(save(tmp_path / 'grey.png', Image.fromarray(grey)), grey[..., None])
    same(save(tmp_path / 'rgba.png', Image.fromarray(np.dstack([rgb, grey]))), rgb)
    same(save(tmp_path / 'palette.png', photo.quantize(256), transparency=bytes(range(256))), rgb)
    same(
        save(
            tmp_path / 'animation.gif', photo.quantize(256), save_all=True, append_images=[Image.new('P', SIZE[::-1])]
        ),
        rgb,
    )
    same(save(tmp_path / 'cmyk.jpg', photo.convert('CMYK'), quality=100, subsampling=0), rgb, 12)
    same(save(tmp_path / 'bits.png', Image.fromarray(grey > 128)), (grey > 128)[..., None] * 255)
    same(save(tmp_path / 'two words ü 人\n.bmp', photo), rgb)
    same(save(tmp_path / 'png.jpg', photo, format='PNG'), rgb)
    assert (read_image(save(tmp_path / 'point.png', Image.fromarray(rgb[:1, :1])), SIZE) == rgb[0, 0]).all()
    with pytest.raises(UserError, match='float.tif .more than 16 bits'):
        read_image(save(tmp_path / 'float.tif', Image.fromarray(grey.astype(np.float32))), SIZE)


def test_sixteen_bit_colour(tmp_path):
    "Written by hand: Pillow reads 16-bit RGB and does not write it."
    import struct
    import zlib

    values = np.array([[0, 128 << 8, 65535]], '>u2').repeat(SIZE[0] * SIZE[1], 0)
    chunk = lambda kind, data: struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    lines = b''.join(b'\0' + values[: SIZE[1]].tobytes() for _ in range(SIZE[0]))
    (tmp_path / 'rgb16.png').write_bytes(
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', SIZE[1], SIZE[0], 16, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(lines))
        + chunk(b'IEND', b'')
    )
    assert (read_image(tmp_path / 'rgb16.png', SIZE) == [0, 128, 255]).all()


@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_pictures_are_turned_as_exif_says(tmp_path, kind):
    "As Pillow's own `exif_transpose` turns them."
    pixels = np.kron(np.random.default_rng(0).integers(0, 256, (3, 2, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    upright = {}
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(tmp_path / f'{orientation}.{kind.lower()}', Image.fromarray(pixels), exif=exif)
        with Image.open(path) as image:
            wanted = np.asarray(ImageOps.exif_transpose(image))
        assert np.array_equal(read_image(path), wanted), orientation
        small = Image.fromarray(wanted).resize(SIZE[::-1], Image.BILINEAR)
        assert np.array_equal(read_image(path, SIZE), np.asarray(small)), orientation
        upright[wanted.tobytes()] = orientation
    assert len(upright) == 8


def test_orientation_behind_the_pixels_and_damaged_exif(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 8
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 4, 3), dtype=np.uint8))
    data = save(tmp_path / 'a.png', image, exif=exif).read_bytes()
    start = data.index(b'eXIf') - 4
    chunk = data[start : start + 12 + int.from_bytes(data[start : start + 4], 'big')]
    (tmp_path / 'late.png').write_bytes(data.replace(chunk, b'')[:-12] + chunk + data[-12:])
    assert np.array_equal(read_image(tmp_path / 'late.png'), np.rot90(np.asarray(image)))
    for damaged in (b'', b'Exif\0\0', b'Exif\0\0II*\0\x08\0\0\0\xff\xff', b'nonsense' * 9):
        path = save(tmp_path / 'damaged.jpg', image, exif=damaged)
        assert np.array_equal(read_image(path), np.asarray(Image.open(path)))


def test_a_damaged_png_with_exif_is_no_picture(tmp_path):
    data = save(tmp_path / 'a.png', Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 20), np.uint8)))
    spoilt = bytearray(data.read_bytes())
    spoilt[300:330] = bytes(30)
    (tmp_path / 'a.png').write_bytes(spoilt)
    with pytest.raises(UserError, match='a.png'):
        read_image(tmp_path / 'a.png')


def write_tiff(path, values, bits, white_is_zero=False):
    "By hand, little-endian and uncompressed: Pillow writes neither 12 bits nor inverted grey."
    import struct

    if bits == 12:
        flat = values.ravel().astype(int)
        a, b = flat[::2], flat[1::2]
        data = np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype(np.uint8).tobytes()
    else:
        data = values.astype('<u2').tobytes()
    height, width = values.shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero), 273: 8, 277: 1, 278: height}
    tags[279] = len(data)
    entries = b''.join(struct.pack('<HHII', k, 4, 1, v) for k, v in tags.items())
    place = 8 + len(data)
    path.write_bytes(struct.pack('<2sHI', b'II', 42, place) + data + struct.pack('<H', len(tags)) + entries + bytes(4))
    return path


def test_every_depth_of_grey_is_scaled(tmp_path):
    ramp = np.linspace(0, 1, 48).reshape(6, 8)
    wanted = (ramp * 255)[..., None]
    near = lambda path, grey: np.abs(read_image(path).astype(float) - grey).max() <= 0.51
    assert near(write_tiff(tmp_path / '16.tif', np.rint(ramp * 65535), 16), wanted)
    assert near(write_tiff(tmp_path / '12.tif', np.rint(ramp * 4095), 12), wanted)
    assert near(write_tiff(tmp_path / 'inverted.tif', np.rint(ramp * 65535), 16, True), 255 - wanted)
    header = b'P5 8 6 4095 '
    (tmp_path / '12.ppm').write_bytes(header + np.rint(ramp * 4095).astype('>u2').tobytes())
    assert near(tmp_path / '12.ppm', wanted)


def test_too_many_pixels_and_too_many_bytes(tmp_path):
    Image.new('1', (9000, 9000)).save(tmp_path / 'wide.png')
    assert (tmp_path / 'wide.png').stat().st_size < 100_000
    with pytest.raises(UserError, match='9000x9000, more than 34 million pixels'):
        read_image(tmp_path / 'wide.png', SIZE)
    with open(tmp_path / 'long.bmp', 'wb') as f:
        f.truncate(2**33)
    with pytest.raises(UserError, match='8.6 GB, too long'):
        read_image(tmp_path / 'long.bmp', SIZE)
    frame = np.zeros((4320, 7680), np.uint8)
    frame[:, 3840:] = 255
    Image.fromarray(frame).save(tmp_path / '8k.png')
    assert read_image(tmp_path / '8k.png', SIZE)[:, [0, -1], 0].tolist() == [[0, 255]] * SIZE[0]


MEMORY = '''
import resource, sys
from pathlib import Path
from synthreid.data import store
from synthreid.data.datasets import ReidSplit
store.usable_cores = lambda: 8
paths = sorted(Path(sys.argv[1]).iterdir())
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
store.load_images(ReidSplit(paths, [0] * 8, [0] * 8), (16, 8), progress=False)
print(peak() - before)
'''


def test_large_pictures_are_decoded_one_at_a_time(tmp_path):
    "Eight of 25 million pixels: 75 MB each as RGB, and at least twice that while they are converted."
    folder = tmp_path / 'large'
    folder.mkdir()
    Image.new('P', (5000, 5000)).save(folder / '0.png', transparency=b'\0')
    for i in range(1, 8):
        (folder / f'{i}.png').write_bytes((folder / '0.png').read_bytes())
    used = subprocess.run([sys.executable, '-c', MEMORY, folder], capture_output=True, text=True, timeout=600)
    assert used.returncode == 0, used.stderr
    assert int(used.stdout) < 450, 'MB'


def test_large_jpegs_are_decoded_coarsely_and_ordinary_ones_exactly(tmp_path):
    y, x = np.mgrid[:3000, :2000] / 3000
    photo = (np.stack([np.sin(9 * x), np.cos(7 * y), np.sin(5 * x * y)], 2) * 120 + 128).astype(np.uint8)
    for pixels in (photo[:1800, :900], photo[:128, :64], photo[:2000, :2000]):
        path = save(tmp_path / 'crop.jpg', Image.fromarray(pixels))
        assert np.array_equal(read_image(path, (256, 128)), np.asarray(Image.open(path).resize((128, 256), 2)))
    path = save(tmp_path / 'frame.jpg', Image.fromarray(photo))
    loads = []
    with patch.object(
        Image.Image, 'resize', lambda self, *a, r=Image.Image.resize: loads.append(self.size) or r(self, *a)
    ):
        coarse = read_image(path, (128, 64))
    assert loads == [(1000, 1500)], 'half of its size was decoded'
    exact = np.asarray(Image.open(path).resize((64, 128), 2))
    assert np.abs(coarse.astype(int) - exact).max() <= 2
    assert np.array_equal(read_image(path), np.asarray(Image.open(path))), 'at its own size every pixel'


def test_caches_of_another_way_of_reading_are_left_alone(tmp_path):
    split, cache = write_split(tmp_path / 'a'), tmp_path / 'cache'
    with patch.object(store, 'READING', 1), patch.object(store, 'decode_image', lambda *a: np.zeros((*SIZE, 3), 'u1')):
        assert not load(split, cache).images.any()
    now, n = counted(split, cache)
    assert n == 20 and (now.images == direct(split.paths)).all()
    first = store._find_digests(list(split.paths), cache, False)
    name = store._digest(json.dumps([store._BLOCK, first]).encode())  # as version 0.2 named them
    assert not list(cache.glob(f'*{name}*'))


def mean_colour():
    from synthreid.metrics.features import FeatureExtractor

    return FeatureExtractor(torch.nn.AdaptiveAvgPool2d(2), 'mean colour', size=(16, 16))


def test_features_of_folders_are_read_as_everything_else_is(tmp_path):
    "Formats, depth, orientation and refusals of `fid` are those of the store."
    from synthreid.metrics import features

    grey = np.random.default_rng(0).integers(0, 256, (8, 16, 8), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        '8': lambda g, f: Image.fromarray(g).save(f),
        '16': lambda g, f: Image.fromarray(g.astype(np.uint16) * 257).save(f),
        'turned': lambda g, f: Image.fromarray(np.ascontiguousarray(np.rot90(g))).save(f, exif=exif),
    }
    found = []
    for kind, write in kinds.items():
        (tmp_path / kind).mkdir()
        for i, g in enumerate(grey):
            write(g, tmp_path / kind / f'{i}.png')
        found.append(features.folder_features(tmp_path / kind, mean_colour(), tmp_path / 'cache', progress=False))
    assert all(np.array_equal(f.features, found[0].features) and not f.cached for f in found)
    with patch.object(features, 'READING', 1):
        again = features.folder_features(tmp_path / '8', mean_colour(), tmp_path / 'cache', progress=False)
    assert not again.cached, 'kept by another way of reading'
    pictures = {'script.jpg': b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n', 'text.jpg': b'404'}
    for name, content in pictures.items():
        (tmp_path / '8' / name).write_bytes(content)
        with pytest.raises(UserError, match=f'{name} .not a picture'):
            features.folder_features(tmp_path / '8', mean_colour(), tmp_path / 'cache', progress=False)
        (tmp_path / '8' / name).unlink()
    os.mkfifo(tmp_path / '8' / 'pipe.jpg')
    signal.alarm(60)  # it would wait for ever
    try:
        for cache in (tmp_path / 'cache', None):
            with pytest.raises(UserError, match='pipe.jpg .no regular file'):
                features.folder_features(tmp_path / '8', mean_colour(), cache, progress=False)
    finally:
        signal.alarm(0)


def test_what_is_no_picture_is_named(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    (tmp_path / 'folder.jpg').mkdir()
    (tmp_path / 'loop.jpg').symlink_to(tmp_path / 'loop.jpg')
    (tmp_path / 'nowhere.jpg').symlink_to(tmp_path / 'nothing')
    (tmp_path / 'script.jpg').write_bytes(
        b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'
    )  # an interpreter would run it
    Image.new('1', (20_000, 10_000)).save(tmp_path / 'bomb.png')
    (tmp_path / 'secret.jpg').write_bytes((tmp_path / 'bomb.png').read_bytes())
    (tmp_path / 'secret.jpg').chmod(0)
    paths = sorted(tmp_path.iterdir())
    for cache in (None, tmp_path / 'cache'):
        with pytest.raises(BrokenImages) as e:
            load(ReidSplit(paths, [0] * 7, [0] * 7), cache)
        why = {Path(p).name: reason for p, reason in e.value.files}
        assert set(why) == {p.name for p in paths}
        assert (
            why['pipe.jpg'] == 'no regular file'
            and why['folder.jpg'] == 'a folder'
            and why['script.jpg'].startswith('not a picture')
        )
        assert (
            'symbolic links' in why['loop.jpg']
            and 'No such file' in why['nowhere.jpg']
            and 'decompression bomb' in why['bomb.png']
        )
        if os.geteuid():
            assert why['secret.jpg'] == 'Permission denied'
        with pytest.raises(BrokenImages):
            load(ReidSplit(paths, [0] * 7, [0] * 7), cache, on_broken='skip')  # nothing would be left


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    kind=st.sampled_from(['JPEG', 'PNG', 'GIF', 'TIFF', 'BMP', 'WEBP', 'PPM']),
    cut=st.floats(0, 1),
    flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255)), max_size=6),
)
def test_damaged_bytes_give_a_picture_or_a_reason(tmp_path_factory, kind, cut, flips):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 12, 3), dtype=np.uint8)).save(buffer, kind)
    data = bytearray(buffer.getvalue()[: int(cut * len(buffer.getvalue()))])
    for place, mask in flips:
        if data:
            data[int(place * len(data))] ^= mask
    path = tmp_path_factory.getbasetemp() / 'damaged.jpg'
    path.write_bytes(data)
    found = store._try_image(path, SIZE)
    assert (
        (found and str(path) not in found and '0x' not in found)
        if isinstance(found, str)
        else (found.shape == (*SIZE, 3) and found.dtype == np.uint8)
    )


# ---- augmentations


@pytest.mark.parametrize('kind', GEOMETRY)
def test_augment_is_a_function_of_the_step_and_stays_in_range(kind):
    x = torch.rand(6, 3, 32, 16, generator=step_generator(1)) * 2 - 1
    a, b = (augment(x, step_generator(0, 5), kind, erasing=0.5, light=0.5) for _ in range(2))
    assert torch.equal(a, b) and a.shape == x.shape and a.abs().max() <= 1
    assert torch.equal(a, augment(x, step_generator(0, 6), kind, erasing=0.5, light=0.5)) == (kind == 'none')


def test_translation_is_torchreids():
    "At a known place: Pillow's enlargement, cropped."
    image = np.kron(np.random.default_rng(0).integers(0, 256, (8, 4, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
    large = np.asarray(Image.fromarray(image).resize((36, 72), Image.BILINEAR)).astype(float)
    moved = random_translation(to_signed(image[None]), step_generator(2), p=1)
    got = (moved[0].permute(1, 2, 0).numpy() + 1) * 127.5
    distance = min(np.abs(large[y : y + 64, x : x + 32] - got).max() for y in range(9) for x in range(5))
    assert distance <= 1


# ---- samplers


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=4, max_size=8),
    k=st.integers(1, 5),
    seed=st.integers(0, 99),
    step=st.integers(0, 1000),
    across=st.booleans(),
)
def test_identity_batches(sizes, k, seed, step, across):
    pids, rng = np.repeat(np.arange(len(sizes)) * 3, sizes), np.random.default_rng(seed)
    pids = rng.permutation(pids)
    camids = rng.integers(0, 4, len(pids))
    make = lambda: IdentityBatches(pids, 4, k, seed, camids if across else None)
    batch = make()(step)
    assert (batch == make()(step)).all(), 'a function of the step'
    assert len(batch) == 4 * k and len(set(pids[batch])) == 4
    assert len(set(pids[batch[: 2 * k]]) | set(pids[batch[2 * k :]])) == 4, 'halves have people of their own'
    for p in set(pids[batch]):
        chosen, own = batch[pids[batch] == p], np.flatnonzero(pids == p)
        assert len(chosen) == k and (
            len(set(chosen)) == min(k, len(own)) if across or len(own) >= k else set(chosen) <= set(own)
        )
        if across:
            assert len(set(camids[chosen])) == min(k, len(set(camids[own])))
            assert np.ptp(np.unique(chosen, return_counts=True)[1]) <= 1, 'repeated evenly'


def test_across_cameras_forgets_nobody():
    "Every picture is drawn sooner or later, and the rare camera as often as the frequent one."
    pids, camids = np.zeros(30, int), np.repeat([0, 1, 2], [20, 8, 2])
    drawn = np.bincount(
        np.concatenate([IdentityBatches(pids, 1, 2, 0, camids)(step) for step in range(600)]), minlength=30
    )
    assert drawn.min() > 0
    assert np.allclose(np.bincount(camids, drawn) / 1200, 1 / 3, atol=0.05)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    sizes=st.lists(st.integers(8, 40), min_size=1, max_size=4),
    share=st.integers(1, 4),
    seed=st.integers(0, 99),
    step=st.integers(0, 500),
)
def test_domain_batches(sizes, share, seed, step):
    domains = np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)) + 7, sizes))
    make = lambda: DomainBatches(domains, 2 * share * len(sizes), seed)
    batch = make()(step)
    assert (batch == make()(step)).all() and len(set(batch)) == len(batch)
    assert np.bincount(domains[batch])[7:].tolist() == [2 * share] * len(sizes)


def test_domain_streams_are_unrelated():
    domains = np.repeat([0, 1], 50)
    batch = DomainBatches(domains, 40)(0)
    assert (batch[:20] != batch[20:] - 50).any()
    epoch = np.concatenate([DomainBatches(domains, 20)(step) for step in range(5)])
    assert len(set(epoch)) == 100, 'an epoch shows everything once'
    assert len(set(np.concatenate([shuffled_batch(50, 10, step) for step in range(5)]))) == 50
