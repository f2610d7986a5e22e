"""Hold the objects of a movie and how they are joined, and re-solve the joins with full past and future.

Every other frame's links are severed; the tails and heads this leaves are joined anew, over the whole movie at once,
by a sparse assignment whose gains know the whole past of each tail and the whole future of each head. Then the other
half. A frame-wise linker sees two frames at a time; the context of both sides is where the gain over it comes from.
What is beyond doubt is settled early, so that time goes where objects compete.
"""

from __future__ import annotations

import numpy as np

from cellfm_nb.track.assign import assign, confidence
from cellfm_nb.track.candidates import Candidates
from cellfm_nb.track.cost import common_slope, first_scales, link_gain, some_neighbours, start_end_logs, update_scales
from cellfm_nb.track.events import Event, Hypotheses, choose_events
from cellfm_nb.track.motion import Filter, Scales, column, pick

DOUBT = 1e-3                         # a link more certain than this is settled
NEGLIGIBLE = 12.0                    # nats: so much less likely than what both its ends have, a pair is no rival
BLOCK = 4096                         # pairs or objects worked on at once: what they need stays near the processor
ENOUGH = 4_000                       # links that scales are estimated from
CALM = 0.01                          # share of links changed below which another sweep is not worth its time
NEVER = np.iinfo(int).max


