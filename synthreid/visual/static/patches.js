// Patches: source, translation, heat map of cosines; numbers of one place; numbers of all checkpoints.

const HALVES = half(Uint16Array.from({length: 65536}, (_, i) => i)); // every float16, decoded once
const SVG = 'http://www.w3.org/2000/svg';
const STOPS = [[0, 34, 78], [53, 69, 108], [102, 105, 112], [148, 142, 119], [200, 184, 102], [254, 232, 56]]; // cividis, for colour-blind eyes as for others

function s(tag, attributes = {}, ...children) {
  const e = document.createElementNS(SVG, tag);
  for (const [k, v] of Object.entries(attributes)) if (v !== undefined && v !== null) k.startsWith('on') ? e.addEventListener(k.slice(2), v) : e.setAttribute(k, v);
  e.append(...children); return e;
}
function heatColour(t) {
  const x = Math.max(0, Math.min(1, t)) * (STOPS.length - 1), i = Math.min(STOPS.length - 2, Math.floor(x));
  return STOPS[i].map((v, j) => Math.round(v + (x - i) * (STOPS[i + 1][j] - v)));
}

// The cosines of one place with all places of the other side. Rows have unit length already.
function cosines(query, key, place, c) {
  const n = key.length / c, out = new Float32Array(n), q = query.subarray(place * c, place * c + c);
  for (let i = 0, o = 0; i < n; i++) { let sum = 0; for (let j = 0; j < c; j++, o++) sum += q[j] * key[o]; out[i] = sum; }
  return out;
}
// The same numbers as `contrast_place` in Python.
function contrast(cos, place, negatives, temperature) {
  const positive = cos[place];
  let rank = 1, most = -2, sum = Math.exp((-10 - positive) / temperature) + 1;
  for (const i of negatives) { const v = cos[i]; if (v > positive) rank++; if (v > most) most = v; sum += Math.exp((v - positive) / temperature); }
  const floor = [], hardest = []; // the five largest, without sorting all
  for (const i of negatives) {
    if (hardest.length === 5 && cos[i] <= floor[4]) continue;
    let at = hardest.length; while (at && cos[hardest[at - 1]] < cos[i]) at--;
    hardest.splice(at, 0, i); floor.splice(at, 0, cos[i]); hardest.length = Math.min(5, hardest.length); floor.length = hardest.length;
  }
  return {rank, cosine: positive, probability: 1 / sum, margin: positive - most, hardest, candidates: negatives.length + 1,
    shares: hardest.map(i => Math.exp((cos[i] - positive) / temperature) / sum)};
}
function negativesOf(place, layer, sampled) {
  if (sampled) return layer.sampled.filter(i => i !== place).slice(0, layer.sampled.length - 1);
  return Array.from({length: layer.rows * layer.columns - 1}, (_, i) => i < place ? i : i + 1);
}

