"""The Particle Tracking Challenge's fourth scenario re-created (not its own data), in that challenge's measures.

Ours beside peers that link the same objects; each peer gets, per movie, the radius with the best alpha by truth.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row
from cellfm_nb.bench.track import best, over_seeds
from cellfm_nb.score.particles import score_particles
from cellfm_nb.score.tracks import POSITION
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import SceneConfig, scenario, simulate_tracks
from cellfm_nb.track import link_objects, link_with

SEEDS = [101, 102, 103]
PEERS = ("trackpy adaptive", "hungarian", "kalman")
# what our own detector gives (sparse): recall, false share, sd of position z, y, x (um)
DETECTOR = {1: (0.55, 0.15, (0.135, 0.08, 0.08)), 2: (0.85, 0.05, (0.092, 0.054, 0.054)),
            4: (0.96, 0.02, (0.057, 0.031, 0.031)), 7: (0.99, 0.01, (0.035, 0.017, 0.017))}
CHALLENGE = {"alpha": "higher", "beta": "higher", "jsc": "higher", "jsc_theta": "higher", "rmse_um": "lower"}
GATE_UM = 0.5  # the challenge's 5 pixels


def rows(seeds: Sequence[int] = tuple(SEEDS)) -> Iterator[Row]:
    """Score three densities at four signal-to-noise ratios."""
    for n in (100, 500, 1000):
        for snr in DETECTOR:
            found = [virus_scores(scenario("virus", n_puncta=n), snr, seed) for seed in seeds]
            for metric, better in CHALLENGE.items():
                values = {name: [scores[name].get(metric, np.nan) for scores in found] for name in found[0]}
                yield over_seeds(f"virus, {n}, SNR {snr}", metric, better, values, seeds=list(seeds))


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
