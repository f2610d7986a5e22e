"""Measure how tracks move: speed, and mean squared displacement with the diffusion it implies."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellfm_nb.track.link import POSITION


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
    sums = np.zeros((max_lag, 0))
    total, count = [], []
    for _, t in tracks.groupby("track_id"):
        x = np.full((int(np.ptp(t["frame"])) + 1, 3), np.nan)
        x[t["frame"].to_numpy(int) - int(t["frame"].min())] = t[POSITION].to_numpy(float)
        square = [((x[lag:] - x[:-lag]) ** 2).sum(1) for lag in range(1, max_lag + 1)]
        total.append([np.nansum(s) for s in square])
        count.append([np.isfinite(s).sum() for s in square])
    total, count = (np.array(v, float).reshape(-1, max_lag) for v in (total, count)) if total else (sums.T, sums.T)
    n, tracks_at = count.sum(0), (count > 0).sum(0)
    with np.errstate(invalid="ignore", divide="ignore"):
        msd = total.sum(0) / n
        error = np.sqrt(((total - count * msd) ** 2).sum(0)) / n
    table = pd.DataFrame({"lag_s": dt_s * np.arange(1, max_lag + 1), "msd_um2": msd, "error_um2": error,
                          "n_tracks": tracks_at})
    return table[table["n_tracks"] > 1].reset_index(drop=True)


def diffusion(msd: pd.DataFrame, dimensions: int = 3) -> dict[str, float]:
    """Fit MSD = 2 d D lag^alpha by weighted least squares on logs.

    Returns: D in um^2/s^alpha and alpha, each with its standard error. alpha is 1 for Brownian motion, 2 for directed;
    localisation noise lowers it, and points of one curve are correlated, so that the errors are a lower bound.
    """
    if len(msd) < 2:
        return {"diffusion": np.nan, "diffusion_error": np.nan, "alpha": np.nan, "alpha_error": np.nan}
    weight = msd["msd_um2"] / np.maximum(msd["error_um2"], 1e-12)
    design = np.column_stack([np.ones(len(msd)), np.log(msd["lag_s"])])
    covariance = np.linalg.inv(design.T @ (design * (weight**2).to_numpy()[:, None]))
    intercept, alpha = covariance @ design.T @ (weight**2 * np.log(msd["msd_um2"])).to_numpy()
    value = float(np.exp(intercept) / (2 * dimensions))
    return {"diffusion": value, "diffusion_error": value * float(np.sqrt(covariance[0, 0])),
            "alpha": float(alpha), "alpha_error": float(np.sqrt(covariance[1, 1]))}
