"""How long a reader waits for the explorers: `python benchmarks/explorers.py` prints a Markdown table (three minutes);
`python benchmarks/explorers.py RUN` how long for the dashboard of a run, its first page and the next ones.

Headless chromium without a GPU. "Front end alone": the widget on a bare page, times by `performance.now()` inside it.
"In JupyterLab": from the reader's event to the changed page, the kernel's answer and JupyterLab's own work included.
Medians, and the worst of the repeats. Needs chromium, playwright and jupyterlab: pip install -e '.[dev]'.
"""

import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / 'tests'))
from browser import PATIENCE, browser_page, widget_page
from labserver import Notebook, Server, await_server, drag, stop
from test_explorer_embedding import FRONT, ROUND_SOURCE, Plot, make_state
from test_explorer_patches import made_explorer
from test_explorer_patches import state as patch_state
from test_explorer_translations import switch_times

from synthreid.core import usable_cores
from synthreid.visual.explorer import front_end

ROWS = []


def row(what, where, times, aim):  # milliseconds
    ROWS.append(f'| {what} | {where} | {np.median(times):.0f} | {max(times):.0f} | {len(times)} | {aim} |')
    print(ROWS[-1], flush=True)


def patches():
    "Hover over 256x128 pictures: 8192 places with 256 numbers each, compared with all others and drawn."
    w = made_explorer(256, taps=(2,), size=(256, 128), kinds=(True,), budget=0)
    with widget_page(patch_state(w), **front_end('patches')) as page:
        page.wait_for_function("Number(document.querySelector('.sr-explorer').dataset.ready) > 0")
        times = page.evaluate('''async () => {
            const frame = document.querySelector('[data-panel=source]'), root = document.querySelector('.sr-explorer');
            const r = frame.getBoundingClientRect(), out = [];
            for (let i = 0; i < 25; i++) {
                const before = Number(root.dataset.ready), t = performance.now();
                const there = {clientX: r.left + 5 + 6 * i % r.width, clientY: r.top + 9 * i};
                frame.dispatchEvent(new PointerEvent('pointermove', there));
                while (Number(root.dataset.ready) === before) await new Promise(requestAnimationFrame);
                out.push(performance.now() - t);
            }
            return out.slice(5); }''')
        row('patches: hover to drawn, 8192 places x 256', 'front end alone', times, '< 50')


# from the event to the second frame after it
FRAMES = """kind => {
    window.times = [];
    document.querySelector('[data-plot]').addEventListener(kind, () => {
        const t = performance.now();
        requestAnimationFrame(() => requestAnimationFrame(() => window.times.push(performance.now() - t)));
    }, true); }"""


