"""Link a movie whole, or, when it is long, window by window with scales in common: time and memory stay bounded.

The scales are estimated on the window with most objects. Each window is then linked with `HALO` more frames on either
side, of which the links are thrown away: what is that far off no longer changes a link.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cellfm_nb.track.chains import Chains, chain_ids
from cellfm_nb.track.events import Event
from cellfm_nb.track.motion import Scales

HALO = 30            # frames; with 20 one link in six hundred came out otherwise in one movie of three, with 30 none
MANY = 1_000_000     # objects linked at once unless told otherwise: about 1 GiB


@dataclass
class Joined:
    """How n objects are joined: pred (n,) -1 for none, confidence (n,) of what leads into each, events, scales."""

    pred: np.ndarray
    confidence: np.ndarray
    events: list[Event]
    scales: Scales

    def chain_ids(self) -> np.ndarray:
        """Return the chain each object belongs to, (n,), numbered by first appearance."""
        return chain_ids(self.pred)


def join_objects(x: np.ndarray, frame: np.ndarray, identity: np.ndarray, relative: np.ndarray, voxel_um: np.ndarray,
                 max_gap: int, sweeps: int, events: bool, window: int | None = None,
                 scales: Scales | None = None) -> Joined:
    """Join objects, sorted by frame.

    Parameters: as in `Chains`; sweeps, events as in its `run`; window, frames joined at once (None: all, unless there
    are more than `MANY` objects); scales to take as they are, bleaching counted from the first frame.
    """
    first, n_frames = int(frame[0]), int(frame[-1] - frame[0]) + 1
    if window is None:
        window = n_frames if len(frame) <= MANY else max(int(MANY / len(frame) * n_frames) - 2 * HALO, 2 * HALO)

    def chains(t0: int, t1: int, known: Scales | None) -> tuple[np.ndarray, Chains]:
        at = np.arange(*np.searchsorted(frame, [t0, t1]))
        value = identity[:, at]
        if known is not None and len(value):
            value[0] += known.bleach * (frame[at] - first)
        part = Chains(x[:, at], frame[at], value, relative[:, at], voxel_um, max_gap, known)
        part.run(sweeps, events)
        return at, part

    if window >= n_frames and scales is None:
        whole = chains(first, first + n_frames, None)[1]
        return Joined(whole.pred, whole.confidence, whole.events, whole.scales)
    if scales is None:
        full = fullest(frame - first, window) + first
        sample = chains(full, full + window, None)[1]
        scales, shift = sample.scales, sample.scales.bleach * (sample.first - first)
        if len(identity):                                        # its masses were as in its own first frame
            mean = scales.identity_mean.copy()
            mean[0] += shift
            scales = scales.with_(identity_mean=mean)
    joined = Joined(np.full(len(frame), -1), np.full(len(frame), np.nan), [], scales)
    followed = np.zeros(len(frame), bool)
    for t in range(first, first + n_frames, window):
        if np.ptp(np.searchsorted(frame, [t, t + window])):          # an empty window has nothing to link
            at, part = chains(max(t - HALO, first), min(t + window + HALO, first + n_frames), scales)
            _take(joined, followed, at, part, t, t + window)
    return joined


def fullest(frame: np.ndarray, window: int) -> int:
    """Return the start of the window of most objects, of equals the one nearest the middle; frame (n,) from 0."""
    total = np.concatenate([[0], np.cumsum(np.bincount(frame))])
    held = total[window:] - total[:-window]
    best = np.flatnonzero(held == held.max())
    return int(best[np.argmin(np.abs(best - (len(held) - 1) / 2))])


def _take(joined: Joined, followed: np.ndarray, at: np.ndarray, part: Chains, t0: int, t1: int) -> None:
    """Take over the links and events out of frames t0 .. t1 - 1 that agree with what earlier windows took."""
    mine = (part.frame >= t0) & (part.frame < t1)
    preceded = np.isfinite(joined.confidence)
    i = np.flatnonzero(mine & (part.succ >= 0))
    i = i[~preceded[at[part.succ[i]]]]
    j = part.succ[i]
    joined.pred[at[j]], joined.confidence[at[j]], followed[at[i]] = at[i], part.confidence[j], True
    for event in part.events:
        parents, children = ([int(at[k]) for k in side] for side in (event.parents, event.children))
        if mine[list(event.parents)].all() and not followed[parents].any() and not preceded[children].any():
            joined.events.append(Event(event.kind, tuple(parents), tuple(children), event.confidence))
            joined.confidence[children], followed[parents] = event.confidence, True
