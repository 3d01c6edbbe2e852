"""A real browser for the explorers' tests: chromium through Playwright, with a widget's front end alone on a page.

`with widget_page(state, **front_end('patches')) as page:` shows the widget with a stand-in for the kernel's model:
`page.evaluate("model.get('x')")`, `model.sent` (messages to the kernel), `model.saved` (traits set by the browser),
`model.receive(message)`, `model.put(name, value)`. Bytes in `state` become DataViews, as from a kernel.
`alive=False`: no kernel answers.
Where chromium or Playwright is absent the tests skip, unless SYNTHREID_BROWSER=required.
"""

import base64
import os
import shutil
from contextlib import contextmanager

import pytest

# ms, the longest wait: the machine may be busy with other tests
PATIENCE = int(os.environ.get('SYNTHREID_PATIENCE', 300_000))
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
MODEL = '''
window.decode = v => {
  const bytes = text => Uint8Array.from(atob(text), c => c.charCodeAt(0));
  if (v && v.__bytes__ !== undefined) return new DataView(bytes(v.__bytes__).buffer);
  if (Array.isArray(v)) return v.map(decode);
  if (!v || typeof v !== 'object' || v instanceof DataView) return v;
  return Object.fromEntries(Object.entries(v).map(([k, x]) => [k, decode(x)]));
};
window.makeModel = (state, alive) => {
  const listeners = {}, fire = (name, ...a) => (listeners[name] || []).slice().forEach(f => f(...a));
  const changed = name => { fire('change:' + name); fire('change'); };
  const model = {
    state: decode(state), sent: [], saved: {}, pending: {},
    get: name => model.state[name],
    set(name, value) {
      if (model.state[name] === value) return;
      model.state[name] = model.pending[name] = value;
      changed(name);
    },
    save_changes() { Object.assign(model.saved, model.pending); model.pending = {}; },
    on(names, f) { names.split(' ').forEach(n => (listeners[n] = listeners[n] || []).push(f)); },
    off(names, f) {
      (names || '').split(' ').forEach(n => listeners[n] = f ? (listeners[n] || []).filter(g => g !== f) : []);
    },
    send(content, callbacks, buffers) {
      model.sent.push(content);
      if (alive && content.kind === 'hello') setTimeout(() => model.receive({kind: 'hello'}));
    },
    receive(message, buffers) { fire('msg:custom', decode(message), (buffers || []).map(decode)); },
    put(name, value) { model.state[name] = decode(value); changed(name); }, // as if the kernel had set it
  };
  return model;
};
'''


def packed(value):
    "JSON with bytes marked."
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {'__bytes__': base64.b64encode(bytes(value)).decode()}
    if isinstance(value, dict):
        return {k: packed(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [packed(v) for v in value]
    return value


def chromium_path():
    "The browser's path; skips (or fails, SYNTHREID_BROWSER=required) where there is none."
    found = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
    try:
        import playwright  # noqa: F401
    except ImportError:
        found = None
    if found:
        return found
    if os.environ.get('SYNTHREID_BROWSER') == 'required':
        pytest.fail('chromium or playwright is missing')
    pytest.skip('needs chromium (apt install chromium) and playwright')


def refuse(page, route):
    "Note a request and let it go nowhere."
    page.requests.append(route.request.url)
    route.abort()


@contextmanager
def browser_page(dark=False, width=1000, height=900, offline=True):
    "An empty page; with `offline` any request to a network is recorded in `page.requests` and refused."
    path = chromium_path()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, headless=True, args=FLAGS)
        viewport, scheme = {'width': width, 'height': height}, 'dark' if dark else 'light'
        page = browser.new_context(viewport=viewport, color_scheme=scheme).new_page()
        page.set_default_timeout(PATIENCE)
        page.requests, page.errors = [], []
        page.on('pageerror', lambda e: page.errors.append(str(e)))
        page.on('console', lambda m: page.errors.append(m.text) if m.type == 'error' else None)
        if offline:
            own = ('data:', 'blob:', 'about:', 'file:')
            page.route(lambda url: not url.startswith(own), lambda route: refuse(page, route))
        try:
            yield page
        finally:
            browser.close()


def painted(page):
    "Return when all is drawn that was asked for before: two frames later."
    page.evaluate('new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))')


def at_rest(page, part='.sr-explorer'):
    "Return when a widget draws no more: ten frames without a redraw."
    page.evaluate(
        """async part => { const root = document.querySelector(part);
        for (let last = null, same = 0; same < 10; same = last === root.dataset.ready ? same + 1 : 0) {
            last = root.dataset.ready;
            await new Promise(requestAnimationFrame);
        } }""",
        part,
    )


@contextmanager
def widget_page(state, _esm, _css='', alive=True, **options):
    "A page that shows one widget, drawn at least once."
    with browser_page(**options) as page:
        paper = '#14181d' if options.get('dark') else '#fff'
        head = f'<!doctype html><meta charset=utf-8><style>{_css}</style>'
        page.set_content(f'{head}<body style="margin:12px;background:{paper}"><div id=here></div>')
        page.add_script_tag(content=MODEL)
        page.evaluate(
            '''async ([esm, state, alive]) => {
            const module = await import(URL.createObjectURL(new Blob([esm], {type: 'text/javascript'})));
            window.model = makeModel(state, alive); window.here = document.getElementById('here');
            const widget = module.default; const init = widget.initialize && await widget.initialize({model});
            window.remove = await widget.render({model, el: here});
        }''',
            [_esm, packed({'error': '', **state}), alive],
        )
        page.wait_for_function("document.querySelector('.sr-explorer')?.dataset.ready > 0")
        if alive:
            page.wait_for_function("document.querySelector('.sr-explorer').dataset.kernel === 'live'")
        yield page
