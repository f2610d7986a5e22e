"""Watch training while it runs: curves redrawn in place, every few seconds, never at its expense."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cellfm_nb.view import plots
from cellfm_nb.view.where import headless

MAX_DRAWN = 500  # points per curve; more can't be told apart on a screen


class LiveCurves:
    """Collect numbers step by step and keep one picture of them up to date.

    Hand the object itself to a training loop as its callback: live(step, loss=..., rank=...).
    Headless it only collects, and the picture comes from `figure()` at the end.
    ys: the numbers to draw, by name (default: all). every_s: seconds between two pictures.
    """

    fingerprint = "live view"  # watching is no input of the work watched: nothing is made again for it

    def __init__(self, ys: Sequence[str] | None = None, xlabel: str = "step", ylabel: str = "",
                 log: bool = False, every_s: float = 3.0) -> None:
        self.ys, self.xlabel, self.ylabel, self.log, self.every_s = ys, xlabel, ylabel, log, every_s
        self.rows: list[dict[str, float]] = []
        self._handle: Any = None
        self._next = time.monotonic() + every_s
        self._quiet = headless()

    def __call__(self, step: int, **numbers: float) -> None:
        """Add the numbers of one step; redraw if it is time."""
        self.rows.append({self.xlabel: step, **{k: float(v) for k, v in numbers.items()}})
        if not self._quiet and time.monotonic() >= self._next:
            self._redraw()

    @property
    def table(self) -> pd.DataFrame:
        """All numbers so far, one row per step."""
        return pd.DataFrame(self.rows)

    def figure(self) -> Figure:
        """Draw what there is; long curves are thinned evenly."""
        table = self.table
        if len(table) > MAX_DRAWN:
            table = table.iloc[np.linspace(0, len(table) - 1, MAX_DRAWN).astype(int)]
        ys = list(self.ys or [c for c in table.columns if c != self.xlabel])
        return plots.curves(table, self.xlabel, ys, xlabel=self.xlabel, ylabel=self.ylabel, log=self.log)

    def close(self) -> Figure:
        """Take the moving picture away and return the final one."""
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)
            self._handle = None
        self._quiet = True
        return self.figure()

    def _redraw(self) -> None:
        from IPython.display import DisplayHandle

        start = time.monotonic()
        png = {"image/png": self.figure()._repr_png_(), "text/plain": "learning curves"}
        if self._handle is None:
            self._handle = DisplayHandle()
            self._handle.display(png, raw=True)
        else:
            self._handle.update(png, raw=True)  # the same output, the same size: nothing jumps
        now = time.monotonic()
        self._next = now + max(self.every_s, 20 * (now - start))  # at most 5 % of the time goes into looking
