"""Trials of finding objects and telling them apart: scales, thresholds, centres, joint distance, cuts, bleaching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import ndimage

from cellfm_nb.curate import fit_noise, normalize
from cellfm_nb.score.detection import score_detection
from cellfm_nb.score.instances import score_instances
from cellfm_nb.seeds import rng
from cellfm_nb.segment import detect_with
from cellfm_nb.segment.bodies import find_foreground, segment_bodies
from cellfm_nb.segment.filters import log_response
from cellfm_nb.segment.instances import FeatureGrid, voronoi
from cellfm_nb.segment.maxima import footprint_size, local_maxima
from cellfm_nb.simulate import Scene, scenario, scenario_optics

POSITION = ["z_um", "y_um", "x_um"]
RATIOS = (1.08, 1.2, 1.4, 1.8, 3.0)  # light of a punctum over its background; the seed's example is 130 over 120


def scales_of_blobs(normalized: Mapping[int, np.ndarray], truth: pd.DataFrame, spacing_um: Sequence[float],
                    sigma_um: Sequence[float]) -> dict[str, float]:
    """Find puncta as maxima of a Laplacian of Gaussian, at one scale and at the maximum over several (A32).

    Parameters: normalized, volumes (z, y, x) by frame; truth, their visible positions in um; spacing_um; sigma_um of
    the PSF. Returns: F1 within one full width at half maximum, the threshold the best by truth for each.
    """
    maps = {"one scale": (1.0,), "three scales": (1.0, 1.5, 2.2)}
    out = {}
    for name, scales in maps.items():
        tables = {}
        for t, volume in normalized.items():
            response = np.max([log_response(volume, spacing_um, np.multiply(sigma_um, s)) for s in scales], axis=0)
            peak = local_maxima(response, footprint_size(np.asarray(spacing_um), np.asarray(sigma_um)), response.std())
            tables[t] = pd.DataFrame(peak * np.asarray(spacing_um), columns=POSITION).assign(
                score=response[tuple(peak.T)])
        out[name] = best_f1(tables, truth, [2.355 * s for s in sigma_um])
    return out


def best_f1(tables: Mapping[int, pd.DataFrame], truth: pd.DataFrame, reach_um: Sequence[float]) -> float:
    """Return the F1 of scored finds by frame, at the threshold that is best by truth."""
    scores = np.concatenate([np.sort(table["score"].to_numpy())[-1000:] for table in tables.values()])
    true = {t: truth.loc[truth["frame"] == t, POSITION].to_numpy() for t in tables}
    cuts = np.unique(np.quantile(scores, np.linspace(0, 0.999, 60))) if len(scores) else [0.0]
    return max(score_detection([(x.loc[x["score"] >= cut, POSITION].to_numpy(), true[t]) for t, x in tables.items()],
                               reach_um).f1 for cut in cuts)


def otsu_against_light(seed: int) -> dict[str, float]:
    """Find puncta by Voronoi-Otsu at several ratios of light to background, plain and denoised first (A36, A37).

    Simulated scenes of the scenario `sparse`, one frame each; the frame is normalised (without that nothing is found).
    Denoised: a Gaussian as wide as the PSF. Returns: F1 within one full width, "1.08", "1.08 denoised", ...
    """
    optics, camera = scenario_optics()
    reach, out = [2.355 * s for s in optics.sigma_um], {}
    for ratio in RATIOS:
        config = scenario("sparse", 1.0, shape=(1, 32, 112, 112), n_puncta=16)
        level = config.background_photons
        config = replace(config, snr=(ratio - 1) * level / np.sqrt(level + camera.read_noise**2))
        scene = Scene(config, optics, camera, seed)
        frame = scene.render(0)[0]
        volume = normalize(frame, fit_noise(frame), config.spacing_um)
        smooth = ndimage.gaussian_filter(volume, np.divide(optics.sigma_um, config.spacing_um))
        true = scene.truth.positions.query("frame == 0 and visible")[POSITION].to_numpy()
        for name, image in ((f"{ratio:g}", volume), (f"{ratio:g} denoised", smooth)):
            found = detect_with("voronoi_otsu", image, config.spacing_um, optics.sigma_um)[POSITION].to_numpy()
            out[name] = score_detection([(found, true)], reach).f1
    return out


def centre_errors(frames: Mapping[int, np.ndarray], labels: Mapping[int, np.ndarray], truth: pd.DataFrame,
                  spacing_um: Sequence[float], distance_um: float = 0.5) -> dict[str, float]:
    """Compare intensity-weighted with geometric centres of the objects found (A38).

    Parameters: frames and labels, (z, y, x) by frame; truth, visible positions in um; spacing_um; distance_um, how far
    an object may be from a true place. The light under an object is what is above the median of the frame.
    Returns: root mean square error in um over matched objects, "weighted", "geometric", and the first over the second.
    """
    from scipy.spatial import cKDTree

    errors: dict[str, list[float]] = {"weighted": [], "geometric": []}
    for t, label in labels.items():
        ids = np.unique(label[label > 0])
        true = truth.loc[truth["frame"] == t, POSITION].to_numpy()
        if not len(ids) or not len(true):
            continue
        light = np.maximum(frames[t] - np.median(frames[t]), 1e-3)
        centres = {"weighted": ndimage.center_of_mass(light, label, ids),
                   "geometric": ndimage.center_of_mass(label > 0, label, ids)}
        at = np.array(centres["geometric"]) * spacing_um
        far, nearest = cKDTree(true).query(at)
        kept = far < distance_um
        for name, centre in centres.items():
            errors[name] += (((np.array(centre) * spacing_um - true[nearest]) ** 2).sum(1))[kept].tolist()
    out = {name: float(np.sqrt(np.mean(e))) if e else float("nan") for name, e in errors.items()}
    return out | {"weighted over geometric": out["weighted"] / out["geometric"]}


def joint_distance(features: np.ndarray, patch: tuple[int, int, int], labels: np.ndarray,
                   spacing_um: Sequence[float]) -> dict[str, float]:
    """Part touching objects by distances of place and features together (A33).

    Parameters: features (z, y, x, d) of a frame's tokens; patch, voxels of a token; labels (z, y, x), the true masks.
    Their union is parted among their centres. Returns: share of the voxels of touching objects that their own centre
    gets, by the weight of space (1 is space alone); empty where no two touch.
    """
    ids = np.unique(labels[labels > 0])
    ring = ndimage.grey_dilation(labels, (3, 3, 3))
    touching = np.unique(labels[(labels > 0) & (ring != labels)])
    if not len(touching):
        return {}
    grid, centres = FeatureGrid(features, patch), np.array(ndimage.center_of_mass(labels > 0, labels, ids))
    among = np.isin(labels, touching)
    parted = {f"{alpha:g}": voronoi(labels > 0, centres, spacing_um, grid, alpha) for alpha in (1.0, 0.8, 0.3)}
    return {name: float((ids[found[among] - 1] == labels[among]).mean()) for name, found in parted.items()}


def touching_bodies(seed: int, pairs: int = 4, radius_px: float = 8.0) -> dict[str, float]:
    """Segment pairs of touching balls with and without normalised cuts (A35).

    Returns: AP50, "with cuts" and "without" (connected parts of the same foreground).
    """
    draw, true = rng(seed, "balls"), np.zeros((32, 48, 48 * pairs), np.uint32)
    grid = np.indices(true.shape)
    for k in range(pairs):
        turn = draw.uniform(0, np.pi)
        away = 0.75 * radius_px * np.array([0, np.sin(turn), np.cos(turn)])
        centre = np.array([16, 24, 24 + 48 * k])
        far = [np.sqrt(((grid - (centre + s * away)[:, None, None, None]) ** 2).sum(0)) for s in (-1, 1)]
        true[np.minimum(*far) < radius_px] = 2 * k + 1
        true[(far[1] < far[0]) & (far[1] < radius_px)] = 2 * k + 2
    light = draw.poisson(100 + 80 * ndimage.gaussian_filter((true > 0).astype(np.float32), 1)).astype(np.float32)
    seen = find_foreground(light, (0.5, 0.5, 0.5))
    found = {"with cuts": segment_bodies(light, (0.5, 0.5, 0.5), seen),
             "without": ndimage.label(seen.mask)[0].astype(np.uint32)}
    return {name: float(score_instances([(labels, true)]).ap[0.5]) for name, labels in found.items()}


def bleached_seeds(maps: Mapping[str, np.ndarray], positive: np.ndarray) -> dict[str, float]:
    """Ask whether one threshold holds while the light fades (A34).

    Parameters: maps, name -> (frames, tokens), what is thresholded; positive (frames, tokens) bool, tokens that truly
    hold an object. The threshold is the best one on the first third of the frames. Returns: F1 of the tokens on the
    last third over that on the first, by name.
    """
    third = max(1, len(positive) // 3)

    def f1(found: np.ndarray, true: np.ndarray) -> float:
        return 2 * np.sum(found & true) / max(found.sum() + true.sum(), 1)

    out = {}
    for name, values in maps.items():
        first, last = values[:third], values[-third:]
        cut = max(np.quantile(first, np.linspace(0.5, 0.999, 100)), key=lambda c: f1(first >= c, positive[:third]))
        out[name] = float(f1(last >= cut, positive[-third:]) / max(f1(first >= cut, positive[:third]), 1e-9))
    return out
