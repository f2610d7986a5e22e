"""Choose the boxes an encoder learns from: where the signal is, spread out, never empty; pairs that overlap on wish."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from cellfm_nb.curate.background import background_spread, check_volume
from cellfm_nb.errors import InputError

CELLS = 8  # a crop is this many cells wide in the grid the content-aware chooser works on
METHODS = ("content", "kmeans", "random")
COVERED = 0.5  # what is left of the worth of signal each time a crop covers it
SHAKES = 4  # moves by up to half a cell, of which the one with the most signal is made
TRIES = 256  # places tried for each further view of one place


def choose_crops(normalized: np.ndarray, crop_shape: Sequence[int], n: int, method: str = "content",
                 rng: np.random.Generator | None = None, *, views_per_place: int = 1, min_overlap: float = 0.25,
                 max_overlap: float = 0.75, richness: float = 0.5) -> pd.DataFrame:
    """Choose n boxes of one shape in a volume.

    Parameters: normalized (z,y,x), from `normalize`; crop_shape (z,y,x) voxels; n; method, how places are chosen:
      "content": among the boxes with at least `richness` of the signal in the richest one, those with the most
        signal not yet covered (greedy coverage: every choice halves the worth of what it covers), shaken a little, no
        two sharing more than max_overlap as long as there are such boxes elsewhere;
      "kmeans": the seed's: voxels between the 99.75 and 99.9 percentile, clustered; boxes around the centroids;
      "random": uniform over the volume.
    rng, a numpy Generator (None: seed 0); views_per_place, boxes around each place, every two of which share between
    min_overlap and max_overlap of their volume, and none of which is empty where its place is not; richness in [0, 1]:
    low looks at dim cells and stray points too, high at the brightest places only.
    Returns: DataFrame z0, y0, x0, z1, y1, x1 (half-open, inside the volume), signal (share of signal voxels inside),
    chosen_by (the method, or "random: no signal" where the volume holds none), place (0, 1, ...).
    Raises InputError when the volume is smaller than a crop or not finite, the method is unknown, or the views can't
    overlap so.
    """
    shape, crop = np.array(normalized.shape), np.array(crop_shape)
    if len(shape) != 3 or len(crop) != 3 or (crop < 1).any() or (crop > shape).any():
        raise InputError("The volume is smaller than a crop.", got=f"volume {tuple(map(int, shape))}",
                         expected=f"at least {tuple(map(int, crop))} voxels (z, y, x)",
                         do="Choose a smaller crop_shape, or leave this movie out.")
    if method not in METHODS:
        raise InputError("Unknown way to choose crops.", got=repr(method), expected=", ".join(METHODS),
                         do="Choose one of them.")
    if n < 1 or views_per_place < 1 or not 0 <= min_overlap <= max_overlap <= 1 or not 0 <= richness <= 1:
        raise InputError("No crops can be chosen so.", got=f"n {n}, views_per_place {views_per_place}, min_overlap "
                         f"{min_overlap}, max_overlap {max_overlap}, richness {richness}", do="Correct the numbers.",
                         expected="n, views_per_place >= 1; 0 <= min_overlap <= max_overlap <= 1; richness in [0, 1]")
    check_volume(normalized, "choose_crops", constant_ok=True)
    rng = np.random.default_rng(0) if rng is None else rng
    mask = signal_mask(normalized)
    n_places, chosen_by = -(-n // views_per_place), method
    if method == "content":
        origins = content_origins(mask, crop, n_places, rng, max_overlap, richness)
    elif method == "kmeans":
        origins = kmeans_origins(normalized, crop, n_places, rng)
    else:
        origins = random_origins(normalized.shape, crop, n_places, rng)
    if origins is None:
        origins, chosen_by = random_origins(normalized.shape, crop, n_places, rng), "random: no signal"
    if views_per_place > 1:
        origins = np.concatenate([views_of(o, mask, crop, views_per_place, min_overlap, max_overlap, rng)
                                  for o in origins])[:n]
    boxes = pd.DataFrame(np.hstack([origins, origins + crop]), columns=["z0", "y0", "x0", "z1", "y1", "x1"])
    boxes["signal"] = box_means(mask, origins, crop)
    boxes["chosen_by"] = chosen_by
    boxes["place"] = np.arange(n) // views_per_place
    return boxes


def signal_mask(normalized: np.ndarray, n_sd: float = 4.0) -> np.ndarray:
    """Mark signal: voxels more than n_sd above the background after smoothing by one voxel (bool (z,y,x))."""
    smooth = binomial(normalized)
    some = slice(None, None, max(1, smooth.size // 50_000) | 1)  # enough to know the spread to a percent
    sample = smooth.ravel()[some]
    inside = normalized.ravel()[some] != 0  # the fill of deskewed corners is 0 exactly
    centre, sd = background_spread(sample[inside] if inside.any() else sample)
    return smooth > np.float32(centre + n_sd * max(sd, 1e-6))


def binomial(a: np.ndarray) -> np.ndarray:
    """Smooth along every axis by (1, 4, 6, 4, 1) / 16: a Gaussian of s.d. 1 voxel, in a third of the time."""
    a = np.asarray(a, np.float32)
    for axis in range(a.ndim):
        lines = np.pad(a, [(2, 2) if i == axis else (0, 0) for i in range(a.ndim)], mode="symmetric")
        for _ in range(4):  # the mean of neighbours, four times
            low, high = (tuple(s if i == axis else slice(None) for i in range(a.ndim))
                         for s in (slice(None, -1), slice(1, None)))
            lines = lines[low] + lines[high]
        a = np.multiply(lines, np.float32(1 / 16), out=lines)
    return a


def signal_fraction(normalized: np.ndarray, boxes: pd.DataFrame) -> float:
    """Return the mean share of signal voxels in a table of boxes."""
    origins = boxes[["z0", "y0", "x0"]].to_numpy(int)
    crop = boxes[["z1", "y1", "x1"]].to_numpy(int)[0] - origins[0]
    return float(box_means(signal_mask(normalized), origins, crop).mean())


def content_origins(mask: np.ndarray, crop: np.ndarray, n: int, rng: np.random.Generator, max_overlap: float,
                    richness: float) -> np.ndarray | None:
    """Return corners (n, 3) of boxes that hold much signal and cover it together; None where there is none.

    Boxes are looked for on a grid of cells, by a summed-area table. No two share more than max_overlap, unless there
    is no other box that is rich enough.
    """
    if not mask.any():
        return None
    cell = np.maximum(crop // CELLS, 1)
    room, width = np.array(mask.shape) - crop, crop // cell
    grid = -(-np.array(mask.shape) // cell)
    cells = np.stack(np.unravel_index(np.flatnonzero(mask), mask.shape)) // cell[:, None]
    signal = np.bincount(np.ravel_multi_index(cells, grid), minlength=grid.prod()).reshape(grid)  # voxels in each cell
    worth = signal.astype(float)
    corners = [np.minimum(np.arange(m - w + 1) * c, r) for m, w, c, r in zip(grid, width, cell, room, strict=True)]
    sums = box_sums(worth, width)
    rich = (sums >= richness * sums.max()) & (sums > 0.5)
    free = rich.copy()  # rich, and sharing little with the boxes chosen
    origins = np.empty((n, 3), int)
    for i in range(n):
        apart = free.any()
        rank = np.where(free if apart else rich, sums, -1) * (1 + 1e-6 * rng.random(sums.shape))  # ties fall by chance
        best = np.unravel_index(rank.argmax(), rank.shape)
        worth[tuple(slice(b, b + w) for b, w in zip(best, width, strict=True))] *= COVERED
        sums = box_sums(worth, width)
        origins[i] = [c[b] for c, b in zip(corners, best, strict=True)]
        shaken = np.clip(origins[i] + rng.integers(-(cell // 2), cell // 2 + 1, (SHAKES, 3)), 0, room)
        held = box_means(mask, shaken, crop)
        if apart:
            held[overlap(origins[:i, None], shaken, crop).max(0, initial=0) > max_overlap] = 0
        if held.max() > 0:
            origins[i] = shaken[held.argmax()]
        z, y, x = (np.clip(1 - np.abs(c - o) / s, 0, 1) for c, o, s in zip(corners, origins[i], crop, strict=True))
        free &= z[:, None, None] * y[:, None] * x <= max_overlap
    return origins


def views_of(origin: np.ndarray, mask: np.ndarray, crop: np.ndarray, n: int, least: float, most: float,
             rng: np.random.Generator) -> np.ndarray:
    """Return n corners (n, 3) of boxes around one place: the place itself and others, tried at random around it."""
    room = np.array(mask.shape) - crop
    views, has_signal = origin[None], filled(mask, origin, crop)
    for _ in range(n - 1):
        reach = np.ceil((1 - least) * crop).astype(int)
        tried = np.clip(origin + rng.integers(-reach, reach + 1, (TRIES, 3)), 0, room)
        shared = overlap(views[:, None], tried, crop)  # (views so far, tries)
        fits = tried[((shared >= least) & (shared <= most)).all(0)]
        found = next((o for o in fits if not has_signal or filled(mask, o, crop)), None)
        if found is None:
            raise InputError("No further view of a place overlaps the others as asked.", where="choose_crops",
                             got=f"crops {tuple(map(int, crop))} in a volume {mask.shape}, overlap {least} to {most}",
                             expected="room to move a crop", do="Widen the range, or use smaller crops.")
        views = np.vstack([views, found])
    return views


def overlap(corners: np.ndarray, others: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Return the share (...) of its volume that a box has in common with another, corners (..., 3), one shape."""
    return np.clip(1 - np.abs(others - corners) / crop, 0, 1).prod(-1)


