// Swaps: a grid of who wears what and stands how; one of them large, and the way to other clothes. Every picture is in the browser from the start.

function render({model, el}) {
  const info = model.get('info'), [height, width] = info.size, R = info.rows, C = info.columns, N = info.between;
  const scale = Math.max(1, Math.round(96 / height)), large = scale * 3;
  const set = (name, value) => { model.set(name, value); model.save_changes(); };
  const clamp = (v, n) => Math.min(n - 1, Math.max(0, v));
  const move = (dr, dc) => { model.set('row', clamp(model.get('row') + dr, R)); model.set('column', clamp(model.get('column') + dc, C)); model.save_changes(); };
  const own = explorer(el, model, {label: 'swaps: appearance of one person, structure of another', keys: {
    ArrowUp: () => move(-1, 0), ArrowDown: () => move(1, 0), ArrowLeft: () => move(0, -1), ArrowRight: () => move(0, 1),
    Home: () => move(-R, -C), '+': () => mix(1), '-': () => mix(-1), o: () => set('other', (model.get('other') + 1) % R),
  }});
  const mix = d => set('mix', clamp(model.get('mix') + d, N + 2)), shots = pictures(own), {root, body} = own; root.classList.add('sw');

  // ---- pictures: one sheet, its place is counted in the order in which Python wrote it
  const url = shots.url('sheet', model.get('sheet')), picture = new Image(); picture.src = url;
  const decoded = picture.decode().catch(() => own.fail('the pictures cannot be read'));
  const appearance = r => r, structure = c => R + c, swap = (r, c) => R + C + r * C + c;
  const pair = (a, b) => a * (2 * R - a - 1) / 2 + (b - a - 1); // a < b
  const way = (r, o, c, k) => k === 0 || r === o ? swap(r, c) : k === N + 1 ? swap(o, c)
    : R + C + R * C + (pair(Math.min(r, o), Math.max(r, o)) * C + c) * N + (r < o ? k - 1 : N - k);
  function crop(e, i, s) {
    Object.assign(e.style, {width: `${width * s}px`, height: `${height * s}px`, backgroundImage: `url(${url})`, backgroundSize: `${info.sheet * width * s}px auto`,
      backgroundPosition: `${-(i % info.sheet) * width * s}px ${-Math.floor(i / info.sheet) * height * s}px`});
    return e;
  }
  const still = (i, s, label) => crop(h('div', {class: 'sw-picture sr-pixels', role: 'img', 'aria-label': label}), i, s);
  const name = (kind, i) => info[kind][i] || `${i + 1}`;

  // ---- the grid
  const cells = [], heads = {row: [], column: []};
  const line = (...e) => h('div', {class: 'sw-line', role: 'row'}, e.flat());
  const head = (kind, i, picture) => { const e = h('div', {class: `sw-head sw-${kind}`, role: kind === 'row' ? 'rowheader' : 'columnheader'}, picture); heads[kind].push(e); return e; };
  const grid = h('div', {class: 'sw-grid', role: 'grid', 'aria-label': 'swaps'},
    line(h('div', {class: 'sw-corner sr-quiet', style: `width:${width * scale}px`}, h('span', {}, 'stands →'), h('span', {}, 'wears ↓')), Array.from({length: C}, (_, c) => head('column', c, still(structure(c), scale, `structure ${name('structures', c)}`)))),
    Array.from({length: R}, (_, r) => line(head('row', r, still(appearance(r), scale, `appearance ${name('appearances', r)}`)), Array.from({length: C}, (_, c) => {
      const e = h('div', {class: 'sw-cell', role: 'gridcell', 'data-row': r, 'data-column': c, onclick: () => { model.set('row', r); model.set('column', c); model.save_changes(); }}, still(swap(r, c), scale, `${name('appearances', r)} on ${name('structures', c)}`));
      cells.push(e); return e;
    }))));

  // ---- the chosen one
  const shown = {wears: h('div', {class: 'sw-picture sr-pixels'}), stands: h('div', {class: 'sw-picture sr-pixels'}), made: h('div', {class: 'sw-picture sw-made sr-pixels', role: 'img'}), other: h('div', {class: 'sw-picture sr-pixels'})};
  const told = Object.fromEntries(Object.keys(shown).map(k => [k, h('figcaption')])), figure = k => h('figure', {class: `sw-${k}`}, shown[k], told[k]);
  const other = select(Array.from({length: R}, (_, r) => [r, name('appearances', r)]), model.get('other'), v => set('other', Number(v)), 'other clothes');
  const slider = h('input', {type: 'range', min: 0, max: N + 1, 'aria-label': 'from the one to the other', oninput: () => set('mix', Number(slider.value))});
  const side = h('div', {class: 'sw-side'}, h('div', {class: 'sw-donors'}, figure('wears'), figure('stands'), figure('other')), figure('made'), h('div', {class: 'sw-mix'}, h('span', {class: 'sr-quiet'}, 'clothes'), slider, control('to', other)));
  body.append(h('div', {class: 'sw-main'}, grid, side));

  function draw() {
    const r = model.get('row'), c = model.get('column'), o = model.get('other'), k = r === o ? 0 : model.get('mix');
    for (const e of cells) { const on = Number(e.dataset.row) === r && Number(e.dataset.column) === c; e.classList.toggle('sw-here', on); e.setAttribute('aria-selected', String(on)); }
    heads.row.forEach((e, i) => e.classList.toggle('sw-lends', i === r)); heads.column.forEach((e, i) => e.classList.toggle('sw-lends', i === c));
    crop(shown.wears, appearance(r), scale); crop(shown.stands, structure(c), scale); crop(shown.other, appearance(o), scale);
    const i = way(r, o, c, k); crop(shown.made, i, large); root.dataset.picture = i;
    told.wears.textContent = `wears: ${name('appearances', r)}`; told.stands.textContent = `stands: ${name('structures', c)}`; told.other.textContent = `other: ${name('appearances', o)}`;
    const share = Math.round(100 * k / (N + 1)), text = `${name('appearances', r)} on ${name('structures', c)}${k ? `, ${share} % ${name('appearances', o)}` : ''}`;
    told.made.textContent = text; shown.made.setAttribute('aria-label', text); own.say(text);
    slider.value = k; slider.disabled = r === o; other.value = o;
  }
  for (const n of ['row', 'column', 'other', 'mix']) own.on(`change:${n}`, own.guard(() => { draw(); own.drawn(); }));
  own.guard(draw)(); decoded.then(() => own.drawn());
  return () => own.dispose();
}

export default { render };
