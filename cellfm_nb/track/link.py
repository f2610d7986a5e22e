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
from cellfm_nb.track.review import apply_review, without_rejected_parents
from cellfm_nb.track.window import join_objects

POSITION = ["z_um", "y_um", "x_um"]
TRACK_COLUMNS = ["track_id", "frame", "t_s", "z", "y", "x", *POSITION, "label", "mass", "volume_um3", "score",
                 "parent_id", "gap"]
EVENT_COLUMNS = ["event_id", "kind", "frame", *POSITION, "parents", "children", "score", "status"]
IDENTITIES = ("none", "mass", "descriptor")
FAINT = 0.05           # masses below this share of the median are raised to it before the log
SWEEPS = 4             # forward and backward; the first without events


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
        return scale_table(self.scales, self.dt_s, moving_axes(self.tracks))


@busy("linking")
def link_objects(objects: pd.DataFrame, spacing_um: tuple[float, float, float], dt_s: float, *,
                 max_gap_frames: int = 4, identity: str = "mass", events: bool = True,
                 window_frames: int | None = None, scales: Scales | None = None) -> Linking:
    """Link objects into tracks with splits and merges.

    Parameters
    ----------
    objects : one row per object: frame, z_um, y_um, x_um, and where there are label, mass, mass_sd, volume_um3, z,
        y, x, d0, d1, ... (descriptor). Any order; frames may be empty.
    spacing_um : voxel (z, y, x) in micrometre; positions are taken to be no better known than a fiftieth of it.
    dt_s : time between frames in seconds.
    max_gap_frames : a track may go unseen for this many frames.
    identity : what tells objects apart beside their motion: "none", "mass" (bleaching taken out), or "descriptor"
        (mass and d0, d1, ...; their noise is taken as independent). Each counts as much as it stays constant.
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
    parents = {int(c): int(p) for kind, p, c in zip(found["kind"], found["parents"], found["children"], strict=True)
               if kind == "split" for c in c.split(";")}
    tracks = track_table(objects, ids, spacing_um, dt_s, joined.confidence, parents)
    return Linking(tracks, found, joined.scales, dt_s)


def write_linking(tracks_path: Path, events_path: Path, scales_path: Path, objects_path: Path,
                  spacing_um: tuple[float, float, float], dt_s: float, reviewed: Mapping[str, str] | None = None,
                  **options: Any) -> None:
    """Link the objects of a parquet file and write tracks.csv, events.csv and scales.csv (for `Workspace.make`).

    reviewed: what readers said of events (see `apply_review`); children of a rejected split have no parent.
    """
    linking = link_objects(pd.read_parquet(objects_path), spacing_um, dt_s, **options)
    events = apply_review(linking.events, reviewed or {})
    for path, table in ((tracks_path, without_rejected_parents(linking.tracks, events)), (events_path, events),
                        (scales_path, linking.scale_table())):
        table.to_csv(path, index=False)


def describe(tracks: pd.DataFrame, events: pd.DataFrame) -> str:
    """Say in one sentence what was linked."""
    n, frames, counts = len(tracks), tracks["frame"].nunique(), events["kind"].value_counts()
    if frames < 2:
        return f"{f'One frame with {n} objects' if n else 'No objects'}: there is nothing to link."
    return (f"{n} objects in {frames} frames make {tracks['track_id'].nunique()} tracks, {counts.get('split', 0)} "
            f"splits and {counts.get('merge', 0)} merges.")


def check_objects(objects: pd.DataFrame, spacing_um: tuple[float, float, float], dt_s: float, max_gap_frames: int,
                  identity: str = "none") -> pd.DataFrame:
    """Return the objects sorted by frame and place, or raise InputError."""
    if missing := {"frame", *POSITION} - set(objects.columns):
        raise InputError("The object table lacks columns.", where="objects", got=f"no {', '.join(sorted(missing))}",
                         expected="frame, z_um, y_um, x_um", do="Segment first (notebook 07), or rename the columns.")
    bad = ~np.isfinite(objects[POSITION].to_numpy(float)).all(1)
    if bad.any():
        raise InputError("Some positions are not finite.", where=f"objects, row {int(np.flatnonzero(bad)[0])}",
                         got=f"{int(bad.sum())} rows with nan or inf", expected="micrometre", do="Drop these rows.")
    spacing = np.asarray(spacing_um, float)
    if spacing.shape != (3,) or not (np.isfinite(spacing) & (spacing > 0)).all():
        raise InputError("Bad spacing.", where="spacing_um", got=spacing_um, expected="three numbers > 0 (z, y, x)",
                         do="Give the voxel in micrometre.")
    if not (np.isfinite(dt_s) and dt_s > 0):
        raise InputError("Bad time step.", where="dt_s", got=dt_s, expected="seconds > 0",
                         do="Give the time between frames.")
    if max_gap_frames < 0 or int(max_gap_frames) != max_gap_frames:
        raise InputError("Bad gap.", where="max_gap_frames", got=max_gap_frames, expected="a whole number >= 0",
                         do="0 links consecutive frames only; 4 bridges blinks of up to four frames.")
    if identity not in IDENTITIES:
        raise InputError("Unknown identity.", where="identity", got=repr(identity), expected=", ".join(IDENTITIES),
                         do="Choose one of them.")
    frame = objects["frame"].to_numpy(float)
    bad = ~np.isfinite(frame) | (frame != np.rint(frame))
    if bad.any():
        raise InputError("Some frames are no whole numbers.", where=f"objects, row {int(np.flatnonzero(bad)[0])}",
                         got=frame[bad][0], expected="0, 1, 2, ...", do="Number the frames, or drop these rows.")
    objects = objects.assign(frame=frame.astype(int))
    return objects.sort_values(["frame", "x_um", "y_um", "z_um"], kind="stable").reset_index(drop=True)


def identity_features(objects: pd.DataFrame, identity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what tells objects apart, (k, n) log mass and descriptors, and its variance up to a factor, (k, n)."""
    rows, variances = [np.zeros((0, len(objects)))], [np.zeros((0, len(objects)))]
    mass = objects["mass"].to_numpy(float) if "mass" in objects else np.array([])
    if identity != "none" and (mass > 0).any():
        _refuse_gaps(mass[:, None], ["mass"])
        middle = np.median(mass[mass > 0])
        sd = objects["mass_sd"].to_numpy(float) if "mass_sd" in objects else np.full(len(mass), np.nan)
        known = np.isfinite(sd) & (sd > 0)
        share = np.where(known, sd, 0) / np.maximum(mass, 5 * FAINT * middle)
        usual = np.median(share[known]) if known.any() else 1.0
        rows.append(np.log(np.maximum(mass, FAINT * middle))[None])
        variances.append((np.where(known, share, usual) ** 2)[None])
    if identity == "descriptor":
        names = [c for c in objects if c[0] == "d" and c[1:].isdigit()]
        values = objects[names].to_numpy(float)
        _refuse_gaps(values, names)
        rows.append(((values - values.mean(0)) / (values.std(0) + 1e-12)).T)
        variances.append(np.ones_like(rows[-1]))
    return np.concatenate(rows), np.concatenate(variances)


