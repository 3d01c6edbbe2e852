"""The explorer notebooks in a real JupyterLab, their pages offline, the dashboard through Voila.

Each notebook is run whole in JupyterLab (with fewer training steps than in the saved one), then clicked, dragged and keyed;
what happened is asserted in the page and in the kernel. One server for the module. Every wait is for a state.
"""

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from browser import PATIENCE, browser_page, chromium_path, painted
from test_explorer_live import REPORT, SETUP, STOPPED

from synthreid.visual.explorer import export_page, front_end

NOTEBOOKS = Path(__file__).parent.parent / 'nbs' / 'explorers'
STATIC = NOTEBOOKS.parent.parent / 'synthreid' / 'visual' / 'static'


def quick(source):
    "A cell with fewer training steps; asserts about what training achieves are left out."
    source = re.sub(r'demo_rows\((steps=)?\d+\)', 'demo_rows(steps=24)', source)
    source = source.replace('EmbeddingExplorer(**points)', 'EmbeddingExplorer(**points, umap=False)').replace(
        'board.features(n=120)', 'board.features(n=120, umap=False)'
    )  # compiling UMAP takes longer than all the rest
    source = source.replace("'../../tests/", f"'{NOTEBOOKS.parent.parent.as_posix()}/tests/")  # it runs elsewhere
    return '\n'.join(line for line in source.split('\n') if not line.startswith('assert '))


class Server:
    "JupyterLab on a port of its own, with settings in a temporary folder."

    def __init__(self, folder):
        self.folder, self.token = folder, secrets.token_hex(16)
        for name, settings in {
            'apputils-extension/notification': {'fetchNews': 'false', 'checkForUpdates': False},
            'notebook-extension/tracker': {'windowingMode': 'none'},
        }.items():
            file = folder / 'settings' / '@jupyterlab' / f'{name}.jupyterlab-settings'
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(settings))
        (folder / 'work').mkdir()
        homes = {
            k: str(folder / k.lower())
            for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR')
        }
        env = (
            os.environ
            | homes
            | {
                'JUPYTERLAB_SETTINGS_DIR': str(folder / 'settings'),
                'JUPYTERLAB_WORKSPACES_DIR': str(folder / 'workspaces'),
                'JUPYTER_TOKEN': self.token,
                'OMP_NUM_THREADS': '1',
                'PYTHONPATH': os.pathsep.join(
                    [str(NOTEBOOKS.parent.parent), *filter(None, [os.environ.get('PYTHONPATH')])]
                ),
            }
        )
        self.log = open(folder / 'log', 'w+')
        self.process = subprocess.Popen(
            [
                sys.executable,
                '-m',
                'jupyterlab',
                '--no-browser',
                '--allow-root',
                '--ServerApp.ip=127.0.0.1',
                f'--ServerApp.root_dir={folder / "work"}',
                '--LabApp.expose_app_in_browser=True',
                '--LabApp.extension_manager=readonly',
                '--LabApp.news_url=None',
            ],
            env=env,
            stdout=self.log,
            stderr=self.log,
            start_new_session=True,
        )
        file = folder / 'jupyter_runtime_dir' / f'jpserver-{self.process.pid}.json'  # written when it listens
        self.port = await_server(
            lambda: file.exists() and json.loads(file.read_text() or '{}').get('port'), self.process, self.log
        )

    def stop(self):
        stop(self.process)
        self.log.close()


def await_server(find, process, log, seconds=PATIENCE / 1000):
    "What `find` finds as soon as it finds something; how the server failed, where it did."
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if found := find():
            return found
        time.sleep(0.05)
    log.flush()
    log.seek(0)
    raise AssertionError(f'no server:\n{log.read()[-3000:]}')


def stop(process):
    "Ask the server and its kernels to end; insist."
    for sign in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sign)
        except ProcessLookupError:
            return
        try:
            process.wait(20)
            return
        except subprocess.TimeoutExpired:
            pass


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    chromium_path()
    pytest.importorskip('jupyterlab')
    s = Server(tmp_path_factory.mktemp('lab'))
    try:
        yield s
    finally:
        s.stop()


