"""Find which objects a track might go to next, by one KD-tree over place and time.

No radius is chosen. How far is worth a look follows from the scales: what lies further from every place the track
might have gone than any likelihood could make up for is left out. Of the rest at most the nearest `NEIGHBOURS` to a
place are taken, which bounds the time at any density.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

from cellfm_nb.track.motion import column, pick

if TYPE_CHECKING:
    from cellfm_nb.track.chains import Chains

NEIGHBOURS = 8     # candidates around a place, in the next frame
OVER_GAPS = 3      # and in each later one
MOTION_NATS = 3.0  # about what velocities of the same direction on both sides speak for a pair
MASS_NATS = 10.0   # more than any identity can


class Candidates:
    """Look up candidates among the objects of `chains`; pairs (i, j) of objects come ascending, none twice."""

    def __init__(self, chains: Chains) -> None:
        self.chains = chains
        self.unit = np.sqrt(self.variance(1))
        place = chains.x / column(self.unit)
        self.apart = 2 * float(np.ptp(place, 1).sum()) + 2             # between frames: more than any distance in one
        when = self.apart * chains.frame[None]
        self.tree = cKDTree(np.concatenate([place, when]).T, balanced_tree=False, compact_nodes=False)

    def next_frame(self, tails: np.ndarray, heads: np.ndarray | None = None, headed: bool = False) -> np.ndarray:
        """Return pairs of consecutive frames: tails with what may follow, heads with what may precede, (q, 2).

        headed : look only where tails head to, if that is elsewhere.
        """
        found = [self.around(tails, np.ones(len(tails), int), headed)]
        if heads is not None:
            found.append(self.around(heads, np.full(len(heads), -1))[:, ::-1])
        return self.plausible(found)

    def over_gaps(self, tails: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """Return pairs that skip frames: from each tail forward, and from each head backward in time, (q, 2)."""
        waits = np.arange(2, self.chains.max_gap + 2)
        forth = self.around(np.tile(tails, len(waits)), np.repeat(waits, len(tails)))
        back = self.around(np.tile(heads, len(waits)), np.repeat(-waits, len(heads)))
        return self.plausible([forth, back[:, ::-1]])

    def around(self, objects: np.ndarray, wait: np.ndarray, headed: bool = False) -> np.ndarray:
        """Return pairs of `objects` and those near their place or where they head to, `wait` (n,) frames on, (q, 2).

        Waits are all of one sign, and all 1 or all longer. headed : leave out what is only near the place.
        """
        c, long, then = self.chains, np.abs(wait) - 1, self.chains.frame[objects] + wait
        waits, unit = np.arange(1, self.chains.max_gap + 2), column(self.unit)
        most, spread = self.most(waits), np.sqrt(self.variance(column(waits))).T         # (w,), (d, w) of each wait
        some = (most[long] > 0) & (then >= c.first) & (then <= c.last)
        objects, wait, long, then = objects[some], wait[some], long[some], then[some]
        if not len(objects):
            return np.zeros((0, 2), int)
        place = pick(c.x, objects) / unit
        move = wait * pick((c.past if wait[0] > 0 else c.future).v, objects)
        ahead = np.flatnonzero(((move / pick(spread, long)) ** 2).sum(0) > 0.25)   # else it is the same place
        still = np.arange(0 if headed else len(objects))
        at = np.concatenate([still, ahead])
        place = np.concatenate([place[:, still], pick(place, ahead) + pick(move, ahead) / unit], 1)
        bound = min((np.sqrt(2 * np.maximum(most, 0)) * (spread / unit).max(0))[long].max(), self.apart / 2)
        k = np.arange(1, min(NEIGHBOURS if abs(wait[0]) == 1 else OVER_GAPS, c.n) + 1)
        near = self.tree.query(np.concatenate([place, self.apart * then[at][None]]).T, k, distance_upper_bound=bound)[1]
        found = np.flatnonzero(near < c.n)
        return np.column_stack([objects[at[found // len(k)]], near.ravel()[found]])

    def variance(self, wait: int | np.ndarray) -> np.ndarray:
        """Return the variance (..., d) um^2 of how far an object, or a part after a split, may go in `wait` frames."""
        s = self.chains.scales
        return wait * wait * s.velocity_um2 + wait * s.step_um2 + s.event_um2.max() / 4

    def most(self, wait: int | np.ndarray, start: np.ndarray | None = None,
             end: np.ndarray | None = None) -> np.ndarray:
        """Return the most (nats) a link over `wait` frames could gain: no distance, masses and velocities agree."""
        c, s = self.chains, self.chains.scales
        start, end = (c.log_start.min(), c.log_end.min()) if start is None else (start, end)
        nats = MOTION_NATS + (MASS_NATS if len(c.identity) else 0.0)
        still = np.log(2 * np.pi * s.step_um2).sum() + len(s.step_um2) * np.log(wait)
        return nats - 0.5 * still + np.log(s.gap[np.asarray(wait) - 1]) - start - end

    def plausible(self, found: list[np.ndarray]) -> np.ndarray:
        """Drop pairs too far from every place the tail might have gone, and repeated ones."""
        c, pairs = self.chains, self.unique(found)
        i, j = pairs.T
        wait = c.frame[j] - c.frame[i]
        move = pick(c.x, j) - pick(c.x, i)
        weight = pick(1 / self.variance(np.arange(1, c.max_gap + 2)[:, None]).T, wait - 1)
        far = (move * move * weight).sum(0)
        for v in (pick(c.past.v, i), pick(c.future.v, j)):
            rest = move - wait * v
            far = np.minimum(far, (rest * rest * weight).sum(0))
        return pairs[far <= 2 * self.most(wait, c.log_start[j], c.log_end[i])]

    def unique(self, found: list[np.ndarray]) -> np.ndarray:
        """Return all pairs, each once, ascending."""
        pairs = np.concatenate(found)
        key = np.sort(pairs[:, 0] * self.chains.n + pairs[:, 1])
        return np.column_stack(np.divmod(key[np.append(True, key[1:] != key[:-1])[:len(key)]], self.chains.n))
