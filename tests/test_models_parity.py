"""Networks and losses against stored numbers (tests/fixtures): Synth-ReID's own code, and torchreid's backbones."""

import tempfile

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from reference import FIXTURES, backbone_input, by_formula, fill, load, stage_numbers
from safetensors.torch import save_file

from synthreid.core import UserError
from synthreid.metrics import translation
from synthreid.metrics.translation import EdgeHistograms
from synthreid.models import backbones, dgnet, discriminator, generator, patchnce, reid
from synthreid.models.backbones import backbone, load_weights
from synthreid.models.discriminator import PatchDiscriminator, feature_match_loss
from synthreid.models.generator import Generator
from synthreid.models.patchnce import PatchProjector, patch_nce
from synthreid.models.reid import CentreLoss, Embedder, IdentityNet, RegionalEmbedder, encoder_backbone, encoder_weights
from synthreid.training.dgnet import DGNetConfig, make_swap_nets
from synthreid.training.joint import JointConfig, make_nets, patch_contrast


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
        # float32: the statistics of two images multiply the rounding of a processor's convolutions by ten thousand
        rough = 1e-9 if suffix else 0.05
        check(logits, 'I.train_logits', rough, relative=not suffix)
        check(pooled, 'I.train_global_feats', rough, relative=not suffix)
    norms = [m for m in id_net.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for norm, key in (
        (norms[0], 'layer2.0.bn1.running_mean'),
        (norms[-2], 'layer4.2.bn3.running_var'),
        (norms[-1], 'bnneck.running_mean'),
        (norms[-1], 'bnneck.running_var'),
    ):
        want = z[f'in0/I.after_train.{key}{suffix}']
        got = sample(getattr(norm, key.split('.')[-1]), 64)
        assert abs(got - want).max() <= rough * max(1, abs(want).max()), key


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


def as_cut(query, key, groups):
    "CUT's own arrangement: the positive in front, the diagonal of the products at -10, everything over 0.07."
    q, k = (x.unflatten(0, (groups, -1)) for x in (query, key))
    positive = (query * key).sum(1, keepdim=True)
    products = (q @ k.mT).masked_fill(torch.eye(q.shape[1], dtype=torch.bool), -10.0).flatten(0, 1)
    logits = torch.cat([positive, products], 1) / 0.07
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.long), reduction='none')


@pytest.mark.parametrize('length', [1, 4])
@pytest.mark.parametrize('case', ['small_unit', 'small_raw'])
@pytest.mark.parametrize('mode', ['per_image', 'all_negatives'])
def test_patch_nce_has_the_digits_of_cut(case, mode, length):
    z = np.load(FIXTURES / 'patchnce.npz')
    q, k = (torch.tensor(z[f'{case}/feat_{n}']) * length for n in 'qk')
    batch = int(z[f'{case}/batch'])
    groups, exact = 1 if mode == 'all_negatives' else batch, (q.double(), k.double())
    want = as_cut(*exact, groups)
    assert torch.allclose(patch_nce(*exact, batch, all_negatives=groups == 1), want, rtol=1e-10, atol=1e-12)
    assert torch.allclose(patch_nce(*exact, batch, all_negatives=groups == 1, unit=True), want, rtol=1e-10, atol=1e-10)
    ours, theirs = patch_nce(q, k, batch, all_negatives=groups == 1), as_cut(q, k, groups)
    off = [((loss - want).abs() / want.clamp(min=1e-3)).max().item() for loss in (ours, theirs)]
    assert off[0] < 3 * off[1] + 1e-6, off


