"""Change the voxel spacing of a volume: trilinear, axis by axis, in chunks that never show a seam."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cellfm_nb.errors import InputError

THREADS = 2  # memory is the limit: more gain nothing


def resample(volume: Any, spacing_um: Sequence[float], target_um: Sequence[float], chunk_planes: int = 64,
             antialias: bool = False) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Resample a volume to another spacing, its physical size kept.

    Parameters: volume (z,y,x), any array that can be sliced (a Zarr array is read slab by slab); spacing_um and
    target_um (z,y,x); chunk_planes, output planes made at a time; antialias, average over the coarser voxel (a
    triangle of its width) where the target is coarser, as a camera with larger pixels would.
    Returns: (volume float32 (z,y,x), true spacing_um). The shape is round(n * spacing / target), at least 1, and the
    true spacing n * spacing / shape, so that n * spacing, the physical size, stays what it was; it differs from
    the target by up to half a voxel over the whole axis.
    Equals torch's F.interpolate(mode="trilinear", align_corners=False) for every chunk size: a chunk reads the
    input planes its own outputs look at, so there is nothing to blend. NaN stays where it is looked at.
    Raises InputError on another shape or an impossible spacing.
    """
    shape, true_um = resampled_shape(volume.shape, spacing_um, target_um)
    out = np.empty(shape, np.float32)
    for z in range(0, shape[0], chunk_planes):
        resample_slab(volume, shape, z, min(z + chunk_planes, shape[0]), antialias, out[z : z + chunk_planes])
    return out, true_um


def resample_slab(volume: Any, shape: Sequence[int], z0: int, z1: int, antialias: bool = False,
                  out: np.ndarray | None = None) -> np.ndarray:
    """Return planes z0..z1 of a volume resampled to `shape`, float32, reading no plane they do not look at."""
    left, weight = (a[z0:z1] for a in taps(volume.shape[0], shape[0], antialias))
    first = max(int(left.min()), 0)  # the halo: from the first plane looked at to the last
    last = min(int(left.max()) + (2 if weight.ndim == 1 else weight.shape[1]), volume.shape[0])
    slab = np.asarray(volume[first:last], np.float32)
    # shrink first, then grow: the less there is, the faster; z, whose planes are whole, last of those that grow
    order = sorted((2, 1, 0), key=lambda a: shape[a] / volume.shape[a])
    for axis in order:
        at, w = (left - first, weight) if axis == 0 else taps(volume.shape[axis], shape[axis], antialias)
        slab = interpolate_axis(slab, axis, at, w, out if axis == order[-1] else None)
    if out is not None and slab is not out:
        out[:] = slab
    return slab


def write_resampled(out_path: str | Path, movie_path: str | Path, target_um: Sequence[float],
                    antialias: bool = False) -> None:
    """Resample a movie, every frame and channel, from file to OME-Zarr in its own number type, slab by slab.

    Parameters: out_path, the .ome.zarr to write; movie_path, any file `Movie.open` reads; target_um (z,y,x);
    antialias as in `resample`. Raises InputError on an impossible spacing and on voxels that are not finite.
    """
    from cellfm_nb.curate.slabs import Computed, Planes, write_computed
    from cellfm_nb.movie import Movie
    from cellfm_nb.movie.spacing import by

    movie = Movie.open(movie_path)
    shape, true_um = resampled_shape(movie.shape[2:], movie.spacing_um, target_um)
    computed = Computed((*movie.shape[:2], *shape), movie.dtype, lambda t, c, z0, z1: resample_slab(
        Planes(movie, t, c), shape, z0, z1, antialias))
    note = f"resampled here from {by(movie.spacing_um)} um, linear"
    write_computed(out_path, computed, true_um, movie.dt_s, movie.name,
                   [*movie.notes, note + ", antialiased" * antialias], "resample", movie.stated_channels)


