"""What the benches of pretraining share: simulated movies, crops to learn from, and a linear probe on unseen movies.

Three kinds of movies never mix: an encoder learns on one, the probe is fitted on a second, and scored on three more.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_laplace

from cellfm_nb.curate import LEVEL, choose_crops, fit_noise, normalize
from cellfm_nb.encoder import Encoder
from cellfm_nb.score.features import hand_statistics, patch_voxels
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import Scene, scenario, scenario_optics

SNRS = (2.0, 4.0)
LEARNED_ON, PROBE, UNSEEN = (501, 502, 503), 510, (511, 512, 513)  # seeds of movies
LEARN_FRAMES, PROBE_FRAMES, UNSEEN_FRAMES = range(0, 32, 4), (0, 6, 12, 18), (3, 15)
SPACING_UM = scenario("dense").spacing_um
PSF, CAMERA = scenario_optics()
SIGMA_PX = tuple(sigma / s for sigma, s in zip(PSF.sigma_um, SPACING_UM, strict=True))
Triple = tuple[int, int, int]
CELL: Triple = (2, 4, 4)  # voxels
Describe = Callable[[NDArray[np.float32]], np.ndarray]  # a volume (z, y, x) to tokens (n, d)


def foreground(mask: NDArray[np.bool_], patch: Triple) -> NDArray[np.bool_]:
    """Say which tokens hold an object: those with any voxel of its mask.

    Parameters: mask (z, y, x) of all objects; patch, voxels of a token. Returns (n,), tokens in z, y, x order; a
    remainder at the far border counts as a token, as an encoder's padding makes it one.
    """
    return patch_voxels(padded(mask, patch), patch).any(axis=1)


def padded(volume: np.ndarray, patch: Triple) -> np.ndarray:
    """Append zeros so that each axis is whole patches, as the encoder does."""
    return np.pad(volume, [(0, -size % p) for size, p in zip(volume.shape, patch, strict=True)])


@cache
def movies(seed: int, snr: float, frames: tuple[int, ...], way: str = "ours") -> tuple[np.ndarray, np.ndarray, float]:
    """Simulate frames of the scenario `dense`.

    Parameters: seed of the movie; snr; frames; way of normalising, a key of WAYS.
    Returns: volumes (t, z, y, x) float16, masks (t, z, y, x) bool, and the noise in the volumes' units.
    """
    scene = Scene(scenario("dense", snr), PSF, CAMERA, seed)
    taken = [scene.render(t) for t in frames]
    noise = fit_noise(taken[0][0])
    done = [WAYS[way](counts, noise) for counts, _ in taken]
    return (np.stack([volume.astype(np.float16) for volume, _ in done]), np.stack([mask > 0 for _, mask in taken]),
            float(np.mean([unit for _, unit in done])))


def ours(counts: np.ndarray, noise: object) -> tuple[np.ndarray, float]:
    """Stabilise the variance and take the local background away, but for a share: noise of 1."""
    return normalize(counts, noise, SPACING_UM, level=LEVEL), 1.0


def bare(counts: np.ndarray, noise: object) -> tuple[np.ndarray, float]:
    """Stabilise the variance and take all of the local background away: noise of 1."""
    return normalize(counts, noise, SPACING_UM), 1.0


def z_score(counts: np.ndarray, noise: object) -> tuple[np.ndarray, float]:
    """Shift and scale a frame to mean 0, standard deviation 1."""
    x = counts.astype(np.float32)
    return (x - x.mean()) / x.std(), noise.variance(np.median(x)) ** 0.5 / x.std()


def min_max(counts: np.ndarray, noise: object) -> tuple[np.ndarray, float]:
    """Stretch a frame to [0, 1], as the seed does in the end: one hot voxel sets the scale."""
    x = counts.astype(np.float32)
    return (x - x.min()) / np.ptp(x), noise.variance(np.median(x)) ** 0.5 / np.ptp(x)


WAYS = {"ours": ours, "no level": bare, "z-score": z_score, "min-max": min_max}


@cache
def crops(seed: int, shape: Triple = (24, 64, 64), n: int = 192, chosen: str = "content",
          way: str = "ours") -> tuple[np.ndarray, np.ndarray, float]:
    """Cut crops to learn from, half of them at each signal-to-noise ratio.

    Parameters: seed of the movie; shape (z, y, x) voxels; n crops in all; chosen, see `curate.choose_crops`; way of
    normalising. Boxes are chosen on the volumes as we normalise them, whatever the way.
    Returns: crops (n, z, y, x) float16, their masks, and the noise in the crops' units.
    """
    frames, cut, masks, units = tuple(LEARN_FRAMES), [], [], []
    each = -(-n // (len(SNRS) * len(frames)))
    for snr in SNRS:
        volumes, truth, unit = movies(seed, snr, frames, way)
        for t, seen in enumerate(movies(seed, snr, frames, "no level")[0]):
            boxes = choose_crops(seen.astype(np.float32), shape, each, chosen, rng(seed, "bench crops", int(snr), t))
            for corner in boxes[["z0", "y0", "x0"]].to_numpy():
                box = tuple(slice(a, a + size) for a, size in zip(corner, shape, strict=True))
                cut.append(volumes[t][box])
                masks.append(truth[t][box])
        units.append(unit)
    order = rng(seed, "bench crops", "order").permutation(len(cut))[:n]
    return np.stack(cut)[order], np.stack(masks)[order], float(np.mean(units))


class Precision(NamedTuple):
    """Average precision on tokens, and on cells of CELL voxels: a question that is the same for tokens of any size."""

    tokens: float
    cells: float


def probe(describe: Describe, patch: Triple, snr: float, way: str = "ours", box: Triple | None = None) -> Precision:
    """Fit a logistic regression on the tokens of one movie and score it on unseen ones: the mean of theirs.

    Parameters: describe, volume (z, y, x) float32 to tokens (n, d) in z, y, x order; patch, voxels of a token; snr;
    way of normalising; box (z, y, x), look at the middle of each frame alone (None: at all of it).
    A cell takes the score of the token that holds its centre.
    """
    from sklearn.metrics import average_precision_score

    def frames(seed: int, which: tuple[int, ...]) -> list[tuple[np.ndarray, np.ndarray]]:
        volumes, masks, _ = movies(seed, snr, which, way)
        where = middle(volumes.shape[1:], box)
        return [(describe(volume[where].astype(np.float32)), mask[where])
                for volume, mask in zip(volumes, masks, strict=True)]

    def on_cells(scores: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        grid = [-(-n // p) for n, p in zip(shape, patch, strict=True)]
        at = [((np.arange(-(-n // c)) + 0.5) * c // p).astype(int) for n, c, p in zip(shape, CELL, patch, strict=True)]
        return scores.reshape(grid)[np.ix_(*at)].ravel()

    seen = frames(PROBE, PROBE_FRAMES)
    model = fit(np.concatenate([rows for rows, _ in seen]),
                np.concatenate([foreground(mask, patch) for _, mask in seen]))
    found = []
    for seed in UNSEEN:
        told = [(model.decision_function(rows), mask) for rows, mask in frames(seed, UNSEEN_FRAMES)]
        tokens, token_truth, cells, cell_truth = (np.concatenate(part) for part in zip(*(
            (scores, foreground(mask, patch), on_cells(scores, mask.shape), foreground(mask, CELL))
            for scores, mask in told), strict=True))
        found.append((average_precision_score(token_truth, tokens), average_precision_score(cell_truth, cells)))
    return Precision(*(float(value) for value in np.mean(found, axis=0)))


def fit(rows: np.ndarray, truth: NDArray[np.bool_]) -> Any:
    """Return the logistic regression, on standardised rows (n, d), that tells which of them hold an object."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=300)).fit(rows, truth)


