"EnCo against the formulas written out in numpy's float64, place by place."

from dataclasses import replace

import numpy as np
import pytest
import torch

from synthreid.core import step_generator
from synthreid.models.contrast import agreement_loss, attended_places
from synthreid.training.joint import JointConfig, JointTransfer, make_nets, stage_agreement, translate_and_tap

SMALL = dict(size='32x16', dim=4, discriminator_dim=4, head='basic', head_layers=(1,), head_widths=(8,), steps=5)
ENCO = JointConfig(**SMALL, n_blocks=3, contrast='enco', decoder='resize', n_patches=6)


def by_hand(query, key):
    "The squared distance of two vectors of length one."
    return sum((a / np.linalg.norm(query) - b / np.linalg.norm(key)) ** 2 for a, b in zip(query, key))


def mlp(head, x):
    "Linear, ReLU, linear, length one: a head of the projector in numpy."
    first, _, second = (layer for layer in head)
    array = lambda p: p.detach().double().numpy()
    hidden = np.maximum(array(first.weight) @ x + array(first.bias), 0)
    found = array(second.weight) @ hidden + array(second.bias)
    return found / (np.linalg.norm(found) + 1e-7)


def test_the_agreement_of_vectors():
    query, key = (np.random.default_rng(i).normal(size=(7, 5)) for i in (0, 1))
    found = agreement_loss(torch.tensor(query), torch.tensor(key)).numpy()
    assert np.allclose(found, [by_hand(q, k) for q, k in zip(query, key)], rtol=1e-12)


@pytest.mark.parametrize('decoder', ['resize', 'transposed'])
@pytest.mark.parametrize('layers', [None, (2,), (1, 3), (4,)])
def test_the_loss_of_a_picture(decoder, layers):
    config = replace(ENCO, decoder=decoder, contrast_layers=layers)
    torch.manual_seed(1)
    nets = {name: net.double() for name, net in make_nets(config, 3, n_cameras=2).items()}
    for p in (p for net in nets.values() for p in net.parameters() if p.ndim == 1):
        torch.nn.init.normal_(p)  # so that no place is zero
    images, camera = torch.rand(2, 3, 32, 16).double() * 2 - 1, torch.tensor([1, 0])
    _, _, taps = translate_and_tap(nets['generator'], config, images, camera)
    chosen = layers or (1, 2, 4)
    ids = {t: torch.tensor([5, 0, 17]) for t in chosen}
    got = stage_agreement(nets, config, taps, None, ids=ids).item()
    # the same layers, by walking through the generator
    x, seen = images, {}
    for i, layer in enumerate(nets['generator'].encoder):
        x = layer(x)
        seen[i] = x
    for i, block in enumerate(nets['generator'].decoder.up):
        x = block(x, camera)
        seen[len(nets['generator'].encoder) + i] = x
    losses = []
    for place, t in enumerate(chosen):
        before, after = (seen[n].detach().flatten(2).numpy() for n in (t, 9 - t))  # 3 blocks: layers 0 to 6, 7, 8
        assert before.shape == after.shape
        for b in range(2):
            for p in ids[t].tolist():
                key = mlp(nets['projector'].heads[place], before[b, :, p])
                query = mlp(nets['projector'].heads[place], after[b, :, p])
                losses.append(by_hand(mlp(nets['predictor'].heads[place], query), key))
    assert np.isclose(got, np.mean(losses), rtol=1e-5)


def test_the_places_are_those_least_believed():
    verdicts = torch.rand(3, 1, 4, 2, generator=step_generator(0, 1))
    found = attended_places(verdicts, (16, 8), 10, step_generator(0, 2)).numpy()
    big = np.empty((3, 16, 8))
    for r in range(16):  # stretched four times: bilinear between the middles of the cells
        for c in range(8):
            y, x = np.clip([(r + 0.5) / 4 - 0.5, (c + 0.5) / 4 - 0.5], 0, [3, 1])
            y0, x0 = min(int(y), 2), min(int(x), 0)
            w = np.outer([1 - (y - y0), y - y0], [1 - (x - x0), x - x0])
            big[:, r, c] = (verdicts[:, 0, y0 : y0 + 2, x0 : x0 + 2].numpy() * w).sum((1, 2))
    random = step_generator(0, 2)
    candidates, rest = (torch.randperm(128, generator=random).numpy() for _ in range(2))
    for scores, places in zip(big.reshape(3, -1), found):
        lowest = sorted(candidates[:40], key=lambda p: scores[p])[:5]
        assert sorted(places[:5]) == sorted(lowest) and (places[5:] == rest[:5]).all()


def test_the_encoder_is_held_still():
    "No gradient reaches the encoder's layer; with the decoder's layers cut off, none reaches projector or predictor."
    torch.manual_seed(0)
    nets = make_nets(ENCO, 3, n_cameras=2)
    images = torch.rand(2, 3, 32, 16) * 2 - 1
    _, _, taps = translate_and_tap(nets['generator'], ENCO, images, torch.tensor([0, 1]))
    leaves = {t: x.detach().requires_grad_() for t, x in taps.items()}
    verdicts = torch.rand(2, 1, 4, 2).requires_grad_()
    stage_agreement(nets, ENCO, leaves, verdicts, step_generator(0, 0)).backward()
    assert {t for t, x in leaves.items() if x.grad is not None and x.grad.abs().sum() > 0} == {5, 7, 8}
    assert verdicts.grad is None
    assert all(p.grad is not None for name in ('projector', 'predictor') for p in nets[name].parameters())
    # the key's way through the projector adds nothing to the projector's gradient
    moved = nets['projector'].heads[0][0].weight.grad.clone()
    nets['projector'].zero_grad()
    ids = {1: torch.arange(4), 2: torch.arange(4), 4: torch.arange(4)}
    held = {t: x.detach() for t, x in taps.items()}
    keys = [x.detach() for x in nets['projector']([held[t].flatten(2)[:, :, :4].mT.flatten(0, 1) for t in (1, 2, 4)])]
    stage_agreement(nets, ENCO, held, None, ids=ids).backward()
    once = nets['projector'].heads[0][0].weight.grad.clone()
    nets['projector'].zero_grad()
    queries = nets['projector']([held[9 - t].flatten(2)[:, :, :4].mT.flatten(0, 1) for t in (1, 2, 4)])
    told = [agreement_loss(q, k).mean() for q, k in zip(nets['predictor'](queries), keys)]
    (sum(told) / 3).backward()
    assert torch.allclose(once, nets['projector'].heads[0][0].weight.grad, atol=1e-7) and moved.abs().sum() > 0


def test_a_step_encodes_no_translation_and_learns_the_predictor():
    method = JointTransfer(replace(ENCO, reid_batch=0, batch_size=2), 3, n_cameras=2)
    generator, calls = method.nets['generator'], []
    encode = generator.encode
    generator.encode = lambda *a, **k: calls.append(len(a[0])) or encode(*a, **k)
    before = method.nets['predictor'].heads[0][0].weight.clone()
    batch = dict(source=torch.rand(2, 3, 32, 16) * 2 - 1, target=torch.rand(2, 3, 32, 16) * 2 - 1)
    batch |= dict(source_pids=torch.tensor([0, 1]), target_camids=torch.tensor([0, 1]))
    told = method.step(batch, 0)
    assert len(calls) == 1 and set(told) == {'gan', 'nce', 'id', 'd_real', 'd_fake'}
    assert not torch.equal(before, method.nets['predictor'].heads[0][0].weight)