class Notebook:
    "A notebook open in JupyterLab, with its kernel."

    def __init__(self, page):
        self.page = page

    def run_all(self):
        self.page.evaluate(
            "() => { window.ran = null; jupyterapp.commands.execute('notebook:run-all-cells').then(() => window.ran ="
            " 'done', e => window.ran = String(e)) }"
        )
        self.page.wait_for_function(
            "window.ran !== null ||"
            " document.querySelector('.jp-RenderedText[data-mime-type=\"application/vnd.jupyter.error\"],"
            " .jp-OutputArea-output[data-mime-type=\"application/vnd.jupyter.stderr\"] .ansi-red-fg')"
        )
        errors = self.page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        assert errors.count() == 0, errors.first.inner_text()
        assert self.page.evaluate('window.ran') == 'done'

    def widget(self, kind):
        "The explorer that has such a part, connected and drawn."
        found = self.page.locator('.sr-explorer[data-kernel=live]', has=self.page.locator(kind)).first
        found.wait_for()
        self.until(lambda: int(found.get_attribute('data-ready')) > 0)
        found.scroll_into_view_if_needed()
        return found

    def kernel(self, expression):
        "Value of a Python expression in the kernel, through JSON."
        got = self.page.evaluate(
            '''async code => {
            const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel, future = kernel.requestExecute({code, store_history: false}); let out = null;
            future.onIOPub = m => { if (m.header.msg_type === 'stream' && m.content.name === 'stdout') out = (out || '') + m.content.text; if (m.header.msg_type === 'error') out = 'ERROR ' + m.content.traceback.join('\\n'); };
            await future.done; return out; }''',
            f'import json as _j, numpy as _n; print(_j.dumps({expression}, default=lambda x: x.tolist()))',
        )
        assert got and not got.startswith('ERROR'), got
        return json.loads(got)

    def until(self, f, seconds=PATIENCE / 1000):
        "Wait until a condition holds; each look is a round trip to the browser or to the kernel."
        end = time.monotonic() + seconds
        while not (found := f()):
            assert time.monotonic() < end, f'still {found!r} after {seconds} s'
        return found

    def tell(self, code):
        self.kernel(f'exec({code!r})')

    def n_cells(self):
        return self.page.evaluate("jupyterapp.shell.currentWidget.content.model.cells.length")

    def keep_cells(self, part):
        "`d d` in a focused widget, or on the first button or slider of it, deletes no cell, and arrows do not leave it."
        n = self.n_cells()
        for focused, keys in (
            (part, ('d', 'd', 'ArrowDown', 'd', 'd')),
            (part.locator('button:enabled:visible, input[type=range]:visible').first, 'dd'),
        ):
            focused.focus()
            for key in keys:
                self.page.keyboard.press(key)
            painted(self.page)
            assert self.n_cells() == n and part.evaluate('e => e.contains(document.activeElement)')

    def lose_cell(self):
        "`d d` anywhere else does delete a cell: without the guard, `keep_cells` would fail."
        n = self.n_cells()
        self.insert('here = 1')
        self.page.keyboard.press('Escape')
        self.page.keyboard.press('d')
        self.page.keyboard.press('d')
        self.until(lambda: self.n_cells() == n)

    def insert(self, code):
        "A new cell at the end, active."
        n = self.n_cells()
        self.page.evaluate(
            """async code => { const book = jupyterapp.shell.currentWidget.content;
            book.activeCellIndex = book.model.cells.length - 1;
            await jupyterapp.commands.execute('notebook:insert-cell-below'); book.activeCell.model.sharedModel.setSource(code); book.activeCell.node.scrollIntoView();
            await jupyterapp.commands.execute('notebook:enter-command-mode'); }""",
            code,
        )
        self.until(lambda: self.n_cells() == n + 1)


