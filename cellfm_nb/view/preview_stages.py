"""Previews of two choices of the pipeline: the threshold and seeds of a segmentation, the places of training crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cellfm_nb.curate.crops import choose_crops
from cellfm_nb.segment.evidence import score_map
from cellfm_nb.segment.instances import voronoi
from cellfm_nb.segment.maxima import local_maxima
from cellfm_nb.view.preview import Preview, preview, small


def preview_seeds(volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float],
                  threshold: float = 5.0) -> Preview:
    """Try a threshold on the score map and how far apart seeds must lie, on one crop of a normalised volume.

    Parameters: volume (z, y, x), normalised; spacing_um; sigma_um of the PSF (z, y, x); threshold to begin with, in
    standard deviations. Seeds are the maxima above the threshold; a voxel above it belongs to its nearest seed.
    The score map is made once: only what the sliders change is computed while they move.
    """
    crop = small(volume)
    z = score_map(crop, spacing_um, sigma_um).z
    fwhm = 2.3548 * float(sigma_um[-1])

    def segmented(_: np.ndarray, threshold: float, seeds_apart_um: float) -> np.ndarray:
        box = tuple(2 * max(1, round(seeds_apart_um * s / sigma_um[-1] / d)) + 1
                    for s, d in zip(sigma_um, spacing_um, strict=True))
        return voronoi(z > threshold, local_maxima(z, box, threshold), spacing_um)

    return preview(segmented, crop, spacing_um, threshold=(2.5, 12.0, float(threshold), 0.25),
                   seeds_apart_um=(0.2 * fwhm, 2 * fwhm, 0.5 * fwhm))


def preview_crops(normalized: np.ndarray, spacing_um: Sequence[float], crop_shape: Sequence[int], n: int = 12,
                  method: str = "content") -> Preview:
    """Try the random seed and the richness of `choose_crops` on one volume: its boxes, outlined.

    Parameters: normalized (z, y, x), spacing_um, crop_shape (z, y, x) voxels, n and method as of `choose_crops`.
    """
    def boxes(crop: np.ndarray, seed: int, richness: float) -> np.ndarray:
        chosen = choose_crops(crop, crop_shape, n, method, np.random.default_rng(seed), richness=richness)
        return chosen[["z0", "y0", "x0"]].to_numpy(float)

    size = tuple(int(c) for c in crop_shape)
    return Preview(boxes, small(normalized), spacing_um,
                   {"seed": (0, 20, 0), "richness": (0.0, 1.0, 0.5, 0.05)}, box=size)
