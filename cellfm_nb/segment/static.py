"""The background that stays: what is in every frame of a movie and wider or longer than a blob."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter

from cellfm_nb.segment.filters import expand_blocks

FEW = 6                                                     # frames from which on medians over time mean something
WIDE, LONG = 7, 11                                          # blocks of a line: a blob fills less than half
NEAR = 5                                                    # blocks around one, where halves of a movie are compared
FAINT = 1.0                                                 # noise a voxel: ridges brighter than this are not taken
LINES = ((1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 1, 1), (0, 1, -1))


def blocks(spacing: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return the blocks (voxels) on which the static background is kept: 1.5 PSF sigma wide, .75 deep."""
    return np.maximum(np.rint(np.array([0.75, 1.5, 1.5]) * psf / spacing), 1).astype(int)


def static_background(coarse: Sequence[np.ndarray], block: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return what stays where it is and is wider or longer than a blob: the median over time, without its blobs.

    Parameters: coarse, block means (`blocks`) of a movie's frames, in order of time; block (3,) voxels; shape (z, y, x)
    of a frame. Returns a float32 volume of that shape, zero where frames are fewer than `FEW`.

    Whatever moves, the median over time leaves out; a blob that stays fills too few blocks for the medians along z, y
    and x, one after the other. They also take ridges, as of a cell's rim: faint, but there in every frame, they would
    look like the surest of objects. So ridges are put back, as far as the first frames and the last ones agree on
    them: what noise or a slow object leaves in one half's median is not in the other's. The share they agree on, near
    each block, is Wiener's gain; where a movie has no ridge it is about none.
    """
    if len(coarse) < FEW:
        return np.zeros(shape, np.float32)
    some = list(coarse)[:: max(1, len(coarse) // 24)]
    half = (len(some) // 2 - 1) | 1                         # odd: their median is one of them
    (wide, first), (wide_later, last) = (wide_and_ridges(part) for part in (some[:half], some[-half:]))
    both = (first + last) / 2
    power = np.maximum(uniform_filter(both**2, NEAR), 1e-12)
    agreed = np.clip(uniform_filter(first * last, NEAR) / power, 0, 1)
    return expand_blocks((wide + wide_later) / 2 + agreed * both, block, shape)


def wide_and_ridges(frames: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return what is wide in the median over time, and what goes on along some line, up to `FAINT` beside it."""
    middle = median(frames)
    wide = middle
    for axis in np.eye(3, dtype=int):
        wide = median_along(wide, axis, WIDE)
    ridge, apart = middle, np.full(middle.shape, np.inf, np.float32)
    for step in LINES:                                      # of the medians along lines, the one closest to the value
        along = median_along(middle, step, LONG)
        off = np.abs(along - middle)
        ridge, apart = np.where(off < apart, along, ridge), np.minimum(off, apart)
    return wide, np.clip(ridge - wide, -FAINT, FAINT)       # a blob never loses more


def median_along(volume: np.ndarray, step: Sequence[int], length: int) -> np.ndarray:
    """Return the median of `length` voxels (odd) along a line through each voxel."""
    reach = length // 2
    padded, size = np.pad(volume, reach, mode="edge"), volume.shape
    corners = ([reach + k * d for d in step] for k in range(-reach, reach + 1))
    return median([padded[tuple(slice(c, c + n) for c, n in zip(corner, size, strict=True))] for corner in corners])


def median(arrays: Sequence[np.ndarray]) -> np.ndarray:
    """Return the voxelwise median of an odd number of arrays.

    Of one more than half of them neither the least nor the greatest can be the median: both go and the next comes in
    (forgetful selection). Comparing whole arrays is a few times as fast as sorting the values of each voxel.
    """
    half = len(arrays) // 2 + 2
    held, waiting = list(arrays[:half]), list(arrays[half:])
    while len(held) > 2:
        last = len(held) - 1
        for k in (*range(last), *range(last - 2, -1, -1)):  # the greatest to the end, then the least to the front
            held[k], held[k + 1] = np.minimum(held[k], held[k + 1]), np.maximum(held[k], held[k + 1])
        held = held[1:-1] + waiting[:1]
        waiting = waiting[1:]
    return held[0]