def note_outside(page, port, outside):
    "Every address that is asked for, whether it answers or not, but those of the server itself."
    own = (f'http://127.0.0.1:{port}/', f'ws://127.0.0.1:{port}/', 'data:', 'blob:', 'about:')
    for event in ('request', 'websocket'):
        page.on(event, lambda r: None if r.url.startswith(own) else outside.append(r.url))


@contextmanager
def notebook(server, name, dark=False):
    "A copy of an explorer notebook, run whole in JupyterLab."
    book = json.loads((NOTEBOOKS / f'{name}.ipynb').read_text(encoding='utf-8'))
    for cell in book['cells']:
        cell['source'] = ''.join(cell['source'])
        if cell['cell_type'] == 'code':
            cell['source'], cell['outputs'] = quick(cell['source']), []
    book['metadata'].pop('widgets', None)
    (server.folder / 'work' / f'{name}.ipynb').write_text(json.dumps(book))
    with browser_page(width=1300, height=1000, offline=False, dark=dark) as page:
        outside = []
        note_outside(page, server.port, outside)
        page.goto(f'http://127.0.0.1:{server.port}/doc/tree/{name}.ipynb?token={server.token}&reset')
        page.wait_for_function(
            "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
        )
        n = Notebook(page)
        n.run_all()
        try:
            yield n
            assert not outside, 'nothing is asked of other servers'
        finally:
            page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")


def looks_dark(page):
    "Whether the widgets are dark, ink and paper; in an exported page the page itself, too."
    light = np.array(
        page.evaluate(
            """() => [...document.querySelectorAll('.sr-explorer, body.jp-Notebook')].map(e => ['backgroundColor', 'color'].map(k =>
        getComputedStyle(e)[k].match(/[\\d.]+/g).slice(0, 3).reduce((sum, v) => sum + v / 3 * (getComputedStyle(e)[k].startsWith('color(') ? 255 : 1), 0)))"""
        )
    )
    assert len(light)
    if (light[:, 0] < 70).all() and (light[:, 1] > 180).all():
        return True
    assert (light[:, 0] > 230).all() and (light[:, 1] < 90).all(), (
        f'neither dark nor light, or not the same everywhere: {light.round().tolist()}'
    )
    return False


def drag(page, plot, path):
    "A path in units of the element's box, 0..1."
    plot.scroll_into_view_if_needed()
    b = plot.bounding_box()
    at = lambda x, y: (b['x'] + x * b['width'], b['y'] + y * b['height'])
    page.mouse.move(*at(*path[0]))
    page.mouse.down()
    for p in path[1:]:
        page.mouse.move(*at(*p), steps=6)
    page.mouse.up()


EVERYTHING, LEFT = ([(0.02, 0.02), (x, 0.02), (x, 0.98), (0.02, 0.98), (0.02, 0.05)] for x in (0.98, 0.5))


# ---- what is done in each notebook, and what must follow


def use_translations(n, name='explorer'):
    w = n.widget('.tr-grid')
    before = n.kernel(f'{name}.step')
    w.get_by_label('previous checkpoint').click()
    n.until(lambda: n.kernel(f'{name}.step') < before)
    n.until(lambda: w.get_attribute('data-step') == str(n.kernel(f'{name}.step')))
    drag(n.page, w.locator('.tr-stack').first, [(0.5, 0.5), (0.4, 0.5), (0.1, 0.5)])
    n.until(lambda: n.kernel(f'{name}.cut') < 20)
    w.locator('.tr-cell').nth(2).click()
    n.until(lambda: n.kernel(f'{name}.zoomed') == 2)
    assert w.get_by_role('dialog').count() == 1
    n.page.keyboard.press('Escape')
    n.until(lambda: n.kernel(f'{name}.zoomed') == -1)
    n.tell(f"{name}.view = 'difference'")
    n.until(lambda: w.get_by_role('button', name='Difference').get_attribute('aria-pressed') == 'true')
    n.keep_cells(w)


def use_live(n):
    w = n.widget('[data-role=stop]')
    n.until(lambda: n.kernel('live.state') == w.get_attribute('data-state') == 'finished')
    assert w.locator('[data-loss]').count() >= 3 and w.locator('.li-sheet').is_visible()


