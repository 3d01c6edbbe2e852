"""The networks and losses of Synth-ReID against numbers its own code produced (tests/fixtures)."""

import numpy as np
import pytest
import torch
from reference import FIXTURES, fill, load

from synthreid.models.discriminator import PatchDiscriminator, feature_match_loss
from synthreid.models.generator import Generator
from synthreid.models.patchnce import patch_nce
from synthreid.models.reid import IdentityNet


def sample(x, k=256):
    x = x.detach().numpy().ravel()
    return x[:: max(1, x.size // k)]


def nets_of(info):
    made = dict(generator=Generator(), discriminator=PatchDiscriminator(), id_net=IdentityNet(17))
    return [fill(net, info['specs'][n], info['seed'] + i, info['scale'][n]) for i, (n, net) in enumerate(made.items())]


def test_parameter_counts():
    info, _ = load('synthreid_nets')
    for net, name in zip(nets_of(info), ('generator', 'discriminator', 'id_net')):
        assert sum(p.numel() for p in net.parameters()) == info['counts'][name]
        assert sum(p.numel() for p in net.parameters() if p.requires_grad) == info['counts'][name + '_trainable']


@pytest.mark.parametrize('dtype', ['float32', 'float64'])
def test_networks(dtype):
    info, z = load('synthreid_nets')
    suffix = '_f64' if dtype == 'float64' else ''
    generator, discriminator, id_net = (net.to(getattr(torch, dtype)) for net in nets_of(info))
    x = np.random.RandomState(info['seed'] + 100).uniform(-1, 1, info['in0']).astype(np.float32)
    x = torch.tensor(x, dtype=getattr(torch, dtype))

    def check(value, key, atol, k=256, relative=False):
        key = f'in0/{key}{suffix}'
        want = z[key] if key in z else z[key + '.sample']
        got = sample(value, k) if value.shape != want.shape else value.detach().numpy()
        assert got.shape == want.shape
        if key + '.shape' in z:
            assert list(z[key + '.shape']) == list(value.shape)
        scale = abs(want).max() if relative else 1
        assert abs(got - want).max() <= atol * scale, key

    exact = 1e-11
    with torch.no_grad():
        features, taps = generator.encode(x, (0, 2, 3, 4, 8, 12))
        for t, value in taps.items():
            check(value, f'G.enc{t}', exact if suffix else 5e-5)
        image = generator.decode(features)
        check(image, 'G.image', exact if suffix else 2e-5, 1024)
        assert torch.equal(generator(x), image)
        verdicts, taps = discriminator(x, (1, 2, 3, 4))
        for t, value in taps.items():
            check(value, f'D.tap{t}', exact if suffix else 1e-5)
        check(verdicts, 'D.out', exact if suffix else 1e-5)
        check(id_net.eval()(features), 'I.eval_embedding', exact if suffix else 1e-5, 512, relative=True)
        logits, pooled = id_net.train()(features)
        check(logits, 'I.train_logits', 1e-9 if suffix else 1e-2)
        check(pooled, 'I.train_global_feats', 1e-9 if suffix else 1e-2)  # float32: batch statistics of two images
    norms = [m for m in id_net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm, key in (
        (norms[0], 'layer2.0.bn1.running_mean'),
        (norms[-2], 'layer4.2.bn3.running_var'),
        (norms[-1], 'bnneck.running_mean'),
        (norms[-1], 'bnneck.running_var'),
    ):
        want = z[f'in0/I.after_train.{key}{suffix}']
        got = sample(getattr(norm, key.split('.')[-1]), 64)
        assert abs(got - want).max() <= (1e-9 if suffix else 1e-3) * max(1, abs(want).max()), key


@pytest.mark.parametrize('case', ['small_unit', 'small_raw'])
@pytest.mark.parametrize('mode', ['per_image', 'all_negatives'])
def test_patch_nce(case, mode):
    z = np.load(FIXTURES / 'patchnce.npz')
    q, k = (torch.tensor(z[f'{case}/feat_{n}']) for n in 'qk')
    q.requires_grad_()
    k.requires_grad_()
    loss = patch_nce(q, k, int(z[f'{case}/batch']), all_negatives=mode == 'all_negatives')
    loss.mean().backward()
    want = {key: z[f'{case}/{mode}/{key}'] for key in ('loss', 'mean', 'grad_q_norm', 'grad_q_first', 'grad_q_sample')}
    assert k.grad is None
    assert np.allclose(loss.detach(), want['loss'], rtol=2e-5, atol=2e-6)
    assert np.isclose(loss.mean().item(), want['mean'], rtol=2e-5)
    assert np.isclose(q.grad.norm().item(), want['grad_q_norm'], rtol=2e-5)
    assert np.allclose(q.grad.ravel()[:64], want['grad_q_first'], rtol=2e-5, atol=1e-6)
    assert np.allclose(sample(q.grad), want['grad_q_sample'], rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize('case', [0, 1])
@pytest.mark.parametrize('kind,key', [('feature', 'feat_match'), ('gram', 'gram_match')])
def test_feature_matching(case, kind, key):
    z = np.load(FIXTURES / 'simloss.npz')
    for dtype, rtol, suffix in ((torch.float32, 1e-5, ''), (torch.float64, 1e-12, '_f64')):
        a, b = (torch.tensor(z[f'{case}/{n}']).to(dtype).requires_grad_() for n in 'ab')
        loss = feature_match_loss([a], [b], kind)
        loss.backward()
        assert np.isclose(loss.item(), z[f'{case}/{key}{suffix}'], rtol=rtol, atol=0)
        assert np.isclose(a.grad.norm().item(), z[f'{case}/{key}_grad_a_norm'], rtol=1e-5)
        assert np.isclose(b.grad.norm().item(), z[f'{case}/{key}_grad_b_norm'], rtol=1e-5)
        assert np.allclose(sample(a.grad), z[f'{case}/{key}_grad_a_sample'], rtol=1e-4, atol=1e-7)
