"""Processor seconds until the command line has answered: `startup.py NAME=CHECKOUT ... --out startup.json`.

Every question is asked `--times` times of every checkout in turn, in processes of their own; the median is told."""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

QUESTIONS = [
    '--version',
    '--help',
    'tarin',
    'train --help',
    'train joint --help',
    'train jont',
    'train joint --stpes 5 --source a --out b',
    'evaluate --help',
    'doctor FOLDER',
]
MAIN = 'import sys; from synthreid.cli import main; sys.exit(main())'


def seconds(checkout, words, cwd) -> float:
    "User and system time of one process."
    env = os.environ | {'PYTHONPATH': str(checkout)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, '-c', MAIN, *words], env=env, cwd=cwd, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('checkouts', nargs='+', help='NAME=FOLDER')
    parser.add_argument('--times', type=int, default=5)
    parser.add_argument('--out', default='startup.json')
    args = parser.parse_args()
    checkouts = dict(c.split('=', 1) for c in args.checkouts)
    found = {}
    with tempfile.TemporaryDirectory() as cwd:
        words = f'render --domain camera --ids 8 --per-id 6 --size 64x32 --workers 1 --out {cwd}/camera'.split()
        seconds(next(iter(checkouts.values())), words, cwd)
        for question in QUESTIONS:
            words = [f'{cwd}/camera' if w == 'FOLDER' else w for w in question.split()]
            runs = [
                {name: seconds(folder, words, cwd) for name, folder in checkouts.items()} for _ in range(args.times)
            ]
            found[question] = {name: [round(r[name], 3) for r in runs] for name in checkouts}
            medians = {name: statistics.median(values) for name, values in found[question].items()}
            print(f'| `{question}` | ' + ' | '.join(f'{m:.2f}' for m in medians.values()) + ' |', flush=True)
    Path(args.out).write_text(json.dumps(found, indent=1))


if __name__ == '__main__':
    main()
