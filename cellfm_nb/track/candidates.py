"""Find which objects a track might go to next, by one KD-tree over place and time.

No radius is chosen. How far is worth a look follows from the scales: what lies further from every place the track
might have gone than any likelihood could make up for is left out. Of the rest at most the nearest `NEIGHBOURS` to a
place are taken, which bounds the time at any density.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import cKDTree

if TYPE_CHECKING:
    from cellfm_nb.track.chains import Chains

NEIGHBOURS = 16    # candidates around a place
MASS_NATS = 10.0   # more than any identity can speak for a pair


class Candidates:
    """Look up candidates among the objects of `chains`; pairs (i, j) of objects come ascending, none twice."""

    def __init__(self, chains: Chains) -> None:
        self.chains, self.unit = chains, widths(chains)
        place = chains.x / self.unit
        self.apart = 2 * float(np.ptp(place, 0).sum()) + 2             # between frames: more than any distance in one
        when = self.apart * chains.frame[:, None]
        self.tree = cKDTree(np.concatenate([place, when], 1), balanced_tree=False, compact_nodes=False)

    def next_frame(self, tails: np.ndarray) -> np.ndarray:
        """Return the objects of the next frame near each tail's place or where it was heading, (q, 2)."""
        return self.beside(tails, tails[:0])

    def beside(self, tails: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """Return pairs of consecutive frames: tails and what may follow, heads and what may have been before, (q, 2)."""
        after = self.around(tails, 1, self.chains.past.v[tails])
        return self.plausible(np.concatenate([after, self.around(heads, -1, self.chains.future.v[heads])[:, ::-1]]))

    def over_gaps(self, tails: np.ndarray, heads: np.ndarray) -> np.ndarray:
        """Return pairs that skip frames: from each tail forward, and from each head backward in time, (q, 2)."""
        found = [np.zeros((0, 2), int)]
        for wait in range(2, self.chains.max_gap + 2):
            found.append(self.around(tails, wait, self.chains.past.v[tails]))
            found.append(self.around(heads, -wait, self.chains.future.v[heads])[:, ::-1])
        return self.plausible(np.concatenate(found))

    def around(self, objects: np.ndarray, wait: int, velocity: np.ndarray) -> np.ndarray:
        """Return pairs of `objects` and those near them `wait` frames later, (q, 2)."""
        wide, bound = widths(self.chains), abs(wait) * self.reach()
        ahead = np.flatnonzero(((velocity * wait / wide) ** 2).sum(1) > 0.25)  # else it is the same place
        at = np.concatenate([objects, objects[ahead]])
        place = self.chains.x[at]
        place[len(objects):] += wait * velocity[ahead]
        place = np.concatenate([place / self.unit, self.apart * (self.chains.frame[at] + wait)[:, None]], 1)
        k = np.arange(1, min(NEIGHBOURS, self.chains.n) + 1)
        near = self.tree.query(place, k=k, distance_upper_bound=min(bound * (wide / self.unit).max(), self.apart / 2))[1]
        row, rank = np.nonzero(near < self.chains.n)
        return np.column_stack([at[row], near[row, rank]])

    def most(self, i: np.ndarray | None = None, j: np.ndarray | None = None) -> np.ndarray:
        """Return the most a link could gain at no distance, nats: of pairs, or of any."""
        c = self.chains
        start, end = (c.log_start.min(), c.log_end.min()) if i is None else (c.log_start[j], c.log_end[i])
        nats = MASS_NATS if c.identity.shape[1] else 1.0
        return np.maximum(nats - 0.5 * np.log(2 * np.pi * c.scales.step_um2).sum() - start - end, nats)

    def reach(self) -> float:
        """Return the distance beyond which no link gains, in `widths` per frame."""
        return float(np.sqrt(2 * self.most()))

    def plausible(self, pairs: np.ndarray) -> np.ndarray:
        """Drop pairs too far from every place the tail might have gone, and repeated ones."""
        c = self.chains
        key = np.sort(pairs[:, 0] * c.n + pairs[:, 1])
        i, j = np.divmod(key[np.append(True, key[1:] != key[:-1])[:len(key)]], c.n)
        g = (c.frame[j] - c.frame[i])[:, None]
        move, reach = c.x[j] - c.x[i], g * widths(c)
        far = np.min([(((move - g * u) / reach) ** 2) @ np.ones(move.shape[1])
                      for u in (0.0, c.past.v[i], c.future.v[j])], axis=0)
        ok = far <= 2 * self.most(i, j)
        return np.column_stack([i[ok], j[ok]])


def widths(chains: Chains) -> np.ndarray:
    """Return how far an object may go in a frame along each axis, (d,) um."""
    s = chains.scales
    return np.sqrt(s.velocity_um2 + s.step_um2 + s.event_um2.max() / 4)
