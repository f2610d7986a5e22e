"""Watch training while it runs: curves that grow in place, every few seconds, never at its expense."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from cellfm_nb.view import plots
from cellfm_nb.view.charts import cycle
from cellfm_nb.view.explore import LOOK, even
from cellfm_nb.view.where import headless

MAX_DRAWN = 500  # points per curve; more can't be told apart on a screen
HEALTH = (("rankme",), ("entropy_patch", "probe_ap", "knn_ap"))  # of training: each group has its own scale


class LiveCurves:
    """Collect numbers step by step and keep one picture of them up to date.

    Hand the object itself to a training loop as its callback: live(step, loss=..., rank=...).
    Headless it only collects, and the picture comes from `figure()` at the end.
    ys: the numbers to draw, by name (default: all). every_s: seconds between two pictures.
    health: further numbers, drawn beneath where they come, one panel for each group of names.
    """

    fingerprint = "live view"  # watching is no input of the work watched: nothing is made again for it

    def __init__(self, ys: Sequence[str] | None = None, xlabel: str = "step", ylabel: str = "",
                 log: bool = False, every_s: float = 3.0, health: Sequence[Sequence[str]] = HEALTH) -> None:
        self.ys, self.xlabel, self.ylabel, self.log, self.every_s = ys, xlabel, ylabel, log, every_s
        self.health = health
        self.rows: list[dict[str, float]] = []
        self._handle: Any = None
        self._chart: Any = None  # the Plotly widget, where there is one; else pictures replace each other
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

    def drawn(self) -> tuple[pd.DataFrame, list[str]]:
        """Return the rows that are drawn, of long curves an even subset, and the names of the curves."""
        table = self.table
        table = table.iloc[even(len(table), MAX_DRAWN)]
        return table, list(self.ys or [c for c in table.columns if c != self.xlabel])

    def figure(self) -> Figure:
        """Draw what there is as a still picture."""
        table, ys = self.drawn()
        return plots.curves(table, self.xlabel, ys, xlabel=self.xlabel, ylabel=self.ylabel, log=self.log)

    def close(self) -> Figure:
        """Take the moving picture away and return the final one."""
        if self._handle is not None:
            self._handle.update({"text/plain": ""}, raw=True)
            self._handle = None
        if self._chart is not None:
            self._chart.close()
        self._quiet = True
        return self.figure()

    def _redraw(self) -> None:
        start, first = time.thread_time(), self._handle is None  # on a busy machine waiting is not looking
        if first:
            self._show()
        elif self._chart is not None:
            self._grow()
        else:
            self._handle.update(self._still(), raw=True)  # the same output, the same size: nothing jumps
        spent = 0 if first else time.thread_time() - start  # the first also loads Plotly, once
        self._next = time.monotonic() + max(self.every_s, 20 * spent)  # at most 5 % of the time goes into looking

    def _show(self) -> None:
        from IPython.display import DisplayHandle

        self._handle = DisplayHandle()
        if importlib.util.find_spec("plotly") and importlib.util.find_spec("anywidget"):
            self._chart = self._empty_chart()
            self._grow()
            self._handle.display(self._chart._repr_mimebundle_(), raw=True)
        else:
            self._handle.display(self._still(), raw=True)

    def _panels(self) -> list[list[str]]:
        """Return the names of the curves of each panel: those asked for, then the health that there is."""
        ys, known = self.drawn()[1], set(self.table.columns)
        return [[y for y in ys if y in known]] + [list(g) for g in self.health if self.ys and known & set(g)]

    def _empty_chart(self) -> Any:
        from plotly.subplots import make_subplots

        from cellfm_nb.view.chart import Chart

        panels = self._panels()
        chart = Chart(make_subplots(len(panels), 1, shared_xaxes=True, vertical_spacing=0.04))
        colours = iter(cycle(sum(map(len, panels))))  # one legend for all panels: no colour twice
        for row, names in enumerate(panels, 1):
            for name in names:  # with points: a health of every tenth step begins as one
                chart.add_scatter(name=name, mode="lines+markers", line={"color": next(colours)}, marker={"size": 4},
                                  connectgaps=True, row=row, col=1)
            chart.update_yaxes(title="<br>".join(names), row=row)
        chart.update_layout(**{**LOOK, "height": 240 + 140 * len(panels), "hovermode": "x unified"})
        chart.update_yaxes(title=self.ylabel or panels[0][0], type="log" if self.log else "linear", row=1)
        chart.update_xaxes(title=self.xlabel, row=len(panels))
        return chart

    def _grow(self) -> None:
        """Hand the chart the curves as they are now, in one message: nothing is drawn anew, nothing jumps."""
        table = self.drawn()[0].apply(pd.to_numeric, errors="coerce")
        with self._chart.batch_update():
            for trace in self._chart.data:
                if trace.name in table:
                    trace.x, trace.y = table[self.xlabel].to_numpy(), table[trace.name].to_numpy()

    def _still(self) -> dict[str, Any]:
        return {"image/png": self.figure()._repr_png_(), "text/plain": "learning curves"}
