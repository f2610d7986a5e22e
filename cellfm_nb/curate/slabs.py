"""Movies too large to hold: computed slab by slab when they are written, from what is read plane by plane."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cellfm_nb.curate.background import check_volume
from cellfm_nb.curate.geometry import along_x
from cellfm_nb.movie import Movie, write_frames
from cellfm_nb.movie.frames import LazyFrame
from cellfm_nb.progress import track


class Planes:
    """One frame and channel of a movie as a (z,y,x) array, read (and refused when not finite) where it is sliced.

    skew_axis "y" exchanges y and x, for those who think of a stage scan as skewed along x.
    """

    def __init__(self, movie: Movie, t: int, c: int = 0, skew_axis: str = "x") -> None:
        self.movie, self.t, self.c, self.skew_axis, self.ndim = movie, t, c, skew_axis, 3
        self.shape = along_x(tuple(movie.shape[2:]), skew_axis)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, planes: slice) -> np.ndarray:
        block = np.asarray(self.movie.data[self.t, self.c, planes])
        return along_x(check_volume(block, f"{self.movie.name}, frame {self.t}", constant_ok=True), self.skew_axis)

    def some(self, limit: int = 128) -> np.ndarray:
        """Read at most `limit` planes, spread evenly: enough for statistics."""
        if len(self) <= limit:
            return self[:]
        return np.concatenate([self[z : z + 1] for z in np.linspace(0, len(self) - 1, limit).astype(int).tolist()])

    def middle(self, planes: int = 192, columns: int = 384, voxels: int = 2**23) -> np.ndarray:
        """Read the middle of the stack, in neighbouring planes: enough to see how the picture moves."""
        nz, ny, nx = self.shape
        size = (min(nz, planes), max(voxels // (min(nz, planes) * min(nx, columns)), 1), columns)
        z, y, x = (slice(max(n - s, 0) // 2, max(n - s, 0) // 2 + s) for n, s in zip(self.shape, size, strict=True))
        return np.concatenate([self[p : p + 1][:, y, x] for p in range(*z.indices(nz))])


class Computed:
    """A (t,c,z,y,x) array whose z slabs are made when asked for: slab(t, c, z0, z1) -> (z1 - z0, y, x).

    at_once, planes made at a time: their float32 and what they are made from are held beside the slab asked for.
    None: as many as 16 MiB hold, 4 to 32.
    """

    def __init__(self, shape: Sequence[int], dtype: Any, slab: Callable[[int, int, int, int], np.ndarray],
                 at_once: int | None = None) -> None:
        self.shape, self.dtype, self.slab = tuple(shape), np.dtype(dtype), slab
        self.at_once = at_once or int(np.clip(2**22 // (shape[3] * shape[4]), 4, 32))

    def __getitem__(self, key: tuple[int, int, slice]) -> np.ndarray:
        t, c, (first, last, _) = key[0], key[1], key[2].indices(self.shape[2])
        if last - first <= self.at_once:
            return to_dtype(self.slab(t, c, first, last), self.dtype)
        block = np.empty((last - first, *self.shape[3:]), self.dtype)
        for z in range(first, last, self.at_once):
            end = min(z + self.at_once, last)
            block[z - first : end - first] = to_dtype(self.slab(t, c, z, end), self.dtype)
        return block


def write_computed(path: str | Path, movie: Computed, spacing_um: Sequence[float], dt_s: float | None, name: str,
                   notes: Sequence[str], what: str, channel_names: Sequence[str] | None = None) -> None:
    """Write a computed movie as `write_frames` does, holding one slab; `what` names the progress line."""
    frames = (LazyFrame(movie, t, name) for t in track(range(movie.shape[0]), what))
    write_frames(path, frames, movie.shape, movie.dtype, spacing_um, dt_s, name, notes=notes,
                 channel_names=channel_names)


def to_dtype(volume: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round and clip a float volume of one's own, in place, into a number type (its own and floats pass through)."""
    if volume.dtype == dtype or not np.issubdtype(dtype, np.integer):
        return volume.astype(dtype, copy=False)
    limits = np.iinfo(dtype)
    top = volume.dtype.type(limits.max)
    if int(top) > limits.max:  # float32 rounds 2^32 - 1 up, to what no longer fits
        top = np.nextafter(top, volume.dtype.type(0))
    np.rint(volume, out=volume)
    return np.clip(volume, limits.min, top, out=volume).astype(dtype)
