"""Arrays that do not fit in memory: a channel of a movie, a display range, an overview, all read block by block."""

from __future__ import annotations

from typing import Any

import numpy as np

from cellfm_nb.movie import Movie
from cellfm_nb.view.style import contrast

OVERVIEW_VOXELS = 2**24  # a still picture of a volume larger than this is drawn from every second, third ... voxel
SAMPLE_VOXELS = 2**20  # enough voxels for two percentiles


class Channel:
    """One channel of a movie as (t, z, y, x); a slice reads what it covers and no more."""

    def __init__(self, movie: Movie, channel: int = 0) -> None:
        self.movie, self.channel, self.dtype = movie, channel, movie.dtype
        self.shape = (movie.shape[0], *movie.shape[2:])

    def __getitem__(self, index: Any) -> np.ndarray:
        t, *zyx = index if isinstance(index, tuple) else (index,)
        return np.asarray(self.movie.data[(t, self.channel, *zyx)])


def frame_of(data: Any, t: int = 0) -> Any:
    """Return one (z, y, x) of an array-like of three or four axes, not yet read."""
    return Slab(data, t) if len(data.shape) == 4 else data


class Slab:
    """One frame of a (t, z, y, x) array-like, read where it is sliced."""

    def __init__(self, data: Any, t: int) -> None:
        self.data, self.t, self.shape, self.dtype = data, t, tuple(data.shape[1:]), data.dtype

    def __getitem__(self, index: Any) -> np.ndarray:
        index = index if isinstance(index, tuple) else (index,)
        return np.asarray(self.data[(self.t, *index)])


def display_range(volume: Any) -> tuple[float, float]:
    """Return (low, high) for a (z, y, x) array-like, from percentiles of a few of its planes.

    Whole planes, evenly spread, because a plane is what a file reads at once; of wide planes the middle.
    """
    z, y, x = volume.shape
    if not z * y * x:
        return 0.0, 1.0
    wide = min(y, 512), min(x, 512)
    box = tuple(slice((n - w) // 2, (n + w) // 2) for n, w in zip((y, x), wide, strict=True))
    planes = max(1, min(z, SAMPLE_VOXELS // (wide[0] * wide[1])))
    which = np.unique(np.linspace(0, z - 1, planes + 2).round().astype(int)[1:-1]) if planes < z else range(z)
    return contrast(np.stack([np.asarray(volume[(int(k), *box)]) for k in which]))


def overview(volume: Any) -> tuple[np.ndarray, int]:
    """Return a (z, y, x) array-like in memory, thinned if it is larger than OVERVIEW_VOXELS, and by how much.

    Plane after plane is read, so that memory holds the overview and one plane, however large the volume is.
    """
    shape = tuple(volume.shape)
    step = max(1, int(np.ceil((np.prod(shape, dtype=float) / OVERVIEW_VOXELS) ** (1 / 3))))
    if step == 1:
        return np.asarray(volume[...] if not isinstance(volume, Slab) else volume[()]), 1
    return np.stack([np.asarray(volume[k])[::step, ::step] for k in range(0, shape[0], step)]), step
