// What all explorers share: frame, keyboard, errors, kernel, images, colours. Put in front of each widget's own module.

const COLOURS = ['#0072B2', '#E69F00', '#009E73', '#CC79A7', '#D55E00', '#56B4E9', '#F0E442', '#999999']; // Okabe and Ito
const MARKS = {right: '✓', wrong: '✗', junk: '○'}; // the sign carries the meaning, the colour repeats it

// h('button', {class: 'x', onclick: f}, 'text', child...): a DOM element
function h(tag, attributes = {}, ...children) {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(attributes)) {
    if (k.startsWith('on')) e.addEventListener(k.slice(2), v);
    else if (v === true) e.setAttribute(k, '');
    else if (v !== false && v !== null && v !== undefined) e.setAttribute(k, v);
  }
  e.append(...children.flat().filter(c => c !== null && c !== undefined && c !== false));
  return e;
}

// The outer element of an explorer. `keys` maps KeyboardEvent.key to a function; what it handles never reaches the notebook.
function explorer(el, model, {label, keys = {}}) {
  const live = h('div', {class: 'sr-live', 'aria-live': 'polite'}), banner = h('div', {class: 'sr-error', role: 'alert', hidden: true});
  const body = h('div', {class: 'sr-body'});
  const root = h('div', {class: 'sr-explorer', tabindex: 0, role: 'group', 'aria-label': label, 'data-lm-suppress-shortcuts': 'true'}, banner, body, live);
  el.append(root);
  root.dataset.ready = 0; root.dataset.kernel = 'none';
  const undo = [];
  root.addEventListener('focusin', e => e.target.setAttribute('data-lm-suppress-shortcuts', 'true')); // JupyterLab asks the focused element alone
  root.addEventListener('keydown', e => {
    e.stopPropagation(); // `d d` in a focused widget must not delete its cell
    const typing = ['INPUT', 'SELECT', 'TEXTAREA'].includes(e.target.tagName) && e.key !== 'Escape' || e.target.tagName === 'BUTTON' && ['Enter', ' '].includes(e.key);
    if (!typing && !e.ctrlKey && !e.metaKey && !e.altKey && keys[e.key]) { e.preventDefault(); keys[e.key](e); }
  });
  const own = {
    root, body,
    say(text) { live.textContent = text; }, // for screen readers
    fail(error) { banner.textContent = error ? String(error.message || error) : ''; banner.hidden = !error; },
    drawn() { root.dataset.ready = Number(root.dataset.ready) + 1; }, // tests wait on this
    on(name, f) { model.on(name, f); undo.push(() => model.off(name, f)); },
    cleanup(f) { undo.push(f); },
    guard(f) { return (...a) => { try { return f(...a); } catch (error) { console.error(error); own.fail(error); } }; }, // errors appear in the widget
    // Ask the kernel; the widget's Python answers with `reply`. Without a kernel nothing comes back.
    ask(kind, content = {}) { try { model.send({kind, ...content}); } catch (error) { console.warn(error); own.lost(); } }, // a closed connection throws
    lost(why = 'the one that made this was restarted or has ended. Run the cell again.') {
      root.dataset.kernel = 'silent'; root.classList.remove('sr-alive'); own.redraw(); own.fail(`This needs a running kernel: ${why}`);
    },
    redraw() {},
    get alive() { return root.dataset.kernel === 'live'; },
    // True where a kernel answers. Otherwise the reader is told why nothing happens.
    needsKernel(what) { if (!own.alive) own.fail(`${what} needs a running kernel`); return own.alive; },
    dispose() { undo.forEach(f => f()); root.remove(); },
  };
  own.on('change:error', () => own.fail(model.get('error')));
  own.on('msg:custom', () => { if (root.dataset.kernel === 'silent') own.fail(model.get('error')); root.dataset.kernel = 'live'; root.classList.add('sr-alive'); }); // whoever speaks is there
  own.fail(model.get('error'));
  model.send({kind: 'hello'});
  return own;
}

