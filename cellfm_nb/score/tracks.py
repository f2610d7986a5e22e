"""Score tracks against true tracks: links, identities, HOTA, the Cell Tracking Challenge's TRA and DET, events.

Every score starts from one matching: in each frame, found positions are paired one to one with true positions
within a stated distance in micrometre. What is not paired is a miss or a false alarm. The rest is bookkeeping on
two graphs whose nodes are positions and whose edges are links (same track) and descents (split, merge).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cellfm_nb.errors import InputError
from cellfm_nb.score.detection import group_indices, match_points, radius_vector

POSITION = ["z_um", "y_um", "x_um"]
AOGM_WEIGHTS = {"fn": 10.0, "fp": 1.0, "ed": 1.0, "ea": 1.5, "ec": 1.0}  # Matula et al. 2015; a match is one to one


@dataclass(frozen=True)
class TrackGraph:
    """Positions and edges: frame (n,), position_um (n, 3) as z y x, track (n,) from 0, links and descents (e, 2)."""

    frame: np.ndarray
    position_um: np.ndarray
    track: np.ndarray
    links: np.ndarray
    descents: np.ndarray


@dataclass(frozen=True)
class TrackScore:
    """Every score of one movie, with the counts, the distance and the tolerance behind them (see `score_tracks`)."""

    link_f1: float
    link_precision: float
    link_recall: float
    edge_f1: float
    id_switches: int
    fragments: float
    mota: float
    idf1: float
    hota: float
    det_a: float
    ass_a: float
    tra: float
    det: float
    split_f1: float
    merge_f1: float
    n_true: int
    n_found: int
    n_true_links: int
    n_found_links: int
    n_splits: int
    n_merges: int
    distance_um: tuple[float, float, float]
    event_distance_um: float
    event_frames: int

    def as_dict(self) -> dict:
        return asdict(self)


def track_graph(tracks: pd.DataFrame, events: pd.DataFrame | None = None) -> TrackGraph:
    """Build the graph of a track table and its events.

    Parameters
    ----------
    tracks : columns track_id, frame, z_um, y_um, x_um; rows with `visible` False are left out. A link joins
        consecutive rows of one track, over a gap too. Without `events`, parent_id (where >= 0) gives descents.
    events : columns parents and children, track ids separated by ";". A descent joins the last row of a parent
        and the first row of a child.

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


def score_tracks(
    true_tracks: pd.DataFrame, found_tracks: pd.DataFrame, distance_um: float, *,
    true_events: pd.DataFrame | None = None, found_events: pd.DataFrame | None = None,
    event_distance_um: float | None = None, event_frames: int = 1,
) -> TrackScore:
    """Score found tracks against true tracks at a stated distance.

    Parameters
    ----------
    true_tracks, found_tracks : tables as in `track_graph`; in truth, rows with visible False do not count.
    distance_um : a found position may be this far from the true one it is matched with (one, or half axes z y x).
    true_events, found_events : tables with kind, frame, z_um, y_um, x_um, parents, children; None: no events.
    event_distance_um, event_frames : tolerance of an event's place (default 2 x distance) and frame.

    Returns
    -------
    TrackScore. `link_*`: a link is right when both its ends are matched to consecutive visible positions of one
    true track; following a parent into its child is wrong. `edge_f1`: the same over links and descents alike.
    `id_switches`: times the found identity over a true track changes (CLEAR MOT, Bernardin and Stiefelhagen 2008);
    `fragments`: mean number of found tracks over one true track that is seen at all; `mota`; `idf1` (Ristani et al.
    2016); `hota` = sqrt(det_a ass_a) at this one distance (Luiten et al. 2021); `tra`, `det`: 1 - AOGM / AOGM of an
    empty result, with the Cell Tracking Challenge's weights (Matula et al. 2015). Scores of nothing against nothing
    are 1; event scores are nan when there is no event on either side.
    """
    true, found = track_graph(true_tracks, true_events), track_graph(found_tracks, found_events)
    radius = radius_vector(distance_um)
    partner = match_graphs(true, found, radius)
    reach = float(2 * radius.max() if event_distance_um is None else event_distance_um)
    links = _link_scores(true.links, found.links, partner)
    edges = _link_scores(np.concatenate([true.links, true.descents]), np.concatenate([found.links, found.descents]),
                         partner)
    return TrackScore(
        link_f1=links[0], link_precision=links[1], link_recall=links[2], edge_f1=edges[0],
        **_identity_scores(true, found, partner), **_aogm_scores(true, found, partner),
        split_f1=event_f1(true_events, found_events, "split", reach, event_frames),
        merge_f1=event_f1(true_events, found_events, "merge", reach, event_frames),
        n_true=len(true.frame), n_found=len(found.frame), n_true_links=len(true.links), n_found_links=len(found.links),
        n_splits=_count(true_events, "split"), n_merges=_count(true_events, "merge"),
        distance_um=tuple(float(r) for r in radius), event_distance_um=reach, event_frames=int(event_frames),
    )


def _link_scores(true: np.ndarray, found: np.ndarray, partner: np.ndarray) -> tuple[float, float, float]:
    """Return F1, precision and recall of edges given as node pairs."""
    hits = len({tuple(e) for e in true.tolist()} & {tuple(e) for e in partner[found].tolist() if min(e) >= 0})
    precision = hits / len(found) if len(found) else 1.0
    recall = hits / len(true) if len(true) else 1.0
    return 2 * hits / (len(true) + len(found)) if len(true) + len(found) else 1.0, precision, recall