class Chains:
    """Join objects, sorted by frame, into chains.

    Parameters: x (d, n) um; frame (n,) ascending; identity (k, n), log light first; relative (k, n), least variance of
    each identity; voxel_um (d,); max_gap, frames a track may go unseen; scales to be taken as they are, the
    identities then free of bleaching (None: estimated).
    After `run`, `succ` and `pred` (n,) give each object's next and previous one (-1: none), `events` the splits and
    merges, `confidence` (n,) that of the link or event into each object (nan: none), `scales` the movie's scales.
    """

    def __init__(self, x: np.ndarray, frame: np.ndarray, identity: np.ndarray, relative: np.ndarray,
                 voxel_um: np.ndarray, max_gap: int, scales: Scales | None = None) -> None:
        x, identity, relative = (np.ascontiguousarray(rows, float) for rows in (x, identity, relative))
        self.x, self.frame, self.identity, self.relative = x, frame, identity.copy(), relative
        self.voxel_um, self.max_gap, self.n = voxel_um, max_gap, len(frame)
        self.succ, self.pred, self.confidence = np.full(self.n, -1), np.full(self.n, -1), np.full(self.n, np.nan)
        self.until, self.since = np.full(self.n, NEVER), np.full(self.n, -1)   # frame of what follows, of what was
        self.worth = np.zeros((2, self.n))                             # gain of the link out of, into an object
        self.settled = np.zeros((2, self.n), bool)                     # whether that link is settled
        self.rivals: list[np.ndarray] = []                             # pairs of consecutive frames not to be ruled out
        self.events: list[Event] = []
        self.expected = np.zeros((2, 2))                               # split, merge: number, sum of squared separation
        self.first, self.last = int(frame[0]), int(frame[-1])
        self.begin = np.searchsorted(frame, np.arange(self.first, self.last + 2))
        # both directions of time are filtered at once: row k is the past of object k, row n + k its future
        self.place, self.time = np.concatenate([x, -x], 1), np.concatenate([frame, -frame]).astype(float)
        self.waves = [np.concatenate([self.objects(self.first + k, self.first + k),
                                      self.n + self.objects(self.last - k, self.last - k)])
                      for k in range(self.last - self.first + 1)]
        self.fixed = scales is not None
        self.scales = scales or first_scales(some_neighbours(x.T, frame, ENOUGH), x, frame, self.identity, relative,
                                             voxel_um, max_gap)
        self.refilter()

    def run(self, sweeps: int, with_events: bool) -> None:
        """Link without context, then re-solve both halves and re-estimate the scales, at most `sweeps` times.

        Events are looked for from the second sweep on; a later one that changed next to nothing is the last.
        """
        near = Candidates(self)
        self.link_onward(near.next_frame(np.arange(self.n)))
        for sweep in range(sweeps):
            events = with_events and sweep > 0
            self.expected[:] = 0.0
            before, pairs = self.pred.copy(), self.competing(near, sweep)
            self.rivals = []
            for half in (0, 1):
                tails, heads = self.sever(half)
                self.solve(pairs[tails[pairs[:, 0]] & heads[pairs[:, 1]]], events)
                self.refilter(afresh=False)
            if sweep == sweeps - 1 or (sweep > with_events and (self.pred != before).mean() < CALM):
                break                                                  # the scales stay those the links were made with
            if not self.fixed:
                self.learn(events)
                self.refilter()

    def link_onward(self, pairs: np.ndarray) -> None:
        """Link frame by frame, knowing the past alone: where all sweeps start from."""
        at = np.searchsorted(self.frame[pairs[:, 0]], np.arange(self.first, self.last + 2))
        for t in range(self.last - self.first):
            i, j = pairs[at[t]:at[t + 1]].T
            here, then, end = self.begin[t:t + 3]
            size, gain = (then - here, end - then), self.gain(i, j, onward=True)
            chosen = assign(i - here, j - then, gain, *size)
            self.join(i[chosen], j[chosen], confidence(i - here, j - then, gain, *size)[chosen], [])
            self.settle(j[chosen])
            self.advance(j[chosen], self.pred)
        self.rivals, self.source[:self.n] = [pairs], self.pred         # the past is up to date, not the future
        self.refilter(afresh=False)

    def competing(self, near: Candidates, sweep: int) -> np.ndarray:
        """Return the pairs of tails and heads worth a look, (q, 2) ascending: of broken chains, and of links in doubt.

        The second sweep also looks where objects head to, as velocities are known by then.
        """
        broken = self.broken()
        loose = near.next_frame(*broken)
        self.unsettle(loose)
        doubtful = (self.until - self.frame == 1) & (self.succ >= 0) & ~self.settled[0]
        at = np.flatnonzero(doubtful)
        rivals = [pairs[doubtful[pairs[:, 0]]] for pairs in self.rivals]
        if sweep == 1:
            rivals.append(near.next_frame(at, headed=True))
        return near.unique([loose, np.column_stack([at, self.succ[at]]), *rivals, near.over_gaps(*broken)])

    def objects(self, t0: int, t1: int) -> np.ndarray:
        """Return indices of objects in frames t0 .. t1 inclusive."""
        t0, t1 = max(t0, self.first), min(t1, self.last)
        return np.arange(self.begin[t0 - self.first], self.begin[t1 - self.first + 1])

    def refilter(self, afresh: bool = True) -> None:
        """Run both filters over the present links: all of them, or only what depends on links changed since."""
        source = np.concatenate([self.pred, np.where(self.succ >= 0, self.succ + self.n, -1)])
        if afresh:
            noise = self.relative * column(self.scales.noise)
            identity, noise = np.tile(self.identity, 2), np.tile(noise, 2)
            self.measured = identity, noise
            self.tell = Filter.start(identity, noise, self.scales)
            self.past, self.future = self.tell.part(0, self.n), self.tell.part(self.n, 2 * self.n)
            self.log_start, self.log_end = start_end_logs(self.frame, self.first, self.last, self.scales)
            stale = source >= 0
        else:
            stale = source != self.source
        self.source, stale = source, np.append(stale, False)           # the last entry stands for no source
        for wave in self.waves:
            rows = wave[stale[wave] | stale[source[wave]]]
            stale[rows] = True
            for k in range(0, len(rows), BLOCK):
                self.advance(rows[k:k + BLOCK], source)

    def advance(self, rows: np.ndarray, source: np.ndarray) -> None:
        """Bring `rows` of the filter up to date with where they come from."""
        at = source[rows]
        led = at >= 0
        if not led.all():
            self.tell.reset(rows[~led], *self.measured, self.scales)
            rows, at = rows[led], at[led]
        if len(rows):
            self.tell.step(at, rows, pick(self.place, rows) - pick(self.place, at), self.time[rows] - self.time[at],
                           *self.measured, self.scales)

    def sever(self, half: int) -> tuple[np.ndarray, np.ndarray]:
        """Undo every link and event out of every other frame, or over a gap; return which objects are free, (n,) each.

        What is settled stays.
        """
        other = self.frame % 2 != half
        tails = ~(self.settled[0] | ((self.until - self.frame == 1) & other))
        heads = ~(self.settled[1] | ((self.frame - self.since == 1) & ~other))
        self.events = [e for e in self.events if not tails[e.parents[0]]]
        self.succ[tails], self.until[tails] = -1, NEVER
        self.pred[heads], self.since[heads], self.confidence[heads] = -1, -1, np.nan
        return tails, heads

    def solve(self, pairs: np.ndarray, with_events: bool) -> None:
        """Join free objects anew, given all that is on both sides; pairs (q, 2) of tails and heads, ascending."""
        if not len(pairs):
            return
        i, j = pairs.T
        gain = np.concatenate([self.gain(*pairs[k:k + BLOCK].T) for k in range(0, len(pairs), BLOCK)])
        chosen, events = assign(i, j, gain, self.n, self.n), []
        if with_events:
            (tails, a), (heads, b) = (np.unique(k, return_inverse=True) for k in (i, j))
            chosen, events = choose_events(self, tails, heads, a, b, gain, chosen)
        self.worth[0, i], self.worth[1, j] = 0.0, 0.0
        self.worth[0, i[chosen]], self.worth[1, j[chosen]] = gain[chosen], gain[chosen]
        rival = gain > np.minimum(self.worth[0, i], self.worth[1, j]) - NEGLIGIBLE
        self.rivals.append(pairs[rival & (self.frame[j] - self.frame[i] == 1)])
        self.join(i[chosen], j[chosen], confidence(i, j, gain, self.n, self.n)[chosen], events)
        self.settle(j[chosen])

    def gain(self, i: np.ndarray, j: np.ndarray, onward: bool = False) -> np.ndarray:
        """Return the gain (nats) of linking i and j, (q,); onward: nothing comes after the j yet."""
        return link_gain(self.past, None if onward else self.future, i, j, pick(self.x, j) - pick(self.x, i),
                         self.frame[j] - self.frame[i], self.log_start, self.log_end, self.scales)

    def join(self, i: np.ndarray, j: np.ndarray, sure: np.ndarray | float, events: list[Event]) -> None:
        """Put links (i, j) and events in place."""
        self.succ[i], self.pred[j], self.confidence[j] = j, i, sure
        self.until[i], self.since[j] = self.frame[j], self.frame[i]
        for event in events:
            parents, children = list(event.parents), list(event.children)
            self.until[parents], self.since[children] = self.frame[children[0]], self.frame[parents[0]]
            self.confidence[children] = event.confidence
        self.events += events

    def settle(self, j: np.ndarray) -> None:
        """Settle those links into objects j that are beyond doubt."""
        j = j[self.confidence[j] > 1 - DOUBT]
        self.settled[0, self.pred[j]], self.settled[1, j] = True, True

    def unsettle(self, pairs: np.ndarray) -> None:
        """Call in doubt again the links out of the first and into the second of `pairs` (q, 2)."""
        tail = np.concatenate([pairs[:, 0], self.pred[pairs[:, 1]]])
        tail = tail[(tail >= 0) & self.settled[0, tail]]
        self.settled[0, tail], self.settled[1, self.succ[tail]] = False, False

    def broken(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the objects with no link into the next frame, and those with none from the one before."""
        tails = (self.until - self.frame != 1) | (self.succ < 0)
        heads = (self.frame - self.since != 1) | (self.pred < 0)
        return np.flatnonzero(tails & ~self.settled[0]), np.flatnonzero(heads & ~self.settled[1])

    def expect(self, hyp: Hypotheses, advantage: np.ndarray, objects: np.ndarray) -> None:
        """Count the events expected, chosen or not: each against links and other events of its whole."""
        whole, one, two = hyp.parts()
        node = whole + len(objects) * hyp.kind
        odds = np.exp(np.clip(advantage, -50, 50))
        weight = odds / (1 + np.bincount(node, odds)[node])
        weight /= 1 + (np.abs(self.frame[objects[whole]] - self.frame[objects[one]]) > 1)   # seen in both halves
        square = ((self.x[:, objects[one]] - self.x[:, objects[two]]) ** 2).mean(0)
        self.expected += np.column_stack([np.bincount(hyp.kind, weight, 2), np.bincount(hyp.kind, weight * square, 2)])

    def learn(self, with_events: bool) -> None:
        """Re-estimate the scales from the present links and events, and refilter."""
        i = np.flatnonzero(self.succ >= 0)
        bleach = self.scales.bleach
        if len(self.identity) and len(i):
            chain = chain_ids(self.pred)
            weight = (np.bincount(chain) / np.bincount(chain, self.relative[0]))[chain]  # a track's, not a row's
            rate = -common_slope(chain, self.frame, self.identity[0], weight)
            self.identity[0] += rate * (self.frame - self.first)
            bleach += rate
        joined = np.column_stack([self.since >= 0, self.until < NEVER])
        i = i[::1 + len(i) // ENOUGH]                                  # every third, tenth ... says as much as all
        self.scales = update_scales(self.scales, (i, self.succ[i]), self.x, self.frame, self.identity, self.relative,
                                    self.past, self.future, joined, self.voxel_um,
                                    self.expected if with_events else None).with_(bleach=bleach)


def chain_ids(pred: np.ndarray) -> np.ndarray:
    """Return the chain each object belongs to, (n,), numbered by first appearance; pred (n,), -1 for none."""
    root = np.where(pred >= 0, pred, np.arange(len(pred)))
    while (root[root] != root).any():
        root = root[root]
    return np.unique(root, return_inverse=True)[1]
