"""Linking true positions of simulated puncta (blinks left out), clouds of any density, and the Particle Tracking
Challenge's fourth scenario re-created: ours beside trackpy, laptrack, frame-wise Hungarian and a plain Kalman filter.

Each peer gets, per movie, the search radius that is best by truth; ours has none to choose.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from statistics import fmean

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row, alternate, extra_mib
from cellfm_nb.errors import InputError
from cellfm_nb.score.particles import score_particles
from cellfm_nb.score.tracks import POSITION, score_tracks
from cellfm_nb.seeds import rng
from cellfm_nb.simulate import SceneConfig, scenario, simulate_tracks
from cellfm_nb.track import link_objects, link_with
from cellfm_nb.track.baselines import laptrack_events

SEEDS = [101, 102, 103]
RADII_UM = (0.3, 0.45, 0.6, 0.8, 1.1, 1.5)
MASS_NOISE = 0.085  # of the median mass: what a fit at SNR 4 gives
SCENE_PEERS = ("trackpy", "trackpy adaptive", "trackpy predicted", "hungarian", "kalman", "seed")
METRICS = {"link_f1": "higher", "id_switches": "lower", "hota": "higher", "tra": "higher", "split_f1": "higher",
           "merge_f1": "higher"}
TARGETS = {("dense", "mass"): {"link_f1": 0.98, "id_switches": 70, "hota": 0.94, "split_f1": 0.93, "merge_f1": 0.93},
           ("dense", "none"): {"link_f1": 0.957, "hota": 0.83}, ("sparse", "mass"): {"id_switches": 6}}
# what our own detector gave in detection_tracking.md (sparse): recall, false share, sd of position z, y, x (um)
DETECTOR = {1: (0.55, 0.15, (0.135, 0.08, 0.08)), 2: (0.85, 0.05, (0.092, 0.054, 0.054)),
            4: (0.96, 0.02, (0.057, 0.031, 0.031)), 7: (0.99, 0.01, (0.035, 0.017, 0.017))}
GATE_UM = 0.5  # the challenge's 5 pixels


def rows() -> Iterator[Row]:
    """Score the scenes, then clouds, then viruses; time comes last."""
    yield from scene_rows()
    yield from cloud_rows()
    yield from virus_rows()
    yield from time_rows()


def objects_of(truth: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the visible true positions as an object table, their masses as noisy as a fit at SNR 4 leaves them."""
    seen = truth[truth["visible"]].reset_index(drop=True)
    sd = MASS_NOISE * float(np.median(seen["mass"]))
    noise = rng(seed, "bench track", "mass").normal(0, sd, len(seen))
    return seen.assign(mass=seen["mass"] + noise, mass_sd=sd, label=seen["track_id"] + 1).drop(columns="track_id")


def scene_rows() -> Iterator[Row]:
    """Dense and sparse: ours with mass and by position alone, each beside the peers."""
    for scene in ("sparse", "dense"):
        config, found = scenario(scene), {}
        for seed in SEEDS:
            truth = simulate_tracks(config, seed)
            table, score = objects_of(truth.positions, seed), partial(_scene_score, truth)
            for identity in ("mass", "none"):
                linked = link_objects(table, config.spacing_um, config.dt_s, identity=identity)
                found.setdefault(identity, []).append(score(linked.tracks, linked.events))
            found.setdefault("laptrack split/merge", []).append(max(_laptrack_scores(table, score, config),
                                                                    key=lambda row: row["link_f1"]))
            for name in SCENE_PEERS:
                link = partial(link_with, name, table, config.spacing_um, config.dt_s)
                found.setdefault(name, []).append(best(link, score, "link_f1"))
        for identity, title in (("mass", scene), ("none", f"{scene}, positions only")):
            for metric, better in METRICS.items():
                mean = {name: fmean(row[metric] for row in got) for name, got in found.items()}
                yield Row(title, metric, better, mean[identity],
                          {name: mean[name] for name in (*SCENE_PEERS, "laptrack split/merge")},
                          TARGETS.get((scene, identity), {}).get(metric), SEEDS)


def _scene_score(truth, tracks: pd.DataFrame, events: pd.DataFrame | None = None) -> dict:
    return asdict(score_tracks(truth.positions, tracks, 0.3, true_events=truth.events, found_events=events))


def _laptrack_scores(table: pd.DataFrame, score: Callable, config: SceneConfig) -> Iterator[dict]:
    """Score laptrack with its own splits and merges at three radii; it is slow."""
    objects = table.sort_values(["frame", "x_um", "y_um", "z_um"], kind="stable").reset_index(drop=True)
    for radius in RADII_UM[2:5] if config.speed_um_s > 0.3 else RADII_UM[:3]:
        tracks = link_with("laptrack split/merge", objects, config.spacing_um, config.dt_s, radius_um=radius)
        yield score(tracks, laptrack_events(objects, radius, 4))


def best(link: Callable, score: Callable, metric: str, radii: tuple[float, ...] = RADII_UM) -> dict:
    """Return a peer's score at the radius with the best metric; one it gives up at counts as not tried, all: nan."""
    scores = []
    for radius in radii:
        try:
            scores.append(score(link(radius_um=radius)))
        except InputError:
            continue
    return max(scores, key=lambda row: row[metric]) if scores else defaultdict(lambda: float("nan"))


