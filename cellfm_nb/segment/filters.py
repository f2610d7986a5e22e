"""Filters for blobs in physical units: matched filter, Laplacian of Gaussian, masked local background."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import correlate1d, gaussian_filter

from cellfm_nb.errors import InputError

TRUNCATE = 3.0                                              # kernels reach this many sigma


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
    v, spacing = check_volume(volume, spacing_um)
    out, norm = v, np.ones((1, 1, 1), np.float32)
    for axis in range(3):
        g = gaussian_kernel(sigma_um[axis] / spacing[axis])
        out = correlate1d(out, g, axis, mode="constant")
        inside = correlate1d(np.ones(v.shape[axis]), g**2, mode="constant")
        norm = norm * (1 / np.sqrt(inside)).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    return out * norm


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
    """Return block values linearly interpolated at voxels, one axis after the other."""
    out = np.asarray(coarse, np.float32)
    for axis, (b, n) in enumerate(zip(block, shape, strict=True)):
        if b > 1:
            start = np.arange(0, n, b)
            centre = (start + np.minimum(start + b, n) - 1) / 2
            at = np.interp(np.arange(n), centre, np.arange(len(centre)))
            low = np.minimum(at.astype(int), len(centre) - 1)
            high = np.minimum(low + 1, len(centre) - 1)
            part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
            out = out.take(low, axis) * (1 - part) + out.take(high, axis) * part
    return out
