"""Coarser levels of an image: by how much each axis is halved, means for intensities, objects kept for labels."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

SMALLEST_PX = 256  # a coarser level is written while the image is wider than this


def pyramid_factors(zyx: tuple[int, ...], spacing_um: tuple[float, ...]) -> list[tuple[int, int, int]]:
    """Return by how much each level is coarser than the image in z, y, x; the first is (1, 1, 1).

    y and x are halved while one is wider than SMALLEST_PX. z is halved with them when that brings the coarser voxel
    nearer to a cube: when the z spacing is below sqrt(2) times that of the level's y and x.
    """
    levels = [(1, 1, 1)]
    while True:
        z, y, x = (-(-n // f) for n, f in zip(zyx, levels[-1], strict=True))
        if max(y, x) <= SMALLEST_PX:
            return levels
        dz, dy, dx = (s * f for s, f in zip(spacing_um, levels[-1], strict=True))
        halve = (z > 1 and dz < np.sqrt(2 * dy * dx), y > 1, x > 1)
        levels.append(tuple(f * (1 + h) for f, h in zip(levels[-1], halve, strict=True)))  # type: ignore[arg-type]


def halve_mean(block: np.ndarray, by: tuple[int, int, int]) -> np.ndarray:
    """Average blocks of `by` voxels, each 1 or 2, of (z, y, x); what sticks out at an end is averaged alone."""
    total = np.zeros(_coarse(block.shape, by), np.float64 if block.dtype.itemsize > 2 else np.float32)
    for part in _parts(block, by):
        total[tuple(map(slice, part.shape))] += part
    for axis, (n, b) in enumerate(zip(block.shape, by, strict=True)):
        if n % b:
            np.moveaxis(total, axis, 0)[-1] *= b  # half a block at this end
    total /= np.prod(by)
    return (np.rint(total, out=total) if block.dtype.kind in "ui" else total).astype(block.dtype)


def halve_labels(labels: np.ndarray, by: tuple[int, int, int], rounds: int = 4) -> tuple[np.ndarray, list[int]]:
    """Give each block of `by` voxels of (z, y, x) one of its objects, never background where an object is.

    The rarest object of a block wins, so that small objects stay; an object that lost all its blocks all the same
    comes first in the next round. Returns: coarse labels, same dtype; ids that fit nowhere (two objects, one voxel).
    """
    if labels.max(initial=0) >= 2**24:  # too far apart for tables: number them anew, background first
        names = np.unique(np.append(labels, 0))
        coarse, lost = halve_labels(np.searchsorted(names, labels), by, rounds)
        return names[coarse].astype(labels.dtype), [int(names[i]) for i in lost]
    counts = np.bincount(labels.ravel().astype(np.uint32, copy=False))
    counts[0] = 0
    ids = np.flatnonzero(counts)
    order, lost = ids[np.argsort(counts[ids], kind="stable")], ids[:0]
    for _ in range(rounds):
        order = np.concatenate([lost, order[~np.isin(order, lost)]])
        rank = np.full(len(counts), len(ids), np.int32)  # background comes last
        rank[order] = np.arange(len(ids))
        best = np.full(_coarse(labels.shape, by), len(ids), np.int32)
        for part in _parts(labels, by):
            seen = best[tuple(map(slice, part.shape))]
            np.minimum(seen, rank[part], out=seen)
        kept = np.zeros(len(ids) + 1, bool)
        kept[best] = True
        lost = order[~kept[:-1]]  # rank r is the object order[r]
        if not len(lost):
            break
    return np.append(order, 0)[best].astype(labels.dtype), [int(i) for i in np.sort(lost)]


def _coarse(shape: tuple[int, ...], by: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-n // b) for n, b in zip(shape, by, strict=True))


def _parts(block: np.ndarray, by: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Yield the first, second, ... voxels of all blocks of (z, y, x); the last block of an axis may lack some."""
    for at in product(*(range(b) for b in by)):
        yield block[tuple(slice(i, None, b) for i, b in zip(at, by, strict=True))]
