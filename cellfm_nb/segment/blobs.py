"""Find blobs in one frame: maxima of the score map, decoy-controlled threshold, joint fit, second look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from cellfm_nb.segment.evidence import BACKGROUNDS, OWN_SIZE, ScoreMap, background_of, score_map
from cellfm_nb.segment.filters import check_volume
from cellfm_nb.segment.fit import Blobs, joint_fit, render, start_blobs
from cellfm_nb.segment.maxima import footprint_size, local_maxima, parabolic_offset
from cellfm_nb.segment.threshold import DecoyLaw, fdr_threshold, fit_decoys, q_values

MISFIT = ((0.7, 0.2), (1.6, 0.06), (2.2, 0.03))             # up to so many FWHM from a blob, this share of its score
FLOOR = 2.5                                                 # maxima below this z are no candidates
FWHM = 2.3548
SWEEPS = (5, 3)                                             # of the fit, before and after the background is renewed


@dataclass(frozen=True)
class Candidates:
    """Maxima of the score map: (N, 3) sub-voxel positions, scores, index of the best scale.

    And the decoys, maxima of the sign-flipped map: (M, 3) voxels, scores, their law.
    """

    position: np.ndarray
    score: np.ndarray
    scale: np.ndarray
    decoy_position: np.ndarray
    decoy_score: np.ndarray
    law: DecoyLaw


def find_candidates(evidence: ScoreMap, size: tuple[int, ...]) -> Candidates:
    """Return the candidates of a volume and the law of false ones, from its own sign-flipped map."""
    peak = local_maxima(evidence.z, size, FLOOR)
    decoy = local_maxima(evidence.flipped, size, FLOOR)
    false = evidence.flipped[tuple(decoy.T)]
    return Candidates(peak + parabolic_offset(evidence.z, peak), evidence.z[tuple(peak.T)],
                      evidence.scale[tuple(peak.T)], decoy, false, fit_decoys(false, FLOOR))


def discount(
    candidates: Candidates, flipped: np.ndarray, found: Blobs, score: np.ndarray, unit: np.ndarray
) -> np.ndarray:
    """Return the candidates' scores, lowered near fitted blobs, where the residual also holds their misfit.

    No PSF is quite Gaussian: a blob leaves a share of its score in its surround (`MISFIT`). An object that is no blob
    at all leaves more, and of both signs: a candidate must also rise above the deepest trough near by. `flipped` is
    the sign-flipped map; `unit` is one FWHM in voxels.
    """
    out = candidates.score.astype(float)
    if not len(found) or not len(out):
        return out
    position = candidates.position
    near = cKDTree(found.position / unit).query_ball_point(position / unit, MISFIT[-1][0])
    rows = np.flatnonzero([len(n) > 0 for n in near])
    depth = np.maximum(trough(flipped, position[rows], np.ceil(0.8 * unit).astype(int)) - 3.5, 0)   # noise digs that
    for row, deep in zip(rows, depth, strict=True):
        distance = np.linalg.norm((found.position[near[row]] - position[row]) / unit, axis=1)
        zone = np.searchsorted([reach for reach, _ in MISFIT], distance)
        share = np.array([share for _, share in MISFIT])[zone]
        out[row] -= (share * score[near[row]]).max() + deep + 2.5 * (distance.min() < MISFIT[0][0])
    return out


def trough(flipped: np.ndarray, position: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Return (N,) the highest value of the sign-flipped map within `reach` voxels of each position."""
    middle = np.rint(position).astype(int)
    z, y, x = (np.clip(middle[:, [a]] + np.arange(-reach[a], reach[a] + 1), 0, flipped.shape[a] - 1) for a in range(3))
    return flipped[z[:, :, None, None], y[:, None, :, None], x[:, None, None, :]].max((1, 2, 3), initial=-np.inf)


@dataclass(frozen=True)
class Look:
    """What one frame shows: blobs that stand out by themselves, fitted; what may be more; and what noise gives.

    blobs, score : fitted, accepted at the stated false discovery rate; position (N, 3) voxels, value (N,), extra (N,)
    um^2 : candidates below that level in what the fit leaves; law : of the decoys there, decoy_position, decoy_score;
    flat : (z, y, x) float16, the volume without its background; z : the same of the last look's score map; noise : of
    neighbouring voxels together, >= 1.
    """

    blobs: Blobs
    score: np.ndarray
    position: np.ndarray
    value: np.ndarray
    extra: np.ndarray
    law: DecoyLaw
    decoy_position: np.ndarray
    decoy_score: np.ndarray
    flat: np.ndarray
    z: np.ndarray
    noise: float


