"""The ranked-list explorer's front end, alone in a browser: marks, thresholds, toggles, paging, keys, both themes,
with and without a kernel."""

from functools import partial

import numpy as np
import pytest
from browser import packed, widget_page

from synthreid.data.datasets import ReidSplit
from synthreid.render.folder import render_images
from synthreid.visual.explorer import front_end
from synthreid.visual.ranked import RankedExplorer

TRAITS = ('info', 'entries', 'index', 'pictures', 'ap', 'query', 'choices', 'models', 'flip', 'rerank', 'hide_junk')
ROOT = "document.querySelector('.sr-explorer')"


@pytest.fixture(scope='module')
def explorer():
    r = render_images('camera', np.repeat(np.arange(15), 8), np.tile(np.arange(8), 15), size=(64, 32), seed=4)
    cameras, first = np.tile([0, 0, 0, 1, 1, 1, 2, 2], 15), np.tile([1, 0, 0, 1, 0, 0, 1, 0], 15) > 0

    def split(keep):
        return ReidSplit(
            [f'{p:04}_c{c + 1}_{i:03}.png' for i, (p, c) in enumerate(zip(r.pids[keep], cameras[keep]))],
            r.pids[keep],
            cameras[keep],
            r.images[keep],
        )

    rng = np.random.default_rng(1)

    def codes(noise):
        x = np.eye(15, dtype=np.float32)[r.pids] + noise * rng.standard_normal((120, 15), np.float32)
        return x[first], x[~first]

    features = {'joint': {'plain': codes(0.45), 'flip': codes(0.35)}, 'direct': {'plain': codes(0.9)}}
    return RankedExplorer(features, split(first), split(~first), k=12, embed=10, false_match=0.01, note='a test')


def ordered(x):
    return {k: ordered(x[k]) for k in sorted(x)} if isinstance(x, dict) else x  # as saved in a notebook


def state(explorer, **changes):
    return ordered({**{k: getattr(explorer, k) for k in TRAITS}, **changes})


def shown(page):
    return page.evaluate(f'Number({ROOT}.dataset.query)')


def settle(page, action):
    "Do something, wait until the widget has drawn again, return the milliseconds that it took."
    before = page.evaluate(f'Number({ROOT}.dataset.ready)')
    action()
    page.wait_for_function(f'Number({ROOT}.dataset.ready) > {before}')
    return float(page.evaluate(f'{ROOT}.dataset.took') or 'nan')


def listed(page, key):
    "What a panel shows: (gallery index, mark, place, place before) of every figure."
    return page.evaluate(
        "key => [...document.querySelectorAll(`[data-list='${key}'] figure`)].map(f => [Number(f.dataset.gallery),"
        " f.dataset.mark, f.dataset.place, f.dataset.before])",
        key,
    )


def expected(explorer, key, i, junk=True):
    one, place, out = explorer.lists[key], 0, []
    for at, flag in enumerate(one.flags[i][one.flags[i] > -2]):
        place += flag >= 0
        if flag >= 0 or junk:
            out.append(
                [
                    int(one.order[i, at]),
                    {1: 'right', 0: 'wrong', -1: 'junk'}[int(flag)],
                    str(place) if flag >= 0 else '',
                    str(one.before[i, at]) if one.before is not None and flag >= 0 else '',
                ]
            )
    return out


def serve(page, explorer):
    "Answer what the page has asked for, as the kernel would; these queries."
    sent, asked = [], page.evaluate("model.sent.splice(0).filter(m => m.kind === 'entry')")
    explorer.send = lambda content, buffers=None: sent.append((content, buffers))
    for message in asked:
        explorer._receive(message, [])
    for content, buffers in sent:
        page.evaluate('([m, b]) => model.receive(m, b)', [content, packed(buffers)])
    return {m['query'] for m in asked}


