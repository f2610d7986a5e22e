"""Hold the objects of a movie and how they are joined, and re-solve the joins cut by cut.

At a cut between two frames the tracks are severed; tails on its left and heads on its right are joined anew by a
sparse assignment whose gains know the whole past of each tail and the whole future of each head. A frame-wise linker
sees two frames at a time; the context of both sides is where the gain over it comes from.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from cellfm_nb.track.assign import assign, confidence
from cellfm_nb.track.cost import common_slope, first_scales, link_gain, start_end_logs, update_scales
from cellfm_nb.track.events import Event, Hypotheses, choose_events
from cellfm_nb.track.motion import Filter

NEIGHBOURS = 16                      # candidates of a tail around its place and its predicted place: bounds time
MASS_NATS = 10.0                     # more than any identity can speak for a pair
NEVER = np.iinfo(int).max


class Chains:
    """Join objects, sorted by frame, into chains.

    Parameters: x (n, d) um; frame (n,) ascending; identity (n, k), log mass first; relative (n, k), variance of each
    identity up to a factor; voxel_um (d,); max_gap, frames a track may go unseen.
    After `run`, `succ` and `pred` (n,) give each object's next and previous one (-1: none), `events` the splits and
    merges, `confidence` (n,) that of the link or event into each object (nan: none), `scales` the movie's scales.
    """

    def __init__(self, x: np.ndarray, frame: np.ndarray, identity: np.ndarray, relative: np.ndarray,
                 voxel_um: np.ndarray, max_gap: int) -> None:
        self.x, self.frame, self.identity, self.relative = x, frame, identity.copy(), relative
        self.voxel_um, self.max_gap = voxel_um, max_gap
        n = len(x)
        self.succ, self.pred, self.confidence = np.full(n, -1), np.full(n, -1), np.full(n, np.nan)
        self.until, self.since = np.full(n, NEVER), np.full(n, -1)     # frame of what follows, of what went before
        self.events: list[Event] = []
        self.expected = np.zeros((2, 2))                               # split, merge: number, sum of squared separation
        self.first, self.last = int(frame[0]), int(frame[-1])
        self.begin = np.searchsorted(frame, np.arange(self.first, self.last + 2))
        self.scales = first_scales(x, frame, self.identity, relative, voxel_um, max_gap)
        self.refilter()

    def run(self, sweeps: int, with_events: bool) -> None:
        """Sweep all cuts both ways, then re-estimate the scales, `sweeps` times; events from the second on."""
        for t in range(self.first, self.last):       # once without looking ahead: no chain skips a frame it need not
            self.solve(t, with_events=False, ahead=0)
            self.advance(t + 1, forward=True)
        for sweep in range(sweeps):
            self.sweep(with_events and sweep > 0)
            self.learn(with_events and sweep > 0)

    def objects(self, t0: int, t1: int) -> np.ndarray:
        """Return indices of objects in frames t0 .. t1 inclusive."""
        t0, t1 = max(t0, self.first), min(t1, self.last)
        return np.arange(self.begin[t0 - self.first], self.begin[t1 - self.first + 1])

    def refilter(self) -> None:
        """Run both filters over the present links with the present scales."""
        self.noise = self.relative * self.scales.noise
        self.past = Filter.start(self.identity, self.noise, self.scales)
        self.future = Filter.start(self.identity, self.noise, self.scales)
        self.log_start, self.log_end = start_end_logs(self.frame, self.first, self.last, self.scales)
        for t in range(self.first + 1, self.last + 1):
            self.advance(t, forward=True)
        for t in range(self.last - 1, self.first - 1, -1):
            self.advance(t, forward=False)

    def advance(self, t: int, forward: bool) -> None:
        """Bring the past (or future) of frame t's objects up to date with the links."""
        here = self.objects(t, t)
        tell, source = (self.past, self.pred[here]) if forward else (self.future, self.succ[here])
        tell.reset(here, self.identity, self.noise, self.scales)
        source, here = source[source >= 0], here[source >= 0]
        if len(here):
            early, late = (source, here) if forward else (here, source)
            tell.step(source, here, self.x[late] - self.x[early], self.frame[late] - self.frame[early],
                      self.identity, self.noise, self.scales)

    def sweep(self, with_events: bool) -> None:
        """Solve every cut forward, then backward."""
        for t in range(self.first, self.last):
            self.solve(t, with_events)
            self.advance(t + 1, forward=True)
        self.expected[:] = 0.0
        for t in range(self.last - 1, self.first - 1, -1):
            self.solve(t, with_events)
            self.advance(t, forward=False)

    def solve(self, t: int, with_events: bool, ahead: int | None = None) -> None:
        """Re-solve the cut between frames t and t + 1, given all that is on both sides, `ahead` frames beyond t + 1."""
        tails, heads = self.sever(t, self.max_gap if ahead is None else ahead)
        if not len(tails) or not len(heads):
            return
        a, b = self.candidates(tails, heads)
        i, j = tails[a], heads[b]
        gain = link_gain(self.past, self.future, i, j, self.x[j] - self.x[i], self.frame[j] - self.frame[i],
                         self.log_start, self.log_end, self.scales)
        chosen, events = assign(a, b, gain, len(tails), len(heads)), []
        if with_events and len(a):
            chosen, events = choose_events(self, tails, heads, a, b, gain, chosen)
        self.join(i[chosen], j[chosen], confidence(a, b, gain, len(tails), len(heads))[chosen], events)

    def sever(self, t: int, ahead: int) -> tuple[np.ndarray, np.ndarray]:
        """Undo every link and event across the cut after frame t; return the tails and heads it leaves."""
        tails, heads = self.objects(t - self.max_gap, t), self.objects(t + 1, t + 1 + ahead)
        tails, heads = tails[self.until[tails] > t], heads[self.since[heads] <= t]
        self.events = [e for e in self.events if not self.frame[e.parents[0]] <= t < self.frame[e.children[0]]]
        self.succ[tails], self.until[tails] = -1, NEVER
        self.pred[heads], self.since[heads], self.confidence[heads] = -1, -1, np.nan
        return tails, heads

    def candidates(self, tails: np.ndarray, heads: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return pairs (a, b) of positions in tails and heads worth a look, ascending.

        They are the heads nearest to each tail's place and to where it was heading, less those so far from every
        place the tail might have gone, in standard deviations, that no likelihood could make up for it.
        """
        s, v = self.scales, self.past.v[tails]
        wide = np.sqrt(s.velocity_um2 + s.step_um2 + s.event_um2.max() / 4)
        tree, k = cKDTree(self.x[heads] / wide), np.arange(1, min(NEIGHBOURS, len(heads)) + 1)
        wait = np.maximum(self.frame[heads[0]] - self.frame[tails], 1)[:, None]
        ahead = np.flatnonzero((((wait * v) / wide) ** 2).sum(1) > 0.25)      # else it is the same place
        rows = np.arange(len(tails))[:, None] * len(heads)
        near = rows + tree.query(self.x[tails] / wide, k=k)[1]
        there = rows[ahead] + tree.query((self.x[tails] + wait * v)[ahead] / wide, k=k)[1]
        keys = np.sort(np.concatenate([near.ravel(), there.ravel()]))
        a, b = np.divmod(keys[np.append(True, keys[1:] != keys[:-1])], len(heads))
        i, j = tails[a], heads[b]
        g = (self.frame[j] - self.frame[i])[:, None]
        move, reach = self.x[j] - self.x[i], g * wide
        far = np.min([(((move - g * u) / reach) ** 2).sum(1) for u in (0.0, v[a], self.future.v[j])], axis=0)
        most = MASS_NATS - 0.5 * np.log(2 * np.pi * s.step_um2).sum() - self.log_start[j] - self.log_end[i]
        ok = (g[:, 0] <= self.max_gap + 1) & (far <= 2 * np.maximum(most, MASS_NATS))
        return a[ok], b[ok]

    def join(self, i: np.ndarray, j: np.ndarray, sure: np.ndarray, events: list[Event]) -> None:
        """Put links (i, j) and events in place."""
        self.succ[i], self.pred[j], self.confidence[j] = j, i, sure
        self.until[i], self.since[j] = self.frame[j], self.frame[i]
        for event in events:
            parents, children = list(event.parents), list(event.children)
            self.until[parents], self.since[children] = self.frame[children[0]], self.frame[parents[0]]
            self.confidence[children] = event.confidence
        self.events += events

    def expect(self, hyp: Hypotheses, advantage: np.ndarray, objects: np.ndarray) -> None:
        """Count the events expected at a cut, chosen or not: each against links and other events of its whole."""
        whole, one, two = hyp.parts()
        node = whole + len(objects) * hyp.kind
        odds = np.exp(np.clip(advantage, -50, 50))
        weight = odds / (1 + np.bincount(node, odds)[node])
        weight /= np.abs(self.frame[objects[whole]] - self.frame[objects[one]])       # seen again at that many cuts
        square = ((self.x[objects[one]] - self.x[objects[two]]) ** 2).mean(1)
        self.expected += np.column_stack([np.bincount(hyp.kind, weight, 2), np.bincount(hyp.kind, weight * square, 2)])

    def learn(self, with_events: bool) -> None:
        """Re-estimate the scales from the present links and events, and refilter."""
        i = np.flatnonzero(self.succ >= 0)
        bleach = self.scales.bleach
        if self.identity.shape[1] and len(i):
            chain = self.chain_ids()
            weight = (np.bincount(chain) / np.bincount(chain, self.relative[:, 0]))[chain]  # a track's, not a row's
            rate = -common_slope(chain, self.frame, self.identity[:, 0], weight)
            self.identity[:, 0] += rate * (self.frame - self.first)
            bleach += rate
        joined = np.column_stack([self.since >= 0, self.until < NEVER])
        self.scales = update_scales(self.scales, (i, self.succ[i]), self.x, self.frame, self.identity, self.relative,
                                    self.past, self.future, joined, self.voxel_um,
                                    self.expected if with_events else None).with_(bleach=bleach)
        self.refilter()

    def chain_ids(self) -> np.ndarray:
        """Return the chain each object belongs to, (n,), numbered by first appearance."""
        chain = np.arange(len(self.x))
        for t in range(self.first + 1, self.last + 1):
            here = self.objects(t, t)
            here = here[self.pred[here] >= 0]
            chain[here] = chain[self.pred[here]]
        return np.unique(chain, return_inverse=True)[1]
