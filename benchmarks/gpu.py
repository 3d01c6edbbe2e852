"""Everything a GPU must show, in one command of at most eight minutes; needs neither data nor downloads.

    python benchmarks/gpu.py --markdown benchmarks/gpu.md       # on a machine with a GPU
    python benchmarks/gpu.py --device cpu --tiny                # does it run? two minutes on two slow cores
    python benchmarks/gpu.py speed compiled                     # some sections

Sections, in order of value: `equality` (one step on the CPU and on the GPU), `waiting` (where the host waits for the
device), `recorded` (CUDA graphs give the same losses), `fast` (a step as it is, and the loop with recorded steps),
`compiled`, `speed`, `resume`, `bf16`, `evaluation`, `command`
(train, kill, go on, evaluate). Each has a time limit of its own; an error is printed and recorded, and the next section
goes on. Every result is printed as it comes and written to the JSON file at once; `--before` compares with the JSON
file of an earlier run. The exit code is 1 where a section failed or two numbers that must agree do not. With
`--device cpu` both sides of every comparison are the CPU: that proves the program, not a GPU.
"""

import argparse
import gc
import json
import linecache
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

import synthreid
from synthreid.core import parse_size
from synthreid.data.batches import Pixels
from synthreid.data.datasets import ReidSplit
from synthreid.data.store import render_people
from synthreid.training import selftrain
from synthreid.training.checkpoint import list_checkpoints, load_checkpoint, save_checkpoint
from synthreid.training.dgnet import DGNet, DGNetConfig
from synthreid.training.direct import DirectConfig, DirectTransfer
from synthreid.training.flip import FlipConfig, FlipReID
from synthreid.training.joint import JointConfig, JointTransfer
from synthreid.training.loop import RecordedSteps, compile_nets, fit, in_precision
from synthreid.training.selftrain import SelfTrain, SelfTrainConfig