def stop_live(n):
    "A training without an end, in a cell of its own, and the button."
    n.insert(SETUP + 'begin(); live')
    n.page.evaluate("void jupyterapp.commands.execute('notebook:run-cell')")
    w = n.page.locator('.sr-explorer[data-kernel=live][data-state=running]')
    w.locator('[data-loss=square]').wait_for()
    w.get_by_role('button', name='Stop and save').click()
    w = n.page.locator('.sr-explorer[data-state=stopped]')
    w.wait_for()
    n.until(lambda: n.kernel('live.state') == 'stopped')
    n.tell('live.wait()')
    assert n.kernel(f'{REPORT} == {STOPPED}'), 'the thread has ended, the last checkpoint is that of the last step'
    step = n.kernel('live.result')
    n.until(lambda: f'saved: step_{step:08d}' in w.locator('.li-facts').inner_text())
    assert w.get_by_role('button', name='Stop and save').count() == 0  # hidden


def use_patches(n, name='explorer'):
    w = n.widget('[data-panel=source]')
    w.locator('[data-panel=source]').click(position={'x': 60, 'y': 80})
    n.until(lambda: n.kernel(f'list({name}.place)') not in ([], [20, 17]))
    same = lambda: (
        'pa-pinned' in w.get_attribute('class')
        and np.isclose(
            float(w.locator('[data-direction=source] [data-number=cosine]').get_attribute('data-value')),
            n.kernel(f"{name}.numbers()['cosine']"),
            atol=0.01,
        )
    )
    n.until(same)  # the page and the kernel say the same
    w.get_by_role('button', name='all places').click()
    n.until(lambda: n.kernel(f'{name}.negatives') == 'all')
    n.until(lambda: 'among all' in w.locator('.pa-side').inner_text() and same())
    ready = int(w.get_attribute('data-ready'))
    w.locator('[data-control=camera]').select_option('3')
    n.until(lambda: n.kernel(f'{name}.camera') == 3 and int(w.get_attribute('data-ready')) > ready)
    n.until(lambda: 'pa-stale' not in w.get_attribute('class') and w.locator('[data-hard]').count() == 5)
    assert same()
    step = n.kernel(f"{name}.info['steps'][0]")
    w.locator(f'.pa-dot-g[data-step="{step}"]').first.click()
    n.until(lambda: n.kernel(f'{name}.step') == step)
    place = n.kernel(f'list({name}.place)')
    w.focus()
    n.page.keyboard.press('ArrowDown')
    n.until(lambda: n.kernel(f'list({name}.place)') != place)
    n.keep_cells(w)
    n.page.keyboard.press('Escape')
    n.until(lambda: n.kernel(f'list({name}.place)') == [])


def use_embedding(n, points='explorer', lists='lists'):
    w = n.widget('[data-plot]')
    plot = w.locator('[data-plot]')
    n.until(lambda: n.kernel(f'{points}.status') == '' and w.get_attribute('data-moving') == 'false')
    drag(n.page, plot, EVERYTHING)
    n.until(lambda: n.kernel(f'len({points}.selection)') == n.kernel(f"{points}.info['n']"))
    assert w.get_attribute('data-selected') == str(n.kernel(f"{points}.info['n']"))
    drag(n.page, plot, LEFT)
    part = n.until(lambda: (k := n.kernel(f'len({points}.selection)')) < n.kernel(f"{points}.info['n']") and k)
    assert w.get_attribute('data-selected') == str(part)
    drag(n.page, plot, EVERYTHING)
    n.until(lambda: n.kernel(f'len({points}.selection)') == n.kernel(f"{points}.info['n']"))
    some = n.kernel(f"{points}.selected_rows('target')")
    assert sorted(some) == sorted(n.kernel(f'list({lists}.choices)')) and len(some), 'the lasso feeds the ranked lists'
    ranked = n.widget('.rl-query')
    n.until(lambda: ranked.get_attribute('data-query') == str(n.kernel(f'{lists}.query')))
    plot.scroll_into_view_if_needed()
    w.locator('[data-control="colour_by"][data-value="camera"]').click()
    n.until(lambda: n.kernel(f'{points}.colour_by') == 'camera')
    w.focus()
    n.page.keyboard.press('Escape')
    n.until(lambda: n.kernel(f'len({points}.selection)') == 0)
    n.tell(f'{points}.select([1, 2, 3])')
    n.until(lambda: w.get_attribute('data-selected') == '3')
    n.keep_cells(w)
    n.tell(f'{points}.select([])')
    n.until(lambda: n.kernel(f'len({lists}.choices)') == 0)


