"""Keys in the page: the script itself, run by node on a few stand-ins for the page."""

import json
import shutil
import subprocess

import pytest

from cellfm_nb.view.desk import KEYS
from cellfm_nb.view.keys import LISTEN, Keys

PAGE = """
const sent = [], timers = [];
globalThis.setTimeout = (f) => { timers.push(f); return timers.length; };
globalThis.clearTimeout = () => {};
class Box {
  constructor() { this.attributes = {}; this.listeners = []; this.classList = { add: () => {} }; }
  setAttribute(name, value) { this.attributes[name] = value; }
  addEventListener(name, f) { if (name === "keydown") this.listeners.push(f); }
  removeEventListener(name, f) { this.listeners = this.listeners.filter((g) => g !== f); }
}
const box = new Box();
let inPage = false;
const el = { classList: { add: () => {} }, closest: (q) => (inPage && q === ".cellfm-desk" ? box : null) };
const model = { get: (name) => ({ actions: ACTIONS, hint: "keys" })[name], send: (m) => sent.push(m.action) };
const field = { closest: (q) => (q.includes("textarea") ? field : null) }, picture = { closest: () => null };
const stopped = [];
const press = (key, more = {}, target = picture) => box.listeners.forEach((f) => f({ key, target,
  composedPath: () => [target], preventDefault: () => stopped.push(key), stopPropagation: () => {}, ...more }));
const module = await import("data:text/javascript," + encodeURIComponent(SCRIPT));
const leave = module.default.render({ model, el });
press("a");                                   // not in the page yet: nobody listens
inPage = true; timers.pop()();
for (const key of ["a", "R", "ArrowLeft", "q"]) press(key);
press("z", { ctrlKey: true }); press("a", { repeat: true }); press("u", {}, field);
press("z");
leave(); press("a");
console.log(JSON.stringify({ sent, stopped, attributes: box.attributes }));
"""


@pytest.mark.skipif(not shutil.which("node"), reason="no node to run the script of the page")
def test_keys_pressed_in_the_box_are_sent_and_no_others():
    page = PAGE.replace("ACTIONS", json.dumps(KEYS)).replace("SCRIPT", json.dumps(LISTEN))
    done = subprocess.run(["node", "--input-type=module", "-e", page], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["sent"] == ["accept", "reject", "previous", "undo"]
    assert told["stopped"] == ["a", "R", "ArrowLeft", "z"]  # what is not ours goes on to the page
    assert told["attributes"] == {"tabindex": "0", "data-lm-suppress-shortcuts": "true"}


def test_python_hears_what_the_page_sends():
    heard = []
    pad = Keys(KEYS, heard.append, {"accept": "confirm"})
    pad._handle_custom_msg({"action": "accept"}, [])
    pad._handle_custom_msg({}, [])
    assert heard == ["accept", ""] and "a confirm" in pad.hint and "← previous" in pad.hint
    assert pad.get_state()["actions"] == KEYS
