"""Linked views: a track clicked in the chart or a row of the table moves the 3D viewer, and the viewer chooses back."""

from __future__ import annotations

import asyncio
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cellfm_nb.view.explore_tracks import MAX_3D, path_trace, scene
from cellfm_nb.view.marks import ring_layer, thinned
from cellfm_nb.view.selection import Selection
from cellfm_nb.view.style import BLACK
from cellfm_nb.view.volume import as_array, embed, kind, open_viewer, space, static
from cellfm_nb.view.where import headless

CHART_PX = 460  # half a notebook's page
MAX_ROWS = 2_000  # lines of the table: more are slow to scroll
SETTLED_S = 0.25  # the viewer has stopped moving for so long before anything is chosen


class LinkedView:
    """Show a movie, its tracks in 3D and their table, one selection in all three.

    `selection` is the model (see `Selection`), `viewer` neuroglancer's, `figure` the Plotly widget, `table` the rows;
    made by `linked_view`. All views are told on the kernel's own thread, so nothing changes within a running cell.
    """

    def __init__(self, layers: Mapping[str, Any], tracks: pd.DataFrame, spacing_um: Sequence[float], dt_s: float = 1.0,
                 kinds: Mapping[str, str] | None = None, height_px: int = 520) -> None:
        self.selection = Selection(tracks, spacing_um)
        self.spacing_um, self.dt_s = spacing_um, dt_s
        kinds = {name: (kinds or {}).get(name, kind(data)) for name, data in layers.items()}
        self.viewer = open_viewer(layers, spacing_um, None, dt_s, kinds, tracks=self.selection.tracks)
        self.figure, self.point_rows = self._chart()
        self.table = self._table()
        self._loop, self._timer, self._seen = asyncio.get_event_loop(), None, self._position()
        self.viewer.shared_state.add_changed_callback(lambda: self._loop.call_soon_threadsafe(self._stirred))
        self.selection.subscribe("viewer", self._go)
        self.selection.subscribe("chart", self._mark)
        self.selection.subscribe("table", lambda row: setattr(self.table, "row", row))
        self.box = self._box(height_px)
        self.selection.subscribe("text", lambda row: setattr(self.line, "value", html.escape(self.selection.text())))

    def _chart(self) -> tuple[Any, np.ndarray]:
        import plotly.graph_objects as go

        from cellfm_nb.view.chart import Chart

        shown, told = thinned(self.selection.tracks, MAX_3D)
        paths, rows = path_trace(shown, self.spacing_um)
        ring = go.Scatter3d(x=[], y=[], z=[], mode="markers", hoverinfo="skip",
                            marker={"size": 12, "color": BLACK, "symbol": "circle-open"})
        figure = Chart([paths, ring], layout={**scene(told), "height": 430, "width": CHART_PX})
        figure.data[0].on_click(lambda trace, points, state: self._clicked(points.point_inds))
        return figure, rows

    def _clicked(self, points: Sequence[int]) -> None:
        if points and (row := int(self.point_rows[points[0]])) >= 0:
            self._mark(row)
            self.selection.select(row, by="chart")

    def _table(self) -> Any:
        from cellfm_nb.view.table import RowTable

        shown, self._told = thinned(self.selection.tracks, MAX_ROWS)
        shown = shown.sort_values(["track_id", "frame"])
        names = [n for n in ("track_id", "frame", "z_um", "y_um", "x_um", "z", "y", "x", "mass", "score") if n in shown]
        if "z_um" in names:
            names = [n for n in names if n not in ("z", "y", "x")]
        return RowTable.of(shown, names, lambda row: self.selection.select(row, by="table"))

    def _box(self, height_px: int) -> Any:
        import ipywidgets as w

        self.line = w.HTML(self.selection.text())
        told = w.HTML(f"Table: {self._told}" if self._told else "")
        beside = w.VBox([self.table, told], layout={"flex": "1 1 0", "min_width": "0"})
        return w.VBox([w.HTML(embed(self.viewer, height_px)), self.line, w.HBox([self.figure, beside])])

    def _position(self) -> tuple[float, ...]:
        return tuple(self.viewer.shared_state.raw_state.get("position", ()))

    def _go(self, row: int) -> None:
        """Move the viewer to a row, in space and in time."""
        at = [self.selection.frames[row] + 0.5, *(self.selection.at[row] + 0.5)]
        with self.viewer.txn() as state:
            state.position = at
            state.layers["chosen"] = ring_layer(at, space(4, self.spacing_um, self.dt_s))
        self._seen = self._position()

    def _mark(self, row: int) -> None:
        """Ring a row in the chart."""
        z, y, x = self.selection.at[row] * np.asarray(self.spacing_um, float)
        self.figure.data[1].update(x=[x], y=[y], z=[z])

    def _stirred(self) -> None:
        """Wait until the viewer stands still (its state changes many times a second while it is dragged)."""
        if self._timer:
            self._timer.cancel()
        self._timer = self._loop.call_later(SETTLED_S, self._settled)

    def _settled(self) -> None:
        """Choose the object nearest to where the viewer came to rest; a zoom or a turn chooses nothing."""
        if (at := self._position()) == self._seen or len(at) != 4:
            return
        self._seen = at
        row = self.selection.select_nearest(int(np.floor(at[0])), np.subtract(at[1:], 0.5), by="viewer")
        if row is not None:
            ring = ring_layer([self.selection.frames[row] + 0.5, *(self.selection.at[row] + 0.5)],
                              space(4, self.spacing_um, self.dt_s))
            with self.viewer.txn() as state:
                state.layers["chosen"] = ring


def linked_view(layers: Mapping[str, Any], tracks: pd.DataFrame, spacing_um: Sequence[float], dt_s: float = 1.0,
                kinds: Mapping[str, str] | None = None, height_px: int = 520) -> Figure:
    """Show volumes, tracks and their table linked both ways, above a still picture; headless, only the picture.

    Parameters: layers, spacing_um, dt_s, kinds, as of `show_volume`; tracks, columns track_id, frame, z, y, x (voxels)
    and whatever else is worth reading in a table (z_um, y_um, x_um, mass, score).
    Returns the still picture. Never waits for a browser. Raises InputError where `tracks` is no track table, or empty.
    """
    layers = {name: as_array(data) for name, data in layers.items()}
    if headless():
        Selection(tracks, spacing_um)  # what a reader would be told, a batch run is told too
    else:
        from IPython.display import display

        display(LinkedView(layers, tracks, spacing_um, dt_s, kinds, height_px).box)
    return static(layers, spacing_um, tracks, {name: (kinds or {}).get(name, kind(d)) for name, d in layers.items()})
