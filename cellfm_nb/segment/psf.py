"""Estimate the optical blur from a volume's own bright, isolated blobs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.segment.filters import check_volume, local_background, matched_filter
from cellfm_nb.segment.maxima import footprint_size, local_maxima

LARGEST = 3_000_000                                         # voxels looked at


def estimate_psf_sigma(
    volume: np.ndarray, spacing_um: Sequence[float], n_blobs: int = 40, min_blobs: int = 5
) -> tuple[float, float, float]:
    """Return the Gaussian sigma (z, y, x) in micrometre of the smallest blobs, y and x alike.

    Parameters
    ----------
    volume : (z, y, x) float32, normalised.
    spacing_um : (z, y, x) micrometre.
    n_blobs : how many of the best blobs are measured.
    min_blobs : fewer than this and the volume cannot tell.

    Returns
    -------
    (z, y, x) micrometre. Objects can only be larger than the PSF, so it is the lower quartile of the fitted widths
    that counts; it is what a detector should look for even where objects are larger.

    Raises
    ------
    InputError when fewer than `min_blobs` isolated blobs stand out.

    Method: maxima of the matched filter that stand alone, a Gaussian with free widths and offset fitted to each, the
    lower quartile, and once more with that. A large volume is read where it is brightest, in `LARGEST` voxels.
    """
    v, spacing = check_volume(volume, spacing_um)
    v = v[brightest_box(v)]
    sigma = np.maximum(np.array([0.32, 0.13, 0.13]), 0.9 * spacing)           # a lattice light sheet's, to begin with
    for _ in range(2):
        z = matched_filter(v - local_background(v, np.ones_like(v), spacing, 4 * sigma, passes=2), spacing, sigma)
        peak = local_maxima(z, footprint_size(spacing, sigma), 8.0)
        peak = isolated(peak, z[tuple(peak.T)], 4 * sigma / spacing)
        peak = peak[inside(peak, v.shape, 2 * sigma / spacing)][:n_blobs]
        widths = np.array([w for w in (gaussian_widths(v, p, sigma / spacing) for p in peak) if w is not None])
        if len(widths) < min_blobs:
            raise InputError("the PSF cannot be estimated from this volume", where="volume",
                             got=f"{len(widths)} bright isolated blobs", expected=f"at least {min_blobs}",
                             do="give sigma_um (z, y, x) in micrometre")
        widths = np.quantile(widths, 0.25, axis=0) * spacing
        lateral = float(np.sqrt(widths[1] * widths[2]))
        sigma = np.array([widths[0], lateral, lateral])
    return tuple(float(s) for s in sigma)


def brightest_box(volume: np.ndarray) -> tuple[slice, ...]:
    """Return a window of at most LARGEST voxels (full depth where possible) around the brightest light."""
    if volume.size <= LARGEST:
        return tuple(slice(0, n) for n in volume.shape)
    shrink = (LARGEST / volume.size) ** 0.5
    size = [volume.shape[0], *(max(32, int(n * shrink)) for n in volume.shape[1:])]
    light = np.maximum(volume, 3.0).mean(0) - 3.0                              # bright voxels alone, (y, x)
    spread = uniform_filter(light, size[1:], mode="constant")
    corner = [0, *(int(np.clip(c - s // 2, 0, n - s)) for c, s, n in
                   zip(np.unravel_index(spread.argmax(), spread.shape), size[1:], light.shape, strict=True))]
    return tuple(slice(c, c + s) for c, s in zip(corner, size, strict=True))


def isolated(peak: np.ndarray, height: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return the peaks (best first) with no other of a third of their height within the ellipsoid `reach`."""
    pairs = cKDTree(peak / reach).query_pairs(1.0, output_type="ndarray") if len(peak) else np.zeros((0, 2), int)
    both = np.concatenate([pairs, pairs[:, ::-1]])
    disturbed = both[height[both[:, 1]] > height[both[:, 0]] / 3, 0]
    return np.delete(peak, np.unique(disturbed), axis=0)


def inside(position: np.ndarray, shape: Sequence[int], margin: np.ndarray) -> np.ndarray:
    """Return which positions stay `margin` voxels away from every border."""
    return ((position >= margin) & (position <= np.array(shape) - 1 - margin)).all(1)


def gaussian_widths(volume: np.ndarray, position: np.ndarray, sigma_px: np.ndarray) -> np.ndarray | None:
    """Return the three widths (voxels) of a Gaussian with free centre, offset and widths; None if the fit is bad."""
    from scipy.optimize import least_squares

    reach = np.maximum(np.ceil(2.5 * sigma_px), 2).astype(int)
    middle = np.rint(position).astype(int)
    box = tuple(slice(max(m - r, 0), m + r + 1) for m, r in zip(middle, reach, strict=True))
    patch = volume[box].astype(float)
    grid = np.meshgrid(*(np.arange(s.start, s.start + n) for s, n in zip(box, patch.shape, strict=True)), indexing="ij")

    def residual(p: np.ndarray) -> np.ndarray:
        u = sum(((g - c) / np.exp(w)) ** 2 for g, c, w in zip(grid, p[2:5], p[5:], strict=True))
        return (p[0] * np.exp(-u / 2) + p[1] - patch).ravel()

    first = np.concatenate([[patch.max(), 0.0], position, np.log(sigma_px)])
    fit = least_squares(residual, first, max_nfev=25)
    width = np.exp(fit.x[5:])
    moved = np.abs(fit.x[2:5] - position) / sigma_px
    good = fit.success and fit.x[0] > 3 and (moved < 1.5).all() and ((width > 0.4) & (width < 4 * sigma_px)).all()
    return width if good else None
