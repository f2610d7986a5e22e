"""Measure how tracks move: speed, mean squared displacement with the diffusion it implies, runs, dwell, bleaching."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import curve_fit

from cellfm_nb.seeds import rng
from cellfm_nb.track.chains import Chains
from cellfm_nb.track.cost import common_slope
from cellfm_nb.track.motion import Scales, log_link_motion
from cellfm_nb.track.objects import POSITION
from cellfm_nb.track.scales import moving_axes

RESAMPLES = 60        # of tracks, for an error


def track_statistics(tracks: pd.DataFrame, dt_s: float) -> pd.DataFrame:
    """Return one row per track: rows, duration_s, mean speed (um/s), net displacement (um), straightness 0..1.

    Speed is path length over time; straightness is net displacement over path length (nan for one row).
    """
    rows = []
    for track, t in tracks.sort_values("frame").groupby("track_id"):
        x, frame = t[POSITION].to_numpy(float), t["frame"].to_numpy(int)
        path, time = np.linalg.norm(np.diff(x, axis=0), axis=1).sum(), (frame[-1] - frame[0]) * dt_s
        net = float(np.linalg.norm(x[-1] - x[0]))
        rows.append((track, len(t), time, path / time if time else np.nan, net, net / path if path else np.nan))
    return pd.DataFrame(rows, columns=["track_id", "n", "duration_s", "speed_um_s", "net_um", "straightness"])


def mean_squared_displacement(tracks: pd.DataFrame, dt_s: float, max_lag: int = 10) -> pd.DataFrame:
    """Return lag_s, msd_um2, its standard error over tracks, and the number of tracks, for lags of 1 .. max_lag frames.

    Displacements are averaged within a track, then over tracks with weights by their number; frames a track skips
    are left out, not filled in. The error treats tracks as independent (displacements of one track are not).
    """
    total, count = squared_displacements(tracks, max_lag)
    n, tracks_at = count.sum(0), (count > 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        msd = total.sum(0) / n
        error = np.sqrt(((total - count * msd) ** 2).sum(0)) / n
    table = pd.DataFrame({"lag_s": dt_s * np.arange(1, max_lag + 1), "msd_um2": msd, "error_um2": error,
                          "n_tracks": tracks_at})
    return table[table["n_tracks"] > 1].reset_index(drop=True)


def squared_displacements(tracks: pd.DataFrame, max_lag: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (tracks, max_lag) sums of squared displacements (um^2) over lags 1 .. max_lag, and their numbers."""
    total, count = [np.zeros((0, max_lag))], [np.zeros((0, max_lag))]
    for _, t in tracks.groupby("track_id"):
        x = np.full((int(np.ptp(t["frame"])) + 1, 3), np.nan)
        x[t["frame"].to_numpy(int) - int(t["frame"].min())] = t[POSITION].to_numpy(float)
        square = [((x[lag:] - x[:-lag]) ** 2).sum(1) for lag in range(1, max_lag + 1)]
        total.append([[np.nansum(s) for s in square]])
        count.append([[np.isfinite(s).sum() for s in square]])
    return np.concatenate(total), np.concatenate(count)


