"""Tracks and points as neuroglancer annotations: the objects of a frame, and the paths of all frames in space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cellfm_nb.view.canvas import positions
from cellfm_nb.view.style import track_colour

MAX_MARKS = 3_000  # the viewer's page gets all of them again with every move: more make it slow
# Rings, so that what they mark is seen within them.
COLOUR = ("void main() { setColor(vec4(prop_color(), 0.0)); setPointMarkerSize(11.0); "
          "setPointMarkerBorderWidth(2.0); setPointMarkerBorderColor(vec4(prop_color(), 1.0)); }")
POINT = ("void main() { setColor(vec4(1.0, 1.0, 0.0, 0.0)); setPointMarkerSize(11.0); "
         "setPointMarkerBorderWidth(2.0); setPointMarkerBorderColor(vec4(1.0, 1.0, 0.0, 1.0)); }")
LINE = "void main() { setColor(prop_color()); setLineWidth(2.0); setEndpointMarkerSize(0.0); }"
RING = ('void main() { setColor(vec4(1.0, 1.0, 1.0, 0.0)); setPointMarkerSize(22.0); '
        'setPointMarkerBorderWidth(3.0); setPointMarkerBorderColor(vec4(1.0, 1.0, 1.0, 1.0)); }')


def thinned(tracks: pd.DataFrame, most: int = MAX_MARKS) -> tuple[pd.DataFrame, str]:
    """Keep whole tracks, evenly over their ids, until `most` rows; return them and what to say about it ("" if all).

    tracks: columns track_id, frame, ...
    """
    if len(tracks) <= most:
        return tracks, ""
    lengths = tracks.groupby("track_id").size()
    keep = max(1, int(len(lengths) * most / len(tracks)))
    ids = lengths.index[np.linspace(0, len(lengths) - 1, keep).round().astype(int)]
    return tracks[tracks["track_id"].isin(ids)], f"{keep:,} of {len(lengths):,} tracks"


def point_layer(points: pd.DataFrame | np.ndarray, space: Any) -> Any:
    """Make a layer of points at voxel positions z, y, x; with `frame` and a space of four axes, each in its frame."""
    import neuroglancer as ng

    at = positions(points)[:MAX_MARKS] + 0.5  # + 0.5: the centre of the voxel
    if len(space.names) == 4:
        frames = points["frame"].to_numpy(float)[:MAX_MARKS] if framed(points) else np.zeros(len(at))
        at = np.column_stack([frames + 0.5, at])
    marks = [ng.PointAnnotation(id=str(i), point=p.tolist()) for i, p in enumerate(at)]
    return ng.LocalAnnotationLayer(space, annotations=marks, shader=POINT)


def object_layer(tracks: pd.DataFrame, space: Any) -> Any:
    """Make a layer of the objects of each frame (t, z, y, x), coloured by track: those of the frame shown are seen."""
    import neuroglancer as ng

    at = np.column_stack([tracks["frame"], positions(tracks)]) + 0.5
    marks = [ng.PointAnnotation(id=f"p{i}", point=p.tolist(), props=[track_colour(k)], description=f"track {k}")
             for i, (p, k) in enumerate(zip(at, tracks["track_id"], strict=True))]
    return ng.LocalAnnotationLayer(space, annotations=marks, annotation_properties=coloured(), shader=COLOUR)


def path_layer(tracks: pd.DataFrame, space: Any) -> Any:
    """Make a layer of the steps of all tracks in space (z, y, x), coloured by track, seen at every time."""
    import neuroglancer as ng

    marks = []
    for k, rows in tracks.sort_values(["track_id", "frame"]).groupby("track_id"):
        at = (positions(rows) + 0.5).tolist()
        marks += [ng.LineAnnotation(id=f"l{k}-{i}", point_a=a, point_b=b, props=[track_colour(k)])
                  for i, (a, b) in enumerate(zip(at[:-1], at[1:], strict=True))]
    return ng.LocalAnnotationLayer(space, annotations=marks, annotation_properties=coloured(), shader=LINE)


def ring_layer(position: Sequence[float], space: Any) -> Any:
    """Make a layer that rings one position, given in the axes of the space."""
    import neuroglancer as ng

    mark = ng.PointAnnotation(id="chosen", point=[float(p) for p in position])
    return ng.LocalAnnotationLayer(space, annotations=[mark], shader=RING)


def coloured() -> list[Any]:
    import neuroglancer as ng

    return [ng.AnnotationPropertySpec(id="color", type="rgb", default="#ffffff")]


def framed(points: Any) -> bool:
    """Say whether these are a table that tells the frame of each point."""
    return isinstance(points, pd.DataFrame) and "frame" in points