@pytest.mark.parametrize('layers', [None, (0, 2, 3, 4, 5), (1,), (5, 0, 3)])
def test_the_contrast_compares_the_layers_it_is_given(layers):
    "The loss of a step against one put together here from the encoder's layers."
    small = dict(dim=4, n_blocks=2, discriminator_dim=4, head='basic', head_layers=(1,), head_widths=(8,), steps=5)
    config = JointConfig(**small, size='32x16', n_patches=10**6, contrast_layers=layers)
    torch.manual_seed(0)
    nets = make_nets(config, 3)
    generator, projector = nets['generator'], nets['projector']
    chosen = layers or (0, 2, 3, 4, 5)  # the default of two blocks
    x, y = torch.rand(2, 2, 3, 32, 16) * 2 - 1
    taps = generator.encode(x, generator.nce_taps)[1]
    assert tuple(taps) == chosen
    everywhere = {t: torch.arange(taps[t][0, 0].numel()) for t in chosen}
    got = patch_contrast(nets, config, taps, y, ids=everywhere)
    flat = lambda v: v.flatten(2).movedim(1, 2).flatten(0, 1)
    each = []
    for head, t in zip(projector.heads, chosen, strict=True):
        q, k = (F.normalize(head(flat(generator.encode(v, (t,))[1][t])), dim=1) for v in (y, x))
        each.append(as_cut(q, k, 2).mean())
    assert np.isclose(got.item(), torch.stack(each).mean().item(), rtol=1e-5)


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


RESNET = ('bn1', 'layer1', 'layer2', 'layer3', 'layer4')
BACKBONES = {
    'ibn_resnet50_a': RESNET,
    'ibn_resnet50_b': RESNET,
    'osnet_x1_0': ('conv1', 'conv2', 'conv3', 'conv4', 'conv5'),
}


def differences(name, mode, change=lambda body: None):
    "Largest difference of every stage to torchreid's numbers, as a share of the stage's deviation."
    stored = np.load(FIXTURES / 'backbones.npz')
    body = by_formula(backbone(name).body.double()).train(mode == 'train')
    change(body)
    numbers = stage_numbers(body, BACKBONES[name], lambda: body.forward_features(backbone_input()))
    found = {}
    for stage in BACKBONES[name]:
        want = {key: stored[f'{name}/{mode}/{stage}/{key}'] for key in ('shape', 'mean', 'std', 'some')}
        assert numbers[f'{stage}/shape'].tolist() == want['shape'].tolist()
        found[stage] = max(abs(numbers[f'{stage}/{key}'] - want[key]).max() for key in ('mean', 'std', 'some'))
        found[stage] /= want['std']
    return found


@pytest.mark.parametrize('mode', ['eval', 'train'])
@pytest.mark.parametrize('name', BACKBONES)
def test_backbone_equals_torchreid(name, mode):
    assert max(differences(name, mode).values()) < 1e-9


def test_a_missing_normalisation_is_noticed():
    def without(body):
        body.layer1[-1].IN = torch.nn.Identity()

    found = differences('ibn_resnet50_b', 'eval', without)
    assert found['bn1'] < 1e-9 and found['layer1'] > 0.1


def test_small_resnet_equals_torchvision():
    "Ours as wide as ResNet-18; torchvision's with one block per stage, our stem, and no stride in its last stage."
    ours = by_formula(backbone('resnet_small', width=64).body.double()).eval()
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1])
    theirs.conv1, theirs.maxpool = torch.nn.Conv2d(3, 64, 3, 2, 1, bias=False), torch.nn.Identity()
    for conv in (theirs.layer4[0].conv1, theirs.layer4[0].downsample[0]):
        conv.stride = (1, 1)
    theirs = by_formula(theirs.double()).eval()
    x = backbone_input()
    want = stage_numbers(theirs, RESNET, lambda: theirs(x))
    got = stage_numbers(ours, RESNET, lambda: ours.forward_features(x))
    assert got['layer4/shape'].tolist() == [2, 512, 8, 4]
    assert all(np.allclose(got[key], want[key], rtol=1e-9, atol=1e-9) for key in want)


