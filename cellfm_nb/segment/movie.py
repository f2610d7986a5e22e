"""Detect in a movie: each frame is looked at once, then judged with the frames around it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import pandas as pd
from scipy.spatial import cKDTree

from cellfm_nb.errors import InputError
from cellfm_nb.segment.blobs import FLOOR, Look, look
from cellfm_nb.segment.filters import block_mean, check_volume
from cellfm_nb.segment.gaps import fill
from cellfm_nb.segment.links import AMPLITUDES, Soft, World, missed_scores
from cellfm_nb.segment.paths import Path, PathFinder
from cellfm_nb.segment.refit import refit
from cellfm_nb.segment.static import blocks, static_background
from cellfm_nb.segment.threshold import fit_decoys

WINDOW, MARGIN = 24, 6                                      # frames judged together, the outer ones for context alone
SOFT = 2.75                                                 # candidates of a path score at least this
LEAST = -4.0                                                # log odds from which on a path is believed, at least
ALONE = 0.02                                                # false objects a frame among those that need no path
CLEAR = 5.0                                                 # scores of candidates whose steps are measured
PASSES = 2                                                  # over the first window, until its objects are known
RARE = 0.02                                                 # of all objects have any amplitude, seen or not
FEW_FRAMES, STAYS = 5, 0.6                                  # a decoy in this share of the frames is no noise
FASTER = 2.4                                                # than Brownian steps are directed ones


def detect_movie(
    frames: Iterable[np.ndarray], spacing_um: Sequence[float], sigma_um: Sequence[float], fdr: float = 0.05,
    window: int = WINDOW, margin: int = MARGIN, causal: bool = False,
) -> Iterator[pd.DataFrame]:
    """Yield, frame by frame, a table as of `blobs.detect`, judged with the evidence of the frames around it.

    Parameters
    ----------
    frames : normalised volumes (z, y, x) of one shape, in order of time; read once, never all at once.
    spacing_um, sigma_um : (z, y, x) micrometre.
    fdr : share of false objects accepted, in a single frame and of the candidates on paths.
    window : frames held and judged together; margin : of them, on each side, for context alone.
    causal : judge every frame with those before it alone, as a microscope that runs must.

    Yields
    ------
    A table a frame, as of `detect`; p_value and q_value are those of the single frame, so an object that only its
    path makes credible has a large one. The background is the wide one of `blobs.BACKGROUNDS` in every frame, as the
    median over time takes the rims; `detect` chooses for its frame.

    Raises
    ------
    InputError : `window` is not more than twice `margin`, or `margin` is negative.

    Method: `blobs.look` proposes (what stands out, and every weaker maximum); `paths.PathFinder` finds the exclusive
    paths that motion explains; the decoys' paths say how many are false; `gaps.fill` looks for the objects where their
    paths have no candidate; `refit.refit` fits all of a frame together, with what the other frames of a path tell.
    The typical step, the objects' density and their amplitudes are learned from the movie's own paths.
    """
    if not window > 2 * margin >= 0:
        raise InputError("the window has no frames between its margins", where="detect_movie",
                         got=f"window {window}, margin {margin}", expected="window > 2 * margin >= 0",
                         do="widen the window or narrow the margin")
    spacing, psf = np.asarray(spacing_um, float), np.asarray(sigma_um, float)
    step, lag = (1, 0) if causal else (window - 2 * margin, margin)
    held: list[Look] = []
    coarse: deque[np.ndarray] = deque(maxlen=window)
    learned, answered = None, 0                             # of the held frames, how many at the front are answered
    for chunk in chunked(frames, step):
        chunk = [check_volume(v, spacing)[0] for v in chunk]
        coarse.extend(block_mean(v, blocks(spacing, psf)) for v in chunk)
        static = static_background(coarse, blocks(spacing, psf), chunk[0].shape)
        held.extend(look(v - static if v.any() else v, spacing, psf, fdr) for v in chunk)   # a blank frame stays blank
        if causal or len(held) >= window:
            tables, learned = judge(held, answered, len(held) - lag, spacing, psf, fdr, learned)
            yield from tables
            gone = max(len(held) - window + step, 0)
            answered, held = len(held) - lag - gone, held[gone:]
    if len(held) > answered:
        yield from judge(held, answered, len(held), spacing, psf, fdr, learned)[0]


def chunked(frames: Iterable[np.ndarray], n: int) -> Iterator[list[np.ndarray]]:
    """Yield lists of n frames, the last one shorter."""
    frames = iter(frames)
    while chunk := list(islice(frames, n)):
        yield chunk


@dataclass(frozen=True)
class Learned:
    """What a window tells about its objects: a step (um) between frames, objects per um^3, shares of amplitudes."""

    step_um: float
    density: float
    share: np.ndarray


def judge(
    held: Sequence[Look], first: int, end: int, spacing: np.ndarray, psf: np.ndarray, fdr: float,
    learned: Learned | None,
) -> tuple[list[pd.DataFrame], Learned]:
    """Return tables of frames first...end of a window, and what it tells about the objects of the next one."""
    soft = [Soft(np.concatenate([s.blobs.position, s.position]) * spacing, np.append(s.score, s.value)) for s in held]
    decoys = passing([Soft(s.decoy_position * spacing, s.decoy_score) for s in held], psf)
    volume_um3 = float(np.prod(held[0].flat.shape * spacing))
    clutter = clutter_law([d.score for d in decoys], volume_um3)
    passes = 1 if learned else PASSES                       # the first window is judged more than once
    if learned is None:
        sure = np.mean([len(s.score) for s in held])
        learned = Learned(2 * psf[-1], max(sure, 1) / volume_um3, np.full(len(AMPLITUDES), 1 / len(AMPLITUDES)))
    for _ in range(passes):
        world = World(SOFT, clutter, learned.density, learned.share, learned.step_um, FASTER * learned.step_um, psf)
        paths, false = exclusive(soft, world), exclusive(decoys, world)
        level = accept_level(paths, false, fdr)
        learned = learn(paths, false, level, soft, psf, volume_um3, learned)
        paths = [p for p in paths if p.score >= level]
    chosen: list[list[int]] = [[] for _ in held]
    for path in paths:
        for t, j in path.nodes:
            chosen[t].append(j)
    law = fit_decoys(np.concatenate([d.score for d in decoys]), FLOOR)
    for t, frame in enumerate(held):                        # what stands out by itself needs no path
        alone = np.flatnonzero(law.expected_above(frame.score) < ALONE * len(held))
        chosen[t] = sorted({*chosen[t], *alone.tolist()})
    more, owner = fill(paths, soft, chosen, [frame.z for frame in held], world, spacing)
    of = {node: number for number, path in enumerate(paths) for node in path.nodes}
    owner = [np.append([of.get((t, j), -1) for j in c], o).astype(int)
             for t, (c, o) in enumerate(zip(chosen, owner, strict=True))]
    some = slice(first, end)
    return refit(held[some], soft[some], chosen[some], more[some], owner[some], world, spacing), learned


def learn(
    paths: Sequence[Path], false: Sequence[Path], level: float, soft: Sequence[Soft], psf: np.ndarray,
    volume_um3: float, before: Learned,
) -> Learned:
    """Return what the paths tell, each counted by its own odds and without as many as the decoys have.

    An object so faint that it often leaves no candidate stands for the others that never do.
    Empirical Bayes: where objects are bright, a faint path is no object, and where they are faint it may well be.
    """
    held, seen = np.zeros(len(AMPLITUDES)), 1 - np.exp(missed_scores(SOFT))
    for sign, some in ((1, paths), (-1, false)):
        for p in some:
            np.add.at(held, p.amplitudes, sign / seen[p.amplitudes] / (1 + np.exp(-p.score)))
    held = np.maximum(np.convolve(np.pad(np.maximum(held, 0), 1, mode="edge"), (0.25, 0.5, 0.25), mode="valid"), 0)
    share = held + RARE * max(held.sum(), 1) / len(AMPLITUDES)
    step = typical_step([p for p in paths if p.score >= level], soft, psf, before.step_um)
    return Learned(step, max(held.sum() / len(soft), 1) / volume_um3, share / share.sum())


def exclusive(frames: Sequence[Soft], world: World) -> list[Path]:
    """Return the exclusive paths through the candidates above the floor; indices are those of all candidates."""
    index = [np.flatnonzero(f.score > world.floor) for f in frames]
    kept = [Soft(f.position_um[k], f.score[k]) for f, k in zip(frames, index, strict=True)]
    return [replace(p, nodes=[(t, int(index[t][j])) for t, j in p.nodes])
            for p in PathFinder(kept, world).extract(LEAST)]


def passing(frames: Sequence[Soft], psf: np.ndarray) -> list[Soft]:
    """Return the decoys without those that stay: dark marks in the specimen tell nothing about noise."""
    if len(frames) < FEW_FRAMES:
        return list(frames)
    tree = cKDTree(np.concatenate([f.position_um for f in frames]) / psf)
    stays = tree.query_ball_point(tree.data, 1.2, return_length=True) > STAYS * len(frames)
    stays = np.split(stays, np.cumsum([len(f) for f in frames])[:-1])
    return [Soft(f.position_um[~s], f.score[~s]) for f, s in zip(frames, stays, strict=True)]


def clutter_law(scores: Sequence[np.ndarray], volume_um3: float) -> tuple[float, float, float]:
    """Return (a, b, c) of the false candidates' log density a + b z + c z^2, per um^3 and unit of score."""
    z = np.concatenate(scores)
    z = z[z > SOFT]
    if len(z) < 50:                                         # a tiny volume: a Gaussian tail that holds their number
        return float(np.log(SOFT * (len(z) + 1) / len(scores) / volume_um3) + SOFT**2 / 2), 0.0, -0.5
    count, edge = np.histogram(z, np.arange(SOFT, z.max() + 0.1, 0.1))
    some = count > 0
    middle, weight = (edge[1:] + edge[:-1])[some] / 2, np.sqrt(count[some])
    design = np.stack([np.ones(some.sum()), middle, middle**2], 1)
    log_density = np.log(count[some] / (edge[1] - edge[0]) / len(scores) / volume_um3)
    law = np.zeros(3)
    for terms in (3, 2):                                    # a tail that bends up (dark spots, rims): a straight line
        law[:] = 0
        law[:terms] = np.linalg.lstsq(design[:, :terms] * weight[:, None], log_density * weight, rcond=None)[0]
        if law[2] <= 0:
            break
    return tuple(law)


