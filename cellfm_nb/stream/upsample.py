"""From the token grid back to voxels: trilinear, centres of tokens at the centres of their voxels, slab by slab."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def upsample(features: np.ndarray, patch: tuple[int, int, int], shape: tuple[int, int, int],
             planes: int = 16) -> Iterator[tuple[int, np.ndarray]]:
    """Bring features to the voxels of the volume they came from, a few planes at a time.

    Parameters: features (gz, gy, gx, C), any float; patch, voxels of a token (z, y, x); shape of the volume (z, y, x),
    at most grid times patch; planes of voxels in a slab.
    Yields: z and (n, y, x, C) float32: planes z to z + n. Beyond the outermost centres the nearest token holds, as in
    torch's trilinear interpolation with align_corners=False, which is the oracle in the tests.
    """
    y, x = (between(n, p, g) for n, p, g in zip(shape[1:], patch[1:], features.shape[1:3], strict=True))
    low, share = between(shape[0], patch[0], features.shape[0])
    for z in range(0, shape[0], planes):
        some, part = low[z:z + planes], share[z:z + planes, None, None, None]
        first = min(some[0], features.shape[0] - 1)
        near = features[first:some[-1] + 2].astype(np.float32)  # only the planes of tokens this slab needs
        above = np.minimum(some + 1, features.shape[0] - 1) - first
        slab = near[some - first] * (1 - part) + near[above] * part
        slab = along(along(slab, 1, *y), 2, *x)
        yield z, slab


def between(voxels: int, patch: int, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each voxel, the token below its centre and the share (0..1) of the next one."""
    at = ((np.arange(voxels) + 0.5) / patch - 0.5).clip(0, tokens - 1)
    low = np.floor(at).astype(int)
    return low, (at - low).astype(np.float32)


def along(values: np.ndarray, axis: int, low: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Interpolate along one axis."""
    high = np.minimum(low + 1, values.shape[axis] - 1)
    weight = share.reshape([-1 if a == axis else 1 for a in range(values.ndim)])
    return values.take(low, axis) * (1 - weight) + values.take(high, axis) * weight
