"""The exact distance to the edge of a mask, for a fraction of the usual time: nothing is computed outside the mask."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def depth(mask: np.ndarray, spacing: Sequence[float], within: float = np.inf) -> np.ndarray:
    """Return the distance from each voxel of a mask to the nearest voxel outside.

    Parameters
    ----------
    mask : (z, y, x) bool, False somewhere.
    spacing : (z, y, x), in any unit.
    within : what lies deeper may come back as deeper than it is.

    Returns
    -------
    (z, y, x) float64, 0 outside the mask; `scipy.ndimage.distance_transform_edt`. Squared distances add up axis by
    axis (Saito and Toriwaki 1994): a voxel asks its neighbours one, two, ... steps away until none could be nearer.
    """
    index, far = np.arange(mask.shape[2], dtype=np.int32), sum(mask.shape)
    before = np.maximum.accumulate(np.where(mask, np.int32(-far), index), 2)
    after = np.minimum.accumulate(np.where(mask, np.int32(2 * far), index)[..., ::-1], 2)[..., ::-1]
    best = (np.minimum(index - before, after - index)[mask] * spacing[2]) ** 2
    for axis in (1, 0):
        furthest = min(np.sqrt(best.max(initial=0)), within) / spacing[axis]
        most = int(min(furthest, mask.shape[axis] - 1)) + 1
        margin = [(most, most) if a == axis else (0, 0) for a in range(3)]             # no step leaves the volume
        known = np.pad(np.zeros(mask.shape), margin, constant_values=np.inf).ravel()
        inside = at = np.flatnonzero(np.pad(mask, margin))
        known[at] = best
        out, stride = known.copy(), int(np.prod(mask.shape[axis + 1 :]))
        for k in range(1, most + 1):
            reach = (k * spacing[axis]) ** 2
            still = best > reach
            at, best = at[still], best[still]
            best = np.minimum(best, np.minimum(known.take(at - k * stride), known.take(at + k * stride)) + reach)
            out[at] = best
        best = out[inside]
    distance = np.zeros(mask.shape)
    distance[mask] = np.sqrt(best)
    return distance


def mean_radius(labels: np.ndarray, spacing: np.ndarray) -> float:
    """Return four times the mean distance (um) of labelled voxels (or a mask's) to the surface of their body."""
    inner = labels > 0
    if not inner.any():
        return 0.0
    for axis in range(3) if labels.dtype != bool else ():
        a, b = (np.moveaxis(labels, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
        np.moveaxis(inner, axis, 0)[1:][a != b] = False
    return 4 * float(depth(inner, spacing)[labels > 0].mean())
