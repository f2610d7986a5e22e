"""Find blobs: matched filter at PSF scales, empirical null, decoy-controlled threshold, joint fit, second look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.ndimage import maximum_filter
from scipy.spatial import cKDTree

from cellfm_nb.segment.filters import check_volume, expand_blocks, local_background, matched_filter
from cellfm_nb.segment.fit import Blobs, joint_fit, render, start_blobs
from cellfm_nb.segment.threshold import DecoyLaw, fdr_threshold, fit_decoys, q_values

OWN_SIZE = (0.3, 0.85)                                      # object sizes looked for, in units of the lateral PSF sigma
BACKGROUND = (2.0, 3.0, 3.0)                                # its Gaussian, in units of the PSF sigma (z, y, x)
SIGNIFICANT = 6.0                                           # light left out of the background, in z
FLOOR = 2.5                                                 # maxima below this z are no candidates
FWHM = 2.3548


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
    from scipy.ndimage import uniform_filter

    starts = [np.arange(0, n, b) for n, b in zip(volume.shape, block, strict=True)]
    out = np.empty((len(levels), *map(len, starts)), np.float32)
    for i, z in enumerate(starts[0]):
        for j, y in enumerate(starts[1]):
            for k, x in enumerate(starts[2]):
                cell = volume[z : z + block[0], y : y + block[1], x : x + block[2]]
                out[:, i, j, k] = np.quantile(cell, levels)
    return [uniform_filter(level, 3, mode="nearest") for level in out]


def score_map(volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float]) -> ScoreMap:
    """Return the evidence map of a normalised volume for blobs of about the PSF's size.

    Two rounds: the first finds what is bright, the second takes the local background without it. Only significant
    light is masked, of either sign: masking weak maxima would lift the highest noise above the rest of the noise.
    """
    v, spacing = check_volume(volume, spacing_um)
    psf = np.asarray(sigma_um, float)
    wide = np.maximum(np.array(BACKGROUND) * psf, 2 * spacing)
    block = np.maximum(np.rint(12 * psf / spacing), 8).astype(int)
    weight = np.ones_like(v)
    for sizes in (OWN_SIZE[-1:], OWN_SIZE):
        background = local_background(v, weight, spacing, wide)
        maps = [standardise(matched_filter(v - background, spacing, np.sqrt(psf**2 + (s * psf[-1]) ** 2)), block)
                for s in sizes]
        bright = maximum_filter(np.abs(maps[0][0]), footprint_size(spacing, psf)) > SIGNIFICANT
        weight = (~bright).astype(np.float32)
    z = np.stack([m for m, _ in maps])
    return ScoreMap(z.max(0), (-z).max(0), z.argmax(0).astype(np.uint8), background,
                    float(np.mean([noise for _, noise in maps])))


def footprint_size(spacing: np.ndarray, psf: np.ndarray) -> tuple[int, ...]:
    """Return the odd box (voxels) in which a candidate must be the highest: about 1.2 PSF sigma each way."""
    return tuple(2 * max(1, int(round(1.2 * s / d))) + 1 for s, d in zip(psf, spacing, strict=True))


def local_maxima(z: np.ndarray, size: tuple[int, ...], floor: float) -> np.ndarray:
    """Return (N, 3) integer voxels that are the highest of their box and above the floor, best first."""
    peak = np.argwhere((z == maximum_filter(z, size, mode="nearest")) & (z > floor))
    return peak[np.argsort(-z[tuple(peak.T)], kind="stable")]


def parabolic_offset(z: np.ndarray, peak: np.ndarray) -> np.ndarray:
    """Return (N, 3) sub-voxel offsets in -.5...5 from a parabola through each axis' three values."""
    offset = np.zeros(peak.shape)
    middle = z[tuple(peak.T)]
    for axis in range(3):
        low, high = peak.copy(), peak.copy()
        low[:, axis] = np.maximum(low[:, axis] - 1, 0)
        high[:, axis] = np.minimum(high[:, axis] + 1, z.shape[axis] - 1)
        a, b = z[tuple(low.T)], z[tuple(high.T)]
        bend = a - 2 * middle + b
        offset[:, axis] = np.where(bend < 0, 0.5 * (a - b) / np.where(bend < 0, bend, -1), 0)
    return np.clip(offset, -0.5, 0.5)


@dataclass(frozen=True)
class Candidates:
    """Maxima of the score map: (N, 3) sub-voxel positions, scores, index of the best scale, and the decoys' law."""

    position: np.ndarray
    score: np.ndarray
    scale: np.ndarray
    law: DecoyLaw


def find_candidates(evidence: ScoreMap, size: tuple[int, ...]) -> Candidates:
    """Return the candidates of a volume and the law of false ones, from its own sign-flipped map."""
    peak = local_maxima(evidence.z, size, FLOOR)
    decoy = local_maxima(evidence.flipped, size, FLOOR)
    return Candidates(peak + parabolic_offset(evidence.z, peak), evidence.z[tuple(peak.T)],
                      evidence.scale[tuple(peak.T)], fit_decoys(evidence.flipped[tuple(decoy.T)], FLOOR))