def resampled_shape(shape: Sequence[int], spacing_um: Sequence[float], target_um: Sequence[float]
                    ) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return the shape and the true spacing_um after resampling (see `resample`)."""
    numbers = [*spacing_um, *target_um]
    if len(shape) != 3 or 0 in shape or len(numbers) != 6 or not all(math.isfinite(n) and n > 0 for n in numbers):
        raise InputError("Resampling wants a (z,y,x) volume and two spacings.",
                         got=f"shape {tuple(shape)}, spacing {tuple(spacing_um)}, target {tuple(target_um)}",
                         expected="three positive numbers of micrometres each", do="Check the movie's spacing_um.")
    new = tuple(max(1, round(n * s / t)) for n, s, t in zip(shape, spacing_um, target_um, strict=True))
    return new, tuple(s if n == m else n * s / m for n, s, m in zip(shape, spacing_um, new, strict=True))


def taps(n_in: int, n_out: int, antialias: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each output sample of an axis, the first input sample it looks at, and the weights.

    Weights (n_out,) are those of the second of two samples (linear); weights (n_out, k) those of k samples in a row.
    """
    scale = n_in / n_out
    if not antialias or scale <= 1:
        return sources(n_in, n_out)
    centre = (np.arange(n_out) + 0.5) * scale - 0.5
    left = np.ceil(centre - scale).astype(np.intp)
    at = left[:, None] + np.arange(math.floor(2 * scale) + 1)
    weight = np.maximum(1 - np.abs(at - centre[:, None]) / scale, 0) * ((at >= 0) & (at < n_in))
    return left, (weight / weight.sum(1, keepdims=True)).astype(np.float32)


def sources(n_in: int, n_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each output sample of an axis, its left input sample and the weight of the right one.

    Voxels are areas, not points: output i covers the same stretch of the axis whatever its neighbours do, and its
    centre lies at (i + 1/2) n_in / n_out - 1/2 (half-pixel centres, torch's align_corners=False).
    """
    x = np.clip((np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5, 0, n_in - 1)
    left = x.astype(np.intp)
    return left, (x - left).astype(np.float32)


def interpolate_axis(volume: np.ndarray, axis: int, left: np.ndarray, weight: np.ndarray,
                     out: np.ndarray | None = None) -> np.ndarray:
    """Interpolate along one axis of (z,y,x): volume[left] + weight * (volume[left + 1] - volume[left]), float32.

    Weights of two dimensions: see `taps`. Works in place and plane by plane, so that all but the first reading and
    the last writing happen in the processor's cache.
    """
    n_in = volume.shape[axis]
    if len(left) == n_in and weight.ndim == 1 and not weight.any():
        return volume  # scale 1: the identity, to the bit
    if out is None:
        out = np.empty([len(left) if a == axis else n for a, n in enumerate(volume.shape)], np.float32)
    weights = weight[:, None] if weight.ndim == 1 else weight  # of the second sample on, or of all
    ways = [np.clip(left + k, 0, n_in - 1) for k in range(weights.shape[1] + (weight.ndim == 1))]

    def planes(part: np.ndarray) -> None:
        for z in part.tolist():
            if axis == 0:
                samples, w = (volume[way[z]] for way in ways), iter(weights[z])
            else:
                samples = (volume[z].take(way, axis - 1) for way in ways)
                w = iter(weights.T[:, :, None] if axis == 1 else weights.T)
            if weight.ndim == 1:
                here, there = samples
                np.subtract(there, here, out=out[z])
                out[z] *= next(w)
                out[z] += here
            else:
                out[z] = sum(sample * share for sample, share in zip(samples, w, strict=True))

    parts = np.array_split(np.arange(len(out)), THREADS if out.size >= 2**20 else 1)
    if len(parts) == 1:
        planes(parts[0])
    else:
        with ThreadPoolExecutor(len(parts)) as pool:
            list(pool.map(planes, parts))
    return out
