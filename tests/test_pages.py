"The saved explorer notebooks as pages of their own: drawn without a kernel and without a single request."

import base64
import io
import json

import numpy as np
import pandas as pd
import pytest
from browser import browser_page, chromium_path
from labserver import EVERYTHING, NOTEBOOKS, ROOT, drag, looks_dark
from PIL import Image

from synthreid.visual.explorer import export_page, front_end
from synthreid.visual.report import Table, write_report

STATIC = ROOT / 'synthreid' / 'visual' / 'static'


def saved_widgets(notebook):
    "States of the widgets in a notebook that have code of their own."
    metadata = json.loads(notebook.read_text(encoding='utf-8'))['metadata']
    models = metadata['widgets']['application/vnd.jupyter.widget-state+json']['state'].values()
    return [model['state'] for model in models if '_esm' in model['state']]


@pytest.mark.parametrize('name', sorted(f.stem for f in NOTEBOOKS.glob('*.ipynb')))
def test_page_works_offline(name, tmp_path):
    "The saved notebook as one file: its widgets are drawn without a kernel and without a single request."
    chromium_path()
    pytest.importorskip('nbconvert')
    source = NOTEBOOKS / f'{name}.ipynb'
    assert source.stat().st_size < 4e6
    page_file = export_page(source, tmp_path / 'page.html', code=False)
    shown = saved_widgets(source)
    names = (p.stem for p in STATIC.glob('*.js') if p.stem not in ('common', 'page'))
    now = [(front['_esm'], front['_css']) for front in map(front_end, names)]
    old = 'saved with other code than the present: run the notebook again'
    assert all((w['_esm'], w['_css']) in now for w in shown), old
    drawn = "[...document.querySelectorAll('.sr-explorer')].filter(e => Number(e.dataset.ready) > 0).length"
    with browser_page(width=1200) as page:
        page.goto(page_file.as_uri())
        page.wait_for_function(f'{drawn} === {len(shown)}')
        assert not page.requests and not page.errors and page.locator('.sr-error:visible').count() == 0
        for scheme in ('dark', 'light'):
            page.emulate_media(color_scheme=scheme)
            assert looks_dark(page) == (scheme == 'dark'), 'as the reader prefers'
        if page.locator('.tr-grid').count():
            here = "document.querySelector('.sr-explorer:has(.tr-grid)').dataset.step"
            before = page.evaluate(here)
            page.get_by_label('previous checkpoint').first.click()
            follow = f"before => {here} !== before && {here} === document.querySelector('.tr-here').dataset.step"
            page.wait_for_function(follow, arg=before)
        if page.locator('[data-panel=source]').count():
            hover_offline(page)
        if page.locator('.rl-query').count():
            page_offline(page, next(w for w in shown if 'entries' in w))
        if page.locator('[data-plot]').count():
            drag(page, page.locator('[data-plot]'), EVERYTHING)
            page.wait_for_function("Number(document.querySelector('.em').dataset.selected) > 100")
        assert not page.requests and not page.errors


@pytest.mark.parametrize('notebook', sorted((ROOT / 'nbs').glob('**/*.ipynb')), ids=lambda p: p.stem)
def test_saved_widgets_can_be_seen_without_trust(notebook):
    "Beside every saved widget lies a picture, and a sentence that no address in memory stands in."
    book = json.loads(notebook.read_text(encoding='utf-8'))
    outputs = [(o['data'], o['metadata']) for c in book['cells'] for o in c.get('outputs', ()) if 'data' in o]
    widgets = [(data, told) for data, told in outputs if 'application/vnd.jupyter.widget-view+json' in data]
    widgets = [w for w in widgets if '%|' not in ''.join(w[0]['text/plain'])]  # but bars of progress
    assert bool(widgets) == (notebook.parent == NOTEBOOKS)
    for data, metadata in widgets:
        picture = Image.open(io.BytesIO(base64.b64decode(data['image/png'])))
        assert min(picture.size) > 60 and len(np.unique(np.asarray(picture.convert('L')))) > 10
        text = ''.join(data['text/plain'])
        assert ': ' in text and ' object' not in text and 'trusted notebook' in text
        alt = metadata['image/png']['alt']  # for those who do not see the picture
        assert ': ' in alt and text.startswith(f'{alt} (')


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
        found = "there => new RegExp(`^${there}$`).test(document.querySelector('.pa-where').innerText)"
        page.wait_for_function(found, arg=there)
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
    others = [name for i, name in enumerate(saved['info']['names']) if str(i) not in saved['entries']]
    box.fill(others[0])
    box.press('Enter')
    assert 'needs a running kernel' in lists.get_by_role('alert').inner_text()


@pytest.mark.parametrize('width', [1280, 390])
def test_tables_of_a_report_can_be_read(width, tmp_path):
    "All columns at 1280 pixels; on a telephone they scroll, by keys too, beside a first column that stays."
    names = ['distance before', 'distance after', 'real vs real', 'kernel distance before', 'kernel distance after']
    names += ['kernel, real vs real', 'identity kept', 'colour change', 'seeds']
    methods = ['closed-form colour map, no GAN', 'joint (translate and recognise)']
    table = pd.DataFrame({name: ['0.916 ± 0.000', '100.0 ± 0.0'] for name in names}).assign(seeds=3)
    table.insert(0, 'method', methods)
    html = Table(table.to_html(index=False, border=0, classes='results'))
    path = write_report(
        tmp_path / 'report.html', 'A run', 'Few people.', [('Results', [html])], 'Too short.', 'By hand.'
    )
    with browser_page(width=width) as page:
        page.goto(path.as_uri())
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth'), 'the page itself does not scroll'
        box, last = page.locator('.wide').bounding_box(), page.locator('th').last
        inside = lambda: last.bounding_box()['x'] + last.bounding_box()['width'] <= box['x'] + box['width'] + 1
        assert inside() == (width == 1280)
        page.locator('.wide').focus()
        for _ in range(60):
            page.keyboard.press('ArrowRight')
        page.wait_for_function(
            "(e => e.scrollLeft + e.clientWidth >= e.scrollWidth - 1)(document.querySelector('.wide'))"
        )
        first = page.locator('td').first.bounding_box()
        assert inside() and abs(first['x'] - box['x']) < 2 and first['width'] < width / 2
        assert page.locator('.banner').is_visible() and page.locator('footer').is_visible()
