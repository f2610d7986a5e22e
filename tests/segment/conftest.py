"""A small scene with exact truth: Gaussian puncta in noise of variance 1."""

import numpy as np
import pytest

from cellfm_nb.seeds import rng

SPACING = (0.25, 0.1, 0.1)
PSF = (0.35, 0.13, 0.13)


class Scene:
    """Draw puncta of a given peak; positions in micrometre, labels where a punctum exceeds half its peak."""

    spacing_um, sigma_um = SPACING, PSF

    def __call__(self, positions_um, peaks, shape=(24, 64, 64), seed=0, noise=1.0, own_um=0.0, spacing_um=SPACING):
        spacing, sigma = np.array(spacing_um), np.sqrt(np.array(PSF) ** 2 + own_um**2)
        grid = np.moveaxis(np.indices(shape), 0, -1) * spacing
        volume = rng(seed, "scene", "noise").normal(0, noise, shape) if noise else np.zeros(shape)
        labels, best = np.zeros(shape, np.uint32), np.zeros(shape)
        for k, (p, a) in enumerate(zip(positions_um, peaks, strict=True)):
            model = a * np.exp(-0.5 * (((grid - p) / sigma) ** 2).sum(-1))
            volume += model
            mine = (model >= a / 2) & (model > best)
            labels[mine], best[mine] = k + 1, model[mine]
        return volume.astype(np.float32), labels

    def grid_positions(self, shape=(24, 64, 64), step_um=1.6, seed=0):
        """Return positions on a jittered grid, far apart and away from the border."""
        size = (np.array(shape) - 1) * np.array(SPACING)
        axes = [np.arange(0.9, s - 0.8, step_um) for s in size]
        points = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        return points + rng(seed, "scene", "jitter").uniform(-0.1, 0.1, points.shape)


@pytest.fixture
def scene():
    """Give the scene maker."""
    return Scene()
