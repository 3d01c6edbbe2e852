"The dashboard: served through Voila to a real browser, opened in JupyterLab, and what is said where it cannot be."

import asyncio
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from browser import PATIENCE, browser_page, chromium_path
from labserver import ROOT, await_server, jupyter_homes, looks_dark, note_outside, stop
from PIL import Image

DOMAINS = {'source': 'game', 'target': 'camera'}


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Two tiny runs that know their data, as a demo leaves them."
    from synthreid.data.datasets import DatasetSpec
    from synthreid.data.store import load_images
    from synthreid.render.folder import render_folder
    from synthreid.training.direct import DirectConfig
    from synthreid.training.joint import JointConfig
    from synthreid.training.provenance import record_data
    from synthreid.training.runs import Run

    here = tmp_path_factory.mktemp('runs')
    small = dict(ids=12, per_id=6, size='32x16', workers=0, progress=False)
    roots = {name: render_folder(here / 'data' / domain, domain, **small) for name, domain in DOMAINS.items()}
    specs = {name: DatasetSpec(str(root)) for name, root in roots.items()}
    source = load_images(specs['source'].load().labelled(), '32x16', progress=False)
    target = load_images(specs['target'].load().train, '32x16', progress=False)
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
    direct = DirectConfig(size='32x16', backbone='resnet_small', steps=2, batch_size=8)
    quiet = dict(checkpoint_every=2, sample_every=0, tensorboard=False, progress=False)
    for method, config in (('direct', direct), ('joint', joint)):
        run = here / 'runs' / method
        Run(run, method, config, device='cpu').train(source, target if method == 'joint' else None, **quiet)
        record_data(run, **specs)
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


def hostile(folder):
    "A run folder from elsewhere: a notebook with more in it than ours, and modules under names that servers import."
    from synthreid.visual.dashboard import write_notebook

    path, ran = write_notebook(folder, folder, device='cpu'), folder / 'ran'
    book = json.loads(path.read_text())
    more = dict(
        id='x', cell_type='code', metadata={}, source=f'open({str(ran)!r}, "w")', outputs=[], execution_count=None
    )
    path.write_text(json.dumps(book | {'cells': [*book['cells'], more]}))
    for name in ('voila', 'jupyterlab', 'ipykernel_launcher', 'anywidget', 'jupyter_config', 'jupyter_server_config'):
        (folder / f'{name}.py').write_text(f'open({str(ran)!r}, "a").write("{name} ")\n')
    return path, ran


def console(*arguments):
    "The command as a console script runs it: without the current folder among the places of modules."
    code = "import sys; sys.path.remove(''); from synthreid.cli import main; sys.exit(main())"
    return [sys.executable, '-c', code, *map(str, arguments)]


def answer(port, path, host='127.0.0.1', method='GET', **headers):
    connection = HTTPConnection('127.0.0.1', port, timeout=PATIENCE / 1000)
    try:
        connection.request(method, path, headers={'Host': host, **headers})
        got = connection.getresponse()
        return got.status, dict(got.getheaders()), got.read()
    finally:
        connection.close()


def refuse_strangers(port, token):
    "What a page from elsewhere, another user of the machine, or a name that was pointed here may ask for."
    for host in ('evil.example', f'evil.example:{port}', '127.0.0.1.evil.example', '[::1]', ''):
        for path in ('/', f'/?token={token}', '/login', '/voila/static/index.html', '/voila/files/x.png'):
            assert answer(port, path, host)[0] in (400, 403), (host, path)
    for path in ('runs/joint/look.png', 'look.png', '../look.png', 'explore.ipynb', 'voila.py'):
        for asked in ('', f'?token={token}'):
            assert answer(port, f'/voila/files/{path}{asked}')[0] in (403, 404), path
    for path in ('/', '/?theme=dark', '/login', '/nothing/here', f'/?theme=light&token={token}x', '/voila/files/a.png'):
        status, headers, text = answer(port, path)
        assert "frame-ancestors 'none'" in headers['Content-Security-Policy'] and headers['X-Frame-Options'] == 'DENY'
        assert headers['Referrer-Policy'] == 'same-origin' and headers['X-Content-Type-Options'] == 'nosniff'
        assert b'kernel' not in text.lower()
    status, headers, _ = answer(port, f'/login?token={token}')
    cookies = [v for k, v in headers.items() if k.lower() == 'set-cookie']
    assert cookies and all('SameSite=Strict' in c for c in cookies)
    own = {
        'Upgrade': 'websocket',
        'Connection': 'Upgrade',
        'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': 'x' * 24,
    }
    somebody = '/api/kernels/00000000-0000-0000-0000-000000000000/channels'
    for origin in ('http://evil.example', f'http://127.0.0.1:{port}'):
        assert answer(port, somebody, Origin=origin, **own)[0] == 403


