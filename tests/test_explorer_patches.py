"The patch explorer in a real browser: its numbers are Python's, hovering needs no kernel, keys stay inside."

import numpy as np
import pytest
import torch
from browser import at_rest, packed, widget_page

from synthreid.metrics.correspondence import layer_grid, place_at
from synthreid.render.folder import render_images
from synthreid.visual.explorer import front_end
from synthreid.visual.patches import PatchExplorer, PatchView

SIZE, STATE = (
    (64, 32),
    'info sources translations features image step camera tap projected place direction negatives scale'.split(),
)
EXPLORER = "document.querySelector('.sr-explorer')"


def made_explorer(n_axes=16, taps=(0, 2, 3, 4), size=SIZE, kinds=(True, False), **options):
    "Made-up features that correspond more at later checkpoints."
    images = render_images('game', np.arange(3), np.zeros(3, int), size=size).images

    def view(step, camera):
        def pairs(image, tap, projected):
            z, g = torch.Generator().manual_seed(1000 * image + 10 * tap + projected), layer_grid(tap, size)
            source = torch.randn(g['rows'] * g['columns'], n_axes, generator=z)
            return source, source + 8 / (1 + step) * torch.randn(source.shape, generator=z)

        return PatchView(255 - images if camera else images[:, :, ::-1], pairs)

    curve = [
        dict(step=s, numbers={f'{t}/{k}': [s / 20 + t / 100, 9 - s / 2] for t in taps for k in ('projected', 'raw')})
        for s in (2, 6, 12)
    ]
    return PatchExplorer(
        images, view, taps, steps=(2, 6, 12), cameras=2, n_patches=48, kinds=kinds, curve=curve, **options
    )


@pytest.fixture(scope='module')
def shared():
    return made_explorer()


@pytest.fixture
def made(shared):  # nothing pinned, as at the start
    shared.tap, shared.projected, shared.negatives, shared.scale, shared.place, shared.direction, shared.step = (
        4,
        True,
        'sampled',
        'place',
        [],
        'source',
        12,
    )
    return shared


def state(w):
    return {k: getattr(w, k) for k in STATE}


def ready(page):
    page.wait_for_selector('[data-number=rank]')


def until(page, condition, arg=None):
    page.wait_for_function(condition, arg=arg)  # a state, never a redraw: one is often on its way


def says(page, part, text):
    until(page, '([part, text]) => document.querySelector(part)?.innerText.includes(text)', [part, text])


def at(page, y, x, panel='source'):  # a pixel of the picture on the screen
    box = page.locator(f'[data-panel={panel}]').bounding_box()
    return box['x'] + (x + 0.5) / SIZE[1] * box['width'], box['y'] + (y + 0.5) / SIZE[0] * box['height']


def pin(page, y, x):  # click a pixel; moving there is drawn first, so a redraw alone does not tell
    page.mouse.click(*at(page, y, x))
    pinned(page, y, x)


def pinned(page, y, x):
    until(
        page,
        "place => String(model.get('place')) === place &&"
        " document.querySelector('.pa-pin')?.innerText.includes('pinned')",
        f'{y},{x}',
    )


def unpinned(page):
    page.keyboard.press('Escape')
    until(
        page,
        "() => model.get('place').length === 0 && document.querySelector('.pa-pin').innerText.includes('hovering')",
    )


def get(page, name):
    return page.evaluate(f"model.get('{name}')")


def read(page):  # numbers of both directions
    row = lambda d: (
        {
            k: float(page.get_attribute(f'[data-direction={d}] [data-number={k}]', 'data-value'))
            for k in ('probability', 'cosine', 'margin')
        }
        | {'rank': int(page.inner_text(f'[data-direction={d}] [data-number=rank]').replace('✓', '').split(' of ')[0])}
    )
    return {d: row(d) for d in ('source', 'translated')}


