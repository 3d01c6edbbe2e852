"""What a training step costs on one thread of a processor, side by side in one process.

    python benchmarks/cpu_steps.py reference    # our joint step beside the published code's arithmetic, same losses
    python benchmarks/cpu_steps.py memory       # what two of these steps need at their peak, each in a fresh process
    python benchmarks/cpu_steps.py methods      # a step of every method as the demo trains it
    python benchmarks/cpu_steps.py              # all three

`reference`: published settings, width 64, nine blocks. `plain_step` computes the same losses call by call, as
published GAN code does: the source is encoded three times (to translate, for the keys, for the identities), every
pass records a graph, the table of logits is built and masked, Adam works parameter by parameter. Both begin with the
same weights and draws; the losses of the first step are compared. Sides take turns within one loop; what counts is
the processor time of the process, which other programs do not add to, and the ratio within each turn. Pixels are
rendered people (`methods`) or noise. Memory is what Linux says of a process with one side in it: the most it held
less what it held before the first step. Everything is written to cpu_steps.json as it comes.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from synthreid.core import parse_size
from synthreid.data.datasets import ReidSplit
from synthreid.data.store import render_people
from synthreid.demo import ADAPTED, demo_rows
from synthreid.models.patchnce import sample_patches
from synthreid.training.direct import reid_losses
from synthreid.training.joint import JointConfig, JointTransfer, move_batch
from synthreid.training.loop import only_training
from synthreid.training.methods import METHODS

RESULTS = Path(__file__).with_suffix('.json')
SHOWN = {
    'direct': 'direct transfer, strong augmentation',
    'joint': 'joint (translate and recognise)',
    'flip': 'FlipReID on source',
    'dgnet': 'DG-Net on source and unlabelled target',
    'selftrain': ADAPTED,
}


def note(section: str, row: dict):
    "Print a result and keep it."
    told = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    told.setdefault(section, []).append(row)
    RESULTS.write_text(json.dumps(told, indent=1) + '\n')
    print(section, json.dumps(row), flush=True)


# ---- the published code's arithmetic


def plain_nce(queries, keys, n_images: int, temperature: float):
    "InfoNCE as cross-entropy over a table whose first column is the right one."
    q, k = (x.reshape(n_images, -1, x.shape[1]) for x in (queries, keys.detach()))
    others = torch.bmm(q, k.transpose(1, 2))
    others = others.masked_fill(torch.eye(q.shape[1], dtype=torch.bool)[None], -10.0)
    table = torch.cat([(q * k).sum(-1, keepdim=True), others], 2).flatten(0, 1) / temperature
    return F.cross_entropy(table, torch.zeros(len(table), dtype=torch.int64))


def squares(verdict, wanted: float):
    return F.mse_loss(verdict, torch.full_like(verdict, wanted))


def matched(a: dict, b: dict):
    return sum(F.mse_loss(a[tap], b[tap]) for tap in a) / len(a)


def learn(losses: dict, *opts):
    for opt in opts:
        opt.zero_grad()
    sum(losses.values()).backward()
    for opt in opts:
        opt.step()


def plain_step(method, batch: dict, i: int) -> dict:  # losses
    "One step with the published settings, nothing computed once for two uses."
    cfg, random = method.config, method.draws(i)
    G, P, D, head = (method.nets[name] for name in ('generator', 'projector', 'discriminator', 'identity'))
    for net in method.nets.values():
        net.train()
    batch = move_batch(batch, cfg, random)
    x, y, taps = batch['source'], batch['target'], cfg.discriminator_taps
    fake = G(x)
    with only_training(G, P, head, among=method.nets):
        verdict, of_fake = D(fake, taps)
        of_real = D(y, taps)[1]
        keys, queries = (G.encode(images, G.nce_taps, only_taps=True)[1] for images in (x, fake))
        sampled = {tap: sample_patches(keys[tap], cfg.n_patches, None, random) for tap in keys}
        chosen = [sample_patches(queries[tap], ids=ids)[0] for tap, (_, ids) in sampled.items()]
        pairs = list(zip(P(chosen), P([patches for patches, _ in sampled.values()])))
        nce = sum(plain_nce(q, k, len(x), cfg.temperature) for q, k in pairs) / len(pairs)
        losses = dict(gan=cfg.weight_gan * squares(verdict, 1.0), nce=cfg.weight_nce * nce)
        losses['feature_match'] = cfg.weight_feature_match * matched(of_real, of_fake)
        losses |= reid_losses(*head(G.encode(x)[0]), batch['source_pids'], cfg)
        learn(losses, *(method.opts[name] for name in ('generator', 'projector', 'identity')))
    verdict, of_fake = D(fake.detach(), taps)
    own = dict(d_fake=cfg.weight_d * squares(verdict, 0.0), d_real=cfg.weight_d * squares(D(y), 1.0))
    own['d_feature_match'] = cfg.weight_feature_match * matched(D(x, taps)[1], of_fake)
    learn(own, method.opts['discriminator'])
    return {name: loss.detach() for name, loss in (losses | own).items()}


def our_step(method, batch: dict, i: int) -> dict:
    return method.step(dict(batch), i)


def with_fused_adam(method):
    "The same method, whose optimisers are one operation each."
    for name, opt in method.opts.items():
        group = opt.param_groups[0]
        told = {k: group[k] for k in ('lr', 'betas', 'eps', 'weight_decay')}
        method.opts[name] = torch.optim.Adam(group['params'], fused=True, **told)
    return method


def noise(size: str, seed: int) -> ReidSplit:
    images = np.random.default_rng(seed).integers(0, 256, (128, *parse_size(size), 3), np.uint8)
    return ReidSplit(None, np.arange(128) // 4, np.arange(128) % 6, images)


def published(size: str, n: int):  # method, batch
    method = JointTransfer(JointConfig.reference(size=size, batch_size=n), n_ids=32, n_cameras=6, seed=0)
    return method, method.batches(noise(size, 0), noise(size, 1))(0)


SIDES = {
    'published arithmetic': (plain_step, lambda method: method),
    'ours': (our_step, lambda method: method),
    'ours, fused Adam': (our_step, with_fused_adam),
}


# ---- measuring


def timed(step, method, batch, i) -> tuple:  # seconds of the processor, seconds that went by
    cpu, began = time.process_time(), time.perf_counter()
    step(method, batch, i)
    return time.process_time() - cpu, time.perf_counter() - began


def counted(step, method, batch, i) -> tuple:  # losses, GFLOP
    with FlopCounterMode(display=False) as counter:
        losses = step(method, batch, i)
    return {k: v.item() for k, v in losses.items()}, counter.get_total_flops() / 1e9


def peak_mib(side: str, size: str, n: int) -> float:
    "What two steps add to the memory of a fresh process, at their peak."
    command = [sys.executable, __file__, 'peak', '--side', side, '--size', size, '--batch', str(n)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def held(what: str) -> int:  # KiB
    "VmRSS: memory that this process holds; VmHWM: the most since it began (getrusage would count its parent's)."
    told = dict(line.split(':') for line in Path('/proc/self/status').read_text().splitlines())
    return int(told[what].split()[0])


def tell_peak(side: str, size: str, n: int):
    torch.set_num_threads(1)
    step, change = SIDES[side]
    method, batch = published(size, n)
    method = change(method)
    Path('/proc/self/clear_refs').write_text('5')  # the most is what it holds now
    before = held('VmRSS')
    for i in range(2):
        step(method, batch, i)
    print((held('VmHWM') - before) / 1024)


def memory(sizes, n: int, sides):
    "Sides one after the other."
    for size in sizes:
        for side in sides:
            note('memory', dict(size=size, batch=n, side=side, peak_mib=peak_mib(side, size, n)))


def reference(sizes, n: int, turns: int, sides):
    "Sides in turn."
    for size in sizes:
        made = {side: (SIDES[side][0], *published(size, n)) for side in sides}
        made = {side: (step, SIDES[side][1](method), batch) for side, (step, method, batch) in made.items()}
        first = {side: counted(*told, 0) for side, told in made.items()}
        losses = {side: found[0] for side, found in first.items()}
        apart = max(abs(v / losses['published arithmetic'][k] - 1) for k, v in losses['ours'].items())
        assert losses['ours'].keys() == losses['published arithmetic'].keys() and apart < 1e-4, losses
        seconds = {side: [] for side in made}
        for i in range(1, 1 + turns):
            for side, told in made.items():
                seconds[side].append(timed(*told, i))
        for side, own in seconds.items():
            ratios = [plain[0] / mine[0] for plain, mine in zip(seconds['published arithmetic'], own)]
            row = dict(size=size, batch=n, side=side, turns=turns, cpu_s=statistics.median(s for s, _ in own))
            row |= dict(wall_s=statistics.median(s for _, s in own), times_as_fast=statistics.median(ratios))
            row |= dict(least=min(ratios), most=max(ratios), gflop=first[side][1])
            note('reference', row | dict(losses_apart=apart, seconds=own))


def demo_method(name: str, source, target, started: dict):
    "A method as the demo trains it, a batch, and a step at which all of its losses are at work."
    kind, config = demo_rows(systems=True, adapt=True)[SHOWN[name]]
    config = replace(config, size='64x32')
    told = dict(start=started['joint']) if name == 'selftrain' else {}
    if name == 'dgnet':
        told = dict(teacher=started['direct'].nets['embedder'].eval())
    method = METHODS[kind](config, n_ids=source.n_ids, n_cameras=6, seed=0, **told)
    if name == 'joint':
        method.prepare(source, target)
    batches, first = method.batches(source, target), 0 if name == 'selftrain' else config.steps // 2
    started[name] = method
    if name == 'selftrain':  # the clustering of an epoch, by itself
        cpu = time.process_time()
        method.step(batches(0), 0)
        print(f'selftrain: the step that clusters {len(target)} images took {time.process_time() - cpu:.1f} s')
        first = 1
    return method, batches, first


def methods(turns: int):
    "A step of every method, in turn."
    source, target = render_people('game', 24, per_id=6), render_people('camera', np.arange(50, 74), per_id=6)
    made, started = {}, {}
    for name in SHOWN:
        made[name] = demo_method(name, source, target, started)
    seconds, flops = {name: [] for name in made}, {}
    for name, (method, batches, first) in made.items():
        try:
            flops[name] = counted(our_step, method, batches(first), first)[1]
        except RuntimeError:  # torch's counter has no answer where gradients are learned from (DG-Net)
            flops[name] = None
    for i in range(1, 1 + turns):
        for name, (method, batches, first) in made.items():
            seconds[name].append(timed(our_step, method, batches(first + i), first + i))
    for name, own in seconds.items():
        config, cpu = made[name][0].config, statistics.median(s for s, _ in own)
        row = dict(method=name, row=SHOWN[name], batch=config.batch_size, turns=turns, cpu_ms=1e3 * cpu)
        row |= dict(wall_ms=1e3 * statistics.median(s for _, s in own), gflop=flops[name])
        note('methods', row | dict(gflop_per_s=flops[name] and flops[name] / cpu, seconds=own))


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('sections', nargs='*', default=['reference', 'memory', 'methods'])
    parser.add_argument('--side', choices=[*SIDES], action='append', help='of `reference` and `memory`; none: all')
    parser.add_argument('--size', default='64x32,128x64', help='of `reference` and `memory`')
    parser.add_argument('--batch', type=int, default=8, help='of `reference` and `memory`')
    parser.add_argument('--turns', type=int, default=7)
    told = parser.parse_args()
    if told.sections == ['peak']:
        tell_peak(told.side[0], told.size, told.batch)
    else:
        torch.set_num_threads(1)
        sizes, sides = told.size.split(','), told.side or [*SIDES]
        if 'reference' in told.sections:
            reference(sizes, told.batch, told.turns, sides)
        if 'memory' in told.sections:
            memory(sizes, told.batch, sides)
        if 'methods' in told.sections:
            methods(told.turns)
