// Loads Plotly's own widget (5 MB) beside the page's start-up: a page waits two seconds for a widget, then gives up.
const started = new WeakMap();
let bundle;

function start(model) {
  if (!started.has(model)) {
    const text = new Blob([model.get("_plotly")], { type: "text/javascript" });
    bundle ||= import(URL.createObjectURL(text)).then(async ({ default: made }) =>
      typeof made === "function" ? await made() : made);
    started.set(model, bundle.then(async (widget) => {
      await widget.initialize?.({ model });
      return widget;
    }));
  }
  return started.get(model);
}

// In a tab that is not shown nothing has a size, and a 3D scene without a size stays empty.
function shown(el) {
  el.style.minWidth = el.style.minHeight = "1px";
  return new Promise((done) => {
    const watch = new ResizeObserver(() => {
      if (el.clientWidth) {
        watch.disconnect();
        done();
      }
    });
    watch.observe(el);
  });
}

export default {
  initialize({ model }) {
    start(model);
  },
  async render({ model, el }) {
    const widget = await start(model);
    await shown(el);
    return widget.render({ model, el });
  },
};
