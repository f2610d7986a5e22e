"""Pictures of volumes: projections, slices, colours, tracks; physical proportions and a scale bar always."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.collections import LineCollection

from cellfm_nb.view.canvas import (
    VIEWS,
    Spacing,
    as_volume,
    caption,
    draw,
    edges,
    image_grid,
    nothing,
    pick,
    plane,
    positions,
    project,
    three_views,
)
from cellfm_nb.view.style import (
    ORANGE,
    STYLE,
    Picture,
    contrast,
    label_colours,
    nice_length,
    scale_bar,
    stated,
    track_colour,
)

TOKENS = "one square is one token: black, like most; bright, unlike most; the hue says in which way"


@rc_context(STYLE)
def ortho(volume, spacing_um: Spacing, title: str = "", points=None, labels=None) -> Picture:
    """Show maximum projections along z, x and y side by side in physical proportions.

    volume: (z, y, x) array, any real dtype. spacing_um: (z, y, x) in um.
    points: (n, 3) array of voxel positions z, y, x, or a table with columns z, y, x; drawn as circles.
    labels: (z, y, x) unsigned integers; drawn as outlines of their maximum projection.
    """
    volume = as_volume(volume)
    if volume.size == 0:
        return nothing(title, "The volume is empty: nothing to show.")
    fig, panels = three_views(volume.shape, spacing_um)
    low, high = contrast(volume.max(0))  # of the projection: its noise floor is higher than the volume's
    for name, (down, right) in VIEWS.items():
        draw(panels[name], project(volume, down, right), pick(spacing_um, down, right), low, high)
        if labels is not None and np.size(labels):
            outline = edges(project(as_volume(labels), down, right))
            draw(panels[name], outline, pick(spacing_um, down, right))
        if points is not None and len(points):
            at = positions(points) * np.asarray(spacing_um)  # (n, 3) um
            style = dict(s=36, facecolors="none", edgecolors=ORANGE, linewidths=1.0)
            panels[name].scatter(at[:, right], at[:, down], **style)
    scale_bar(panels["xy"])
    caption(fig, title, f"maximum projections, {stated(low, high)}")
    return fig


@rc_context(STYLE)
def slices(volumes: dict[str, np.ndarray], spacing_um: Spacing, z: int | None = None) -> Picture:
    """Show the same plane of several volumes side by side, each with its own contrast, stated beneath it.

    volumes: name -> (z, y, x) or (y, x); uint32 and bool are labels and get colours.
    z: the plane; the middle one by default.
    """
    volumes = {name: np.asarray(v) for name, v in volumes.items()}
    if not volumes or any(v.size == 0 for v in volumes.values()):
        return nothing("", "No volume to show.")
    planes = {name: plane(v, z) for name, v in volumes.items()}
    fig, axes = image_grid(len(planes), min(len(planes), 4), next(iter(planes.values())).shape, spacing_um)
    for ax, (name, image) in zip(axes, planes.items(), strict=True):
        if image.dtype in (np.uint32, np.uint64, np.bool_):
            ax.set_facecolor("black")
            draw(ax, label_colours(image), spacing_um[1:])
            ax.set_xlabel(f"{len(np.unique(image[image > 0]))} labels in this plane", fontsize=8)
        else:
            low, high = contrast(image)
            draw(ax, image, spacing_um[1:], low, high)
            ax.set_xlabel(f"black {low:.3g}, white {high:.3g}", fontsize=8)
        ax.set_title(name)
        ax.set(xticks=[], yticks=[])
    scale_bar(axes[0])
    depth = next(iter(volumes.values()))
    where = f", plane z = {depth.shape[0] // 2 if z is None else z}" if depth.ndim == 3 else ""
    caption(fig, "", f"percentiles 1 and 99.8 of each image{where}")
    return fig


@rc_context(STYLE)
def rgb_volume(rgb, spacing_um: Spacing, background=None) -> Picture:
    """Show three planes of a volume whose three colours are features, beneath the same slabs of the image.

    rgb: (z, y, x, 3) floats in 0..1. spacing_um: of `rgb` (its tokens), (z, y, x) in um.
    background: (z, y, x) image of the same field at any sampling, shown in the upper row: its maximum over what a
    plane of tokens sees.
    """
    rgb = np.clip(np.nan_to_num(np.asarray(rgb, dtype=np.float32)), 0, 1)
    if rgb.size == 0:
        return nothing("", "The colour volume is empty: nothing to show.")
    step = np.asarray(spacing_um, dtype=float)
    planes = sorted({int(rgb.shape[0] * f) for f in (0.25, 0.5, 0.75)})
    tiles, n = [rgb[z] for z in planes], len(planes)
    if background is not None:
        image = as_volume(background)
        cuts = np.ceil(np.arange(rgb.shape[0] + 1) * len(image) / rgb.shape[0]).astype(int)  # of tokens, in its planes
        tiles = [image[cuts[z] : max(cuts[z + 1], cuts[z] + 1)].max(0) for z in planes] + tiles
        low, high = contrast(np.stack(tiles[:n]))
    fig, axes = image_grid(len(tiles), n, rgb.shape[1:3], spacing_um)
    for i, (ax, tile) in enumerate(zip(axes, tiles, strict=True)):
        pixel = step[1:] * rgb.shape[1:3] / tile.shape[:2]  # the same field, sampled by voxels or by tokens
        draw(ax, tile, pixel, *((low, high) if tile.ndim == 2 else ()))
        if i < n:
            ax.set_title(f"z = {planes[i] * step[0]:.1f} to {(planes[i] + 1) * step[0]:.1f} µm")
        ax.set(xticks=[], yticks=[])
    scale_bar(axes[0])
    caption(fig, "", TOKENS)
    return fig


@rc_context(STYLE)
def rgb_planes(planes: Sequence, titles: Sequence[str], spacing_um: Spacing) -> Picture:
    """Show planes (y, x, 3) whose three colours are features, floats in 0..1, side by side on one scale.

    All of one shape; spacing_um (z, y, x) of their tokens.
    """
    planes = [np.clip(np.nan_to_num(np.asarray(colours, dtype=np.float32)), 0, 1) for colours in planes]
    if not planes:
        return nothing("", "No planes: nothing to show.")
    fig, axes = image_grid(len(planes), min(len(planes), 3), planes[0].shape[:2], spacing_um)
    for ax, colours, title in zip(axes, planes, titles, strict=True):
        draw(ax, colours, np.asarray(spacing_um, dtype=float)[1:])
        ax.set_title(title)
        ax.set(xticks=[], yticks=[])
    scale_bar(axes[0])
    caption(fig, "", TOKENS)
    return fig


@rc_context(STYLE)
def gallery(volumes: Sequence, titles: Sequence[str] | None = None, ncols: int = 6,
            spacing_um: Spacing | None = None) -> Picture:
    """Show the maximum projections of many (z, y, x) volumes as tiles, each with its own contrast.

    spacing_um: (z, y, x) of all; None makes the scale bars bars of voxels.
    """
    images = [as_volume(v).max(0) for v in volumes if np.size(v)]
    if not images:
        return nothing("", "No volume to show.")
    step, unit = ((1.0, 1.0, 1.0), "px") if spacing_um is None else (spacing_um, "µm")
    fig, axes = image_grid(len(images), ncols, images[0].shape, step)
    for i, (ax, image) in enumerate(zip(axes, images, strict=True)):
        draw(ax, image, step[1:], *contrast(image))
        ax.set(xticks=[], yticks=[])
        if i == 0 or image.shape != images[0].shape:  # one scale for tiles of one size
            scale_bar(ax, nice_length(2 * image.shape[1] * step[2]), unit=unit)
        ax.set_title(str(titles[i]) if titles is not None and i < len(titles) else "", fontsize=8)
    return fig


@rc_context(STYLE)
def tracks(tracks: pd.DataFrame, spacing_um: Spacing, volume=None) -> Picture:
    """Draw tracks as coloured lines over maximum projections (an id keeps its colour in every picture).

    tracks: columns track_id, frame and z_um, y_um, x_um (or z, y, x in voxels).
    volume: (z, y, x), or (t, z, y, x) of which the maximum over time is shown.
    """
    spacing = np.asarray(spacing_um, dtype=float)
    named = {"z_um", "y_um", "x_um"} <= set(tracks.columns)
    at = tracks[["z_um", "y_um", "x_um"]].to_numpy(float) if named else positions(tracks) * spacing
    if volume is not None and np.size(volume):
        volume = np.asarray(volume)
        volume = as_volume(volume.max(0) if volume.ndim == 4 else volume)
    elif len(at):
        volume = np.zeros(np.maximum(np.ceil(at.max(0) / spacing).astype(int) + 2, 1), np.uint8)
    else:
        return nothing("", "No tracks to show.")
    fig, panels = three_views(volume.shape, spacing)
    low, high = contrast(volume.max(0))
    order = tracks.assign(_row=np.arange(len(tracks))).sort_values(["track_id", "frame"])
    paths = {int(k): at[rows["_row"].to_numpy()] for k, rows in order.groupby("track_id")}
    colours = [track_colour(k) for k in paths]
    for name, (down, right) in VIEWS.items():
        draw(panels[name], project(volume, down, right), pick(spacing, down, right), low, high)
        lines = [path[:, [right, down]] for path in paths.values()]
        panels[name].add_collection(LineCollection(lines, colors=colours, linewidths=1.2), autolim=False)
        starts = np.array([line[0] for line in lines]).reshape(-1, 2)
        panels[name].scatter(starts[:, 0], starts[:, 1], s=6, c=colours or None, linewidths=0)
    scale_bar(panels["xy"])
    caption(fig, f"{len(paths)} tracks", f"a dot marks the start of each; {stated(low, high)}")
    return fig
