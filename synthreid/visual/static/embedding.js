// Embedding: points on a plane, a legend that hides and selects, a lasso, pictures of what is under the pointer and of what is selected.

const SHAPES = ['circle', 'triangle', 'square', 'diamond', 'down', 'cross']; // of the domains
const DOTS = {hidden: 0, grey: 1, faint: 2, normal: 3, selected: 4}; // how a point is drawn; later ones lie above
const corners = (n, start, s = 1) => Array.from({length: n}, (_, i) => [s * Math.cos(start + i * 2 * Math.PI / n), s * Math.sin(start + i * 2 * Math.PI / n)]);
const OUTLINES = {triangle: corners(3, -Math.PI / 2, 1.25), down: corners(3, Math.PI / 2, 1.25), square: corners(4, Math.PI / 4, 1.2), diamond: corners(4, 0, 1.3),
  cross: [[-.4, -1.1], [.4, -1.1], [.4, -.4], [1.1, -.4], [1.1, .4], [.4, .4], [.4, 1.1], [-.4, 1.1], [-.4, .4], [-1.1, .4], [-1.1, -.4], [-.4, -.4]]};

function glyph(shape, colour, ring = 0) { // a marker as SVG text, for the legend; ring: 0 full, 1 hollow, 2 with a dot
  const paint = ring ? `fill="none" stroke="${colour}" stroke-width="2.2"` : `fill="${colour}"`;
  const e = h('span', {class: 'em-glyph', 'aria-hidden': 'true'});
  e.innerHTML = `<svg viewBox="-7 -7 14 14" width="14" height="14">${shape === 'circle' ? `<circle r="5" ${paint}/>` : `<path d="M${OUTLINES[shape].map(p => p.map(v => (v * 5).toFixed(2))).join('L')}Z" ${paint}/>`}${ring === 2 ? `<circle r="1.9" fill="${colour}"/>` : ''}</svg>`;
  return e;
}

// A marker as pixels: painted once, then copied to wherever a point is. 50,000 copies take a few milliseconds, with or without a graphics card.
function stamp(shape, r, {fill, edge, width, alpha, dot}) {
  const half = Math.ceil(1.35 * r + width + 1), size = 2 * half + 1, c = h('canvas', {width: size, height: size}), ctx = c.getContext('2d', {willReadFrequently: true});
  ctx.translate(half + .5, half + .5); ctx.beginPath();
  if (shape === 'circle') ctx.arc(0, 0, r, 0, 7); else { OUTLINES[shape].forEach(([x, y]) => ctx.lineTo(x * r, y * r)); ctx.closePath(); }
  ctx.globalAlpha = alpha;
  if (fill) { ctx.fillStyle = fill; ctx.fill(); }
  if (edge) { ctx.strokeStyle = edge; ctx.lineWidth = width; ctx.stroke(); }
  if (dot) { ctx.fillStyle = dot; ctx.beginPath(); ctx.arc(0, 0, r * .42, 0, 7); ctx.fill(); }
  const pixels = new Uint32Array(ctx.getImageData(0, 0, size, size).data.buffer), dx = [], dy = [], colour = [], a = [];
  pixels.forEach((p, i) => { if (p >>> 24 > 3) { dx.push(i % size - half); dy.push(Math.floor(i / size) - half); colour.push(p | 0xff000000); a.push(p >>> 24); } });
  return {half, dx, dy, colour: Uint32Array.from(colour), alpha: Uint8Array.from(a), offsets: null, width: 0};
}
const mix = (d, c, a) => { const b = 255 - a; return (0xff000000 | (((d & 0xff00ff) * b + (c & 0xff00ff) * a) >>> 8 & 0xff00ff) | ((((d >>> 8 & 255) * b + (c >>> 8 & 255) * a) >>> 8) << 8)) >>> 0; };
function put(px, w, hgt, s, x, y) {
  if (x < s.half || y < s.half || x >= w - s.half || y >= hgt - s.half) return;
  if (s.width !== w) { s.width = w; s.offsets = Int32Array.from(s.dx, (d, k) => s.dy[k] * w + d); }
  const base = y * w + x, {offsets, colour, alpha} = s;
  for (let k = 0; k < offsets.length; k++) { const o = base + offsets[k]; px[o] = alpha[k] === 255 ? colour[k] : mix(px[o], colour[k], alpha[k]); }
}
function line(px, w, hgt, x0, y0, x1, y1, colour, alpha) { // smooth; what lies outside is cut off first
  let t0 = 0, t1 = 1; const dx = x1 - x0, dy = y1 - y0;
  for (const [p, q] of [[-dx, x0 - 1], [dx, w - 3 - x0], [-dy, y0 - 1], [dy, hgt - 3 - y0]]) {
    if (p === 0) { if (q < 0) return; } else { const t = q / p; if (p < 0) t0 = Math.max(t0, t); else t1 = Math.min(t1, t); }
  }
  if (t0 >= t1) return;
  const ax = x0 + t0 * dx, ay = y0 + t0 * dy, ex = (t1 - t0) * dx, ey = (t1 - t0) * dy, n = Math.max(1, Math.ceil(Math.max(Math.abs(ex), Math.abs(ey)))), steep = Math.abs(ey) > Math.abs(ex);
  for (let i = 0; i <= n; i++) {
    const x = ax + ex * i / n, y = ay + ey * i / n, along = steep ? Math.floor(x) : Math.floor(y), f = (steep ? x : y) - along;
    const o = steep ? Math.round(y) * w + along : along * w + Math.round(x), next = o + (steep ? 1 : w);
    px[o] = mix(px[o], colour, alpha * (1 - f) | 0); px[next] = mix(px[next], colour, alpha * f | 0);
  }
}
function within(path, x, y) { // even-odd
  let inside = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [xi, yi] = path[i], [xj, yj] = path[j];
    if ((yi > y) !== (yj > y) && x < (xj - xi) * (y - yi) / (yj - yi) + xi) inside = !inside;
  }
  return inside;
}
function shuffled(n) { // the same order every time, so that no group covers another
  const order = Int32Array.from({length: n}, (_, i) => i);
  let s = 7; const random = () => { s = s + 0x6D2B79F5 | 0; let t = Math.imul(s ^ s >>> 15, 1 | s); t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t; return ((t ^ t >>> 14) >>> 0) / 4294967296; };
  for (let i = n - 1; i > 0; i--) { const j = Math.floor(random() * (i + 1)); [order[i], order[j]] = [order[j], order[i]]; }
  return order;
}
const rgb = text => { const [r, g, b] = text.match(/[\d.]+/g).map(Number); return (0xff000000 | b << 16 | g << 8 | r) >>> 0; };
const many = n => n.toLocaleString('en');

