"""FlipReID and what it is made of, against arithmetic that shares no code with it."""

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from synthreid.core import UserError, to_signed
from synthreid.data.samplers import GroupBatches
from synthreid.data.store import render_people
from synthreid.models.backbones import backbone, load_weights
from synthreid.models.reid import GeneralisedMean, RegionalEmbedder, batch_hard_triplet
from synthreid.render.folder import render_folder
from synthreid.training.checkpoint import load_checkpoint, save_checkpoint
from synthreid.training.contract import check_method
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.flip import FlipConfig, FlipReID, flip_epoch, flip_rate
from synthreid.training.joint import JointConfig, JointTransfer
from synthreid.training.loop import fit
from synthreid.training.runs import load_encoder, load_method

SMALL = dict(
    size='32x16',
    backbone='resnet_small',
    weights=None,
    steps=6,
    batch_size=8,
    epochs=6,
    freeze_epochs=2,
    warmup_epochs=2,
    decay_epochs=1,
    lr=1e-3,
    lr_floor=1e-5,
)


@pytest.fixture(scope='module')
def source():
    return render_people('game', 8, size=(32, 16))


def make(source, encoder=None, **changes):
    return FlipReID(FlipConfig(**{**SMALL, **changes}), source.n_ids, encoder=encoder)


def count(net):
    return sum(p.numel() for p in net.parameters())


# ---- parts


