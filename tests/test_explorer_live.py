"Live training: the button in a real kernel, beside a free and beside a busy cell; the front end alone."

import time

import ipykernel
import numpy as np
import pytest
from browser import PATIENCE, widget_page

from synthreid.core import to_signed
from synthreid.render.folder import render_images
from synthreid.training.loop import Method
from synthreid.visual.explorer import front_end
from synthreid.visual.live import LiveView

SETUP = '''
import tempfile, time, torch
from torch import nn
from synthreid.training.checkpoint import list_checkpoints
from synthreid.training.loop import Method, update
from synthreid.visual.live import fit_live

class Slow(Method):
    name = 'slow'
    def __init__(self):
        super().__init__(None, n_ids=0)
        self.nets = {'line': nn.Linear(1, 1)}
        self.opts = {'line': torch.optim.Adam(self.nets['line'].parameters(), lr=.1)}
    def step(self, batch, i):
        time.sleep(.002)
        return update({'square': self.nets['line'](batch).square().mean()}, self.opts['line'])

def begin():
    global live, run
    run = tempfile.mkdtemp()
    live = fit_live(Slow(), lambda i: torch.ones(4, 1), 10 ** 9, run)
    return live.comm.comm_id
'''
REPORT = (
    '(live.state, live.thread.is_alive(), list_checkpoints(run + "/checkpoints")[-1].name == f"step_{live.result:08d}",'
    ' live.result > 0)'
)
STOPPED = "('stopped', False, True, True)"


def is_end(message, content, sent):
    "Whether the kernel has done what was sent."
    idle = message['msg_type'] == 'status' and content['execution_state'] == 'idle'
    return idle and message['parent_header'].get('msg_id') == sent


class Kernel:
    "A kernel and what a front end does with it."

    def __init__(self, client, manager):
        self.client, self.manager, self.states = client, manager, []

    def watch(self, until, seconds=PATIENCE / 1000):
        "Read what the kernel publishes until a message fits."
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            message = self.client.get_iopub_msg(timeout=max(0.1, end - time.monotonic()))
            content = message['content']
            if message['msg_type'] == 'error':
                raise AssertionError('\n'.join(content['traceback']))
            if message['msg_type'] == 'comm_msg':
                self.states.append(content['data'].get('state', {}))
            if until(message, content):
                return message
        raise AssertionError('the kernel said nothing of the kind')

    def run(self, code, wait=True):
        sent = self.client.execute(code)
        if wait:
            self.watch(lambda m, c: is_end(m, c, sent))
        return sent

    def value(self, expression):
        sent, found = self.client.execute(expression), []

        def look(m, c):
            if m['parent_header'].get('msg_id') != sent:
                return False
            if m['msg_type'] == 'execute_result':
                found.append(c['data']['text/plain'])
            return is_end(m, c, sent)

        self.watch(look)
        return found[0]

    def press(self, comm):
        "The button, as a front end sends it."
        content = {'comm_id': comm, 'data': {'method': 'custom', 'content': {'kind': 'stop'}}}
        self.client.shell_channel.send(self.client.session.msg('comm_msg', content))

    def begin_to_wait(self, how):
        "A cell that waits for the training; it does wait when this returns."
        sent = self.run(f"print('here', flush=True); done = {how}", wait=False)

        def here(m, c):
            return m['msg_type'] == 'stream' and 'here' in c['text'] and m['parent_header'].get('msg_id') == sent

        self.watch(here)
        self.refreshed()

    def refreshed(self, times=2):
        "Wait until the curves came some times more."
        for _ in range(times):
            self.watch(lambda m, c: m['msg_type'] == 'comm_msg' and 'curves' in c['data'].get('state', {}))


@pytest.fixture(scope='module')
def kernel():
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name='python3')
    k = Kernel(client, manager)
    try:
        k.run(SETUP)
        yield k
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.mark.long
def test_button_stops_and_saves_while_the_kernel_is_free(kernel):
    comm = eval(kernel.value('begin()'))
    kernel.refreshed()  # curves come while `fit` runs and no cell does
    assert kernel.value('live.thread.is_alive() and live.state') == "'running'", 'other cells run meanwhile'
    kernel.press(comm)
    kernel.watch(lambda m, c: m['msg_type'] == 'comm_msg' and c['data'].get('state', {}).get('state') == 'stopped')
    kernel.run('live.wait()')
    assert kernel.value(REPORT) == STOPPED