function render({model, el}) {
  const get = name => model.get(name), info = get('info'), n = info.n;
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const own = explorer(el, model, {label: 'Embedding: drag a lasso round points; arrows move the view, plus and minus zoom, R draws a rectangle by keyboard, Esc clears', keys: {
    ArrowLeft: e => arrow(-1, 0, e), ArrowRight: e => arrow(1, 0, e), ArrowUp: e => arrow(0, -1, e), ArrowDown: e => arrow(0, 1, e),
    '+': () => zoom(1.4), '=': () => zoom(1.4), '-': () => zoom(1 / 1.4), 0: () => fit(), l: () => useTool('lasso'), m: () => useTool('move'), r: () => startCursor(),
    c: () => info.cameras.length && set('colour_by', get('colour_by') === 'domain' ? 'camera' : 'domain'), p: () => anyPairs && set('lines', get('lines') === 'all' ? 'hover' : 'all'),
    u: () => { const names = Object.keys(get('places')); set('place', names[(names.indexOf(get('place')) + 1) % names.length]); }, Escape: () => escape(),
  }});
  own.root.classList.add('em');

  // ---- what is known of every point
  const domain = typed(model, 'domain', Uint8Array), camera = typed(model, 'camera', Int16Array), people = typed(model, 'people', Int32Array), partner = typed(model, 'pairs', Int32Array);
  const order = shuffled(n), X = new Float32Array(n), Y = new Float32Array(n), sx = new Float32Array(n), sy = new Float32Array(n), style = new Uint8Array(n), picked = new Uint8Array(n);
  const anyPairs = partner.some(v => v >= 0), radius = Math.max(1.8, Math.min(4.6, 8 - 1.4 * Math.log10(Math.max(10, n))));
  const nameOf = new Map(info.people.map((name, i) => [name, i]));
  const placeOf = name => { const v = get('places')[name]; return new Float32Array(v.buffer ? v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength) : v); };
  const view = {k: 1, x: 0, y: 0};
  let selection = new Int32Array(0), more = false, hover = -1, peek = null, tool = 'lasso', drag = null, pointer = null, kept = null, cursor = null, W = 0, H = 0, ratio = 1;

  // ---- the page
  const base = h('canvas', {class: 'em-base'}), over = h('canvas', {class: 'em-over'});
  const card = h('div', {class: 'em-card', hidden: true}), busy = h('div', {class: 'em-busy', role: 'status', hidden: true});
  const plot = h('div', {class: 'em-plot', tabindex: 0, role: 'application', 'aria-label': `${many(n)} points`, 'data-lm-suppress-shortcuts': 'true', 'data-plot': ''}, base, over, card, busy);
  const note = h('div', {class: 'sr-quiet em-note'}), legend = h('div', {class: 'em-legend'}), list = h('div', {class: 'em-list', role: 'region', 'aria-label': 'selection'});
  const input = h('input', {type: 'text', placeholder: info.people.length ? `such as ${info.people[0]}` : 'none known', disabled: !info.people.length, 'aria-label': 'identities to highlight, separated by commas', onkeydown: e => { if (e.key === 'Enter') own.guard(addPeople)(); }});
  const chips = h('span', {class: 'em-chips'});
  const group = (label, trait, options, onclick, pressed) => {
    const buttons = options.map(([value, text, title]) => h('button', {type: 'button', class: 'sr-toggle', 'data-control': trait, 'data-value': value, title, onclick: () => onclick(value)}, text));
    return {element: h('span', {class: 'sr-control'}, h('span', {}, label), h('span', {class: 'em-switch', role: 'group', 'aria-label': label}, buttons)), buttons,
      show() { buttons.forEach(b => b.setAttribute('aria-pressed', String(b.dataset.value === pressed()))); }};
  };
  const switches = [
    group('places', 'place', info.methods.map(m => [m, m]), v => set('place', v), () => get('place')),
    info.cameras.length > 0 && group('colour', 'colour_by', [['domain', 'domain'], ['camera', 'camera']], v => set('colour_by', v), () => get('colour_by')),
    anyPairs && group('pair lines', 'lines', [['hover', 'on hover'], ['all', 'all']], v => set('lines', v), () => get('lines')),
    group('drag', 'tool', [['lasso', 'lasso', 'L'], ['rectangle', 'rectangle', 'R, then arrows and Enter'], ['move', 'move', 'M; or the middle button']], v => useTool(v), () => tool),
  ].filter(Boolean);
  const zooms = h('span', {class: 'em-switch'}, h('button', {type: 'button', 'aria-label': 'zoom out', onclick: () => zoom(1 / 1.4)}, '−'), h('button', {type: 'button', 'aria-label': 'show everything', onclick: () => fit()}, 'fit'), h('button', {type: 'button', 'aria-label': 'zoom in', onclick: () => zoom(1.4)}, '+'));
  const help = h('div', {class: 'sr-quiet em-keys'}, 'click a point to highlight its identity · Shift adds to the selection, Alt takes away · wheel zooms once the plot is focused · R arrows Enter: rectangle by keyboard · Esc clears');
  own.body.append(h('div', {class: 'sr-bar'}, switches.map(s => s.element), zooms),
    h('div', {class: 'em-main'}, h('div', {class: 'em-left'}, plot, note, help),
      h('div', {class: 'em-side'}, legend, info.people.length > 0 && h('div', {class: 'em-people'}, control('highlight identity', input), chips), list)));

  // ---- groups: domains by marker shape, cameras by colour; both by name in the legend
  const groups = [...info.domains.map((name, i) => ({key: `domain:${name}`, name, kind: 'domain', of: domain, i})), ...info.cameras.map((name, i) => ({key: `camera:${name}`, name, kind: 'camera', of: camera, i}))];
  groups.forEach(g => { g.total = 0; for (let i = 0; i < n; i++) if (g.of[i] === g.i) g.total++; });
  const ringOf = c => Math.floor(c / 7) % 3;
  const colourOf = i => { // [colour, ring]
    if (get('colour_by') === 'domain') return [COLOURS[domain[i] % 7], 0];
    return camera[i] < 0 ? ['#8a8f98', 0] : [COLOURS[camera[i] % 7], ringOf(camera[i])];
  };
  const rows = groups.map(g => {
    const count = h('span', {class: 'sr-number em-count', 'data-count': g.key}), sign = h('span', {});
    const key = h('button', {type: 'button', class: 'em-key', 'data-group': g.key, title: 'show or hide', onclick: () => { const now = get('hidden'); set('hidden', now.includes(g.key) ? now.filter(k => k !== g.key) : [...now, g.key]); }}, sign, h('span', {class: 'em-name'}, g.name));
    const all = h('button', {type: 'button', class: 'em-all', 'data-select': g.key, 'aria-label': `select all of ${g.name}`, title: 'select all (Shift adds)', onclick: e => choose(i => g.of[i] === g.i, e)}, 'select');
    const row = h('div', {class: 'em-group', onpointerenter: () => { peek = g; restyle(); }, onpointerleave: () => { peek = null; restyle(); }}, key, count, all);
    return {g, row, key, sign, count};
  });
  const part = kind => [h('div', {class: 'em-head'}, kind, h('span', {class: 'sr-quiet'}, kind === 'domain' ? 'marker shape' : 'of the picture, or translated to')), ...rows.filter(r => r.g.kind === kind).map(r => r.row)];
  legend.append(h('div', {class: 'em-part'}, part('domain')), info.cameras.length ? h('div', {class: 'em-part em-cameras'}, part('camera')) : '');
  function counts() {
    const ink = getComputedStyle(own.root).color, byDomain = get('colour_by') === 'domain';
    rows.forEach(({g, key, sign, count}) => {
      let chosen = 0; for (const i of selection) if (g.of[i] === g.i) chosen++;
      const off = get('hidden').includes(g.key);
      count.textContent = selection.length ? `${many(chosen)} / ${many(g.total)}` : many(g.total);
      key.setAttribute('aria-pressed', String(!off));
      key.setAttribute('aria-label', `${g.kind} ${g.name}, ${count.textContent.replace('/', 'selected of')}, ${off ? 'hidden' : 'shown'}`);
      const shape = g.kind === 'domain' ? SHAPES[g.i % 6] : 'circle', colour = (g.kind === 'domain') === byDomain ? COLOURS[g.i % 7] : g.kind === 'domain' ? ink : '#8a8f98';
      sign.replaceChildren(glyph(shape, colour, g.kind !== 'camera' ? 0 : byDomain ? 1 : ringOf(g.i)));
    });
  }

  // ---- pictures: sheets that came with the state, or asked for
  const urls = pictures(own), sprites = new Map(), asked = questions(own, model, showing), [th, tw] = info.thumb || [0, 0], perSheet = info.per_sheet;
  const bytesOf = v => new Uint8Array(v.buffer ? v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength) : v.slice(0));
  function sprite(i) { // {url, column, row, columns, rows} or null
    const sheet = String(Math.floor(i / perSheet)), bytes = get('sheets')[sheet];
    if (bytes) { const k = i % perSheet, m = Math.min(perSheet, n - sheet * perSheet), columns = Math.min(info.columns, m); return {url: urls.url(`sheet ${sheet}`, bytesOf(bytes), 'image/jpeg'), column: k % columns, row: Math.floor(k / columns), columns, rows: Math.ceil(m / columns)}; }
    return sprites.get(i) || null;
  }
  function want(points) {
    if (th) asked.ask(points.filter(i => !sprite(i)), missing => queueMicrotask(() => own.ask('pictures', {points: missing}))); // a selection goes first
  }
  function picture(i, height = th) {
    const s = sprite(i), scale = height / th, e = h('span', {class: 'em-picture', role: 'img', 'aria-label': `picture of ${label(i)}`, 'data-picture': i, style: `width:${Math.round(tw * scale)}px;height:${height}px`});
    if (s) { e.style.backgroundImage = `url(${s.url})`; e.style.backgroundSize = `${s.columns * 100}% ${s.rows * 100}%`; e.style.backgroundPosition = `${s.columns > 1 ? s.column / (s.columns - 1) * 100 : 0}% ${s.rows > 1 ? s.row / (s.rows - 1) * 100 : 0}%`; }
    else e.classList.add(asked.waits(i) ? 'em-loading' : 'em-none');
    return e;
  }
  function showing() { telling(); listing(); const shown = hover; hover = -1; point(shown); }
  let received = 0;
  own.on('msg:custom', own.guard((message, buffers) => {
    if (message.kind === 'hello') return showing();
    if (message.kind !== 'pictures') return;
    const m = message.points.length, columns = Math.min(info.columns, m), url = urls.url(`asked ${received++}`, bytesOf(buffers[0]), 'image/jpeg');
    message.points.forEach((i, k) => { sprites.set(i, {url, column: k % columns, row: Math.floor(k / columns), columns, rows: Math.ceil(m / columns)}); });
    asked.answered(message.points); showing(); schedule();
  }));
  const label = i => [info.domains[domain[i]], people[i] >= 0 && `identity ${info.people[people[i]]}`, camera[i] >= 0 && info.cameras[camera[i]]].filter(Boolean).join(', ');

  // ---- state of every point
  function restyle() {
    const chosen = new Set(get('highlight').map(name => nameOf.get(name))), hidden = get('hidden'), off = groups.filter(g => hidden.includes(g.key));
    picked.fill(0); for (const i of selection) picked[i] = 1;
    for (let i = 0; i < n; i++) {
      style[i] = off.some(g => g.of[i] === g.i) ? DOTS.hidden : peek ? (peek.of[i] === peek.i ? DOTS.normal : DOTS.grey) : picked[i] ? DOTS.selected
        : chosen.size ? (chosen.has(people[i]) ? DOTS.normal : DOTS.grey) : selection.length ? DOTS.faint : DOTS.normal;
    }
    schedule();
  }
  function choose(test, e = {}) { // Shift: as well; Alt: no longer
    const out = [];
    for (let i = 0; i < n; i++) {
      const inside = style[i] !== DOTS.hidden && test(i);
      if (e.shiftKey ? inside || picked[i] : e.altKey ? picked[i] && !inside : inside) out.push(i);
    }
    tell(Int32Array.from(out));
  }
  function tell(indices) { set('selected', new DataView(indices.buffer)); } // `change:selected` does the rest
  function selected() {
    selection = typed(model, 'selected', Int32Array).filter(i => i >= 0 && i < n);
    if (!selection.length) kept = null;
    restyle(); counts(); listing();
    const ids = new Set(Array.from(selection, i => people[i]));
    own.say(selection.length ? `${many(selection.length)} points selected, ${many(ids.size)} identities` : 'nothing selected');
    own.root.dataset.selected = selection.length;
  }
  function listing() {
    const held = list.contains(document.activeElement) ? document.activeElement.dataset.point : null;
    const ids = new Set(Array.from(selection, i => people[i]).filter(i => i >= 0));
    if (!selection.length) return list.replaceChildren(h('div', {class: 'em-head'}, 'selection'), h('div', {class: 'sr-quiet'}, 'nothing yet: drag round some points, or press “select” beside a group'));
    const parts = info.domains.map((name, d) => {
      const own_ = selection.filter(i => domain[i] === d), most = more ? 70 : 7, few = Array.from({length: Math.min(most, own_.length)}, (_, k) => own_[Math.floor(k * own_.length / Math.min(most, own_.length))]);
      return own_.length ? {name, d, few, n: own_.length} : null;
    }).filter(Boolean);
    want(parts.flatMap(p => p.few));
    list.replaceChildren(h('div', {class: 'em-head'}, 'selection', h('span', {class: 'sr-quiet', 'data-summary': ''}, `${many(selection.length)} of ${many(n)}${ids.size ? ` · ${many(ids.size)} people` : ''}`), h('button', {type: 'button', class: 'em-clear', onclick: () => tell(new Int32Array(0))}, 'clear')),
      ...parts.map(p => h('div', {class: 'em-found', 'data-domain': p.name}, h('div', {class: 'sr-quiet'}, `${p.name} ${many(p.n)}`, p.n > p.few.length ? `, ${p.few.length} shown` : ''), h('div', {class: 'em-thumbs'}, p.few.map(i =>
        h('button', {type: 'button', class: 'em-thumb', 'data-point': i, 'aria-label': label(i), title: label(i), onclick: () => toggle_(i), onpointerenter: () => point(i), onpointerleave: () => point(-1), onfocus: () => point(i), onblur: () => point(-1)}, th ? picture(i, Math.min(th, 64)) : people[i] >= 0 ? info.people[people[i]] : `#${i}`))))),
      parts.some(p => p.n > 7) ? h('button', {type: 'button', class: 'em-all', 'data-more': '', onclick: () => { more = !more; listing(); list.querySelector('[data-more]').focus(); }}, more ? 'fewer' : 'show more') : '',
      !own.alive && th && parts.some(p => p.few.some(i => !sprite(i))) ? h('div', {class: 'sr-quiet'}, 'these pictures need a running kernel') : '');
    if (held) list.querySelector(`[data-point="${held}"]`)?.focus();
  }
  // ---- identities
  function toggle_(i) { if (people[i] < 0) return; const name = info.people[people[i]], now = get('highlight'); set('highlight', now.includes(name) ? now.filter(v => v !== name) : [...now, name]); }
  function addPeople() {
    const wanted = input.value.split(',').map(v => v.trim()).filter(Boolean), found = wanted.flatMap(w => info.people.filter(name => name === w || name.endsWith(' ' + w)));
    const unknown = wanted.find(w => !info.people.some(name => name === w || name.endsWith(' ' + w)));
    if (unknown) return own.fail(`no identity ${unknown} here: there are ${info.people[0]} to ${info.people[info.people.length - 1]}`);
    own.fail(''); input.value = ''; set('highlight', [...new Set([...get('highlight'), ...found])]);
  }
  function chipping() {
    chips.replaceChildren(...get('highlight').map(name => h('button', {type: 'button', class: 'em-chip', 'data-person': name, 'aria-label': `${name}: highlight no more`, onclick: () => set('highlight', get('highlight').filter(v => v !== name))}, name, ' ×')),
      get('highlight').length ? h('button', {type: 'button', class: 'em-chip', 'data-select-people': '', onclick: e => { const chosen = new Set(get('highlight').map(v => nameOf.get(v))); choose(i => chosen.has(people[i]), e); }}, 'select') : '');
  }

  // ---- view
  const scale = () => view.k * Math.min(W, H) * .47, toData = (x, y) => [(x - W / 2) / scale() + view.x, (H / 2 - y) / scale() + view.y], toScreen = ([x, y]) => [(x - view.x) * scale() + W / 2, H / 2 - (y - view.y) * scale()];
  function zoom(f, x = W / 2, y = H / 2) { const [a, b] = toData(x, y); view.k = Math.max(.5, Math.min(400, view.k * f)); const [c, d] = toData(x, y); view.x += a - c; view.y += b - d; schedule(); }
  function fit() { Object.assign(view, {k: 1, x: 0, y: 0}); schedule(); }
  function pan(dx, dy) { view.x -= dx / scale(); view.y += dy / scale(); schedule(); }
  function useTool(name) { tool = name; cursor = null; switches.forEach(s => s.show()); plot.dataset.tool = name; schedule(); }
  function startCursor() { useTool('rectangle'); cursor = {x: W / 2, y: H / 2, from: null}; plot.focus({preventScroll: true}); own.say('rectangle: arrows move the cross, Enter sets the first corner and the second'); schedule(); }
  function arrow(dx, dy, e) {
    if (!cursor) return pan(-dx * W * .1, -dy * H * .1);
    const step = e.shiftKey ? 40 : 8;
    cursor.x = Math.max(0, Math.min(W, cursor.x + dx * step)); cursor.y = Math.max(0, Math.min(H, cursor.y + dy * step));
    point(nearest(cursor.x, cursor.y)); schedule();
  }
  own.root.addEventListener('keydown', own.guard(e => {
    if (e.key !== 'Enter' || !cursor || e.target.closest('button, input, select')) return;
    e.preventDefault();
    if (!cursor.from) { cursor.from = [cursor.x, cursor.y]; own.say('first corner set'); } else { commit(box(cursor.from, [cursor.x, cursor.y]), {}); cursor = null; }
    schedule();
  }));
  function escape() {
    own.fail(get('error'));
    if (drag || cursor) { drag = null; cursor = null; } else if (selection.length) tell(new Int32Array(0)); else if (get('highlight').length) set('highlight', []); else fit();
    point(-1); schedule();
  }
  const box = ([a, b], [c, d]) => [[a, b], [c, b], [c, d], [a, d]];
  function commit(path, e) { // visible points inside; the outline stays where it was drawn
    const began = performance.now(); more = false; const xs = path.map(p => p[0]), ys = path.map(p => p[1]), [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
    kept = path.map(([x, y]) => toData(x, y));
    choose(i => { const x = sx[i], y = sy[i]; return x >= x0 && x <= x1 && y >= y0 && y <= y1 && within(path, x, y); }, e);
    own.root.dataset.lassoMs = (performance.now() - began).toFixed(2); // from release to the new list
  }

  // ---- pointer
  function nearest(x, y) {
    let best = Math.max(8, radius + 5) ** 2, found = -1;
    for (let i = 0; i < n; i++) {
      if (!style[i]) continue;
      const d = (sx[i] - x) ** 2 + (sy[i] - y) ** 2;
      if (d < best || (d === best && style[i] > style[found])) { best = d; found = i; }
    }
    return found;
  }
  function point(i) {
    if (i === hover) return;
    hover = i; card.hidden = i < 0;
    own.root.dataset.hover = i;
    if (i >= 0) {
      const j = anyPairs ? partner[i] : -1, pair = j >= 0 ? [Math.min(i, j), Math.max(i, j)] : [i];
      want(pair);
      card.replaceChildren(...(th ? [h('div', {class: 'em-pair'}, pair.map(k => h('figure', {class: k === i ? 'em-this' : ''}, picture(k, Math.min(128, 1.6 * th)), h('figcaption', {}, info.domains[domain[k]]))))] : []),
        h('div', {class: 'em-text'}, people[i] >= 0 && h('b', {}, `identity ${info.people[people[i]]}`), h('div', {}, [info.domains[domain[i]], camera[i] >= 0 && info.cameras[camera[i]]].filter(Boolean).join(' · ')), h('div', {class: 'sr-quiet'}, `#${i}`), th && !sprite(i) && !own.alive ? h('div', {class: 'sr-quiet'}, 'picture needs a running kernel') : null));
      const cw = card.offsetWidth, ch = card.offsetHeight, right = sx[i] + 14 + cw < W;
      card.style.left = `${Math.max(4, right ? sx[i] + 14 : sx[i] - 14 - cw)}px`; card.style.top = `${Math.max(4, Math.min(H - ch - 4, sy[i] - ch / 2))}px`;
    }
    schedule(false);
  }
  const at = e => { const r = plot.getBoundingClientRect(); return [e.clientX - r.left, e.clientY - r.top]; };
  plot.addEventListener('pointerdown', own.guard(e => {
    if (e.button > 1 || e.target.closest('.em-card')) return;
    e.preventDefault(); plot.focus({preventScroll: true}); plot.setPointerCapture(e.pointerId); cursor = null;
    const p = at(e); drag = {kind: e.button === 1 ? 'move' : tool, path: [p], start: p, last: p, moved: false}; point(-1);
  }));
  plot.addEventListener('pointermove', own.guard(e => {
    const began = performance.now(), p = at(e);
    pointer = p;
    if (!drag) { point(nearest(...p)); own.root.dataset.hoverMs = (performance.now() - began).toFixed(2); return; }
    drag.moved = drag.moved || Math.hypot(p[0] - drag.start[0], p[1] - drag.start[1]) > 4;
    if (drag.kind === 'move') pan(p[0] - drag.last[0], p[1] - drag.last[1]);
    else if (drag.kind === 'lasso') { const q = drag.path[drag.path.length - 1]; if (Math.hypot(p[0] - q[0], p[1] - q[1]) > 3) drag.path.push(p); }
    else drag.path = box(drag.start, p);
    drag.last = p; schedule(drag.kind === 'move');
  }));
  plot.addEventListener('pointerup', own.guard(e => {
    if (!drag) return;
    const d = drag; drag = null;
    if (!d.moved) { const i = nearest(...d.start); if (i >= 0) toggle_(i); else if (selection.length) tell(new Int32Array(0)); }
    else if (d.kind !== 'move' && d.path.length > 2) commit(d.path, e);
    schedule();
  }));
  plot.addEventListener('pointercancel', () => { drag = null; schedule(); });
  plot.addEventListener('pointerleave', () => { pointer = null; if (!drag) point(-1); });
  plot.addEventListener('wheel', e => { if (!e.ctrlKey && !own.root.contains(document.activeElement)) return; e.preventDefault(); zoom(Math.exp(-Math.max(-60, Math.min(60, e.deltaY)) * .006), ...at(e)); }, {passive: false});

  // ---- drawing: points as pixels below, what moves with the pointer above
  const stamps = new Map(); let frame = 0, full = true, pixels = null, look = null;
  function schedule(all = true) { full = full || all; if (!frame) frame = requestAnimationFrame(own.guard(() => { frame = 0; draw(); })); }
  own.cleanup(() => cancelAnimationFrame(frame));
  function markOf(i, dark) {
    const [fill, hollow] = colourOf(i), shape = SHAPES[domain[i] % 6], kind = style[i], key = `${shape} ${kind === DOTS.grey ? '' : fill + hollow} ${kind}`, dot = hollow === 2 ? fill : null;
    if (!stamps.has(key)) {
      const edge = dark ? 'rgba(0,0,0,.7)' : 'rgba(0,0,0,.42)', r = radius * ratio, thin = Math.max(.6, r * .14);
      stamps.set(key, stamp(shape, r, kind === DOTS.grey ? {fill: dark ? '#8a94a0' : '#8a8f98', alpha: .22, width: 0} : kind === DOTS.faint ? {fill: hollow ? null : fill, edge: hollow ? fill : null, dot, width: thin * 2, alpha: .32}
        : kind === DOTS.selected ? {fill: hollow ? look.paper : fill, edge: hollow ? fill : look.ink, dot, width: hollow ? thin * 3 : thin * 1.7, alpha: 1} : {fill: hollow ? look.paper : fill, edge: hollow ? fill : edge, dot, width: hollow ? thin * 2.4 : thin, alpha: .92}));
    }
    return stamps.get(key);
  }
  function draw() {
    const began = performance.now();
    if (W && full) paint();
    full = false;
    if (W) { sketch(); own.root.dataset.drawMs = (performance.now() - began).toFixed(2); own.drawn(); }
  }
  function paint() {
    const css = getComputedStyle(own.root), now = {paper: css.backgroundColor, ink: css.color}, s = scale();
    if (!look || look.paper !== now.paper || look.ink !== now.ink) { look = now; stamps.clear(); counts(); }
    const w = base.width, hgt = base.height, ctx = base.getContext('2d');
    if (!pixels || pixels.width !== w || pixels.height !== hgt) pixels = ctx.createImageData(w, hgt);
    const px = new Uint32Array(pixels.data.buffer), paper = rgb(look.paper), dark = (paper & 255) < 128;
    px.fill(paper);
    for (let i = 0; i < n; i++) { sx[i] = (X[i] - view.x) * s + W / 2; sy[i] = H / 2 - (Y[i] - view.y) * s; }
    if (get('lines') === 'all') {
      const ink = rgb(look.ink), lit = i => style[i] >= DOTS.normal;
      let some = 0; for (let i = 0; i < n; i++) if (partner[i] > i && style[i] && style[partner[i]]) some++;
      const alpha = Math.max(16, Math.min(110, 30000 / Math.max(1, some)));
      for (let i = 0; i < n; i++) { const j = partner[i]; if (j > i && style[i] && style[j] && (lit(i) || lit(j))) line(px, w, hgt, sx[i] * ratio, sy[i] * ratio, sx[j] * ratio, sy[j] * ratio, ink, alpha); }
    }
    for (let level = DOTS.grey; level <= DOTS.selected; level++) for (let k = 0; k < n; k++) {
      const i = order[k]; if (style[i] === level) put(px, w, hgt, markOf(i, dark), Math.round(sx[i] * ratio), Math.round(sy[i] * ratio));
    }
    ctx.putImageData(pixels, 0, 0);
    if (pointer && !drag && !cursor) point(nearest(...pointer)); // the points may have moved under the pointer
    if (landed) { own.root.dataset.layout = landed; own.root.dataset.moving = 'false'; landed = null; }
  }
  function sketch() {
    const ctx = over.getContext('2d');
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0); ctx.clearRect(0, 0, W, H);
    const accent = getComputedStyle(own.root).getPropertyValue('--sr-focus') || '#0072B2';
    const trace = (path, dashed, closed) => { ctx.beginPath(); path.forEach(p => ctx.lineTo(...p)); if (closed) ctx.closePath(); ctx.setLineDash(dashed ? [5, 4] : []); ctx.lineWidth = 1.6; ctx.strokeStyle = accent; ctx.stroke(); ctx.globalAlpha = .08; ctx.fillStyle = accent; ctx.fill(); ctx.globalAlpha = 1; ctx.setLineDash([]); };
    if (kept && !drag) trace(kept.map(toScreen), true, true);
    if (drag && drag.kind !== 'move' && drag.moved) trace(drag.path, false, true);
    if (cursor) {
      if (cursor.from) trace(box(cursor.from, [cursor.x, cursor.y]), false, true);
      ctx.strokeStyle = look.ink; ctx.lineWidth = 1.5; ctx.beginPath(); ctx.moveTo(cursor.x - 12, cursor.y); ctx.lineTo(cursor.x + 12, cursor.y); ctx.moveTo(cursor.x, cursor.y - 12); ctx.lineTo(cursor.x, cursor.y + 12); ctx.stroke();
    }
    const chosen = new Set(get('highlight').map(v => nameOf.get(v)));
    if (chosen.size > 1) { // several identities: say which is which
      ctx.font = '600 10.5px system-ui, sans-serif'; ctx.fillStyle = look.ink; ctx.strokeStyle = look.paper; ctx.lineWidth = 3; ctx.textAlign = 'left';
      let written = 0;
      for (let i = 0; i < n && written < 120; i++) if (style[i] && chosen.has(people[i])) { const text = info.people[people[i]]; ctx.strokeText(text, sx[i] + radius + 3, sy[i] + 3); ctx.fillText(text, sx[i] + radius + 3, sy[i] + 3); written++; }
    }
    if (hover >= 0) {
      const j = anyPairs ? partner[hover] : -1, ring = (i, r) => { ctx.beginPath(); ctx.arc(sx[i], sy[i], r, 0, 7); ctx.stroke(); };
      for (const [colour, width] of [[look.paper, 4.5], [look.ink, 2]]) {
        ctx.strokeStyle = colour; ctx.lineWidth = width;
        if (j >= 0 && style[j]) { ctx.beginPath(); ctx.moveTo(sx[hover], sy[hover]); ctx.lineTo(sx[j], sy[j]); ctx.stroke(); ring(j, radius + 2.5); }
        ring(hover, radius + 4);
      }
    }
  }

  // ---- from one set of places to another
  let moving = 0, landed = null;
  function place(name, animate = true) {
    if (!get('places')[name]) return;
    const to = placeOf(name), from = [X.slice(), Y.slice()], began = performance.now(), length = !animate || matchMedia('(prefers-reduced-motion: reduce)').matches ? 0 : 900;
    cancelAnimationFrame(moving); kept = null; point(-1); own.root.dataset.moving = 'true';
    const step = own.guard(() => {
      const t = length ? Math.min(1, (performance.now() - began) / length) : 1, e = t < .5 ? 4 * t ** 3 : 1 - (2 - 2 * t) ** 3 / 2;
      for (let i = 0; i < n; i++) { X[i] = from[0][i] + e * (to[2 * i] - from[0][i]); Y[i] = from[1][i] + e * (to[2 * i + 1] - from[1][i]); }
      schedule();
      if (t < 1) moving = requestAnimationFrame(step); else landed = name;
    });
    step(); telling();
  }
  own.cleanup(() => cancelAnimationFrame(moving));
  function telling() { // what the places mean, what is being computed
    switches.forEach(s => s.show());
    switches[0].buttons.forEach(b => { b.disabled = !get('places')[b.dataset.value]; b.title = b.disabled ? (own.alive ? 'being computed' : 'needs a running kernel') : 'U'; });
    note.textContent = get('notes')[get('place')] || '';
    busy.hidden = !get('status') || !own.alive; busy.textContent = get('status');
  }
  own.on('change:place', own.guard(() => place(get('place'))));
  own.on('change:places', own.guard(() => { telling(); if (get('places')[get('place')] && own.root.dataset.layout !== get('place')) place(get('place')); }));
  own.on('change:status', telling); own.on('change:notes', telling);
  own.on('change:colour_by', own.guard(() => { telling(); counts(); schedule(); }));
  own.on('change:lines', own.guard(() => { telling(); schedule(); }));
  own.on('change:hidden', own.guard(() => { restyle(); counts(); }));
  own.on('change:highlight', own.guard(() => { restyle(); chipping(); own.say(get('highlight').length ? `highlighted: ${get('highlight').join(', ')}` : 'no identity highlighted'); }));
  own.on('change:selected', own.guard(selected));
  function resize() {
    const r = plot.getBoundingClientRect();
    W = Math.floor(plot.clientWidth); H = Math.floor(plot.clientHeight); if (!W || !H || !r.width) return;
    const now = Math.min(2, window.devicePixelRatio || 1);
    if (now !== ratio) { ratio = now; stamps.clear(); }
    [base, over].forEach(c => { if (c.width !== W * ratio || c.height !== H * ratio) { c.width = Math.round(W * ratio); c.height = Math.round(H * ratio); } });
    schedule();
  }
  const sizes = new ResizeObserver(own.guard(resize)); sizes.observe(plot); own.cleanup(() => sizes.disconnect());
  const themes = new MutationObserver(() => schedule()); [document.body, document.documentElement].forEach(e => themes.observe(e, {attributes: true})); own.cleanup(() => themes.disconnect());
  const scheme = matchMedia('(prefers-color-scheme: dark)'), again = () => schedule(); scheme.addEventListener('change', again); own.cleanup(() => scheme.removeEventListener('change', again));

  useTool('lasso'); chipping(); selected(); counts(); place(get('place'), false);
  return own.dispose;
}
export default { render };
