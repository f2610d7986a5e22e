"""The accepted objects of a window, fitted frame by frame, then once more with what their paths' other frames tell."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from cellfm_nb.segment.blobs import Look, eye_norm, spots_table
from cellfm_nb.segment.evidence import BACKGROUNDS, background_of
from cellfm_nb.segment.fit import OWN_SIZE, Blobs, Prior, joint_fit, render, start_blobs, weak_prior
from cellfm_nb.segment.links import Soft, World, step_variances
from cellfm_nb.segment.threshold import q_values

SWEEPS = (4, 4)                                             # of the fit, before and after frames have been compared
TOO_NARROW = 4.0                                            # times variance / score^2: a free fit's width is too small
CHANGE = 0.1                                                # PSF variances by which an object's size may change


def refit(
    held: Sequence[Look], soft: Sequence[Soft], chosen: Sequence[Sequence[int]], more: Sequence[Soft],
    owner: Sequence[np.ndarray], world: World, spacing: np.ndarray,
) -> list[pd.DataFrame]:
    """Return a table a frame of the chosen candidates and of those that were filled in.

    Parameters: held, soft, the frames and their candidates; chosen, indices of those accepted; more, filled in; owner,
    index of the path of each one, -1 for none; world, what the paths were weighed against; spacing (3,) um.
    """
    psf, chosen = world.sigma_um, [np.array(c, int) for c in chosen]
    fits, flats = [], []
    for seen, some, c, m in zip(held, soft, chosen, more, strict=True):
        extra = np.append(np.concatenate([seen.blobs.extra, seen.extra])[c], np.full(len(m), OWN_SIZE * psf[-1] ** 2))
        amplitude = np.append(np.append(seen.blobs.amplitude, seen.value / eye_norm(seen.extra, spacing, psf))[c],
                              m.score / eye_norm(extra[len(c) :], spacing, psf))
        place, flat = np.concatenate([some.position_um[c], m.position_um]) / spacing, seen.flat.astype(np.float32)
        start = start_blobs(place, np.maximum(amplitude, 0.1), extra)
        blobs = joint_fit(flat, start, spacing, psf, seen.noise, SWEEPS[0])
        flat -= background_of(flat - render(blobs, flat.shape, spacing, psf), spacing, psf, BACKGROUNDS[0])
        fits.append(blobs)                                  # the faint ones were still in their own background
        flats.append(flat)
    tables = []
    prior = path_priors(fits, owner, [seen.noise for seen in held], world, spacing)
    for seen, some, c, m, flat, blobs, p in zip(held, soft, chosen, more, flats, fits, prior, strict=True):
        blobs = joint_fit(flat, blobs, spacing, psf, seen.noise, SWEEPS[1], p)
        score = np.append(some.score[c], m.score)
        q = np.append(q_values(np.append(seen.score, seen.value), seen.law)[c], np.ones(len(m)))
        tables.append(spots_table(blobs, score, seen.law.p_value(score), q, spacing))
    return tables


def path_priors(
    fits: Sequence[Blobs], owner: Sequence[np.ndarray], noise: Sequence[float], world: World, spacing: np.ndarray
) -> list[Prior]:
    """Return for each frame's blobs what the other frames of their paths say of place and size.

    The place: from the neighbours in time, as far as a step may lead. The size: the mean over the path, each frame by
    its Fisher information, which is that of a Gaussian's width with its height unknown.
    """
    count = [len(b) for b in fits]
    frame, of = np.repeat(np.arange(len(fits)), count), np.concatenate(owner)
    psf, weak = world.sigma_um, weak_prior(1, world.sigma_um)
    place, variance = (np.concatenate(x) for x in zip(*((b.position, b.sd_position**2) for b in fits), strict=True))
    extra, height = (np.concatenate([getattr(b, f) for b in fits]) for f in ("extra", "amplitude"))
    score = height * eye_norm(extra, spacing, psf) / np.repeat(noise, count)
    told = score**2 / 8 * ((psf**2 + extra[:, None]) ** -2.0).sum(1)
    before, width = weak.extra_precision[0], weak.extra[0]
    alone = of < 0
    group = np.where(alone, of.max(initial=-1) + 1 + np.arange(len(of)), of)           # who has no path is by itself
    wider = TOO_NARROW * (psf[-1] ** 2 + extra) / score**2                              # its place follows the noise
    value = extra * (told + before) - before * width + told * wider
    precision = np.bincount(group, told)[group] - told + before
    size = np.clip((np.bincount(group, value)[group] - value + before * width) / precision, 0, None)
    precision = np.where(alone, before, 1 / (1 / precision + (CHANGE * psf[-1] ** 2) ** 2))
    step = sum(share * v for share, v in step_variances(1, world)) / spacing**2
    weight, pull = np.zeros_like(place), np.zeros_like(place)
    order = np.lexsort((frame, group))
    for one, other in ((order[1:], order[:-1]), (order[:-1], order[1:])):
        same = group[one] == group[other]
        i, j = one[same], other[same]
        w = 1 / (variance[j] + step * np.abs(frame[i] - frame[j])[:, None])
        weight[i] += w
        pull[i] += w * place[j]
    mean = pull / np.maximum(weight, 1e-12)
    rows = np.split(np.arange(len(of)), np.cumsum(count)[:-1])
    return [Prior(mean[k], weight[k], size[k], precision[k]) for k in rows]
