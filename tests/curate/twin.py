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
