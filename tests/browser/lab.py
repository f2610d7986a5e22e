"""A real JupyterLab and a real Chromium, driven as a person drives them."""

import io
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

import nbformat
import numpy as np
import psutil
from PIL import Image

from cellfm_nb.commands import QUIET
from cellfm_nb.notebooks import inject, listing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"},  # every cell is drawn, also out of sight
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "docmanager-extension/plugin": {"autosave": False}}
START = """async ([path, run]) => {
  const app = window.jupyterapp;
  const panel = await app.commands.execute('docmanager:open', {path, factory: 'Notebook'});
  await panel.context.ready;
  const kernel = panel.sessionContext.ready.then(() => panel.sessionContext.session.kernel.info);
  if (!run) { await kernel; app.shell.activateById(panel.id); return; }
  // one after the other, whichever is in front: two kernels of a server on one core only slow each other down
  window.last = (window.done ||= {})[path] = Promise.all([window.last, kernel]).then(
    () => app.commands.execute('notebook:run-all-cells', {semanticWidget: panel.id, activate: false}));
}"""
FINISH = """async path => {
  const app = window.jupyterapp;
  await window.done[path];
  const panel = await app.commands.execute('docmanager:open', {path});
  app.shell.activateById(panel.id);
  return panel.content.widgets.filter(c => c.model.type === 'code').map(c => ({
    id: c.model.id, count: c.model.executionCount,
    error: c.model.outputs.toJSON().filter(o => o.output_type === 'error').map(o => o.evalue).join()}));
}"""
SHOW = """async path => {
  const panel = await window.jupyterapp.commands.execute('docmanager:open', {path});
  window.jupyterapp.shell.activateById(panel.id);
}"""
CLOSE = """async path => {  // a hidden viewer draws on, sixty times a second
  const panel = await window.jupyterapp.commands.execute('docmanager:open', {path});
  await panel.sessionContext.shutdown();
  panel.context.model.dirty = false;  // nothing to save, nothing to ask
  panel.close();
}"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def jupyter(folder, workspace, base_url="/", hub=False, parameters=None):
    """Serve copies of the notebooks, on the given workspace, at a base URL; yield the address of the server.

    parameters: notebook number -> its own parameters, where they are not those of all.
    """
    books = folder / "notebooks"
    books.mkdir(parents=True)
    for number, path in listing().items():
        given = {"workspace": str(workspace)} | (parameters or {}).get(number, {})
        nbformat.write(inject(nbformat.read(path, as_version=4), given), books / path.name)
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA")}
    env = {k: v for k, v in os.environ.items() if k not in ("CELLFM_HEADLESS", "CI")} | own | {
        "CELLFM_HOME": str(folder), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "XDG_STATE_HOME": str(folder / "state")}
    if hub:
        env["JUPYTERHUB_SERVICE_PREFIX"] = base_url
    port = free_port()
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
               "--ServerApp.port_retries=0", "--ip=127.0.0.1", "--IdentityProvider.token=", f"--notebook-dir={folder}",
               f"--ServerApp.base_url={base_url}", "--LabApp.expose_app_in_browser=True",
               "--KernelManager.transport=ipc", *QUIET]  # a port seen free may be taken before a slow kernel binds it
    with (folder / "server.log").open("w") as log, tempfile.TemporaryDirectory() as runtime:  # sockets: a short path
        server = subprocess.Popen(command, env=env | {"JUPYTER_RUNTIME_DIR": runtime}, stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{port}{base_url}"
            wait_for(lambda: answers(address + "api"), 90, "the server does not answer")
            yield address
        finally:
            server.terminate()
            server.wait(20)


def answers(address):
    try:
        return urllib.request.urlopen(address, timeout=5).status == 200
    except OSError:
        return False


def connected_beyond():
    """Return the machines beyond this one that server, kernels and browser are connected to now."""
    found = set()
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found |= {c.raddr.ip for c in process.net_connections("inet") if c.raddr}
    return {address for address in found if not ipaddress.ip_address(address).is_loopback}


def wait_for(ask, seconds, what):
    """Ask until the answer is true; return it. Raises AssertionError after so many seconds."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        assert time.monotonic() < end, what
        time.sleep(0.2)
    return answer


class Browser:
    """A window of Chromium that remembers every host it asked and every byte it got."""

    def __init__(self, play, folder: Path):
        self.context = play.chromium.launch_persistent_context(
            str(folder / "profile"), executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1400, "height": 1250})
        self.hosts, self.bytes = set(), 0
        self.context.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        self.page = self.context.pages[0]
        self.complaints = []
        self.page.on("pageerror", lambda error: self.complaints.append(error.stack or str(error)))
        self.page.set_default_timeout(180_000)
        cdp = self.context.new_cdp_session(self.page)
        cdp.send("Network.enable")
        cdp.on("Network.loadingFinished", lambda event: self._count(event["encodedDataLength"]))

    def _count(self, n):
        self.bytes += n

    def open(self, address):
        """Open JupyterLab, and keep what its page weighs."""
        self.page.goto(f"{address}lab?reset")
        self.page.wait_for_function("() => window.jupyterapp?.restored")
        self.page.evaluate("() => window.jupyterapp.restored")
        self.lab_bytes = self.bytes

    def strangers(self):
        """Hosts asked that are not this machine (addresses that carry their own data have none)."""
        return self.hosts - {"127.0.0.1", "localhost", "", None}


