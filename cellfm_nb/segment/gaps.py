"""Where a path has no candidate: the object is looked for at the place its motion predicts, however faint it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cellfm_nb.segment.blobs import FWHM
from cellfm_nb.segment.filters import box_around
from cellfm_nb.segment.links import AMPLITUDES, SEEN, SPREAD, TURN, Soft, World, place_variance
from cellfm_nb.segment.paths import Path

BEYOND = 8                                                  # frames before a path's first candidate and after its last
LIKELY = 0.5                                                # that the object is seen, within one FWHM of its place
APART = 1.0                                                 # FWHM: closer to an accepted object, it is that object


@dataclass(frozen=True)
class Place:
    """Where a path's object is in one frame: mean and variance (3,) um and um^2; alive, that it has not gone."""

    mean: np.ndarray
    variance: np.ndarray
    alive: float = 1.0


def fill(
    paths: Sequence[Path], soft: Sequence[Soft], chosen: Sequence[Sequence[int]], maps: Sequence[np.ndarray],
    world: World, spacing: np.ndarray,
) -> tuple[list[Soft], list[np.ndarray]]:
    """Return for each frame the objects that paths have between their candidates, and a little before and after.

    Parameters
    ----------
    paths : accepted; soft : candidates of each frame; chosen : indices of those accepted.
    maps : score maps (z, y, x) of what the frames' fitted blobs leave.
    world : what the paths were weighed against; spacing : (3,) micrometre.

    Returns
    -------
    Places with the map's scores there, and the index of each one's path. Between two candidates an object is where a
    Brownian bridge lets it be, beyond the outer ones where a random walk does; each voxel's score says how much
    likelier it is with the object there than without (track before detect, with the path's own amplitude).
    """
    taken = [list(s.position_um[c]) for s, c in zip(soft, chosen, strict=True)]
    before, owner = [len(some) for some in taken], [[] for _ in taken]

    def accept(number: int, t: int, place: Place, seen: float) -> bool:
        free = not close(place.mean, taken[t], world.sigma_um)
        if free and seen > LIKELY:
            taken[t].append(place.mean)
            owner[t].append(number)
        return free

    for number, path in enumerate(paths):
        amplitude = {t: AMPLITUDES[c] for (t, _), c in zip(path.nodes, path.amplitudes, strict=True)}  # it bleaches
        known = {t: Place(soft[t].position_um[j], placing(soft[t].score[j], world)) for t, j in path.nodes}
        for a, b in zip(known, list(known)[1:], strict=False):
            for t in range(a + 1, b):
                accept(number, t, *weigh(maps[t], bridge(known, a, b, t, world), amplitude[a], world, spacing))
        for outer, step in ((min(known), -1), (max(known), 1)):
            place = known[outer]
            for t in range(outer + step, outer + (BEYOND + 1) * step, step):
                if not 0 <= t < len(maps):
                    break
                walked = Place(place.mean, place.variance + world.slow_um**2, place.alive * (1 - np.exp(TURN)))
                place, seen = weigh(maps[t], walked, amplitude[outer], world, spacing)
                if place.alive < LIKELY or not accept(number, t, place, seen):
                    break
    added = [np.array(some[n:]).reshape(-1, 3) for some, n in zip(taken, before, strict=True)]
    return ([Soft(p, score_at(z, p / spacing)) for p, z in zip(added, maps, strict=True)],
            [np.array(some, int) for some in owner])


def close(place: np.ndarray, others: Sequence[np.ndarray], sigma_um: np.ndarray) -> bool:
    """Return whether another object is nearer than `APART`."""
    away = (np.reshape(others, (-1, 3)) - place) / (FWHM * sigma_um)
    return bool((np.square(away).sum(1) < APART**2).any())


def score_at(score: np.ndarray, voxel: np.ndarray) -> np.ndarray:
    """Return a map's values (N,) at the voxels nearest to positions (N, 3)."""
    return score[tuple(np.clip(np.rint(voxel), 0, np.array(score.shape) - 1).astype(int).T)].astype(float)


def placing(score: float, world: World) -> np.ndarray:
    """Return the variance (3,) um^2 of a candidate's place."""
    return place_variance(np.full(1, score), np.full(1, score), world)[0] / 2


def bridge(known: dict[int, Place], before: int, after: int, t: int, world: World) -> Place:
    """Return where an object is at frame t between two of its candidates: a Brownian bridge."""
    share, a, b = (t - before) / (after - before), known[before], known[after]
    walk = world.slow_um**2 * share * (after - t)
    return Place(a.mean + share * (b.mean - a.mean),
                 (1 - share) ** 2 * a.variance + share**2 * b.variance + walk)


def weigh(
    score: np.ndarray, place: Place, amplitude: float, world: World, spacing: np.ndarray
) -> tuple[Place, float]:
    """Return where an object is after a look at the map, and the probability that it is seen, close to there.

    A score above the candidates' floor counts as one at the floor: the paths have weighed those already.
    """
    reach = np.ceil(2 * np.sqrt(place.variance) / spacing).astype(int)
    index = box_around(np.rint(place.mean / spacing).astype(int), reach, score.shape)
    away = [i * d - m for i, d, m in zip(index, spacing, place.mean, strict=True)]
    weight = np.ones(1)
    for a, v in zip(away, place.variance, strict=True):
        prior = np.exp(-0.5 * a**2 / v)
        weight = weight[..., None] * (prior / max(prior.sum(), 1e-12))
    z, sd = np.minimum(score[np.ix_(*index)].astype(float), world.floor), np.hypot(1, SPREAD * amplitude)
    weight = weight[0] * np.exp(0.5 * (z**2 - ((z - amplitude) / sd) ** 2)) / sd
    likelihood = max(weight.sum(), 1e-300)
    weight /= likelihood
    marginal = [weight.sum(others) for others in ((1, 2), (0, 2), (0, 1))]
    shift = np.array([m @ a for m, a in zip(marginal, away, strict=True)])
    variance = np.array([m @ (a - s) ** 2 for m, a, s in zip(marginal, away, shift, strict=True)])
    off = np.ix_(*(((a - s) / (FWHM * p)) ** 2 for a, s, p in zip(away, shift, world.sigma_um, strict=True)))
    near = weight[sum(off) < 1].sum()
    there, dark = place.alive * SEEN * likelihood, place.alive * (1 - SEEN)
    total = there + dark + 1 - place.alive
    return Place(place.mean + shift, variance + (spacing / 4) ** 2, (there + dark) / total), near * there / total
