"""The documentation site in a browser that reaches nothing but the site: pages, links, explorers, contrast, keyboard.

SYNTHREID_SITE names a site that is built (as `.ci/run` does); otherwise it is built once, with warnings as errors.
"""

import html
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote, urlsplit

import pytest
from browser import browser_page, chromium_path
from filelock import FileLock
from labserver import EVERYTHING, drag

from synthreid import cli

ROOT = Path(__file__).parent.parent
pytestmark = pytest.mark.long
EXPLORERS = sorted(f.stem for f in (ROOT / 'nbs' / 'explorers').glob('*.ipynb'))
LOOKED_AT = ['index', 'guide/which', 'nbs/30_metrics.ranking', 'commands/evaluate', 'search', 'genindex']
LOOKED_AT += [f'nbs/explorers/{name}' for name in ('ranked', 'patches')]
SETTLED = """() => Promise.allSettled(  // colours on their way from one theme to the other have arrived
    document.getAnimations().filter(a => a instanceof CSSTransition).map(a => a.finished))"""
CONTRAST = """() => {
  const channels = colour => {
    const [r, g, b, a = 1] = colour.match(/[\\d.]+/g).map(Number), full = colour.startsWith('color(srgb') ? 255 : 1;
    return [r * full, g * full, b * full, a];
  };
  const linear = c => (c /= 255) <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const light = rgb => [.2126, .7152, .0722].reduce((sum, w, i) => sum + w * linear(rgb[i]), 0);
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const ground = e => { // what lies under an element, blended
    const c = e ? channels(getComputedStyle(e).backgroundColor) : [255, 255, 255, 1];
    return c[3] === 1 ? c : over(c, ground(e.parentElement));
  };
  const found = new Set(), walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node; node = walk.nextNode();) {
    const e = node.parentElement, style = getComputedStyle(e), text = node.data.trim();
    if (!text || !e.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (e.closest('svg, :disabled, [aria-hidden=true], .sr-live')) continue;
    const size = parseFloat(style.fontSize), big = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    const wanted = big || !/[\\p{L}\\p{N}]/u.test(text) ? 3 : 4.5; // signs are pictures
    const below = ground(e), own = light(over(channels(style.color), below)), under = light(below);
    const ratio = (Math.max(own, under) + .05) / (Math.min(own, under) + .05);
    if (ratio >= wanted) continue;
    found.add(`${ratio.toFixed(2)} ${style.color} ${e.tagName}.${e.className}: ${text.slice(0, 40)}`);
  }
  return [...found].slice(0, 20);
}"""


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "Folder of the built site."
    if ready := os.environ.get('SYNTHREID_SITE'):
        return Path(ready)
    if os.environ.get('SYNTHREID_BROWSER') != 'required':
        pytest.importorskip('myst_nb')
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if os.environ.get('PYTEST_XDIST_WORKER') else folder
    out, done = folder / 'site' / 'html', folder / 'site.done'
    with FileLock(folder / 'site.lock'):
        if not done.exists():
            command = [sys.executable, '-m', 'sphinx', '-W', '-q', '-j', '2', '-d', str(out.parent / 'trees')]
            subprocess.run([*command, 'docs', str(out)], cwd=ROOT, check=True, timeout=1800)
            done.touch()
    return out


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *told):
        pass


@contextmanager
def served(folder):
    "The address of a folder."
    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Quiet, directory=str(folder)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f'http://127.0.0.1:{server.server_port}'
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def visited(folder, **options):
    "A browser's page and the address of the site: whatever asks another host is noted and refused."
    chromium_path()
    with served(folder) as address, browser_page(offline=False, **options) as page:
        page.foreign = []

        def look(route):
            if route.request.url.startswith((address, 'data:', 'blob:')):
                return route.continue_()
            page.foreign.append(route.request.url)
            route.abort()

        page.route('**/*', look)
        yield page, address


def pages(folder):
    return sorted(f for f in folder.rglob('*.html') if '_static' not in f.parts)