@pytest.mark.parametrize('dark', [False, True])
def test_shows_what_python_computed(explorer, dark, tmp_path):
    with widget_page(state(explorer), **front_end('ranked'), dark=dark, width=1200) as page:
        i = shown(page)
        assert i == explorer.query
        for m in ('joint', 'direct'):
            assert listed(page, f'{m}/plain') == expected(explorer, f'{m}/plain', i)
        page.wait_for_function("[...document.images].every(x => x.complete && x.naturalWidth === 32)")
        numbers = explorer.numbers()['joint']
        panel = page.locator('[data-list="joint/plain"]')
        assert (
            f'{numbers["ap"]:.3f}' in panel.inner_text()
            and f'{numbers["found"]} of {numbers["total"]}' in panel.inner_text()
        )
        assert panel.locator('[data-number="first hit"] b').inner_text() == str(numbers['first'])
        assert page.locator('.rl-where').inner_text().endswith(f'by AP of joint: {numbers["ap"]:.3f}')
        assert page.locator('[data-protocol="market1501"]').inner_text().startswith('Protocol market1501')
        styles = page.evaluate(
            "Object.fromEntries(['right', 'wrong', 'junk'].map(m => [m, document.querySelector(`.rl-list"
            " figure[data-mark=${m}] img`)]).map(([m, e]) => [m, e && getComputedStyle(e).borderTopStyle]))"
        )
        assert styles == {'right': 'solid', 'wrong': 'dashed', 'junk': 'dotted'}
        assert all(
            page.locator(f'.rl-list figure[data-mark={m}]').first.inner_text().startswith(s)
            for m, s in (('right', '✓'), ('wrong', '✗'), ('junk', '○'))
        )
        assert page.evaluate('document.documentElement.scrollWidth <= innerWidth')
        assert len(page.screenshot(path=tmp_path / 'page.png')) > 20_000
        page.evaluate('remove()')
        assert page.locator('.sr-explorer').count() == 0 and page.requests == [] and page.errors == []


def test_threshold_line(explorer):
    with widget_page(state(explorer), **front_end('ranked'), width=1200) as page:
        for i in map(int, explorer.entries):
            if i != shown(page):
                settle(page, partial(page.evaluate, "i => model.put('query', i)", i))
            for m in ('joint', 'direct'):
                one, limit = explorer.lists[f'{m}/plain'], explorer.info['lists'][f'{m}/plain']['threshold']
                close = one.distance[i][one.flags[i] > -2] < limit
                assert page.locator(f'[data-list="{m}/plain"] li.rl-same').count() == close.sum()
                at = page.evaluate(
                    "m => [...document.querySelectorAll(`[data-list='${m}/plain'] li`)].findIndex(e => e.role ==="
                    " 'separator')",
                    m,
                )
                assert at == close.sum()  # behind the last one that is close enough
        assert 'same person' in page.locator('[role=separator]').first.get_attribute('aria-label')


def test_toggles_and_models(explorer):
    times = {}
    with widget_page(state(explorer), **front_end('ranked'), width=1200) as page:
        i = shown(page)
        times['re-ranking'] = settle(page, lambda: page.get_by_role('button', name='re-ranking').click())
        assert listed(page, 'joint/rerank') == expected(explorer, 'joint/rerank', i) and listed(
            page, 'direct/rerank'
        ) == expected(explorer, 'direct/rerank', i)
        assert '(' in page.locator('.rl-list figure .rl-before').first.inner_text()
        times['mirror averaging'] = settle(page, lambda: page.get_by_role('button', name='mirror averaging').click())
        assert listed(page, 'joint/flip+rerank') == expected(explorer, 'joint/flip+rerank', i)
        assert listed(page, 'direct/rerank') == expected(
            explorer, 'direct/rerank', i
        )  # no mirrored codes: that switch does nothing
        assert page.evaluate('[model.saved.flip, model.saved.rerank]') == [True, True]
        junk = settle(page, lambda: page.get_by_role('button', name='hide junk').click())
        assert (
            listed(page, 'joint/flip+rerank') == expected(explorer, 'joint/flip+rerank', i, junk=False) and junk < 1000
        )
        settle(page, lambda: page.get_by_label('compare with').select_option('none'))
        assert page.locator('.rl-panel').count() == 1 and page.evaluate('model.saved.models') == ['joint']
        settle(page, lambda: page.get_by_label('model', exact=True).select_option('direct'))
        assert page.get_by_role('button', name='mirror averaging').is_disabled() and page.evaluate(
            'model.saved.models'
        ) == ['direct']
        settle(page, lambda: page.evaluate("model.put('models', ['joint', 'direct'])"))  # from Python
        assert page.locator('.rl-panel').count() == 2 and page.errors == []
    print('latencies, ms:', times)


