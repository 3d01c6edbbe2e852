// Translations: a grid with one before/after divider for all pictures; every checkpoint is in the browser from the start.

function render({model, el}) {
  const info = model.get('info'), [height, width] = info.size, steps = info.steps.map(String), single = info.cameras.length < 2;
  const scale = Math.max(1, Math.ceil(128 / height), Math.ceil(92 / width)); // whole numbers: sprites do not bleed
  const at = () => Math.max(0, steps.indexOf(String(model.get('step'))));
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const go = d => set('step', info.steps[Math.min(steps.length - 1, Math.max(0, at() + d))]);
  const cut = d => set('cut', Math.min(100, Math.max(0, model.get('cut') + d)));
  const own = explorer(el, model, {label: 'translations: sources and their translations at the checkpoints of a run', keys: {
    ArrowLeft: () => go(-1), ArrowRight: () => go(1), Home: () => go(-1e9), End: () => go(1e9), ArrowUp: () => cut(5), ArrowDown: () => cut(-5),
    d: () => set('view', model.get('view') === 'divider' ? 'difference' : 'divider'), p: () => pin(), n: () => look(1), b: () => look(-1),
    Escape: () => { if (model.get('zoomed') >= 0) set('zoomed', -1); else if (model.get('against') !== 'source') set('against', 'source'); },
    ...Object.fromEntries(info.cameras.map((c, i) => [String(i), () => set('camera', c)]).slice(0, 10)),
  }});
  const shots = pictures(own), {root, body} = own; root.classList.add('tr');

  // ---- sheets: fetched once, decoded once, shown by one CSS property
  const sheets = model.get('sheets'), loaded = [];
  const sheet = key => shots.url(key, sheets[key]);
  const prefetched = Promise.all(Object.keys(sheets).map(key => { const i = new Image(); i.src = sheet(key); loaded.push(i); return i.decode().catch(() => own.fail(`the pictures of ${key} cannot be read`)); }));
  own.cleanup(() => { loaded.length = 0; });
  const key = step => `${step}/${model.get('camera')}`;
  const before = () => model.get('against') === 'source' ? 'source' : key(model.get('against'));
  const nameOf = step => step === 'source' ? 'source' : `step ${step}`;
  const crop = (e, i, s) => Object.assign(e.style, {width: `${width * s}px`, height: `${height * s}px`, backgroundSize: `${info.columns * width * s}px auto`,
    backgroundPosition: `${-(i % info.columns) * width * s}px ${-Math.floor(i / info.columns) * height * s}px`});
  const score = (name, i) => (info[name] || {})[key(model.get('step'))]?.[i];
  const pin = () => set('against', model.get('against') === 'source' ? String(model.get('step')) : 'source');

  // ---- one picture: two layers, divider, tags
  function stack(i, s) {
    const tags = ['before', 'after'].map(k => h('span', {class: `tr-tag tr-tag-${k}`}));
    const layers = ['before', 'after'].map(k => h('div', {class: `tr-layer tr-${k}${height * s > 400 && height > 200 ? '' : ' sr-pixels'}`}));
    layers.forEach(l => crop(l, i, s));
    const e = h('div', {class: 'tr-stack', style: `width:${width * s}px;height:${height * s}px`}, h('div', {class: 'tr-pictures'}, layers), h('div', {class: 'tr-line'}), tags);
    let from = null, moved = false;
    const move = x => { const r = e.getBoundingClientRect(); set('cut', Math.round(1000 * Math.min(1, Math.max(0, (x - r.left) / r.width))) / 10); };
    e.addEventListener('pointerdown', p => { if (p.button || model.get('view') !== 'divider') return; from = p.clientX; moved = false; e.setPointerCapture(p.pointerId); });
    e.addEventListener('pointermove', p => { if (from === null) return; if (Math.abs(p.clientX - from) > 3) moved = true; if (moved) move(p.clientX); });
    e.addEventListener('pointerup', () => { from = null; }); e.addEventListener('pointercancel', () => { from = null; });
    e.addEventListener('click', c => { if (moved) { c.stopPropagation(); moved = false; } });
    return e;
  }
  const relabel = () => { // tags name what is on each side
    for (const t of root.querySelectorAll('.tr-tag-before')) t.textContent = nameOf(model.get('against'));
    for (const t of root.querySelectorAll('.tr-tag-after')) t.textContent = nameOf(model.get('step'));
  };

  // ---- grid
  const cells = Array.from({length: info.n}, (_, i) => {
    const caption = h('figcaption');
    const e = h('figure', {class: 'tr-cell', tabindex: 0, role: 'button', 'data-image': i, onclick: () => set('zoomed', i),
      onkeydown: k => { if (['Enter', ' '].includes(k.key)) { k.preventDefault(); set('zoomed', i); } }}, stack(i, scale), caption);
    return Object.assign(e, {caption, image: i});
  });
  const grid = h('div', {class: 'tr-grid', role: 'group', 'aria-label': 'images'});
  const wide = width * scale >= 80;
  function numbers(i) { // what is known about picture i now
    const margin = score('identity', i), far = score('distance', i), parts = [];
    if (margin !== undefined) parts.push(h('span', {title: `nearest source is ${margin > 0 ? 'its own' : 'another one'}, ahead by ${fixed(margin, 3)}`}, h('span', {class: margin > 0 ? 'tr-sign-kept' : 'tr-sign-lost'}, margin > 0 ? MARKS.right : MARKS.wrong), wide ? ` ${margin > 0 ? '+' : ''}${fixed(margin)}` : ''));
    if (far !== undefined) parts.push(h('span', {class: 'sr-quiet', title: info.distance_name}, fixed(far)));
    return parts;
  }
  function describe(i) {
    const margin = score('identity', i), far = score('distance', i), label = info.labels[i];
    return `image ${i + 1}${label ? `, ${label}` : ''}${margin === undefined ? '' : margin > 0 ? ', identity kept' : ', identity lost'}${far === undefined ? '' : `, distance ${fixed(far)}`}`;
  }
  let sortedAt = null;
  function arrange() { // sorted when asked, not while the slider moves: pictures stay where one looks
    const how = model.get('sort'), by = how.split(' ')[0], value = i => score(by, i), falling = how === 'distance' ? -1 : 1;
    const order = cells.map(c => c.image);
    if (how !== 'as given') order.sort((a, b) => falling * (value(a) - value(b)) || a - b);
    grid.replaceChildren(...order.map(i => cells[i]));
    cells.forEach(c => c.classList.toggle('tr-told', c.image === order[0]));
    sortedAt = how === 'as given' ? null : key(model.get('step')); root.dataset.order = order.join(' ');
  }

  // ---- bar
  const slider = h('input', {type: 'range', min: 0, max: steps.length - 1, value: at(), 'aria-label': 'checkpoint', oninput: () => set('step', info.steps[slider.value])});
  const now = h('output');
  const nudge = (text, d, label) => h('button', {type: 'button', class: 'tr-nudge', 'aria-label': label, onclick: () => go(d)}, text);
  const camera = select(info.cameras, model.get('camera'), v => set('camera', v), 'target camera');
  const against = select([['source', 'the source'], ...steps.map(s => [s, `step ${s}`])], model.get('against'), v => set('against', v), 'compare with');
  const pinned = toggle('Pin this step', model.get('against') !== 'source', () => pin());
  const difference = toggle('Difference ×3', model.get('view') === 'difference', on => set('view', on ? 'difference' : 'divider'));
  const orders = [['as given', 'as given'], info.identity && ['identity', 'identity, worst first'], info.distance && ['distance', 'distance to target, farthest first']].filter(Boolean);
  const sort = select(orders, model.get('sort'), v => set('sort', v), 'sort by');
  const again = h('button', {type: 'button', hidden: true, onclick: () => { arrange(); draw(); }}, 'Sort at this step');
  const line = h('input', {type: 'range', min: 0, max: 100, 'aria-label': 'divider', style: 'width:110px', oninput: () => set('cut', Number(line.value))});
  body.append(h('div', {class: 'sr-bar'},
    h('span', {class: 'tr-steps'}, nudge('‹', -1, 'previous checkpoint'), slider, nudge('›', 1, 'next checkpoint'), now),
    single ? null : control('camera', camera), control('against', against), pinned, difference, control('divider', line), orders.length > 1 ? control('sort', sort) : null, again));

  // ---- curves: the current step marked, every point a way to its checkpoint
  const side = h('div', {class: 'tr-side'}), s = (tag, a, ...c) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const [k, v] of Object.entries(a)) if (v !== null && v !== undefined) e.setAttribute(k, v); e.append(...c); return e; };
  const charts = info.curves.map(curve => {
    const W = 276, H = 118, left = 38, right = 10, top = 34, bottom = 20, all = [...curve.values, curve.before, curve.floor].filter(Number.isFinite);
    let low = curve.percent ? 0 : Math.min(0, ...all), high = curve.percent ? 1 : Math.max(...all); if (high === low) high = low + 1;
    const first = info.steps[0], last = info.steps[steps.length - 1];
    const x = i => left + 6 + (last === first ? .5 : (info.steps[i] - first) / (last - first)) * (W - left - right - 12), y = v => top + (1 - (v - low) / (high - low)) * (H - top - bottom);
    const text = v => !Number.isFinite(v) ? '–' : curve.percent ? `${Math.round(100 * v)} %` : String(Number(v.toPrecision(3)));
    const value = s('text', {x: W - right, y: 26, 'text-anchor': 'end', class: 'tr-chart-value'}), mark = s('line', {class: 'tr-now', y1: top - 4, y2: H - bottom});
    const points = curve.values.map((v, i) => !Number.isFinite(v) ? null : s('g', {'data-step': steps[i]}, s('circle', {class: 'tr-point', cx: x(i), cy: y(v), r: 4}),
      s('rect', {class: 'tr-pick', x: x(i) - 9, y: top - 6, width: 18, height: H - top - bottom + 12}, s('title', {}, `step ${steps[i]}: ${text(v)}`))));
    points.forEach((p, i) => p && p.addEventListener('click', () => set('step', info.steps[i])));
    const reference = (v, kind, text) => Number.isFinite(v) ? [s('line', {class: `tr-reference ${kind}`, x1: left, x2: W - right, y1: y(v), y2: y(v)}, s('title', {}, `${text}: ${fixed(v, 3)}`))] : [];
    const path = curve.values.map((v, i) => Number.isFinite(v) ? `${x(i).toFixed(1)},${y(v).toFixed(1)}` : null).filter(Boolean).join(' ');
    const svg = s('svg', {class: 'tr-chart', viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `${curve.name} over the checkpoints`}, s('text', {x: 0, y: 11, class: 'tr-chart-title'}, curve.name), s('text', {x: 0, y: 25}, curve.note || ''), value,
      s('line', {class: 'tr-axis', x1: left, x2: W - right, y1: y(0), y2: y(0)}), ...[0, high].map(v => s('text', {x: left - 5, y: y(v) + 3.5, 'text-anchor': 'end'}, text(v))),
      ...[0, steps.length - 1].filter((v, i, a) => a.indexOf(v) === i).map(i => s('text', {x: x(i), y: H - 6, 'text-anchor': 'middle'}, steps[i])),
      ...reference(curve.before, 'tr-first', 'source'), ...reference(curve.floor, 'tr-floor', 'two halves of the target'), mark, s('polyline', {class: 'tr-curve', points: path}), ...points.filter(Boolean));
    return {svg, draw(i) {
      const v = curve.values[i];
      mark.setAttribute('x1', x(i)); mark.setAttribute('x2', x(i)); value.textContent = curve.percent || !Number.isFinite(v) ? text(v) : Number(v.toPrecision(3));
      points.forEach((p, j) => p && p.setAttribute('class', j === i ? 'tr-here' : ''));
    }};
  });
  side.append(...charts.map(c => c.svg));
  if (info.curves.some(c => Number.isFinite(c.before) || Number.isFinite(c.floor))) side.append(h('p', {class: 'tr-legend sr-quiet'}, h('span', {}, '····  before translation'), h('span', {}, '– –  two halves of the target')));
  const tally = h('p', {class: 'tr-legend'}); side.append(tally);
  if (info.identity || info.distance) side.append(h('p', {class: 'tr-legend sr-quiet'}, 'Under a picture: ', [info.identity && 'is its own source the most similar one, and by how much', info.distance && `distance to the target (${info.distance_name.includes('1: as') ? '1: as among target images' : info.distance_name})`].filter(Boolean).join('; '), '.'));
  if (info.note) side.append(h('p', {class: 'tr-legend sr-quiet'}, info.note));

  // ---- three times larger, beside all checkpoints of the picture
  const zoom = h('div', {class: 'tr-zoom-frame', hidden: true, onclick: e => { if (e.target === zoom) set('zoomed', -1); }});
  const main = h('div', {class: 'tr-main'}, grid, side, zoom);
  body.append(main);
  function look(d) { const i = model.get('zoomed'); if (i < 0) return; const order = root.dataset.order.split(' ').map(Number), n = order.length; set('zoomed', order[(order.indexOf(i) + d + n) % n]); }
  function enlarge() {
    const i = model.get('zoomed'), was = zoom.hidden, inside = zoom.contains(document.activeElement);
    zoom.hidden = !(i >= 0 && i < info.n); root.dataset.zoomed = i;
    if (zoom.hidden) { if (!was) { zoom.replaceChildren(); main.style.minHeight = ''; (cells[Number(zoom.dataset.image)] || root).focus({preventScroll: true}); } return; }
    const focused = inside && document.activeElement.dataset.role, big = scale * 3, small = Math.max(1, Math.min(Math.round(scale / 2), Math.floor((big - 14 * (steps.length + 1) / height) / (steps.length + 1))));
    const still = step => h('button', {type: 'button', class: 'tr-still', 'data-step': step, 'data-role': `still ${step}`, 'aria-pressed': String(step === String(model.get('step'))), disabled: step === 'source',
      onclick: () => set('step', info.steps[steps.indexOf(step)])}, thumb(step), h('span', {}, nameOf(step), step === 'source' ? null : h('small', {}, ...[['identity', 'identity'], ['distance', 'distance']].map(([name, text]) => {
        const v = (info[name] || {})[`${step}/${model.get('camera')}`]?.[i]; return v === undefined ? '' : name === 'identity' ? `${v > 0 ? MARKS.right : MARKS.wrong} ${v > 0 ? '+' : ''}${fixed(v)}  ` : `${text} ${fixed(v)}`; }))));
    function thumb(step) { const t = h('div', {class: 'tr-thumb sr-pixels'}); crop(t, i, small); t.style.backgroundImage = `url(${sheet(step === 'source' ? 'source' : key(step))})`; return t; }
    const button = (role, text, label, f) => h('button', {type: 'button', 'data-role': role, 'aria-label': label, onclick: f}, text);
    zoom.replaceChildren(h('div', {class: 'tr-zoom', role: 'dialog', 'aria-label': describe(i)},
      h('div', {class: 'tr-zoom-head'}, h('b', {}, `image ${i + 1}`, info.labels[i] ? h('span', {class: 'sr-quiet'}, `  ${info.labels[i]}`) : null), button('previous', '‹', 'previous image', () => look(-1)), button('next', '›', 'next image', () => look(1)), button('close', '✕', 'close', () => set('zoomed', -1))),
      h('div', {class: 'tr-zoom-body'}, stack(i, big), h('div', {class: 'tr-strip', style: `max-height:${height * big}px`}, ['source', ...steps].map(still)))));
    zoom.dataset.image = i; relabel(); main.style.minHeight = `${zoom.firstChild.offsetHeight + 16}px`;
    zoom.firstChild.scrollIntoView({block: 'nearest'}); (focused && zoom.querySelector(`[data-role="${focused}"]`) || zoom.querySelector('[data-role=close]')).focus({preventScroll: true});
  }

  // ---- everything that depends on the state
  function draw() {
    const i = at(), step = model.get('step');
    root.style.setProperty('--before', `url(${sheet(before())})`); root.style.setProperty('--after', `url(${sheet(key(step))})`);
    root.classList.toggle('tr-difference', model.get('view') === 'difference');
    Object.assign(root.dataset, {step, camera: model.get('camera'), against: model.get('against'), view: model.get('view'), sort: model.get('sort')});
    slider.value = i; slider.setAttribute('aria-valuetext', `step ${step}`); now.textContent = `step ${step} (${i + 1} of ${steps.length})`;
    camera.value = model.get('camera'); against.value = model.get('against'); sort.value = model.get('sort');
    pinned.setAttribute('aria-pressed', String(model.get('against') !== 'source')); pinned.textContent = model.get('against') === 'source' ? 'Pin this step' : `Step ${model.get('against')} pinned`;
    difference.setAttribute('aria-pressed', String(model.get('view') === 'difference'));
    again.hidden = !sortedAt || sortedAt === key(step);
    let kept = 0;
    for (const c of cells) {
      c.caption.replaceChildren(...numbers(c.image)); c.setAttribute('aria-label', describe(c.image));
      const margin = score('identity', c.image); c.classList.toggle('tr-lost', margin !== undefined && !(margin > 0)); kept += margin > 0;
    }
    if (info.identity) tally.textContent = `${MARKS.right} identity kept: ${kept} of the ${info.n} shown`;
    charts.forEach(c => c.draw(i)); relabel();
    own.say(`${model.get('view')} of ${nameOf(model.get('against'))} and step ${step}${info.identity ? `, identity kept in ${kept} of ${info.n}` : ''}`);
  }
  const place = () => { root.style.setProperty('--cut', `${model.get('cut')}%`); line.value = model.get('cut'); root.dataset.cut = model.get('cut'); root.classList.toggle('tr-whole-after', model.get('cut') < 8); root.classList.toggle('tr-whole-before', model.get('cut') > 92); };
  const on = (names, f) => names.split(' ').forEach(n => own.on(`change:${n}`, own.guard(() => { f(); own.drawn(); })));
  on('cut', place); on('step against view', () => { draw(); enlarge(); });
  on('camera', () => { if (sortedAt) arrange(); draw(); enlarge(); }); on('sort', () => { arrange(); draw(); }); on('zoomed', enlarge);
  own.guard(() => { place(); arrange(); draw(); enlarge(); })();
  prefetched.then(() => { root.dataset.prefetched = 'true'; own.drawn(); });
  return () => own.dispose();
}

export default { render };