PACKAGE = Path(synthreid.__file__).resolve().parent
THESIS_STEPS = 80_700  # of joint training with the reference settings
MARKET_STEPS = -(-12_936 // 32)  # one pass over Market-1501's training images
KINDS = {
    'float32': ('32-true', False),
    'TF32': ('32-true', True),
    'bf16': ('bf16-mixed', True),
    'fp16': ('16-mixed', True),
}


@dataclass(frozen=True)
class Setting:
    "Where everything runs, and how large it is."

    device: torch.device
    tiny: bool
    before: dict  # (method, precision): ms of a step of the loop in an earlier run

    @property
    def on_gpu(self) -> bool:
        return self.device.type == 'cuda'


class TimeUp(BaseException):
    "The time of a section is over; no `Exception`, so that nothing on the way catches it."


# ---- methods, data


def small_size(tiny: bool) -> str:
    "H x W of the images of `small_recipes`."
    return '32x16' if tiny else '64x32'


def small_recipes(tiny: bool) -> dict:  # label: class of the method, settings
    "Every method with all of its losses, small enough for float64 on a CPU."
    size, dim, n_blocks = small_size(tiny), 8 if tiny else 16, 1 if tiny else 2
    reid = dict(size=size, backbone='resnet_small', batch_size=8, images_per_id=4, steps=100)
    nets = dict(dim=dim, n_blocks=n_blocks, discriminator_dim=dim, head='basic', head_layers=(1,), head_widths=(32,))
    joint = dict(size=size, batch_size=4, n_patches=16, steps=100, **nets)
    swap = dict(width=8, embedding_dim=32, structure_dim=8, dilations=(1, 2, 3), n_blocks=n_blocks, hidden=32)
    start = dict(codes_from=0, codes_ramp=0, teacher_from=0, teacher_ramp=0, reference_quirks=False, primary='donor')
    direct = dict(weight_triplet=1.0, weight_circle=0.1, weight_centre=5e-4, augment='strong', erasing=0.5)
    adapted = dict(norm_group=4, use_source='classes', source_batch=8, weight_proxy=0.5, augment='strong', hold_out=0)
    adapted |= dict(k1=6, k2=2, min_samples=2, epochs=2)
    return {
        'direct': (DirectTransfer, DirectConfig(**reid, **direct)),
        'joint default': (JointTransfer, JointConfig(**joint, reid_batch=8)),
        'joint reference': (JointTransfer, JointConfig.reference(**joint)),
        'flip': (FlipReID, FlipConfig(**reid, weights=None, freeze_epochs=0, epochs=10, warmup_epochs=0)),
        'dgnet': (
            DGNet,
            DGNetConfig(
                size=size,
                backbone='resnet_small',
                batch_size=4,
                steps=100,
                pad=4,
                discriminator_dim=dim,
                n_scales=2,
                dropout=(0, 0),
                **swap,
                **start,
            ),
        ),
        'selftrain': (SelfTrain, SelfTrainConfig(**reid, **adapted)),
    }


def full_recipes(tiny: bool) -> dict:  # label: class of the method, settings
    "The settings whose speed counts; their small relatives where it only has to run."
    if tiny:
        return {k: v for k, v in small_recipes(tiny).items() if k != 'selftrain'}  # of noise there are no clusters
    start = dict(codes_from=0, codes_ramp=0, teacher_from=0, teacher_ramp=0)
    return {
        'joint reference': (JointTransfer, JointConfig.reference()),
        'joint default': (JointTransfer, JointConfig()),
        'direct': (DirectTransfer, DirectConfig()),
        'dgnet': (DGNet, DGNetConfig(primary='donor', **start)),
        'flip': (FlipReID, FlipConfig(weights=None, freeze_epochs=0)),
        'joint reference, batch 16': (JointTransfer, JointConfig.reference(batch_size=16)),
        'joint reference, batch 64': (JointTransfer, JointConfig.reference(batch_size=64)),
    }


def noise_split(size: str, ids: int, per_id: int, seed: int) -> ReidSplit:
    "Random pixels as a labelled split of six cameras: good enough where only the speed counts."
    images = np.random.default_rng(seed).integers(0, 256, (ids * per_id, *parse_size(size), 3), np.uint8)
    rows = np.arange(ids * per_id)
    return ReidSplit(None, rows // per_id, rows % 6, images)


def people(size: str, ids: int = 6, per_id: int = 6) -> tuple:  # source, target
    "Rendered people, labelled, and others on six cameras."
    return render_people('game', ids, per_id, size), render_people('camera', np.arange(ids) + 100, per_id, size)


def build(recipe: tuple, source: ReidSplit, target: ReidSplit, device):  # method, batches
    "A method with its batches; the translation starts from closed forms where its settings ask for it."
    kind, config = recipe
    cameras = dict(n_cameras=int(target.camids.max()) + 1) if kind is JointTransfer else {}
    method = kind(config=config, n_ids=source.n_ids, seed=0, device=device, **cameras)
    if kind is JointTransfer:
        method.prepare(source, target)
    return method, method.batches(source, target)


def weights_of(method) -> dict:  # name of a net: (P,) float64 on the CPU
    "All numbers of every net, in a row."
    flat = lambda net: torch.cat([v.detach().double().cpu().flatten() for v in net.state_dict().values()])
    return {name: flat(net) for name, net in method.nets.items()}


def synchronize(device):
    "Wait until the device has done everything."
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def allow_tf32(allowed: bool):
    "float32 products and convolutions on the matrix units, or as float32."
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def kind_for(precision: str) -> str:
    "The name for `fit`; TF32 is allowed as named."
    kind, tf32 = KINDS[precision]
    allow_tf32(tf32)
    return kind


def attempt(note, work, **about):
    "Note what `work()` finds, or the error that it ends with."
    try:
        note(**about, **work())
    except Exception as error:
        traceback.print_exc()
        note(**about, error=f'{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ""}', ok=False)


# ---- 1. the same numbers on the CPU and on the GPU


class DrawnOnCPU(TorchFunctionMode):
    "What is drawn with a generator, on any device, is drawn on the CPU from the same seed, and moved."

    def __init__(self):
        super().__init__()
        self.twins = {}  # the generators are kept, so that no two have one id

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        own = kwargs.get('generator')
        if own is None:
            return func(*args, **kwargs)
        key = id(own), own.initial_seed()
        if key not in self.twins:
            self.twins[key] = own, torch.Generator().manual_seed(own.initial_seed())
        kwargs |= dict(generator=self.twins[key][1], device='cpu')
        return func(*args, **kwargs).to(own.device)


class ScaledOnCPU(Pixels):
    "Images that are scaled on the CPU and sent: a GPU rounds differently."

    def __init__(self, images, device='cpu', on_device='auto'):
        super().__init__(images, 'cpu')
        self.there = device

    def __call__(self, index):
        return super().__call__(index).to(self.there, torch.get_default_dtype())


def sent(value, device, dtype):
    "What a batch holds, on another device."
    if isinstance(value, ScaledOnCPU):
        value.there = device
    if not torch.is_tensor(value):
        return value
    return value.to(device, dtype if value.is_floating_point() else None)


@patch.object(selftrain, 'Pixels', ScaledOnCPU)
def two_steps(recipe, source, target, device, dtype) -> dict:  # losses of both steps, weights before and after, finite
    "The first two steps of a method, in a given arithmetic; images are scaled on the CPU, a GPU rounds differently."
    method, _ = build(recipe, source, target, device)
    there, method.device = method.device, torch.device('cpu')
    batches, method.device = method.batches(source, target), there
    before = weights_of(method)
    for net in method.nets.values():
        net.to(dtype)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    losses, finite = [], True
    try:
        for i in range(2):
            batch = {k: sent(v, device, dtype) for k, v in batches(i).items()}
            with DrawnOnCPU():
                found = method.step(batch, i)
            losses.append({k: v.double().item() for k, v in found.items()})
            gradients = [p.grad for net in method.nets.values() for p in net.parameters() if p.grad is not None]
            finite = finite and all(bool(g.isfinite().all()) for g in gradients)
    finally:
        torch.set_default_dtype(default)
    return dict(losses=losses, before=before, after=weights_of(method), finite=finite)


def relative(a: dict, b: dict) -> dict:  # name: relative difference
    "How far two tables of losses are apart; losses below 1e-3 count as 1e-3."
    return {k: abs(a[k] - b[k]) / max(abs(a[k]), 1e-3) for k in a}


def moved_apart(one: dict, other: dict) -> float:
    "Largest distance of two weights after training, as a share of how far they have moved, over the nets."
    far = lambda k: (one['after'][k] - one['before'][k]).norm()
    return max(((one['after'][k] - other['after'][k]).norm() / far(k)).item() for k in one['after'] if far(k) > 0)


def compare(setting: Setting, recipe, source, target, dtype, tolerance: float) -> dict:
    "Losses of two steps and weights behind them, CPU against the device."
    cpu, there = (two_steps(recipe, source, target, d, dtype) for d in ('cpu', setting.device))
    apart = [relative(a, b) for a, b in zip(cpu['losses'], there['losses'])]
    first = max(apart[0].values())
    row = dict(losses=len(apart[0]), step_1=first, worst_loss=max(apart[0], key=apart[0].get))
    row |= dict(step_2=max(apart[1].values()), weights=moved_apart(cpu, there), gradients_finite=there['finite'])
    row['lines'] = [f'step 1, {k}: {v:.2g}' for k, v in apart[0].items() if not v <= tolerance]
    return row | dict(ok=first <= tolerance and there['finite'])


def equality(setting: Setting, note):
    "Losses of two steps and weights behind them, every method, CPU against the device, with the same random numbers."
    source, target = people(small_size(setting.tiny))
    allow_tf32(False)
    for dtype, tolerance in ((torch.float64, 1e-9), (torch.float32, 1e-4)):
        for label, recipe in small_recipes(setting.tiny).items():
            work = partial(compare, setting, recipe, source, target, dtype, tolerance)
            attempt(note, work, method=label, dtype=str(dtype)[6:])


# ---- 2. where the host waits


def package_line() -> str:
    "The innermost line of this package that is being executed."
    frame = sys._getframe(1)
    while frame is not None and not frame.f_code.co_filename.startswith(str(PACKAGE)):
        frame = frame.f_back
    if frame is None:
        return 'outside the package'
    file = frame.f_code.co_filename
    text = linecache.getline(file, frame.f_lineno).strip()
    return f'{Path(file).relative_to(PACKAGE)}:{frame.f_lineno} `{text[:70]}`'


@contextmanager
def waiting_places(device):  # yields a Counter of lines
    "Count where the host waits for a GPU, as torch's debug mode sees it; nothing is seen on a CPU."
    places = Counter()

    def listen(message, category, filename, lineno, file=None, line=None):
        if 'called a synchronizing' in str(message):
            places[package_line()] += 1

    mode = torch.cuda.set_sync_debug_mode if device.type == 'cuda' else lambda name: None
    with warnings.catch_warnings():
        warnings.simplefilter('always')
        warnings.showwarning = listen
        mode('warn')
        try:
            yield places
        finally:
            mode('default')


def count_waits(setting: Setting, recipe, source, target) -> dict:
    "Waits per step of one method, and the lines on which it waits most often."
    steps = 2 if setting.tiny else 20
    method, batches = build(recipe, source, target, setting.device)
    fit(method, batches, 2)
    with waiting_places(setting.device) as in_batch:
        made = [batches(i) for i in range(2, 4)]
    with waiting_places(setting.device) as in_step:
        for i, batch in enumerate(made, 2):
            method.step(batch, i)
    with waiting_places(setting.device) as in_fit:
        fit(method, batches, 4 + steps, start=4, hooks=[lambda method, done, losses: None])
    row = dict(batch=sum(in_batch.values()) / 2, step=sum(in_step.values()) / 2, fit=sum(in_fit.values()) / steps)
    return row | dict(lines=[f'{count / steps:.3g} {where}' for where, count in in_fit.most_common(10)])


def waiting(setting: Setting, note):
    "Waits per step: in making the batch, in the step, and in the whole loop (with a hook that is told every 20 steps)."
    source, target = people(small_size(setting.tiny))
    for label, recipe in small_recipes(setting.tiny).items():
        attempt(note, partial(count_waits, setting, recipe, source, target), method=label)


# ---- 3. speed and memory


def timed_steps(method, batch, kind, device, repeats: int) -> dict:
    "Median of one step on a batch that is there, the host's share of it, peak memory."
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    whole, host = [], []
    for i in range(3 + repeats):
        synchronize(device)
        start = time.perf_counter()
        if device.type == 'cuda':
            torch.compiler.cudagraph_mark_step_begin()
        with in_precision(kind, method.device):
            method.step(dict(batch), i)
        host.append(time.perf_counter() - start)
        synchronize(device)
        whole.append(time.perf_counter() - start)
    found = {'ms': 1e3 * statistics.median(whole[3:]), 'host_ms': 1e3 * statistics.median(host[3:])}
    found['spread_ms'] = 1e3 * (max(whole[3:]) - min(whole[3:]))
    if device.type == 'cuda':
        found['peak_GiB'] = torch.cuda.max_memory_allocated() / 2**30
    return found


def timed_fit(method, batches, kind, device, repeats: int) -> float:  # ms per step
    "The loop as it is used: batches from the images, checks, means of the losses."
    fit(method, batches, 2, precision=kind)
    synchronize(device)
    start = time.perf_counter()
    fit(method, batches, 2 + repeats, start=2, precision=kind)
    synchronize(device)
    return 1e3 * (time.perf_counter() - start) / repeats


def implied(setting: Setting, label: str, precision: str, ms: float) -> dict:
    "What a step time means for a whole run, and what it was before."
    before = setting.before.get((label, precision))
    found = {} if before is None else dict(before_ms=before, times=before / ms)
    return found | whole_run(label, ms)


def whole_run(label: str, ms: float) -> dict:
    if label == 'joint reference':
        return {'implied': f'thesis run {THESIS_STEPS * ms / 6e4:.1f} min'}
    if label == 'direct':
        return {'implied': f'Market-1501 epoch {MARKET_STEPS * ms / 1e3:.1f} s'}
    return {}


def busiest_kernels(method, batch, kind) -> dict:
    "One step under the profiler: kernels, their time, and where it goes."
    from torch.autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        with in_precision(kind, method.device):
            method.step(dict(batch), 3)
        torch.cuda.synchronize()
    on_device = [e for e in seen.key_averages() if e.device_type == DeviceType.CUDA]
    kernels = [e for e in on_device if not e.is_user_annotation]
    kernels.sort(key=lambda e: -e.self_device_time_total)
    total = sum(e.self_device_time_total for e in kernels)
    lines = [f'{100 * e.self_device_time_total / total:.0f} % x{e.count} {e.key[:80]}' for e in kernels[:10]]
    return dict(kernels=sum(e.count for e in kernels), kernel_ms=total / 1e3, lines=lines)


def look_closer(setting: Setting, note, method, batch, about: dict):
    "In bf16: the busiest kernels, then a step with channels_last, in which the nets remain."
    kind = kind_for('bf16')
    attempt(note, lambda: busiest_kernels(method, batch, kind), **about, precision='bf16')
    for net in method.nets.values():
        net.to(memory_format=torch.channels_last)
    last = {k: v.to(memory_format=torch.channels_last) if v.ndim == 4 else v for k, v in batch.items()}
    work = lambda: timed_steps(method, last, kind, setting.device, 10)
    attempt(note, work, **about, precision='bf16', layout='channels_last')


CLOSER = 'joint reference', 'joint default', 'direct'


def speed(setting: Setting, note):
    "One step and the loop, every method and precision; of three also fp16, channels_last and the busiest kernels."
    repeats = 2 if setting.tiny else 10
    for label, recipe in full_recipes(setting.tiny).items():
        config = recipe[1]
        source, target = (noise_split(config.size, 8 if setting.tiny else 64, 4, seed) for seed in (0, 1))
        method, batches = build(recipe, source, target, setting.device)
        batch = batches(0)
        about = dict(method=label, size=config.size, batch=config.batch_size)
        slow, closer = label == 'flip' or label.endswith(('16', '64')), label in CLOSER
        names = ('bf16', 'TF32', *([] if slow else ['float32']), *(['fp16'] if closer else []))
        for precision in names if setting.on_gpu else ('float32',):
            kind = kind_for(precision)

            def measure(label=label, precision=precision, method=method, batches=batches, batch=batch, kind=kind):
                row = timed_steps(method, batch, kind, setting.device, repeats)
                row['fit_ms'] = timed_fit(method, batches, kind, setting.device, repeats)
                return row | implied(setting, label, precision, row['fit_ms'])

            attempt(note, measure, **about, precision=precision)
        if setting.on_gpu and closer:
            look_closer(setting, note, method, batch, about)
        del method, batches, batch
        release(setting)


# ---- 4. a step as one CUDA graph


def prepared(setting: Setting, recipe, precision: str, last: bool = False):  # method, batches, batch, kind
    "A new method with a batch; `last`: nets with channels last in memory."
    source, target = (noise_split(recipe[1].size, 8 if setting.tiny else 64, 4, seed) for seed in (0, 1))
    kind = kind_for(precision)
    method, batches = build(recipe, source, target, setting.device)
    batch = batches(0)
    if last:
        for net in method.nets.values():
            net.to(memory_format=torch.channels_last)
    return method, batches, batch, kind


def recorded_time(method, batches, kind, repeats: int) -> float:  # ms per step
    "The loop with recorded steps; the recording itself does not count."
    warm = 4 * RecordedSteps.patience + 2  # of a method with two phases by chance, too
    starts = []

    def clock(method, done, losses):
        if done == warm:
            synchronize(method.device)
            starts.append(time.perf_counter())

    fit(method, batches, warm + repeats, hooks=[clock], precision=kind, recorded=True)
    synchronize(method.device)
    return 1e3 * (time.perf_counter() - starts[0]) / repeats


def losses_of(setting: Setting, recipe, source, target, recorded: bool, steps: int) -> dict:  # name: (steps,)
    "The losses of every step."
    method, batches = build(recipe, source, target, setting.device)
    told = []
    hook = lambda method, done, losses: told.append(losses)
    fit(method, batches, steps, hooks=[hook], log_every=1, recorded=recorded)
    return {k: np.array([row[k] for row in told]) for k in told[0]}


def recorded(setting: Setting, note):
    "Losses of 12 small steps, played as CUDA graphs and done one order at a time, which is done twice to compare."
    source, target = people(small_size(setting.tiny))
    allow_tf32(False)
    for label, recipe in small_recipes(setting.tiny).items():

        def measure(recipe=recipe):
            kinds = (False, False, setting.on_gpu)
            one, again, played = (losses_of(setting, recipe, source, target, kind, 12) for kind in kinds)
            apart = lambda a, b: max(float((np.abs(a[k] - b[k]) / np.abs(a[k]).clip(1e-3)).max()) for k in a)
            row = dict(played=apart(one, played), repeated=apart(one, again))
            return row | dict(ok=row['played'] <= max(1e-4, 10 * row['repeated']))

        attempt(note, measure, method=label)


def fast(setting: Setting, note):
    "A step as it is, and recorded as one CUDA graph: with convolutions tried out first, and with channels last."
    precisions = ('float32',) if setting.tiny else ('bf16', 'TF32')
    recipes = full_recipes(setting.tiny)
    for label in ('joint reference', 'joint default', 'direct', 'dgnet'):
        slow = setting.tiny or label == 'dgnet'
        repeats, variants = (2, 1) if slow else (10, 3)
        for precision in precisions:
            for tuned, last in ((False, False), (True, False), (True, True))[:variants]:

                def measure(label=label, precision=precision, tuned=tuned, last=last, repeats=repeats):
                    torch.backends.cudnn.benchmark = tuned
                    method, batches, batch, kind = prepared(setting, recipes[label], precision, last)
                    row = timed_steps(method, batch, kind, setting.device, repeats)
                    row['fit_ms'] = timed_fit(method, batches, kind, setting.device, repeats)
                    row |= implied(setting, label, precision, row['fit_ms'])
                    if setting.on_gpu:
                        row['recorded_ms'] = recorded_time(method, batches, kind, 2 * repeats)
                        row |= {f'recorded: {k}': v for k, v in whole_run(label, row['recorded_ms']).items()}
                    return row

                about = dict(method=label, precision=precision, tuned=tuned, layout='channels_last' if last else '')
                attempt(note, measure, **about)
                release(setting)
    torch.backends.cudnn.benchmark = False


def release(setting: Setting):
    "Give memory back that nobody holds any more."
    gc.collect()
    if setting.on_gpu:
        torch.cuda.empty_cache()


# ---- 5. stop and go on


def trained(setting: Setting, recipe, source, target, steps: int, stop: int = 0) -> dict:  # weights before, after
    "Train; with `stop`, save there, load into a new method and go on."
    method, batches = build(recipe, source, target, setting.device)
    before = weights_of(method)
    fit(method, batches, stop or steps)
    if stop:
        with tempfile.TemporaryDirectory() as folder:
            saved = save_checkpoint(method, folder, stop)
            method, batches = build(recipe, source, target, setting.device)
            start = load_checkpoint(method, saved)
        fit(method, batches, steps, start=start)
    return dict(before=before, after=weights_of(method))


def compare_resumed(setting: Setting, recipe, source, target) -> dict:
    "Largest differences of weights between runs, and as a share of how far they have moved."
    steps = 4 if setting.tiny else 12
    whole, again, resumed = (trained(setting, recipe, source, target, steps, stop) for stop in (0, 0, steps // 2))
    largest = lambda a, b: max((a['after'][k] - b['after'][k]).abs().max().item() for k in a['after'])
    row = dict(resumed=largest(whole, resumed), repeated=largest(whole, again))
    row |= dict(resumed_share=moved_apart(whole, resumed), repeated_share=moved_apart(whole, again))
    row['exact'] = row['resumed'] == 0
    return row | dict(ok=row['exact'] or (setting.on_gpu and row['resumed_share'] < 10 * row['repeated_share']))


def resume(setting: Setting, note):
    "12 steps against 6, saved, loaded, 6 more; and against the very same 12 again, which tells what the device gives."
    source, target = people(small_size(setting.tiny))
    allow_tf32(False)
    for label, recipe in small_recipes(setting.tiny).items():
        attempt(note, partial(compare_resumed, setting, recipe, source, target), method=label)


# ---- 6. bf16 beside float32


def bf16(setting: Setting, note):
    "Losses of 30 joint steps at 128x64, means of 10 steps: what bf16, fp16 and TF32 change against float32."
    steps, size = (3, small_size(True)) if setting.tiny else (30, '128x64')
    window = steps // 3
    source, target = people(size, ids=8)
    recipes = {k: v for k, v in small_recipes(setting.tiny).items() if k.startswith('joint')}
    if not setting.tiny:
        joint = {'joint default': JointConfig, 'joint reference': JointConfig.reference}
        recipes = {k: (JointTransfer, make(size=size)) for k, make in joint.items()}
    for label, recipe in recipes.items():
        curves = {}
        for name in ('float32', 'again', 'TF32', 'bf16', 'fp16'):
            if name in ('again', 'TF32') and not setting.on_gpu:
                continue
            method, batches = build(recipe, source, target, setting.device)
            told = []
            hook = lambda method, done, losses: told.append(losses)  # noqa: B023
            kind = kind_for('float32' if name == 'again' else name)
            fit(method, batches, steps, hooks=[hook], precision=kind, log_every=1)
            curves[name] = {k: np.array([row[k] for row in told]) for k in told[0]}
        for name in (n for n in curves if n != 'float32'):
            smooth = lambda x: np.convolve(x, np.ones(window) / window, 'valid')
            apart = {
                k: float(np.max(np.abs(smooth(curves[name][k]) - smooth(v)) / np.abs(smooth(v)).clip(1e-3)))
                for k, v in curves['float32'].items()
            }
            worst = max(apart, key=apart.get)
            row = dict(method=label, compared=f'{name} to float32', steps=steps, largest=apart[worst], loss=worst)
            note(**row, lines=[f'{k} {v:.3g}' for k, v in apart.items()], ok=apart[worst] < 0.5)


# ---- 7. evaluation at the size of Market-1501


def features(n: int, people: int, seed: int, dim: int) -> tuple:  # (n, dim) float32, pids, camids
    "Features with a person, a camera and noise in them."
    rng, common = np.random.default_rng(seed), np.random.default_rng(0)
    person, camera = (common.standard_normal((k, dim), np.float32) for k in (people + 1, 6))
    pids, camids = rng.integers(1, people + 1, n), rng.integers(0, 6, n)
    x = rng.standard_normal((n, dim), np.float32) * 2 + 1.2 * person[pids] + camera[camids]
    return np.maximum(x, 0), pids, camids


def on_both(setting: Setting, work, *arrays, twice: bool = True) -> dict:  # seconds, MiB on the GPU, both results
    "Run `work` on arrays on the CPU and on the device (there twice: the second time counts)."
    start = time.perf_counter()
    cpu = work(*(torch.from_numpy(a) for a in arrays))
    found = dict(cpu_s=time.perf_counter() - start)
    there = [torch.from_numpy(a).to(setting.device) for a in arrays]
    for _ in range(1 + (twice and setting.on_gpu)):
        if setting.on_gpu:
            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
        synchronize(setting.device)
        start = time.perf_counter()
        value = work(*there)
        synchronize(setting.device)
        found['device_s'] = time.perf_counter() - start
    if setting.on_gpu:
        used = torch.cuda.max_memory_allocated() - held
        found |= dict(device_MiB=used / 2**20, works_on='GPU' if used > 2**20 else 'CPU, whatever it is given')
    return found | dict(results=(cpu, value))


def evaluation(setting: Setting, note):
    "Ranking, re-ranking, lists and distances of distributions, CPU against the device."
    from synthreid.metrics.distances import top_k
    from synthreid.metrics.evaluate import evaluate_reid
    from synthreid.metrics.frechet import frechet_between, kernel_distance, precision_recall
    from synthreid.metrics.ranking import evaluate_ranking, rank_metrics
    from synthreid.metrics.reranking import k_reciprocal_distance

    allow_tf32(False)
    nq, ng, ids, dim = (100, 600, 40, 128) if setting.tiny else (3368, 15913 + 3819, 750, 2048)
    (q, qp, qc), (g, gp, gc) = features(nq, ids, 1, dim), features(ng, ids, 2, dim)
    lot = np.random.default_rng(3).random(ng)
    gp[lot < 0.14], gp[lot > 0.81] = 0, -1  # distractors; junk
    labels = (qp, gp, qc, gc)

    def told(name, both, same, ok, **more):
        both.pop('results')
        note(function=name, queries=nq, gallery=ng, **both, **more, difference=same, ok=ok)

    def ranking():
        both = on_both(setting, lambda q, g: evaluate_ranking(q, g, *labels, protocol='market1501'), q, g)
        a, b = both['results']
        apart = max(abs(a.mAP - b.mAP), float(np.abs(a.cmc - b.cmc).max()))
        told('evaluate_ranking', both, apart, apart < 1e-3, mAP=a.mAP)

    def lists():
        both = on_both(setting, lambda q, g: top_k(q, g, 10), q, g)
        (a, x), (b, y) = both['results']
        share = float((a != b).mean())
        told('top_k', both, float(np.abs(x - y).max()), share < 1e-3, other_images=share)

    def reranking():
        keep = gp != -1
        part = slice(None, None, 1 if setting.tiny else 4)
        some, shelf = q[part], g[keep][part]
        both = on_both(setting, k_reciprocal_distance, some, shelf)
        a, b = both['results']
        rest = qp[part], gp[keep][part], qc[part], gc[keep][part]
        apart = abs(rank_metrics(a, *rest).mAP - rank_metrics(b, *rest).mAP)
        far = float((np.abs(a - b) > 1e-3).mean())
        told('k_reciprocal_distance, a quarter', both, apart, apart < 1e-3, other_distances=far)
        x, y = (torch.from_numpy(f).to(setting.device) for f in (q, g[keep]))
        for _ in range(2):
            synchronize(setting.device)
            start = time.perf_counter()
            k_reciprocal_distance(x, y)
            seconds = time.perf_counter() - start
        note(function='k_reciprocal_distance', queries=nq, gallery=int(keep.sum()), device_s=seconds)

    def whole():
        query, gallery = (
            ReidSplit(None, p, c, np.random.default_rng(n).integers(0, 256, (n, 64, 32, 3), np.uint8))
            for n, p, c in ((nq, qp, qc), (ng, gp, gc))
        )
        start = torch.randn(64 * 32 * 3, dim, generator=torch.Generator().manual_seed(0))

        def work(weight):
            embed = lambda x: x.flatten(1) @ weight
            return evaluate_reid(embed, query, gallery, device=weight.device)

        both = on_both(setting, work, start.numpy(), twice=False)
        a, b = both['results']
        both['works_on'] = 'embedding on the device; see the time for the ranking'
        told('evaluate_reid, one layer', both, abs(a.mAP - b.mAP), abs(a.mAP - b.mAP) < 1e-3)

    def distributions():
        n = 300 if setting.tiny else 5000
        x, y = features(n, ids, 4, dim)[0], features(n, ids, 5, dim)[0] * np.float32(1.1)
        pair = lambda found: (found.precision, found.recall)
        for function, numbers in (
            (frechet_between, lambda v: (v,)),
            (kernel_distance, lambda v: (v,)),
            (precision_recall, pair),
        ):
            both = on_both(setting, function, x, y, twice=False)
            a, b = map(numbers, both.pop('results'))
            apart = max(abs(u - v) / max(abs(u), 1e-6) for u, v in zip(a, b))
            note(function=function.__name__, queries=n, gallery=n, **both, difference=apart, ok=apart < 1e-3)

    for work in (ranking, lists, reranking, distributions, whole):
        try:
            work()
        except Exception as error:
            traceback.print_exc()
            note(function=work.__name__, error=f'{type(error).__name__}: {error}', ok=False)


# ---- 8. the command line


def synthreid_command(*arguments) -> list:
    "What a user types, for this very Python."
    run = 'from synthreid.cli import main; raise SystemExit(main())'
    return [sys.executable, '-c', run, *map(str, arguments)]


def command(setting: Setting, note):
    "`synthreid train joint` is killed behind a checkpoint, goes on, and is evaluated."
    from synthreid.render.folder import render_folder

    size, steps = ('32x16', 20) if setting.tiny else ('64x32', 300)
    settings = f'--size {size} --steps {steps} --batch-size 4 --reid-batch 8 --dim 8 --n-blocks 1 --discriminator-dim 8'
    settings += ' --head basic --head-layers [1] --head-widths [16] --n-patches 16 --sample-every 0'
    settings += f' --checkpoint-every {steps // 5} --device {setting.device.type}'
    here = filter(None, [os.environ.get('PYTHONPATH')])
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(PACKAGE.parent), *here]))
    with tempfile.TemporaryDirectory() as root:
        root = Path(root)
        for domain in ('game', 'camera'):
            render_folder(root / domain, domain, ids=8, per_id=6, size=size, workers=1, progress=False)
        data = ('--source', root / 'game', '--target', root / 'camera')
        train = synthreid_command('train', 'joint', *data, '--out', root / 'run', *settings.split())
        start = time.perf_counter()
        log = open(root / 'log', 'w')
        victim = subprocess.Popen(train, stdout=log, stderr=log, env=environment)
        try:
            while not list_checkpoints(root / 'run' / 'checkpoints'):
                if victim.poll() is not None:
                    text = (root / 'log').read_text()[-2000:]
                    raise RuntimeError(f'the run ended before it could be killed:\n{text}')
                time.sleep(0.01)
        finally:
            victim.kill()
            victim.wait()
            log.close()
        killed = list_checkpoints(root / 'run' / 'checkpoints')[-1].name
        note(what='train, SIGKILL', seconds=time.perf_counter() - start, last=killed, ok=True)
        evaluate = synthreid_command('evaluate', root / 'run', '--target', root / 'camera')
        for what, argv in (('train, go on', train), ('evaluate', [*evaluate, '--device', setting.device.type])):
            start = time.perf_counter()
            done = subprocess.run(argv, capture_output=True, text=True, env=environment)
            seconds, said = time.perf_counter() - start, (done.stdout.strip() or done.stderr.strip()).splitlines()
            if done.returncode:
                print(done.stdout[-1500:], done.stderr[-3000:], sep='\n')
            last = list_checkpoints(root / 'run' / 'checkpoints')[-1].name
            ok = done.returncode == 0 and last == f'step_{steps:08d}'
            note(what=what, seconds=seconds, last=last, said=said[-1][:120] if said else '', ok=ok)


# ---- 9. compiled


def first_steps(method, batch, kind, device, steps: int = 3) -> float:  # seconds
    "The first steps of a compiled method, in which it is compiled."
    start = time.perf_counter()
    for i in range(steps):
        torch.compiler.cudagraph_mark_step_begin()
        with in_precision(kind, method.device):
            method.step(dict(batch), i)
    synchronize(device)
    return time.perf_counter() - start


def compile_and_time(setting: Setting, label, recipe, precision, mode: str, last: bool):
    "A compiled method: how long it takes to compile, a step, a step of the loop, recorded too."
    import torch._dynamo as dynamo

    dynamo.reset()
    dynamo.utils.counters.clear()
    method, batches, batch, kind = prepared(setting, recipe, precision, last)
    compile_nets(method, **dict(backend='inductor', mode=mode) if setting.on_gpu else dict(backend='aot_eager'))
    row = dict(first_s=first_steps(method, batch, kind, setting.device))
    repeats = 2 if setting.tiny else 20
    row |= timed_steps(method, batch, kind, setting.device, repeats)
    if mode == 'default':  # `fit` does not tell where a step begins, which graphs inside of nets have to know
        row['fit_ms'] = timed_fit(method, batches, kind, setting.device, repeats)
    row |= implied(setting, label, precision, row.get('fit_ms', row['ms']))
    row |= dict(graphs=dynamo.utils.counters['stats'].get('unique_graphs', 0))
    breaks = dynamo.utils.counters['graph_break']
    row |= dict(breaks=sum(breaks.values()))
    if setting.on_gpu and mode == 'default':
        row['recorded_ms'] = recorded_time(method, batches, kind, 2 * repeats)
    return row | dict(lines=[f'{n} {" ".join(str(k).split())[:100]}' for k, n in breaks.most_common(6)])


def compiled(setting: Setting, note):
    "`compile_nets` in two modes: the first steps, then a step, the loop, and the loop with recorded steps."
    recipes = full_recipes(setting.tiny)
    for label, precision, mode, last in [('direct', 'float32', 'default', False)] if setting.tiny else COMPILED:
        work = partial(compile_and_time, setting, label, recipes[label], precision, mode, last)
        layout = 'channels_last' if last else ''
        attempt(note, work, method=label, precision=precision, mode=mode, layout=layout)
        release(setting)


COMPILED = [  # in order of value: method, precision, mode, channels_last
    ('joint reference', 'bf16', 'default', True),
    ('joint default', 'bf16', 'default', True),
    ('direct', 'TF32', 'default', True),
    ('joint reference', 'bf16', 'reduce-overhead', True),
    ('joint reference', 'TF32', 'default', True),
    ('joint reference', 'bf16', 'default', False),
    ('direct', 'bf16', 'default', True),
    ('joint default', 'bf16', 'reduce-overhead', True),
    ('joint default', 'TF32', 'default', True),
]


# ---- everything, and what is written of it

SECTIONS = {  # in order of value: limit in seconds
    equality: 60,
    waiting: 45,
    recorded: 45,
    fast: 130,
    compiled: 200,
    speed: 120,
    resume: 40,
    bf16: 60,
    evaluation: 75,
    command: 90,
}


@contextmanager
def time_limit(seconds: float):
    "Raise `TimeUp` in the body after so many seconds."

    def ring(number, frame):
        raise TimeUp(f'{seconds:.0f} s are over')

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.001))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def said(value) -> str:
    "A value in a line or a table."
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def section(work, limit_s: float, setting: Setting, results: dict, out: Path) -> bool:  # True: nothing failed
    "Run one section; whatever it finds is printed and saved at once."
    found = results['sections'][work.__name__] = dict(about=work.__doc__, limit_s=round(limit_s, 1), rows=[])

    def note(**row):
        found['rows'].append(row)
        told = ', '.join(f'{k} {said(v)}' for k, v in row.items() if k != 'lines')
        print(f'{work.__name__}: {told}', flush=True)
        out.write_text(json.dumps(results, indent=1))

    start = time.perf_counter()
    try:
        with time_limit(limit_s):
            work(setting, note)
    except (Exception, TimeUp) as error:
        traceback.print_exc()
        found['error'] = ''.join(traceback.format_exception(error))
    found['seconds'] = round(time.perf_counter() - start, 1)
    release(setting)
    out.write_text(json.dumps(results, indent=1))
    failed = 'error' in found or any(row.get('ok') is False for row in found['rows'])
    print(f'== {work.__name__}: {found["seconds"]} s{", FAILED" if failed else ""}', flush=True)
    return not failed


