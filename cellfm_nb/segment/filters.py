"""Filters for blobs in physical units: matched filter, Laplacian of Gaussian, local background.

A separable filter is one small matrix an axis; a matrix product with a band is what one core does fastest.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import correlate1d, gaussian_filter

from cellfm_nb.errors import InputError

TRUNCATE = 3.0                                              # kernels reach this many sigma
ROWS = 64                                                   # of a band multiplied at a time


def check_volume(volume: np.ndarray, spacing_um: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return (float32 volume, spacing) or say what is wrong with them."""
    v, spacing = np.asarray(volume, np.float32), np.asarray(spacing_um, float)
    if v.ndim != 3 or v.size == 0:
        raise InputError("not a volume", where="volume", got=f"shape {v.shape}", expected="axes (z, y, x)",
                         do="hand over one frame of one channel")
    if not np.isfinite(v).all():
        raise InputError("the volume holds NaN or infinite voxels", where="volume",
                         got=f"{int((~np.isfinite(v)).sum())} of them", expected="finite values",
                         do="fill or crop them first")
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError("spacing is malformed", where="spacing_um", got=spacing_um,
                         expected="three positive numbers (z, y, x) in micrometre", do="check the movie's metadata")
    return v, spacing


def gaussian_kernel(sigma_px: float, truncate: float = TRUNCATE) -> np.ndarray:
    """Return an odd, unnormalised 1D Gaussian of peak 1."""
    reach = max(1, int(np.ceil(truncate * sigma_px)))
    return np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma_px) ** 2)


def along(volume: np.ndarray, matrix: np.ndarray, axis: int) -> np.ndarray:
    """Return the float32 volume with one axis multiplied by a matrix (out, in), a block of its rows at a time.

    Each block of rows reads only the columns it uses, so a band costs its width and not the length of the axis.
    """
    shape = volume.shape
    v = volume.reshape(int(np.prod(shape[:axis])), shape[axis], -1)      # before, axis, after
    out = np.empty((v.shape[0], len(matrix), v.shape[2]), np.float32)
    for first in range(0, len(matrix), ROWS):
        rows = matrix[first : first + ROWS]
        used = np.flatnonzero(rows.any(0))
        low, high = (used[0], used[-1] + 1) if len(used) else (0, 1)
        rows, into = np.ascontiguousarray(rows[:, low:high], np.float32), slice(first, first + ROWS)
        if v.shape[2] == 1:
            np.matmul(v[:, low:high, 0], rows.T, out=out[:, into, 0])
        else:
            np.matmul(rows, v[:, low:high], out=out[:, into])
    return out.reshape(*shape[:axis], len(matrix), *shape[axis + 1 :])


def band_matrix(n: int, kernel: np.ndarray) -> np.ndarray:
    """Return the (n, n) matrix that correlates with an odd kernel; outside the axis there is nothing."""
    offset = np.arange(n) - np.arange(n)[:, None] + len(kernel) // 2
    return np.where((offset >= 0) & (offset < len(kernel)), kernel[np.clip(offset, 0, len(kernel) - 1)], 0)


def matched_filter(volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float]) -> np.ndarray:
    """Return z = <volume, g> / |g| at every voxel: for white noise of variance 1 it has variance 1 everywhere.

    Parameters
    ----------
    volume : (z, y, x) float32, background 0, noise 1.
    spacing_um, sigma_um : (z, y, x) micrometre; sigma_um is the Gaussian the eye of the filter is made for.

    Returns
    -------
    (z, y, x) float32. At the border only the part of g inside the volume counts, in both products, so that the
    border neither dims objects nor raises the noise (as reflecting it would).
    """
    out, spacing = check_volume(volume, spacing_um)
    for axis in range(3):
        g = band_matrix(out.shape[axis], gaussian_kernel(sigma_um[axis] / spacing[axis]))
        out = along(out, g / np.linalg.norm(g, axis=1, keepdims=True), axis)
    return out


def log_response(volume: np.ndarray, spacing_um: Sequence[float], sigma_um: float | Sequence[float]) -> np.ndarray:
    """Return the scale-normalised negative Laplacian of Gaussian: bright blobs are positive.

    Parameters
    ----------
    volume : (z, y, x) float32.
    spacing_um : (z, y, x) micrometre.
    sigma_um : one scale (an isotropic blob in physical space), or one a axis (z, y, x) (an optical blob).

    Returns
    -------
    (z, y, x) float32, - sum over axes of sigma^2 d2/dx^2 of the smoothed volume. A constant and a linear ramp give 0
    (away from the border); a solid ball of radius r answers most at sigma = r / sqrt(3) (Lindeberg 1998).
    """
    v, spacing = check_volume(volume, spacing_um)
    sigma = np.broadcast_to(np.asarray(sigma_um, float), (3,)) / spacing  # voxels
    smooth = [(g := gaussian_kernel(s, 4.0)) / g.sum() for s in sigma]
    out = np.zeros_like(v)
    for axis in range(3):
        part = v
        for a in range(3):
            kernel = second_derivative_kernel(sigma[a]) if a == axis else smooth[a]
            part = correlate1d(part, kernel, a, mode="nearest")
        out -= sigma[axis] ** 2 * part
    return out