def second_look(
    evidence: ScoreMap, volume: np.ndarray, found: Blobs, score: np.ndarray, spacing: np.ndarray, psf: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (positions, scores) of maxima in what the fitted blobs leave: objects a brighter neighbour hid.

    Close to a fitted blob the residual also holds its misfit: scores there are lowered by 6 % of the neighbour's
    (within 1.6 FWHM) and by 2.5 more within .7 FWHM.
    """
    residual = volume - evidence.background - render(found, volume.shape, spacing, psf)
    eye = np.sqrt(psf**2 + (OWN_SIZE[0] * psf[-1]) ** 2)
    z = matched_filter(residual, spacing, eye) / evidence.noise
    peak = local_maxima(z, footprint_size(spacing, psf), FLOOR)
    position, value = peak + parabolic_offset(z, peak), z[tuple(peak.T)].astype(float)
    unit = FWHM * psf / spacing                                                   # voxels in one FWHM
    tree = cKDTree(found.position / unit)
    for row, (at, near) in enumerate(zip(position / unit, tree.query_ball_point(position / unit, 1.6), strict=True)):
        if near:
            distance = np.linalg.norm(found.position[near] / unit - at, axis=1)
            value[row] -= 0.06 * score[near].max() + 2.5 * (distance.min() < 0.7)
    known = tree.query(position / unit, k=1)[0] < 1.6                             # elsewhere the first look has decided
    return position[known], value[known]


def detect(
    volume: np.ndarray, spacing_um: Sequence[float], sigma_um: Sequence[float] | None = None, fdr: float = 0.05,
    looks: int = 2,
) -> pd.DataFrame:
    """Detect blobs of about the PSF's size in a normalised volume; nothing is set for a movie.

    Parameters
    ----------
    volume : (z, y, x) float32, background about N(0, 1) (see `curate.normalize`).
    spacing_um : voxel size (z, y, x), micrometre.
    sigma_um : Gaussian PSF (z, y, x), micrometre; None = `psf.estimate_psf_sigma` of this volume.
    fdr : share of false objects accepted, controlled by decoys (`threshold.q_values`).
    looks : 2 = fit, subtract, look once more for objects hidden by brighter neighbours; 1 = not.

    Returns
    -------
    Table, best first: z, y, x (voxels), z_um, y_um, x_um, score (standardised matched filter), p_value, q_value,
    scale (standard deviation of the object's own size, micrometre), amplitude, sd_amplitude, sd_log_mass, sd_z_um,
    sd_y_um, sd_x_um. Empty where nothing passes.
    """
    v, spacing = check_volume(volume, spacing_um)
    if sigma_um is None:
        from cellfm_nb.segment.psf import estimate_psf_sigma

        sigma_um = estimate_psf_sigma(v, spacing_um)
    psf = np.asarray(sigma_um, float)
    evidence = score_map(v, spacing, psf)
    candidates = find_candidates(evidence, footprint_size(spacing, psf))
    threshold = fdr_threshold(candidates.score, candidates.law, fdr)
    keep = candidates.score >= threshold
    score, flat, noise = candidates.score[keep].astype(float), v - evidence.background, max(evidence.noise, 1.0)
    own = (np.array(OWN_SIZE)[candidates.scale[keep]] * psf[-1]) ** 2
    blobs = start_blobs(candidates.position[keep], score / eye_norm(own, spacing, psf), own)
    blobs = joint_fit(flat, blobs, spacing, psf, noise)
    for _ in range(looks - 1):
        if not len(blobs):
            break
        position, value = second_look(evidence, v, blobs, score, spacing, psf)
        new = value >= threshold
        more = start_blobs(position[new], value[new] / eye_norm(np.zeros(new.sum()), spacing, psf), 0.0)
        blobs, score = joint_fit(flat, blobs.join(more), spacing, psf, noise), np.append(score, value[new])
    q = score.copy()
    if len(score):
        q = np.interp(-score, *monotone(-candidates.score, q_values(candidates.score, candidates.law)))
    return spots_table(blobs, score, candidates.law.p_value(score), q, spacing)


def monotone(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (x, y) sorted by x, as `np.interp` wants them."""
    order = np.argsort(x, kind="stable")
    return x[order], y[order]


def eye_norm(extra: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return |g| of Gaussians of variance psf^2 + extra: score / |g| is the amplitude."""
    sigma = np.sqrt(psf**2 + np.asarray(extra, float)[:, None]) / spacing
    return np.sqrt(np.pi**1.5 * sigma.prod(1))


def spots_table(
    blobs: Blobs, score: np.ndarray, p_value: np.ndarray, q_value: np.ndarray, spacing: np.ndarray
) -> pd.DataFrame:
    """Return the table of detections, best first."""
    table = pd.DataFrame(blobs.position, columns=["z", "y", "x"])
    table[["z_um", "y_um", "x_um"]] = blobs.position * spacing
    table["score"], table["p_value"], table["q_value"] = score, p_value, q_value
    table["scale"] = np.sqrt(blobs.extra)
    table["amplitude"], table["sd_amplitude"] = blobs.amplitude, blobs.sd_amplitude
    table["sd_log_mass"] = blobs.sd_log_mass
    table[["sd_z_um", "sd_y_um", "sd_x_um"]] = blobs.sd_position * spacing
    return table.sort_values("score", ascending=False, ignore_index=True)
