"""How much each voxel looks like a blob: matched filter at PSF scales, standardised by an empirical null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from cellfm_nb.segment.filters import along, check_volume, interpolation_matrix, matched_filter, smooth_background

OWN_SIZE = (0.3, 0.85)                                      # object sizes looked for, in units of the lateral PSF sigma
BACKGROUNDS = (3.0, 2.0)                                    # its Gaussian, in units of the PSF sigma


@dataclass(frozen=True)
class ScoreMap:
    """Standardised evidence for a blob at each voxel, and the same for the sign-flipped volume (the decoys).

    z, flipped : (z, y, x) float32, maximum over scales; scale : (z, y, x) uint8, which one; background : subtracted
    from the volume; noise : spread of the map before it was standardised (1 where voxels are independent).
    """

    z: np.ndarray
    flipped: np.ndarray
    scale: np.ndarray
    background: np.ndarray
    noise: float


def standardise(z: np.ndarray, block: np.ndarray, stride: np.ndarray) -> tuple[np.ndarray, float]:
    """Take the local median from the map, divide it by the spread of its lower half; return it and that spread.

    Objects only ever add light: the lower half of the histogram is noise whatever the foreground share (Efron's
    empirical null). The median is local, the spread is one number, half local where noise varies over the field.
    """
    (median, low), centre = block_quantiles(z, block, stride, (0.5, 0.16))
    spread = np.maximum(median - low, 1e-6)
    typical = float(np.median(spread))
    scale = 1 / np.sqrt(spread * typical)                    # half local: a block holds few independent voxels
    z -= spread_out(median, centre, z.shape)
    z *= spread_out(scale, centre, z.shape)
    return z, typical


def block_quantiles(
    volume: np.ndarray, block: np.ndarray, stride: np.ndarray, levels: Sequence[float]
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return a coarse map (one value a block, smoothed over its neighbours) for each quantile level, and its centres.

    Blocks of one size cover the volume, overlapping a little where it is no multiple of them. In a filtered map
    neighbours say the same, so every `stride`-th voxel tells enough.
    """
    index, centre = [], []
    for n, b, s in zip(volume.shape, block, stride, strict=True):
        size = min(b, n)
        start = np.rint(np.linspace(0, n - size, -(-n // size))).astype(int)
        index.append(start[:, None] + np.arange(0, size, s))
        centre.append(start + (size - 1) / 2)
    cells = volume[np.ix_(*(i.ravel() for i in index))].reshape([k for i in index for k in i.shape])
    cells = cells.transpose(0, 2, 4, 1, 3, 5).reshape(-1, np.prod([i.shape[1] for i in index]))
    at = [int(level * (cells.shape[1] - 1)) for level in levels]
    cells.partition(at, axis=1)
    coarse = (cells[:, k].reshape([len(i) for i in index]) for k in at)
    return [uniform_filter(level, 3, mode="nearest") for level in coarse], centre


def spread_out(coarse: np.ndarray, centre: Sequence[np.ndarray], shape: Sequence[int]) -> np.ndarray:
    """Return values at the blocks' centres interpolated at voxels."""
    for axis in range(3):
        coarse = along(coarse, interpolation_matrix(centre[axis], shape[axis]), axis)
    return coarse


def score_map(
    volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float], model: np.ndarray | float = 0.0,
    width: float = BACKGROUNDS[0], background: np.ndarray | None = None,
) -> ScoreMap:
    """Return the evidence map of a normalised volume for blobs of about the PSF's size.

    Parameters
    ----------
    volume, spacing_um, sigma_um : see `detect`.
    model : what is already explained; it is taken away before the local background is measured.
    width : standard deviation of the background's Gaussian, in PSF sigma; background : what it gave, if known.

    Nothing is masked: background and filter are linear, so the sign-flipped volume has the same noise, and a bright
    object's dark surround goes as soon as the object is in the model.
    """
    v, spacing = check_volume(volume, spacing_um)
    psf = np.asarray(sigma_um, float)
    block = np.maximum(np.rint(12 * psf / spacing), 8).astype(int)
    stride = np.maximum(np.rint(1.5 * psf / spacing), 1).astype(int)
    rest = v - model
    background = background_of(rest, spacing, psf, width) if background is None else background
    rest -= background
    (small, noise), (large, more) = (
        standardise(matched_filter(rest, spacing, np.hypot(psf, own * psf[-1])), block, stride) for own in OWN_SIZE)
    return ScoreMap(np.maximum(small, large), -np.minimum(small, large), (large > small).view(np.uint8), background,
                    (noise + more) / 2)


def background_of(rest: np.ndarray, spacing: np.ndarray, psf: np.ndarray, width: float) -> np.ndarray:
    """Return the local background of what no blob explains, `width` PSF sigma wide and .7 of that deep."""
    return smooth_background(rest, spacing, np.maximum(width * np.array([0.7, 1.0, 1.0]) * psf, 2 * spacing))
