// Clusters of an unlabelled set, epoch by epoch: rows of pictures in several orders, and the curves beside them.

const ORDERS = {largest: 'largest', mixed: 'most cameras', newest: 'newest', split: 'split', outliers: 'outliers'};
const SAYS_ORDER = {largest: 'clusters with most pictures', mixed: 'clusters whose pictures come from most cameras, evenly', newest: 'clusters of which most pictures were in none an epoch before',
  split: 'clusters of the epoch before whose pictures lie in several now', outliers: 'pictures in no cluster'};

function render({model, el}) {
  const info = model.get('info'), last = info.epochs.length - 1, names = Object.keys(ORDERS);
  const entries = new Map(Object.entries(model.get('entries')).map(([e, v]) => [Number(e), v]));
  let detail = null;
  const own = explorer(el, model, {label: 'Clusters by epoch', keys: {
    ArrowRight: () => walk(1), ArrowLeft: () => walk(-1), ArrowDown: () => climb(1), ArrowUp: () => climb(-1), Home: () => walk(-Infinity), End: () => walk(Infinity),
    '+': () => go(model.get('epoch') + 1), '-': () => go(model.get('epoch') - 1), Escape: () => show(null), Enter: e => open(e.target), ' ': e => open(e.target),
    ...Object.fromEntries(names.map((n, i) => [String(i + 1), () => set('order', n)])),
  }});
  const asked = questions(own, model, () => draw()), urls = pictures(own), places = new Map();
  remember(model.get('index'), typed(model, 'pictures', Uint8Array));
  function remember(index, bytes) { for (const [key, [a, b]] of Object.entries(index)) if (!places.has(key)) places.set(key, bytes.subarray(a, b)); }
  const url = i => places.has(String(i)) ? urls.url(String(i), places.get(String(i))) : '';
  const set = (name, v) => { model.set(name, v); model.save_changes(); };
  const camera = c => `camera ${c + 1}`, many = (n, one, more = `${one}s`) => `${n} ${n === 1 ? one : more}`, percent = x => `${Math.round(100 * x)} %`;

  // ---- moving
  function go(e) {
    e = Math.min(last, Math.max(0, e));
    if (e === model.get('epoch')) return draw();
    if (!entries.has(e) && !own.needsKernel('an epoch whose pictures are not saved here')) return draw();
    own.fail(''); set('epoch', e);
  }
  const lines = () => [...list.querySelectorAll('.cl-row')].map(r => [...r.querySelectorAll('figure')]).filter(r => r.length);
  function current() { const e = el.getRootNode().activeElement; return e && own.root.contains(e) ? e.closest('.cl-row figure') : null; }
  function focus(f) { if (f) { list.querySelectorAll('figure').forEach(x => x.tabIndex = x === f ? 0 : -1); f.focus(); } }
  const at = (row, i) => row[Math.min(row.length - 1, Math.max(0, i))];
  function walk(by) { const f = current(), row = lines().find(r => r.includes(f)); focus(row ? at(row, row.indexOf(f) + by) : lines()[0]?.[0]); }
  function climb(by) {
    const f = current(), all = lines(), here = all.findIndex(r => r.includes(f));
    if (all.length) focus(here < 0 ? all[0][0] : at(at(all, here + by), all[here].indexOf(f)));
  }
  function open(target) { if (target.matches('.cl-row figure')) show(Number(target.dataset.picture)); else if (target.matches('button')) target.click(); }

  // ---- controls
  const button = (text, label, f) => h('button', {type: 'button', title: label, 'aria-label': label, onclick: f}, text);
  const slider = h('input', {type: 'range', min: 0, max: last, step: 1, 'aria-label': 'epoch', oninput: () => go(slider.valueAsNumber)});
  const where = h('b', {class: 'cl-where'}), told = h('span', {class: 'sr-quiet cl-told'});
  const orders = Object.fromEntries(names.map((n, i) => [n, h('button', {type: 'button', class: 'sr-toggle', 'data-order': n, title: `${SAYS_ORDER[n]} (key ${i + 1})`, onclick: () => set('order', n)}, ORDERS[n])]));
  const list = h('div', {class: 'cl-rows'}), charts = h('div', {class: 'cl-charts'}), more = h('div', {class: 'cl-detail', hidden: true, role: 'region', 'aria-label': 'the chosen picture'}), foot = h('div', {class: 'cl-foot sr-quiet'});
  own.body.append(
    h('div', {class: 'sr-bar'}, button('◀', 'epoch before', () => go(model.get('epoch') - 1)), slider, button('▶', 'next epoch', () => go(model.get('epoch') + 1)), where, told),
    h('div', {class: 'sr-bar', role: 'group', 'aria-label': 'which clusters'}, Object.values(orders)),
    h('div', {class: 'cl-main'}, h('div', {class: 'cl-side'}, charts, more), list), foot);

  // ---- curves: each line has a dash of its own and its name at its end
  const S = (tag, a, text) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const [k, v] of Object.entries(a)) e.setAttribute(k, v); if (text !== undefined) e.textContent = text; return e; };
  const short = v => Math.abs(v) >= 1000 ? `${Number((v / 1000).toPrecision(2))}k` : String(Number(v.toPrecision(3)));
  function chart({name, x, below, lines, now, zero = true}) {
    const W = 236, H = 108, left = 40, right = 8, top = 26, bottom = 26, values = [...lines.flatMap(l => l.values).filter(v => v !== null), ...(zero ? [0] : [])];
    const low = values.length ? Math.min(...values) : 0, high = Math.max(...values) > low ? Math.max(...values) : low + 1, x0 = x[0], x1 = x.at(-1) > x[0] ? x.at(-1) : x[0] + 1;
    const px = v => left + (v - x0) / (x1 - x0) * (W - left - right), py = v => top + (1 - (v - low) / (high - low)) * (H - top - bottom), i = x.indexOf(now);
    const said = lines.map(l => `${l.name} ${i >= 0 && l.values[i] !== null ? short(l.values[i]) : 'unknown'}`).join(', ');
    const svg = S('svg', {class: 'cl-chart', viewBox: `0 0 ${W} ${H}`, role: 'img', 'data-chart': name, 'aria-label': `${name} at ${below} ${now === undefined ? 'none' : short(now)}: ${said}`});
    svg.append(S('line', {class: 'cl-axis', x1: left, x2: W - right, y1: py(low), y2: py(low)}), S('text', {x: left - 4, y: py(high) + 4, 'text-anchor': 'end'}, short(high)), S('text', {x: left - 4, y: py(low) + 4, 'text-anchor': 'end'}, short(low)),
      S('text', {x: left, y: H - 13, 'text-anchor': 'middle'}, short(x0)), S('text', {x: W - right, y: H - 13, 'text-anchor': 'end'}, short(x.at(-1))), S('text', {x: (left + W - right) / 2, y: H - 3, 'text-anchor': 'middle', class: 'cl-below'}, below));
    if (now !== undefined && now !== null) svg.append(S('line', {class: 'cl-now', x1: px(now), x2: px(now), y1: top - 4, y2: py(low)}));
    let key = 0;
    lines.forEach((l, k) => {
      const points = x.map((v, j) => [v, l.values[j]]).filter(p => p[1] !== null).map(p => `${px(p[0]).toFixed(1)},${py(p[1]).toFixed(1)}`);
      svg.append(S('polyline', {class: `cl-line cl-line${k}`, points: points.join(' ')}), S('line', {class: `cl-line cl-line${k}`, x1: key, x2: key + 16, y1: 8, y2: 8}), S('text', {x: key + 20, y: 12}, l.name));
      key += 32 + 6.2 * l.name.length;
      if (i >= 0 && l.values[i] !== null) svg.append(S('circle', {class: `cl-dot${k}`, cx: px(now), cy: py(l.values[i]), r: 3.2}));
    });
    return svg;
  }
  function drawCharts(e) {
    const epochs = info.epochs, all = [chart({name: 'clusters and outliers', x: epochs, below: 'epoch', now: epochs[e], lines: [{name: 'clusters', values: info.clusters}, {name: 'outliers', values: info.outliers}]})];
    if (info.criterion.length) all.push(chart({name: info.criterion_name, x: info.eps_tried, below: 'eps', zero: false, now: info.eps.length ? info.eps[e] : undefined, lines: [{name: info.criterion_name, values: info.criterion[e]}]}));
    if (info.ami.length) all.push(chart({name: 'agreement with the truth', x: epochs, below: 'epoch', now: epochs[e], lines: [{name: 'AMI', values: info.ami}, {name: 'purity', values: info.purity}]}));
    charts.replaceChildren(...all);
  }

  // ---- rows of pictures
  function figure(i, part, entry) {
    const [name, cam, person] = entry.pictures[i], odd = person !== null && part.person !== undefined && person !== part.person;
    const mark = person === null || part.person === undefined ? '' : odd ? 'wrong' : 'right';
    const says = [part.cluster < 0 ? 'outlier' : `cluster ${part.cluster}`, camera(cam), person === null ? '' : `person ${person}`, odd ? `not person ${part.person}, who is most of it` : '', name].filter(Boolean).join(', ');
    return h('figure', {tabindex: -1, class: mark ? `cl-${mark}` : '', 'data-picture': i, 'data-mark': mark, 'aria-label': says, title: says, onclick: e => { focus(e.currentTarget); show(i); }},
      h('img', {src: url(i), alt: '', width: info.width, height: info.height, draggable: 'false'}), h('figcaption', {}, mark && h('span', {class: 'cl-sign'}, MARKS[mark]), ` c${cam + 1}`));
  }
  function describe(p) {
    if (p.cluster < 0) return many(p.size, 'picture') + ' in no cluster';
    const people = p.purity === undefined ? '' : p.purity === 1 ? `all of person ${p.person}` : `${percent(p.purity)} of person ${p.person}`;
    return [many(p.size, 'picture'), `${many(p.cameras, 'camera')} (effective ${fixed(p.mix, 1)})`, p.new ? `${percent(p.new)} new` : '', people].filter(Boolean).join(' · ');
  }
  function row(r, entry) {
    const split = r.was !== undefined, title = split ? `was cluster ${r.was}` : r.parts[0].cluster < 0 ? 'outliers' : `cluster ${r.parts[0].cluster}`;
    const parts = r.parts.map(p => h('div', {class: 'cl-part', 'data-cluster': p.cluster}, h('div', {class: 'cl-about'}, h('b', {}, split ? `→ cluster ${p.cluster}` : title), ' ', h('span', {class: 'sr-quiet'}, describe(p))),
      h('div', {class: 'cl-pictures'}, p.pictures.map(i => figure(i, p, entry)), p.size > p.pictures.length && h('span', {class: 'cl-more sr-quiet'}, `+ ${p.size - p.pictures.length}`))));
    return h('section', {class: `cl-row${split ? ' cl-split' : ''}`, 'aria-label': title}, split && h('div', {class: 'cl-was'}, h('b', {}, title), h('span', {class: 'sr-quiet'}, ` now in ${r.parts.length + (r.more || 0)}${r.more ? `, ${r.parts.length} of them shown` : ''}`)), parts);
  }
  function show(i) {
    const entry = entries.get(model.get('epoch'));
    list.querySelectorAll('figure').forEach(f => f.classList.toggle('cl-open', i !== null && Number(f.dataset.picture) === i));
    const known = i !== null && entry && entry.pictures[i]; detail = known ? i : null; more.hidden = !known;
    if (!known) return more.replaceChildren();
    const [name, cam, person] = known;
    more.replaceChildren(h('figure', {}, h('img', {src: url(i), alt: `${name}, ${camera(cam)}`, width: info.width, height: info.height}), h('figcaption', {}, h('code', {}, name), h('span', {}, camera(cam)), person !== null && h('span', {}, `person ${person}`))),
      button('× close', 'close (Esc)', () => { show(null); focus(lines()[0]?.[0]); }));
    own.say(`${name}, ${camera(cam)}`);
  }
  const draw = own.guard(() => {
    const e = model.get('epoch'), order = model.get('order'), entry = entries.get(e), held = current()?.dataset.picture;
    slider.value = e; slider.setAttribute('aria-valuetext', `epoch ${info.epochs[e]}`); where.textContent = `epoch ${info.epochs[e]}`;
    told.textContent = [many(info.clusters[e], 'cluster'), `${many(info.outliers[e], 'outlier')} of ${info.n}`, info.eps.length ? `eps ${short(info.eps[e])}` : ''].filter(Boolean).join(' · ');
    for (const [n, b] of Object.entries(orders)) b.setAttribute('aria-pressed', String(n === order));
    drawCharts(e);
    if (!entry) { fetchEntry(e); own.root.classList.add('cl-waiting'); return; }
    own.root.classList.remove('cl-waiting');
    const rows = entry.orders[order];
    list.replaceChildren(...(rows.length ? rows.map(r => row(r, entry)) : [h('p', {class: 'sr-quiet'}, order === 'split' && e === 0 ? 'Nothing to compare with: this is the first epoch.' : `None: no ${SAYS_ORDER[order]}.`)]));
    const first = list.querySelector('figure'); if (first) first.tabIndex = 0;
    if (held !== undefined) focus(list.querySelector(`figure[data-picture="${held}"]`) || first);
    show(detail);
    own.say(`epoch ${info.epochs[e]}: ${told.textContent}; shown: ${SAYS_ORDER[order]}`);
    own.root.dataset.epoch = e; own.root.dataset.shown = order; own.drawn();
  });
  function fetchEntry(e) { if (own.needsKernel('an epoch whose pictures are not saved here')) asked.ask([e], () => own.ask('epoch', {epoch: e})); }
  own.on('msg:custom', own.guard((message, buffers) => {
    if (message.kind === 'hello') return draw();
    if (message.kind !== 'epoch') return;
    const b = buffers[0];
    remember(message.index, new Uint8Array(b.buffer ? b.buffer.slice(b.byteOffset, b.byteOffset + b.byteLength) : b.slice(0)));
    entries.set(message.epoch, message.entry); asked.answered([message.epoch]);
    if (message.epoch === model.get('epoch')) draw();
  }));
  foot.replaceChildren(h('div', {}, `At most ${info.k} pictures of a cluster, spread over its cameras. c1, c2 …: the camera. `, info.ami.length ? `${MARKS.right} the person who is most of the cluster, ${MARKS.wrong} somebody else, by the truth. AMI counts outliers as clusters of one; purity leaves them out. ` : '', info.note),
    h('div', {}, '+ − epoch, 1–5 which clusters, ↑ ↓ cluster, ← → picture, Enter details, Esc closes.'));
  for (const name of ['epoch', 'order']) own.on(`change:${name}`, draw);
  draw();
  return () => own.dispose();
}

export default { render };