def diffusion(tracks: pd.DataFrame, dt_s: float, max_lag: int = 8, dimensions: int | None = None,
              seed: int = 0) -> pd.Series:
    """Fit MSD = 2 d D lag^alpha + 2 d s^2 to the tracks, s being how badly a position is known along an axis.

    dimensions: d; None: the axes along which positions vary.

    Returns: D (um^2/s^alpha), alpha (1 Brownian, 2 directed, below 1 confined) and s (um), each with the standard
    error over resampled tracks, points of one curve being anything but independent. nan with fewer than 3 lags.
    Without s, alpha would come out too low (Michalet 2010).
    """
    dimensions = max(int(moving_axes(tracks).sum()), 1) if dimensions is None else dimensions
    total, count = squared_displacements(tracks, max_lag)
    lag = dt_s * np.arange(1, max_lag + 1)
    good = (count > 0).sum(0) > 1
    names = ["diffusion", "diffusion_error", "alpha", "alpha_error", "localisation", "localisation_error"]
    if good.sum() < 3:
        return pd.Series(np.nan, names)

    def model(t: np.ndarray, log_d: float, alpha: float, s2: float) -> np.ndarray:
        return 2 * dimensions * (np.exp(log_d) * t**alpha + s2)

    def fit(weight: np.ndarray) -> tuple[float, float, float]:
        n = weight @ count[:, good]
        msd = weight @ total[:, good] / np.maximum(n, 1)
        if not (msd > 0).all():                                      # too few tracks were drawn, or nothing moves
            return (np.nan,) * 3
        start = np.log(max(msd[0], 1e-12) / (2 * dimensions * dt_s)), 1.0, 0.1 * msd[0] / (2 * dimensions)
        try:
            found = curve_fit(model, lag[good], msd, start, sigma=msd / np.sqrt(n) * np.sqrt(lag[good]),
                              bounds=([-50, 0.05, 0], [50, 2.2, msd[0] + 1e-12]), max_nfev=500)[0]
        except RuntimeError:
            return (np.nan,) * 3
        return float(np.exp(found[0])), float(found[1]), float(np.sqrt(found[2]))

    draw = rng(seed, "diffusion", "resample")
    again = np.array([fit(draw.multinomial(len(total), np.full(len(total), 1 / len(total))).astype(float))
                      for _ in range(RESAMPLES)])
    best, some = fit(np.ones(len(total))), np.isfinite(again[:, 0])
    error = again[some].std(0) if some.any() else np.full(3, np.nan)
    return pd.Series([v for pair in zip(best, error, strict=True) for v in pair], names)


def directed_runs(tracks: pd.DataFrame, scales: Scales, dt_s: float) -> pd.DataFrame:
    """Return the directed runs: track_id, frame (first), duration_s, length_um, speed_um_s.

    A run is a stretch of links each of which is more likely directed than Brownian, given the whole track before and
    after it and the movie's scales (`Linking.scales`).
    """
    t = tracks.sort_values(["frame", "track_id"]).reset_index(drop=True)
    columns = ["track_id", "frame", "duration_s", "length_um", "speed_um_s"]
    if t["frame"].nunique() < 2:
        return pd.DataFrame(columns=columns)
    nobody = np.zeros(0)                                             # motion alone, whatever the links were told by
    scales = scales.with_(identity_mean=nobody, identity_var=nobody, noise=nobody, walk=nobody)
    x, frame, none = t[POSITION].to_numpy(float).T, t["frame"].to_numpy(int), np.zeros((0, len(t)))
    chains = Chains(x, frame, none, none, np.ones(3), len(scales.gap) - 1, scales)
    before = t.groupby("track_id").cumcount().to_numpy() > 0
    rows = t.reset_index().sort_values(["track_id", "frame"])["index"].to_numpy()
    j = rows[before[rows]]
    i = rows[np.flatnonzero(before[rows]) - 1]
    chains.pred[j], chains.succ[i] = i, j
    chains.refilter()
    g = np.minimum(frame[j] - frame[i], len(scales.gap))
    _, directed, _ = log_link_motion(chains.past, chains.future, i, j, x[:, j] - x[:, i], g, scales, modes=True)
    link = pd.DataFrame({"track_id": t["track_id"].to_numpy()[j], "frame": frame[i],
                         "time": (frame[j] - frame[i]) * dt_s, "length": np.linalg.norm(x[:, j] - x[:, i], axis=0),
                         "on": directed > 0.5})
    link["run"] = ((link["on"] != link["on"].shift()) | (link["track_id"] != link["track_id"].shift())).cumsum()
    runs = link[link["on"]].groupby("run").agg(track_id=("track_id", "first"), frame=("frame", "first"),
                                               duration_s=("time", "sum"), length_um=("length", "sum"))
    return runs.assign(speed_um_s=runs["length_um"] / runs["duration_s"]).reset_index(drop=True)[columns]


