"""Evidence over time: faint candidates are believed when they lie on one path, and each lies on at most one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellfm_nb.segment.links import AMPLITUDES, LONGEST_GAP, TURN, Soft, World, find_edges, missed_scores, node_scores

DRIFT = np.log(0.05)                                        # of a step of amplitude up or down between two frames


def drifted(value: np.ndarray) -> np.ndarray:
    """Return values (N, amplitudes) after a path may have changed its amplitude by a step."""
    out = value.copy()
    np.maximum(out[:, 1:], value[:, :-1] + np.float32(DRIFT), out=out[:, 1:])
    np.maximum(out[:, :-1], value[:, 1:] + np.float32(DRIFT), out=out[:, :-1])
    return out


@dataclass(frozen=True)
class Path:
    """One object's candidates: (frame, index) pairs in order of time, the path's log odds, amplitude index of each."""

    nodes: list[tuple[int, int]]
    score: float
    amplitudes: list[int]


class PathFinder:
    """Paths through the candidates of consecutive frames, the best first, none sharing a candidate.

    A path's score is the log ratio of its candidates' likelihood as one moving object and as clutter. The best paths
    are found by dynamic programming over (candidate, amplitude); their candidates are taken out, and so on (greedy
    min-cost flow without residual arcs: Pirsiavash, Ramanan and Fowlkes 2011). A candidate through which no path is
    good enough leaves after the first pass, as taking others out makes none better.
    """

    def __init__(self, frames: Sequence[Soft], world: World):
        n = len(frames)
        self.frames = frames
        self.nodes = [node_scores(f.score, world) for f in frames]
        self.index = [np.arange(len(f)) for f in frames]    # of the candidates that are left
        self.edges = {(t, g): find_edges(frames[t - g], frames[t], g, world)
                      for t in range(n) for g in range(1, min(LONGEST_GAP, t) + 1)}
        missed = missed_scores(world.floor)
        prior = np.log(world.density * world.share)
        self.start = [(prior + np.maximum(TURN, t * missed)).astype(np.float32) for t in range(n)]
        self.end = [np.maximum(TURN, (n - 1 - t) * missed).astype(np.float32) for t in range(n)]
        self.missed = missed.astype(np.float32)

    def forward(self) -> list[np.ndarray]:
        """Return for each frame (N, amplitudes) the score of the best path that ends there, before its end."""
        value, self.drift = [], []                          # drift: the same, when the next frame is reached
        for t, nodes in enumerate(self.nodes):
            best = np.repeat(self.start[t][None], len(nodes), 0)
            for gap in range(1, min(LONGEST_GAP, t) + 1):
                self.edges[t, gap].into(self.drift[t - gap] + (gap - 1) * self.missed, best)
            value.append(best + nodes)
            self.drift.append(drifted(value[t]))
        return value

    def backward(self) -> list[np.ndarray]:
        """Return for each frame (N, amplitudes) the score of the best path that begins there, without its beginning."""
        n, value = len(self.nodes), {}
        for t in reversed(range(n)):
            best = np.repeat(self.end[t][None], len(self.nodes[t]), 0)
            for gap in range(1, min(LONGEST_GAP, n - 1 - t) + 1):
                self.edges[t + gap, gap].back_into(drifted(value[t + gap]) + (gap - 1) * self.missed, best)
            value[t] = best + self.nodes[t]
        return [value[t] for t in range(n)]

    def keep(self, some: Sequence[np.ndarray]) -> None:
        """Take out the candidates that are not among some (a mask a frame)."""
        self.nodes = [x[k] for x, k in zip(self.nodes, some, strict=True)]
        self.index = [x[k] for x, k in zip(self.index, some, strict=True)]
        self.edges = {(t, g): e.between(some[t - g], some[t]) for (t, g), e in self.edges.items()}

    def trace(self, frame: np.ndarray, node: np.ndarray, value: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """Return (paths, frames) the candidates of the best path that ends at each given one, -1 where it has none.

        And which of them had better ended a candidate earlier.
        """
        route = np.full((len(frame), len(self.nodes)), -1)
        route[np.arange(len(frame)), frame] = node
        amplitude, worse, last = np.zeros(len(frame), int), np.zeros(len(frame), bool), frame.copy()
        for t in reversed(range(len(self.nodes))):
            here = np.flatnonzero(route[:, t] >= 0)
            if not len(here):
                continue
            j, total = route[here, t], value[t] + self.end[t]
            ends = last[here] == t
            amplitude[here[ends]] = total[j[ends]].argmax(1)
            c = amplitude[here]
            best, step, source = self.start[t][c].copy(), np.zeros(len(here), int), np.zeros(len(here), int)
            for gap in range(1, min(LONGEST_GAP, t) + 1):
                e = self.edges[t, gap]
                low, high = np.searchsorted(e.target, j), np.searchsorted(e.target, j, side="right")
                some = np.flatnonzero(high > low)
                if not len(some):
                    continue
                count = (high - low)[some]
                first = np.cumsum(count) - count
                link = np.arange(count.sum()) + np.repeat(low[some] - first, count)
                of = np.repeat(c[some], count)
                come = self.drift[t - gap][e.source[link], of] + e.log_density[link] + (gap - 1) * self.missed[of]
                top = np.maximum.reduceat(come, first)
                which = np.minimum.reduceat(np.where(come == np.repeat(top, count), link, len(e.target)), first)
                wins = top > best[some]
                best[some[wins]], step[some[wins]], source[some[wins]] = top[wins], gap, e.source[which[wins]]
            for gap in range(1, min(LONGEST_GAP, t) + 1):
                on = step == gap
                if on.any():
                    before, k = source[on], c[on]
                    route[here[on], t - gap] = before
                    three = np.stack([np.where((k + d >= 0) & (k + d < len(AMPLITUDES)), value[t - gap][
                        before, np.clip(k + d, 0, len(AMPLITUDES) - 1)] + abs(d) * DRIFT, -np.inf) for d in (-1, 0, 1)])
                    amplitude[here[on]] = np.clip(k + three.argmax(0) - 1, 0, len(AMPLITUDES) - 1)
                    rival = (value[t - gap] + self.end[t - gap]).max(1)[before]
                    worse[here[on]] |= ends[on] & (rival >= total[j[on]].max(1))
        return route, worse

    def mend(self, route: np.ndarray) -> list[tuple[Path, np.ndarray, np.ndarray]]:
        """Return paths cut where two objects were joined, without candidates that only bridge; frames, nodes.

        The best single path likes to go on through any candidate to a second object, as it then has both. Over the
        candidates of one path, all ways to drop some and to end and begin anew are compared.
        """
        n, rows = len(self.nodes), len(route)
        value = np.full((n, rows, len(AMPLITUDES)), -np.inf, np.float32)
        drift, how = value.copy(), np.zeros(value.shape, int)            # how: 0 = begun, or frames since the last
        closed, since = np.zeros((n + 1, rows), np.float32), np.full((n + 1, rows), -1)   # best until then, its last
        for t in range(n):
            here = np.flatnonzero(route[:, t] >= 0)
            j = route[here, t]
            best, from_ = closed[t, here, None] + self.start[t], np.zeros((len(here), len(AMPLITUDES)), int)
            for gap in range(1, min(LONGEST_GAP, t) + 1):
                link = self.edges[t, gap].between_pairs(route[here, t - gap], j)
                come = drift[t - gap, here] + link[:, None] + (gap - 1) * self.missed
                wins = come > best
                best[wins], from_[wins] = come[wins], gap
            value[t, here], how[t, here] = best + self.nodes[t][j], from_
            drift[t] = drifted(value[t])
            ended = (value[t] + self.end[t]).max(1)
            better = ended > np.where(since[t] < 0, -np.inf, closed[t])
            closed[t + 1], since[t + 1] = np.where(better, ended, closed[t]), np.where(better, t, since[t])
        found = []
        for row in range(rows):
            t = since[n, row]
            while t >= 0:
                c = int((value[t, row] + self.end[t]).argmax())
                score, nodes, amplitudes = closed[t + 1, row], [t], [c]
                while gap := how[t, row, c]:
                    t -= gap
                    near = [value[t, row, k] + abs(k - c) * DRIFT if 0 <= k < len(AMPLITUDES) else -np.inf
                            for k in (c - 1, c, c + 1)]
                    c += int(np.argmax(near)) - 1
                    nodes.append(t)
                    amplitudes.append(c)
                before = closed[t, row] if since[t, row] >= 0 else 0.0
                frames = np.array(nodes[::-1])
                where = route[row, frames]
                found.append((Path([(int(a), int(self.index[a][k])) for a, k in zip(frames, where, strict=True)],
                                   float(score - before), amplitudes[::-1]), frames, where))
                t = since[t, row]
        return found

    def extract(self, least: float = -4.0, rounds: int = 30) -> list[Path]:
        """Return the exclusive paths that score at least `least`, best first within each round."""
        found: list[Path] = []
        value = self.forward()
        through = [(a + b - x).max(1, initial=-np.inf) for a, b, x in
                   zip(value, self.backward(), self.nodes, strict=True)]
        self.keep([x >= least for x in through])
        for _ in range(rounds):
            value = self.forward()
            best = [(v + self.end[t]).max(1, initial=-np.inf) for t, v in enumerate(value)]
            frame = np.concatenate([np.full(len(b), t) for t, b in enumerate(best)])
            node, best = np.concatenate([np.arange(len(b)) for b in best]), np.concatenate(best)
            order = np.argsort(-best, kind="stable")
            order = order[best[order] >= least]
            route, worse = self.trace(frame[order], node[order], value)
            chosen = exclusive_rows(route[~worse])
            if not len(chosen):
                break
            free = [np.ones(len(x), bool) for x in self.nodes]
            for path, frames, where in self.mend(route[~worse][chosen]):
                found.append(path)
                for t, j in zip(frames, where, strict=True):
                    free[t][j] = False
            self.keep(free)
        return found


def exclusive_rows(route: np.ndarray) -> np.ndarray:
    """Return the rows that share no candidate with a chosen row above them, going down the table."""
    width = route.max(initial=-1) + 1
    place = np.where(route >= 0, route + width * np.arange(route.shape[1]), -1)
    chosen, left = [], np.arange(len(route))
    while len(left):
        some = place[left]
        rank = np.broadcast_to(np.arange(len(left))[:, None], some.shape)
        first = np.full(width * route.shape[1] + 1, len(left))          # the last entry is that of no candidate
        np.minimum.at(first, some, rank)
        first[-1] = len(left)
        wins = ((first[some] == rank) | (some < 0)).all(1)
        chosen.append(left[wins])
        taken = np.zeros(len(first), bool)
        taken[some[wins]] = True
        taken[-1] = False
        left = left[~taken[some].any(1)]
    return np.sort(np.concatenate(chosen)) if chosen else left