def test_paging_with_a_kernel(explorer):
    with widget_page(state(explorer), **front_end('ranked'), width=1200) as page:
        order = np.argsort(explorer.lists['joint/plain'].result.ap, kind='stable').tolist()
        settle(page, lambda: page.get_by_role('button', name='worst query').click())
        assert shown(page) == order[0] and page.evaluate('model.saved.query') == order[0]
        settle(page, lambda: page.get_by_role('button', name='best query', exact=True).click())
        assert shown(page) == order[-1]
        there = serve(page, explorer) | set(map(int, explorer.entries))
        at = next(k for k in range(1, 44) if not {order[k - 1], order[k], order[k + 1]} & there)
        other = order[at]
        page.evaluate("i => model.put('query', i)", other)  # asks the kernel
        page.wait_for_function("i => model.sent.some(m => m.kind === 'entry' && m.query === i)", arg=other)
        settle(page, lambda: serve(page, explorer))
        assert shown(page) == other and listed(page, 'joint/plain') == expected(explorer, 'joint/plain', other)
        page.wait_for_function("[...document.images].every(x => x.complete && x.naturalWidth === 32)")
        asked = page.evaluate(
            "model.sent.filter(m => m.kind === 'entry').map(m => m.query)"
        )  # the neighbours, before somebody asks
        assert sorted(asked) == sorted([order[at - 1], order[at + 1]])
        settle(page, lambda: page.evaluate("model.put('choices', [3, 1])"))  # another widget's selection
        settle(page, lambda: page.evaluate("model.put('query', 3)") or serve(page, explorer))
        assert '2 chosen queries' in page.locator('.rl-where').inner_text()
        settle(page, lambda: page.get_by_role('button', name='page through all queries again').click())
        assert page.evaluate('model.saved.choices') == [] and '45 queries' in page.locator('.rl-where').inner_text()
        gain = settle(page, lambda: page.get_by_label('order of the queries').select_option('gain'))
        ap = [explorer.lists[f'{m}/plain'].result.ap for m in ('joint', 'direct')]
        assert f'{ap[0][3] - ap[1][3]:.3f}' in page.locator('.rl-where').inner_text() and not gain > 1000
        assert page.errors == [] and page.requests == []


def test_choose_by_person_or_file(explorer):
    with widget_page(state(explorer), **front_end('ranked'), width=1200, alive=False) as page:
        box = page.get_by_label('choose a query by person or file name')
        for i in [j for j in map(int, explorer.entries) if j != explorer.query][:2]:
            box.fill(explorer.info['names'][i])
            settle(page, lambda: box.press('Enter'))
            assert shown(page) == i
        saved = list(map(int, explorer.entries))
        person = next(
            int(p)
            for p in explorer._query.pids
            if any(explorer._query.pids[i] == p and i != shown(page) for i in saved)
        )
        box.fill(str(person))
        settle(page, lambda: box.press('Enter'))
        assert explorer._query.pids[shown(page)] == person
        box.fill('nobody')
        box.press('Enter')
        assert 'No query of' in page.get_by_role('alert').inner_text()


def test_without_a_kernel(explorer):
    with widget_page(state(explorer), **front_end('ranked'), width=1200, alive=False) as page:
        saved = sorted(map(int, explorer.entries), key=lambda i: (explorer.lists['joint/plain'].result.ap[i], i))
        settle(page, lambda: page.get_by_role('button', name='worst query').click())
        seen, times = [shown(page)], []
        for _ in saved[1:]:
            times.append(settle(page, lambda: page.get_by_role('button', name='better query').click()))
            seen.append(shown(page))
        assert seen == saved and '10 saved queries (45 in all)' in page.locator('.rl-where').inner_text()
        settle(page, lambda: page.get_by_role('button', name='random query').click())
        assert shown(page) in saved[:-1]
        missing = next(i for i in range(45) if i not in saved)
        page.get_by_label('choose a query by person or file name').fill(explorer.info['names'][missing])
        page.get_by_label('choose a query by person or file name').press('Enter')
        assert 'needs a running kernel' in page.get_by_role('alert').inner_text()
        assert page.errors == [] and page.requests == []
        print(f'query to list, ms: median {np.median(times):.1f}, largest {max(times):.1f}')


