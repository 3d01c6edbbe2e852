"""The embedding as a file, run by the runtime that it is for, beside torch: ONNX, OpenVINO, torch.export."""

import importlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch

import synthreid
from synthreid import cli
from synthreid.core import to_signed
from synthreid.render.folder import render_images
from synthreid.training.checkpoint import save_checkpoint
from synthreid.training.deploy import export_model
from synthreid.training.direct import DirectConfig
from synthreid.training.joint import JointConfig
from synthreid.training.methods import make_method

SMALL = dict(dim=8, n_blocks=1, discriminator_dim=8, head='basic', head_layers=(1,), head_widths=(16,))
PEOPLE = render_images('camera', range(20, 27), [2] * 7, size=(32, 16)).images


@pytest.fixture(scope='module')
def ours(tmp_path_factory):
    method = make_method('joint', JointConfig(size='32x16', **SMALL), 5, 3)
    return method, save_checkpoint(method, tmp_path_factory.mktemp('run') / 'checkpoints', 4)


def onnx_session(path):
    pytest.importorskip('onnx', reason='onnx is not installed')
    return pytest.importorskip('onnxruntime', reason='onnxruntime is not installed').InferenceSession(path)


def run_onnx(path, name, array):
    return onnx_session(path).run(['embedding'], {name: array})[0]


def run_openvino(path, name, array):
    openvino = pytest.importorskip('openvino', reason='openvino is not installed')
    model = openvino.Core().compile_model(path, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})
    return model({name: array})['embedding']


def run_torch(path, name, array):
    return torch.export.load(path).module()(torch.from_numpy(array)).detach().numpy()


def run_torch_alone(path, array):
    "In a process that has never heard of this package."
    np.save(path.with_name('pictures.npy'), array)
    code = f"""import sys, numpy as np, torch
sys.modules['synthreid'] = None
net = torch.export.load('{path.name}').module()
np.save('found.npy', net(torch.from_numpy(np.load('pictures.npy'))).detach().numpy())"""
    subprocess.run([sys.executable, '-c', code], cwd=path.parent, check=True, timeout=300)
    return np.load(path.with_name('found.npy'))


RUNTIMES = {'.onnx': run_onnx, '.xml': run_openvino, '.pt2': run_torch}
PACKAGES = {'.onnx': ('onnx', 'onnxruntime'), '.xml': ('openvino',), '.pt2': ()}


def needs(suffix):
    for package in PACKAGES[suffix]:
        pytest.importorskip(package, reason=f'{package} is not installed')


@pytest.mark.parametrize('suffix', RUNTIMES)
def test_pixels_in_unit_vectors_out(ours, tmp_path, suffix, capsys):
    needs(suffix)
    method, checkpoint = ours
    file = tmp_path / f'people{suffix}'
    assert cli.main(['export', str(checkpoint), '--out', str(file), '--flip', '--pixels']) == 0
    said = capsys.readouterr().out
    assert 'pixels 32x16 uint8 to 16 numbers of length 1; largest difference' in said and 'order as in torch' in said
    assert 'one picture on this processor:' in said and sorted(p.stem for p in tmp_path.iterdir())[0] == 'people'
    wanted = synthreid.load(checkpoint).embed(list(PEOPLE))
    assert wanted.std(0).min() > 1e-4, 'people differ'
    for n in (7, 1):
        found = RUNTIMES[suffix](file, 'pixels', PEOPLE[:n])
        assert np.allclose(found, wanted[:n], atol=1e-5) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    data = b''.join(p.read_bytes() for p in tmp_path.iterdir())
    if suffix == '.pt2':  # its parts are not compressed, but let nobody rely on it
        with zipfile.ZipFile(file) as parts:
            data = b''.join(map(parts.read, parts.namelist()))
    for path in (str(tmp_path), str(checkpoint.parent), 'synthreid/', sys.prefix):
        assert path.encode() not in data, 'no path of this machine in the file'
    if suffix == '.pt2':
        assert np.allclose(run_torch_alone(file, PEOPLE), wanted, atol=1e-5)
    used = sum(p.numel() * 4 for n in ('generator', 'identity') for p in method.nets[n].parameters())
    assert len(data) < 1.2 * used + 2e5, 'neither discriminator nor projector in the file'