def every_net() -> list:
    "Nets in which every class of the package occurs."
    nets = [backbone(name) for name in ('resnet_small', 'ibn_resnet50_a', 'ibn_resnet50_b', 'osnet_x1_0')]
    nets += [backbone('mobilenet_v2', instance_norm='input'), backbone('tf_efficientnet_lite0', instance_norm='half')]
    nets += [Generator(8, 1, kind, n_cameras=2) for kind in ('transposed', 'resize', 'field')]
    small = dict(layers=(1, 1), block='basic', widths=(8, 8))
    nets += [PatchDiscriminator(8), PatchProjector([8]), IdentityNet(3, 8, **small), encoder_backbone(dim=8, **small)]
    nets += [Embedder(nets[0], 3, 'gem'), RegionalEmbedder(backbone('resnet_small'), 4), CentreLoss(3, 4)]
    swap = DGNetConfig(backbone='resnet_small', width=8, structure_dim=8, n_blocks=1, discriminator_dim=8, hidden=8)
    return [*nets, *make_swap_nets(swap, 3).values(), EdgeHistograms()]


def test_no_class_attribute_hides_a_module():
    "`nn.Module` looks at its own registers last: an attribute of the class of the same name would be found before."
    seen = set()
    for net in every_net():
        for name, m in net.named_modules():
            seen.add(type(m))
            registered = {*m._modules, *m._parameters, *m._buffers}
            hidden = [n for n in registered if n in dir(type(m))]
            assert not hidden, f'{type(net).__name__}.{name}: {hidden}'
    floors = (backbones, dgnet, discriminator, generator, patchnce, reid, translation)
    classes = {c for module in floors for c in vars(module).values() if isinstance(c, type)}
    ours = {c for c in classes if issubclass(c, torch.nn.Module) and c.__module__.startswith('synthreid')}
    assert ours - seen <= {generator.TappedEncoder}, 'a class that no net here has'


def test_encoder_backbone_computes_what_the_reference_does():
    "Encoder and identity net as one backbone: the embedding of Synth-ReID's own code, stored."
    info, z = load('synthreid_nets')
    made, _, id_net = nets_of(info)
    state = {f'generator.{k}': v for k, v in made.state_dict().items()}
    state |= {f'identity.{k}': v for k, v in id_net.state_dict().items()}
    net = encoder_backbone()
    net.load_state_dict(encoder_weights(state))
    x = torch.tensor(np.random.RandomState(info['seed'] + 100).uniform(-1, 1, info['in0']).astype(np.float32)).double()
    with torch.no_grad():
        code = id_net.double().eval().neck(net.double().eval()(x))
    want, got = z['in0/I.eval_embedding_f64'], sample(code, 512)
    assert got.shape == want.shape and abs(got - want).max() <= 1e-11 * abs(want).max()


def test_regional_embedder_equals_its_parts_of_torchvision():
    "FlipReID's two branches, written out with torchvision's ResNet-18: names and counts alone would not show a slip."
    net = by_formula(RegionalEmbedder(backbone('resnet18'), 5).double()).eval()
    for head, power in zip(net.heads, (1.0, 1.5, 3.0)):
        head.pool.p.data.fill_(power)
    trunk, whole, regional = (torchvision.models.resnet18(weights=None).double().eval() for _ in range(3))
    trunk.layer4, trunk.avgpool, trunk.fc = (torch.nn.Identity() for _ in range(3))
    trunk.load_state_dict(net.backbone.body.state_dict())
    whole.layer4.load_state_dict(net.whole.state_dict())
    regional.layer4.load_state_dict(net.regional.state_dict())
    assert not torch.equal(whole.layer4[0].conv1.weight, regional.layer4[0].conv1.weight)

    def pooled(maps, power):
        return maps.clamp(min=1e-6).pow(power).mean((2, 3)).pow(1 / power).clamp(0, 1)

    x = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2 - 1
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        maps = ((x + 1) / 2 - mean) / std
        for part in ('conv1', 'bn1', 'relu', 'maxpool', 'layer1', 'layer2', 'layer3'):
            maps = getattr(trunk, part)(maps)
        parts, high = [pooled(whole.layer4(maps), 1.0)], regional.layer4(maps)
        for conv, power, rows in zip(net.convolutions, (1.5, 3.0), (slice(0, 1), slice(1, 3))):
            parts.append(pooled(F.relu(F.conv2d(high[:, :, rows], conv.weight, conv.bias, padding=1)), power))
        got, want = net(x), torch.cat(parts, 1)
    assert got.shape == (2, 1024) and want.std() > 1e-3 and (got - want).abs().max() < 1e-9


