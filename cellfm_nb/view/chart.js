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

// Plotly tells of a click in 3D at its next frame: without a GPU the button is up again by then, and nobody is told.
// A click that moves nothing chooses what the label beside the mouse named when the button went down.
function answerClicks(el) {
  let named, pressed, down, told;
  el.on("plotly_hover", (event) => (named = event));
  el.on("plotly_unhover", () => (named = undefined));
  el.on("plotly_click", () => (told = true));
  el.addEventListener("pointerdown", (event) => ([down, pressed, told] = [event, named, false]), true);
  el.addEventListener("pointerup", (event) => {
    const click = pressed;
    if (click && Math.hypot(event.clientX - down?.clientX, event.clientY - down?.clientY) < 4)
      setTimeout(() => told || el.emit("plotly_click", click), 200);
  }, true);
}

// The widget draws into its element without saying when it is done.
function drawn(el) {
  if (!el._fullLayout || !el.on) return el.isConnected && setTimeout(() => drawn(el), 50);
  if (el._fullLayout.scene) answerClicks(el);
}

export default {
  initialize({ model }) {
    start(model);
  },
  async render({ model, el }) {
    const widget = await start(model);
    await shown(el);
    const remove = widget.render({ model, el });
    drawn(el);
    return remove;
  },
};
