"""Look around in a volume: a neuroglancer viewer where a browser can reach one, a static picture always."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from cellfm_nb.movie import Movie
from cellfm_nb.view import plots
from cellfm_nb.view.canvas import positions
from cellfm_nb.view.lazy import Channel, display_range, frame_of, overview
from cellfm_nb.view.marks import framed, object_layer, path_layer, point_layer, thinned
from cellfm_nb.view.where import address, has_proxy, headless, place, running_servers

SHADER = "#uicontrol invlerp contrast\nvoid main() { emitGrayscale(contrast()); }"
PANEL_PX = 210  # a panel is at least so high when a notebook opens: the whole volume fits in
# A viewer out of sight would draw on, sixty times a second, into nothing: its next picture waits until it is seen.
REST = ("try { const page = this.contentWindow, draw = page.requestAnimationFrame.bind(page), waiting = []; "
        "let seen = true; page.requestAnimationFrame = (f) => seen ? draw(f) : waiting.push(f); "
        "new IntersectionObserver((all) => { seen = all.at(-1).isIntersecting; "
        "if (seen) waiting.splice(0).forEach((f) => draw(f)); }).observe(this); } catch {}")
_viewers: list[Any] = []


def show_volume(
    layers: Mapping[str, Any],
    spacing_um: Sequence[float],
    points: pd.DataFrame | np.ndarray | None = None,
    dt_s: float = 1.0,
    kinds: Mapping[str, str] | None = None,
    height_px: int = 560,
    tracks: pd.DataFrame | None = None,
    spacings: Mapping[str, Sequence[float]] | None = None,
) -> Figure:
    """Open the layers in neuroglancer above a static picture of them; headless, return only the picture.

    layers: name -> (z, y, x) or (t, z, y, x) array-like (NumPy, zarr, dask) or a `Movie` (its first channel); read
    block by block while looking, so a movie larger than memory opens at once.
    spacing_um: (z, y, x) in um. spacings: name -> (z, y, x) of layers sampled otherwise. dt_s: seconds between frames.
    points: (n, 3) voxel positions z, y, x, or a table with those columns (and frame).
    tracks: columns track_id, frame, z, y, x; objects of the frame shown and paths, coloured by track.
    kinds: name -> "image" | "labels" where the type does not say it; uint32 and bool are labels, else images.
    Returns the static picture, of the first frame. Never waits for a browser.
    """
    layers = {name: as_array(data) for name, data in layers.items()}
    kinds = {name: (kinds or {}).get(name, kind(data)) for name, data in layers.items()}
    if not headless() and importlib.util.find_spec("neuroglancer"):
        from IPython.display import HTML, display

        viewer = open_viewer(layers, spacing_um, points, dt_s, kinds, tracks, spacings)
        display(HTML(embed(viewer, height_px)))
    return static(layers, spacing_um, points if tracks is None else tracks, kinds)


def close_viewers() -> None:
    """Close all viewers and their server; their addresses stop working and their arrays can be freed."""
    _viewers.clear()
    if "neuroglancer" in sys.modules:
        sys.modules["neuroglancer"].server.stop()


def kind(data: Any) -> str:
    """Say what an array holds: uint32, uint64 and bool are "labels", all else, uint16 too, an "image"."""
    return "labels" if np.dtype(data.dtype) in (np.uint32, np.uint64, np.bool_) else "image"


def static(layers: Mapping[str, Any], spacing_um: Sequence[float], points: Any,
           kinds: Mapping[str, str]) -> Figure:
    """Draw the first image with the outlines of the first labels and the points, first frame."""
    if not layers:
        return plots.ortho(np.zeros((0, 1, 1)), spacing_um)
    images = [name for name in layers if kinds[name] == "image"]
    labels = [name for name in layers if kinds[name] == "labels"]
    overlay, step = overview(frame_of(layers[labels[0]])) if labels else (None, 1)
    image, step = overview(frame_of(layers[images[0]])) if images else (np.zeros(overlay.shape, np.uint8), step)
    if overlay is not None and overlay.shape != image.shape:
        overlay = None  # sampled otherwise: the viewer aligns them, a picture of one grid can't
    if points is not None:
        points = positions(points[points["frame"] == 0] if framed(points) else points) / step
    title = " with ".join(images[:1] + labels[: overlay is not None]) + f", every {ordinal(step)} voxel" * (step > 1)
    return plots.ortho(image, np.multiply(spacing_um, step), title=title, points=points, labels=overlay)


def open_viewer(layers: Mapping[str, Any], spacing_um: Sequence[float], points: Any, dt_s: float,
                kinds: Mapping[str, str], tracks: pd.DataFrame | None = None,
                spacings: Mapping[str, Sequence[float]] | None = None) -> Any:
    """Serve the layers from this process, on 127.0.0.1 and behind a random token; return the Viewer."""
    import neuroglancer as ng

    ng.set_server_bind_address("127.0.0.1")
    viewer = ng.Viewer()
    shape = max((tuple(data.shape) for data in layers.values()), key=len, default=(1, 1, 1))
    rank = 4 if tracks is not None else len(shape)
    with viewer.txn() as state:
        state.dimensions = space(rank, spacing_um, dt_s)
        state.display_dimensions = ["x", "y", "z"]  # x to the right, y down: as in every other picture
        state.position = [0.5] * (rank - 3) + [n / 2 for n in shape[-3:]]
        extent = max(n * s for n, s in zip(shape[-3:], spacing_um, strict=True)) / min(spacing_um)
        state.cross_section_scale, state.projection_scale = extent / PANEL_PX, 1.5 * extent
        for name, data in layers.items():
            hidden = kinds[name] == "image" and name != next(n for n in layers if kinds[n] == "image")
            made = layer(data, kinds[name], (spacings or {}).get(name, spacing_um), dt_s)
            state.layers.append(name=name, layer=made, visible=not hidden)  # a click on its name shows it
        if points is not None and len(points):
            state.layers["points"] = point_layer(points, space(rank if framed(points) else 3, spacing_um, dt_s))
        if tracks is not None and len(tracks):
            shown, told = thinned(tracks)
            state.layers["track points"] = object_layer(shown, space(4, spacing_um, dt_s))
            state.layers["track paths" + f" ({told})" * bool(told)] = path_layer(shown, space(3, spacing_um))
        state.layout, state.cross_section_background_color = "4panel", "#000000"
    _viewers.append(viewer)
    return viewer


def layer(data: Any, kind: str, spacing_um: Sequence[float], dt_s: float = 1.0) -> Any:
    """Make a layer of the type said.

    Left to guess, neuroglancer draws 16-bit images as labels and int32 labels as images.
    """
    import neuroglancer as ng

    volume = ng.LocalVolume(Served(data, kind), dimensions=space(len(data.shape), spacing_um, dt_s),
                            volume_type="segmentation" if kind == "labels" else "image")
    if kind == "labels":
        return ng.SegmentationLayer(source=volume)
    controls = {"contrast": {"range": list(display_range(frame_of(data)))}}
    return ng.ImageLayer(source=volume, shader=SHADER, shader_controls=controls)


def space(rank: int, spacing_um: Sequence[float], dt_s: float = 1.0) -> Any:
    """Return the last `rank` of the dimensions t, z, y, x, named in array order, with their units."""
    import neuroglancer as ng

    names, units, scales = ("t", "z", "y", "x"), ("s", "um", "um", "um"), (dt_s, *map(float, spacing_um))
    return ng.CoordinateSpace(names=names[-rank:], units=units[-rank:], scales=scales[-rank:])


class Served:
    """Hand an array-like to neuroglancer block by block in a type it draws: labels uint32, no float64."""

    def __init__(self, data: Any, kind: str) -> None:
        self.data, self.shape, self.ndim = data, tuple(data.shape), len(data.shape)
        given = np.dtype(data.dtype)
        drawable = given in (np.uint8, np.int8, np.uint16, np.int16, np.float32)
        self.dtype = np.dtype(np.uint32 if kind == "labels" else given if drawable else np.float32)

    def __getitem__(self, index: Any) -> np.ndarray:
        return np.asarray(self.data[index]).astype(self.dtype, copy=False)

    def transpose(self) -> np.ndarray:
        """Return the whole volume (x, y, z): asked for when a label is picked, to draw its surface."""
        return self[...].T


def as_array(data: Any) -> Any:
    """Return an array-like of three or four axes: a movie's first channel, without time where it has one frame."""
    if not isinstance(data, Movie):
        return data
    channel = Channel(data)
    return frame_of(channel) if data.n_frames == 1 else channel


def ordinal(n: int) -> str:
    return {1: "1st", 2: "2nd", 3: "3rd"}.get(n, f"{n}th")


def embed(viewer: Any, height_px: int) -> str:
    """Return the HTML that embeds a viewer, or one sentence where no browser can reach it."""
    import neuroglancer as ng

    port, servers = ng.server.global_server.port, running_servers()
    if place(os.environ, sys.modules, servers) == "colab":
        from google.colab import output  # its own way to reach a port of the virtual machine

        output.serve_kernel_port_as_iframe(port, path=f"/v/{viewer.token}/", height=str(height_px))
        return ""
    url = address(port, viewer.token, os.environ, servers, has_proxy(servers), sys.modules)
    if url is None:
        return "<p>No 3D viewer here: jupyter-server-proxy is missing. The picture below shows the data.</p>"
    box = f'width="100%" height="{height_px}" style="border:1px solid #ccc" loading="lazy" onload="{REST}"'
    return (f'<iframe src="{url}" {box}></iframe>'
            f'<p><a href="{url}" target="_blank">Open the 3D viewer in its own tab</a></p>')
