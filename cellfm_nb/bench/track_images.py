"""Linking what our own detector finds in simulated movies at SNR 4: ours beside peers that link the same objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row
from cellfm_nb.bench.track import METRICS, RADII_UM, best, over_seeds
from cellfm_nb.curate import fit_noise, normalize
from cellfm_nb.score.tracks import score_tracks
from cellfm_nb.segment import detect_movie
from cellfm_nb.segment.objects import fitted_light
from cellfm_nb.simulate import Scene, scenario, scenario_optics
from cellfm_nb.track import link_objects, link_with

SEEDS = [111, 112, 113]
PEERS = ("trackpy adaptive", "hungarian", "kalman")
TARGETS = {"sparse": {"hota": 0.94, "tra": 0.96}, "dense": {"hota": 0.78, "tra": 0.88}}


def rows(seeds: Sequence[int] = tuple(SEEDS), snr: float = 4.0) -> Iterator[Row]:
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
                             TARGETS[density].get(metric), list(seeds))


def found_in_images(scene: Scene) -> pd.DataFrame:
    """Return what our detector finds in the rendered frames of a scene, one row per object with its frame.

    mass is the light of the fitted blob, by which notebook 08 links too, and mass_sd its error.
    """
    def frames() -> Iterator[np.ndarray]:
        for t in range(scene.config.shape[0]):
            frame = scene.render(t)[0]
            yield normalize(frame, fit_noise(frame), scene.config.spacing_um)

    tables = detect_movie(frames(), scene.config.spacing_um, scene.psf.sigma_um)
    found = pd.concat([table.assign(frame=t) for t, table in enumerate(tables)], ignore_index=True)
    mass, mass_sd = fitted_light(found, scene.psf.sigma_um)
    return found.assign(mass=mass, mass_sd=mass_sd)


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
