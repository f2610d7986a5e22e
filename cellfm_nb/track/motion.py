"""Filter each track's motion and identity: Brownian or directed steps, a mass that stays what it was.

The step of a track from one frame to the next is Brownian (mode 0: no drift) or directed (mode 1: a velocity that
changes slowly); the modes switch as a Markov chain. A filter carries, for each object, what its track so far says:
the probability of the directed mode, a Gaussian of the velocity, and a Gaussian of the identity (log mass, and
descriptor components where given). Run forward it tells the past of an object, run backward its future; a chain of
two modes is reversible, so both use the same step. All objects of a frame are updated at once.

Interacting multiple models: Blom and Bar-Shalom 1988; two-filter smoothing: Fraser and Potter 1969.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

VELOCITY_DRIFT = 0.01  # share of the velocity's variance renewed per frame: a directed run bends within ~100 frames
LEAST = 1e-9           # no mode is ever ruled out


@dataclass(frozen=True)
class Scales:
    """Every scale the costs need, estimated from the movie (axes z, y, x that vary; per frame).

    step_um2 : (d,) variance of a Brownian step per axis, localisation noise included.
    velocity_um2 : (d,) variance of the directed velocity, um^2 per frame^2.
    switch : (2, 2) probability of mode b after mode a, rows sum to 1; order Brownian, directed.
    gap : (max_gap_frames + 1,) probability that the next detection comes 1, 2, ... frames later.
    birth_per_um3 : new tracks per um^3 and frame (not from splits); present_per_um3: objects per um^3.
    end : probability per frame that a track ends (not in an event).
    identity_mean, identity_var : (k,) population of log light (log size, descriptors).
    noise, walk : (k,) factor on the variance of one measurement, >= 1; variance of the slow change per frame.
    outlier : probability that an identity cue misleads (overlap, bad fit).
    bleach : fall of log light per frame.
    event_rate, event_um2 : (2,) split, merge: events per object and frame; variance of the parts' separation per axis.
    """

    step_um2: np.ndarray
    velocity_um2: np.ndarray
    switch: np.ndarray
    gap: np.ndarray
    birth_per_um3: float
    present_per_um3: float
    end: float
    identity_mean: np.ndarray
    identity_var: np.ndarray
    noise: np.ndarray
    walk: np.ndarray
    outlier: float
    bleach: float
    event_rate: np.ndarray
    event_um2: np.ndarray

    @property
    def stationary(self) -> np.ndarray:
        """Share of Brownian and directed steps, (2,)."""
        leave, enter = self.switch[1, 0], self.switch[0, 1]
        return np.array([leave, enter]) / (leave + enter)

    def with_(self, **changes: object) -> Scales:
        """Return a copy with some scales replaced."""
        return replace(self, **changes)


def column(x: np.ndarray) -> np.ndarray:
    """Return one number per axis, (d,), as (d, 1), to go with (d, n)."""
    return x[:, None]


def pick(x: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return the columns `at` (q,) of x (d, n), (d, q): several times faster than indexing with a slice."""
    return x.take(at, axis=1)


