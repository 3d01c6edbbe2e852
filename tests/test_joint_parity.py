"""Three steps of the Synth-ReID engine, recomputed: losses, gradients and weights against the reference's numbers."""

import numpy as np
import pytest
import torch
from reference import fill, load

from synthreid.core import seed_everything
from synthreid.training.joint import JointConfig, JointTransfer

NETS = {
    'generator': 'generator',
    'discriminator': 'discriminator',
    'id_net': 'identity',
    'mlp': 'projector',
}  # fixture: ours
LOSSES = {
    'r_gen_loss': 'gan',
    'gen_sim_loss': 'feature_match',
    'nce_loss': 'nce',
    'idt_nce_loss': 'nce_identity',
    'reid_loss': 'id',
    'r_dis_real_loss': 'd_real',
    'r_dis_fake_loss': 'd_fake',
    'dis_sim_loss': 'd_feature_match',
}


def make(case, dtype):
    c = case['loss_cfg']
    config = JointConfig.reference(
        mode='joint' if c['guide_gen'] else 'disjoint',
        augment='none',
        weight_gan=c['weight_gen'],
        weight_d=c['weight_dis'],
        weight_feature_match=c['weight_sim'],
        weight_nce=c['weight_nce'],
        weight_nce_identity=c['weight_idt'],
        weight_id=c['weight_x'],
        weight_triplet=c['weight_t'],
        n_patches=c['num_patches'],
        lr=case['optim']['lr'],
        milestones=(),
        identity_milestones=None,
        label_smoothing=case['label_smoothing'],
        reference_quirks=True,
    )
    method = JointTransfer(config, case['num_classes'])
    for offset, (theirs, ours) in enumerate(NETS.items()):
        fill(method.nets[ours], case['specs'][theirs], case['seed'] + offset, case['scale'][theirs])
        method.nets[ours].to(dtype)
    return method


def batch_at(case, step, dtype):
    r, (B, _, H, W) = np.random.RandomState(case['seed'] + 1000 + step), case['shape']
    images = []
    for _ in range(2):
        block = r.uniform(-1, 1, (B, 3, H // 8, W // 8))
        images.append(0.75 * np.kron(block, np.ones((1, 1, 8, 8))) + 0.25 * r.uniform(-1, 1, (B, 3, H, W)))
    source, target = (torch.from_numpy(x.astype(np.float32)).to(dtype) for x in images)
    return dict(source=source, target=target, source_pids=torch.tensor(case['labels'][step]))


def patches_at(case, arrays, step):
    "The places that the reference has drawn: of its translations, then of the target translated to itself."
    n, taps = case['nce_calls_per_step'], case['loss_cfg']['nce_layers']
    drawn = lambda call, tap: torch.from_numpy(arrays[f'patch_ids/call{step * n + call}/layer{tap}'].astype(np.int64))
    return {loss: {tap: drawn(call, tap) for tap in taps} for call, loss in enumerate(('nce', 'nce_identity')[:n])}


def gradient_norm(net):
    return torch.sqrt(sum(p.grad.double().square().sum() for p in net.parameters() if p.grad is not None)).item()


@pytest.mark.parametrize('name', ['joint', 'joint_idt', 'disjoint'])
def test_three_steps_in_float64(name):
    case, arrays = load(f'synthreid_step_{name}')
    method = make(case, torch.float64)
    for step in range(case['steps']):
        seed_everything(0, step)
        losses = method.step(batch_at(case, step, torch.float64), step, patches_at(case, arrays, step))
        expected = {LOSSES[k]: v for k, v in case['loss_f64'][step].items() if k != 'acc'}
        assert losses.keys() == expected.keys()
        for k, v in expected.items():
            assert losses[k].item() == pytest.approx(v, rel=1e-6), (step, k)
        if step == 0:
            for theirs, ours in NETS.items():
                assert gradient_norm(method.nets[ours]) == pytest.approx(case['grad_norm_f64'][0][theirs], rel=1e-6), (
                    theirs
                )
    for theirs, ours in NETS.items():
        parameters = list(method.nets[ours].parameters())
        assert sum(p.square().sum() for p in parameters).item() == pytest.approx(
            case['final_f64'][theirs]['sumsq'], rel=1e-9
        ), theirs
        each = np.array([p.square().sum().item() for p in parameters])
        np.testing.assert_allclose(each, arrays[f'final_f64/{theirs}.param_sumsqs'], rtol=1e-6)


@pytest.mark.parametrize('name', ['joint', 'joint_idt', 'disjoint'])
def test_first_step_in_float32(name):
    case, arrays = load(f'synthreid_step_{name}')
    method = make(case, torch.float32)
    losses = method.step(batch_at(case, 0, torch.float32), 0, patches_at(case, arrays, 0))
    for k, v in case['loss_f32'][0].items():
        if k != 'acc':
            assert losses[LOSSES[k]].item() == pytest.approx(v, rel=3e-4), k
    for theirs, ours in NETS.items():
        assert gradient_norm(method.nets[ours]) == pytest.approx(
            case['grad_norm_f32'][0][theirs], rel=1e-4 if theirs in ('discriminator', 'mlp') else 1e-2
        ), theirs