def look(
    volume: np.ndarray, spacing: np.ndarray, psf: np.ndarray, fdr: float, looks: int = 2, width: float = BACKGROUNDS[0]
) -> Look:
    """Fit what stands out, subtract it, and look again: objects hidden by brighter neighbours appear."""
    size, unit = footprint_size(spacing, psf), FWHM * psf / spacing
    blobs, score, model = start_blobs(np.zeros((0, 3)), np.zeros(0), 0.0), np.zeros(0), np.zeros_like(volume)
    background = None
    for _ in range(looks):
        evidence = score_map(volume, spacing, psf, model, width, background)
        candidates, background = find_candidates(evidence, size), evidence.background
        value = discount(candidates, evidence.flipped, blobs, score, unit)
        own = (np.array(OWN_SIZE)[candidates.scale] * psf[-1]) ** 2
        new = value >= fdr_threshold(np.append(score, value), candidates.law, fdr)
        more = start_blobs(candidates.position[new], value[new] / eye_norm(own[new], spacing, psf), own[new])
        blobs, score = blobs.join(more), np.append(score, value[new])
        for sweeps in SWEEPS if new.any() else ():          # a background without the blobs, and once more
            blobs = joint_fit(volume - background, blobs, spacing, psf, max(evidence.noise, 1.0), sweeps)
            model = render(blobs, volume.shape, spacing, psf)
            background = background_of(volume - model, spacing, psf, width)
    flat, noise = volume - background, max(evidence.noise, 1.0)
    blobs = joint_fit(flat, blobs, spacing, psf, noise, sweeps=1)    # moves nothing: the errors, by the noise left now
    return Look(blobs, score, candidates.position[~new], value[~new], own[~new], candidates.law,
                candidates.decoy_position, candidates.decoy_score, flat.astype(np.float16),
                evidence.z.astype(np.float16), noise)


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
    seen = look(v, spacing, psf, fdr, looks, choose_background(v, spacing, psf, fdr))
    q = q_values(np.append(seen.score, seen.value), seen.law)[: len(seen.score)]
    return spots_table(seen.blobs, seen.score, seen.law.p_value(seen.score), q, spacing)


def choose_background(volume: np.ndarray, spacing: np.ndarray, psf: np.ndarray, fdr: float) -> float:
    """Return the width of the background with which most blobs are found at the stated false discovery rate.

    A wide one keeps more of faint blobs in an even surround, a narrow one copes with rims and haze; decoys suffer
    from an unsuited one just as the candidates do, so the counts at one rate can be compared.
    """
    count = {}
    for width in BACKGROUNDS:
        candidates = find_candidates(score_map(volume, spacing, psf, width=width), footprint_size(spacing, psf))
        count[width] = (q_values(candidates.score, candidates.law) <= fdr).sum()
    return max(count, key=count.get)


def eye_norm(extra: np.ndarray, spacing: np.ndarray, psf: np.ndarray) -> np.ndarray:
    """Return |g| of Gaussians of variance psf^2 + extra: score / |g| is the amplitude."""
    sigma = np.sqrt(psf**2 + np.asarray(extra, float)[:, None]) / spacing
    return np.sqrt(np.pi**1.5 * sigma.prod(1))


def spots_table(
    blobs: Blobs, score: np.ndarray, p_value: np.ndarray, q_value: np.ndarray, spacing: np.ndarray
) -> pd.DataFrame:
    """Return the table of detections, best first."""
    axes = ("z", "y", "x")
    columns = dict(zip(axes, blobs.position.T, strict=True))
    columns |= {f"{a}_um": place for a, place in zip(axes, (blobs.position * spacing).T, strict=True)}
    columns |= {"score": score, "p_value": p_value, "q_value": q_value, "scale": np.sqrt(blobs.extra),
                "amplitude": blobs.amplitude, "sd_amplitude": blobs.sd_amplitude, "sd_log_mass": blobs.sd_log_mass}
    columns |= {f"sd_{a}_um": sd for a, sd in zip(axes, (blobs.sd_position * spacing).T, strict=True)}
    order = np.argsort(-np.asarray(score, float), kind="stable")
    return pd.DataFrame({name: values[order] for name, values in columns.items()})
