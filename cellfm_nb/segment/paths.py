"""Evidence over time: faint candidates are believed when they lie on one path, and each lies on at most one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import log_ndtr

AMPLITUDES = np.geomspace(2.6, 60, 11)                      # of the score map: a path keeps one, or drifts by a step
DRIFT = np.log(0.05)                                        # of a step up or down between two frames
SPREAD = 0.12                                               # relative change of a score along a path (focus, pixels)
SEEN = 0.94                                                 # an object that is there and not dark in this frame
TURN = np.log(0.015)                                        # an object appears, or goes for good, in a given frame
LONGEST_GAP = 3                                             # frames to bridge, so two in between are missed
SLOW, FAST = 0.7, 0.3                                       # shares of Brownian and of directed steps


@dataclass(frozen=True)
class Soft:
    """Candidates of one frame: positions (N, 3) in micrometre and their scores (N,)."""

    position_um: np.ndarray
    score: np.ndarray

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True)
class World:
    """What a path is weighed against.

    floor : lowest score of a candidate; clutter : coefficients of log density of false candidates, per um^3 and unit
    of score, a quadratic in the score; density : objects per um^3 expected; slow_um, fast_um : standard deviation of a
    step in one frame; sigma_um : PSF (z, y, x), which tells how well a score can place a candidate.
    """

    floor: float
    clutter: tuple[float, float, float]
    density: float
    slow_um: float
    fast_um: float
    sigma_um: np.ndarray


def node_scores(score: np.ndarray, world: World) -> np.ndarray:
    """Return (N, amplitudes) log ratio of a candidate's score under an object of that amplitude and under clutter."""
    sd = np.hypot(1, SPREAD * AMPLITUDES)
    z = score[:, None].astype(float)
    own = -0.5 * ((z - AMPLITUDES) / sd) ** 2 - np.log(sd * np.sqrt(2 * np.pi))
    a, b, c = world.clutter
    turn = -b / (2 * c) if c < 0 else -np.inf               # the density of clutter only falls with the score
    z = np.maximum(z, turn)
    return (np.log(SEEN) + own - (a + b * z + c * z**2)).astype(np.float32)


def missed_scores(world: World) -> np.ndarray:
    """Return (amplitudes,) log probability that an object leaves no candidate in a frame."""
    too_faint = log_ndtr((world.floor - AMPLITUDES) / np.hypot(1, SPREAD * AMPLITUDES))
    return np.logaddexp(np.log(1 - SEEN), np.log(SEEN) + too_faint)


@dataclass(frozen=True)
class Edges:
    """Links into one frame from an earlier one, sorted by target: source, target, log density (um^-3), and starts."""

    source: np.ndarray
    target: np.ndarray
    log_density: np.ndarray
    first: np.ndarray                                       # where each new target begins
    reached: np.ndarray                                     # those targets


def find_edges(before: Soft, after: Soft, gap: int, world: World) -> Edges:
    """Return the links between two frames `gap` apart that motion could explain."""
    slow, fast = world.slow_um**2 * gap, world.fast_um**2 * gap**1.6
    place = 2 * world.sigma_um**2 * (2 / world.floor**2)
    reach = max(link_reach(share, v + place, world.density) for share, v in ((SLOW, slow), (FAST, fast)))
    if not len(before) or not len(after):
        none = np.zeros(0, int)
        return Edges(none, none, np.zeros(0), none, none)
    here, there = cKDTree(after.position_um), cKDTree(before.position_um)
    near = here.sparse_distance_matrix(there, reach, output_type="coo_matrix")
    order = np.lexsort((near.col, near.row))
    target, source = near.row[order], near.col[order]
    place = 2 * world.sigma_um**2 * (1 / before.score[source] ** 2 + 1 / after.score[target] ** 2)[:, None]
    step = (after.position_um[target] - before.position_um[source]) ** 2
    log_density = np.logaddexp(*(np.log(share) - 0.5 * (step / (v + place) + np.log(2 * np.pi * (v + place))).sum(1)
                                 for share, v in ((SLOW, slow), (FAST, fast))))
    likely = log_density > np.log(world.density)
    source, target, log_density = source[likely], target[likely], log_density[likely].astype(np.float32)
    first = np.flatnonzero(np.diff(target, prepend=-1))
    return Edges(source, target, log_density, first, target[first])


def link_reach(share: float, variance: np.ndarray, density: float) -> float:
    """Return the distance (um) at which a Gaussian step's density falls to that of unrelated objects."""
    log_peak = np.log(share) - 0.5 * np.log(2 * np.pi * variance).sum()
    return float(np.sqrt(2 * max(log_peak - np.log(density), 0) * variance.max()))


def drifted(value: np.ndarray) -> np.ndarray:
    """Return values (N, amplitudes) after a path may have changed its amplitude by a step."""
    out = value.copy()
    np.maximum(out[:, 1:], value[:, :-1] + np.float32(DRIFT), out=out[:, 1:])
    np.maximum(out[:, :-1], value[:, 1:] + np.float32(DRIFT), out=out[:, :-1])
    return out


@dataclass(frozen=True)
class Path:
    """One object's candidates: (frame, index) pairs in order of time, and the path's log likelihood ratio."""

    nodes: list[tuple[int, int]]
    score: float