def filled(mask: np.ndarray, origin: np.ndarray, crop: np.ndarray) -> bool:
    """Say whether a box holds a signal voxel."""
    return bool(mask[tuple(slice(o, o + c) for o, c in zip(origin, crop, strict=True))].any())


def kmeans_origins(volume: np.ndarray, crop: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray | None:
    """Return corners (n, 3) of boxes around `kmeans_centres`, moved inside; None where there are none."""
    centres = kmeans_centres(volume, n, rng)
    return None if centres is None else np.clip(centres - crop // 2, 0, np.array(volume.shape) - crop)


def kmeans_centres(volume: np.ndarray, k: int, rng: np.random.Generator,
                   percentiles: tuple[float, float] = (99.75, 99.9), median: int = 3,
                   n_points: int = 5000) -> np.ndarray | None:
    """Cluster the bright voxels of a volume as the seed (SpatialDINO) does; return the centroids (k, 3) int.

    Voxels strictly between the percentiles (so the brightest 0.1% is left out) are cleaned by a median x median filter
    in the plane; up to n_points of them are clustered in coordinates scaled to the volume. None: fewer than k voxels.
    """
    from sklearn.cluster import KMeans

    low, high = np.percentile(volume, percentiles)
    between = (volume > low) & (volume < high)
    points = np.argwhere(ndimage.median_filter(between.view(np.uint8), (1, median, median)))
    if len(points) < k:  # the median removes scattered voxels, and with them dim movies
        points = np.argwhere(between)
    if len(points) < k:
        return None
    points = points[rng.permutation(len(points))[:n_points]]
    scale = np.array(volume.shape, float)
    fit = KMeans(k, n_init=1, random_state=int(rng.integers(2**31))).fit(points / scale)
    return np.rint(fit.cluster_centers_ * scale).astype(int)


def random_origins(shape: Sequence[int], crop: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Return corners (n, 3) drawn uniformly."""
    return rng.integers(0, np.array(shape) - crop + 1, (n, 3))


def box_sums(a: np.ndarray, width: Sequence[int]) -> np.ndarray:
    """Return the sum over the box of this width at every corner where it fits (summed-area table)."""
    table = np.pad(a, [(1, 0)] * 3).astype(np.float64)
    for axis, w in enumerate(width):
        table = table.cumsum(axis)
        n = table.shape[axis]
        table = np.take(table, range(w, n), axis) - np.take(table, range(n - w), axis)
    return table


def box_means(mask: np.ndarray, origins: np.ndarray, crop: np.ndarray) -> np.ndarray:
    """Return the share of marked voxels in each box."""
    return np.array([mask[tuple(slice(o, o + c) for o, c in zip(corner, crop, strict=True))].mean()
                     for corner in origins])
