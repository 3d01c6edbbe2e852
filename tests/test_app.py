"The dashboard: served through Voila to a real browser, opened in JupyterLab, and what is said where it cannot be."

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys

import pytest
from browser import PATIENCE, browser_page, chromium_path
from labserver import ROOT, await_server, jupyter_homes, note_outside, stop

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


@pytest.mark.long
def test_app_serves_the_dashboard(runs, tmp_path):
    "`synthreid app`: loopback only, a token, no code, no other server; explorers have a kernel; it ends when told."
    chromium_path()
    pytest.importorskip('voila')
    said = open(tmp_path / 'said', 'w+')
    taken = socket.create_server(('127.0.0.1', 0))  # so the app must take the next free port
    env = os.environ | {'PYTHONPATH': str(ROOT), 'OMP_NUM_THREADS': '1', 'PYTHONUNBUFFERED': '1'}
    command = [sys.executable, '-c', 'import sys; from synthreid.cli import main; sys.exit(main())', 'app', str(runs)]
    options = ['--port', str(taken.getsockname()[1]), '--n', '20', '--device', 'cpu']
    streams = dict(stdout=said, stderr=said)
    process = subprocess.Popen(command + options, env=env | jupyter_homes(tmp_path), start_new_session=True, **streams)
    told = lambda: re.search(r'http://127\.0\.0\.1:(\d+)/\?token=\w+', (tmp_path / 'said').read_text())
    try:
        address = await_server(told, process, said)
        port = int(address[1])
        assert port > taken.getsockname()[1]
        for other in other_addresses():
            with socket.socket() as s:
                assert s.connect_ex((other, port)), f'{other} answers, too'
        with browser_page(width=1200, offline=False) as page:
            outside, refused = [], set()
            note_outside(page, port, outside)
            # Voila's own page asks for an icon font: its policy does not let it
            page.on('requestfailed', lambda r: refused.add(r.url) if r.failure == 'csp' else None)
            for asked in ('', '?token=no'):  # the login page, and no kernel
                kernels = f'http://127.0.0.1:{port}/api/kernels{asked}'
                answer = page.request.get(kernels, max_redirects=0)
                assert answer.status == 302 and answer.headers['location'].startswith('/login?')
                assert page.request.post(kernels).status == 403
                page.goto(f'http://127.0.0.1:{port}/{asked}')
                assert page.url.startswith(f'http://127.0.0.1:{port}/login?')
                assert page.locator('input[type=password]').count()
            assert page.locator('.sr-explorer').count() == 0
            page.goto(address[0])
            page.wait_for_function("document.querySelectorAll('.sr-explorer[data-kernel=live]').length === 4")
            live = "[...document.querySelectorAll('.sr-explorer[data-kernel=live]')]"
            page.wait_for_function(f'{live}.every(e => Number(e.dataset.ready) > 0)')
            assert page.locator('[data-number="mAP"]').count() == 1
            assert page.locator('.jp-CodeMirrorEditor:visible').count() == 0
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

    found = importlib.util.find_spec
    hidden = ('jupyterlab', 'voila')
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name, *a: None if name in hidden else found(name, *a))
    for command in ('explore', 'app'):
        assert main([command, str(runs)]) == 2
        said = capsys.readouterr().err
        assert "pip install 'synthreid[notebook]'" in said and said.count('\n') == 1
    monkeypatch.undo()
    started = []
    monkeypatch.setattr(dashboard, '_serve', lambda command, *a: started.append(command) or 0)
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