class PathFinder:
    """Paths through the candidates of consecutive frames, the best first, none sharing a candidate.

    A path's score is the log ratio of its candidates' likelihood as one moving object and as clutter. The best path is
    found by dynamic programming over (candidate, amplitude); its candidates are taken out, and so on (greedy
    min-cost flow without residual arcs: Pirsiavash, Ramanan and Fowlkes 2011).
    """

    def __init__(self, frames: Sequence[Soft], world: World):
        self.frames, self.world = frames, world
        self.nodes = [node_scores(f.score, world) for f in frames]
        self.missed = missed_scores(world)
        self.edges = {(t, g): find_edges(frames[t - g], frames[t], g, world)
                      for t in range(len(frames)) for g in range(1, min(LONGEST_GAP, t) + 1)}
        n = len(frames)
        prior = np.log(world.density / len(AMPLITUDES))
        self.start = prior + np.array([np.maximum(TURN, t * self.missed) for t in range(n)])
        self.end = np.array([np.maximum(TURN, (n - 1 - t) * self.missed) for t in range(n)])
        self.start, self.end, self.missed = (x.astype(np.float32) for x in (self.start, self.end, self.missed))

    def links_into(self, t: int, value: list[np.ndarray]) -> np.ndarray:
        """Return (N, amplitudes): the best value with which a path arrives at each candidate of frame t."""
        best = np.broadcast_to(self.start[t], self.nodes[t].shape).copy()
        for gap in range(1, min(LONGEST_GAP, t) + 1):
            e = self.edges[t, gap]
            if len(e.source):
                come = value[t - gap][e.source] + (e.log_density[:, None] + (gap - 1) * self.missed)
                best[e.reached] = np.maximum(best[e.reached], np.maximum.reduceat(come, e.first, axis=0))
        return best

    def forward(self) -> list[np.ndarray]:
        """Return for each frame (N, amplitudes) the score of the best path that ends there, before its end."""
        value: list[np.ndarray] = []
        self.drift: list[np.ndarray] = []                   # the same, a step of amplitude later
        for t in range(len(self.frames)):
            value.append(self.links_into(t, self.drift) + self.nodes[t])
            self.drift.append(drifted(value[t]))
        return value

    def worth_ending(self, t: int, total: list[np.ndarray]) -> np.ndarray:
        """Return which candidates of frame t end a path better than the candidate before them would."""
        c = total[t].argmax(1)
        best, rival = self.start[t][c], np.full(len(c), -np.inf, np.float32)
        for gap in range(1, min(LONGEST_GAP, t) + 1):
            e = self.edges[t, gap]
            if len(e.source):
                of = c[e.target]
                come = self.drift[t - gap][e.source, of] + e.log_density + (gap - 1) * self.missed[of]
                top = np.maximum.reduceat(come, e.first)
                chosen = come == np.repeat(top, np.diff(e.first, append=len(come)))
                before = np.maximum.reduceat(np.where(chosen, total[t - gap].max(1)[e.source], -np.inf), e.first)
                wins = top > best[e.reached]
                best[e.reached[wins]], rival[e.reached[wins]] = top[wins], before[wins]
        return total[t].max(1) > rival

    def trace(self, t: int, j: int, value: list[np.ndarray], taken: set) -> list[tuple[int, int]] | None:
        """Return the path that ends at candidate j of frame t; None where a better one has taken a part of it."""
        nodes, c = [(t, j)], int((value[t][j] + self.end[t]).argmax())
        while nodes[-1] not in taken:
            best, step = self.start[t][c], None
            for gap in range(1, min(LONGEST_GAP, t) + 1):
                e = self.edges[t, gap]
                low, high = np.searchsorted(e.target, [j, j + 1])
                if high > low:
                    come = self.drift[t - gap][e.source[low:high], c] + e.log_density[low:high]
                    k = int(come.argmax())
                    if come[k] + (gap - 1) * self.missed[c] > best:
                        best, step = come[k] + (gap - 1) * self.missed[c], (t - gap, int(e.source[low + k]))
            if step is None:
                return nodes[::-1]
            t, j = step
            choices = [value[t][j, k] + (0 if k == c else DRIFT) if 0 <= k < len(AMPLITUDES) else -np.inf
                       for k in (c - 1, c, c + 1)]
            c += int(np.argmax(choices)) - 1
            nodes.append((t, j))
        return None

    def extract(self, least: float = -4.0, rounds: int = 30) -> list[Path]:
        """Return the exclusive paths that score at least `least`, best first within each round."""
        found: list[Path] = []
        for _ in range(rounds):
            value = self.forward()
            total = [v + self.end[t] for t, v in enumerate(value)]
            frame = np.concatenate([np.full(len(v), t) for t, v in enumerate(total)])
            index = np.concatenate([np.arange(len(v)) for v in total])
            best = np.concatenate([np.where(self.worth_ending(t, total), v.max(1), -np.inf)
                                   for t, v in enumerate(total)])
            taken: set[tuple[int, int]] = set()
            for k in np.argsort(-best, kind="stable"):
                t, j = int(frame[k]), int(index[k])
                if best[k] < least:
                    break
                nodes = self.trace(t, j, value, taken)
                if nodes is not None:
                    found.append(Path(nodes, float(best[k])))
                    taken.update(nodes)
            if not taken:
                break
            for t, j in taken:
                self.nodes[t][j] = -np.inf
        return found
