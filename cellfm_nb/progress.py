"""Progress that works in a notebook, in a terminal and headless: done, time left, peak memory, a few numbers.

In a kernel one display is updated in place, a bar over a line while the work goes on and the line alone when it is
done, so an executed notebook keeps a single line; `cellfm run` relays it to the terminal. Elsewhere a line is printed
to stderr at most every few seconds. `track` and `Progress` count steps; `busy` stands in for work that counts none.
"""

from __future__ import annotations

import contextvars
import html
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")


def peak_mib() -> float:
    """Return the peak resident memory of this process in MiB."""
    try:
        import resource
    except ImportError:  # Windows has no resource module
        import psutil

        return psutil.Process().memory_info().peak_wset / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def clock(seconds: float) -> str:
    """Format a duration: '0.4 s', '42 s', '3 min 05 s', '2 h 10 min'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    if seconds < 3600:
        return f"{int(seconds // 60)} min {int(seconds % 60):02d} s"
    return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60):02d} min"


def _in_kernel() -> bool:
    shell = sys.modules.get("IPython")  # never imported here: the science runs without Jupyter
    shell = shell.get_ipython() if shell else None
    return shell is not None and hasattr(shell, "kernel")


class Progress:
    """Show how far a long piece of work is.

    Parameters: total, number of steps (None when unknown); what, a short name; done, steps already there when work
    resumes (they do not count for the time left); every_s, seconds between two updates.
    """

    last_shown = float("-inf")  # when any progress was shown last: one line at a time is enough

    def __init__(self, total: int | None, what: str, done: int = 0, every_s: float = 1.0) -> None:
        self.total, self.what, self.done, self.every_s = total, what, done, every_s
        self._first, self._start, self._shown, self._handle = done, time.monotonic(), 0.0, None

    def step(self, n: int = 1, **numbers: float) -> None:
        """Count n steps more, and show the numbers given beside the time left."""
        self.done += n
        if time.monotonic() - self._shown >= self.every_s:
            self._show(self._line(numbers), self.done / self.total if self.total else None)

    def close(self, **numbers: float) -> None:
        """Show the final state."""
        self._show(self._line(numbers, closing=True), None)

    def _line(self, numbers: dict[str, float], closing: bool = False) -> str:
        spent = time.monotonic() - self._start
        count = f"{self.done}/{self.total}" if self.total else f"{self.done}"
        new = self.done - self._first
        if closing:
            pace = f"done in {clock(spent)}"
        elif self.total and new > 0:
            pace = f"{clock(spent / new * (self.total - self.done))} left"
        else:
            pace = f"{clock(spent)} so far"
        extra = "".join(f", {name} {value:.4g}" for name, value in numbers.items())
        return f"{self.what}: {count}, {pace}, peak {peak_mib():.0f} MiB{extra}"

    def _show(self, line: str, share: float | None) -> None:
        self._shown = Progress.last_shown = time.monotonic()
        if _in_kernel():
            from IPython.display import DisplayHandle

            data = {"text/plain": line} | ({} if share is None else {"text/html": bar_of(share, line)})
            if self._handle is None:
                self._handle = DisplayHandle()
                self._handle.display(data, raw=True)
            else:
                self._handle.update(data, raw=True)
        else:
            print(line, file=sys.stderr, flush=True)


def bar_of(share: float, line: str) -> str:
    """Return a bar filled to a share in 0..1 above a line of text, as HTML."""
    percent = round(100 * min(max(share, 0.0), 1.0))
    return (f'<div style="width:24em;background:#dfe3e8"><div style="width:{percent}%;height:.5em;background:#0072B2">'
            f"</div></div><div>{html.escape(line)}</div>")


@contextmanager
def busy(what: str, expected_s: float | None = None, after_s: float = 3.0) -> Iterator[None]:
    """Say that a piece of work that counts no steps still goes on, how long it may take, and its peak memory.

    Parameters: what, a short name; expected_s, how long it took the last time (None: unknown); after_s, seconds
    before anything is said. It is silent while the work shows its own progress, and after a failure.
    """
    bar = Progress(None, what)
    done, every_s = threading.Event(), 1.0 if _in_kernel() else 10.0

    def beat() -> None:
        wait = after_s
        while not done.wait(wait):
            wait = every_s
            if bar._handle is None and time.monotonic() - Progress.last_shown < max(6, every_s):
                continue  # the work speaks for itself
            spent = time.monotonic() - bar._start
            left = f"about {clock(max(expected_s - spent, 0))} left" if expected_s else f"{clock(spent)} so far"
            share = min(spent / expected_s, 0.99) if expected_s else None
            bar._show(f"{what}: {left}, peak {peak_mib():.0f} MiB", share)
            bar.done += 1

    beating = threading.Thread(target=contextvars.copy_context().run, args=(beat,), daemon=True)  # the cell's output
    beating.start()
    try:
        yield
    except BaseException:
        done.set()
        raise
    done.set()
    beating.join()
    if bar.done:
        bar._show(f"{what}: done in {clock(time.monotonic() - bar._start)}, peak {peak_mib():.0f} MiB", None)


def track(iterable: Iterable[T], what: str, total: int | None = None, done: int = 0) -> Iterator[T]:
    """Iterate while showing progress (see `Progress`); total is len(iterable) where it has one."""
    total = total if total is not None else (len(iterable) if hasattr(iterable, "__len__") else None)
    bar = Progress(total, what, done=done, every_s=1.0 if _in_kernel() else 10.0)
    try:
        for item in iterable:
            yield item
            bar.step()
    finally:
        bar.close()