def use_ranked(n, lists='lists'):
    w = n.widget('.rl-query')
    shown = lambda: w.get_attribute('data-query') == str(n.kernel(f'{lists}.query'))
    w.get_by_label('worst query').click()
    ap = f"{lists}.lists[{lists}.models[0] + '/' + {lists}.variant({lists}.models[0])].result.ap"
    n.until(lambda: shown() and n.kernel(f'float({ap}[{lists}.query] - _n.nanmin({ap}))') < 1e-6)
    here = n.kernel(f'{lists}.query')
    w.get_by_label('better query').click()
    n.until(lambda: n.kernel(f'{lists}.query') != here and shown())
    w.get_by_role('button', name='re-ranking').click()
    n.until(lambda: n.kernel(f'{lists}.rerank'))
    w.locator('[data-list$="rerank"] figure[data-before]:not([data-before=""])').first.wait_for()
    w.focus()
    n.page.keyboard.press('2')
    n.page.keyboard.press('Enter')
    picked = w.locator('.rl-picked[data-gallery]')
    picked.wait_for()
    assert picked.get_attribute('data-gallery') == w.locator('figure[data-place="2"]').first.get_attribute(
        'data-gallery'
    )
    n.tell(f'{lists}.choices = [5, 2]; {lists}.query = 5')
    n.until(lambda: w.get_attribute('data-query') == '5')
    n.keep_cells(w)


def use_swap(n):
    w = n.widget('.sw-grid')
    w.locator('.sw-cell[data-row="2"][data-column="1"]').click()
    n.until(lambda: n.kernel('[explorer.row, explorer.column]') == [2, 1])
    n.tell('explorer.other = 0')
    w.focus()
    n.page.keyboard.press('+')
    n.until(lambda: n.kernel('explorer.mix') == 1)
    n.page.keyboard.press('ArrowDown')
    n.until(lambda: n.kernel('explorer.row') == 3)
    n.keep_cells(w)


# ---- the tests


@pytest.mark.long
def test_translations_notebook(server):
    with notebook(server, 'translations') as n:
        use_live(n)
        use_translations(n)
        stop_live(n)


@pytest.mark.long
def test_patches_notebook(server):
    with notebook(server, 'patches') as n:
        use_patches(n)


@pytest.mark.long
def test_embedding_notebook(server):
    with notebook(server, 'embedding', dark=True) as n:
        assert not looks_dark(n.page), "JupyterLab's theme counts, whatever the browser prefers"
        use_embedding(n)
        for theme in ('Dark', 'Light'):  # the setting outlives the page
            n.page.evaluate(f"jupyterapp.commands.execute('apputils:change-theme', {{theme: 'JupyterLab {theme}'}})")
            n.page.wait_for_function(f"document.body.dataset.jpThemeName === 'JupyterLab {theme}'")
            assert looks_dark(n.page) == (theme == 'Dark')


@pytest.mark.long
def test_ranked_notebook(server):
    with notebook(server, 'ranked') as n:
        use_ranked(n)


@pytest.mark.long
def test_swap_notebook(server):
    with notebook(server, 'swap') as n:
        use_swap(n)
        n.lose_cell()