def _identity_scores(true: TrackGraph, found: TrackGraph, partner: np.ndarray) -> dict:
    """Count what happens to identities: switches, fragments, and the overlap of each pair of tracks."""
    hit = np.flatnonzero(partner >= 0)
    t, f = true.track[partner[hit]], found.track[hit]
    order = np.lexsort((true.frame[partner[hit]], t))
    ts, fs = t[order], f[order]
    switches = int(((ts[1:] == ts[:-1]) & (fs[1:] != fs[:-1])).sum())
    pairs, shared = np.unique(np.column_stack([t, f]), axis=0, return_counts=True)   # (p, 2): true track, found track
    pairs = pairs.reshape(-1, 2)
    t_size, f_size = np.bincount(true.track, minlength=1), np.bincount(found.track, minlength=1)
    n_true, n_found, tp = len(true.frame), len(found.frame), len(hit)
    overlap = shared / (t_size[pairs[:, 0]] + f_size[pairs[:, 1]] - shared)
    union = n_true + n_found - tp
    det_a, ass_a = (tp / union if union else 1.0), (float((shared * overlap).sum() / tp) if tp else float(union == 0))
    return dict(
        id_switches=switches, fragments=len(pairs) / len(np.unique(t)) if tp else 0.0,
        mota=1 - (n_true - tp + n_found - tp + switches) / n_true if n_true else float(n_found == 0),
        idf1=2 * _best_identity(pairs, shared) / (n_true + n_found) if n_true + n_found else 1.0,
        hota=float(np.sqrt(det_a * ass_a)), det_a=det_a, ass_a=ass_a,
    )


def _best_identity(pairs: np.ndarray, shared: np.ndarray) -> int:
    """Return the most positions that a one-to-one pairing of tracks can explain."""
    if not len(pairs):
        return 0
    n = pairs.max(0) + 1
    graph = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1] + n[0])), shape=(n.sum(), n.sum()))
    group = connected_components(graph, directed=False)[1][pairs[:, 0]]
    total = 0
    for k in group_indices(group):
        rows, i = np.unique(pairs[k, 0], return_inverse=True)
        cols, j = np.unique(pairs[k, 1], return_inverse=True)
        gain = np.zeros((len(rows), len(cols)))
        gain[i, j] = shared[k]
        total += int(gain[linear_sum_assignment(gain, maximize=True)].sum())
    return total


def _aogm_scores(true: TrackGraph, found: TrackGraph, partner: np.ndarray) -> dict:
    """Return TRA and DET from the cost of turning the found graph into the true one."""
    w, matched = AOGM_WEIGHTS, int((partner >= 0).sum())
    nodes = w["fn"] * (len(true.frame) - matched) + w["fp"] * (len(found.frame) - matched)
    true_edges = {e: kind for kind, part in enumerate((true.links, true.descents)) for e in map(tuple, part.tolist())}
    found_edges = {tuple(e): kind for kind, part in enumerate((found.links, found.descents))
                   for e in partner[part].tolist() if min(e) >= 0}
    extra = sum(e not in true_edges for e in found_edges)
    wrong_kind = sum(e in true_edges and true_edges[e] != kind for e, kind in found_edges.items())
    missing = sum(e not in found_edges for e in true_edges)
    edges = w["ed"] * extra + w["ec"] * wrong_kind + w["ea"] * missing
    empty_nodes, empty_all = w["fn"] * len(true.frame), w["fn"] * len(true.frame) + w["ea"] * len(true_edges)
    return dict(tra=1 - min((nodes + edges) / empty_all, 1.0) if empty_all else float(not len(found.frame)),
                det=1 - min(nodes / empty_nodes, 1.0) if empty_nodes else float(not len(found.frame)))


def event_f1(
    true: pd.DataFrame | None, found: pd.DataFrame | None, kind: str, distance_um: float, frames: int
) -> float:
    """Return F1 of the events of a kind, matched one to one within a distance and a number of frames.

    An event table has kind, frame, z_um, y_um, x_um; rows with status "rejected" do not count. nan without events.
    """
    t, f = _places(true, kind), _places(found, kind)
    if not len(t) and not len(f):
        return float("nan")
    if not len(t) or not len(f):
        return 0.0
    near = np.linalg.norm(t[:, None, 1:] - f[None, :, 1:], axis=2) / distance_um
    late = np.abs(t[:, None, 0] - f[None, :, 0])
    ok = (near <= 1) & (late <= frames)
    dear = 2.0 * (1 + min(ok.shape))                            # dearer than all allowed pairs: count comes first
    r, c = linear_sum_assignment(np.where(ok, near + late / (frames + 1), dear))
    return 2 * int(ok[r, c].sum()) / (len(t) + len(f))


def _places(events: pd.DataFrame | None, kind: str) -> np.ndarray:
    """Return (n, 4): frame, z, y, x of the events of a kind."""
    if events is None or not len(events):
        return np.zeros((0, 4))
    keep = events["kind"] == kind
    if "status" in events:
        keep &= events["status"] != "rejected"
    return events.loc[keep, ["frame", *POSITION]].to_numpy(float)


def _count(events: pd.DataFrame | None, kind: str) -> int:
    return len(_places(events, kind))
