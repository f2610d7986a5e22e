"""Linking where not all is seen: the Particle Tracking Challenge's fourth scenario re-created (not its own data), and
what our own detector finds in simulated movies at SNR 4. Ours beside peers that link the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row
from cellfm_nb.bench.track import METRICS, RADII_UM, best, over_seeds
from cellfm_nb.curate import fit_noise, normalize
from cellfm_nb.score.particles import score_particles
from cellfm_nb.score.tracks import POSITION, score_tracks
from cellfm_nb.seeds import rng
from cellfm_nb.segment import detect_movie
from cellfm_nb.simulate import Scene, SceneConfig, scenario, scenario_optics, simulate_tracks
from cellfm_nb.track import link_objects, link_with

VIRUS_SEEDS, IMAGE_SEEDS = [101, 102, 103], [111, 112, 113]
PEERS = ("trackpy adaptive", "hungarian", "kalman")
# what our own detector gives (sparse): recall, false share, sd of position z, y, x (um)
DETECTOR = {1: (0.55, 0.15, (0.135, 0.08, 0.08)), 2: (0.85, 0.05, (0.092, 0.054, 0.054)),
            4: (0.96, 0.02, (0.057, 0.031, 0.031)), 7: (0.99, 0.01, (0.035, 0.017, 0.017))}
CHALLENGE = {"alpha": "higher", "beta": "higher", "jsc": "higher", "jsc_theta": "higher", "rmse_um": "lower"}
GATE_UM = 0.5  # the challenge's 5 pixels
IMAGE_TARGETS = {"sparse": {"hota": 0.94, "tra": 0.96}, "dense": {"hota": 0.78, "tra": 0.88}}


def seen_by_detector(truth: pd.DataFrame, snr: int, shape: tuple[int, ...], spacing: tuple, seed: int) -> pd.DataFrame:
    """Return objects as our detector would find them at an SNR: some missed, some false, places off by its error."""
    recall, false, sd = DETECTOR[snr]
    draw = rng(seed, "bench track", "virus", snr)
    kept = truth[draw.uniform(size=len(truth)) < recall]
    here = kept[POSITION] + draw.normal(0, sd, (len(kept), 3))
    n = draw.poisson(false * len(kept))
    nowhere = pd.DataFrame(draw.uniform(size=(n, 3)) * np.multiply(shape[1:], spacing), columns=POSITION)
    return pd.concat([here.assign(frame=kept["frame"]), nowhere.assign(frame=draw.integers(0, shape[0], n))],
                     ignore_index=True)


def virus_scores(config: SceneConfig, snr: int, seed: int, peers: Sequence[str] = PEERS) -> dict[str, dict]:
    """Score one re-created movie in the challenge's measures: {linker: {alpha, beta, jsc, jsc_theta, rmse_um, ...}}.

    Peers get the radius with the best alpha by truth. The challenge has no splits and merges, so ours looks for none.
    """
    truth = simulate_tracks(config, seed).positions
    table = seen_by_detector(truth, snr, config.shape, config.spacing_um, seed)
    score, grid = partial(_virus_score, truth), (config.spacing_um, config.dt_s)
    found = {"ours": score(link_objects(table, *grid, events=False).tracks)}
    for name in peers:
        found[name] = dict(best(partial(link_with, name, table, *grid), score, "alpha", (0.4, 0.6, 0.8)))
    return found


def _virus_score(truth: pd.DataFrame, tracks: pd.DataFrame) -> dict:
    longer = tracks.groupby("track_id")["frame"].transform("size") > 1   # one position is no track, whoever says so
    return asdict(score_particles(truth, tracks[longer], GATE_UM))


def virus_rows(seeds: Sequence[int] = tuple(VIRUS_SEEDS)) -> Iterator[Row]:
    """Score three densities at four signal-to-noise ratios."""
    for n in (100, 500, 1000):
        for snr in DETECTOR:
            found = [virus_scores(scenario("virus", n_puncta=n), snr, seed) for seed in seeds]
            for metric, better in CHALLENGE.items():
                values = {name: [scores[name].get(metric, np.nan) for scores in found] for name in found[0]}
                yield over_seeds(f"virus, {n}, SNR {snr}", metric, better, values, seeds=list(seeds))


def found_in_images(scene: Scene) -> pd.DataFrame:
    """Return what our detector finds in the rendered frames of a scene, one row per object with its frame.

    mass is the light of the fitted blob, as notebook 07 measures it, and mass_sd its error.
    """
    def frames() -> Iterator[np.ndarray]:
        for t in range(scene.config.shape[0]):
            frame = scene.render(t)[0]
            yield normalize(frame, fit_noise(frame), scene.config.spacing_um)

    tables = detect_movie(frames(), scene.config.spacing_um, scene.psf.sigma_um)
    found = pd.concat([table.assign(frame=t) for t, table in enumerate(tables)], ignore_index=True)
    width = np.sqrt(np.square(scene.psf.sigma_um) + found[["scale"]].to_numpy() ** 2)      # (n, 3) um
    mass = found["amplitude"] * width.prod(1)
    return found.assign(mass=mass, mass_sd=found["sd_log_mass"] * mass.abs())


def image_rows(seeds: Sequence[int] = tuple(IMAGE_SEEDS), snr: float = 4.0) -> Iterator[Row]:
    """Score ours with mass and by position alone, and the peers, on the same detections."""
    optics, camera = scenario_optics()
    for density in ("sparse", "dense"):
        config, found = scenario(density, snr), {}
        for seed in seeds:
            scene = Scene(config, optics, camera, seed)
            for name, scores in image_scores(scene, found_in_images(scene)).items():
                found.setdefault(name, []).append(scores)
        for metric, better in METRICS.items():
            values = {name: [scores[metric] for scores in got] for name, got in found.items()}
            yield over_seeds(f"images, {density}, SNR {snr:g}", metric, better, values,
                             IMAGE_TARGETS[density].get(metric), list(seeds))


def image_scores(scene: Scene, objects: pd.DataFrame) -> dict[str, dict]:
    """Score the linkers on objects found in a scene: {linker: scores}; peers at the radius of best link F1 by truth."""
    config, truth = scene.config, scene.truth
    grid = config.spacing_um, config.dt_s

    def score(tracks: pd.DataFrame, events: pd.DataFrame | None = None) -> dict:
        return asdict(score_tracks(truth.positions, tracks, 0.3, true_events=truth.events, found_events=events))

    found = {}
    for name, identity in (("ours", "mass"), ("ours, positions only", "none")):
        linked = link_objects(objects, *grid, identity=identity)
        found[name] = score(linked.tracks, linked.events)
    for name in PEERS:
        found[name] = best(partial(link_with, name, objects, *grid), score, "link_f1", RADII_UM)
    return found
