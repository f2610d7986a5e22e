"""Deskew a stage-scanned light-sheet stack: shear every plane along x or y, or turn it to the coverslip in one pass."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from cellfm_nb.curate.background import background_level, check_volume
from cellfm_nb.curate.geometry import along_x, coverslip_affine, deskew_affine, deskewed_shape, plane_shift_px
from cellfm_nb.curate.geometry_estimate import STILL, estimate_geometry
from cellfm_nb.curate.rotate import coverslip_slabs, to_device, to_numpy
from cellfm_nb.curate.slabs import Computed, Planes, to_dtype, write_computed
from cellfm_nb.errors import InputError
from cellfm_nb.movie import Movie

__all__ = ["coverslip_affine", "deskew", "deskew_affine", "deskew_command", "deskew_planes", "deskewed_shape",
           "plane_shift_px", "write_deskewed"]


def deskew(raw: np.ndarray, pixel_um: float, step_um: float, angle_deg: float, fill: float | str = "background",
           direction: int = 1, rotate: bool = False, out_um: float | None = None, device: str | None = None,
           skew_axis: str = "x") -> tuple[np.ndarray, tuple[float, float, float]]:
    """Bring a raw stage-scan stack into real space.

    Between two planes the stage moves step_um at angle_deg to the sheet: cos(angle) of it along the skew axis, which
    the shear undoes, and sin(angle) of it across the sheet, which becomes the new z spacing. rotate goes on from there
    to the coverslip (see `geometry`), in the same interpolation.
    Points wander along the skew axis as you page through the raw planes (x on most lattice light-sheets, y on Zeiss's
    Lattice Lightsheet 7); step and angle stand in the acquisition settings, and `estimate_geometry` checks all three.
    Parameters: raw (z,y,x), z the scan axis; pixel_um, camera pixel in the sample; step_um, stage step; angle_deg,
    angle between sheet and stage, in (0, 90]; fill, value outside the sheet ("background": measured); direction
    +1 or -1, the sign of the shift; rotate, whether to turn to the coverslip, on cubic voxels of edge out_um (None:
    the pixel); device, None for numpy or a torch device ("cpu", "cuda"), the same numbers to rounding; skew_axis, "x"
    or "y".
    Returns: (volume float32 (z,y,x'), spacing_um (z,y,x)); sheared, x' = ceil((nz-1)*shift) + nx. Skewed along y the
    same with y and x exchanged: (z,y',x).
    Intensity above `fill` times the volume of a voxel is kept: sheared, voxels keep their volume (step sin(angle)
    pixel^2) and the plain sum is kept exactly; turned, the sum grows by the Jacobian step sin(angle) pixel^2 /
    out_um^3, to 1% where out_um resolves the picture. Linear interpolation, as cudaDecon and LLSpy do it.
    Raises InputError on another shape, impossible geometry, or voxels that are not finite.
    """
    raw = along_x(check_volume(raw, "deskew", constant_ok=True), skew_axis)
    shift = plane_shift_px(pixel_um, step_um, angle_deg, direction)
    level = level_of(raw) if fill == "background" else float(fill)
    if rotate:
        shape, *_ = coverslip_affine(raw.shape, pixel_um, step_um, angle_deg, direction, out_um)
        out = np.empty(along_x(shape, skew_axis), np.float32)
        for columns, slab in coverslip_slabs(raw, pixel_um, step_um, angle_deg, level, direction, out_um,
                                             device=device):
            along_x(out, skew_axis)[:, :, columns] = slab
        return out, (out_um or pixel_um,) * 3
    out = np.empty(along_x(deskewed_shape(raw.shape, shift), skew_axis), np.float32)
    for z, plane in enumerate(deskew_planes(raw, len(raw), shift, level, device)):
        along_x(out, skew_axis)[z] = plane
    return out, (step_um * math.sin(math.radians(angle_deg)), pixel_um, pixel_um)


def deskew_planes(planes: Iterable[np.ndarray], nz: int, shift: float, fill: float, device: str | None = None,
                  first: int = 0) -> Iterator[np.ndarray]:
    """Yield the planes (y,x) sheared along x, (y,x') float32, one by one from plane `first` of nz on."""
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


def settle_geometry(planes: Planes, where: object, pixel_um: float, step_um: float | None, angle_deg: float | None,
                    direction: int | None, skew_axis: str | None, accept_doubtful: bool
                    ) -> tuple[float, float, int, str, list[str]]:
    """Complete what is given of a geometry (None: not given) by what is measured; print it, and warn of a misfit.

    Returns: step_um, angle_deg, direction, skew_axis, notes. Raises InputError as `write_deskewed` does.
    """
    found = estimate_geometry(planes.middle(), pixel_um, step_um, angle_deg, skew_axis=skew_axis)
    how = "estimated" if None in (step_um, angle_deg, skew_axis) else "given, compared with the data"
    accepted = ("sure", "misfit", "doubtful") if accept_doubtful else ("sure", "misfit")
    if how == "estimated" and found.word not in accepted:
        raise InputError("The scan geometry can't be told from the data.", where=where, got=found.told,
                         expected="fine structure that surely moves by the same step from plane to plane",
                         do="Give step, angle and skew axis from the acquisition settings" + {
                             "doubtful": ", or accept the doubtful estimate.",
                             "no shift": "; if it is deskewed already, take it as it is."}.get(found.word, "."))
    print(f"geometry {how}:\n  {found.told}")
    notes = [f"geometry {how}: {found.told}"]
    moves = found.interval_px[0] >= STILL  # then the direction is known too
    if found.word in ("misfit", "no shift") or moves and direction not in (None, found.direction):
        notes.append(f"warning: the geometry given (direction {direction or found.direction:+d}) does not fit the data")
        print(f"{where}: {notes[-1]}: {found.told}", file=sys.stderr)
    return (found.step_um if step_um is None else step_um, found.angle_deg if angle_deg is None else angle_deg,
            direction or (found.direction if moves else 1), found.skew_axis if skew_axis is None else skew_axis, notes)


def write_deskewed(out_path: Path, raw_path: Path, pixel_um: float, step_um: float | None = None,
                   angle_deg: float | None = None, fill: float | str = "background", direction: int | None = None,
                   dt_s: float | None = None, rotate: bool = False, out_um: float | None = None,
                   device: str | None = None, skew_axis: str | None = "x", accept_doubtful: bool = False) -> None:
    """Deskew every frame and channel of a raw movie, and write it as OME-Zarr in the raw data's number type.

    The geometry is measured on the first frame of the first channel (`estimate_geometry`, which tells how to know it),
    printed, and noted in the movie. What is not given is taken from there; a measurement that is not sure is refused.
    Where all is given and the data surely say otherwise a warning goes to stderr and into the notes.
    Parameters: out_path, the .ome.zarr to write; raw_path, any file `Movie.open` reads; step_um, angle_deg, skew_axis
    ("x" or "y"), None for the measured ones; direction, None for the measured one, 1 where none is seen;
    accept_doubtful, whether to go on from a "doubtful" measurement; the rest as in `deskew`. Read and written slab by
    slab.
    Raises InputError also when what is not given can't be told from the data.
    """
    raw = Movie.open(raw_path, spacing_um=(step_um or pixel_um, pixel_um, pixel_um), dt_s=dt_s)
    step_um, angle_deg, direction, skew_axis, notes = settle_geometry(
        Planes(raw, 0), raw_path, pixel_um, step_um, angle_deg, direction, skew_axis, accept_doubtful)
    shift = plane_shift_px(pixel_um, step_um, angle_deg, direction)
    first = Planes(raw, 0, 0, skew_axis)
    levels = [level_of(Planes(raw, 0, c, skew_axis).some()) if fill == "background" else float(fill)
              for c in range(raw.n_channels)]
    if rotate:
        shape, *_ = coverslip_affine(first.shape, pixel_um, step_um, angle_deg, direction, out_um)
        spacing = (out_um or pixel_um,) * 3
    else:
        shape = deskewed_shape(first.shape, shift)
        spacing = (step_um * math.sin(math.radians(angle_deg)), pixel_um, pixel_um)
    turned = f", turned by {angle_deg:g} degrees to the coverslip" if rotate else ""
    notes.append(f"deskewed here: {shift:.4f} px along {skew_axis} per plane{turned}, linear, filled with "
                 + ", ".join(f"{level:.1f}" for level in levels))

    def slab(t: int, c: int, z0: int, z1: int) -> np.ndarray:
        planes, level = Planes(raw, t, c, skew_axis), levels[c]
        out = np.empty(along_x((z1 - z0, *shape[1:]), skew_axis), raw.dtype if rotate else np.float32)
        if rotate:
            for columns, part in coverslip_slabs(planes, pixel_um, step_um, angle_deg, level, direction, out_um,
                                                 slice(z0, z1), device=device):
                along_x(out, skew_axis)[:, :, columns] = to_dtype(part, raw.dtype)
        else:
            for z, plane in enumerate(deskew_planes(planes[z0:z1], len(planes), shift, level, device, first=z0)):
                along_x(out, skew_axis)[z] = plane
        return out

    # turned, every slab looks through the whole scan: few large ones
    movie = Computed((raw.n_frames, raw.n_channels, *along_x(shape, skew_axis)), raw.dtype, slab,
                     at_once=shape[0] if rotate else None)
    write_computed(out_path, movie, spacing, raw.dt_s, f"{raw.name}, deskewed", [*raw.notes, *notes], "deskew",
                   raw.stated_channels)


def deskew_command(raw: str | Path, to: str | Path, *, pixel: float, step: float | None = None,
                   angle: float | None = None, axis: str | None = None, direction: int | None = None,
                   rotate: bool = False, spacing_out: float | None = None, dt: float | None = None,
                   accept_doubtful: bool = False) -> int:
    """Do what `cellfm deskew` asks for: deskew a raw scan file, and print what was measured and written.

    Parameters: raw, to, files; pixel, step, spacing_out (edge of the voxels of a turned stack), micrometres; angle,
    degrees; axis, "x" or "y"; direction, 1 or -1; dt, seconds; None: measured, or as `write_deskewed` and the file say.
    Returns: 0. Raises InputError for bad input, and when `to` is there already.
    """
    to = Path(to)
    if not to.name.endswith((".zarr", ".tif", ".tiff")) or to.exists():
        raise InputError("Can't write there.", where=to, got="something is there already" if to.exists() else to.name,
                         expected="a new name that ends in .ome.zarr", do="Choose another name.")
    if spacing_out is not None and not rotate:
        raise InputError("Only a turned stack has voxels of another size.", got=f"voxels of {spacing_out} um",
                         expected="--rotate", do="Add --rotate, or resample the deskewed stack.")
    write_deskewed(to, Path(raw), pixel, step, angle, direction=direction, dt_s=dt, rotate=rotate, out_um=spacing_out,
                   skew_axis=axis, accept_doubtful=accept_doubtful)
    movie = Movie.open(to)
    shape, spacing = (" x ".join(map(str, v)) for v in (movie.shape, np.round(movie.spacing_um, 4).tolist()))
    print(f"written: {to}\n(t, c, z, y, x) {shape} {movie.dtype}, voxels {spacing} um", *movie.notes[-1:], sep="\n")
    return 0
