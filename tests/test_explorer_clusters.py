"The cluster explorer's front end in a real browser: rows in five orders, epochs, keys, alt text, contrast, no kernel."

import numpy as np
import pytest
from browser import packed, widget_page

from synthreid.data.datasets import ReidSplit
from synthreid.render.folder import render_images
from synthreid.visual.clusters import ORDERS, ClusterExplorer
from synthreid.visual.explorer import front_end

TRAITS = 'info entries index pictures epoch order'.split()
ROOT = "document.querySelector('.sr-explorer')"
PEOPLE, EACH = 8, 6
WHO = np.repeat(np.arange(PEOPLE), EACH)
CAMERAS = np.tile([0, 0, 1, 1, 2, 3], PEOPLE)


def epochs():
    "Three clusterings: two people are taken for one; they come apart; at last a person falls in two, somebody is new."
    first = WHO // 2
    first = np.where(WHO == 7, -1, np.where(WHO == 6, 3, first))
    second = np.where(WHO == 7, -1, WHO)
    second[0] = 1  # a picture of person 0 among those of person 1
    third = np.where((WHO == 5) & (np.arange(len(WHO)) % EACH > 2), 8, WHO)
    return np.stack([first, second, third])


@pytest.fixture(scope='module')
def explorer():
    images = render_images('camera', WHO, np.tile(np.arange(EACH), PEOPLE), size=(64, 32), seed=2).images
    names = [f'{p:04}_c{c + 1}_{i:03}.png' for i, (p, c) in enumerate(zip(WHO, CAMERAS))]
    split = ReidSplit(names, WHO, CAMERAS, images)
    curve = np.array([[0.2, 0.5, 0.3], [0.4, 0.6, 0.5], [0.6, 0.7, np.nan]])
    return ClusterExplorer(split, epochs(), WHO, [0.5, 0.5, 0.5], curve, [0.4, 0.5, 0.6], 'agreement', k=4, rows=3)


def state(explorer, **changes):
    return {**{k: getattr(explorer, k) for k in TRAITS}, **changes}


def get(page, name):
    return page.evaluate(f"model.get('{name}')")


def shown(page):
    "Cluster and pictures of every part on the screen."
    return page.evaluate(
        "[...document.querySelectorAll('.cl-part')].map(p => [Number(p.dataset.cluster),"
        " [...p.querySelectorAll('figure')].map(f => [Number(f.dataset.picture), f.dataset.mark])])"
    )


def wait(page, **data):
    for name, value in data.items():
        page.wait_for_function(f"{ROOT}.dataset.{name} === '{value}'")


@pytest.mark.parametrize('dark', [False, True])
def test_rows_in_every_order(explorer, dark):
    labels = epochs()
    with widget_page(state(explorer, epoch=1), **front_end('clusters'), dark=dark) as page:
        assert [c for c, _ in shown(page)] == [1, 2, 3], 'the one with seven pictures, then in order'
        for cluster, pictures in shown(page):
            assert len(pictures) == 4 and all(labels[1][i] == cluster for i, _ in pictures)
            assert all((mark == 'right') == (WHO[i] == cluster) for i, mark in pictures)
        assert page.locator('.cl-more').first.inner_text() == '+ 3'
        for order in reversed(ORDERS):
            page.locator(f'[data-order="{order}"]').click()
            wait(page, shown=order)
            assert page.evaluate('model.saved.order') == order
            if order == 'split':
                was = page.locator('.cl-was').all_inner_texts()
                assert was == [f'was cluster {c} now in 2' for c in (1, 2, 0)], 'where most pictures left, first'
                for row in page.locator('.cl-row').all():
                    assert row.locator('.cl-part').count() == 2
            if order == 'newest':
                assert 'None' in page.locator('.cl-rows').inner_text(), 'nobody was an outlier before'
            if order == 'outliers':
                ((cluster, pictures),) = shown(page)
                assert cluster == -1 and {int(WHO[i]) for i, _ in pictures} == {7}
        assert not page.errors and not page.requests


def test_epochs_and_curves(explorer):
    with widget_page(state(explorer), **front_end('clusters')) as page:
        assert page.locator('.cl-where').inner_text() == 'epoch 2'
        assert '9 clusters · 0 outliers of 48 · eps 0.5' in page.locator('.cl-told').inner_text()
        label = lambda name: page.locator(f'[data-chart="{name}"]').get_attribute('aria-label')
        assert label('clusters and outliers') == 'clusters and outliers at epoch 2: clusters 9, outliers 0'
        assert label('agreement') == 'agreement at eps 0.5: agreement 0.7'
        page.locator('[data-order="newest"]').click()
        wait(page, shown='newest')
        assert [c for c, _ in shown(page)] == [7] and '100 % new' in page.locator('.cl-about').inner_text()
        page.get_by_label('epoch', exact=True).fill('0')
        wait(page, epoch=0)
        page.locator('[data-order="split"]').click()
        assert 'this is the first epoch' in page.locator('.cl-rows').inner_text()
        page.get_by_label('next epoch').click()
        wait(page, epoch=1)
        assert page.evaluate('model.saved.epoch') == 1 and not page.errors


