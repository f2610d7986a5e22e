"""Execute one notebook in a kernel of its own: progress relayed, memory watched, a failure told on one screen."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import psutil
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError

from cellfm_nb.here import resolve

RELAY_EVERY_S = 5.0  # how often the progress of a long cell is repeated in the terminal


class NotebookFailed(RuntimeError):
    """Tell where a run stopped: notebook, cell and error, in one screen. status is the command's exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


def execute(book: Any, name: str, target: Path, head: str, say: Callable[[str], None]) -> float:
    """Execute a notebook in a kernel of its own and write it, as far as it came, as target/name.ipynb and .html.

    Parameters: book, the notebook, whose outputs are filled in; name, as the kernel is told it; target, a folder, made
    if missing; head, how a line of progress begins; say, where such lines go.
    Returns: the peak memory of the kernel and its children, MiB.
    Raises NotebookFailed at the first failing cell, or when the kernel dies.
    """
    home = os.environ.get("CELLFM_HOME") or str(resolve("."))
    env = {**os.environ, "CELLFM_NOTEBOOK": name, "CELLFM_HOME": home, "CELLFM_HEADLESS": "1",
           "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),  # spinning threads starve shared cores
           "PYTHONHASHSEED": "0"}
    client = _Client(book, head, say, timeout=None, kernel_name="python3",
                     extra_arguments=["--IPKernelApp.log_level=ERROR"],
                     resources={"metadata": {"path": home}})
    try:
        client.execute(env=env)
    except CellExecutionError as error:
        cell = book.cells[client.index]
        told = [o for o in cell.outputs if o.output_type == "error"]
        kind, text = (told[0].ename, told[0].evalue) if told else (type(error).__name__, str(error))
        raise NotebookFailed(_screen(name, cell, kind, text, told[0].traceback if told else []),
                             2 if kind == "InputError" else 1) from None
    except DeadKernelError:
        raise NotebookFailed(f"{name}, cell {book.cells[client.index].id}: the kernel died "
                             f"(peak {client.peak_mib:.0f} MiB). Memory may have run out: try a smaller profile.",
                             1) from None
    finally:
        _save(book, name, target)
    return client.peak_mib


def _screen(name: str, cell: Any, error: str, text: str, traceback: list[str]) -> str:
    """Fit a failure on one screen: where, which cell, what; the traceback's end only for surprises."""
    lines = [f"Stopped in {name}, cell {cell.id}:", "", *(f"    {line}" for line in cell.source.splitlines()[:18]), ""]
    if error == "InputError":
        lines.append(text)
    else:
        plain = re.sub(r"\x1b\[[0-9;]*m", "", "\n".join(traceback)).splitlines()
        lines += [*(line[:160] for line in plain[-14:]), "", f"{error}: {text.splitlines()[0] if text else ''}"]
    return "\n".join([*lines, "", "Everything before this cell is kept; the same command goes on from here."])


def _save(book: Any, name: str, target: Path) -> None:
    from nbconvert import HTMLExporter

    target.mkdir(exist_ok=True)
    exporter = HTMLExporter(template_name="lab", exclude_input_prompt=True, exclude_output_prompt=True,
                            mathjax_url="", require_js_url="")  # a page asks no other host for anything
    html, _ = exporter.from_notebook_node(book, resources={"metadata": {"name": name}})
    for suffix, text in ((".ipynb", nbformat.writes(book)), (".html", html)):
        temporary = target / f".partial-{name}{suffix}"
        temporary.write_text(text)
        os.replace(temporary, target / f"{name}{suffix}")


class _Client(NotebookClient):
    """A notebook client that relays the progress of long cells and watches the kernel's memory."""

    def __init__(self, book: Any, head: str, say: Callable[[str], None], **options: Any) -> None:
        super().__init__(book, **options)
        self.head, self.say, self.index, self.peak_mib = head, say, 0, 0.0
        self._relayed = time.monotonic()
        self._watching = threading.Event()
        self.on_cell_start = self._cell_starts

    async def async_start_new_kernel(self, **options: Any) -> None:
        await super().async_start_new_kernel(**options)
        pid = getattr(getattr(self.km.provisioner, "process", None), "pid", None)
        if pid:
            threading.Thread(target=self._watch, args=(pid,), daemon=True).start()

    def _watch(self, pid: int) -> None:
        try:
            kernel = psutil.Process(pid)
            while not self._watching.wait(0.25):
                tree = [kernel, *kernel.children(recursive=True)]
                self.peak_mib = max(self.peak_mib, sum(p.memory_info().rss for p in tree) / 2**20)
        except psutil.Error:
            return  # the kernel is gone: the notebook has ended

    def _cell_starts(self, cell: Any, cell_index: int) -> None:
        self.index, self._started = cell_index, time.monotonic()

    def process_message(self, msg: dict[str, Any], cell: Any, cell_index: int) -> Any:
        if msg["msg_type"] in ("display_data", "update_display_data", "stream"):
            content = msg["content"]
            text = content.get("text") or content.get("data", {}).get("text/plain", "")
            if text.strip() and time.monotonic() - self._relayed > RELAY_EVERY_S:
                self._relayed = time.monotonic()
                self.say(f"{self.head}: {cell.id}: {text.strip().splitlines()[-1][:110]}")
        return super().process_message(msg, cell, cell_index)
