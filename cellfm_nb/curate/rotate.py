"""Turn a stage scan to the coverslip: shear, z scale and rotation in one linear interpolation, slab by slab."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from cellfm_nb.curate.background import check_volume
from cellfm_nb.curate.geometry import coverslip_affine, plane_shift_px
from cellfm_nb.curate.resample import interpolate_axis


def coverslip_slabs(raw: Any, pixel_um: float, step_um: float, angle_deg: float, fill: float, direction: int = 1,
                    out_um: float | None = None, rows: slice = slice(None), slab: int = 128,
                    device: str | None = None) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (columns, volume (Z,y,columns) float32): rows Z of the turned stack, `slab` columns X at a time.

    A place X on the coverslip is seen by the few planes whose tilted sheet crosses it, so a slab reads only those:
    raw (p,y,x) may be an array on disk, and memory does not grow with the length of the scan.
    Of a voxel's two neighbouring planes each is read where it lies nearest, straight across the sheet (step
    sin(angle) apart), not along the stage (a whole step apart), which is what one affine transform of the raw index
    does and what blurs along X when the step exceeds the pixel ("orthogonal interpolation", V. Maioli, thesis 2016,
    doi:10.25560/68022).
    Parameters: raw; fill, value outside the sheet; rows, of Z; device, None for numpy, or a torch device; the rest
    as in `deskew`.
    """
    shape, matrix, offset = coverslip_affine(raw.shape, pixel_um, step_um, angle_deg, direction, out_um)
    shift = plane_shift_px(pixel_um, step_um, angle_deg, direction)
    n_p, _, nx = raw.shape
    put = functools.partial(to_device, device=device)
    for start in range(0, shape[2], slab):
        columns = slice(start, min(start + slab, shape[2]))
        z, x = np.mgrid[slice(*rows.indices(shape[0])), columns]
        p = matrix[0, 0] * z + matrix[0, 2] * x + offset[0]
        along = matrix[2, 0] * z + matrix[2, 2] * x + offset[2] + shift * p  # x' in pixels, whatever the plane
        first, last = max(math.floor(p.min()), -1), min(math.floor(p.max()) + 1, n_p)
        if first >= n_p or last < 0:  # no sheet crosses these columns
            yield columns, np.full((len(z), shape[1], z.shape[1]), fill, np.float32)
            continue
        below = np.floor(p).astype(np.intp)
        w_p = (p - below).astype(np.float32)
        lines = _lines(raw, first, last, fill, matrix[1, 1], shape[1], put)  # ((planes) (nx + 2), y)
        out = put(np.full((*z.shape, shape[1]), fill, np.float32))  # (Z, X, y): y contiguous, a voxel's line at once
        for k in range(len(z)):
            seen = np.flatnonzero((p[k] > -1) & (p[k] < n_p))
            parts = []
            for plane, weight in ((below[k, seen], 1 - w_p[k, seen]), (below[k, seen] + 1, w_p[k, seen])):
                at = np.clip(along[k, seen] - plane * shift + 1, 0, nx + 1)
                left = np.minimum(at.astype(np.intp), nx)
                w_x = (at - left).astype(np.float32)
                line = (plane - first) * (nx + 2) + left
                parts += [lines[put(line)] * put(weight * (1 - w_x))[:, None],
                          lines[put(line + 1)] * put(weight * w_x)[:, None]]
            out[k][put(seen)] = sum(parts)
        yield columns, to_numpy(out).transpose(0, 2, 1)


def _lines(raw: Any, first: int, last: int, fill: float, y_scale: float, ny: int, put: Any) -> Any:
    """Read planes first..last (fill beyond the stack), pad x with fill, and return their lines along y."""
    inside = check_volume(np.asarray(raw[max(first, 0) : min(last + 1, len(raw))]), "deskew", constant_ok=True)
    inside = inside.astype(np.float32)
    if y_scale != 1:
        y = np.minimum(np.arange(ny) * y_scale, inside.shape[1] - 1)
        left = y.astype(np.intp)
        inside = interpolate_axis(inside, 1, left, (y - left).astype(np.float32))
    # one plane and one column of background on either side: the border fades into it, nothing is lost
    padded = np.pad(inside, ((max(-first, 0), max(last + 1 - len(raw), 0)), (0, 0), (1, 1)), constant_values=fill)
    return put(np.ascontiguousarray(padded.transpose(0, 2, 1)).reshape(-1, ny))


def to_device(array: np.ndarray, device: str | None) -> Any:
    """Put an array where the arithmetic happens: numpy's own for None, else a torch tensor on the device."""
    if device is None:
        return array
    import torch

    return torch.as_tensor(np.ascontiguousarray(array), device=device)


def to_numpy(array: Any) -> np.ndarray:
    """Bring back what `to_device` gave."""
    return array if isinstance(array, np.ndarray) else array.cpu().numpy()
