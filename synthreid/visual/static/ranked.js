// Ranked lists: a query, its nearest pictures for one model or two, right, wrong or junk.

const SAYS = {1: 'right', 0: 'wrong', '-1': 'junk'};

function render({model, el}) {
  const info = model.get('info'), n = info.n_query, keys = info.keys; // not Object.keys: a saved notebook sorts them
  const ap = typed(model, 'ap', Float32Array), entries = new Map(Object.entries(model.get('entries')).map(([i, e]) => [Number(i), e]));
  let sorting = 'left', detail = null, began = 0, known = {};

  const own = explorer(el, model, {label: 'Ranked lists', keys: {
    ArrowRight: () => walk(1), ArrowLeft: () => walk(-1), ArrowDown: () => step(1), ArrowUp: () => step(-1),
    Home: () => focusFigure(0), End: () => focusFigure(-1), Escape: () => show(null), '+': () => step(1), '-': () => step(-1),
    Enter: e => open(e.target), ' ': e => open(e.target),
    f: () => press(flip), r: () => press(rerank), j: () => press(junk), w: () => go(sorted()[0]), b: () => go(sorted().at(-1)),
    ...Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9].map(d => [String(d), () => focusPlace(d)])),
  }});
  const asked = questions(own, model, () => draw()), urls = pictures(own), places = new Map(); // where the bytes of a picture are
  remember(model.get('index'), typed(model, 'pictures', Uint8Array));
  function remember(index, bytes) { for (const [key, [a, b]] of Object.entries(index)) if (!places.has(key)) places.set(key, bytes.subarray(a, b)); }
  const url = key => places.has(key) ? urls.url(key, places.get(key)) : '';

  // ---- which list, which queries
  const names = () => model.get('models');
  function listOf(name) { // switches without such a list do nothing
    const wanted = ['flip', 'rerank'].filter(v => model.get(v) && `${name}/${v}` in info.lists).join('+');
    return `${name}/${wanted || 'plain'}`;
  }
  const has = v => names().some(m => `${m}/${v}` in info.lists);
  const apOf = (key, i) => ap[keys.indexOf(key) * n + i];
  const value = (i, lists = names().map(listOf)) => sorting === 'gain' ? apOf(lists[0], i) - apOf(lists[1], i) : apOf(lists[sorting === 'right' ? 1 : 0], i);
  function sorted() { // the queries to page through, worst first
    const chosen = model.get('choices'), lists = names().map(listOf), key = JSON.stringify([sorting, lists, chosen, own.alive]);
    if (known.key === key) return known.order; // thousands of queries need not be sorted at every step
    const pool = (chosen.length ? chosen : [...Array(n).keys()]).filter(i => own.alive || entries.has(i));
    known = {key, order: pool.map(i => [value(i, lists), i]).filter(v => !Number.isNaN(v[0])).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(v => v[1])};
    return known.order;
  }
  const camera = c => `camera ${c + 1}`;

  // ---- moving
  function go(i) {
    if (i === undefined) return;
    if (!entries.has(i) && !own.needsKernel('a query whose pictures are not saved here')) return;
    own.fail(''); began = performance.now();
    if (i === model.get('query')) return draw();
    model.set('query', i); model.save_changes();
  }
  function step(by) {
    const order = sorted(), at = order.indexOf(model.get('query'));
    go(order[Math.min(order.length - 1, Math.max(0, at < 0 ? 0 : at + by))]);
  }
  const figures = from => [...(from?.closest('.rl-list') || panels.querySelector('.rl-list'))?.querySelectorAll('figure') || []].filter(f => f.offsetParent);
  function focus(f) { if (f) { f.closest('.rl-list').querySelectorAll('figure').forEach(x => x.tabIndex = x === f ? 0 : -1); f.focus(); } }
  function current() { const e = el.getRootNode().activeElement; return e && own.root.contains(e) ? e.closest('.rl-list figure') : null; }
  function walk(by) { const f = current(), all = figures(f); focus(f ? all[Math.min(all.length - 1, Math.max(0, all.indexOf(f) + by))] : all[0]); }
  function focusFigure(at) { focus(figures(current()).at(at)); }
  function focusPlace(place) { focus(figures(current()).find(f => Number(f.dataset.place) === place)); }
  function press(button) { if (!button.disabled) button.click(); }
  function open(target) { if (target.matches('.rl-list figure')) show(Number(target.dataset.gallery)); else if (target.matches('button')) target.click(); }
  function find(text) {
    const wanted = text.trim().toLowerCase();
    if (!wanted) return [];
    const number = /^\d+$/.test(wanted) ? Number(wanted) : null, all = [...Array(n).keys()];
    const person = number === null ? [] : all.filter(i => info.pids[i] === number);
    return person.length ? person : all.filter(i => info.names[i].toLowerCase().includes(wanted));
  }

  // ---- controls
  const set = (name, v) => { began = performance.now(); model.set(name, v); model.save_changes(); };
  const first = select(info.models, names()[0], v => set('models', [v, ...names().slice(1).filter(m => m !== v)]), 'model');
  const second = select([['', 'none'], ...info.models], names()[1] || '', v => set('models', v && v !== names()[0] ? [names()[0], v] : [names()[0]]), 'compare with');
  const flip = toggle('mirror averaging', model.get('flip'), v => set('flip', v));
  const rerank = toggle('re-ranking', model.get('rerank'), v => set('rerank', v));
  const junk = toggle('hide junk', model.get('hide_junk'), v => set('hide_junk', v));
  const sort = select([['left', 'AP']], 'left', v => { sorting = v; draw(); }, 'order of the queries');
  const button = (text, label, f) => h('button', {type: 'button', title: label, 'aria-label': label, onclick: f}, text);
  const slider = h('input', {type: 'range', min: 0, max: 0, step: 1, 'aria-label': 'query, from worst to best', oninput: () => go(sorted()[slider.valueAsNumber])});
  const curve = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  curve.setAttribute('class', 'rl-curve'); curve.setAttribute('viewBox', '0 0 300 30'); curve.setAttribute('preserveAspectRatio', 'none'); curve.setAttribute('aria-hidden', 'true');
  const where = h('span', {class: 'rl-where'});
  const hits = h('datalist', {id: `rl-${Math.random().toString(36).slice(2)}`});
  const search = h('input', {type: 'text', class: 'rl-search', placeholder: 'person or file name', list: hits.id, 'aria-label': 'choose a query by person or file name',
    oninput: () => hits.replaceChildren(...find(search.value).slice(0, 20).map(i => h('option', {value: info.names[i]}, `person ${info.pids[i]}`))),
    onchange: () => choose(), onkeydown: e => { if (e.key === 'Enter') { e.preventDefault(); choose(true); } }});
  let last = '';
  function choose(again) { // Enter once more: the next one that fits
    const found = find(search.value), known = found.filter(i => own.alive || entries.has(i));
    if (!found.length) { if (search.value.trim()) own.fail(`No query of “${search.value.trim()}”: expected the number of a person or a part of a file name.`); return; }
    if (!known.length) return own.needsKernel(found.length === 1 ? 'this query' : `each of these ${found.length} queries`);
    const at = known.indexOf(model.get('query'));
    if (last !== search.value || at < 0) go(known[0]); else if (again) go(known[(at + 1) % known.length]);
    last = search.value;
  }
  const free = button('all queries', 'page through all queries again', () => set('choices', []));
  const panels = h('div', {class: 'rl-panels'}), card = h('div', {class: 'rl-card'}), more = h('div', {class: 'rl-detail', hidden: true}), foot = h('div', {class: 'rl-foot sr-quiet'});
  own.body.append(
    h('div', {class: 'sr-bar'}, control('model', first), info.models.length > 1 && control('compare with', second), flip, rerank, junk),
    h('div', {class: 'sr-bar rl-queries'}, h('div', {class: 'rl-track'}, curve, slider),
      h('div', {class: 'rl-buttons'}, button('◀', 'worse query', () => step(-1)), button('▶', 'better query', () => step(1)),
        button('worst', 'worst query', () => go(sorted()[0])), button('best', 'best query', () => go(sorted().at(-1))),
        button('random', 'random query', () => { const o = sorted().filter(i => i !== model.get('query')); go(o[Math.floor(Math.random() * o.length)]); }), search, hits, control('by', sort), free), where),
    h('div', {class: 'rl-main'}, h('div', {class: 'rl-side'}, card, more), panels), foot);

  // ---- drawing
  function picture(key, alt) { return h('img', {src: url(key), alt, width: info.width, height: info.height, draggable: 'false'}); }
  function copier(text) {
    const b = h('button', {type: 'button', class: 'rl-copy', title: 'copy the file name', 'aria-label': `copy ${text}`, onclick: async () => {
      try { await navigator.clipboard.writeText(text); } catch { // not allowed on this page: select it, so that Ctrl+C works
        const range = document.createRange(); range.selectNodeContents(name); getSelection().removeAllRanges(); getSelection().addRange(range); document.execCommand?.('copy');
      }
      b.textContent = 'copied'; own.say(`${text} copied`); setTimeout(() => { b.textContent = 'copy'; }, 1200);
    }}, 'copy');
    const name = h('code', {}, text);
    return h('span', {class: 'rl-name'}, name, b);
  }
  function drawCard(i) {
    card.replaceChildren(h('figure', {class: 'rl-query', 'data-query': i}, picture(`q${i}`, `query: person ${info.pids[i]}, ${camera(info.camids[i])}`),
      h('figcaption', {}, h('b', {}, 'query'), h('span', {}, `person ${info.pids[i]}`), h('span', {}, camera(info.camids[i])), copier(info.names[i]))));
  }
  function figure(i, entry, list, at, place) {
    const j = list.order[at], mark = SAYS[list.flags[at]], [name, pid, cam] = entry.gallery[j], before = list.before && mark !== 'junk' ? list.before[at] : 0;
    const says = [mark === 'junk' ? 'junk, not counted' : `place ${place}, ${mark}`, before ? `before ${before}` : '', `person ${pid}`, camera(cam), `distance ${fixed(list.distance[at], 3)}`, name].filter(Boolean).join(', ');
    return h('li', {class: `rl-item rl-${mark}`},
      h('figure', {tabindex: -1, 'data-gallery': j, 'data-mark': mark, 'data-place': mark === 'junk' ? '' : place, 'data-before': before || '', 'aria-label': says, title: name,
        onclick: e => { focus(e.currentTarget); show(j); }, onfocus: () => twins(j), onblur: () => twins(null), onpointerenter: () => twins(j), onpointerleave: () => twins(null)},
      picture(`g${j}`, ''), h('figcaption', {}, h('span', {class: 'rl-place'}, h('span', {class: 'rl-sign'}, MARKS[mark]), mark === 'junk' ? ' junk' : ` ${place}`, before ? h('span', {class: 'rl-before', title: `place ${before} before`}, ` (${before})`) : ''),
        h('span', {class: 'rl-distance'}, fixed(list.distance[at], 3)))));
  }
  function twins(j) { panels.querySelectorAll('.rl-list figure').forEach(f => f.classList.toggle('rl-twin', Number(f.dataset.gallery) === j)); }
  function line(limit, where) { // up to here the calibrated threshold says: the same person
    const text = where === 'end' ? `same person: all of these, up to ${fixed(limit, 3)}` : where === 'start' ? `same person: nobody, up to ${fixed(limit, 3)}` : `same person up to ${fixed(limit, 3)}`;
    return h('li', {class: 'rl-line', role: 'separator', 'aria-label': text, 'data-threshold': limit, title: text}, h('span', {}, `same ≤ ${fixed(limit, 3)}`));
  }
  function panel(i, entry, name) {
    const key = listOf(name), list = entry.lists[key], about = info.lists[key], hidden = model.get('hide_junk'), items = [];
    let place = 0, drawn = false;
    list.order.forEach((j, at) => {
      if (about.threshold !== undefined && !drawn && list.distance[at] >= about.threshold) { items.push(line(about.threshold, at ? 'middle' : 'start')); drawn = true; }
      if (list.flags[at] >= 0) place++;
      if (list.flags[at] < 0 && hidden) return;
      const item = figure(i, entry, list, at, place);
      if (about.threshold !== undefined && !drawn) item.classList.add('rl-same');
      items.push(item);
    });
    if (about.threshold !== undefined && !drawn) items.push(line(about.threshold, 'end'));
    const start = items.find(li => li.firstChild.tagName === 'FIGURE'); if (start) start.firstChild.tabIndex = 0;
    const number = (label, value, extra) => h('div', {class: 'rl-number', 'data-number': label}, h('span', {class: 'sr-quiet'}, label), h('b', {}, value), extra && h('span', {class: 'sr-quiet'}, extra));
    return h('section', {class: 'rl-panel', 'data-list': key, 'aria-label': `ranked list of ${name}`},
      h('header', {}, h('div', {class: 'rl-model'}, h('b', {}, name), key.endsWith('/plain') ? '' : h('span', {class: 'rl-variant'}, key.slice(name.length + 1).replace('flip', 'mirror averaged').replace('+', ', ').replace('rerank', 're-ranked')),
        h('span', {class: 'rl-all sr-quiet'}, `all queries: mAP ${fixed(100 * about.mAP, 1)}, rank-1 ${fixed(100 * about.rank1, 1)}`)),
      h('div', {class: 'rl-numbers'}, number('AP', list.ap === null ? '–' : fixed(list.ap, 3)), number('first hit', list.first ? `${list.first}` : '–', list.first ? '' : 'no right match'),
        number('found', `${list.found} of ${list.total}`, `in the first ${place}`))),
      h('ol', {class: 'rl-list', 'aria-label': `nearest pictures, ${name}`}, items));
  }
  function show(j) {
    detail = j; const i = model.get('query'), entry = entries.get(i);
    panels.querySelectorAll('.rl-list figure').forEach(f => f.classList.toggle('rl-open', j !== null && Number(f.dataset.gallery) === j));
    more.hidden = j === null || !entry?.gallery[j];
    if (more.hidden) return more.replaceChildren();
    const [name, pid, cam] = entry.gallery[j];
    const rows = names().map(m => {
      const list = entry.lists[listOf(m)], at = list.order.indexOf(j), limit = info.lists[listOf(m)].threshold;
      if (at < 0) return h('div', {'data-model': m}, h('b', {}, m), h('span', {}, `not among the first ${info.k}`));
      const place = list.flags.slice(0, at + 1).filter(f => f >= 0).length, mark = SAYS[list.flags[at]];
      return h('div', {class: `rl-${mark}`, 'data-model': m}, h('b', {}, m), h('span', {}, h('span', {class: 'rl-sign'}, MARKS[mark]), mark === 'junk' ? ' junk, not counted' : ` place ${place}${list.before ? ` (${list.before[at]})` : ''}`),
        h('span', {class: 'sr-quiet'}, `distance ${fixed(list.distance[at], 3)}`), limit !== undefined && h('span', {class: 'sr-quiet'}, list.distance[at] < limit ? 'same person' : 'beyond the threshold'));
    });
    const mark = names().map(m => entry.lists[listOf(m)]).map(l => l.flags[l.order.indexOf(j)]).find(f => f !== undefined);
    more.replaceChildren(h('figure', {class: `rl-picked rl-${SAYS[mark]}`, 'data-gallery': j}, picture(`g${j}`, `person ${pid}, ${camera(cam)}`), h('figcaption', {}, h('span', {}, `person ${pid}`), h('span', {}, camera(cam)), copier(name))),
      ...rows, button('× close', 'close (Esc)', () => { show(null); focus(figures()[0]); }));
  }
  function drawTrack(order, i) {
    const last = order.length - 1, some = order.length <= 300 ? order.map((_, k) => k) : [...Array(300).keys()].map(k => Math.round(k * last / 299)); // places on the curve
    const values = some.map(k => value(order[k])), low = Math.min(0, ...values), high = Math.max(sorting === 'gain' ? 0 : 1, ...values), at = order.indexOf(i);
    const x = k => order.length < 2 ? 150 : 8 + 284 * k / (order.length - 1), y = v => 28 - 26 * (v - low) / (high - low || 1); // 8: half a slider's thumb
    const path = values.map((v, k) => `${k ? 'L' : 'M'}${x(some[k]).toFixed(1)},${y(v).toFixed(1)}`).join('');
    curve.innerHTML = values.length ? `<path class="rl-area" d="${path}L${x(last)},${y(0)}L${x(0)},${y(0)}Z"/><path d="${path}"/>${low < 0 ? `<path class="rl-zero" d="M0,${y(0)}H300"/>` : ''}${at >= 0 ? `<path class="rl-now" d="M${x(at)},0V30"/>` : ''}` : '';
    slider.max = Math.max(0, order.length - 1); slider.value = Math.max(0, at);
    const what = sorting === 'gain' ? `${names()[0]} − ${names()[1]}` : `AP of ${names()[sorting === 'right' ? 1 : 0]}`;
    slider.setAttribute('aria-valuetext', `${at + 1} of ${order.length} by ${what}`);
    const pool = model.get('choices').length ? 'chosen queries' : own.alive ? 'queries' : `saved queries (${n} in all)`;
    where.textContent = at < 0 ? `query ${i + 1}: not among the ${order.length} ${pool}` : `${at + 1} of ${order.length} ${pool}, by ${what}: ${fixed(value(i), 3)}`;
  }
  function drawControls() {
    const [a, b] = names();
    first.value = a; second.value = b || '';
    for (const [control, name, why] of [[flip, 'flip', 'no codes of mirrored images were given'], [rerank, 'rerank', 're-ranked lists were not computed']]) {
      control.disabled = !has(name); control.title = has(name) ? `key ${name[0]}` : why; control.setAttribute('aria-pressed', String(model.get(name) && has(name)));
    }
    junk.setAttribute('aria-pressed', String(model.get('hide_junk'))); junk.title = 'junk: pictures that the protocol does not count (key j)';
    const wanted = b ? [['left', `AP of ${a}`], ['right', `AP of ${b}`], ['gain', `${a} − ${b}`]] : [['left', `AP of ${a}`]];
    if (!wanted.some(o => o[0] === sorting)) sorting = 'left';
    sort.replaceChildren(...wanted.map(([v, t]) => h('option', {value: v}, t))); sort.value = sorting;
    free.hidden = !model.get('choices').length;
  }
  function drawFoot() {
    const about = info.lists[listOf(names()[0])], percent = x => `${fixed(100 * x, x < .01 ? 2 : 1)} %`;
    const threshold = names().map(m => [m, info.lists[listOf(m)]]).map(([m, l]) => l.threshold === undefined ? `${m}: no threshold (${l.no_threshold})`
      : `${m}: same person up to ${fixed(l.threshold, 3)}, ${percent(l.false_match)} false matches (${percent(l.interval[0])} to ${percent(l.interval[1])}, ${l.n_accepted} pairs${l.n_accepted < 30 ? ': little more than a guess' : ''}), ${percent(l.true_match)} true matches`);
    const moved = names().some(m => !listOf(m).endsWith('/plain')) ? 'In brackets: the place without mirror averaging and re-ranking.' : '';
    foot.replaceChildren(
      h('div', {class: 'rl-legend'}, ...['right', 'wrong', 'junk'].map(m => h('span', {class: `rl-${m}`}, h('i', {}), h('span', {class: 'rl-sign'}, MARKS[m]), m === 'junk' ? ' junk: not counted' : ` ${m}`)), h('span', {class: 'rl-legend-same'}, h('i', {}), ' same person by the threshold')),
      h('div', {'data-protocol': info.protocol}, h('b', {}, `Protocol ${info.protocol}`), `: ${info.says}. ${info.metric[0].toUpperCase()}${info.metric.slice(1).replace('_', ' ')} distance, ${n} queries, ${info.n_gallery} gallery pictures. ${moved}`),
      h('div', {}, `Thresholds for ${percent(info.false_match)} false matches, calibrated on these queries: ${threshold.join('; ')}.`),
      h('div', {class: 'rl-keys'}, '↑ ↓ query, ← → picture, 1–9 place, Enter details, Esc closes, w worst, b best, f mirror averaging, r re-ranking, j junk. ', info.note));
  }
  const draw = own.guard(() => {
    const i = model.get('query'), entry = entries.get(i), order = sorted(), kept = current();
    const held = kept && [kept.closest('.rl-panel').dataset.list.split('/')[0], kept.dataset.place];
    drawControls(); drawTrack(order, i);
    if (!entry) { fetchEntry(i); own.root.classList.add('rl-waiting'); return; }
    own.root.classList.remove('rl-waiting');
    drawCard(i);
    panels.replaceChildren(...names().map(m => panel(i, entry, m)));
    drawFoot(); show(detail in entry.gallery ? detail : null);
    if (held) focus(figures(panels.querySelector(`[data-list^="${CSS.escape(held[0])}/"] .rl-list`) || undefined).find(f => f.dataset.place === held[1]) || figures()[0]);
    own.say(names().map(m => { const l = entry.lists[listOf(m)]; return `${m}: AP ${fixed(l.ap ?? NaN)}, first hit ${l.first || 'none'}, found ${l.found} of ${l.total}`; }).join('; '));
    own.root.dataset.query = i; own.root.dataset.took = began ? (performance.now() - began).toFixed(1) : ''; began = 0;
    own.drawn();
    const at = order.indexOf(i); // the neighbours, before somebody asks
    if (own.alive && at >= 0) for (const next of [order[at + 1], order[at - 1]]) if (next !== undefined && !entries.has(next)) fetchEntry(next, false);
  });
  function fetchEntry(i, loud = true) {
    if (own.needsKernel('a query whose pictures are not saved here')) asked.ask([i], () => own.ask('entry', {query: i}), loud);
  }
  own.on('msg:custom', own.guard((message, buffers) => {
    if (message.kind === 'hello') return draw(); // now there is a kernel: all queries can be paged through
    if (message.kind !== 'entry') return;
    const b = buffers[0];
    remember(message.index, new Uint8Array(b.buffer ? b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength) : b.slice(0)));
    entries.set(message.query, message.entry); asked.answered([message.query]);
    if (message.query === model.get('query')) draw();
  }));
  for (const name of ['query', 'choices', 'models', 'flip', 'rerank', 'hide_junk']) own.on(`change:${name}`, draw);
  draw();
  return () => own.dispose();
}

export default { render };
