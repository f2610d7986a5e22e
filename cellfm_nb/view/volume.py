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

from cellfm_nb.view import plots
from cellfm_nb.view.canvas import positions
from cellfm_nb.view.style import contrast
from cellfm_nb.view.where import address, has_proxy, headless, place, running_servers

SHADER = "#uicontrol invlerp contrast\nvoid main() { emitGrayscale(contrast()); }"
PANEL_PX = 300  # a panel is about this high when a notebook opens: the whole volume fits in
_viewers: list[Any] = []


def show_volume(
    layers: Mapping[str, Any],
    spacing_um: Sequence[float],
    points: pd.DataFrame | np.ndarray | None = None,
    dt_s: float = 1.0,
    kinds: Mapping[str, str] | None = None,
    height_px: int = 560,
) -> Figure:
    """Open the layers in neuroglancer above a static picture of them; headless, return only the picture.

    layers: name -> (z, y, x) or (t, z, y, x) array-like: NumPy, zarr, dask; read block by block while looking.
    spacing_um: (z, y, x) in um. dt_s: seconds between frames.
    points: (n, 3) voxel positions z, y, x, or a table with those columns (and frame).
    kinds: name -> "image" | "labels" where the type does not say it; uint32 and bool are labels, else images.
    Returns the static picture, of the first frame. Never waits for a browser.
    """
    kinds = {name: (kinds or {}).get(name, kind(data)) for name, data in layers.items()}
    if not headless() and importlib.util.find_spec("neuroglancer"):
        from IPython.display import HTML, display

        viewer = open_viewer(layers, spacing_um, points, dt_s, kinds)
        display(HTML(embed(viewer, height_px)))
    return static(layers, spacing_um, points, kinds)


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
    overlay = first_frame(layers[labels[0]]) if labels else None
    image = first_frame(layers[images[0]]) if images else np.zeros(overlay.shape, np.uint8)
    if isinstance(points, pd.DataFrame) and "frame" in points:
        points = points[points["frame"] == 0]
    title = " with ".join(images[:1] + labels[:1])
    return plots.ortho(image, spacing_um, title=title, points=points, labels=overlay)


def open_viewer(layers: Mapping[str, Any], spacing_um: Sequence[float], points: Any, dt_s: float,
                kinds: Mapping[str, str]) -> Any:
    """Serve the layers from this process, on 127.0.0.1 and behind a random token; return the Viewer."""
    import neuroglancer as ng

    ng.set_server_bind_address("127.0.0.1")
    viewer = ng.Viewer()
    shape = max((tuple(data.shape) for data in layers.values()), key=len, default=(1, 1, 1))
    with viewer.txn() as state:
        state.dimensions = space(len(shape), spacing_um, dt_s)
        state.display_dimensions = ["x", "y", "z"]  # x to the right, y down: as in every other picture
        state.position = [0.5] * (len(shape) - 3) + [n / 2 for n in shape[-3:]]
        extent = max(n * s for n, s in zip(shape[-3:], spacing_um, strict=True)) / min(spacing_um)
        state.cross_section_scale, state.projection_scale = extent / PANEL_PX, 1.5 * extent
        for name, data in layers.items():
            state.layers[name] = layer(data, kinds[name], spacing_um, dt_s)
        if points is not None and len(points):
            marks = [ng.PointAnnotation(id=str(i), point=(at + 0.5).tolist())  # + 0.5: centre of the voxel
                     for i, at in enumerate(positions(points))]
            state.layers["points"] = ng.LocalAnnotationLayer(space(3, spacing_um), annotations=marks)
        state.layout = "4panel"
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
    controls = {"contrast": {"range": list(contrast(first_frame(data)))}}
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


def first_frame(data: Any) -> np.ndarray:
    """Return the first (z, y, x) of an array-like of three or four axes."""
    return np.asarray(data[0] if len(data.shape) == 4 else data[...])


def embed(viewer: Any, height_px: int) -> str:
    """Return the HTML that embeds a viewer, or one sentence where no browser can reach it."""
    import neuroglancer as ng

    port, servers = ng.server.global_server.port, running_servers()
    if place(os.environ, sys.modules, servers) == "colab":
        from google.colab import output  # its own way to reach a port of the virtual machine

        output.serve_kernel_port_as_iframe(port, path=f"/v/{viewer.token}/", height=str(height_px))
        return ""
    url = address(port, viewer.token, os.environ, servers, has_proxy(), sys.modules)
    if url is None:
        return "<p>No 3D viewer here: jupyter-server-proxy is missing. The picture below shows the data.</p>"
    box = f'width="100%" height="{height_px}" style="border:1px solid #ccc"'
    return (f'<iframe src="{url}" {box}></iframe>'
            f'<p><a href="{url}" target="_blank">Open the 3D viewer in its own tab</a></p>')
