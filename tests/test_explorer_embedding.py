"""The embedding explorer in a real browser: hover, lasso, rectangle by keyboard, legend, identities, both themes,
no kernel, many points."""

import base64

import numpy as np
import pytest
from browser import painted, widget_page

from synthreid.visual.embedding import EmbeddingExplorer
from synthreid.visual.explorer import front_end

TRAITS = (
    'info places notes place status domain camera people pairs sheets colour_by lines highlight hidden selected'.split()
)
FRONT = front_end('embedding')


def make_state(n=60, pictures=True, **changes):
    "n source points on the left, their translations in the middle, n target points on the right; five of each person."
    rng = np.random.default_rng(0)
    spot = lambda x: np.stack([np.full(n, x), np.linspace(-0.8, 0.8, n)], 1) + rng.normal(size=(n, 2)) * 0.02
    points = np.concatenate([spot(-1.0), spot(0.0), spot(1.0)])
    who = np.tile(np.arange(n) // 5, 3)
    images = (
        np.zeros((3 * n, 32, 16, 3), np.uint8)
        + np.repeat([[200, 30, 30], [30, 160, 30], [40, 60, 220]], n, 0)[:, None, None].astype(np.uint8)
        if pictures
        else None
    )
    pairs = np.concatenate([np.arange(n) + n, np.arange(n), np.full(n, -1)])
    w = EmbeddingExplorer(
        np.repeat(['source', 'translated', 'target'], n),
        points={'PCA': points, 'UMAP': points[:, ::-1]},
        pids=who,
        camids=np.concatenate([np.full(n, -1), np.arange(n) % 3, np.arange(n) % 3]),
        images=images,
        pairs=pairs,
        embed_pictures=changes.pop('embed_pictures', 2000),
    )
    w.place = 'PCA'
    state = {k: getattr(w, k) for k in TRAITS} | changes
    state['info'] = dict(state['info'])
    return state | {'selected': bytes(state['selected'])}


class Plot:
    "Clicks and drags in units of the data, -1..1."

    def __init__(self, page):
        page.wait_for_function("document.querySelector('.em').dataset.moving === 'false'")
        self.page, self.box = page, page.locator('[data-plot]').bounding_box()

    def at(self, x, y):
        b = self.box
        s = min(b['width'] - 2, b['height'] - 2) * 0.47
        return b['x'] + b['width'] / 2 + x * s, b['y'] + b['height'] / 2 - y * s

    def drag(self, *path):
        self.page.mouse.move(*self.at(*path[0]))
        self.page.mouse.down()
        for p in path[1:]:
            self.page.mouse.move(*self.at(*p), steps=8)
        self.page.mouse.up()

    def near(self, x, y):
        "Index and place of the nearest point, on the plane."
        layout = self.page.evaluate(
            "(v => Array.from(new Float32Array(v.buffer, v.byteOffset, v.byteLength /"
            " 4)))(model.get('places')[model.get('place')])"
        )
        points = np.array(layout).reshape(-1, 2)
        i = int(np.linalg.norm(points - [x, y], axis=1).argmin())
        return i, points[i]

    def leave(self):
        "Away from the plot, where no point is under the pointer."
        self.page.mouse.move(1, 1)
        self.page.wait_for_function("!(Number(document.querySelector('.em').dataset.hover) >= 0)")
        painted(self.page)

    def hover(self, x, y):
        "The point under the pointer where, before any zoom, the one nearest to (x, y) is."
        spot = self.near(x, y)[1]
        self.leave()
        self.page.mouse.move(*self.at(*spot))
        self.page.wait_for_function("Number(document.querySelector('.em').dataset.hover) >= 0")
        return int(self.data('hover'))

    def colour(self, x, y):
        "Red, green, blue on the canvas where the nearest point is."
        (px, py), b = self.at(*self.near(x, y)[1]), self.box
        painted(self.page)
        return np.array(
            self.page.evaluate(
                "([x, y]) => { const c = document.querySelector('.em-base'); return"
                " Array.from(c.getContext('2d').getImageData(Math.round(x * c.width), Math.round(y * c.height), 1,"
                " 1).data).slice(0, 3); }",
                [(px - b['x']) / b['width'], (py - b['y']) / b['height']],
            )
        )

    def data(self, name):
        return self.page.evaluate(f"document.querySelector('.em').dataset.{name}")

    def selected(self, n=None):
        "Indices as the kernel would get them."
        if n is not None:
            self.page.wait_for_function(f"document.querySelector('.em').dataset.selected === '{n}'")
        return self.page.evaluate(
            "(v => v ? Array.from(new Int32Array(v.buffer, v.byteOffset, v.byteLength / 4)) : [])(model.saved.selected)"
        )


ROUND_SOURCE = [(-1.15, 0.95), (-0.8, 0.95), (-0.8, -0.95), (-1.15, -0.95), (-1.15, 0.9)]


@pytest.mark.parametrize('dark', [False, True])
def test_lasso_hover_legend(dark):
    with widget_page(make_state(), **FRONT, dark=dark) as page:
        plot = Plot(page)
        i = plot.hover(-0.97, 0)
        assert i < 60 and page.locator('.em-card').is_visible()
        assert page.locator('.em-card').inner_text().replace('\n', ' ').startswith('source translated identity source')
        print(f'hover {plot.data("hoverMs")} ms', end=' ')
        plot.drag(*ROUND_SOURCE)
        assert plot.selected(60) == list(range(60))
        assert (
            page.locator('[data-count="domain:source"]').inner_text() == '60 / 60'
            and page.locator('[data-count="domain:target"]').inner_text() == '0 / 60'
        )
        assert (
            page.locator('.em-found').count() == 1
            and page.locator('.em-thumb').count() == 7
            and '12 people' in page.locator('[data-summary]').inner_text()
        )
        page.locator('[data-more]').click()
        assert page.locator('.em-thumb').count() == 60
        page.keyboard.down('Shift')
        plot.drag((0.8, 0.95), (1.2, 0.95), (1.2, -0.95), (0.8, -0.95), (0.8, 0.9))
        page.keyboard.up('Shift')
        assert plot.selected(120) == [*range(60), *range(120, 180)]
        page.keyboard.down('Alt')
        plot.drag(*ROUND_SOURCE)
        page.keyboard.up('Alt')
        assert plot.selected(60) == list(range(120, 180))
        page.locator('[data-group="domain:target"]').click()  # hidden points are not caught
        page.locator('[data-control="tool"][data-value="rectangle"]').click()
        plot.drag((-1.2, 1), (1.2, -1))
        assert plot.selected(120) == list(range(120))
        page.locator('[data-select="camera:camera 2"]').click()
        assert plot.selected(20) == list(range(61, 120, 3))
        page.locator('.em-clear').click()
        assert plot.selected(0) == []
        assert page.errors == [] and page.requests == []


def test_identities_colours_places():
    with widget_page(make_state(), **FRONT) as page:
        plot = Plot(page)
        field = page.get_by_label('identities to highlight')
        field.fill('3, target 7')
        field.press('Enter')
        assert page.evaluate('model.saved.highlight') == ['source 3', 'target 3', 'target 7']
        page.locator('[data-select-people]').click()
        assert plot.selected(20) == [*range(15, 20), *range(75, 80), *range(135, 140), *range(155, 160)]
        page.locator('[data-person="target 3"]').click()
        assert page.evaluate('model.saved.highlight') == ['source 3', 'target 7']
        field.fill('999')
        field.press('Enter')
        assert 'no identity 999' in page.locator('.sr-error').inner_text()
        field.press('Escape')
        field.press('Escape')  # the selection, then the highlights
        assert page.evaluate('model.saved.highlight') == []
        i = plot.hover(0.98, 0.5)
        page.mouse.down()
        page.mouse.up()  # a click highlights the person
        assert page.evaluate('model.saved.highlight') == [f'target {(i - 120) // 5}']
        page.locator('[data-control="colour_by"][data-value="camera"]').click()
        page.locator('[data-control="lines"][data-value="all"]').click()
        assert page.evaluate("[model.saved.colour_by, model.saved.lines]") == ['camera', 'all']
        assert 'PCA' in page.locator('[data-control="place"][aria-pressed="true"]').inner_text()
        page.locator('[data-control="place"][data-value="UMAP"]').click()
        page.wait_for_function("document.querySelector('.em').dataset.layout === 'UMAP'")
        assert 'not metric' in page.locator('.em-note').inner_text() and page.errors == []


def test_umap_arrives_later():
    state = make_state()
    later, state['places'], state['status'] = state['places'], {'PCA': state['places']['PCA']}, 'computing UMAP'
    with widget_page(state, **FRONT) as page:
        plot = Plot(page)
        button = page.locator('[data-control="place"][data-value="UMAP"]')
        assert button.is_disabled() and page.get_by_text('computing UMAP').is_visible()
        wire = {k: {'__bytes__': base64.b64encode(v).decode()} for k, v in later.items()}
        page.evaluate(
            "([v]) => { model.put('places', v); model.put('place', 'UMAP'); model.put('status', ''); }", [wire]
        )
        page.wait_for_function("document.querySelector('.em').dataset.layout === 'UMAP'")
        assert button.is_enabled() and not page.locator('.em-busy').is_visible()
        assert plot.hover(0, -0.97) < 60 and page.errors == []  # the source was on the left and is at the bottom now


def test_keyboard():
    with widget_page(make_state(), **FRONT) as page:
        plot = Plot(page)
        page.evaluate("window.leaked = []; document.addEventListener('keydown', e => leaked.push(e.key))")
        page.locator('[data-plot]').focus()
        for key in ('d', 'd', 'ArrowDown', 'ArrowUp', 'x', 'Enter'):
            page.keyboard.press(key)
        page.keyboard.press('r')
        assert page.evaluate("document.activeElement.hasAttribute('data-lm-suppress-shortcuts')")
        for _ in range(20):
            page.keyboard.press('Shift+ArrowLeft')
        for _ in range(10):
            page.keyboard.press('Shift+ArrowUp')
        page.keyboard.press('Enter')
        for _ in range(20):
            page.keyboard.press('Shift+ArrowDown')
        for _ in range(4):
            page.keyboard.press('Shift+ArrowRight')
        page.keyboard.press('Enter')
        assert plot.selected(60) == list(range(60))
        page.keyboard.press('c')
        page.keyboard.press('p')
        page.keyboard.press('u')
        assert page.evaluate("[model.saved.colour_by, model.saved.lines, model.saved.place]") == [
            'camera',
            'all',
            'UMAP',
        ]
        page.keyboard.press('Escape')
        assert plot.selected(0) == []
        page.locator('[data-select="domain:target"]').focus()
        page.keyboard.press('Enter')  # a button stays a button
        assert plot.selected(60) == list(range(120, 180)) and page.evaluate(
            "document.activeElement.hasAttribute('data-lm-suppress-shortcuts')"
        )
        page.locator('.em-thumb').first.focus()
        assert page.evaluate("document.querySelector('.em').dataset.hover") == '120'
        assert page.evaluate('leaked') == [] and page.errors == []


def test_zoom_and_pan():
    with widget_page(make_state(), **FRONT) as page:
        plot = Plot(page)
        page.evaluate("window.wheels = 0; document.addEventListener('wheel', () => wheels++)")

        def wheel(n):  # at the left; drawn when this returns
            page.mouse.move(*plot.at(-1, 0))
            page.mouse.wheel(0, -300)
            page.wait_for_function(f'wheels === {n}')
            painted(page)

        target = plot.hover(0.98, 0)
        assert target >= 120
        wheel(1)
        assert page.evaluate('document.activeElement === document.body')
        assert plot.hover(-0.97, 0) < 60 and plot.hover(0.98, 0) == target  # not focused: the page scrolls
        page.locator('[data-plot]').focus()
        wheel(2)
        assert plot.hover(-1, 0) < 60
        page.mouse.move(*plot.at(*plot.near(0.98, 0)[1]))
        page.wait_for_function("document.querySelector('.em').dataset.hover === '-1'")  # target points have left
        page.keyboard.press('0')
        assert plot.hover(0.98, 0) == target
        page.keyboard.press('m')
        plot.drag((0, 0), (1, 0))  # the translated points stand where the target was
        assert 60 <= plot.hover(1, 0) < 120


def test_canvas_shows_colours_highlights_and_selection():
    BLUE, ORANGE, GREEN = np.array([[0, 114, 178], [230, 159, 0], [0, 158, 115]])  # of Okabe and Ito
    like = lambda a, b: np.abs(a - b).max() < 32  # points are not quite opaque
    with widget_page(make_state(n=10), **FRONT) as page:  # few, so that none covers another
        plot = Plot(page)
        source, translated, target = (
            (x, -0.8 + 1.6 * 4 / 9) for x in (-1, 0, 1)
        )  # number 4, of camera 1 where it has one; of the first person
        assert all(like(plot.colour(*spot), c) for spot, c in ((source, BLUE), (translated, ORANGE), (target, GREEN)))
        page.locator('[data-control="colour_by"][data-value="camera"]').click()
        plot.leave()
        assert (
            like(plot.colour(*translated), ORANGE)
            and like(plot.colour(*target), ORANGE)
            and np.ptp(plot.colour(*source)) < 32
        )  # 4 % 3 = 1; the source has none: grey
        page.locator('[data-control="colour_by"][data-value="domain"]').click()
        plot.leave()
        person = page.get_by_label('identities to highlight')
        person.fill('target 0')
        person.press('Enter')
        assert (
            like(plot.colour(*target), GREEN)
            and not like(plot.colour(*source), BLUE)
            and plot.colour(*source).min() > 180
            and plot.colour(1, 0.8).min() > 180
        )  # the others fade
        person.press('Escape')
        assert like(plot.colour(*source), BLUE)
        page.locator('[data-select="domain:source"]').click()
        plot.leave()
        assert (
            np.abs(plot.colour(*source) - BLUE).max() < 3 and plot.colour(*target).min() > 100
        )  # opaque; the rest faint
        assert page.errors == []


def test_no_kernel():
    with widget_page(make_state(embed_pictures=0), **FRONT, alive=False) as page:
        plot = Plot(page)
        plot.drag(*ROUND_SOURCE)
        assert plot.selected(60) == list(range(60))  # all but the pictures works
        assert (
            'needs a running kernel' in page.locator('.em-list').inner_text()
            or 'need a running kernel' in page.locator('.em-list').inner_text()
        )
        assert [m['kind'] for m in page.evaluate('model.sent')] == ['hello'] and page.errors == []


def test_pictures_on_demand():
    state = make_state(embed_pictures=0)
    jpeg = {'__bytes__': base64.b64encode(make_state()['sheets']['0']).decode()}
    with widget_page(state, **FRONT) as page:
        plot = Plot(page)
        plot.drag(*ROUND_SOURCE)
        plot.selected(60)
        page.wait_for_function("model.sent.some(m => m.kind === 'pictures')")
        points = page.evaluate("model.sent.find(m => m.kind === 'pictures').points")
        assert len(points) == 7 and page.locator('.em-thumb .em-loading').count() == 7
        page.evaluate("([p, b]) => model.receive({kind: 'pictures', points: p}, [b])", [points, jpeg])
        page.wait_for_function(
            "document.querySelectorAll('.em-thumb .em-picture').length === 7 && !document.querySelector('.em-thumb"
            " .em-loading')"
        )
        assert page.errors == []


@pytest.mark.parametrize('n', [10_000, 50_000])
def test_many_points(n):
    state = make_state(n // 3, pictures=False)
    with widget_page(state, **FRONT) as page:
        plot = Plot(page)
        plot.drag(*ROUND_SOURCE)
        assert len(plot.selected(n // 3)) == n // 3
        plot.page.wait_for_function("document.querySelectorAll('.em-thumb').length > 0")
        frames = page.evaluate('''async () => { // zoom in and out, everything redrawn
            const root = document.querySelector('.em'), ms = [];
            for (let k = 0; k < 20; k++) {
                const n = root.dataset.ready;
                root.querySelector(k % 2 ? '[aria-label="zoom out"]' : '[aria-label="zoom in"]').click();
                while (root.dataset.ready === n) await new Promise(requestAnimationFrame);
                ms.push(Number(root.dataset.drawMs));
            }
            return ms; }''')
        plot.page.locator('[data-control="lines"][data-value="all"]').click()
        page.keyboard.press('Escape')
        plot.hover(-0.99, 0)
        print(
            f'{n} points: lasso to list {plot.data("lassoMs")} ms, redraw {np.median(frames):.1f} ms, hover'
            f' {plot.data("hoverMs")} ms'
        )
        assert page.errors == [] and len(frames) == 20


def test_removed_widget_is_quiet():
    with widget_page(make_state(), **FRONT) as page:
        Plot(page)
        page.evaluate('remove()')
        page.evaluate("model.put('colour_by', 'camera')")
        assert page.locator('.em').count() == 0 and page.errors == []


def test_errors_and_silence_end_the_waiting():
    with widget_page(make_state(embed_pictures=0), **FRONT) as page:
        plot = Plot(page)
        page.clock.install()
        asked = lambda n: page.wait_for_function(
            "n => model.sent.filter(m => m.kind === 'pictures').length === n", arg=n
        )
        page.locator('[data-select="domain:source"]').click()
        plot.selected(60)
        asked(1)
        page.evaluate("model.put('error', 'no pictures'); model.put('error', '')")
        asked(1)
        assert page.locator('.em-thumb .em-loading').count() == 0 and page.locator('.em-thumb .em-none').count() == 7
        page.locator('.em-keys').click()
        asked(2)
        assert page.locator('.em-thumb .em-loading').count() == 7
        page.clock.fast_forward(16_000)
        page.wait_for_function("document.querySelector('.em').dataset.kernel === 'silent'")
        assert 'needs a running kernel' in page.get_by_role('alert').inner_text()
        page.locator('.em-keys').click()
        asked(3)
        assert page.get_by_role('alert').count() == 0 and page.errors == []


def test_fifteen_cameras_look_different():
    points = np.stack([np.tile(np.linspace(-1, 1, 15), 2), np.repeat([-0.5, 0.5], 15)], 1)
    w = EmbeddingExplorer(['target'] * 30, points={'PCA': points}, camids=np.tile(np.arange(15), 2))
    state = {k: getattr(w, k) for k in TRAITS} | {'selected': b'', 'colour_by': 'camera'}
    with widget_page(state, **FRONT) as page:
        Plot(page)
        signs = page.evaluate("[...document.querySelectorAll('.em-cameras .em-glyph')].map(e => e.innerHTML)")
        marks = page.evaluate(
            '''() => { const s = document.querySelector('.em-base'), c = s.getContext('2d');
            const size = Math.min(s.width, s.height) * .47; // the colours of each mark
            const left = i => Math.round(s.width / 2 + (-1 + i / 7) * size) - 8;
            const top = Math.round(s.height / 2 - .5 * size) - 8;
            return Array.from({length: 15}, (_, i) => c.getImageData(left(i), top, 17, 17).data)
            .map(d => Array.from({length: 289}, (_, k) => d.slice(4 * k, 4 * k + 3).join()).sort().join(' ')); }'''
        )
        assert len(set(signs)) == len(set(marks)) == 15 and page.errors == []
