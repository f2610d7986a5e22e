"""A real JupyterLab and a real Chromium, driven as a person drives them."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import nbformat

from cellfm_nb.notebooks import inject, listing

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
         "--disable-background-networking", "--disable-component-update"]
SETTINGS = {"notebook-extension/tracker": {"windowingMode": "none"},  # every cell is drawn, also out of sight
            "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
            "docmanager-extension/plugin": {"autosave": False}}
RUN_ALL = """async () => {
  const app = window.jupyterapp, panel = app.shell.currentWidget;
  await panel.sessionContext.ready;
  await panel.sessionContext.session.kernel.info;
  await app.commands.execute('notebook:run-all-cells');
  return panel.content.widgets.filter(c => c.model.type === 'code').map(c => ({
    id: c.model.id, count: c.model.executionCount,
    error: c.model.outputs.toJSON().filter(o => o.output_type === 'error').map(o => o.evalue).join()}));
}"""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def jupyter(folder, workspace, base_url="/", hub=False):
    """Serve copies of the notebooks, on the given workspace, at a base URL; yield the address of the server."""
    books = folder / "notebooks"
    books.mkdir(parents=True)
    for path in listing().values():
        nbformat.write(inject(nbformat.read(path, as_version=4), {"workspace": str(workspace)}), books / path.name)
    for name, values in SETTINGS.items():
        file = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    own = {f"JUPYTER_{kind}_DIR": str(folder / kind.lower()) for kind in ("CONFIG", "DATA", "RUNTIME")}
    env = {k: v for k, v in os.environ.items() if k not in ("CELLFM_HEADLESS", "CI")} | own | {
        "CELLFM_HOME": str(folder), "JUPYTERLAB_SETTINGS_DIR": str(folder / "settings"),
        "XDG_STATE_HOME": str(folder / "state")}
    if hub:
        env["JUPYTERHUB_SERVICE_PREFIX"] = base_url
    port = free_port()
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", f"--port={port}",
               "--ServerApp.port_retries=0", "--ip=127.0.0.1", "--IdentityProvider.token=", f"--notebook-dir={folder}",
               f"--ServerApp.base_url={base_url}", "--LabApp.expose_app_in_browser=True", "--LabApp.news_url=None"]
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
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
            str(folder / "profile"), executable_path=CHROMIUM, args=FLAGS, viewport={"width": 1400, "height": 1200})
        self.hosts, self.bytes = set(), 0
        self.context.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        self.page = self.context.pages[0]
        self.page.set_default_timeout(60_000)
        cdp = self.context.new_cdp_session(self.page)
        cdp.send("Network.enable")
        cdp.on("Network.loadingFinished", lambda event: self._count(event["encodedDataLength"]))

    def _count(self, n):
        self.bytes += n

    def strangers(self):
        """Hosts asked that are not this machine (addresses that carry their own data have none)."""
        return self.hosts - {"127.0.0.1", "localhost", "", None}


class Notebook:
    """One notebook open in JupyterLab."""

    def __init__(self, browser, address, number):
        self.page, self.path = browser.page, f"notebooks/{listing()[number].name}"
        self.page.goto(f"{address}lab/tree/{self.path}?reset")
        self.page.wait_for_function(f"() => window.jupyterapp?.shell.currentWidget?.context?.path === '{self.path}'")

    def run_all(self):
        """Run all cells; return {id: error text} of those that failed or did not run."""
        cells = self.page.evaluate(RUN_ALL)
        return {cell["id"]: cell["error"] or "not run" for cell in cells if cell["error"] or not cell["count"]}

    def cell(self, name):
        """Return the cell with this id, as a place in the page."""
        index = self.page.evaluate("name => jupyterapp.shell.currentWidget.content.widgets.findIndex("
                                   "c => c.model.id === name)", name)
        assert index >= 0, f"no cell {name}"
        place = self.page.locator(".jp-Notebook .jp-Cell").nth(index)
        place.scroll_into_view_if_needed()
        return place

    def restart(self):
        """Restart the kernel, as the menu does."""
        self.page.evaluate("async () => { const k = jupyterapp.shell.currentWidget.sessionContext.session.kernel;"
                           " await k.restart(); await k.info; }")

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
