"""Linking true positions of simulated puncta (blinks left out) and clouds of any density: ours beside trackpy,
laptrack, frame-wise Hungarian and a plain Kalman filter; then what is found in images (`track_images`, also a bench by
itself). Viruses, which take longest: `track_virus`.

Each peer gets, per movie, the search radius that is best by truth; ours has none to choose. An interval is that of the
mean over movies, one a seed.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec

import numpy as np
import pandas as pd

from cellfm_nb.bench import Row, alternate, extra_mib
from cellfm_nb.errors import InputError
from cellfm_nb.score.tracks import POSITION, mean_and_interval, score_tracks
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


def rows() -> Iterator[Row]:
    """Score scenes and clouds, time and memory, then what our detector finds."""
    from cellfm_nb.bench import track_images

    yield from scene_rows()
    yield from ablation_rows()
    yield from cloud_rows()
    yield from time_rows()
    yield from track_images.rows()


def over_seeds(case: str, metric: str, better: str, values: dict[str, list[float]], target: float | None = None,
               seeds: list[int] = SEEDS) -> Row:
    """Return the row of one metric from its values per movie, {name: (seeds,)}; "ours" is ours."""
    mean = {name: mean_and_interval(per_movie) for name, per_movie in values.items()}
    ours, low, high = mean.pop("ours")
    return Row(case, metric, better, ours, {name: m[0] for name, m in mean.items()}, target, list(seeds), (low, high))


def objects_of(truth: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Return the visible true positions as an object table, their masses as noisy as a fit at SNR 4 leaves them."""
    seen = truth[truth["visible"]].reset_index(drop=True)
    sd = MASS_NOISE * float(np.median(seen["mass"]))
    noise = rng(seed, "bench track", "mass").normal(0, sd, len(seen))
    return seen.assign(mass=seen["mass"] + noise, mass_sd=sd, label=seen["track_id"] + 1).drop(columns="track_id")


def scene_rows() -> Iterator[Row]:
    """Dense and sparse: ours with mass and by position alone, each beside the peers."""
    laptrack = find_spec("laptrack") is not None                     # a peer that may be missing
    for scene in ("sparse", "dense"):
        config, found = scenario(scene), {}
        for seed in SEEDS:
            truth = simulate_tracks(config, seed)
            table, score = objects_of(truth.positions, seed), partial(_scene_score, truth)
            for identity in ("mass", "none"):
                linked = link_objects(table, config.spacing_um, config.dt_s, identity=identity)
                found.setdefault(identity, []).append(score(linked.tracks, linked.events))
            if laptrack:
                found.setdefault("laptrack split/merge", []).append(max(_laptrack_scores(table, score, config),
                                                                        key=lambda row: row["link_f1"]))
            for name in SCENE_PEERS:
                link = partial(link_with, name, table, config.spacing_um, config.dt_s)
                found.setdefault(name, []).append(best(link, score, "link_f1"))
        for identity, title in (("mass", scene), ("none", f"{scene}, positions only")):
            shown = {"ours": found[identity], **{k: v for k, v in found.items() if k not in ("mass", "none")}}
            for metric, better in METRICS.items():
                yield over_seeds(title, metric, better, {k: [row[metric] for row in v] for k, v in shown.items()},
                                 TARGETS.get((scene, identity), {}).get(metric))


def ablation_rows() -> Iterator[Row]:
    """Dense, true positions: what is lost without each idea; the "peers" are ours without it."""
    without = {"ours": {}, "no light": {"identity": "none"}, "no events": {"events": False},
               "no memory": {"max_gap_frames": 0}, "no light, no events": {"identity": "none", "events": False}}
    config, found = scenario("dense"), {}
    for seed in SEEDS:
        truth = simulate_tracks(config, seed)
        table = objects_of(truth.positions, seed)
        for name, options in without.items():
            linked = link_objects(table, config.spacing_um, config.dt_s, **options)
            found.setdefault(name, []).append(_scene_score(truth, linked.tracks, linked.events))
    for metric in ("link_f1", "id_switches", "hota", "split_f1", "merge_f1"):
        values = {name: [row[metric] for row in got] for name, got in found.items()}
        yield over_seeds("dense, without an idea", metric, METRICS[metric], values)


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
        yield over_seeds(f"cloud, N 500, rho {rho}", "link_f1", "higher", found, 0.86 if rho == 0.7 else None)


def time_rows() -> Iterator[Row]:
    """Time linking per frame against trackpy's at rho 0.3 (peer's best radius), in CPU ms; what events add; memory.

    Medians over clouds: trackpy's time hangs on the largest group of candidates a cloud happens to have.
    """
    for n, frames, target in ((500, 20, 1.2), (5000, 6, 0.6), (20000, 6, 0.6)):
        spent = []
        for seed in SEEDS:
            table, near = cloud(n, 0.3, frames, seed)
            ours = partial(link_objects, table, (0.1, 0.1, 0.1), 1.0, identity="none")
            peer = partial(link_with, "trackpy", table, (0.1, 0.1, 0.1), 1.0, radius_um=2.2 * 0.3 * near)
            spent.append(alternate({"links": partial(ours, events=False), "events": ours, "trackpy": peer},
                                   repeats=3 if n < 20000 else 1, clock=time.process_time))
        ms = {name: 1000 * float(np.median([each[name] for each in spent])) / frames for name in spent[0]}
        yield Row(f"time, N {n}", "CPU ms per frame", "lower", ms["links"], {"trackpy": ms["trackpy"]},
                  target * ms["trackpy"], SEEDS)
        yield Row(f"time, N {n}", "events / links", "lower", ms["events"] / ms["links"] - 1, {}, 1.0, SEEDS)
        yield Row(f"memory, N {n}", "extra MiB", "lower", extra_mib(partial(ours, events=False)), {}, None, SEEDS[-1:])
