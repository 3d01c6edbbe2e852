// Live training: what the hook sees, and the button that stops.

function render({model, el}) {
  const own = explorer(el, model, {label: 'live training: losses, samples, stop button'}), shots = pictures(own), {root, body} = own;
  const WORDS = {waiting: 'waiting', running: 'training', stopping: 'stopping …', stopped: 'stopped', finished: 'finished', failed: 'failed'};
  const state = h('span', {class: 'li-state'}), bar = h('progress', {max: 1, value: 0, 'aria-label': 'steps done'}), facts = h('div', {class: 'li-facts sr-number'});
  let waiting = null;
  const stop = h('button', {type: 'button', 'data-role': 'stop', onclick: () => {
    own.fail(''); own.ask('stop'); stop.disabled = true; clearTimeout(waiting);
    waiting = setTimeout(() => { stop.disabled = false; own.fail('The kernel does not answer. If a cell is busy, use the notebook\'s interrupt button (■): it stops the training in the same way and saves. A page without a notebook needs a running kernel.'); }, 3000);
  }}, 'Stop and save');
  const rows = h('div', {class: 'li-rows'}), image = h('img', {class: 'li-sheet sr-pixels'}), samples = h('div', {class: 'li-samples', hidden: true}, rows, image), curves = h('div', {class: 'li-curves'});
  body.append(h('div', {class: 'li-head'}, state, bar, stop, facts), samples, curves);
  own.cleanup(() => clearTimeout(waiting));

  const duration = s => s < 90 ? `${Math.round(s)} s` : s < 5400 ? `${Math.round(s / 60)} min` : `${(s / 3600).toFixed(1)} h`;
  function status() {
    const now = model.get('state'), step = model.get('step'), steps = model.get('steps'), rate = model.get('rate'), busy = ['waiting', 'running'].includes(now), saved = model.get('saved');
    root.dataset.state = now; root.dataset.step = step; state.textContent = WORDS[now] || now;
    bar.max = steps || 1; bar.value = step; stop.disabled = !busy; stop.hidden = ['stopped', 'finished', 'failed'].includes(now);
    if (!busy) { clearTimeout(waiting); if (waiting) { waiting = null; own.fail(model.get('error')); } }
    facts.textContent = [`step ${step} of ${steps}`, rate > 0 && `${rate.toPrecision(3)} steps/s`, busy && rate > 0 && `${duration((steps - step) / rate)} left`, saved && `saved: ${saved.split('/').slice(-1)[0]}`].filter(Boolean).join('  ·  ');
    if (!busy) own.say(`${WORDS[now]} at step ${step}${saved ? ', saved' : ''}`);
  }

  function look() {
    const sheet = typed(model, 'samples', Uint8Array), i = model.get('info');
    samples.hidden = !sheet.length; if (!sheet.length) return;
    const scale = Math.max(1, Math.ceil(128 / i.height)), url = shots.url(`${i.step}`, sheet, 'image/jpeg'), old = image.dataset.step;
    image.src = url; image.width = i.n * i.width * scale; image.dataset.step = i.step; image.alt = `${i.n} sources, below them their translations at step ${i.step}`;
    if (old && old !== image.dataset.step) shots.drop(old);
    rows.replaceChildren(h('span', {}, 'source'), h('span', {}, `step ${i.step}`));
  }

  const S = (tag, a, text) => { const e = document.createElementNS('http://www.w3.org/2000/svg', tag); for (const [k, v] of Object.entries(a)) e.setAttribute(k, v); if (text !== undefined) e.textContent = text; return e; };
  function chart(name, points) { // the mean over a tenth of the curve in front, the values behind
    const W = 220, H = 96, left = 34, top = 22, bottom = 16, values = points.map(p => p[1]).filter(Number.isFinite), end = Math.max(1, model.get('step'));
    const svg = S('svg', {class: 'li-curve', viewBox: `0 0 ${W} ${H}`, role: 'img', 'data-loss': name, 'aria-label': `${name}: ${values.length ? values[values.length - 1].toPrecision(3) : 'no value'}`});
    svg.append(S('text', {class: 'li-name', x: 0, y: 11}, name));
    if (!values.length) return svg;
    let low = Math.min(0, ...values), high = Math.max(...values); if (high <= low) high = low + 1;
    const x = s => left + s / end * (W - left - 4), y = v => top + (1 - (v - low) / (high - low)) * (H - top - bottom), line = ps => ps.map(p => `${x(p[0]).toFixed(1)},${y(p[1]).toFixed(1)}`).join(' ');
    const half = Math.max(1, Math.round(points.length / 20)), smooth = points.map((p, i) => { const near = points.slice(Math.max(0, i - half), i + half + 1); return [p[0], near.reduce((a, q) => a + q[1], 0) / near.length]; });
    svg.append(S('line', {class: 'li-axis', x1: left, x2: W - 4, y1: y(low), y2: y(low)}), S('text', {x: left - 5, y: y(high) + 4, 'text-anchor': 'end'}, Number(high.toPrecision(2))), S('text', {x: left - 5, y: y(low) + 3, 'text-anchor': 'end'}, Number(low.toPrecision(2))),
      S('text', {x: W - 4, y: H - 3, 'text-anchor': 'end'}, end), S('polyline', {class: 'li-raw', points: line(points)}), S('polyline', {class: 'li-smooth', points: line(smooth)}),
      S('text', {class: 'li-last', x: W - 4, y: 11, 'text-anchor': 'end'}, Number(smooth[smooth.length - 1][1].toPrecision(3))));
    return svg;
  }
  const plot = () => curves.replaceChildren(...Object.entries(model.get('curves')).map(([name, points]) => chart(name, points)));
  const on = (names, f) => names.split(' ').forEach(n => own.on(`change:${n}`, own.guard(() => { f(); own.drawn(); })));
  on('state step rate saved', status); on('samples', look); on('curves', plot);
  own.guard(() => { status(); look(); plot(); })(); own.drawn();
  return () => own.dispose();
}

export default { render };