def test_keys_stay_inside(explorer):
    with widget_page(state(explorer), **front_end('ranked'), width=1200, alive=False) as page:
        page.evaluate("window.outside = []; document.addEventListener('keydown', e => outside.push(e.key))")
        page.locator('.sr-explorer').focus()
        settle(page, lambda: page.keyboard.press('w'))
        worst = shown(page)
        settle(page, lambda: page.keyboard.press('ArrowDown'))
        assert shown(page) != worst
        settle(page, lambda: page.keyboard.press('ArrowUp'))
        assert shown(page) == worst
        page.keyboard.press('2')
        assert page.evaluate('document.activeElement.dataset.place') == '2'
        twin = page.evaluate('document.activeElement.dataset.gallery')
        assert set(page.evaluate("[...document.querySelectorAll('.rl-twin')].map(f => f.dataset.gallery)")) == {twin}
        page.keyboard.press('Enter')
        assert page.locator('.rl-picked').get_attribute('data-gallery') == twin
        assert explorer.entries[str(worst)]['gallery'][twin][0] in page.locator('.rl-detail').inner_text()
        settle(page, lambda: page.keyboard.press('r'))
        assert page.evaluate('model.saved.rerank') is True
        assert page.evaluate("document.activeElement.closest('.rl-list') !== null")  # focus stays in the list
        page.keyboard.press('Escape')
        assert page.locator('.rl-detail').is_hidden()
        page.keyboard.press('ArrowRight')
        page.keyboard.press('ArrowLeft')
        for key in ('d', 'd', 'a', 'x'):
            page.keyboard.press(key)
        box = page.get_by_label('choose a query by person or file name')
        box.focus()
        box.press_sequentially('wr1')
        assert box.input_value() == 'wr1'  # letters typed are letters
        assert page.evaluate('outside') == [] and shown(page) == worst and page.errors == []


def test_copies_file_names(explorer):
    with widget_page(state(explorer), **front_end('ranked'), width=1200, alive=False) as page:
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async t => { window.copied = t; }},"
            " configurable: true})"
        )
        page.locator('.rl-card .rl-copy').click()
        page.wait_for_function('window.copied')
        assert page.evaluate('copied') == explorer.info['names'][explorer.query]
        page.evaluate(
            "Object.defineProperty(navigator, 'clipboard', {value: {writeText: async () => { throw new Error('not"
            " allowed'); }}})"
        )
        page.locator('.rl-card .rl-copy').click()
        page.wait_for_function('String(getSelection()).length > 3')
        assert page.evaluate('String(getSelection())') == explorer.info['names'][explorer.query] and page.errors == []


def test_errors_of_the_kernel_are_shown(explorer):
    with widget_page(state(explorer, error='it went wrong'), **front_end('ranked')) as page:
        assert page.get_by_role('alert').inner_text() == 'it went wrong'
        page.evaluate("model.put('error', '')")
        assert page.get_by_role('alert').count() == 0


def test_errors_and_silence_end_the_waiting(explorer):
    with widget_page(state(explorer), **front_end('ranked'), width=1200) as page:
        other = next(i for i in range(45) if str(i) not in explorer.entries)
        asked = lambda n: page.wait_for_function(
            "([i, n]) => model.sent.filter(m => m.kind === 'entry' && m.query === i).length === n", arg=[other, n]
        )
        page.clock.install()
        page.evaluate("i => model.put('query', i)", other)
        asked(1)
        page.evaluate("model.put('error', 'no such file'); model.put('error', '')")
        asked(1)
        page.locator('.rl-where').click()
        asked(2)
        page.clock.fast_forward(16_000)
        page.wait_for_function(f"{ROOT}.dataset.kernel === 'silent'")
        assert 'needs a running kernel' in page.get_by_role('alert').inner_text()
        page.locator('.rl-where').click()
        asked(3)
        settle(page, lambda: serve(page, explorer))
        assert shown(page) == other and page.get_by_role('alert').count() == 0 and page.errors == []
