"""Costs as likelihood ratios, with every scale estimated from the movie: nothing to set by hand, no search radius.

The gain of a link is the log of how much likelier the two objects are as one track than as an end and a birth:
density of the step under the motion model, ratio of the identities, law of the gap, against the rates of births and
ends. A link with a negative gain is never worth making, so distance needs no limit of its own.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from cellfm_nb.track.motion import Filter, Scales, column, log_identity, log_link_motion, log_step, pick

ROBUST = 1.4826            # median absolute deviation -> standard deviation of a Gaussian
PRIOR_COUNT = 5.0          # weight, in links, of a scale's former value: keeps short movies from degenerate scales
STEP_FLOOR = 0.02          # least standard deviation of a step, in voxels: no position is known better
LEAST_FIELD = 32           # voxels an axis has at least, however little of it the objects cover
IDENTITY_WEIGHT = 1.5      # a wrong identity spoils all that follows, a wrong step one link; 1.25 to 2 do as well
LEAST_WALK = 0.02          # no mass is exactly constant: a filter must not grow certain for ever


def link_gain(past: Filter, future: Filter | None, i: np.ndarray, j: np.ndarray, dx: np.ndarray, g: np.ndarray,
              log_start: np.ndarray, log_end: np.ndarray, scales: Scales) -> np.ndarray:
    """Return the log likelihood ratio (nats) of linking i to j, dx (d, q) away, against an end and a birth, (q,)."""
    motion = log_link_motion(past, future, i, j, dx, g, scales) if future else log_step(past, i, dx, g, scales)
    return (motion + IDENTITY_WEIGHT * log_identity(past, future or past, i, j, g, scales)
            + np.log1p(-scales.end) + np.log(scales.gap)[g - 1] - log_start[j] - log_end[i])


def start_end_logs(frame: np.ndarray, first: int, last: int, scales: Scales) -> tuple[np.ndarray, np.ndarray]:
    """Return log density of each object beginning (per um^3) and log probability of it ending, (n,) each.

    Near the movie's first and last frames a track may begin or end merely because it is not seen there.
    """
    longer = np.append(np.cumsum(scales.gap[::-1])[::-1], 0.0)         # longer[r]: probability of a gap above r frames
    before, after = (longer[np.clip(wait, 0, len(longer) - 1)] for wait in (frame - first, last - frame))
    return np.log(scales.birth_per_um3 + scales.present_per_um3 * before), np.log(np.minimum(scales.end + after, 1.0))


def mutual_neighbours(x: np.ndarray, frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return indices (i, j) of objects, x (n, d), of consecutive frames that are each other's nearest."""
    apart = 2 * float(np.ptp(x, 0).sum() if len(x) else 0.0) + 1.0   # between frames: more than any distance in one
    tree = cKDTree(np.column_stack([x, apart * frame]), balanced_tree=False, compact_nodes=False)
    i = np.flatnonzero(np.isin(frame + 1, frame))                    # a search where nothing is takes longest
    far, near = tree.query(np.column_stack([x[i], apart * (frame[i] + 1)]), distance_upper_bound=apart / 2)
    order = np.argsort(far, kind="stable")                           # of those nearest to one, the nearest is mutual
    j, at = np.unique(near[order], return_index=True)
    return i[order[at]], j


def some_neighbours(x: np.ndarray, frame: np.ndarray, enough: int) -> tuple[np.ndarray, np.ndarray]:
    """Return mutual neighbours of frames spread over the movie, three in a row: about `enough` of them, or all."""
    every = round(2 * len(x) / enough)
    at = np.flatnonzero((frame - frame[0]) % every < 3) if every > 3 else np.arange(len(x))
    i, j = mutual_neighbours(x[at], frame[at])
    return at[i], at[j]


def first_scales(links: tuple[np.ndarray, np.ndarray], x: np.ndarray, frame: np.ndarray, identity: np.ndarray,
                 relative: np.ndarray, voxel_um: np.ndarray, max_gap: int) -> Scales:
    """Guess the scales from mutual nearest neighbours: a start for `update_scales`, nothing more.

    Parameters: links, indices (i, j); x (d, n) um; frame (n,); identity (k, n); relative (k, n), least
    variance of each measurement; voxel_um (d,).
    """
    i, j = links
    dx = x[:, j] - x[:, i] if len(i) else column(voxel_um)
    step = np.maximum(0.5 * (np.median(np.abs(dx), 1) * ROBUST) ** 2, (STEP_FLOOR * voxel_um) ** 2)
    gap = 0.1 ** np.arange(max_gap + 1)
    present = len(frame) / len(np.unique(frame)) / volume_um3(x, step, voxel_um)
    noise = identity_noise(i, j, frame, identity, relative)[0] if len(i) else np.ones(len(identity))
    return Scales(
        step_um2=step, velocity_um2=np.maximum((dx**2).mean(1), 2 * step), switch=np.array([[0.9, 0.1], [0.2, 0.8]]),
        gap=gap / gap.sum(), birth_per_um3=0.05 * present, present_per_um3=present, end=0.05,
        identity_mean=identity.mean(1), identity_var=identity.var(1) + 1e-6, noise=noise,
        walk=LEAST_WALK * noise * np.median(relative, 1), outlier=0.05, bleach=0.0, event_rate=np.array([0.02, 0.02]),
        event_um2=np.full(2, 4 * step.mean()))