def read(file):
    "Ids, links, and what a page loads."
    text = re.sub(r'(<script[^>]*>).*?</script>', r'\1', file.read_text(encoding='utf-8'), flags=re.S)
    ids, links, loaded = set(), [], []
    for tag, inside in re.findall(r'<([a-z]\w*)\s([^<>]*)>', text):
        found = {key: html.unescape(value) for key, value in re.findall(r'([\w-]+)="([^"]*)"', inside)}
        ids |= {found[key] for key in ('id', 'name') if found.get(key)}
        target = found.get('href') or found.get('src')
        if tag == 'a' and target:
            links.append(target)
        elif tag in ('link', 'script', 'img', 'iframe', 'source') and target and found.get('rel') != 'canonical':
            loaded.append(target)
    return ids, links, [target for target in loaded if not target.startswith('data:')]


def test_every_link_and_anchor_leads_somewhere(site):
    found = {f.resolve(): read(f) for f in pages(site)}
    assert len(found) > len(list((ROOT / 'nbs').glob('**/*.ipynb'))), 'a page per notebook, and more'
    broken = set()
    for file, (_, links, loaded) in found.items():
        assert loaded and not [target for target in loaded if urlsplit(target).netloc], 'all that is loaded is our own'
        for target in links + loaded:
            parts = urlsplit(target)
            if parts.scheme or parts.netloc:
                continue
            goal = (file.parent / unquote(parts.path)).resolve() if parts.path else file
            if not goal.is_file():
                broken.add(f'{file.name}: {target}')
            elif parts.fragment and goal in found and unquote(parts.fragment) not in found[goal][0]:
                broken.add(f'{file.name}: no anchor {target}')
    assert not broken, '\n'.join(sorted(broken)[:40])


def test_every_picture_has_words_and_every_widget_its_code(site):
    "An address of a file is no description; what cannot draw itself is not announced as a widget."
    silent, lifeless = set(), set()
    for file in pages(site):
        source = file.read_text(encoding='utf-8')
        for tag in re.findall(r'<img\s[^>]*>', source):
            alt = re.search(r'\salt="([^"]*)"', tag)
            if not alt or not alt[1] or re.search(r'_images/|\.(png|jpe?g)$| object at 0x', alt[1]):
                silent.add(f'{file.name}: {tag[:120]}')
        if '<script type="application/vnd.jupyter.widget-view+json' in source and file.parent.name != 'explorers':
            lifeless.add(file.name)
    assert not silent, '\n'.join(sorted(silent)[:40])
    assert not lifeless, 'bars of progress and the like'


def test_tables_and_long_outputs_are_read_without_scrolling_on_a_desk(site):
    "No column of sentences is squeezed beside one that does not break; a long printed line is broken."
    narrow = """[...document.querySelectorAll('.words td')].filter(e => e.clientWidth < 110).map(e => e.innerText)"""
    wide = """[...document.querySelectorAll('.words table, .tag_wrapped .cell_output pre')].filter(
        e => e.scrollWidth > e.clientWidth + 1).map(e => e.innerText.slice(0, 60))"""
    with visited(site, width=1280) as (page, address):
        for name in ('guide/which', 'guide/compared', 'nbs/07_render.body'):
            page.goto(f'{address}/{name}.html')
            assert page.locator('.words td, .tag_wrapped .cell_output pre').count() > 3, name
            assert not page.evaluate(narrow) and not page.evaluate(wide), name
        page.goto(f'{address}/index.html')
        lines = page.locator('td.text-right').evaluate_all(
            """all => all.map(e => {
                const r = document.createRange();
                while (e.firstElementChild) e = e.firstElementChild;
                r.selectNodeContents(e);
                return r.getClientRects().length;
            })"""
        )
        assert len(lines) > 40 and set(lines) == {1}, 'mean and spread stand in one line'


def test_every_page_answers_and_fits_a_telephone(site):
    with visited(site, width=390, height=800) as (page, address):
        wide = []
        page.unroute_all()  # whatever is asked of another host is noted still; the browser may keep the styles
        page.on('request', lambda r: None if r.url.startswith((address, 'data:', 'blob:')) else foreign.append(r.url))
        foreign, browser = page.foreign, page.context.new_cdp_session(page)
        browser.send('Network.enable')
        nothing_wide = [f'*.{kind}{end}' for kind in ('js', 'png', 'jpg', 'jpeg') for end in ('', '?*')]
        browser.send('Network.setBlockedURLs', {'urls': nothing_wide})
        for file in pages(site):
            name = file.relative_to(site).as_posix()
            answer = page.goto(f'{address}/{name}', wait_until='domcontentloaded')
            assert answer.status == 200, name
            if page.evaluate('document.documentElement.scrollWidth') > 390:
                wide.append(name)
        assert not wide, 'these are wider than the screen'
        assert not page.foreign


