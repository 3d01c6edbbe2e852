// Widgets of an exported page: their saved state, drawn by their own code, without a kernel and without any library.
(async () => {
  const find = kind => [...document.querySelectorAll(`script[type="application/vnd.jupyter.widget-${kind}+json"]`)], saved = find('state')[0];
  const states = saved ? JSON.parse(saved.textContent).state : {}, models = {};

  function model(id) { // a stand-in for the kernel's: state and listeners, nobody answers
    if (models[id]) return models[id];
    const {state, buffers = []} = structuredClone(states[id]), listeners = {}, fire = name => (listeners[name] || []).slice().forEach(f => f());
    for (const {path, data} of buffers) path.slice(0, -1).reduce((o, k) => o[k], state)[path[path.length - 1]] = new DataView(Uint8Array.from(atob(data), c => c.charCodeAt(0)).buffer);
    return models[id] = {
      get: name => state[name],
      set(name, value) { if (state[name] !== value) { state[name] = value; fire(`change:${name}`); fire('change'); } },
      on(names, f) { for (const n of names.split(' ')) (listeners[n] = listeners[n] || []).push(f); },
      off(names, f) { for (const n of (names || '').split(' ')) listeners[n] = f ? (listeners[n] || []).filter(g => g !== f) : []; },
      save_changes() {}, send() {},
    };
  }

  for (const view of find('view')) {
    const {model_id} = JSON.parse(view.textContent), el = document.createElement('div');
    view.before(el);
    if (!states[model_id]) { el.textContent = 'This output was not saved with the notebook: run it to see it.'; continue; }
    try {
      const own = model(model_id), address = URL.createObjectURL(new Blob([own.get('_esm')], {type: 'text/javascript'})), style = document.createElement('style');
      style.textContent = own.get('_css') || ''; document.head.append(style);
      const widget = (await import(address)).default;
      await widget.initialize?.({model: own}); await widget.render({model: own, el});
    } catch (error) { console.error(error); el.textContent = `This widget could not be drawn: ${error.message}`; }
  }
})();