def second_derivative_kernel(sigma_px: float) -> np.ndarray:
    """Return a Gaussian second derivative that is exactly 0 on constants and ramps and exactly 2 on x^2."""
    g = gaussian_kernel(sigma_px, 4.0)
    x = np.arange(len(g)) - len(g) // 2
    kernel = (x**2 / sigma_px**2 - 1) * g
    kernel -= kernel.sum() / g.sum() * g                    # sampling leaves a little: it would see constants
    return 2 * kernel / (kernel * x**2).sum()


def smooth_background(
    volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float], passes: int = 5
) -> np.ndarray:
    """Return the Gaussian mean around each voxel of a reflected volume, without the bias of a curved background.

    Each pass after the first adds the mean of what the last one left ("twicing", Tukey 1977). In the cosines that a
    reflected Gaussian only scales, by w, all passes together are the gain 1 - (1 - w)^passes, and the few lowest
    cosines are all of it.
    """
    basis, gain = [], np.ones((1, 1, 1))
    for axis, n in enumerate(volume.shape):
        frequency = np.arange(n) * np.pi / n
        w = np.exp(-0.5 * (frequency * sigma_um[axis] / spacing_um[axis]) ** 2)
        kept = w > 1e-3
        cosine = np.cos(frequency[kept, None] * (np.arange(n) + 0.5)) * np.sqrt(2 / n)
        cosine[0] *= np.sqrt(0.5)
        basis.append(cosine.astype(np.float32))
        gain = gain * w[kept].reshape([-1 if a == axis else 1 for a in range(3)])
    out = volume
    for axis in (2, 1, 0):
        out = along(out, basis[axis], axis)
    out = out * (1 - (1 - gain) ** passes).astype(np.float32)
    for axis in range(3):
        out = along(out, basis[axis].T, axis)
    return out


def local_background(
    volume: np.ndarray, weight: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float], passes: int = 5
) -> np.ndarray:
    """Return the weighted Gaussian mean around each voxel; weight 0 leaves objects out.

    A mean over a curved background (the rim of a cell) is biased by the curvature; each further pass adds the mean
    of what the last one left ("twicing", Tukey 1977) and takes most of that bias away. It is computed on blocks of
    about a third of sigma: a background is smooth.
    """
    sigma = np.asarray(sigma_um, float) / np.asarray(spacing_um, float)
    block = np.maximum((sigma / 3).astype(int), 1)
    seen = block_mean(weight, block)
    value = block_mean(volume * weight, block) / np.maximum(seen, 1e-6)            # mean of what is seen of a block
    norm = np.maximum(gaussian_filter(seen, sigma / block, mode="nearest", truncate=TRUNCATE), 1e-3)
    background = np.zeros_like(value)
    for _ in range(passes):
        rest = seen * (value - background)
        background += gaussian_filter(rest, sigma / block, mode="nearest", truncate=TRUNCATE) / norm
    return expand_blocks(background, block, volume.shape)


def box_around(middle: np.ndarray, reach: np.ndarray, shape: Sequence[int]) -> list[np.ndarray]:
    """Return an index an axis of the box `reach` voxels each way of a voxel, cut at the volume's border."""
    middle = np.clip(middle, 0, np.array(shape) - 1)
    return [np.arange(max(m - r, 0), min(m + r + 1, n)) for m, r, n in zip(middle, reach, shape, strict=True)]


def block_mean(volume: np.ndarray, block: np.ndarray) -> np.ndarray:
    """Return means over blocks (the last block of an axis may be smaller)."""
    for axis, b in enumerate(block):
        if b > 1:
            start = np.arange(0, volume.shape[axis], b)
            count = np.diff(np.append(start, volume.shape[axis]))
            shape = [-1 if a == axis else 1 for a in range(3)]
            volume = np.add.reduceat(volume, start, axis) / count.reshape(shape).astype(np.float32)
    return volume


def expand_blocks(coarse: np.ndarray, block: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Return block values linearly interpolated at voxels, one axis after the other; a slope goes on to the border."""
    out = np.asarray(coarse, np.float32)
    for axis, (b, n) in enumerate(zip(block, shape, strict=True)):
        if b > 1:
            start = np.arange(0, n, b)
            out = along(out, interpolation_matrix((start + np.minimum(start + b, n) - 1) / 2, n, True), axis)
    return out


def interpolation_matrix(centre: np.ndarray, n: int, beyond: bool = False) -> np.ndarray:
    """Return the (n, centres) matrix that interpolates between values at the centres.

    Outside them the outermost value stays, or (`beyond`) the outermost slope goes on.
    """
    if len(centre) == 1:
        return np.ones((n, 1))
    x = np.arange(n)
    low = np.clip(np.searchsorted(centre, x) - 1, 0, len(centre) - 2)
    share = (x - centre[low]) / (centre[low + 1] - centre[low])
    share = share if beyond else np.clip(share, 0, 1)
    matrix = np.zeros((n, len(centre)))
    matrix[x, low], matrix[x, low + 1] = 1 - share, share
    return matrix