@pytest.mark.long
def test_app_serves_the_dashboard(runs, tmp_path):
    "`synthreid app`: loopback only, a token, no code, no other server; explorers have a kernel; it ends when told."
    chromium_path()
    pytest.importorskip('voila')
    said = open(tmp_path / 'said', 'w+')
    foreign = shutil.copytree(runs, tmp_path / 'foreign')
    book, ran = hostile(foreign)
    for place in (foreign, foreign / 'runs' / 'joint'):
        Image.new('RGB', (4, 4)).save(place / 'look.png')
    before = sorted(p.relative_to(foreign).as_posix() for p in foreign.rglob('*') if p.is_file())
    code = book.read_bytes()
    taken = socket.create_server(('127.0.0.1', 0))  # so the app must take the next free port
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
    command = console('app', foreign, '--port', taken.getsockname()[1], '--n', '20', '--device', 'cpu')
    streams = dict(stdout=said, stderr=said)
    process = subprocess.Popen(
        command, env=env | jupyter_homes(tmp_path), start_new_session=True, cwd=foreign, **streams
    )
    told = lambda: re.search(r'http://127\.0\.0\.1:(\d+)/\?token=(\w+)', (tmp_path / 'said').read_text())
    try:
        address = await_server(told, process, said)
        port = int(address[1])
        assert port > taken.getsockname()[1]
        for other in other_addresses():
            with socket.socket() as s:
                assert s.connect_ex((other, port)), f'{other} answers, too'
        refuse_strangers(port, address[2])
        before_readers = len((tmp_path / 'said').read_text())
        with browser_page(width=1200, offline=False, dark=True) as page:
            outside, refused = [], set()
            note_outside(page, port, outside)
            # Voila's own page asks for an icon font: its policy does not let it
            page.on('requestfailed', lambda r: refused.add(r.url) if r.failure == 'csp' else None)
            for asked in ('', '?token=no'):  # the login page, and no kernel
                kernels = f'http://127.0.0.1:{port}/api/kernels{asked}'
                got = page.request.get(kernels, max_redirects=0)
                assert got.status == 302 and got.headers['location'].startswith('/login?')
                assert page.request.post(kernels).status == 403
                page.goto(f'http://127.0.0.1:{port}/{asked}')
                assert page.url.startswith(f'http://127.0.0.1:{port}/login?')
                assert page.locator('input[type=password]').count()
            assert page.locator('.sr-explorer').count() == 0
            page.goto(address[0])
            four = "document.querySelectorAll('.sr-explorer[data-kernel=live]').length === 4"
            page.wait_for_function(four, polling=200)  # it takes long: not at every frame
            live = "[...document.querySelectorAll('.sr-explorer[data-kernel=live]')]"
            page.wait_for_function(f'{live}.every(e => Number(e.dataset.ready) > 0)', polling=200)
            assert page.locator('[data-number="mAP"]').count() == 1
            assert page.locator('.jp-CodeMirrorEditor:visible').count() == 0
            assert looks_dark(page), 'as the browser prefers it'
            assert 'Run All Cells' not in page.locator('body').inner_text()
            lists = page.locator('.sr-explorer', has=page.locator('.rl-query'))
            plot = page.locator('[data-plot]')
            plot.scroll_into_view_if_needed()
            page.wait_for_function("document.querySelector('.em').dataset.moving === 'false'")
            page.locator('[data-select="domain:target"]').click()
            page.wait_for_function("document.querySelector('.em').dataset.selected !== '0'")
            lists.get_by_role('button', name='page through all queries again').wait_for()
            step = page.evaluate("document.querySelector('[data-control=step]').value")
            page.get_by_label('previous checkpoint').click()
            follow = """step => { // patches
                const now = document.querySelector('[data-control=step]').value;
                return now !== step && now === document.querySelector('.sr-explorer:has(.tr-grid)').dataset.step; }"""
            page.wait_for_function(follow, arg=step)
            assert not set(outside) - refused, 'nothing is asked of other servers'
            kernel_of = "JSON.parse(document.getElementById('jupyter-config-data').textContent).kernelId"
            kernels = [page.evaluate(kernel_of)]
            page.goto(address[0])
            page.locator('.sr-explorer').first.wait_for()  # the numbers are there, the rest is still computed
            kernels.append(page.evaluate(kernel_of))
            page.goto('about:blank')
            end = time.monotonic() + PATIENCE / 1000
            gone = lambda k: page.request.get(f'http://127.0.0.1:{port}/api/kernels/{k}').status == 404
            while not all(map(gone, kernels)):
                assert time.monotonic() < end, 'a closed page ends its kernel'
                time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE / 1000) is not None
        with socket.socket() as s:
            assert s.connect_ex(('127.0.0.1', port)), 'nothing is left behind'
        told = (tmp_path / 'said').read_text()[before_readers:]
        assert not told.strip(), told
        assert book.read_bytes() == code and not ran.exists(), 'nothing that lay there was run'
        after = sorted(p.relative_to(foreign).as_posix() for p in foreign.rglob('*') if p.is_file())
        computed = {p for p in after if Path(p).parent.name == 'kept'}
        assert {Path(p).name.split('_')[0] for p in computed} >= {'lists', 'features', 'translations'}
        assert {Path(p).suffix for p in computed} == {'.npz', '.content'}, 'what was computed, and from which pictures'
        assert sorted(set(after) - computed) == before, 'and nothing else is written'
    finally:
        stop(process)
        said.close()
        taken.close()