@pytest.mark.parametrize('suffix', RUNTIMES)
def test_images_in_embedding_out(tmp_path, suffix):
    needs(suffix)
    config = DirectConfig(size='32x16', backbone='resnet_small', last_stride=1, pooling='gem')
    method = make_method('direct', config, 5)
    told = export_model(method, tmp_path / f'net{suffix}')
    images = to_signed(PEOPLE)
    wanted = method.embed(images).numpy()
    found = RUNTIMES[suffix](tmp_path / f'net{suffix}', 'images', images.numpy())
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max() and told['dim'] == wanted.shape[1]
    assert told['same_order'] and 0 <= told['max_abs_diff'] <= 1e-4 * told['largest'] and told['ms'] > 0


def test_onnx_agrees_with_torch(ours, tmp_path):
    method, checkpoint = ours
    gem = make_method('joint', JointConfig(size='32x16', **SMALL, pooling='gem'), 5, 3)
    residual = DirectConfig(size='64x32', backbone='resnet18', last_stride=1, pooling='gem')
    for name, kwargs in dict(
        joint=dict(method=checkpoint),
        flip=dict(method=str(checkpoint), flip=True),
        object=dict(method=method),
        ours=dict(method=gem),
        direct=dict(method=make_method('direct', residual, 5)),
    ).items():
        needs('.onnx')
        report = export_model(**kwargs, file=tmp_path / f'{name}.onnx')
        assert 0 <= report['max_abs_diff'] <= 1e-4 * report['largest']
    session = onnx_session(tmp_path / 'flip.onnx')
    assert session.get_modelmeta().custom_metadata_map['image_size'] == '32x16'
    assert [d if isinstance(d, int) else '*' for d in session.get_inputs()[0].shape] == ['*', 3, 32, 16]
    x = torch.rand(7, 3, 32, 16) * 2 - 1
    want = (method.embed(x) + method.embed(x.flip(3))) / 2
    assert want.std(0).min() > 0.01
    found = session.run(['embedding'], {'images': x.numpy()})[0]
    assert np.allclose(found, want, atol=1e-4 * want.abs().max().item())


def test_what_is_in_the_way_is_one_line(ours, tmp_path, monkeypatch, capsys):
    (tmp_path / 'file').touch()
    (tmp_path / 'there.pt2').touch()
    (tmp_path / 'half.bin').touch()  # of OpenVINO's two files
    before = sorted(tmp_path.iterdir())

    def says(out, *words, run=ours[1]):
        assert cli.main(['export', str(run), '--out', str(tmp_path / out)]) == 2
        line = capsys.readouterr().err
        assert line.count('\n') == 1 and line.startswith('synthreid: expected ') and all(w in line for w in words), line
        assert sorted(tmp_path.iterdir()) == before, 'nothing is left behind'

    says('net.tflite', '.onnx, .xml (OpenVINO) or .pt2 (torch.export)', 'net.tflite')
    says('net', '.onnx, .xml (OpenVINO)')
    says('there.pt2', 'there already', 'another name')
    says('half.xml', 'half.bin', 'there already')
    says('file/net.pt2', str(tmp_path / 'file'))
    says('net.pt2', 'nowhere', run=tmp_path / 'nowhere')
    real = importlib.import_module

    def without(name, *a):
        if name in ('onnx', 'openvino'):
            raise ImportError(name)
        return real(name, *a)

    monkeypatch.setattr(importlib, 'import_module', without)
    says('net.onnx', "the package onnx, it is not installed here: pip install 'synthreid[onnx]'")
    says('net.xml', "the package openvino, it is not installed here: pip install 'synthreid[openvino]'")
