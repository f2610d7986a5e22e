"""Graphs of tracks: nodes are positions, edges are links (same track) and descents (split, merge)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellfm_nb.errors import InputError
from cellfm_nb.score.detection import group_indices, match_points

POSITION = ["z_um", "y_um", "x_um"]


@dataclass(frozen=True)
class TrackGraph:
    """Positions and edges: frame (n,), position_um (n, 3) as z y x, track (n,) from 0, links and descents (e, 2)."""

    frame: np.ndarray
    position_um: np.ndarray
    track: np.ndarray
    links: np.ndarray
    descents: np.ndarray


def track_graph(tracks: pd.DataFrame, events: pd.DataFrame | None = None) -> TrackGraph:
    """Build the graph of a track table and its events.

    Parameters
    ----------
    tracks : columns track_id, frame, z_um, y_um, x_um; rows with `visible` False are left out. A link joins
        consecutive rows of one track, over a gap too. Without `events`, parent_id (where >= 0) gives descents.
    events : columns parents and children, track ids separated by ";". A descent joins the last row of a parent
        and the first row of a child. Rows with status "rejected" do not count.

    Raises
    ------
    InputError if a column is missing, a position is not finite, or a track has two rows in one frame.
    """
    if missing := {"track_id", "frame", *POSITION} - set(tracks.columns):
        raise InputError("the track table lacks columns", where="tracks", got=sorted(missing),
                         expected="track_id, frame, z_um, y_um, x_um", do="give a table with these columns")
    if "visible" in tracks:
        tracks = tracks[tracks["visible"].astype(bool)]
    tracks = tracks.sort_values(["track_id", "frame"], kind="stable")
    if not np.isfinite(tracks[POSITION].to_numpy(float)).all():
        raise InputError("a position is not finite", where="tracks", got="nan or inf", expected="micrometre",
                         do="drop those rows")
    ids, track = np.unique(tracks["track_id"].to_numpy(), return_inverse=True)
    frame = tracks["frame"].to_numpy(int)
    same = track[1:] == track[:-1]
    if (same & (frame[1:] == frame[:-1])).any():
        raise InputError("a track has two rows in one frame", where="tracks", got="duplicate (track_id, frame)",
                         expected="at most one row", do="give each object of a frame its own track")
    here = np.flatnonzero(same)
    first, last = np.searchsorted(track, np.arange(len(ids))), np.searchsorted(track, np.arange(len(ids)), "right") - 1
    row = {identity: k for k, identity in enumerate(ids.tolist())}
    pairs = [(row[p], row[c]) for p, c in _descent(tracks, events) if p in row and c in row]
    descents = np.array([(last[p], first[c]) for p, c in pairs if frame[last[p]] < frame[first[c]]], int).reshape(-1, 2)
    return TrackGraph(frame, tracks[POSITION].to_numpy(float), track, np.column_stack([here, here + 1]), descents)


def _descent(tracks: pd.DataFrame, events: pd.DataFrame | None) -> list[tuple[int, int]]:
    """Return the (parent id, child id) pairs of events, or of the parent_id column."""
    if events is not None:
        if "status" in events:
            events = events[events["status"] != "rejected"]
        return [(p, c) for e in events.itertuples() for p in id_list(e.parents) for c in id_list(e.children)]
    if "parent_id" not in tracks:
        return []
    table = tracks.loc[tracks["parent_id"] >= 0, ["parent_id", "track_id"]].drop_duplicates()
    return list(table.itertuples(index=False, name=None))


def id_list(text: object) -> list[int]:
    """Read "7;8" as [7, 8]."""
    return [int(float(part)) for part in str(text).split(";") if part not in ("", "nan")]


def match_graphs(true: TrackGraph, found: TrackGraph, distance_um: float) -> np.ndarray:
    """Pair the two graphs' nodes frame by frame; return for each found node its true node, or -1."""
    partner = np.full(len(found.frame), -1)
    for frame in np.intersect1d(true.frame, found.frame):
        f, t = np.flatnonzero(found.frame == frame), np.flatnonzero(true.frame == frame)
        pairs = match_points(found.position_um[f], true.position_um[t], distance_um)
        partner[f[pairs.found]] = t[pairs.true]
    return partner


def best_pairing(pairs: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """Return which pairs of tracks (p, 2) make the one-to-one pairing of greatest total gain: indices, ascending.

    Parameters: pairs, none twice; gain (p,) > 0, of each. Solved group by group, so that memory stays small.
    """
    if not len(pairs):
        return np.zeros(0, int)
    n = pairs.max(0) + 1
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1] + n[0])), shape=(n.sum(), n.sum()))
    group = connected_components(graph, directed=False)[1][pairs[:, 0]]
    chosen = []
    for k in group_indices(group):
        rows, i = np.unique(pairs[k, 0], return_inverse=True)
        cols, j = np.unique(pairs[k, 1], return_inverse=True)
        value = np.zeros((len(rows), len(cols)))
        value[i, j] = gain[k]
        pick = np.full(len(rows), -1)
        r, c = linear_sum_assignment(value, maximize=True)
        pick[r] = c
        chosen.append(k[pick[i] == j])
    return np.sort(np.concatenate(chosen))