@pytest.mark.long
@pytest.mark.parametrize('waiting', ['live.wait()', 'await live'])
def test_interrupt_stops_and_saves_while_a_cell_waits(kernel, waiting):
    kernel.run('begin()')
    kernel.begin_to_wait(waiting)
    kernel.manager.interrupt_kernel()
    assert kernel.value('done == live.result') == 'True', 'the waiting cell ended without an error'
    assert kernel.value(REPORT) == STOPPED


@pytest.mark.long
def test_button_is_heard_beside_an_awaiting_cell(kernel):
    if tuple(map(int, ipykernel.__version__.split('.')[:2])) < (7, 4):
        pytest.skip('ipykernel before 7.4 hears no widget beside an awaiting cell')
    comm = eval(kernel.value('begin()'))
    kernel.begin_to_wait('await live')
    kernel.press(comm)
    assert kernel.value('done == live.result') == 'True'
    assert kernel.value(REPORT) == STOPPED


# ---- the front end alone


def state_of(view):
    return {k: getattr(view, k) for k in ('state', 'step', 'steps', 'rate', 'curves', 'samples', 'info', 'saved')}


@pytest.fixture(scope='module')
def state():
    class Half(Method):
        translates = True

        def __init__(self):
            super().__init__(None, n_ids=0)

        def translate(self, x, camera=None):
            return x * 0.5

    images = to_signed(render_images('game', np.arange(6), np.zeros(6, int), size=(64, 32)).images)
    view = LiveView(400, images, sample_every=10, seconds=0)
    half = Half()
    for i in range(1, 201):
        late = {'gan': 1 + np.sin(i), 'late': 1.0} if i > 100 else {}
        view(half, i, {'nce': 5 * 0.99**i, **late})
    return {**state_of(view), 'rate': 7.31}


@pytest.mark.parametrize('dark', [False, True])
def test_shows_curves_samples_and_stops(state, dark):
    with widget_page(state, **front_end('live'), dark=dark) as page:
        root, button = page.locator('.sr-explorer'), page.locator('[data-role=stop]')
        facts = page.locator('.li-facts')
        assert page.locator('[data-loss]').count() == 3
        assert 'step 200 of 400' in facts.inner_text() and '27 s left' in facts.inner_text()
        width = page.locator('.li-sheet').evaluate('sheet => sheet.decode().then(() => sheet.naturalWidth)')
        assert width == 6 * 32
        page.evaluate("model.put('curves', {nce: [[1, 2], [2, 1]]})")
        assert page.locator('[data-loss]').count() == 1
        button.click()
        assert page.evaluate('model.sent').pop() == {'kind': 'stop'} and button.is_disabled()
        for name, value in (('state', 'stopping'), ('saved', '/a/step_00000201'), ('step', 201), ('state', 'stopped')):
            page.evaluate('([name, value]) => model.put(name, value)', [name, value])
        assert button.is_hidden() and root.get_attribute('data-state') == 'stopped'
        assert 'saved: step_00000201' in facts.inner_text()
        assert 'stopped at step 201, saved' in page.locator('.sr-live').inner_text()
        assert not page.errors and not page.requests


def test_says_what_to_press_where_no_kernel_answers(state):
    with widget_page(state, **front_end('live'), alive=False) as page:
        page.locator('[data-role=stop]').click()
        page.wait_for_selector('.sr-error:not([hidden])')
        text = page.locator('.sr-error').inner_text()
        assert 'interrupt button' in text and 'needs a running kernel' in text
        assert page.locator('[data-role=stop]').is_enabled()


def test_errors_of_the_training_are_shown(state):
    failed = {**state, 'state': 'failed', 'error': 'expected finite losses, got nan'}
    with widget_page(failed, **front_end('live')) as page:
        assert 'finite losses' in page.locator('.sr-error').inner_text()
        assert page.locator('.li-state').inner_text() == 'failed'


def test_keys_stay_in_the_widget(state):
    with widget_page(state, **front_end('live')) as page:
        page.evaluate("window.leaked = []; document.addEventListener('keydown', e => leaked.push(e.key))")
        page.locator('.sr-explorer').focus()
        for key in ('d', 'd', 'ArrowDown', 'ArrowUp'):
            page.keyboard.press(key)
        assert page.evaluate('leaked') == []
