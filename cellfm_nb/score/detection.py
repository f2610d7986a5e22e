"""Score points against true points: one-to-one matches within a distance in micrometre."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.seeds import rng


@dataclass(frozen=True)
class Matches:
    """Pairs (found index, true index) of one frame and their distances, in units of the radius."""

    found: np.ndarray
    true: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class DetectionScore:
    """F1 with everything needed to read it: the radius, the counts and the localisation error."""

    f1: float
    precision: float
    recall: float
    tp: int
    fp: int
    fn: int
    n_frames: int
    radius_um: tuple[float, float, float]
    rmse_um: tuple[float, float, float]

    def as_dict(self) -> dict:
        return asdict(self)


def match_points(found_um: np.ndarray, true_um: np.ndarray, radius_um: float | Iterable[float]) -> Matches:
    """Pair points one to one: as many pairs as the radius allows, then the least total distance.

    Parameters
    ----------
    found_um, true_um : (n, 3), (m, 3) float arrays, (z, y, x) in micrometre.
    radius_um : one radius, or the three half axes (z, y, x) of an ellipsoid.

    Returns
    -------
    Matches; a distance is divided by the radius, so every one is <= 1.

    Raises
    ------
    InputError if the radius is not positive.

    Notes
    -----
    Greedy nearest pairing can block a second pair; the assignment is solved exactly (Jonker-Volgenant), on each
    connected group of candidate pairs by itself, so that tens of thousands of points stay cheap.
    """
    radius = radius_vector(radius_um)
    found = np.asarray(found_um, float).reshape(-1, 3) / radius
    true = np.asarray(true_um, float).reshape(-1, 3) / radius
    empty = np.zeros(0, int)
    if not len(found) or not len(true):
        return Matches(empty, empty, np.zeros(0))
    near = cKDTree(found).sparse_distance_matrix(cKDTree(true), 1.0, output_type="coo_matrix")
    i, j, d = near.row, near.col, near.data
    if not len(d):
        return Matches(empty, empty, np.zeros(0))
    n = len(found) + len(true)
    group = connected_components(coo_array((np.ones(len(i)), (i, j + len(found))), shape=(n, n)), directed=False)[1]
    pairs = [assign_group(i[k], j[k], d[k]) for k in group_indices(group[i])]
    rows, cols, dist = (np.concatenate(part) for part in zip(*pairs, strict=True))
    order = np.lexsort((cols, rows))
    return Matches(rows[order], cols[order], dist[order])


def radius_vector(radius_um: float | Iterable[float]) -> np.ndarray:
    """Return the three positive half axes (z, y, x) in micrometre."""
    radius = np.broadcast_to(np.asarray(radius_um, float), (3,))
    if not (np.isfinite(radius) & (radius > 0)).all():
        raise InputError("the matching radius must be positive", where="radius_um", got=radius_um,
                         expected="micrometre > 0", do="give one radius or three half axes (z, y, x)")
    return radius


def group_indices(group: np.ndarray) -> list[np.ndarray]:
    """Return, for each value of `group`, the indices that hold it."""
    order = np.argsort(group, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(group[order])) + 1)


def assign_group(i: np.ndarray, j: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve one group of candidate pairs: most pairs first, then least distance."""
    if len(d) == 1:
        return i, j, d
    rows, i_local = np.unique(i, return_inverse=True)
    cols, j_local = np.unique(j, return_inverse=True)
    forbidden = 1.0 + min(len(rows), len(cols))             # dearer than any set of allowed pairs: count comes first
    cost = np.full((len(rows), len(cols)), forbidden)
    cost[i_local, j_local] = d
    r, c = linear_sum_assignment(cost)
    ok = cost[r, c] < forbidden
    return rows[r[ok]], cols[c[ok]], cost[r[ok], c[ok]]


def score_detection(
    frames: Iterable[tuple[np.ndarray, np.ndarray]], radius_um: float | Iterable[float]
) -> DetectionScore:
    """Score frames of (found, true) points together: counts are summed over frames, then F1 = 2TP/(2TP+FP+FN).

    Parameters
    ----------
    frames : iterable of (found_um (n, 3), true_um (m, 3)), (z, y, x) in micrometre; read one by one.
    radius_um : matching radius or half axes (z, y, x) in micrometre.

    Returns
    -------
    DetectionScore; `rmse_um` is the root mean square error per axis over matched pairs (nan without any).
    With nothing to find and nothing found F1 is 1.
    """
    radius = radius_vector(radius_um)
    tp = fp = fn = n_frames = 0
    errors = [np.zeros((0, 3))]
    for found, true in frames:
        found, true = np.asarray(found, float).reshape(-1, 3), np.asarray(true, float).reshape(-1, 3)
        pairs = match_points(found, true, radius)
        tp, fp, fn = tp + len(pairs.found), fp + len(found) - len(pairs.found), fn + len(true) - len(pairs.true)
        errors.append(found[pairs.found] - true[pairs.true])
        n_frames += 1
    error = np.concatenate(errors)
    rmse = np.sqrt((error**2).mean(0)) if len(error) else np.full(3, np.nan)
    return DetectionScore(
        f1=2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 1.0,
        precision=tp / (tp + fp) if tp + fp else 1.0,
        recall=tp / (tp + fn) if tp + fn else 1.0,
        tp=tp, fp=fp, fn=fn, n_frames=n_frames,
        radius_um=tuple(float(r) for r in radius), rmse_um=tuple(float(e) for e in rmse),
    )


def bootstrap_interval(
    units: list, statistic: Callable[[list], float], n_resamples: int = 1000, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of `statistic` over units (frames, or better whole movies).

    Frames of one movie are not independent: an interval over frames says how the score varies within the movie,
    an interval over movies what to expect of the next one (Efron and Tibshirani 1993, chapter 13).
    """
    if not units:
        raise InputError("nothing to resample", where="units", got=0, expected="at least one frame or movie",
                         do="score at least one unit first")
    draw = rng(seed, "score", "bootstrap")
    picks = draw.integers(0, len(units), (n_resamples, len(units)))
    values = [statistic([units[k] for k in pick]) for pick in picks]
    low, high = np.nanquantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def f1_of_counts(counts: list[tuple[int, int, int]]) -> float:
    """Return F1 of summed (tp, fp, fn): the statistic to hand to `bootstrap_interval`."""
    tp, fp, fn = np.sum(counts, axis=0)
    return float(2 * tp / (2 * tp + fp + fn)) if tp + fp + fn else 1.0