def _refuse_gaps(values: np.ndarray, names: list[str]) -> None:
    """Raise InputError where a cue of identity lacks a number: one nan would silence it for the whole movie."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise InputError("Some identities are not finite.", where=f"objects, column {names[bad[0, 1]]}",
                         got=f"{len(np.unique(bad[:, 0]))} rows with nan or inf", expected="a number in each row",
                         do="Drop these rows, or link with identity none.")


def track_table(objects: pd.DataFrame, ids: np.ndarray, spacing_um: tuple[float, float, float], dt_s: float,
                score: np.ndarray | None = None, parents: dict[int, int] | None = None) -> pd.DataFrame:
    """Write the track table of objects and the track each belongs to, rows sorted by track and frame."""
    table = objects.copy()
    table["track_id"], table["t_s"] = np.asarray(ids, int), table["frame"] * float(dt_s)
    for axis, size in zip("zyx", spacing_um, strict=True):
        if axis not in table:
            table[axis] = table[f"{axis}_um"] / size
    for name, empty in (("label", 0), ("mass", np.nan), ("volume_um3", np.nan)):
        if name not in table:
            table[name] = empty
    table["score"] = np.nan if score is None else score
    table["parent_id"] = table["track_id"].map(parents or {}).fillna(-1).astype(int)
    table = table.sort_values(["track_id", "frame"], kind="stable").reset_index(drop=True)
    table["gap"] = (table.groupby("track_id")["frame"].diff().fillna(1) - 1).astype(int)
    return table[TRACK_COLUMNS]


def event_table(events: list, objects: pd.DataFrame, ids: np.ndarray) -> pd.DataFrame:
    """Write the table of splits and merges, sorted by frame; an event's place is the middle of its children."""
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


def moving_axes(tracks: pd.DataFrame) -> np.ndarray:
    """Return which of z, y, x vary, (3,) bool: a movie of flat images moves in two dimensions, not three."""
    x = tracks[POSITION].to_numpy(float)
    return np.ptp(x, axis=0) > 0 if len(x) else np.ones(3, bool)


def scale_table(s: Scales | None, dt_s: float, axes: np.ndarray | None = None) -> pd.DataFrame:
    """Return the scales a person asks for: quantity, value, unit; empty without scales.

    The diffusion coefficient is that of the Brownian step along the axes that vary (`moving_axes`; None: all), so it
    contains the localisation noise: an upper bound. `diffusion` tells the two apart.
    """
    columns = ["quantity", "value", "unit"]
    if s is None:
        return pd.DataFrame(columns=columns)
    share, stay, some = s.stationary, np.diag(s.switch), s.step_um2 if axes is None else s.step_um2[axes]
    rows = [
        ("Brownian step, rms", np.sqrt(s.step_um2.sum()), "um per frame"),
        ("diffusion coefficient", some.mean() / (2 * dt_s) if len(some) else 0.0, "um^2/s"),
        ("directed speed, rms", np.sqrt(s.velocity_um2.sum()) / dt_s, "um/s"),
        ("directed steps", 100 * share[1], "%"),
        ("directed run, mean", dt_s / max(1 - stay[1], 1e-9), "s"),
        ("unseen between two detections", 100 * (1 - s.gap[0]), "%"),
        ("births", s.birth_per_um3, "per um^3 and frame"),
        ("ends", 100 * s.end, "% of objects per frame"),
        ("splits", 100 * s.event_rate[0], "% of objects per frame"),
        ("merges", 100 * s.event_rate[1], "% of objects per frame"),
    ]
    if len(s.noise):
        rows += [("bleaching time", dt_s / s.bleach if s.bleach > 1e-6 else np.inf, "s"),
                 ("spread of log mass between objects", np.sqrt(s.identity_var[0]), "nats"),
                 ("misleading masses", 100 * s.outlier, "%")]
    return pd.DataFrame(rows, columns=columns)
