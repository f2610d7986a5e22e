"""Link frame by frame: the Hungarian way, with a plain Kalman filter, with the cost the project's seeds describe."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cellfm_nb.track.objects import POSITION


def frame_wise(objects: pd.DataFrame, radius_um: float, max_gap_frames: int, *, motion: bool,
               weights: tuple[float, float, float] | None = None) -> np.ndarray:
    """Link frame by frame by least total cost within the radius, most links first; return track numbers, (n,).

    Parameters: objects, sorted by frame; motion, whether tracks are looked for where a constant-velocity Kalman
    filter expects them (Kalman 1960), else where they were last seen; weights, (w_s, w_f, w_m): the cost is then
    w_s d_spatial + w_f d_feature + w_m d_motion, distances to the last place, of features (log mass and descriptor,
    in standard deviations; 0 without any) and to the expected place, each squared and in units of the radius.
    """
    x, frame, f = objects[POSITION].to_numpy(float), objects["frame"].to_numpy(int), _features(objects)
    ids, kalman = np.full(len(x), -1), ConstantVelocity(radius_um)
    track, last = np.zeros(0, int), np.zeros(0, int)                # alive: their numbers, their latest objects
    for t in np.unique(frame):
        here = np.flatnonzero(frame == t)
        alive = t - frame[last] <= max_gap_frames + 1
        track, last = track[alive], last[alive]
        kalman.keep(alive)
        expected = kalman.predict((t - frame[last])[:, None]) if motion else x[last]
        cost = cdist(expected, x[here], "sqeuclidean") / radius_um**2
        far = cost > 1
        if weights is not None:
            cost = (weights[0] * cdist(x[last], x[here], "sqeuclidean") / radius_um**2 + weights[2] * cost
                    + weights[1] * cdist(f[last], f[here], "sqeuclidean"))
        most = 1 + cost[~far].max(initial=0.0)
        r, c = linear_sum_assignment(np.where(far, most * (1 + min(cost.shape)), cost))
        ok = ~far[r, c]
        r, c = r[ok], c[ok]
        new = np.setdiff1d(np.arange(len(here)), c)
        ids[here[c]] = track[r]
        ids[here[new]] = ids.max() + 1 + np.arange(len(new))
        last[r] = here[c]
        kalman.correct(r, x[here[c]])
        kalman.start(x[here[new]])
        track, last = np.append(track, ids[here[new]]), np.append(last, here[new])
    return ids


def _features(objects: pd.DataFrame) -> np.ndarray:
    """Return log mass and descriptor (d0, d1, ...), each in standard deviations; (n, 0) without any."""
    columns = [objects[c].to_numpy(float) for c in objects if c[0] == "d" and c[1:].isdigit()]
    if "mass" in objects and (objects["mass"] > 0).any():
        mass = objects["mass"].to_numpy(float)
        columns.append(np.log(np.maximum(mass, 0.05 * np.median(mass[mass > 0]))))
    table = np.stack(columns, 1) if columns else np.zeros((len(objects), 0))
    return (table - table.mean(0)) / (table.std(0) + 1e-12)


class ConstantVelocity:
    """A plain Kalman filter of each of n tracks, all axes alike: place and velocity (n, 3), covariance (n, 2, 2).

    Its noises follow the radius: a step of a third of it is one standard deviation.
    """

    def __init__(self, radius_um: float) -> None:
        self.x, self.v, self.p = np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 2, 2))
        self.noise = (radius_um / 3) ** 2
        self.wait = np.zeros((0, 1))

    def start(self, x: np.ndarray) -> None:
        """Add tracks at x (m, 3), their velocity unknown."""
        self.x, self.v = np.concatenate([self.x, x]), np.concatenate([self.v, np.zeros_like(x)])
        unknown = np.tile(np.diag([0.1, 1.0]) * self.noise, (len(x), 1, 1))
        self.p, self.wait = np.concatenate([self.p, unknown]), np.concatenate([self.wait, np.zeros((len(x), 1))])

    def keep(self, alive: np.ndarray) -> None:
        """Forget the other tracks."""
        self.x, self.v, self.p, self.wait = self.x[alive], self.v[alive], self.p[alive], self.wait[alive]

    def predict(self, wait: np.ndarray) -> np.ndarray:
        """Return where each track is expected `wait` (n, 1) frames after it was last seen, (n, 3)."""
        self.wait = wait.astype(float)
        return self.x + self.wait * self.v

    def correct(self, at: np.ndarray, x: np.ndarray) -> None:
        """Take in the positions x (m, 3) at which the tracks `at` were seen."""
        g = self.wait[at, 0] if len(self.wait) else np.ones(len(at))
        move = np.tile(np.eye(2), (len(at), 1, 1))
        move[:, 0, 1] = g
        grow = np.stack([np.stack([g**3 / 3, g**2 / 2], -1), np.stack([g**2 / 2, g], -1)], -2) * 0.1 * self.noise
        p = move @ self.p[at] @ move.transpose(0, 2, 1) + grow
        gain = p[:, :, :1] / (p[:, :1, :1] + 0.1 * self.noise)       # (m, 2, 1)
        expected = self.x[at] + g[:, None] * self.v[at]
        self.x[at] = expected + gain[:, 0] * (x - expected)
        self.v[at] = self.v[at] + gain[:, 1] * (x - expected)
        self.p[at] = p - gain @ p[:, :1, :]