async def in_kernel(port, token, kernel, code):
    "What code prints in a kernel, through its server."
    from tornado.websocket import websocket_connect

    socket = await websocket_connect(f'ws://127.0.0.1:{port}/api/kernels/{kernel}/channels?token={token}')
    header = dict(msg_id='1', msg_type='execute_request', username='', session='1', version='5.3', date='')
    content = dict(code=code, silent=False, store_history=False, user_expressions={}, allow_stdin=False)
    rest = dict(parent_header={}, metadata={}, channel='shell', buffers=[])
    await socket.write_message(json.dumps(dict(header=header, content=content, **rest)))
    while True:
        told = await asyncio.wait_for(socket.read_message(), PATIENCE / 1000)
        if isinstance(told, bytes):  # pictures of the widgets
            continue
        told = json.loads(told)
        if told['parent_header'].get('msg_id') != '1':  # of the cells that run
            continue
        assert told['msg_type'] != 'error', told
        if told['msg_type'] == 'stream' and told['content']['name'] == 'stdout':
            return told['content']['text']


@pytest.mark.long
def test_explore_runs_nothing_that_lies_in_the_folder(runs, tmp_path):
    "JupyterLab and its kernels start elsewhere; a notebook with other people's code is left alone, one of ours is not."
    pytest.importorskip('jupyterlab')
    foreign = shutil.copytree(runs, tmp_path / 'foreign')
    book, ran = hostile(foreign)
    code, token, said = book.read_bytes(), 'a' * 40, open(tmp_path / 'said', 'w+')
    env = os.environ | {
        'PYTHONPATH': str(ROOT),
        'OMP_NUM_THREADS': '1',
        'PYTHONUNBUFFERED': '1',
        'JUPYTER_TOKEN': token,
    }
    streams = dict(stdout=said, stderr=said, env=env | jupyter_homes(tmp_path), cwd=foreign, start_new_session=True)
    process = subprocess.Popen(console('explore', foreign, '--no-browser', '--device', 'cpu'), **streams)
    try:
        from synthreid.visual.serve import _listens

        files = lambda: [f.read_text() for f in (tmp_path / 'jupyter_runtime_dir').glob('jpserver-*.json')]
        ports = lambda: [json.loads(f)['port'] for f in files() if f]
        port = await_server(lambda: [p for p in ports() if _listens(p)], process, said)[0]
        told = (tmp_path / 'said').read_text()
        opened = Path(re.search(r'^(.*explore.ipynb): JupyterLab opens', told, re.M)[1])
        assert opened.parent != foreign and f'jupyter trust {book}' in told

        def ask(method, path, body=None):
            headers = {'Authorization': f'token {token}', 'Content-Type': 'application/json'}
            request = Request(
                f'http://127.0.0.1:{port}{path}', body and json.dumps(body).encode(), headers, method=method
            )
            with urlopen(request, timeout=PATIENCE / 1000) as got:
                return json.loads(got.read())

        told = ask('GET', '/api/contents/explore.ipynb')
        assert 'open(' not in str([c['source'] for c in told['content']['cells']])
        session = dict(path='explore.ipynb', name='', type='notebook', kernel={'name': 'python3'})
        kernel = ask('POST', '/api/sessions', session)['kernel']['id']
        where = asyncio.run(in_kernel(port, token, kernel, 'import os, anywidget; print(os.getcwd())'))
        assert Path(where.strip()) not in (foreign, *foreign.parents), where
        assert book.read_bytes() == code and not ran.exists()
        told = (tmp_path / 'said').read_text()
        assert not re.search('DeprecationWarning|without encryption|Traceback', told), told
    finally:
        stop(process)
        said.close()