function render({model, el}) {
  const get = name => model.get(name), info = get('info'), {height: H, width: W} = info;
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const layerOf = tap => info.layers.find(l => l.tap === tap) || info.layers[0];
  const keys = {
    ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0), ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1),
    Escape: () => { if (get('place').length) { set('place', []); own.say('unpinned'); } },
  };
  info.layers.slice(0, 9).forEach((l, i) => { keys[i + 1] = () => set('tap', l.tap); });
  const own = explorer(el, model, {label: 'Patch correspondences: arrows move the place, digits choose the layer, Escape unpins', keys});
  own.root.classList.add('pa');

  // ---- what is there: sheets of pictures and features, embedded or sent by the kernel
  const sheets = new Map(), decoded = new Map(), asked = questions(own, model, () => schedule(true)), urls = pictures(own);
  const bytesOf = v => new Uint8Array(v.buffer ? v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength) : v.slice(0));
  const received = new Map(); // key -> bytes from the kernel
  const sheetBytes = key => key === 'source' ? get('sources') : received.get('sheet ' + key) || get('translations')[key];
  function sheet(key) { // an Image when it is ready; else null, and another draw when it is
    if (!sheetBytes(key)) return null;
    if (!sheets.has(key)) {
      const image = new Image();
      sheets.set(key, image);
      image.onload = () => { image.done = true; schedule(); };
      image.onerror = () => own.fail('a picture could not be decoded');
      image.src = urls.url(key, bytesOf(sheetBytes(key)), 'image/png');
    }
    return sheets.get(key).done ? sheets.get(key) : null;
  }
  const keyOf = (v = {}) => { const x = {step: get('step'), camera: get('camera'), image: get('image'), tap: get('tap'), projected: get('projected'), ...v}; return `${x.step}/${x.camera}/${x.image}/${x.tap}/${x.projected ? 'projected' : 'raw'}`; };
  const available = key => !!(received.get(key) || get('features')[key]);
  function features(key, layer) { // {source, translated, c} as float32, the last eight layers are kept
    if (decoded.has(key)) { const v = decoded.get(key); decoded.delete(key); decoded.set(key, v); return v; }
    const bytes = received.get(key) || get('features')[key];
    if (!bytes) return null;
    const u16 = new Uint16Array(bytesOf(bytes).buffer), all = new Float32Array(u16.length), n = layer.rows * layer.columns;
    for (let i = 0; i < u16.length; i++) all[i] = HALVES[u16[i]];
    const v = {c: u16.length / (2 * n), source: all.subarray(0, u16.length / 2), translated: all.subarray(u16.length / 2)};
    if (!Number.isInteger(v.c)) throw new Error(`expected features of ${n} places, got ${u16.length} numbers`);
    decoded.set(key, v);
    if (decoded.size > 8) decoded.delete(decoded.keys().next().value);
    return v;
  }
  own.on('msg:custom', own.guard((message, buffers) => {
    if (message.kind === 'hello') return schedule(true);
    if (message.kind !== 'view') return;
    asked.answered([message.key]);
    received.set(message.key, bytesOf(buffers[1]));
    if (!received.has('sheet ' + message.sheet)) received.set('sheet ' + message.sheet, bytesOf(buffers[0]));
    if (received.size > 48) { const old = [...received.keys()].find(k => !k.startsWith('sheet') && k !== message.key); received.delete(old); } // asked for again when needed
    schedule(true);
  }));

  // ---- controls
  const name = l => `${info.layers.indexOf(l) + 1} · ${l.name} (tap ${l.tap})`;
  const choose = (trait, options, label) => { const e = select(options, String(get(trait)), v => set(trait, Number(v)), label); e.dataset.control = trait; return control(label, e); };
  const thumbs = Array.from({length: info.n}, (_, i) => h('button', {type: 'button', class: 'pa-thumb', 'data-image': i, 'aria-label': `image ${i + 1} of ${info.n}`, onclick: () => set('image', i)}));
  const switches = {
    projected: switchOf('features', 'projected', [[true, 'projected'], [false, 'raw']].filter(o => info.kinds.includes(o[1])), 'projected: what the loss compares; raw: what the encoder has'),
    negatives: switchOf('negatives', 'negatives', [['sampled', 'as sampled in training'], ['all', 'all places']], `training draws ${info.n_patches} places per layer and picture`),
    scale: switchOf('scale', 'scale', [['fixed', '−1 to 1'], ['place', 'this place']], 'of the heat map'),
  };
  function switchOf(label, trait, options, title) {
    const buttons = options.map(([v, text]) => { const b = h('button', {type: 'button', class: 'sr-toggle', 'data-control': trait, 'data-value': String(v), onclick: () => set(trait, v)}, text); b.value_ = v; return b; });
    return {element: h('span', {class: 'sr-control', title}, h('span', {}, label), h('span', {class: 'pa-switch', role: 'group', 'aria-label': label}, buttons)),
      show: () => buttons.forEach(b => b.setAttribute('aria-pressed', String(b.value_ === get(trait))))};
  }
  own.body.append(
    h('div', {class: 'pa-thumbs', role: 'group', 'aria-label': 'source images'}, thumbs),
    h('div', {class: 'sr-bar'}, choose('tap', info.layers.map(l => [l.tap, name(l)]), 'layer'), switches.projected.element,
      info.steps.length > 1 && choose('step', info.steps.map(v => [v, `step ${v}`]), 'checkpoint'),
      info.cameras > 1 && choose('camera', Array.from({length: info.cameras}, (_, i) => [i, `${i + 1} of ${info.cameras}`]), 'camera'),
      switches.negatives.element, switches.scale.element));

  // ---- three panels
  const panels = ['source', 'translated', 'heat'].map(kind => {
    const picture = h('canvas', {class: 'sr-pixels', width: W, height: H}), heat = kind === 'heat' ? h('canvas', {class: 'sr-pixels pa-heat'}) : null;
    const marks = s('svg', {viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: 'none'});
    const frame = h('div', {class: 'pa-frame', 'data-panel': kind, style: `aspect-ratio:${W}/${H}`}, picture, heat, marks), title = h('div', {class: 'pa-title'});
    return {kind, picture, heat, marks, frame, title, element: h('figure', {class: 'pa-panel'}, h('figcaption', {}, title), frame)};
  });
  const legend = h('div', {class: 'pa-legend'}), under = h('div', {class: 'sr-quiet pa-under'});
  panels[0].element.append(h('div', {class: 'sr-quiet pa-under pa-key'}, h('span', {class: 'pa-key-cell'}), 'cell ', h('span', {class: 'pa-key-field'}), 'receptive field'));
  panels[1].element.append(h('div', {class: 'sr-quiet pa-under'})); panels[2].element.append(legend, under);
  const numbers = h('div', {class: 'pa-numbers'}), list = h('ol', {class: 'pa-hardest'}), listTitle = h('div', {class: 'pa-subtitle'});
  const head = h('div', {class: 'pa-head'});
  const charts = h('div', {class: 'pa-charts'});
  const side = h('div', {class: 'pa-side'}, head, numbers, listTitle, list, charts);
  own.body.append(h('div', {class: 'pa-main'}, h('div', {class: 'pa-panels'}, panels.map(p => p.element)), side));
  if (info.note) own.body.append(h('div', {class: 'sr-quiet'}, info.note));
  own.body.append(h('div', {class: 'sr-quiet pa-keys'}, `hover to look, click to pin · arrows move the place · 1–${Math.min(9, info.layers.length)} layer · Esc unpins`));

  // ---- the place: pinned, else hovered, else the chest
  let hover = null, shown = null; // [y, x] in pixels; what was drawn last
  const place = () => get('place').length ? get('place') : hover || [H * .36, W * .5];
  const cellOf = ([y, x], l) => {
    const at = (v, n) => Math.max(0, Math.min(n - 1, Math.floor((v - l.origin) / l.step)));
    return at(y, l.rows) * l.columns + at(x, l.columns);
  };
  const tileOf = (i, l) => [l.origin + l.step * Math.floor(i / l.columns), l.origin + l.step * (i % l.columns)];
  const pixelOf = (i, l) => tileOf(i, l).map((v, k) => Math.max(0, Math.min((k ? W : H) - 1, v + Math.floor(l.step / 2))));
  function move(dy, dx) {
    const l = layerOf(get('tap')), [y, x] = pixelOf(cellOf(place(), l), l);
    pin([Math.max(0, Math.min(H - 1, y + dy * l.step)), Math.max(0, Math.min(W - 1, x + dx * l.step))]);
  }
  function pin(p) { set('place', p.map(Math.floor)); schedule(); speak(); }

  let frame = 0, clicked = null, full = true, began = 0;
  const pixel = e => { const r = e.currentTarget.getBoundingClientRect(); return [(e.clientY - r.top) / r.height * H, (e.clientX - r.left) / r.width * W].map((v, k) => Math.max(0, Math.min((k ? W : H) - .001, v))); };
  for (const p of panels) {
    p.frame.addEventListener('pointermove', e => { hover = pixel(e); schedule(false); });
    p.frame.addEventListener('click', e => { clicked = hover = pixel(e); own.root.focus({preventScroll: true}); schedule(false); });
  }
  function commitClick() { // kept apart from moves: both may fall into one frame
    const l = layerOf(get('tap')), now = get('place');
    const same = now.length && cellOf(now, l) === cellOf(clicked, l);
    set('place', same ? [] : clicked.map(Math.floor)); clicked = null; speak();
  }
  function schedule(all = true) {
    full = full || all;
    if (!began) began = performance.now();
    if (!frame) frame = requestAnimationFrame(own.guard(() => { frame = 0; const t = performance.now(); if (clicked) commitClick(); draw(); own.root.dataset.work = (performance.now() - t).toFixed(2); began = 0; }));
  }
  own.cleanup(() => cancelAnimationFrame(frame));
  ['image', 'step', 'camera', 'tap', 'projected', 'place', 'direction', 'negatives', 'scale', 'features', 'translations'].forEach(t => own.on(`change:${t}`, () => schedule(true)));
  const sizes = new ResizeObserver(() => schedule(true)); sizes.observe(own.root); own.cleanup(() => sizes.disconnect()); // a notebook may take canvases out and put them back

  // ---- drawing
  function paint(canvas, key, grey) {
    const image = sheet(key), ctx = canvas.getContext('2d');
    ctx.filter = grey ? 'grayscale(1)' : 'none';
    if (image) ctx.drawImage(image, get('image') * W, 0, W, H, 0, 0, W, H);
    return image;
  }
  const box = (svg, y, x, height, width, style, extra = {}) => { // twice: dark below, so that it shows on any picture
    const r = {x, y, width, height, 'vector-effect': 'non-scaling-stroke', fill: 'none'};
    svg.append(s('rect', {...r, class: 'pa-under-line', ...extra}), s('rect', {...r, class: style, ...extra}));
  };
  function controls() {
    thumbs.forEach((b, i) => { b.setAttribute('aria-pressed', String(i === get('image'))); });
    own.body.querySelectorAll('select').forEach(e => { if (e !== document.activeElement || e.value !== String(get(e.dataset.control))) e.value = String(get(e.dataset.control)); });
    Object.values(switches).forEach(w => w.show());
    const source = sheet('source');
    if (source) thumbs.forEach((b, i) => {
      if (b.firstChild) return;
      const c = h('canvas', {class: 'sr-pixels', width: W, height: H});
      c.getContext('2d').drawImage(source, i * W, 0, W, H, 0, 0, W, H); b.append(c);
    });
  }
  function missing(key) { // nothing to compare: ask for it, or say why not
    asked.ask([key], () => own.ask('view', {step: get('step'), camera: get('camera'), image: get('image'), tap: get('tap'), projected: get('projected')}));
    head.replaceChildren(asked.waits(key) ? h('span', {class: 'sr-quiet'}, 'computing …') : h('span', {class: 'pa-missing'}, own.alive ? 'This could not be computed. A click tries again.' : 'This choice needs a running kernel.'));
    numbers.replaceChildren(); list.replaceChildren(); listTitle.textContent = ''; legend.replaceChildren(); under.textContent = '';
    panels.forEach(p => p.marks.replaceChildren());
    panels[2].frame.querySelectorAll('.pa-number').forEach(e => e.remove());
    panels[2].heat.getContext('2d').clearRect(0, 0, panels[2].heat.width, panels[2].heat.height);
  }
  function draw() {
    const l = layerOf(get('tap')), key = keyOf(), sheetKey = `${get('step')}/${get('camera')}`, searchSource = get('direction') === 'translated';
    const there = available(key), all = full; full = false;
    own.root.classList.toggle('pa-stale', !there);
    if (all) {
      controls();
      const a = paint(panels[0].picture, 'source'), b = paint(panels[1].picture, sheetKey), c = paint(panels[2].picture, searchSource ? 'source' : sheetKey, true);
      panels[0].title.textContent = 'source'; panels[1].title.textContent = 'translated';
      panels[2].title.textContent = searchSource ? 'cosine, source' : 'cosine';
      charting();
      if (!there) { missing(key); own.drawn(); return; }
      if (!a || !b || !c) { if (!a || sheetBytes(sheetKey)) return; } // drawn again when the pictures are decoded
    }
    if (!there) return;
    const f = features(key, l), i = cellOf(place(), l);
    const ways = ['source', 'translated'].map(from => {
      const cos = from === 'source' ? cosines(f.source, f.translated, i, f.c) : cosines(f.translated, f.source, i, f.c);
      return {from, cos, ...contrast(cos, i, negativesOf(i, l, get('negatives') === 'sampled'), info.temperature)};
    });
    shown = {i, l, ways, way: ways[searchSource ? 1 : 0]};
    heating(l, shown.way); marking(l, i, shown.way, searchSource); telling(l, i, ways, shown.way);
    own.root.dataset.ms = (performance.now() - began).toFixed(2); // from event to drawn
    own.drawn();
  }
  function heating(l, way) {
    const canvas = panels[2].heat, n = l.rows * l.columns;
    if (canvas.width !== l.columns || canvas.height !== l.rows) { canvas.width = l.columns; canvas.height = l.rows; }
    canvas.style.cssText = `left:${l.origin / W * 100}%;top:${l.origin / H * 100}%;width:${l.columns * l.step / W * 100}%;height:${l.rows * l.step / H * 100}%`;
    let low = -1, high = 1;
    if (get('scale') === 'place') { low = Infinity; high = -Infinity; for (const v of way.cos) { if (v < low) low = v; if (v > high) high = v; } if (high - low < 1e-6) high = low + 1e-6; }
    const ctx = canvas.getContext('2d'), data = ctx.createImageData(l.columns, l.rows), table = Array.from({length: 256}, (_, i) => heatColour(i / 255));
    for (let i = 0; i < n; i++) {
      const colour = table[Math.max(0, Math.min(255, Math.round((way.cos[i] - low) / (high - low) * 255)))];
      data.data[4 * i] = colour[0]; data.data[4 * i + 1] = colour[1]; data.data[4 * i + 2] = colour[2]; data.data[4 * i + 3] = 215;
    }
    ctx.putImageData(data, 0, 0);
    const at = (way.cosine - low) / (high - low) * 100;
    const minus = v => fixed(v).replace('-', '−');
    legend.replaceChildren(h('span', {}, minus(low)), h('span', {class: 'pa-ramp', style: `background:linear-gradient(90deg,${STOPS.map(c => `rgb(${c})`).join(',')})`},
      h('span', {class: 'pa-tick', style: `left:${Math.max(0, Math.min(100, at))}%`, title: `the positive: ${fixed(way.cosine)}`})), h('span', {}, minus(high)));
  }
  function marking(l, i, way, searchSource) {
    const [y, x] = tileOf(i, l), side = l.field, fy = l.centre + l.step * Math.floor(i / l.columns) - side / 2, fx = l.centre + l.step * (i % l.columns) - side / 2;
    panels.forEach(p => {
      p.marks.replaceChildren();
      if (side > l.step && p.kind !== 'heat') box(p.marks, fy, fx, side, side, 'pa-field');
      if (p.kind === 'heat') way.hardest.forEach((j, k) => {
        const [ny, nx] = tileOf(j, l);
        box(p.marks, ny, nx, l.step, l.step, 'pa-negative', {'data-negative': k + 1});
      });
      box(p.marks, y, x, l.step, l.step, 'pa-cell');
    });
    panels[2].frame.querySelectorAll('.pa-number').forEach(e => e.remove()); // numbers are HTML: an SVG that is stretched would stretch them
    way.hardest.forEach((j, k) => {
      const [ny, nx] = tileOf(j, l);
      const last = nx + l.step > W * .93; // inside the picture
      panels[2].frame.append(h('span', {class: last ? 'pa-number pa-left' : 'pa-number', style: `left:${Math.max(0, last ? nx : nx + l.step) / W * 100}%;top:${Math.max(.03 * H, ny) / H * 100}%`}, String(k + 1)));
    });
    own.root.classList.toggle('pa-pinned', !!get('place').length);
    const j = hover && get('place').length ? cellOf(hover, l) : null;
    under.textContent = j === null ? '' : `at the pointer ${fixed(way.cos[j])}`;
  }
  const rankText = w => `${w.rank} of ${w.candidates.toLocaleString('en')}`;
  const chance = p => p >= .995 && p < 1 ? '>0.99' : p < .01 ? '<0.01' : p.toFixed(2);
  function rowOf(w) {
    const to = w.from === 'source' ? 'source → translated' : 'translated → source';
    const on = get('direction') === w.from;
    return h('button', {type: 'button', role: 'radio', class: 'pa-row', 'data-direction': w.from, 'aria-checked': String(on), onclick: () => set('direction', w.from)},
      h('span', {class: 'pa-way'}, h('span', {class: 'pa-dot'}, on ? '●' : '○'), to, w.from === 'translated' && h('small', {class: 'sr-quiet'}, 'as the loss asks')),
      h('b', {'data-number': 'rank', class: w.rank === 1 ? 'pa-first' : ''}, `${w.rank === 1 ? MARKS.right + ' ' : ''}${rankText(w)}`),
      h('b', {'data-number': 'probability', 'data-value': w.probability}, chance(w.probability)),
      h('b', {'data-number': 'cosine', 'data-value': w.cosine}, fixed(w.cosine)), h('b', {'data-number': 'margin', 'data-value': w.margin}, (w.margin >= 0 ? '+' : '−') + fixed(Math.abs(w.margin))));
  }
  function telling(l, i, ways, way) {
    const r = Math.floor(i / l.columns), c = i % l.columns, held = side.contains(document.activeElement) ? document.activeElement.dataset : null;
    head.replaceChildren(h('span', {class: 'pa-where'}, `row ${r + 1} of ${l.rows}, column ${c + 1} of ${l.columns}`),
      h('span', {class: 'pa-pin'}, get('place').length ? '◆ pinned' : '◇ hovering'),
      h('div', {class: 'sr-quiet'}, `cell ${l.step}×${l.step} px, receptive field ${l.field}×${l.field} px`));
    numbers.setAttribute('role', 'radiogroup'); numbers.setAttribute('aria-label', 'direction of the search');
    numbers.replaceChildren(h('div', {class: 'pa-row pa-names sr-quiet'}, h('span', {}, 'the same place is'), ...['rank', 'prob.', 'cosine', 'margin'].map(t => h('span', {title: t === 'prob.' ? `probability of the positive, InfoNCE at temperature ${info.temperature}` : ''}, t))), ...ways.map(rowOf));
    listTitle.replaceChildren('hardest negatives ', h('span', {class: 'sr-quiet'}, get('negatives') === 'sampled' ? `among ${way.candidates - 1} sampled` : `among all ${(way.candidates - 1).toLocaleString('en')}`));
    list.replaceChildren(...way.hardest.map((j, k) => {
      const canvas = h('canvas', {width: 44, height: 44, class: 'sr-pixels'}), ctx = canvas.getContext('2d'), [py, px] = pixelOf(j, l), cut = Math.min(W, Math.max(9, l.field));
      ctx.imageSmoothingEnabled = false;
      const image = sheet(way.from === 'translated' ? 'source' : `${get('step')}/${get('camera')}`);
      const y0 = Math.max(0, Math.min(H - cut, Math.round(py - cut / 2))), x0 = Math.max(0, Math.min(W - cut, Math.round(px - cut / 2)));
      if (image) ctx.drawImage(image, get('image') * W + x0, y0, cut, cut, 0, 0, 44, 44);
      ctx.strokeStyle = '#000'; ctx.lineWidth = 3; const z = 44 / cut, [ty, tx] = tileOf(j, l);
      const tile = [(tx - x0) * z, (ty - y0) * z, l.step * z, l.step * z]; ctx.strokeRect(...tile); ctx.strokeStyle = '#fff'; ctx.lineWidth = 1.4; ctx.strokeRect(...tile);
      const light = on => panels[2].marks.querySelectorAll(`[data-negative="${k + 1}"]`).forEach(e => e.classList.toggle('pa-lit', on));
      const above = way.cos[j] > way.cosine;
      return h('li', {}, h('button', {type: 'button', class: 'pa-neg', 'data-hard': k + 1, onclick: () => pin(pixelOf(j, l)), onpointerenter: () => light(true), onpointerleave: () => light(false), onfocus: () => light(true), onblur: () => light(false),
        'aria-label': `negative ${k + 1}: cosine ${fixed(way.cos[j])}${above ? ', above the positive' : ''}; go there`, title: `row ${Math.floor(j / l.columns) + 1}, column ${j % l.columns + 1}: click to go there`},
        canvas, h('span', {class: 'pa-k'}, String(k + 1)), h('span', {class: above ? 'pa-wrong' : ''}, `${fixed(way.cos[j])}${above ? ' ' + MARKS.wrong : ''}`), h('span', {class: 'sr-quiet'}, `p ${chance(way.shares[k])}`)));
    }));
    if (held && held.direction) numbers.querySelector(`[data-direction="${held.direction}"]`).focus();
    if (held && held.hard) list.querySelector(`[data-hard="${held.hard}"]`)?.focus();
  }
  function speak() { // after the redraw
    requestAnimationFrame(() => requestAnimationFrame(() => { if (shown && get('place').length) own.say(`row ${Math.floor(shown.i / shown.l.columns) + 1}, column ${shown.i % shown.l.columns + 1}: rank ${rankText(shown.way)}, probability ${chance(shown.way.probability)}`); }));
  }

  // ---- all checkpoints: probability and rank of the positives
  function charting() {
    if (info.curve.length < 2) return;
    const mine = `${get('tap')}/${get('projected') ? 'projected' : 'raw'}`, drawn = `${mine} ${get('step')}`;
    if (charts.dataset.drawn === drawn) return; // what is there stays, so that a click finds it
    charts.dataset.drawn = drawn;
    const same = Object.keys(info.curve[0].numbers).filter(k => k.endsWith(mine.split('/')[1]));
    const steps = info.curve.map(c => c.step), first = steps[0], last = steps[steps.length - 1];
    charts.replaceChildren(h('div', {class: 'pa-subtitle'}, 'over the checkpoints ', h('span', {class: 'sr-quiet'}, 'means; bold: this layer')),
      ...['probability of the positive', 'rank of the positive'].map((title, j) => {
        const values = info.curve.flatMap(c => same.map(k => c.numbers[k][j])), top = j ? Math.max(2, ...values) : 1, bottom = j ? 1 : 0;
        const X = v => 34 + (v - first) / (last - first) * 152, Y = v => 96 - (j ? Math.log(v) / Math.log(top) : v) * 80;
        const path = k => info.curve.map((c, i) => `${i ? 'L' : 'M'}${X(c.step).toFixed(1)} ${Y(c.numbers[k][j]).toFixed(1)}`).join('');
        const label = v => j ? v.toFixed(v < 10 ? 1 : 0) : v.toFixed(2);
        const svg = s('svg', {viewBox: '0 0 205 122', class: 'pa-chart', role: 'img', 'aria-label': `${title} over the checkpoints: ${info.curve.map(c => `step ${c.step} ${label(c.numbers[mine][j])}`).join(', ')}`},
          s('text', {x: 34, y: 9, class: 'pa-chart-title'}, title),
          ...[bottom, top].map(v => s('text', {x: 28, y: Y(v) + 4, 'text-anchor': 'end'}, j ? v.toFixed(0) : String(v))),
          s('path', {d: 'M34 96H186', class: 'pa-axis'}), s('path', {d: `M${X(get('step'))} 14V96`, class: 'pa-now'}),
          ...same.filter(k => k !== mine).map(k => s('path', {d: path(k), class: 'pa-other'})), s('path', {d: path(mine), class: 'pa-mine'}),
          ...info.curve.map(c => s('g', {class: 'pa-dot-g', 'data-step': c.step, onclick: () => set('step', c.step)}, s('circle', {cx: X(c.step), cy: Y(c.numbers[mine][j]), r: 11, fill: 'transparent'}),
            s('circle', {cx: X(c.step), cy: Y(c.numbers[mine][j]), r: c.step === get('step') ? 5 : 3.2, class: 'pa-point'}), s('title', {}, `step ${c.step}: ${label(c.numbers[mine][j])}; click to go there`))),
          s('text', {x: X(first), y: 112, 'text-anchor': 'start'}, `step ${first}`), s('text', {x: X(last), y: 112, 'text-anchor': 'end'}, String(last)));
        const now = info.curve.find(c => c.step === get('step'));
        if (now) { const p = X(now.step); svg.append(s('text', {x: p > 120 ? p - 8 : p + 8, y: Math.max(22, Math.min(90, Y(now.numbers[mine][j]) - 7)), 'text-anchor': p > 120 ? 'end' : 'start', class: 'pa-value'}, label(now.numbers[mine][j]))); }
        return svg;
      }));
  }
  schedule();
  return own.dispose;
}
export default { render };
