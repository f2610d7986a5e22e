"""How much each voxel looks like a blob: matched filter at PSF scales, standardised by an empirical null."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import uniform_filter

from cellfm_nb.segment.filters import check_volume, expand_blocks, local_background, matched_filter

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


def standardise(z: np.ndarray, block: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the map with its local median removed and divided by the spread of its lower half, and that spread.

    Objects only ever add light: the lower half of the histogram is noise whatever the foreground share (Efron's
    empirical null). The median is local, the spread is one number, half local where noise varies over the field.
    """
    median, low = block_quantiles(z, block, (0.5, 0.16))
    spread = np.maximum(median - low, 1e-6)
    typical = float(np.median(spread))
    scale = np.sqrt(spread * typical)                        # half local: a block holds few independent voxels
    return (z - expand_blocks(median, block, z.shape)) / expand_blocks(scale, block, z.shape), typical


def block_quantiles(volume: np.ndarray, block: np.ndarray, levels: Sequence[float]) -> list[np.ndarray]:
    """Return a coarse map (one value a block, smoothed over its neighbours) for each quantile level."""
    starts = [np.arange(0, n, b) for n, b in zip(volume.shape, block, strict=True)]
    out = np.empty((len(levels), *map(len, starts)), np.float32)
    for i, z in enumerate(starts[0]):
        for j, y in enumerate(starts[1]):
            for k, x in enumerate(starts[2]):
                cell = volume[z : z + block[0], y : y + block[1], x : x + block[2]]
                at = [int(level * (cell.size - 1)) for level in levels]
                out[:, i, j, k] = np.partition(cell.ravel(), at)[at]
    return [uniform_filter(level, 3, mode="nearest") for level in out]


def score_map(
    volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float], model: np.ndarray | float = 0.0,
    width: float = BACKGROUNDS[0],
) -> ScoreMap:
    """Return the evidence map of a normalised volume for blobs of about the PSF's size.

    Parameters
    ----------
    volume, spacing_um, sigma_um : see `detect`.
    model : what is already explained; it is taken away before the local background is measured.
    width : standard deviation of the background's Gaussian, in PSF sigma.

    Nothing is masked: background and filter are linear, so the sign-flipped volume has the same noise, and a bright
    object's dark surround goes as soon as the object is in the model.
    """
    v, spacing = check_volume(volume, spacing_um)
    psf = np.asarray(sigma_um, float)
    block = np.maximum(np.rint(12 * psf / spacing), 8).astype(int)
    rest = v - model
    background = background_of(rest, spacing, psf, width)
    rest -= background
    maps = [standardise(matched_filter(rest, spacing, np.sqrt(psf**2 + (s * psf[-1]) ** 2)), block) for s in OWN_SIZE]
    z = np.stack([m for m, _ in maps])
    return ScoreMap(z.max(0), (-z).max(0), z.argmax(0).astype(np.uint8), background,
                    float(np.mean([noise for _, noise in maps])))


def background_of(rest: np.ndarray, spacing: np.ndarray, psf: np.ndarray, width: float) -> np.ndarray:
    """Return the local background of what no blob explains, `width` PSF sigma wide and .7 of that deep."""
    wide = np.maximum(width * np.array([0.7, 1.0, 1.0]) * psf, 2 * spacing)
    return local_background(rest, np.ones_like(rest), spacing, wide)
