"""What a path through candidates is weighed by: its scores, its gaps and its steps, as log likelihood ratios."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.special import log_ndtr

AMPLITUDES = np.geomspace(2.6, 60, 11)                      # of the score map: a path keeps one, or drifts by a step
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
    of score, a quadratic in the score; density : objects per um^3 expected, share (amplitudes,) : of them, by
    amplitude; slow_um, fast_um : standard deviation of a step in one frame; sigma_um : PSF (z, y, x), which tells how
    well a score can place a candidate.
    """

    floor: float
    clutter: tuple[float, float, float]
    density: float
    share: np.ndarray
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


def missed_scores(floor: float) -> np.ndarray:
    """Return (amplitudes,) log probability that an object leaves no candidate in a frame."""
    too_faint = log_ndtr((floor - AMPLITUDES) / np.hypot(1, SPREAD * AMPLITUDES))
    return np.logaddexp(np.log(1 - SEEN), np.log(SEEN) + too_faint)


@dataclass(frozen=True)
class Edges:
    """Links between an earlier and a later frame: source, target and log density (um^-3) of the step, by target."""

    source: np.ndarray
    target: np.ndarray
    log_density: np.ndarray

    def __post_init__(self) -> None:
        order = np.argsort(self.source, kind="stable")
        first, back = (np.flatnonzero(np.diff(x, prepend=-1)) for x in (self.target, self.source[order]))
        self.__dict__.update(first=first, order=order, back=back)

    def into(self, value: np.ndarray, best: np.ndarray) -> None:
        """Raise the targets' best to the best of what comes over the links from the sources' values, in place."""
        if len(self.source):
            to = self.target[self.first]
            best[to] = np.maximum(best[to], np.maximum.reduceat(value[self.source] + self.log_density[:, None],
                                                                self.first, axis=0))

    def back_into(self, value: np.ndarray, best: np.ndarray) -> None:
        """Do the same backwards: from the targets' values to the sources."""
        if len(self.source):
            source, k = self.source[self.order], self.order
            to = source[self.back]
            best[to] = np.maximum(best[to], np.maximum.reduceat(value[self.target[k]] + self.log_density[k, None],
                                                                self.back, axis=0))

    def between_pairs(self, source: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Return (N,) log densities of single links, -inf where there is none (or the source is -1)."""
        width = max(self.source.max(initial=0), source.max(initial=0)) + 1
        key, wanted = self.target * width + self.source, target * width + source
        order = np.argsort(key)
        at = np.minimum(np.searchsorted(key[order], wanted), max(len(key) - 1, 0))
        out = np.full(len(wanted), -np.inf, np.float32)
        if len(key):
            same = (key[order[at]] == wanted) & (source >= 0)
            out[same] = self.log_density[order[at[same]]]
        return out

    def between(self, sources: np.ndarray, targets: np.ndarray) -> Edges:
        """Return the links between the chosen candidates (masks), which are counted anew."""
        some = sources[self.source] & targets[self.target]
        return Edges((np.cumsum(sources) - 1)[self.source[some]], (np.cumsum(targets) - 1)[self.target[some]],
                     self.log_density[some])


def find_edges(before: Soft, after: Soft, gap: int, world: World) -> Edges:
    """Return the links between two frames `gap` apart that motion could explain."""
    widest = place_variance(np.full(1, world.floor), np.full(1, world.floor), world)[0]
    reach = max(link_reach(share, v + widest, world.density) for share, v in step_variances(gap, world))
    if not len(before) or not len(after):
        none = np.zeros(0, int)
        return Edges(none, none, np.zeros(0, np.float32))
    here, there = cKDTree(after.position_um), cKDTree(before.position_um)
    near = here.sparse_distance_matrix(there, reach, output_type="ndarray")
    target, source = near["i"], near["j"]
    place = place_variance(before.score[source], after.score[target], world)
    log_density = step_log_density(after.position_um[target] - before.position_um[source], place, gap, world)
    likely = np.flatnonzero(log_density > np.log(world.density))
    likely = likely[np.argsort(target[likely], kind="stable")]
    return Edges(source[likely], target[likely], log_density[likely].astype(np.float32))


def place_variance(one: np.ndarray, other: np.ndarray, world: World) -> np.ndarray:
    """Return (N, 3) variances (um^2) that the placing of two candidates of these scores adds to a step."""
    return (1 / one**2 + 1 / other**2)[:, None] * (2 * world.sigma_um**2)


def step_variances(gap: int, world: World) -> list[tuple[float, float]]:
    """Return the share and the variance (um^2, per axis) of Brownian and of directed steps over `gap` frames."""
    return [(SLOW, world.slow_um**2 * gap), (FAST, world.fast_um**2 * gap**1.6)]


def gaussian_log_density(step: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """Return (N,) log density of steps (N, 3) under a Gaussian of these variances."""
    return -0.5 * (step**2 / variance + np.log(2 * np.pi * variance)).sum(1)


def step_log_density(step: np.ndarray, place: np.ndarray, gap: np.ndarray | int, world: World) -> np.ndarray:
    """Return (N,) log density (um^-3) of steps (N, 3) over `gap` frames, with the placing's variance (N, 3)."""
    return np.logaddexp(*(np.log(share) + gaussian_log_density(step, np.reshape(v, (-1, 1)) + place)
                          for share, v in step_variances(gap, world)))


def link_reach(share: float, variance: np.ndarray, density: float) -> float:
    """Return the distance (um) at which a Gaussian step's density falls to that of unrelated objects."""
    log_peak = np.log(share) - 0.5 * np.log(2 * np.pi * variance).sum()
    return float(np.sqrt(2 * max(log_peak - np.log(density), 0) * variance.max()))
