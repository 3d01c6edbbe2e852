"The translation explorer's front end in a real browser."

import numpy as np
import pytest
from browser import widget_page

from synthreid.metrics.translation import identity_margin
from synthreid.render.folder import render_images
from synthreid.visual.explorer import front_end
from synthreid.visual.translations import TranslationExplorer

TRAITS = 'info sheets step camera against view sort zoomed cut'.split()


# The colours of pixels cannot be read in a page, so screenshots are: mean colour of an element's left and right half.
def halves(locator):
    import io

    from PIL import Image

    a = np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert('RGB')).astype(float)
    q = a.shape[1] // 8
    return a[12:-12, q : 3 * q].mean((0, 1)), a[12:-12, 5 * q : 7 * q].mean((0, 1))


@pytest.fixture(scope='module')
def state():
    images = render_images('game', np.arange(12), np.zeros(12, int), size=(64, 32), seed=3).images
    tint = lambda *c: np.full_like(images, c)
    steps = {
        10: {'all in turn': images // 2 + 60, 'camera 1': tint(200, 40, 40)},
        20: {'all in turn': 255 - images, 'camera 1': tint(40, 200, 40)},
        30: {'all in turn': images[::-1], 'camera 1': tint(40, 40, 200)},
    }
    identity = {s: {c: identity_margin(images, x) for c, x in v.items()} for s, v in steps.items()}
    distance = {s: {c: (np.arange(12) * (7 if s == 10 else 5)) % 12 / 10 for c in v} for s, v in steps.items()}
    curves = [
        dict(name='Frechet distance', note='some features', values=[9, 5, 4], before=12, floor=1),
        dict(name='Identity kept', values=[1, 1, float('nan')], percent=True),
    ]
    w = TranslationExplorer(images, steps, identity, distance, curves, [f'person {i}' for i in range(12)])
    return {k: getattr(w, k) for k in TRAITS}


def show(state, **options):
    return widget_page(state, **front_end('translations'), **options)


def settled(page):
    page.wait_for_function("document.querySelector('.sr-explorer').dataset.prefetched")


def data(page, name):
    return page.locator('.sr-explorer').get_attribute(f'data-{name}')


def get(page, name):
    return page.evaluate(f"model.get('{name}')")


@pytest.mark.parametrize('dark', [False, True])
def test_slider_camera_and_divider(state, dark):
    with show(state, dark=dark) as page:
        settled(page)
        cell = page.locator('.tr-cell').first
        assert cell.locator('.tr-stack').bounding_box()['height'] >= 128 and page.locator('.tr-cell').count() == 12
        page.get_by_label('target camera').select_option('camera 1')
        left, right = halves(cell.locator('.tr-stack'))
        assert right.argmax() == 2 and right[2] > 150, 'blue: step 30'
        assert page.evaluate('model.saved.camera') == 'camera 1'
        page.get_by_label('previous checkpoint').click()
        left, right = halves(cell.locator('.tr-stack'))
        assert (
            right.argmax() == 1
            and right[1] > 150
            and get(page, 'step') == 20
            and '20 (2 of 3)' in page.locator('output').inner_text()
        )
        box = cell.locator('.tr-stack').bounding_box()
        page.mouse.move(box['x'] + box['width'] / 2, box['y'] + 60)
        page.mouse.down()
        page.mouse.move(box['x'] + 20, box['y'] + 60)
        page.mouse.move(box['x'] + 2, box['y'] + 60)
        page.mouse.up()
        assert get(page, 'cut') < 5 and get(page, 'zoomed') == -1, 'a drag moves the divider and opens nothing'
        left, right = halves(page.locator('.tr-cell').nth(5).locator('.tr-stack'))
        assert left.argmax() == 1 and left[1] > 150, 'the divider of all pictures'
        assert cell.locator('.tr-tag-after').inner_text() == 'step 20' and cell.locator('.tr-tag-before').is_hidden()
        assert not page.errors and not page.requests


def test_pin_and_difference(state):
    with show({**state, 'camera': 'camera 1'}) as page:
        settled(page)
        stack = page.locator('.tr-cell').nth(2).locator('.tr-stack')
        page.get_by_role('button', name='Pin this step').click()
        page.get_by_label('checkpoint', exact=True).fill('0')
        assert get(page, 'against') == '30' and get(page, 'step') == 10
        left, right = halves(stack)
        assert left.argmax() == 2 and right.argmax() == 0, 'blue (30, pinned) against red (10)'
        page.get_by_role('button', name='Difference').click()
        left, right = halves(stack)
        assert left[0] > 240 and left[1] < 15 and left[2] > 240, 'three times 160, 0, 160'
        page.keyboard.press('Escape')
        assert get(page, 'against') == 'source' and get(page, 'view') == 'difference'
        page.locator('.sr-explorer').focus()
        page.keyboard.press('d')
        page.keyboard.press('p')
        assert get(page, 'view') == 'divider' and get(page, 'against') == '10'
        page.keyboard.press('p')
        left, right = halves(page.locator('.tr-cell').nth(2).locator('.tr-stack'))
        assert get(page, 'against') == 'source' and abs(left - right).max() > 20
        assert not page.errors


def test_sort_and_numbers(state):
    with show(state) as page:
        settled(page)
        order = lambda: [int(c.get_attribute('data-image')) for c in page.locator('.tr-cell').all()]
        assert order() == list(range(12))
        margins = np.array(state['info']['identity']['30/all in turn'])
        page.get_by_label('sort by').select_option('identity')
        assert (np.diff(margins[order()]) >= 0).all()
        assert page.locator('.tr-cell').first.locator(
            '.tr-sign-lost'
        ).inner_text() == '✗' and 'identity lost' in page.locator('.tr-cell').first.get_attribute('aria-label')
        page.get_by_label('sort by').select_option('distance')
        far = lambda s: np.array(state['info']['distance'][f'{s}/all in turn'])
        assert (np.diff(far(30)[order()]) <= 0).all()
        before = order()
        page.locator('.sr-explorer').focus()
        page.keyboard.press('Home')
        assert get(page, 'step') == 10 and order() == before, 'pictures stay where one looks'
        page.get_by_role('button', name='Sort at this step').click()
        assert (np.diff(far(10)[order()]) <= 0).all() and page.get_by_role(
            'button', name='Sort at this step'
        ).is_hidden()
        page.get_by_label('sort by').select_option('as given')
        assert order() == list(range(12))
        assert 'identity kept: 12 of the 12' in page.locator('.tr-side').inner_text()


def test_curves_mark_the_step_and_lead_to_it(state):
    with show(state) as page:
        settled(page)
        charts = page.locator('.tr-chart')
        assert (
            charts.count() == 2
            and charts.nth(0).locator('.tr-chart-value').text_content() == '4'
            and charts.nth(1).locator('.tr-chart-value').text_content() == '–'
        )
        assert charts.nth(1).locator('.tr-pick').count() == 2 and charts.nth(0).locator('.tr-reference').count() == 2
        charts.nth(0).locator('[data-step="10"] .tr-pick').click()
        assert (
            get(page, 'step') == 10
            and charts.nth(0).locator('.tr-here').get_attribute('data-step') == '10'
            and charts.nth(1).locator('.tr-chart-value').text_content() == '100 %'
        )


def test_zoom(state):
    with show(state) as page:
        settled(page)
        cell = page.locator('.tr-cell').nth(4)
        small = cell.locator('.tr-stack').bounding_box()
        cell.click()
        dialog = page.get_by_role('dialog')
        big = dialog.locator('.tr-stack').bounding_box()
        assert get(page, 'zoomed') == 4 and big['height'] == 3 * small['height'] and 'person 4' in dialog.inner_text()
        assert dialog.locator('.tr-still').count() == 4
        dialog.locator('.tr-still[data-step="20"]').click()
        assert (
            get(page, 'step') == 20
            and dialog.locator('.tr-still[data-step="20"]').get_attribute('aria-pressed') == 'true'
        )
        assert page.evaluate("document.activeElement.dataset.role") == 'still 20', 'the focus stays where it was'
        page.get_by_label('next image').click()
        assert get(page, 'zoomed') == 5
        page.keyboard.press('Escape')
        assert (
            get(page, 'zoomed') == -1
            and dialog.count() == 0
            and page.evaluate("document.activeElement.dataset.image") == '5'
        )
        page.keyboard.press('Enter')
        assert get(page, 'zoomed') == 5 and page.get_by_role('dialog').count() == 1
        page.get_by_role('button', name='close').click()
        assert get(page, 'zoomed') == -1 and not page.errors


def test_keys_stay_in_the_widget(state):
    with show(state) as page:
        settled(page)
        page.evaluate("window.leaked = []; document.addEventListener('keydown', e => leaked.push(e.key))")
        page.locator('.sr-explorer').focus()
        for key in ('ArrowLeft', 'ArrowUp', 'ArrowDown', 'ArrowUp', '1', 'x', 'd', 'd', 'End', 'Home', 'ArrowRight'):
            page.keyboard.press(key)
        assert page.evaluate('leaked') == [] and get(page, 'view') == 'divider'
        assert get(page, 'step') == 20 and get(page, 'camera') == 'camera 1' and get(page, 'cut') == 55


def test_python_leads_and_nothing_needs_a_kernel(state):
    with show(state, alive=False) as page:
        settled(page)
        page.evaluate("model.put('step', 10); model.put('sort', 'distance'); model.put('zoomed', 2)")
        assert data(page, 'step') == '10' and data(page, 'zoomed') == '2' and page.get_by_role('dialog').count() == 1
        page.evaluate("model.put('zoomed', -1); model.put('error', 'expected something else')")
        assert 'something else' in page.locator('.sr-error').inner_text() and data(page, 'kernel') == 'none'
        assert {m['kind'] for m in page.evaluate('model.sent')} == {'hello'}
        page.evaluate('remove()')
        assert page.locator('.sr-explorer').count() == 0 and not page.errors and not page.requests


def test_one_camera_one_checkpoint_no_numbers(state):
    images = render_images('camera', np.arange(3), np.zeros(3, int), size=(128, 64)).images
    w = TranslationExplorer(images, {5: images[::-1]})
    with show({k: getattr(w, k) for k in TRAITS}) as page:
        settled(page)
        assert (
            page.get_by_label('sort by').count() == 0
            and page.get_by_label('target camera').count() == 0
            and page.locator('.tr-chart').count() == 0
        )
        page.get_by_label('next checkpoint').click()
        assert get(page, 'step') == 5 and not page.errors


def switch_times():
    "Milliseconds from the key to the second frame after it: 48 pictures of 128x64 at six checkpoints, in the browser."
    rng = np.random.default_rng(0)
    images = np.repeat(np.repeat(rng.integers(0, 255, (48, 32, 16, 3), np.uint8), 4, 1), 4, 2)
    w = TranslationExplorer(images, {s: rng.permutation(images) for s in range(10, 70, 10)})
    with show({k: getattr(w, k) for k in TRAITS}) as page:
        settled(page)
        times = page.evaluate('''async () => {
            const root = document.querySelector('.sr-explorer'), times = [];
            const frame = () => new Promise(requestAnimationFrame);
            for (let i = 0; i < 24; i++) {
                await frame(); const t = performance.now();
                const key = i % 12 < 6 ? 'ArrowLeft' : 'ArrowRight';
                root.dispatchEvent(new KeyboardEvent('keydown', {key, bubbles: true}));
                await frame(); await frame(); times.push(performance.now() - t);
            }
            return times;
        }''')
        assert data(page, 'step') == '60'
        return times


def test_latency_of_a_checkpoint_switch():
    "Printed, hardly asserted."
    times = switch_times()
    print(f'\ncheckpoint switch: median {np.median(times):.0f} ms, worst {max(times):.0f} ms')
    assert np.median(times) < 2000