def embedding(n):
    "Hover and lasso over n points: from the event to the second frame after it, which is 33 ms at 60 frames a second."
    with widget_page(make_state(n // 3, pictures=False), **FRONT) as page:
        plot = Plot(page)
        # of points, found beforehand
        spots = [plot.at(*plot.near(x, y)[1]) for y in np.linspace(-0.7, 0.7, 15) for x in (-0.99, 0.99)]
        hover = page.evaluate(
            '''async spots => {
            const plot = document.querySelector('[data-plot]'), root = document.querySelector('.em');
            const out = [], met = new Set();
            for (const [clientX, clientY] of spots) {
                const t = performance.now();
                plot.dispatchEvent(new PointerEvent('pointermove', {clientX, clientY, bubbles: true}));
                met.add(root.dataset.hover);
                await new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)));
                out.push(performance.now() - t);
            }
            if (met.size < 10 || met.has('-1')) throw new Error(`expected a point at each move, met ${[...met]}`);
            return out; }''',
            [list(map(float, s)) for s in spots],
        )[1:]
    with widget_page(make_state(n // 3, pictures=False), **FRONT) as page:
        plot = Plot(page)
        page.evaluate(FRAMES, 'pointerup')
        for k in range(7):
            plot.drag(*ROUND_SOURCE)
            plot.selected(n // 3)
            page.wait_for_function(f'window.times.length > {k}')
            page.keyboard.press('Escape')
            page.wait_for_function("document.querySelector('.em').dataset.selected === '0'")
        row(f'features: hover to card, {n:,} points', 'front end alone', hover, '< 50')
        what = f'features: lasso released to the list beside it, {n:,} points'
        row(what, 'front end alone', page.evaluate('window.times'), '< 300')


def translations():
    "48 pictures of 128x64 at six checkpoints, all in the browser: from the key to the second frame after it."
    row('translations: key to the other checkpoint, 48 pictures of 128x64', 'front end alone', switch_times(), '< 100')


CELLS = [
    '''import numpy as np
from synthreid.data.datasets import ReidSplit
from synthreid.render.folder import render_images
from synthreid.visual.embedding import EmbeddingExplorer
from synthreid.visual.ranked import RankedExplorer
rng, n = np.random.default_rng(0), 5000
few = render_images('camera', np.arange(100), np.zeros(100, int), size=(64, 32)).images
who = np.arange(2 * n) % 500
codes = (rng.normal(size=(500, 32))[who] + rng.normal(size=(2 * n, 32))).astype(np.float32)
images = few[who % 100]
domain, camids = np.repeat(['source', 'target'], n), np.arange(2 * n) % 6
points = EmbeddingExplorer(domain, codes, pids=who, camids=camids, images=images, umap=False)
points''',
    '''q, g = np.arange(n, n + 1000), np.arange(n + 1000, 2 * n)
split = lambda i: ReidSplit(None, who[i], i % 6, images[i])
lists = RankedExplorer({'model': (codes[q], codes[g])}, split(q), split(g), rerank=False)
inside = lambda: [int(i) for i in points.selected_rows('target') if i < 1000]
points.on_select(lambda chosen: lists.set_trait('choices', inside()))
lists''',
]


# from the release of the mouse to the query that the kernel chose, drawn
RELEASED = '''() => {
    const lists = document.querySelector('.sr-explorer:has(.rl-query)');
    window.times = [];
    document.querySelector('[data-plot]').addEventListener('pointerup', () => {
        const t = performance.now(), was = lists.dataset.ready;
        const look = () => {
            if (lists.dataset.ready === was || lists.dataset.query === window.was) return requestAnimationFrame(look);
            window.was = lists.dataset.query;
            window.times.push(performance.now() - t);
        };
        look();
    }, true); }'''
# from a click to another query, drawn
CLICKED = '''() => {
    const lists = document.querySelector('.sr-explorer:has(.rl-query)'), was = lists.dataset.query;
    const t = performance.now();
    lists.querySelector('[aria-label="random query"], [aria-label="better query"]').click();
    const look = () => {
        if (lists.dataset.query === was) return requestAnimationFrame(look);
        window.steps.push(performance.now() - t);
    };
    look(); }'''


def jupyterlab():
    "10,000 points in one widget, the ranked lists in another, joined in the kernel."
    with tempfile.TemporaryDirectory() as d:
        server = Server(Path(d))
        try:
            book = dict(
                cells=[
                    dict(id=f'c{i}', cell_type='code', metadata={}, source=c, outputs=[], execution_count=None)
                    for i, c in enumerate(CELLS)
                ],
                metadata=dict(kernelspec=dict(display_name='Python 3', language='python', name='python3')),
                nbformat=4,
                nbformat_minor=5,
            )
            (Path(d) / 'work' / 'bench.ipynb').write_text(json.dumps(book))
            with browser_page(width=1300, height=1900, offline=False) as page:
                page.set_default_timeout(PATIENCE)
                page.goto(f'http://127.0.0.1:{server.port}/doc/tree/bench.ipynb?token={server.token}&reset')
                page.wait_for_function(
                    "window.jupyterapp?.shell?.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
                )
                n = Notebook(page)
                n.run_all()
                plot = n.widget('[data-plot]')
                n.widget('.rl-query')
                page.wait_for_function("document.querySelector('.em').dataset.moving === 'false'")
                page.evaluate(RELEASED)
                box = plot.locator('[data-plot]')
                for k in range(8):
                    x = 0.3 + 0.05 * k  # another part of the cloud, another worst query
                    drag(page, box, [(x, 0.3), (x + 0.05, 0.3), (x + 0.05, 0.7), (x, 0.7), (x, 0.35)])
                    page.wait_for_function(f'window.times.length > {k}')
                what = 'features to ranked lists: lasso released to the lists of what is inside, 10,000 points'
                row(what, 'in JupyterLab, through the kernel', page.evaluate('window.times'), '< 300')
                page.evaluate("window.steps = []")
                for k in range(9):
                    page.evaluate(CLICKED)
                    page.wait_for_function(f'window.steps.length > {k}')
                what = 'ranked lists: click to the next query, pictures from the kernel'
                row(what, 'in JupyterLab, through the kernel', page.evaluate('window.steps'), '')
        finally:
            server.stop()


def app(run, pages=3):
    "From the address to the last explorer that is live and drawn; what the first page computes lies in RUN/kept after."
    kept = Path(run) / 'kept'
    assert not kept.exists(), f'{kept} is there already: the first page would not be one'
    command = ['synthreid', 'app', run, '--device', 'cpu']
    with tempfile.TemporaryFile('w+') as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, start_new_session=True)

        def told():
            said.seek(0)
            return re.search(r'http://127\.0\.0\.1:\d+/\?token=\w+', said.read())

        try:
            address = await_server(told, process, said)[0]
            for page_number in range(pages):
                with browser_page(width=1300, height=1000, offline=False) as page:
                    begin = time.perf_counter()
                    page.goto(address)
                    page.locator('.sr-explorer').first.wait_for()
                    numbers = time.perf_counter() - begin
                    page.wait_for_function("""() => {
                        const all = [...document.querySelectorAll('.sr-explorer[data-kernel=live]')];
                        return all.length === 4 && all.every(e => Number(e.dataset.ready) > 0); }""")
                    page.wait_for_function("document.querySelector('.em').dataset.moving === 'false'")
                    whole, which = time.perf_counter() - begin, f'page {page_number + 1}'
                row(f'dashboard of a run, {which}: the numbers', 'app, through Voila', [1000 * numbers], '')
                row(f'dashboard of a run, {which}: all four explorers', 'app, through Voila', [1000 * whole], '')
        finally:
            stop(process)


if __name__ == '__main__':
    load = os.getloadavg()[0]
    machine = f'{usable_cores()}-core {platform.machine().replace("_", "-")} CPU, no GPU'
    print(f'{machine}, Python {platform.python_version()}; load average at the start {load:.1f}\n')
    print('| what | where | median ms | worst ms | repeats | aim |\n|---|---|---|---|---|---|', flush=True)
    if sys.argv[1:]:
        raise SystemExit(app(sys.argv[1]))
    patches()
    embedding(10_000)
    embedding(50_000)
    translations()
    jupyterlab()