PREFIXES = ['', 'module.', 'backbone.', 'base.', 'model.', 'module.base.', 'model.backbone.', 'module.model.backbone.']


@pytest.mark.parametrize('name', ['resnet_small', 'osnet_x1_0', 'ibn_resnet50_b', 'resnet18'])
@pytest.mark.parametrize('prefix', PREFIXES)
def test_weights_of_other_trainers(tmp_path, name, prefix):
    "Their wrapping comes off, their heads are left, and the report says both; the maps are those of the body itself."
    if name != 'resnet_small' and prefix not in ('', 'base.', 'model.backbone.'):
        pytest.skip('one small network for every prefix')
    theirs, ours = by_formula(backbone(name).body), backbone(name)
    state = {prefix + k: v for k, v in theirs.state_dict().items()}
    around = prefix[: prefix.rstrip('.').rfind('.') + 1]  # heads lie beside the innermost wrapping
    inner = prefix.removeprefix('module.')  # the rest is DataParallel's
    heads = {around + k: torch.zeros(4, 4) for k in ('classifier.weight', *(['heads.bnneck.weight'] if inner else []))}
    torch.save({'state_dict': state | heads, 'epoch': 3}, tmp_path / 'theirs.pth')
    report = load_weights(ours, tmp_path / 'theirs.pth')
    assert report.complete and report.prefix == prefix and len(report.left_out) == len(heads)
    assert (f"{prefix!r} taken off" in str(report)) == bool(prefix)
    x = backbone_input().float()
    with torch.no_grad():
        assert torch.equal(ours.body.eval().forward_features(x), theirs.eval().forward_features(x))


def test_a_whole_backbone_of_ours_in_anybodys_wrapping(tmp_path):
    theirs, ours = backbone('resnet_small'), backbone('resnet_small')
    for prefix in ('', 'backbone.', 'model.backbone.'):
        torch.save({prefix + k: v for k, v in theirs.state_dict().items()}, tmp_path / 'net.pth')
        assert load_weights(ours, tmp_path / 'net.pth').complete
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters()))
        torch.nn.init.zeros_(ours.body.conv1.weight)


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
@pytest.mark.parametrize('file', ['net.pth', 'net.safetensors'])
def test_spoilt_weights_are_refused(tmp_path, value, file):
    net = backbone('resnet_small')
    state = {k: v.clone() for k, v in net.body.state_dict().items()}
    state['layer2.0.bn1.running_var'][3] = value
    save_file(state, tmp_path / file) if 'safe' in file else torch.save(state, tmp_path / file)
    before = [p.clone() for p in net.parameters()]
    with pytest.raises(UserError, match='NaN or infinity in 1 of .* layer2.0.bn1.running_var'):
        load_weights(net, tmp_path / file, strict=False)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters()))


def test_what_begins_like_a_wrapping_may_be_a_name():
    "A network whose own modules are called `base` and `model` keeps its names."
    net = torch.nn.ModuleDict({'base': torch.nn.Linear(2, 2), 'model': torch.nn.Linear(2, 2)})
    with tempfile.TemporaryDirectory() as d:
        torch.save(net.state_dict(), f'{d}/net.pth')
        report = load_weights(net, f'{d}/net.pth')
    assert report.complete and report.prefix == '' and len(report.loaded) == 4