@pytest.mark.parametrize('p', [1.0, 2.5, 3.0, 6.0])
def test_gem_is_its_formula(p):
    x = np.random.default_rng(0).normal(size=(3, 4, 5, 2))
    expected = (np.maximum(x, 1e-6) ** p).reshape(3, 4, -1).mean(-1) ** (1 / p)
    assert np.allclose(GeneralisedMean(p).double()(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize('margin', [None, 0.0, 0.3])
def test_triplet_is_brute_force(margin):
    rng = np.random.default_rng(1)
    for _ in range(20):
        x, pids = rng.normal(size=(12, 5)), rng.integers(0, 4, 12)
        if len(set(pids)) < 2:
            continue
        total = 0
        for a in range(12):
            ap = max(np.sqrt(((x[a] - x[j]) ** 2).sum()) for j in range(12) if pids[j] == pids[a])
            an = min(np.sqrt(((x[a] - x[j]) ** 2).sum()) for j in range(12) if pids[j] != pids[a])
            total += np.log1p(np.exp(ap - an)) if margin is None else max(0, ap - an + margin)
        assert np.isclose(
            batch_hard_triplet(torch.from_numpy(x), torch.from_numpy(pids), margin).item(), total / 12, rtol=1e-5
        )


def test_sampling_rules_on_a_written_out_example():
    """A has 8 pictures, B 4, C 5, D 3; two people, four pictures each. D never comes; {B, C} first leaves A alone, so
    the pass ends."""
    pids = np.repeat([1, 2, 3, 4], [8, 4, 5, 3])
    draw, seen = GroupBatches(pids, 2, 4, seed=5), {}
    for number in range(600):
        batches = draw.one_pass(number)
        used = np.concatenate(batches)
        assert len(set(used)) == len(used), 'no picture twice in a pass'
        for b in batches:
            assert len(set(pids[b[:4]])) == len(set(pids[b[4:]])) == 1
        who = tuple(tuple(sorted({int(i) for i in pids[b]})) for b in batches)
        seen[who] = seen.get(who, 0) + 1
    assert seen.keys() == {((1, 2), (1, 3)), ((1, 3), (1, 2)), ((2, 3),)}
    assert all(abs(n / 600 - 1 / 3) < 0.06 for n in seen.values()), 'all pairs equally likely'
    stream = list(itertools.islice((b for n in itertools.count() for b in draw.one_pass(n)), 40))
    fresh = GroupBatches(pids, 2, 4, seed=5)
    for i in (39, 0, 17, 18):
        assert (fresh(i) == stream[i]).all()


def test_schedule_at_named_epochs():
    for lr, floor in ((2e-4, 2e-6), (3e-4, 3e-6)):
        expected = {
            0: floor,
            5: floor + (lr - floor) * 5 / 9,
            9: lr,
            10: lr,
            19: lr,
            20: floor,
            29: lr,
            30: lr,
            59: lr,
            60: lr / 10,
            89: lr / 10,
            90: floor,
            120: floor,
            219: floor,
        }
        for epoch, rate in expected.items():
            assert np.isclose(flip_rate(epoch, lr, floor), rate, rtol=1e-12), epoch
    assert [flip_epoch(s) for s in (0, 199, 200, 3999, 4000, 43_999)] == [0, 0, 1, 19, 20, 219]
    assert [flip_epoch(s, 4) for s in range(4)] == [0, 55, 110, 165], 'a trial goes through the same phases'


def test_gradient_of_the_regularisation(source):
    "Keras l2(0.0005) adds 0.001 w to the gradient, and nothing to GeM's exponents; Adam's first mean shows it."
    m = make(source, weight_decay=1e-3, freeze_epochs=0)
    before = {k: p.detach().clone() for k, p in m.nets['embedder'].named_parameters()}
    m.step(m.batches(source)(0), 0)
    for k, p in m.nets['embedder'].named_parameters():
        added = m.opts['embedder'].state[p]['exp_avg'] / 0.1 - p.grad
        assert torch.allclose(
            added, torch.zeros_like(p) if k.endswith('pool.p') else 1e-3 * before[k], rtol=1e-3, atol=2e-6
        ), k


def test_parameter_counts():
    layer4 = (
        2048 * (512 + 512)
        + 1024 * 512
        + 512 * 2048 * 3
        + 3 * 9 * 512 * 512
        + 1024 * 2048
        + 2 * (3 * (512 + 512 + 2048) + 2048)
    )
    assert layer4 == 14_964_736 == count(backbone('resnet50').body.layer4)
    net = RegionalEmbedder(backbone('resnet50', last_stride=1), 751)
    head = 2 * (2048 * 1024 * 9 + 1024) + 2 * 4096 + 4096 * 751 + 3
    assert count(net) == 23_508_032 + layer4 + head
    with torch.no_grad():
        assert net.eval()(torch.zeros(1, 3, 384, 128)).shape == (1, 4096)
    with torch.no_grad():
        assert net.whole(net.backbone(torch.zeros(1, 3, 384, 128))).shape == (1, 2048, 24, 8)


# ---- weights


def test_names_of_published_checkpoints(tmp_path):
    names = {n: backbone(n).body.state_dict() for n in ('ibn_resnet50_a', 'ibn_resnet50_b', 'osnet_x1_0')}
    a, b, o = names.values()
    assert {
        'layer1.0.bn1.IN.weight',
        'layer3.5.bn1.BN.running_var',
        'layer4.0.bn1.weight',
        'layer1.0.downsample.1.bias',
    } <= a.keys() and a['layer2.0.bn1.IN.bias'].shape == (64,)
    assert (
        {'bn1.weight', 'layer1.2.IN.weight', 'layer2.3.IN.bias', 'layer3.5.bn3.weight'} <= b.keys()
        and not any('.IN.' in k for k in b if k.startswith(('layer3', 'layer4')))
        and 'bn1.running_mean' not in b
    )
    assert {
        'conv1.conv.weight',
        'conv2.0.conv2d.3.conv2.weight',
        'conv2.0.gate.fc1.bias',
        'conv2.0.downsample.bn.weight',
        'conv3.2.0.conv.weight',
        'conv4.1.conv3.bn.bias',
        'conv5.bn.weight',
    } <= o.keys()
    assert o['conv4.1.conv2a.conv2.weight'].shape == (128, 1, 3, 3) and o['conv2.0.gate.fc1.weight'].shape == (
        4,
        64,
        1,
        1,
    )
    torch.save(
        {
            'state_dict': (
                {f'module.{k}': v for k, v in o.items()}
                | {'module.fc.0.weight': torch.zeros(512, 512), 'module.classifier.weight': torch.zeros(1000, 512)}
            )
        },
        tmp_path / 'osnet.pth',
    )
    report = load_weights(backbone('osnet_x1_0'), tmp_path / 'osnet.pth')
    assert report.complete and len(report.left_out) == 2
    with pytest.raises(UserError, match='another network'):
        load_weights(backbone('ibn_resnet50_a'), tmp_path / 'osnet.pth')


def test_ibn_weights_from_the_hub(monkeypatch):
    state = backbone('ibn_resnet50_b').body.state_dict()
    asked = []
    monkeypatch.setattr(
        torch.hub,
        'load_state_dict_from_url',
        lambda url, **k: asked.append(url) or {**state, 'fc.weight': torch.zeros(1000, 2048)},
    )
    net = backbone('ibn_resnet50_b', weights='imagenet')
    assert asked[0].endswith('resnet50_ibn_b-9ca61e85.pth') and torch.equal(
        net.body.layer4[2].conv3.weight, state['layer4.2.conv3.weight']
    )

    def offline(url, **k):
        raise OSError('no route')

    monkeypatch.setattr(torch.hub, 'load_state_dict_from_url', offline)
    with pytest.raises(UserError, match='no route.*XingangPan.*weights=FILE'):
        backbone('ibn_resnet50_a', weights='imagenet')
    with pytest.raises(UserError, match='give a file'):
        backbone('osnet_x1_0', weights='imagenet')


# ---- the method


@pytest.mark.parametrize(
    'changes',
    [
        {},
        dict(two_views=False, weight_flip=0, sampling='identities'),
        dict(neck='bn', weight_circle=0.5, weight_triplet=0, weight_centre=5e-4, freeze_epochs=0),
        dict(backbone='encoder', dim=8, n_blocks=1, head='basic', head_layers=(1, 1), head_widths=(16, 32)),
    ],
    ids=['published', 'one view', 'other losses', 'encoder'],
)
def test_contract(source, changes):
    assert set(check_method(lambda: make(source, **changes), make(source, **changes).batches(source)).values()) == {
        'ok'
    }


def test_resume_inside_and_after_the_first_phase(source, tmp_path):
    whole = make(source)
    fit(whole, whole.batches(source), 6)
    for stop in (1, 3):  # while the backbone rests; when it has learned for one step
        first, again = make(source), make(source)
        fit(first, first.batches(source), stop)
        fit(again, again.batches(source), 6, load_checkpoint(again, save_checkpoint(first, tmp_path / str(stop), stop)))
        torch.testing.assert_close(
            again.nets['embedder'].state_dict(), whole.nets['embedder'].state_dict(), rtol=0, atol=0
        )
        torch.testing.assert_close(
            again.opts['embedder'].state_dict(), whole.opts['embedder'].state_dict(), rtol=0, atol=0
        )


def test_centres_move_at_their_own_rate(source):
    moves = []
    for weight in (5e-4, 0.1):
        m = DirectTransfer(
            DirectConfig(
                size='32x16', backbone='resnet_small', steps=4, batch_size=8, images_per_id=4, weight_centre=weight
            ),
            source.n_ids,
        )
        before = m.nets['centres'].centres.detach().clone()
        m.step(m.batches(source)(0), 0)
        moves.append(m.nets['centres'].centres.detach() - before)
    assert torch.allclose(*moves, rtol=1e-3, atol=1e-6) and moves[0].abs().max() > 0, (
        'the weight of the loss is not in the rate of the centres'
    )


def test_head_on_a_joint_run(source, tmp_path):
    config = JointConfig(
        size='32x16',
        steps=2,
        batch_size=4,
        reid_batch=8,
        dim=8,
        n_blocks=1,
        discriminator_dim=8,
        head='basic',
        head_layers=(1, 1),
        head_widths=(16, 32),
        n_patches=16,
    )
    joint = JointTransfer(config, source.n_ids, n_cameras=6)
    run = save_checkpoint(joint, tmp_path / 'joint' / 'checkpoints', 2).parents[1]
    config = dict(backbone='encoder', weights=str(run), last_stride=2, freeze_epochs=0)
    m = make(source, load_encoder(run), **config)
    x, net = to_signed(source.images[:3]), m.nets['embedder'].eval()
    with torch.no_grad():
        assert torch.allclose(
            net.whole(net.backbone(x)),
            joint.nets['identity'].eval().stages(joint.nets['generator'].encode(x)[0]),
            atol=1e-4,
        )
    assert (m.config.dim, m.config.head_widths) == (8, (16, 32)), 'sizes come from the run'
    saved = save_checkpoint(m, tmp_path / 'flip' / 'checkpoints', 1)
    shutil.rmtree(run)
    assert torch.equal(load_method(saved, 'cpu').embed(x), m.embed(x)), 'the joint run is needed no more'
    with pytest.raises(UserError, match='check the path'):
        load_encoder(run)
    with pytest.raises(UserError, match="holds 'flip'"):
        load_encoder(tmp_path / 'flip')
    with pytest.raises(UserError, match='the joint method of'):
        make(source, **config)


def test_wrong_settings(source):
    for changes, text in (
        (dict(two_views=False), 'two_views=True'),
        (dict(neck='none!'), 'expected neck'),
        (dict(schedule='steps'), 'expected schedule'),
        (dict(images_per_id=0), 'images_per_id'),
        (dict(regions=3), 'divides'),
        (dict(backbone='vit_tiny_patch16_224', last_stride=2), 'without regions'),
    ):
        with pytest.raises(UserError, match=text):
            make(source, **changes)
    with pytest.raises(UserError, match='at least 2 identities'):
        few = render_people('game', 3, 3, size=(32, 16))
        make(few).batches(few)


def test_recipes_are_complete():
    from synthreid.reproduce import load_recipes, recipe_config

    recipes = load_recipes('flipreid')
    published = {f'{d}_{b}' for d in ('market', 'duke', 'msmt17') for b in ('resnet50', 'ibn', 'resnest')}
    assert recipes.keys() == published | {'source', 'translated'} and all(
        recipe_config(recipes[r], 12_936).steps == 44_000 for r in published
    )
    assert (
        recipe_config(recipes['market_resnest'], 12_936).weight_decay == 2e-3
        and recipe_config(recipes['market_resnet50'], 12_936).lr == 2e-4
    )


def test_trial_of_a_recipe(tmp_path):
    "A published recipe with a small net: the same phases in six steps, both mAPs beside the published ones."
    import synthreid
    from synthreid.data.datasets import DatasetSpec
    from synthreid.reproduce import Folders, reproduce

    text = yaml.safe_load((Path(synthreid.__file__).parent / 'recipes' / 'flipreid_market_resnest.yaml').read_text())
    text['settings'] |= dict(backbone='resnet_small', weights=None, batch_size=8)
    (tmp_path / 'recipes').mkdir()
    (tmp_path / 'recipes' / 'flipreid_market_resnest.yaml').write_text(yaml.safe_dump(text))
    render_folder(tmp_path / 'market', 'camera', ids=12, per_id=6, size='32x16', workers=1, progress=False)
    table = reproduce(
        'flipreid',
        Folders(None, DatasetSpec(tmp_path / 'market')),
        tmp_path / 'out',
        rows=['market_resnest'],
        seeds=[0],
        recipe_folder=tmp_path / 'recipes',
        steps=6,
        size='32x16',
        device='cpu',
        progress=False,
    )
    assert (
        table['published mAP'][0] == 89.6
        and table['published mAP re-ranked'][0] == 94.7
        and 0 < float(table['mAP re-ranked'][0]) <= 100
    )