def middle(shape: tuple[int, ...], box: Triple | None) -> tuple[slice, ...]:
    """Return the slices of a box in the middle of a volume; all of it for None."""
    return tuple(slice((n - b) // 2, (n + b) // 2) for n, b in zip(shape, box or shape, strict=True))


def learned(encoder: Encoder) -> Describe:
    """Describe tokens by what an encoder says of them."""
    def describe(volume: NDArray[np.float32]) -> np.ndarray:
        with torch.inference_mode():
            return encoder(torch.from_numpy(np.ascontiguousarray(volume))[None, None]).patches[0].numpy()
    return describe


def raw(patch: Triple) -> Describe:
    """Describe tokens by their voxels."""
    return lambda volume: patch_voxels(padded(volume, patch), patch)


def statistics(patch: Triple) -> Describe:
    """Describe tokens by mean, standard deviation, maximum and 95th percentile of their voxels: the fair floor."""
    return lambda volume: hand_statistics(padded(volume, patch), patch)


def statistics_and_log(patch: Triple) -> Describe:
    """Add the largest Laplacian of Gaussian, at the width of the point-spread function, to the four statistics."""
    def describe(volume: NDArray[np.float32]) -> np.ndarray:
        response = -gaussian_laplace(volume, SIGMA_PX)
        peak = patch_voxels(padded(response, patch), patch).max(axis=1)
        return np.column_stack([statistics(patch)(volume), peak])
    return describe