def clip(x: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return x within its bounds: on few numbers several times faster than numpy's own."""
    return np.minimum(np.maximum(x, low), high)


def log_normal(x: np.ndarray, var: np.ndarray) -> np.ndarray:
    """Return the log density of a zero-mean Gaussian with diagonal variance, summed over the first axis."""
    return -0.5 * (x * x / var + np.log(2 * np.pi * var)).sum(0)


@dataclass
class Filter:
    """What one direction of time says about n objects: p (n,) directed, v and s (d, n), m and w (k, n).

    v, s : mean and variance of the directed velocity, um per frame, always in forward time.
    m, w : mean and variance of the identity by its measurements alone (no population prior).
    Axes come first, so that numpy works through whole rows of objects.
    """

    p: np.ndarray
    v: np.ndarray
    s: np.ndarray
    m: np.ndarray
    w: np.ndarray

    @classmethod
    def start(cls, identity: np.ndarray, noise_var: np.ndarray, scales: Scales) -> Filter:
        """Begin every object as a track of its own."""
        n, d = identity.shape[1], len(scales.step_um2)
        return cls(np.full(n, scales.stationary[1]), np.zeros((d, n)), np.tile(column(scales.velocity_um2), n),
                   identity.copy(), noise_var.copy())

    def part(self, a: int, b: int) -> Filter:
        """Return objects a .. b - 1, sharing memory."""
        return Filter(*(rows[..., a:b] for rows in (self.p, self.v, self.s, self.m, self.w)))

    def reset(self, at: np.ndarray, identity: np.ndarray, noise_var: np.ndarray, scales: Scales) -> None:
        """Make the objects `at` tracks of their own again."""
        self.p[at], self.v[:, at], self.s[:, at] = scales.stationary[1], 0.0, column(scales.velocity_um2)
        self.m[:, at], self.w[:, at] = identity[:, at], noise_var[:, at]

    def step(self, source: np.ndarray, target: np.ndarray, dx: np.ndarray, g: np.ndarray, identity: np.ndarray,
             noise_var: np.ndarray, scales: Scales) -> None:
        """Carry the filter from objects `source` to objects `target`.

        Parameters: dx (d, q), displacement in um, later minus earlier; g (q,), frames between; identity and
        noise_var (k, n), the measurements of all objects.
        """
        mix, pop = scales.switch, column(scales.velocity_um2)
        p, v, s = self.p[source], pick(self.v, source), pick(self.s, source)
        stay = p * mix[1, 1]
        directed = stay + (1 - p) * mix[0, 1]                        # (q,) directed before seeing this step
        share = stay / directed                                      # of those, already directed before
        mean = share * v                                             # (d, q) velocity of the mixture
        var = share * s + (1 - share) * (pop + mean * v)
        still = g * column(scales.step_um2)
        spread, rest = g * g * var + still, dx - g * mean
        worse = (dx * dx / still - rest * rest / spread).sum(0)
        ratio = (1 - directed) / directed * np.sqrt((spread / still).prod(0)) * np.exp(clip(-0.5 * worse, -50, 50))
        self.p[target] = clip(1 / (1 + ratio), LEAST, 1 - LEAST)
        gain = g * var / spread
        self.v[:, target] = mean + gain * rest
        self.s[:, target] = np.minimum((1 - g * gain) * var + VELOCITY_DRIFT * pop, pop)
        if len(identity):
            w, new = pick(self.w, source) + g * column(scales.walk), pick(noise_var, target)
            self.w[:, target] = w * new / (w + new)
            self.m[:, target] = (pick(self.m, source) * new + pick(identity, target) * w) / (w + new)


def log_step(tell: Filter, at: np.ndarray, dx: np.ndarray, g: np.ndarray, scales: Scales) -> np.ndarray:
    """Return the log density (um^-d) of steps dx (d, q) by what one direction of time says of objects `at`, (q,)."""
    mix, p, noise, gg = scales.switch, tell.p[at], g * column(scales.step_um2), g * g
    known, fresh = p * mix[1, 1], (1 - p) * mix[0, 1]                # directed as before, or from now on
    spreads = noise, gg * column(scales.velocity_um2) + noise, gg * pick(tell.s, at) + noise
    square = dx * dx
    far = np.stack([(square / spreads[0]).sum(0), (square / spreads[1]).sum(0),
                    ((dx - g * pick(tell.v, at)) ** 2 / spreads[2]).sum(0)])
    near = far.min(0)
    weights = np.exp(0.5 * (near - far)) / np.sqrt(np.stack([s.prod(0) for s in spreads]))
    weights *= np.stack([1 - known - fresh, fresh, known])
    return np.log(weights.sum(0)) - 0.5 * (near + len(dx) * np.log(2 * np.pi))


def log_link_motion(past: Filter, future: Filter, i: np.ndarray, j: np.ndarray, dx: np.ndarray, g: np.ndarray,
                    scales: Scales, modes: bool = False) -> np.ndarray | tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the log density (um^-d) of steps dx (d, q) from objects i to objects j, given i's past and j's future.

    The sum over the modes before, of and after the step is taken in closed form: a directed step takes its velocity
    from the past, from the future, from both, or from the population. With `modes` also returns the probability
    that each step is directed (q,), and the expected mode pairs (q, 2, 2) of the step before and this one.
    """
    mix, (pi_b, pi_d), g = scales.switch, scales.stationary, g.astype(float)
    pop, p, q = column(scales.velocity_um2), past.p[i], future.p[j]
    v1, s1, v2, s2 = pick(past.v, i), pick(past.s, i), pick(future.v, j), pick(future.s, j)
    after_b = mix[0, 0] * (1 - q) / pi_b + mix[0, 1] * q / pi_d     # what the future says of a Brownian step
    from_b, from_d = mix[1, 0] * (1 - q) / pi_b, mix[1, 1] * q / pi_d
    noise, gg = g * column(scales.step_um2), g * g
    apart = s1 + s2
    both = s1 * s2 / apart
    centre = (v1 * s2 + v2 * s1) / apart                             # velocity by past and future together ...
    less = pop - both
    s12, v12 = both * pop / less, centre * pop / less                # ... the population's prior counted once
    square, spreads = dx * dx, (noise, gg * pop + noise, gg * s1 + noise, gg * s2 + noise, gg * s12 + noise)
    far = np.stack([
        (square / spreads[0]).sum(0), (square / spreads[1]).sum(0), ((dx - g * v1) ** 2 / spreads[2]).sum(0),
        ((dx - g * v2) ** 2 / spreads[3]).sum(0),
        ((dx - g * v12) ** 2 / spreads[4] + (v1 - v2) ** 2 / apart - centre**2 / less).sum(0)])
    near = far.min(0)
    known = p * mix[1, 1]
    weights = np.exp(0.5 * (near - far)) / np.sqrt(np.stack([s.prod(0) for s in (
        *spreads[:4], spreads[4] * apart * less / (pop * pop))]))
    weights *= np.stack([((1 - p) * mix[0, 0] + p * mix[1, 0]) * after_b, (1 - p) * mix[0, 1] * from_b,
                         known * from_b, (1 - p) * mix[0, 1] * from_d, known * from_d])
    density = weights.sum(0)
    log_density = np.log(density) - 0.5 * (near + len(dx) * np.log(2 * np.pi))
    if not modes:
        return log_density
    weights /= density
    before_b = (1 - p) * mix[0, 0] / ((1 - p) * mix[0, 0] + p * mix[1, 0])
    pairs = np.stack([np.stack([weights[0] * before_b, weights[1] + weights[3]], -1),
                      np.stack([weights[0] * (1 - before_b), weights[2] + weights[4]], -1)], -2)
    return log_density, 1 - weights[0], pairs


def log_identity(past: Filter, future: Filter, i: np.ndarray, j: np.ndarray, g: np.ndarray,
                 scales: Scales) -> np.ndarray:
    """Return the log likelihood ratio that i's past and j's future are one object, against two of the population."""
    if not len(scales.identity_mean):
        return np.zeros(len(i))
    mu, pop = column(scales.identity_mean), column(scales.identity_var)
    a, va = pick(past.m, i) - mu, pick(past.w, i) + g * column(scales.walk)
    b, vb = pick(future.m, j) - mu, pick(future.w, j)
    both = va * vb / (va + vb)
    same = log_normal(a - b, va + vb) + log_normal(both * (a / va + b / vb), pop + both)
    ratio = same - log_normal(a, pop + va) - log_normal(b, pop + vb)
    return np.logaddexp(np.log1p(-scales.outlier) + ratio, np.log(scales.outlier))
