"""A model in three lines: what is no picture is refused, and one picture is one row, however it is given."""

import numpy as np
import pytest
import torch
from PIL import Image

import synthreid
from synthreid.core import UserError
from synthreid.data.store import render_people
from synthreid.training.direct import DirectConfig
from synthreid.training.runs import Run


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    run = tmp_path_factory.mktemp('run') / 'direct'
    config = DirectConfig(size='32x16', steps=1, batch_size=4, images_per_id=2, backbone='resnet_small')
    source = render_people('game', 4, per_id=3, size=(32, 16))
    Run(run, 'direct', config, device='cpu').train(source, progress=False, tensorboard=False)
    return synthreid.load(run, 'cpu')


@pytest.fixture(scope='module')
def pictures():
    return render_people('camera', 3, per_id=1, size=(32, 16)).images


def test_one_picture_is_one_row(model, pictures, tmp_path):
    paths = [tmp_path / f'{i}.png' for i in range(3)]
    for path, image in zip(paths, pictures):
        Image.fromarray(image).save(path)
    x = torch.from_numpy(pictures).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        codes = model.method.embed(x) + model.method.embed(x.flip(3))
    want = torch.nn.functional.normalize(codes).numpy()
    given = [torch.from_numpy(pictures), np.array(paths), np.array(paths, dtype=str), (p for p in paths)]
    for some in given:
        assert np.allclose(model.embed(some), want, atol=1e-5), type(some)
    for one in (torch.from_numpy(pictures[0]), pictures[0], paths[0]):
        assert np.allclose(model.embed(one), want[:1], atol=1e-5), type(one)


@pytest.mark.parametrize(
    'given',
    [
        '',
        None,
        3,
        np.zeros((0, 16, 3), np.uint8),
        np.zeros((16, 0, 3), np.uint8),
        Image.new('F', (16, 32)),
        Image.new('La', (16, 32)),
        np.zeros((32, 16, 3)),
        [None],
    ],
    ids=['empty', 'None', 'number', 'no rows', 'no columns', 'F', 'La', 'float', 'None in a list'],
)
def test_what_is_no_picture_is_refused(given, model, pictures, tmp_path, monkeypatch):
    Image.fromarray(pictures[0]).save(tmp_path / 'mine.png')
    monkeypatch.chdir(tmp_path)  # '' is not this folder
    with pytest.raises(UserError, match='expected'):
        model.embed(given)


@pytest.mark.parametrize('camera', [1.5, '0', float('nan')])
def test_a_camera_is_a_whole_number(camera, model, pictures, monkeypatch):
    monkeypatch.setattr(model.method, 'translates', True)
    monkeypatch.setattr(model.method, 'n_cameras', 3)
    with pytest.raises(UserError, match='expected a camera from 0 to 2'):
        model.translate(pictures, camera=camera)
