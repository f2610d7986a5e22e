"""Choose the boxes an encoder learns from: where the signal is, spread out, never empty."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
from scipy import ndimage

from cellfm_nb.curate.background import background_spread
from cellfm_nb.errors import InputError

CELLS = 8  # a crop is this many cells wide in the grid the content-aware chooser works on


def choose_crops(normalized: np.ndarray, crop_shape: Sequence[int], n: int, method: str = "content",
                 rng: np.random.Generator | None = None) -> pd.DataFrame:
    """Choose n boxes of one shape in a volume.

    Parameters: normalized (z,y,x), from `normalize`; crop_shape (z,y,x) voxels; n; method:
      "content": boxes with the most signal not yet covered by those chosen before (greedy coverage: every choice
        divides the worth of what it covers by four), shaken by a fraction of a cell;
      "kmeans": the seed's: voxels between the 99.75 and 99.9 percentile, clustered; boxes around the centroids;
      "random": uniform over the volume.
    rng, a numpy Generator (None: seed 0).
    Returns: DataFrame z0, y0, x0, z1, y1, x1 (half-open, inside the volume), signal (share of signal voxels inside),
    chosen_by (the method, or "random: no signal" where the volume holds none).
    Raises InputError when the volume is smaller than a crop, or the method is unknown.
    """
    shape, crop = np.array(normalized.shape), np.array(crop_shape)
    if len(shape) != 3 or len(crop) != 3 or (crop < 1).any() or (crop > shape).any():
        raise InputError("The volume is smaller than a crop.", got=f"volume {tuple(map(int, shape))}",
                         expected=f"at least {tuple(map(int, crop))} voxels (z, y, x)",
                         do="Choose a smaller crop_shape, or leave this movie out.")
    if method not in CHOOSERS:
        raise InputError("Unknown way to choose crops.", got=repr(method), expected=", ".join(CHOOSERS),
                         do="Choose one of them.")
    rng = np.random.default_rng(0) if rng is None else rng
    mask = signal_mask(normalized)
    origins, chosen_by = CHOOSERS[method](normalized, mask, crop, n, rng), method
    if origins is None:
        origins, chosen_by = random_origins(normalized, mask, crop, n, rng), "random: no signal"
    boxes = pd.DataFrame(np.hstack([origins, origins + crop]), columns=["z0", "y0", "x0", "z1", "y1", "x1"])
    boxes["signal"] = box_means(mask, origins, crop)
    boxes["chosen_by"] = chosen_by
    return boxes


def signal_mask(normalized: np.ndarray, n_sd: float = 4.0) -> np.ndarray:
    """Mark signal: voxels more than n_sd above the background after smoothing by one voxel (bool (z,y,x))."""
    smooth = ndimage.gaussian_filter(normalized, 1.0, truncate=3.0)
    inside = normalized != 0  # the fill of deskewed corners is 0 exactly
    centre, sd = background_spread(smooth[inside] if inside.any() else smooth)
    return smooth > np.float32(centre + n_sd * max(sd, 1e-6))


def signal_fraction(normalized: np.ndarray, boxes: pd.DataFrame) -> float:
    """Return the mean share of signal voxels in a table of boxes."""
    origins = boxes[["z0", "y0", "x0"]].to_numpy(int)
    crop = boxes[["z1", "y1", "x1"]].to_numpy(int)[0] - origins[0]
    return float(box_means(signal_mask(normalized), origins, crop).mean())


def content_origins(normalized: np.ndarray, mask: np.ndarray, crop: np.ndarray, n: int,
                    rng: np.random.Generator) -> np.ndarray | None:
    """Return corners (n, 3) that together cover the signal; None where there is none."""
    if not mask.any():
        return None
    cell = np.maximum(crop // CELLS, 1)
    room = np.array(mask.shape) - crop
    # worth of a cell: its signal voxels; boxes are looked for on the grid of cells, by a summed-area table
    worth = np.add.reduceat(np.add.reduceat(np.add.reduceat(
        mask.astype(np.float64), np.arange(0, mask.shape[0], cell[0]), 0),
        np.arange(0, mask.shape[1], cell[1]), 1), np.arange(0, mask.shape[2], cell[2]), 2)
    width = crop // cell
    origins = np.empty((n, 3), int)
    for i in range(n):
        sums = box_sums(worth, width)
        sums = sums + 1e-9 * rng.random(sums.shape)  # ties fall by chance
        best = np.array(np.unravel_index(sums.argmax(), sums.shape))
        worth[tuple(slice(b, b + w) for b, w in zip(best, width, strict=True))] *= 0.25
        shaken = best * cell + rng.integers(-(cell // 2), cell // 2 + 1)
        origins[i] = np.clip(shaken, 0, room)
        if not mask[tuple(slice(o, o + c) for o, c in zip(origins[i], crop, strict=True))].any():
            origins[i] = around_a_voxel(mask, crop, rng)  # the grid's rounding lost the only signal
    return origins


def around_a_voxel(mask: np.ndarray, crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the corner of a box around a signal voxel drawn at random."""
    voxels = np.flatnonzero(mask)
    voxel = np.array(np.unravel_index(voxels[rng.integers(len(voxels))], mask.shape))
    return np.clip(voxel - crop // 2, 0, np.array(mask.shape) - crop)


def kmeans_origins(normalized: np.ndarray, mask: np.ndarray, crop: np.ndarray, n: int,
                   rng: np.random.Generator) -> np.ndarray | None:
    """Return corners (n, 3) of boxes around k-means centroids of bright voxels, k = n, as the seed does it."""
    from sklearn.cluster import KMeans

    low, high = np.percentile(normalized, [99.75, 99.9])  # strictly between: the brightest 0.1% is left out
    band = ndimage.median_filter(((normalized > low) & (normalized < high)).astype(np.uint8), (1, 3, 3))
    points = np.argwhere(band)
    if len(points) < n:  # the median removes scattered voxels, and with them dim movies
        points = np.argwhere((normalized > low) & (normalized < high))
    if len(points) < n:
        return None
    points = points[rng.permutation(len(points))[:5000]]
    scale = np.array(normalized.shape, float)
    fit = KMeans(n, n_init=1, random_state=int(rng.integers(2**31))).fit(points / scale)
    centres = np.rint(fit.cluster_centers_ * scale).astype(int)
    return np.clip(centres - crop // 2, 0, np.array(normalized.shape) - crop)


def random_origins(normalized: np.ndarray, mask: np.ndarray, crop: np.ndarray, n: int,
                   rng: np.random.Generator) -> np.ndarray:
    """Return corners (n, 3) drawn uniformly."""
    return rng.integers(0, np.array(normalized.shape) - crop + 1, (n, 3))


CHOOSERS: dict[str, Callable[..., np.ndarray | None]] = {
    "content": content_origins, "kmeans": kmeans_origins, "random": random_origins}


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
