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

export default {
  initialize({ model }) {
    start(model);
  },
  async render({ model, el }) {
    const widget = await start(model);
    return widget.render({ model, el });
  },
};
