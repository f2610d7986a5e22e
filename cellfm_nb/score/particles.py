"""Score tracks by the measures of the Particle Tracking Challenge (Chenouard et al., Nature Methods 2014).

Whole tracks are paired with whole tracks, so that their summed distance is least: at each time the distance of the
two positions, but never more than the gate, which is also what a time counts at which only one of the two is there.
A true track may be left without a partner, at the gate for each of its positions. The challenge's gate is 5 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.score.graphs import TrackGraph, best_pairing, track_graph


@dataclass(frozen=True)
class ParticleScore:
    """The challenge's five measures: alpha and beta in 0..1, Jaccard of positions and of tracks, RMSE in um."""

    alpha: float
    beta: float
    jsc: float
    jsc_theta: float
    rmse_um: float
    gate_um: float


def score_particles(true_tracks: pd.DataFrame, found_tracks: pd.DataFrame, gate_um: float) -> ParticleScore:
    """Score found tracks against true tracks.

    Parameters
    ----------
    true_tracks, found_tracks : columns track_id, frame, z_um, y_um, x_um; rows with `visible` False do not count.
    gate_um : distance from which a position is as good as missing.

    Returns
    -------
    ParticleScore. With d the least summed distance and d0 that of having found nothing (gate times true positions):
    alpha = 1 - d / d0; beta = (d0 - d) / (d0 + gate times positions of found tracks without a partner); jsc = TP /
    (TP + FN + FP) of positions, right when nearer than the gate in paired tracks; jsc_theta the same of tracks;
    rmse_um over right positions (nan without any).

    Raises
    ------
    InputError: a gate that is not positive; and as `track_graph`.
    """
    if not (np.isfinite(gate_um) and gate_um > 0):
        raise InputError("Bad gate.", where="gate_um", got=gate_um, expected="a distance > 0 (um)",
                         do="The challenge takes 5 pixels.")
    true, found = track_graph(true_tracks), track_graph(found_tracks)
    pairs, saved, hits, square = shared_positions(true, found, gate_um)
    n_true, n_found = (np.bincount(g.track, minlength=0) for g in (true, found))
    both = both_present(true, found, pairs)
    # unpaired, a true track costs the gate for each position; paired, also for each found position beside it
    gain = saved - gate_um * (n_found[pairs[:, 1]] - both) if len(pairs) else saved
    worth = np.flatnonzero(gain > 0)
    chosen = worth[best_pairing(pairs[worth], gain[worth])]
    nothing, spurious = gate_um * n_true.sum(), gate_um * (n_found.sum() - n_found[pairs[chosen, 1]].sum())
    right, tp = hits[chosen].sum(), len(chosen)
    won = float(gain[chosen].sum())
    return ParticleScore(
        alpha=_ratio(won, nothing), beta=_ratio(won, nothing + spurious),
        jsc=_ratio(right, n_true.sum() + n_found.sum() - right),
        jsc_theta=_ratio(tp, len(n_true) + len(n_found) - tp),
        rmse_um=float(np.sqrt(square[chosen].sum() / right)) if right else float("nan"), gate_um=float(gate_um))


def shared_positions(true: TrackGraph, found: TrackGraph,
                     gate_um: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Find pairs of tracks that come nearer than the gate, and what they share.

    Returns: pairs (p, 2) true and found track; saved (p,) um, the gate less the distance summed over such times; hits
    (p,) their number; square (p,) um^2, their summed squared distance.
    """
    rows = [np.zeros((0, 3))]
    for frame in np.intersect1d(true.frame, found.frame):
        t, f = np.flatnonzero(true.frame == frame), np.flatnonzero(found.frame == frame)
        near = cKDTree(true.position_um[t]).sparse_distance_matrix(cKDTree(found.position_um[f]), gate_um,
                                                                   output_type="ndarray")
        near = near[near["v"] < gate_um]
        rows.append(np.column_stack([true.track[t[near["i"]]], found.track[f[near["j"]]], near["v"]]))
    table = np.concatenate(rows)
    pairs, at = np.unique(table[:, :2].astype(int), axis=0, return_inverse=True)
    distance, n = table[:, 2], len(pairs)
    at = at.ravel()
    return (pairs.reshape(-1, 2), np.bincount(at, gate_um - distance, n), np.bincount(at, minlength=n),
            np.bincount(at, distance**2, n))


def both_present(true: TrackGraph, found: TrackGraph, pairs: np.ndarray) -> np.ndarray:
    """Return at how many times both tracks of each pair are there, (p,)."""
    frames = [[set(part.tolist()) for part in np.split(g.frame, np.flatnonzero(np.diff(g.track)) + 1)]
              for g in (true, found)]                                  # rows of a graph are sorted by track
    return np.array([len(frames[0][t] & frames[1][f]) for t, f in pairs.tolist()], int)


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else 1.0
