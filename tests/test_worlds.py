"""Worlds: folders of the version before are still theirs, and what a command line gets wrong is said in one line."""

import json

import numpy as np
import pytest
from PIL import Image
from test_cli import call

from synthreid.core import UserError
from synthreid.render.camera import camera_domain
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