def cloud(n: int, rho: float, frames: int, seed: int) -> tuple[pd.DataFrame, float]:
    """Return n Brownian particles in a box with reflecting walls, 5% missed; and the distance of neighbours.

    rho is the rms step over the mean distance to the nearest neighbour; one particle per um^3.
    """
    draw, side, near = rng(seed, "bench track", "cloud", n), n ** (1 / 3), 0.554
    x, tables = draw.uniform(0, side, (n, 3)), []
    for t in range(frames):
        keep = np.flatnonzero(draw.uniform(size=n) > 0.05)
        tables.append(pd.DataFrame(x[keep], columns=POSITION).assign(frame=t, true_id=keep))
        x = side - np.abs(side - np.abs(x + draw.normal(0, rho * near / np.sqrt(3), (n, 3))))
    return pd.concat(tables, ignore_index=True), near


def cloud_rows() -> Iterator[Row]:
    """Link F1 of 500 particles the more their steps reach their neighbours; nan: the peer raises at every radius."""
    for rho in (0.3, 0.5, 0.7, 1.0):
        found: dict[str, list[float]] = {}
        for seed in SEEDS:
            table, near = cloud(500, rho, 6, seed)
            truth = table.assign(track_id=table["true_id"], visible=True)

            def score(tracks: pd.DataFrame, truth: pd.DataFrame = truth) -> dict:
                return {"link_f1": score_tracks(truth, tracks, 1e-6).link_f1}

            ours = link_objects(table, (0.1, 0.1, 0.1), 1.0, identity="none")
            found.setdefault("ours", []).append(score(ours.tracks)["link_f1"])
            for name in ("trackpy", "trackpy adaptive", "hungarian"):
                link = partial(link_with, name, table, (0.1, 0.1, 0.1), 1.0)
                radii = tuple(rho * near * steps for steps in (1.2, 1.6, 2.2))
                found.setdefault(name, []).append(best(link, score, "link_f1", radii)["link_f1"])
        mean = {name: float(np.mean(values)) for name, values in found.items()}
        yield Row(f"cloud, N 500, rho {rho}", "link_f1", "higher", mean.pop("ours"), mean,
                  0.86 if rho == 0.7 else None, SEEDS)


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


def virus_rows(seeds: tuple[int, ...] = (101,)) -> Iterator[Row]:
    """Score the challenge's measures on its fourth scenario re-created, on one seed, as a detector finds it."""
    for n in (100, 500, 1000):
        config = scenario("virus", n_puncta=n)
        truths = {seed: simulate_tracks(config, seed).positions for seed in seeds}
        for snr in DETECTOR:
            found: dict[str, list[dict]] = {}
            for seed, truth in truths.items():
                table = seen_by_detector(truth, snr, config.shape, config.spacing_um, seed)
                score = partial(_virus_score, truth)
                ours = link_objects(table, config.spacing_um, config.dt_s, events=False)   # the challenge has none
                found.setdefault("ours", []).append(score(ours.tracks))
                for name in ("trackpy adaptive", "hungarian", "kalman"):
                    link = partial(link_with, name, table, config.spacing_um, config.dt_s)
                    found.setdefault(name, []).append(best(link, score, "alpha", (0.4, 0.6, 0.8)))
            for metric in ("alpha", "beta", "jsc", "jsc_theta", "rmse_um"):
                mean = {name: fmean(row[metric] for row in got) for name, got in found.items()}
                yield Row(f"virus, {n}, SNR {snr}", metric, "lower" if metric == "rmse_um" else "higher",
                          mean.pop("ours"), mean, seeds=list(seeds))


def _virus_score(truth: pd.DataFrame, tracks: pd.DataFrame) -> dict:
    longer = tracks.groupby("track_id")["frame"].transform("size") > 1   # one position is no track, whoever says so
    return asdict(score_particles(truth, tracks[longer], GATE_UM))


def time_rows() -> Iterator[Row]:
    """Time linking per frame against trackpy's at rho 0.3 (peer's best radius), what events add, memory."""
    for n, frames, target in ((500, 20, 1.2), (5000, 6, 0.6), (20000, 6, 0.6)):
        table, near = cloud(n, 0.3, frames, 1)
        ours = partial(link_objects, table, (0.1, 0.1, 0.1), 1.0, identity="none")
        peer = partial(link_with, "trackpy", table, (0.1, 0.1, 0.1), 1.0, radius_um=2.2 * 0.3 * near)
        spent = alternate({"links": partial(ours, events=False), "events": ours, "trackpy": peer},
                          repeats=3 if n < 20000 else 1)
        ms = {name: 1000 * seconds / frames for name, seconds in spent.items()}
        yield Row(f"time, N {n}", "ms per frame", "lower", ms["links"], {"trackpy": ms["trackpy"]},
                  target * ms["trackpy"], [1])
        yield Row(f"time, N {n}", "events / links", "lower", ms["events"] / ms["links"] - 1, {}, 1.0, [1])
        yield Row(f"memory, N {n}", "extra MiB", "lower", extra_mib(partial(ours, events=False)), {}, None, [1])
