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
from scipy.stats import t as student

from cellfm_nb.score.detection import radius_vector
from cellfm_nb.score.graphs import POSITION, TrackGraph, best_pairing, id_list, match_graphs, track_graph

__all__ = ["TrackGraph", "TrackScore", "event_f1", "id_list", "match_graphs", "mean_and_interval", "score_tracks",
           "track_graph"]
AOGM_WEIGHTS = {"fn": 10.0, "fp": 1.0, "ed": 1.0, "ea": 1.5, "ec": 1.0}  # Matula et al. 2015; a match is one to one


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
    lnk: float
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
    2016); `hota` = sqrt(det_a ass_a) at this one distance (Luiten et al. 2021); `tra`, `det`, `lnk`: 1 - AOGM / AOGM of
    an empty result, with the Cell Tracking Challenge's weights (Matula et al. 2015), of all, nodes, edges.
    Scores of nothing against nothing are 1; event scores are nan when there is no event on either side.
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
        idf1=2 * int(shared[best_pairing(pairs, shared)].sum()) / (n_true + n_found) if n_true + n_found else 1.0,
        hota=float(np.sqrt(det_a * ass_a)), det_a=det_a, ass_a=ass_a,
    )


def _aogm_scores(true: TrackGraph, found: TrackGraph, partner: np.ndarray) -> dict:
    """Return TRA, DET and LNK from the cost of turning the found graph into the true one."""
    w, matched = AOGM_WEIGHTS, int((partner >= 0).sum())
    nodes = w["fn"] * (len(true.frame) - matched) + w["fp"] * (len(found.frame) - matched)
    true_edges = {e: kind for kind, part in enumerate((true.links, true.descents)) for e in map(tuple, part.tolist())}
    found_edges = {tuple(e): kind for kind, part in enumerate((found.links, found.descents))
                   for e in partner[part].tolist() if min(e) >= 0}
    extra = sum(e not in true_edges for e in found_edges)
    wrong_kind = sum(e in true_edges and true_edges[e] != kind for e, kind in found_edges.items())
    missing = sum(e not in found_edges for e in true_edges)
    edges = w["ed"] * extra + w["ec"] * wrong_kind + w["ea"] * missing
    empty_nodes, empty_edges = w["fn"] * len(true.frame), w["ea"] * len(true_edges)
    none = float(not len(found.frame))
    return dict(tra=1 - min((nodes + edges) / (empty_nodes + empty_edges), 1.0) if empty_nodes else none,
                det=1 - min(nodes / empty_nodes, 1.0) if empty_nodes else none,
                lnk=1 - min(edges / empty_edges, 1.0) if empty_edges else float(not found_edges))


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


def mean_and_interval(values: list[float] | np.ndarray, level: float = 0.95) -> tuple[float, float, float]:
    """Return the mean of a score over movies and its confidence interval (Student's t); nan movies are left out.

    With one movie the interval is unknown: nan, nan.
    """
    x = np.asarray(values, float)
    x = x[np.isfinite(x)]
    if len(x) < 2:
        return (float(x.mean()) if len(x) else float("nan")), float("nan"), float("nan")
    half = float(student.ppf(0.5 + level / 2, len(x) - 1) * x.std(ddof=1) / np.sqrt(len(x)))
    return float(x.mean()), float(x.mean()) - half, float(x.mean()) + half
