"""What a user says of a movie: three lengths in micrometre (z, y, x), one time in second, which frames; checked."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from cellfm_nb.errors import InputError

# One unit in micrometre, or in second. OME-XML, ImageJ and OME-Zarr spell them differently.
_UM = {"m": 1e6, "cm": 1e4, "mm": 1e3, "um": 1.0, "nm": 1e-3, "pm": 1e-6, "å": 1e-4, "inch": 25400.0, "in": 25400.0}
_S = {"s": 1.0, "sec": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9, "min": 60.0, "h": 3600.0, "hr": 3600.0, "d": 86400.0}
_LONG = {"micron": "um", "microns": "um", "micrometer": "um", "micrometre": "um", "nanometer": "nm",
         "nanometre": "nm", "millimeter": "mm", "millimetre": "mm", "centimeter": "cm", "centimetre": "cm",
         "meter": "m", "metre": "m", "picometer": "pm", "angstrom": "å", "second": "s", "seconds": "s",
         "msec": "ms", "msecs": "ms", "millisecond": "ms", "milliseconds": "ms", "usec": "us", "secs": "s",
         "microsecond": "us", "nanosecond": "ns", "minute": "min", "mins": "min", "minutes": "min", "hour": "h",
         "hours": "h", "hrs": "h", "day": "d", "days": "d"}
_EXAMPLE = 'three positive numbers in micrometre in the order z, y, x, such as "0.25,0.1,0.1"'


def _short(unit: str) -> str:
    unit = unit.replace("\\u00B5", "u").replace("µ", "u").replace("μ", "u").strip().lower()
    return _LONG.get(unit, unit)


def length_unit_um(unit: str | None) -> float | None:
    """Return one `unit` of length in micrometre, None when the word is no unit of length ("pixel", "")."""
    return _UM.get(_short(unit or ""))


def time_unit_s(unit: str | None) -> float | None:
    """Return one `unit` of time in second, None when the word is no unit of time."""
    return _S.get(_short(unit or ""))


def by(values: Iterable[float | None]) -> str:
    """Format the numbers of the axes: 0.25 x 0.1 x 0.1, a question mark for what nobody states."""
    return " x ".join("?" if v is None else f"{v:g}" for v in values)


def parse_spacing(spacing: str | Sequence[float], where: object = "spacing") -> tuple[float, float, float]:
    """Read a spacing: text ("0.25,0.1,0.1") or three numbers, z, y, x in micrometre.

    Returns: (z, y, x) in micrometre. Raises InputError unless they are three finite positive numbers.
    """
    parts = re.split(r"[,;\s]+", spacing.strip().strip("()[]")) if isinstance(spacing, str) else spacing
    try:
        values = tuple(float(part) for part in parts)
    except (TypeError, ValueError):
        values = ()
    if len(values) != 3:
        raise InputError("The spacing is not three numbers.", where=where, got=repr(spacing), expected=_EXAMPLE,
                         do="Write z first, then y, then x.")
    if not all(math.isfinite(v) and v > 0 for v in values):
        raise InputError("The spacing is not positive.", where=where, got=repr(spacing), expected=_EXAMPLE,
                         do="Read the voxel size off the microscope's metadata.")
    return values


def parse_dt(dt_s: str | float, where: object = "dt") -> float:
    """Read a frame interval in second. Raises InputError unless it is a finite positive number."""
    try:
        value = float(dt_s)
    except (TypeError, ValueError):
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise InputError("The frame interval is not a positive number.", where=where, got=repr(dt_s),
                         expected="seconds between two frames, such as 2.0", do="Leave it out when it is not known.")
    return value


def parse_frames(frames: str | None, n_frames: int, where: object = "frames") -> range:
    """Read which frames of a movie to take: "FIRST:END" or "FIRST:END:STEP" as Python slices, None for all.

    Returns: their numbers, from 0; END is not among them. Raises InputError unless there is at least one, in order.
    """
    parts = str(frames if frames is not None else ":").split(":")
    try:
        chosen = range(n_frames)[slice(*(int(p) if p.strip() else None for p in parts))]
        wrong = len(parts) not in (2, 3) or not chosen or chosen.step < 1
    except (TypeError, ValueError):
        wrong = True
    if wrong:
        raise InputError("These are no frames of the movie.", where=where, got=repr(frames), do="Count from 0.",
                         expected=f'"FIRST:END" or "FIRST:END:STEP" within its {n_frames} frames')
    return chosen