def test_keys_and_what_is_read_aloud(explorer):
    with widget_page(state(explorer, epoch=1), **front_end('clusters')) as page:
        page.locator('.sr-explorer').focus()
        page.keyboard.press('ArrowRight')
        focused = lambda: page.evaluate('document.activeElement.dataset.picture')
        first = shown(page)
        assert int(focused()) == first[0][1][0][0]
        page.keyboard.press('ArrowRight')
        page.keyboard.press('ArrowDown')
        assert int(focused()) == first[1][1][1][0]
        page.keyboard.press('End')
        assert int(focused()) == first[1][1][3][0]
        page.keyboard.press('Enter')
        name = f'{WHO[first[1][1][3][0]]:04}_c'
        assert page.locator('.cl-detail').is_visible() and name in page.locator('.cl-detail code').inner_text()
        page.keyboard.press('Escape')
        assert not page.locator('.cl-detail').is_visible()
        page.keyboard.press('5')
        wait(page, shown='outliers')
        page.keyboard.press('-')
        wait(page, epoch=0)
        page.keyboard.press('+')
        wait(page, epoch=1)
        page.keyboard.press('1')
        wait(page, shown='largest')
        odd = page.locator('figure[data-mark="wrong"]').first.get_attribute('aria-label')
        assert odd == 'cluster 1, camera 1, person 0, not person 1, who is most of it, 0000_c1_000.png'
        assert 'epoch 1: 7 clusters' in page.locator('.sr-live').inner_text()
        assert page.locator('.cl-row figure:not([aria-label])').count() == 0
        assert page.locator('.cl-row figure[tabindex="0"]').count() == 1, 'one stop for the tabulator'
        assert not page.errors


def test_an_epoch_from_the_kernel_and_without_one(explorer):
    one = {k: v for k, v in explorer.entries.items() if k == '2'}
    with widget_page(state(explorer, entries=one), **front_end('clusters')) as page:
        page.get_by_label('epoch before').click()
        page.wait_for_function("model.sent.some(m => m.kind === 'epoch' && m.epoch === 1)")
        answer = dict(kind='epoch', epoch=1, entry=explorer.entries['1'], index={})
        page.evaluate('([m, b]) => model.receive(m, b)', [answer, [packed(b'')]])
        wait(page, epoch=1)
        assert [c for c, _ in shown(page)] == [1, 2, 3] and not page.errors
    with widget_page(state(explorer, entries=one), alive=False, **front_end('clusters')) as page:
        page.get_by_label('epoch before').click()
        assert 'needs a running kernel' in page.locator('.sr-error').inner_text()
        assert get(page, 'epoch') == 2 and page.locator('.cl-where').inner_text() == 'epoch 2'


def luminance(colour):
    parts = np.array([float(v) for v in colour[colour.index('(') + 1 : -1].split(',')[:3]]) / 255
    return np.where(parts <= 0.03928, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize('dark', [False, True])
def test_contrast_of_text_and_lines(explorer, dark):
    "Text at least 4.5 to 1 (WCAG 2, 1.4.3), lines and marks at least 3 to 1 (1.4.11)."
    with widget_page(state(explorer, epoch=1), **front_end('clusters'), dark=dark) as page:
        colour = lambda part, what: page.evaluate(
            '''([part, what]) => { const c = document.createElement('canvas').getContext('2d');
            c.fillStyle = getComputedStyle(document.querySelector(part))[what]; c.fillRect(0, 0, 1, 1);
            return `rgb(${c.getImageData(0, 0, 1, 1).data.slice(0, 3).join(',')})`; }''',
            [part, what],
        )
        paper = luminance(colour('.sr-explorer', 'backgroundColor'))

        def contrast(part, what):
            a, b = sorted([luminance(colour(part, what)), paper])
            return (b + 0.05) / (a + 0.05)

        for part, what, least in (
            ('.cl-pictures figcaption', 'color', 4.5),
            ('.cl-about .sr-quiet', 'color', 4.5),
            ('.cl-foot', 'color', 4.5),
            ('.cl-chart text', 'fill', 4.5),
            ('.cl-chart .cl-below', 'fill', 4.5),
            ('polyline.cl-line0', 'stroke', 3),
            ('polyline.cl-line1', 'stroke', 3),
            ('.cl-wrong img', 'borderTopColor', 3),
            ('.cl-wrong .cl-sign', 'color', 3),
        ):
            assert contrast(part, what) >= least, (part, contrast(part, what))


def test_narrow(explorer):
    with widget_page(state(explorer), **front_end('clusters'), width=380, height=700) as page:
        assert page.evaluate('document.documentElement.scrollWidth') <= 380