@pytest.mark.parametrize('dark', [False, True])
def test_numbers_are_those_of_python(made, dark):
    with widget_page(state(made), **front_end('patches'), dark=dark) as page:
        ready(page)
        for tap, projected, negatives, pixel in (
            (4, True, 'sampled', (20, 14)),
            (2, False, 'all', (0, 0)),
            (0, False, 'sampled', (63, 31)),
            (3, True, 'all', (41, 7)),
        ):
            page.evaluate(
                '([t, p, n]) => { model.put("tap", t); model.put("projected", p); model.put("negatives", n); }',
                [tap, projected, negatives],
            )
            if get(page, 'place'):
                unpinned(page)
            pin(page, *pixel)
            made.tap, made.projected, made.negatives, made.place = tap, projected, negatives, list(pixel)
            for direction, found in read(page).items():
                made.direction = direction
                expected = made.numbers()
                assert abs(found['rank'] - expected['rank']) <= 1  # float16: neighbours may swap
                assert all(
                    np.isclose(found[k], expected[k], atol=0.02 if k == 'probability' else 4e-3)
                    for k in ('probability', 'cosine', 'margin')
                ), (tap, direction, found)
        assert not page.requests and not page.errors


def test_hover_click_escape_and_no_kernel(made):
    with widget_page(state(made), **front_end('patches'), alive=False) as page:
        ready(page)
        where = lambda: page.inner_text('.pa-where')
        page.mouse.move(*at(page, 10, 10))
        says(page, '.pa-where', 'row 3 of 16, column 3 of 8')
        assert get(page, 'place') == []
        pin(page, 30, 20)
        assert (
            where() == 'row 8 of 16, column 6 of 8'
            and get(page, 'place') == [30, 20]
            and page.evaluate('model.saved.place') == [30, 20]
        )
        grid, cosines = layer_grid(4, SIZE), made.numbers((30, 20))['cosines']
        here, there = (float(cosines[place_at(p, grid)]) for p in ((30, 20), (50, 4)))
        assert abs(here - there) > 0.1  # to be told from one another
        pointed = (
            "v => Math.abs(Number(document.querySelector('[data-panel=heat] ~ .pa-under').innerText.replace('at the"
            " pointer ', '')) - v) < .02"
        )
        until(page, pointed, here)
        page.mouse.move(*at(page, 50, 4, 'heat'))
        until(page, pointed, there)
        assert where() == 'row 8 of 16, column 6 of 8'  # pinned
        assert (
            page.locator('.pa-cell').count() == 3
            and page.locator('.pa-field').count() == 2
            and page.locator('rect.pa-negative').count() == 5
        )
        unpinned(page)
        says(page, '.pa-where', 'row 13 of 16, column 2 of 8')  # where the pointer is
        page.click('[data-image="1"]')  # embedded
        until(
            page,
            "() => document.querySelector('[data-image=\"1\"]').ariaPressed === 'true' &&"
            " document.querySelectorAll('[data-hard]').length === 5",
        )
        page.select_option('[data-control=camera]', '1')  # not embedded
        says(page, '.pa-head', 'needs a running kernel')
        assert page.locator('[data-hard]').count() == 0 and page.locator('.pa-stale').count() == 1
        page.select_option('[data-control=camera]', '0')
        says(page, '.pa-where', 'row')
        assert (
            page.locator('[data-hard]').count() == 5
            and [m['kind'] for m in page.evaluate('model.sent')] == ['hello']
            and not page.errors
            and not page.requests
        )


def test_keys_move_the_place_and_stay_inside(made):
    made.tap = 3
    with widget_page(state(made), **front_end('patches')) as page:
        ready(page)
        page.evaluate("window.leaked = []; document.addEventListener('keydown', e => leaked.push(e.key))")
        pin(page, 20, 12)
        for key, place in (
            ('ArrowDown', [26, 14]),
            ('ArrowRight', [26, 18]),
            ('ArrowUp', [22, 18]),
            ('ArrowLeft', [22, 14]),
        ):
            page.keyboard.press(key)
            pinned(page, *place)
        for digit, tap in (('1', 0), ('2', 2), ('4', 4)):
            page.keyboard.press(digit)
            until(
                page,
                "tap => model.get('tap') === tap && document.querySelector('[data-control=tap]').value === String(tap)",
                tap,
            )
        for key in 'dd':
            page.keyboard.press(key)
        assert page.evaluate('leaked') == [] and page.locator('.sr-explorer').count() == 1
        says(page, '.sr-live', 'rank')
        page.focus('[data-direction=translated]')
        page.keyboard.press('Enter')
        says(page, 'figure:has([data-panel=heat]) .pa-title', 'cosine, source')
        assert (
            get(page, 'direction') == 'translated'
            and page.evaluate('document.activeElement.dataset.direction') == 'translated'
        )  # focus outlives the redraw


