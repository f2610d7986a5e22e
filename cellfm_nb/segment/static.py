"""The background that stays: what is in every frame of a movie and wider or longer than a blob."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellfm_nb.segment.filters import expand_blocks

FEW = 5                                                     # frames from which on a median over time means something
WIDE, LONG = 7, 11                                          # blocks of a line: a blob fills less than half
FAINT = 1.0                                                 # noise a voxel: ridges brighter than this are not taken
LINES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 1, -1))


def blocks(spacing: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return the blocks (voxels) on which the static background is kept: 1.5 PSF sigma wide, .75 deep."""
    return np.maximum(np.rint(np.array([0.75, 1.5, 1.5]) * psf / spacing), 1).astype(int)


def static_background(coarse: Sequence[np.ndarray], block: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return what stays where it is and is wider or longer than a blob: the median over time, without its blobs.

    Whatever moves, the median over time leaves out; a blob that stays fills too few blocks for the medians along z, y
    and x, one after the other. They also take ridges, as of a cell's rim: faint, but there in every frame, they would
    look like the surest of objects. So what goes on along some line is put back, up to FAINT: a blob never loses more.
    """
    if len(coarse) < FEW:
        return np.zeros(shape, np.float32)
    some = np.stack(list(coarse)[:: max(1, len(coarse) // 12)])
    middle = np.partition(some, len(some) // 2, axis=0)[len(some) // 2]
    wide = middle
    for axis in np.eye(3, dtype=int):
        wide = median_along(wide, axis, WIDE)
    ridge, apart = middle, np.full(middle.shape, np.inf, np.float32)
    for step in LINES:                                      # of the medians along lines, the one closest to the value
        median = median_along(middle, step, LONG)
        off = np.abs(median - middle)
        ridge, apart = np.where(off < apart, median, ridge), np.minimum(off, apart)
    return expand_blocks(wide + np.clip(ridge - wide, -FAINT, FAINT), block, shape)


def median_along(volume: np.ndarray, step: Sequence[int], length: int) -> np.ndarray:
    """Return the median of `length` voxels (odd) along a line through each voxel."""
    reach = length // 2
    padded, size = np.pad(volume, reach, mode="edge"), volume.shape
    corners = ([reach + k * d for d in step] for k in range(-reach, reach + 1))
    line = np.stack([padded[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] for corner in corners])
    line.partition(reach, axis=0)
    return line[reach]
