"""Tracks to turn, events to hover (Plotly), each beside its still twin."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cellfm_nb.view import plots
from cellfm_nb.view.canvas import positions
from cellfm_nb.view.explore import LOOK, Interactive, even
from cellfm_nb.view.lineage import lineage, lineage_figure
from cellfm_nb.view.marks import thinned
from cellfm_nb.view.style import BLUE, GREY, VERMILION, track_colour

MAX_3D = 6_000  # points that turn smoothly on a laptop
CAMERA = {"eye": {"x": 1.65, "y": 1.65, "z": 1.1}, "center": {"x": 0, "y": 0, "z": -0.2}}  # centred, titles whole


def tracks_3d(tracks: pd.DataFrame, spacing_um: Sequence[float], volume: Any = None) -> Interactive:
    """Draw tracks in space, in um, coloured by track; hovering tells track and frame.

    tracks: columns track_id, frame, z, y, x (voxels). volume: what the still twin draws them on.
    Above MAX_3D points whole tracks are left out, evenly, and the title says so.
    """
    import plotly.graph_objects as go

    shown, told = thinned(tracks, MAX_3D)
    return Interactive(go.Figure(path_trace(shown, spacing_um)[0], layout=scene(told)),
                       plots.tracks(tracks, spacing_um, volume))


def path_trace(tracks: pd.DataFrame, spacing_um: Sequence[float]) -> tuple[Any, np.ndarray]:
    """Return a 3D trace of all tracks, broken between tracks, and the row of the table each of its points shows.

    The rows are labels of the table's index; -1 where a line breaks.
    """
    import plotly.graph_objects as go

    order = tracks.sort_values(["track_id", "frame"])
    ids = order["track_id"].to_numpy()
    ends = np.flatnonzero(np.diff(ids)) + 1  # a gap goes in where the next track begins
    at = np.insert(positions(order) * np.asarray(spacing_um, float), ends, np.nan, axis=0)
    rows = np.insert(order.index.to_numpy(), ends, -1)
    colours = np.insert(np.array([track_colour(k) for k in ids], dtype=object), ends, GREY)
    texts = [f"track {k}, frame {f}" for k, f in zip(ids, order["frame"], strict=True)]
    text = np.insert(np.array(texts, dtype=object), ends, "")
    trace = go.Scatter3d(x=at[:, 2], y=at[:, 1], z=at[:, 0], mode="lines+markers", text=text, hoverinfo="text",
                         line={"color": list(colours), "width": 3}, marker={"color": list(colours), "size": 3})
    return trace, rows


def scene(told: str = "") -> dict[str, Any]:
    """Return the layout of a scene in um that keeps physical proportions."""
    axes = {f"{a}axis": {"title": f"{a} (µm)"} for a in "xyz"}
    axes["yaxis"]["autorange"] = "reversed"  # y runs down, as in every other picture
    return {**LOOK, "height": 480, "margin": {"l": 0, "r": 0, "t": 30, "b": 0}, "title": told,
            "scene": {"aspectmode": "data", "camera": CAMERA, **axes},
            "showlegend": False}


def timeline(events: pd.DataFrame, truth: pd.DataFrame | None = None) -> Interactive:
    """Draw when fissions and fusions happen; hovering tells parents, children and score.

    events, truth: columns kind ("split" or "merge"), frame, and parents, children, score, status where known.
    """
    import plotly.graph_objects as go

    figure = go.Figure(layout={**LOOK, "height": 260, "xaxis_title": "frame"})
    for who, table in {"true": truth, "found": events}.items():
        for kind, colour, symbol in (("merge", VERMILION, "triangle-up"), ("split", BLUE, "triangle-down")):
            if table is None:
                continue
            rows = table[table["kind"] == kind] if len(table) else table
            rows = rows.iloc[even(len(rows))]
            told = [", ".join(f"{name} {getattr(row, name)}" for name in ("parents", "children", "score", "status")
                              if hasattr(row, name)) for row in rows.itertuples()]
            figure.add_trace(go.Scatter(x=list(rows["frame"]) if len(rows) else [], text=told, mode="markers",
                                        y=[f"{kind}, {who}"] * len(rows), name=f"{kind}, {who} ({len(rows)})",
                                        marker={"color": colour, "symbol": symbol, "size": 11}))
    return Interactive(figure, plots.timeline(events, truth))


def lineages(tracks: pd.DataFrame, events: pd.DataFrame) -> Interactive:
    """Draw families of tracks over time; hovering tells the track. What is left out is said in the title."""
    import plotly.graph_objects as go

    tree = lineage(tracks, events)
    s, j = tree.spans, tree.joins
    figure = go.Figure(layout={**LOOK, "height": int(160 + 9 * len(s)), "xaxis_title": "frame", "title": tree.told,
                               "showlegend": False})
    gap = np.full(len(j), np.nan)
    figure.add_trace(go.Scatter(x=np.column_stack([j["x0"], j["x1"], gap]).ravel(), mode="lines", hoverinfo="skip",
                                y=np.column_stack([j["y0"], j["y1"], gap]).ravel(), line={"color": GREY, "width": 1}))
    for row in s.itertuples():
        figure.add_trace(go.Scatter(x=[row.first, row.last], y=[row.height] * 2, text=f"track {row.track_id}",
                                    hoverinfo="text+x", mode="lines+markers", marker={"size": 5},
                                    line={"color": track_colour(row.track_id), "width": 3}))
    figure.update_yaxes(autorange="reversed", visible=False)
    return Interactive(figure, lineage_figure(tracks, events))
