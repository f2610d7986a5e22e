"""Linking true positions of simulated puncta (blinks left out): ours beside trackpy and frame-wise Hungarian.

Each peer gets, per movie, the search radius that is best by truth; ours has none to choose.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from statistics import fmean

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row, alternate
from cellfm_nb.errors import InputError
from cellfm_nb.score.tracks import score_tracks
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import SceneConfig, scenario, simulate_tracks
from cellfm_nb.track import link_objects, link_with

SEEDS = [101, 102, 103]
SCENES = {name: scenario(name) for name in ("sparse", "dense")}
PEERS = ("trackpy", "trackpy adaptive", "hungarian")
RADII_UM = (0.3, 0.45, 0.6, 0.8, 1.1, 1.5)
MASS_NOISE = 0.085  # of the median mass: what a fit at SNR 4 gives
METRICS = {"link_f1": "higher", "id_switches": "lower", "hota": "higher", "tra": "higher", "split_f1": "higher",
           "merge_f1": "higher"}


def objects_of(truth: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the visible true positions as an object table, their masses as noisy as a fit at SNR 4 leaves them."""
    seen = truth[truth["visible"]].reset_index(drop=True)
    sd = MASS_NOISE * float(np.median(seen["mass"]))
    noise = rng(seed, "bench track", "mass").normal(0, sd, len(seen))
    return seen.assign(mass=seen["mass"] + noise, mass_sd=sd, label=seen["track_id"] + 1).drop(columns="track_id")


def rows() -> Iterator[Row]:
    """Score every scene over the seeds, then time one dense movie."""
    for scene, config in SCENES.items():
        ours, peers = [], {name: [] for name in PEERS}
        for seed in SEEDS:
            truth = simulate_tracks(config, seed)
            table = objects_of(truth.positions, seed)
            linked = link_objects(table, config.spacing_um, config.dt_s)
            ours.append(asdict(score_tracks(truth.positions, linked.tracks, 0.3, true_events=truth.events,
                                            found_events=linked.events)))
            for name in PEERS:
                peers[name].append(best(name, table, truth, config))
        for metric, better in METRICS.items():
            yield Row(scene, metric, better, fmean(row[metric] for row in ours),
                      {name: fmean(row[metric] for row in found) for name, found in peers.items()}, seeds=SEEDS)
    spent = alternate({"ours": lambda: link_objects(table, config.spacing_um, config.dt_s),
                       **{name: lambda name=name: link_with(name, table, config.spacing_um, config.dt_s)
                          for name in PEERS}}, repeats=3)
    spent = {name: 1000 * seconds / config.shape[0] for name, seconds in spent.items()}
    yield Row("dense", "ms per frame", "lower", spent.pop("ours"), spent, seeds=SEEDS[-1:])


def best(name: str, table: pd.DataFrame, truth, config: SceneConfig) -> dict:
    """Return a peer's score at the radius with the best link F1; a radius it gives up at counts as not tried."""
    scores = []
    for radius in RADII_UM:
        try:
            tracks = link_with(name, table, config.spacing_um, config.dt_s, radius_um=radius)
        except InputError:
            continue
        scores.append(asdict(score_tracks(truth.positions, tracks, 0.3, true_events=truth.events)))
    return max(scores, key=lambda row: row["link_f1"])