def machine(device: torch.device) -> dict:
    "What everything was measured on."
    try:
        cpu = next(s.split(':')[1].strip() for s in open('/proc/cpuinfo') if s.startswith('model name'))
    except (OSError, StopIteration):
        cpu = platform.processor()
    about = dict(date=str(date.today()), cpu=cpu, cores=len(os.sched_getaffinity(0)), torch=torch.__version__)
    about |= dict(python=platform.python_version(), synthreid=synthreid.__version__, device=str(device))
    if device.type == 'cuda':
        about |= dict(card=torch.cuda.get_device_name(device), cuda=torch.version.cuda)
        about['cudnn'] = torch.backends.cudnn.version()
        try:
            query = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
            about['driver'] = subprocess.run(query, capture_output=True, text=True).stdout.strip()
        except OSError:
            about['driver'] = 'not known'
    return about


def markdown(results: dict) -> str:
    "The results as a page."
    about = results['machine']
    where = f'{about["card"]}, driver {about["driver"]}' if 'card' in about else about['cpu']
    lines = ['# What a GPU shows', '', f'{where}; torch {about["torch"]}, {about["cores"]} cores ({about["cpu"]}),']
    lines += [f'Python {about["python"]}, synthreid {about["synthreid"]}, {about["date"]}. Made by', '']
    lines += [f'    python benchmarks/gpu.py {results["arguments"]}', '', 'Times are medians; `ms` is one step']
    lines += ['on a batch that is there, `host_ms` what the host is busy with, `fit_ms` a step of the whole loop.']
    for name, found in results['sections'].items():
        lines += ['', f'## {name}', '', f'{found["about"]} ({found.get("seconds", "?")} s)', '']
        columns = list(dict.fromkeys(k for row in found['rows'] for k in row if k != 'lines'))
        if columns:
            lines += ['| ' + ' | '.join(columns) + ' |', '|' + '---|' * len(columns)]
            lines += ['| ' + ' | '.join(said(row.get(k, '')) for k in columns) + ' |' for row in found['rows']]
        for row in (row for row in found['rows'] if row.get('lines')):
            which = (row.get('method'), row.get('precision', row.get('compared', row.get('dtype'))))
            lines += ['', ', '.join(filter(None, which)) + ':', '']
            lines += [f'- {line}' for line in row['lines']]
        if 'error' in found:
            lines += ['', 'It ended with', '', '```', found['error'].strip(), '```']
    return '\n'.join(lines) + '\n'


