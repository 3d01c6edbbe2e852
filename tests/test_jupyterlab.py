"""The explorer notebooks in a real JupyterLab.

Each is run whole (with fewer training steps than in the saved one), then clicked, dragged and keyed; what happened is
asserted in the page and in the kernel. One server for the module. Every wait is for a state.
"""

import labserver
import nbformat
import numpy as np
import pytest
from browser import chromium_path
from labserver import EVERYTHING, LEFT, Server, drag, looks_dark, notebook
from test_explorer_live import REPORT, SETUP, STOPPED


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    chromium_path()
    pytest.importorskip('jupyterlab')
    s = Server(tmp_path_factory.mktemp('lab'))
    try:
        yield s
    finally:
        s.stop()


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


def use_patches(n, name='explorer'):
    w = n.widget('[data-panel=source]')
    w.locator('[data-panel=source]').click(position={'x': 60, 'y': 80})
    n.until(lambda: n.kernel(f'list({name}.place)') not in ([], [20, 17]))
    cosine = w.locator('[data-direction=source] [data-number=cosine]')

    def same():
        shown, known = float(cosine.get_attribute('data-value')), n.kernel(f"{name}.numbers()['cosine']")
        return 'pa-pinned' in w.get_attribute('class') and np.isclose(shown, known, atol=0.01)

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
    second = w.locator('figure[data-place="2"]').first
    assert picked.get_attribute('data-gallery') == second.get_attribute('data-gallery')
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


@pytest.mark.long
def test_translations_notebook(server):
    with notebook(server, 'translations') as n:
        use_live(n)
        use_translations(n)
        stop_live(n)


def test_failing_cell_is_told(server, tmp_path, monkeypatch):
    kernel = {'kernelspec': {'name': 'python3', 'display_name': 'Python 3', 'language': 'python'}}
    cells = [nbformat.v4.new_code_cell(source) for source in ("if True:\n    print('here')\n    1 / 0", 'two = 2')]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), tmp_path / 'failing.ipynb')
    monkeypatch.setattr(labserver, 'NOTEBOOKS', tmp_path)
    with pytest.raises(AssertionError, match='ZeroDivisionError'), labserver.notebook(server, 'failing'):
        pass


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
        assert n.page.locator('[data-number="rank-1"]').count() == 1
        assert n.page.locator('[data-part=missing]').count() == 1
        use_embedding(n, 'points', 'lists')
        use_ranked(n)
        use_translations(n, 'board.translations()')
        use_patches(n, 'board.patches()')
        assert n.kernel('board.patches().step == board.translations().step'), 'both go through the checkpoints together'
