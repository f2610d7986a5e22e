"""Keys for a box of widgets: pressed inside it, they reach Python; the notebook's own shortcuts stay out."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import anywidget
import traitlets

# The box around this widget (class "cellfm-desk") listens, so a key works wherever the focus is inside it, but not in
# a field of text. Lumino, which JupyterLab and Notebook are made of, leaves keys alone under the attribute set here.
LISTEN = """
function render({ model, el }) {
  el.classList.add("cellfm-keys");
  el.textContent = model.get("hint");
  let host = null, waiting = null;
  const press = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.repeat) return;
    const target = (event.composedPath && event.composedPath()[0]) || event.target;
    if (target.closest && target.closest("input, textarea, select, [contenteditable=true]")) return;
    const action = model.get("actions")[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!action) return;
    event.preventDefault();
    event.stopPropagation();
    model.send({ action });
  };
  const listen = () => {  // the box comes into the page after this view
    host = el.closest(".cellfm-desk");
    if (!host) { waiting = setTimeout(listen, 50); return; }
    host.setAttribute("tabindex", "0");
    host.setAttribute("data-lm-suppress-shortcuts", "true");
    host.addEventListener("keydown", press);
  };
  listen();
  return () => {
    clearTimeout(waiting);
    if (host) host.removeEventListener("keydown", press);
  };
}
export default { render };
"""


class Keys(anywidget.AnyWidget):
    """Listen to keys in the box of class "cellfm-desk" around it, and show which do what.

    Parameters: actions, key (as `KeyboardEvent.key`, letters small) -> action; act, called with the action; words,
    what an action is called, where not by its name.
    """

    _esm = LISTEN
    actions = traitlets.Dict().tag(sync=True)
    hint = traitlets.Unicode().tag(sync=True)

    def __init__(self, actions: Mapping[str, str], act: Callable[[str], None], words: Mapping[str, str]) -> None:
        names = {"ArrowLeft": "←", "ArrowRight": "→"}
        told = (f"{names.get(key, key)} {words.get(action, action)}" for key, action in actions.items())
        super().__init__(actions=dict(actions), hint="Keys, after a click on the picture: " + " · ".join(told))
        self.on_msg(lambda _, content, buffers: act(content.get("action", "")))
