"""Charts to hover, zoom and turn (Plotly), each beside its still twin: what is counted and compared."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cellfm_nb.view import plots
from cellfm_nb.view.charts import MAX_POINTS, common_bins, cycle, finite_of
from cellfm_nb.view.style import BLUE, Picture, contrast
from cellfm_nb.view.where import headless

LOOK = {"template": "simple_white", "height": 380, "margin": {"l": 60, "r": 20, "t": 40, "b": 50}}
BELOW = 0.1  # what an empty bin counts on a logarithmic axis, which shows counts from 0.7
MIME = "application/vnd.plotly.v1+json"


class Interactive:
    """A Plotly figure and its still twin in one output: a notebook shows the first, a page and a batch run the second.

    figure: the plotly Figure. still: the same as a `Picture`; where nobody looks only this is kept.
    """

    def __init__(self, figure: Any, still: Picture) -> None:
        self.figure, self.still = figure, still

    @property
    def fingerprint(self) -> str:
        """Equal still pictures are the same input to the workspace."""
        return self.still.fingerprint

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        png = self.still._repr_png_()
        if headless():
            return {"image/png": base64.b64encode(png).decode(), "text/plain": "a chart"}
        # As JPEG, for exported pages alone: of a bundle with a PNG, Plotly's renderer shows the PNG.
        return {MIME: json.loads(self.figure.to_json()), "image/jpeg": base64.b64encode(as_jpeg(png)).decode(),
                "text/plain": "a chart"}


def histogram(values: dict[str, np.ndarray], xlabel: str, log: bool = True,
              lines: dict[str, float] | None = None) -> Interactive:
    """Compare distributions on common bins; counted here, so that the page carries bins and not values.

    values: name -> numbers of any shape. log: counts on a logarithmic axis. lines: name -> place of a vertical line.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout={**LOOK, "xaxis_title": xlabel, "yaxis_title": "count"})
    finite = {name: finite_of(v) for name, v in values.items()}
    everything = np.concatenate([v for v in finite.values()] or [np.empty(0)])
    bins = common_bins(everything) if everything.size else np.array([0.0, 1.0])
    most = 1.0
    for (name, v), colour in zip(finite.items(), cycle(len(finite)), strict=True):
        counts = np.histogram(v, bins)[0].astype(float)
        most = max(most, counts.max())
        counts[counts == 0] = BELOW if log else 0
        figure.add_trace(go.Scatter(x=(bins[:-1] + bins[1:]) / 2, y=counts, name=f"{name} (n = {v.size:,})",
                                    mode="lines", line={"shape": "hvh", "color": colour}))
    for name, at in (lines or {}).items():
        figure.add_vline(at, line_dash="dash", annotation_text=f"{name} = {at:.4g}")
    if log:  # an empty bin lies below the axis, so that a bin of one object beside it still stands up
        figure.update_yaxes(type="log", dtick="D2", range=[np.log10(0.7), np.log10(1.5 * most)])
    return Interactive(figure, plots.histogram(values, xlabel, log, lines))


def curves(table: pd.DataFrame, x: str, ys: Sequence[str], xlabel: str = "", ylabel: str = "",
           log: bool | str = False) -> Interactive:
    """Draw columns of a table against another: scores against SNR or density, losses against steps.

    x, ys: column names. log: True for a logarithmic y axis; "x", "y" or "xy" names the axes.
    """
    import plotly.graph_objects as go

    axes = "y" if log is True else log or ""
    figure = go.Figure(layout={**LOOK, "xaxis_title": xlabel or x, "yaxis_title": ylabel, "hovermode": "x unified"})
    present = [y for y in ys if y in table]
    for y, colour in zip(present, cycle(len(present)), strict=True):
        rows = table[[x, y]].apply(pd.to_numeric, errors="coerce").dropna()
        rows = rows.iloc[even(len(rows))]
        figure.add_trace(go.Scatter(x=rows[x], y=rows[y], name=y, line={"color": colour},
                                    mode="lines+markers" if len(rows) < 30 else "lines"))
    figure.update_xaxes(type="log" if "x" in axes else "linear")
    figure.update_yaxes(type="log" if "y" in axes else "linear")
    return Interactive(figure, plots.curves(table, x, ys, xlabel=xlabel, ylabel=ylabel, log=log))


