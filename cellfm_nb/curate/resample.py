"""Change the voxel spacing of a volume: trilinear, axis by axis, in chunks that never show a seam."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from cellfm_nb.errors import InputError


def resample(volume: np.ndarray, spacing_um: Sequence[float], target_um: Sequence[float],
             chunk_planes: int = 64) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Resample a volume to another spacing, its physical size kept.

    Parameters: volume (z,y,x), any array that can be sliced (a Zarr array is read slab by slab); spacing_um and
    target_um (z,y,x); chunk_planes, output planes made at a time.
    Returns: (volume float32 (z,y,x), true spacing_um). The shape is round(n * spacing / target), at least 1, and the
    true spacing n * spacing / shape, so that n * spacing, the physical size, stays what it was; it differs from
    the target by up to half a voxel over the whole axis.
    Equals torch's F.interpolate(mode="trilinear", align_corners=False) for every chunk size: a chunk reads the
    input planes its own outputs look at, so there is nothing to blend. No antialiasing: going coarser averages less
    than a camera with larger pixels would.
    Raises InputError on another shape or an impossible spacing.
    """
    shape, true_um = resampled_shape(volume.shape, spacing_um, target_um)
    out = np.empty(shape, np.float32)
    z_left, z_weight = sources(volume.shape[0], shape[0])
    for start in range(0, shape[0], chunk_planes):
        part = slice(start, min(start + chunk_planes, shape[0]))
        # the halo: from the first plane looked at to one beyond the last
        first, last = z_left[part][0], min(z_left[part][-1] + 2, volume.shape[0])
        slab = np.asarray(volume[first:last], np.float32)
        slab = interpolate_axis(slab, 0, z_left[part] - first, z_weight[part])
        for axis in sorted((1, 2), key=lambda a: shape[a] / volume.shape[a]):  # shrink first, then grow
            slab = interpolate_axis(slab, axis, *sources(volume.shape[axis], shape[axis]))
        out[part] = slab
    return out, true_um


def resampled_shape(shape: Sequence[int], spacing_um: Sequence[float], target_um: Sequence[float]
                    ) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return the shape and the true spacing_um after resampling (see `resample`)."""
    numbers = [*spacing_um, *target_um]
    if len(shape) != 3 or len(numbers) != 6 or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise InputError("Resampling wants a (z,y,x) volume and two spacings.",
                         got=f"shape {tuple(shape)}, spacing {tuple(spacing_um)}, target {tuple(target_um)}",
                         expected="three positive numbers of micrometres each", do="Check the movie's spacing_um.")
    new = tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing_um, target_um, strict=True))
    return new, tuple(s if n == m else n * s / m for n, s, m in zip(shape, spacing_um, new, strict=True))


def sources(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each output sample of an axis, its left input sample and the weight of the right one.

    Voxels are areas, not points: output i covers the same stretch of the axis whatever its neighbours do, and its
    centre lies at (i + 1/2) n_in / n_out - 1/2 (half-pixel centres, torch's align_corners=False).
    """
    x = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    left = x.astype(np.intp)
    return left, (x - left).astype(np.float32)


def interpolate_axis(volume: np.ndarray, axis: int, left: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Interpolate linearly along one axis: volume[left] + weight * (volume[left + 1] - volume[left])."""
    if len(left) == volume.shape[axis] and not weight.any():
        return volume  # scale 1: the identity, to the bit
    right = np.minimum(left + 1, volume.shape[axis] - 1)
    out = np.take(volume, left, axis)
    step = np.take(volume, right, axis)
    step -= out
    step *= weight.reshape([-1 if a == axis else 1 for a in range(volume.ndim)])
    out += step
    return out
