"""Progress that works in a notebook, in a terminal and headless: done, time left, peak memory, a few numbers.

In a kernel one display is updated in place, so an executed notebook keeps a single line; `cellfm run` relays that
line to the terminal. Elsewhere a line is printed to stderr at most every few seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
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

    def __init__(self, total: int | None, what: str, done: int = 0, every_s: float = 1.0) -> None:
        self.total, self.what, self.done, self.every_s = total, what, done, every_s
        self._first, self._start, self._shown, self._handle = done, time.monotonic(), 0.0, None

    def step(self, n: int = 1, **numbers: float) -> None:
        """Count n steps more, and show the numbers given beside the time left."""
        self.done += n
        if time.monotonic() - self._shown >= self.every_s:
            self._show(self._line(numbers))

    def close(self, **numbers: float) -> None:
        """Show the final state."""
        self._show(self._line(numbers, closing=True))

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

    def _show(self, line: str) -> None:
        self._shown = time.monotonic()
        if _in_kernel():
            from IPython.display import DisplayHandle

            if self._handle is None:
                self._handle = DisplayHandle()
                self._handle.display({"text/plain": line}, raw=True)
            else:
                self._handle.update({"text/plain": line}, raw=True)
        else:
            print(line, file=sys.stderr, flush=True)


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
