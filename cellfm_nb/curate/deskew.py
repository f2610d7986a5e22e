"""Deskew a stage-scanned light-sheet stack: shear every plane along x by its own shift."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cellfm_nb.curate.background import background_level, check_volume
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie, write_frames
from cellfm_nb.progress import track


def deskew(raw: np.ndarray, pixel_um: float, step_um: float, angle_deg: float, fill: float | str = "background",
           direction: int = 1) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Shear a raw stage-scan stack into real space.

    Between two planes the stage moves step_um at angle_deg to the sheet: cos(angle) of it along x, which the shear
    undoes, and sin(angle) of it across the sheet, which becomes the new z spacing.
    Parameters: raw (z,y,x), z the scan axis; pixel_um, camera pixel in the sample; step_um, stage step; angle_deg,
    angle between sheet and stage, in (0, 90]; fill, value outside the sheet ("background": measured);
    direction +1 or -1, the sign of the scan.
    Returns: (volume float32 (z,y,x'), spacing_um (z,y,x)); x' = ceil((nz-1)*shift) + nx.
    Intensity above `fill` is kept exactly. Linear interpolation, as cudaDecon and LLSpy do it.
    Raises InputError on another shape, impossible geometry, or voxels that are not finite.
    """
    check_volume(raw, "deskew", constant_ok=True)
    shift = plane_shift_px(pixel_um, step_um, angle_deg, direction)
    level = background_level(raw) if fill == "background" else float(fill)
    out = np.empty(deskewed_shape(raw.shape, shift), np.float32)
    for z, plane in enumerate(deskew_planes(raw, len(raw), shift, level)):
        out[z] = plane
    return out, (step_um * math.sin(math.radians(angle_deg)), pixel_um, pixel_um)


def deskew_planes(planes: Iterable[np.ndarray], nz: int, shift: float, fill: float) -> Iterator[np.ndarray]:
    """Yield the sheared planes (y,x') float32 one by one: memory holds one plane, however long the scan."""
    first = min(0.0, shift * (nz - 1))  # a scan the other way starts at the right
    for z, plane in enumerate(planes):
        nx = plane.shape[1]
        # one column of background on either side, so that the edge fades into it and nothing is lost
        padded = np.pad(np.asarray(plane, np.float32), ((0, 0), (1, 1)), constant_values=fill)
        width = deskewed_shape((nz, 1, nx), shift)[2]
        x = np.clip(np.arange(width) - (shift * z - first) + 1, 0, nx + 1)  # where x' looks in the padded plane
        left = np.minimum(x.astype(np.intp), nx)
        weight = (x - left).astype(np.float32)
        yield padded[:, left] * (1 - weight) + padded[:, left + 1] * weight


def plane_shift_px(pixel_um: float, step_um: float, angle_deg: float, direction: int = 1) -> float:
    """Return the shift along x from one plane to the next, in voxels: cos(angle) * step / pixel."""
    for name, value in (("pixel_um", pixel_um), ("step_um", step_um)):
        if not (math.isfinite(value) and value > 0):
            raise InputError(f"{name} must be a length.", got=value, expected="a positive number of micrometres",
                             do="Read it off the acquisition settings.")
    if not 0 < angle_deg <= 90 or direction not in (1, -1):
        raise InputError("Impossible scan geometry.", got=f"angle {angle_deg} degrees, direction {direction}",
                         expected="an angle in (0, 90] and a direction of 1 or -1", do="31.5 is usual for LLSM.")
    return direction * math.cos(math.radians(angle_deg)) * step_um / pixel_um


def deskewed_shape(shape: tuple[int, ...], shift: float) -> tuple[int, int, int]:
    """Return (z, y, x') of the deskewed volume."""
    nz, ny, nx = shape
    return nz, ny, math.ceil(abs(shift) * (nz - 1) - 1e-9) + nx  # cos(90 degrees) is not quite 0


def deskew_affine(nz: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (matrix 3x3, offset 3) that map a deskewed voxel (z,y,x') to the raw voxel it shows, as scipy wants it."""
    matrix = np.array([[1.0, 0, 0], [0, 1, 0], [-shift, 0, 1]])
    return matrix, np.array([0, 0, min(0.0, shift * (nz - 1))])


def write_deskewed(out_path: Path, raw_path: Path, pixel_um: float, step_um: float, angle_deg: float,
                   fill: float | str = "background", direction: int = 1, dt_s: float | None = None) -> None:
    """Deskew every frame of channel 0 of a raw movie, and write it as OME-Zarr in the raw data's number type.

    Parameters: out_path, the .ome.zarr to write; raw_path, any file `Movie.open` reads; the rest as in `deskew`.
    """
    shift = plane_shift_px(pixel_um, step_um, angle_deg, direction)
    raw = Movie.open(raw_path, spacing_um=(step_um, pixel_um, pixel_um), dt_s=dt_s)
    level = background_level(raw.frame(0)) if fill == "background" else float(fill)
    volumes = (deskew(raw.frame(t), pixel_um, step_um, angle_deg, level, direction)[0]
               for t in track(range(raw.n_frames), "deskew"))
    spacing = (step_um * math.sin(math.radians(angle_deg)), pixel_um, pixel_um)
    note = f"deskewed here: {shift:.4f} px along x per plane, linear, filled with {level:.1f}"
    write_frames(out_path, (to_dtype(volume, raw.dtype)[None] for volume in volumes),
                 (raw.n_frames, 1, *deskewed_shape(raw.shape[2:], shift)), raw.dtype, spacing, raw.dt_s,
                 f"{raw.name}, deskewed", notes=[*raw.notes, note])


def to_dtype(volume: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Round and clip a float volume into the raw data's type (floats pass through)."""
    if not np.issubdtype(dtype, np.integer):
        return volume.astype(dtype)
    limits = np.iinfo(dtype)
    return np.clip(np.rint(volume), limits.min, limits.max).astype(dtype)