def step_lengths(tracks: pd.DataFrame, axes: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """Return the lengths (um) of all steps from one frame to the next along some axes (0 z, 1 y, 2 x)."""
    t = tracks.sort_values(["track_id", "frame"])
    steps = t.groupby("track_id")[[POSITION[a] for a in axes]].diff()[t["gap"] == 0].dropna()
    return np.linalg.norm(steps.to_numpy(float), axis=1)


def model_steps(scales: Scales, n: int, seed: int, axes: tuple[int, ...] = (0, 1, 2)) -> np.ndarray:
    """Return n step lengths (um) as the motion model with these scales draws them, for `step_lengths` to go beside."""
    draw, axes = rng(seed, "track", "model steps"), list(axes)
    directed = draw.uniform(size=(n, 1)) < scales.stationary[1]
    spread = np.sqrt(scales.step_um2[axes] + directed * scales.velocity_um2[axes])
    return np.linalg.norm(spread * draw.standard_normal((n, len(axes))), axis=1)


def dwell(tracks: pd.DataFrame, dt_s: float) -> tuple[float, float]:
    """Return the mean time (s) a track stays, and its standard error, tracks cut by the movie's ends allowed for.

    Time at risk over number of ends seen: the maximum likelihood of a constant rate under censoring. inf without ends.
    """
    span = tracks.groupby("track_id")["frame"].agg(["min", "max"])
    ends = int((span["max"] < tracks["frame"].max()).sum()) if len(span) else 0
    time = float((span["max"] - span["min"] + (span["max"] < span["max"].max())).sum() * dt_s)
    return (time / ends, time / ends / np.sqrt(ends)) if ends else (np.inf, np.inf)


def bleaching(tracks: pd.DataFrame, dt_s: float, seed: int = 0) -> tuple[float, float]:
    """Return the time (s) in which a track's light falls to 1 / e, and its standard error over resampled tracks.

    One slope of log mass for all tracks, a level for each. inf where light does not fall, nan without light.
    """
    t = tracks[tracks["mass"] > 0]
    t = t[t.groupby("track_id")["track_id"].transform("size") > 2]
    if not len(t):
        return np.nan, np.nan
    group = np.unique(t["track_id"], return_inverse=True)[1]
    when, light = t["frame"].to_numpy(float) * dt_s, np.log(t["mass"].to_numpy(float))
    rate = -common_slope(group, when, light, np.ones(len(t)))
    draw, n = rng(seed, "bleaching", "resample"), int(group.max()) + 1
    again = np.array([-common_slope(group, when, light, draw.multinomial(n, np.full(n, 1 / n))[group] + 1e-9)
                      for _ in range(RESAMPLES)])
    return (1 / rate, float(again.std()) / rate**2) if rate > 1e-9 else (np.inf, np.inf)


def motion_table(tracks: pd.DataFrame, scales: Scales, dt_s: float) -> pd.DataFrame:
    """Return what a biologist asks of a movie's motion: quantity, value, error, unit."""
    each, fit, runs = track_statistics(tracks, dt_s), diffusion(tracks, dt_s), directed_runs(tracks, scales, dt_s)
    speed, linked_s = each["speed_um_s"].dropna(), float(each["duration_s"].sum())

    def mean(x: pd.Series) -> tuple[float, float]:
        return (float(x.mean()), float(x.std() / np.sqrt(len(x)))) if len(x) > 1 else (np.nan, np.nan)

    rows = [("speed along the path", *mean(speed), "um/s"),
            ("diffusion coefficient", fit["diffusion"], fit["diffusion_error"], "um^2/s^alpha"),
            ("anomalous exponent alpha", fit["alpha"], fit["alpha_error"], ""),
            ("localisation error", fit["localisation"], fit["localisation_error"], "um"),
            ("time in directed runs", 100 * runs["duration_s"].sum() / linked_s if linked_s else 0.0, np.nan, "%"),
            ("directed run, duration", *mean(runs["duration_s"]), "s"),
            ("directed run, speed", *mean(runs["speed_um_s"]), "um/s"),
            ("dwell of a track", *dwell(tracks, dt_s), "s"), ("bleaching time", *bleaching(tracks, dt_s), "s")]
    return pd.DataFrame(rows, columns=["quantity", "value", "error", "unit"])
