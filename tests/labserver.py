"JupyterLab in a real browser, for tests: a server, an open notebook, and what a reader does with a mouse."

import ast
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from browser import PATIENCE, browser_page, painted

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / 'nbs' / 'explorers'


def quick(source):
    "A cell with fewer training steps and people; asserts about what training achieves are left out."
    source = re.sub(r'demo_rows\((steps=)?\d+\)', 'demo_rows(steps=8)', source)
    source = re.sub(r'(checkpoint_every|sample_every)=[1-9]\d*', r'\1=4', source)
    source = re.sub(r'source_ids=\d+, target_ids=\d+', 'source_ids=16, target_ids=27', source)
    source = re.sub(r"(render_people\('\w+'), 40, per_id=8", r'\1, 16, per_id=8', source)
    source = source.replace(
        'np.repeat(np.arange(40), 6), np.tile(np.arange(6), 40)',  # people and pictures of each
        'np.repeat(np.arange(10), 6), np.tile(np.arange(6), 10)',
    )
    source = source.replace("render_people('camera', range(40, 70)", "render_people('camera', range(40, 50)")
    for call in (
        'EmbeddingExplorer(**points)',
        'board.features(n=120)',
    ):  # compiling UMAP takes longer than all the rest
        source = source.replace(call, call[:-1] + ', umap=False)')
    source = source.replace("'../examples/", f"'{ROOT.as_posix()}/nbs/examples/")  # it runs elsewhere
    return without_asserts(source)


def without_asserts(source):
    "Python without its assertions, at any depth; `pass` where a block would be empty."
    lines = source.split('\n')
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Assert):
            lines[node.lineno - 1 : node.end_lineno] = [''] * (node.end_lineno - node.lineno + 1)
            lines[node.lineno - 1] = ' ' * node.col_offset + 'pass'
    return '\n'.join(lines)


def jupyter_homes(folder):
    "Environment in which Jupyter keeps everything in a folder."
    names = ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR', 'IPYTHONDIR')
    return {name: str(folder / name.lower()) for name in names}


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
        env = (
            os.environ
            | jupyter_homes(folder)
            | {
                'JUPYTERLAB_SETTINGS_DIR': str(folder / 'settings'),
                'JUPYTERLAB_WORKSPACES_DIR': str(folder / 'workspaces'),
                'JUPYTER_TOKEN': self.token,
                'OMP_NUM_THREADS': '1',
                'PYTHONPATH': os.pathsep.join([str(ROOT), *filter(None, [os.environ.get('PYTHONPATH')])]),
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
        port = lambda: file.exists() and json.loads(file.read_text() or '{}').get('port')
        self.port = await_server(port, self.process, self.log)

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


ERRORS = """() => {
    const cells = window.jupyterapp?.shell?.currentWidget?.content?.model?.sharedModel?.cells ?? [];
    const outputs = cells.flatMap(cell => cell.cell_type === 'code' ? cell.outputs : []);
    return outputs.filter(o => o.output_type === 'error').map(o => [o.ename, o.evalue, ...o.traceback].join('\\n'));
}"""  # what failing cells say


class Notebook:
    "A notebook open in JupyterLab, with its kernel."

    def __init__(self, page):
        self.page = page

    def ready(self):
        "Wait until the notebook has a kernel, connected and idle."
        self.page.wait_for_function("""() => {
            const context = window.jupyterapp?.shell?.currentWidget?.sessionContext, kernel = context?.session?.kernel;
            return context?.isReady && kernel?.connectionStatus === 'connected' && kernel.status === 'idle'; }""")

    def run_all(self):
        "Run every cell; what a failing one says."
        self.ready()
        self.page.evaluate("""() => {
            window.ran = null;
            const run = jupyterapp.commands.execute('notebook:run-all-cells');
            run.then(() => window.ran = 'done', e => window.ran = String(e)); }""")
        self.page.wait_for_function(f'window.ran !== null || ({ERRORS})().length', polling=200)  # not at every frame
        errors = self.page.evaluate(ERRORS)
        assert not errors, errors[0]
        told = self.page.evaluate('window.ran === undefined ? "the page was loaded again" : window.ran')
        assert told == 'done', f'cells were not run: {told}'

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
                const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
                const future = kernel.requestExecute({code, store_history: false});
                let out = null;
                future.onIOPub = m => {
                    const kind = m.header.msg_type;
                    if (kind === 'stream' && m.content.name === 'stdout') out = (out || '') + m.content.text;
                    if (kind === 'error') out = 'ERROR ' + m.content.traceback.join('\\n');
                };
                await future.done;
                return out;
            }''',
            f'import json as _j, numpy as _n; print(_j.dumps({expression}, default=lambda x: x.tolist()))',
        )
        assert got and not got.startswith('ERROR'), got
        return json.loads(got)

    def until(self, f, seconds=PATIENCE / 1000):
        "Wait until a condition holds; each look is a round trip to the browser or to the kernel."
        end = time.monotonic() + seconds
        while not (found := f()):
            assert time.monotonic() < end, f'still {found!r} after {seconds} s'
            time.sleep(0.02)  # the kernel and the browser share the cores with this
        return found

    def tell(self, code):
        self.kernel(f'exec({code!r})')

    def n_cells(self):
        return self.page.evaluate("jupyterapp.shell.currentWidget.content.model.cells.length")

    def keep_cells(self, part):
        "`d d` in a focused widget, or on its first button or slider, deletes no cell, and arrows do not leave it."
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
            await jupyterapp.commands.execute('notebook:insert-cell-below');
            book.activeCell.model.sharedModel.setSource(code); book.activeCell.node.scrollIntoView();
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
        n = Notebook(page)
        n.run_all()
        try:
            yield n
            assert not outside, 'nothing is asked of other servers'
        finally:
            page.evaluate("jupyterapp.shell.currentWidget.sessionContext.shutdown()")


LIGHTNESS = """() => {
    const of = (style, name) => {
        const scale = style[name].startsWith('color(') ? 255 : 1, rgb = style[name].match(/[\\d.]+/g).slice(0, 3);
        return rgb.reduce((sum, v) => sum + v / 3 * scale, 0);
    };
    const shown = [...document.querySelectorAll('.sr-explorer, body.jp-Notebook')].map(e => getComputedStyle(e));
    return shown.map(style => ['backgroundColor', 'color'].map(name => of(style, name)));
}"""


def looks_dark(page):
    "Whether the widgets are dark, ink and paper; in an exported page the page itself, too."
    light = np.array(page.evaluate(LIGHTNESS))
    assert len(light)
    if (light[:, 0] < 70).all() and (light[:, 1] > 180).all():
        return True
    found = f'neither dark nor light, or not the same everywhere: {light.round().tolist()}'
    assert (light[:, 0] > 230).all() and (light[:, 1] < 90).all(), found
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
