"""DG-Net against numbers that its released code produced: networks, losses, and one iteration of training at the start
and behind the ramp. Then what its notebook has no room for: schedules, edges of batches, soft labels by hand."""

import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from reference import fill, load

from synthreid.cli import main
from synthreid.core import to_signed
from synthreid.data.datasets import ReidSplit
from synthreid.data.store import render_people
from synthreid.models.dgnet import (
    AppearanceEncoder,
    MultiScaleDiscriminator,
    SwapGenerator,
    adversarial_loss,
    judging,
    multi_scale_losses,
)
from synthreid.render.folder import render_folder
from synthreid.training.contract import check_method
from synthreid.training.dgnet import (
    DGNet,
    DGNetBatches,
    DGNetConfig,
    generated_losses,
    make_swap_nets,
    set_swap_rates,
    soft_labels,
    weights_at,
)
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.flip import FlipConfig, FlipReID

INFO, ARRAYS = load('dgnet')
DTYPES = {'float32': (torch.float32, '', 1e-4), 'float64': (torch.float64, '_f64', 1e-9)}


def sample(x, k):
    x = x.detach().double().numpy().ravel()
    return x[:: max(1, x.size // k)][:k] if x.size > k else x


def fill_appearance(net, seed, scale):
    "The weight formula; the released net has an unused ImageNet classifier whose draws are skipped."
    rng, specs = np.random.RandomState(seed), INFO['specs']['id']
    parameters = iter(net.parameters())
    for name, shape, kind in specs:
        r = rng.standard_normal(shape).astype(np.float32)
        if name.startswith('model.fc.'):
            continue
        p = next(parameters)
        assert list(p.shape) == shape, name
        p.data.copy_(torch.tensor(1 + 0.05 * r if kind == 'norm_w' else r * scale))
    assert next(parameters, None) is None
    return net


def fill_all(nets, dtype):
    seed, scale, specs = INFO['seed'], INFO['scale'], INFO['specs']
    fill(nets['generator'], specs['gen'], seed, scale['gen'])
    fill_appearance(nets['appearance'], seed + 1, scale['id'])
    fill(nets['discriminator'], specs['dis'], seed + 2, scale['dis'])
    for net in nets.values():
        net.to(dtype)
    return nets


def make_nets(dtype):
    return fill_all(
        dict(
            generator=SwapGenerator(),
            appearance=AppearanceEncoder(INFO['ID_class']),
            discriminator=MultiScaleDiscriminator(),
        ),
        dtype,
    )


def signed(x, net):
    "The fixtures' images are normalised with ImageNet's statistics; ours are in [-1, 1]."
    return (x * net.normalise.std + net.normalise.mean) * 2 - 1


def inputs(dtype, net):
    shape = (INFO['batch'], 3, *INFO['image_hw'])
    return [
        signed(
            torch.from_numpy(np.random.RandomState(INFO['seed'] + k).standard_normal(shape).astype(np.float32)).to(
                dtype
            ),
            net,
        )
        for k in range(100, 104)
    ]


def test_parameter_counts():
    nets, counts = make_nets(torch.float32), INFO['counts']
    n = lambda net: sum(p.numel() for p in net.parameters())
    assert (
        n(nets['generator']) == counts['gen']
        and n(nets['discriminator']) == counts['dis']
        and n(nets['appearance']) == counts['id'] - counts['imagenet_fc_unused']
    )
    assert (
        n(nets['generator'].structure) == counts['structure_encoder']
        and n(nets['generator'].decoder) == counts['decoder_conv']
    )
    assert (
        n(nets['appearance'].backbone) == counts['appearance_backbone_without_imagenet_fc']
        and n(nets['appearance'].primary) == counts['classifier1']
    )


def test_optimisers():
    method, seen = DGNet(DGNetConfig(), INFO['ID_class']), INFO['observed']
    assert not [n for n, p in method.nets['generator'].named_parameters() if not p.requires_grad]
    for step, factor in ((0, 1), (59_999, 1), (60_000, 0.1), (90_000, 0.01), (99_999, 0.01)):
        set_swap_rates(method.config, method.opts, step)
        for name in ('generator', 'discriminator'):
            group = method.opts[name].param_groups[0]
            assert (group['lr'], list(group['betas']), group['weight_decay']) == (
                pytest.approx(seen['dis_opt']['lr'] * factor),
                seen['dis_opt']['betas'],
                seen['dis_opt']['wd'],
            )
        backbone, heads = method.opts['appearance'].param_groups
        assert [backbone['lr'], heads['lr']] == pytest.approx([g['lr'] * factor for g in seen['id_groups'][:2]])
        assert all((g['momentum'], g['nesterov'], g['weight_decay']) == (0.9, True, 5e-4) for g in (backbone, heads))
    assert len(backbone['params']) == seen['id_groups'][0]['n'] - len(seen['id_params_without_grad']) and len(
        heads['params']
    ) == sum(g['n'] for g in seen['id_groups'][1:])


@pytest.mark.parametrize('name', ['float32', 'float64'])
def test_networks_and_losses(name):
    dtype, suffix, tolerance = DTYPES[name]
    nets = make_nets(dtype)
    G, E, D = nets['generator'], nets['appearance'].eval(), nets['discriminator']
    normalise = G.structure.normalise
    a, b, *_ = inputs(dtype, G.structure)

    def check(key, value):
        want = ARRAYS[f'eval/{key}{suffix}.sample']
        got = sample(value, len(want))
        assert got.shape == want.shape and list(ARRAYS[f'eval/{key}{suffix}.shape']) == list(value.shape), key
        assert abs(got - want).max() <= tolerance * abs(want).max(), key

    with torch.no_grad():
        check('gray_a', G.structure.gray(a))
        s_a, s_b = G.encode(a), G.encode(b)
        (f_a, p_a), (f_b, _) = E(a), E(b)
        check('s_a', s_a)
        check('f_a', f_a)
        check('p_a0', p_a[0])
        check('p_a1', p_a[1])
        for i, embedding in enumerate(E.embed(a)):
            check(f'embed{i}_512', embedding)
        check('recon_a', normalise(G.decode(s_a, f_a)))
        check('cross_ab', normalise(G.decode(s_a, f_b)))
        check('cross_ba', normalise(G.decode(s_b, f_a)))
        check('recon_a_scaledcode', normalise(G.decode(s_a, f_a / f_a.std())))
        fake = G.decode(s_a, f_b / f_b.std())
        check('cross_ab_scaledcode', normalise(fake))
        for i, verdicts in enumerate(D(a)):
            check(f'D_out{i}', verdicts)
    losses = multi_scale_losses(D, a, fake)
    sum(losses.values()).backward()
    number = lambda key: float(ARRAYS[key + suffix])
    assert sum(losses.values()).item() == pytest.approx(number('loss/dis_total'), rel=tolerance)
    assert losses['d_penalty'].item() == pytest.approx(number('loss/dis_reg'), rel=tolerance)
    assert torch.sqrt(sum(p.grad.double().square().sum() for p in D.parameters())).item() == pytest.approx(
        number('loss/dis_grad_norm'), rel=tolerance
    )
    leaf = normalise(fake).requires_grad_()
    adversarial = adversarial_loss(D, signed(leaf, D))
    adversarial.backward()
    assert adversarial.item() == pytest.approx(number('loss/gen_adv'), rel=tolerance)
    assert leaf.grad.norm().item() == pytest.approx(number('loss/gen_adv_grad_image_norm'), rel=tolerance)
    want = ARRAYS[f'loss/gen_adv_grad_image_sample{suffix}']
    assert abs(sample(leaf.grad, len(want)) - want).max() <= tolerance * abs(want).max()


TERMS = {
    'self': 'loss_gen_recon_x',
    'same': 'loss_gen_recon_xp',
    'gan': 'loss_gen_adv',
    'code': 'loss_gen_recon_f',
    'structure': 'loss_gen_recon_s',
    'cycle': 'loss_gen_cycrecon_x',
}  # sums of _a and _b
SINGLE = {'id': 'loss_id', 'positive': 'loss_pid', 'generated': 'loss_gen_recon_id'}


@pytest.mark.slow  # full size in float64, as the reference computed it: minutes, and 8 GB
def test_gradients_of_a_step_at_the_start_and_behind_the_ramps():
    config = DGNetConfig(
        steps=100_000,
        batch_size=INFO['batch'],
        online=False,
        erasing=0,
        pad=0,
        dropout=(0, 0),
        lr=0,
        lr_appearance=0,
        encoder_again=1,
    )
    method = DGNet(config, INFO['ID_class'])
    fill_all(method.nets, torch.float64)
    images = inputs(torch.float64, method.nets['generator'].structure)
    batch = dict(
        zip(('a', 'b', 'a_positive', 'b_positive'), images),
        a_pids=torch.tensor(INFO['labels'][0]),
        b_pids=torch.tensor(INFO['labels'][1]),
    )
    norm = lambda net: torch.sqrt(sum(p.grad.square().sum() for p in net.parameters() if p.grad is not None)).item()
    nets = {
        'grad_norm_gen': method.nets['generator'],
        'grad_norm_enc_content': method.nets['generator'].structure,
        'grad_norm_id': method.nets['appearance'],
    }
    found = {}
    number = lambda case, key: float(ARRAYS[f'{case}/{key}_f64'])
    for case, step in (('train_start', 0), ('train_ramped', 50_000)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr('synthreid.training.dgnet.random_flip', lambda x, g: x)
            weights, losses = weights_at(config, step), method.step(batch, step)
        for ours, theirs in TERMS.items():
            if ours in weights:
                assert losses[ours].item() / weights[ours] == pytest.approx(
                    number(case, theirs + '_a') + number(case, theirs + '_b'), rel=1e-6
                ), ours
            else:
                assert number(case, theirs + '_a') == 0
        for ours, theirs in SINGLE.items():
            assert losses[ours].item() / weights[ours] == pytest.approx(number(case, theirs), rel=1e-6), ours
        judged = sum(v.item() for k, v in losses.items() if k.startswith('d_'))
        assert judged == pytest.approx(number(case, 'loss_dis_total'), rel=1e-8)
        assert sum(v.item() for v in losses.values()) - judged == pytest.approx(
            number(case, 'loss_gen_total'), rel=1e-6
        )
        found[case] = {k: norm(net) for k, net in nets.items()}
        for k, v in found[case].items():
            assert v == pytest.approx(number(case, k), rel=3e-8), k
    # what structure, cycle and (without any gradient) code add is small beside the rest, so the difference is compared
    for k in nets:
        added = found['train_ramped'][k] - found['train_start'][k]
        wanted = number('train_ramped', k) - number('train_start', k)
        assert added == pytest.approx(wanted, rel=1e-4, abs=1e-7), k


def test_schedule():
    at = lambda i, **changes: weights_at(DGNetConfig(**changes), i)
    start = {'gan', 'self', 'same', 'id', 'positive', 'generated'}
    assert set(at(0)) == set(at(30_001)) == start, 'as released, the first increment has no effect'
    grown = at(30_002)
    assert [grown[k] for k in ('fine', 'fine_real', 'code')] == pytest.approx([0.0002, 0.0001, 0.001])
    assert 'fine_real' not in at(30_001) and at(34_001)['fine_real'] == 0.4
    assert [at(31_000)[k] for k in ('cycle', 'primary')] == pytest.approx([0.5, 0.5])
    assert [at(32_000)[k] for k in ('code', 'cycle')] == [1, 1]
    assert [at(34_000)[k] for k in ('cycle', 'primary', 'fine')] == [2, 2, 0.4]
    assert 'code' in weights_at(DGNetConfig.paper(), 0) and 'cycle' not in weights_at(DGNetConfig.paper(), 99_999)
    assert 'primary' not in at(90_000, primary='none') and 'fine' not in at(90_000, fine=False)
    assert set(at(90_000, online=False)) == start | {'code', 'structure', 'cycle'}


def test_batches():
    source = render_people('camera', 16).relabel()
    batches = DGNetBatches(source, 6)
    batch = batches(3)
    assert all(torch.equal(v, batches(3)[k]) for k, v in batch.items()) and not torch.equal(batch['a'], batch['b'])
    lone = DGNetBatches(ReidSplit(None, np.array([0, 1, 1]), np.zeros(3, int), source.images[:3]), 3)(0)
    alone = lone['a_pids'] == 0
    assert torch.equal(lone['a'][alone], lone['a_positive'][alone]), 'one picture is its own positive'
    assert not torch.equal(lone['a'][~alone], lone['a_positive'][~alone])


def test_soft_labels_are_means_over_classifiers_and_views():
    images = to_signed(render_people('camera', 16).images)
    config = FlipConfig(size='64x32', backbone='resnet_small', weights=None, steps=1, batch_size=16)
    net = FlipReID(config, 16).nets['embedder']
    with torch.no_grad(), judging(net):
        views = [net.parts(x) for x in (images, images.flip(3))]
        beliefs = [head.classify(part).softmax(1) for parts in views for head, part in zip(net.heads, parts)]
    assert len(beliefs) == 6 and torch.allclose(soft_labels(net, images), sum(beliefs) / 6, atol=1e-6)


TINY = dict(
    size='32x16',
    backbone='resnet_small',
    width=8,
    embedding_dim=32,
    structure_dim=4,
    dilations=(1, 2, 3),
    n_blocks=2,
    hidden=32,
    discriminator_dim=8,
    n_scales=1,
    steps=80,
    batch_size=6,
    pad=2,
    erasing=0.3,
    lr=2e-3,
    lr_appearance=1e-2,
    primary='donor',
    codes_from=0.4,
    teacher_from=0.5,
    codes_ramp=0.1,
    teacher_ramp=0.2,
)


@pytest.fixture(scope='module')
def source():
    return render_people('camera', 16, size=(32, 16)).relabel()


def make(base=DGNetConfig, **changes):
    return DGNet(base(**(TINY | changes)), 16)


def test_generated_pictures_believe_the_teacher(source):
    "The divergence is a sum over the people and a mean over the batch, and the teacher is not changed by being asked."
    encoder = make_swap_nets(DGNetConfig(**TINY), 16)['appearance'].eval()
    settings = DirectConfig(size='32x16', backbone='resnet_small', steps=1, batch_size=8)
    teacher = DirectTransfer(settings, 16).nets['embedder']
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    painted = {k: to_signed(source.images[i : i + 3]) for k, i in {'ba': 0, 'ab': 40}.items()}
    pids = {'a': torch.tensor([0, 1, 2]), 'b': torch.tensor([3, 4, 5])}
    found = generated_losses(encoder, painted, pids, {'primary': 1}, teacher)
    wanted = 0
    for x in painted.values():
        soft, logits = soft_labels(teacher, x), encoder(x)[1][0].log_softmax(1)
        wanted += (soft * (soft.log() - logits)).sum() / 3
    assert set(found) == {'primary'} and torch.allclose(found['primary'], wanted)
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize(
    'changes',
    [
        dict(codes_from=0.5, teacher_from=0.5, codes_ramp=0.25, teacher_ramp=0.25, reference_quirks=False),
        dict(codes_from=0, teacher_from=0, codes_ramp=0.25, teacher_ramp=0.25, reference_quirks=False),
        dict(base=DGNetConfig.paper, weights=None, codes_from=0.25, teacher_from=0.25, codes_ramp=0.5),
    ],
    ids=['cut before the ramps', 'cut behind them', 'paper'],
)
def test_contract(source, changes):
    new = lambda: make(**{'steps': 4, **changes})
    assert set(check_method(new, new().batches(source), 4).values()) == {'ok'}


def test_a_step_of_16_bits(source):
    "Norms and distances between codes are computed in 32 bits."
    batch = make().batches(source)(79)
    with torch.autocast('cpu', torch.bfloat16):
        half = make().step(batch, 79)
    whole = make().step(batch, 79)
    assert half.keys() == whole.keys() and all(half[k].isfinite() for k in half)
    for k in ('self', 'same', 'structure', 'code', 'cycle', 'id', 'primary', 'fine', 'fine_real', 'd_real'):
        assert abs(half[k] - whole[k]) < 0.1 * abs(whole[k]) + 0.05, k


def test_a_black_picture_does_no_harm(source):
    dark = make(reference_quirks=False)
    batch = dark.batches(source)(79)
    batch['a'][0] = batch['b'][1] = batch['a_positive'][2] = -1
    for i in (78, 79):
        assert all(v.isfinite() for v in dark.step(batch, i).values())
    assert all(p.isfinite().all() for net in dark.nets.values() for p in net.parameters())


SMALL = (
    '--size 32x16 --backbone resnet_small --width 8 --embedding-dim 16 --structure-dim 4 --dilations [1,2,3] --n-blocks'
    ' 2 --hidden 16 --discriminator-dim 4 --n-scales 1 --steps 6 --batch-size 4 --pad 2 --codes-from 0.2 --teacher-from'
    ' 0.2 --codes-ramp 0.5 --device cpu --sample-every 3'
).split()


def test_commands(tmp_path, capsys):
    "Teacher, DG-Net, evaluation and swaps, as a user would type them; what may be wrong ends with one line."

    def call(*argv):
        code = main([str(a) for a in argv])
        said = capsys.readouterr()
        return code, said.out, said.err

    data, runs = tmp_path / 'people', tmp_path / 'runs'
    render_folder(data, 'game', ids=10, per_id=6, size='32x16', workers=1, progress=False)
    teach = (
        'train',
        'direct',
        '--source',
        data,
        '--train-only',
        '--size',
        '32x16',
        '--backbone',
        'resnet_small',
        '--steps',
        3,
        '--batch-size',
        8,
        '--device',
        'cpu',
    )
    assert call(*teach, '--out', runs / 'teacher')[0] == 0
    learn = ('train', '--method', 'dgnet', '--source', data, '--train-only', *SMALL)
    code, said, err = call(*learn, '--teacher', runs / 'teacher', '--out', runs / 'dgnet')
    assert code == 0 and '6 of 6 steps' in said, err
    assert len(list((runs / 'dgnet' / 'samples').glob('*.png'))) == 2
    code, said, err = call('evaluate', runs / 'dgnet', '--target', data, '--protocol', 'dgnet', '--device', 'cpu')
    assert code == 0 and 'dgnet' in said, err
    one = next((data / 'query').glob('*.jpg'))
    code, said, err = call(
        'swap',
        '--appearance',
        data / 'query',
        '--structure',
        one,
        '--run',
        runs / 'dgnet',
        '--most',
        3,
        '--out',
        tmp_path / 'swaps',
        '--device',
        'cpu',
    )
    assert code == 0 and '3 x 1 swaps' in said, err
    assert len(list((tmp_path / 'swaps').glob(f'*_on_{one.stem}.png'))) == 3 and Image.open(
        tmp_path / 'swaps' / 'grid.png'
    ).size == (32, 4 * 32)
    many = tmp_path / 'many'
    for place, picture in zip(('a/1', 'b/1', 'b/2', 'c/d/1'), sorted((data / 'query').glob('*.jpg'))):
        (many / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(picture, many / f'{place}.jpg')
    code, said, err = call(
        'swap',
        '--appearance',
        many,
        '--structure',
        one,
        '--run',
        runs / 'dgnet',
        '--out',
        tmp_path / 'named',
        '--device',
        'cpu',
    )
    assert code == 0 and {p.name.split('_on_')[0] for p in (tmp_path / 'named').glob('*_on_*')} == {
        'a_1',
        'b_1',
        'b_2',
        'c_d_1',
    }, err
    code, said, err = call(
        'swap',
        '--appearance',
        many,
        '--structure',
        one,
        '--run',
        runs / 'dgnet',
        '--most',
        2,
        '--out',
        tmp_path / 'spread',
        '--device',
        'cpu',
    )
    assert (
        code == 0
        and '2 of 4 images' in err
        and {p.name.split('_on_')[0] for p in (tmp_path / 'spread').glob('*_on_*')} == {'a_1', 'b_2'}
    ), err
    code, said, err = call('evaluate', runs / 'dgnet', '--target', data, '--alpha', 'fine', '--device', 'cpu')
    assert code == 0 and 'alpha fine' in said, err
    code, said, err = call(
        *learn,
        '--primary',
        'none',
        '--use-target',
        'true',
        '--target',
        many,
        '--layout',
        'unlabelled',
        '--out',
        runs / 'unlabelled',
    )  # pictures without labels as second stream
    assert code == 0 and '6 of 6 steps' in said, err
    for argv, part in {
        (*learn, '--out', runs / 'x'): 'expected a teacher',
        (*learn, '--primary', 'guess', '--out', runs / 'x'): 'got guess',
        ('train', 'dgnet', '--source', data, *SMALL, '--teacher', runs / 'teacher', '--out', runs / 'y'): 'same people',
        (
            'swap',
            '--appearance',
            one,
            '--structure',
            one,
            '--run',
            runs / 'teacher',
            '--out',
            tmp_path / 'z',
        ): 'dgnet run',
        (
            'swap',
            '--appearance',
            one,
            '--structure',
            one,
            '--run',
            runs / 'dgnet',
            '--out',
            tmp_path / 'swaps',
        ): 'choose another',
    }.items():
        code, said, err = call(*argv)
        assert code == 2 and part in err and err.count('\n') == 1, (argv, err)
    assert not (runs / 'x').exists(), 'what is refused leaves nothing behind'
