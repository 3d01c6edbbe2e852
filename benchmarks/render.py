"""How many pictures per second the renderer makes: `python benchmarks/render.py` prints a markdown table.

Each row renders to JPEG files with all effects of its domain (`render_folder`), start-up of the processes and
painting of the backgrounds included. The last column divides by the processors' own time instead of the clock's,
and so does not depend on what else the machine was doing.
"""

import argparse
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from synthreid.core import usable_cores
from synthreid.render.folder import render_folder


def processor() -> str:
    "Model name of the processor as the system tells it."
    try:
        return next(l.split(':')[1].strip() for l in open('/proc/cpuinfo') if l.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or 'unknown processor'


def cpu_seconds() -> float:
    "Processor time of this process and its finished children."
    return sum(
        r.ru_utime + r.ru_stime
        for r in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def measure(
    domain: str, size: str, ids: int, workers: int, people: str
) -> tuple[float, float]:  # pictures per second, pictures per processor second
    "Render `ids` identities with ten pictures each."
    with tempfile.TemporaryDirectory() as d:
        cpu, clock = cpu_seconds(), time.perf_counter()
        root = render_folder(
            Path(d) / 'set',
            domain,
            ids=ids,
            per_id=10,
            size=size,
            test_fraction=0,
            workers=workers,
            progress=False,
            people=people,
        )
        clock = time.perf_counter() - clock
        n = len(list(root.rglob('*.jpg')))
    return n / clock, n / (cpu_seconds() - cpu)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--workers', type=int, default=usable_cores(), help='processes')
    parser.add_argument('--scale', type=float, default=1.0, help='multiplies the number of pictures')
    parser.add_argument('--people', nargs='+', default=['classic'], help='classic, realistic')
    parser.add_argument('--sizes', nargs='+', default=['64x32', '128x64', '256x128'], help='H x W')
    args = parser.parse_args()
    print(
        f'{usable_cores()}-core {platform.machine().replace("_", "-")} CPU ({processor()}), Python'
        f' {platform.python_version()}, numpy {np.__version__}, {args.workers} worker processes\n'
    )
    heading = 'domain | people | size | pictures | pictures per second | per second of one core'
    print(f'| {heading} |\n|---|---|---|---|---|---|')
    for domain in ('game', 'camera'):
        for size in args.sizes:
            for people in args.people:
                ids = max(1, round({'64x32': 300, '128x64': 120}.get(size, 40) * args.scale))
                rate, per_core = measure(domain, size, ids, args.workers, people)
                print(f'| {domain} | {people} | {size} | {ids * 10} | {rate:.0f} | {per_core:.0f} |', flush=True)
