"""Where a map is highest in its neighbourhood, to a fraction of a voxel."""

from __future__ import annotations

import numpy as np


def footprint_size(spacing: np.ndarray, psf: np.ndarray) -> tuple[int, ...]:
    """Return the odd box (voxels) in which a candidate must be the highest: about 1.2 PSF sigma each way."""
    return tuple(2 * max(1, int(round(1.2 * s / d))) + 1 for s, d in zip(psf, spacing, strict=True))


def local_maxima(z: np.ndarray, size: tuple[int, ...], floor: float) -> np.ndarray:
    """Return (N, 3) integer voxels that are the highest of their box and above the floor, best first."""
    reach = np.array(size) // 2
    wide = np.pad(z, [(r, r) for r in reach], constant_values=-np.inf)
    flat = wide.ravel()
    at = np.flatnonzero(flat > floor)
    height = flat[at]
    for offset in sorted(np.ndindex(*size), key=lambda o: np.abs(o - reach).sum())[1:]:
        step = np.ravel_multi_index(offset, wide.shape) - np.ravel_multi_index(reach, wide.shape)
        highest = height >= flat[at + step]                 # the nearest neighbours leave few to compare with the rest
        at, height = at[highest], height[highest]
    peak = np.stack(np.unravel_index(at, wide.shape), 1) - reach
    return peak[np.argsort(-height, kind="stable")]


def parabolic_offset(z: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Return (N, 3) sub-voxel offsets in -.5...5 from a parabola through each axis' three values."""
    offset = np.zeros(peak.shape)
    middle = z[tuple(peak.T)]
    for axis in range(3):
        low, high = peak.copy(), peak.copy()
        low[:, axis] = np.maximum(low[:, axis] - 1, 0)
        high[:, axis] = np.minimum(high[:, axis] + 1, z.shape[axis] - 1)
        a, b = z[tuple(low.T)], z[tuple(high.T)]
        bend = a - 2 * middle + b
        offset[:, axis] = np.where(bend < 0, 0.5 * (a - b) / np.where(bend < 0, bend, -1), 0)
    return np.clip(offset, -0.5, 0.5)