def test_asks_the_kernel_once_and_shows_the_answer(made):
    with widget_page(state(made), **front_end('patches')) as page:
        ready(page)
        page.select_option('[data-control=camera]', '1')
        says(page, '.pa-head', 'computing')
        page.click('[data-control=scale][data-value=fixed]')  # drawn again while the answer is awaited
        until(page, "() => document.querySelector('[data-control=scale][data-value=fixed]').ariaPressed === 'true'")
        assert page.locator('.pa-stale').count() == 1
        asked = [m for m in page.evaluate('model.sent') if m['kind'] == 'view']
        assert asked == [dict(kind='view', step=12, camera=1, image=0, tap=4, projected=True)]
        sent = []
        made.send = lambda content, buffers=None: sent.append((content, buffers))
        made._receive(asked[0], [])
        page.evaluate('([m, b]) => model.receive(m, b)', [sent[0][0], packed(sent[0][1])])
        page.wait_for_selector('[data-hard="5"]')
        assert not page.errors and page.locator('.pa-stale').count() == 0


def test_switches_list_and_receptive_field(made):
    made.tap = 3
    with widget_page(state(made), **front_end('patches')) as page:
        ready(page)
        pin(page, 20, 12)
        made.place = [20, 12]

        def press(name, trait, value):  # a switch, until page, list and traits have followed
            page.get_by_role('button', name=name, exact=True).click()
            until(
                page,
                '([t, v, name]) => model.saved[t] === v &&'
                ' [...document.querySelectorAll(`[data-control=${t}]`)].every(b => b.ariaPressed === String(b.innerText'
                ' === name))',
                [trait, value, name],
            )
            setattr(made, trait, value)

        def same_as_python():  # the list, the numbers and the legend
            found = made.numbers()
            assert abs(read(page)['source']['cosine'] - found['cosine']) < 4e-3
            titles = page.locator('[data-hard]').evaluate_all('rows => rows.map(e => [e.title, e.innerText])')
            for (title, text), (place, cosine) in zip(titles, found['hardest'], strict=True):
                row, column = divmod(place, 8)
                assert title.startswith(f'row {row + 1}, column {column + 1}:')
                assert abs(float(text.split('\n')[1].split()[0]) - cosine) < 0.01 and ('✗' in text) == (
                    cosine > found['cosine']
                )
            ends = [
                float(v.replace('−', '-')) for v in page.locator('.pa-legend > span:not(.pa-ramp)').all_inner_texts()
            ]
            assert np.allclose(
                ends, [-1, 1] if made.scale == 'fixed' else [found['cosines'].min(), found['cosines'].max()], atol=0.01
            )
            return found

        assert 'among 47 sampled' in page.inner_text('.pa-side')
        first = same_as_python()
        press('raw', 'projected', False)
        assert abs(same_as_python()['cosine'] - first['cosine']) > 0.02  # other features
        press('all places', 'negatives', 'all')
        assert 'among all 127' in page.inner_text('.pa-side') and same_as_python()['hardest'] != first['hardest']
        press('−1 to 1', 'scale', 'fixed')
        same_as_python()
        press('this place', 'scale', 'place')
        same_as_python()
        grid, box = (
            layer_grid(3, SIZE),
            page.locator('[data-panel=source] rect.pa-field').evaluate(
                "e => ['y', 'x', 'height', 'width'].map(k => Number(e.getAttribute(k)))"
            ),
        )
        corner = [
            grid['centre'] + grid['step'] * v - grid['field'] / 2
            for v in divmod(place_at((20, 12), grid), grid['columns'])
        ]
        assert (
            box == [*corner, grid['field'], grid['field']]
            and page.locator('[data-panel=heat] rect.pa-field').count() == 0
        )
        assert not page.errors and not page.requests


def test_curve_list_and_clean_up(made):
    made.tap = 3
    with widget_page(state(made), **front_end('patches')) as page:
        ready(page)
        page.locator('.pa-dot-g[data-step="2"]').first.click()
        until(page, "() => model.get('step') === 2 && document.querySelector('[data-control=step]').value === '2'")
        says(page, '.pa-where', 'row 6 of 16, column 5 of 8')
        at_rest(page)
        assert 'step 2 0.13' in page.get_attribute('.pa-chart >> nth=0', 'aria-label')
        page.evaluate("window.chart = document.querySelector('.pa-chart')")
        made.step, grid = 2, layer_grid(3, SIZE)
        page.click('[data-hard="1"]')  # go to the hardest negative of what is shown, the chest
        until(page, "() => model.get('place').length === 2")
        assert place_at(get(page, 'place'), grid) == made.numbers((23, 16))['hardest'][0][0]
        assert page.evaluate("window.chart === document.querySelector('.pa-chart')"), (
            'a redraw that changes no chart leaves it under the pointer'
        )
        page.evaluate('remove()')
        assert page.locator('.sr-explorer').count() == 0 and not page.errors


