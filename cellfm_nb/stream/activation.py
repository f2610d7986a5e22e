"""How much a token looks as if an object were in it: a label-free activation map that means the same in every frame.

The seed sums the channels. After a LayerNorm that sum is zero before the affine, so the map is an arbitrary direction.
Distance from the background in feature space fails too: LayerNorm puts all tokens on one shell, and noise, which
points everywhere, lies further out than objects. Here faint spots are added to the movie's own frames at random
places, and the direction that best tells a token with a spot from the same token without is the Hotelling observer,
w = covariance^-1 (mean change) (Hotelling 1931; Barrett & Myers, Foundations of Image Science, 2004).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from cellfm_nb.errors import InputError

SIGMA_UM = (0.4, 0.16, 0.16)  # s.d. (z, y, x) of an added spot: a small object blurred by a light-sheet microscope
PEAK = (3.0, 6.0)  # height of an added spot in units of the noise: faint, so that faint objects are learned


@dataclass(frozen=True)
class Observer:
    """Tell objects from background along one direction of feature space.

    direction (D,), centre and scale: the activation of a descriptor f is (f . direction - centre) / scale. Over the
    tokens it was fitted to, background has median 0 and (robust) standard deviation 1.
    """

    direction: np.ndarray
    centre: float
    scale: float

    def activation(self, descriptors: np.ndarray) -> np.ndarray:
        """Return the activation of descriptors (..., D): (...), float32."""
        score = np.asarray(descriptors, np.float64) @ self.direction
        return ((score - self.centre) / self.scale).astype(np.float32)


def fit_observer(background: np.ndarray, change: np.ndarray, ridge: float = 0.2) -> Observer:
    """Fit the direction that best detects a change against the spread of descriptors.

    Parameters: background (n, D), descriptors of tokens drawn from all frames, most of them background; change (m, D),
    descriptor with an added spot minus the same token's without; ridge, share of the mean variance added to every
    direction, so that few tokens suffice.
    Returns: `Observer`. The tenth of the tokens that looks most like objects is left out of the final covariance:
    objects would else count as noise.
    """
    if len(background) < 2 or not len(change):
        raise InputError("too few tokens to fit an activation", got=f"{len(background)} tokens, {len(change)} spotted",
                         expected="at least 2, and 1 with a spot", do="take larger frames, or more of them")
    rows, mean = np.asarray(background, np.float64), np.asarray(change, np.float64).mean(0)
    kept = rows
    for _ in range(2):
        covariance = np.cov(kept, rowvar=False)
        covariance += np.eye(len(mean)) * (ridge * np.trace(covariance) / len(mean) + 1e-12)
        direction = np.linalg.solve(covariance, mean)
        score = rows @ direction
        kept = rows[score <= np.quantile(score, 0.9)]
    centre = float(np.median(score))
    below = centre - score[score <= centre]  # the upper half holds the objects
    return Observer(direction, centre, float(1.4826 * np.median(below)) or 1.0)


def add_spots(volume: np.ndarray, patch: tuple[int, int, int], spacing_um: tuple[float, float, float],
              rng: np.random.Generator, sigma_um: tuple[float, float, float] = SIGMA_UM,
              peak: tuple[float, float] = PEAK, share: float = 1 / 32) -> tuple[np.ndarray, np.ndarray]:
    """Add faint Gaussian spots at random places.

    Parameters: volume (z, y, x), normalised; patch, voxels of a token; spacing_um; rng; sigma_um, of a spot; peak,
    range of heights; share, spots per token (at least 8 in all).
    Returns: the volume with spots, float32, and touched (gz, gy, gx) bool: tokens with a voxel over half the mean peak.
    """
    grid = tuple(-(-n // p) for n, p in zip(volume.shape, patch, strict=True))
    added = np.zeros([g * p for g, p in zip(grid, patch, strict=True)], np.float32)
    sigma = np.maximum(np.array(sigma_um) / spacing_um, 0.5)  # a narrower spot falls between voxels
    for _ in range(max(8, round(share * prod(grid)))):
        centre, size = rng.uniform(0, np.array(volume.shape) - 1), sigma * rng.uniform(0.8, 1.3)
        low = np.maximum(0, np.floor(centre - 4 * size)).astype(int)
        high = np.minimum(volume.shape, np.ceil(centre + 4 * size) + 1).astype(int)
        z, y, x = (np.exp(-0.5 * ((np.arange(a, b) - c) / s) ** 2)
                   for a, b, c, s in zip(low, high, centre, size, strict=True))
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        added[box] += (rng.uniform(*peak) * z[:, None, None] * y[:, None] * x).astype(np.float32)
    blocks = added.reshape(grid[0], patch[0], grid[1], patch[1], grid[2], patch[2])
    with_spots = volume + added[tuple(slice(n) for n in volume.shape)]
    return with_spots.astype(np.float32), blocks.max(axis=(1, 3, 5)) > sum(peak) / 4