@pytest.mark.long
def test_dashboard_notebook(server):
    with notebook(server, 'dashboard') as n:
        assert (
            n.page.locator('[data-number="rank-1"]').count() == 1 and n.page.locator('[data-part=missing]').count() == 1
        )
        use_embedding(n, 'points', 'lists')
        use_ranked(n)
        use_translations(n, 'board.translations()')
        use_patches(n, 'board.patches()')
        assert n.kernel('board.patches().step == board.translations().step'), 'both go through the checkpoints together'


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Two tiny runs that know their data, as a demo leaves them."
    from synthreid.data.datasets import DatasetSpec, load_dataset
    from synthreid.data.store import load_images
    from synthreid.render.folder import render_folder
    from synthreid.training.direct import DirectConfig
    from synthreid.training.joint import JointConfig
    from synthreid.training.provenance import record_data
    from synthreid.training.runs import Run

    here = tmp_path_factory.mktemp('runs')
    folders = {
        k: render_folder(here / 'data' / domain, domain, ids=12, per_id=6, size='32x16', workers=0, progress=False)
        for k, domain in (('source', 'game'), ('target', 'camera'))
    }
    source, target = (
        load_images(load_dataset('auto', folders['source']).labelled(), '32x16', progress=False),
        load_images(load_dataset('auto', folders['target']).train, '32x16', progress=False),
    )
    joint = JointConfig(
        size='32x16',
        steps=4,
        batch_size=4,
        dim=4,
        n_blocks=1,
        discriminator_dim=4,
        head='basic',
        head_layers=(1, 1),
        head_widths=(8, 8),
        n_patches=16,
        reid_batch=8,
    )
    for name, method, config in (
        ('direct', 'direct', DirectConfig(size='32x16', backbone='resnet_small', steps=2, batch_size=8)),
        ('joint', 'joint', joint),
    ):
        Run(here / 'runs' / name, method, config, device='cpu').train(
            source,
            target if method == 'joint' else None,
            checkpoint_every=2,
            sample_every=0,
            tensorboard=False,
            progress=False,
        )
        record_data(here / 'runs' / name, **{name: DatasetSpec(folder) for name, folder in folders.items()})
    return here


def other_addresses():
    "Addresses of this machine other than the loopback, as far as they are known."
    found = set()
    try:
        found.update(info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET))
    except OSError:
        pass
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:  # asks for a route, sends nothing
        try:
            s.connect(('192.0.2.1', 9))
            found.add(s.getsockname()[0])
        except OSError:
            pass
    return {a for a in found if not a.startswith('127.')}


