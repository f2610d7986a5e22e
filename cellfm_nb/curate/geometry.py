"""The geometry of a stage scan: where a raw voxel (p, y, x) lies in real space.

      Z                                    The light sheet, and with it the camera's x, is tilted by `angle` to the
      |     z' (across the sheet)          stage's travel. Plane p is taken after p steps of the stage:
      |    /
      |  /                                   x' = pixel x + p step cos(angle)      along the sheet
      |/___________ X (stage travel)         z' =           p step sin(angle)      across it
       \\  angle
         \\                                 The shear puts voxels on the grid (z', y, x'). Turned by the angle about y,
           \\  x' (camera x, in the sheet)  X runs along the coverslip and Z is the height (its sign is the rig's).

direction is -1 where the picture moves towards small x as p grows; then x' = pixel x - p step cos(angle), and the turn
goes the other way round. y is the same everywhere.
"""

from __future__ import annotations

import math

import numpy as np

from cellfm_nb.errors import InputError


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
    """Return (z, y, x') of the sheared volume."""
    nz, ny, nx = shape
    return nz, ny, math.ceil(abs(shift) * (nz - 1) - 1e-9) + nx  # cos(90 degrees) is not quite 0


def deskew_affine(nz: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (matrix 3x3, offset 3) that map a deskewed voxel (z,y,x') to the raw voxel it shows, as scipy wants it."""
    matrix = np.array([[1.0, 0, 0], [0, 1, 0], [-shift, 0, 1]])
    return matrix, np.array([0, 0, min(0.0, shift * (nz - 1))])


def coverslip_affine(shape: tuple[int, ...], pixel_um: float, step_um: float, angle_deg: float, direction: int = 1,
                     out_um: float | None = None) -> tuple[tuple[int, int, int], np.ndarray, np.ndarray]:
    """Return the grid turned to the coverslip: (shape (Z,y,X), matrix 3x3, offset 3), the smallest that holds all.

    matrix and offset map a voxel of it to the raw position (p,y,x) it shows: shear, z scale and rotation in one.
    Parameters: shape (p,y,x) of the raw stack; out_um, edge of the cubic voxel, None for the pixel; the rest as in
    `plane_shift_px`.
    """
    shift, out_um = plane_shift_px(pixel_um, step_um, angle_deg, direction), pixel_um if out_um is None else out_um
    if not (math.isfinite(out_um) and out_um > 0):
        raise InputError("out_um must be a length.", got=out_um, expected="a positive number of micrometres",
                         do="Leave it out for the camera's pixel.")
    angle = direction * math.radians(angle_deg)
    dz_um = step_um * math.sin(math.radians(angle_deg))
    # raw index (p, y, x) -> (z', y, x') -> (Z, y, X), all in micrometre
    shear = np.array([[dz_um, 0, 0], [0, pixel_um, 0], [pixel_um * shift, 0, pixel_um]])
    turn = np.array([[math.cos(angle), 0, -math.sin(angle)], [0, 1, 0], [math.sin(angle), 0, math.cos(angle)]])
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    real = turn @ shear @ corners
    low, high = real.min(1), real.max(1)
    back = np.linalg.inv(turn @ shear)
    return tuple(int(n) for n in np.ceil((high - low) / out_um - 1e-6) + 1), back * out_um, back @ low