def accept_level(paths: Sequence[Path], decoys: Sequence[Path], fdr: float) -> float:
    """Return the score from `LEAST` up at which decoys' paths hold at most `fdr` of the candidates that paths hold."""
    for level in np.sort(np.append(LEAST, [np.nextafter(p.score, np.inf) for p in decoys])):
        taken, false = (sum(len(p.nodes) for p in some if p.score >= level) for some in (paths, decoys))
        if false <= fdr * taken:
            return float(level)
    return np.inf


def typical_step(paths: Sequence[Path], soft: Sequence[Soft], psf: np.ndarray, default: float) -> float:
    """Return the standard deviation (um, per axis) of a step of the sure objects; the default where they are few.

    Steps between neighbouring frames, y and x, in robust spread, without what the placing of a candidate adds.
    """
    step, place = [], []
    for path in paths:
        for (t, i), (u, j) in zip(path.nodes, path.nodes[1:], strict=False):
            weaker = min(soft[t].score[i], soft[u].score[j])
            if u == t + 1 and weaker > CLEAR:
                step.append(soft[u].position_um[j, 1:] - soft[t].position_um[i, 1:])
                place.append(2 * (soft[t].score[i] ** -2.0 + soft[u].score[j] ** -2.0) * psf[-1] ** 2)
    if len(step) < 20:
        return default
    spread = 1.4826 * np.median(np.abs(step))
    return float(np.sqrt(max(spread**2 - np.median(place), (0.3 * psf[-1]) ** 2)))