@pytest.mark.long
def test_explore_shows_its_parts_without_a_click(runs, tmp_path):
    "JupyterLab runs the notebook that it was opened for; again where the page is loaded again and nothing was saved."
    chromium_path()
    pytest.importorskip('jupyterlab')
    own = shutil.copytree(runs, tmp_path / 'own')
    token, said = 'a' * 40, open(tmp_path / 'said', 'w+')
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'JUPYTER_TOKEN': token}
    streams = dict(stdout=said, stderr=said, env=env | jupyter_homes(tmp_path), start_new_session=True)
    process = subprocess.Popen(console('explore', own, '--no-browser', '--n', '20', '--device', 'cpu'), **streams)
    try:
        from synthreid.visual.serve import _listens

        files = lambda: [f.read_text() for f in (tmp_path / 'jupyter_runtime_dir').glob('jpserver-*.json')]
        find = lambda: [p for f in files() if f and _listens(p := json.loads(f)['port'])]
        port = await_server(find, process, said)[0]
        with browser_page(width=1300, height=1000, offline=False) as page:
            page.goto(f'http://127.0.0.1:{port}/lab/tree/explore.ipynb?token={token}')
            live = page.locator('.jp-Notebook .sr-explorer[data-kernel=live]').first
            live.wait_for()
            page.reload()
            live.wait_for()
    finally:
        stop(process)
        said.close()


def test_explore_says_what_is_missing(runs, monkeypatch, capsys):
    from synthreid.cli import main
    from synthreid.visual import serve

    for hidden in ('jupyterlab', 'voila'):
        monkeypatch.setitem(sys.modules, hidden, None)
    for command in ('explore', 'app'):
        assert main([command, str(runs)]) == 2
        said = capsys.readouterr().err
        assert "pip install 'synthreid[notebook]'" in said and said.count('\n') == 1
    monkeypatch.undo()
    started = []
    monkeypatch.setattr(serve, '_serve', lambda command, *a, **k: started.append(command) or 0)
    assert main(['explore', str(runs), '--no-browser', '--device', 'cpu']) == 0
    assert '--no-browser' in started[0] and f'--ServerApp.root_dir={runs.resolve()}' in started[0]
    assert (runs / 'explore.ipynb').exists()
    joint = runs / 'runs' / 'joint'
    assert main(['explore', str(joint), '--device', 'cpu']) == 0
    assert f'--ServerApp.root_dir={joint.resolve()}' in started[1] and '--no-browser' not in started[1]
    (joint / 'data.json').rename(runs / 'noted')
    try:
        assert main(['app', str(joint)]) == 2 and '--source' in capsys.readouterr().err
    finally:
        (runs / 'noted').rename(joint / 'data.json')


STARTING = """
import os, signal, sys
from synthreid.visual import serve

serve.need = serve._try_out = lambda *what: None
serve.write_notebook = lambda *what, **how: os.kill(os.getpid(), signal.SIGTERM)
serve.app('anything')
"""


def test_told_to_end_while_it_starts(tmp_path):
    "SIGTERM before the server is there: nothing is left behind."
    env = os.environ | {'PYTHONPATH': str(ROOT), 'TMPDIR': str(tmp_path)}
    ended = subprocess.run([sys.executable, '-c', STARTING], env=env, timeout=PATIENCE / 1000)
    assert ended.returncode == 128 + signal.SIGTERM and not list(tmp_path.glob('synthreid_*'))


def test_an_interrupt_of_this_process_alone(tmp_path):
    "`kill -INT`, which does not reach the server as Ctrl-C does: a server that knows of nothing is ended."
    from synthreid.visual.serve import _serve

    deaf = 'import signal, time; signal.signal(signal.SIGINT, signal.SIG_IGN); print(flush=True); time.sleep(60)'
    interrupt = threading.Timer(1, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # begun in the background, pytest ignores it
    try:
        ended = _serve([sys.executable, '-c', deaf], tmp_path, ready=lambda process: interrupt.start())
    finally:
        signal.signal(signal.SIGINT, before)
    assert ended == -signal.SIGTERM
