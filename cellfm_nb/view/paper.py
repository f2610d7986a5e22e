"""Figures as a paper would print them, each drawn from tables and arrays a run has already written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from cellfm_nb.view.canvas import draw, edges
from cellfm_nb.view.charts import beside, cycle
from cellfm_nb.view.style import BRIGHT, STYLE, WIDTH_IN, Picture, contrast, picture, say, scale_bar

LOSS_UNITS = {"loss": "weighted sum", "dino": "nats", "ibot": "nats", "koleo": "nats", "denoise": "Huber, noises",
              "redundancy": "squared correlations",
              "entropy_patch": "of log K", "entropy_cls": "of log K", "rankme": "directions", "masked_spread": "s.d.",
              "feature_std": "s.d."}  # what a panel of `losses` is in


@rc_context(STYLE)
def overview(volume: np.ndarray, spacing_um: Sequence[float], rgb: np.ndarray | None = None,
             rgb_spacing_um: Sequence[float] | None = None, labels: np.ndarray | None = None,
             tracks: pd.DataFrame | None = None, rgb_title: str = "features as colours") -> Picture:
    """Draw the whole pipeline in four panels: volume, features as colours, objects, tracks.

    volume, labels: (z, y, x), shown as maximum projections along z. spacing_um: (z, y, x) in um.
    rgb: (z, y, x, 3) in 0..1, at each y, x the brightest along z is shown; its sampling is its own, so its spacing too.
    tracks: columns track_id, frame, x_um, y_um. A panel whose data is None says so.
    """
    ratio = volume.shape[1] * spacing_um[1] / (volume.shape[2] * spacing_um[2])
    fig = picture(WIDTH_IN, WIDTH_IN * float(np.clip(ratio, 0.4, 1.2)) + 0.6)
    axes = [fig.add_subplot(2, 2, i + 1, xticks=[], yticks=[]) for i in range(4)]
    flat, step = volume.max(0), spacing_um[1:]
    low, high = contrast(flat)
    draw(axes[0], flat, step, low, high)
    if rgb is not None:
        brightest = rgb.max(-1).argmax(0)[None, :, :, None]  # 1, y, x, 1
        draw(axes[1], np.take_along_axis(rgb, brightest, 0)[0], (rgb_spacing_um or spacing_um)[1:])
    if labels is not None:
        draw(axes[2], flat, step, low, high)
        draw(axes[2], edges(labels.max(0)), step)
    if tracks is not None:
        draw(axes[3], flat, step, low, high)
        add_tracks(axes[3], tracks)
    counts = ("", "" if labels is None else f", {len(np.unique(labels[labels > 0]))}",
              "" if tracks is None else f", {tracks['track_id'].nunique()}")
    titles = ("volume", rgb_title, f"objects{counts[1]}", f"tracks{counts[2]}")
    for ax, letter, title, there in zip(axes, "ABCD", titles, (volume, rgb, labels, tracks), strict=True):
        if there is None:
            say(ax, "not in this run")
        else:
            scale_bar(ax)
        ax.set_title(f"$\\bf{{{letter}}}$  {title}")
    return fig


def add_tracks(ax: Axes, tracks: pd.DataFrame) -> None:
    """Draw tracks in the plane over axes in um, each in its own colour."""
    paths = {int(k): rows.sort_values("frame")[["x_um", "y_um"]].to_numpy() for k, rows in tracks.groupby("track_id")}
    colours = [BRIGHT[k % len(BRIGHT)] for k in paths]
    ax.add_collection(LineCollection(list(paths.values()), colors=colours, linewidths=1.1), autolim=False)


def displacement(tracks: pd.DataFrame, dt_s: float, max_lag: int | None = None) -> pd.DataFrame:
    """Compute the mean squared displacement against the time lag, over all tracks and starting points.

    tracks: columns track_id, frame, z_um, y_um, x_um; gaps in frames are fine. dt_s: seconds between frames.
    max_lag: largest lag in frames (default: a quarter of the longest track; longer lags have too few pairs).
    Returns: lag_frames, lag_s, msd_um2, sem_um2 (from independent tracks), pairs, tracks; one row per lag.
    Method: time and ensemble average (Qian, Sheetz, Elson, Biophys. J. 60:910, 1991).
    """
    paths = [dense(rows) for _, rows in tracks.groupby("track_id")]  # each (frames, 3), NaN where the track has a gap
    longest = max((len(path) for path in paths), default=0) - 1
    rows = []
    for lag in range(1, (max_lag or max(1, longest // 4)) + 1):
        squares = [((path[lag:] - path[:-lag]) ** 2).sum(1) for path in paths]
        squares = [kept for s in squares if len(kept := s[np.isfinite(s)])]
        if squares:
            pairs, means = np.array([len(s) for s in squares]), np.array([s.mean() for s in squares])  # per track
            share = pairs / pairs.sum()
            msd = float((share * means).sum())
            sem = float(np.sqrt((share**2 * (means - msd) ** 2).sum())) if len(pairs) > 1 else np.nan
            rows.append((lag, lag * dt_s, msd, sem, int(pairs.sum()), len(pairs)))
    return pd.DataFrame(rows, columns=["lag_frames", "lag_s", "msd_um2", "sem_um2", "pairs", "tracks"])


def dense(track: pd.DataFrame) -> np.ndarray:
    """Return a track's positions in um, (frames from its first to its last, 3), NaN where it was not seen."""
    frames = track["frame"].to_numpy(int) - int(track["frame"].min())
    path = np.full((frames.max() + 1, 3), np.nan)
    path[frames] = track[["z_um", "y_um", "x_um"]].to_numpy(float)
    return path


