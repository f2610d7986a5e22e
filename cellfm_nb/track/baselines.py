"""Link with the peers behind the same interface: trackpy, frame-wise Hungarian, laptrack where it is installed.

Each takes a search radius, which ours does not: without one, a multiple of the mutual nearest neighbours' step is
used; a fair comparison tries several radii and keeps each peer's best by truth.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from cellfm_nb.errors import InputError
from cellfm_nb.track.cost import mutual_neighbours
from cellfm_nb.track.link import POSITION, check_objects, link_objects, track_table

RADIUS_STEPS = 2.5     # default search radius, in rms steps of mutual nearest neighbours


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
    name : "ours", "trackpy", "trackpy adaptive", "hungarian" (frame by frame, no gaps), "laptrack".
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


def _hungarian(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    """Link consecutive frames by least total squared distance within the radius, most links first."""
    x, frame = objects[POSITION].to_numpy(float), objects["frame"].to_numpy(int)
    ids, before = np.arange(len(x)), np.zeros(0, int)
    for t in np.unique(frame):
        here = np.flatnonzero(frame == t)
        if len(before) and frame[before[0]] == t - 1:
            cost = cdist(x[before], x[here], "sqeuclidean")
            far = cost > radius_um**2
            r, c = linear_sum_assignment(np.where(far, radius_um**2 * (1 + min(cost.shape)), cost))
            ok = ~far[r, c]
            ids[here[c[ok]]] = ids[before[r[ok]]]
        before = here
    return ids


def _laptrack(objects: pd.DataFrame, radius_um: float, max_gap_frames: int) -> np.ndarray:
    try:
        from laptrack import LapTrack
    except ImportError:
        raise InputError("laptrack is not installed.", do="pip install laptrack, or choose another linker.") from None
    tracker = LapTrack(cutoff=radius_um**2, gap_closing_cutoff=radius_um**2, gap_closing_max_frame_count=max_gap_frames)
    table = objects[["frame", *POSITION]].assign(row=np.arange(len(objects)))
    linked = tracker.predict_dataframe(table, POSITION, only_coordinate_cols=False)[0]
    return linked.reset_index(drop=True).sort_values("row")["track_id"].to_numpy(int)


LINKERS: dict[str, Callable[[pd.DataFrame, float, int], np.ndarray]] = {
    "trackpy": _trackpy, "trackpy adaptive": _trackpy_adaptive, "hungarian": _hungarian, "laptrack": _laptrack,
}