def volume_um3(x: np.ndarray, step_um2: np.ndarray, voxel_um: np.ndarray) -> float:
    """Return the volume (um^d) objects appear in: the box around them; an axis they never leave counts a few steps."""
    extent = np.ptp(x, 1)
    return float(np.prod(np.where(extent > 0, np.maximum(extent, LEAST_FIELD * voxel_um), 4 * np.sqrt(step_um2))))


def update_scales(scales: Scales, links: tuple[np.ndarray, np.ndarray], x: np.ndarray, frame: np.ndarray,
                  identity: np.ndarray, relative: np.ndarray, past: Filter, future: Filter, joined: np.ndarray,
                  voxel_um: np.ndarray, expected: np.ndarray | None) -> Scales:
    """Re-estimate every scale from the present links (M step; the modes of the steps are the E step).

    Parameters: as in `first_scales`; links, indices (i, j); joined (n, 2) bool, whether something goes before and
    after each object; expected (2, 2), number of splits and merges and their summed squared separation, or None.
    """
    i, j = links
    n, n_frames = len(frame), int(frame[-1] - frame[0]) + 1
    changes: dict[str, object] = dict(identity_mean=identity.mean(1), identity_var=identity.var(1) + 1e-6)
    if len(i):
        dx, g = pick(x, j) - pick(x, i), frame[j] - frame[i]
        _, directed, pairs = log_link_motion(past, future, i, j, dx, g, scales, modes=True)
        still = 1 - directed
        step = ((dx * dx) @ (still / g) + PRIOR_COUNT * scales.step_um2) / (still.sum() + PRIOR_COUNT)
        step = np.maximum(step, (STEP_FLOOR * voxel_um) ** 2)
        speed = ((dx / g) ** 2 - column(step) / g) @ directed + PRIOR_COUNT * scales.velocity_um2
        switch = pairs[joined[i, 0]].sum(0) + PRIOR_COUNT * scales.switch
        gap = np.bincount(g - 1, minlength=len(scales.gap)) + 0.5 ** np.arange(len(scales.gap))
        changes |= dict(step_um2=step, velocity_um2=np.maximum(speed / (directed.sum() + PRIOR_COUNT), step),
                        switch=switch / switch.sum(1, keepdims=True), gap=gap / gap.sum())
        if len(identity) and len(i) >= 8:
            changes |= dict(zip(("noise", "walk", "outlier"), identity_noise(i, j, frame, identity, relative),
                                strict=True))
    reach = min(len(scales.gap), n_frames - 1)                           # nearer the movie's ends nobody can tell
    inner, outer = frame >= frame[0] + reach, frame <= frame[-1] - reach
    births, ends = (~joined[inner, 0]).sum() + 0.5, (~joined[outer, 1]).sum() + 0.5
    space = volume_um3(x, changes.get("step_um2", scales.step_um2), voxel_um)
    changes |= dict(birth_per_um3=births / max(n_frames - reach, 1) / space, present_per_um3=n / n_frames / space,
                    end=min(ends / (outer.sum() + 1), 0.5))
    if expected is not None:
        changes |= dict(event_rate=(expected[:, 0] + 0.5) / (n + 1),
                        event_um2=(expected[:, 1] + PRIOR_COUNT * scales.event_um2) / (expected[:, 0] + PRIOR_COUNT))
    return scales.with_(**changes)


def identity_noise(i: np.ndarray, j: np.ndarray, frame: np.ndarray, identity: np.ndarray,
                   relative: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Return measurement noise (a factor >= 1 on `relative`), slow change per frame, and share of outliers.

    Changes over two links hold twice the slow change but the same measurement noise as changes over one. A cue that
    changes less than its stated error was made smooth along a path (as fitted sizes are): that is no evidence.
    """
    succ = np.full(len(frame), -1)
    succ[i] = j
    far = succ[j]

    def spread(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        change = np.abs(identity[:, b] - identity[:, a]) / np.sqrt(relative[:, a] + relative[:, b])
        return (np.median(change, 1) * ROBUST) ** 2

    measured = relative[:, i] + relative[:, j]
    size = np.median(measured, 1)
    once = spread(i, j) + 1e-6 / size
    twice = spread(i[far >= 0], far[far >= 0]) if (far >= 0).sum() >= 8 else once
    walk = np.clip(twice - once, LEAST_WALK * once, 0.5 * once)
    noise, walk = np.maximum(once - walk, 1.0), walk * size
    z = np.abs(identity[:, j] - identity[:, i]) / np.sqrt(column(noise) * measured
                                                          + column(walk) * (frame[j] - frame[i]))
    return noise, walk, float(np.clip((z > 4).any(0).mean(), 0.01, 0.3))


def common_slope(group: np.ndarray, t: np.ndarray, y: np.ndarray, weight: np.ndarray) -> float:
    """Return the slope of y over t shared by all groups, each with a level of its own (within-group regression)."""
    total = np.bincount(group, weight)
    t0 = t - (np.bincount(group, weight * t) / total)[group]
    y0 = y - (np.bincount(group, weight * y) / total)[group]
    return float((weight * t0 * y0).sum() / max((weight * t0 * t0).sum(), 1e-12))