class Notebook:
    """One notebook open in JupyterLab; it runs from first cell to last once those before have (or, asked so, not)."""

    def __init__(self, browser, number, run=True):
        self.page, self.path = browser.page, f"notebooks/{listing()[number].name}"
        self.page.evaluate(START, [self.path, run])

    def finish(self):
        """Wait for the last cell and come to the front; return {id: error} of the cells that failed or did not run."""
        cells = self.page.evaluate(FINISH, self.path)
        return {cell["id"]: cell["error"] or "not run" for cell in cells if cell["error"] or not cell["count"]}

    def show(self):
        """Come to the front."""
        self.page.evaluate(SHOW, self.path)

    def hide(self):
        """Go behind another tab."""
        self.page.evaluate("async () => { await jupyterapp.commands.execute('launcher:create'); }")

    def close(self):
        """Close the tab and end the kernel."""
        self.page.evaluate(CLOSE, self.path)

    def cell(self, name):
        """Return the cell with this id, as a place in the page."""
        index = self.page.evaluate("name => jupyterapp.shell.currentWidget.content.widgets.findIndex("
                                   "c => c.model.id === name)", name)
        assert index >= 0, f"no cell {name}"
        place = self.page.locator(".jp-NotebookPanel:not(.lm-mod-hidden) .jp-Notebook .jp-Cell").nth(index)
        place.scroll_into_view_if_needed()
        return place

    def viewer(self, name):
        """Return the 3D viewer in the output of a cell, once it has drawn something."""
        place = self.cell(name).locator("iframe").first
        place.scroll_into_view_if_needed()
        return Viewer(self.page, place)

    def restart(self):
        """Restart the kernel, as the menu does."""
        self.page.evaluate("async () => { const k = jupyterapp.shell.currentWidget.sessionContext.session.kernel;"
                           " await k.restart(); await k.info; }")

    def run_cells(self, names, wait=True):
        """Run the cells with these ids, one after the other; wait for the last or, asked so, for none."""
        self.page.evaluate("""async ([names, wait]) => {
          const app = jupyterapp, book = app.shell.currentWidget.content;
          for (const name of names) {
            const index = book.widgets.findIndex(c => c.model.id === name);
            if (index < 0) throw new Error('no cell ' + name);
            book.deselectAll();
            book.activeCellIndex = index;
            const run = app.commands.execute('notebook:run-cell');
            if (wait) await run;
          }
        }""", [names, wait])

    def ask(self, code):
        """Run a line in the notebook's kernel, behind its back, and return what it prints."""
        return self.page.evaluate("""async code => {
          const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel;
          const future = kernel.requestExecute({code, store_history: false});
          let text = '';
          future.onIOPub = m => { text += m.content.text || m.content.evalue || ''; };
          await future.done;
          return text.trim();
        }""", code)


class Viewer:
    """A neuroglancer viewer inside the page."""

    def __init__(self, page, place):
        self.page, self.place = page, place
        self.frame = wait_for(lambda: place.element_handle().content_frame(), 30, "the viewer's frame does not open")
        self.frame.wait_for_function("() => window.viewer?.position?.value?.length >= 3", timeout=180_000)
        self.settle()

    def position(self):
        """Return the position in voxels, in the order of the dimensions."""
        return self.frame.evaluate("() => Array.from(viewer.position.value)")

    def layers(self):
        return self.frame.evaluate("() => viewer.layerManager.managedLayers.map(l => l.name)")

    def show(self, layer, visible):
        self.frame.evaluate("([name, on]) => viewer.layerManager.getLayerByName(name).setVisible(on)", [layer, visible])

    def settle(self):
        """Wait until all blocks have come and are drawn, and two pictures in a row are the same."""
        self.place.scroll_into_view_if_needed()  # out of sight it rests, and what loads above may have moved it there
        self.frame.wait_for_function("() => viewer.display.isReady()", timeout=180_000, polling=200)
        self.seen = None
        for _ in range(40):
            now = self.place.screenshot()
            if now == self.seen:
                return
            self.seen = now
            time.sleep(0.4)

    def picture(self):
        """Return what is seen once nothing moves any more: (y, x, rgb) uint8."""
        self.settle()
        return pixels(self.seen)

    def drawn_by(self, layer):
        """Return the pixels (y, x) that change when a layer is hidden, and what they were (n, rgb)."""
        with_it = self.picture()
        self.show(layer, False)
        without = self.picture()
        self.show(layer, True)
        changed = (with_it != without).any(-1)
        return changed, with_it[changed]


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
