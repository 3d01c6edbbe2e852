"""Worlds: folders of the version before are still theirs, and what a command line gets wrong is said in one line."""

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import call

from synthreid.core import UserError
from synthreid.render.camera import camera_domain
from synthreid.render.fit import SEARCHED
from synthreid.render.folder import render_folder
from synthreid.render.world import World, read_world

SMALL = '--ids 4 --per-id 3 --size 32x16 --workers 1'.split()

# render.json as the version before worlds wrote it
BEFORE = """{"renderer": 1, "domain": {"name": "game", "n_cameras": 6, "fixed": false, "camera_seed": null,
"places": 36,
"muted": 0.0, "light": 0.0, "exposure": 0.0, "dark": 0.0, "colour": 0.0, "haze": 0.0, "tone": 0.0, "blur": 0.0,
"resolution": 0.0, "noise": 0.0, "jpeg": 0.0, "occlusion": 0.4, "crowd": 0.7, "jitter": 0.7}, "ids": 4, "per_id": 3,
"size": [32, 16], "seed": 0, "test_fraction": 0.5}"""


def test_a_folder_of_the_version_before_is_found_finished(tmp_path):
    old = tmp_path / 'old'
    old.mkdir()
    (old / 'render.json').write_text(BEFORE)
    options = dict(ids=4, per_id=3, size='32x16', workers=0, progress=False)
    assert render_folder(old, 'game', **options) == old and sorted(p.name for p in old.iterdir()) == ['render.json']
    new = render_folder(tmp_path / 'new', 'game', **options)
    assert json.loads((new / 'render.json').read_text()) == json.loads(BEFORE)
    with pytest.raises(UserError, match='other settings'):
        render_folder(old, 'game', worlds=(World(zoom=1.2),), **options)


def test_a_world_from_the_command_line(tmp_path):
    (tmp_path / 'world.yaml').write_text('zoom: 1.5\nbrightness: 0.3\n')
    start = 'render', '--out', tmp_path / 'out', *SMALL
    code, said, err = call(*start, '--world', tmp_path / 'world.yaml')
    assert code == 0 and read_world(tmp_path / 'out' / 'world.yaml') == (World(zoom=1.5, brightness=0.3),), err
    call('render', '--out', tmp_path / 'usual', *SMALL)
    light = [
        np.mean([np.asarray(Image.open(p)).mean() for p in (tmp_path / k / 'bounding_box_train').iterdir()])
        for k in ('out', 'usual')
    ]
    assert light[0] < light[1]


@pytest.mark.parametrize(
    'text, part',
    [
        ('zoom: 9', 'zoom from 0.6 to 1.8'),
        ('zoon: 1', 'did you mean zoom'),
        ('[', 'a YAML file'),
        ('- 1', 'one number'),
    ],
)
def test_a_wrong_world_is_told_in_one_line(tmp_path, text, part):
    (tmp_path / 'world.yaml').write_text(text)
    code, said, err = call('render', '--out', tmp_path / 'out', *SMALL, '--world', tmp_path / 'world.yaml')
    assert code == 2 and part in err and err.count('\n') == 1 and not (tmp_path / 'out').exists(), err


def test_like_is_refused_where_it_makes_no_sense(tmp_path):
    for more, part in ((['--domain', 'camera'], '--like alone'), (['--world', 'w.yaml'], '--like alone')):
        code, said, err = call('render', '--out', tmp_path / 'out', *SMALL, '--like', tmp_path, *more)
        assert code == 2 and part in err
    code, said, err = call('render', *SMALL)
    assert code == 2 and '--out' in err


def test_one_camera_may_see_another_world_than_the_next():
    from synthreid.render.camera import draw_image

    domain = camera_domain(2, worlds=(World(), World(zoom=1.6)))
    size = [np.mean([draw_image(domain, p, 0, (64, 32), camid=c)[1].mean() for p in range(12)]) for c in (0, 1)]
    assert size[1] > 1.5 * size[0]


@pytest.mark.parametrize('text', ['', '{"renderer": 1', '[]', 'null', '\0'])
def test_damaged_settings_of_a_folder_are_told_in_one_line(tmp_path, text):
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'render.json').write_text(text)
    code, said, err = call('render', '--out', tmp_path / 'out', *SMALL)
    assert code == 2 and 'a damaged render.json' in err and err.count('\n') == 1, err
    assert (tmp_path / 'out' / 'render.json').read_text() == text


@pytest.fixture
def crops(tmp_path):
    "Twenty unlabelled pictures, one of which is broken."
    rng = np.random.default_rng(0)
    (tmp_path / 'crops').mkdir()
    for i in range(20):
        Image.fromarray(rng.integers(0, 256, (40, 20, 3), np.uint8)).save(tmp_path / 'crops' / f'{i}.png')
    (tmp_path / 'crops' / '7.png').write_bytes(b'cut off')
    return tmp_path / 'crops'


def test_minutes_and_broken_pictures_of_like(tmp_path, crops, monkeypatch):
    "The remedy that is named can be followed, and minutes are a number like any other."
    asked = []

    def search(images, camids, minutes, **how):
        asked.append((len(images), minutes))
        raise KeyboardInterrupt

    monkeypatch.setattr('synthreid.like.fit_world', search)
    start = ['render', '--out', tmp_path / 'out', *SMALL, '--like', crops, '--layout', 'unlabelled']
    code, said, err = call(*start)
    assert code == 2 and '--on-broken skip' in err and not asked
    code, said, err = call(*start, '--minutes', '0.5', '--on-broken', 'skip')
    assert code == 130 and asked == [(19, 0.5)], err
    monkeypatch.undo()
    for minutes in ('0', '-3'):
        code, said, err = call(*start, '--minutes', minutes, '--on-broken', 'skip')
        assert code == 2 and 'minutes above 0' in err, err


def test_a_fit_to_another_target_is_not_taken_for_this_one(tmp_path, crops, monkeypatch):
    from synthreid.render.fit import WorldFit

    (crops / '7.png').unlink()
    found = WorldFit((World(zoom=1.4),), {k: float('nan') for k in SEARCHED}, 1.0, 0.5, 8, 1.0)
    monkeypatch.setattr('synthreid.like.fit_world', lambda *a, **k: found)
    start = ['render', *SMALL, '--layout', 'unlabelled', '--like']
    assert call(*start, crops, '--out', tmp_path / 'out')[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*') if p.is_file()}
    Image.new('RGB', (20, 40)).save(crops / '20.png')
    for more in ([], ['--per-camera']):
        code, said, err = call(*start, crops, '--out', tmp_path / 'out', *more)
        assert code == 2 and 'others than in' in err and 'target.json' in err, err
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / 'out').rglob('*') if p.is_file()}
    (crops / '20.png').unlink()
    assert call(*start, crops, '--out', tmp_path / 'out')[0] == 0, 'the same again'
    (tmp_path / 'out.fit' / 'fit.json').write_text('{"worlds"')
    assert call(*start, crops, '--out', tmp_path / 'out')[0] == 0, 'searched again: it was damaged'
    monkeypatch.chdir(tmp_path / 'out')
    code, said, err = call(*start, crops, '--out', '.')
    assert code == 0 and not (tmp_path / 'out' / '.fit').exists(), err