// Questions to the kernel, each asked once until it is `answered`. An error ends the waiting, and so does silence: then the kernel is
// greeted anew at the next click or key, and what was in vain is asked again. `show` draws what is there, and asks for what is missing.
function questions(own, model, show, patience = 15000) {
  const waiting = new Map(), vain = new Set(); let timer = 0; // key: whether the reader waits for it
  const rest = () => { clearTimeout(timer); timer = waiting.size ? setTimeout(silence, patience) : 0; };
  function end() { waiting.forEach((_, key) => vain.add(key)); waiting.clear(); rest(); }
  function silence() {
    if ([...waiting.values()].some(v => v)) own.lost(`no answer for ${patience / 1000} s, it is gone or busy. A click asks again.`); else end();
  }
  function again() {
    if (own.root.dataset.kernel === 'silent') setTimeout(() => own.ask('hello')); // its answer shows everything anew
    if (vain.size) { vain.clear(); setTimeout(own.guard(() => own.root.isConnected && show())); } // after what the click does
  }
  ['click', 'keydown', 'change'].forEach(name => own.root.addEventListener(name, again, true));
  own.on('change:error', own.guard(() => { if (model.get('error') && waiting.size) own.redraw(); }));
  own.redraw = () => { end(); show(); };
  own.cleanup(() => clearTimeout(timer));
  return {
    // `send(keys)` is called with those that were not asked before; `loud`: the reader waits for them
    ask(keys, send, loud = true) {
      const fresh = own.alive ? keys.filter(k => !waiting.has(k) && !vain.has(k)) : [];
      if (loud) keys.forEach(k => waiting.has(k) && waiting.set(k, true));
      fresh.forEach(k => waiting.set(k, loud));
      if (fresh.length) { if (!timer) rest(); send(fresh); }
    },
    answered(keys) { keys.forEach(k => { waiting.delete(k); vain.delete(k); }); rest(); },
    waits: key => waiting.has(key),
  };
}

// A synced Bytes trait (DataView) as a typed array of its own; empty when there is nothing.
function typed(model, name, Type) {
  const v = model.get(name);
  if (!v || !v.byteLength) return new Type(0);
  return v.buffer ? new Type(v.buffer.slice(v.byteOffset, v.byteOffset + v.byteLength)) : new Type(v.slice(0));
}

// Object URL of image bytes; all of them are revoked by `dispose`.
function pictures(own) {
  const urls = new Map();
  own.cleanup(() => { urls.forEach(u => URL.revokeObjectURL(u)); urls.clear(); });
  return {
    url(key, bytes, type) {
      if (!urls.has(key)) urls.set(key, URL.createObjectURL(new Blob([bytes], {type: type || sniff(bytes)})));
      return urls.get(key);
    },
    drop(key) { if (urls.has(key)) { URL.revokeObjectURL(urls.get(key)); urls.delete(key); } },
  };
}
function sniff(bytes) { const b = new Uint8Array(bytes.buffer ? bytes.buffer : bytes, bytes.byteOffset || 0, 2); return b[0] === 0x89 ? 'image/png' : 'image/jpeg'; }

// float16 (as uint16) to float32
function half(u16) {
  const out = new Float32Array(u16.length);
  for (let i = 0; i < u16.length; i++) {
    const s = (u16[i] & 0x8000) ? -1 : 1, e = (u16[i] >> 10) & 31, f = u16[i] & 1023;
    out[i] = e === 0 ? s * f * 2 ** -24 : e === 31 ? (f ? NaN : s * Infinity) : s * (1 + f / 1024) * 2 ** (e - 15);
  }
  return out;
}

// A labelled control: `control('layer', select)`
function control(text, input) { return h('label', {class: 'sr-control'}, h('span', {}, text), input); }
function select(options, value, onchange, label) {
  const e = h('select', {'aria-label': label, onchange: () => onchange(e.value)}, options.map(o => h('option', {value: Array.isArray(o) ? o[0] : o}, String(Array.isArray(o) ? o[1] : o))));
  e.value = value; return e;
}
function toggle(text, pressed, onclick) {
  const e = h('button', {type: 'button', class: 'sr-toggle', 'aria-pressed': String(!!pressed), onclick: () => { const v = e.getAttribute('aria-pressed') !== 'true'; e.setAttribute('aria-pressed', String(v)); onclick(v); }}, text);
  return e;
}
const fixed = (x, digits = 2) => Number.isFinite(x) ? x.toFixed(digits) : '–';
