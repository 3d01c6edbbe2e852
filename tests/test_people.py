"Realistic people: what attributes do to pixels, known frequencies, and the classic ones byte for byte as they were."

import csv
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from synthreid import cli
from synthreid.core import UserError
from synthreid.data.datasets import load_dataset
from synthreid.render import camera
from synthreid.render.camera import draw_image, game_domain, picture_attributes
from synthreid.render.carried import walker_shapes
from synthreid.render.figure import Stance
from synthreid.render.folder import load_truth, render_folder, render_images
from synthreid.render.raster import trace
from synthreid.render.wardrobe import draw_walker, marginals

QUIET = dict(occlusion=0.0, crowd=0.0, jitter=0.0)

CLASSIC = {  # sha256 of images, masks and joints before there were realistic people
    ('game', '64x32'): '235a1db3ea0e8cd966447b431ce85312c4365ce8448d31ac8183d3e23cac7ee2',
    ('game', '128x64'): 'ae36443dc78fff5ed9523471f594950fff3b7b188bfcbec5330939078134d14e',
    ('camera', '64x32'): 'd80d931a1b9c51e5348d2759a71f86db968677ea7249161960b91537f1db977f',
    ('camera', '128x64'): 'e073cea70da3cd335191e4ad3cd7b776112f35d61f7ca62de6f3dbe93404ebaf',
}


@pytest.mark.parametrize('domain,size', CLASSIC)
def test_classic_people_are_byte_for_byte_the_same(domain, size):
    r = render_images(domain, np.arange(12) - 1, np.arange(12) * 3, size, seed=5)
    got = hashlib.sha256(r.images.tobytes() + r.masks.tobytes() + r.joints.tobytes()).hexdigest()
    assert got == CLASSIC[domain, size]


def test_a_picture_is_a_function_of_identity_and_seed():
    pids, index = np.repeat(np.arange(4), 2), np.tile(np.arange(2), 4)
    draw = lambda order, workers=0, **more: render_images(
        'camera', pids[order], index[order], '64x32', workers=workers, people='realistic', **more
    )
    straight, back = draw(np.arange(8)), draw(np.arange(8)[::-1], workers=2)
    assert np.array_equal(straight.images, back.images[::-1]) and np.array_equal(straight.masks, back.masks[::-1])
    assert (straight.images != draw(np.arange(8), seed=1).images).mean() > 0.5


@pytest.fixture(scope='module')
def people():
    return [draw_walker(np.random.default_rng([11, i])) for i in range(2000)]


def test_frequencies_are_those_of_the_tables(people):
    told = [p.attributes() for p in people]
    for name, table in marginals().items():
        group = [t for t in told if name != 'hair' or t['age'] != 'elderly']  # only the old are grey
        assert {t[name] for t in group} <= set(table), name
        for value, share in table.items():
            count, n = sum(t[name] == value for t in group), len(group)
            assert abs(count - n * share) <= 5 * np.sqrt(n * share * (1 - share)) + 1e-9, (name, value, count)


def test_attributes_go_together(people):
    mean = lambda age: np.mean([p.height for p in people if p.age == age])
    assert mean('child') < 1.4 < mean('elderly') < mean('adult')
    assert all(p.beard == 0 for p in people if p.sex == 'female' or p.age == 'child')
    assert all(p.hair not in ('grey', 'white') for p in people if p.age != 'elderly')
    light = {tone: np.mean([p.rgb['skin'] for p in people if p.skin == str(tone)]) for tone in range(10)}
    assert all(light[i] > light[i + 1] for i in range(9)), 'tone 0 is the lightest'


def seen(person, stance, yaw=0.6):
    "Depth and colour of every pixel of a figure at 128x64, before light."
    shapes, _ = walker_shapes(person, stance)
    hits = trace([(shapes, yaw, (0.0, 0.0))], 0.1, 65, (32, 122), (128, 64))
    out = np.zeros((128 * 64, 3))
    out[hits.pixel] = hits.materials[hits.material, :3]
    return out.reshape(128, 64, 3), np.isin(np.arange(128 * 64), hits.pixel).reshape(128, 64)


BASE = replace(draw_walker(np.random.default_rng(3)), height=1.7, headwear='none', outer='none', under='shirt')
BASE = replace(BASE, bottom='slim', hair_style='short', scarf='no', bag='none', age='adult', sex='female')
UPPER, LOWER, HEAD = slice(28, 62), slice(64, 122), slice(0, 34)


@pytest.mark.parametrize(
    'change,where',
    [
        (dict(hair_style='long'), slice(0, 60)),
        (dict(headwear='cap'), HEAD),
        (dict(headwear='headscarf'), slice(0, 44)),
        (dict(scarf='yes'), slice(18, 60)),
        (dict(outer='puffer'), slice(14, 78)),
        (dict(outer='coat'), slice(14, 104)),
        (dict(bottom='skirt'), slice(48, 122)),
        (dict(bottom='wide'), slice(48, 122)),
        (dict(shoes='boots'), slice(90, 128)),
    ],
    ids=lambda v: '-'.join(v.values()) if isinstance(v, dict) else '',
)
def test_an_attribute_changes_the_pixels_where_it_is_worn(change, where):
    base, base_mask = seen(replace(BASE, shoes='trainers'), Stance(stride=0.5))
    other, mask = seen(replace(BASE, **{'shoes': 'trainers', **change}), Stance(stride=0.5))
    differs = (np.abs(base - other).sum(2) > 1e-6) | (base_mask != mask)
    assert differs.sum() >= 25, 'it shows'
    assert differs[where].sum() >= 0.98 * differs.sum(), np.flatnonzero(differs.any(1))