def test_explorers_draw_and_react(site):
    "No kernel, no other host; a picture with a text stands where nothing could be drawn."
    drawn = "[...document.querySelectorAll('.sr-explorer')].filter(e => Number(e.dataset.ready) > 0).length"
    paper = "getComputedStyle(document.querySelector('.sr-explorer')).backgroundColor"
    framed = """[...document.querySelectorAll('.output:has(.sr-explorer), .sr-explorer img')].map(
        e => parseFloat(getComputedStyle(e).paddingLeft))"""
    corner = """plot => [...plot.querySelectorAll('canvas')].some(
        e => (p => p[3] === 255 && p[0] < 80)(e.getContext('2d').getImageData(3, 3, 1, 1).data))"""  # dark
    with visited(site, width=1280) as (page, address):
        for name in EXPLORERS:
            page.goto(f'{address}/nbs/explorers/{name}.html')
            views = page.locator('script[type="application/vnd.jupyter.widget-view+json"]').count()
            page.wait_for_function(f'{drawn} === {views}')
            assert views and not page.locator('.sr-error:visible, .still:visible').count()
            told = page.locator('.still img').evaluate_all('all => all.map(e => e.alt)')
            assert len(told) == views and all(': ' in text and ' object' not in text for text in told)
            light = page.evaluate(paper)
            page.evaluate("document.documentElement.dataset.theme = 'dark'")
            assert page.evaluate(paper) != light, 'an explorer follows the theme of the page'
            assert max(page.evaluate(framed)) <= 1, 'no white frame of the theme round it, or round its pictures'
            for plot in page.locator('[data-plot]').all():
                page.wait_for_function(corner, arg=plot.element_handle())
            react(page)
        assert not page.foreign and not page.errors


def react(page):
    "One thing that a reader does with each kind of explorer."
    if page.locator('[data-plot]').count():
        drag(page, page.locator('[data-plot]'), EVERYTHING)
        page.wait_for_function("Number(document.querySelector('.em').dataset.selected) > 100")
    if page.locator('.tr-grid').count():
        here = "document.querySelector('.sr-explorer:has(.tr-grid)').dataset.step"
        before = page.evaluate(here)
        page.get_by_label('previous checkpoint').first.click()
        page.wait_for_function(f'before => {here} !== before', arg=before)
    if page.locator('.cl-rows').count():
        before = page.locator('.cl-rows').inner_text()
        page.get_by_label('epoch before').click()
        page.wait_for_function("before => document.querySelector('.cl-rows').innerText !== before", arg=before)
    if page.locator('.rl-query').count():
        lists = page.locator('.sr-explorer', has=page.locator('.rl-query'))
        before = lists.get_attribute('data-query')
        lists.get_by_label('worst query').click()
        if lists.get_attribute('data-query') == before:
            lists.get_by_label('better query').click()
        assert lists.get_attribute('data-query') != before
    if page.locator('[data-panel=source]').count():
        page.locator('[data-panel=source]').hover()
        page.wait_for_function("/row \\d+ of/.test(document.querySelector('.pa-where').innerText)")


def test_contrast(site):
    "WCAG AA on one page of every kind, explorers and code included, in both themes: the page follows the browser's."
    with visited(site, width=1280) as (page, address):
        weak = []
        for name in LOOKED_AT:
            page.goto(f'{address}/{name}.html')
            page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
            for theme in ('light', 'dark'):
                page.emulate_media(color_scheme=theme)
                page.wait_for_function('theme => document.documentElement.dataset.theme === theme', arg=theme)
                page.evaluate(SETTLED)
                weak += [f'{name}, {theme}: {text}' for text in page.evaluate(CONTRAST)]
            # the next page is loaded in the dark, and must become light
        assert not weak, '\n'.join(weak)


