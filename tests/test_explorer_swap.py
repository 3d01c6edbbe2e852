"The swap explorer's front end in a real browser."

import io

import numpy as np
import pytest
from browser import widget_page
from PIL import Image

from synthreid.visual.explorer import front_end
from synthreid.visual.swaps import SwapExplorer

TRAITS = 'info sheet row column other mix'.split()


@pytest.fixture(scope='module')
def state():
    "Every picture is one gray of its own, so that the place on the sheet can be told from the screen."
    flat = lambda *shape: np.ones((*shape, 64, 32, 3), np.uint8)
    tones = np.arange(12, dtype=np.uint8).reshape(3, 4, 1, 1, 1) * 10 + 60
    places = np.arange(3, dtype=np.uint8).reshape(1, 1, 3, 1, 1, 1)
    ways = np.array([200, 210, 220], np.uint8).reshape(3, 1, 1, 1, 1, 1) + 3 * places
    w = SwapExplorer(flat(3) * 20, flat(4) * 40, flat(3, 4) * tones, flat(3, 4, 3) * ways)
    return {k: getattr(w, k) for k in TRAITS}


def show(state, **options):
    return widget_page(state, **front_end('swap'), **options)


def get(page, name):
    return page.evaluate(f"model.get('{name}')")


def tone(locator):
    shot = Image.open(io.BytesIO(locator.screenshot())).convert('L')
    return np.asarray(shot).astype(float)[20:-20, 20:-20].mean()


@pytest.mark.parametrize('dark', [False, True])
def test_choose_and_mix(state, dark):
    with show(state, dark=dark) as page:
        page.wait_for_function("document.querySelector('.sr-explorer').dataset.ready > 0")
        made = page.locator('.sw-picture.sw-made')
        assert page.locator('.sw-cell').count() == 12 and abs(tone(made) - 60) < 4
        page.locator('.sw-cell[data-row="2"][data-column="1"]').click()
        assert (get(page, 'row'), get(page, 'column')) == (2, 1) and abs(tone(made) - 150) < 4
        assert page.evaluate('model.saved.row') == 2
        slider = page.get_by_label('from the one to the other')
        # from row 2 back to row 1: the way 1 to 2, turned round
        for k, wanted in ((1, 226), (2, 223), (3, 220), (4, 110)):
            slider.fill(str(k))
            assert abs(tone(made) - wanted) < 2, k
        page.get_by_label('other clothes').select_option('2')
        assert slider.is_disabled() and abs(tone(made) - 150) < 4, 'the same clothes: nothing between'
        assert 'person C on person 2' in page.locator('.sw-made figcaption').inner_text()
        assert not page.errors and not page.requests


def test_keys(state):
    with show(state) as page:
        page.wait_for_function("document.querySelector('.sr-explorer').dataset.ready > 0")
        page.locator('.sr-explorer').focus()
        for key in ('ArrowDown', 'ArrowRight', 'ArrowRight', 'ArrowUp', 'ArrowUp'):
            page.keyboard.press(key)
        assert (get(page, 'row'), get(page, 'column')) == (0, 2)
        page.keyboard.press('o')
        page.keyboard.press('+')
        assert (get(page, 'other'), get(page, 'mix')) == (2, 1)
        assert '25 % person C' in page.locator('.sw-made figcaption').inner_text()
        page.keyboard.press('Home')
        assert (get(page, 'row'), get(page, 'column')) == (0, 0) and not page.errors