def scatter(x: Any, y: Any, c: Any = None, names: Sequence[str] | None = None, xlabel: str = "",
            ylabel: str = "") -> Interactive:
    """Draw points, coloured by a number each if `c` is given; hovering tells `names`.

    Above MAX_POINTS an even subset is drawn, and the title says so.
    """
    import plotly.graph_objects as go

    x, y = (np.ravel(np.asarray(v, float)) for v in (x, y))
    keep = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    shown = keep[even(len(keep))]
    title = f"{len(shown):,} of {len(keep):,} points shown" if len(shown) < len(keep) else ""
    marker: dict[str, Any] = {"size": 5, "opacity": 0.8, "color": BLUE}
    if c is not None:
        colour = np.ravel(np.asarray(c, float))[shown]
        low, high = contrast(colour, (1, 99))
        marker |= {"color": colour, "colorscale": "Viridis", "cmin": low, "cmax": high, "showscale": True}
    text = None if names is None else np.asarray(names)[shown]
    figure = go.Figure(go.Scattergl(x=x[shown], y=y[shown], mode="markers", marker=marker, text=text),
                       layout={**LOOK, "xaxis_title": xlabel, "yaxis_title": ylabel, "title": title})
    return Interactive(figure, plots.scatter(x, y, c, xlabel, ylabel))


def rgb_slices(volumes: dict[str, np.ndarray], spacing_um: Sequence[float], z: int | None = None) -> Interactive:
    """Show the planes of volumes whose colours are features, side by side, with a slider for z.

    volumes: name -> (z, y, x, 3) floats in 0..1, all of one shape. spacing_um: (z, y, x) of their tokens. z: the
    plane to begin with, the middle one by default.
    """
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    names, n = list(volumes), len(next(iter(volumes.values())))
    start = n // 2 if z is None else z
    figure = make_subplots(1, len(names), subplot_titles=names, horizontal_spacing=0.02)
    dz, dy, dx = map(float, spacing_um)
    for k in range(n):
        for column, name in enumerate(names, 1):
            figure.add_trace(go.Image(source=data_uri(volumes[name][k]), dx=dx, dy=dy, visible=k == start,
                                      hoverinfo="skip"), 1, column)
    steps = [{"method": "restyle", "label": f"{k * dz:.2f}",
              "args": [{"visible": [t // len(names) == k for t in range(n * len(names))]}]} for k in range(n)]
    slider = {"active": start, "steps": steps, "currentvalue": {"prefix": "z (µm): "}}
    figure.update_layout(**{**LOOK, "sliders": [slider]})
    figure.update_xaxes(visible=False).update_yaxes(visible=False)
    still = plots.rgb_planes([volumes[name][start] for name in names], names, spacing_um)
    return Interactive(figure, still)


def as_jpeg(png: bytes) -> bytes:
    """Return a PNG as JPEG, on white."""
    from PIL import Image

    stream = io.BytesIO()
    Image.open(io.BytesIO(png)).convert("RGB").save(stream, "JPEG", quality=90)
    return stream.getvalue()


def even(n: int, most: int = MAX_POINTS) -> np.ndarray:
    """Return at most `most` of the indices 0 .. n - 1, evenly spread."""
    return np.arange(n) if n <= most else np.linspace(0, n - 1, most).astype(int)


def data_uri(rgb: np.ndarray) -> str:
    """Return an image (y, x, 3), floats in 0..1, as the address of a PNG that carries its own data."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray((255 * np.clip(np.nan_to_num(rgb), 0, 1)).astype(np.uint8)).save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
