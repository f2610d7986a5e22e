"""Deskew a stage-scanned light-sheet stack: shear every plane along x, or turn it to the coverslip in one pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cellfm_nb.curate.background import background_level, check_volume
from cellfm_nb.curate.geometry import coverslip_affine, deskew_affine, deskewed_shape, plane_shift_px
from cellfm_nb.curate.geometry_estimate import estimate_geometry
from cellfm_nb.curate.rotate import coverslip_slabs, to_device, to_numpy
from cellfm_nb.curate.slabs import Computed, Planes, to_dtype, write_computed
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

__all__ = ["coverslip_affine", "deskew", "deskew_affine", "deskew_planes", "deskewed_shape", "plane_shift_px",
           "write_deskewed"]


def deskew(raw: np.ndarray, pixel_um: float, step_um: float, angle_deg: float, fill: float | str = "background",
           direction: int = 1, rotate: bool = False, out_um: float | None = None, device: str | None = None
           ) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Bring a raw stage-scan stack into real space.

    Between two planes the stage moves step_um at angle_deg to the sheet: cos(angle) of it along x, which the shear
    undoes, and sin(angle) of it across the sheet, which becomes the new z spacing. rotate goes on from there to the
    coverslip (see `geometry`), in the same interpolation.
    Parameters: raw (z,y,x), z the scan axis; pixel_um, camera pixel in the sample; step_um, stage step; angle_deg,
    angle between sheet and stage, in (0, 90]; fill, value outside the sheet ("background": measured); direction
    +1 or -1, the sign of the shift; rotate, whether to turn to the coverslip, on cubic voxels of edge out_um (None:
    the pixel); device, None for numpy or a torch device ("cpu", "cuda"), the same numbers to rounding.
    Returns: (volume float32 (z,y,x'), spacing_um (z,y,x)); sheared, x' = ceil((nz-1)*shift) + nx.
    Intensity above `fill` times the volume of a voxel is kept: sheared, voxels keep their volume (step sin(angle)
    pixel^2) and the plain sum is kept exactly; turned, the sum grows by the Jacobian step sin(angle) pixel^2 /
    out_um^3, to 1% where out_um resolves the picture. Linear interpolation, as cudaDecon and LLSpy do it.
    Raises InputError on another shape, impossible geometry, or voxels that are not finite.
    """
    check_volume(raw, "deskew", constant_ok=True)
    shift = plane_shift_px(pixel_um, step_um, angle_deg, direction)
    level = level_of(raw) if fill == "background" else float(fill)
    if rotate:
        shape, *_ = coverslip_affine(raw.shape, pixel_um, step_um, angle_deg, direction, out_um)
        out = np.empty(shape, np.float32)
        for columns, slab in coverslip_slabs(raw, pixel_um, step_um, angle_deg, level, direction, out_um,
                                             device=device):
            out[:, :, columns] = slab
        return out, (out_um or pixel_um,) * 3
    out = np.empty(deskewed_shape(raw.shape, shift), np.float32)
    for z, plane in enumerate(deskew_planes(raw, len(raw), shift, level, device)):
        out[z] = plane
    return out, (step_um * math.sin(math.radians(angle_deg)), pixel_um, pixel_um)


def deskew_planes(planes: Iterable[np.ndarray], nz: int, shift: float, fill: float, device: str | None = None,
                  first: int = 0) -> Iterator[np.ndarray]:
    """Yield the sheared planes (y,x') float32 one by one, from plane `first` on: memory holds one plane of nz."""
    start = min(0.0, shift * (nz - 1))  # a scan the other way starts at the right
    for z, plane in enumerate(planes, first):
        ny, nx = plane.shape
        whole = math.floor(shift * z - start + 1e-9)
        part = shift * z - start - whole  # the same for the whole plane: two slices, no look-up
        # one column of background on either side, so that the edge fades into it and nothing is lost
        padded = to_device(np.pad(np.asarray(plane, np.float32), ((0, 0), (1, 1)), constant_values=fill), device)
        out = to_device(np.full((ny, deskewed_shape((nz, 1, nx), shift)[2]), fill, np.float32), device)
        seen = out[:, whole : whole + nx + 1]
        seen[:] = (padded[:, 1:] * (1 - part) + padded[:, :-1] * part)[:, : seen.shape[1]]
        yield to_numpy(out)


def level_of(volume: np.ndarray) -> float:
    """Return the background level, of a constant volume its value."""
    return float(volume.flat[0]) if volume.min() == volume.max() else background_level(volume)


def write_deskewed(out_path: Path, raw_path: Path, pixel_um: float, step_um: float | None = None,
                   angle_deg: float | None = None, fill: float | str = "background", direction: int | None = None,
                   dt_s: float | None = None, rotate: bool = False, out_um: float | None = None,
                   device: str | None = None) -> None:
    """Deskew every frame of channel 0 of a raw movie, and write it as OME-Zarr in the raw data's number type.

    Parameters: out_path, the .ome.zarr to write; raw_path, any file `Movie.open` reads; step_um, angle_deg, and then
    direction, None for what `estimate_geometry` finds on the first frame (noted in the movie; direction is 1 where
    step and angle are given); the rest as in `deskew`. Read and written slab by slab.
    Raises InputError also when what is not given can't be found in the data.
    """
    raw = Movie.open(raw_path, spacing_um=(step_um or pixel_um, pixel_um, pixel_um), dt_s=dt_s)
    first, notes = Planes(raw, 0), []
    if step_um is None or angle_deg is None:
        found = estimate_geometry(first[:256], pixel_um, step_um, angle_deg)
        if found.word == "not found":
            raise InputError("The scan geometry is not in the data.", where=raw_path, got=found.told,
                             expected="structure that one plane shares with the next",
                             do="Give step_um and angle_deg from the acquisition settings.")
        step_um, angle_deg, notes = found.step_um, found.angle_deg, [f"geometry estimated: {found.told}"]
        direction = direction or found.direction
    direction = direction or 1
    shift = plane_shift_px(pixel_um, step_um, angle_deg, direction)
    level = level_of(first.some()) if fill == "background" else float(fill)
    if rotate:
        shape, *_ = coverslip_affine(raw.shape[2:], pixel_um, step_um, angle_deg, direction, out_um)
        spacing = (out_um or pixel_um,) * 3
    else:
        shape = deskewed_shape(raw.shape[2:], shift)
        spacing = (step_um * math.sin(math.radians(angle_deg)), pixel_um, pixel_um)
    turned = f", turned by {angle_deg:g} degrees to the coverslip" if rotate else ""
    notes.append(f"deskewed here: {shift:.4f} px along x per plane{turned}, linear, filled with {level:.1f}")

    def slab(t: int, c: int, z0: int, z1: int) -> np.ndarray:
        planes = Planes(raw, t, c)
        if rotate:
            out = np.empty((z1 - z0, *shape[1:]), raw.dtype)
            for columns, part in coverslip_slabs(planes, pixel_um, step_um, angle_deg, level, direction, out_um,
                                                 slice(z0, z1), device=device):
                out[:, :, columns] = to_dtype(part, raw.dtype)
            return out
        out = np.empty((z1 - z0, *shape[1:]), np.float32)
        for z, plane in enumerate(deskew_planes(planes[z0:z1], len(planes), shift, level, device, first=z0)):
            out[z] = plane
        return out

    # turned, every slab looks through the whole scan: few large ones
    movie = Computed((raw.n_frames, 1, *shape), raw.dtype, slab, at_once=shape[0] if rotate else None)
    write_computed(out_path, movie, spacing, raw.dt_s, f"{raw.name}, deskewed", [*raw.notes, *notes], "deskew")
