"""The networks and losses of Synth-ReID against numbers its own code produced (tests/fixtures)."""
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from synthreid.models.discriminator import PatchDiscriminator, feature_match_loss, gan_loss
from synthreid.models.generator import Generator
from synthreid.models.patchnce import PatchProjector, patch_nce, sample_patches
from synthreid.models.reid import IdentityNet, identity_loss

FIXTURES = Path(__file__).parent / 'fixtures'
NCE_TAPS, DIS_TAPS = (0, 2, 3, 4, 8), (1, 2, 3, 4)


def load(name): return json.loads((FIXTURES / f'{name}.json').read_text()), np.load(FIXTURES / f'{name}.npz')

def fill(net, specs, seed, scale):
    "The fixtures' weights: drawn in the order of the parameters."
    rng, parameters = np.random.RandomState(seed), list(net.parameters())
    assert [list(p.shape) for p in parameters] == [shape for _, shape, _ in specs]
    for p, (_, shape, kind) in zip(parameters, specs):
        r = rng.standard_normal(shape).astype(np.float32)
        p.data.copy_(torch.tensor(1 + 0.05 * r if kind == 'norm_w' else r * scale))
    return net

def sample(x, k=256):
    x = x.detach().numpy().ravel()
    return x[::max(1, x.size // k)]

def nets_of(info, names=('generator', 'discriminator', 'id_net')):
    make = dict(generator=Generator, discriminator=PatchDiscriminator, id_net=lambda: IdentityNet(17),
                mlp=lambda: PatchProjector([3, 128, 256, 256, 256]))
    offsets = dict(generator=0, discriminator=1, id_net=2, mlp=3)
    return [fill(make[n](), info['specs'][n], info['seed'] + offsets[n], info['scale'][n]) for n in names]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
        if key + '.shape' in z: assert list(z[key + '.shape']) == list(value.shape)
        scale = abs(want).max() if relative else 1
        assert abs(got - want).max() <= atol * scale, key

    exact = 1e-11
    with torch.no_grad():
        features, taps = generator.encode(x, (0, 2, 3, 4, 8, 12))
        for t, value in taps.items(): check(value, f'G.enc{t}', exact if suffix else 5e-5)
        image = generator.decode(features)
        check(image, 'G.image', exact if suffix else 2e-5, 1024)
        assert torch.equal(generator(x), image)
        verdicts, taps = discriminator(x, DIS_TAPS)
        for t, value in taps.items(): check(value, f'D.tap{t}', exact if suffix else 1e-5)
        check(verdicts, 'D.out', exact if suffix else 1e-5)
        check(id_net.eval()(features), 'I.eval_embedding', exact if suffix else 1e-5, 512, relative=True)
        logits, pooled = id_net.train()(features)
        check(logits, 'I.train_logits', 1e-9 if suffix else 1e-2)
        check(pooled, 'I.train_global_feats', 1e-9 if suffix else 1e-2) # float32: batch statistics of two images
    norms = [m for m in id_net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm, key in ((norms[0], 'layer2.0.bn1.running_mean'), (norms[-2], 'layer4.2.bn3.running_var'), (norms[-1], 'bnneck.running_mean'), (norms[-1], 'bnneck.running_var')):
        want = z[f'in0/I.after_train.{key}{suffix}']
        got = sample(getattr(norm, key.split('.')[-1]), 64)
        assert abs(got - want).max() <= (1e-9 if suffix else 1e-3) * max(1, abs(want).max()), key


@pytest.mark.parametrize('case', ['small_unit', 'small_raw'])
@pytest.mark.parametrize('mode', ['per_image', 'all_negatives'])
def test_patch_nce(case, mode):
    z = np.load(FIXTURES / 'patchnce.npz')
    q, k = (torch.tensor(z[f'{case}/feat_{n}']) for n in 'qk')
    q.requires_grad_(); k.requires_grad_()
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


def step_inputs(info, step=0):
    r, (b, c, h, w) = np.random.RandomState(info['seed'] + 1000 + step), info['shape']
    images = []
    for _ in range(2):
        blocks = np.kron(r.uniform(-1, 1, (b, c, h // 8, w // 8)), np.ones((1, 1, 8, 8)))
        images.append(torch.tensor((0.75 * blocks + 0.25 * r.uniform(-1, 1, (b, c, h, w))).astype(np.float32)).double())
    return images


@pytest.mark.parametrize('variant', ['joint', 'disjoint', 'joint_idt'])
def test_first_step(variant):
    "All losses of the first step of the reference's engine, and the norms of their gradients, in float64."
    info, z = load(f'synthreid_step_{variant}')
    cfg, want, norms = info['loss_cfg'], info['loss_f64'][0], info['grad_norm_f64'][0]
    generator, discriminator, id_net, projector = (n.double() for n in nets_of(info, ('generator', 'discriminator', 'id_net', 'mlp')))
    source, target = step_inputs(info)
    pids = torch.tensor(info['labels'][0])

    def nce(query, key, call):
        ids = [z[f'patch_ids/call{call}/layer{t}'] for t in NCE_TAPS]
        q, k = (projector([sample_patches(x[t], ids=i)[0] for t, i in zip(NCE_TAPS, ids)]) for x in (query, key))
        return torch.stack([patch_nce(a, b, len(source)).mean() for a, b in zip(q, k)]).mean()
    def norm(net): return torch.sqrt(sum(p.grad.square().sum() for p in net.parameters() if p.grad is not None)).item()

    features, source_taps = generator.encode(source, NCE_TAPS)
    translated = generator.decode(features)
    verdicts, fake_taps = discriminator(translated, DIS_TAPS)
    losses = dict(r_gen_loss=cfg['weight_gen'] * gan_loss(verdicts, True),
                  gen_sim_loss=cfg['weight_sim'] * feature_match_loss(discriminator(target, DIS_TAPS)[1], fake_taps),
                  nce_loss=cfg['weight_nce'] * nce(generator.encode(translated, NCE_TAPS, only_taps=True)[1], source_taps, 0))
    if cfg['weight_idt']: # the reference multiplies the image, and the loss by nothing
        same = generator(target) * cfg['weight_idt']
        losses['idt_nce_loss'] = nce(generator.encode(same, NCE_TAPS, only_taps=True)[1], generator.encode(target, NCE_TAPS, only_taps=True)[1], 1)
    reid = cfg['weight_x'] * identity_loss(id_net(features if cfg['guide_gen'] else features.detach())[0], pids, info['label_smoothing'])
    (sum(losses.values()) + reid).backward()
    got = {'generator': norm(generator), 'mlp': norm(projector), 'id_net': norm(id_net)}

    discriminator.zero_grad()
    (real, _), (fake, fake_taps), (_, source_taps) = (discriminator(x, DIS_TAPS) for x in (target, translated.detach(), source))
    judged = dict(r_dis_real_loss=cfg['weight_dis'] * gan_loss(real, True), r_dis_fake_loss=cfg['weight_dis'] * gan_loss(fake, False),
                  dis_sim_loss=cfg['weight_sim'] * feature_match_loss(source_taps, fake_taps))
    sum(judged.values()).backward()
    got['discriminator'] = norm(discriminator)

    names = [k for k in want if k != 'acc']
    losses = losses | judged | {'reid_loss': reid}
    assert set(losses) == set(names)
    for name in names: assert np.isclose(losses[name].item(), want[name], rtol=1e-6), name
    for name, value in norms.items(): assert np.isclose(got[name], value, rtol=1e-6), name