@pytest.mark.parametrize('bag', ['backpack', 'shoulder', 'tote', 'hand', 'trolley'])
def test_a_bag_adds_to_the_silhouette_and_hides_nothing_else(bag):
    arms = dict(tote=('bag', 'hang'), hand=('bag', 'hang'), trolley=('hang', 'trolley')).get(bag, ('hang', 'hang'))
    person = replace(BASE, bag=bag)
    without, mask = seen(person, Stance(arms=arms, stride=0.3), yaw=2.2)
    with_bag, more = seen(person, Stance(arms=arms, stride=0.3, bag=bag), yaw=2.2)
    changed = (np.abs(without - with_bag).sum(2) > 1e-6) | (mask != more)
    assert more.sum() > mask.sum() and (more | ~mask).all(), 'the person is still there'
    assert 20 < changed.sum() and (changed & mask).sum() < 0.5 * mask.sum()


def test_the_mask_is_where_the_person_is_painted(monkeypatch):
    "Independent source: the same picture with a person of glowing colours differs inside the mask and nowhere else."
    domain = game_domain(people='realistic', **QUIET)
    cast = camera._CASTS['realistic']

    def glowing(person, pose):
        shapes, joints = cast.shapes(person, pose)
        shapes.materials = [(1.0, 0.0, 1.0, 1.0, 0.0, 1.0, *row[6:]) for row in shapes.materials]
        return shapes, joints

    for pid in range(6):
        image, mask, joints, _ = draw_image(domain, pid, 0, (128, 64))
        with monkeypatch.context() as m:
            m.setitem(camera._CASTS, 'realistic', cast._replace(shapes=glowing))
            other, same, _, _ = draw_image(domain, pid, 0, (128, 64))
        differs = np.abs(image.astype(int) - other).max(2) > 40
        assert np.array_equal(mask, same) and 0.1 < mask.mean() < 0.6
        assert (differs & mask).sum() > 0.97 * mask.sum(), pid
        edge = np.zeros_like(mask)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                edge |= np.roll(mask, (dy, dx), (0, 1))
        assert not (differs & ~edge).any(), pid
        inside = [(x, y) for x, y in joints if 1 <= x < 63 and 1 <= y < 127]
        assert np.mean([edge[int(y), int(x)] for x, y in inside]) > 0.8, 'joints lie in the person'


def test_clothes_stay_over_cameras_and_accessories_come_and_go(tmp_path):
    root = render_folder(
        tmp_path / 'set', 'camera', ids=8, per_id=6, size='32x16', workers=0, progress=False, people='realistic'
    )
    with open(root / 'attributes.csv', encoding='utf-8') as f:
        table = list(csv.DictReader(f))
    truth = load_truth(root)
    assert {row['path'] for row in table} <= set(truth)
    assert {path for path in truth if '/0000' not in path and '/-1' not in path} <= {row['path'] for row in table}
    changing = 'path pose left_arm right_arm carried with_thing wears_glasses hood_up'.split()
    by_pid = {}
    for row in table:
        if int(row['pid']) > 0:
            by_pid.setdefault(row['pid'], []).append(row)
    for rows in by_pid.values():
        assert len({tuple(v for k, v in row.items() if k not in changing) for row in rows}) == 1
        assert {row['carried'] for row in rows} <= {'none', rows[0]['bag']}
    assert any(len({row['pose'] for row in rows}) > 1 for rows in by_pid.values())
    assert picture_attributes(camera.camera_domain(people='realistic'), 0, 0)['skin'] == by_pid['1'][0]['skin']


def test_unknown_people_are_refused():
    with pytest.raises(UserError, match='people'):
        render_images('game', [0], [0], '64x32', people='real')


def test_people_are_larger_in_the_picture():
    tall = lambda people: np.mean(
        [
            np.ptp(np.flatnonzero(draw_image(game_domain(people=people, **QUIET), p, 0, (64, 32))[1].any(1)))
            for p in range(12)
        ]
    )
    assert tall('realistic') > tall('classic')


def test_the_command_renders_them_and_the_folder_reads_like_any_other(tmp_path, capsys):
    said = 'render --domain camera --ids 4 --per-id 3 --size 32x16 --workers 1 --people'.split()
    assert cli.main([*said, 'realistic', '--out', str(tmp_path / 'real')]) == 0
    assert cli.main([*said, 'classic', '--out', str(tmp_path / 'plain')]) == 0
    real, plain = (load_dataset('auto', tmp_path / name) for name in ('real', 'plain'))
    assert np.array_equal(real.train.pids, plain.train.pids) and len(real.query) == len(plain.query)
    assert (tmp_path / 'real' / 'attributes.csv').exists() and not (tmp_path / 'plain' / 'attributes.csv').exists()
    assert cli.main([*said, 'classic', '--out', str(tmp_path / 'real')]) == 2, 'other settings'
    assert cli.main([*said, 'painted', '--out', str(tmp_path / 'x')]) == 2 and not (tmp_path / 'x').exists()
