"""Say a movie's scales to people, and keep them for another linking."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
import pandas as pd

from cellfm_nb.atomic import write_json
from cellfm_nb.errors import InputError
from cellfm_nb.track.motion import Scales
from cellfm_nb.track.objects import POSITION


def write_scales(path: str | Path, scales: Scales | None) -> None:
    """Write scales as JSON; None, where there was nothing to link, as null."""
    values = None if scales is None else {k: np.asarray(v).tolist() for k, v in asdict(scales).items()}
    write_json(Path(path), values)


def read_scales(path: str | Path) -> Scales | None:
    """Read scales written by `write_scales`, every bit; raises InputError where one is missing."""
    values = json.loads(Path(path).read_text())
    if values is None:
        return None
    if missing := {f.name for f in fields(Scales)} - set(values):
        raise InputError("These scales are not whole.", where=path, got=f"no {', '.join(sorted(missing))}",
                         do="Link the movie again (notebook 08).")
    return Scales(**{f.name: values[f.name] if isinstance(values[f.name], float) else np.array(values[f.name], float)
                     for f in fields(Scales)})


def moving_axes(tracks: pd.DataFrame) -> np.ndarray:
    """Return which of z, y, x vary, (3,) bool: a movie of flat images moves in two dimensions, not three."""
    x = tracks[POSITION].to_numpy(float)
    return np.ptp(x, axis=0) > 0 if len(x) else np.ones(3, bool)


def scale_table(s: Scales | None, dt_s: float, axes: np.ndarray | None = None,
                bleaching_s: float = np.nan) -> pd.DataFrame:
    """Return the scales a person asks for: quantity, value, unit; empty without scales.

    The diffusion coefficient is that of the Brownian step along the axes that vary (`moving_axes`; None: all), so it
    contains the localisation noise: an upper bound. `diffusion` tells the two apart. bleaching_s is measured on the
    tracks' masses (`bleaching`): the light that links go by need not be linear in photons, `Scales.bleach` is its fall.
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
        rows += [("bleaching time", bleaching_s, "s"),
                 ("spread of log light between objects", np.sqrt(s.identity_var[0]), "nats"),
                 ("misleading light", 100 * s.outlier, "%")]
    return pd.DataFrame(rows, columns=columns)