@rc_context(STYLE)
def msd(tables: dict[str, pd.DataFrame]) -> Picture:
    """Draw mean squared displacements (as `displacement` returns them) on logarithmic axes, with standard errors.

    The slope is printed: 1 for diffusion, 2 for directed motion, below 1 for confined motion.
    """
    fig = picture(6.5, 3.6)
    ax = fig.add_subplot(xlabel="time lag (s)", ylabel="mean squared displacement (µm²)")
    tables = {name: t[(t["msd_um2"] > 0)] for name, t in tables.items() if len(t) and (t["msd_um2"] > 0).any()}
    if not tables:
        say(ax, "No track of two frames or more.")
        return fig
    for (name, t), colour in zip(tables.items(), cycle(len(tables)), strict=True):
        slope = f", slope {np.polyfit(np.log(t['lag_s']), np.log(t['msd_um2']), 1)[0]:.2f}" if len(t) > 1 else ""
        ax.errorbar(t["lag_s"], t["msd_um2"], t["sem_um2"].fillna(0), color=colour, marker="o", ms=4, lw=1.4,
                    capsize=2, label=name + slope)  # fmt: skip
    ax.set(xscale="log", yscale="log")
    for axis in (ax.xaxis, ax.yaxis):  # 0.1 and 20, not powers of ten: the range is small
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    beside(ax)
    return fig


@rc_context(STYLE)
def losses(log: pd.DataFrame, x: str = "step") -> Picture:
    """Draw what a training log says of losses and health, one small panel each (their units differ)."""
    names = [c for c in log.columns if c not in (x, "seconds", "lr", "grad_norm")
             and np.isfinite(pd.to_numeric(log[c], errors="coerce")).any()]
    names = [c for c in names if pd.to_numeric(log[c], errors="coerce").nunique() > 1][:9]
    if x not in log or not names:
        fig = picture(height_in=1.5)
        say(fig.add_subplot(), "No training log to draw.")
        return fig
    ncols = min(3, len(names))
    fig = picture(WIDTH_IN, 1.9 * -(-len(names) // ncols) + 0.3)
    for i, (name, colour) in enumerate(zip(names, cycle(len(names)), strict=True)):
        ax = fig.add_subplot(-(-len(names) // ncols), ncols, i + 1)
        ax.plot(log[x], pd.to_numeric(log[name], errors="coerce"), color=colour, lw=1.3)
        unit = f" ({LOSS_UNITS[name]})" if name in LOSS_UNITS else ""
        ax.set_title(name.replace("_", " ") + unit, fontsize=9)
        ax.tick_params(labelsize=8)
        if i >= len(names) - ncols:
            ax.set_xlabel(x, fontsize=9)
    return fig