def test_hover_is_fast():
    "256x128 with 256 axes: the largest layer but the pixels. The times are printed, not asserted tightly."
    w = made_explorer(256, taps=(2,), size=(256, 128), kinds=(True,), budget=0)
    with widget_page(state(w), **front_end('patches')) as page:
        ready(page)
        times = page.evaluate('''async () => {
            const frame = document.querySelector('[data-panel=source]'), out = [];
            const root = document.querySelector('.sr-explorer'), r = frame.getBoundingClientRect();
            for (let i = 0; i < 25; i++) {
                const before = Number(root.dataset.ready), t = performance.now();
                const at = {clientX: r.left + 5 + 6 * i % r.width, clientY: r.top + 9 * i};
                frame.dispatchEvent(new PointerEvent('pointermove', at));
                while (Number(root.dataset.ready) === before) await new Promise(f => requestAnimationFrame(f));
                out.push([performance.now() - t, Number(root.dataset.work)]);
            }
            return out.slice(5);
        }''')
        whole, work = np.median(times, 0)
        print(
            f'\nhover, 8192 places x 256: event to drawn {whole:.1f} ms (with the wait for the frame), of which'
            f' computed and drawn {work:.1f} ms'
        )
        assert whole < 2000 and not page.errors


def test_errors_and_silence_end_the_waiting(made):
    with widget_page(state(made), **front_end('patches')) as page:
        ready(page)
        page.clock.install()
        asked = lambda n: page.wait_for_function("n => model.sent.filter(m => m.kind === 'view').length === n", arg=n)
        head = lambda text: page.wait_for_function(
            "text => document.querySelector('.pa-head').innerText.includes(text)", arg=text
        )
        page.select_option('[data-control=camera]', '1')
        asked(1)
        head('computing')
        page.evaluate("model.put('error', 'out of memory')")
        head('could not be computed')
        for width in (900, 1000):  # a redraw by itself does not ask
            page.set_viewport_size({'width': width, 'height': 900})
            page.evaluate('new Promise(f => requestAnimationFrame(() => requestAnimationFrame(f)))')
        asked(1)
        page.evaluate("model.put('error', '')")
        page.click('.pa-head')
        asked(2)
        head('computing')
        page.clock.fast_forward(16_000)
        head('needs a running kernel')
        assert (
            'needs a running kernel' in page.get_by_role('alert').inner_text()
            and page.evaluate(EXPLORER + '.dataset.kernel') == 'silent'
        )
        page.click('.pa-head')
        asked(3)
        head('computing')  # it answers the greeting: there again
        assert page.evaluate(EXPLORER + '.dataset.kernel') == 'live' and page.get_by_role('alert').count() == 0
        page.evaluate(
            "() => { model.send = () => { throw new Error('Cannot send'); }; }"
        )  # after a restart of the kernel
        page.select_option('[data-control=tap]', '2')
        head('needs a running kernel')
        assert 'Run the cell again' in page.get_by_role('alert').inner_text() and not page.errors


@pytest.mark.parametrize('width', [390, 350])
def test_all_columns_on_a_small_screen(made, width):
    "Nothing of the table of numbers is cut off, and nothing in it overlaps."
    with widget_page(state(made), **front_end('patches'), width=width) as page:
        ready(page)
        pin(page, 20, 14)
        cells = """() => [...document.querySelectorAll('.pa-row')].map(row => [...row.children].map(cell => {
            const words = document.createRange(); words.selectNodeContents(cell);
            const {left, right} = words.getBoundingClientRect(); return [left, right]; }))"""
        frame = page.locator('.pa-numbers').bounding_box()
        for row in page.evaluate(cells):
            edges = [edge for cell in row for edge in cell]
            assert len(row) == 5 and frame['x'] <= edges[0] and edges[-1] <= frame['x'] + frame['width']
            assert all(b >= a - 0.5 for a, b in zip(edges, edges[1:])), row
