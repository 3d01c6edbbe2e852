"""Makes every notebook under `nbs/` one pytest item, run as `nbdev_test` would, and closes with `N passed, N failed`.

Rules: notebooks and folders that start with `_` or `.` are left out; cells flagged `#| eval: false` are not run;
cells with a flag from `tst_flags` in settings.ini (`notest`, `slow`, `gpu`) run only with `--flags`, as in
`pytest --flags "slow gpu"`. The markers `slow` and `gpu` on tests in `tests/` follow the same option.
"""

import json
import os
import re
from configparser import ConfigParser
from pathlib import Path
from subprocess import TimeoutExpired

import pytest
from forked import Forked, run_notebook

root = Path(__file__).parent
settings = ConfigParser(delimiters=['='])
settings.read(root / 'settings.ini', encoding='utf-8')
test_flags = settings['DEFAULT']['tst_flags'].split()

# Before torch is imported, hence here. One thread per worker: they fill the cores already. Looking for a GPU must
# not begin to use it: what has begun cannot be divided.
OWN = dict(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='passive', MPLBACKEND='Agg', PYTORCH_NVML_BASED_CUDA_CHECK='1')
for name, value in OWN.items():
    os.environ.setdefault(name, value)


def pytest_addoption(parser):
    parser.addoption('--flags', default='', help='cells and tests to run that are skipped otherwise, e.g. "slow gpu"')
    parser.addini('notebook_timeout', 'seconds after which a notebook has failed', default='1800')


def pytest_xdist_auto_num_workers(config):
    "`-n auto`: the cores this process may use, at most 8 (a worker may hold 1.5 GB)."
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    return min(cores, 8)


# ---- notebooks as test items


def pytest_collect_file(file_path, parent):
    if file_path.suffix == '.ipynb' and file_path.name[0] not in '_.':
        return NotebookFile.from_parent(parent, path=file_path)


class NotebookFile(pytest.File):
    def collect(self):
        yield Notebook.from_parent(self, name='notebook')


class NotebookFailed(Exception):
    pass


class Notebook(pytest.Item):
    "One notebook in a process of its own: nothing leaks into the next one, and its memory is given back."

    def runtest(self):
        limit = float(self.config.getini('notebook_timeout'))
        told = self.path, test_flags, self.config.option.flags.split(), root
        process = Forked(run_notebook, *told, cwd=self.path.parent)
        try:
            status = process.wait(limit)
        except TimeoutExpired:
            status = None
        process.end_all()
        output = ''.join(process.said())
        if status is None:
            raise NotebookFailed(f'{self.path.name}: still running after {limit:.0f} s, stopped\n{output[-20_000:]}')
        if status:
            raise NotebookFailed(self.failed_cell(output) + output[-20_000:] + f'(exit status {status})')

    def failed_cell(self, output):
        "The source of the cell that the traceback is about."
        found = re.search(r'While Executing Cell #(\d+)', output)
        cells = json.loads(self.path.read_text(encoding='utf-8'))['cells']
        if not found or not 0 < int(found[1]) <= len(cells):
            return ''
        source = ''.join(cells[int(found[1]) - 1]['source'])
        return f'{self.path.name}, cell {found[1]}:\n\n' + re.sub('^', '    ', source, flags=re.M) + '\n\n'

    def repr_failure(self, excinfo, style=None):
        return str(excinfo.value) if excinfo.errisinstance(NotebookFailed) else super().repr_failure(excinfo, style)

    def reportinfo(self):
        return self.path, 0, self.path.name  # a line, which skipping asks for


# ---- which items, in which order


def pytest_collection_modifyitems(config, items):
    wanted = config.option.flags.split()
    for item in items:
        for flag in test_flags:
            if item.get_closest_marker(flag) and flag not in wanted:
                item.add_marker(pytest.mark.skip(reason=f'runs with --flags {flag}'))
    # Where a browser is certain, tests/test_jupyterlab.py runs every cell of the explorers' notebooks, and drives them.
    if os.environ.get('SYNTHREID_BROWSER') == 'required' and 'slow' not in wanted:
        for item in items:
            if isinstance(item, Notebook) and item.path.parent.name == 'explorers':
                item.add_marker(pytest.mark.skip(reason='run in JupyterLab; by itself with --flags slow'))
    # What takes longest starts first, so that no worker is left alone with it: tests marked `long`, then notebooks.
    items.sort(key=lambda item: 0 if item.get_closest_marker('long') else 1 if isinstance(item, Notebook) else 2)


# ---- the closing line

exit_status = 0


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session, exitstatus):
    global exit_status
    exit_status = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    "Errors in collection, crashed workers and broken-off runs count as failed."
    reporter = config.pluginmanager.get_plugin('terminalreporter')
    if reporter is None or hasattr(config, 'workerinput') or config.option.collectonly:
        return
    count = lambda *kinds: sum(len(reporter.stats.get(kind, [])) for kind in kinds)
    passed, failed, skipped = count('passed', 'xpassed'), count('failed', 'error'), count('skipped', 'xfailed')
    if exit_status not in (0, 5):
        failed = max(failed, 1)
    reporter.write_line(f'{passed} passed, {failed} failed' + (f', {skipped} skipped' if skipped else ''))
