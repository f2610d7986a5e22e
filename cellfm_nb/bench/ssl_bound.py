"""How well could anybody tell? The bench `ssl`'s question, put to observers who know ever more of how a frame was made.

Each gives a few numbers for each token; the same logistic regression reads them. The first looks at what an encoder is
given, through the stem's filters. The second is told what normalisation has to guess: the true background and camera.
The third knows the background's level too, which says where a cell is. The last weighs every voxel as the place of a
point source: its likelihood ratio for the true PSF and brightness, shared out among the places that explain the same
light (Bayes' rule for one source in a window). What lies between the first and the last is the price of not knowing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

from cellfm_nb.bench import Row
from cellfm_nb.bench.ssl_data import (
    CAMERA,
    PROBE,
    PROBE_FRAMES,
    PSF,
    SIGMA_PX,
    SNRS,
    SPACING_UM,
    UNSEEN,
    UNSEEN_FRAMES,
    Triple,
    fit,
    foreground,
    padded,
)
from cellfm_nb.curate import LEVEL, fit_noise, normalize
from cellfm_nb.encoder import Encoder, EncoderConfig
from cellfm_nb.encoder.patches import asinh, cell_statistics, to_cells
from cellfm_nb.score.features import patch_voxels
from cellfm_nb.simulate import Scene, scenario

PATCH: Triple = (4, 8, 8)
WINDOW: Triple = (3, 5, 5)  # voxels in which one source explains the light
RARITY = 1e-4  # sources per voxel, before looking
OBSERVERS = ("what an encoder is given", "true background", "and its level", "and PSF, brightness, rarity")


class Frame(NamedTuple):
    """Hold a frame as normalised, as photoelectrons above the true background over their true noise, that background,
    and the mask of the objects, all (z, y, x)."""

    given: NDArray[np.float32]
    known: NDArray[np.float32]
    background: NDArray[np.float32]
    mask: NDArray[np.bool_]


def rows() -> Iterator[Row]:
    """Score every observer at every signal-to-noise ratio."""
    for snr in SNRS:
        seen = frames(snr, PROBE, PROBE_FRAMES)
        unseen = [frames(snr, seed, UNSEEN_FRAMES) for seed in UNSEEN]
        found = {name: score(name, seen, unseen) for name in OBSERVERS}
        yield Row(f"dense SNR {snr:g}, who knows all", "probe AP", "higher", found.pop(OBSERVERS[-1]), found,
                  seeds=[PROBE, *UNSEEN])


def frames(snr: float, seed: int, which: tuple[int, ...]) -> list[Frame]:
    """Simulate frames of the scenario `dense` with all that was put into them."""
    scene = Scene(scenario("dense", snr), PSF, CAMERA, seed)
    background = scene.background  # nothing drifts in this scenario
    spread, noise, out = np.sqrt(background + CAMERA.read_noise**2), None, []
    for t in which:
        counts, labels = scene.render(t)
        noise = noise or fit_noise(counts)
        electrons = (counts.astype(np.float32) - CAMERA.offset) / CAMERA.gain
        given = normalize(counts, noise, SPACING_UM, level=LEVEL)
        out.append(Frame(given, (electrons - background) / spread, background, labels > 0))
    return out


def score(name: str, seen: list[Frame], unseen: list[list[Frame]]) -> float:
    """Return the mean over unseen movies of the average precision of an observer's probe."""
    from sklearn.metrics import average_precision_score

    def told(some: list[Frame]) -> tuple[np.ndarray, np.ndarray]:
        return (np.concatenate([observe(name, frame) for frame in some]),
                np.concatenate([foreground(frame.mask, PATCH) for frame in some]))

    model = fit(*told(seen))
    asked = [told(some) for some in unseen]
    return float(np.mean([average_precision_score(truth, model.decision_function(rows)) for rows, truth in asked]))


def observe(name: str, frame: Frame) -> np.ndarray:
    """Return what an observer says of each token: (n, d)."""
    if name == OBSERVERS[0]:
        return filter_statistics(frame.given)
    parts = [filter_statistics(frame.known)]
    if name != OBSERVERS[1]:
        parts.append(cells(frame.background).mean(axis=1))
    if name == OBSERVERS[3]:
        place = posterior(frame)
        reach = uniform_filter(place, 3) * 27  # an object's mask reaches a voxel beyond its centre
        parts += [pick(cells(volume)) for volume in (place, reach) for pick in (lambda c: c.sum(1), lambda c: c.max(1))]
    return np.column_stack(parts)


def posterior(frame: Frame) -> NDArray[np.float64]:
    """Return, for each voxel, how much speaks for a point source there, after Bayes' rule, in [0, 1]: (z, y, x).

    The likelihood ratio at the best brightness is exp(m^2 / 2), m the matched filter's signal-to-noise ratio.
    """
    impulse = np.zeros((25, 25, 25))
    impulse[12, 12, 12] = 1
    unit = np.linalg.norm(gaussian_filter(impulse, SIGMA_PX))  # white noise of 1 leaves the filter with this spread
    matched = gaussian_filter(frame.known.astype(np.float64), SIGMA_PX) / unit
    inside = frame.background > 0.5 * np.percentile(frame.background, 99)
    odds = RARITY * inside * np.exp(np.clip(matched, 0, 30) ** 2 / 2)
    return odds / (1 + uniform_filter(odds, WINDOW) * np.prod(WINDOW))


def filter_statistics(volume: NDArray[np.float32]) -> np.ndarray:
    """Return mean, maximum and standard deviation in each token of what the untrained stem's filters see."""
    stem = Encoder(EncoderConfig(spacing_um=SPACING_UM, patch=PATCH, width=16, depth=1, heads=1, rivals=0)).stem
    with torch.inference_mode():
        response = asinh(stem.filters(torch.from_numpy(padded(volume, PATCH))[None, None].float()))
        return asinh(cell_statistics(to_cells(response, PATCH)))[0].numpy()


def cells(volume: np.ndarray) -> np.ndarray:
    """Return the voxels of each token, (n, voxels)."""
    return patch_voxels(padded(volume, PATCH), PATCH)
