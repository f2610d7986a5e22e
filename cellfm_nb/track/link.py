"""Link the objects of a movie into tracks, splits and merges: tables in, tables out.

Method: the links out of every other frame are re-solved in turn, each with full past and future (`chains`), among
few rivals (`candidates`), with gains that are likelihood ratios (`cost`) under a motion and identity model
(`motion`), splits and merges chosen with the links (`events`), long movies in windows (`window`). Every
scale is estimated from the movie. Nothing is random: equal input gives equal output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cellfm_nb.errors import InputError
from cellfm_nb.progress import busy
from cellfm_nb.track.motion import Scales
from cellfm_nb.track.objects import POSITION, check_objects, identity_features
from cellfm_nb.track.review import apply_review, without_rejected_parents
from cellfm_nb.track.scales import moving_axes, scale_table, write_scales
from cellfm_nb.track.statistics import bleaching
from cellfm_nb.track.window import join_objects

TRACK_COLUMNS = ["track_id", "frame", "t_s", "z", "y", "x", *POSITION, "label", "mass", "volume_um3", "score",
                 "parent_id", "gap"]
EVENT_COLUMNS = ["event_id", "kind", "frame", *POSITION, "parents", "children", "score", "status"]
SWEEPS = 5             # at most; the first without events


@dataclass(frozen=True)
class Linking:
    """Tracks and events of a movie, and the scales behind them (None: there was nothing to link)."""

    tracks: pd.DataFrame
    events: pd.DataFrame
    scales: Scales | None
    dt_s: float

    @property
    def message(self) -> str:
        """One sentence about the result."""
        return describe(self.tracks, self.events)

    def scale_table(self) -> pd.DataFrame:
        """Return the scales a person asks for: quantity, value, unit."""
        return scale_table(self.scales, self.dt_s, moving_axes(self.tracks), bleaching(self.tracks, self.dt_s)[0])


@busy("linking")
def link_objects(objects: pd.DataFrame, spacing_um: tuple[float, float, float], dt_s: float, *,
                 max_gap_frames: int = 4, identity: str = "mass", events: bool = True,
                 window_frames: int | None = None, scales: Scales | None = None) -> Linking:
    """Link objects into tracks with splits and merges.

    Parameters
    ----------
    objects : one row per object: frame, z_um, y_um, x_um, and where there are label, mass, mass_sd, light and light_sd
        (in place of mass: `segment.objects.object_table`), amplitude (height of its peak, any linear unit), volume_um3,
        z, y, x, d0, d1, ... (descriptor). Any order; frames may be empty.
    spacing_um : voxel (z, y, x) in micrometre; positions are taken to be no better known than a fiftieth of it.
    dt_s : time between frames in seconds.
    max_gap_frames : a track may go unseen for this many frames.
    identity : what tells objects apart beside their motion: "none", "mass" (bleaching taken out; with amplitude and
        mass_sd the size too), or "descriptor" (also d0, d1, ...; their noise is taken as independent). Each counts as
        much as it stays constant.
    events : whether to look for splits and merges.
    window_frames : frames linked at once (None: all, unless there are more than a million objects): a long movie
        takes bounded memory, and the links are those of the whole, but for the scales, which one window tells.
    scales : scales to take as they are, say those of a like movie (`Linking.scales`), instead of estimating them.

    Returns
    -------
    Linking; `tracks` has the columns TRACK_COLUMNS (score: confidence in 0..1 of the link or event into the row, nan
    at a track's first; gap: frames skipped before the row; parent_id: parent of a split's child, else -1), `events`
    the columns EVENT_COLUMNS (frame: the first of the children; status "candidate" until a person has looked).
    One frame, or no object, is not an error: every object is a track of its own, and the message says so.

    Raises
    ------
    InputError: missing columns; positions, masses or descriptors that are not finite, frames that are not whole; bad
    spacing, time step, gap, identity or window; scales of another gap or identity.
    """
    objects = check_objects(objects, spacing_um, dt_s, max_gap_frames, identity)
    if objects["frame"].nunique() < 2:
        tracks = track_table(objects, np.arange(len(objects)), spacing_um, dt_s)
        return Linking(tracks, event_table([], objects, []), None, dt_s)
    features, relative = identity_features(objects, identity)
    if window_frames is not None and window_frames < 2:
        raise InputError("Bad window.", where="window_frames", got=window_frames, expected="None, or at least 2",
                         do="A few tens of frames make a good window.")
    expected = (max_gap_frames + 1, len(features))
    if scales is not None and (len(scales.gap), len(scales.noise)) != expected:
        raise InputError("These scales are of another linking.", where="scales",
                         got=f"max_gap_frames {len(scales.gap) - 1}, {len(scales.noise)} identities",
                         expected=f"max_gap_frames {max_gap_frames}, {expected[1]} identities",
                         do="Link with the gap and the identity the scales were estimated with.")
    joined = join_objects(objects[POSITION].to_numpy(float).T.copy(), objects["frame"].to_numpy(int), features,
                          relative, np.asarray(spacing_um, float), max_gap_frames, SWEEPS, events, window_frames,
                          scales)
    ids = joined.chain_ids()
    found = event_table(joined.events, objects, ids)
    parents = {int(ids[c]): int(ids[e.parents[0]]) for e in joined.events if e.kind == "split" for c in e.children}
    tracks = track_table(objects, ids, spacing_um, dt_s, joined.confidence, parents)
    return Linking(tracks, found, joined.scales, dt_s)


def write_linking(tracks_path: Path, events_path: Path, scales_path: Path, model_path: Path, objects_path: Path,
                  spacing_um: tuple[float, float, float], dt_s: float, reviewed: Mapping[str, str] | None = None,
                  **options: Any) -> None:
    """Link the objects of a parquet file and write tracks.csv, events.csv, scales.csv, scales.json (`Workspace.make`).

    scales.csv is for people; scales.json holds the same scales for `read_scales`.
    reviewed: what readers said of events (see `apply_review`); children of a rejected split have no parent.
    """
    linking = link_objects(pd.read_parquet(objects_path), spacing_um, dt_s, **options)
    events = apply_review(linking.events, reviewed or {})
    for path, table in ((tracks_path, without_rejected_parents(linking.tracks, events)), (events_path, events),
                        (scales_path, linking.scale_table())):
        table.to_csv(path, index=False)
    write_scales(model_path, linking.scales)


def describe(tracks: pd.DataFrame, events: pd.DataFrame) -> str:
    """Say in one sentence what was linked."""
    n, frames, counts = len(tracks), tracks["frame"].nunique(), events["kind"].value_counts()
    if frames < 2:
        return f"{f'One frame with {n} objects' if n else 'No objects'}: there is nothing to link."
    return (f"{n} objects in {frames} frames make {tracks['track_id'].nunique()} tracks, {counts.get('split', 0)} "
            f"splits and {counts.get('merge', 0)} merges.")


def track_table(objects: pd.DataFrame, ids: np.ndarray, spacing_um: tuple[float, float, float], dt_s: float,
                score: np.ndarray | None = None, parents: dict[int, int] | None = None) -> pd.DataFrame:
    """Write the track table of objects and the track each belongs to, rows sorted by track and frame."""
    ids, frame = np.asarray(ids, int), objects["frame"].to_numpy(int)
    order = np.lexsort((frame, ids))
    ids, frame = ids[order], frame[order]
    empty = {"label": 0, "mass": np.nan, "volume_um3": np.nan}
    columns = {"track_id": ids, "frame": frame, "t_s": frame * float(dt_s)}
    for axis, size in zip("zyx", spacing_um, strict=True):
        columns[axis] = (objects[axis] if axis in objects else objects[f"{axis}_um"] / size).to_numpy()[order]
    for name in (*POSITION, *empty):
        columns[name] = objects[name].to_numpy()[order] if name in objects else np.full(len(ids), empty[name])
    columns["score"] = np.full(len(ids), np.nan) if score is None else score[order]
    parent = np.full(ids.max(initial=-1) + 1, -1)
    parent[list(parents or {})] = list((parents or {}).values())
    columns["parent_id"] = parent[ids]
    step = np.diff(frame, prepend=frame[:1])
    columns["gap"] = np.where(np.diff(ids, prepend=-1) == 0, step - 1, 0)
    return pd.DataFrame(columns, columns=TRACK_COLUMNS)


def event_table(events: list, objects: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    """Write the table of splits and merges, sorted by frame; an event's place is the middle of its children."""
    if not events:
        return pd.DataFrame(columns=EVENT_COLUMNS)
    rows = []
    for e in events:
        children = objects.iloc[list(e.children)]
        rows.append({"kind": e.kind, "frame": int(children["frame"].iloc[0]), **children[POSITION].mean().to_dict(),
                     "parents": ";".join(str(ids[p]) for p in e.parents),
                     "children": ";".join(str(ids[c]) for c in e.children), "score": e.confidence,
                     "status": "candidate"})
    table = pd.DataFrame(rows, columns=EVENT_COLUMNS[1:]).sort_values(["frame", "children"]).reset_index(drop=True)
    table.insert(0, "event_id", np.arange(len(table)))
    return table