@pytest.mark.long
def test_app_serves_the_dashboard(runs, tmp_path):
    "`synthreid app`: loopback only, a token, no code, no other server; explorers talk to a kernel; it ends when it is told."
    chromium_path()
    pytest.importorskip('voila')
    said = open(tmp_path / 'said', 'w+')
    taken = socket.create_server(('127.0.0.1', 0))  # so the app must take the next free port
    env = os.environ | {
        'PYTHONPATH': str(NOTEBOOKS.parent.parent),
        'OMP_NUM_THREADS': '1',
        'PYTHONUNBUFFERED': '1',
        **{
            k: str(tmp_path / k.lower())
            for k in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR')
        },
    }
    process = subprocess.Popen(
        [
            sys.executable,
            '-c',
            'import sys; from synthreid.cli import main; sys.exit(main())',
            'app',
            str(runs),
            '--port',
            str(taken.getsockname()[1]),
            '--n',
            '20',
            '--device',
            'cpu',
        ],
        env=env,
        stdout=said,
        stderr=said,
        start_new_session=True,
    )
    try:
        address = await_server(
            lambda: re.search(r'http://127\.0\.0\.1:(\d+)/\?token=\w+', (tmp_path / 'said').read_text()), process, said
        )
        port = int(address[1])
        assert port > taken.getsockname()[1]
        for other in other_addresses():
            with socket.socket() as s:
                assert s.connect_ex((other, port)), f'{other} answers, too'
        with browser_page(width=1200, offline=False) as page:
            outside, refused = [], set()
            note_outside(page, port, outside)
            page.on(
                'requestfailed', lambda r: refused.add(r.url) if r.failure == 'csp' else None
            )  # Voila's own page asks for an icon font: its policy does not let it
            for asked in ('', '?token=no'):  # the login page, and no kernel
                kernels = f'http://127.0.0.1:{port}/api/kernels{asked}'
                answer = page.request.get(kernels, max_redirects=0)
                assert (
                    answer.status == 302
                    and answer.headers['location'].startswith('/login?')
                    and page.request.post(kernels).status == 403
                )
                page.goto(f'http://127.0.0.1:{port}/{asked}')
                assert (
                    page.url.startswith(f'http://127.0.0.1:{port}/login?')
                    and page.locator('input[type=password]').count()
                )
            assert page.locator('.sr-explorer').count() == 0
            page.goto(address[0])
            page.wait_for_function("document.querySelectorAll('.sr-explorer[data-kernel=live]').length === 4")
            page.wait_for_function(
                "[...document.querySelectorAll('.sr-explorer[data-kernel=live]')].every(e => Number(e.dataset.ready)"
                " > 0)"
            )
            assert (
                page.locator('[data-number="mAP"]').count() == 1
                and page.locator('.jp-CodeMirrorEditor:visible').count() == 0
            )
            lists = page.locator('.sr-explorer', has=page.locator('.rl-query'))
            plot = page.locator('[data-plot]')
            plot.scroll_into_view_if_needed()
            page.wait_for_function("document.querySelector('.em').dataset.moving === 'false'")
            page.locator('[data-select="domain:target"]').click()
            page.wait_for_function("document.querySelector('.em').dataset.selected !== '0'")
            lists.get_by_role('button', name='page through all queries again').wait_for()
            step = page.evaluate("document.querySelector('[data-control=step]').value")
            page.get_by_label('previous checkpoint').click()
            page.wait_for_function(
                "step => { const now = document.querySelector('[data-control=step]').value; return now !== step && now"
                " === document.querySelector('.sr-explorer:has(.tr-grid)').dataset.step; }",
                arg=step,
            )  # patches follow
            assert not set(outside) - refused, 'nothing is asked of other servers'
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE / 1000) is not None
        with socket.socket() as s:
            assert s.connect_ex(('127.0.0.1', port)), 'nothing is left behind'
    finally:
        stop(process)
        said.close()
        taken.close()


def test_explore_says_what_is_missing(runs, monkeypatch, capsys):
    from synthreid.cli import main
    from synthreid.visual import dashboard

    found = dashboard.importlib.util.find_spec
    monkeypatch.setattr(
        dashboard.importlib.util,
        'find_spec',
        lambda name, *a: None if name in ('jupyterlab', 'voila') else found(name, *a),
    )
    for command in ('explore', 'app'):
        assert main([command, str(runs)]) == 2
        said = capsys.readouterr().err
        assert "pip install 'synthreid[notebook]'" in said and said.count('\n') == 1
    monkeypatch.undo()
    started = []
    monkeypatch.setattr(dashboard, '_serve', lambda command, *a: (started.append(command), 0)[1])
    assert (
        main(['explore', str(runs), '--no-browser', '--device', 'cpu']) == 0
        and '--no-browser' in started[0]
        and f'--ServerApp.root_dir={runs.resolve()}' in started[0]
        and (runs / 'explore.ipynb').exists()
    )
    assert (
        main(['explore', str(runs / 'runs' / 'joint'), '--device', 'cpu']) == 0
        and f"--ServerApp.root_dir={runs.resolve() / 'runs' / 'joint'}" in started[1]
        and '--no-browser' not in started[1]
    )
    (runs / 'runs' / 'joint' / 'data.json').rename(runs / 'noted')
    try:
        assert main(['app', str(runs / 'runs' / 'joint')]) == 2 and '--source' in capsys.readouterr().err
    finally:
        (runs / 'noted').rename(runs / 'runs' / 'joint' / 'data.json')


