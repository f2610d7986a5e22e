"""Shear and rotation of a stage scan beside scipy's affine transform and, where it is on hand, the real reference."""

from __future__ import annotations

import functools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tifffile
from scipy import ndimage

from cellfm_nb.bench import Row, alternate, extra_mib
from cellfm_nb.curate.deskew import deskew, write_deskewed
from cellfm_nb.curate.geometry import coverslip_affine, deskew_affine, plane_shift_px
from cellfm_nb.curate.geometry_estimate import estimate_geometry
from cellfm_nb.manifest import locate
from cellfm_nb.movie import Movie

PIXEL, STEP, ANGLE = 0.1, 0.3, 31.5
BEAD = np.array([33.3, 30.2, 65.6])  # (p, y, x), between the voxels


def raw_bead(shape: tuple[int, int, int] = (66, 61, 131), sigma_um: float = 0.2) -> np.ndarray:
    """Return a round bead as a stage scan sees it, computed, not interpolated."""
    p, y, x = (g - b for g, b in zip(np.indices(shape, sparse=True), BEAD, strict=True))
    a = math.radians(ANGLE)
    away = (p * STEP * math.sin(a)) ** 2 + (y * PIXEL) ** 2 + (x * PIXEL + p * STEP * math.cos(a)) ** 2
    return 1000 * np.exp(-away / 2 / sigma_um**2)


def judge(volume: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the distance of the centroid from the truth (voxels) and the longest over the shortest axis."""
    grid, total = np.indices(volume.shape, sparse=True), volume.sum(dtype=float)
    centre = np.array([(volume * g).sum(dtype=float) / total for g in grid])
    away = [g - c for g, c in zip(grid, centre, strict=True)]
    spread = np.linalg.eigvalsh([[(volume * a * b).sum(dtype=float) / total for a in away] for b in away])
    return float(np.linalg.norm(centre - truth)), float(np.sqrt(spread[-1] / spread[0]))


def rows() -> Iterator[Row]:
    """Judge a simulated bead, then time both, then compare with the real reference."""
    raw = raw_bead()
    shape, matrix, offset = coverslip_affine(raw.shape, PIXEL, STEP, ANGLE)

    def ours(stack: np.ndarray = raw) -> np.ndarray:
        return deskew(stack, PIXEL, STEP, ANGLE, fill=0, rotate=True)[0]

    truth = np.linalg.solve(matrix, BEAD - offset)
    plain = ndimage.affine_transform(raw, matrix, offset, shape, order=1)
    (off, round_), (off_plain, round_plain) = judge(ours(), truth), judge(plain, truth)
    jacobian = STEP * math.sin(math.radians(ANGLE)) / PIXEL
    yield Row("tilted bead, rotated", "voxels off", "lower", off, {"scipy affine": off_plain}, target=0.1)
    yield Row("tilted bead, rotated", "long/short axis", "lower", round_, {"scipy affine": round_plain}, target=1.06)
    lost, lost_plain = (abs(v.sum(dtype=float) / raw.sum() / jacobian - 1) for v in (ours(), plain))
    yield Row("tilted bead, rotated", "light lost", "lower", lost, {"scipy affine": lost_plain}, target=0.01)
    sheared = deskew(raw, PIXEL, STEP, ANGLE, fill=0)[0]
    yield Row("tilted bead, sheared", "light lost", "lower", abs(sheared.sum(dtype=float) / raw.sum() - 1), target=0.01)

    stack = np.random.default_rng(0).integers(90, 4000, (88, 160, 256)).astype(np.float32)
    shear = deskew_affine(len(stack), plane_shift_px(PIXEL, STEP, ANGLE))
    width = deskew(stack, PIXEL, STEP, ANGLE, fill=0)[0].shape
    turned, *turn = coverslip_affine(stack.shape, PIXEL, STEP, ANGLE)
    spent = alternate({
        "shear": lambda: deskew(stack, PIXEL, STEP, ANGLE, fill=0),
        "scipy shear": lambda: ndimage.affine_transform(stack, *shear, width, order=1),
        "rotate": lambda: ours(stack),
        "scipy rotate": lambda: ndimage.affine_transform(stack, *turn, turned, order=1)}, repeats=3)
    yield Row("88 x 160 x 256, sheared", "seconds", "lower", spent["shear"], {"scipy affine": spent["scipy shear"]})
    yield Row("88 x 160 x 256, rotated", "seconds", "lower", spent["rotate"], {"scipy affine": spent["scipy rotate"]})
    yield from streamed_rows()
    yield from real_rows()


def streamed_rows(planes: int = 600) -> Iterator[Row]:
    """Measure the memory of a scan of many planes, from file to file, beside what its output alone would hold."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "raw.ome.zarr", Path(folder) / "out.ome.zarr"
        scan = np.random.default_rng(0).integers(90, 200, (1, planes, 192, 256)).astype(np.uint16)
        Movie.from_array(scan, spacing_um=(STEP, PIXEL, PIXEL)).save(source)
        del scan
        for rotate in (False, True):
            call = functools.partial(write_deskewed, out, source, PIXEL, STEP, ANGLE, fill=90, rotate=rotate)
            held = extra_mib(call)
            whole = 4 * np.prod(Movie.open(out).shape) / 2**20
            yield Row(f"{planes} planes, {'rotated' if rotate else 'sheared'}, streamed", "extra MiB", "lower", held,
                      {"output float32": float(whole)})


def real_rows() -> Iterator[Row]:
    """Compare with the deskewed stack that ships beside the raw one, if it was fetched (or lies under CELLFM_DATA)."""
    files = locate("llsm_pycudadecon")
    if files is None:
        return
    raw, reference = (tifffile.imread(files[f"im_{name}.tif"]) for name in ("raw", "deskewed"))
    out, _ = deskew(raw, PIXEL, STEP, ANGLE)
    width = min(out.shape[2], reference.shape[2])
    alike = np.corrcoef(out[..., :width].ravel(), reference[..., :width].ravel())[0, 1]
    yield Row("real stack against reference", "correlation", "higher", float(alike), target=0.999)
    found = estimate_geometry(raw, PIXEL, STEP)
    off = abs(found.shift_px / plane_shift_px(PIXEL, STEP, ANGLE) - 1)
    yield Row("real stack, geometry estimated", "shift off by", "lower", off, target=0.03)
