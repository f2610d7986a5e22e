"""Link with the peers behind the same interface: trackpy, frame-wise Hungarian, laptrack where it is installed.

"seed" is the tracker the project's seeds describe: frame by frame, C = w_s d_spatial + w_f d_feature + w_m d_motion.

Each takes a search radius, which ours does not: without one, a multiple of the mutual nearest neighbours' step is
used; a fair comparison tries several radii and keeps each peer's best by truth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from cellfm_nb.errors import InputError
from cellfm_nb.track.cost import mutual_neighbours
from cellfm_nb.track.frame_wise import frame_wise
from cellfm_nb.track.link import link_objects, track_table
from cellfm_nb.track.objects import POSITION, check_objects

RADIUS_STEPS = 2.5     # default search radius, in rms steps of mutual nearest neighbours
SEED_WEIGHTS = (1.0, 0.1, 1.0)   # space, features, motion; 0.1 is what the method's authors themselves settled on


def default_radius_um(objects: pd.DataFrame) -> float:
    """Return a search radius in micrometre: `RADIUS_STEPS` times the rms step of mutual nearest neighbours."""
    objects = objects.sort_values("frame", kind="stable")
    x = objects[POSITION].to_numpy(float)
    i, j = mutual_neighbours(x, objects["frame"].to_numpy(int))
    return RADIUS_STEPS * float(np.sqrt(((x[j] - x[i]) ** 2).sum(1).mean())) if len(i) else 1.0


def link_with(name: str, objects: pd.DataFrame, spacing_um: tuple[float, float, float], dt_s: float, *,
              radius_um: float | None = None, max_gap_frames: int = 4) -> pd.DataFrame:
    """Link objects with the linker called `name` and return its track table.

    Parameters
    ----------
    name : "ours"; "trackpy", "trackpy adaptive", "trackpy predicted" (NearestVelocityPredict); "hungarian" (frame by
        frame, no gaps), "kalman" (the same with memory, to where a constant-velocity filter expects each track),
        "seed" (as "kalman", the cost weighted with features); "laptrack", "laptrack split/merge".
    objects, spacing_um, dt_s, max_gap_frames : as in `link_objects`.
    radius_um : search radius of the peers; None: `default_radius_um`. Ours has none.

    Raises
    ------
    InputError: unknown name, a package not installed; and where a peer gives up (trackpy's subnet limit), its words.
    """
    if name == "ours":
        return link_objects(objects, spacing_um, dt_s, max_gap_frames=max_gap_frames).tracks
    if name not in LINKERS:
        raise InputError("Unknown linker.", got=repr(name), expected=", ".join(["ours", *LINKERS]), do="Choose one.")
    objects = check_objects(objects, spacing_um, dt_s, max_gap_frames)
    radius = default_radius_um(objects) if radius_um is None else float(radius_um)
    ids = LINKERS[name](objects, radius, max_gap_frames) if len(objects) else np.zeros(0, int)
    return track_table(objects, ids, spacing_um, dt_s)


def _trackpy(objects: pd.DataFrame, radius_um: float, max_gap_frames: int, **options: float) -> np.ndarray:
    import trackpy

    trackpy.quiet()
    try:
        linked = trackpy.link(objects[["frame", *POSITION]], radius_um, memory=max_gap_frames, pos_columns=POSITION,
                              **options)
    except trackpy.SubnetOversizeException as error:
        raise InputError("trackpy gives up on this density.", where=f"search radius {radius_um:.3g} um",
                         got=str(error), expected="groups of at most 30 candidates",
                         do="Use a smaller radius or `trackpy adaptive`.") from None
    return linked.sort_index()["particle"].to_numpy(int)


def _trackpy_adaptive(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    return _trackpy(objects, radius_um, max_gap_frames, adaptive_stop=0.05 * radius_um, adaptive_step=0.9)


def _trackpy_predicted(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    import trackpy

    trackpy.quiet()
    table = objects[["frame", *POSITION]].reset_index(names="row")
    frames = [rows for _, rows in table.groupby("frame")]
    predict = trackpy.predict.NearestVelocityPredict(span=1)
    try:
        linked = pd.concat(predict.link_df_iter(iter(frames), radius_um, memory=max_gap_frames, pos_columns=POSITION,
                                                adaptive_stop=0.05 * radius_um, adaptive_step=0.9))
    except trackpy.SubnetOversizeException as error:
        raise InputError("trackpy gives up on this density.", where=f"search radius {radius_um:.3g} um",
                         got=str(error), do="Use a smaller radius.") from None
    return linked.sort_values("row")["particle"].to_numpy(int)


def _hungarian(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    return frame_wise(objects, radius_um, 0, motion=False)


def _kalman(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    return frame_wise(objects, radius_um, max_gap_frames, motion=True)


def _seed(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    return frame_wise(objects, radius_um, max_gap_frames, motion=True, weights=SEED_WEIGHTS)


def _laptrack(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    return _laptrack_tables(objects, radius_um, max_gap_frames)[0]


def _laptrack_events(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    return _laptrack_tables(objects, radius_um, max_gap_frames, splitting_cutoff=radius_um**2,
                            merging_cutoff=radius_um**2)[0]


def laptrack_events(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> pd.DataFrame:
    """Return laptrack's splits and merges of objects (sorted by frame) as an event table; tracks as in `link_with`."""
    ids, splits, merges = _laptrack_tables(objects, radius_um, max_gap_frames, splitting_cutoff=radius_um**2,
                                           merging_cutoff=radius_um**2)
    rows = []
    for kind, table, whole, part in (("split", splits, "parent_track_id", "child_track_id"),
                                     ("merge", merges, "child_track_id", "parent_track_id")):
        for one, group in table.groupby(whole) if len(table) else ():
            parts = sorted(int(k) for k in group[part])
            parents, children = ([int(one)], parts) if kind == "split" else (parts, [int(one)])
            first = objects[np.isin(ids, children)].groupby(ids[np.isin(ids, children)]).first()
            rows.append({"kind": kind, "frame": int(first["frame"].min()), **first[POSITION].mean().to_dict(),
                         "parents": ";".join(map(str, parents)), "children": ";".join(map(str, children))})
    return pd.DataFrame(rows, columns=["kind", "frame", *POSITION, "parents", "children"])


def _laptrack_tables(objects: pd.DataFrame, radius_um: float, max_gap_frames: int,
                     **options: float) -> tuple[np.ndarray, pd.DataFrame, pd.DataFrame]:
    try:
        from laptrack import LapTrack
    except ImportError:
        raise InputError("laptrack is not installed.", do="pip install laptrack, or choose another linker.") from None
    tracker = LapTrack(cutoff=radius_um**2, gap_closing_cutoff=radius_um**2, gap_closing_max_frame_count=max_gap_frames,
                       **options)
    table = objects[["frame", *POSITION]].assign(row=np.arange(len(objects)))
    linked, splits, merges = tracker.predict_dataframe(table, POSITION, only_coordinate_cols=False)
    return linked.reset_index(drop=True).sort_values("row")["track_id"].to_numpy(int), splits, merges


LINKERS: dict[str, Callable[[pd.DataFrame, float, int], np.ndarray]] = {
    "trackpy": _trackpy, "trackpy adaptive": _trackpy_adaptive, "trackpy predicted": _trackpy_predicted,
    "hungarian": _hungarian, "kalman": _kalman, "seed": _seed, "laptrack": _laptrack,
    "laptrack split/merge": _laptrack_events,
}