def test_keyboard_and_search(site):
    "Skip to the text, search by keys for a function, open it; code wraps and is never cut."
    with visited(site, width=1280) as (page, address):
        page.goto(f'{address}/index.html')
        page.keyboard.press('Tab')
        assert page.evaluate('document.activeElement.innerText').strip().lower() == 'skip to main content'
        page.keyboard.press('Enter')
        page.keyboard.press('Tab')
        ring = 'e => { const s = getComputedStyle(e); return s.outlineStyle !== "none" || s.boxShadow !== "none" }'
        seen = page.locator(':focus').evaluate(ring)
        assert seen, page.locator(':focus').evaluate('e => e.outerHTML')
        page.keyboard.press('Control+k')
        page.keyboard.type('encode_image')
        page.keyboard.press('Enter')
        page.wait_for_url('**/search.html?q=encode_image**')
        found = page.locator('#search-results a[href*="51_visual.explorer"]').first
        found.wait_for()
        found.focus()
        page.keyboard.press('Enter')
        page.wait_for_url('**/51_visual.explorer.html**')
        cut = """[...document.querySelectorAll('.cell_input pre')].filter(
            e => e.scrollWidth > e.clientWidth + 1).length"""
        page.evaluate("document.querySelectorAll('details').forEach(e => e.open = true)")
        assert page.locator('.cell_input pre').count() > 5 and page.evaluate(cut) == 0
        assert not page.foreign and not page.errors


def test_commands_have_all_their_options(site):
    "Of the settings as they stand in the source: an anchor, and the sentence."
    known = {name: cli._written_command(name).options for name in cli.COMMANDS}
    known |= {f'train-{name}': cli._train_options(name)[1] for name in cli.written_methods()}
    for name, options in known.items():
        page = (site / 'commands' / f'{name}.html').read_text(encoding='utf-8')
        words = ' '.join(html.unescape(re.sub('<[^>]+>', '', page)).split())
        anchor = f'cmdoption-synthreid-{name}-'
        for key, option in options.items() if name != 'train' else ():
            by_place = key in cli.POSITIONAL.get(name, ())
            wanted = f'arg-{key.upper()}' if by_place else key.replace('_', '-')
            assert f'id="{anchor}{wanted}"' in page, (name, key)
            assert ' '.join(option.comment.split()) in words, (name, key)


def commands_of(page):
    "What stands in the blocks of a page, in order."
    return re.findall(r'```bash\n(.*?)```', (ROOT / 'docs' / 'guide' / f'{page}.md').read_text(encoding='utf-8'), re.S)


def runs(command, folder):
    done = subprocess.run(['bash', '-ec', command], cwd=folder, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, f'{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}'


@pytest.mark.slow
def test_every_answer_of_the_faq_runs(tmp_path):
    "The commands of the page, one after the other in an empty folder."
    commands = commands_of('faq')
    assert len(commands) > 15
    for command in commands:
        runs(command, tmp_path)


@pytest.mark.slow
def test_my_own_cameras_as_the_page_says(tmp_path):
    "Its commands one after the other, with fewer people and steps, on rendered people under other names."
    small = {
        'render': '--ids 16 --per-id 6 --size 64x32',
        'train': '--size 64x32 --steps 4 --dim 8 --n-blocks 1 --reid-batch 8',
        'adapt': '--size 32x16 --steps 6 --adapt-steps 4',
    }
    runs('synthreid render --domain camera --out cams --ids 16 --per-id 6 --size 64x32', tmp_path)
    for file in sorted((tmp_path / 'cams').rglob('*.jpg')):
        person, camera = file.name.split('_')[0], file.name[6]
        place = tmp_path / 'CROPS' / f'camera{camera}' / file.name
        if file.parent.name != 'bounding_box_train':
            place = tmp_path / 'LABELLED' / f'{person}_c{camera}_{file.parent.name}{file.name[8:]}'
        if person not in ('-1', '0000'):
            place.parent.mkdir(parents=True, exist_ok=True)
            file.rename(place)
    lines = [line for block in commands_of('own_cameras') for line in block.splitlines()]
    assert len(lines) > 7
    for line in lines:
        runs(f'{line} {small.get(line.split()[1], "")}', tmp_path)
