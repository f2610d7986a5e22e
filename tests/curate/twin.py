"""A small light-sheet picture with exact constants, for this room's tests."""

from __future__ import annotations

import numpy as np


def puncta(shape=(24, 96, 96), gain=1.0, offset=100.0, read=1.6, background=100.0, peak=60.0, n=40, seed=0,
           gradient=0.35, sigma=(1.0, 1.3, 1.3)) -> np.ndarray:
    """Return uint16 counts (z,y,x) of Gaussian puncta on a sloping background: offset + gain (Poisson + read)."""
    rng = np.random.default_rng(seed)
    light = np.broadcast_to(background * (1 + gradient * np.linspace(-0.5, 0.5, shape[2])), shape).copy()
    grid = np.indices(shape, sparse=True)
    for _ in range(n):
        where = [rng.uniform(2, s - 3) for s in shape]
        height = peak * rng.lognormal(0, 0.35)
        box = tuple(slice(max(0, int(w) - 7), int(w) + 8) for w in where)
        local = [g[tuple(b if g.shape[a] > 1 else slice(None) for a, b in enumerate(box))] for g in grid]
        away = sum((g - w) ** 2 / 2 / s**2 for g, w, s in zip(local, where, sigma, strict=True))
        light[box] += height * np.exp(-away)
    counts = offset + gain * (rng.poisson(light) + read * rng.standard_normal(shape))
    return np.clip(np.rint(counts), 0, 65535).astype(np.uint16)


def stage_scan(shape, where, sigma_um, pixel_um=0.1, step_um=0.3, angle_deg=31.5, direction=1, peak=1000.0):
    """Return the light (p,y,x) of round beads as a stage scan sees them; where: raw positions (p,y,x), one a row."""
    a = np.radians(angle_deg)
    p, y, x = (np.arange(n) for n in shape)
    light = np.zeros(shape)
    reach = 5 * sigma_um
    for at_p, at_y, at_x in where:
        # plane p shows what lies p steps along the stage: across the sheet and, along it, shifted
        planes = p[np.abs(p - at_p) * step_um * np.sin(a) < reach]
        rows = y[np.abs(y - at_y) * pixel_um < reach]
        across = (planes - at_p) * step_um * np.sin(a)
        along = (x - at_x) * pixel_um + direction * ((planes - at_p) * step_um * np.cos(a))[:, None]
        line = np.exp(-(across[:, None] ** 2 + along**2) / 2 / sigma_um**2)
        column = np.exp(-(((rows - at_y) * pixel_um) ** 2) / 2 / sigma_um**2)
        light[planes[0] : planes[-1] + 1, rows[0] : rows[-1] + 1] += peak * line[:, None, :] * column[None, :, None]
    return light