@pytest.mark.parametrize('name', sorted(f.stem for f in NOTEBOOKS.glob('*.ipynb')))
def test_page_works_offline(name, tmp_path):
    "The saved notebook as one file: its widgets are drawn without a kernel and without a single request."
    chromium_path()
    pytest.importorskip('nbconvert')
    source = NOTEBOOKS / f'{name}.ipynb'
    assert source.stat().st_size < 4e6
    page_file = export_page(source, tmp_path / 'page.html', code=False)
    widgets = json.loads(source.read_text(encoding='utf-8'))['metadata']['widgets'][
        'application/vnd.jupyter.widget-state+json'
    ]['state']
    shown = [w['state'] for w in widgets.values() if '_esm' in w['state']]
    now = [
        (f['_esm'], f['_css'])
        for f in map(front_end, (p.stem for p in STATIC.glob('*.js') if p.stem not in ('common', 'page')))
    ]
    assert all((w['_esm'], w['_css']) in now for w in shown), (
        'saved with other code than the present: run the notebook again'
    )
    n = len(shown)
    with browser_page(width=1200) as page:
        page.goto(page_file.as_uri())
        page.wait_for_function(
            f"[...document.querySelectorAll('.sr-explorer')].filter(e => Number(e.dataset.ready) > 0).length === {n}"
        )
        assert not page.requests and not page.errors and page.locator('.sr-error:visible').count() == 0
        for scheme in ('dark', 'light'):
            page.emulate_media(color_scheme=scheme)
            assert looks_dark(page) == (scheme == 'dark'), 'as the reader prefers'
        if page.locator('.tr-grid').count():
            here = "document.querySelector('.sr-explorer:has(.tr-grid)').dataset.step"
            before = page.evaluate(here)
            page.get_by_label('previous checkpoint').first.click()
            page.wait_for_function(
                f"before => {here} !== before && {here} === document.querySelector('.tr-here').dataset.step", arg=before
            )
        if page.locator('[data-panel=source]').count():
            hover_offline(page)
        if page.locator('.rl-query').count():
            page_offline(page, next(w for w in shown if 'entries' in w))
        if page.locator('[data-plot]').count():
            drag(page, page.locator('[data-plot]'), EVERYTHING)
            page.wait_for_function("Number(document.querySelector('.em').dataset.selected) > 100")
        assert not page.requests and not page.errors


def hover_offline(page):
    "Two corners of a picture, then another camera, which is not in the file."
    source = page.locator('[data-panel=source]')
    source.scroll_into_view_if_needed()
    page.locator('.sr-explorer', has=source).focus()
    page.keyboard.press('Escape')
    box = source.bounding_box()
    for x, y, there in (
        (0.02, 0.02, r'row 1 of \d+, column 1 of \d+'),
        (0.98, 0.98, r'row (\d+) of \1, column (\d+) of \2'),
    ):
        page.mouse.move(box['x'] + x * box['width'], box['y'] + y * box['height'])
        page.wait_for_function(
            "there => new RegExp(`^${there}$`).test(document.querySelector('.pa-where').innerText)", arg=there
        )
    assert page.locator('[data-hard]').count() == 5
    page.locator('select[data-control=camera]').select_option('3')
    page.wait_for_function("document.querySelector('.pa-head').innerText.includes('needs a running kernel')")


def page_offline(page, saved):
    "From the worst query to the next; then a query that is not in the file."
    lists = page.locator('.sr-explorer', has=page.locator('.rl-query'))
    query = lambda: lists.get_attribute('data-query')
    lists.get_by_label('worst query').click()
    worst = query()
    assert worst in saved['entries']
    lists.get_by_label('better query').click()
    assert query() != worst and query() in saved['entries'] and lists.locator('.rl-list figure').count() > 3
    box = lists.get_by_label('choose a query by person or file name')
    box.fill(next(name for i, name in enumerate(saved['info']['names']) if str(i) not in saved['entries']))
    box.press('Enter')
    assert 'needs a running kernel' in lists.get_by_role('alert').inner_text()
