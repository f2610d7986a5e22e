"""Check the objects to be linked, and find what tells them apart beside their place: light and descriptor."""

from __future__ import annotations

import numpy as np
import pandas as pd

from cellfm_nb.errors import InputError

POSITION = ["z_um", "y_um", "x_um"]
IDENTITIES = ("none", "mass", "descriptor")
FAINT = 0.05           # masses below this share of the median are raised to it before the log
UNSTATED = 0.001       # standard deviation of a cue whose error nobody states: none is better known


def check_objects(objects: pd.DataFrame, spacing_um: tuple[float, float, float], dt_s: float, max_gap_frames: int,
                  identity: str = "none") -> pd.DataFrame:
    """Return the objects sorted by frame and place, or raise InputError."""
    if missing := {"frame", *POSITION} - set(objects.columns):
        raise InputError("The object table lacks columns.", where="objects", got=f"no {', '.join(sorted(missing))}",
                         expected="frame, z_um, y_um, x_um", do="Segment first (notebook 07), or rename the columns.")
    place = objects[POSITION].to_numpy(float)
    bad = ~np.isfinite(place).all(1)
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
    order = np.lexsort([*place.T, frame])                            # by frame, then x, y, z
    objects = objects.take(order).reset_index(drop=True)
    objects["frame"] = frame[order].astype(int)
    return objects


def identity_features(objects: pd.DataFrame, identity: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what tells objects apart, (k, n), log light first, then size, descriptors; and its least variance, (k, n).

    A fit errs in the height of a peak and in its width in opposite senses: of mass = height x volume it knows
    sqrt(mass x height) best, the light at the typical size, and apart from it the volume, mass / height, about half as
    well. Where the heights (amplitude) or all errors (mass_sd) are missing, the light is the mass and no size counts.
    The least variance is the stated one; where none is stated, that of a cue known to `UNSTATED`. Where the table has
    the light of the fit that found the objects (light, light_sd), it stands for the mass, which is measured anew.
    """
    rows, variances = [np.zeros((0, len(objects)))], [np.zeros((0, len(objects)))]
    kind = "light" if "light" in objects and np.isfinite(objects["light"]).all() else "mass"   # bodies have no light
    mass = objects[kind].to_numpy(float) if kind in objects else np.array([])
    if identity != "none" and (mass > 0).any():
        _refuse_gaps(mass[:, None], [kind])
        middle = np.median(mass[mass > 0])
        sd = objects[f"{kind}_sd"].to_numpy(float) if f"{kind}_sd" in objects else np.full(len(mass), np.nan)
        known = np.isfinite(sd) & (sd > 0)
        share = np.where(known, sd, 0) / np.maximum(mass, 5 * FAINT * middle)
        share = np.where(known, share, np.median(share[known]) if known.any() else UNSTATED)
        light = np.log(np.maximum(mass, FAINT * middle))
        height = objects["amplitude"].to_numpy(float) if "amplitude" in objects and known.any() else np.zeros(1)
        if np.isfinite(height).all() and (height > 0).any():
            size = light - np.log(np.maximum(height, FAINT * np.median(height[height > 0])))
            rows.append(np.stack([light - size / 2, size]))
            variances.append(np.stack([share**2, (2 * share) ** 2]))
        else:
            rows.append(light[None])
            variances.append(share[None] ** 2)
    if identity == "descriptor":
        names = [c for c in objects if c[0] == "d" and c[1:].isdigit()]
        values = objects[names].to_numpy(float)
        _refuse_gaps(values, names)
        rows.append(((values - values.mean(0)) / (values.std(0) + 1e-12)).T)
        variances.append(np.full_like(rows[-1], UNSTATED**2))
    return np.concatenate(rows), np.concatenate(variances)


def _refuse_gaps(values: np.ndarray, names: list[str]) -> None:
    """Raise InputError where a cue of identity lacks a number: one nan would silence it for the whole movie."""
    bad = np.argwhere(~np.isfinite(values))
    if len(bad):
        raise InputError("Some identities are not finite.", where=f"objects, column {names[bad[0, 1]]}",
                         got=f"{len(np.unique(bad[:, 0]))} rows with nan or inf", expected="a number in each row",
                         do="Drop these rows, or link with identity none.")
