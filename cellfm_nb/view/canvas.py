"""Where images are drawn: projections, outlines, panels of one physical scale, captions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from cellfm_nb.view.style import WIDTH_IN, Picture, label_colours, nice_length, picture, say

Spacing = Sequence[float]
VIEWS = {"xy": (1, 2), "zy": (1, 0), "xz": (0, 2)}  # panel -> (axis drawn downwards, axis drawn to the right)


def as_volume(array) -> np.ndarray:
    """Return the array as (z, y, x), with one plane when it is an image."""
    array = np.asarray(array)
    return array[None] if array.ndim == 2 else array


def positions(points) -> np.ndarray:
    """Return (n, 3) voxel positions z, y, x from an array or from a table with those columns."""
    if isinstance(points, pd.DataFrame):
        points = points[["z", "y", "x"]]
    return np.asarray(points, dtype=float).reshape(-1, 3)


def plane(volume: np.ndarray, z: int | None) -> np.ndarray:
    if volume.ndim == 2:
        return volume
    return volume[volume.shape[0] // 2 if z is None else int(np.clip(z, 0, volume.shape[0] - 1))]


def pick(values: Sequence[float], down: int, right: int) -> tuple[float, float]:
    return float(values[down]), float(values[right])


def project(volume: np.ndarray, down: int, right: int) -> np.ndarray:
    """Project the maximum along the axis that is not drawn: (down, right)."""
    (through,) = {0, 1, 2} - {down, right}
    image = volume.max(axis=through)
    return image if down < right else image.T


def edges(labels: np.ndarray) -> np.ndarray:
    """Colour only the pixels of a label image (y, x) that touch another label: outlines as RGBA (y, x, 4)."""
    padded = np.pad(labels, 1, mode="edge")
    inside = np.ones(labels.shape, bool)
    for other in (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]):
        inside &= other == labels
    return label_colours(np.where(inside, 0, labels))


def draw(ax: Axes, image: np.ndarray, step_um: Sequence[float], low: float | None = None,
         high: float | None = None) -> None:
    """Draw (y, x) or (y, x, rgb) with voxel centres at index * step_um, where positions in um fall."""
    (ny, nx), (dy, dx) = image.shape[:2], step_um
    extent = (-0.5 * dx, (nx - 0.5) * dx, (ny - 0.5) * dy, -0.5 * dy)
    ax.imshow(image, cmap="gray", vmin=low, vmax=high, extent=extent, aspect="equal")


def three_views(shape: Sequence[int], spacing_um: Spacing) -> tuple[Picture, dict[str, Axes]]:
    """Lay out xy with zy on its right and xz beneath it, one scale for all three."""
    z, y, x = np.asarray(shape, float) * np.asarray(spacing_um, float)
    floor = 0.06 * max(x, y)  # a single plane still gets a visible strip
    widths, heights = [x, max(z, floor)], [y, max(z, floor)]
    width = min(WIDTH_IN, 9.0 * sum(widths) / sum(heights))
    fig = picture(max(width, 3.0), width * sum(heights) / sum(widths) + 0.7, layout="compressed")
    grid = fig.add_gridspec(2, 2, width_ratios=widths, height_ratios=heights)
    places = {"xy": grid[0, 0], "zy": grid[0, 1], "xz": grid[1, 0]}
    panels = {name: fig.add_subplot(place) for name, place in places.items()}
    panels["xy"].set(ylabel="y (µm)", xticks=[])
    panels["zy"].set(xlabel="z (µm)", yticks=[])
    panels["xz"].set(ylabel="z (µm)", xlabel="x (µm)")
    for name, horizontal in (("zy", True), ("xz", False)):  # thin panels: two ticks are enough
        ticks = [0, nice_length(3.9 * z)] if z > floor else [0]  # inside: the last voxel's centre ends before z
        (panels[name].set_xticks if horizontal else panels[name].set_yticks)(ticks)
    return fig, panels


def image_grid(n: int, ncols: int, shape: Sequence[int], spacing_um: Spacing) -> tuple[Picture, list[Axes]]:
    """Lay out n equal images of shape (y, x) in rows; return the picture and its axes, row by row."""
    ncols = max(1, min(ncols, n))
    nrows = -(-n // ncols)
    ratio = shape[0] * spacing_um[1] / max(shape[1] * spacing_um[2], 1e-9)
    tile = min(WIDTH_IN / ncols, 4.0)
    row_in = tile * float(np.clip(ratio, 0.2, 3)) + 0.35
    fig = picture(tile * ncols, nrows * row_in + 0.3, layout="compressed")
    axes = [fig.add_subplot(nrows, ncols, i + 1) for i in range(n)]
    return fig, axes


def caption(fig: Picture, title: str, note: str) -> None:
    """Put the title above a picture and how it was made beneath it."""
    if title:
        fig.suptitle(title, x=0.02, ha="left", fontsize=12)
    fig.supxlabel(note, x=0.02, ha="left", fontsize=8, color="#666666")


def nothing(title: str, text: str) -> Picture:
    fig = picture(height_in=1.5)
    say(fig.add_subplot(), text)
    caption(fig, title, "")
    return fig