def earlier(path: Path | None) -> dict:  # (method, precision): ms of a step of the loop
    "What an earlier run measured."
    sections = json.loads(path.read_text())['sections'] if path else {}
    rows = sections.get('speed', {}).get('rows', [])
    return {(row['method'], row['precision']): row['fit_ms'] for row in rows if 'fit_ms' in row}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {work.__name__: work for work in SECTIONS}
    parser.add_argument('sections', nargs='*', choices=[[], *names], metavar='SECTION', help=', '.join(names))
    parser.add_argument('--device', default='cuda')
    parser.add_argument('--tiny', action='store_true', help='small nets, few steps: does it run?')
    parser.add_argument('--minutes', type=float, default=8.0, help='of all sections together')
    parser.add_argument('--out', type=Path, default=Path(__file__).with_name('gpu.json'))
    parser.add_argument('--before', type=Path, help='gpu.json of an earlier run, to compare with')
    parser.add_argument('--markdown', type=Path, help='also write the results as a page')
    args = parser.parse_args()
    setting = Setting(torch.device(args.device), args.tiny, earlier(args.before))
    if setting.on_gpu and not torch.cuda.is_available():
        print('expected a GPU, found none: use --device cpu --tiny', file=sys.stderr)
        return 2
    results = dict(machine=machine(setting.device), arguments=' '.join(sys.argv[1:]), sections={})
    print(', '.join(f'{k} {v}' for k, v in results['machine'].items()), flush=True)
    end, good = time.perf_counter() + 60 * args.minutes, True
    for name in args.sections or names:
        left = end - time.perf_counter()
        if left < 5:
            print(f'== {name}: left out, the time is over', flush=True)
            continue
        limit = left if args.tiny else min(left, SECTIONS[names[name]])
        good = section(names[name], limit, setting, results, args.out) and good
        if args.markdown:
            args.markdown.write_text(markdown(results))
    return 0 if good else 1


if __name__ == '__main__':
    raise SystemExit(main())
